"""The ancestor as a peer: answers held to a bag of tokens, against a slow reference; a whole task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.few_shot import ancestor
from benchmarks.few_shot.ancestor import BagReader
from benchmarks.speed.naive import NaiveDecoder
from cllmfs.benchmark.task import Task, read_answer, write_task
from cllmfs.config import Config
from cllmfs.decoding.extraction import Extractor
from cllmfs.schema import Example, LabelSet
from tests.conftest import EXAMPLES, tiny_backbone

TEXTS = [text for text, _ in EXAMPLES]
LABELS = LabelSet(["person", "place", "boat"])
SHOTS = [
    Example.from_tokens(["Ada", "Byron", "met", "Bo", "in", "Rome"], [(0, 2, "per"), (3, 4, "per"), (5, 6, "loc")]),
    Example.from_tokens(["Rain", "fell", "on", "Oslo"], [(3, 4, "loc")]),
]


def reader_of(architecture: str, *settings: str, cached: bool = True) -> BagReader:
    config = Config().with_settings(settings)
    return BagReader(Extractor(tiny_backbone(architecture), config), LABELS, cached)


def answers_of(reader: BagReader, texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """The tokens of each text's answers, by label."""
    made: list[dict[str, list[int]]] = [{} for _ in texts]
    read = reader._answers

    def kept(rows: Sequence[ancestor.Row]) -> list[ancestor._Answer]:
        answers = read(rows)
        for answer in answers:
            row = rows[answer.row]
            made[row.index][row.branches[answer.number].label] = answer.emitted
        return answers

    reader._answers = kept  # type: ignore[method-assign]
    reader.predict(texts)
    reader._answers = read  # type: ignore[method-assign]
    return made


def test_type_first_and_causal_it_is_what_generate_gives() -> None:
    reader = reader_of("llama", "prompt.order=type-first", "prompt.prefix_attention=causal")
    backbone = reader.extractor.backbone
    naive = NaiveDecoder(backbone, 1, "bag")
    answers = answers_of(reader, TEXTS)
    for text, by_label in zip(TEXTS, answers, strict=True):
        for label, emitted in by_label.items():
            (row,) = naive.encoder.rows(naive.encoder.tokenize(text), naive.encoder.queries(LabelSet([label])))
            (expected,) = naive._answers([row])
            assert emitted == expected
    assert [reader.predict([text]) for text in TEXTS] == [naive.predict([text], list(LABELS)) for text in TEXTS]
    assert naive.counts["answered"] > 0


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_with_a_cache_as_without(architecture: str, attention: str) -> None:
    setting = f"prompt.prefix_attention={attention}"
    fast, slow = (reader_of(architecture, setting, cached=cached) for cached in (True, False))
    assert fast.cached and not slow.cached
    assert answers_of(fast, TEXTS) == answers_of(slow, TEXTS)


def test_what_it_answers_is_counted_and_placed() -> None:
    reader = reader_of("llama")
    backbone = reader.extractor.backbone
    tokens = reader.extractor.encoder.tokenize("Ada met Bo.").ids
    following, end = backbone.prompt.next_id, backbone.prompt.end_id
    emitted = [*tokens[8:10], following, *tokens[:3], following, *tokens[:2], following, *tokens[:3], end]
    reader._answers = lambda rows: [ancestor._Answer(0, 0, emitted)]  # type: ignore[method-assign]
    assert reader.predict(["Ada met Bo."]) == [{(8, 10, "person"), (0, 3, "person")}]
    assert reader.counts == {"answered": 4, "ungrounded": 1, "repeated": 1}


def test_in_batches_as_one_by_one() -> None:
    together = answers_of(reader_of("llama"), TEXTS)
    alone = [answers_of(reader_of("llama", "runtime.batch_tokens=1"), [text])[0] for text in TEXTS]
    assert together == alone
    assert len({len(tokens) for of_text in together for tokens in of_text.values()}) > 1


def test_an_answer_is_of_the_sentences_tokens_and_ends() -> None:
    reader = reader_of("llama")
    backbone = reader.extractor.backbone
    delimiters = {backbone.prompt.next_id, backbone.prompt.end_id}
    for text, by_label in zip(TEXTS, answers_of(reader, TEXTS), strict=True):
        ids = backbone.prompt.tokenizer(text, add_special_tokens=False)["input_ids"]
        for tokens in by_label.values():
            assert set(tokens) <= {*ids, *delimiters} and len(tokens) <= 2 * len(ids) + 1
            assert backbone.prompt.end_id not in tokens[:-1]


def test_a_text_without_tokens_has_no_answers() -> None:
    assert reader_of("llama").predict(["", "Rain."])[0] == set()


def test_a_task_is_done(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [replace(shot, spans=()) for shot in SHOTS]
    write_task(tmp_path, Task(tuple(SHOTS), tuple(texts), ("loc", "per", "boat"), 0))
    words = ["--base", str(tiny_base), "--set", "train.steps=60", "--set", "train.learning_rate=1e-2"]
    monkeypatch.setattr(sys, "argv", ["ancestor", str(tmp_path), *words])
    ancestor.main()
    documents, facts = read_answer(tmp_path, texts)
    for document, shot in zip(documents, SHOTS, strict=True):
        found = {(span.start, span.end, span.label) for span in document.spans}
        assert {key for key in found if key[2] != "boat"} == {(s.start, s.end, s.label) for s in shot.spans}
        assert all(span.text == document.text[span.start : span.end] for span in document.spans)
    assert facts["chosen"] == {"steps": 60, "learning_rate": 1e-2}
    assert facts["answers"]["answered"] >= 4
