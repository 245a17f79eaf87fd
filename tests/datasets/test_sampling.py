"""Shots: the same for a seed everywhere, enough of each label, none to spare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.datasets.sampling import Episode, sample_episode, sample_k_shot, shortfalls
from cllmfs.errors import ConfigError, DataError
from cllmfs.schema import Example, mentions


def make(*labels: str, name: int = 0) -> Example:
    """A sentence with one one-word mention for each label named."""
    return Example.from_tokens(
        [f"s{name}", *(f"w{number}" for number in range(len(labels)))],
        [(number + 1, number + 2, label) for number, label in enumerate(labels)],
    )


def pool(rows: Sequence[Sequence[str]]) -> list[Example]:
    return [make(*row, name=number) for number, row in enumerate(rows)]


def indices(examples: Sequence[Example], shots: Sequence[Example]) -> list[int]:
    return [examples.index(shot) for shot in shots]


GOLDEN = pool(
    [
        ("per",),
        ("per", "loc"),
        (),
        ("loc",),
        ("org", "per"),
        ("per", "per"),
        ("org",),
        ("loc", "loc"),
        ("per",),
        ("org",),
    ]
)
ROWS = st.lists(st.lists(st.sampled_from(["per", "loc", "org", "day"]), max_size=4), min_size=1, max_size=25).filter(
    lambda rows: any(rows)
)


@pytest.mark.parametrize(
    ("method", "seed", "expected"),
    [
        ("at-least", 0, [1, 3, 4, 6]),
        ("at-least", 1, [1, 3, 4, 9]),
        ("exact", 0, [0, 1, 3, 4, 6, 8]),
        ("exact", 1, [1, 4, 5, 7, 8, 9]),
    ],
)
def test_golden_draws(method: str, seed: int, expected: list[int]) -> None:
    # A change of these numbers changes every published shot: never adjust them to make a change pass.
    assert indices(GOLDEN, sample_k_shot(GOLDEN, 2, seed, method=method)) == expected


def test_golden_episode() -> None:
    episode = sample_episode(GOLDEN, 2, 1, seed=3, queries=1)
    assert episode.labels == ("org", "per")
    assert [example.text.split()[0] for example in episode.support] == ["s4"]
    assert [example.text.split()[0] for example in episode.query] == ["s6", "s8"]


def test_seeds_differ() -> None:
    examples = pool([("per",)] * 50)
    draws = {tuple(indices(examples, sample_k_shot(examples, 3, seed))) for seed in range(20)}
    assert len(draws) >= 15


def test_every_sentence_can_be_drawn() -> None:
    examples = pool([("per",)] * 6)
    seen = Counter(indices(examples, sample_k_shot(examples, 1, seed))[0] for seed in range(600))
    # 100 expected each, standard deviation 9.1.
    assert sorted(seen) == list(range(6)) and min(seen.values()) > 60


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 4), st.integers(0, 5))
def test_at_least_is_enough_and_minimal(rows: list[list[str]], k: int, seed: int) -> None:
    examples = pool(rows)
    available, shots = mentions(examples), sample_k_shot(examples, k, seed)
    need = {label: min(k, number) for label, number in available.items()}
    got = mentions(shots)
    assert all(got[label] >= number for label, number in need.items())
    for gone in shots:
        left = mentions([shot for shot in shots if shot is not gone])
        assert any(left[label] < number for label, number in need.items()), "a sentence could be dropped"
    assert indices(examples, shots) == sorted(indices(examples, shots))
    assert shots == sample_k_shot(examples, k, seed)


@settings(max_examples=80, deadline=None)
@given(ROWS, st.integers(1, 3), st.integers(0, 5))
def test_exact_never_passes_k_sentences_a_label(rows: list[list[str]], k: int, seed: int) -> None:
    examples = pool(rows)
    shots = sample_k_shot(examples, k, seed, method="exact")
    chosen = indices(examples, shots)
    labels = mentions(examples)
    assert len(chosen) == len(set(chosen)) <= k * len(labels)
    for label in labels:
        holders = [example for example in examples if label in example.labels]
        held = sum(label in shot.labels for shot in shots)
        assert held >= min(k, len(holders))


def test_exact_gives_k_sentences_to_each_label_where_they_are_apart() -> None:
    examples = pool([("per", "per")] * 5 + [("loc",)] * 4 + [("org",)])
    shots = sample_k_shot(examples, 2, seed=7, method="exact")
    assert Counter(label for shot in shots for label in shot.labels) == {"per": 2, "loc": 2, "org": 1}


def test_exact_hands_a_sentence_on_where_another_label_has_no_other() -> None:
    # One assignment alone serves all: b-only sentence to b, the shared ones split between a, c.
    rows = [("a", "b"), ("a", "c"), ("b", "c")]
    for seed in range(20):
        assert len(sample_k_shot(pool(rows), 1, seed, method="exact")) == 3
    chain = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a")]
    for seed in range(20):
        assert len(sample_k_shot(pool(chain), 1, seed, method="exact")) == 4


def test_only_the_named_labels_count() -> None:
    examples = pool([("per", "loc"), ("loc",), ("org",), ("org", "per")])
    shots = sample_k_shot(examples, 1, labels=["loc"])
    assert len(shots) == 1 and "loc" in shots[0].labels
    assert shots[0] in examples  # its other spans are still there
    assert sample_k_shot(examples, 2, labels=["org", "loc"]) == sample_k_shot(examples, 2, labels=["loc", "org"])


def test_the_result_does_not_depend_on_spans_order_or_input_mutation() -> None:
    examples = list(GOLDEN)
    sample_k_shot(examples, 2, 0)
    assert examples == GOLDEN


def test_shortfalls_names_the_labels_with_too_few() -> None:
    examples = pool([("per",)] * 4 + [("loc", "loc"), ("org",)])
    shots = sample_k_shot(examples, 3)
    assert shortfalls(examples, shots, 3) == {"loc": 2, "org": 1}
    assert shortfalls(examples, shots, 1) == {}
    assert shortfalls(examples, [], 1, labels=["per"]) == {"per": 0}


@pytest.mark.parametrize("method", ["at-least", "exact"])
@pytest.mark.parametrize(
    ("rows", "k", "labels", "message"),
    [
        ([], 1, None, "at least one example"),
        ([()], 1, None, "none of the 1 examples has a span"),
        ([("per",)], 1, ["per", "loc"], "'loc' does not"),
        ([("per",)], 1, [], "at least one label"),
        ([("per",)], 1, "per", "must be a list or a mapping, got the string"),
        ([("per",)], 1, ["per", "per"], "'per' is given twice"),
    ],
)
def test_bad_requests(rows: list[tuple[str, ...]], k: int, labels: list[str] | None, message: str, method: str) -> None:
    with pytest.raises(DataError, match=message):
        sample_k_shot(pool(rows), k, labels=labels, method=method)


@pytest.mark.parametrize("method", ["at-least", "exact"])
def test_k_is_at_least_one(method: str) -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        sample_k_shot(GOLDEN, 0, method=method)


def test_unknown_method() -> None:
    with pytest.raises(ConfigError, match="at-least, exact, got 'greedy'"):
        sample_k_shot(GOLDEN, 1, method="greedy")


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 2), st.integers(0, 2), st.integers(0, 5))
def test_episode_bounds(rows: list[list[str]], k: int, queries: int, seed: int) -> None:
    # A sentence of each label alone, often enough, makes an episode possible whatever the rest is.
    examples = pool(rows + [[label] for label in ("per", "loc") for _ in range(8)])
    episode = sample_episode(examples, 2, k, seed, queries=queries)
    assert isinstance(episode, Episode) and len(episode.labels) == 2
    support, query = mentions(episode.support), mentions(episode.query)
    assert set(support) == set(episode.labels)
    assert all(k <= support[label] <= 2 * k for label in episode.labels)
    assert set(query) <= set(episode.labels)
    assert all(queries <= query[label] <= 2 * queries for label in episode.labels)
    assert not {e.text for e in episode.support} & {e.text for e in episode.query}
    assert episode == sample_episode(examples, 2, k, seed, queries=queries)


def test_episode_removes_other_labels() -> None:
    examples = pool([("per", "loc"), ("per", "org")] * 3)
    episode = sample_episode(examples, 1, 1, seed=0)
    assert {label for e in (*episode.support, *episode.query) for label in e.labels} == set(episode.labels)


@pytest.mark.parametrize(
    ("n_way", "k", "queries", "error", "message"),
    [
        (0, 1, 1, ConfigError, "n_way 0"),
        (1, 0, 1, ConfigError, "at least 1, got 0"),
        (1, 1, -1, ConfigError, "queries must be at least 0"),
        (4, 1, 1, DataError, "got 3 such labels of 3"),
        (1, 9, 1, DataError, "got 0 such labels of 3"),
    ],
)
def test_bad_episodes(n_way: int, k: int, queries: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_episode(GOLDEN, n_way, k, queries=queries)


def test_impossible_episode() -> None:
    # Every sentence lifts the label from 0 to 3, above 2K = 2.
    with pytest.raises(DataError, match="in 50 attempts"):
        sample_episode(pool([("per", "per", "per")] * 4), 1, 1, queries=0)
