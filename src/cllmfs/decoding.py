"""Reading spans off the model: constrained greedy decoding of all types of many sentences at once.

Every step asks the automaton what may come, so whatever the model says, an answer is a list of token ranges of the
sentence. With trees, all branches of a row advance together on one key-value cache; finished branches send no more
tokens and finished rows leave the batch. Knows rows, the model and the automaton; knows nothing of text or conflicts
between types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from cllmfs.alignment import TokenizedText
from cllmfs.automaton import SpanAutomaton, State
from cllmfs.batching import PADDING, PREFIX, Batch, Row, RowBuilder, TypeQuery, collate, pack, tree_mask
from cllmfs.config import DecodeConfig
from cllmfs.losses import votes
from cllmfs.model import Backbone
from cllmfs.objective import contrastive_states, run


@dataclass(frozen=True)
class TokenSpan:
    """A decoded span.

    Attributes:
        first: first token of the sentence.
        last: last token, inclusive.
        label: the type asked.
        score: probability of the span's path under the constraint: of opening it here, of each token, of closing it.
    """

    first: int
    last: int
    label: str
    score: float


@dataclass(frozen=True)
class Request:
    """A sentence and the types asked of it."""

    sentence: TokenizedText
    queries: tuple[TypeQuery, ...]


@dataclass(frozen=True)
class VoteSettings:
    """The contrastive votes: ``weight`` beta, and the ``layer`` and ``temperature`` the states were trained with."""

    weight: float
    layer: int
    temperature: float


@torch.inference_mode()
def decode(
    backbone: Backbone,
    builder: RowBuilder,
    requests: Sequence[Request],
    config: DecodeConfig,
    *,
    bidirectional: bool,
    voting: VoteSettings | None = None,
    cached: bool = True,
) -> list[list[TokenSpan]]:
    """Spans of every request, types in the order asked, each type's spans left to right.

    Args:
        backbone: the model.
        builder: makes the rows; a tree if the model takes them.
        requests: sentences with the types asked of each.
        config: opening rule, bias, batch size.
        bidirectional: attention inside the sentence block.
        voting: contrastive votes, if they count.
        cached: use the key-value cache where the model takes trees; without it every step runs the whole row anew,
            which is slower and must give the same.
    """
    rows = [
        row
        for index, request in enumerate(requests)
        if len(request.sentence) and request.queries
        for row in builder.rows(request.sentence, request.queries, index)
    ]
    found: list[list[TokenSpan]] = [[] for _ in requests]
    voting = voting if voting is not None and voting.weight > 0 else None
    for group in pack(rows, config.batch_tokens):
        batch = collate(group).to(backbone.device)
        runner: _Runner
        if cached and backbone.takes_trees():
            runner = _CachedRunner(backbone, batch, bidirectional)
        else:
            runner = _PlainRunner(backbone, batch, bidirectional)
        for row, spans in zip(group, _decode_batch(runner, builder, batch, config, voting), strict=True):
            found[row.index] += spans
    for request, spans in zip(requests, found, strict=True):
        order = {query.label: number for number, query in enumerate(request.queries)}
        spans.sort(key=lambda span: (order[span.label], span.first, span.last))
    return found


@dataclass
class _Branch:
    """A branch while it is decoded."""

    row: int
    number: int
    label: str
    automaton: SpanAutomaton
    local: dict[int, int]  # token id to candidate index
    votes: np.ndarray | None
    state: State = field(default_factory=State)
    log_score: float = 0.0
    log_open: float = 0.0
    spans: list[TokenSpan] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)


def _decode_batch(
    runner: _Runner, builder: RowBuilder, batch: Batch, config: DecodeConfig, voting: VoteSettings | None
) -> list[list[TokenSpan]]:
    logits, cast = runner.first(voting)
    branches: list[_Branch] = []
    for r, row in enumerate(batch.rows):
        automaton = builder.automaton(row.sentence)
        local = {token: index for index, token in enumerate(row.candidates)}
        for number, part in enumerate(row.branches):
            vote = None if cast is None or voting is None else voting.weight * cast[len(branches)]
            branches.append(_Branch(r, number, part.label, automaton, local, vote))
    active = branches
    while active:
        for branch, scores in zip(active, logits, strict=True):
            token = _advance(branch, scores, config)
            branch.emitted.append(token)
        active = [branch for branch in active if not branch.state.ended]
        if active:
            logits = runner.feed(active)
    spans: list[list[TokenSpan]] = [[] for _ in batch.rows]
    for branch in branches:
        spans[branch.row] += branch.spans
    return spans


def _advance(branch: _Branch, scores: np.ndarray, config: DecodeConfig) -> int:
    """Choose the next token, move the state, and note a span that it closes."""
    automaton, state = branch.automaton, branch.state
    choices = automaton.choices(state)
    tokens = list(choices)
    # What each delimiter would close: NEXT only an occurrence behind which there is room for another span.
    delimiters = [token for token in tokens if state.candidates and not choices[token]]
    closing = {token: _best_closing(automaton.closings(state, token), branch.votes) for token in delimiters}
    adjusted = scores[[branch.local[token] for token in tokens]].astype(np.float64)
    for index, token in enumerate(tokens):
        adjusted[index] += _adjustment(branch, token, choices[token], closing.get(token), config.end_bias)
    log_p = dict(zip(tokens, adjusted - _log_sum(adjusted), strict=True))
    if state.candidates:
        return _continue_or_close(branch, choices, log_p, closing, config)
    return _open_or_end(branch, choices, log_p, config)


def _open_or_end(branch: _Branch, choices: dict[int, list[int]], log_p: dict[int, float], config: DecodeConfig) -> int:
    end_id = branch.automaton.end_id
    starts = [token for token in choices if choices[token]]
    best = max(starts, key=log_p.__getitem__, default=end_id)
    if config.opening == "first":
        best, branch.log_score = _first_opening(branch, starts, choices, log_p, config.open_at)
        if best == end_id:  # also behind NEXT, where no END could be emitted
            branch.state = replace(branch.state, ended=True)
            return end_id
    else:
        best = end_id if end_id in log_p and log_p[end_id] >= log_p[best] else best
        branch.log_score = branch.log_open + log_p[best]
    branch.state = branch.automaton.advance(branch.state, best)
    return best


def _first_opening(
    branch: _Branch, starts: list[int], choices: dict[int, list[int]], log_p: dict[int, float], open_at: float
) -> tuple[int, float]:
    """The leftmost opening that is probable enough given that none came before it, with the log of that probability.

    Answers run left to right, so taking the most probable opening first would pass over what stands before it.
    """
    left = 1.0
    for token in sorted(starts, key=lambda token: choices[token][0]):
        share = float(np.exp(branch.log_open + log_p[token]))
        if share >= open_at * left:
            return token, float(np.log(share / left))
        left = max(left - share, 1e-9)
    return branch.automaton.end_id, 0.0


def _continue_or_close(
    branch: _Branch,
    choices: dict[int, list[int]],
    log_p: dict[int, float],
    closing: dict[int, tuple[int, int]],
    config: DecodeConfig,
) -> int:
    automaton = branch.automaton
    on = [token for token in choices if choices[token]]
    best = max(on, key=log_p.__getitem__, default=None)
    log_close = _log_sum(np.array([log_p[token] for token in closing])) if closing else -np.inf
    if best is not None and (not closing or log_p[best] > log_close):
        branch.log_score += log_p[best]
        branch.state = automaton.advance(branch.state, best)
        return best
    token = max(closing, key=log_p.__getitem__)
    if config.opening == "first" and automaton.next_id in closing:
        # No opening behind NEXT can be more probable than NEXT itself.
        on_to_next = log_p[automaton.next_id] - log_close >= np.log(max(config.open_at, 1e-9))
        token = automaton.next_id if on_to_next else automaton.end_id
    score = float(np.exp(min(0.0, branch.log_score + log_close)))
    branch.spans.append(TokenSpan(*closing[token], branch.label, score))
    branch.state = automaton.advance(branch.state, token, closing[token])
    branch.log_open = log_p[token] - log_close
    return token


def _adjustment(
    branch: _Branch, token: int, positions: list[int], closing: tuple[int, int] | None, end_bias: float
) -> float:
    """What votes and bias add to a token's logit: votes where a span opens or closes, the bias where an answer ends."""
    bias = end_bias if token == branch.automaton.end_id else 0.0
    if branch.votes is None:
        return bias
    if not branch.state.candidates:
        return bias + (float(branch.votes[positions].max()) if positions else 0.0)
    return bias + (float(branch.votes[closing[1]]) if closing is not None else 0.0)


def _best_closing(closings: list[tuple[int, int]], cast: np.ndarray | None) -> tuple[int, int]:
    """The occurrence that a closed span stands for: the leftmost, or the one with the most votes."""
    if cast is None or len(closings) == 1:
        return closings[0]
    return max(closings, key=lambda span: (float(cast[span[0]] + cast[span[1]]), -span[0]))


def _log_sum(values: np.ndarray) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))


class _Runner(Protocol):
    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits [A, C] where each branch's answer opens, and the votes [A, n] of each branch."""

    def feed(self, active: list[_Branch]) -> np.ndarray:
        """Logits [len(active), C] after the last token that each active branch emitted."""


def _first(
    backbone: Backbone, batch: Batch, last: Tensor, layer: Tensor | None, voting: VoteSettings | None
) -> tuple[np.ndarray, np.ndarray | None]:
    rows, columns = batch.anchors.unbind(1)
    logits = backbone.project(last[rows, columns][:, None], batch.candidates[rows])[:, 0]
    cast = None
    if layer is not None and voting is not None:
        view = contrastive_states(batch, layer)
        cast = votes(view.anchors, view.rows, view.states, view.threshold, temperature=voting.temperature)
    return logits.cpu().numpy(), None if cast is None else cast.float().cpu().numpy()


class _CachedRunner:
    """Runs each row's branches side by side on one key-value cache."""

    def __init__(self, backbone: Backbone, batch: Batch, bidirectional: bool) -> None:
        self.backbone = backbone
        self.batch = batch
        self.bidirectional = bidirectional
        self.cache = DynamicCache()
        self.seen = batch.branch  # [R, S] which branch each cached column belongs to
        self.rows = list(range(len(batch.rows)))  # batch rows still in the cache

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, np.ndarray | None]:
        mask = tree_mask(self.seen, self.bidirectional)
        layer = None if voting is None else voting.layer
        hidden = self.backbone.forward(
            self.batch.ids, mask, self.batch.positions, cache=self.cache, layer=layer, cases=self.batch.cases
        )
        return _first(self.backbone, self.batch, hidden.last, hidden.layer, voting)

    def feed(self, active: list[_Branch]) -> np.ndarray:
        self._drop_finished_rows(sorted({branch.row for branch in active}))
        slot = {row: index for index, row in enumerate(self.rows)}
        counts = [0] * len(self.rows)
        places = []
        for branch in active:
            line = slot[branch.row]
            places.append((line, counts[line]))
            counts[line] += 1
        shape = (len(self.rows), max(counts))
        ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        owner = np.full(shape, PADDING, np.int64)
        for branch, place in zip(active, places, strict=True):
            row = self.batch.rows[branch.row]
            ids[place] = branch.emitted[-1]
            positions[place] = len(row.prefix) + len(row.branches[branch.number].ids) + len(branch.emitted) - 1
            owner[place] = branch.number
        device = self.backbone.device
        new = torch.from_numpy(owner).to(device)
        own = torch.eye(shape[1], dtype=torch.bool, device=device).expand(shape[0], -1, -1)
        viewer, viewed = new[:, :, None], self.seen[:, None, :]
        past = (viewed == PREFIX) | ((viewed == viewer) & (viewer != PADDING))
        mask = torch.cat([past, own], dim=2)
        self.seen = torch.cat([self.seen, new], dim=1)
        hidden = self.backbone.forward(
            torch.from_numpy(ids).to(device), mask, torch.from_numpy(positions).to(device), cache=self.cache
        )
        at = torch.tensor(places, device=device)
        candidates = self.batch.candidates[torch.tensor([branch.row for branch in active], device=device)]
        return self.backbone.project(hidden.last[at[:, 0], at[:, 1]][:, None], candidates)[:, 0].cpu().numpy()

    def _drop_finished_rows(self, needed: list[int]) -> None:
        """Let finished rows leave once they are half of the batch; moving the cache for each would cost more."""
        if len(needed) * 2 > len(self.rows):
            return
        kept = torch.tensor([self.rows.index(row) for row in needed], device=self.backbone.device)
        self.cache.batch_select_indices(kept)
        self.seen = self.seen[kept]
        self.rows = needed


class _PlainRunner:
    """Runs whole rows anew at every step: the reference, and the way for models without trees."""

    def __init__(self, backbone: Backbone, batch: Batch, bidirectional: bool) -> None:
        self.backbone = backbone
        self.batch = batch
        self.bidirectional = bidirectional

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, np.ndarray | None]:
        hidden = run(self.backbone, self.batch, self.bidirectional, None if voting is None else voting.layer)
        return _first(self.backbone, self.batch, hidden.last, hidden.layer, voting)

    def feed(self, active: list[_Branch]) -> np.ndarray:
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
        return self.backbone.project(hidden.last[wanted[:, 0], wanted[:, 1]][:, None], candidates)[:, 0].cpu().numpy()
