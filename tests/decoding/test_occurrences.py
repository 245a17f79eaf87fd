"""The occurrence that is meant: against all assignments, and by a model whose votes are known."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest

from cllmfs.decoding.occurrences import Place, most_voted, occurrences
from cllmfs.encoding.automaton import SpanAutomaton

NEXT, END = 90, 91


def automaton(ids: list[int], nested: bool = False, inside: frozenset[int] = frozenset()) -> SpanAutomaton:
    """The automaton of a sentence; spans may not begin or end at the tokens ``inside``."""
    free = [position not in inside for position in range(len(ids))]
    return SpanAutomaton(ids, free, free, NEXT, END, nested)


def test_all_places_of_the_same_tokens_are_found() -> None:
    sentence = automaton([1, 2, 3, 1, 2, 1])
    assert occurrences(sentence, (3, 4)) == [(0, 1), (3, 4)]
    assert occurrences(sentence, (0, 0)) == [(0, 0), (3, 3), (5, 5)]
    assert occurrences(sentence, (2, 2)) == [(2, 2)]
    assert occurrences(automaton([1, 2, 3, 1, 2], inside=frozenset({3})), (0, 1)) == [(0, 1)]


@pytest.mark.parametrize(
    ("answer", "votes", "expected"),
    [
        ([(0, 0)], [0.0, 0, 0, 0, 9, 0], [(4, 4)]),  # the vote decides
        ([(0, 0)], [1.0, 0, 0, 0, 1, 0], [(0, 0)]),  # of equal votes, the leftmost
        ([(0, 0)], [1.0, 0, 0, 0, 1.9, 0], [(0, 0)]),  # and where a later one has hardly more
        ([(0, 0), (4, 4)], [0.0, 0, 0, 0, 9, 0], [(0, 0), (4, 4)]),  # given twice, both are meant
        ([(0, 0), (2, 2)], [0.0, 0, 0, 0, 9, 0], [(0, 0), (2, 2)]),  # the order of the answer stays
        ([(2, 2), (4, 4)], [9.0, 0, 0, 0, 0, 0], [(2, 2), (4, 4)]),
    ],
)
def test_places_by_hand(answer: list[Place], votes: list[float], expected: list[Place]) -> None:
    assert most_voted(automaton([1, 2, 3, 4, 1, 5]), answer, np.array(votes)) == expected


@pytest.mark.parametrize("nested", [False, True])
def test_no_other_assignment_has_more_votes(nested: bool) -> None:
    draw = random.Random(0)
    moved = 0
    for _ in range(400):
        ids = [draw.randint(1, 3) for _ in range(draw.randint(1, 9))]
        sentence = automaton(ids, nested)
        votes = np.array([draw.uniform(-2, 2) for _ in ids])
        spans = [(first, last) for first in range(len(ids)) for last in range(first, min(len(ids), first + 3))]
        answer = sentence.emittable(draw.sample(spans, min(len(spans), draw.randint(1, 3))))
        found = most_voted(sentence, answer, votes)
        tokens = [ids[first : last + 1] for first, last in answer]
        assert [ids[first : last + 1] for first, last in found] == tokens
        assert found == sentence.emittable(found), "the spans are still an answer, in order"

        def total(places: Sequence[Place], votes: np.ndarray = votes, answer: Sequence[Place] = answer) -> float:
            """The votes, less one for each span that is not where the answer has it."""
            moves = sum(place != given for place, given in zip(places, answer, strict=True))
            return sum((votes[first] + votes[last]) / 2 for first, last in places) - moves

        others = itertools.product(*(occurrences(sentence, place) for place in answer))
        possible = [one for one in others if list(one) == sentence.emittable(one) and list(one) == sorted(one)]
        assert total(found) == pytest.approx(max(map(total, possible)))
        moved += found != answer
    assert moved > 20


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_repetition_is_placed_too(nested: bool) -> None:
    count, given = 300, 140
    votes = np.where(np.arange(count) < count - given, -4.0, 4.0)
    answer = [(at, at) for at in range(given)]
    found = most_voted(automaton([1] * count, nested), answer, votes)
    assert found == [(at, at) for at in range(count - given, count)]
