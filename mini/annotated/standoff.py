"""The annotations as they are kept: places and hashes of passages, spans and types, and not one word of the text.

    {"file": …, "at": …, "length": …, "hash": …, "kind": …, "first": [[start, end, type], …],
     "second": [[start, end, type], …], "dropped": [number in first, …], "added": [[start, end, type], …]}

``first`` are the marks of the first reader, ``second`` those of another who did not see them, if there is one;
``dropped`` and ``added`` are the corrections of a reviewer, and are missing if none has read the passage yet. Types are
the readers' own words. ``first`` is null for a passage that a reader or a reviewer gave up.

This file joins annotations with the text, which the user brings, and refuses text that is not what was annotated. It
knows nothing of how passages are chosen, or of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cllmfs.errors import DataError
from cllmfs.schema import Span
from mini.annotated.passages import hash_of, read_back

ANNOTATIONS_FILE = Path(__file__).with_name("annotations.jsonl")


@dataclass(frozen=True)
class Annotated:
    """The annotation of a passage.

    Attributes:
        file, at, kind: as in :class:`~mini.annotated.passages.Passage`.
        length: of its text, in code points.
        hash: of its text (:func:`~mini.annotated.passages.hash_of`).
        first: the marks of the first reader; ``None`` if the passage was given up.
        second: the marks of a second reader, if there is one.
        reviewed: the marks after the review; ``None`` if there was none.
    """

    file: str
    at: int
    length: int
    hash: str
    kind: str
    first: tuple[Span, ...] | None
    second: tuple[Span, ...] | None = None
    reviewed: tuple[Span, ...] | None = None

    def to_record(self) -> dict[str, Any]:
        """The line of the file, as above."""
        record: dict[str, Any] = {"file": self.file, "at": self.at, "length": self.length, "hash": self.hash}
        record |= {"kind": self.kind, "first": None if self.first is None else _numbers(self.first)}
        if self.second is not None:
            record["second"] = _numbers(self.second)
        if self.first is not None and self.reviewed is not None:
            record["dropped"] = [number for number, span in enumerate(self.first) if span not in self.reviewed]
            record["added"] = _numbers([span for span in self.reviewed if span not in self.first])
        return record

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> Annotated:
        """The annotation of a line of the file."""
        first, second = _spans(record["first"]), _spans(record.get("second"))
        reviewed = None
        if first is not None and "added" in record:
            kept = [span for number, span in enumerate(first) if number not in record["dropped"]]
            reviewed = tuple(sorted([*kept, *(_spans(record["added"]) or ())], key=_order))
        place = (record[name] for name in ("file", "at", "length", "hash", "kind"))
        return cls(*place, first, second, reviewed)


def _order(span: Span) -> tuple[int, int, str]:
    return span.start, span.end, span.label


def _numbers(spans: Sequence[Span]) -> list[list[Any]]:
    return [[span.start, span.end, span.label] for span in sorted(spans, key=_order)]


def _spans(marks: Sequence[Sequence[Any]] | None) -> tuple[Span, ...] | None:
    return None if marks is None else tuple(Span(start, end, kind) for start, end, kind in marks)


def write_annotations(annotations: Iterable[Annotated], path: Path = ANNOTATIONS_FILE) -> None:
    """Write annotations, in order of their places."""
    ordered = sorted(annotations, key=lambda one: (one.file, one.at))
    lines = [json.dumps(one.to_record(), ensure_ascii=False, separators=(",", ":")) + "\n" for one in ordered]
    path.write_text("".join(lines), encoding="utf-8")


def read_annotations(path: Path = ANNOTATIONS_FILE) -> Iterator[Annotated]:
    """The annotations of a file, in its order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        yield Annotated.of_record(json.loads(line))


def text_of(one: Annotated, data: Path) -> str:
    """The text of an annotated passage, from the folder of data.

    Raises:
        DataError: if the file is missing, or holds another text at this place.
    """
    text = read_back(data, one.file, one.at, one.length)
    if hash_of(text) != one.hash:
        raise DataError(f"the text at {one.at} is not what was annotated; bring the same version", source=one.file)
    return text
