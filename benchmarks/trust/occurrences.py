"""Where the string of a mention occurs elsewhere in its text: which of the places does a model report?

    python -m benchmarks.trust.occurrences MODEL test.jsonl [more.jsonl ...] --output occurrences.json

A place is a stretch of words with the letters of the mention, in any case ("May" and "may"). Counted are gold mentions
with a place that is no mention of their label, which a model can confuse them with. For each of them, the model reports
the right place, a wrong one in its stead, or none; further wrong places are counted apart. Only texts with such
mentions are read. Knows gold and predicted spans; knows nothing of how a model decodes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cllmfs.cli.terminal import show, table
from cllmfs.formats import read_examples, read_labels
from cllmfs.schema import Document, Example, LabelSet, Span
from cllmfs.words import word_units

Place = tuple[int, int]
SAME, OTHER = "same case", "other case"


@dataclass(frozen=True)
class Occurrences:
    """Counts of mentions with a place that they can be confused with; counts can be added.

    Attributes:
        mentions: right + wrong + missed.
        right: reported at their own place.
        wrong: not reported, but another place of their string was reported in their stead.
        missed: not reported at any place.
        spurious: further places reported that are no mention of the label.
    """

    mentions: int = 0
    right: int = 0
    wrong: int = 0
    missed: int = 0
    spurious: int = 0

    def __add__(self, other: Occurrences) -> Occurrences:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Occurrences(*(one + another for one, another in pairs))


def places(text: str, span: Span) -> list[Place]:
    """All places of a mention's string at the edges of words, in any case, its own included."""
    units = word_units(text)
    first = next((number for number, (start, _) in enumerate(units) if start == span.start), None)
    last = next((number for number, (_, end) in enumerate(units) if end == span.end), None)
    if first is None or last is None:
        return []
    string, size = text[span.start : span.end].casefold(), last - first
    ranges = ((start, units[number + size][1]) for number, (start, _) in enumerate(units[: len(units) - size]))
    return [(start, end) for start, end in ranges if text[start:end].casefold() == string]


def confusable(example: Example) -> Iterator[tuple[str, str, set[Place], set[Place]]]:
    """For each label and string that can be confused: label, kind, places that are mentions, and those that are not.

    The kind is ``other case`` if none of the other places is written as one of the mentions is.
    """
    groups: dict[tuple[str, str], set[Place]] = defaultdict(set)
    found: dict[tuple[str, str], set[Place]] = {}
    for span in example.spans:
        key = (span.label, example.text[span.start : span.end].casefold())
        groups[key].add((span.start, span.end))
        found.setdefault(key, set()).update(places(example.text, span))
    for key, gold in groups.items():
        if others := found[key] - gold:
            forms = {example.text[start:end] for start, end in gold}
            same = any(example.text[start:end] in forms for start, end in others)
            yield key[0], SAME if same else OTHER, gold, others


def measure(gold: Sequence[Example], predicted: Sequence[Document]) -> dict[str, Occurrences]:
    """The counts by kind, for predictions of the same texts in the same order."""
    counts = {SAME: Occurrences(), OTHER: Occurrences()}
    for example, document in zip(gold, predicted, strict=True):
        reported = {span.key for span in document.spans}
        for label, kind, mentions, others in confusable(example):
            right = sum((*place, label) in reported for place in mentions)
            elsewhere = sum((*place, label) in reported for place in others)
            wrong = min(len(mentions) - right, elsewhere)
            missed = len(mentions) - right - wrong
            counts[kind] += Occurrences(len(mentions), right, wrong, missed, elsewhere - wrong)
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", help="folder of a trained model, or a base")
    parser.add_argument("files", nargs="+", type=Path, help="labeled files")
    parser.add_argument("--labels", type=Path, help="file with types and descriptions; otherwise those of the model")
    parser.add_argument("--threshold", type=float, help="omit spans with a lower score")
    parser.add_argument("--limit", type=int, help="read only the first texts that have such mentions")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    asked = parser.parse_args(arguments)
    from cllmfs.recognizer import EntityRecognizer  # --help needs no model

    types = None if asked.labels is None else read_labels(asked.labels)
    ner = EntityRecognizer.load(asked.model, labels=types)
    results: dict[str, dict[str, dict[str, int]]] = {}
    shown = table("file", "case", "mentions", "right", "wrong", "missed", "spurious", "wrong of located")
    for file in asked.files:
        every = read_examples(file)
        gold = [example for example in every if any(confusable(example))][: asked.limit]
        labels = ner.labels or LabelSet.of_examples(every)
        texts = [example.text for example in gold]
        counts = measure(gold, ner.predict(texts, labels=labels, threshold=asked.threshold))
        results[str(file)] = {kind: asdict(one) for kind, one in counts.items()}
        for kind, one in counts.items():
            located = one.right + one.wrong
            share = f"{100 * one.wrong / located:.1f} %" if located else "none"
            shown.add_row(f"{file.parent.name}/{file.stem}", kind, *map(str, asdict(one).values()), share)
    show(shown)
    if asked.output is not None:
        record = {"model": asked.model, "threshold": asked.threshold, "limit": asked.limit, "files": results}
        asked.output.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
