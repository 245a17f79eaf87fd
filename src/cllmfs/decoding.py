"""Reading spans off the model: constrained greedy decoding of all types of many sentences at once.

Every step asks the automaton what may come, so whatever the model says, an answer is a list of token ranges of the
sentence. Answers that end before they begin are told for all types of a sentence together; the others go on side by
side. Knows rows, runners and the automaton; knows nothing of caches, text or conflicts between types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch

from cllmfs.alignment import TokenizedText
from cllmfs.automaton import Choices, SpanAutomaton, State
from cllmfs.batching import Batch, RowBuilder, TypeQuery, collate, pack
from cllmfs.config import DecodeConfig
from cllmfs.model import Backbone
from cllmfs.runners import CachedRunner, PlainRunner, Runner, VoteSettings

# Tokens of a span that are fed before it is known to go on: a pass of few tokens costs hardly less than of one.
AHEAD = 3


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
    make_runner = CachedRunner if cached and backbone.takes_trees() else PlainRunner
    with backbone.at_rest():
        for group in pack(rows, config.batch_tokens):
            batch = collate(group).to(backbone.device)
            runner = make_runner(backbone, batch, bidirectional)
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
    runner: Runner, builder: RowBuilder, batch: Batch, config: DecodeConfig, voting: VoteSettings | None
) -> list[list[TokenSpan]]:
    logits, cast = runner.first(voting)
    branches: list[_Branch] = []
    for r, row in enumerate(batch.rows):
        automaton = builder.automaton(row.sentence)
        local = {token: index for index, token in enumerate(row.candidates)}
        for number, part in enumerate(row.branches):
            vote = None if cast is None or voting is None else voting.weight * cast[len(branches)]
            branches.append(_Branch(r, number, part.label, automaton, local, vote))
    answering = []
    for branch, scores, empty in zip(branches, logits, _empty(branches, logits, config), strict=True):
        branch.emitted.append(branch.automaton.end_id if empty else _advance(branch, scores, config))
        if not (empty or branch.state.ended):
            answering.append(branch)
    # Together as far as their copies of the cache keep within the budget.
    for active in pack(answering, config.batch_tokens, lambda one: batch.rows[one.row].path_length(one.number)):
        while active:
            guesses = [branch.automaton.ahead(branch.state, AHEAD) for branch in active]
            for branch, guessed, scores in zip(active, guesses, runner.feed(active, guesses), strict=True):
                _follow(branch, guessed, scores, config)
            active = [branch for branch in active if not branch.state.ended]
    spans: list[list[TokenSpan]] = [[] for _ in batch.rows]
    for branch in branches:
        spans[branch.row] += branch.spans
    return spans


def _empty(branches: Sequence[_Branch], logits: np.ndarray, config: DecodeConfig) -> list[bool]:
    """Which answers end before they begin, told for all types of a sentence at once: most do.

    The rule is that of :func:`_open_or_end`. With votes nothing is told: they differ from branch to branch.
    """
    told: list[bool] = []
    for _, same in groupby(branches, key=lambda branch: id(branch.automaton)):
        together = list(same)
        scores = logits[len(told) : len(told) + len(together)]
        told += [False] * len(together) if together[0].votes is not None else _empty_of(together[0], scores, config)
    return told


def _empty_of(branch: _Branch, scores: np.ndarray, config: DecodeConfig) -> list[bool]:
    """:func:`_empty` for scores [K, C] of the sentence of ``branch``."""
    starts = _starts(branch.automaton.choices(branch.state))
    ending = scores[:, branch.local[branch.automaton.end_id], None] + config.end_bias
    opening = scores[:, [branch.local[token] for token in starts]].astype(np.float64)
    top = np.maximum(ending, opening.max(1, initial=-np.inf, keepdims=True))
    mass, end_mass = np.exp(opening - top), np.exp(ending - top)
    if config.opening == "best":
        return [bool(ends) for ends in end_mass[:, 0] >= mass.max(1, initial=0.0)]
    enough, _ = _probable_enough(mass / (end_mass + mass.sum(1, keepdims=True)), config.open_at)
    return [not of_one.any() for of_one in enough]


def _follow(branch: _Branch, guessed: Sequence[int], scores: np.ndarray, config: DecodeConfig) -> None:
    """Emit tokens while the guesses are right, and the one behind them; the k-th line of scores is read after k."""
    for emitted, line in enumerate(scores[: len(guessed) + 1]):
        token = _advance(branch, line, config)
        branch.emitted.append(token)
        if branch.state.ended or token != (*guessed, None)[emitted]:
            return


def _starts(choices: Choices) -> list[int]:
    """The tokens that open a span, by the place of their first occurrence."""
    return sorted((token for token in choices if choices[token]), key=lambda token: choices[token][0])


def _probable_enough(shares: np.ndarray, open_at: float) -> tuple[np.ndarray, np.ndarray]:
    """Which openings [..., S], left to right, are probable enough given that none came before them.

    Also the probability [..., S] that none came before each.
    """
    left = np.maximum(1.0 - (np.cumsum(shares, -1) - shares), 1e-9)
    return shares >= open_at * left, left


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


def _open_or_end(branch: _Branch, choices: Choices, log_p: dict[int, float], config: DecodeConfig) -> int:
    end_id = branch.automaton.end_id
    starts = _starts(choices)
    best = max(starts, key=log_p.__getitem__, default=end_id)
    if config.opening == "first":
        best, branch.log_score = _first_opening(branch, starts, log_p, config.open_at)
        if best == end_id:  # also behind NEXT, where no END could be emitted
            branch.state = replace(branch.state, ended=True)
            return end_id
    else:
        best = end_id if end_id in log_p and log_p[end_id] >= log_p[best] else best
        branch.log_score = branch.log_open + log_p[best]
    branch.state = branch.automaton.advance(branch.state, best)
    return best


def _first_opening(branch: _Branch, starts: list[int], log_p: dict[int, float], open_at: float) -> tuple[int, float]:
    """The leftmost opening that is probable enough given that none came before it, with the log of that probability.

    Answers run left to right, so taking the most probable opening first would pass over what stands before it.
    """
    shares = np.exp(np.array([branch.log_open + log_p[token] for token in starts]))
    enough, left = _probable_enough(shares, open_at)
    if not enough.any():
        return branch.automaton.end_id, 0.0
    at = int(enough.argmax())
    return starts[at], float(np.log(shares[at] / left[at]))


def _continue_or_close(
    branch: _Branch,
    choices: Choices,
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
    branch: _Branch, token: int, positions: Sequence[int], closing: tuple[int, int] | None, end_bias: float
) -> float:
    """What votes and bias add to a token's logit: votes where a span opens or closes, the bias where an answer ends."""
    bias = end_bias if token == branch.automaton.end_id else 0.0
    if branch.votes is None:
        return bias
    if not branch.state.candidates:
        return bias + (float(branch.votes[list(positions)].max()) if positions else 0.0)
    return bias + (float(branch.votes[closing[1]]) if closing is not None else 0.0)


def _best_closing(closings: list[tuple[int, int]], cast: np.ndarray | None) -> tuple[int, int]:
    """The occurrence that a closed span stands for: the leftmost, or the one with the most votes."""
    if cast is None or len(closings) == 1:
        return closings[0]
    return max(closings, key=lambda span: (float(cast[span[0]] + cast[span[1]]), -span[0]))


def _log_sum(values: np.ndarray) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))
