"""How the model is asked for the next token of many answers: on a key-value cache, or anew each time.

With trees, one pass reads a sentence and all types asked of it. Most answer nothing; the branches that have more to say
leave the tree, each with its own columns of the cache, and go on as rows of one token a step. Knows rows and the model;
knows nothing of what tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from cllmfs.encoding.batches import Batch, Row, collate
from cllmfs.model.anchors import contrastive_states, votes
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import run


@dataclass(frozen=True)
class VoteSettings:
    """The ``layer`` and ``temperature`` that the contrastive objective worked with."""

    layer: int
    temperature: float


class Emitting(Protocol):
    """A branch while it answers: its row, its number in the row, and the tokens that it has emitted."""

    row: int
    number: int
    emitted: list[int]


class Runner(Protocol):
    """What answers are decoded on; arrays of A branches, C candidates and n sentence tokens."""

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, Tensor | None]:
        """Logits [A, C] where each branch's answer opens, and the votes [A, n] of each, on the CPU."""

    def feed(self, active: Sequence[Emitting], guesses: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits [len(active), K, C] after the last token that each active branch emitted, and after each guess.

        K is 1 or one more than the longest guess; what stands behind a shorter one means nothing. Guesses that are not
        emitted before the next call are as good as never made. The branches are among those of the call before, or a
        group of which none has been fed.
        """


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values with room behind them: a step writes its column, where the library copies them all."""

    keys: Tensor
    values: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._rooms: dict[str, Tensor] = {}

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add columns; keys and values of shape [B, heads, columns, size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._grown("keys", self.keys, key_states)
        self.values = self._grown("values", self.values, value_states)
        return self.keys, self.values

    def _grown(self, name: str, held: Tensor, new: Tensor) -> Tensor:
        before = held.shape[-2] if held.numel() else 0
        after = before + new.shape[-2]
        room = self._rooms.get(name)
        # Whoever selects rows puts a copy in the place of the room's beginning.
        if room is None or room.data_ptr() != held.data_ptr() or room.shape[-2] < after:
            room = self._rooms[name] = new.new_empty(*new.shape[:2], after + max(16, after // 4), new.shape[3])
            if before:
                room[:, :, :before] = held
        room[:, :, before:after] = new
        return room[:, :, :after]


def _roomy_cache() -> DynamicCache:
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


class _Reader:
    """The first pass, which reads the rows.

    Args:
        backbone: the model.
        batch: what is asked.
        bidirectional: attention inside the sentence block.
    """

    tree: DynamicCache | None = None  # filled by the pass, where it is wanted

    def __init__(self, backbone: Backbone, batch: Batch, bidirectional: bool) -> None:
        self.backbone = backbone
        self.batch = batch
        self.bidirectional = bidirectional

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, Tensor | None]:
        """As :meth:`Runner.first`: logits of shape [A, C], votes of shape [A, n]."""
        backbone, batch = self.backbone, self.batch
        layer = None if voting is None else voting.layer
        hidden = run(backbone, batch, self.bidirectional, layer, cache=self.tree)
        rows, columns = batch.anchors.unbind(1)
        logits = backbone.project(hidden.last[rows, columns][:, None], batch.candidates[rows])[:, 0]
        if hidden.layer is None or voting is None:
            return logits.cpu().numpy(), None
        view = contrastive_states(batch, hidden.layer)
        cast = votes(view.anchors, view.rows, view.states, view.threshold, temperature=voting.temperature)
        return logits.cpu().numpy(), cast.cpu()


class CachedRunner(_Reader):
    """Reads trees in one pass; branches that go on take their columns of the cache along and become rows.

    The backbone must take trees.
    """

    def __init__(self, backbone: Backbone, batch: Batch, bidirectional: bool) -> None:
        super().__init__(backbone, batch, bidirectional)
        self.tree: DynamicCache = DynamicCache()
        self.cache = _roomy_cache()  # of the branches in ``held``, a row each
        self.held: list[tuple[int, int]] = []  # row and number of each
        self.real = torch.empty(0, 0, dtype=torch.bool)  # [held, columns] which columns of the cache are theirs
        self.fed: dict[tuple[int, int], int] = {}  # tokens that each had emitted when it was fed last
        self.width = 0  # columns of the last pass

    def feed(self, active: Sequence[Emitting], guesses: Sequence[Sequence[int]]) -> np.ndarray:
        """As :meth:`Runner.feed`: logits of shape [len(active), K, C]."""
        wanted = [(branch.row, branch.number) for branch in active]
        if not set(wanted) <= set(self.held):
            self._leave_tree(wanted)
        else:
            self._forget_wrong_guesses(active)
            if len(wanted) * 2 <= len(self.held):  # moving the cache whenever one has finished would cost more
                self._keep(wanted)
        self.fed = {key: len(branch.emitted) for branch, key in zip(active, wanted, strict=True)}
        self.width = 1 + max(map(len, guesses))
        line = {key: number for number, key in enumerate(self.held)}
        ids, starts = np.zeros((len(line), self.width), np.int64), np.zeros((len(line), 1), np.int64)
        for branch, guessed, key in zip(active, guesses, wanted, strict=True):
            ids[line[key], : 1 + len(guessed)] = (branch.emitted[-1], *guessed)
            before = self.batch.rows[branch.row].path_length(branch.number)
            starts[line[key]] = before + len(branch.emitted) - 1
        device = self.backbone.device
        new = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        seen = torch.cat([self.real[:, None].expand(-1, self.width, -1), new.expand(len(line), -1, -1)], dim=2)
        hidden = self.backbone.forward(
            torch.from_numpy(ids).to(device),
            seen,
            torch.from_numpy(starts + np.arange(self.width)).to(device),
            cache=self.cache,
        )
        self.real = torch.cat([self.real, self.real.new_ones(len(line), self.width)], dim=1)
        lines = torch.tensor([line[key] for key in wanted], device=device)
        candidates = self.batch.candidates[torch.tensor([row for row, _ in wanted], device=device)]
        return self.backbone.project(hidden.last[lines], candidates).cpu().numpy()

    def _forget_wrong_guesses(self, active: Sequence[Emitting]) -> None:
        """Hide the columns of tokens that were fed, but not emitted."""
        kept = {(branch.row, branch.number): len(branch.emitted) for branch in active}
        right = [kept.get(key, 0) - self.fed.get(key, 0) for key in self.held]
        columns = torch.arange(self.width, device=self.real.device)
        self.real[:, -self.width :] &= columns < torch.tensor(right, device=self.real.device)[:, None]

    def _leave_tree(self, wanted: list[tuple[int, int]]) -> None:
        """Copy the prefix' and its own columns of each branch; what pads the shorter ones is seen by none."""
        own = []
        for row, number in wanted:
            tree = self.batch.rows[row]
            begin = len(tree.prefix) + sum(len(branch.ids) for branch in tree.branches[:number])
            own.append([*range(len(tree.prefix)), *range(begin, begin + len(tree.branches[number].ids))])
        width = max(map(len, own))
        device = self.backbone.device
        columns = torch.tensor([line + [0] * (width - len(line)) for line in own], device=device)
        lengths = torch.tensor([len(line) for line in own], device=device)
        rows = torch.tensor([row for row, _ in wanted], device=device)[:, None]
        self.cache = _roomy_cache()
        for layer, (keys, values, *_) in enumerate(self.tree):
            apart = (part.transpose(1, 2)[rows, columns].transpose(1, 2) for part in (keys, values))
            self.cache.update(*apart, layer)
        self.real = torch.arange(width, device=device) < lengths[:, None]
        self.held = wanted

    def _keep(self, wanted: list[tuple[int, int]]) -> None:
        """Let the finished ones leave."""
        kept = torch.tensor([self.held.index(key) for key in wanted], device=self.backbone.device)
        self.cache.batch_select_indices(kept)
        self.real = self.real[kept]
        self.held = wanted


class PlainRunner(_Reader):
    """Runs whole rows anew at every step: the reference, and the way for models without trees."""

    def feed(self, active: Sequence[Emitting], guesses: Sequence[Sequence[int]]) -> np.ndarray:
        """As :meth:`Runner.feed`, without guesses: logits of shape [len(active), 1, C]."""
        rows: dict[int, Row] = {}
        for branch in active:
            row = rows.get(branch.row, self.batch.rows[branch.row])
            part = row.branches[branch.number]
            longer = replace(part, ids=part.ids + tuple(branch.emitted), anchor=len(part.ids) + len(branch.emitted) - 1)
            parts = (*row.branches[: branch.number], longer, *row.branches[branch.number + 1 :])
            rows[branch.row] = replace(row, branches=parts)
        batch = collate(list(rows.values())).to(self.backbone.device)
        hidden = run(self.backbone, batch, self.bidirectional)
        # Anchors now stand on the last token emitted; branches that have ended keep theirs and are not read.
        first_anchor, total = {}, 0
        for number, row in rows.items():
            first_anchor[number] = total
            total += len(row.branches)
        wanted = batch.anchors[[first_anchor[branch.row] + branch.number for branch in active]]
        candidates = self.batch.candidates[[branch.row for branch in active]]
        return self.backbone.project(hidden.last[wanted[:, 0], wanted[:, 1]][:, None], candidates).cpu().numpy()
