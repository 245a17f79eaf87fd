"""Batches: rows as padded tensors, and the attention mask of trees.

This file knows rows and tensors; it knows nothing of prompts, losses or the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from cllmfs.encoding.rows import Row

Item = TypeVar("Item")

IGNORE = -100  # a target that the cross-entropy ignores
PREFIX, PADDING = -1, -2  # marks in Batch.branch


@dataclass
class Batch:
    """Rows as tensors: R rows of at most T tokens, Q answer tokens and C candidates; A branches in total.

    Attributes:
        rows: the rows.
        ids: [R, T] token ids, 0 on padding.
        positions: [R, T] position ids; those of every branch continue from the end of the prefix.
        branch: [R, T] number of the branch within its row; -1 in the prefix, -2 on padding.
        candidates: [R, C] ids that answers may contain; 0 on padding.
        query: [R, Q] column at which an answer token is predicted.
        target: [R, Q] the answer token, as an index into the candidates; -100 on padding.
        allowed: [R, Q, C] whether the automaton allows a candidate there.
        anchors: [A, 2] row and column of each branch's opening marker.
        sentence: [R, 2] column of the sentence's first token, and the number of its tokens.
        spans: [S, 3] anchor, first token and last token of each gold span; tokens are counted within the sentence.
        cases: [R, T] letter case of the sentence's tokens, 0 elsewhere; ``None`` if the base does not read it.
        labels: label of each branch.
        bidirectional: whether the tokens of a prefix attend to one another in both directions; equal for all rows.
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
    bidirectional: bool = False

    @property
    def tokens(self) -> int:
        """Number of tokens without padding."""
        return sum(map(len, self.rows))

    def to(self, device: torch.device) -> Batch:
        """A copy with every tensor on ``device``."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def collate(rows: Sequence[Row]) -> Batch:
    """Pad rows to the tensors of a :class:`Batch`, which states their shapes."""
    count, width = len(rows), max(map(len, rows))
    answers = max(1, *(sum(len(part.targets) for part in row.branches) for row in rows))
    choices = max(len(row.candidates) for row in rows)
    ids, positions, cases = (np.zeros((count, width), dtype=np.int64) for _ in range(3))
    branch = np.full((count, width), PADDING, dtype=np.int64)
    candidates = np.zeros((count, choices), dtype=np.int64)
    query = np.zeros((count, answers), dtype=np.int64)
    target = np.full((count, answers), IGNORE, dtype=np.int64)
    allowed = np.zeros((count, answers, choices), dtype=bool)
    anchors: list[tuple[int, int]] = []
    spans: list[tuple[int, int, int]] = []
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
        [part.label for row in rows for part in row.branches],
        rows[0].bidirectional,
    )


def tree_mask(branch: Tensor, bidirectional_prefix: bool) -> Tensor:
    """Which column may attend to which: a branch to the prefix and itself, never to another branch.

    Args:
        branch: [R, T] as in :class:`Batch`.
        bidirectional_prefix: whether the columns of the prefix attend to one another in both directions.

    Returns:
        [R, T, T] bool, true where the column of dimension 1 attends to the column of dimension 2. A padded column
        attends to itself alone, since a softmax needs at least one entry; no other column attends to it.
    """
    causal = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    viewer, viewed = branch[:, :, None], branch[:, None, :]
    seen = ((viewed == viewer) | (viewed == PREFIX)) & causal & (viewed != PADDING)
    if bidirectional_prefix:
        seen = seen | ((viewer == PREFIX) & (viewed == PREFIX))
    return seen | torch.eye(branch.shape[1], dtype=torch.bool, device=branch.device)


def pack(items: Iterable[Item], budget: int, length: Callable[[Item], int] = len) -> Iterator[list[Item]]:  # type: ignore[assignment]
    """Group items of similar length, such as rows, into batches of at most ``budget`` tokens, padding included.

    An item that is longer than the budget gets a batch of its own; ``length`` gives the number of tokens of an item.
    """
    group: list[Item] = []
    for item in sorted(items, key=length):
        if group and length(item) * (len(group) + 1) > budget:
            yield group
            group = []
        group.append(item)
    if group:
        yield group
