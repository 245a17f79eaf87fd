"""The output language against a brute-force reading of its contract: every answer, no dead end, one meaning each."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.encoding.automaton import SpanAutomaton, State

NEXT, END = 90, 91
Range = tuple[int, int]


@dataclass(frozen=True)
class Sentence:
    """What the automaton is made of."""

    ids: tuple[int, ...]
    start_ok: tuple[bool, ...]
    end_ok: tuple[bool, ...]
    nested: bool

    def automaton(self) -> SpanAutomaton:
        return SpanAutomaton(self.ids, self.start_ok, self.end_ok, NEXT, END, self.nested)

    @functools.cached_property
    def legal(self) -> list[Range]:
        """All spans on the edges that cross no delimiter's id."""
        n = len(self.ids)
        return [
            (first, last)
            for first in range(n)
            for last in range(first, n)
            if self.start_ok[first] and self.end_ok[last] and not {NEXT, END} & set(self.ids[first : last + 1])
        ]

    def follows(self, before: Range | None, after: Range) -> bool:
        """Whether a span may come after another in an answer."""
        return before is None or (after > before if self.nested else after[0] > before[1])

    def answers(self, before: Range | None = None) -> Iterator[tuple[Range, ...]]:
        """Every list of spans that is an answer."""
        yield ()
        for span in self.legal:
            if self.follows(before, span):
                for rest in self.answers(span):
                    yield (span, *rest)

    def tokens(self, spans: Sequence[Range]) -> tuple[int, ...]:
        parts = [(*self.ids[first : last + 1], NEXT) for first, last in spans]
        return (*list(itertools.chain(*parts))[:-1], END)

    def read(self, tokens: Sequence[int]) -> tuple[Range, ...]:
        """What an answer means: each span is its first occurrence that may still come."""
        spans: list[Range] = []
        part: list[int] = []
        for token in tokens:
            if token not in (NEXT, END):
                part.append(token)
            elif part:
                last = spans[-1] if spans else None
                same = [s for s in self.legal if self.ids[s[0] : s[1] + 1] == tuple(part) and self.follows(last, s)]
                spans.append(same[0])
                part = []
        return tuple(spans)


def sentences(most: int, *, delimiters: bool = True) -> st.SearchStrategy[Sentence]:
    """Short sentences of three ids, now and then with a delimiter's id inside; flat and nested."""
    ids = st.sampled_from([5, 5, 6, 6, 7, *((NEXT, END) if delimiters else ())])
    edge = st.sampled_from([True, True, False])
    row = st.lists(st.tuples(ids, edge, edge), max_size=most)

    def make(rows: list[tuple[int, bool, bool]], nested: bool) -> Sentence:
        rows = rows[:4] if nested else rows  # nested answers are the subsets of all spans
        columns = [tuple(row[column] for row in rows) for column in range(3)]
        return Sentence(*columns, nested)  # type: ignore[arg-type]

    return st.builds(make, row, st.booleans())


def walk(automaton: SpanAutomaton) -> dict[tuple[int, ...], tuple[Range, ...]]:
    """Every accepted answer with the spans it stands for, by depth-first search; fails on a dead end."""
    accepted: dict[tuple[int, ...], tuple[Range, ...]] = {}
    pending: list[tuple[State, tuple[int, ...], tuple[Range, ...]]] = [(State(), (), ())]
    while pending:
        state, tokens, spans = pending.pop()
        choices = automaton.choices(state)
        if state.ended:
            assert not choices
            assert tokens not in accepted
            accepted[tokens] = spans
            continue
        assert choices, f"no way on after {tokens}"
        assert list(choices) != [END] or not state.must_open
        for token, positions in choices.items():
            assert all(automaton.ids[position] == token for position in positions)
            assert (token in (NEXT, END)) == (not positions)
            after = automaton.advance(state, token)
            closed = (after.last,) if state.candidates and not positions else ()
            pending.append((after, (*tokens, token), spans + closed))
    return accepted


@given(sentences(6))
@settings(deadline=None, max_examples=100)
def test_language_is_all_lists_of_spans_and_each_answer_has_one_meaning(sentence: Sentence) -> None:
    accepted = walk(sentence.automaton())
    assert set(accepted) == {sentence.tokens(spans) for spans in sentence.answers()}
    for tokens, spans in accepted.items():
        assert spans == sentence.read(tokens)
        assert sentence.tokens(spans) == tokens
        assert set(spans) <= set(sentence.legal)
        assert all(sentence.follows(before, after) for before, after in itertools.pairwise(spans))


@given(sentences(5))
@settings(deadline=None, max_examples=80)
def test_whichever_occurrence_is_named_an_answer_can_end(sentence: Sentence) -> None:
    automaton = sentence.automaton()
    pending: list[tuple[State, Range | None]] = [(State(), None)]
    seen: set[State] = set()
    while pending:
        state, last = pending.pop()
        if state in seen or state.ended:
            continue
        seen.add(state)
        choices = automaton.choices(state)
        assert choices
        for token, positions in choices.items():
            if positions or not state.candidates:
                pending.append((automaton.advance(state, token), last))
                continue
            closings = automaton.closings(state, token)
            assert closings and set(closings) <= set(automaton.closings(state))
            assert automaton.advance(state, token).last == closings[0] == min(closings)
            for span in closings:
                assert sentence.follows(last, span)
                pending.append((automaton.advance(state, token, span), span))


@given(sentences(6), st.data())
@settings(deadline=None, max_examples=100)
def test_emittable_spans_have_a_path_that_reads_the_same(sentence: Sentence, data: st.DataObject) -> None:
    """Whatever spans are asked for, those kept are legal and their path decodes to the same tokens, leftmost."""
    automaton, n = sentence.automaton(), len(sentence.ids)
    place = st.integers(-1, n + 1)
    asked = data.draw(st.lists(st.tuples(place, place), max_size=6))
    kept = automaton.emittable(asked)
    assert kept == sorted(set(kept)) and set(kept) <= set(asked) & set(sentence.legal)
    assert all(sentence.follows(before, after) for before, after in itertools.pairwise(kept))
    if sentence.nested:
        assert set(kept) == set(asked) & set(sentence.legal)
    else:  # what was left out is in the way of what was kept
        for first, last in set(asked) & set(sentence.legal) - set(kept):
            assert any(start <= last and first <= end for start, end in kept)
    steps = automaton.path(kept)
    tokens = tuple(token for token, _ in steps)
    assert tokens == sentence.tokens(kept)
    state = State()
    for token, choices in steps:
        assert choices == automaton.choices(state) and token in choices
        state = automaton.advance(state, token)
    assert state.ended
    read = sentence.read(tokens)
    assert [sentence.ids[s : e + 1] for s, e in read] == [sentence.ids[s : e + 1] for s, e in kept]
    assert all(found <= span for found, span in zip(read, kept, strict=True))


@given(sentences(6), st.data())
@settings(deadline=None, max_examples=100)
def test_all_legal_lists_are_emittable(sentence: Sentence, data: st.DataObject) -> None:
    spans = data.draw(st.sampled_from(list(sentence.answers())))
    assert sentence.automaton().emittable(spans) == list(spans)
    assert sentence.automaton().emittable(reversed(spans)) == list(spans)


def flat(ids: Sequence[int], nested: bool = False) -> SpanAutomaton:
    """Spans may begin and end at any token."""
    return SpanAutomaton(ids, [True] * len(ids), [True] * len(ids), NEXT, END, nested)


def spelled(automaton: SpanAutomaton, tokens: Sequence[int]) -> list[Range]:
    state, spans = State(), []
    for token in tokens:
        after = automaton.advance(state, token)
        if state.candidates and token in (NEXT, END):
            spans.append(after.last)
        state = after
    assert state.ended
    return spans


def test_repeated_mentions_are_the_next_occurrences() -> None:
    automaton = flat([5, 6, 5, 6, 5])
    assert spelled(automaton, [5, 6, NEXT, 5, 6, END]) == [(0, 1), (2, 3)]
    assert spelled(automaton, [5, NEXT, 5, NEXT, 5, END]) == [(0, 0), (2, 2), (4, 4)]
    assert spelled(automaton, [6, NEXT, 5, END]) == [(1, 1), (2, 2)]
    state = automaton.advance(State(), 5)
    assert state.candidates == (0, 2, 4)
    assert automaton.closings(state) == [(0, 0), (2, 2), (4, 4)]
    assert automaton.closings(state, END) == [(0, 0), (2, 2), (4, 4)]
    assert automaton.closings(state, NEXT) == [(0, 0), (2, 2)]  # behind the last token there is no room
    assert automaton.advance(state, NEXT, (2, 2)).last == (2, 2)


def test_what_lies_ahead_is_how_the_first_occurrence_goes_on() -> None:
    automaton = flat([5, 6, 5, 7, NEXT, 6])
    opened = automaton.advance(State(), 5)
    assert automaton.ahead(State(), 3) == ()
    assert [automaton.ahead(opened, most) for most in (0, 1, 3, 9)] == [(), (6,), (6, 5, 7), (6, 5, 7)]
    assert automaton.ahead(automaton.advance(opened, 7), 3) == (), "a delimiter's id in the sentence is not crossed"
    assert automaton.ahead(automaton.advance(opened, NEXT), 3) == ()
    barred = SpanAutomaton([5, 6, 7], [True] * 3, [True, True, False], NEXT, END)
    assert barred.ahead(barred.advance(State(), 5), 3) == (6,), "no end can be reached from the last token"


def test_nested_answers_run_by_start_then_end() -> None:
    automaton = flat([5, 6, 7], nested=True)
    assert spelled(automaton, [5, NEXT, 5, 6, NEXT, 6, NEXT, 6, 7, END]) == [(0, 0), (0, 1), (1, 1), (1, 2)]
    long_first = automaton.advance(automaton.advance(State(), 5), 6)
    after = automaton.advance(long_first, NEXT)
    assert automaton.choices(after) == {5: [0], 6: [1], 7: [2]}
    inside = automaton.advance(after, 5)
    assert automaton.choices(inside) == {6: [1]}  # (0, 0) comes before (0, 1), so it is over
    assert automaton.choices(automaton.advance(inside, 6)) == {7: [2]}
    whole = automaton.advance(automaton.advance(automaton.advance(inside, 6), 7), NEXT)
    assert automaton.choices(whole) == {6: [1], 7: [2]}


def test_an_answer_may_not_end_after_a_delimiter_between_spans() -> None:
    automaton = flat([5, 6])
    assert automaton.choices(State()) == {5: [0], 6: [1], END: []}
    state = automaton.advance(automaton.advance(State(), 5), NEXT)
    assert state == State(last=(0, 0), must_open=True)
    assert automaton.choices(state) == {6: [1]}
    with pytest.raises(ValueError, match=r"token 91 is not allowed here; allowed are \[6\]"):
        automaton.advance(state, END)


def test_no_delimiter_where_nothing_can_follow() -> None:
    automaton = flat([5])
    assert automaton.choices(automaton.advance(State(), 5)) == {END: []}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("delimiter", [NEXT, END])
def test_a_delimiter_inside_the_sentence_is_never_crossed(delimiter: int, nested: bool) -> None:
    automaton = flat([5, delimiter, 6], nested)
    assert automaton.starts == [0, 2]
    assert set(walk(automaton).values()) == {(), ((0, 0),), ((2, 2),), ((0, 0), (2, 2))}
    assert automaton.emittable([(0, 2), (1, 1), (0, 0), (2, 2)]) == [(0, 0), (2, 2)]
    with pytest.raises(ValueError, match="are no answer"):
        automaton.path([(0, 2)])


def test_a_start_without_an_end_is_no_start() -> None:
    automaton = SpanAutomaton([5, 6, 7], [True, True, True], [True, False, False], NEXT, END)
    assert automaton.starts == [0]
    assert automaton.choices(State()) == {5: [0], END: []}
    assert automaton.choices(automaton.advance(State(), 5)) == {END: []}


@pytest.mark.parametrize("nested", [False, True])
def test_an_empty_sentence_has_the_empty_answer(nested: bool) -> None:
    automaton = flat([], nested)
    assert walk(automaton) == {(END,): ()}
    assert automaton.path([]) == [(END, {END: []})]


def test_refusals() -> None:
    automaton = flat([5, 6, 5])
    with pytest.raises(ValueError, match=r"token 8 is not allowed here; allowed are \[5, 6, 91\]"):
        automaton.advance(State(), 8)
    with pytest.raises(ValueError, match="token 90 is not allowed"):
        automaton.advance(State(), NEXT)
    done = automaton.advance(State(), END)
    assert done.ended and automaton.choices(done) == {}
    with pytest.raises(ValueError, match=r"allowed are \[\]"):
        automaton.advance(done, END)
    state = automaton.advance(State(), 5)
    with pytest.raises(ValueError, match=r"the span \(2, 2\) cannot be closed by token 90 here; \[\(0, 0\)\] can"):
        automaton.advance(state, NEXT, (2, 2))
    with pytest.raises(ValueError, match=r"the span \(1, 1\) cannot be closed"):
        automaton.advance(state, END, (1, 1))


@pytest.mark.parametrize(
    ("nested", "spans"),
    [
        (False, [(0, 1), (1, 2)]),  # overlap
        (False, [(0, 2), (0, 0)]),
        (False, [(0, 0), (0, 0)]),  # twice, though the token comes again
        (True, [(0, 0), (0, 0)]),
        (False, [(1, 2)]),  # no start, though the same tokens may begin elsewhere
        (True, [(3, 3)]),
        (False, [(0, 4)]),  # off the sentence
        (False, [(-1, 0)]),
        (False, [(2, 0)]),  # backwards
    ],
)
def test_path_refuses_what_is_no_answer(nested: bool, spans: list[Range]) -> None:
    automaton = SpanAutomaton([5, 5, 6, 5], [True, False, True, False], [True] * 4, NEXT, END, nested)
    with pytest.raises(ValueError, match="are no answer"):
        automaton.path(spans)


def test_longer_spans_win_at_one_start_in_a_flat_answer() -> None:
    assert flat([5, 6, 7]).emittable([(0, 0), (0, 1), (1, 2), (2, 2)]) == [(0, 1), (2, 2)]
    assert flat([5, 6, 7], nested=True).emittable([(1, 2), (0, 1), (0, 0)]) == [(0, 0), (0, 1), (1, 2)]
