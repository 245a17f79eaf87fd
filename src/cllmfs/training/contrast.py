"""Contrastive losses on hidden states.

This file knows tensors only, as gathered in :class:`~cllmfs.model.anchors.ContrastiveBatch`. Everything is computed in
fp32, even inside an autocast region. Losses and gradients are finite on every degenerate batch: no anchors, no spans,
one class, one token, all tokens gold, identical states, zero vectors. States at padded positions have no influence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.errors import ConfigError
from cllmfs.model.anchors import ContrastiveBatch, cosine, full_precision, similarity

# A logit that is masked out. Finite, so that a row in which everything is masked still has finite gradients.
_MASKED = -1e30


def infonce(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """Type-anchored InfoNCE over sentence positions with a no-entity threshold, after Binder (arXiv 2208.14565).

    For each anchor, and separately for starts and ends, a softmax of cosine / temperature runs over the threshold and
    the tokens. Two terms are added. In the first, each gold position must win while the other gold positions are masked
    out; the mean is taken over the anchor's gold positions, and the term is absent where there are none. In the second,
    the threshold must win while all gold positions are masked out. The result is the mean over anchors, and over starts
    and ends: a scalar in fp32, which is 0, but has a graph, if there are no anchors.
    """
    zero = _zero(batch)
    if batch.anchors.shape[0] == 0:
        return zero
    with full_precision(batch.states):
        states = _real_states(batch)
        logits = similarity(batch.anchors, batch.rows, states) / temperature
        level = cosine(batch.anchors, batch.threshold[batch.rows]) / temperature
        valid = batch.valid[batch.rows]
        total = zero
        for gold in (batch.starts, batch.ends):
            # The threshold is among the negatives in both terms, so one logsumexp serves both.
            others = torch.cat([level[:, None], logits.masked_fill(~valid | gold, _MASKED)], dim=1)
            negatives = others.logsumexp(1)
            wins = F.softplus(negatives[:, None] - logits)  # = logaddexp(negatives, logit) - logit
            positive = wins.masked_fill(~gold, 0.0).sum(1) / gold.sum(1).clamp(min=1)
            total = total + (positive + negatives - level).mean()
        return total / 2


def ancestor(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """The boundary contrast of the public method that this one grew out of, over all gold spans and real negatives.

    For each gold span the loss is -log sigmoid(P - N). P is the sum of cos(anchor, token) over its first and last
    token; the only token of a one-token span counts twice. N is the same sum over the two tokens before the span and
    the two after it, without those outside the sentence or inside a gold span of the anchor. The result is the mean
    over spans: a scalar in fp32, which is 0, but has a graph, if there are no spans. ``temperature`` is unused; it is
    there so that all forms are called alike.
    """
    zero = _zero(batch)
    if batch.spans.shape[0] == 0:
        return zero
    with full_precision(batch.states):
        cosine = similarity(batch.anchors, batch.rows, _real_states(batch))
        anchor, first, last = batch.spans.unbind(1)
        allowed = (batch.valid[batch.rows] & ~batch.covered)[anchor]
        around = torch.stack([first - 2, first - 1, last + 1, last + 2], dim=1)
        inside = (around >= 0) & (around < allowed.shape[1])
        around = around.clamp(0, allowed.shape[1] - 1)
        keep = inside & allowed.gather(1, around)
        negatives = cosine[anchor].gather(1, around).masked_fill(~keep, 0.0).sum(1)
        positives = cosine[anchor, first] + cosine[anchor, last]
        return zero + F.softplus(negatives - positives).mean()


# Other forms of the contrastive loss were measured and found worse (``benchmarks/ablation``).
FORMS: dict[str, Callable[..., Tensor]] = {"ancestor": ancestor, "infonce": infonce}


def contrastive_loss(form: str, batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """The loss named ``form``, one of :data:`FORMS`, as a scalar in fp32.

    Raises:
        ConfigError: if there is no such form, or the temperature is not above 0.
    """
    if form not in FORMS:
        raise ConfigError(f"the contrastive form must be one of {', '.join(FORMS)}, got {form!r}; choose one of them")
    if not temperature > 0:
        raise ConfigError(f"the temperature must be above 0, got {temperature!r}; 0.1 is usual")
    return FORMS[form](batch, temperature=temperature)


def cross_view(clean: ContrastiveBatch, perturbed: ContrastiveBatch, form: str, *, temperature: float) -> Tensor:
    """The loss between two views of a batch: anchors of each view against states and thresholds of the other.

    Both views must have the same rows, types and spans. The result is the mean of both directions, a scalar in fp32. It
    raises what :func:`contrastive_loss` raises.
    """
    forth = contrastive_loss(form, replace(perturbed, anchors=clean.anchors), temperature=temperature)
    back = contrastive_loss(form, replace(clean, anchors=perturbed.anchors), temperature=temperature)
    return (forth + back) / 2


def _zero(batch: ContrastiveBatch) -> Tensor:
    """0 with a graph to every state, so that ``backward`` works; summing empty slices keeps NaN and overflow out."""
    return batch.states[:0].float().sum() + batch.threshold[:0].float().sum() + batch.anchors[:0].float().sum()


def _real_states(batch: ContrastiveBatch) -> Tensor:
    """``[R, n, d]`` in fp32 with zeros at padding; they are filled in, not multiplied, because padding may hold NaN."""
    return batch.states.float().masked_fill(~batch.valid[..., None], 0.0)
