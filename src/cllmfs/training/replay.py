"""General sentences mixed into training, so that a base does not unlearn to find spans while it learns a few types.

Rehearsal against forgetting (Robins 1995; with tiny memories arXiv 1902.10486): every step also asks types of other
sentences, which were written for this package and ship with it. Knows rows and the model's prompt; knows nothing of
shots or losses.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from cllmfs.encoding.batches import Row, RowBuilder, TypeQuery
from cllmfs.encoding.tokens import align, tokenize
from cllmfs.model.backbone import Backbone
from cllmfs.schema import Span


@dataclass(frozen=True)
class AskedType:
    """A type asked of a general sentence; ``spans`` is empty where the sentence does not mention it."""

    name: str
    description: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class GeneralSentence:
    """A sentence and the types asked of it."""

    text: str
    types: tuple[AskedType, ...]


@lru_cache(maxsize=1)
def general_sentences() -> tuple[GeneralSentence, ...]:
    """All sentences that ship with the package."""
    lines = (files("cllmfs.training") / "replay.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(
        GeneralSentence(
            record["text"],
            tuple(
                AskedType(
                    kind["name"],
                    kind.get("description", ""),
                    tuple(Span(start, end, kind["name"]) for start, end in kind["spans"]),
                )
                for kind in record["types"]
            ),
        )
        for record in map(json.loads, lines)
    )


class Replay:
    """The general sentences of every step, as a function of the step's number.

    All sentences come in an order drawn from the seed, then again in the same order.

    Args:
        backbone: encodes texts and queries; sentences that outgrow its positions are left out.
        builder: makes the rows.
        count: sentences a step.
        seed: of the order.
    """

    def __init__(self, backbone: Backbone, builder: RowBuilder, count: int, seed: int) -> None:
        self.backbone = backbone
        self.builder = builder
        self.count = count
        self.order = random.Random(f"{seed}/replay").sample(general_sentences(), len(general_sentences()))

    def __call__(self, step: int) -> list[Row]:
        """The rows of a step."""
        numbers = range(step * self.count, (step + 1) * self.count)
        return [row for number in numbers for row in self._rows(self.order[number % len(self.order)])]

    def _rows(self, sentence: GeneralSentence) -> list[Row]:
        tokens = tokenize(self.backbone.tokenizer, sentence.text)
        automaton = self.builder.automaton(tokens)
        queries = []
        for kind in sentence.types:
            aligned, _ = align(tokens, kind.spans)
            gold = automaton.emittable((first, last) for first, last, _ in aligned)
            ids = self.backbone.prompt.query(kind.name, kind.description)
            queries.append(TypeQuery(kind.name, tuple(ids), tuple(gold)))
        rows = self.builder.rows(tokens, queries)
        longest = (len(row.prefix) + max(len(branch.ids) for branch in row.branches) for row in rows)
        return rows if max(longest) <= self.backbone.max_positions else []
