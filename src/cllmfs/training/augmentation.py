"""Varying the shots: another mention of the same type in the place of one, so that few sentences show more.

Works on texts and spans. Knows nothing of tokens or models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cllmfs.schema import Example, Span


def mention_pool(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """The different mentions of each label, in the order in which they occur."""
    pool: dict[str, dict[str, None]] = {}
    for example in examples:
        for span in example.spans:
            pool.setdefault(span.label, {})[example.text[span.start : span.end]] = None
    return {label: tuple(mentions) for label, mentions in pool.items()}


def swap_mentions(example: Example, pool: Mapping[str, Sequence[str]], rate: float, rng: random.Random) -> Example:
    """The example with each mention, at the probability ``rate``, replaced by another of its label.

    Mentions that overlap others stay as they are: what a nested span would cover afterwards is anybody's guess.
    """
    text, spans, at = "", [], 0
    free = [span for span in example.spans if not any(_overlap(span, other) for other in example.spans)]
    moved: dict[Span, Span] = {}
    for span in free:
        others = pool.get(span.label, ())
        old = example.text[span.start : span.end]
        new = rng.choice(others) if others and rng.random() < rate else old
        text += example.text[at : span.start] + new
        moved[span] = Span(len(text) - len(new), len(text), span.label)
        at = span.end
    text += example.text[at:]
    shift = 0
    for span in example.spans:
        if span in moved:
            shift = moved[span].end - span.end
        spans.append(moved.get(span) or Span(span.start + shift, span.end + shift, span.label))
    return replace(example, text=text, spans=tuple(spans), token_offsets=None)


def _overlap(one: Span, other: Span) -> bool:
    return one.key != other.key and one.start < other.end and other.start < one.end
