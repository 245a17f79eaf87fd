"""Collect what annotators wrote into the annotations that are kept, and say how well they agree.

    python -m mini.annotated.passages --data DATA --output FOLDER     -> FOLDER/texts and FOLDER/places.jsonl
    python -m mini.annotated.collect FOLDER                  -> annotations, from FOLDER/marks, second and judged
    python -m mini.annotated.collect FOLDER --restore DATA   -> the other way round: unreviewed marks, into FOLDER

Both also say which files of texts nobody has annotated yet. ``annotations.jsonl`` and ``results.json`` lie beside this
file. Knows files of annotators; knows nothing of training.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cllmfs.schema import Span
from mini.annotated.marks import Marked, read_marks, read_texts, written
from mini.annotated.passages import CHUNK
from mini.annotated.register import Register, read_register, renamed
from mini.annotated.review import changes, read_corrections
from mini.annotated.standoff import ANNOTATIONS_FILE, Annotated, read_annotations, text_of, write_annotations

RESULTS_FILE = Path(__file__).with_name("results.json")


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


def _places(folder: Path) -> list[dict[str, Any]]:
    """What ``places.jsonl`` says of the passages of a folder."""
    return [json.loads(line) for line in (folder / "places.jsonl").read_text(encoding="utf-8").splitlines()]


def collect(folder: Path) -> list[Annotated]:
    """The annotations in a folder of annotators' files."""
    places = {one["number"]: one for one in _places(folder)}
    made = []
    for path in sorted((folder / "marks").glob("*.txt")):
        texts = read_texts(folder / "texts" / path.name)
        marks, _ = read_marks(path, texts)
        second = _optional(folder / "second" / path.name, texts)
        judged = folder / "judged" / path.name
        reviewed = read_corrections(judged, texts, marks)[0] if judged.is_file() else {}
        for number, one in marks.items():
            place = places[number]
            final, other = reviewed.get(number), second.get(number)
            made.append(
                Annotated(
                    *(place[name] for name in ("file", "at", "length", "hash", "kind")),
                    None if one.skipped or (final is not None and final.skipped) else tuple(one.spans),
                    None if other is None or other.skipped else tuple(other.spans),
                    None if final is None else tuple(final.spans),
                )
            )
    return made


def _optional(path: Path, texts: dict[int, str]) -> dict[int, Marked]:
    return read_marks(path, texts)[0] if path.is_file() else {}


def figures(annotations: Sequence[Annotated], register: Register) -> dict[str, Any]:
    """What ``results.json`` holds: counts, the changes of the review, and the agreement of two readers."""
    plain, unknown, review = register.plain_names(), Counter[str](), Counter[str]()
    agreement, used, kinds = Agreement(register), Counter[str](), Counter[str]()
    for one in annotations:
        if one.first is None:
            continue
        if one.second is not None:
            agreement.add(one.kind, renamed(one.first, plain), renamed(one.second, plain))
        if one.reviewed is not None:
            review += changes(one.first, one.reviewed)
            kinds[one.kind] += 1
            used.update(span.label for span in renamed(one.reviewed, plain, unknown))
    return {
        "passages": kinds.total(),
        "mentions": used.total(),
        "types_used": len(used),
        "types_in_register": len(register.types),
        "passages_by_kind": dict(sorted(kinds.items())),
        "mentions_of_unknown_types": unknown.total(),
        "review": {name: review[name] for name in ("kept", "dropped", "added", "retyped", "moved")},
        "given_up": sum(one.first is None for one in annotations),
        "not_reviewed": sum(one.first is not None and one.reviewed is None for one in annotations),
        "agreement": agreement.record(),
    }


def restore(folder: Path, data: Path, annotations: Iterable[Annotated]) -> int:
    """Write the marks that no reviewer has read into files of a folder again; the number of passages.

    The files have names of their own, ``rNNN.txt``, and their passages are numbered as the folder's places are.
    """
    numbers = {one["hash"]: one["number"] for one in _places(folder)}
    left = [one for one in annotations if one.first is not None and one.reviewed is None and one.hash in numbers]
    for at in range(0, len(left), CHUNK):
        texts, marks = [], []
        for one in left[at : at + CHUNK]:
            text = text_of(one, data)
            texts.append(f"#{numbers[one.hash]} [{one.kind}]\n{text}\n")
            marks.append(written(Marked(numbers[one.hash], list(one.first or ())), text))
        for name, blocks in (("texts", texts), ("marks", marks)):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"r{at // CHUNK:03}.txt").write_text("\n".join(blocks), encoding="utf-8")
    return len(left)


def not_annotated(folder: Path, annotations: Iterable[Annotated]) -> list[str]:
    """The names of the files of texts with passages that nobody has annotated."""
    numbers = {one["hash"]: one["number"] for one in _places(folder)}
    done = {numbers[one.hash] for one in annotations if one.hash in numbers}
    files = sorted((folder / "texts").glob("*.txt"))
    return [path.stem for path in files if not set(read_texts(path)) <= done]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--restore", type=Path, metavar="DATA")
    arguments = parser.parse_args()
    kept = {one.hash: one for one in (read_annotations() if ANNOTATIONS_FILE.is_file() else ())}
    if arguments.restore is not None:
        print(restore(arguments.folder, arguments.restore, kept.values()), "passages")
    else:
        kept |= {one.hash: one for one in collect(arguments.folder)}
        write_annotations(kept.values())
        found = figures(list(kept.values()), read_register())
        RESULTS_FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(found, indent=1))
    print("not annotated:", *not_annotated(arguments.folder, kept.values()))
