"""Which occurrence an answer means, where the same tokens occur more than once in a sentence.

An answer is a list of token strings, so "May" in "I may see May." could mean either word; with an uncased tokenizer the
two are the same string. The hidden states know the difference: the votes of the answer's type are high where the type
is mentioned. This file knows tokens, spans and votes; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cllmfs.encoding.automaton import SpanAutomaton

Place = tuple[int, int]
"""First and last token, both inclusive."""

# A later place must have this many more votes: texts usually mention a thing where they name it first. The votes are
# log-odds, so this is a factor of e.
_MARGIN = 1.0


def occurrences(automaton: SpanAutomaton, place: Place) -> list[Place]:
    """All places of the same tokens at which a span may begin and end, from left to right."""
    first, last = place
    ids, extra = tuple(automaton.ids[first : last + 1]), last - first
    return [
        (start, start + extra)
        for start in automaton.starts
        if tuple(automaton.ids[start : start + extra + 1]) == ids and automaton.end_ok[start + extra]
    ]


def most_voted(automaton: SpanAutomaton, answer: Sequence[Place], votes: np.ndarray) -> list[Place]:
    """The places of an answer's spans with the highest sum of votes, among those that give the same answer.

    The vote of a place is the mean of those of its first and last token; one that the answer does not have is chosen
    only if it has clearly more. The spans stay in the order of the answer, so a string that is given twice means two
    places. Of equally voted places, the leftmost are chosen.

    Args:
        automaton: that of the sentence.
        answer: the spans of one type, in order, at their leftmost occurrences.
        votes: [n], the votes of the type for each token of the sentence.
    """
    options = [occurrences(automaton, place) for place in answer]
    if all(len(found) == 1 for found in options):
        return list(answer)
    # best[place]: the highest sum of votes of the spans up to this one, if it is at this place, and the places.
    best: dict[Place, tuple[float, list[Place]]] = {(-1, -1): (0.0, [])}
    for given, found in zip(answer, options, strict=True):
        reached: dict[Place, tuple[float, list[Place]]] = {}
        for place in found:
            before = [kept for last, kept in best.items() if (place > last if automaton.nested else place[0] > last[1])]
            if before:
                total, places = max(before, key=lambda one: one[0])
                own = (votes[place[0]] + votes[place[1]]) / 2 - _MARGIN * (place != given)
                reached[place] = (total + own, [*places, place])
        best = reached
    return max(best.values(), key=lambda one: one[0])[1]
