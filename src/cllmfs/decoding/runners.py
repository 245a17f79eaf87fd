"""Runners compute the next logits of many answers at once, with a key-value cache or by running whole rows again.

With trees, one pass reads a sentence and all of its queries. Most types have an empty answer. The other branches leave
the tree, each with a copy of its own columns of the cache, and continue as rows of a few tokens a step. This file knows
rows and the model; it knows nothing of what tokens mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from cllmfs.encoding.batches import Batch, collate
from cllmfs.encoding.rows import Row
from cllmfs.model.anchors import contrastive_states, votes
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import forward_batch


@dataclass(frozen=True)
class VoteSettings:
    """The ``layer`` and ``temperature`` that the contrastive objective was trained with."""

    layer: int
    temperature: float


class Emitting(Protocol):
    """A branch while it is decoded: its row, its number in the row, and the tokens emitted so far."""

    row: int
    number: int
    emitted: list[int]


class Runner(Protocol):
    """Runs answers on a model; its arrays have A branches, C candidates and n sentence tokens."""

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, Tensor | None]:
        """Logits [A, C] at the opening of each answer, and votes [A, n], ``None`` without ``voting``; on the CPU."""

    def feed(self, active: Sequence[Emitting], guesses: Sequence[Sequence[int]]) -> np.ndarray:
        """Logits [len(active), K, C] after the last token that each active branch emitted, and after each guess.

        Guesses are tokens that a branch may emit next; one that it does not emit before the next call is forgotten. K
        is 1, or one more than the length of the longest list; the entries after the end of a shorter one are
        meaningless. ``active`` is a part of the branches of the previous call, or a new group that was never fed.
        """


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the cache with spare columns: a step writes only new columns, where transformers would copy all."""

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
        # After a selection of rows, ``held`` is a copy and no longer a view of the room: a new room is then made.
        if room is None or room.data_ptr() != held.data_ptr() or room.shape[-2] < after:
            room = self._rooms[name] = new.new_empty(*new.shape[:2], after + max(16, after // 4), new.shape[3])
            if before:
                room[:, :, :before] = held
        room[:, :, before:after] = new
        return room[:, :, :after]


def roomy_cache() -> DynamicCache:
    """An empty cache whose layers keep spare columns."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = _RoomyLayer
    return cache


@dataclass(eq=False)
class _Reader:
    """The first pass, which all runners share."""

    backbone: Backbone
    batch: Batch
    tree: DynamicCache | None = field(default=None, init=False)  # filled by the first pass, where it is wanted

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, Tensor | None]:
        """As :meth:`Runner.first`: logits of shape [A, C], votes of shape [A, n]."""
        batch, layer = self.batch, voting.layer if voting else None
        hidden = forward_batch(self.backbone, batch, layer, cache=self.tree)
        rows, columns = batch.anchors.unbind(1)
        logits = self.backbone.project(hidden.last[rows, columns][:, None], batch.candidates[rows])[:, 0]
        if hidden.layer is None or voting is None:
            return logits.cpu().numpy(), None
        view = contrastive_states(batch, hidden.layer)
        cast = votes(view.anchors, view.rows, view.states, view.threshold, temperature=voting.temperature)
        return logits.cpu().numpy(), cast.cpu()


class CachedRunner(_Reader):
    """Reads trees, which the backbone must take, in one pass; branches that go on become rows with their own cache."""

    def __init__(self, backbone: Backbone, batch: Batch) -> None:
        super().__init__(backbone, batch)
        self.tree: DynamicCache = DynamicCache()
        self.cache = roomy_cache()  # one row for each branch in ``held``
        self.held: list[tuple[int, int]] = []  # row and number of each branch
        self.real = torch.empty(0, 0, dtype=torch.bool)  # [held, columns]: the columns that belong to a branch
        self.fed: dict[tuple[int, int], int] = {}  # tokens that each branch had emitted when it was last fed
        self.width = 0  # columns of the last pass

    def feed(self, active: Sequence[Emitting], guesses: Sequence[Sequence[int]]) -> np.ndarray:
        """As :meth:`Runner.feed`: logits of shape [len(active), K, C]."""
        device = self.backbone.device
        emitted = {(branch.row, branch.number): len(branch.emitted) for branch in active}
        wanted = list(emitted)
        if not set(wanted) <= set(self.held):
            self._leave_tree(wanted)
        else:
            # The columns of tokens that were fed but not emitted are masked.
            right = [emitted.get(key, 0) - self.fed.get(key, 0) for key in self.held]
            columns = torch.arange(self.width, device=device)
            self.real[:, -self.width :] &= columns < torch.tensor(right, device=device)[:, None]
            if len(wanted) * 2 <= len(self.held):  # copying the cache whenever one branch finishes would cost more
                left = torch.tensor([self.held.index(key) for key in wanted], device=device)
                self.cache.batch_select_indices(left)
                self.real, self.held = self.real[left], wanted
        self.fed, self.width = emitted, 1 + max(map(len, guesses))
        line = {key: number for number, key in enumerate(self.held)}
        ids, starts = np.zeros((len(line), self.width), np.int64), np.zeros((len(line), 1), np.int64)
        for branch, guessed, key in zip(active, guesses, wanted, strict=True):
            ids[line[key], : 1 + len(guessed)] = (branch.emitted[-1], *guessed)
            before = self.batch.rows[branch.row].path_length(branch.number)
            starts[line[key]] = before + len(branch.emitted) - 1
        new = torch.ones(self.width, self.width, dtype=torch.bool, device=device).tril()
        seen = torch.cat([self.real[:, None].expand(-1, self.width, -1), new.expand(len(line), -1, -1)], dim=2)
        positions = torch.from_numpy(starts + np.arange(self.width)).to(device)
        hidden = self.backbone.forward(torch.from_numpy(ids).to(device), seen, positions, cache=self.cache)
        self.real = torch.cat([self.real, self.real.new_ones(len(line), self.width)], dim=1)
        lines = torch.tensor([line[key] for key in wanted], device=device)
        candidates = self.batch.candidates[torch.tensor([row for row, _ in wanted], device=device)]
        return self.backbone.project(hidden.last[lines], candidates).cpu().numpy()

    def _leave_tree(self, wanted: list[tuple[int, int]]) -> None:
        """Copy the columns of the prefix and of each branch; the padding of shorter branches is masked for all."""
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
        self.cache = roomy_cache()
        for layer, (keys, values, *_) in enumerate(self.tree):
            apart = (part.transpose(1, 2)[rows, columns].transpose(1, 2) for part in (keys, values))
            self.cache.update(*apart, layer)
        self.real = torch.arange(width, device=device) < lengths[:, None]
        self.held = wanted


class PlainRunner(_Reader):
    """Runs whole rows again at every step; it is the reference, and serves models that take no trees."""

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
        hidden = forward_batch(self.backbone, batch)
        # Anchors now mark the last emitted token; those of branches that have ended are not used.
        sizes = (len(row.branches) for row in rows.values())
        first_anchor = dict(zip(rows, accumulate(sizes, initial=0), strict=False))
        wanted = batch.anchors[[first_anchor[branch.row] + branch.number for branch in active]]
        candidates = self.batch.candidates[[branch.row for branch in active]]
        return self.backbone.project(hidden.last[wanted[:, 0], wanted[:, 1]][:, None], candidates).cpu().numpy()
