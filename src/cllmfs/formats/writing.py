"""Writes examples to labeled files, whole or not at all, and converts one format into another.

Knows what every format needs of an example; how a format is written is in :mod:`cllmfs.formats.table`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cllmfs.formats.reading import read_examples
from cllmfs.formats.table import Format, named
from cllmfs.formats.tagging import check_scheme
from cllmfs.schema import Example

_logger = logging.getLogger(__name__)


def write_examples(
    examples: Iterable[Example], path: str | Path, *, format: str = "jsonl", scheme: str = "iob2"
) -> int:
    """Write examples and return how many; the file appears whole or stays as it was.

    Formats of tokens take the example's tokens, or else its words. A token is split if a span begins or ends inside it,
    so no span is lost. What a format cannot hold (conll: other white space than a space between tokens, which labels
    were annotated, other fields of a record, scores; tokens and tags: scores) is told in one warning of the logger
    ``cllmfs``.

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
    found, lost = named(format), Counter[str]()
    count = found.write(_checked(examples, found, lost), path, check_scheme(scheme))
    if lost:
        what = ", ".join(f"{kind} ({times} sentence{'s' * (times > 1)})" for kind, times in lost.items())
        _logger.warning("what %s cannot hold is left out: %s", format, what)
    return count


def _checked(examples: Iterable[Example], format: Format, lost: Counter[str]) -> Iterator[Example]:
    """The examples, each with a source for messages; ``lost`` counts the sentences by what the format cannot hold."""
    for number, example in enumerate(examples, 1):
        one = example if example.source else replace(example, source=f"example {number}")
        one.check()
        yield one
        lost.update(format.lost(one))


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
