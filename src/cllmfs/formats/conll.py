"""CoNLL columns, read and written: a line for each token, the token first, the tag last, blank lines between sentences.

Knows the columns and ``-DOCSTART-`` lines; knows nothing of what tags mean. A line with a tab is split at tabs, any
other at runs of spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cllmfs.errors import DataError
from cllmfs.formats.records import Draft, Issue, Source, show
from cllmfs.formats.tagging import tags_of_spans, tokenized
from cllmfs.schema import Example

SUFFIXES = (".conll", ".conll03", ".bio", ".iob", ".iob1", ".iob2", ".bioes", ".bilou", ".tsv")

_DOCUMENT_START = "-DOCSTART-"
_NOT_A_CELL = re.compile(f"[\t\n\r\0]|^[ \ufeff]| $|^{_DOCUMENT_START}")


def read_columns(source: Source) -> Iterator[Draft]:
    """One draft for each sentence."""
    draft: Draft | None = None
    for number, line in [*source.lines, (0, "")]:  # the empty line ends the last sentence
        if isinstance(line, str) and (not line.strip(" \t") or line.startswith(_DOCUMENT_START)):
            if draft:
                yield draft
            draft = None
            continue
        draft = draft or Draft(number, f"{source.name}:{number}", tags=[])
        if isinstance(line, Issue):
            draft.issues.append(line)
        else:
            _add_token(number, line, draft)


def _add_token(number: int, line: str, draft: Draft) -> None:
    columns = [part.strip(" ") for part in line.rstrip(" \t").split("\t" if "\t" in line else " ")]
    if "\t" not in line:
        columns = [part for part in columns if part]
    if "\r" in line:
        message = "a line must end in a line feed, got a carriage return inside it; convert the line ends"
        draft.error("", "bad-encoding", message, number)
    elif not columns[0]:
        draft.error("token", "missing-field", f"the first column must hold a token, got {show(line)}", number)
    elif len(columns) < 2:
        draft.error("tag", "missing-field", f"a line needs a token and a tag, got one column: {show(line)}", number)
    else:
        draft.tokens.append(columns[0])
        draft.lines.append(number)
        assert draft.tags is not None, "a CoNLL draft is made with tags"  # noqa: S101
        draft.tags.append(columns[-1])


def sentence_block(example: Example, scheme: str) -> str:
    """The lines of an example, with the blank line after them."""
    tokens, spans = tokenized(example)
    tags = tags_of_spans(spans, len(tokens), scheme)
    if not tokens:
        raise DataError("conll cannot hold a sentence without tokens; leave it out or write jsonl", field="text")
    for cell in (*tokens, *tags):
        if _NOT_A_CELL.search(cell):
            rule = "a conll column must not contain a tab, line end or NUL, begin or end with a space, or begin with"
            raise DataError(f"{rule} {_DOCUMENT_START}; got {cell!r}: write jsonl, tokens or tags")
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"
