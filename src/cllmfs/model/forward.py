"""Passes batches through the model, as trees, as one joined row, or as plain rows; and chooses the precision.

This file knows batches and the backbone; it knows nothing of losses, answers or optimizers.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cllmfs.encoding.batches import PADDING, Batch, tree_mask
from cllmfs.model.backbone import Backbone, Hidden


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The mixed-precision region of a device; ``auto`` means bf16 if the device computes in it natively, else fp32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        # AVX-512 alone computes bf16 slower than fp32 (measured: 144 against 226 GFLOP/s); AMX tiles are faster.
        native = device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    if precision == "fp32" or (precision == "auto" and not native):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def forward_batch(
    backbone: Backbone,
    batch: Batch,
    layer: int | None = None,
    embeds: Tensor | None = None,
    cache: DynamicCache | None = None,
    *,
    join: bool | None = None,
) -> Hidden:
    """Pass a batch through the model: as trees or, where the model takes none, as plain rows.

    Args:
        batch: R rows of T tokens.
        layer: index of the hidden states that are returned in addition to the last ones.
        embeds: [R, T, d] input embeddings in place of the batch's ids.
        cache: an empty one, to be filled.
        join: put all rows end to end into one (trees only, without a cache); ``None`` does so where it saves work.

    Raises:
        ValueError: if the model takes no trees and a row has several branches.
    """
    if backbone.takes_trees():
        if cache is None and (saves_work(backbone, batch) if join is None else join):
            return _forward_joined(backbone, batch, layer, embeds)
        mask, positions = tree_mask(batch.branch, batch.bidirectional), batch.positions
    elif len(batch.labels) > len(batch.rows):
        raise ValueError(f"{backbone.name} takes no trees, but a row has several branches; encode with tree=False")
    else:
        mask, positions = batch.branch != PADDING, None
    ids = batch.ids if embeds is None else None
    return backbone.forward(ids, mask, positions, embeds=embeds, cache=cache, layer=layer, cases=batch.cases)


def saves_work(backbone: Backbone, batch: Batch) -> bool:
    """Whether one joined row saves more on padding than it costs in attention between rows.

    In each layer a token costs 12 d^2 multiplications, and a pair of columns 2 d. Those of attention were measured to
    take 1.5 times as long (``docs/log.md``), so a token costs as much as 4 d pairs.
    """
    (rows, width), real = batch.branch.shape, batch.tokens
    return real**2 - rows * width**2 < 4 * backbone.width * (rows * width - real)


def _forward_joined(backbone: Backbone, batch: Batch, layer: int | None, embeds: Tensor | None) -> Hidden:
    """:func:`forward_batch` with all rows end to end in one, masked from each other; the states of padding are zeros.

    Rows of different lengths are padded to the longest, and every padded token costs as much as a real one. One row
    that contains all R rows without their padding costs only the real tokens, plus attention that the mask discards.
    """
    row, column = (batch.branch != PADDING).nonzero(as_tuple=True)  # [N] each: the N real tokens, row by row
    seen = tree_mask(batch.branch, batch.bidirectional)[row[:, None], column[:, None], column] & (row[:, None] == row)

    def joined(padded: Tensor) -> Tensor:  # [R, T, ...] to [1, N, ...]
        return padded[row, column][None]

    def parted(states: Tensor) -> Tensor:  # [1, N, d] to [R, T, d]
        padded = states.new_zeros(*batch.branch.shape, states.shape[-1])
        padded[row, column] = states[0]
        return padded

    hidden = backbone.forward(
        joined(batch.ids) if embeds is None else None,
        seen[None],
        joined(batch.positions),
        embeds=None if embeds is None else joined(embeds),
        layer=layer,
        cases=None if batch.cases is None else joined(batch.cases),
    )
    return Hidden(parted(hidden.last), None if hidden.layer is None else parted(hidden.layer))
