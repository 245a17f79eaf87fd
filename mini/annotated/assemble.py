"""Bring marks, corrections and the register together: the annotations that are kept, and how well readers agree.

    python -m mini.annotated.assemble FOLDER
        -> passages.jsonl and results.json beside this file, from FOLDER/marks, FOLDER/second and FOLDER/judged

Types are renamed to the register's plain names; mentions of types that it does not know are left out and counted. A
passage that no reviewer has read is left out. Knows files of annotators; knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cllmfs.schema import Span
from mini.annotated.marks import Marked, read_marks, read_texts
from mini.annotated.passages import Passage
from mini.annotated.register import Register, read_register
from mini.annotated.review import read_corrections
from mini.annotated.standoff import ANNOTATIONS_FILE, write_annotations

RESULTS_FILE = Path(__file__).with_name("results.json")


def plain_names(register: Register) -> dict[str, str]:
    """The plain name of each type by all its names, in small letters."""
    kinds = register.types.values()
    return {name.casefold(): kind.type for kind in kinds for name in (kind.type, *kind.names, *kind.covers)}


def renamed(spans: Iterable[Span], plain: Mapping[str, str], unknown: Counter[str]) -> list[Span]:
    """Spans with the plain names of their types; those of unknown types are left out and counted."""
    made = []
    for span in spans:
        kind = plain.get(span.label.casefold())
        if kind is None:
            unknown[span.label] += 1
        else:
            made.append(Span(span.start, span.end, kind))
    return list(dict.fromkeys(made))


class Agreement:
    """Strict F1 between two readers: the same place, and a type that is the same, or more general in one of them."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.counts: dict[str, Counter[str]] = {}

    def add(self, kind: str, first: list[Span], second: list[Span]) -> None:
        """Count the marks of two readers of a passage from a kind of text."""
        counts = self.counts.setdefault(kind, Counter())
        counts["passages"] += 1
        counts["first"] += len(first)
        counts["second"] += len(second)
        places = {(span.start, span.end) for span in first}
        counts["same_place"] += sum((span.start, span.end) in places for span in second)
        counts["same_type"] += sum(span in first for span in second)
        counts["related_type"] += sum(any(self._related(span, other) for other in first) for span in second)

    def _related(self, one: Span, other: Span) -> bool:
        if (one.start, one.end) != (other.start, other.end):
            return False
        return self.register.answers(one.label, other.label) or self.register.answers(other.label, one.label)

    def record(self) -> dict[str, Any]:
        """The counts of each kind of text and of all, with F1 in per cent by place, type and related type."""
        total = sum(self.counts.values(), Counter[str]())
        return {kind: _with_f1(counts) for kind, counts in [*sorted(self.counts.items()), ("all", total)]}


def _with_f1(counts: Counter[str]) -> dict[str, Any]:
    marks = max(1, counts["first"] + counts["second"])
    f1 = {f"f1_{name}": round(200 * counts[name] / marks, 1) for name in ("same_place", "same_type", "related_type")}
    return {**counts, **f1}


def _read(texts: Path, path: Path) -> tuple[dict[int, str], dict[int, Marked]]:
    read = read_texts(texts)
    return read, read_marks(path, read)[0]


def assemble(folder: Path, register: Register) -> tuple[list[tuple[Passage, list[Span]]], dict[str, Any]]:
    """The reviewed passages with their spans, and the figures of ``results.json``."""
    plain, unknown, changes = plain_names(register), Counter[str](), Counter[str]()
    places = {one["number"]: one for one in map(json.loads, (folder / "places.jsonl").open(encoding="utf-8"))}
    agreement, made = Agreement(register), []
    for path in sorted((folder / "judged").glob("*.txt")):
        texts, marks = _read(folder / "texts" / path.name, folder / "marks" / path.name)
        judged, counts, _ = read_corrections(path, texts, marks)
        changes += counts
        second = folder / "second" / path.name
        others = _read(folder / "texts" / path.name, second)[1] if second.is_file() else {}
        for number, one in judged.items():
            place = places[number]
            if number in others and not (others[number].skipped or marks[number].skipped):
                ours, theirs = (renamed(m[number].spans, plain, Counter()) for m in (marks, others))
                agreement.add(place["kind"], ours, theirs)
            if not one.skipped:
                passage = Passage(place["file"], place["at"], place["kind"], texts[number])
                made.append((passage, renamed(one.spans, plain, unknown)))
    kinds = Counter(passage.kind for passage, _ in made)
    used = Counter(span.label for _, spans in made for span in spans)
    figures = {
        "passages": len(made),
        "mentions": sum(used.values()),
        "types_used": len(used),
        "types_in_register": len(register.types),
        "passages_by_kind": dict(sorted(kinds.items())),
        "mentions_of_unknown_types": sum(unknown.values()),
        "review": {name: changes[name] for name in ("kept", "dropped", "added", "retyped", "moved", "skipped")},
        "agreement": agreement.record(),
    }
    return made, figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    passages, found = assemble(arguments.folder, read_register())
    write_annotations(ANNOTATIONS_FILE, passages)
    RESULTS_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
