"""The loss of a batch: restricted logits against full ones, adversarial and contrastive forms, edge cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cllmfs.config import LoraConfig, LossConfig
from cllmfs.encoding.batches import IGNORE, PADDING, Batch, RowBuilder, collate, tree_mask
from cllmfs.model import forward
from cllmfs.model.anchors import contrastive_states
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import run
from cllmfs.training.adversarial import fgm_perturbation
from cllmfs.training.contrast import FORMS
from cllmfs.training.objective import _parts, answer_logits, batch_loss, language_loss
from tests.conftest import EXAMPLES, fresh_backbone, rows_of, tiny_backbone

LANGUAGE = LossConfig(contrastive="none")
ADVERSARIAL = ("none", "neftune", "fgm", "fgm-view")


def batch_for(backbone: Backbone, examples: Any = EXAMPLES, order: str = "sentence-first") -> Batch:
    return collate(rows_of(backbone, RowBuilder(backbone.prompt, order, tree=True), examples))


def full_logits(backbone: Backbone, batch: Batch, bidirectional: bool) -> Tensor:
    """Logits [R, T, V] by the model's own ordinary pass."""
    seen = tree_mask(batch.branch, bidirectional)[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits: Tensor = backbone.model(input_ids=batch.ids, attention_mask=mask, position_ids=batch.positions).logits
    return logits


SCALED = {"granite": {"logits_scaling": 8.0}, "cohere": {"logit_scale": 0.25}}


@pytest.mark.parametrize("support", ["automaton", "sentence"])
@pytest.mark.parametrize("architecture", ["llama", "bert", "gpt2", "granite", "cohere"])
def test_restricted_loss_is_the_masked_loss_over_the_whole_vocabulary(architecture: str, support: str) -> None:
    changes = SCALED.get(architecture)
    backbone = fresh_backbone(architecture, **changes) if changes else tiny_backbone(architecture)
    bidirectional = architecture == "bert"
    batch = batch_for(backbone)
    ours = language_loss(backbone, batch, run(backbone, batch, bidirectional).last, support)
    logits = full_logits(backbone, batch, bidirectional)
    costs = []
    for number, row in enumerate(batch.rows):
        steps = [(branch, step) for branch in row.branches for step in range(len(branch.targets))]
        for column, (branch, step) in zip(batch.query[number].tolist(), steps, strict=False):
            reach = branch.allowed[step] if support == "automaton" else range(len(row.candidates))
            masked = torch.full_like(logits[number, column], float("-inf"))
            open_to = [row.candidates[choice] for choice in reach]
            masked[open_to] = logits[number, column, open_to]
            costs.append(-masked.log_softmax(0)[row.candidates[branch.targets[step]]])
    theirs = torch.stack(costs).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    head = backbone.model.get_output_embeddings().weight
    our_gradient, their_gradient = (torch.autograd.grad(loss, head, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)


def test_supports_differ_and_close_what_they_say() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    last = run(backbone, batch, False).last
    by_automaton, by_sentence = (answer_logits(backbone, batch, last, name) for name in ("automaton", "sentence"))
    real = batch.target != IGNORE
    assert torch.equal(by_automaton[real].isfinite(), batch.allowed[real])
    sizes = torch.tensor([len(row.candidates) for row in batch.rows])
    expected = (torch.arange(by_sentence.shape[2]) < sizes[:, None])[:, None].expand_as(by_sentence)
    assert torch.equal(by_sentence[real].isfinite(), expected[real])
    assert by_automaton[~real].isfinite().all() and by_sentence[~real].isfinite().all()
    losses = [language_loss(backbone, batch, last, name).item() for name in ("automaton", "sentence")]
    assert losses[0] < losses[1]  # fewer rivals


def test_total_is_the_weighted_sum() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    parts = batch_loss(backbone, batch, LossConfig(contrastive_weight=0.7), False)
    assert parts.total.item() == pytest.approx(parts.language.item() + 0.7 * parts.contrastive.item(), rel=1e-6)
    alone = batch_loss(backbone, batch, LANGUAGE, False)
    assert alone.language.item() == pytest.approx(parts.language.item(), rel=1e-6)
    assert alone.contrastive.item() == 0.0 and alone.total is alone.language


@pytest.mark.parametrize("contrastive", ["none", *FORMS])
@pytest.mark.parametrize("adversarial", ADVERSARIAL)
def test_all_forms_are_finite(adversarial: str, contrastive: str) -> None:
    backbone = tiny_backbone("llama")
    config = LossConfig(adversarial=adversarial, contrastive=contrastive)
    parts = batch_loss(backbone, batch_for(backbone), config, False)
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
    parts = batch_loss(backbone, batch_for(backbone, DEGENERATE[case]), config, False)
    parts.total.backward()
    assert math.isfinite(parts.total.item())
    assert all(p.grad.isfinite().all() for p in backbone.model.parameters() if p.grad is not None)
    backbone.model.zero_grad(set_to_none=True)


def test_neftune_moves_the_loss() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    clean = batch_loss(backbone, batch, LANGUAGE, False).total.item()
    torch.manual_seed(0)
    noisy = batch_loss(backbone, batch, LossConfig(contrastive="none", adversarial="neftune"), False).total.item()
    still = LossConfig(contrastive="none", adversarial="neftune", noise_alpha=0.0)
    assert abs(noisy - clean) > 1e-4
    assert batch_loss(backbone, batch, still, False).total.item() == pytest.approx(clean, abs=1e-6)


@pytest.mark.parametrize("architecture", ["llama", "bert"])
def test_fgm_raises_the_language_loss(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    batch = batch_for(backbone)
    clean = batch_loss(backbone, batch, LANGUAGE, False).language.item()
    for epsilon in (0.003, 0.01):
        config = LossConfig(contrastive="none", adversarial="fgm", epsilon=epsilon)
        assert batch_loss(backbone, batch, config, False).language.item() > clean + 1e-5


def test_fgm_without_a_step_is_the_clean_loss_down_to_the_embeddings() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    table = backbone.model.get_input_embeddings().weight
    still = LossConfig(contrastive="none", adversarial="fgm", epsilon=0.0)
    losses = [batch_loss(backbone, batch, config, False).total for config in (LANGUAGE, still)]
    clean, moved = (torch.autograd.grad(loss, [table])[0] for loss in losses)
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-6)
    assert clean.abs().max() > 1e-4
    torch.testing.assert_close(moved, clean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("adversarial", ADVERSARIAL)
def test_adversarial_forms_train_lora_alone(adversarial: str) -> None:
    backbone = fresh_backbone("gpt2")
    backbone.attach_lora(LoraConfig(rank=2))
    batch_loss(backbone, batch_for(backbone), LossConfig(adversarial=adversarial), False).total.backward()
    for name, parameter in backbone.model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name
    assert any(p.grad.abs().max() > 0 for p in backbone.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("order", ["sentence-first", "type-first"])
def test_contrastive_states_are_gathered_where_they_stand(order: str) -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone, order=order)
    rows, width = batch.ids.shape
    # a state says which token it stands on: row and column
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
    logits = answer_logits(backbone, batch, run(backbone, batch, False).last)
    real = batch.target != IGNORE
    answers = sum(len(branch.targets) for row in batch.rows for branch in row.branches)
    assert int(real.sum()) == answers
    expected = F.cross_entropy(logits[real], batch.target[real], reduction="sum").item() / answers
    assert batch_loss(backbone, batch, LANGUAGE, False).total.item() == pytest.approx(expected, abs=1e-6)


def test_fgm_takes_its_gradients_in_one_pass_as_in_two() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    config = LossConfig(contrastive="infonce", adversarial="fgm", epsilon=0.01)
    plain = LossConfig(contrastive="infonce")
    layer = backbone.layer_index(plain.contrastive_layer)
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]

    embeds = backbone.embed(batch.ids)
    clean, _ = _parts(backbone, batch, plain, run(backbone, batch, False, layer, embeds))
    (gradient,) = torch.autograd.grad(clean.total, embeds, retain_graph=True)
    moved = embeds + fgm_perturbation(gradient, batch.branch != PADDING, 0.01)
    shifted, _ = _parts(backbone, batch, plain, run(backbone, batch, False, layer, moved))
    expected = torch.autograd.grad((clean.total + shifted.total) / 2, parameters, allow_unused=True)

    made = batch_loss(backbone, batch, config, False)
    found = torch.autograd.grad(made.total, parameters, allow_unused=True)
    assert made.total.item() == pytest.approx((clean.total + shifted.total).item() / 2, rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("given", ["ids", "embeds"])
@pytest.mark.parametrize(("architecture", "bidirectional"), [("llama", False), ("bert", True), ("gpt2", True)])
def test_rows_end_to_end_are_rows_apart(
    architecture: str, bidirectional: bool, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(architecture)
    batch = batch_for(backbone)
    real = batch.branch != PADDING
    assert not real.all()
    batch_loss(backbone, batch, LossConfig(), bidirectional)  # probes of the model have their own passes, once
    passes: list[tuple[Any, Tensor]] = []
    shapes: list[tuple[int, ...]] = []
    forward = backbone.forward

    def watched(ids: Tensor | None, mask: Tensor, *args: Any, **options: Any) -> Any:
        shapes.append(tuple(mask.shape))
        return forward(ids, mask, *args, **options)

    monkeypatch.setattr(backbone, "forward", watched)
    for joined in (True, False):
        monkeypatch.setattr("cllmfs.model.forward._worth_joining", lambda *_, joined=joined: joined)
        embeds = backbone.embed(batch.ids).detach().requires_grad_(True)
        hidden = run(backbone, batch, bidirectional, 1, embeds if given == "embeds" else None)
        assert hidden.layer is not None
        parts = _parts(backbone, batch, LossConfig(), hidden)[0]
        at = embeds if given == "embeds" else backbone.model.get_input_embeddings().weight
        passes.append((hidden, torch.autograd.grad(parts.total, at)[0]))
    (ours, our_gradient), (theirs, their_gradient) = passes
    rows, width = batch.ids.shape
    assert shapes == [(1, batch.tokens, batch.tokens), (rows, width, width)]
    torch.testing.assert_close(ours.last[real], theirs.last[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.layer[real], theirs.layer[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-4, atol=1e-5)
    assert not ours.last[~real].any()


def test_rows_are_joined_where_padding_costs_more() -> None:
    backbone = tiny_backbone("llama")
    batch = batch_for(backbone)
    short, long = (choose(batch.rows, key=len) for choose in (min, max))
    assert len(short) < len(long) / 2
    assert not forward._worth_joining(backbone, collate([long] * 3))  # there is no padding
    assert forward._worth_joining(backbone, collate([short, long]))
    assert not forward._worth_joining(backbone, collate([short] * 100 + [long] * 100))  # attention would outgrow it
