"""Anchors and the states that they are compared with: their cosine similarities, and the votes derived from them.

An anchor is the hidden state of the marker that opens a type's answer. The contrastive objective trains it to resemble
the first and last tokens of the type's mentions; in prediction, the same similarities vote on spans. Everything is
computed in fp32, even inside an autocast region.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.encoding.batches import Batch

_SHORTEST = 1e-6  # vectors shorter than this have no direction: their cosine with anything is 0, without a gradient


def full_precision(like: Tensor) -> torch.autocast:
    """Turn autocast off on the device of ``like``, a tensor of any shape, so that products are computed in fp32."""
    return torch.autocast(device_type=like.device.type, enabled=False)


def unit(vectors: Tensor) -> Tensor:
    """Vectors ``[n, d]`` scaled to length 1, in fp32; one without a direction becomes 0, without a gradient."""
    vectors = vectors.float()
    square = vectors.square().sum(-1, keepdim=True)
    short = square <= _SHORTEST**2
    return vectors * square.masked_fill(short, 1.0).rsqrt().masked_fill(short, 0.0)


def cosine(left: Tensor, right: Tensor) -> Tensor:
    """The cosine of each pair of vectors: ``[n, d], [n, d] -> [n]``, or any other shape that ends in d."""
    return (unit(left) * unit(right)).sum(-1)


def similarity(anchors: Tensor, rows: Tensor, states: Tensor) -> Tensor:
    """The cosine of each anchor with every position of its own row: ``[A, d], [A], [R, n, d] -> [A, n]``.

    Gathering the states of each anchor's row would copy ``[A, n, d]``. Instead, the anchors are laid out as
    ``[R, K, d]`` for one batched product, where K is the largest number of anchors in a row.
    """
    if rows.shape[0] == 0:
        return states.new_zeros(0, states.shape[1], dtype=torch.float32)
    # The slot of an anchor is its number within its row: the count of the row's anchors up to this one, less one.
    seen = F.one_hot(rows, states.shape[0]).cumsum(0)
    slot = seen.gather(1, rows[:, None]).squeeze(1) - 1
    queries, keys = unit(anchors), unit(states)
    layout = queries.new_zeros(states.shape[0], int(slot.max()) + 1, states.shape[2]).index_put((rows, slot), queries)
    return torch.bmm(layout, keys.transpose(1, 2))[rows, slot]


def votes(anchors: Tensor, rows: Tensor, states: Tensor, threshold: Tensor, *, temperature: float) -> Tensor:
    """How much more each anchor resembles a position of its sentence than the no-entity position.

    Args:
        anchors, rows, states, threshold: as in :class:`ContrastiveBatch`.
        temperature: above 0; that of the training.

    Returns:
        ``[A, n]`` fp32, (cos(anchor, state) - cos(anchor, threshold)) / temperature; meaningless at padding.
    """
    with full_precision(states):
        level = cosine(anchors, threshold[rows])
        return (similarity(anchors, rows, states) - level[:, None]) / temperature


def span_votes(votes_by_type: Tensor, first: Tensor, last: Tensor, types: Tensor) -> Tensor:
    """The log share of each span's type in a softmax over all types asked of the sentence and "no entity".

    The logit of a type is the mean of its :func:`votes` at the span's first and last token; that of "no entity" is 0.

    Args:
        votes_by_type: ``[T, n]``, the votes of all T types asked of one sentence.
        first, last: ``[S]`` long, the first and last token of each span, both inclusive.
        types: ``[S]`` long, the type of each span, counted along ``votes_by_type``.

    Returns:
        ``[S]`` fp32, the logarithm of the share, at most 0.
    """
    logits = (votes_by_type[:, first] + votes_by_type[:, last]).float() / 2  # [T, S]
    shares = F.pad(logits, (0, 0, 0, 1)).log_softmax(0)
    return shares[types, torch.arange(len(types), device=types.device)]


@dataclass(frozen=True)
class ContrastiveBatch:
    """The hidden states of a batch of sentences and of the types asked of them.

    An anchor is one type asked of one sentence, so each pair of row and type occurs at most once. Spans must lie on
    real tokens. All tensors are on one device; states may have any floating dtype.

    Args:
        states: ``[R, n, d]``, the sentence tokens of each row, padded on either side.
        valid: ``[R, n]`` bool, true at real sentence tokens.
        threshold: ``[R, d]``, the no-entity position of each row, which precedes the sentence.
        anchors: ``[A, d]``, the opening marker of each branch.
        rows: ``[A]`` long, the row of each anchor.
        types: ``[A]`` long, the number of the type, which is the same in all rows.
        spans: ``[S, 3]`` long: anchor, first token, last token (inclusive) of every gold span.

    Raises:
        ValueError: if the shapes do not fit together.
    """

    states: Tensor
    valid: Tensor
    threshold: Tensor
    anchors: Tensor
    rows: Tensor
    types: Tensor
    spans: Tensor

    def __post_init__(self) -> None:
        if self.states.dim() != 3:
            raise ValueError(f"states must be [R, n, d], got {list(self.states.shape)}")
        (count, length, width), asked = self.states.shape, self.rows.shape[0]
        wanted = {
            "valid": (count, length),
            "threshold": (count, width),
            "anchors": (asked, width),
            "rows": (asked,),
            "types": (asked,),
            "spans": (self.spans.shape[0], 3),
        }
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name} must be {shape} beside states {(count, length, width)}, got {found}")

    @property
    def starts(self) -> Tensor:
        """``[A, n]`` bool, true where a gold span of the anchor starts."""
        return self._edges(1)

    @property
    def ends(self) -> Tensor:
        """``[A, n]`` bool, true where a gold span of the anchor ends."""
        return self._edges(2)

    @property
    def covered(self) -> Tensor:
        """``[A, n]`` bool, true inside any gold span of the anchor."""
        anchor, first, last = self.spans.unbind(1)
        position = torch.arange(self.states.shape[1], device=self.states.device)
        inside = (position >= first[:, None]) & (position <= last[:, None])
        count = inside.new_zeros(self.anchors.shape[0], position.shape[0], dtype=torch.long)
        return count.index_add(0, anchor, inside.long()) > 0

    def _edges(self, column: int) -> Tensor:
        mask = torch.zeros(self.anchors.shape[0], self.states.shape[1], dtype=torch.bool, device=self.states.device)
        mask[self.spans[:, 0], self.spans[:, column]] = True
        return mask


def contrastive_states(batch: Batch, states: Tensor) -> ContrastiveBatch:
    """Gather the states of the sentences, thresholds and anchors from the states [R, T, d] of one layer."""
    count = int(batch.sentence[:, 1].max()) if len(batch.rows) else 0
    offsets = torch.arange(max(count, 1), device=states.device)
    columns = (batch.sentence[:, :1] + offsets).clamp(max=states.shape[1] - 1)  # [R, n]
    rows = torch.arange(len(batch.rows), device=states.device)
    numbers = {label: number for number, label in enumerate(dict.fromkeys(batch.labels))}
    types = torch.tensor([numbers[label] for label in batch.labels], device=states.device)
    return ContrastiveBatch(
        states=states[rows[:, None], columns],
        valid=offsets < batch.sentence[:, 1:],
        threshold=states[rows, (batch.sentence[:, 0] - 1).clamp(min=0)],
        anchors=states[batch.anchors[:, 0], batch.anchors[:, 1]],
        rows=batch.anchors[:, 0],
        types=types,
        spans=batch.spans,
    )
