"""Constrained decoding: choices and scores by hand and by enumeration; cached as plain, batched as single."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import cllmfs.decoding.greedy
from cllmfs.decoding.greedy import DecodedSpan, Rules, decode, decode_batch
from cllmfs.decoding.runners import CachedRunner, VoteSettings, roomy_cache
from cllmfs.encoding.automaton import SpanAutomaton, State
from cllmfs.encoding.batches import Batch, collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.encoding.rows import Request, TypeQuery
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import forward_batch
from tests.conftest import EXAMPLES, fresh_backbone, requests_of, tiny_backbone

NEXT, END = 4, 5
PROMPT: Any = SimpleNamespace(
    bos=[], before=[1], after=[2], open=[3], next_id=NEXT, end_id=END, template=PromptTemplate()
)
VOTING = VoteSettings(layer=1, temperature=0.5)
FIRST = Rules(open_at=0.2)
Script = dict[tuple[int, ...], dict[int, float]]


def text_of(ids: tuple[int, ...], start_ok: Any = None, end_ok: Any = None) -> TokenizedText:
    count = len(ids)
    starts, ends = start_ok or (True,) * count, end_ok or (True,) * count
    return TokenizedText("x" * count, ids, tuple(starts), tuple(ends), tuple(range(count)), tuple(range(1, count + 1)))


def asked(text: TokenizedText, nested: bool = False) -> Batch:
    """A batch in which one type is asked of the sentence."""
    return collate(Encoder(PROMPT, nested=nested).rows(text, [TypeQuery("A", (30,))]))


class Scripted:
    """In the place of a model: for each list of tokens emitted, the probability of what comes next."""

    def __init__(self, batch: Any, script: Script) -> None:
        self.batch, self.script = batch, script

    def first(self, voting: VoteSettings | None) -> tuple[np.ndarray, None]:
        return np.array([self._logits(())] * len(self.batch.labels)), None

    def feed(self, active: list[Any], guesses: list[tuple[int, ...]]) -> np.ndarray:
        return np.array([[self._logits(tuple(branch.emitted))] for branch in active])

    def _logits(self, emitted: tuple[int, ...]) -> list[float]:
        wanted = self.script[emitted]
        # What is not in the script is likely, so that a token that is wrongly open would win.
        return [math.log(wanted[token]) if token in wanted else 50.0 for token in self.batch.rows[0].candidates]


def answer(
    text: TokenizedText,
    script: Script,
    rules: Rules = FIRST,
    *,
    nested: bool = False,
) -> list[tuple[int, int, float]]:
    """Spans that come of a script, with scores rounded."""
    batch = asked(text, nested)
    ((spans,), _) = decode_batch(Scripted(batch, script), batch, 8192, rules)
    assert all(span.label == "A" for span in spans)
    return [(span.first, span.last, round(span.score, 6)) for span in spans]


ABAC = text_of((10, 11, 10, 12))
TWICE: Script = {
    (): {10: 0.3, 11: 0.25, 12: 0.1, END: 0.35},
    (10,): {11: 0.2, 12: 0.1, NEXT: 0.4, END: 0.3},
    (10, NEXT): {11: 0.3, 10: 0.5, 12: 0.2},
    (10, NEXT, 10): {12: 0.2, NEXT: 0.1, END: 0.7},
}


def test_repeated_mentions_stand_for_one_occurrence_after_the_other() -> None:
    # By hand: opening 0.3, closing 0.4 + 0.3; then NEXT among closings 0.4 / 0.7, opening 0.5, closing 0.3 + 0.5.
    followed = 0.4 / 0.7
    passed_over = 1 - followed * 0.3  # the 11 between them is less probable than 0.2
    assert answer(ABAC, TWICE) == [(0, 0, 0.21), (2, 2, round(followed * 0.5 / passed_over * 0.8, 6))]


def test_longer_span_goes_on_where_its_candidates_go_on() -> None:
    script: Script = {
        (): {10: 0.9, 11: 0.05, 12: 0.03, END: 0.02},
        (10,): {11: 0.3, 12: 0.5, NEXT: 0.1, END: 0.1},
        (10, 12): {END: 1.0},  # the sentence is over, so nothing else is open and the weight of END is no matter
    }
    assert answer(ABAC, script) == [(2, 3, 0.45)]


@pytest.mark.parametrize(
    "rules, expected",
    [
        (Rules(open_at=0.29), [(0, 0, 0.3)]),
        (Rules(open_at=0.31), [(1, 1, round(0.25 / 0.7, 6))]),  # 0.25 of the 0.7 without 10
        (Rules(open_at=0.4), []),  # nor the 12: 0.1 of the 0.45 without 10 and 11
    ],
)
def test_opening_rule(rules: Rules, expected: list[tuple[int, int, float]]) -> None:
    little = 1e-8
    script: Script = {
        (): TWICE[()],
        (10,): {11: little, 12: little, NEXT: little, END: 1.0},
        (11,): {10: little, NEXT: little, END: 1.0},
    }
    found = answer(ABAC, script, rules)
    assert [span[:2] for span in found] == [span[:2] for span in expected]
    assert [span[2] for span in found] == pytest.approx([span[2] for span in expected], abs=2e-6)


def test_the_leftmost_opening_wins_over_a_more_probable_one() -> None:
    script: Script = {
        (): {10: 0.2, 11: 0.1, 12: 0.6, END: 0.1},
        (10,): {11: 0.1, NEXT: 0.6, END: 0.3},
        (10, NEXT): {11: 0.1, 12: 0.9},
        (10, NEXT, 12): {END: 1.0},
        (12,): {END: 1.0},
    }
    text = text_of((10, 11, 12))
    # The second one: NEXT 0.6 / 0.9, and 0.9 of what is left when 11 is passed over.
    followed = 0.6 / 0.9
    second = followed * 0.9 / (1 - followed * 0.1)
    assert answer(text, script, Rules(open_at=0.15)) == [(0, 0, round(0.2 * 0.9, 6)), (2, 2, round(second, 6))]


def test_an_opening_is_measured_by_its_leftmost_occurrence() -> None:
    # 10 stands at 0 and at 2; its weight belongs to position 0, before 11.
    script: Script = {(): {10: 0.3, 11: 0.6, END: 0.1}, (10,): {11: 0.1, NEXT: 0.01, END: 0.89}}
    text = text_of((10, 11, 10))
    assert answer(text, script) == [(0, 0, 0.27)]
    shut = text_of((10, 11, 10), (False, True, True))  # no span begins at 0, so now it belongs behind 11
    followed: Script = {**script, (11,): {10: 0.1, NEXT: 0.01, END: 0.89}}
    assert answer(shut, followed) == [(1, 1, 0.54)]


FEW_FOLLOW: Script = {
    (): {10: 0.9, 11: 0.05, 12: 0.03, END: 0.02},
    (10,): {11: 0.1, 12: 0.1, NEXT: 0.24, END: 0.56},
    (10, NEXT): {11: 0.4, 10: 0.3, 12: 0.3},
    (10, NEXT, 11): {10: 0.01, NEXT: 0.01, END: 0.98},
}


@pytest.mark.parametrize("open_at, second", [(0.31, False), (0.29, False), (0.11, True)])
def test_next_is_followed_only_as_far_as_an_opening_can_be_probable_enough(open_at: float, second: bool) -> None:
    # NEXT is 0.3 of closing: never followed at 0.31. At 0.29 it is, in vain: 11 is 0.12 behind it, 10 0.09 of 0.88, 12
    # 0.09 of 0.79. The first span's score is the same whichever delimiter closes it.
    script = FEW_FOLLOW if open_at < 0.3 else {key: FEW_FOLLOW[key] for key in ((), (10,))}
    found = answer(ABAC, script, Rules(open_at=open_at))
    assert found[0] == (0, 0, 0.72)
    assert found[1:] == ([(1, 1, round(0.12 * 0.99, 6))] if second else [])


class Watched(Scripted):
    """Notes what has been emitted whenever it is asked for more."""

    def __init__(self, batch: Any, script: Script) -> None:
        super().__init__(batch, script)
        self.asked: list[list[int]] = []

    def feed(self, active: list[Any], guesses: list[tuple[int, ...]]) -> np.ndarray:
        self.asked += [list(branch.emitted) for branch in active]
        return super().feed(active, guesses)


class Guessing(Watched):
    """Tells what comes behind the guesses too, as far as the script goes."""

    def feed(self, active: list[Any], guesses: list[tuple[int, ...]]) -> np.ndarray:
        super().feed(active, guesses)
        width = 1 + max(map(len, guesses))
        lines = [
            [(*branch.emitted, *guessed[:right]) for right in range(width)]
            for branch, guessed in zip(active, guesses, strict=True)
        ]
        return np.array([[self._logits(read) if read in self.script else [0.0] * 6 for read in of] for of in lines])


def test_right_guesses_are_not_asked_again_and_wrong_ones_mean_nothing() -> None:
    script: Script = {
        (): {10: 0.9, 11: 0.02, 12: 0.02, 13: 0.02, END: 0.04},
        (10,): {11: 0.8, NEXT: 0.1, END: 0.1},
        (10, 11): {12: 0.6, NEXT: 0.2, END: 0.2},  # 12, 13 are guessed behind it
        (10, 11, 12): {13: 0.1, NEXT: 0.7, END: 0.2},
        (10, 11, 12, NEXT): {13: 1.0},
        (10, 11, 12, NEXT, 13): {END: 1.0},
    }
    batch = asked(text_of((10, 11, 12, 13)))
    seen = {}
    for runner in (Watched(batch, script), Guessing(batch, script)):
        ((spans,), _) = decode_batch(runner, batch, 8192, FIRST)
        assert [(span.first, span.last, round(span.score, 6)) for span in spans] == [(0, 2, 0.3888), (3, 3, 0.777778)]
        seen[type(runner)] = runner.asked
    assert seen[Watched] == [[10], [10, 11], [10, 11, 12], [10, 11, 12, NEXT], [10, 11, 12, NEXT, 13]]
    assert seen[Guessing] == [[10], [10, 11, 12, NEXT], [10, 11, 12, NEXT, 13]]


def test_an_answer_may_end_behind_next() -> None:
    batch = asked(ABAC)
    runner = Watched(batch, FEW_FOLLOW)
    ((spans,), _) = decode_batch(runner, batch, 8192, Rules(open_at=0.29))
    assert runner.asked == [[10], [10, NEXT]]  # nothing is asked after the end
    assert [(span.first, span.last) for span in spans] == [(0, 0)]


def test_end_bias() -> None:
    # The weight of END becomes 0.35 e: 10 is 0.3 of 1.601, 11 0.25 of 1.301, 12 0.1 of 1.051, all less than 0.2.
    assert answer(ABAC, TWICE, Rules(open_at=0.2, end_bias=1.0)) == []
    ended: Script = {
        **TWICE,
        (): {10: 0.2, 11: 0.1, 12: 0.1, END: 0.6},
        (10,): {11: 0.2, 12: 0.1, NEXT: 0.3, END: 0.4},
        (10, NEXT, 10): {12: 0.2, NEXT: 0.3, END: 0.5},
        (10, NEXT, 10, NEXT): {12: 1.0},
        (10, NEXT, 10, NEXT, 12): {END: 1.0},
    }
    assert answer(ABAC, ended, Rules(open_at=0.3)) == []
    found = answer(ABAC, ended, Rules(open_at=0.3, end_bias=-1.0))
    weight = 0.6 / math.e
    opening = 0.2 / (0.4 + weight)
    closing = (0.3 + 0.4 / math.e) / (0.6 + 0.4 / math.e)
    assert found[0] == (0, 0, pytest.approx(opening * closing, abs=1e-6))
    assert [span[:2] for span in found] == [(0, 0), (2, 2), (3, 3)]


def test_no_start_leaves_nothing_to_say() -> None:
    assert answer(text_of((10, 11), (False, False)), {(): {END: 1.0}}) == []


def test_nested_spans() -> None:
    script: Script = {
        (): {10: 0.9, 11: 0.06, 12: 0.03, END: 0.01},
        (10,): {11: 0.2, NEXT: 0.7, END: 0.1},
        (10, NEXT): {10: 0.8, 11: 0.1, 12: 0.1},
        (10, NEXT, 10): {11: 1.0},
        (10, NEXT, 10, 11): {12: 0.1, NEXT: 0.5, END: 0.4},
        (10, NEXT, 10, 11, NEXT): {10: 0.1, 11: 0.8, 12: 0.1},
        (10, NEXT, 10, 11, NEXT, 11): {12: 0.1, NEXT: 0.1, END: 0.8},
    }
    found = answer(text_of((10, 11, 12)), script, nested=True)
    assert [span[:2] for span in found] == [(0, 0), (0, 1), (1, 1)]
    assert found[1][2] == pytest.approx(0.7 / 0.8 * 0.8 * 1.0 * 0.9, abs=1e-6)


class Random(Scripted):
    """Any logits whatever, the same for the same tokens emitted."""

    def __init__(self, batch: Any, seed: int) -> None:
        super().__init__(batch, {})
        self.seed = seed

    def _logits(self, emitted: tuple[int, ...]) -> list[float]:
        draw = np.random.default_rng([self.seed, *emitted])
        return list(draw.normal(0.0, 3.0, len(self.batch.rows[0].candidates)))


@settings(deadline=None, max_examples=150)
@given(st.data(), st.integers(0, 10**6), st.booleans(), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_whatever_the_model_says_the_answer_is_legal(
    data: st.DataObject, seed: int, nested: bool, open_at: float
) -> None:
    # ids 4 and 5 are delimiters that occur in the sentence
    ids = tuple(data.draw(st.lists(st.sampled_from([10, 11, 12, NEXT, END]), min_size=1, max_size=9)))
    flags = st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))
    text = text_of(ids, tuple(data.draw(flags)), tuple(data.draw(flags)))
    batch = asked(text, nested)
    ((spans,), _) = decode_batch(Random(batch, seed), batch, 8192, Rules(open_at, end_bias=-4.0))
    ranges = [(span.first, span.last) for span in spans]
    assert ranges == sorted(set(ranges))
    for span in spans:
        assert text.start_ok[span.first] and text.end_ok[span.last] and span.first <= span.last
        assert not {NEXT, END} & set(ids[span.first : span.last + 1])
        assert 0.0 <= span.score <= 1.0
    if not nested:
        assert all(one[1] < two[0] for one, two in pairwise(ranges))


class Eager(Scripted):
    """Closes a span as soon as it can, and always goes on to another one."""

    def _logits(self, emitted: tuple[int, ...]) -> list[float]:
        return [60.0 if token == NEXT else -60.0 if token == END else 0.0 for token in self.batch.rows[0].candidates]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("length", [1, 4, 60])
def test_an_answer_ends(nested: bool, length: int) -> None:
    text = text_of(tuple(range(100, 100 + length)))
    batch = asked(text, nested)
    ((spans,), _) = decode_batch(Eager(batch, {}), batch, 8192, Rules(open_at=0.0))
    emitted = sum(span.last - span.first + 2 for span in spans)
    if nested:  # all stretches of four tokens, but only some of those of sixty
        assert len(spans) == {1: 1, 4: 10}.get(length, len(spans))
        assert emitted <= 4 * length + 17
        assert length < 60 or emitted > 3 * length
    else:
        assert [(span.first, span.last) for span in spans] == [(at, at) for at in range(length)]


def masses(runner: Random, automaton: SpanAutomaton, end_bias: float) -> dict[tuple[int, ...], float]:
    """The probability that an answer begins with these tokens, for every beginning of an answer."""
    found: dict[tuple[int, ...], float] = {}
    candidates = runner.batch.rows[0].candidates

    def walk(state: State, emitted: tuple[int, ...], probability: float) -> None:
        found[emitted] = probability
        logits = dict(zip(candidates, runner._logits(emitted), strict=True))
        logits[END] += end_bias
        choices = list(automaton.choices(state))
        total = sum(math.exp(logits[token]) for token in choices)
        for token in choices:
            walk(automaton.advance(state, token), (*emitted, token), probability * math.exp(logits[token]) / total)

    walk(State(), (), 1.0)
    return found


def leftmost_answers(
    mass: dict[tuple[int, ...], float], automaton: SpanAutomaton, open_at: float
) -> list[tuple[int, int, float]]:
    """The rule of opening in other words, on the probabilities of whole beginnings; NEXT is always tried."""
    found: list[tuple[int, int, float]] = []
    state, emitted, closed = State(), (), 1.0  # closed: the probability of all answers with the spans so far
    while True:
        passed_over, opened = 0.0, None
        for position in range(len(automaton.ids)):  # from left to right
            token = automaton.ids[position]
            if token in (NEXT, END) or min(automaton.choices(state).get(token, [-1])) != position:
                continue
            if mass[(*emitted, token)] / (closed - passed_over) >= open_at:
                opened = token
                break
            passed_over += mass[(*emitted, token)]
        if opened is None:
            return found
        given = closed - passed_over
        state, emitted = automaton.advance(state, opened), (*emitted, opened)
        while True:
            on = [token for token, positions in automaton.choices(state).items() if positions]
            closed = mass.get((*emitted, NEXT), 0.0) + mass.get((*emitted, END), 0.0)
            longest = max(on, key=lambda token: mass[(*emitted, token)], default=None)
            if longest is None or closed >= mass[(*emitted, longest)]:
                break
            state, emitted = automaton.advance(state, longest), (*emitted, longest)
        behind = NEXT if (*emitted, NEXT) in mass else END
        found.append((*automaton.closings(state, behind)[0], closed / given))
        if behind == END:
            return found
        state, emitted = automaton.advance(state, NEXT), (*emitted, NEXT)


SHORT_SENTENCES = st.lists(st.sampled_from([10, 11, 12]), min_size=1, max_size=4).map(tuple)
OPEN_AT = st.one_of(st.sampled_from([0.01, 0.1, 0.3]), st.floats(0.001, 1.0))


@settings(deadline=None, max_examples=150)
@given(st.data(), SHORT_SENTENCES, st.integers(0, 10**6), OPEN_AT, st.sampled_from([0.0, -2.0, -5.0]))
def test_the_first_opening_is_the_one_found_by_counting_whole_answers(
    data: st.DataObject, ids: tuple[int, ...], seed: int, open_at: float, end_bias: float
) -> None:
    flags = st.lists(st.sampled_from([True, True, False]), min_size=len(ids), max_size=len(ids))
    text = text_of(ids, tuple(data.draw(flags)), tuple(data.draw(flags)))
    batch = asked(text)
    runner, automaton = Random(batch, seed), batch.rows[0].automaton
    ((spans,), _) = decode_batch(runner, batch, 8192, Rules(open_at, end_bias))
    expected = leftmost_answers(masses(runner, automaton, end_bias), automaton, open_at)
    # In particular, not to follow a NEXT that is too improbable loses nothing.
    assert [(span.first, span.last) for span in spans] == [wanted[:2] for wanted in expected]
    assert [span.score for span in spans] == pytest.approx([wanted[2] for wanted in expected], abs=1e-6)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 10**6), OPEN_AT, OPEN_AT)
def test_a_lower_bar_opens_the_first_span_no_later(length: int, seed: int, one: float, two: float) -> None:
    # More is not promised: a span that opens sooner may cover two that a higher bar would have found.
    batch = asked(text_of(tuple(range(10, 10 + length))))
    opened = []
    for open_at in sorted((one, two)):
        ((spans,), _) = decode_batch(Random(batch, seed), batch, 8192, Rules(open_at))
        opened.append(spans[0].first if spans else length)
    assert opened[0] <= opened[1]


def path_probabilities(
    backbone: Backbone, ids: list[int], automaton: SpanAutomaton, bias: float
) -> dict[tuple[Any, ...], float]:
    """Each answer that the automaton accepts, as its spans, with the model's probability of its path."""
    found: dict[tuple[Any, ...], float] = {}

    def walk(state: State, emitted: list[int], spans: tuple[Any, ...], probability: float) -> None:
        if state.ended:
            assert spans not in found  # one path for an answer
            found[spans] = probability
            return
        choices = list(automaton.choices(state))
        logits = backbone.model(input_ids=torch.tensor([[*ids, *emitted]])).logits[0, -1, choices].double()
        logits += torch.tensor([bias if token == automaton.end_id else 0.0 for token in choices])
        for token, share in zip(choices, logits.softmax(0).tolist(), strict=True):
            closed = automaton.closings(state)[:1] if token in (automaton.next_id, automaton.end_id) else []
            walk(automaton.advance(state, token), [*emitted, token], (*spans, *closed), probability * share)

    with torch.inference_mode():
        walk(State(), [], (), 1.0)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_are_conditional_probabilities_over_all_answers(seed: int) -> None:
    backbone = tiny_backbone("llama", seed=seed)
    encoder = Encoder(backbone.prompt, edges="token")
    text = encoder.tokenize("aba")
    assert len(text) == 3 and all(text.start_ok) and all(text.end_ok)
    most = 0
    for label in ("boat", "weather"):
        query = encoder.query(label, label)
        (row,) = encoder.rows(text, [query])
        answers = path_probabilities(backbone, [*row.prefix, *row.branches[0].ids], row.automaton, -3.0)
        # none; a, ab, aba, b, ba; a a, a b, a ba, ab a, b a; a b a: one path for each, as a single a is the first
        assert ((0, 0), (1, 1), (2, 2)) in answers and () in answers and len(answers) == 12
        assert sum(answers.values()) == pytest.approx(1.0, abs=1e-6)
        (spans,) = decode(backbone, encoder, [Request(text, (query,))], rules=Rules(0.15, end_bias=-3.0))
        most = max(most, len(spans))
        for count, span in enumerate(spans):
            before = tuple((s.first, s.last) for s in spans[:count])
            through = (*before, (span.first, span.last))
            given_before = sum(p for a, p in answers.items() if a[:count] == before)
            given_before -= sum(  # and given that nothing opens to the left of it
                p for a, p in answers.items() if a[:count] == before and a[count:] and a[count][0] < span.first
            )
            reached = sum(p for a, p in answers.items() if a[: count + 1] == through)
            assert span.score == pytest.approx(reached / given_before, abs=1e-5)
    assert most >= 2


MIXED = (
    *EXAMPLES,
    ("A long sentence about Ada Byron, who sailed from Oslo to Rome and back in a year.", {"person": (), "place": ()}),
    ("Oslo", {"place": (), "boat": (), "person": (), "weather": ()}),
)

EAGER = Rules(open_at=0.1, end_bias=-2.0)


def same(one: list[list[DecodedSpan]], two: list[list[DecodedSpan]]) -> None:
    ranges = [[[(s.first, s.last, s.label) for s in spans] for spans in found] for found in (one, two)]
    assert ranges[0] == ranges[1]
    scores = [[s.score for spans in found for s in spans] for found in (one, two)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert scores[0]


@pytest.mark.parametrize("votes", [None, VOTING], ids=["no votes", "votes"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_cached_is_uncached(monkeypatch: pytest.MonkeyPatch, nested: bool, votes: VoteSettings | None) -> None:
    backbone = tiny_backbone("llama")
    encoder = Encoder(backbone.prompt, nested=nested)
    sizes: list[tuple[int, int, int]] = []
    feed = CachedRunner.feed

    def watched(runner: Any, active: list[Any], guesses: list[tuple[int, ...]]) -> np.ndarray:
        before = len(runner.held)
        logits = feed(runner, active, guesses)
        sizes.append((before, len(active), len(runner.held)))
        return logits

    monkeypatch.setattr(CachedRunner, "feed", watched)
    requests = requests_of(encoder, MIXED)
    cached, plain = (decode(backbone, encoder, requests, voting=votes, rules=EAGER, cached=on) for on in (True, False))
    same(cached, plain)
    assert any(before > after for before, _, after in sizes)  # branches have left the cache
    assert any(needed < after for _, needed, after in sizes)  # and branches have stayed although finished


class Counted:
    """A backbone's pass, counted."""

    def __init__(self, backbone: Any) -> None:
        self.forward, self.passes = backbone.forward, 0

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.passes += 1
        return self.forward(*arguments, **named)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_guesses_change_the_number_of_passes_alone(monkeypatch: pytest.MonkeyPatch, architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    encoder = Encoder(backbone.prompt)
    requests = requests_of(encoder, MIXED)
    plain = decode(backbone, encoder, requests, rules=EAGER, cached=False)
    passes = {}
    for most in (0, 1, 3, 8):
        monkeypatch.setattr(cllmfs.decoding.greedy, "SPECULATIVE_TOKENS", most)
        counted = Counted(backbone)
        with monkeypatch.context() as patch:
            patch.setattr(backbone, "forward", counted)
            found = decode(backbone, encoder, requests, rules=EAGER)
        passes[most] = counted.passes
        same(found, plain)
    assert passes[0] > passes[1] > passes[3] >= passes[8] > 1


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("budget", [1, 150, 8192])
def test_batched_is_single(cached: bool, budget: int) -> None:
    backbone = tiny_backbone("qwen3")
    encoder = Encoder(backbone.prompt)
    requests = requests_of(encoder, MIXED)
    together = decode(backbone, encoder, requests, batch_tokens=budget, rules=EAGER, cached=cached)
    alone = []
    for request in requests:
        spans = []
        for query in request.queries:
            single = Request(request.sentence, (query,))
            spans += decode(backbone, encoder, [single], batch_tokens=budget, rules=EAGER)[0]
        alone.append(spans)
    same(together, alone)


def test_spans_come_in_the_order_asked_and_at_edges() -> None:
    backbone = tiny_backbone("llama")
    encoder = Encoder(backbone.prompt)
    requests = requests_of(encoder, MIXED)
    found = decode(backbone, encoder, requests, rules=Rules(end_bias=-4.0))
    assert sum(map(len, found)) > 5
    for request, spans in zip(requests, found, strict=True):
        labels = [query.label for query in request.queries]
        order = [(labels.index(span.label), span.first) for span in spans]
        assert order == sorted(order)
        for span in spans:
            assert request.sentence.start_ok[span.first] and request.sentence.end_ok[span.last]
        for label in labels:
            own = [span for span in spans if span.label == label]
            assert all(one.last < two.first for one, two in pairwise(own))


def test_nothing_asked_and_nothing_to_read() -> None:
    backbone = tiny_backbone("llama")
    encoder = Encoder(backbone.prompt)
    query = encoder.query("boat", "boat")
    empty, some = encoder.tokenize(""), encoder.tokenize("Oslo")
    requests = [Request(empty, (query,)), Request(some, ()), Request(some, (query,))]
    found = decode(backbone, encoder, requests, rules=Rules(end_bias=-50.0))
    assert found[:2] == [[], []] and found[2]
    assert decode(backbone, encoder, []) == []


def test_a_model_in_training_is_put_at_rest() -> None:
    backbone = fresh_backbone("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    encoder = Encoder(backbone.prompt)
    found = []
    for training in (False, True, True):
        backbone.model.train(training)
        found.append(decode(backbone, encoder, requests_of(encoder), rules=EAGER))
        assert backbone.model.training == training
    assert found[0] == found[1] == found[2] and any(found[0])


def all_votes(found: list[list[DecodedSpan]]) -> list[float]:
    return [span.vote for spans in found for span in spans]


def test_votes_are_those_of_the_states_and_change_no_span() -> None:
    backbone = tiny_backbone("llama")
    encoder = Encoder(backbone.prompt)
    requests = requests_of(encoder)
    silent, voted = (decode(backbone, encoder, requests, voting=voting, rules=EAGER) for voting in (None, VOTING))
    assert set(all_votes(silent)) == {0.0}
    assert [[replace(span, vote=0.0) for span in spans] for spans in voted] == silent
    for request, spans in zip(requests, voted, strict=True):
        (row,) = encoder.rows(request.sentence, request.queries)
        batch = collate([row])
        states = forward_batch(backbone, batch, VOTING.layer).layer
        assert states is not None
        sentence = states[0, row.sentence_at : row.sentence_at + len(row.sentence)]
        none = states[0, row.sentence_at - 1]
        for span in spans:
            logits = {"": 0.0}
            for label, (_, at) in zip(batch.labels, batch.anchors.tolist(), strict=True):
                like = [torch.cosine_similarity(states[0, at], other, dim=0).item() for other in (*sentence, none)]
                logits[label] = ((like[span.first] + like[span.last]) / 2 - like[-1]) / VOTING.temperature
            expected = logits[span.label] - math.log(sum(map(math.exp, logits.values())))
            assert span.vote == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("tree", [True, False], ids=["tree", "rows"])
def test_types_in_several_rows_vote_as_those_in_one_row(tree: bool) -> None:
    backbone = tiny_backbone("llama")
    encoders = [Encoder(backbone.prompt), Encoder(backbone.prompt, tree=tree)]
    whole, parts = (
        decode(backbone, encoder, requests_of(encoder), batch_tokens=budget, voting=VOTING, rules=EAGER)
        for encoder, budget in zip(encoders, (8192, 1), strict=True)
    )
    same(whole, parts)
    assert all_votes(whole) == pytest.approx(all_votes(parts), abs=1e-4)


def test_a_type_asked_alone_is_voted_on_against_no_entity() -> None:
    backbone = tiny_backbone("llama")
    encoder = Encoder(backbone.prompt)
    requests = [replace(request, queries=request.queries[:1]) for request in requests_of(encoder)]
    votes = all_votes(decode(backbone, encoder, requests, voting=VOTING, rules=EAGER))
    assert votes and all(vote < 0.0 for vote in votes)


def test_a_cache_with_room_holds_what_the_librarys_holds() -> None:
    draw = torch.Generator().manual_seed(0)
    roomy, plain = roomy_cache(), DynamicCache()
    rows, columns = 3, 0
    for size, kept in ((5, []), (1, []), (30, []), (1, [2, 0]), (1, []), (20, [0]), (1, [])):
        if kept:
            rows = len(kept)
            for cache in (roomy, plain):
                cache.batch_select_indices(torch.tensor(kept))
        columns += size
        new = [torch.randn(rows, 2, size, 4, generator=draw) for _ in range(2)]
        for one, other in zip(roomy.update(*new, 0), plain.update(*new, 0), strict=True):
            assert one.shape == (rows, 2, columns, 4)
            assert torch.equal(one, other)
        assert roomy.get_seq_length() == columns
