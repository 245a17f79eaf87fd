"""One JSON object to an example, or to the list of all that is wrong with it.

Knows the three kinds of native record and the rules of their spans:

    {"text": "...", "spans": [{"start": 0, "end": 4, "label": "PER"}]}      code points, end exclusive
    {"tokens": ["..."], "spans": [[0, 1, "PER"]]}                           token indices, end exclusive
    {"tokens": ["..."], "ner_tags": ["B-PER"]}                              one tag a token, any scheme

Other keys are allowed. Knows nothing of files, nor of what tags mean. Offsets are taken as they stand, never mended.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from cllmfs.formats.records import Draft, Issue
from cllmfs.formats.tagging import TokenSpan
from cllmfs.schema import Example, Span

_SURROGATE = re.compile("[\ud800-\udfff]")


def load_object(number: int, line: str) -> dict[str, Any] | Issue:
    """The JSON object of a line, or what is wrong with it."""
    hint = "; turn a JSON array into lines with jq -c '.[]'" if line.lstrip().startswith("[") else ""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"a line must be one JSON object: {error.msg} at column {error.colno}{hint}"
        return Issue(number, "", "bad-json", message)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; brackets thousands deep
        return Issue(number, "", "bad-json", f"a line must be one JSON object that can be read: {error}")
    if not isinstance(record, dict):
        return Issue(number, "", "bad-json", f"a line must be one JSON object, got {show(record)}{hint}")
    return record


def parse_record(record: dict[str, Any], format: str | None, draft: Draft) -> None:
    """Fill the draft from a record of the format jsonl, tokens or tags; ``None`` goes by the record's keys."""
    kind = format or _kind(record)
    if kind == "jsonl":
        _text_record(record, draft)
    elif kind == "tokens":
        _token_record(record, draft)
    else:
        _tag_record(record, draft)


def _kind(record: dict[str, Any]) -> str:
    """The format of one record by its keys; spans as lists are token spans, as objects character spans."""
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
            continue
        absent = [key for key in ("start", "end", "label") if key not in entry]
        if absent:
            draft.error(place, "missing-field", f"a span needs start, end and label; {', '.join(absent)} is missing")
            continue
        checked = _check_span(entry["start"], entry["end"], entry["label"], text, place, draft)
        if checked:
            spans.append(Span(*checked, score=_score(entry.get("score"))))
            mention, said = text[checked[0] : checked[1]], entry.get("text")
            if isinstance(said, str) and said != mention:
                message = f"a span's text must be what its offsets hold, got {said!r} for {mention!r}; mend the offsets"
                draft.warn(place, "mention-mismatch", message)
    _no_twins([span.key for span in spans], draft)
    if not draft.failed:
        draft.example = Example(text, tuple(spans), _offsets_beside(text, record.get("tokens"), draft), draft.source)


def _score(value: object) -> float | None:
    """A prediction's score, where the record has one; anything else under that key is an extra key."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    return float(value) if known else None  # type: ignore[arg-type]


def _token_record(record: dict[str, Any], draft: Draft) -> None:
    tokens, entries = _get_tokens(record, draft), _get(record, "spans", list, draft)
    if tokens is None or entries is None:
        return
    spans: list[TokenSpan] = []
    for index, entry in enumerate(entries):
        place = f"spans[{index}]"
        if not isinstance(entry, list) or len(entry) != 3:
            draft.error(place, "wrong-type", f'a token span is a list [first, end, "label"], got {show(entry)}')
            continue
        checked = _check_span(entry[0], entry[1], entry[2], tokens, place, draft)
        if checked:
            spans.append(checked)
    _no_twins(spans, draft)
    if not draft.failed:
        draft.example = of_tokens(tokens, spans, record.get("text"), draft.source)


def _tag_record(record: dict[str, Any], draft: Draft) -> None:
    tokens, tags = _get_tokens(record, draft), _get(record, "ner_tags", list, draft)
    if tokens is None or tags is None:
        return
    if len(tags) != len(tokens):
        draft.error("ner_tags", "bad-tag", f"there must be one tag a token, got {len(tokens)} tokens, {len(tags)} tags")
    for index, tag in enumerate(tags):
        if not isinstance(tag, str):
            hint = "; turn tag numbers into their names" if isinstance(tag, int) else ""
            draft.error(f"ner_tags[{index}]", "wrong-type", f"a tag is a string such as B-PER, got {show(tag)}{hint}")
        else:
            _scalar(tag, f"ner_tags[{index}]", draft)
    if not draft.failed:
        draft.text, draft.tokens, draft.tags = record.get("text"), tokens, tags
        draft.lines, draft.tag_field = [draft.line] * len(tags), "ner_tags[{}]"


def _get(record: dict[str, Any], key: str, kind: type[Any], draft: Draft) -> Any:
    if key not in record:
        hint = '; write "spans": [] where there is no entity' if key == "spans" else ""
        keys = ", ".join(map(repr, list(record)[:8])) or "none"
        draft.error(key, "missing-field", f"the field {key!r} is missing, the record's keys are: {keys}{hint}")
        return None
    value = record[key]
    if not isinstance(value, kind):
        wanted = "a string" if kind is str else "a list"
        draft.error(key, "wrong-type", f"{key!r} must be {wanted}, got {show(value)}")
        return None
    return value


def _get_tokens(record: dict[str, Any], draft: Draft) -> list[str] | None:
    tokens = _get(record, "tokens", list, draft)
    for index, token in enumerate(tokens or ()):
        if not isinstance(token, str) or not token:
            draft.error(f"tokens[{index}]", "wrong-type", f"a token must be a non-empty string, got {show(token)}")
        else:
            _scalar(token, f"tokens[{index}]", draft)
    return None if tokens is None or draft.failed else tokens


def _check_span(start: Any, end: Any, label: Any, whole: str | list[str], place: str, draft: Draft) -> TokenSpan | None:
    """The span if it keeps every rule of its own; ``whole`` is the text or the tokens that it indexes."""
    good = True
    for name, value in (("start", start), ("end", end)):
        if type(value) is not int:  # isinstance would let True pass
            draft.error(place, "wrong-type", f"{name} must be a whole number, got {show(value)}")
            good = False
    if not isinstance(label, str):
        draft.error(place, "wrong-type", f"label must be a string, got {show(label)}")
        good = False
    elif not label.strip():
        draft.error(place, "empty-label", f"a span's label must not be empty, got {label!r}")
        good = False
    elif not _scalar(label, place, draft):
        good = False
    if not good:
        return None
    unit = "code points" if isinstance(whole, str) else "tokens"
    if start < 0 or end < 0 or max(start, end) > len(whole):
        hint = _other_units(whole, start, end) if isinstance(whole, str) else ""
        message = f"a span must lie in 0 to {len(whole)} ({unit}), got {start} to {end} ({label}){hint}"
        draft.error(place, "offset-out-of-range", message)
        return None
    if start >= end:
        message = f"a span must hold something, its end being exclusive (one {unit[:-1]}: end = start + 1)"
        draft.error(place, "empty-span", f"{message}, got {start} to {end} ({label})")
        return None
    return start, end, label


def _other_units(text: str, start: int, end: int) -> str:
    """A hint where out-of-range offsets are right in UTF-8 bytes or UTF-16 units, with the code points they mean."""
    fits = []
    for unit, codec, width in (("UTF-8 bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2)):
        raw = text.encode(codec)
        if not 0 <= start < end <= len(raw) // width:
            continue
        try:
            before, mention = raw[: start * width].decode(codec), raw[start * width : end * width].decode(codec)
        except UnicodeDecodeError:  # an edge inside a character: not these units
            continue
        fits.append(f"{unit} (that is {len(before)} to {len(before) + len(mention)} in code points: {mention!r})")
    return f"; the offsets would fit counted in {' or in '.join(fits)}: convert them" if fits else ""


def _no_twins(spans: Iterable[TokenSpan], draft: Draft) -> None:
    for span, times in Counter(spans).items():
        if times > 1:
            draft.error("spans", "duplicate-span", f"a span must be given once, got {span} {times} times")


def _scalar(value: str, place: str, draft: Draft) -> bool:
    """Whether the string is made of characters; notes an error where it is not."""
    if has_surrogate(value):
        draft.error(place, "bad-encoding", f"half of a surrogate pair is no character, got {ascii(value)[:80]}")
        return False
    return True


def has_surrogate(value: str) -> bool:
    """Whether a string holds half a surrogate pair: JSON escapes can spell it, UTF-8 and tokenizers cannot take it."""
    return _SURROGATE.search(value) is not None


def show(value: object) -> str:
    """Type and value for a message, cut short."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def of_tokens(tokens: list[str], spans: Iterable[TokenSpan], text: object, source: str) -> Example:
    """The example of a tokenised record; its text is the record's own where the tokens lie in it, else a join."""
    offsets = _align(text, tokens) if isinstance(text, str) else None
    if not isinstance(text, str) or offsets is None:
        return Example.from_tokens(tokens, spans, source)
    made = tuple(Span(offsets[first][0], offsets[end - 1][1], label) for first, end, label in spans)
    return Example(text, made, tuple(offsets), source)


def _align(text: str, tokens: Iterable[str]) -> list[tuple[int, int]] | None:
    """Where each token lies in the text, if the text is the tokens in order with only white space between them."""
    offsets: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        while not text.startswith(token, at) and text[at : at + 1].isspace():
            at += 1
        if not text.startswith(token, at):
            return None
        offsets.append((at, at + len(token)))
        at += len(token)
    return None if text[at:].strip() else offsets


def _offsets_beside(text: str, tokens: object, draft: Draft) -> tuple[tuple[int, int], ...] | None:
    """Token offsets of a record with a text: its tokens as strings, or as objects with start and end."""
    if not isinstance(tokens, list) or not tokens:
        return None
    offsets: list[tuple[int, int]] | None = None
    if all(isinstance(token, str) and token for token in tokens):
        offsets = _align(text, tokens)
    elif all(isinstance(token, dict) for token in tokens):
        edges = [edge for token in tokens for edge in (token.get("start"), token.get("end"))]
        whole = all(type(edge) is int for edge in edges)
        if whole and edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= len(text):
            offsets = [(first, end) for first, end in zip(edges[::2], edges[1::2], strict=True) if first < end]
    if offsets is None:
        message = "the tokens must make up the text, and do not, so they are left out of account; mend or remove them"
        draft.warn("tokens", "off-token-edge", message)
        return None
    return tuple(offsets)
