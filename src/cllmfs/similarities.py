"""Cosine similarities of hidden states, and the votes on spans that are made of them.

Knows tensors only. Everything is computed in fp32, also inside an autocast region.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Vectors shorter than this have no direction: their cosine with anything is 0 and no gradient reaches them.
_SHORTEST = 1e-6


def full_precision(like: Tensor) -> torch.autocast:
    """Products inside run in fp32 even in an autocast region, on the device of a tensor of any shape."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``[n, d]`` at length 1, in fp32; 0 with zero gradient where there is no direction."""
    vectors = vectors.float()
    square = vectors.square().sum(-1, keepdim=True)
    short = square <= _SHORTEST**2
    return vectors * square.masked_fill(short, 1.0).rsqrt().masked_fill(short, 0.0)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of vectors pair by pair: ``[n, d], [n, d] -> [n]``, or any other shape that ends in d."""
    return (unit(left) * unit(right)).sum(-1)


def similarity(anchors: Tensor, rows: Tensor, states: Tensor) -> Tensor:
    """Cosine of each anchor with every position of its own row: ``[A, d], [A], [R, n, d] -> [A, n]``.

    Anchors are laid out as ``[R, most of a row, d]`` for one batched product, which copies no states per anchor.
    """
    if rows.shape[0] == 0:
        return states.new_zeros(0, states.shape[1], dtype=torch.float32)
    seen = F.one_hot(rows, states.shape[0]).cumsum(0)
    slot = seen.gather(1, rows[:, None]).squeeze(1) - 1
    queries, keys = unit(anchors), unit(states)
    layout = queries.new_zeros(states.shape[0], int(slot.max()) + 1, states.shape[2]).index_put((rows, slot), queries)
    return torch.bmm(layout, keys.transpose(1, 2))[rows, slot]


def votes(anchors: Tensor, rows: Tensor, states: Tensor, threshold: Tensor, *, temperature: float) -> Tensor:
    """How much more an anchor resembles each position of its sentence than the no-entity position.

    Args:
        anchors: ``[A, d]``.
        rows: ``[A]`` long, the row of each anchor.
        states: ``[R, n, d]``.
        threshold: ``[R, d]``.
        temperature: above 0, the one trained with.

    Returns:
        ``[A, n]`` fp32, (cos(anchor, state) - cos(anchor, threshold)) / temperature; meaningless at padding.
    """
    with full_precision(states):
        level = cosine(anchors, threshold[rows])
        return (similarity(anchors, rows, states) - level[:, None]) / temperature


def span_votes(cast: Tensor, first: Tensor, last: Tensor, types: Tensor) -> Tensor:
    """How the similarities share a span out among its type, the other types asked, and no entity at all.

    A type's logit is the mean of what :func:`votes` gives its anchor at the span's first and last token; that of no
    entity is 0.

    Args:
        cast: ``[T, n]``, the votes of all T types asked of one sentence.
        first: ``[S]`` long, first tokens of spans.
        last: ``[S]`` long, last tokens, inclusive.
        types: ``[S]`` long, the type of each span, counted along ``cast``.

    Returns:
        ``[S]`` fp32, the log of the share of the span's own type, at most 0.
    """
    logits = (cast[:, first] + cast[:, last]).float() / 2  # [T, S]
    shares = F.pad(logits, (0, 0, 0, 1)).log_softmax(0)
    return shares[types, torch.arange(len(types), device=types.device)]
