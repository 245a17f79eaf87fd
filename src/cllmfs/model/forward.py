"""A batch through the model: as trees, as one joined row, or as plain rows; and the mixed-precision region.

Knows batches and the backbone; knows nothing of losses, answers or optimisers.
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
    """The mixed-precision region of a device: bf16 where it computes in bf16 natively, unless fp32 is asked for."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported()
    else:
        # AVX-512 alone computes bf16 slower than fp32 (measured: 144 against 226 GFLOP/s); tile units are faster.
        native = device.type == "cpu" and bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    if precision == "fp32" or (precision == "auto" and not native):
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def run(
    backbone: Backbone,
    batch: Batch,
    bidirectional: bool,
    layer: int | None = None,
    embeds: Tensor | None = None,
    cache: DynamicCache | None = None,
) -> Hidden:
    """Pass a batch through the model, as trees or, where the model cannot take them, as plain rows.

    Args:
        backbone: the model.
        batch: R rows of T tokens.
        bidirectional: attention inside the sentence block.
        layer: index of the hidden states wanted beside the last ones.
        embeds: [R, T, d] input embeddings instead of the batch's ids.
        cache: an empty one to fill.

    Raises:
        ValueError: if the model takes no trees and a row has several branches.
    """
    if backbone.takes_trees():
        if cache is None and _worth_joining(backbone, batch):
            return _run_joined(backbone, batch, bidirectional, layer, embeds)
        mask, positions = tree_mask(batch.branch, bidirectional), batch.positions
    elif len(batch.labels) > len(batch.rows):
        raise ValueError(f"{backbone.name} takes no trees, but a row has several branches; build rows with tree=False")
    else:
        mask, positions = batch.branch != PADDING, None
    ids = batch.ids if embeds is None else None
    return backbone.forward(ids, mask, positions, embeds=embeds, cache=cache, layer=layer, cases=batch.cases)


def _worth_joining(backbone: Backbone, batch: Batch) -> bool:
    """Whether a single row saves more padding than it adds attention between rows.

    In multiplications of a layer: 12 d^2 a token against 2 d a pair of columns, which took half as long again each
    (``docs/log.md``).
    """
    rows, width = batch.branch.shape
    real = batch.tokens
    return real**2 - rows * width**2 < 4 * backbone.width * (rows * width - real)


def _run_joined(
    backbone: Backbone, batch: Batch, bidirectional: bool, layer: int | None, embeds: Tensor | None
) -> Hidden:
    """:func:`run` with all rows end to end in one, blind to each other; the states of padding are zeros."""
    row, column = (batch.branch != PADDING).nonzero(as_tuple=True)
    seen = tree_mask(batch.branch, bidirectional)[row[:, None], column[:, None], column] & (row[:, None] == row)

    def joined(padded: Tensor) -> Tensor:
        return padded[row, column][None]

    def parted(states: Tensor) -> Tensor:
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
