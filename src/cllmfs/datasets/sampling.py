"""Draws a few labeled sentences from many: greedy K-shot sets, exactly-K sets, N-way K~2K episodes.

Knows examples and their labels; knows nothing of files, tokenizers or models. A draw depends on the order of the
examples, the seed and the arguments, and on nothing else: sentences are sorted by the SHA-256 of (seed, purpose, index)
instead of being shuffled by :mod:`random`, whose methods may change between Python versions, and no loop runs over a
set. Therefore one seed gives the same shots on every machine and with every Python version.

Identical sentences are not merged; remove duplicates first if that matters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cllmfs.errors import ConfigError, DataError
from cllmfs.schema import Example, LabelSet, mentions

METHODS = ("at-least", "exact")

# Number of attempts at an episode: an attempt fails if a label cannot reach K before another label exceeds 2K.
_EPISODE_ATTEMPTS = 50


@dataclass(frozen=True)
class Episode:
    """An N-way K~2K-shot task.

    Attributes:
        labels: the N labels, sorted by name.
        support: sentences to learn from, in the order of the data, with the spans of ``labels`` only.
        query: sentences to test on, likewise; none of them is in ``support``.
    """

    labels: tuple[str, ...]
    support: tuple[Example, ...]
    query: tuple[Example, ...]


def sample_k_shot(
    examples: Sequence[Example], k: int, seed: int = 0, *, method: str = "at-least", labels: Iterable[str] | None = None
) -> list[Example]:
    """Draw K shots of each label.

    ``at-least`` is the greedy sampling of Yang & Katiyar 2020 (arXiv 2010.02405): from the rarest label to the most
    frequent, sentences with the label are added until it has K mentions, where all mentions in an added sentence count;
    then every sentence without which each label still has its K mentions is removed. ``exact`` draws K distinct
    sentences for each label; a sentence is drawn for one label only, and is reassigned to another label if that label
    could not reach K otherwise.

    A label with fewer than K shots in the data gets all of them; :func:`shortfalls` lists such labels.

    Args:
        examples: the pool; with ``at-least`` a shot is a mention, with ``exact`` a sentence.
        k: number of shots of each label, at least 1.
        labels: the labels to draw for; all that occur if ``None``. The sentences keep their spans of other labels.

    Returns:
        The sentences drawn, unchanged, in the order of ``examples``.

    Raises:
        ConfigError: if k is below 1 or the method is unknown.
        DataError: if there are no examples or no spans, or a label does not occur or is given twice.
    """
    if method not in METHODS:
        raise ConfigError(f"the sampling method must be one of {', '.join(METHODS)}, got {method!r}")
    counts = [mentions([example]) for example in examples]
    wanted = _wanted(counts, k, labels)
    draw = _draw_at_least if method == "at-least" else _draw_exact
    return [examples[index] for index in draw(counts, k, seed, wanted)]


def shortfalls(
    examples: Iterable[Example], shots: Iterable[Example], k: int, *, labels: Iterable[str] | None = None
) -> dict[str, int]:
    """The labels with fewer than K mentions in the shots, sorted, each with its number of mentions there, perhaps 0.

    Args:
        examples: the pool from which the shots were drawn.
        labels: the labels to check; all labels of ``examples`` if ``None``.
    """
    names = mentions(examples) if labels is None else set(labels)
    totals = mentions(shots)
    return {label: totals[label] for label in sorted(names) if totals[label] < k}


def sample_episode(examples: Sequence[Example], n_way: int, k: int, seed: int = 0, *, queries: int = 1) -> Episode:
    """Draw an N-way K~2K-shot episode (Few-NERD, Ding et al. 2021, arXiv 2105.07464).

    N labels are drawn; then sentences are read in random order, and a sentence is taken if it has a label that is still
    below K mentions and raises no label above 2K. The query set is drawn likewise from the other sentences, with
    ``queries`` in place of K. Spans of other labels are removed.

    Args:
        examples: the pool.
        n_way: number of labels, at least 1.
        k: mentions of each label in the support set, between K and 2K; at least 1.
        queries: mentions of each label in the query set, between Q and 2Q; 0 for no query set.

    Raises:
        ConfigError: if a number is out of range.
        DataError: if there are fewer than ``n_way`` labels with enough mentions, or no such episode was found in 50
            attempts.
    """
    if n_way < 1:
        raise ConfigError(f"an episode needs at least 1 label, got n_way {n_way}")
    if queries < 0:
        raise ConfigError(f"queries must be at least 0, got {queries}")
    counts, totals = [mentions([example]) for example in examples], mentions(examples)
    _wanted(counts, k, None)
    able = [label for label in sorted(totals) if totals[label] >= k + queries]
    if len(able) < n_way:
        raise DataError(
            f"{n_way} labels need at least {k + queries} mentions each ({k} support, {queries} query), "
            f"got {len(able)} such labels of {len(totals)}; lower n_way, k or queries, or add data"
        )
    for attempt in range(_EPISODE_ATTEMPTS):
        order = sorted(able, key=lambda label: _key(seed, f"labels{attempt}", label))
        chosen = tuple(sorted(order[:n_way]))
        support = _draw_bounded(counts, chosen, k, seed, f"support{attempt}", frozenset())
        if support is None:
            continue
        query = _draw_bounded(counts, chosen, queries, seed, f"query{attempt}", frozenset(support))
        if query is not None:
            return Episode(chosen, _keep(examples, support, chosen), _keep(examples, query, chosen))
    raise DataError(
        f"no episode of {n_way} labels with {k} to {2 * k} support and {queries} to {2 * queries} query mentions each "
        f"was found in {_EPISODE_ATTEMPTS} attempts; lower n_way, k or queries, or add data"
    )


def _key(seed: int, purpose: str, item: int | str) -> bytes:
    """Sort key of an item: uniformly distributed, without ties, the same on every platform."""
    return hashlib.sha256(f"{seed}\x1f{purpose}\x1f{item}".encode()).digest()


def _shuffled(indices: Iterable[int], seed: int, purpose: str) -> list[int]:
    return sorted(indices, key=lambda index: _key(seed, purpose, index))


def _wanted(counts: Sequence[Mapping[str, int]], k: int, labels: Iterable[str] | None) -> list[str]:
    """The labels to draw for, sorted by name, after the checks that all draws have in common."""
    if k < 1:
        raise ConfigError(f"k, the number of shots of each label, must be at least 1, got {k}")
    if not counts:
        raise DataError("shots are drawn from at least one example, got none")
    present = {label for count in counts for label in count}
    if labels is None:
        if not present:
            raise DataError(f"shots are drawn by label, but none of the {len(counts)} examples has a span; label some")
        return sorted(present)
    wanted = sorted(LabelSet(labels))
    if unknown := [label for label in wanted if label not in present]:
        raise DataError(
            f"each label must occur in the examples; {', '.join(map(repr, unknown))} does not; "
            f"the labels that occur are: {', '.join(sorted(present)) or 'none'}",
            field="labels",
        )
    return wanted


def _draw_at_least(counts: Sequence[Mapping[str, int]], k: int, seed: int, wanted: list[str]) -> list[int]:
    """Indices of a greedy K-shot set, ascending."""
    available, have = Counter[str](), Counter[str]()
    for count in counts:
        available.update(count)
    target = {label: min(k, available[label]) for label in wanted}
    chosen: dict[int, None] = {}  # a dict keeps the order of insertion, which a set does not
    for label in sorted(wanted, key=lambda name: (available[name], name)):
        holders = (index for index, count in enumerate(counts) if label in count)
        for index in _shuffled(holders, seed, "at-least"):
            if have[label] >= target[label]:
                break
            if index not in chosen:
                chosen[index] = None
                have.update(counts[index])
    # Counts only decrease from here on, so a sentence that is needed now stays needed: one pass removes all others.
    for index in list(chosen):
        count = counts[index]
        if all(have[label] - count.get(label, 0) >= target[label] for label in wanted):
            del chosen[index]
            have.subtract(count)
    return sorted(chosen)


def _draw_exact(counts: Sequence[Mapping[str, int]], k: int, seed: int, wanted: list[str]) -> list[int]:
    """Indices of K sentences for each label, each sentence owned by one label, ascending."""
    holders = {
        label: _shuffled((index for index, count in enumerate(counts) if label in count), seed, "exact")
        for label in wanted
    }
    owner: dict[int, str] = {}

    def claim(label: str, visited: dict[str, None]) -> bool:
        """Give ``label`` one more sentence: a free one, else one whose owner can get another (augmenting path)."""
        visited[label] = None
        for index in holders[label]:
            if index not in owner:
                owner[index] = label
                return True
        for index in holders[label]:
            if owner[index] not in visited and claim(owner[index], visited):
                owner[index] = label
                return True
        return False

    for label in sorted(wanted, key=lambda name: (len(holders[name]), name)):
        for _ in range(k):
            if not claim(label, {}):
                break
    return sorted(owner)


def _draw_bounded(
    counts: Sequence[Mapping[str, int]], labels: tuple[str, ...], k: int, seed: int, purpose: str, taken: frozenset[int]
) -> list[int] | None:
    """Indices of sentences with K to 2K mentions of each label, ascending; ``None`` if this order gives no such set.

    Counts only increase, so a sentence that was refused would be refused again: one pass is enough.
    """
    have = Counter(dict.fromkeys(labels, 0))
    chosen: list[int] = []
    holders = (i for i, count in enumerate(counts) if i not in taken and any(label in count for label in labels))
    for index in _shuffled(holders, seed, purpose):
        if all(number >= k for number in have.values()):
            break
        inside = {label: counts[index][label] for label in labels if label in counts[index]}
        useful = any(have[label] < k for label in inside)
        if useful and all(have[label] + number <= 2 * k for label, number in inside.items()):
            chosen.append(index)
            have.update(inside)
    return sorted(chosen) if all(number >= k for number in have.values()) else None


def _keep(examples: Sequence[Example], indices: Iterable[int], labels: tuple[str, ...]) -> tuple[Example, ...]:
    """The examples at the indices with only the spans of the labels."""
    return tuple(
        replace(examples[index], spans=tuple(span for span in examples[index].spans if span.label in labels))
        for index in indices
    )
