"""The output language of one answer: spans of the sentence, left to right, and nothing else.

An answer is ``span (NEXT span)* END`` or ``END`` alone; a span is copied token by token from the sentence. The state is
the set of sentence positions consistent with what was emitted, so each answer maps to exactly one list of token ranges.
Knows token ids and where spans may begin and end; knows nothing of text, labels or the model.

Two occurrences of the same tokens cannot be told apart by the tokens emitted: a span is the first occurrence that is
still allowed. The caller may resolve it otherwise among :meth:`SpanAutomaton.closings`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_NOTHING = (-1, -1)

Choices = Mapping[int, Sequence[int]]  # allowed token ids, each with the sentence positions that it would copy


@dataclass(frozen=True)
class State:
    """What has been emitted so far, as far as it matters.

    Attributes:
        last: (first, last) token of the last finished span; (-1, -1) before any.
        candidates: the positions at which the open span may stand now; empty between spans.
        length: tokens of the open span emitted so far.
        must_open: true after NEXT, when the answer may not end.
        ended: true after END.
    """

    last: tuple[int, int] = _NOTHING
    candidates: tuple[int, ...] = ()
    length: int = 0
    must_open: bool = False
    ended: bool = False


class SpanAutomaton:
    """The automaton of one sentence; states are immutable, so branches and beams share nothing.

    Args:
        ids: token ids of the sentence, n of them.
        start_ok: n flags, whether a span may begin with the token.
        end_ok: n flags, whether a span may end with the token.
        next_id: the delimiter between spans.
        end_id: the delimiter that ends the answer.
        nested: spans may overlap; else each begins after the end of the one before.
    """

    def __init__(
        self,
        ids: Sequence[int],
        start_ok: Sequence[bool],
        end_ok: Sequence[bool],
        next_id: int,
        end_id: int,
        nested: bool = False,
    ) -> None:
        self.ids = tuple(ids)
        self.end_ok = tuple(end_ok)
        self.next_id = next_id
        self.end_id = end_id
        self.nested = nested
        # A delimiter's id inside the sentence could be read as the delimiter: no span crosses such a token.
        barrier = [token in (next_id, end_id) for token in self.ids]
        self._reaches = [False] * len(self.ids)  # an end can be reached from here without crossing a barrier
        for position in range(len(self.ids) - 1, -1, -1):
            beyond = position + 1 < len(self.ids) and self._reaches[position + 1]
            self._reaches[position] = not barrier[position] and (self.end_ok[position] or beyond)
        self.starts = [p for p in range(len(self.ids)) if start_ok[p] and self._reaches[p]]
        self._last_reach = self._last_end_by_start()
        self._choices: dict[State, Choices] = {}

    def _last_end_by_start(self) -> dict[int, int]:
        """The furthest end of a span that begins at each start; needed only for nested answers."""
        furthest: dict[int, int] = {}
        if not self.nested:
            return furthest
        for start in self.starts:
            position, last = start, start
            while position < len(self.ids) and self._reaches[position]:
                last = position if self.end_ok[position] else last
                position += 1
            furthest[start] = last
        return furthest

    def _open_starts(self, last: tuple[int, int]) -> list[int]:
        if not self.nested:
            return self.starts[bisect_right(self.starts, last[1]) :]
        later = self.starts[bisect_right(self.starts, last[0]) :]
        same = [last[0]] if last != _NOTHING and self._last_reach.get(last[0], -1) > last[1] else []
        return same + later

    def closings(self, state: State, token: int | None = None) -> list[tuple[int, int]]:
        """The token ranges (first, last) that closing the open span now could mean, leftmost first.

        With ``token``, only those after which that delimiter may come: behind NEXT another span must have room.
        """
        found = []
        for position in state.candidates:
            span = (position - state.length + 1, position)
            if self.end_ok[position] and (not self.nested or span > state.last):
                found.append(span)
        return [span for span in found if self._open_starts(span)] if token == self.next_id else found

    def choices(self, state: State) -> Choices:
        """Allowed token ids, each with the sentence positions that it would copy; delimiters copy none."""
        # All types of a sentence begin in one state, and a choice is looked at before it is made.
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
            if position + 1 < len(self.ids) and self._reaches[position + 1]:
                allowed.setdefault(self.ids[position + 1], []).append(position + 1)
        closed = self.closings(state)
        if closed:
            allowed[self.end_id] = []
            if self._open_starts(closed[0]):
                allowed[self.next_id] = []
        return allowed

    def ahead(self, state: State, most: int) -> tuple[int, ...]:
        """The tokens that the open span copies if it goes on where it may stand first; at most ``most``."""
        if not state.candidates:
            return ()
        begin = end = state.candidates[0] + 1
        while end < min(begin + most, len(self.ids)) and self._reaches[end]:
            end += 1
        return self.ids[begin:end]

    def advance(self, state: State, token: int, span: tuple[int, int] | None = None) -> State:
        """The state after emitting ``token``; ``span`` names the occurrence when a delimiter closes a span.

        Raises:
            ValueError: if the token is not among :meth:`choices`, or the span not among its :meth:`closings`.
        """
        choices = self.choices(state)
        if token not in choices:
            raise ValueError(f"token {token} is not allowed here; allowed are {sorted(choices)}")
        positions = choices[token]
        if positions:
            return State(state.last, tuple(positions), state.length + 1)
        last = state.last
        if state.candidates:
            closings = self.closings(state, token)
            if span is not None and span not in closings:
                raise ValueError(f"the span {span} cannot be closed by token {token} here; {closings} can")
            last = span if span is not None else closings[0]
        return State(last, must_open=token == self.next_id, ended=token == self.end_id)

    def path(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, Choices]]:
        """The tokens that emit the token ranges ``spans`` (first, last), each with the choices at its step.

        Ranges the automaton cannot emit (off the edges, overlapping in a flat answer, across a delimiter's id) raise.

        Raises:
            ValueError: if the spans are no answer of this automaton.
        """
        ordered = sorted(spans)
        if self.emittable(ordered) != ordered:
            raise ValueError(f"the spans {ordered} are no answer; {self.emittable(ordered)} would be")
        tokens: list[int] = []
        for index, (first, last) in enumerate(ordered):
            tokens += ([self.next_id] if index else []) + list(self.ids[first : last + 1])
        state, steps = State(), []
        for token in [*tokens, self.end_id]:
            steps.append((token, self.choices(state)))
            state = self.advance(state, token)
        return steps

    def emittable(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """The largest prefix-greedy subset of ``spans`` that :meth:`path` accepts; longer spans win at one start."""
        kept: list[tuple[int, int]] = []
        starts = set(self.starts)
        for first, last in sorted(set(spans), key=lambda s: (s[0], s[1] if self.nested else -s[1])):
            inside = first in starts and first <= last < len(self.ids) and self.end_ok[last]
            fits = inside and all(self._reaches[p] for p in range(first, last + 1))
            if fits and (self.nested or not kept or first > kept[-1][1]):
                kept.append((first, last))
        return kept
