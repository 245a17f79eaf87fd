"""Data files in and out: native JSONL, tokens, tags, CoNLL columns, label files and plain text.

    format   record                                                          spans
    jsonl    {"text": "...", "spans": [{"start": 0, "end": 4, "label": ..}]} code points, end exclusive
    tokens   {"tokens": ["..."], "spans": [[0, 1, "PER"]]}                   token indices, end exclusive
    tags     {"tokens": ["..."], "ner_tags": ["B-PER"]}                      IOB1, IOB2, IO, BIOES or BILOU
    conll    a line a token, token first, tag last, blank between sentences  the same schemes

Reading takes "-" for standard input, writing takes it for standard output. Files are written whole or not at all. Knows
nothing of what makes data good: see :mod:`cllmfs.formats.validation`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tomllib
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.jsonl import has_surrogate, load_object
from cllmfs.formats.reading import DOCUMENT_START, FORMATS, JSON_SUFFIXES, parse_file, parse_rows
from cllmfs.formats.records import Issue, Record, read_lines, source_name
from cllmfs.formats.tagging import TokenSpan, check_scheme, tags_of_spans
from cllmfs.schema import Example, LabelSet
from cllmfs.words import word_units

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_NO_COLUMN = re.compile(f"[\t\n\r\0]|^[ \ufeff]| $|^{DOCUMENT_START}")
# JSON allows these in a string, but readers that split lines by Unicode's rules would break the record there.
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


# --- reading ---------------------------------------------------------------------------------------------------------


def read_examples(path: str | Path, *, format: str | None = None, scheme: str | None = None) -> list[Example]:
    """The examples of a labelled file.

    A tokenised record's text is its own "text" where its tokens lie in it with white space between them, else its
    tokens joined by one space; ``token_offsets`` tells its tokens.

    Args:
        path: the file, or "-" for standard input. UTF-8, with or without a byte-order mark.
        format: jsonl, tokens, tags or conll; ``None`` goes by the extension, else by the first line, and then takes
            each JSON record by its keys.
        scheme: iob1, iob2, io, bioes or bilou; ``None`` detects it over the whole file. Files with I- tags only are
            read as io: a maximal run of one type is one span, as in iob1. Damaged sequences are read as conlleval does.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: on the first error, with file, line and field.
    """
    return _without_errors(parse_file(path, format, scheme), path)


def examples_of_rows(rows: Iterable[dict[str, Any]], name: str) -> list[Example]:
    """The examples of rows that are JSON objects already, each of one of the JSON formats; for messages, of a name.

    Raises:
        DataError: on the first error, with name, row and field.
    """
    return _without_errors(parse_rows(rows, name), name)


def _without_errors(records: Iterable[Record], path: str | Path) -> list[Example]:
    examples = []
    for record in records:
        for issue in record.issues:
            if issue.severity == "error":
                raise _data_error(issue, path)
        if record.example is not None:
            examples.append(record.example)
    return examples


def iter_texts(path: str | Path, *, format: str | None = None) -> Iterator[str]:
    """The texts of a file to predict on, streamed.

    Args:
        path: the file, or "-" for standard input.
        format: "jsonl" takes the "text" of each record, or its "tokens" joined by a space; "text" takes a text a line,
            where an empty line is an empty text. ``None`` is jsonl for the extensions .jsonl, .ndjson and .json.

    Raises:
        ConfigError: if format is unknown.
        DataError: on the first line that cannot be read, when it is reached.
    """
    if format not in (None, "jsonl", "text"):
        raise ConfigError(f"format must be jsonl or text, got {format!r}")
    is_json = format == "jsonl" or (format is None and Path(path).suffix.lower() in JSON_SUFFIXES)
    for number, line in read_lines(path):
        if isinstance(line, Issue):
            raise _data_error(line, path)
        if not is_json:
            yield line
        elif line.strip():
            yield _text_of(number, line, path)


def _text_of(number: int, line: str, path: str | Path) -> str:
    record = load_object(number, line)
    if isinstance(record, Issue):
        raise _data_error(record, path)
    text, tokens = record.get("text"), record.get("tokens")
    if "text" not in record and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        text = " ".join(tokens)
    if not isinstance(text, str):
        message = f'a record needs a string "text" or a list of strings "tokens", got {line[:60]}'
        raise DataError(message, source=source_name(path), line=number, field="text")
    if has_surrogate(text):
        message = "half of a surrogate pair is no character; mend the record's escapes"
        raise DataError(message, source=source_name(path), line=number, field="text")
    return text


def _data_error(issue: Issue, path: str | Path) -> DataError:
    return DataError(issue.message, source=source_name(path), line=issue.line or None, field=issue.field or None)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_examples(
    examples: Iterable[Example], path: str | Path, *, format: str = "jsonl", scheme: str = "iob2"
) -> int:
    """Write examples and return how many; the file appears whole or stays as it was.

    Formats of tokens take the example's tokens, or else its words; a span's edge inside a token splits the token there,
    so no span is lost. White space between tokens is.

    Args:
        examples: what to write; each must pass :meth:`Example.check`.
        path: the file, or "-" for standard output.
        format: jsonl, tokens, tags or conll.
        scheme: iob1, iob2, io, bioes or bilou, for tags and conll.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: if an example breaks a rule, or the format cannot hold it: tags and conll hold no overlapping spans,
            io no neighbours of one type, conll no empty sentence and no token or label with tabs or line ends.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    scheme = check_scheme(scheme)
    render: dict[str, Callable[[Example], str]] = {
        "jsonl": lambda example: _json_line(example.to_dict()),
        "tokens": lambda example: _json_line(dict(zip(("tokens", "spans"), tokenised(example), strict=True))),
        "tags": lambda example: _json_line(dict(zip(("tokens", "ner_tags"), _tagged(example, scheme), strict=True))),
        "conll": lambda example: _conll_block(*_tagged(example, scheme)),
    }
    count = 0
    with _writer(path) as handle:
        for count, example in enumerate(examples, 1):
            try:
                example.check()
                handle.write(render[format](example).encode("utf-8"))
            except DataError as error:
                raise DataError(error.message, source=example.source or f"example {count}", field=error.field) from None
            except UnicodeEncodeError as error:
                message = f"half of a surrogate pair cannot be written as UTF-8, got {error.object[error.start]!a}"
                raise DataError(message, source=example.source or f"example {count}") from None
    return count


def _json_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False).translate(_LINE_BREAKS) + "\n"


def _conll_block(tokens: list[str], tags: list[str]) -> str:
    if not tokens:
        raise DataError("conll cannot hold a sentence without tokens; leave it out or write jsonl", field="text")
    for cell in (*tokens, *tags):
        if _NO_COLUMN.search(cell):
            raise DataError(
                "a conll column holds no tab, line end or NUL, neither begins nor ends with a space, and is not "
                f"{DOCUMENT_START}; got {cell!r}: write jsonl, tokens or tags"
            )
    return "".join(f"{token}\t{tag}\n" for token, tag in zip(tokens, tags, strict=True)) + "\n"


def _tagged(example: Example, scheme: str) -> tuple[list[str], list[str]]:
    tokens, spans = tokenised(example)
    return tokens, tags_of_spans(spans, len(tokens), scheme)


def tokenised(example: Example) -> tuple[list[str], list[TokenSpan]]:
    """An example's tokens (its own, else its words), split where a span's edge lies inside one, and its token spans.

    Raises:
        DataError: if a span covers no token, being white space, or two spans differ in white space only.
    """
    text = example.text
    offsets = word_units(text) if example.token_offsets is None else example.token_offsets
    edges = sorted({edge for span in example.spans for edge in (span.start, span.end)})
    pieces = [piece for token in offsets for piece in _split(text, token, edges)]
    starts, ends = [start for start, _ in pieces], [end for _, end in pieces]
    spans: list[TokenSpan] = []
    for span in example.spans:
        found = (bisect_left(starts, span.start), bisect_right(ends, span.end), span.label)
        if found[0] >= found[1]:
            raise DataError(f"a span must cover a token, got white space only at {span.key}", field="spans")
        if found in spans:
            raise DataError(f"spans must differ in their tokens, got {span.key} and another on {found}", field="spans")
        spans.append(found)
    return [text[start:end] for start, end in pieces], spans


def _split(text: str, token: tuple[int, int], edges: list[int]) -> Iterator[tuple[int, int]]:
    """The token, cut at each edge inside it; the parts lose white space at their own edges."""
    start, end = token
    inside = edges[bisect_right(edges, start) : bisect_left(edges, end)]
    if not inside:
        yield token
        return
    for first, last in zip([start, *inside], [*inside, end], strict=True):
        part = text[first:last]
        if part.strip():
            yield first + len(part) - len(part.lstrip()), last - len(part) + len(part.rstrip())


@contextlib.contextmanager
def _writer(path: str | Path) -> Iterator[BinaryIO]:
    """A handle whose file takes the place of ``path`` at the end, if all went well; stdout and devices get it live."""
    if str(path) == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(os.path.realpath(path))  # a link keeps pointing to what is written
    try:
        if target.exists() and not target.is_file():  # a device or a pipe cannot be replaced
            with open(target, "wb") as handle:
                yield handle
            return
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with open(part, "xb") as handle:
                yield handle
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the file cannot be written: {error.strerror or error}", source=str(path)) from error


def convert(
    in_path: str | Path,
    out_path: str | Path,
    *,
    from_format: str | None = None,
    to_format: str = "jsonl",
    scheme_in: str | None = None,
    scheme_out: str = "iob2",
) -> int:
    """Read one format, write another, and return the number of examples; see the two functions that it joins."""
    examples = read_examples(in_path, format=from_format, scheme=scheme_in)
    return write_examples(examples, out_path, format=to_format, scheme=scheme_out)


# --- labels ----------------------------------------------------------------------------------------------------------


def read_labels(path: str | Path) -> LabelSet:
    """The entity types of a file, with their descriptions where it has any.

    .toml: a table ``[labels]`` of name = "description", or ``[[label]]`` with name and description, or a list
    ``labels = ["PER"]``; .json: the same as an object, a list of objects or a list of strings; .txt: a label a line,
    its description after a tab.

    Raises:
        DataError: if the file is not one of these, or a label is empty or given twice.
    """
    name, suffix = source_name(path), Path(path).suffix.lower()
    lines = []
    for number, line in read_lines(path):
        if isinstance(line, Issue):
            raise _data_error(line, path)
        lines.append((number, line))
    body = "\n".join(line for _, line in lines)
    try:
        if suffix == ".toml":
            pairs = _label_pairs(tomllib.loads(body))
        elif suffix == ".json":
            pairs = _label_pairs(json.loads(body, object_pairs_hook=_without_twins))
        elif suffix == ".txt":
            cells = [line.partition("\t") for _, line in lines if line.strip()]
            pairs = [(label.strip(), description.strip()) for label, _, description in cells]
        else:
            raise DataError(f"a label file ends in .toml, .json or .txt, got {suffix or 'no extension'!r}")
        names = [label for label, _ in pairs]
        LabelSet(names)  # a mapping would hide a label that is given twice
        return LabelSet(dict(pairs))
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file must be {suffix[1:].upper()}: {error}", source=name) from error
    except DataError as error:
        raise DataError(error.message, source=name, field=error.field) from error


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twin = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
        raise DataError(f"the label {twin!r} is given twice", field="labels")
    return made


def _label_pairs(content: Any) -> list[tuple[str, str]]:
    if isinstance(content, dict):
        content = next(
            (content[key] for key in ("labels", "label") if isinstance(content.get(key), dict | list)), content
        )
    if isinstance(content, dict):
        content = [{"name": name, "description": description} for name, description in content.items()]
    pairs = []
    for index, entry in enumerate(content if isinstance(content, list) else [content]):
        record = {"name": entry} if isinstance(entry, str) else entry
        good = isinstance(record, dict) and isinstance(record.get("name"), str)
        if not good or not isinstance(record.get("description", ""), str):
            message = (
                f'a label is name = "description", or has a name and a description that are strings; got {entry!r}'
            )
            raise DataError(message, field=f"labels[{index}]")
        pairs.append((record["name"], record.get("description", "")))
    return pairs


def write_labels(labels: LabelSet, path: str | Path) -> None:
    """Write the labels as TOML, in order, such that :func:`read_labels` gives them back.

    Raises:
        DataError: if the file cannot be written.
    """
    rows = [
        f"{label if _BARE_KEY.fullmatch(label) else _toml_string(label)} = {_toml_string(description)}\n"
        for label, description in labels.items()
    ]
    with _writer(path) as handle:
        handle.write("".join(["[labels]\n", *rows]).encode("utf-8"))


def _toml_string(value: str) -> str:
    """A basic string: JSON's escapes are TOML's too, which also wants DEL escaped."""
    return json.dumps(value, ensure_ascii=False).translate(_LINE_BREAKS).replace("\x7f", "\\u007f")
