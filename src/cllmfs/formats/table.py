"""The table of formats: all code that reads, writes, checks or lists formats uses it.

Knows which formats there are and how they are found; each format is described in a file of its own. A new format needs
such a file and an entry in the table, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cllmfs.errors import ConfigError
from cllmfs.formats import conll, jsonl
from cllmfs.formats.records import Draft, Source, write_lines
from cllmfs.schema import Example


@dataclass(frozen=True)
class Format:
    """How a format is found, read and written.

    Attributes:
        name: its name in options and arguments.
        read: the drafts of a source, in order; reads ``source.lines``, or whatever is at ``source.path``.
        write: writes examples to a path ("-" is standard output) with the tags of a scheme, whole or not at all,
            and returns how many; each example has been checked and has a ``source``, which errors should name.
        suffixes: file suffixes, in lower case, that mean this format.
        recognizes: whether a source without a known suffix is of this format; ``None`` if that cannot be seen.
        read_found: replaces ``read`` if the format was found and not asked for.
        lost: what an example loses when it is written in this format, in words; by default nothing.
    """

    name: str
    read: Callable[[Source], Iterable[Draft]]
    write: Callable[[Iterable[Example], str | Path, str], int]
    suffixes: tuple[str, ...] = ()
    recognizes: Callable[[Source], bool] | None = None
    read_found: Callable[[Source], Iterable[Draft]] | None = None
    lost: Callable[[Example], Iterable[str]] = lambda _: ()


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format(
            "jsonl",
            partial(jsonl.read_json, "jsonl"),
            partial(write_lines, jsonl.text_line),
            suffixes=jsonl.SUFFIXES,
            recognizes=jsonl.looks_like_json,
            read_found=partial(jsonl.read_json, None),  # the keys of each record show its kind
        ),
        Format(
            "tokens",
            partial(jsonl.read_json, "tokens"),
            partial(write_lines, jsonl.tokens_line),
            lost=jsonl.lost,
        ),
        Format("tags", partial(jsonl.read_json, "tags"), partial(write_lines, jsonl.tags_line), lost=jsonl.lost),
        Format("conll", conll.read_columns, conll.write_columns, suffixes=conll.SUFFIXES, lost=conll.lost),
    )
}
"""All formats by name, in the order in which they are listed and tried."""


def named(name: str) -> Format:
    """The format of a name; raises ConfigError if there is none."""
    if name not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def by_suffix(path: str | Path) -> Format | None:
    """The format that the suffix of a path means; ``None`` if it means none."""
    suffix = Path(path).suffix.lower()
    return next((format for format in FORMATS.values() if suffix in format.suffixes), None)


def drafts(source: Source, name: str | None) -> list[Draft]:
    """All drafts of a source, in the format of a name, or else in the format that its suffix or its content shows.

    Raises:
        ConfigError: if there is no such format.
        DataError: if the source cannot be opened or read.
    """
    if name is not None:
        return list(named(name).read(source))
    found = by_suffix(source.path) or next(
        (format for format in FORMATS.values() if format.recognizes and format.recognizes(source)),
        FORMATS["conll"],  # columns have no mark of their own
    )
    return list((found.read_found or found.read)(source))
