"""Rows: a sentence and the types asked of it, as token ids; batches of rows as padded tensors.

A row is a tree: a shared prefix (the sentence block), then one branch a type. Attention is causal, a branch sees the
prefix and itself, and each branch's positions go on where the prefix ends. A row with one branch is a plain sequence:
``separate`` rows are therefore the same data without sharing, and the reference that trees are tested against.

Knows prompts, tokens and the automaton; knows nothing of losses or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from cllmfs.encoding.automaton import SpanAutomaton
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.tokens import TokenizedText

Item = TypeVar("Item")

IGNORE = -100
PREFIX, PADDING = -1, -2


@dataclass(frozen=True)
class TypeQuery:
    """A type asked of a sentence.

    Attributes:
        label: the label that answers carry.
        ids: token ids of the query (:meth:`EncodedPrompt.query`).
        spans: gold answer as (first token, last token) of the sentence; ``None`` when decoding.
    """

    label: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Branch:
    """One branch of a row: what is fed and, in training, what it must answer.

    Attributes:
        label: the type's label.
        ids: prompt ids, then all of the answer but its last token.
        anchor: index in ``ids`` of the marker that opens the answer; the first answer token is predicted there.
        targets: the answer's tokens, as indices into the row's candidates; the k-th is predicted at ``anchor + k``.
        allowed: for each answer token the candidates that the automaton allowed.
        spans: gold (first, last) tokens of the sentence.
    """

    label: str
    ids: tuple[int, ...]
    anchor: int
    targets: tuple[int, ...] = ()
    allowed: tuple[tuple[int, ...], ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a batch.

    Attributes:
        prefix: ids shared by all branches; empty in type-first order.
        branches: at least one.
        sentence_at: index of the sentence's first token in the row (in type-first order within its one branch).
        sentence: the sentence's tokens.
        candidates: sorted ids that an answer may hold: the sentence's tokens and the two delimiters.
        index: the caller's number of the sentence.
        cases: letter case of the sentence's tokens, as in :class:`~cllmfs.encoding.tokens.TokenizedText`; empty for
            bases that do not read it.
    """

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]
    sentence_at: int
    sentence: TokenizedText
    candidates: tuple[int, ...]
    index: int = 0
    cases: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)

    def path_length(self, number: int) -> int:
        """Tokens from the row's beginning to the end of a branch, other branches left out."""
        return len(self.prefix) + len(self.branches[number].ids)


class RowBuilder:
    """Builds rows from a tokenised sentence and the types asked of it.

    Args:
        prompt: the base's prompt in ids.
        order: ``sentence-first`` or ``type-first``.
        tree: one row a sentence; else one row a type. ``type-first`` is never a tree.
        nested: whether answers may hold nested spans.
    """

    def __init__(self, prompt: EncodedPrompt, order: str, tree: bool, nested: bool = False) -> None:
        self.prompt = prompt
        self.order = order
        self.tree = tree and order == "sentence-first"
        self.nested = nested

    def automaton(self, sentence: TokenizedText) -> SpanAutomaton:
        """The answer language of a sentence."""
        return SpanAutomaton(
            sentence.ids, sentence.start_ok, sentence.end_ok, self.prompt.next_id, self.prompt.end_id, self.nested
        )

    def rows(self, sentence: TokenizedText, queries: Sequence[TypeQuery], index: int = 0) -> list[Row]:
        """The row (tree) or rows (separate) of one sentence, none without queries; gold spans must be emittable."""
        if not queries:
            return []
        prompt = self.prompt
        automaton = None if all(query.spans is None for query in queries) else self.automaton(sentence)
        candidates = tuple(sorted({*sentence.ids, prompt.next_id, prompt.end_id}))
        local = {token: position for position, token in enumerate(candidates)}
        cases = sentence.cases if prompt.template.letter_case else ()
        block = (*prompt.before, *sentence.ids, *prompt.after)
        made = []
        for query in queries:
            head = (*query.ids, *prompt.open)
            if self.order == "type-first":
                head = (*prompt.bos, *query.ids, *block, *prompt.open)
            made.append(_branch(query, head, automaton, local))
        if self.order == "type-first":
            starts = [len(prompt.bos) + len(query.ids) + len(prompt.before) for query in queries]
            return [
                Row((), (branch,), start, sentence, candidates, index, cases)
                for branch, start in zip(made, starts, strict=True)
            ]
        prefix = (*prompt.bos, *block)
        start = len(prompt.bos) + len(prompt.before)
        groups = [tuple(made)] if self.tree else [(branch,) for branch in made]
        return [Row(prefix, group, start, sentence, candidates, index, cases) for group in groups]


def _branch(query: TypeQuery, head: tuple[int, ...], automaton: SpanAutomaton | None, local: dict[int, int]) -> Branch:
    if query.spans is None or automaton is None:
        return Branch(query.label, head, len(head) - 1)
    steps = automaton.path(query.spans)
    answer = tuple(token for token, _ in steps)
    return Branch(
        query.label,
        head + answer[:-1],
        len(head) - 1,
        tuple(local[token] for token in answer),
        tuple(tuple(local[token] for token in choices) for _, choices in steps),
        tuple(query.spans),
    )


@dataclass
class Batch:
    """Rows as tensors: R rows of T tokens, Q answer tokens and C candidates at most, A branches in all.

    Attributes:
        rows: the rows.
        ids: [R, T] token ids, 0 on padding.
        positions: [R, T] position ids; branches go on where the prefix ends.
        branch: [R, T] number of the branch within its row, -1 in the prefix, -2 on padding.
        candidates: [R, C] ids that answers may hold, 0 on padding.
        query: [R, Q] column at which an answer token is predicted.
        target: [R, Q] index into the candidates; -100 on padding.
        allowed: [R, Q, C] candidates that the automaton allows.
        anchors: [A, 2] row and column of each branch's opening marker.
        sentence: [R, 2] column of the sentence's first token, and its number of tokens.
        spans: [S, 3] anchor, first and last token of each gold span, in tokens of the sentence.
        cases: [R, T] letter case of the sentence's tokens, 0 elsewhere; ``None`` for bases that do not read it.
        labels: label of each branch.
    """

    rows: Sequence[Row]
    ids: Tensor
    positions: Tensor
    branch: Tensor
    candidates: Tensor
    query: Tensor
    target: Tensor
    allowed: Tensor
    anchors: Tensor
    sentence: Tensor
    spans: Tensor
    cases: Tensor | None = None
    labels: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Real tokens, padding left out."""
        return sum(map(len, self.rows))

    def to(self, device: torch.device) -> Batch:
        """A copy with every tensor on ``device``."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Batch(rows=self.rows, labels=self.labels, **moved)


def collate(rows: Sequence[Row]) -> Batch:
    """Pad rows to a batch; see :class:`Batch` for shapes such as [R, T]."""
    width = max(len(row) for row in rows)
    answers = max(max((sum(len(b.targets) for b in row.branches) for row in rows), default=0), 1)
    choices = max(len(row.candidates) for row in rows)
    count = len(rows)
    ids = np.zeros((count, width), dtype=np.int64)
    positions = np.zeros((count, width), dtype=np.int64)
    branch = np.full((count, width), PADDING, dtype=np.int64)
    candidates = np.zeros((count, choices), dtype=np.int64)
    query = np.zeros((count, answers), dtype=np.int64)
    target = np.full((count, answers), IGNORE, dtype=np.int64)
    allowed = np.zeros((count, answers, choices), dtype=bool)
    anchors: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int]] = []
    labels: list[str] = []
    cases = np.zeros((count, width), dtype=np.int64)
    for r, row in enumerate(rows):
        shared = len(row.prefix)
        ids[r, :shared] = row.prefix
        positions[r, :shared] = np.arange(shared)
        branch[r, :shared] = PREFIX
        cases[r, row.sentence_at : row.sentence_at + len(row.cases)] = row.cases
        candidates[r, : len(row.candidates)] = row.candidates
        at, step = shared, 0
        for b, part in enumerate(row.branches):
            end = at + len(part.ids)
            ids[r, at:end] = part.ids
            positions[r, at:end] = np.arange(shared, shared + len(part.ids))
            branch[r, at:end] = b
            for k, (wanted, open_to) in enumerate(zip(part.targets, part.allowed, strict=True)):
                query[r, step] = at + part.anchor + k
                target[r, step] = wanted
                allowed[r, step, list(open_to)] = True
                step += 1
            spans += [(len(anchors), first, last) for first, last in part.spans]
            anchors.append((r, at + part.anchor))
            labels.append(part.label)
            at = end
    return Batch(
        rows,
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(branch),
        torch.from_numpy(candidates),
        torch.from_numpy(query),
        torch.from_numpy(target),
        torch.from_numpy(allowed),
        torch.tensor(anchors, dtype=torch.long).reshape(-1, 2),
        torch.tensor([(row.sentence_at, len(row.sentence)) for row in rows], dtype=torch.long),
        torch.tensor(spans, dtype=torch.long).reshape(-1, 3),
        torch.from_numpy(cases) if any(row.cases for row in rows) else None,
        labels,
    )


def tree_mask(branch: Tensor, bidirectional_prefix: bool) -> Tensor:
    """Which column may see which.

    Args:
        branch: [R, T] as in :class:`Batch`.
        bidirectional_prefix: the prefix sees itself in both directions.

    Returns:
        [R, T, T] bool, True where the row's column (dim 1) sees the column of dim 2. Nothing sees padding but padding
        itself, so that no softmax runs over nothing.
    """
    width = branch.shape[1]
    order = torch.arange(width, device=branch.device)
    causal = order[:, None] >= order[None, :]
    viewer, viewed = branch[:, :, None], branch[:, None, :]
    seen = ((viewed == viewer) | (viewed == PREFIX)) & causal & (viewed != PADDING)
    if bidirectional_prefix:
        seen = seen | ((viewer == PREFIX) & (viewed == PREFIX))
    return seen | torch.eye(width, dtype=torch.bool, device=branch.device)


def pack(items: Iterable[Item], budget: int, length: Callable[[Item], int] = len) -> Iterator[list[Item]]:  # type: ignore[assignment]
    """Group rows of like length into batches of at most ``budget`` tokens, padding included; longer rows go alone.

    Args:
        items: rows, or what stands for them.
        budget: tokens.
        length: tokens of a row.
    """
    group: list[Item] = []
    for item in sorted(items, key=length):
        if group and length(item) * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def split_queries(queries: Sequence[TypeQuery], budget: int) -> Iterator[tuple[TypeQuery, ...]]:
    """Queries in groups that fit a row: hundreds of types would make one row, and its attention mask, huge."""
    group: list[TypeQuery] = []
    used = 0
    for query in queries:
        if group and used + len(query.ids) + 8 > budget:
            yield tuple(group)
            group, used = [], 0
        group.append(query)
        used += len(query.ids) + 8
    if group:
        yield tuple(group)
