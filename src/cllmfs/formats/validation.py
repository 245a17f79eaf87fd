"""Finds every error and every suspicious place in a data file, where reading stops at the first error.

Knows the rules below. The formats themselves check those that make a record unreadable; the others are checked here, on
the records that could be read. Corrects nothing.

    errors     bad-json, bad-encoding, missing-field, wrong-type, offset-out-of-range, empty-span, empty-label,
               duplicate-span, bad-tag, numbered-tokens, empty-file, unknown-label, not-annotated (a label that is not
               among the record's "labels"), mention-mismatch (the offsets hold another text than the span states),
               conflicting-duplicate, overlap (spans that cross), off-token-edge (where the record gives its own
               tokens), left-out (no record was accepted)
    warnings   damaged-tags, mention-mismatch (white space or normalization only), span-edge-whitespace, duplicate-text,
               seen-elsewhere (a sentence of another file), empty-text, left-out (records that were not accepted),
               overlap (nested, or the same place with two labels), off-token-edge (an edge inside a word)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cllmfs.formats.reading import parse_file
from cllmfs.formats.records import Issue, source_name
from cllmfs.formats.rules.offsets import short
from cllmfs.formats.rules.repeats import repeats, sentence_key
from cllmfs.formats.tagging import token_offsets
from cllmfs.schema import Example, LabelSet, mentions, visible_part

_Finding = tuple[str, str, str]  # rule, severity, message


@dataclass(frozen=True)
class ValidationReport:
    """The content of a file and its issues; the counts cover the records that can be read.

    Attributes:
        issues: in the order of the file.
        unreadable: number of records with an error that prevents reading them.
        sentences: number of records that can be read.
        without_spans: number of those that have no span.
        tokens: number of their tokens; of words for a record that has a text only.
        mentions: number of spans of each label, the most frequent first.
    """

    source: str
    issues: tuple[Issue, ...]
    unreadable: int
    sentences: int
    without_spans: int
    tokens: int
    mentions: dict[str, int]

    @property
    def errors(self) -> tuple[Issue, ...]:
        """The issues that are errors."""
        return tuple(issue for issue in self.issues if issue.severity == "error")

    @property
    def warnings(self) -> tuple[Issue, ...]:
        """The issues that are warnings."""
        return tuple(issue for issue in self.issues if issue.severity == "warning")

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings are allowed."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {**asdict(self), "issues": [asdict(issue) for issue in self.issues], "ok": self.ok}


def validate_file(
    path: str | Path,
    *,
    labels: LabelSet | None = None,
    format: str | None = None,
    scheme: str | None = None,
    against: Iterable[str | Path] = (),
    also: Callable[[Sequence[Example]], Iterable[Issue]] | None = None,
) -> ValidationReport:
    """Check a labeled file by every rule in the module's docstring.

    Args:
        path, format, scheme: as for :func:`cllmfs.formats.read_examples`.
        labels: the labels that may occur; ``None`` allows all.
        against: other labeled files, such as the test set, which should have no sentence of this one.
        also: finds further issues in all examples, such as what depends on a base.

    Raises:
        ConfigError: if format or scheme is unknown.
        DataError: if the file cannot be opened.
    """
    issues: list[Issue] = []
    examples: list[Example] = []
    lines: list[int] = []
    tokens = 0
    records = parse_file(path, format, scheme)
    for record in records:
        issues += record.issues
        if (example := record.example) is None:
            continue
        examples.append(example)
        lines.append(record.line)
        units = token_offsets(example)
        tokens += len(units)
        found = [("spans", *one) for one in _span_findings(example, units, labels)]
        if not example.text.strip():
            message = "a text should contain more than white space; remove the record"
            found.append(("text", "empty-text", "warning", message))
        issues += [Issue(record.line, field, rule, message, severity) for field, rule, severity, message in found]
    issues += _repeated(examples, lines)
    issues += _elsewhere(examples, lines, against)
    issues += also(examples) if also else ()
    return ValidationReport(
        source=source_name(path),
        issues=tuple(sorted(issues, key=lambda issue: issue.line)),
        unreadable=sum(record.example is None and record.line > 0 for record in records),
        sentences=len(examples),
        without_spans=sum(not example.spans for example in examples),
        tokens=tokens,
        mentions=dict(sorted(mentions(examples).items(), key=lambda item: (-item[1], item[0]))),
    )


def _span_findings(example: Example, units: Collection[tuple[int, int]], labels: LabelSet | None) -> Iterator[_Finding]:
    """The rules for spans: for each span, then for each pair of spans."""
    starts, ends = {start for start, _ in units}, {end for _, end in units}
    inside = {offset for start, end in units for offset in range(start + 1, end)}
    given = example.token_offsets is not None
    for span in example.spans:
        shown = f"{short(example.text[span.start : span.end])} ({span.start} to {span.end}, {span.label:.60})"
        start, end = visible_part(example.text, span.start, span.end)
        if start == end:
            yield "empty-span", "error", f"a span must hold more than white space, got {shown}; remove it"
        elif (start, end) != (span.start, span.end):
            yield "span-edge-whitespace", "warning", f"a span should not begin or end with white space, got {shown}"
        if given and (span.start not in starts or span.end not in ends):
            message = f"a span must begin and end at the edge of a token of its record, got {shown}"
            yield "off-token-edge", "error", message
        elif not given and (span.start in inside or span.end in inside):
            yield "off-token-edge", "warning", f"a span should begin and end at the edge of a word, got {shown}"
    asked = [span.label for span in example.spans] + sorted((example.annotated or set()) - example.labels)
    for label in asked if labels is not None else ():
        if labels is not None and label not in labels:
            close = difflib.get_close_matches(label, list(labels), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(labels)
            yield "unknown-label", "error", f"a label must be one of: {known:.400}; got {short(label)}{hint}"
    yield from _overlaps(example)


def _overlaps(example: Example) -> Iterator[_Finding]:
    spans = example.spans  # sorted by start, then end
    for index, first in enumerate(spans):
        for second in spans[index + 1 :]:
            if second.start >= first.end:
                break
            pair = f"{first.key!s:.80} and {second.key!s:.80}"
            if (first.start, first.end) == (second.start, second.end):
                yield "overlap", "warning", f"the same place should have only one label, got {pair}"
            elif first.start == second.start or second.end <= first.end:
                yield "overlap", "warning", f"spans are nested, which tags and conll cannot express: {pair}"
            else:
                yield "overlap", "error", f"spans must not cross, got {pair}"


def _repeated(examples: Sequence[Example], lines: Sequence[int]) -> Iterator[Issue]:
    """The texts that occur more than once in the file."""
    for one in repeats(examples):
        line, first = lines[one.number], lines[one.earlier]
        if one.conflict:
            who = one.annotators and f"{one.annotators}: "
            message = f"{who}the same text must have the same spans; on line {first} it has others: keep one of the two"
            yield Issue(line, "text", "conflicting-duplicate", message)
        else:
            message = f"a text should occur only once; it is also on line {first}"
            yield Issue(line, "text", "duplicate-text", message, "warning")


def _elsewhere(examples: Sequence[Example], lines: Sequence[int], against: Iterable[str | Path]) -> Iterator[Issue]:
    """The sentences that other files have, too, whatever their white space and case."""
    known: dict[str, str] = {}
    for path in against:
        for record in parse_file(path):
            if record.example is not None:
                known.setdefault(sentence_key(record.example.text), f"{source_name(path)}:{record.line}")
    known.pop("", None)
    for example, line in zip(examples, lines, strict=True):
        if place := known.get(sentence_key(example.text)):
            message = f"a sentence should not be both learned and scored; it is also in {place}"
            yield Issue(line, "text", "seen-elsewhere", message, "warning")
