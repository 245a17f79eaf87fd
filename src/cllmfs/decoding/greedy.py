"""Constrained greedy decoding of all types of many sentences at once.

At every step the automaton says which tokens are allowed, so an answer is a list of token ranges of its sentence,
whatever the model computes. Most types have an empty answer; empty answers are found for all types of a sentence
together, and only the other branches are decoded token by token. This file knows rows, runners and the automaton; it
knows nothing of caches, texts or conflicts between types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from cllmfs.decoding.occurrences import most_voted
from cllmfs.decoding.runners import CachedRunner, PlainRunner, Runner, VoteSettings
from cllmfs.encoding.automaton import Choices, SpanAutomaton, State
from cllmfs.encoding.batches import Batch, collate, pack
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Request, TypeQuery, split_queries
from cllmfs.model.anchors import span_votes
from cllmfs.model.backbone import Backbone

# Tokens of a span that are read before it is known that it continues: a pass over 4 costs hardly more than one over 1.
SPECULATIVE_TOKENS = 3
# Tokens of an answer for each token of its sentence. Only nested answers can be longer than two; without a limit, an
# answer could give every stretch of a sentence, whose number grows with the square of its length.
LONGEST_ANSWER = 4
_SHORT_SENTENCE = 16  # tokens by which any answer may be longer


@dataclass(frozen=True)
class DecodedSpan:
    """A span of an answer, from its ``first`` to its ``last`` token in the sentence, inclusive.

    Attributes:
        score: the probability of its tokens under the constraint: of opening it here, of each token, and of closing it.
        vote: the log of its type's share among all types asked and no entity, by the similarity of hidden states
            (:func:`~cllmfs.model.anchors.span_votes`); 0 without votes.
    """

    first: int
    last: int
    label: str
    score: float
    vote: float = 0.0


@dataclass(frozen=True)
class Rules:
    """How answers are chosen.

    Attributes:
        open_at: a span is opened at the leftmost token that has at least this probability of beginning a span, given
            that no span began further left. 0.1 was chosen on development data (``docs/log.md``).
        end_bias: added to the logit of END; below 0, more spans are found.
    """

    open_at: float = 0.1
    end_bias: float = 0.0


@torch.inference_mode()
def decode(
    backbone: Backbone,
    encoder: Encoder,
    requests: Sequence[Request],
    *,
    batch_tokens: int = 8192,
    voting: VoteSettings | None = None,
    rules: Rules | None = None,
    cached: bool = True,
) -> list[list[DecodedSpan]]:
    """The spans of every request: types in the order of the request, the spans of a type from left to right.

    Args:
        backbone: the model.
        encoder: makes the rows.
        requests: sentences and their queries, which may be more than fit into one row.
        batch_tokens: tokens in a batch, padding included.
        voting: if given, the contrastive similarities vote on each span, and decide which of several occurrences of
            the same tokens is meant; otherwise this is the leftmost.
        rules: :class:`Rules` with their default values, unless given.
        cached: use the key-value cache where the model takes trees; otherwise every step runs whole rows again, which
            is slower and gives the same answers.
    """
    rows = [
        row
        for index, request in enumerate(requests)
        if len(request.sentence)
        for queries in split_queries(request.queries, batch_tokens - len(request.sentence))
        for row in encoder.rows(request.sentence, queries, index)
    ]
    found: list[list[DecodedSpan]] = [[] for _ in requests]
    votes_of: list[dict[str, Tensor]] = [{} for _ in requests]  # [n] votes for each type
    make_runner = CachedRunner if cached and backbone.takes_trees() else PlainRunner
    with backbone.at_rest():
        for group in pack(rows, batch_tokens):
            batch = collate(group).to(backbone.device)
            by_row, votes = decode_batch(make_runner(backbone, batch), batch, batch_tokens, rules or Rules(), voting)
            for row, spans in zip(group, by_row, strict=True):
                found[row.index] += spans
            if votes is not None:
                for number, (line, label) in enumerate(zip(batch.anchors[:, 0].tolist(), batch.labels, strict=True)):
                    votes_of[group[line].index][label] = votes[number, : len(group[line].sentence)]
    return [_in_order(found[index], votes_of[index], request.queries) for index, request in enumerate(requests)]


def _in_order(spans: list[DecodedSpan], votes: dict[str, Tensor], queries: Sequence[TypeQuery]) -> list[DecodedSpan]:
    """The spans by type and position, with their votes, each of which needs the votes [n] of all types."""
    order = {query.label: number for number, query in enumerate(queries)}
    spans = sorted(spans, key=lambda span: (order[span.label], span.first, span.last))
    if not (spans and votes):
        return spans
    places = torch.tensor([(span.first, span.last, order[span.label]) for span in spans]).unbind(1)
    shares = span_votes(torch.stack([votes[label] for label in order]), *places)
    return [replace(span, vote=vote) for span, vote in zip(spans, shares.tolist(), strict=True)]


@dataclass
class AnsweringBranch:
    """A branch while it is decoded."""

    row: int  # number of its row in the batch
    number: int  # its number in the row
    label: str
    automaton: SpanAutomaton
    local: dict[int, int]  # the index of each token id among the row's candidates
    state: State = field(default_factory=State)
    log_score: float = 0.0  # log-probability of the open span so far
    log_open: float = 0.0  # log-probability of the delimiter after which the next span may open
    spans: list[DecodedSpan] = field(default_factory=list)
    emitted: list[int] = field(default_factory=list)


def decode_batch(
    runner: Runner, batch: Batch, batch_tokens: int, rules: Rules, voting: VoteSettings | None = None
) -> tuple[list[list[DecodedSpan]], Tensor | None]:
    """The spans of each row of a batch, and the votes [A, n] of its branches, if there are any."""
    logits, votes = runner.first(voting)
    branches: list[AnsweringBranch] = []
    for r, row in enumerate(batch.rows):
        local = {token: index for index, token in enumerate(row.candidates)}
        for number, part in enumerate(row.branches):
            branches.append(AnsweringBranch(r, number, part.label, row.automaton, local))
    empty: list[bool] = []  # found for all types of a sentence at once, by the rule of open_or_end
    for _, same in groupby(branches, key=lambda branch: id(branch.automaton)):
        together = list(same)
        empty += are_empty(together[0], logits[len(empty) : len(empty) + len(together)], rules)
    answering = []
    for branch, scores, is_empty in zip(branches, logits, empty, strict=True):
        branch.emitted.append(branch.automaton.end_id if is_empty else _advance(branch, scores, rules))
        if not (is_empty or branch.state.ended):
            answering.append(branch)
    # Only as many branches are decoded at once as have copies of the cache within the budget.
    for active in pack(answering, batch_tokens, lambda one: batch.rows[one.row].path_length(one.number)):
        while active:
            guesses = [branch.automaton.ahead(branch.state, SPECULATIVE_TOKENS) for branch in active]
            for branch, guessed, scores in zip(active, guesses, runner.feed(active, guesses), strict=True):
                _follow(branch, guessed, scores, rules)
                if len(branch.emitted) >= LONGEST_ANSWER * len(branch.automaton.ids) + _SHORT_SENTENCE:
                    branch.state = replace(branch.state, ended=True)
            active = [branch for branch in active if not branch.state.ended]
    spans: list[list[DecodedSpan]] = [[] for _ in batch.rows]
    for number, branch in enumerate(branches):
        spans[branch.row] += branch.spans if votes is None else _placed(branch, votes[number].numpy())
    return spans, votes


def _placed(branch: AnsweringBranch, votes: np.ndarray) -> list[DecodedSpan]:
    """The spans of a branch at the occurrences with the highest votes [n]."""
    places = most_voted(branch.automaton, [(span.first, span.last) for span in branch.spans], votes)
    return [replace(span, first=at[0], last=at[1]) for span, at in zip(branch.spans, places, strict=True)]


def are_empty(branch: AnsweringBranch, logits: np.ndarray, rules: Rules) -> list[bool]:
    """Whether each of K answers to a sentence is empty, by the logits [K, C] at their openings.

    ``branch`` is any branch of the sentence.
    """
    starts = _starts(branch.automaton.choices(branch.state))
    ending = logits[:, branch.local[branch.automaton.end_id], None] + rules.end_bias  # [K, 1]
    opening = logits[:, [branch.local[token] for token in starts]].astype(np.float64)  # [K, S]
    top = np.maximum(ending, opening.max(1, initial=-np.inf, keepdims=True))
    mass, end_mass = np.exp(opening - top), np.exp(ending - top)
    enough, _ = _probable_enough(mass / (end_mass + mass.sum(1, keepdims=True)), rules.open_at)
    return [not of_one.any() for of_one in enough]


def _follow(branch: AnsweringBranch, guessed: Sequence[int], scores: np.ndarray, rules: Rules) -> None:
    """Emit tokens while the guesses are right, and one more; line k of the scores [K, C] applies after k guesses."""
    for emitted, line in enumerate(scores[: len(guessed) + 1]):
        token = _advance(branch, line, rules)
        branch.emitted.append(token)
        if branch.state.ended or token != (*guessed, None)[emitted]:
            return


def _starts(choices: Choices) -> list[int]:
    """The tokens that open a span, by the position of their first occurrence."""
    return sorted((token for token in choices if choices[token]), key=lambda token: choices[token][0])


def _probable_enough(shares: np.ndarray, open_at: float) -> tuple[np.ndarray, np.ndarray]:
    """Which openings [..., S], from left to right, are probable enough, given that no span began further left.

    The second result is the probability [..., S] that no span began further left than each opening.
    """
    left = np.maximum(1.0 - (np.cumsum(shares, -1) - shares), 1e-9)
    return shares >= open_at * left, left


def _advance(branch: AnsweringBranch, scores: np.ndarray, rules: Rules) -> int:
    """Choose the next token by the scores [C], move the state, and note a span that the token closes."""
    automaton, state = branch.automaton, branch.state
    choices = automaton.choices(state)
    tokens = list(choices)
    # The span that each delimiter would close. NEXT can only close an occurrence after which another span has room.
    delimiters = [token for token in tokens if state.candidates and not choices[token]]
    closings = {token: automaton.first_closing(state, token) for token in delimiters}
    closing = {token: span for token, span in closings.items() if span is not None}
    adjusted = scores[[branch.local[token] for token in tokens]].astype(np.float64)
    if automaton.end_id in choices:
        adjusted[tokens.index(automaton.end_id)] += rules.end_bias
    log_p = dict(zip(tokens, adjusted - _log_sum(adjusted), strict=True))
    if not state.candidates:
        return open_or_end(branch, choices, log_p, rules)
    best = max((token for token in tokens if choices[token]), key=log_p.__getitem__, default=None)
    log_close = _log_sum(np.array([log_p[token] for token in closing])) if closing else -np.inf
    if best is not None and (not closing or log_p[best] > log_close):
        branch.log_score += log_p[best]
        branch.state = automaton.advance(state, best)
        return best
    token = closing_token(branch, delimiters, log_p, rules)
    score = float(np.exp(min(0.0, branch.log_score + log_close)))
    branch.spans.append(DecodedSpan(*closing[token], branch.label, score))
    branch.state = automaton.advance(state, token, closing[token])
    branch.log_open = log_p[token] - log_close
    return token


def open_or_end(branch: AnsweringBranch, choices: Choices, log_p: dict[int, float], rules: Rules) -> int:
    """Open a span or end the answer; returns the token.

    The leftmost opening that is probable enough, given that no span began further left, is taken. Answers run from left
    to right, so the most probable opening of all would skip every span before it. The state of the branch moves on, and
    its ``log_score`` becomes that of the opening. ``log_p`` has the log-probability of each choice.
    """
    starts = _starts(choices)
    shares = np.exp(np.array([branch.log_open + log_p[token] for token in starts]))
    enough, left = _probable_enough(shares, rules.open_at)
    if not enough.any():  # ends the answer after NEXT, too, where the automaton does not allow END
        branch.state, branch.log_score = replace(branch.state, ended=True), 0.0
        return branch.automaton.end_id
    at = int(enough.argmax())
    branch.log_score = float(np.log(shares[at] / left[at]))
    branch.state = branch.automaton.advance(branch.state, starts[at])
    return starts[at]


def closing_token(branch: AnsweringBranch, closing: Sequence[int], log_p: dict[int, float], rules: Rules) -> int:
    """The delimiter that closes a span: NEXT where another span is probable enough, otherwise END."""
    automaton = branch.automaton
    if automaton.next_id not in closing:
        return automaton.end_id
    log_close = _log_sum(np.array([log_p[token] for token in closing]))
    # If NEXT is below the threshold, so is every opening after it.
    likely = log_p[automaton.next_id] - log_close >= np.log(max(rules.open_at, 1e-9))
    return automaton.next_id if likely else automaton.end_id


def _log_sum(values: np.ndarray) -> float:
    """The logarithm of the sum of the exponentials of values [S], a scalar."""
    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))
