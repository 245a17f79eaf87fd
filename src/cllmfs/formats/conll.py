"""CoNLL columns, read and written: a line for each token, the token first, the tag last, blank lines between sentences.

Knows the columns, ``-DOCSTART-`` lines, ``SpaceAfter=No`` in a middle column, and columns that only number the tokens;
knows nothing of what tags mean. A line with a tab is split at tabs, any other at runs of spaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.formats.records import Draft, Issue, Source, show, write_lines
from cllmfs.formats.rules.offsets import short
from cllmfs.formats.tagging import spaces_between, tag_problem, tags_of_spans, token_pieces, tokenized
from cllmfs.schema import Example

SUFFIXES = (".conll", ".conll03", ".bio", ".iob", ".iob1", ".iob2", ".bioes", ".bilou", ".tsv")

_DOCUMENT_START = "-DOCSTART-"
_NOT_A_CELL = re.compile(f"[\t\n\r\0]|^[ \ufeff]| $|^{_DOCUMENT_START}")
_NO_SPACE, _SPACE = "SpaceAfter=No", "SpaceAfter=Yes"  # the first is that of Universal Dependencies
# Ranges (the numbers of a word's tokens), decimals (tokens that the text does not have) and comments.
_NOT_COUNTED = re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+|#.*", re.DOTALL)
_LOOKED_AT = 5000  # tokens, which tell how a file is made
_COUNTED_SHARE = 0.9  # of the first column, from which on it counts the tokens


def read_columns(source: Source) -> list[Draft]:
    """One draft for each sentence; a single one, with the error, for a file whose first column counts the tokens."""
    made: list[Draft] = []
    marks: list[list[str | None]] = []  # of each draft, of each token
    first: list[list[str]] = []  # the cells of the first tokens
    draft: Draft | None = None
    for number, line in source.lines:
        if isinstance(line, str) and (not line.strip(" \t") or line.startswith(_DOCUMENT_START)):
            draft = None
            continue
        if draft is None:
            draft = Draft(number, f"{source.name}:{number}", tags=[])
            made.append(draft)
            marks.append([])
        if isinstance(line, Issue):
            draft.issues.append(line)
        elif row := _add_token(number, line, draft):
            marks[-1].append(_mark(row) if "SpaceAfter=" in line else None)
            if len(first) < _LOOKED_AT:
                first.append(row)
    if _is_numbered(first):
        refused = Draft(made[0].line, made[0].source)
        refused.error("token", "numbered-tokens", _without_numbers(first))
        return [refused]
    if any(map(any, marks)):
        for one, row_marks in zip(made, marks, strict=True):
            one.spaces = [mark != _NO_SPACE for mark in row_marks]
    return made


def _add_token(number: int, line: str, draft: Draft) -> list[str] | None:
    """Add the token of a line to the draft and return its cells, or add what is wrong with it."""
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
        return columns
    return None


def _mark(row: Sequence[str]) -> str | None:
    """SpaceAfter=No or SpaceAfter=Yes if a middle column has it, alone or among other features."""
    features = {feature for cell in row[1:-1] for feature in cell.split("|")}
    return next((mark for mark in (_NO_SPACE, _SPACE) if mark in features), None)


def _is_numbered(rows: Iterable[Sequence[str]]) -> bool:
    """Whether the first column counts the tokens, from 0 or 1 or on from the sentence before, and another has them."""
    counted = steps = others = 0
    last = -1
    has_tokens = False
    for row in rows:
        if _NOT_COUNTED.fullmatch(row[0]):
            continue
        value = int(row[0]) if row[0].isascii() and row[0].isdigit() and len(row[0]) < 10 else -1
        step = value == last + 1 and last >= 0
        fits = len(row) > 2 and (step or value in (0, 1))
        counted, steps, others = counted + fits, steps + (fits and step), others + (not fits)
        last = value
        has_tokens = has_tokens or (fits and row[1] not in ("", "_", _NO_SPACE, _SPACE))
    return has_tokens and steps > 0 and counted >= _COUNTED_SHARE * (counted + others)


def _without_numbers(rows: Sequence[Sequence[str]]) -> str:
    """The message for numbered tokens, with a command that leaves the columns of the token and the first tags."""
    rows = [row for row in rows if len(row) > 2 and not _NOT_COUNTED.fullmatch(row[0])]
    width = min(map(len, rows))
    tags = [at + 1 for at in range(2, width) if all(tag_problem(row[at]) is None for row in rows)] or [width]
    tabs = " -F '\\t'" * any(" " in cell for row in rows for cell in row)
    command = f'awk{tabs} \'!NF || /^[0-9]+[ \\t]/ {{print $2 (NF ? "\\t" : "") ${tags[0]}}}\''
    return (
        f"the first column must hold the token, but here it counts the tokens ({short(' '.join(rows[0]))}): keep the "
        f"columns of the token and of the tag, for instance with {command}"
        + "".join(f"; column {column} has tags, too" for column in tags[1:])
    )


def write_columns(examples: Iterable[Example], path: str | Path, scheme: str) -> int:
    """Write token and tag, with a column for SpaceAfter=No between them if the scripts do not tell the spaces."""
    kept = list(examples)
    marked = any(cell != "_" for example in kept for cell in _spacing(example))
    return write_lines(partial(_sentence_block, marked=marked), kept, path, scheme)


def _sentence_block(example: Example, scheme: str, *, marked: bool) -> str:
    """The lines of an example, with the blank line after them."""
    tokens, spans = tokenized(example)
    tags = tags_of_spans(spans, len(tokens), scheme)
    if not tokens:
        raise DataError("conll cannot hold a sentence without tokens; leave it out or write jsonl", field="text")
    for cell in (*tokens, *tags):
        if _NOT_A_CELL.search(cell):
            rule = "a conll column must not contain a tab, line end or NUL, begin or end with a space, or begin with"
            raise DataError(f"{rule} {_DOCUMENT_START}; got {short(cell)}: write jsonl, tokens or tags")
    middle = [f"{cell}\t" if marked else "" for cell in _spacing(example, marked=marked)]
    return "".join(f"{token}\t{cell}{tag}\n" for token, cell, tag in zip(tokens, middle, tags, strict=True)) + "\n"


def _spacing(example: Example, *, marked: bool = False) -> list[str]:
    """The cell of each token that tells whether a space follows it; ``_`` where that goes without saying.

    Without a mark in the file, spaces are where the scripts have them; with one (``marked``), they are everywhere else.
    """
    pieces = token_pieces(example)
    gaps, tokens = _gaps(example.text, pieces), [example.text[start:end] for start, end in pieces]
    cells = []
    for gap, expected in zip(gaps, spaces_between(tokens), strict=False):
        if gap:
            cells.append("_" if expected else _SPACE)
        else:
            cells.append(_NO_SPACE if expected or marked else "_")
    return cells + ["_"] * (len(tokens) - len(cells))


def _gaps(text: str, pieces: Sequence[tuple[int, int]]) -> list[str]:
    """What lies between each token and the next."""
    return [text[end:start] for (_, end), (start, _) in pairwise(pieces)]


def lost(example: Example) -> Iterator[str]:
    """What the columns do not hold of an example."""
    pieces = token_pieces(example)
    around = pieces and (pieces[0][0], pieces[-1][1]) != (0, len(example.text))
    if around or not set(_gaps(example.text, pieces)) <= {"", " "}:
        yield "white space other than a space between tokens"
    if example.annotated is not None:
        yield "which labels were annotated"
    if example.extra:
        yield "other fields"
    if any(span.score is not None for span in example.spans):
        yield "scores"
