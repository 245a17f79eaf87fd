"""The model behind one door: restricted logits, special tokens in a text, its encoder, memory for large bases."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import transformers

from cllmfs.config import Config, LoraConfig, LossConfig
from cllmfs.encoding.batches import collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import (
    ARCHITECTURES,
    FAMILIES,
    SHORT_TEMPLATE,
    family_tokenizer,
    fresh_backbone,
    own_byte_tokenizer,
    rows_of,
    tiny_backbone,
    tiny_model,
)

IDS = torch.tensor([[40, 70, 50, 20, 80], [33, 44, 55, 66, 77]])
REAL = torch.ones_like(IDS, dtype=torch.bool)


def scaled_backbones() -> dict[str, Any]:
    return {"granite": {"logits_scaling": 8.0}, "cohere": {"logit_scale": 0.25}}


def gemma() -> Backbone:
    tokenizer = own_byte_tokenizer()
    config = transformers.Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, initializer_range=0.2, final_logit_softcapping=5.0,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return Backbone("tiny-gemma", transformers.Gemma2ForCausalLM(config).eval(), tokenizer, SHORT_TEMPLATE)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *scaled_backbones(), "gemma"])
def test_projected_logits_are_the_models_own(architecture: str) -> None:
    changes = scaled_backbones().get(architecture)
    if architecture == "gemma":
        backbone = gemma()
    else:
        backbone = fresh_backbone(architecture, **changes) if changes else tiny_backbone(architecture)
    candidates = torch.tensor([[7, 3, 200], [9, 100, 5]])
    with torch.inference_mode():
        hidden = backbone.forward(IDS, REAL, None, layer=1)
        ours = backbone.project(hidden.last[:, 2:], candidates)
        output = backbone.model(input_ids=IDS, attention_mask=REAL, output_hidden_states=True)
    for row in range(2):
        theirs = output.logits[row, 2:, candidates[row]]
        torch.testing.assert_close(ours[row], theirs, rtol=1e-4, atol=1e-5)
    assert hidden.layer is not None
    torch.testing.assert_close(hidden.layer, output.hidden_states[1])
    assert output.logits.shape[:2] == IDS.shape  # our hook is gone


def test_embeddings_stand_in_for_ids() -> None:
    for architecture in ARCHITECTURES:
        backbone = tiny_backbone(architecture)
        by_ids = backbone.forward(IDS, REAL, None).last
        by_embeddings = backbone.forward(None, REAL, None, embeds=backbone.embed(IDS)).last
        torch.testing.assert_close(by_embeddings, by_ids)


CONTROL = "A </s> b [SEP] c <|endoftext|> d <s>e"


def test_special_tokens_in_a_text_are_text() -> None:
    backbone = fresh_backbone("llama")
    for _ in range(2):  # the tokenizer's own calls must not undo it
        text = tokenize(backbone.prompt.tokenizer, CONTROL)
        assert not {0, 1} & set(text.ids)
        assert len(text) == len(CONTROL)
    assert not {0, 1} & set(backbone.prompt.query("</s>", "<s>"))


@pytest.mark.parametrize("family", sorted(set(FAMILIES.values())))
def test_special_tokens_of_real_families_in_a_text_are_text(family: str) -> None:
    tokenizer = family_tokenizer(family)
    special = [token for token in tokenizer.all_special_tokens if token.isascii()][:4]
    assert special
    backbone = Backbone(family, tiny_model("llama", 8), tokenizer, tiny_backbone("llama").prompt.template)
    for token in special:
        sentence = f"before {token} after"
        text = tokenize(backbone.prompt.tokenizer, sentence)
        assert not set(text.ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        start = sentence.index("after")
        assert text.token_range(start, len(sentence)) is not None


def test_special_tokens_that_the_template_names_are_tokens() -> None:
    tokenizer = own_byte_tokenizer()
    values = {**SHORT_TEMPLATE.to_dict(), "before": "<s>", "end": ["</s>"]}
    template = type(SHORT_TEMPLATE).from_dict(json.loads(json.dumps(values)))
    backbone = Backbone("x", tiny_model("llama", len(tokenizer)), tokenizer, template)
    assert backbone.prompt.before == [0] and backbone.prompt.end_id == 1


def test_the_tokenizer_of_the_base_is_not_touched() -> None:
    for family in ("llama-3", "qwen3"):
        tokenizer = family_tokenizer(family)
        texts = ["it's: (e.g.) a-b;\n\n", "Ada Byron-King (1815–1852)", "東京都の渋谷区で、", "Sentence:\n"]
        before = [tokenizer(text)["input_ids"] for text in texts]
        backbone = Backbone(family, tiny_model("llama", 8), tokenizer, tiny_backbone("llama").prompt.template)
        encoder = Encoder(backbone.prompt)
        cut = [list(encoder.tokenize(text).ids) for text in texts]
        assert backbone.tokenizer is tokenizer
        assert [tokenizer(text)["input_ids"] for text in texts] == before
        assert cut != [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


# the encoder


def test_the_encoder_follows_the_settings() -> None:
    backbone = tiny_backbone("llama")
    plain = backbone.encoder(Config())
    assert plain.prompt is backbone.prompt and plain.tree and not plain.bidirectional
    assert (plain.order, plain.edges, plain.nested) == ("sentence-first", "word", False)
    assert (plain.max_positions, plain.window_tokens, plain.overlap_tokens) == (1024, 0, 32)
    assert not backbone.encoder(Config(), tree=False).tree
    settings = ["prompt.order=type-first", "spans.edges=token", "spans.nested=true"]
    windows = ["runtime.window_tokens=99", "runtime.overlap_tokens=7"]
    other = backbone.encoder(Config().with_settings([*settings, *windows]))
    assert (other.order, other.edges, other.nested, other.tree) == ("type-first", "token", True, False)
    assert (other.window_tokens, other.overlap_tokens) == (99, 7)


@pytest.mark.parametrize("trained_with", ["causal", "bidirectional"])
@pytest.mark.parametrize("wanted", ["auto", "causal", "bidirectional"])
def test_attention_is_what_is_wanted_or_what_the_base_was_trained_with(wanted: str, trained_with: str) -> None:
    template = dataclasses.replace(SHORT_TEMPLATE, prefix_attention=trained_with)
    tokenizer = own_byte_tokenizer()
    backbone = Backbone("x", tiny_model("bert", len(tokenizer)), tokenizer, template)
    encoder = backbone.encoder(Config().with_settings([f"prompt.prefix_attention={wanted}"]))
    assert encoder.bidirectional == ((trained_with if wanted == "auto" else wanted) == "bidirectional")


# memory for large bases


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_recomputed_activations_give_the_same_gradients(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    backbone.adapters.attach(LoraConfig(rank=2))
    batch = collate(rows_of(Encoder(backbone.prompt)))
    found = []
    for mode, kept in (("off", False), ("on", True), ("auto", False)):  # a tiny model keeps its activations
        backbone.checkpoint_activations(mode)
        assert backbone.model.is_gradient_checkpointing == kept
        backbone.model.train()
        backbone.model.zero_grad(set_to_none=True)
        batch_loss(backbone, batch, LossConfig(adversarial="fgm"), Recipe(1e-3, 1)).total.backward()
        backbone.model.eval()
        found.append({name: p.grad.clone() for name, p in backbone.model.named_parameters() if p.grad is not None})
    assert found[0] and any(gradient.abs().max() > 1e-4 for gradient in found[0].values())
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, found[0][name], rtol=1e-4, atol=1e-6)


def test_a_model_that_must_keep_its_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = fresh_backbone("llama")
    monkeypatch.setattr(type(backbone.model), "supports_gradient_checkpointing", False)
    backbone.checkpoint_activations("auto", large=1)
    with pytest.raises(ModelError, match=r"set train\.activation_checkpointing=auto"):
        backbone.checkpoint_activations("on")
    assert not backbone.model.is_gradient_checkpointing
