"""The variants of the ablation: contrastive forms against slow loops, the loss over the sentence, the best opening."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.ablation import variants
from benchmarks.ablation.variants import FORMS, VARIANTS, install, sentence_logits
from cllmfs.benchmark.task import Task, read_answer, write_task
from cllmfs.decoding import greedy
from cllmfs.decoding.greedy import Rules
from cllmfs.encoding.batches import IGNORE, collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.encoding.rows import TypeQuery
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.model.anchors import ContrastiveBatch
from cllmfs.model.forward import forward_batch
from cllmfs.schema import Example, Span
from cllmfs.training import contrast, objective
from tests.conftest import EXAMPLES, tiny_backbone
from tests.training.test_contrast import (
    DEGENERATE,
    Gold,
    Plain,
    X,
    Y,
    ask,
    assert_padding_changes_nothing,
    cos,
    cross_entropy,
    make,
    random_batch,
    slow_infonce,
    with_leaves,
)

# contrastive forms


def peers(plain: Plain, anchor: int) -> list[Gold]:
    """All gold spans of the anchor's row."""
    return [(b, i, j) for b, i, j in plain.spans if plain.rows[b] == plain.rows[anchor]]


def near_misses(plain: Plain, anchor: int, first: int, last: int) -> set[tuple[int, int]]:
    near = {(first + x, last + y) for x in (-1, 0, 1) for y in (-1, 0, 1)} | {(first, first), (last, last)}
    near = {(i, j) for i, j in near if i <= j and plain.real(anchor, i) and plain.real(anchor, j)}
    return near - {(i, j) for _, i, j in peers(plain, anchor)}


def pool(plain: Plain, anchor: int, first: int, last: int) -> list[float]:
    tokens = plain.states[plain.rows[anchor]][first : last + 1]
    return [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]


def slow_span(batch: ContrastiveBatch, tau: float) -> float:
    plain, costs = Plain(batch), []
    for a, first, last in plain.spans:
        others = [
            (i, j) for b, i, j in peers(plain, a) if plain.types[b] != plain.types[a] and (i, j) not in plain.gold(a)
        ]
        spans = [(first, last), *near_misses(plain, a, first, last), *others]
        score = [cos(plain.anchors[a], pool(plain, a, i, j)) / tau for i, j in spans]
        costs.append(cross_entropy(score[0], score[1:]))
    return sum(costs) / len(costs) if costs else 0.0


def slow_supcon(batch: ContrastiveBatch, tau: float) -> float:
    plain, costs = Plain(batch), []
    for s, span in enumerate(plain.spans):
        query = pool(plain, *span)
        score = {t: cos(query, pool(plain, *other)) / tau for t, other in enumerate(plain.spans) if t != s}
        partners = [t for t in score if plain.types[plain.spans[t][0]] == plain.types[span[0]]]
        if partners:
            total = math.log(sum(math.exp(value) for value in score.values()))
            costs.append(sum(total - score[t] for t in partners) / len(partners))
    return sum(costs) / len(costs) if costs else 0.0


def slow_symmetric(batch: ContrastiveBatch, tau: float) -> float:
    plain = Plain(batch)
    hits: list[float] = []
    misses: list[float] = []
    for a, first, last in plain.spans:
        row = plain.rows[a]
        asked = [b for b, other in enumerate(plain.rows) if other == row]

        def votes(i: int, j: int, row: int = row, asked: list[int] = asked) -> dict[int, float]:
            ends, none = (plain.states[row][i], plain.states[row][j]), plain.threshold[row]
            alike = {b: sum(cos(plain.anchors[b], end) for end in ends) / 2 for b in asked}
            return {b: (value - cos(plain.anchors[b], none)) / tau for b, value in alike.items()}

        here = votes(first, last)
        others = [vote for b, vote in here.items() if b != a and (first, last) not in plain.gold(b)]
        hits.append(cross_entropy(here[a], [0.0, *others]))
        misses += [cross_entropy(0.0, list(votes(i, j).values())) for i, j in near_misses(plain, a, first, last)]
    means = (sum(costs) / max(1, len(costs)) for costs in (hits, misses))
    return slow_infonce(batch, tau) + sum(means) / 2


SLOW = {"span": slow_span, "supcon": slow_supcon, "symmetric": slow_symmetric}

BY_HAND: dict[str, tuple[str, ContrastiveBatch, float]] = {
    # [0, 0] against the longer [0, 1], halfway between the axes, and the shifted [1, 1].
    "span": ("span", ask([X, Y], [(0, 0, 0)]), math.log(math.e + math.exp(math.sqrt(0.5)) + 1) - 1),
    "span, no negatives": ("span", ask([Y], [(0, 0, 0)]), 0.0),
    # Spans X and Y of one type, Y of another: the third has no partner and contributes nothing.
    "supcon": (
        "supcon",
        make([[X, Y], [Y, X]], [X, X], [X, X, X], [0, 1, 1], [7, 7, 3], [(0, 0, 0), (1, 0, 0), (2, 0, 0)]),
        (math.log(2) + math.log(1 + math.e)) / 2,
    ),
    "supcon, seen once": ("supcon", make([[X, Y]], [X], [X, X], [0, 0], [0, 1], [(0, 0, 0), (1, 1, 1)]), 0.0),
    # As infonce, and: the vote on [0, 0] is 1 against 0; those on its near misses [0, 1] and [1, 1] are 1/2 and 0.
    "symmetric": (
        "symmetric",
        ask([X, Y], [(0, 0, 0)]),
        math.log(2 + math.e)
        - 1
        + math.log(2)
        + (math.log(1 + math.e) - 1 + (math.log1p(math.exp(0.5)) + math.log(2)) / 2) / 2,
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case: str) -> None:
    form, batch, expected = BY_HAND[case]
    assert FORMS[form](batch, temperature=1.0).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10**6), tau=st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_forms_agree_with_their_loops(form: str, seed: int, tau: float) -> None:
    batch = random_batch(seed)
    assert FORMS[form](batch, temperature=tau).item() == pytest.approx(SLOW[form](batch, tau), 1e-4, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1e-4, 0.1])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("form", FORMS)
def test_degenerate_batches_are_finite(form: str, case: str, tau: float, dtype: torch.dtype) -> None:
    batch, leaves = with_leaves(DEGENERATE[case], dtype)
    loss = FORMS[form](batch, temperature=tau)
    assert loss.dtype == torch.float32 and loss.shape == () and loss.isfinite() and loss.item() >= -1e-3
    assert loss.item() == 0.0 or case not in ("no anchors", "no rows")
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("filler", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("seed", [seed for seed in range(12) if not random_batch(seed).valid.all()])
def test_padded_states_change_nothing(form: str, filler: float, seed: int) -> None:
    assert_padding_changes_nothing(FORMS[form], filler, seed)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_and_low_precision_inputs_are_computed_in_fp32(form: str) -> None:
    low, _ = with_leaves(random_batch(3), torch.bfloat16)
    wide = replace(low, **{name: getattr(low, name).float() for name in ("states", "threshold", "anchors")})
    expected = FORMS[form](wide, temperature=0.1).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert FORMS[form](wide, temperature=0.1).item() == expected
        assert FORMS[form](low, temperature=0.1).item() == expected
    assert expected > 0


@pytest.mark.parametrize("form", FORMS)
def test_a_form_takes_the_place_of_infonce(form: str) -> None:
    batch = random_batch(3)
    before = contrast.contrastive_loss("infonce", batch, temperature=0.5).item()
    install(form)
    found = contrast.contrastive_loss("infonce", batch, temperature=0.5).item()
    assert found == pytest.approx(SLOW[form](batch, 0.5), rel=1e-4) and found != before


# the loss over the sentence


def example_batch(architecture: str) -> Any:
    backbone = tiny_backbone(architecture)
    encoder = Encoder(backbone.prompt, bidirectional=architecture == "bert")
    rows = []
    for number, (text, gold) in enumerate(EXAMPLES):
        sentence = encoder.tokenize(text)
        places = {
            label: [(text.index(mention), text.index(mention) + len(mention)) for mention in mentions]
            for label, mentions in gold.items()
        }
        spans = Example(text, tuple(Span(*place, label) for label in places for place in places[label])).spans
        answers = encoder.answers(sentence, spans)
        rows += encoder.rows(
            sentence, [encoder.query(label, label, "", answers.get(label, ())) for label in gold], number
        )
    return backbone, collate(rows)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_the_loss_over_the_sentence_is_the_masked_loss_over_the_whole_vocabulary(architecture: str) -> None:
    backbone, batch = example_batch(architecture)
    last = forward_batch(backbone, batch, join=False).last
    logits = backbone.model.get_output_embeddings()(last)
    costs = []
    for number, row in enumerate(batch.rows):
        steps = [(branch, step) for branch in row.branches for step in range(len(branch.targets))]
        for column, (branch, step) in zip(batch.query[number].tolist(), steps, strict=False):
            masked = torch.full_like(logits[number, column], float("-inf"))
            masked[list(row.candidates)] = logits[number, column, list(row.candidates)]
            costs.append(-masked.log_softmax(0)[row.candidates[branch.targets[step]]])
    over_automaton = objective.language_loss(backbone, batch, last).item()
    install("sentence-loss")
    assert objective.language_loss(backbone, batch, last).item() == pytest.approx(
        torch.stack(costs).mean().item(), abs=1e-5
    )
    assert over_automaton < objective.language_loss(backbone, batch, last).item()  # fewer rivals


def test_all_candidates_of_a_row_count() -> None:
    backbone, batch = example_batch("llama")
    found = sentence_logits(backbone, batch, forward_batch(backbone, batch).last)
    real = batch.target != IGNORE
    sizes = torch.tensor([len(row.candidates) for row in batch.rows])
    expected = (torch.arange(found.shape[2]) < sizes[:, None])[:, None].expand_as(found)
    assert torch.equal(found[real].isfinite(), expected[real]) and found[~real].isfinite().all()


# the most probable opening

NEXT, END = 4, 5
PROMPT: Any = SimpleNamespace(
    bos=[], before=[1], after=[2], open=[3], next_id=NEXT, end_id=END, template=PromptTemplate()
)
ABAC = TokenizedText("x" * 4, (10, 11, 10, 12), (True,) * 4, (True,) * 4, (0, 1, 2, 3), (1, 2, 3, 4))
Script = dict[tuple[int, ...], dict[int, float]]
TWICE: Script = {
    (): {10: 0.3, 11: 0.25, 12: 0.1, END: 0.35},
    (10,): {11: 0.2, 12: 0.1, NEXT: 0.4, END: 0.3},
    (10, NEXT): {11: 0.3, 10: 0.5, 12: 0.2},
    (10, NEXT, 10): {12: 0.2, NEXT: 0.1, END: 0.7},
}


def answer(script: Script) -> list[tuple[int, int, float]]:
    """The spans of ABAC where the model gives these probabilities after these tokens, with rounded scores."""
    encoder = Encoder(PROMPT)
    batch = collate(encoder.rows(ABAC, [TypeQuery("A", (30,))]))

    def logits(emitted: tuple[int, ...]) -> list[float]:
        return [math.log(script[emitted].get(token, math.exp(50.0))) for token in batch.rows[0].candidates]

    runner: Any = SimpleNamespace(
        first=lambda _: (np.array([logits(())]), None),
        feed=lambda active, _: np.array([[logits(tuple(branch.emitted))] for branch in active]),
    )
    ((spans,), _) = greedy.decode_batch(runner, batch, 8192, Rules(open_at=0.2))
    return [(span.first, span.last, round(span.score, 6)) for span in spans]


def test_the_most_probable_opening_is_taken() -> None:
    install("best-opening")
    # By hand: opening 0.3, closing 0.4 + 0.3; then NEXT among closings 0.4 / 0.7, opening 0.5, closing 0.3 + 0.5.
    likely = {**TWICE, (): {10: 0.3, 11: 0.25, 12: 0.2, END: 0.25}}
    assert answer(likely) == [(0, 0, 0.21), (2, 2, round(0.4 / 0.7 * 0.5 * 0.8, 6))]
    later = {**TWICE, (): {10: 0.2, 11: 0.1, 12: 0.6, END: 0.1}, (12,): {END: 1.0}}
    assert answer(later) == [(3, 3, 0.6)]


def test_an_answer_ends_where_that_is_most_probable() -> None:
    assert answer(TWICE) != []
    install("best-opening")
    assert answer(TWICE) == []


# the program


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_system(
    variant: str,
    tmp_path: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shots = [Example.from_tokens([name, "sings"], [(0, 1, "per")]) for name in "ABCD"]
    write_task(tmp_path, Task(tuple(shots), (Example("G sings"),), ("loc", "per"), 1))
    words = [str(tmp_path), "--base", str(tiny_base), "--variant", variant]
    changes = [word for one in ("train.steps=2", "calibrate.folds=0", "recipe.negatives=1") for word in ("--set", one)]
    monkeypatch.setattr(sys, "argv", ["variants", *words, *changes])
    variants.main()
    documents, facts = read_answer(tmp_path, [Example("G sings")])
    assert len(documents) == 1 and facts["chosen"]["steps"] == 2
