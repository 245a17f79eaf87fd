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
    known: dict[tuple[int, ...], np.ndarray] = {}
    options: list[np.ndarray] = []  # [m, 2] for each span
    for first, last in answer:
        ids = tuple(automaton.ids[first : last + 1])
        if ids not in known:
            known[ids] = np.array(occurrences(automaton, (first, last)))
        options.append(known[ids])
    if all(len(found) == 1 for found in options):
        return list(answer)
    # Dynamic programming from left to right. For each place of a span: the highest sum of votes up to it, and the index
    # of the place before it. Places are in order, so those that may come before one are the first few.
    sums, ends = np.zeros(1), np.array([-1])
    kept: list[np.ndarray] = []
    came: list[np.ndarray] = []
    for given, found in zip(answer, options, strict=True):
        keys = found[:, 0] * len(votes) + found[:, 1]
        before = np.searchsorted(ends, keys if automaton.nested else found[:, 0])
        found, before = found[before > 0], before[before > 0]
        came.append(_leftmost_best(sums)[before - 1])
        kept.append(found)
        moved = (found != given).any(1)
        sums = sums[came[-1]] + votes[found].mean(1) - _MARGIN * moved
        ends = found[:, 0] * len(votes) + found[:, 1] if automaton.nested else found[:, 1]
    at, chosen = int(sums.argmax()), []
    for found, links in zip(reversed(kept), reversed(came), strict=True):
        chosen.append((int(found[at, 0]), int(found[at, 1])))
        at = int(links[at])
    return chosen[::-1]


def _leftmost_best(sums: np.ndarray) -> np.ndarray:
    """For each number [m], the index of the leftmost highest one up to it."""
    highest = np.maximum.accumulate(sums)
    new = np.concatenate([[True], sums[1:] > highest[:-1]])
    return np.maximum.accumulate(np.where(new, np.arange(len(sums)), 0))
