"""From a file's bytes to lines of text, and the records that collect what becomes of them.

Knows encodings, line ends, standard input and what an issue is; knows nothing of JSON, columns or the rules of spans.
Lines end at a line feed only (a carriage return before it is dropped): U+2028, U+0085 and their like are text.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from cllmfs.errors import DataError
from cllmfs.schema import Example

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Issue:
    """One broken rule.

    Attributes:
        line: 1-based line of the file; 0 for the file as a whole.
        field: JSON field or column; empty where none is to blame.
        rule: short name of the rule, in kebab-case.
        message: rule, value received, what to do.
        severity: "error" or "warning".
    """

    line: int
    field: str
    rule: str
    message: str
    severity: str = "error"


@dataclass(frozen=True)
class Record:
    """One record of a file; ``example`` is ``None`` just where an issue is an error."""

    line: int
    example: Example | None
    issues: tuple[Issue, ...]


@dataclass
class Draft:
    """A record on the way; tags wait for the whole file, which names their scheme."""

    line: int
    source: str
    issues: list[Issue] = field(default_factory=list)
    example: Example | None = None
    text: object = None
    tokens: list[str] = field(default_factory=list)
    tags: list[str] | None = None
    lines: list[int] = field(default_factory=list)  # line of each token
    tag_field: str = "tag"  # with {} for the index where a line holds all the tags

    def error(self, field: str, rule: str, message: str, line: int | None = None) -> None:
        """Note an error; the line is the record's first unless given."""
        self.issues.append(Issue(line or self.line, field, rule, message))

    def warn(self, field: str, rule: str, message: str, line: int | None = None) -> None:
        """Note a warning; the line is the record's first unless given."""
        self.issues.append(Issue(line or self.line, field, rule, message, "warning"))

    @property
    def failed(self) -> bool:
        """Whether an error was noted."""
        return any(issue.severity == "error" for issue in self.issues)


def source_name(path: str | Path) -> str:
    """The name that messages give a file."""
    return "<stdin>" if str(path) == "-" else str(path)


def read_lines(path: str | Path) -> Iterator[tuple[int, str | Issue]]:
    """(1-based number, text) of each line, streamed, without its line end; an issue where a line is not UTF-8.

    A byte-order mark is dropped. Stops at the first line of a file that is not text at all.

    Raises:
        DataError: if the file cannot be opened or read.
    """
    opened = contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else _open(path)
    with opened as handle:
        before = 0
        for number, raw in enumerate(handle, 1):
            junk = _not_text(raw, first=number == 1)
            if junk:
                yield number, Issue(number, "", "bad-encoding", junk)
                return
            skipped = len(_BOM) if number == 1 and raw.startswith(_BOM) else 0
            try:
                yield number, raw[skipped:].removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                at = skipped + error.start
                message = (
                    f"files must be UTF-8, got the byte 0x{raw[at]:02x} (byte {at + 1} of the line, "
                    f"{before + at + 1} of the file); convert the file, for instance with "
                    "iconv -f WINDOWS-1252 -t UTF-8"
                )
                yield number, Issue(number, "", "bad-encoding", message)
            before += len(raw)


def _open(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", source=str(path)) from error


def _not_text(raw: bytes, first: bool) -> str | None:
    """Why the bytes are no text in UTF-8's family, or ``None``."""
    if first and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "files must be UTF-8, got UTF-16 (by its byte-order mark); convert it with iconv -f UTF-16 -t UTF-8"
    if first and raw[:2] == b"\x1f\x8b":
        return "files must be plain text, got gzip data; unpack it with gunzip"
    if b"\0" in raw:
        at = raw.index(b"\0") + 1
        return f"files must be text in UTF-8, got a NUL byte (byte {at} of the line): this is a binary file or UTF-16"
    return None
