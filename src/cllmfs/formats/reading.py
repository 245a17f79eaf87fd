"""Reads labeled files into examples, and texts to predict on.

:func:`parse_file` is the only parser. :func:`read_examples` raises its first error;
:func:`cllmfs.formats.validation.validate_file` collects all of them. Knows that a tag scheme belongs to a whole file;
knows nothing of single formats, which are in :mod:`cllmfs.formats.table`, nor of what makes a readable record
suspicious.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.jsonl import has_surrogate, load_object, parse_record
from cllmfs.formats.records import Draft, Issue, Record, Source, source_name, text_lines
from cllmfs.formats.table import FORMATS, by_suffix, drafts
from cllmfs.formats.tagging import check_scheme, damage, detect_scheme, example_of_tokens, spans_of_tags, tag_problem
from cllmfs.schema import Example


def read_examples(path: str | Path, *, format: str | None = None, scheme: str | None = None) -> list[Example]:
    """The examples of a labeled file.

    The text of a tokenized record is its own "text" if its tokens make it up with white space between them, else its
    tokens joined by one space; ``token_offsets`` holds the place of each token.

    Args:
        path: the file, or "-" for standard input. UTF-8, with or without a byte-order mark.
        format: jsonl, tokens, tags or conll; ``None`` finds it by the suffix, else by the first line, and the kind of
            each JSON record by its keys.
        scheme: iob1, iob2, io, bioes or bilou; ``None`` detects it over the whole file. Files with I- tags only are
            read as io: a maximal run of one type is one span, as in iob1. Damaged sequences are read as conlleval
            reads them.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: on the first error, with file, line and field.
    """
    return _examples(parse_file(path, format, scheme), path)


def examples_of_rows(rows: Iterable[dict[str, Any]], name: str) -> list[Example]:
    """The examples of rows that are JSON objects already, as :mod:`cllmfs.formats.jsonl` knows them by their keys.

    Raises:
        DataError: on the first error, with the name of their source, row (counted from 1) and field.
    """
    made = []
    for number, row in enumerate(rows, 1):
        made.append(Draft(number, f"{name}:{number}"))
        parse_record(row, None, made[-1])
    return _examples(_finish_all(made, None), name)


def _examples(records: Iterable[Record], path: str | Path) -> list[Example]:
    examples = []
    for record in records:
        if record.example is None:
            raise next(issue for issue in record.issues if issue.severity == "error").to_error(path)
        examples.append(record.example)
    return examples


def parse_file(path: str | Path, format: str | None = None, scheme: str | None = None) -> list[Record]:
    """All records of a file, in order; a file without any gives one record with the issue ``empty-file``.

    Arguments and ConfigError are as for :func:`read_examples`; a file that cannot be opened raises DataError.
    """
    required = None if scheme is None else check_scheme(scheme)
    return _finish_all(drafts(Source(path), format), required)


def _finish_all(made: list[Draft], required: str | None) -> list[Record]:
    if not made:
        message = "the file holds no records; a data file needs at least one"
        return [Record(0, None, (Issue(0, "", "empty-file", message),))]
    for draft in made:
        for index, tag in enumerate(draft.tags or ()):
            if problem := tag_problem(tag, required):
                draft.error(draft.tag_field.format(index), *problem, draft.lines[index])
    scheme = required or detect_scheme(draft.tags for draft in made if draft.tags is not None and not draft.failed)
    return [_finish(draft, scheme) for draft in made]


def _finish(draft: Draft, scheme: str) -> Record:
    example = draft.example
    if draft.tags is not None and not draft.failed:
        for index, message in damage(draft.tags, scheme):
            draft.warn(draft.tag_field.format(index), "damaged-tags", message, draft.lines[index])
        example = example_of_tokens(draft.tokens, spans_of_tags(draft.tags), draft.text, draft.source)
    return Record(draft.line, None if draft.failed else example, tuple(draft.issues))


def iter_texts(path: str | Path, *, format: str | None = None) -> Iterator[str]:
    """The texts of a file to predict on, streamed.

    Args:
        path: the file, or "-" for standard input.
        format: "jsonl" takes the "text" of each record, or its "tokens" joined by a space; "text" takes each line as a
            text, an empty line as an empty text. ``None`` means jsonl for the suffixes of jsonl, else text.

    Raises:
        ConfigError: if format is unknown.
        DataError: on the first line that cannot be read, when it is reached.
    """
    if format not in (None, "jsonl", "text"):
        raise ConfigError(f"format must be jsonl or text, got {format!r}")
    is_json = format == "jsonl" or (format is None and by_suffix(path) is FORMATS["jsonl"])
    for number, line in text_lines(path):
        if not is_json:
            yield line
        elif line.strip():
            yield _text_of(number, line, path)


def _text_of(number: int, line: str, path: str | Path) -> str:
    record = load_object(number, line)
    if isinstance(record, Issue):
        raise record.to_error(path)
    text, tokens = record.get("text"), record.get("tokens")
    if "text" not in record and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        text = " ".join(tokens)
    if not isinstance(text, str):
        message = f'a record needs a string "text" or a list of strings "tokens", got {line[:60]}'
    elif has_surrogate(text):
        message = "half of a surrogate pair is not a character; correct the record's escapes"
    else:
        return text
    raise DataError(message, source=source_name(path), line=number, field="text")
