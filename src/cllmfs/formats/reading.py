"""From a file's lines to records, each an example or the list of all that is wrong with it.

The one parser behind :func:`cllmfs.formats.writing.read_examples`, which raises on the first error, and
:func:`cllmfs.formats.validation.validate_file`, which collects every one. Knows how a file's format is found, CoNLL
columns and that a tag scheme belongs to a whole file; knows nothing of what makes a readable record suspicious, nor of
writing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cllmfs.errors import ConfigError
from cllmfs.formats.jsonl import load_object, of_tokens, parse_record, show
from cllmfs.formats.records import Draft, Issue, Record, read_lines, source_name
from cllmfs.formats.tagging import check_scheme, damage, detect_scheme, spans_of_tags, tag_problem

FORMATS = ("jsonl", "tokens", "tags", "conll")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
CONLL_SUFFIXES = (".conll", ".conll03", ".bio", ".iob", ".iob1", ".iob2", ".bioes", ".bilou", ".tsv")

DOCUMENT_START = "-DOCSTART-"

_JSON_START = re.compile(r'[ \t]*\{\s*["}]')


def parse_file(path: str | Path, format: str | None = None, scheme: str | None = None) -> list[Record]:
    """All records of a file, in order; a file without any gives one record with the issue ``empty-file``.

    Args:
        path: the file, or "-" for standard input.
        format: one of ``FORMATS``; ``None`` goes by the extension, else by the first line, and takes each JSON record
            by its keys.
        scheme: tag scheme; ``None`` detects it over the whole file.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: if the file cannot be opened.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    forced = None if scheme is None else check_scheme(scheme)
    lines = list(read_lines(path))
    is_json = format != "conll" if format else _looks_like_json(path, lines)
    name = source_name(path)
    drafts = list(_json_drafts(lines, format, name) if is_json else _conll_drafts(lines, name))
    return _finish_all(drafts, forced)


def parse_rows(rows: Iterable[dict[str, Any]], name: str) -> list[Record]:
    """All records of rows that are JSON objects already, numbered from 1; each is taken by its keys.

    Args:
        rows: as :mod:`cllmfs.formats.jsonl` knows them.
        name: what messages call their source.
    """
    drafts = []
    for number, row in enumerate(rows, 1):
        drafts.append(Draft(number, f"{name}:{number}"))
        parse_record(row, None, drafts[-1])
    return _finish_all(drafts, None)


def _finish_all(drafts: list[Draft], forced: str | None) -> list[Record]:
    if not drafts:
        message = "the file holds no records; a data file needs at least one"
        return [Record(0, None, (Issue(0, "", "empty-file", message),))]
    for draft in drafts:
        _check_tags(draft, forced)
    found = forced or detect_scheme(draft.tags for draft in drafts if draft.tags is not None and not draft.failed)
    return [_finish(draft, found) for draft in drafts]


def _looks_like_json(path: str | Path, lines: Iterable[tuple[int, str | Issue]]) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix in JSON_SUFFIXES or suffix in CONLL_SUFFIXES:
        return suffix in JSON_SUFFIXES
    first = next((line for _, line in lines if isinstance(line, Issue) or line.strip()), "")
    return isinstance(first, str) and _JSON_START.match(first) is not None


def _json_drafts(lines: Iterable[tuple[int, str | Issue]], format: str | None, name: str) -> Iterator[Draft]:
    for number, line in lines:
        draft = Draft(number, f"{name}:{number}")
        if isinstance(line, Issue):
            draft.issues.append(line)
        elif not line.strip():
            continue
        else:
            record = load_object(number, line)
            if isinstance(record, Issue):
                draft.issues.append(record)
            else:
                parse_record(record, format, draft)
        yield draft


def _conll_drafts(lines: Iterable[tuple[int, str | Issue]], name: str) -> Iterator[Draft]:
    """One draft a sentence; a line with a tab is split at tabs, any other at runs of spaces."""
    draft: Draft | None = None
    for number, line in lines:
        if isinstance(line, str) and (not line.strip(" \t") or line.startswith(DOCUMENT_START)):
            if draft:
                yield draft
            draft = None
            continue
        draft = draft or Draft(number, f"{name}:{number}", tags=[])
        if isinstance(line, Issue):
            draft.issues.append(line)
        else:
            _add_columns(number, line, draft)
    if draft:
        yield draft


def _add_columns(number: int, line: str, draft: Draft) -> None:
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


def _check_tags(draft: Draft, scheme: str | None) -> None:
    for index, tag in enumerate(draft.tags or ()):
        problem = tag_problem(tag, scheme)
        if problem:
            draft.error(draft.tag_field.format(index), *problem, draft.lines[index])


def _finish(draft: Draft, scheme: str) -> Record:
    example = draft.example
    if draft.tags is not None and not draft.failed:
        for index, message in damage(draft.tags, scheme):
            draft.warn(draft.tag_field.format(index), "damaged-tags", message, draft.lines[index])
        example = of_tokens(draft.tokens, spans_of_tags(draft.tags), draft.text, draft.source)
    return Record(draft.line, None if draft.failed else example, tuple(draft.issues))
