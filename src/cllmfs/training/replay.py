"""General sentences that are mixed into training, so that a base does not forget other types while it learns a few.

This is rehearsal against forgetting (Robins 1995; with tiny memories arXiv 1902.10486): every step also contains other
sentences and types, which were written for this package and ship with it. This file knows the encoder; it knows nothing
of shots or losses.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Row
from cllmfs.schema import Span


@dataclass(frozen=True)
class AskedType:
    """A type that a general sentence is asked for; ``spans`` is empty where the sentence does not mention it."""

    name: str
    description: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class GeneralSentence:
    """A sentence and the types that it is asked for."""

    text: str
    types: tuple[AskedType, ...]


@lru_cache(maxsize=1)
def general_sentences() -> tuple[GeneralSentence, ...]:
    """All sentences that ship with the package."""
    return tuple(parse_sentences((files("cllmfs.training") / "replay.jsonl").read_text(encoding="utf-8")))


def parse_sentences(lines: str) -> Iterator[GeneralSentence]:
    """Sentences from JSON lines with ``text`` and ``types``: name, description if any, and ``[start, end]`` spans."""
    for line in lines.splitlines():
        record, types = json.loads(line), []
        for kind in record["types"]:
            spans = tuple(Span(start, end, kind["name"]) for start, end in kind["spans"])
            types.append(AskedType(kind["name"], kind.get("description", ""), spans))
        yield GeneralSentence(record["text"], tuple(types))


@dataclass(eq=False)
class Replay:
    """The general sentences of every step, as a function of the step's number.

    They come in an order that is drawn from the seed, and that then repeats. Those too long for the base are left out.
    """

    encoder: Encoder
    count: int  # sentences in a step
    seed: int
    sentences: Sequence[GeneralSentence] | None = None  # ``None``: those that ship with the package

    def __post_init__(self) -> None:
        every = general_sentences() if self.sentences is None else self.sentences
        self.order = random.Random(f"{self.seed}/replay").sample(every, len(every))

    def __call__(self, step: int) -> list[Row]:
        """The rows of a step."""
        numbers = range(step * self.count, (step + 1) * self.count)
        return [row for number in numbers for row in self._rows(self.order[number % len(self.order)])]

    def _rows(self, sentence: GeneralSentence) -> list[Row]:
        tokens = self.encoder.tokenize(sentence.text)
        queries = []
        for kind in sentence.types:
            gold = self.encoder.answers(tokens, kind.spans).get(kind.name, ())
            queries.append(self.encoder.query(kind.name, kind.name, kind.description, gold))
        rows = self.encoder.rows(tokens, queries)
        longest = max(len(row.prefix) + max(len(branch.ids) for branch in row.branches) for row in rows)
        return rows if longest <= self.encoder.max_positions else []
