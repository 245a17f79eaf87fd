"""Contrastive losses on hidden states.

Knows tensors only: hidden states, masks and index tensors, as gathered in :class:`ContrastiveBatch`. Knows no model, no
configuration object, no tokeniser and no entity type beyond its number. Everything is computed in fp32, also inside an
autocast region, and is finite with finite gradients on every degenerate batch: no anchors, no spans, one class, one
token, all tokens gold, identical states, zero vectors. States at padded positions never matter, whatever they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.errors import ConfigError
from cllmfs.model.anchors import ContrastiveBatch, cosine, full_precision, similarity, unit, votes

# A logit that is masked out. Finite, so that a row in which everything is masked still has finite gradients.
_MASKED = -1e30


def infonce(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """Type-anchored InfoNCE over sentence positions with a no-entity threshold, after Binder (arXiv 2208.14565).

    For each anchor and separately for starts and ends, a softmax of cosine / temperature over {threshold, tokens}. Two
    terms are added: each gold position must win with the other gold positions masked out (mean over the anchor's gold
    positions; absent where there are none), and the threshold must win with all gold positions masked out. For an
    anchor with no gold span the second term is the whole loss. Mean over anchors; starts and ends are averaged.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no anchors.
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
            # The threshold is always among the negatives, so their logsumexp is taken once for both terms.
            others = torch.cat([level[:, None], logits.masked_fill(~valid | gold, _MASKED)], dim=1)
            negatives = others.logsumexp(1)
            wins = F.softplus(negatives[:, None] - logits)  # = logaddexp(negatives, logit) - logit
            positive = wins.masked_fill(~gold, 0.0).sum(1) / gold.sum(1).clamp(min=1)
            total = total + (positive + negatives - level).mean()
        return total / 2


def ancestor(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """Boundary contrast of the method's public ancestor, repaired: every gold span counts, negatives are real ones.

    For each gold span: -log sigmoid(sum of cos(anchor, first and last token) - sum of cos(anchor, the two tokens before
    and the two after)). The only token of a one-token span counts twice. Left out of the negatives: positions outside
    the sentence or inside another gold span of the anchor. Mean over spans. ``temperature`` is unused; it is there so
    that all forms are called alike.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no spans.
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


def span(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """InfoNCE of an anchor with whole spans: a gold span against its near misses and against spans of other types.

    A span is the mean of its tokens' states. Negatives of a gold span: the spans that differ from it by at most one
    token at either edge; its first and its last token alone; the gold spans of other types in the row. Left out: what
    reaches outside the sentence and what is itself a gold span of the anchor. A span that is gold for several other
    types counts once for each of them. Mean over spans; one without negatives costs 0.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no spans.
    """
    zero = _zero(batch)
    if batch.spans.shape[0] == 0:
        return zero
    with full_precision(batch.states):
        anchor, first, last = batch.spans.unbind(1)
        row = batch.rows[anchor]
        gold = _pooled(batch, row, first, last)
        near, real = _near_misses(batch)
        flat = near.flatten(0, 1)
        # What is not real may reach outside the sentence: pooling then sees no token and yields a zero vector.
        missed = _pooled(batch, row.repeat_interleave(near.shape[1]), flat[:, 0], flat[:, 1]).view(*near.shape[:2], -1)
        query = unit(batch.anchors)[anchor]
        to_gold = query @ unit(gold).T / temperature
        to_near = (query[:, None] * unit(missed)).sum(-1) / temperature
        other = (row[:, None] == row) & (batch.types[anchor][:, None] != batch.types[anchor]) & ~_own(batch)
        negatives = torch.cat([to_near.masked_fill(~real, _MASKED), to_gold.masked_fill(~other, _MASKED)], dim=1)
        return zero + F.softplus(negatives.logsumexp(1) - to_gold.diagonal()).mean()


def symmetric(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """:func:`infonce`, which asks what positions are of a type, and its mirror, which asks what type a span is of.

    The mirror is the cross-entropy of what :func:`~cllmfs.model.anchors.span_votes` decides by, a softmax over the
    row's anchors and no entity. A gold span must go to its anchor (other anchors that it is gold for are masked out),
    its near misses (as in :func:`span`) to no entity; the means of both are averaged and added.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no anchors.
    """
    positions = infonce(batch, temperature=temperature)
    if batch.spans.shape[0] == 0:
        return positions
    with full_precision(batch.states):
        cast = votes(batch.anchors, batch.rows, _real_states(batch), batch.threshold, temperature=temperature)  # [A, n]
        anchor = batch.spans[:, 0]
        near, real = _near_misses(batch)
        places = torch.cat([batch.spans[:, None, 1:], near], dim=1).clamp(0, batch.states.shape[1] - 1)  # [S, 11, 2]
        logits = cast.T[places].mean(2)  # [S, 11, A]
        own = F.one_hot(anchor, len(batch.anchors)).bool()  # [S, A]
        gold = (_same_place(batch).float() @ own.float()) > 0
        elsewhere = batch.rows[anchor][:, None] != batch.rows
        logits = logits.masked_fill(elsewhere[:, None], _MASKED)
        logits[:, 0] = logits[:, 0].masked_fill(gold & ~own, _MASKED)
        log_shares = F.pad(logits, (0, 1)).log_softmax(2)
        hits = -log_shares[:, 0].gather(1, anchor[:, None]).mean()
        misses = -log_shares[:, 1:, -1].masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)
        return positions + (hits + misses) / 2


def supcon(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """Supervised contrastive loss across the batch by type (arXiv 2004.11362, its L_out), over pooled gold spans.

    Anchors are not used. A span with no partner of its type contributes nothing; mean over the others.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if no type has two spans.
    """
    return _supcon(batch, batch, temperature=temperature, same_view=True)


FORMS: dict[str, Callable[..., Tensor]] = {
    "ancestor": ancestor,
    "infonce": infonce,
    "span": span,
    "supcon": supcon,
    "symmetric": symmetric,
}


def contrastive_loss(form: str, batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """The loss named ``form``, one of :data:`FORMS`, as a scalar in fp32.

    Raises:
        ConfigError: if there is no such form, or the temperature is not above 0.
    """
    _check(form, temperature)
    return FORMS[form](batch, temperature=temperature)


def cross_view(clean: ContrastiveBatch, perturbed: ContrastiveBatch, form: str, *, temperature: float) -> Tensor:
    """The loss between two views of one batch: anchors of one against states and thresholds of the other, both ways.

    Both must have the same rows, types and spans. ``supcon``, which has no anchors, contrasts the spans of one view
    with those of the other; there a span's own counterpart is a positive too, so that no span is without partner.

    Returns:
        The mean of both directions, a scalar in fp32.

    Raises:
        ConfigError: if there is no such form, or the temperature is not above 0.
    """
    _check(form, temperature)
    total = torch.zeros((), device=clean.states.device)
    for one, two in ((clean, perturbed), (perturbed, clean)):
        if form == "supcon":
            total = total + _supcon(one, two, temperature=temperature, same_view=False)
        else:
            total = total + FORMS[form](replace(two, anchors=one.anchors), temperature=temperature)
    return total / 2


def _check(form: str, temperature: float) -> None:
    if form not in FORMS:
        raise ConfigError(f"the contrastive form must be one of {', '.join(FORMS)}, got {form!r}; choose one of them")
    if not temperature > 0:
        raise ConfigError(f"the temperature must be above 0, got {temperature!r}; 0.1 is usual")


def _supcon(queries: ContrastiveBatch, keys: ContrastiveBatch, *, temperature: float, same_view: bool) -> Tensor:
    """Spans of one view against those of another; within one view a span is not compared with itself."""
    zero = _zero(queries) + _zero(keys)
    if queries.spans.shape[0] == 0:
        return zero
    with full_precision(queries.states):
        anchor, first, last = queries.spans.unbind(1)
        row, kind = queries.rows[anchor], queries.types[anchor]
        query, key = (unit(_pooled(batch, row, first, last)) for batch in (queries, keys))
        itself = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device) & same_view
        partner = (kind[:, None] == kind) & ~itself
        logits = (query @ key.T / temperature).masked_fill(itself, _MASKED)
        costs = (logits.logsumexp(1, keepdim=True) - logits).masked_fill(~partner, 0.0)
        partners = partner.sum(1)
        return zero + (costs.sum(1) / partners.clamp(min=1)).sum() / (partners > 0).sum().clamp(min=1)


def _near_misses(batch: ContrastiveBatch) -> tuple[Tensor, Tensor]:
    """Spans that a decoder takes for a gold span: ``[S, 10, 2]`` first and last token, ``[S, 10]`` whether they count.

    Eight differ by at most one token at either edge (shorter, longer, shifted); two are the first and the last token
    alone, where the span is longer than two tokens and these are not among the eight.
    """
    first, last = batch.spans[:, 1], batch.spans[:, 2]
    row = batch.rows[batch.spans[:, 0]]
    moves = [(left, right) for left in (-1, 0, 1) for right in (-1, 0, 1) if (left, right) != (0, 0)]
    edges = [torch.stack([first + left, last + right], dim=1) for left, right in moves]
    near = torch.stack([*edges, torch.stack([first, first], dim=1), torch.stack([last, last], dim=1)], dim=1)
    length = batch.states.shape[1]
    real = (near[..., 0] <= near[..., 1]) & (near[..., 0] >= 0) & (near[..., 1] < length)
    real[:, len(moves) :] &= (last - first > 1)[:, None]
    real &= batch.valid[row[:, None, None], near.clamp(0, length - 1)].all(-1)
    # Gold of this type is no negative; gold of another type in the row is one already.
    gold = (near[:, :, None] == batch.spans[:, 1:]).all(-1) & (row[:, None] == row)[:, None]
    return near, real & ~gold.any(-1)


def _own(batch: ContrastiveBatch) -> Tensor:
    """``[S, S]`` bool: do the positions of the second span make a gold span of the first one's anchor?"""
    anchor = batch.spans[:, 0]
    return ((anchor[:, None] == anchor).float() @ _same_place(batch).float()) > 0


def _same_place(batch: ContrastiveBatch) -> Tensor:
    """``[S, S]`` bool: are both spans the same tokens of the same row?"""
    row, edges = batch.rows[batch.spans[:, 0]], batch.spans[:, 1:]
    return (edges[:, None] == edges).all(-1) & (row[:, None] == row)


def _pooled(batch: ContrastiveBatch, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Mean state of each span's tokens, ``[M, d]``: one dense product, exact where a running sum would cancel."""
    rows, length, _ = batch.states.shape
    position = torch.arange(length, device=row.device)
    inside = (position >= first[:, None]) & (position <= last[:, None]) & batch.valid[row]
    weight = inside.float() / inside.sum(1, keepdim=True).clamp(min=1)
    spread = F.one_hot(row, rows).float()[:, :, None] * weight[:, None]
    return spread.flatten(1) @ _real_states(batch).flatten(0, 1)


def _zero(batch: ContrastiveBatch) -> Tensor:
    """0 with a graph to every state, so that ``backward`` works; the empty slices keep NaN and overflow out."""
    return batch.states[:0].float().sum() + batch.threshold[:0].float().sum() + batch.anchors[:0].float().sum()


def _real_states(batch: ContrastiveBatch) -> Tensor:
    """``[R, n, d]`` fp32 with zeros at padding; replaced, not multiplied, as padding may hold NaN."""
    return batch.states.float().masked_fill(~batch.valid[..., None], 0.0)
