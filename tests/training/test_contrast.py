"""Losses against slow references that loop over plain numbers, and on degenerate batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cllmfs.errors import ConfigError
from cllmfs.model.anchors import ContrastiveBatch
from cllmfs.training.contrast import FORMS, contrastive_loss, cross_view

Vector = list[float]
Gold = tuple[int, int, int]  # anchor, first, last


def make(
    states: list[list[Vector]],
    threshold: list[Vector],
    anchors: list[Vector],
    rows: list[int],
    types: list[int],
    spans: list[Gold],
    valid: list[list[int]] | None = None,
) -> ContrastiveBatch:
    """A batch from plain lists; every position is real unless ``valid`` says otherwise."""
    hidden = torch.tensor(states)
    return ContrastiveBatch(
        states=hidden,
        valid=torch.ones(hidden.shape[:2], dtype=torch.bool) if valid is None else torch.tensor(valid).bool(),
        threshold=torch.tensor(threshold),
        anchors=torch.tensor(anchors).reshape(len(rows), hidden.shape[2]),
        rows=torch.tensor(rows, dtype=torch.long),
        types=torch.tensor(types, dtype=torch.long),
        spans=torch.tensor(spans, dtype=torch.long).reshape(-1, 3),
    )


def random_batch(seed: int, *, width: int = 5) -> ContrastiveBatch:
    """Rows of different lengths padded on either side, one to three types a row, nested and shared spans."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    lengths = [draw(1, 7) for _ in range(draw(1, 3))]
    size = max(lengths)
    left = [draw(0, size - length) for length in lengths]
    rows: list[int] = []
    types: list[int] = []
    spans: set[Gold] = set()
    for row in range(len(lengths)):
        for kind in torch.randperm(4, generator=generator)[: draw(1, 3)].tolist():
            for _ in range(draw(0, 3)):
                first = draw(0, lengths[row] - 1)
                last = draw(first, lengths[row] - 1)
                spans.add((len(rows), left[row] + first, left[row] + last))
            rows.append(row)
            types.append(kind)
    order = torch.randperm(len(rows), generator=generator).tolist()
    place = {old: new for new, old in enumerate(order)}
    valid = torch.zeros(len(lengths), size, dtype=torch.bool)
    for row, length in enumerate(lengths):
        valid[row, left[row] : left[row] + length] = True
    return ContrastiveBatch(
        states=torch.randn(len(lengths), size, width, generator=generator),
        valid=valid,
        threshold=torch.randn(len(lengths), width, generator=generator),
        anchors=torch.randn(len(rows), width, generator=generator),
        rows=torch.tensor([rows[old] for old in order]),
        types=torch.tensor([types[old] for old in order]),
        spans=torch.tensor([(place[a], i, j) for a, i, j in sorted(spans)], dtype=torch.long).reshape(-1, 3),
    )


# Slow references: plain numbers, loops, the definitions written out.


def cos(left: Vector, right: Vector) -> float:
    size = math.hypot(*left) * math.hypot(*right)
    return sum(x * y for x, y in zip(left, right, strict=True)) / size if size else 0.0


def cross_entropy(positive: float, negatives: list[float]) -> float:
    return math.log(math.exp(positive) + sum(math.exp(value) for value in negatives)) - positive


class Plain:
    """A batch as lists, with the terms of the definitions."""

    def __init__(self, batch: ContrastiveBatch) -> None:
        self.states: list[list[Vector]] = batch.states.tolist()
        self.valid: list[list[bool]] = batch.valid.tolist()
        self.threshold: list[Vector] = batch.threshold.tolist()
        self.anchors: list[Vector] = batch.anchors.tolist()
        self.rows: list[int] = batch.rows.tolist()
        self.types: list[int] = batch.types.tolist()
        self.spans: list[Gold] = [(a, i, j) for a, i, j in batch.spans.tolist()]

    def gold(self, anchor: int) -> set[tuple[int, int]]:
        return {(i, j) for a, i, j in self.spans if a == anchor}

    def real(self, anchor: int, position: int) -> bool:
        valid = self.valid[self.rows[anchor]]
        return 0 <= position < len(valid) and valid[position]


def slow_ancestor(batch: ContrastiveBatch, tau: float) -> float:
    plain, costs = Plain(batch), []
    for a, first, last in plain.spans:
        here = plain.states[plain.rows[a]]
        inside = {position for i, j in plain.gold(a) for position in range(i, j + 1)}
        around = [p for p in (first - 2, first - 1, last + 1, last + 2) if plain.real(a, p) and p not in inside]
        score = sum(cos(plain.anchors[a], here[p]) for p in (first, last))
        score -= sum(cos(plain.anchors[a], here[p]) for p in around)
        costs.append(-math.log(1 / (1 + math.exp(-score))))
    return sum(costs) / len(costs) if costs else 0.0


def slow_infonce(batch: ContrastiveBatch, tau: float) -> float:
    plain, total = Plain(batch), 0.0
    for a, anchor in enumerate(plain.anchors):
        row = plain.rows[a]
        level = cos(anchor, plain.threshold[row]) / tau
        logits = {p: cos(anchor, h) / tau for p, h in enumerate(plain.states[row]) if plain.valid[row][p]}
        for edge in (0, 1):
            gold = {span[edge] for span in plain.gold(a)}
            negatives = [value for position, value in logits.items() if position not in gold]
            costs = [cross_entropy(logits[position], [level, *negatives]) for position in gold]
            positive = sum(costs) / len(costs) if costs else 0.0
            total += positive + cross_entropy(level, negatives)
    return total / 2 / len(plain.anchors)


Slow = Callable[[ContrastiveBatch, float], float]
SLOW: dict[str, Slow] = {"ancestor": slow_ancestor, "infonce": slow_infonce}
X, Y = [1.0, 0.0], [0.0, 1.0]


def ask(states: list[Vector], spans: list[Gold]) -> ContrastiveBatch:
    """One sentence, one type with the anchor X, the threshold Y."""
    return make([states], [Y], [X], [0], [0], spans)


BY_HAND: dict[str, tuple[str, ContrastiveBatch, float]] = {
    # The only token of span [1, 1] counts twice; tokens 0 and 2 around it have cosines 0 and -1.
    "ancestor": ("ancestor", ask([Y, X, [-1.0, 0.0]], [(0, 1, 1)]), math.log1p(math.exp(-3))),
    # Two spans side by side fill the sentence: no token is left for a negative.
    "ancestor, all gold": ("ancestor", ask([X, X], [(0, 0, 0), (0, 1, 1)]), math.log1p(math.exp(-2))),
    # Logits: threshold 0, gold 1, other token 0. The gold token against two zeros, then the threshold against one.
    "infonce": ("infonce", ask([X, Y], [(0, 0, 0)]), math.log(2 + math.e) - 1 + math.log(2)),
    # A second gold token like the first changes nothing: each is masked out for the other.
    "infonce, two": ("infonce", ask([X, Y, X], [(0, 0, 0), (0, 2, 2)]), math.log(2 + math.e) - 1 + math.log(2)),
    "infonce, no gold": ("infonce", ask([X, Y], []), math.log(2 + math.e)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_by_hand(case: str) -> None:
    form, batch, expected = BY_HAND[case]
    assert contrastive_loss(form, batch, temperature=1.0).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("form", FORMS)
@given(seed=st.integers(0, 10**6), tau=st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_forms_agree_with_their_loops(form: str, seed: int, tau: float) -> None:
    batch = random_batch(seed)
    assert contrastive_loss(form, batch, temperature=tau).item() == pytest.approx(SLOW[form](batch, tau), 1e-4, 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(5))
def test_cross_view_agrees_with_its_loops(form: str, seed: int) -> None:
    clean = random_batch(seed)
    noise = torch.Generator().manual_seed(seed)
    moved = {name: getattr(clean, name) for name in ("states", "threshold", "anchors")}
    moved = {name: value + torch.randn(value.shape, generator=noise) for name, value in moved.items()}
    perturbed = replace(clean, **moved)
    expected = SLOW[form](replace(perturbed, anchors=clean.anchors), 0.5)
    expected += SLOW[form](replace(clean, anchors=perturbed.anchors), 0.5)
    found = cross_view(clean, perturbed, form, temperature=0.5).item()
    assert found == pytest.approx(expected / 2, rel=1e-4, abs=1e-5)


def test_edge_masks() -> None:
    batch = make([[X, Y, X, Y]], [X], [X, Y], [0, 0], [0, 1], [(0, 0, 1), (0, 3, 3)])
    assert batch.starts.long().tolist() == [[1, 0, 0, 1], [0, 0, 0, 0]]
    assert batch.ends.long().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    assert batch.covered.long().tolist() == [[1, 1, 0, 1], [0, 0, 0, 0]]


def full(value: float, spans: list[Gold], *, tokens: int = 3, rows: int = 1, types: int = 2) -> ContrastiveBatch:
    """Every vector the same; every type asked of every row."""
    vector = [value, value]
    return make(
        [[vector] * tokens] * rows,
        [vector] * rows,
        [vector] * (rows * types),
        [row for row in range(rows) for _ in range(types)],
        list(range(types)) * rows,
        spans,
    )


DEGENERATE: dict[str, ContrastiveBatch] = {
    "no anchors": make([[X, Y]], [X], [], [], [], []),
    "no rows": ContrastiveBatch(
        torch.zeros(0, 0, 2),
        torch.zeros(0, 0).bool(),
        torch.zeros(0, 2),
        torch.zeros(0, 2),
        torch.zeros(0).long(),
        torch.zeros(0).long(),
        torch.zeros(0, 3).long(),
    ),
    "no spans": full(1.0, []),
    "one class, one entity": make([[X, Y, X]], [Y], [X], [0], [0], [(0, 1, 2)]),
    "one class, two entities": make([[X, Y], [Y, X]], [Y, X], [X, Y], [0, 1], [0, 0], [(0, 0, 0), (1, 1, 1)]),
    "one token": make([[X]], [Y], [X], [0], [0], [(0, 0, 0)]),
    "one token, two types": make([[X]], [Y], [X, Y], [0, 0], [0, 1], [(0, 0, 0), (1, 0, 0)]),
    "all tokens gold": full(1.0, [(0, 0, 0), (0, 1, 1), (0, 2, 2)]),
    "identical states": full(1.0, [(0, 0, 1), (1, 2, 2), (2, 0, 0), (3, 1, 2)], rows=2),
    "zero vectors": full(0.0, [(0, 0, 1), (1, 2, 2), (2, 0, 0), (3, 1, 2)], rows=2),
    "tiny vectors": full(1e-20, [(0, 0, 1), (1, 2, 2)]),
    "large vectors": full(1e15, [(0, 0, 1), (1, 2, 2)]),
    "opposite": make([[X, [-1.0, 0.0]]], [[-1.0, 0.0]], [X], [0], [0], [(0, 1, 1)]),
    "a row of padding": make([[X, Y], [Y, X]], [X, Y], [X, Y], [0, 1], [0, 1], [(0, 0, 1)], [[1, 1], [0, 0]]),
}


def with_leaves(batch: ContrastiveBatch, dtype: torch.dtype = torch.float32) -> tuple[ContrastiveBatch, list[Tensor]]:
    names = ("states", "threshold", "anchors")
    leaves = [getattr(batch, name).detach().clone().to(dtype).requires_grad_() for name in names]
    return replace(batch, **dict(zip(names, leaves, strict=True))), leaves


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tau", [1e-4, 0.1])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("form", FORMS)
def test_degenerate_batches_are_finite(form: str, case: str, tau: float, dtype: torch.dtype) -> None:
    for both in (False, True):
        batch, leaves = with_leaves(DEGENERATE[case], dtype)
        second, more = with_leaves(DEGENERATE[case], dtype)
        loss = contrastive_loss(form, batch, temperature=tau)
        if both:
            loss, leaves = cross_view(batch, second, form, temperature=tau), leaves + more
        assert loss.dtype == torch.float32 and loss.shape == () and loss.isfinite() and loss.item() >= -1e-3
        assert loss.item() == 0.0 or case not in ("no anchors", "no rows")
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("filler", [1e4, float("nan"), float("inf")])
@pytest.mark.parametrize("seed", [seed for seed in range(12) if not random_batch(seed).valid.all()])
def test_padded_states_change_nothing(form: str, filler: float, seed: int) -> None:
    assert_padding_changes_nothing(partial(contrastive_loss, form), filler, seed)


def assert_padding_changes_nothing(loss: Callable[..., Tensor], filler: float, seed: int) -> None:
    """Neither the loss nor a gradient depends on what the padding of a random batch holds."""
    plain, leaves = with_leaves(random_batch(seed))
    hidden = plain.states.detach().masked_fill(~plain.valid[..., None], filler)
    filled, others = with_leaves(replace(plain, states=hidden))
    one, two = (loss(batch, temperature=0.1) for batch in (plain, filled))
    assert one.item() == two.item()
    grads, more = torch.autograd.grad(one, leaves), torch.autograd.grad(two, others)
    assert all(torch.equal(left, right) for left, right in zip(grads, more, strict=True))
    assert not more[0][~plain.valid].any()


@pytest.mark.parametrize("form", FORMS)
def test_autocast_and_low_precision_inputs_are_computed_in_fp32(form: str) -> None:
    low, _ = with_leaves(random_batch(3), torch.bfloat16)
    wide = replace(low, **{name: getattr(low, name).float() for name in ("states", "threshold", "anchors")})
    expected = contrastive_loss(form, wide, temperature=0.1).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(form, wide, temperature=0.1).item() == expected
        assert contrastive_loss(form, low, temperature=0.1).item() == expected
    assert expected > 0


def test_shapes_are_checked() -> None:
    batch = DEGENERATE["one token"]
    with pytest.raises(ValueError, match="threshold must be"):
        replace(batch, threshold=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="states must be"):
        replace(batch, states=torch.zeros(2, 2))


def test_unknown_form_and_temperature_are_refused() -> None:
    batch = DEGENERATE["one token"]
    with pytest.raises(ConfigError, match="ancestor, infonce, got 'none'"):
        contrastive_loss("none", batch, temperature=0.1)
    with pytest.raises(ConfigError, match="above 0, got 0"):
        cross_view(batch, batch, "infonce", temperature=0.0)
