"""The annotations as they are kept: places and hashes of passages, spans and types, and not one word of the text.

    passages.jsonl    {"file": …, "at": …, "length": …, "hash": …, "kind": …, "spans": [[start, end, type], …]}

Joins them with the text, which the user brings, and refuses text that is not what was annotated. Knows files; knows
nothing of how passages are chosen, or of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.schema import Example, Span
from mini.annotated.passages import Passage, hash_of, read_back

ANNOTATIONS_FILE = Path(__file__).with_name("passages.jsonl")


@dataclass(frozen=True)
class Annotated:
    """The annotation of a passage: where it lies (as in :class:`~mini.annotated.passages.Passage`), and its spans."""

    file: str
    at: int
    length: int
    hash: str
    kind: str
    spans: tuple[Span, ...]


def write_annotations(path: Path, passages: Iterable[tuple[Passage, Iterable[Span]]]) -> int:
    """Write the annotations of passages, in order of their places; the number of passages."""
    lines = []
    for passage, spans in sorted(passages, key=lambda pair: (pair[0].file, pair[0].at)):
        record = {"file": passage.file, "at": passage.at, "length": len(passage.text), "hash": passage.hash}
        marks = [[span.start, span.end, span.label] for span in spans]
        lines.append(json.dumps({**record, "kind": passage.kind, "spans": marks}, ensure_ascii=False))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return len(lines)


def read_annotations(path: Path = ANNOTATIONS_FILE) -> Iterator[Annotated]:
    """The annotations of a file, in its order."""
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        spans = tuple(Span(start, end, kind) for start, end, kind in record["spans"])
        yield Annotated(record["file"], record["at"], record["length"], record["hash"], record["kind"], spans)


def with_text(one: Annotated, data: Path) -> Example:
    """An annotated passage with its text, which is read from the folder of data.

    Raises:
        DataError: if the file is missing, or holds another text at this place.
    """
    text = read_back(data, one.file, one.at, one.length)
    if hash_of(text) != one.hash:
        raise DataError(f"the text at {one.at} is not what was annotated; bring the same version", source=one.file)
    return Example(text, one.spans, source=f"{one.file}:{one.at}")
