"""Variants of cllmfs that measurements found worse, as systems of the ablation.

    python -m benchmarks.ablation.variants --variant span TASK

does the same as ``cllmfs.benchmark.system``, but first replaces functions of the package in its own process:

- ``span``, ``supcon`` and ``symmetric`` take the place of the contrastive objective;
- ``sentence-loss`` normalizes the language-model loss over all tokens of the sentence, instead of those that the
  decoder may emit;
- ``best-opening`` opens a span at the most probable place, instead of the leftmost place that is probable enough.

Knows the inner functions of training and decoding that it replaces.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.benchmark import system
from cllmfs.benchmark.task import Task, serve
from cllmfs.decoding import greedy
from cllmfs.decoding.greedy import AnsweringBranch, Rules
from cllmfs.encoding.automaton import Choices
from cllmfs.encoding.batches import IGNORE, Batch
from cllmfs.model.anchors import ContrastiveBatch, full_precision, unit, votes
from cllmfs.model.backbone import Backbone
from cllmfs.recognizer import EntityRecognizer
from cllmfs.training import contrast, objective

_MASKED = -1e30  # finite, so that a row in which everything is masked still has finite gradients


# contrastive forms


def span(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """InfoNCE of an anchor with whole spans: each gold span against its near misses and against spans of other types.

    The state of a span is the mean of its tokens' states. The negatives of a gold span are the spans that differ from
    it by at most one token at either edge, its first and its last token alone, and the gold spans of other types in the
    row. Spans outside the sentence and gold spans of the anchor are no negatives. A span that is gold for several other
    types counts once for each of them. Mean over spans; a span without negatives costs 0.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no spans.
    """
    zero = _zero(batch)
    if batch.spans.shape[0] == 0:
        return zero
    with full_precision(batch.states):
        anchor, first, last = batch.spans.unbind(1)  # [S] each
        row = batch.rows[anchor]
        gold = _pooled(batch, row, first, last)  # [S, d]
        near, real = _near_misses(batch)  # [S, 10, 2], [S, 10]
        flat = near.flatten(0, 1)
        # A near miss may be outside the sentence; pooling then finds no token and gives a zero vector.
        missed = _pooled(batch, row.repeat_interleave(near.shape[1]), flat[:, 0], flat[:, 1]).view(*near.shape[:2], -1)
        query = unit(batch.anchors)[anchor]
        to_gold = query @ unit(gold).T / temperature  # [S, S]
        to_near = (query[:, None] * unit(missed)).sum(-1) / temperature  # [S, 10]
        other = (row[:, None] == row) & (batch.types[anchor][:, None] != batch.types[anchor]) & ~_own(batch)
        negatives = torch.cat([to_near.masked_fill(~real, _MASKED), to_gold.masked_fill(~other, _MASKED)], dim=1)
        return zero + F.softplus(negatives.logsumexp(1) - to_gold.diagonal()).mean()


def symmetric(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """InfoNCE, which asks which positions have a type, plus its mirror, which asks which type a span has.

    The mirror is the cross-entropy of the shares that :func:`~cllmfs.model.anchors.span_votes` computes, a softmax over
    the anchors of the row and no entity. A gold span must go to its anchor, while other anchors that it is gold for are
    masked out, and its near misses (as in :func:`span`) must go to no entity. The means of both are averaged and added.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if there are no anchors.
    """
    positions = contrast.infonce(batch, temperature=temperature)
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
        log_shares = F.pad(logits, (0, 1)).log_softmax(2)  # [S, 11, A + 1]
        hits = -log_shares[:, 0].gather(1, anchor[:, None]).mean()
        misses = -log_shares[:, 1:, -1].masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)
        return positions + (hits + misses) / 2


def supcon(batch: ContrastiveBatch, *, temperature: float) -> Tensor:
    """Supervised contrastive loss across the batch by type (arXiv 2004.11362, its L_out), over pooled gold spans.

    Anchors are not used. A span that is the only one of its type contributes nothing; mean over the others.

    Returns:
        A scalar in fp32; 0, still carrying a graph, if no type has two spans.
    """
    zero = _zero(batch)
    if batch.spans.shape[0] == 0:
        return zero
    with full_precision(batch.states):
        anchor, first, last = batch.spans.unbind(1)
        kind = batch.types[anchor]
        states = unit(_pooled(batch, batch.rows[anchor], first, last))  # [S, d]
        itself = torch.eye(len(anchor), dtype=torch.bool, device=anchor.device)
        partner = (kind[:, None] == kind) & ~itself
        logits = (states @ states.T / temperature).masked_fill(itself, _MASKED)
        costs = (logits.logsumexp(1, keepdim=True) - logits).masked_fill(~partner, 0.0)
        partners = partner.sum(1)
        return zero + (costs.sum(1) / partners.clamp(min=1)).sum() / (partners > 0).sum().clamp(min=1)


def _near_misses(batch: ContrastiveBatch) -> tuple[Tensor, Tensor]:
    """Spans that a decoder could take for a gold span: their first and last tokens [S, 10, 2], and which count [S, 10].

    Eight differ by at most one token at either edge (shorter, longer, shifted). Two are the first and the last token
    alone, which count if the span has more than two tokens, because they are then not among the eight.
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
    # A gold span of this type is no negative; a gold span of another type in the row is a negative already.
    gold = (near[:, :, None] == batch.spans[:, 1:]).all(-1) & (row[:, None] == row)[:, None]
    return near, real & ~gold.any(-1)


def _own(batch: ContrastiveBatch) -> Tensor:
    """``[S, S]`` bool: is the second span also gold for the anchor of the first one?"""
    anchor = batch.spans[:, 0]
    return ((anchor[:, None] == anchor).float() @ _same_place(batch).float()) > 0


def _same_place(batch: ContrastiveBatch) -> Tensor:
    """``[S, S]`` bool: do both spans have the same tokens of the same row?"""
    row, edges = batch.rows[batch.spans[:, 0]], batch.spans[:, 1:]
    return (edges[:, None] == edges).all(-1) & (row[:, None] == row)


def _pooled(batch: ContrastiveBatch, row: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Mean state of the tokens of M spans, ``[M, d]``: one dense product, which is exact, unlike a running sum."""
    rows, length, _ = batch.states.shape
    position = torch.arange(length, device=row.device)
    inside = (position >= first[:, None]) & (position <= last[:, None]) & batch.valid[row]
    weight = inside.float() / inside.sum(1, keepdim=True).clamp(min=1)
    spread = F.one_hot(row, rows).float()[:, :, None] * weight[:, None]  # [M, R, n]
    return spread.flatten(1) @ _real_states(batch).flatten(0, 1)


def _zero(batch: ContrastiveBatch) -> Tensor:
    """A scalar 0 with a graph to every state, so that ``backward`` works."""
    return batch.states[:0].float().sum() + batch.threshold[:0].float().sum() + batch.anchors[:0].float().sum()


def _real_states(batch: ContrastiveBatch) -> Tensor:
    """The states ``[R, n, d]`` in fp32, with zeros at padding."""
    return batch.states.float().masked_fill(~batch.valid[..., None], 0.0)


# the language-model loss


def sentence_logits(backbone: Backbone, batch: Batch, last: Tensor) -> Tensor:
    """Logits [R, Q, C] of all candidates of a row at every answer token, from the last hidden states [R, T, d]."""
    rows = torch.arange(len(batch.rows), device=last.device)[:, None]
    logits = backbone.project(last[rows, batch.query], batch.candidates)
    sizes = torch.tensor([len(row.candidates) for row in batch.rows], device=last.device)
    real = (torch.arange(logits.shape[2], device=last.device) < sizes[:, None])[:, None, :]
    # Padded answer tokens keep their logits: they are ignored, and a row of -inf alone would give NaN gradients.
    return logits.masked_fill(~(real | (batch.target == IGNORE)[:, :, None]), float("-inf"))


# the opening of a span


def are_empty(branch: AnsweringBranch, logits: np.ndarray, rules: Rules) -> list[bool]:
    """Whether each of K answers is empty, from logits [K, C]: whether the end is as probable as every opening."""
    choices = branch.automaton.choices(branch.state)
    ending = logits[:, branch.local[branch.automaton.end_id]] + rules.end_bias
    opening = logits[:, [branch.local[token] for token in choices if choices[token]]]
    return [bool(empty) for empty in ending >= opening.max(1, initial=-np.inf)]


def open_or_end(branch: AnsweringBranch, choices: Choices, log_p: dict[int, float], rules: Rules) -> int:
    """Open a span at its most probable place, or end the answer if that is as probable; returns the token."""
    end_id = branch.automaton.end_id
    starts = sorted((token for token in choices if choices[token]), key=lambda token: choices[token][0])
    best = max(starts, key=log_p.__getitem__, default=end_id)
    token = end_id if end_id in log_p and log_p[end_id] >= log_p[best] else best
    branch.log_score = branch.log_open + log_p[token]
    branch.state = branch.automaton.advance(branch.state, token)
    return token


def closing_token(branch: AnsweringBranch, closing: Sequence[int], log_p: dict[int, float], rules: Rules) -> int:
    """The more probable of the delimiters that can close the span."""
    return max(closing, key=log_p.__getitem__)


# the system

FORMS: dict[str, Callable[..., Tensor]] = {"span": span, "supcon": supcon, "symmetric": symmetric}
VARIANTS = (*FORMS, "sentence-loss", "best-opening")


def install(variant: str) -> None:
    """Replace the functions of the package that the variant changes, for the rest of this process."""
    if variant in FORMS:
        contrast.FORMS["infonce"] = FORMS[variant]
    elif variant == "sentence-loss":
        objective.answer_logits = sentence_logits
    else:
        greedy.are_empty, greedy.open_or_end, greedy.closing_token = are_empty, open_or_end, closing_token


def main() -> None:
    parser = system.system_parser("A variant of cllmfs as a system of a benchmark.")
    parser.add_argument("--variant", choices=VARIANTS, required=True)

    def learn(task: Task, arguments: argparse.Namespace) -> EntityRecognizer:
        install(arguments.variant)
        return system.learn(task, arguments)

    serve(parser, learn, system.predict, system.facts, system.PACKAGES)


if __name__ == "__main__":
    main()
