"""The metric of episodes: runs of one tag over all sentences of a query set."""

from __future__ import annotations

import pytest

from cllmfs.datasets.episodes import episode_scores
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts


def test_episode_spans_are_runs_of_one_tag() -> None:
    gold = [["O", "art", "art", "law", "O"]]
    assert episode_scores(gold, gold) == Counts(2, 0, 0)
    assert episode_scores(gold, [["O", "art", "O", "law", "O"]]) == Counts(1, 1, 1)
    assert episode_scores(gold, [["O", "law", "law", "art", "O"]]) == Counts(0, 2, 2)


def test_episode_runs_cross_the_end_of_a_sentence() -> None:
    gold = [["O", "art"], ["art", "O"]]
    # One run of two tokens in the flattened batch: getting half of it gets nothing.
    assert episode_scores(gold, gold) == Counts(1, 0, 0)
    assert episode_scores(gold, [["O", "art"], ["O", "O"]]) == Counts(0, 1, 1)
    # With the sentences apart the same answer finds one of two spans.
    apart = episode_scores(gold[:1], [["O", "art"]]) + episode_scores(gold[1:], [["O", "O"]])
    assert apart == Counts(1, 0, 1)


def test_episode_input_is_checked() -> None:
    assert episode_scores([], []) == Counts()
    assert episode_scores([["O"]], [["O"]]) == Counts()
    with pytest.raises(DataError, match="one shape"):
        episode_scores([["O", "O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="I-art"):
        episode_scores([["B-art", "I-art"]], [["O", "O"]])
