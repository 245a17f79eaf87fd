"""Writes examples to labeled files, whole or not at all, and converts one format into another.

Knows what every format needs of an example; how a format is written is in :mod:`cllmfs.formats.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cllmfs.formats.reading import read_examples
from cllmfs.formats.table import named
from cllmfs.formats.tagging import check_scheme
from cllmfs.schema import Example


def write_examples(
    examples: Iterable[Example], path: str | Path, *, format: str = "jsonl", scheme: str = "iob2"
) -> int:
    """Write examples and return how many; the file appears whole or stays as it was.

    Formats of tokens take the example's tokens, or else its words. A token is split if a span begins or ends inside it,
    so no span is lost; white space between tokens is.

    Args:
        examples: what to write; each must pass :meth:`Example.check`.
        path: the file, or "-" for standard output.
        format: jsonl, tokens, tags or conll.
        scheme: iob1, iob2, io, bioes or bilou, for tags and conll.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: if an example breaks a rule, or the format cannot hold it: tags and conll hold no overlapping spans,
            io no adjacent spans of one type, conll no empty sentence and no token or label with tabs or line ends.
    """
    return named(format).write(_checked(examples), path, check_scheme(scheme))


def _checked(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples, each with a source for messages."""
    for number, example in enumerate(examples, 1):
        one = example if example.source else replace(example, source=f"example {number}")
        one.check()
        yield one


def convert(
    in_path: str | Path,
    out_path: str | Path,
    *,
    from_format: str | None = None,
    to_format: str = "jsonl",
    scheme_in: str | None = None,
    scheme_out: str = "iob2",
) -> int:
    """Read one format, write another, and return the number of examples; see the two functions that this joins."""
    examples = read_examples(in_path, format=from_format, scheme=scheme_in)
    return write_examples(examples, out_path, format=to_format, scheme=scheme_out)
