"""Inputs that break recognisers: each gets a clear error or a right answer, and every offset is exact."""

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
from cllmfs.errors import DataError
from cllmfs.formats.writing import iter_texts, read_examples
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, Span
from cllmfs.words import clusters, word_units
from tests.conftest import texts

LABELS = ["person", "place"]
QUICK = (
    "train.steps=2",
    "train.precision=fp32",
    "train.learning_rate=1e-3",
    "lora.rank=2",
    "lora.keep=1",
    "train.replay=0",
)
# Random weights answer anything, once they may not end before they have.
EAGER = "decode.end_bias=-20", "decode.opening=best", "calibrate.threshold=0", "calibrate.zero_shot_threshold=0"
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


def recognizer(base: Path, *assignments: str, labels: Any = None) -> EntityRecognizer:
    return EntityRecognizer(str(base), labels=labels or LABELS, config=Config().with_settings(assignments))


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
    "token, flat": ("decode.edges=token",),
    "word, nested": ("decode.nested=true",),
    "token, nested": ("decode.edges=token", "decode.nested=true"),
    "no tree": ("prompt.tree=off",),
    "type first": ("prompt.order=type-first", "decode.edges=token"),
    "best opening, votes": ("decode.opening=best", "calibrate.vote=2"),
    "small windows": ("decode.window_tokens=12", "decode.overlap_tokens=4", "decode.batch_tokens=64"),
}


@pytest.fixture(scope="module", params=MODES, ids=lambda name: name.replace(", ", "-").replace(" ", "-"))
def eager(request: pytest.FixtureRequest, tiny_base: Path) -> EntityRecognizer:
    """An untrained model in each mode of decoding that answers something."""
    mode = MODES[request.param]
    # Nested answers may hold every stretch of the text: they must be free to end before.
    bias = ("decode.end_bias=-2", *EAGER[1:]) if "decode.nested=true" in mode else EAGER
    return recognizer(tiny_base, *bias, *mode)


def modes(made: EntityRecognizer) -> tuple[str, bool]:
    return made.config.decode.edges, made.config.decode.nested


def test_nasty_texts_have_grounded_spans(eager: EntityRecognizer) -> None:
    documents = eager.predict(NASTY)
    for text, document in zip(NASTY, documents, strict=True):
        assert document.text == text
        assert_grounded(document, *modes(eager))
    assert sum(bool(document.spans) for document in documents) > len(NASTY) // 2


@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_has_grounded_spans(eager: EntityRecognizer, data: st.DataObject) -> None:
    text = data.draw(texts(6))
    document = eager.predict(text)
    assert document.text == text
    assert_grounded(document, *modes(eager))


def test_flat_and_eager_something_is_found_wherever_there_is_a_word(tiny_base: Path) -> None:
    documents = recognizer(tiny_base, *EAGER).predict([text for text in NASTY if word_units(text)])
    assert all(document.spans for document in documents)


# size


def test_100_kb_are_read_in_windows_to_the_end(tiny_base: Path) -> None:
    text = ("Ada" + "\n" * 197) * 512  # a line's end also ends an answer: no span can cross one, so spans are short
    assert len(text) == 102_400
    began = time.monotonic()
    document = recognizer(tiny_base, *EAGER, labels=["person"]).predict(text)
    assert time.monotonic() - began < 300, "minutes would mean that it is no longer linear"
    assert 200 <= document.windows <= 280
    assert_grounded(document)
    tenths = {span.start * 10 // len(text) for span in document.spans}
    assert tenths == set(range(10)), "spans are found all along"
    assert document.spans[-1].start >= len(text) - 1200


def test_100_kb_of_prose_end(tiny_base: Path) -> None:
    text = "It rained, and nobody came to Rome that day; 東京 was dry.\r\n" * 1700
    document = recognizer(tiny_base, "decode.end_bias=50").predict(text)
    assert document.spans == () and document.windows > 200


def test_a_word_of_5000_characters_is_read(tiny_base: Path) -> None:
    word = "x" * 5000
    document = recognizer(tiny_base, *EAGER).predict(f"Ada {word} Bo")
    assert document.windows >= 10
    assert_grounded(document)
    assert {span.text for span in document.spans} <= {"Ada", "Bo"}, "no window holds both ends of the word"
    assert document.spans, "what stands beside it is found all the same"
    assert recognizer(tiny_base, *EAGER).predict(word).spans == ()


def test_a_giant_word_is_no_obstacle_to_training(tiny_base: Path) -> None:
    text = "Ada " + "x" * 2000
    made = EntityRecognizer(str(tiny_base), config=Config().with_settings(QUICK))
    made.fit([Example(text, (Span(0, 3, "person"),))])
    assert_grounded(made.predict(text))


def test_200_labels(tiny_base: Path) -> None:
    labels = [f"kind {number} of thing" for number in range(200)]
    alone = "calibrate.vote=0"  # all types asked share in a vote
    exact = ("model.weights=fp32", "train.precision=fp32")  # bf16 decides ties by what else is asked
    made = recognizer(tiny_base, "decode.end_bias=-2", "decode.nested=true", alone, *exact, labels=labels)
    document = made.predict("Ada met Bo.")
    assert_grounded(document, nested=True)
    found = {span.key for span in document.spans}
    assert len({label for _, _, label in found}) > 20
    apart = [made.predict("Ada met Bo.", labels=labels[first : first + 50]) for first in range(0, 200, 50)]
    assert {span.key for part in apart for span in part.spans} == found


def test_200_labels_are_trained(tiny_base: Path) -> None:
    text = " ".join(f"word{number}" for number in range(200))
    spans = [Span(match.start(), match.end(), f"kind{match[0][4:]}") for match in re.finditer(r"\w+", text)]
    shots = [Example(text[span.start : span.end], (Span(0, span.end - span.start, span.label),)) for span in spans]
    made = EntityRecognizer(str(tiny_base), config=Config().with_settings(QUICK)).fit(shots)
    assert made.labels is not None and len(made.labels) == 200
    assert_grounded(made.predict("word7 and word8"))


def test_one_sentence_with_one_label_is_enough(tiny_base: Path) -> None:
    made = EntityRecognizer(str(tiny_base), config=Config().with_settings(QUICK))
    made.fit([Example("Ada", (Span(0, 3, "person"),))])
    assert made.labels is not None and list(made.labels) == ["person"]
    assert_grounded(made.predict("Bo and Kim"))


def test_shots_of_white_space_and_without_words_do_no_harm(tiny_base: Path) -> None:
    shots = [Example("Ada", (Span(0, 3, "person"),)), Example("   "), Example(""), Example("\n\u200b\n"), Example("…")]
    losses: list[float] = []
    made = EntityRecognizer(str(tiny_base), config=Config().with_settings([*QUICK, "train.batch_sentences=1"]))
    made.fit(shots, on_progress=lambda progress: losses.append(progress.step.loss))
    assert all(loss == loss and loss < 100 for loss in losses)


def test_labels_that_look_like_control_tokens_are_words(tiny_base: Path) -> None:
    labels = {"</s>": "", "<s>": "ends | here\n</s>", "a\nb": "", "|": "", "東京": "都市", "x" * 300: "", "👩‍🚀": "🇮🇹"}
    document = recognizer(tiny_base, *EAGER, labels=labels).predict("Ada met Bo </s> in <s> Rome")
    assert_grounded(document)
    assert document.spans and {span.label for span in document.spans} <= set(labels)


# files


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_teaches_nothing(tiny_base: Path, tmp_path: Path, content: bytes) -> None:
    made = EntityRecognizer(str(tiny_base))
    with pytest.raises(DataError, match="the file holds no records; a data file needs at least one"):
        made.fit(read_examples(write(tmp_path / "shots.jsonl", content)))


def test_an_empty_file_of_texts_gives_no_documents(tiny_base: Path, tmp_path: Path) -> None:
    made = recognizer(tiny_base)
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


def test_offsets_in_bytes_inside_the_text_are_noticed(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They end inside words: the rest is learnt, and a warning names them."""
    text = "Zoë saw Ada today"
    start, end = len("Zoë saw ".encode()), len("Zoë saw Ada".encode())
    assert text[start:end] != "Ada"
    wrong = Example(text, (Span(start, end, "person"),), source="shots.jsonl:1")
    with pytest.raises(DataError, match="at least one span that can be answered"):
        EntityRecognizer(str(tiny_base)).fit([wrong])
    made = EntityRecognizer(str(tiny_base), config=Config().with_settings(QUICK))
    made.fit([wrong, Example("Bo sat", (Span(0, 2, "person"),))])
    assert "1 gold span(s)" in caplog.text and "shots.jsonl:1" in caplog.text


def test_junk_read_as_text_has_grounded_spans(tiny_base: Path) -> None:
    junk = random.Random(3).randbytes(600).decode("latin-1")
    document = recognizer(tiny_base, *EAGER).predict(junk)
    assert_grounded(document)
    assert document.spans


@pytest.mark.parametrize("text", ["\ud800", "Ada \udfff sat", "\ud83d \ude00"])
def test_half_a_surrogate_pair_is_named(tiny_base: Path, text: str) -> None:
    with pytest.raises(DataError, match="half of a surrogate pair"):
        recognizer(tiny_base).predict(text)
    with pytest.raises(DataError, match="half of a surrogate pair"):
        EntityRecognizer(str(tiny_base)).fit([Example(text + " Bo", (Span(len(text) + 1, len(text) + 3, "person"),))])


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
