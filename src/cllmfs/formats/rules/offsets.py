"""Finds out how offsets are counted that do not hold the text that their spans state.

Tools count in UTF-16 units (JavaScript, Java), in bytes (Go, Rust, Perl), with two characters for a line end (forms of
web pages), from 1, or up to and including the last character. One span can fit several ways by chance, so a way must
explain all the spans of a file that state their text, else all those of a record. Knows texts and offsets; nothing of
files. Corrects nothing: a guess that is wrong once would teach wrong spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import NamedTuple

from cllmfs.schema import alike

_MOST_SHIFTS = 200  # a mention of one letter occurs everywhere; the smallest shifts are the likely ones
_WIDTHS: dict[str, Callable[[str], int]] = {
    "counted in UTF-16 units": lambda char: 2 if char > "\uffff" else 1,
    "counted in UTF-8 bytes": lambda char: 1 + (char > "\x7f") + (char > "\u07ff") + (char > "\uffff"),
    "counted with two characters for each line end": lambda char: 2 if char == "\n" else 1,
    "counted with one character for each line end": lambda char: char != "\r",
}


class Stated(NamedTuple):
    """A span that states its own text.

    Attributes:
        place: the field of the record, for messages.
        text: the text of the record.
        start: first offset, as given.
        end: second offset, as given.
        mention: the text that the span states.
        problem: rule and message if the offsets are no span of the text at all.
    """

    place: str
    text: str
    start: int
    end: int
    mention: str
    problem: tuple[str, str] | None

    @property
    def fits(self) -> bool:
        """Whether the text at the offsets is the stated one, but for white space and Unicode normalization."""
        return self.problem is None and alike(self.mention, self.text[self.start : self.end])

    @property
    def exact(self) -> bool:
        """Whether the text at the offsets is the stated one."""
        return self.problem is None and self.mention == self.text[self.start : self.end]


_Reading = Callable[[Stated], tuple[int, int] | None]  # the offsets in code points that a way of counting means


class Complaint(NamedTuple):
    """What is wrong with a span that states its text."""

    place: str
    rule: str
    message: str
    severity: str


def complaints(records: Sequence[Sequence[Stated]]) -> Iterator[list[Complaint]]:
    """For each record of a file, the complaints about its spans, each with what explains and mends it."""
    spans = [span for record in records for span in record]
    broken = not all(span.fits for span in spans)
    of_file = _ways(spans) if broken else {}
    for record in records:
        of_record = {} if of_file or all(span.fits for span in record) else _ways(record)
        made = []
        for span in record:
            if span.exact:
                continue
            if span.fits:
                rule = "a span's text should be the text at its offsets; only white space or normalization differs"
                made.append(Complaint(span.place, "mention-mismatch", f"{rule}: {_found(span)}", "warning"))
                continue
            rule, message = span.problem or (
                "mention-mismatch",
                f"a span's text must be the text at its offsets, {_found(span)}",
            )
            scope, among = ("file", spans) if of_file else ("record", record)
            if ways := of_file or of_record:
                hint = _explained(span, ways, scope, len(among))
            else:
                hint = _explained(span, _ways([span]), "record", 1)
            made.append(Complaint(span.place, rule, message + hint, "error"))
        yield made


def short(value: str) -> str:
    """A string for a message, at most 60 characters of it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _found(span: Stated) -> str:
    return f"got {short(span.mention)} for {short(span.text[span.start : span.end])} ({span.start} to {span.end})"


def _explained(span: Stated, ways: dict[str, _Reading], scope: str, count: int) -> str:
    """The end of a message: what the offsets mean in each of the ways, or where the text is."""
    if not ways:
        at = span.text.find(span.mention)
        where = f" (that text is at {at} to {at + len(span.mention)})" if at >= 0 else ""
        return f"; correct the offsets or the text{where}"
    which = f"all {count} spans of the {scope} that state their text fit if their" if count > 1 else "it fits if its"
    places: dict[tuple[int, int], list[str]] = {}
    for name, way in ways.items():
        places.setdefault(way(span) or (span.start, span.end), []).append(name)
    meant = [f"{' or '.join(names)}, so that this one is {start} to {end}" for (start, end), names in places.items()]
    return f"; {which} offsets are {', or '.join(meant)}: convert them to code points, end exclusive"


def _ways(spans: Sequence[Stated]) -> dict[str, _Reading]:
    """The simplest ways of counting in which every span holds its text; none if there are none."""
    ordered = sorted(spans, key=lambda span: span.fits)  # a wrong span rules out most ways at once
    units: dict[str, _Reading] = {name: partial(_in_units, name, 0) for name in _WIDTHS}
    inclusive = {f"{name}, with inclusive ends": partial(_in_units, name, 1) for name in _WIDTHS}
    simple = _fitting({**units, "counted with inclusive ends": partial(_shifted, 0, 1)}, ordered)
    return (simple | _shifts(ordered, 0)) or _fitting(inclusive, ordered) or _shifts(ordered, 1)


def _fitting(ways: Mapping[str, _Reading], spans: Sequence[Stated]) -> dict[str, _Reading]:
    return {name: way for name, way in ways.items() if all(_holds(span, way(span)) for span in spans)}


def _shifts(spans: Sequence[Stated], more: int) -> dict[str, _Reading]:
    """The smallest constant shift in which every span holds its text, as a way; ``more`` is 1 for inclusive ends."""
    first = spans[0]
    if first.end + more - first.start != len(first.mention):
        return {}
    found = _occurrences(first.text, first.mention)
    for shift in sorted((at - first.start for at in found), key=abs)[:_MOST_SHIFTS]:
        way = partial(_shifted, shift, more)
        if shift and all(_holds(span, way(span)) for span in spans):
            name = f"shifted by {shift:+d}" + ", with inclusive ends" * more
            return {"counted from 1, with inclusive ends" if (shift, more) == (-1, 1) else name: way}
    return {}


def _occurrences(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _holds(span: Stated, place: tuple[int, int] | None) -> bool:
    if place is None or not 0 <= place[0] < place[1] <= len(span.text):
        return False
    found = span.text[place[0] : place[1]]
    return alike(span.mention, found) and (found == found.strip() or span.mention != span.mention.strip())


def _shifted(shift: int, more: int, span: Stated) -> tuple[int, int]:
    return span.start + shift, span.end + shift + more


def _in_units(unit: str, more: int, span: Stated) -> tuple[int, int] | None:
    starts, ends = _code_points(unit, span.text)
    start, end = starts.get(span.start), ends.get(span.end + more)
    return None if start is None or end is None else (start, end)


@lru_cache(maxsize=8)
def _code_points(unit: str, text: str) -> tuple[dict[int, int], dict[int, int]]:
    """The code points before each place of a text that is counted in some unit, for starts and for ends.

    The two differ at characters that are not counted: a span begins after them, and ends before them.
    """
    widths = map(_WIDTHS[unit], text)
    places = [(before, points) for points, before in enumerate(accumulate(widths, initial=0))]
    return dict(places), dict(reversed(places))
