"""Rows for a GLiNER out of the sources of cllmfs-mini: a sentence, its mentions, and the types asked of it.

The sets, their weights and their types' names are those of ``mini``, whose folder must be on the path. How
types are asked is GLiNER's way: all present ones and a random number of absent ones, many at once.

Knows the training sets; knows nothing of GLiNER but the form of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mini.augment import pick, shuffled
from mini.data import LOWER_CASE_SHARE, PLAIN_NAME_SHARE, Source, pick_item, pick_source


def drawn_row(sources: Sequence[Source], types: int, seed: int, index: int) -> dict[str, Any]:
    """Row number ``index`` as GLiNER takes it: words, mentions (first word, last word, name) and the names asked.

    A function of the arguments alone; at most ``types`` types are asked.
    """
    rng = np.random.default_rng((seed, index))
    source = pick_source(sources, rng)
    item = pick_item(source, rng)
    inside = {label for _, _, label in item.spans}
    absent = shuffled(rng, [label for label in source.labels if label not in inside])
    # A sentence without mentions is asked something, too.
    count = max(int(rng.random() * (max(types - len(inside), 0) + 1)), int(not inside))
    names: dict[str, str] = {}
    for label in [*sorted(inside), *absent[:count]]:
        options = source.types[label].names
        name = options[0] if rng.random() < PLAIN_NAME_SHARE else pick(rng, options)
        # Two types never go by one name: the later is not asked.
        if name.casefold() not in {other.casefold() for other in names.values()}:
            names[label] = name
    words = [word.lower() for word in item.tokens] if rng.random() < LOWER_CASE_SHARE else item.tokens
    mentions = [(start, end - 1, names[label]) for start, end, label in item.spans if label in names]
    return {"tokenized_text": words, "ner": mentions, "ner_labels": shuffled(rng, list(names.values()))}


def drawn_rows(sources: Sequence[Source], steps: int, batch_size: int, types: int, seed: int) -> list[dict[str, Any]]:
    """The rows of all steps in order; of eight steps those of like length share a batch, or most would be padding."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    for first in range(0, steps, 8):
        count = min(8, steps - first)
        numbers = range(first * batch_size, (first + count) * batch_size)
        drawn = sorted((drawn_row(sources, types, seed, n) for n in numbers), key=lambda r: len(r["tokenized_text"]))
        for batch in rng.permutation(count):
            rows += drawn[batch * batch_size : (batch + 1) * batch_size]
    return rows
