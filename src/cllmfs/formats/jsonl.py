"""JSON Lines, read and written: one JSON object for each example.

Knows the three kinds of native record and the rules of their spans:

    {"text": "...", "spans": [{"start": 0, "end": 4, "label": "PER"}]}      code points, end exclusive
    {"tokens": ["..."], "spans": [[0, 1, "PER"]]}                           token indices, end exclusive
    {"tokens": ["..."], "ner_tags": ["B-PER"]}                              one tag for each token, any scheme

"labels", a list of names, says which labels were annotated. An "answer" of Prodigy other than "accept" says that the
record is no gold. Other keys are kept as they are. Offsets are never corrected. Knows nothing of what tags mean.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cllmfs.errors import DataError
from cllmfs.formats.records import Draft, Issue, Source, show
from cllmfs.formats.rules.offsets import Stated, short
from cllmfs.formats.tagging import (
    TokenSpan,
    align_tokens,
    example_of_tokens,
    spaces_between,
    tags_of_spans,
    token_pieces,
    tokenized,
)
from cllmfs.schema import Example, Span
from cllmfs.words import word_units

SUFFIXES = (".jsonl", ".ndjson", ".json")

_OWN_KEYS = ("text", "spans", "tokens", "ner_tags")
# The answers of Prodigy, and other ways to write them.
_ACCEPTED, _REFUSED = ("accept", "accepted", "true"), ("reject", "rejected", "ignore", "ignored", "false", "none")
_PRODIGY_KEYS = ("_input_hash", "_task_hash")

_OBJECT_START = re.compile(r'[ \t]*\{\s*["}]')
_SURROGATE = re.compile("[\ud800-\udfff]")
# JSON allows these in a string, but readers that split lines by Unicode's rules would break the record there.
_LINE_BREAKS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def looks_like_json(source: Source) -> bool:
    """Whether the first line that is not blank begins like a JSON object."""
    first = next((line for _, line in source.lines if isinstance(line, Issue) or line.strip()), "")
    return isinstance(first, str) and _OBJECT_START.match(first) is not None


def read_json(kind: str | None, source: Source) -> Iterator[Draft]:
    """One draft for each line that is not blank; the kind is jsonl, tokens or tags, else found for each record."""
    for number, line in source.lines:
        if isinstance(line, str) and not line.strip():
            continue
        draft = Draft(number, f"{source.name}:{number}")
        record = load_object(number, line) if isinstance(line, str) else line
        if isinstance(record, Issue):
            draft.issues.append(record)
        else:
            parse_record(record, kind, draft)
        yield draft


def load_object(number: int, line: str) -> dict[str, Any] | Issue:
    """The JSON object of a line, or why there is none."""
    hint = "; turn a JSON array into lines with jq -c '.[]'" if line.lstrip().startswith("[") else ""
    try:
        record = json.loads(line)
        problem = "" if isinstance(record, dict) else f", got {show(record)}{hint}"
    except json.JSONDecodeError as error:
        problem = f": {error.msg} at column {error.colno}{hint}"
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets thousands deep
        problem = f" that can be read: {error}"
    return Issue(number, "", "bad-json", f"a line must be one JSON object{problem}") if problem else record


def parse_record(record: dict[str, Any], kind: str | None, draft: Draft) -> None:
    """Fill the draft from a record of the kind jsonl, tokens or tags; ``None`` decides by the keys of the record."""
    draft.answer = _refusing_answer(record)
    if draft.answer is None:
        draft.annotated, draft.extra = _annotated(record, draft), other_fields(record)
        readers = {"jsonl": _text_record, "tokens": _token_record, "tags": _tag_record}
        readers[kind or _kind(record)](record, draft)


def other_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that mean nothing here, and are kept."""
    names = {key for key in _OWN_KEYS if key in record}
    if _names_labels(record):
        names.add("labels")
    if "answer" in record and _plain_answer(record) in (*_ACCEPTED, *_REFUSED):
        names.add("answer")
    return {key: value for key, value in record.items() if key not in names}


def _refusing_answer(record: Mapping[str, Any]) -> str | None:
    """The answer of a Prodigy record that was not accepted; other records may have an "answer" of another meaning."""
    if "answer" not in record:
        return None
    answer = _plain_answer(record)
    if answer in _REFUSED or any(key in record for key in _PRODIGY_KEYS):
        return None if answer in _ACCEPTED else answer[:20]
    return None


def _plain_answer(record: Mapping[str, Any]) -> str:
    return str(record["answer"]).strip().casefold()


def _names_labels(record: Mapping[str, Any]) -> bool:
    """Whether "labels" is a list of strings: the annotated labels. doccano's "labels" holds spans."""
    labels = record.get("labels")
    return isinstance(labels, list) and all(isinstance(label, str) for label in labels)


def _annotated(record: Mapping[str, Any], draft: Draft) -> frozenset[str] | None:
    if not _names_labels(record):
        if not isinstance(record.get("labels", []), list) or any(isinstance(x, int) for x in record.get("labels", ())):
            message = f'"labels" must be a list of the labels that were annotated, got {show(record["labels"])}'
            draft.error("labels", "wrong-type", f"{message}; leave it out if all were")
        return None
    labels: list[str] = record["labels"]
    if not labels or not all(label.strip() for label in labels) or len(set(labels)) < len(labels):
        message = '"labels" must name each label that was annotated once, and at least one, without empty names'
        draft.error(
            "labels", "empty-label", f"{message}, got {show(labels)}; leave it out if all labels were annotated"
        )
    else:
        for index, label in enumerate(labels):
            _scalar(label, f"labels[{index}]", draft)
    return frozenset(labels)


def _kind(record: dict[str, Any]) -> str:
    """The kind of a record by its keys; spans that are lists are token spans, objects are character spans."""
    spans = record.get("spans")
    if "tokens" not in record:
        return "jsonl"
    if "text" in record and "spans" in record:
        return "tokens" if isinstance(spans, list) and spans and isinstance(spans[0], list) else "jsonl"
    return "tags" if "ner_tags" in record and "spans" not in record else "tokens"


def _text_record(record: dict[str, Any], draft: Draft) -> None:
    text, entries = _get(record, "text", str, draft), _get(record, "spans", list, draft)
    if text is None or entries is None or not _scalar(text, "text", draft):
        return
    spans: list[Span] = []
    for index, entry in enumerate(entries):
        place = f"spans[{index}]"
        if not isinstance(entry, dict):
            hint = '; lists are token spans and need "tokens" instead of "text"' if isinstance(entry, list) else ""
            message = f'a span is an object {{"start": 0, "end": 4, "label": "PER"}}, got {show(entry)}{hint}'
            draft.error(place, "wrong-type", message)
        elif absent := [key for key in ("start", "end", "label") if key not in entry]:
            draft.error(place, "missing-field", f"a span needs start, end and label; {', '.join(absent)} is missing")
        elif checked := _check_span(entry, text, place, draft):
            # Any other value is ignored; isinstance would let True pass.
            score: Any = entry.get("score")
            known = type(score) in (int, float) and 0 <= score <= 1
            spans.append(Span(*checked, score=float(score) if known else None))
    _check_duplicates([span.key for span in spans], draft)
    if not draft.failed:
        draft.example = Example(text, tuple(spans), _offsets_beside(text, record.get("tokens"), draft), draft.source)


def _token_record(record: dict[str, Any], draft: Draft) -> None:
    tokens, entries = _get_tokens(record, draft), _get(record, "spans", list, draft)
    if tokens is None or entries is None:
        return
    spans: list[TokenSpan] = []
    for index, entry in enumerate(entries):
        place = f"spans[{index}]"
        if not isinstance(entry, list) or len(entry) != 3:
            draft.error(place, "wrong-type", f'a token span is a list [first, end, "label"], got {show(entry)}')
        elif checked := _check_span(dict(zip(("start", "end", "label"), entry, strict=True)), tokens, place, draft):
            spans.append(checked)
    _check_duplicates(spans, draft)
    if not draft.failed:
        draft.example = example_of_tokens(tokens, spans, record.get("text"), draft.source)


def _tag_record(record: dict[str, Any], draft: Draft) -> None:
    tokens, tags = _get_tokens(record, draft), _get(record, "ner_tags", list, draft)
    if tokens is None or tags is None:
        return
    if len(tags) != len(tokens):
        draft.error("ner_tags", "bad-tag", f"each token needs one tag, got {len(tokens)} tokens, {len(tags)} tags")
    for index, tag in enumerate(tags):
        if not isinstance(tag, str):
            hint = "; replace tag numbers by their names" if isinstance(tag, int) else ""
            draft.error(f"ner_tags[{index}]", "wrong-type", f"a tag is a string such as B-PER, got {show(tag)}{hint}")
        else:
            _scalar(tag, f"ner_tags[{index}]", draft)
    if not draft.failed:
        draft.text, draft.tokens, draft.tags = record.get("text"), tokens, tags
        draft.lines, draft.tag_field = [draft.line] * len(tags), "ner_tags[{}]"


def _get(record: dict[str, Any], key: str, kind: type[Any], draft: Draft) -> Any:
    if key not in record:
        hint = '; write "spans": [] if there is no entity' if key == "spans" else ""
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        draft.error(key, "missing-field", f"the field {key!r} is missing, the record's keys are: {keys}{hint}")
    elif not isinstance(record[key], kind):
        wanted = "a string" if kind is str else "a list"
        draft.error(key, "wrong-type", f"{key!r} must be {wanted}, got {show(record[key])}")
    else:
        return record[key]
    return None


def _get_tokens(record: dict[str, Any], draft: Draft) -> list[str] | None:
    tokens = _get(record, "tokens", list, draft)
    for index, token in enumerate(tokens or ()):
        if not isinstance(token, str) or not token:
            draft.error(f"tokens[{index}]", "wrong-type", f"a token must be a non-empty string, got {show(token)}")
        else:
            _scalar(token, f"tokens[{index}]", draft)
    return None if tokens is None or draft.failed else tokens


def _check_span(entry: Mapping[str, Any], whole: str | list[str], place: str, draft: Draft) -> TokenSpan | None:
    """The span if it obeys the rules for a single span; ``whole`` is the text or the tokens that it indexes.

    If the span states its text, wrong offsets are left to the rules of the whole file.
    """
    issues_before = len(draft.issues)
    start, end, label = entry["start"], entry["end"], entry["label"]
    for name, value in (("start", start), ("end", end)):
        if type(value) is not int:  # isinstance would let True pass
            draft.error(place, "wrong-type", f"{name} must be a whole number, got {show(value)}")
    if not isinstance(label, str):
        draft.error(place, "wrong-type", f"label must be a string, got {show(label)}")
    elif not label.strip():
        draft.error(place, "empty-label", f"a span's label must not be empty, got {short(label)}")
    else:
        _scalar(label, place, draft)
    if len(draft.issues) > issues_before:
        return None
    problem, stated = _place_problem(start, end, label, whole), entry.get("text")
    if isinstance(whole, str) and isinstance(stated, str) and stated.strip():
        draft.stated.append(Stated(place, whole, start, end, stated, problem))
    elif problem:
        hint = _other_units(whole, start, end) if isinstance(whole, str) and problem[0] == "offset-out-of-range" else ""
        draft.error(place, problem[0], problem[1] + hint)
    return None if problem else (start, end, label)


def _place_problem(start: int, end: int, label: str, whole: str | list[str]) -> tuple[str, str] | None:
    """Rule and message if the offsets hold nothing of the text or the tokens."""
    unit = "code points" if isinstance(whole, str) else "tokens"
    got = f"got {_number(start)} to {_number(end)} ({label[:60]})"
    if start < 0 or end < 0 or max(start, end) > len(whole):
        return "offset-out-of-range", f"a span must lie in 0 to {len(whole)} ({unit}), {got}"
    if start >= end:
        message = f"a span must not be empty; its end is exclusive (one {unit[:-1]}: end = start + 1), {got}"
        return "empty-span", message
    return None


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**12 else f"a number of {len(str(abs(value)))} digits"


def _other_units(text: str, start: int, end: int) -> str:
    """A hint if out-of-range offsets are valid in UTF-8 bytes or UTF-16 units, with the code points they mean."""
    fits = []
    for unit, codec, width in (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2)):
        raw = text.encode(codec)
        if not 0 <= start < end <= len(raw) // width:
            continue
        try:
            before, mention = raw[: start * width].decode(codec), raw[start * width : end * width].decode(codec)
        except UnicodeDecodeError:  # an offset lies inside a character, so the unit is not this one
            continue
        fits.append(f"{unit} (that is {len(before)} to {len(before) + len(mention)} in code points: {mention!r})")
    return f"; the offsets would fit if counted in {' or in '.join(fits)}: convert them" if fits else ""


def _check_duplicates(spans: Iterable[TokenSpan], draft: Draft) -> None:
    for span, times in Counter(spans).items():
        if times > 1:
            draft.error("spans", "duplicate-span", f"a span must be given once, got {span!s:.80} {times} times")


def _scalar(value: str, place: str, draft: Draft) -> bool:
    """Whether the string is valid Unicode; adds an error if it is not."""
    if has_surrogate(value):
        draft.error(place, "bad-encoding", f"half of a surrogate pair is not a character, got {ascii(value)[:80]}")
        return False
    return True


def has_surrogate(value: str) -> bool:
    """Whether a string has half of a surrogate pair, which JSON escapes can express but UTF-8 and tokenizers cannot."""
    return _SURROGATE.search(value) is not None


def _offsets_beside(text: str, tokens: object, draft: Draft) -> tuple[tuple[int, int], ...] | None:
    """Token offsets of a record with a text, from tokens that are strings or objects with start and end."""
    if not isinstance(tokens, list) or not tokens:
        return None
    offsets: list[tuple[int, int]] | None = None
    if all(isinstance(token, str) and token for token in tokens):
        offsets = align_tokens(text, tokens)
    elif all(isinstance(token, dict) for token in tokens):
        edges = [edge for token in tokens for edge in (token.get("start"), token.get("end"))]
        whole = all(type(edge) is int for edge in edges)
        if whole and edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= len(text):
            offsets = [(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True) if first < end]
    if offsets is None:
        message = "the tokens must make up the text but do not, so they are ignored; correct or remove them"
        draft.warn("tokens", "off-token-edge", message)
        return None
    return tuple(offsets)


def text_line(example: Example, _scheme: str) -> str:
    """The line of an example in the format jsonl; its tokens are written if they are not the words of the text."""
    record = Example(example.text, example.spans).to_dict()
    offsets = example.token_offsets
    if offsets is not None and list(offsets) != word_units(example.text):
        tokens = [example.text[start:end] for start, end in offsets]
        plain = align_tokens(example.text, tokens) == list(offsets)
        record["tokens"] = tokens if plain else [{"start": start, "end": end} for start, end in offsets]
    return _line(record, example)


def tokens_line(example: Example, _scheme: str) -> str:
    """The line of an example in the format tokens."""
    tokens, spans = tokenized(example)
    return _line({"tokens": tokens, "spans": spans, **_text_beside(tokens, example)}, example)


def tags_line(example: Example, scheme: str) -> str:
    """The line of an example in the format tags, with the tags of a scheme."""
    tokens, spans = tokenized(example)
    tags = tags_of_spans(spans, len(tokens), scheme)
    return _line({"tokens": tokens, "ner_tags": tags, **_text_beside(tokens, example)}, example)


def _text_beside(tokens: list[str], example: Example) -> dict[str, str]:
    """The text of the example, unless joining the tokens gives it back or the tokens would not be found in it."""
    joined = Example.from_tokens(tokens, (), spaces=spaces_between(tokens)).text
    if joined == example.text or align_tokens(example.text, tokens) != token_pieces(example):
        return {}
    return {"text": example.text}


def lost(example: Example) -> Iterator[str]:
    """What the formats of tokens do not hold of an example."""
    tokens, _ = tokenized(example)
    beside = _text_beside(tokens, example)
    if not beside and Example.from_tokens(tokens, (), spaces=spaces_between(tokens)).text != example.text:
        yield "white space"
    if any(span.score is not None for span in example.spans):
        yield "scores"


def _line(record: dict[str, Any], example: Example) -> str:
    """The line of a record, with what every format of JSON keeps of an example behind it.

    Raises:
        DataError: if another field of the example is no JSON.
    """
    if example.annotated is not None:
        record["labels"] = sorted(example.annotated)
    line = json.dumps(record, ensure_ascii=False)
    if extra := {key: value for key, value in example.extra.items() if key not in record}:
        try:
            shown = json.dumps(extra, ensure_ascii=False)
            if has_surrogate(shown):  # as the input had it, which only an escape can write
                shown = json.dumps(extra)
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the other fields of a record must be JSON: {error}", source=example.source) from error
        line = f"{line[:-1]}, {shown[1:]}"
    return line.translate(_LINE_BREAKS) + "\n"
