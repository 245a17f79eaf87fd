"""The bundled example data keeps its promises: valid spans, enough of every type, two splits that share nothing.

Reads the files with the standard library alone, so that a fault of the package's readers cannot hide one of the data.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "src" / "cllmfs" / "example"
SPLITS = ("train", "test")
Record = dict[str, Any]


def load(split: str) -> list[Record]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def load_labels() -> dict[str, str]:
    labels: dict[str, str] = tomllib.loads((FOLDER / "labels.toml").read_text(encoding="utf-8"))["labels"]
    return labels


def mentions(records: list[Record]) -> list[tuple[str, str]]:
    return [(r["text"][s["start"] : s["end"]].casefold(), s["label"]) for r in records for s in r["spans"]]


def words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def test_every_label_has_a_one_sentence_description() -> None:
    labels = load_labels()
    assert list(labels) == ["component", "fault", "tool", "consumable", "measurement", "standard"]
    for label, text in labels.items():
        assert len(text.split()) >= 10, label
        assert text.endswith("."), label
        assert ". " not in text, label


@pytest.mark.parametrize("split", SPLITS)
def test_records_have_the_native_form(split: str) -> None:
    for record in load(split):
        assert set(record) == {"text", "spans"}
        assert record["text"] == " ".join(record["text"].split())
        assert 6 <= len(record["text"].split()) <= 25, record["text"]
        for span in record["spans"]:
            assert set(span) == {"start", "end", "label"}
            assert type(span["start"]) is int
            assert type(span["end"]) is int


@pytest.mark.parametrize("split", SPLITS)
def test_spans_are_valid_sorted_and_do_not_overlap(split: str) -> None:
    labels = load_labels()
    for record in load(split):
        text, spans = record["text"], record["spans"]
        for span in spans:
            assert 0 <= span["start"] < span["end"] <= len(text), text
            assert span["label"] in labels, text
        for left, right in pairwise(spans):
            assert left["end"] <= right["start"], text


@pytest.mark.parametrize("split", SPLITS)
def test_spans_lie_on_word_edges_without_articles(split: str) -> None:
    for record in load(split):
        text = record["text"]
        for span in record["spans"]:
            start, end = span["start"], span["end"]
            mention = text[start:end]
            assert mention == mention.strip(' ,.;:!?"'), (text, mention)
            assert not re.search(r"\w\Z", text[:start]), (text, mention)
            assert not re.match(r"\w", text[end:]), (text, mention)
            assert mention.split()[0].casefold() not in {"a", "an", "the", "my", "your", "his", "her", "both"}, text


@pytest.mark.parametrize(("split", "sentences", "each"), [("train", 60, 8), ("test", 140, 20)])
def test_each_split_is_large_enough(split: str, sentences: int, each: int) -> None:
    records = load(split)
    assert len(records) >= sentences
    counts = Counter(label for _, label in mentions(records))
    assert set(counts) == set(load_labels())
    assert min(counts.values()) >= each, counts


@pytest.mark.parametrize("split", SPLITS)
def test_share_of_sentences_without_entity(split: str) -> None:
    records = load(split)
    empty = sum(not record["spans"] for record in records) / len(records)
    assert 0.08 <= empty <= 0.25


@pytest.mark.parametrize("split", SPLITS)
def test_hard_cases_exist(split: str) -> None:
    twice = mixed = rich = 0
    for record in load(split):
        text = record["text"].casefold()
        counts = Counter(mentions([record]))
        twice += any(count > 1 for count in counts.values())
        rich += len({label for _, label in counts}) >= 4
        # Longer mentions hold shorter ones ("pump" in "shock pump"): only occurrences outside all spans are bare.
        bare = list(text)
        for span in record["spans"]:
            bare[span["start"] : span["end"]] = "#" * (span["end"] - span["start"])
        rest = "".join(bare)
        mixed += any(re.search(rf"(?<!\w){re.escape(mention)}(?!\w)", rest) for mention, _ in counts)
    assert twice >= 1, "the same mention twice in one sentence"
    assert mixed >= 3, "a string once as a mention and once not"
    assert rich >= 5, "sentences with four or more types"


def test_a_mention_has_one_label() -> None:
    seen: dict[str, str] = {}
    for mention, label in mentions(load("train") + load("test")):
        assert seen.setdefault(mention, label) == label, mention


def test_most_test_mentions_are_unseen_in_train() -> None:
    seen = set(mentions(load("train")))
    found = mentions(load("test"))
    assert sum(mention not in seen for mention in found) / len(found) >= 0.5


def test_no_sentence_occurs_twice() -> None:
    texts = [record["text"].casefold() for split in SPLITS for record in load(split)]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_no_sentence_is_a_variant_of_another() -> None:
    """Less than half of the words of any two sentences are shared (Jaccard), between the splits and within one."""
    train, test = ([words(record["text"]) for record in load(split)] for split in SPLITS)
    for left, right in [*product(train, test), *combinations(train, 2), *combinations(test, 2)]:
        assert len(left & right) < 0.5 * len(left | right), (sorted(left), sorted(right))


def test_readme_states_the_sizes() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{len(load('train'))} sentences for training" in readme
    assert re.search(rf"\b{len(load('test'))} for testing", readme)
    for label in load_labels():
        assert f"**{label}**" in readme
