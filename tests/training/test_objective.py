"""The loss of a batch: restricted logits against full ones, adversarial and contrastive forms, edge cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.config import LoraConfig, LossConfig
from cllmfs.encoding.batches import IGNORE, PADDING, Batch, collate, tree_mask
from cllmfs.encoding.encoder import Encoder
from cllmfs.model.anchors import contrastive_states
from cllmfs.model.backbone import Backbone, Hidden
from cllmfs.model.forward import forward_batch, saves_work
from cllmfs.training.adversarial import fgm_perturbation
from cllmfs.training.contrast import FORMS, contrastive_loss
from cllmfs.training.objective import answer_logits, batch_loss, language_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import EXAMPLES, fresh_backbone, rows_of, tiny_backbone

LANGUAGE = LossConfig(contrastive="none")
NEFTUNE = LossConfig(contrastive="none", adversarial="neftune")
FGM = LossConfig(contrastive="none", adversarial="fgm")
ADVERSARIAL = ("none", "neftune", "fgm", "fgm-view")
RECIPE = Recipe(learning_rate=1e-3, steps=1)


def batch_for(backbone: Backbone, examples: Any = EXAMPLES, **settings: Any) -> Batch:
    return collate(rows_of(Encoder(backbone.prompt, **settings), examples))


def plain_loss(backbone: Backbone, batch: Batch, config: LossConfig, hidden: Hidden) -> Tensor:
    """The whole loss of a pass, put together from its two parts."""
    assert hidden.layer is not None
    view = contrastive_states(batch, hidden.layer)
    contrastive = contrastive_loss(config.contrastive, view, temperature=config.temperature)
    return language_loss(backbone, batch, hidden.last) + config.contrastive_weight * contrastive


def full_logits(backbone: Backbone, batch: Batch) -> Tensor:
    """Logits [R, T, V] by the model's own ordinary pass."""
    seen = tree_mask(batch.branch, batch.bidirectional)[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: Tensor = backbone.model(input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions).logits
    return logits


SCALED = {"granite": {"logits_scaling": 8.0}, "cohere": {"logit_scale": 0.25}}


@pytest.mark.parametrize("architecture", ["llama", "bert", "gpt2", "granite", "cohere"])
def test_restricted_loss_is_the_masked_loss_over_the_whole_vocabulary(architecture: str) -> None:
    changes = SCALED.get(architecture)
    backbone = fresh_backbone(architecture, **changes) if changes else tiny_backbone(architecture)
    batch = batch_for(backbone, bidirectional=architecture == "bert")
    ours = language_loss(backbone, batch, forward_batch(backbone, batch).last)
    logits = full_logits(backbone, batch)
    costs = []
    for number, row in enumerate(batch.rows):
        steps = [(branch, step) for branch in row.branches for step in range(len(branch.targets))]
        for column, (branch, step) in zip(batch.query[number].tolist(), steps, strict=False):
            masked = torch.full_like(logits[number, column], float("-inf"))
            open_to = [row.candidates[choice] for choice in branch.allowed[step]]
            masked[open_to] = logits[number, column, open_to]
            costs.append(-masked.log_softmax(0)[row.candidates[branch.targets[step]]])
    theirs = torch.stack(costs).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    head = backbone.model.get_output_embeddings().weight
    our_gradient, their_gradient = (torch.autograd.grad(loss, head, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)


def test_candidates_are_closed_where_the_automaton_does_not_allow_them() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    logits = answer_logits(backbone, batch, forward_batch(backbone, batch).last)
    real = batch.target != IGNORE
    assert torch.equal(logits[real].isfinite(), batch.allowed[real])
    assert not real.all()
    assert logits[~real].isfinite().all()


def test_total_is_the_weighted_sum() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    parts = batch_loss(backbone, batch, LossConfig(contrastive_weight=0.7), RECIPE)
    assert parts.total.item() == pytest.approx(parts.language.item() + 0.7 * parts.contrastive.item(), rel=1e-6)
    alone = batch_loss(backbone, batch, LANGUAGE, RECIPE)
    assert alone.language.item() == pytest.approx(parts.language.item(), rel=1e-6)
    assert alone.contrastive.item() == 0.0 and alone.total is alone.language


@pytest.mark.parametrize("contrastive", ["none", *FORMS])
@pytest.mark.parametrize("adversarial", ADVERSARIAL)
def test_all_forms_are_finite(adversarial: str, contrastive: str) -> None:
    backbone = tiny_backbone("llama")
    config = LossConfig(adversarial=adversarial, contrastive=contrastive)
    parts = batch_loss(backbone, batch_for(backbone), config, RECIPE)
    parts.total.backward()
    gradients = [p.grad for p in backbone.model.parameters() if p.grad is not None]
    assert math.isfinite(parts.total.item())
    assert (parts.contrastive.item() > 0) == (contrastive != "none")
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    backbone.model.zero_grad(set_to_none=True)


DEGENERATE = {
    "no spans": (("Nothing of the kind.", {"boat": ()}), ("Nor here", {"boat": (), "star": ()})),
    "one token": (("x", {"boat": ("x",), "star": ()}),),
    "no tokens": (("", {"boat": ()}), ("Ada", {"person": ("Ada",)})),
    "all tokens": (("ab", {"boat": ("ab",)}), ("ab", {"boat": ("ab",)})),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("form", FORMS)
def test_degenerate_batches_are_finite(form: str, case: str) -> None:
    backbone = tiny_backbone("llama")
    config = LossConfig(contrastive=form, adversarial="fgm-view")
    parts = batch_loss(backbone, batch_for(backbone, DEGENERATE[case]), config, RECIPE)
    parts.total.backward()
    assert math.isfinite(parts.total.item())
    assert all(p.grad.isfinite().all() for p in backbone.model.parameters() if p.grad is not None)
    backbone.model.zero_grad(set_to_none=True)


def test_neftune_moves_the_loss() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    clean = batch_loss(backbone, batch, LANGUAGE, RECIPE).total.item()
    torch.manual_seed(0)
    noisy = batch_loss(backbone, batch, NEFTUNE, RECIPE).total.item()
    still = batch_loss(backbone, batch, NEFTUNE, replace(RECIPE, noise_alpha=0.0)).total.item()
    assert abs(noisy - clean) > 1e-4
    assert still == pytest.approx(clean, abs=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_fgm_raises_the_language_loss(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    batch = batch_for(backbone)
    clean = batch_loss(backbone, batch, LANGUAGE, RECIPE).language.item()
    for epsilon in (0.003, 0.01):
        moved = batch_loss(backbone, batch, FGM, replace(RECIPE, epsilon=epsilon))
        assert moved.language.item() > clean + 1e-5


def test_fgm_without_a_step_is_the_clean_loss_down_to_the_embeddings() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    table = backbone.model.get_input_embeddings().weight
    still = replace(RECIPE, epsilon=0.0)
    losses = [batch_loss(backbone, batch, config, still).total for config in (LANGUAGE, FGM)]
    clean, moved = (torch.autograd.grad(loss, [table])[0] for loss in losses)
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-6)
    assert clean.abs().max() > 1e-4
    torch.testing.assert_close(moved, clean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adversarial", ADVERSARIAL)
def test_adversarial_forms_train_lora_alone(adversarial: str) -> None:
    backbone = fresh_backbone("gpt2")
    backbone.adapters.attach(LoraConfig(rank=2))
    batch_loss(backbone, batch_for(backbone), LossConfig(adversarial=adversarial), RECIPE).total.backward()
    for name, parameter in backbone.model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
    assert any(p.grad.abs().max() > 0 for p in backbone.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("order", ["sentence-first", "type-first"])
def test_contrastive_states_are_gathered_at_their_columns(order: str) -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone, order=order)
    rows, width = batch.ids.shape
    # each state holds the row and the column of its token
    states = torch.cartesian_prod(torch.arange(rows), torch.arange(width)).view(rows, width, 2).float()
    view = contrastive_states(batch, states)
    for number, row in enumerate(batch.rows):
        assert int(view.valid[number].sum()) == len(row.sentence)
        columns = view.states[number, view.valid[number], 1].long()
        assert batch.ids[number, columns].tolist() == list(row.sentence.ids)
        assert view.states[number, :, 0].eq(number).all()
        assert view.threshold[number].tolist() == [number, row.sentence_at - 1]
    for anchor, (row_at, column) in enumerate(view.anchors.long().tolist()):
        assert row_at == int(view.rows[anchor])
        assert int(batch.ids[row_at, column]) == backbone.prompt.open[-1]
    numbers = {label: set() for label in batch.labels}
    for label, number in zip(batch.labels, view.types.tolist(), strict=True):
        numbers[label].add(number)
    assert all(len(found) == 1 for found in numbers.values())
    assert len(set.union(*numbers.values())) == len(numbers)


def test_cross_entropy_is_over_answer_tokens_alone() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    logits = answer_logits(backbone, batch, forward_batch(backbone, batch).last)
    real = batch.target != IGNORE
    answers = sum(len(branch.targets) for row in batch.rows for branch in row.branches)
    assert int(real.sum()) == answers
    expected = F.cross_entropy(logits[real], batch.target[real], reduction="sum").item() / answers
    assert batch_loss(backbone, batch, LANGUAGE, RECIPE).total.item() == pytest.approx(expected, abs=1e-6)


def test_fgm_takes_its_gradients_in_one_pass_as_in_two() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    config = LossConfig(contrastive="infonce", adversarial="fgm")
    layer = backbone.layer_index(config.contrastive_layer)
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]

    embeds = backbone.embed(batch.ids)
    clean = plain_loss(backbone, batch, config, forward_batch(backbone, batch, layer, embeds))
    (gradient,) = torch.autograd.grad(clean, embeds, retain_graph=True)
    moved = embeds + fgm_perturbation(gradient, batch.branch != PADDING, 0.01)
    shifted = plain_loss(backbone, batch, config, forward_batch(backbone, batch, layer, moved))
    expected = torch.autograd.grad((clean + shifted) / 2, parameters, allow_unused=True)

    made = batch_loss(backbone, batch, config, replace(RECIPE, epsilon=0.01))
    found = torch.autograd.grad(made.total, parameters, allow_unused=True)
    assert made.total.item() == pytest.approx((clean + shifted).item() / 2, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", ["ids", "embeds"])
@pytest.mark.parametrize(("architecture", "bidirectional"), [("llama", False), ("bert", True), ("gpt2", True)])
def test_joined_rows_give_the_states_and_gradients_of_separate_rows(
    architecture: str, bidirectional: bool, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(architecture)
    batch = batch_for(backbone, bidirectional=bidirectional)
    real = batch.branch != PADDING
    assert not real.all()
    batch_loss(backbone, batch, LossConfig(), RECIPE)  # the first pass also probes the model
    passes: list[tuple[Hidden, Tensor]] = []
    shapes: list[tuple[int, ...]] = []
    forward = backbone.forward

    def watched(ids: Tensor | None, mask: Tensor, *args: Any, **options: Any) -> Hidden:
        shapes.append(tuple(mask.shape))
        return forward(ids, mask, *args, **options)

    monkeypatch.setattr(backbone, "forward", watched)
    for join in (True, False):
        embeds = backbone.embed(batch.ids).detach().requires_grad_(True)
        hidden = forward_batch(backbone, batch, 1, embeds if given == "embeds" else None, join=join)
        at = embeds if given == "embeds" else backbone.model.get_input_embeddings().weight
        loss = plain_loss(backbone, batch, LossConfig(), hidden)
        passes.append((hidden, torch.autograd.grad(loss, at)[0]))
    (ours, our_gradient), (theirs, their_gradient) = passes
    rows, width = batch.ids.shape
    assert shapes == [(1, batch.tokens, batch.tokens), (rows, width, width)]
    assert ours.layer is not None
    assert theirs.layer is not None
    torch.testing.assert_close(ours.last[real], theirs.last[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.layer[real], theirs.layer[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)
    assert not ours.last[~real].any()


def test_rows_are_joined_where_padding_costs_more() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    short, long = (choose(batch.rows, key=len) for choose in (min, max))
    assert len(short) < len(long) / 2
    assert not saves_work(backbone, collate([long] * 3))  # there is no padding
    assert saves_work(backbone, collate([short, long]))
    assert not saves_work(backbone, collate([short] * 100 + [long] * 100))  # attention would outgrow it
