"""Reads labeled files and records into examples, and texts to predict on.

:func:`parse_file` is the only parser. :func:`read_examples` raises its first error;
:func:`cllmfs.formats.validation.validate_file` collects all of them. Knows that a tag scheme and a way of counting
offsets belong to a whole file; knows nothing of single formats, which are in :mod:`cllmfs.formats.table`, nor of what
makes a readable record suspicious.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.jsonl import has_surrogate, load_object, other_fields, parse_record
from cllmfs.formats.records import Draft, Issue, Record, Source, line_groups, show, source_name
from cllmfs.formats.rules.offsets import complaints
from cllmfs.formats.table import FORMATS, by_suffix, drafts
from cllmfs.formats.tagging import check_scheme, damage, detect_scheme, example_of_tokens, spans_of_tags, tag_problem
from cllmfs.schema import Example, Span, not_annotated

_logger = logging.getLogger(__name__)

_MOST_TOGETHER = 64  # texts that one batch of a pipe has at most
_TABLES = (".csv", ".xlsx", ".xls", ".ods", ".parquet", ".arrow", ".feather")
_DOCUMENTS = (".pdf", ".docx", ".doc", ".odt", ".rtf", ".html", ".htm", ".xml")


def read_examples(path: str | Path, *, format: str | None = None, scheme: str | None = None) -> list[Example]:
    """The examples of a labeled file.

    The text of a tokenized record is its own "text" if its tokens make it up with white space between them, else its
    tokens joined by spaces where their script has them; ``token_offsets`` holds the place of each token. Records that
    an annotator did not accept ("answer", as Prodigy writes it) are left out, with a warning that counts them.

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


def examples_of(records: Any, name: str = "records") -> list[Example]:
    """The examples of records in memory: a list, a generator, the rows of a data set or of a pandas data frame.

    Args:
        records: an iterable of examples, which stay as they are, and of mappings as the lines of a JSON Lines file.
        name: what messages call the records.

    Raises:
        DataError: on the first record that is neither or breaks a rule, with its number (counted from 1) and field.
    """
    if hasattr(records, "itertuples") and hasattr(records, "to_dict"):
        records = records.to_dict("records")  # iterating a data frame gives the names of its columns
    if isinstance(records, str | bytes | Path):
        raise DataError(f"records are needed, got {show(records)}: read a file with read_examples(path)")
    if isinstance(records, Example | Mapping) or not isinstance(records, Iterable):
        raise DataError(f"a list of records is needed, got {show(records)}: write [record] for a single one")
    made = []
    for number, record in enumerate(records, 1):
        made.append(draft := Draft(number, f"{name}:{number}"))
        if isinstance(record, Example):
            draft.example = record
        elif isinstance(record, Mapping):
            parse_record({str(key): _plain(key, value) for key, value in record.items()}, None, draft)
        else:
            message = 'a record must be an Example or a mapping such as {"text": ..., "spans": [...]}'
            raise DataError(f"{message}, got {show(record)}", source=name, line=number)
    return _examples(_finish_all(made, None), name) if made else []


def _plain(key: object, value: Any) -> Any:
    """The value as JSON has it, in the fields that mean something: arrays, tuples and spans become lists and dicts."""
    if key not in ("text", "spans", "tokens", "ner_tags", "labels"):
        return value
    if isinstance(value, Span):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(key, part) for name, part in value.items()}
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    return [_plain(key, part) for part in value] if isinstance(value, list | tuple) else value


def _examples(records: Iterable[Record], path: str | Path) -> list[Example]:
    examples = []
    for record in records:
        if record.example is None:
            raise next(issue for issue in record.issues if issue.severity == "error").to_error(path)
        examples.append(record.example)
        for issue in record.issues:
            if issue.rule == "left-out":
                _logger.warning("%s: %s", source_name(path), issue.message)
    return examples


def parse_file(path: str | Path, format: str | None = None, scheme: str | None = None) -> list[Record]:
    """All records of a file, in order; a file without any gives one record with the issue ``empty-file``.

    Records that an annotator did not accept are left out, and counted in one issue ``left-out``. Arguments and
    ConfigError are as for :func:`read_examples`; a file that cannot be opened raises DataError.
    """
    required = None if scheme is None else check_scheme(scheme)
    if format is None and Path(path).suffix.lower() in _TABLES:
        read = _reader_of(Path(path))
        raise DataError(
            f"a table is not read as labeled text: write its rows, from {read}, as JSON lines with text and spans, or "
            "as columns of tokens and tags (--format conll reads any file as such)",
            source=source_name(path),
        )
    return _finish_all(drafts(Source(path), format), required)


def _finish_all(found: list[Draft], required: str | None) -> list[Record]:
    if not found:
        message = "the file holds no records; a data file needs at least one"
        return [Record(0, None, (Issue(0, "", "empty-file", message),))]
    made = [draft for draft in found if draft.answer is None]
    if len(made) < len(found):
        refused = [draft for draft in found if draft.answer is not None]
        answers = ", ".join(f"{answer} {count}" for answer, count in Counter(draft.answer for draft in refused).items())
        message = (
            f'{len(refused)} of {len(found)} records are left out, because their "answer" is not "accept" ({answers})'
        )
        if not made:
            issue = Issue(refused[0].line, "answer", "left-out", f"{message}: accept some first")
            return [Record(refused[0].line, None, (issue,))]
        made[0].warn("answer", "left-out", message, refused[0].line)
    for draft in made:
        for index, tag in enumerate(draft.tags or ()):
            if problem := tag_problem(tag, required):
                draft.error(draft.tag_field.format(index), *problem, draft.lines[index])
    for draft, about in zip(made, complaints([draft.stated for draft in made]), strict=True):
        draft.issues += [Issue(draft.line, *complaint) for complaint in about]
    scheme = required or detect_scheme(draft.tags for draft in made if draft.tags is not None and not draft.failed)
    return [_finish(draft, scheme) for draft in made]


def _finish(draft: Draft, scheme: str) -> Record:
    example = draft.example
    if draft.tags is not None and not draft.failed:
        for index, message in damage(draft.tags, scheme):
            draft.warn(draft.tag_field.format(index), "damaged-tags", message, draft.lines[index])
        spans = spans_of_tags(draft.tags)
        example = example_of_tokens(draft.tokens, spans, draft.text, draft.source, draft.spaces)
    if example is not None and (draft.annotated is not None or draft.extra):
        example = replace(example, annotated=draft.annotated, extra=draft.extra)
        for label in sorted(example.labels - draft.annotated) if draft.annotated is not None else ():
            draft.error("spans", "not-annotated", not_annotated(label, draft.annotated or ()))
    return Record(draft.line, None if draft.failed else example, tuple(draft.issues))


def iter_texts(path: str | Path, *, format: str | None = None) -> Iterator[str]:
    """The texts of a file to predict on, streamed.

    Args:
        path: the file, or "-" for standard input.
        format: "jsonl" takes the "text" of each record, or its "tokens", joined; "text" takes each line as a text, an
            empty line as an empty text. ``None`` means jsonl for the suffixes of jsonl, else text.

    Raises:
        ConfigError: if format is unknown, or the suffix is that of a file whose lines are no texts and format is
            ``None``.
        DataError: on the first line that cannot be read, when it is reached.
    """
    return (example.text for batch in unlabeled_batches(path, format=format) for example in batch)


def unlabeled_batches(path: str | Path, *, format: str | None = None) -> Iterator[Iterable[Example]]:
    """The texts of a file to predict on as examples without spans, with the other fields of their records.

    From a pipe, a batch has the texts that have arrived, at least one; no batch has more than 64. Arguments and errors
    are as for :func:`iter_texts`; the texts before a line that cannot be read come before its error.
    """
    if format not in (None, "jsonl", "text"):
        raise ConfigError(f"format must be jsonl or text, got {format!r}")
    found = by_suffix(path)
    if format is None and (advice := _not_texts(Path(path), found is not None and found is not FORMATS["jsonl"])):
        rule = "predict takes one text on each line, or JSON lines with a key"
        hint = "; --format text takes each line as a text all the same"
        raise ConfigError(f'{rule} "text", got the file {source_name(path)}: {advice}{hint}')
    return _batches(path, format == "jsonl" or (format is None and found is FORMATS["jsonl"]))


def _not_texts(path: Path, is_labeled: bool) -> str:
    """What to do with a file whose suffix says that its lines are no texts; empty if it does not say so."""
    suffix = path.suffix.lower()
    if suffix in _TABLES or suffix == ".tsv":
        read = _reader_of(path)
        record = "to_json('texts.jsonl', orient='records', lines=True, force_ascii=False)"
        return f'write the table as JSON lines whose key "text" has the texts, for instance {read}.{record}'
    if is_labeled:
        return f"write the labeled file as JSON lines first: cllmfs convert {path.name} {path.stem}.jsonl"
    return f"save the text of the {suffix[1:].upper()} file as plain text first" if suffix in _DOCUMENTS else ""


def _reader_of(path: Path) -> str:
    """How pandas reads a table."""
    reader = {".csv": "csv", ".tsv": "table", ".parquet": "parquet", ".arrow": "feather", ".feather": "feather"}
    return f"pandas.read_{reader.get(path.suffix.lower(), 'excel')}({path.name!r})"


def _batches(path: str | Path, is_json: bool) -> Iterator[list[Example]]:
    for group in line_groups(path):
        batch: list[Example] = []
        for number, line in group:
            if is_json and isinstance(line, str) and not line.strip():
                continue
            example = _unlabeled(number, line, path) if is_json or isinstance(line, Issue) else Example(line)
            if isinstance(example, DataError):
                if batch:
                    yield batch
                raise example
            batch.append(example)
            if len(batch) == _MOST_TOGETHER:
                yield batch
                batch = []
        if batch:
            yield batch


def _unlabeled(number: int, line: str | Issue, path: str | Path) -> Example | DataError:
    """The text of a record, or why there is none."""
    record = load_object(number, line) if isinstance(line, str) else line
    if isinstance(record, Issue):
        return record.to_error(path)
    text, tokens = record.get("text"), record.get("tokens")
    if "text" not in record and isinstance(tokens, list) and all(isinstance(one, str) and one for one in tokens):
        text = example_of_tokens(tokens, (), None).text
    if not isinstance(text, str):
        message = f'a record needs a string "text" or a list of strings "tokens", got {line!s:.60}'
    elif has_surrogate(text):
        message = "half of a surrogate pair is not a character; correct the record's escapes"
    else:
        return Example(text, extra=other_fields(record))
    return DataError(message, source=source_name(path), line=number, field="text")
