"""The automaton of one answer: it allows only answers that consist of spans of the sentence, from left to right.

An answer is ``span (NEXT span)* END`` or ``END`` alone, and a span is copied token by token from the sentence. The
automaton tracks the sentence positions that are consistent with the tokens emitted so far. The same tokens may occur
more than once in a sentence: a span then means the first occurrence that is still allowed, unless the caller chooses
another one of :meth:`SpanAutomaton.closings`. This file knows token ids and where spans may begin and end; it knows
nothing of text, labels or the model.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_NOTHING = (-1, -1)

Choices = Mapping[int, Sequence[int]]  # allowed token ids, each with the sentence positions that it would copy


@dataclass(frozen=True)
class State:
    """The state after the tokens emitted so far; it determines which tokens may follow.

    Attributes:
        last: (first, last) tokens of the last finished span; (-1, -1) if there is none.
        candidates: the sentence positions that the last emitted token may have been copied from; empty between spans.
        length: number of tokens of the open span.
        must_open: true after NEXT, where the answer may not end.
        ended: true after END.
    """

    last: tuple[int, int] = _NOTHING
    candidates: tuple[int, ...] = ()
    length: int = 0
    must_open: bool = False
    ended: bool = False


@dataclass(eq=False)
class SpanAutomaton:
    """The automaton of one sentence; states are immutable, so any number of answers may use it at once.

    Args:
        ids: token ids of the sentence, n of them.
        start_ok, end_ok: n flags each, whether a span may begin with the token, and whether one may end with it.
        next_id, end_id: the delimiter between spans, and the one that ends the answer.
        nested: whether spans may overlap; otherwise each begins after the end of the one before.
    """

    ids: Sequence[int]
    start_ok: Sequence[bool]
    end_ok: Sequence[bool]
    next_id: int
    end_id: int
    nested: bool = False

    def __post_init__(self) -> None:
        # The last token of the longest span that contains each token; -1 if there is none, and after the last token.
        # The id of a delimiter inside the sentence would be read as the delimiter, so no span may contain such a token.
        self._furthest = [-1] * (len(self.ids) + 1)
        for position in reversed(range(len(self.ids))):
            if self.ids[position] not in (self.next_id, self.end_id):
                own = position if self.end_ok[position] else -1
                self._furthest[position] = max(own, self._furthest[position + 1])
        self.starts = [p for p in range(len(self.ids)) if self.start_ok[p] and self._furthest[p] >= 0]
        self._choices: dict[State, Choices] = {}

    def _open_starts(self, last: tuple[int, int]) -> list[int]:
        if not self.nested:
            return self.starts[bisect_right(self.starts, last[1]) :]
        later = self.starts[bisect_right(self.starts, last[0]) :]
        return [last[0], *later] if last != _NOTHING and self._furthest[last[0]] > last[1] else later

    def _has_room(self, last: tuple[int, int]) -> bool:
        """Whether another span may follow the one at ``last``."""
        if self.nested and self._furthest[last[0]] > last[1]:
            return True
        return bool(self.starts) and self.starts[-1] > last[0 if self.nested else 1]

    def closings(self, state: State, token: int | None = None) -> list[tuple[int, int]]:
        """The token ranges (first, last) that the open span could mean if it were closed now, from left to right.

        With ``token``, only those that this delimiter may close: after NEXT there must be room for another span.
        """
        return list(self._closings(state, token))

    def first_closing(self, state: State, token: int | None = None) -> tuple[int, int] | None:
        """The leftmost of :meth:`closings`, which may be many where a text repeats itself; ``None`` without any."""
        return next(self._closings(state, token), None)

    def _closings(self, state: State, token: int | None) -> Iterator[tuple[int, int]]:
        for position in state.candidates:
            span = (position - state.length + 1, position)
            allowed = self.end_ok[position] and (not self.nested or span > state.last)
            if allowed and (token != self.next_id or self._has_room(span)):
                yield span

    def choices(self, state: State) -> Choices:
        """Allowed token ids, each with the sentence positions that it would copy; delimiters copy none."""
        # Cached: all types of a sentence begin in the same state, and the choices of a state are needed more than once.
        if state not in self._choices:
            self._choices[state] = {} if state.ended else self._allowed(state)
        return self._choices[state]

    def _allowed(self, state: State) -> Choices:
        allowed: dict[int, list[int]] = {}
        if not state.candidates:
            for position in self._open_starts(state.last):
                allowed.setdefault(self.ids[position], []).append(position)
            if not state.must_open:
                allowed[self.end_id] = []
            return allowed
        for position in state.candidates:
            if self._furthest[position + 1] >= 0:
                allowed.setdefault(self.ids[position + 1], []).append(position + 1)
        if (closed := self.first_closing(state)) is not None:
            allowed[self.end_id] = []
            if self._has_room(closed):
                allowed[self.next_id] = []
        return allowed

    def ahead(self, state: State, most: int) -> tuple[int, ...]:
        """The next tokens of the open span, ``most`` at most, if it is the first of its possible occurrences."""
        if not state.candidates:
            return ()
        begin = state.candidates[0] + 1
        return tuple(self.ids[begin : min(begin + most, self._furthest[begin] + 1)])

    def advance(self, state: State, token: int, span: tuple[int, int] | None = None) -> State:
        """The state after ``token``; where a delimiter closes a span, ``span`` chooses the occurrence.

        Raises:
            ValueError: if the token is not among :meth:`choices`, or the span not among its :meth:`closings`.
        """
        choices = self.choices(state)
        if token not in choices:
            raise ValueError(f"token {token} is not allowed here; allowed are {sorted(choices)}")
        if positions := choices[token]:
            return State(state.last, tuple(positions), state.length + 1)
        last = state.last
        if state.candidates:
            if span is not None and span not in self._closings(state, token):
                closings = self.closings(state, token)
                raise ValueError(f"the span {span} cannot be closed by token {token} here; {closings} can")
            last = span or self.first_closing(state, token) or _NOTHING
        return State(last, must_open=token == self.next_id, ended=token == self.end_id)

    def path(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, Choices]]:
        """The tokens of the answer for the token ranges ``spans`` (first, last), each with the choices at its step.

        Raises:
            ValueError: if :meth:`emittable` would drop a span: it begins or ends where none may, overlaps another in a
                flat answer, or contains the id of a delimiter.
        """
        ordered = sorted(spans)
        if (kept := self.emittable(ordered)) != ordered:
            raise ValueError(f"the spans {ordered} are no answer; {kept} would be")
        tokens: list[int] = []
        for first, last in ordered:
            tokens += [*([self.next_id] if tokens else []), *self.ids[first : last + 1]]
        state, steps = State(), []
        for token in [*tokens, self.end_id]:
            steps.append((token, self.choices(state)))
            state = self.advance(state, token)
        return steps

    def emittable(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The spans that :meth:`path` accepts.

        In a flat answer, the leftmost of overlapping spans is kept, and the longest of those that begin together.
        """
        kept: list[tuple[int, int]] = []
        starts = set(self.starts)
        for first, last in sorted(set(spans), key=lambda s: (s[0], s[1] if self.nested else -s[1])):
            fits = first in starts and first <= last <= self._furthest[first] and self.end_ok[last]
            if fits and (self.nested or not kept or first > kept[-1][1]):
                kept.append((first, last))
        return kept
