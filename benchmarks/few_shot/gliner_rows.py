"""Training rows for GLiNER from the sources of cllmfs-mini: a sentence, its mentions and the types asked of it.

The data sets, their weights and the names of their types are those of :mod:`mini`. The types are asked in GLiNER's way:
many at once, namely all types in the sentence and a random number of others.

Knows the training sets; knows nothing of GLiNER except the form of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mini.augment import pick, shuffled
from mini.data import LOWER_CASE_SHARE, PLAIN_NAME_SHARE, Source, pick_item, pick_source


def drawn_row(sources: Sequence[Source], types: int, seed: int, index: int) -> dict[str, Any]:
    """Row number ``index`` in GLiNER's form: words, mentions (first word, last word, name) and the names asked.

    The row depends on the arguments alone. At most ``types`` types are asked, unless the sentence has more.
    """
    rng = np.random.default_rng((seed, index))
    source = pick_source(sources, rng)
    item = pick_item(source, rng)
    inside = {label for _, _, label in item.spans}
    absent = shuffled(rng, [label for label in source.labels if label not in inside])
    # A sentence without mentions is asked at least one type.
    count = max(int(rng.random() * (max(types - len(inside), 0) + 1)), int(not inside))
    names: dict[str, str] = {}
    for label in [*sorted(inside), *absent[:count]]:
        options = source.types[label].names
        name = options[0] if rng.random() < PLAIN_NAME_SHARE else pick(rng, options)
        # Two types must not share a name: the second one is not asked.
        if name.casefold() not in {other.casefold() for other in names.values()}:
            names[label] = name
    words = [word.lower() for word in item.tokens] if rng.random() < LOWER_CASE_SHARE else item.tokens
    mentions = [(start, end - 1, names[label]) for start, end, label in item.spans if label in names]
    return {"tokenized_text": words, "ner": mentions, "ner_labels": shuffled(rng, list(names.values()))}


def drawn_rows(sources: Sequence[Source], steps: int, batch_size: int, types: int, seed: int) -> list[dict[str, Any]]:
    """The rows of all steps in order; within eight steps, rows of similar length share a batch to avoid padding."""
    rows: list[dict[str, Any]] = []
    rng = np.random.default_rng(seed)
    for first in range(0, steps, 8):
        count = min(8, steps - first)
        numbers = range(first * batch_size, (first + count) * batch_size)
        drawn = sorted((drawn_row(sources, types, seed, n) for n in numbers), key=lambda r: len(r["tokenized_text"]))
        for batch in rng.permutation(count):
            rows += drawn[batch * batch_size : (batch + 1) * batch_size]
    return rows
