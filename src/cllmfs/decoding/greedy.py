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
from torch import Tensor

from cllmfs.config import DecodeConfig
from cllmfs.decoding.runners import CachedRunner, PlainRunner, Runner, VoteSettings
from cllmfs.encoding.automaton import Choices, SpanAutomaton, State
from cllmfs.encoding.batches import Batch, RowBuilder, TypeQuery, collate, pack, split_queries
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.model.anchors import span_votes
from cllmfs.model.backbone import Backbone

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
        vote: log of the share that its type has in it among all types asked and no entity, by the similarity of hidden
            states (:func:`~cllmfs.model.anchors.span_votes`); 0 if there was no vote.
    """

    first: int
    last: int
    label: str
    score: float
    vote: float = 0.0


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
        requests: sentences with the types asked of each; these may be more than fit a row.
        config: opening rule, bias, batch size.
        bidirectional: attention inside the sentence block.
        voting: lets the contrastive similarities vote on each span, if given.
        cached: use the key-value cache where the model takes trees; without it every step runs the whole row anew,
            which is slower and must give the same.
    """
    rows = [
        row
        for index, request in enumerate(requests)
        if len(request.sentence)
        for queries in split_queries(request.queries, config.batch_tokens - len(request.sentence))
        for row in builder.rows(request.sentence, queries, index)
    ]
    found: list[list[TokenSpan]] = [[] for _ in requests]
    cast: list[dict[str, Tensor]] = [{} for _ in requests]  # [n] votes by type
    make_runner = CachedRunner if cached and backbone.takes_trees() else PlainRunner
    with backbone.at_rest():
        for group in pack(rows, config.batch_tokens):
            batch = collate(group).to(backbone.device)
            runner = make_runner(backbone, batch, bidirectional)
            by_row, votes = _decode_batch(runner, builder, batch, config, voting)
            for row, spans in zip(group, by_row, strict=True):
                found[row.index] += spans
            if votes is not None:
                for number, (line, label) in enumerate(zip(batch.anchors[:, 0].tolist(), batch.labels, strict=True)):
                    cast[group[line].index][label] = votes[number, : len(group[line].sentence)]
    return [_in_order(found[index], cast[index], request.queries) for index, request in enumerate(requests)]


def _in_order(spans: list[TokenSpan], cast: dict[str, Tensor], queries: Sequence[TypeQuery]) -> list[TokenSpan]:
    """The spans by type and place, with the votes [n] that all types asked have cast."""
    order = {query.label: number for number, query in enumerate(queries)}
    spans = sorted(spans, key=lambda span: (order[span.label], span.first, span.last))
    if not (spans and cast):
        return spans
    places = torch.tensor([(span.first, span.last, order[span.label]) for span in spans]).unbind(1)
    shares = span_votes(torch.stack([cast[label] for label in order]), *places)
    return [replace(span, vote=vote) for span, vote in zip(spans, shares.tolist(), strict=True)]


@dataclass
class _Branch:
    """A branch while it is decoded."""

    row: int
    number: int
    label: str
    automaton: SpanAutomaton
    local: dict[int, int]  # token id to candidate index
    state: State = field(default_factory=State)
    log_score: float = 0.0
    log_open: float = 0.0
    spans: list[TokenSpan] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)


def _decode_batch(
    runner: Runner, builder: RowBuilder, batch: Batch, config: DecodeConfig, voting: VoteSettings | None
) -> tuple[list[list[TokenSpan]], Tensor | None]:
    """Spans of each row, and the votes [A, n] of its branches, if there are any."""
    logits, votes = runner.first(voting)
    branches: list[_Branch] = []
    for r, row in enumerate(batch.rows):
        automaton = builder.automaton(row.sentence)
        local = {token: index for index, token in enumerate(row.candidates)}
        for number, part in enumerate(row.branches):
            branches.append(_Branch(r, number, part.label, automaton, local))
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
    return spans, votes


def _empty(branches: Sequence[_Branch], logits: np.ndarray, config: DecodeConfig) -> list[bool]:
    """Which answers end before they begin, told for all types of a sentence at once: most do.

    The rule is that of :func:`_open_or_end`.
    """
    told: list[bool] = []
    for _, same in groupby(branches, key=lambda branch: id(branch.automaton)):
        together = list(same)
        told += _empty_of(together[0], logits[len(told) : len(told) + len(together)], config)
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
    closing = {token: automaton.closings(state, token)[0] for token in delimiters}  # the leftmost occurrence
    adjusted = scores[[branch.local[token] for token in tokens]].astype(np.float64)
    if automaton.end_id in choices:
        adjusted[tokens.index(automaton.end_id)] += config.end_bias
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


def _log_sum(values: np.ndarray) -> float:
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))
