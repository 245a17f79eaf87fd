"""Inputs that break recognizers: each gets a clear error or a correct answer, and every offset is exact."""

from __future__ import annotations

import json
import random
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cllmfs.config import Config
from cllmfs.decoding.greedy import Rules
from cllmfs.errors import DataError
from cllmfs.formats import iter_texts, read_examples
from cllmfs.model.backbone import Backbone
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, Span
from cllmfs.words import clusters, word_units
from tests.conftest import texts
from tests.recognizer.test_recognizer import EAGER, LESS_EAGER, eager, reporting_all

LABELS = ["person", "place"]
QUICK = (
    "train.steps=2",
    "train.precision=fp32",
    "train.learning_rate=1e-3",
    "lora.rank=2",
    "lora.keep=1",
    "train.replay=0",
)
NASTY = [
    "👩‍🚀 met 👨‍👩‍👧 in 🇮🇹🇫🇷, 👍🏽!",
    "Zo\u0308e\u0301 and e\u0323\u0302 sat",
    "東京で𠮷野さんは寿司を食べた。",
    "زار أحمد القاهرة، שלום \u202bעולם\u202c",
    "one\r\ntwo\r\n\r\nthree\rfour",
    "10\u00a0km\u202faway\u2009today",
    "İstanbul İZMİR ıssız Straße ﬁn",
    "नमस्ते क्षेत्र กรุงเทพ 한국 \u1112\u1161\u11ab",
    "</s> <s> | \n [SEP] <|endoftext|>",
    "\x00\x07\x1b[31m \ufffd\ufeff\u200b\u2060\u00ad",
    "a",
    "\u0301",
    ". . .",
]


@pytest.fixture(scope="module")
def open_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, which here reports every span."""
    return reporting_all(tiny_base, tmp_path_factory.mktemp("bases") / "open")


def recognizer(base: Path, *assignments: str, labels: Any = None, rules: Rules = EAGER) -> EntityRecognizer:
    """An untrained recognizer that answers something."""
    config = Config().with_settings(assignments)
    return eager(EntityRecognizer, str(base), labels=labels or LABELS, config=config, rules=rules)


def learner(base: Path, *assignments: str) -> EntityRecognizer:
    """A recognizer that learns for two steps."""
    return eager(EntityRecognizer, str(base), config=Config().with_settings([*QUICK, *assignments]))


def assert_grounded(document: Document, edges: str = "word", nested: bool = False) -> None:
    """Every span is a stretch of the text between edges, with its text, its score, and no conflict."""
    text = document.text
    pieces = word_units(text) if edges == "word" else clusters(text)
    starts, ends = {start for start, _ in pieces}, {end for _, end in pieces}
    for span in document.spans:
        assert 0 <= span.start < span.end <= len(text)
        assert span.text == text[span.start : span.end] == (span.text or "").strip()
        assert span.start in starts and span.end in ends
        assert span.score is not None and 0.0 < span.score <= 1.0
    assert list(document.spans) == sorted(document.spans)
    assert len({span.key for span in document.spans}) == len(document.spans)
    if not nested:
        assert all(one.end <= other.start for one, other in pairwise(document.spans))


# exact offsets, whatever the text

MODES = {
    "word, flat": (),
    "token, flat": ("spans.edges=token",),
    "word, nested": ("spans.nested=true",),
    "token, nested": ("spans.edges=token", "spans.nested=true"),
    "type first": ("prompt.order=type-first", "spans.edges=token"),
    "no votes": ("calibrate.votes=false",),
    "small windows": ("runtime.window_tokens=12", "runtime.overlap_tokens=4", "runtime.batch_tokens=64"),
}


@pytest.fixture(scope="module", params=[*MODES, "no tree"], ids=lambda name: re.sub(r"\W+", "-", name))
def finder(request: pytest.FixtureRequest, open_base: Path) -> EntityRecognizer:
    """An untrained model in each mode of decoding that answers something."""
    mode = MODES.get(request.param, ())
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "no tree":  # as for a model that takes none: each type has a row of its own
            patch.setattr(Backbone, "takes_trees", lambda _: False)
        return recognizer(open_base, *mode, rules=LESS_EAGER if "spans.nested=true" in mode else EAGER)


def modes(made: EntityRecognizer) -> tuple[str, bool]:
    return made.config.spans.edges, made.config.spans.nested


def test_nasty_texts_have_grounded_spans(finder: EntityRecognizer) -> None:
    documents = finder.predict(NASTY)
    for text, document in zip(NASTY, documents, strict=True):
        assert document.text == text
        assert_grounded(document, *modes(finder))
    assert sum(bool(document.spans) for document in documents) > len(NASTY) // 2


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_has_grounded_spans(finder: EntityRecognizer, data: st.DataObject) -> None:
    text = data.draw(texts(6))
    document = finder.predict(text)
    assert document.text == text
    assert_grounded(document, *modes(finder))


def test_flat_and_eager_something_is_found_wherever_there_is_a_word(open_base: Path) -> None:
    documents = recognizer(open_base).predict([text for text in NASTY if word_units(text)])
    assert all(document.spans for document in documents)


# size


def test_100_kb_are_read_in_windows_to_the_end(open_base: Path) -> None:
    text = ("Ada" + "\n" * 197) * 512  # a line's end also ends an answer: no span can cross one, so spans are short
    assert len(text) == 102_400
    began = time.monotonic()
    document = recognizer(open_base, labels=["person"]).predict(text)
    assert time.monotonic() - began < 300, "minutes would mean that it is no longer linear"
    assert 200 <= document.windows <= 280
    assert_grounded(document)
    tenths = {span.start * 10 // len(text) for span in document.spans}
    assert tenths == set(range(10)), "spans are found all along"
    assert document.spans[-1].start >= len(text) - 1200


def test_100_kb_of_prose_end(open_base: Path) -> None:
    text = "It rained, and nobody came to Rome that day; 東京 was dry.\r\n" * 1700
    document = recognizer(open_base, rules=Rules(end_bias=50.0)).predict(text)
    assert document.spans == () and document.windows > 200


def test_a_word_of_5000_characters_is_read(open_base: Path) -> None:
    word = "x" * 5000
    document = recognizer(open_base).predict(f"Ada {word} Bo")
    assert document.windows >= 10
    assert_grounded(document)
    assert {span.text for span in document.spans} <= {"Ada", "Bo"}, "no window holds both ends of the word"
    assert document.spans, "what stands beside it is found all the same"
    assert recognizer(open_base).predict(word).spans == ()


def test_a_giant_word_is_no_obstacle_to_training(open_base: Path) -> None:
    text = "Ada " + "x" * 2000
    made = learner(open_base)
    made.fit([Example(text, (Span(0, 3, "person"),))])
    assert_grounded(made.predict(text))


def test_200_labels(open_base: Path) -> None:
    labels = [f"kind {number} of thing" for number in range(200)]
    alone = "calibrate.votes=false"  # a vote depends on all types that are asked
    exact = ("runtime.weights=fp32", "train.precision=fp32")  # bf16 decides ties by what else is asked
    made = recognizer(open_base, "spans.nested=true", alone, *exact, labels=labels, rules=LESS_EAGER)
    document = made.predict("Ada met Bo.")
    assert_grounded(document, nested=True)
    found = {span.key for span in document.spans}
    assert len({label for _, _, label in found}) > 20
    apart = [made.predict("Ada met Bo.", labels=labels[first : first + 50]) for first in range(0, 200, 50)]
    assert {span.key for part in apart for span in part.spans} == found


def test_200_labels_are_trained(open_base: Path) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    spans = [Span(match.start(), match.end(), f"kind{match[0][4:]}") for match in re.finditer(r"\w+", text)]
    shots = [Example(text[span.start : span.end], (Span(0, span.end - span.start, span.label),)) for span in spans]
    made = learner(open_base).fit(shots)
    assert made.labels is not None and len(made.labels) == 200
    assert_grounded(made.predict("word7 and word8"))


def test_one_sentence_with_one_label_is_enough(open_base: Path) -> None:
    made = learner(open_base)
    made.fit([Example("Ada", (Span(0, 3, "person"),))])
    assert made.labels is not None and list(made.labels) == ["person"]
    assert_grounded(made.predict("Bo and Kim"))


def test_shots_of_white_space_and_without_words_do_no_harm(open_base: Path) -> None:
    shots = [Example("Ada", (Span(0, 3, "person"),)), Example("   "), Example(""), Example("\n\u200b\n"), Example("…")]
    losses: list[float] = []
    made = learner(open_base, "train.batch_sentences=1")
    made.fit(shots, on_progress=lambda progress: losses.append(progress.step.loss))
    assert all(loss == loss and loss < 100 for loss in losses)


def test_labels_that_look_like_control_tokens_are_words(open_base: Path) -> None:
    labels = {"</s>": "", "<s>": "ends | here\n</s>", "a\nb": "", "|": "", "東京": "都市", "x" * 300: "", "👩‍🚀": "🇮🇹"}
    document = recognizer(open_base, labels=labels).predict("Ada met Bo </s> in <s> Rome")
    assert_grounded(document)
    assert document.spans and {span.label for span in document.spans} <= set(labels)


# files


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_teaches_nothing(open_base: Path, tmp_path: Path, content: bytes) -> None:
    made = EntityRecognizer(str(open_base))
    with pytest.raises(DataError, match="the file holds no records; a data file needs at least one"):
        made.fit(read_examples(write(tmp_path / "shots.jsonl", content)))


def test_an_empty_file_of_texts_gives_no_documents(open_base: Path, tmp_path: Path) -> None:
    made = recognizer(open_base)
    assert made.predict(iter_texts(write(tmp_path / "texts.txt", b""))) == []
    assert list(made.stream(iter_texts(write(tmp_path / "texts.jsonl", b"")))) == []


@pytest.mark.parametrize("name", ["junk.jsonl", "junk.txt", "junk.conll"])
def test_binary_junk_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, random.Random(7).randbytes(4096))
    with pytest.raises(DataError, match=rf"{re.escape(name)}:1.*files must be"):
        list(iter_texts(path) if name.endswith("txt") else read_examples(path))


@pytest.mark.parametrize(
    "encoding, message", [("latin-1", r"shots.jsonl:2.*must be UTF-8, got the byte 0xeb"), ("utf-16", "got UTF-16")]
)
def test_a_wrong_encoding_is_named_with_its_line(tmp_path: Path, encoding: str, message: str) -> None:
    lines = [
        {"text": "Ada sat", "spans": []},
        {"text": "Zoë sat", "spans": [{"start": 0, "end": 3, "label": "person"}]},
    ]
    body = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path / "shots.jsonl", body.encode(encoding)))


def test_offsets_in_bytes_beyond_the_text_are_named(tmp_path: Path) -> None:
    text = "Zoë traf Bø"
    start = len(b"Zo\xc3\xab traf ")
    record = {"text": text, "spans": [{"start": start, "end": len(text.encode()), "label": "person"}]}
    path = write(tmp_path / "shots.jsonl", json.dumps(record).encode())
    with pytest.raises(DataError, match=r"shots\.jsonl:1, .*must lie in 0 to 11 .*UTF-8 bytes"):
        read_examples(path)


def test_offsets_in_bytes_inside_the_text_are_noticed(open_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They end inside words: the other spans are learned, and a warning names these."""
    text = "Zoë saw Ada today"
    start, end = len("Zoë saw ".encode()), len("Zoë saw Ada".encode())
    assert text[start:end] != "Ada"
    wrong = Example(text, (Span(start, end, "person"),), source="shots.jsonl:1")
    with pytest.raises(DataError, match="1 of 1 gold spans cannot be learned"):
        EntityRecognizer(str(open_base)).fit([wrong])
    made = learner(open_base)
    made.fit([wrong, *(Example(f"Bo sat {number}", (Span(0, 2, "person"),)) for number in range(9))])
    assert "1 begin or end where no token does" in caplog.text and "shots.jsonl:1" in caplog.text


def test_junk_read_as_text_has_grounded_spans(open_base: Path) -> None:
    junk = random.Random(3).randbytes(600).decode("latin-1")
    document = recognizer(open_base).predict(junk)
    assert_grounded(document)
    assert document.spans


@pytest.mark.parametrize("text", ["\ud800", "Ada \udfff sat", "\ud83d \ude00"])
def test_half_a_surrogate_pair_is_named(open_base: Path, text: str) -> None:
    with pytest.raises(DataError, match="half of a surrogate pair"):
        recognizer(open_base).predict(text)
    with pytest.raises(DataError, match="half of a surrogate pair"):
        EntityRecognizer(str(open_base)).fit([Example(text + " Bo", (Span(len(text) + 1, len(text) + 3, "person"),))])


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(-3, 12), st.sampled_from(["person", "", "x"])), max_size=4))
@settings(max_examples=40, deadline=None)
def test_spans_out_of_range_are_refused_before_any_model_is_asked(spans: list[tuple[int, int, str]]) -> None:
    text = "Ada met Bo"
    example = Example(text, tuple(Span(*span) for span in spans))
    good = all(0 <= start < end <= len(text) and label for start, end, label in spans) and len(set(spans)) == len(spans)
    if good:
        example.check()
    else:
        with pytest.raises(DataError, match="span"):
            example.check()
