"""A tree of all types is the same as a row for each: losses, gradients, decoded spans; and models without trees."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cllmfs.config import Config, LossConfig
from cllmfs.decoding.greedy import Rules, decode
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.batches import IGNORE, collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import ARCHITECTURES, EXAMPLES, FAMILIES, fresh_backbone, requests_of, rows_of, tiny_backbone

CASES = [
    *((name, "byte", False) for name in ARCHITECTURES),
    ("bert", "byte", True),
    *((name, family, False) for name, family in FAMILIES.items()),
]
IDS = ["-".join((name, family, "bidirectional" if both else "causal")) for name, family, both in CASES]
LOSS = LossConfig(contrastive="infonce", contrastive_layer=0.5)
RECIPE = Recipe(learning_rate=1e-3, steps=1)


def losses_and_gradients(
    backbone: Backbone, tree: bool, bidirectional: bool, config: LossConfig = LOSS
) -> tuple[tuple[float, float], dict[str, Tensor]]:
    batch = collate(rows_of(Encoder(backbone.prompt, tree=tree, bidirectional=bidirectional)))
    assert (len(batch.rows) < len(batch.labels)) == tree
    backbone.model.zero_grad(set_to_none=True)
    parts = batch_loss(backbone, batch, config, RECIPE)
    parts.total.backward()
    gradients = {name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None}
    backbone.model.zero_grad(set_to_none=True)
    return (parts.language.item(), parts.contrastive.item()), gradients


def spans_of(found: list[list[Any]]) -> list[list[tuple[int, int, str]]]:
    return [[(span.first, span.last, span.label) for span in spans] for spans in found]


def scores_of(found: list[list[Any]]) -> list[float]:
    return [span.score for spans in found for span in spans]


@pytest.mark.parametrize("architecture, family, bidirectional", CASES, ids=IDS)
def test_tree_costs_what_its_branches_cost(architecture: str, family: str, bidirectional: bool) -> None:
    backbone = tiny_backbone(architecture, family)
    assert backbone.takes_trees()
    tree, by_tree = losses_and_gradients(backbone, True, bidirectional)
    apart, by_rows = losses_and_gradients(backbone, False, bidirectional)
    assert all(value > 0.01 for value in tree)
    assert tree == pytest.approx(apart, abs=1e-4, rel=1e-4)
    assert by_tree.keys() == by_rows.keys()
    largest = max(gradient.abs().max().item() for gradient in by_rows.values())
    assert largest > 1e-3
    for name, gradient in by_tree.items():
        torch.testing.assert_close(gradient, by_rows[name], rtol=1e-4, atol=1e-4 * largest, msg=lambda m, n=name: n + m)


def test_the_ancestors_contrastive_form_does_not_see_the_rows() -> None:
    backbone = tiny_backbone("llama")
    config = LossConfig(contrastive="ancestor", contrastive_layer=0.5)
    tree, by_tree = losses_and_gradients(backbone, True, False, config)
    apart, by_rows = losses_and_gradients(backbone, False, False, config)
    assert tree == pytest.approx(apart, abs=1e-4)
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(by_tree[name], by_rows[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture, family, bidirectional", CASES, ids=IDS)
def test_tree_decodes_what_its_branches_decode(architecture: str, family: str, bidirectional: bool) -> None:
    backbone = tiny_backbone(architecture, family)
    encoders = [Encoder(backbone.prompt, tree=tree, bidirectional=bidirectional) for tree in (True, False)]
    requests = requests_of(encoders[0])
    voting = VoteSettings(1, 0.5)
    for votes in (None, voting):
        tree, apart, plain = (
            decode(backbone, encoder, requests, voting=votes, rules=Rules(end_bias=-3.0), cached=cached)
            for encoder, cached in ((encoders[0], True), (encoders[1], True), (encoders[1], False))
        )
        assert any(tree)
        assert spans_of(tree) == spans_of(apart) == spans_of(plain)
        assert scores_of(tree) == pytest.approx(scores_of(apart), abs=1e-4)
        assert scores_of(tree) == pytest.approx(scores_of(plain), abs=1e-4)
        cast = [[span.vote for spans in found for span in spans] for found in (tree, apart, plain)]
        assert cast[0] == pytest.approx(cast[1], abs=1e-4) and cast[0] == pytest.approx(cast[2], abs=1e-4)
        assert any(cast[0]) == (votes is not None)


def test_attention_inside_the_prefix_matters() -> None:
    backbone = tiny_backbone("bert")
    batches = [collate(rows_of(Encoder(backbone.prompt, bidirectional=both))) for both in (False, True)]
    causal, bidirectional = (batch_loss(backbone, batch, LOSS, RECIPE).language.item() for batch in batches)
    assert abs(causal - bidirectional) > 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_type_first_runs(architecture: str) -> None:
    backbone = tiny_backbone(architecture)
    encoder = Encoder(backbone.prompt, order="type-first")
    rows = rows_of(encoder)
    assert all(len(row.branches) == 1 and not row.prefix for row in rows)
    parts = batch_loss(backbone, collate(rows), LOSS, RECIPE)
    assert math.isfinite(parts.total.item())
    assert len(decode(backbone, encoder, requests_of(encoder))) == len(EXAMPLES)
    other = batch_loss(backbone, collate(rows_of(Encoder(backbone.prompt))), LOSS, RECIPE)
    assert abs(other.language.item() - parts.language.item()) > 1e-3


WITHOUT_TREES = {"bloom": ("bloom", {}), "sliding": ("mistral", {"sliding_window": 4})}


@pytest.fixture(params=WITHOUT_TREES)
def treeless(request: pytest.FixtureRequest) -> Backbone:
    architecture, changes = WITHOUT_TREES[request.param]
    return fresh_backbone(architecture, **changes)


def test_a_model_that_cannot_is_found_out(treeless: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="cllmfs.model.backbone"):
        assert not treeless.takes_trees()
        assert not treeless.takes_trees()
    (record,) = caplog.records
    assert treeless.name in record.getMessage() and "\n" not in record.getMessage()


def test_a_model_that_cannot_falls_back_to_plain_rows(treeless: Backbone) -> None:
    encoder = treeless.encoder(Config())
    assert not encoder.tree
    rows = rows_of(encoder)
    loss = batch_loss(treeless, collate(rows), LossConfig(contrastive="none"), RECIPE).language.item()
    costs = []
    for row in rows:
        (branch,) = row.branches
        logits = treeless.model(input_ids=torch.tensor([[*row.prefix, *branch.ids]])).logits[0]
        first = len(row.prefix) + branch.anchor
        for step, (target, allowed) in enumerate(zip(branch.targets, branch.allowed, strict=True)):
            open_to = [row.candidates[choice] for choice in allowed]
            at = open_to.index(row.candidates[target])
            costs.append(-logits[first + step, open_to].log_softmax(0)[at].item())
    assert loss == pytest.approx(sum(costs) / len(costs), abs=1e-5)
    requests = requests_of(encoder)
    together = decode(treeless, encoder, requests)
    alone = [decode(treeless, encoder, [request], batch_tokens=1)[0] for request in requests]
    assert spans_of(together) == spans_of(alone)
    assert scores_of(together) == pytest.approx(scores_of(alone), abs=1e-4)


def test_trees_given_to_a_model_that_cannot_are_refused(treeless: Backbone) -> None:
    batch = collate(rows_of(Encoder(treeless.prompt)))
    assert (batch.target != IGNORE).any()
    with pytest.raises(ValueError, match="takes no trees"):
        batch_loss(treeless, batch, LOSS, RECIPE)


def test_bidirectional_attention_needs_trees(treeless: Backbone) -> None:
    config = Config().with_settings(["prompt.prefix_attention=bidirectional"])
    with pytest.raises(ModelError, match=r"takes no 4-D attention mask, .* set prompt\.prefix_attention=causal"):
        treeless.encoder(config)
    assert not treeless.encoder(config.with_settings(["prompt.order=type-first"])).bidirectional


def test_dropout_and_mixed_precision_do_not_hide_trees() -> None:
    backbone = fresh_backbone("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    backbone.model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert backbone.takes_trees()
    assert backbone.model.training
