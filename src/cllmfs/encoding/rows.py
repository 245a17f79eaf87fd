"""Rows: a sentence and the queries for types in it, as token ids.

A row is a tree: a shared prefix (the sentence), then one branch for each type. A branch attends to the prefix and to
itself, never to another branch. A row with a single branch is a plain sequence; such rows contain the same data without
sharing, and are the reference that trees are tested against. This file knows no tokenizer, no tensor and no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cllmfs.encoding.automaton import SpanAutomaton
from cllmfs.encoding.tokens import TokenizedText


@dataclass(frozen=True)
class TypeQuery:
    """A query for one type.

    Attributes:
        label: the label that answers carry.
        ids: token ids of the query (:meth:`~cllmfs.encoding.prompts.EncodedPrompt.query`).
        spans: the gold answer as (first, last) tokens of the sentence, both inclusive; ``None`` when decoding.
    """

    label: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Request:
    """A sentence and the queries whose answers are to be decoded."""

    sentence: TokenizedText
    queries: tuple[TypeQuery, ...]


@dataclass(frozen=True)
class Branch:
    """One branch of a row: the tokens that the model reads and, in training, those that it must predict.

    Attributes:
        label: the type's label.
        ids: everything that is read before the answer (``head`` of :meth:`of`), then all answer tokens but the last.
        anchor: index in ``ids`` of the marker that opens the answer; the first answer token is predicted there.
        targets: the answer's tokens, as indices into the row's candidates; the k-th is predicted at ``anchor + k``.
        allowed: for each answer token, the candidates that the automaton allows.
        spans: gold spans as (first, last) tokens of the sentence.
    """

    label: str
    ids: tuple[int, ...]
    anchor: int
    targets: tuple[int, ...] = ()
    allowed: tuple[tuple[int, ...], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, query: TypeQuery, head: tuple[int, ...], automaton: SpanAutomaton, local: dict[int, int]) -> Branch:
        """The branch of a query, with or without a gold answer.

        Args:
            head: the tokens that the model reads before the answer, without the row's prefix.
            local: the index of each token id among the row's candidates.
        """
        if query.spans is None:
            return cls(query.label, head, len(head) - 1)
        steps = automaton.path(query.spans)
        answer = tuple(token for token, _ in steps)
        targets = tuple(local[token] for token in answer)
        allowed = tuple(tuple(local[token] for token in choices) for _, choices in steps)
        return cls(query.label, head + answer[:-1], len(head) - 1, targets, allowed, query.spans)


@dataclass(frozen=True)
class Row:
    """A row of a batch.

    Attributes:
        prefix: ids shared by all branches; empty in type-first order.
        branches: at least one.
        sentence_at: index of the sentence's first token in the row (in type-first order, within its one branch).
        candidates: sorted ids that an answer may contain: the sentence's tokens and the two delimiters.
        index: the caller's number for the sentence.
        cases: :attr:`TokenizedText.cases` of the sentence; empty for bases that do not read letter case.
        bidirectional: whether the tokens of the prefix attend to one another in both directions.
    """

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    sentence_at: int
    sentence: TokenizedText
    candidates: tuple[int, ...]
    automaton: SpanAutomaton = field(compare=False)
    index: int = 0
    cases: tuple[int, ...] = ()
    bidirectional: bool = False

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)

    def path_length(self, number: int) -> int:
        """Tokens from the beginning of the row to the end of a branch, without the other branches."""
        return len(self.prefix) + len(self.branches[number].ids)


def split_queries(queries: Sequence[TypeQuery], budget: int) -> Iterator[tuple[TypeQuery, ...]]:
    """Split queries into groups of about ``budget`` tokens: a row of hundreds of types has a huge attention mask."""
    group: list[TypeQuery] = []
    used = 0
    for query in queries:
        cost = len(query.ids) + 8  # room for the opening marker and a short answer
        if group and used + cost > budget:
            yield tuple(group)
            group, used = [], 0
        group.append(query)
        used += cost
    if group:
        yield tuple(group)
