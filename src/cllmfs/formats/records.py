"""Data files as lines of bytes, and the records that are read from them.

Knows encodings, line ends, standard input and output, and what an issue is; knows nothing of JSON, columns or the rules
of spans. Lines end at a line feed only (a carriage return before it is dropped): U+2028, U+0085 and the like are text.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any

from cllmfs.errors import DataError
from cllmfs.files import whole_file
from cllmfs.formats.rules.offsets import Stated
from cllmfs.schema import Example

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 16  # bytes that are read at once, if they are there


@dataclass(frozen=True)
class Issue:
    """One broken rule.

    Attributes:
        line: 1-based line of the file; 0 for the file as a whole.
        field: JSON field or column; empty if no single field is wrong.
        rule: short name of the rule, in kebab-case.
        message: the rule, the value received, what to do.
        severity: "error" or "warning".
    """

    line: int
    field: str
    rule: str
    message: str
    severity: str = "error"

    def to_error(self, path: str | Path) -> DataError:
        """The issue as the error that a reader of the file raises."""
        return DataError(self.message, source=source_name(path), line=self.line or None, field=self.field or None)


@dataclass(frozen=True)
class Record:
    """One record of a file; ``example`` is ``None`` if and only if one of the issues is an error."""

    line: int
    example: Example | None
    issues: tuple[Issue, ...]


@dataclass
class Draft:
    """A record while it is read.

    Its tags are interpreted only after the whole file, which determines their scheme; so are offsets that contradict
    their texts.
    """

    line: int
    source: str
    issues: list[Issue] = field(default_factory=list)
    example: Example | None = None
    text: object = None
    tokens: list[str] = field(default_factory=list)
    tags: list[str] | None = None
    lines: list[int] = field(default_factory=list)  # line of each token
    tag_field: str = "tag"  # with {} for the index if one line holds all the tags
    spaces: list[bool] | None = None  # whether a space follows each token; None: the scripts decide
    stated: list[Stated] = field(default_factory=list)  # spans that state their texts
    annotated: frozenset[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None  # the annotator's answer, if it says that the record is no gold

    def error(self, field: str, rule: str, message: str, line: int | None = None) -> None:
        """Add an error; the line is the record's first unless given."""
        self.issues.append(Issue(line or self.line, field, rule, message))

    def warn(self, field: str, rule: str, message: str, line: int | None = None) -> None:
        """Add a warning; the line is the record's first unless given."""
        self.issues.append(Issue(line or self.line, field, rule, message, "warning"))

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(issue.severity == "error" for issue in self.issues)


@dataclass(frozen=True)
class Source:
    """A file to read, or "-" for standard input."""

    path: str | Path

    @property
    def name(self) -> str:
        """The name of the file in messages."""
        return source_name(self.path)

    @cached_property
    def lines(self) -> list[tuple[int, str | Issue]]:
        """What :func:`read_lines` yields, kept because standard input is read once but both recognized and parsed."""
        return list(read_lines(self.path))


def source_name(path: str | Path) -> str:
    """The name of a file in messages."""
    return "<stdin>" if str(path) == "-" else str(path)


def show(value: object) -> str:
    """Type and value for a message, at most 60 characters of the value."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def read_lines(path: str | Path) -> Iterator[tuple[int, str | Issue]]:
    """(1-based number, text) of each line, streamed, without its line end; an issue in place of a line not in UTF-8.

    A byte-order mark is dropped. Stops at the first line of a file that is not text at all.

    Raises:
        DataError: if the file cannot be opened or read.
    """
    for group in line_groups(path):
        yield from group


def line_groups(path: str | Path) -> Iterator[list[tuple[int, str | Issue]]]:
    """As :func:`read_lines`, but the lines that arrive together are together; a group has at least one line.

    From a pipe, a group comes as soon as its lines are there, whatever is still to come.
    """
    number, before = 0, 0
    for raws in _arriving(path):
        group: list[tuple[int, str | Issue]] = []
        for raw in raws:
            number += 1
            if problem := _not_text(raw, first=number == 1):
                yield [*group, (number, Issue(number, "", "bad-encoding", problem))]
                return
            group.append((number, _decoded(number, raw, before)))
            before += len(raw) + 1
        yield group


def _arriving(path: str | Path) -> Iterator[list[bytes]]:
    """Lines without their line feeds, those together that one read brings."""
    source: contextlib.AbstractContextManager[Any] = _open(path) if str(path) != "-" else _stdin()
    with source as handle:
        begun: list[bytes] = []  # the parts of a line that has not ended
        while chunk := handle.read1(_CHUNK):
            first, *others = chunk.split(b"\n")
            begun.append(first)
            if others:
                yield [b"".join(begun), *others[:-1]]
                begun = [others[-1]]
        if any(begun):
            yield [b"".join(begun)]


def _decoded(number: int, raw: bytes, before: int) -> str | Issue:
    """The text of a line that ``before`` bytes of the file precede, or why there is none."""
    skipped = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
    try:
        return raw[skipped:].removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        at = skipped + error.start
        byte = f"0x{raw[at]:02x} (byte {at + 1} of the line, {before + at + 1} of the file)"
        hint = "convert the file, for instance with iconv -f WINDOWS-1252 -t UTF-8"
        return Issue(number, "", "bad-encoding", f"files must be UTF-8, got the byte {byte}; {hint}")


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """As :func:`read_lines`, but a line that is not in UTF-8 raises DataError too."""
    for number, line in read_lines(path):
        if isinstance(line, Issue):
            raise line.to_error(path)
        yield number, line


def _stdin() -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext(sys.stdin.buffer)


def _open(path: str | Path) -> BufferedReader:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", source=str(path)) from error


def _not_text(raw: bytes, first: bool) -> str | None:
    """Why the bytes are not text in UTF-8 or plain ASCII, or ``None`` if they may be."""
    if first and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "files must be UTF-8, got UTF-16 (by its byte-order mark); convert it with iconv -f UTF-16 -t UTF-8"
    if first and raw[:2] == b"\x1f\x8b":
        return "files must be plain text, got gzip data; unpack it with gunzip"
    if b"\0" in raw:
        at = raw.index(b"\0") + 1
        return f"files must be text in UTF-8, got a NUL byte (byte {at} of the line): this is a binary file or UTF-16"
    return None


def write_lines(
    render: Callable[[Example, str], str], examples: Iterable[Example], path: str | Path, scheme: str
) -> int:
    """Write each example as the text that ``render`` makes of it under a tag scheme, and return how many there were.

    Raises:
        DataError: if the file cannot be written, or an example cannot be written in this format.
    """
    count = 0
    with whole_file(path, stdout=True) as handle:
        for example in examples:
            count += 1
            try:
                handle.write(render(example, scheme).encode("utf-8"))
            except DataError as error:
                raise DataError(error.message, source=example.source, field=error.field) from None
            except UnicodeEncodeError as error:
                message = f"half of a surrogate pair cannot be written as UTF-8, got {error.object[error.start]!a}"
                raise DataError(message, source=example.source) from None
    return count
