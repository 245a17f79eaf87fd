"""The door to the model: loading and its errors, LoRA's targets, restricted logits, special tokens in a text."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cllmfs.config import LoraConfig, LossConfig
from cllmfs.encoding.batches import RowBuilder, collate
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import PROMPT_FILE, load_backbone
from cllmfs.training.objective import batch_loss
from tests.conftest import (
    ARCHITECTURES,
    FAMILIES,
    SHORT_TEMPLATE,
    family_tokenizer,
    fresh_backbone,
    own_byte_tokenizer,
    rows_of,
    save_base,
    tiny_backbone,
    tiny_model,
)

IDS = torch.tensor([[40, 70, 50, 20, 80], [33, 44, 55, 66, 77]])
REAL = torch.ones_like(IDS, dtype=torch.bool)


def test_load(tiny_base: Path) -> None:
    backbone = load_backbone(str(tiny_base), device="cpu")
    assert backbone.name == str(tiny_base)
    assert backbone.prompt.template == SHORT_TEMPLATE
    assert backbone.prompt.bos == [0]
    assert backbone.model.dtype == torch.float32 and not backbone.model.training
    assert (backbone.layers, backbone.max_positions, backbone.vocabulary) == (2, 1024, 258)
    assert [backbone.layer_index(share) for share in (0.0, 0.5, 0.8, 1.0)] == [1, 1, 2, 2]
    original = tiny_backbone("llama").forward(IDS, REAL, None).last
    torch.testing.assert_close(backbone.forward(IDS, REAL, None).last, original)
    half = load_backbone(str(tiny_base), device="cpu", weights="bf16")
    assert half.model.dtype == torch.bfloat16 and half.takes_trees() and backbone.takes_trees()


def test_no_such_base(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    with pytest.raises(ModelError, match="cannot be loaded as a base") as caught:
        load_backbone(missing, device="cpu")
    assert missing in str(caught.value) and "\n" not in str(caught.value)


def copy_of(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def damage_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def pickle_weights(folder: Path) -> None:
    torch.save(tiny_backbone("llama").model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("damage", [damage_weights, pickle_weights, damage_tokenizer, damage_config, no_config])
def test_base_that_cannot_be_loaded(tiny_base: Path, tmp_path: Path, damage: Any) -> None:
    folder = copy_of(tiny_base, tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=r"safetensors weights and a tokenizer\.json"):
        load_backbone(str(folder), device="cpu")


def test_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    slow = transformers.ByT5Tokenizer()
    tiny_model("llama", len(slow)).save_pretrained(tmp_path)
    slow.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="fast tokenizer"):
        load_backbone(str(tmp_path), device="cpu")


def test_encoder_is_refused(tmp_path: Path) -> None:
    tokenizer = own_byte_tokenizer()
    for decoder in (False, True):
        model = tiny_model("bert", len(tokenizer), is_decoder=decoder)
        folder = save_base(tmp_path / str(decoder), model, tokenizer)
        if decoder:
            assert load_backbone(str(folder), device="cpu").takes_trees()
        else:
            with pytest.raises(ModelError, match="no causal LM"):
                load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize("content", ['{"before": 3}', '{"bevor": ""}', "{", '{"next": [], "end": []}'])
def test_bad_prompt_file(tiny_base: Path, tmp_path: Path, content: str) -> None:
    folder = copy_of(tiny_base, tmp_path)
    (folder / PROMPT_FILE).write_text(content)
    with pytest.raises(ModelError):
        load_backbone(str(folder), device="cpu")


TARGETS = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "neox": {"query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"},
    "bert": {"query", "key", "value", "attention.output.dense", "intermediate.dense", "1.output.dense"},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_goes_to_all_linear_layers_of_the_blocks(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    before = backbone.forward(IDS, REAL, None).last.detach()
    found = backbone.lora_targets()
    assert all(any(path.endswith(name) for path in found) for name in TARGETS[architecture])
    assert len(found) == 2 * len(TARGETS[architecture])
    assert not any("head" in path or "cls" in path or "embed" in path for path in found)
    backbone.attach_lora(LoraConfig(rank=3))
    trained = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(found) and all("lora_" in name for name in trained)
    torch.testing.assert_close(backbone.forward(IDS, REAL, None).last, before)  # it starts as nothing
    with pytest.raises(RuntimeError, match="attached already"):
        backbone.attach_lora(LoraConfig())


def test_lora_targets_by_name() -> None:
    backbone = tiny_backbone("llama")
    found = backbone.lora_targets("q_proj, v_proj")
    assert found == [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in ("q", "v")]
    with pytest.raises(ModelError, match=r"'c_attn' is no linear layer of tiny-llama; there are down_proj, gate_proj"):
        backbone.lora_targets("q_proj,c_attn")
    with pytest.raises(ModelError, match="lm_head"):
        backbone.lora_targets("lm_head")
    with pytest.raises(ModelError, match="no layer is named"):
        backbone.lora_targets(" , ")


def parameters(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in backbone.model.state_dict().items()}


def trained(architecture: str, seed: int = 0, **settings: Any) -> Backbone:
    """A model of one's own whose LoRA layers have learnt something, at random."""
    backbone = fresh_backbone(architecture)
    train(backbone, seed, **settings)
    return backbone


def train(backbone: Backbone, seed: int = 0, **settings: Any) -> None:
    torch.manual_seed(seed)
    backbone.attach_lora(LoraConfig(**{"rank": 3, **settings}))
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))


def states(backbone: Backbone) -> torch.Tensor:
    with backbone.at_rest():
        return backbone.forward(IDS, REAL, None).last


def update(backbone: Backbone) -> dict[str, torch.Tensor]:
    """What LoRA adds to each layer's weights."""
    layers = {path: module for path, module in backbone.model.named_modules() if hasattr(module, "get_delta_weight")}
    return {path: module.get_delta_weight("default").detach() for path, module in layers.items()}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_lora_taken_off_leaves_the_base_as_it_was(architecture: str, dora: bool) -> None:
    backbone = fresh_backbone(architecture)
    before, computed = parameters(backbone), states(backbone)
    for share in (1.0, 0.25):
        train(backbone, dora=dora)
        assert not torch.equal(states(backbone), computed)
        if not dora:
            backbone.scale_lora(share)
        backbone.detach_lora()
        assert backbone.peft is None
        after = parameters(backbone)
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
        assert torch.equal(states(backbone), computed)


def test_a_second_lora_is_as_if_it_were_the_first() -> None:
    """Neither the first one's weights nor its trained update stay behind."""
    alone, second = trained("llama", seed=7), trained("llama", seed=3)
    second.scale_lora(0.5)
    second.detach_lora()
    train(second, seed=7)
    for backbone in (alone, second):
        backbone.scale_lora(0.75)
    mine, its = parameters(second), parameters(alone)
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in its)


def test_shares_are_of_the_trained_update_however_often_one_is_set() -> None:
    backbone = trained("llama")
    whole, at_full = update(backbone), states(backbone)
    assert all(tensor.abs().max() > 0.01 for tensor in whole.values())
    for share in (0.5, 0.25, 0.25, 0.0, 0.75, 1.0):
        backbone.scale_lora(share)
        for path, tensor in update(backbone).items():
            torch.testing.assert_close(tensor, share * whole[path])
    assert torch.equal(states(backbone), at_full), "even after 0, all of it is back"
    backbone.scale_lora(0.0)
    torch.testing.assert_close(states(backbone), states(fresh_backbone("llama")))


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, "targets": "q_proj,down_proj"}])
def test_merged_lora_computes_the_same_and_keeps_the_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    backbone = trained("llama", **settings)
    before = states(backbone)
    base = {name: tensor for name, tensor in parameters(backbone).items() if "base_layer" in name}
    backbone.peft.save_pretrained(tmp_path / "before", save_embedding_layers=False)
    backbone.merge_lora()
    now = parameters(backbone)
    assert any(not torch.equal(now[name], tensor) for name, tensor in base.items()), "it is in the weights now"
    torch.testing.assert_close(states(backbone), before, rtol=1e-4, atol=1e-4)
    backbone.peft.save_pretrained(tmp_path / "after", save_embedding_layers=False)
    adapters = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("before", "after")]
    assert adapters[0] == adapters[1]


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
def test_merging_suits_other_kinds_of_layers(architecture: str) -> None:
    backbone = trained(architecture)
    before = states(backbone)
    assert (before - states(fresh_backbone(architecture))).abs().max() > 0.1
    backbone.merge_lora()
    torch.testing.assert_close(states(backbone), before, rtol=1e-4, atol=1e-4)


def test_rounded_weights_are_not_merged() -> None:
    """bf16 has eight bits: small updates would be lost."""
    backbone = fresh_backbone("llama")
    backbone.model.to(torch.bfloat16)
    train(backbone)
    before, computed = parameters(backbone), states(backbone)
    backbone.merge_lora()
    after = parameters(backbone)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(states(backbone), computed)


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
        text = tokenize(backbone.tokenizer, CONTROL)
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
        text = tokenize(backbone.tokenizer, sentence)
        assert not set(text.ids) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        start = sentence.index("after")
        assert text.token_range(start, len(sentence)) is not None


def test_special_tokens_that_the_template_names_are_tokens() -> None:
    tokenizer = own_byte_tokenizer()
    values = {**SHORT_TEMPLATE.to_dict(), "before": "<s>", "end": ["</s>"]}
    template = type(SHORT_TEMPLATE).from_dict(json.loads(json.dumps(values)))
    backbone = Backbone("x", tiny_model("llama", len(tokenizer)), tokenizer, template)
    assert backbone.prompt.before == [0] and backbone.prompt.end_id == 1


# memory for large bases


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_activations_computed_anew_give_the_same_gradients(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    backbone.attach_lora(LoraConfig(rank=2))
    batch = collate(rows_of(backbone, RowBuilder(backbone.prompt, "sentence-first", tree=True)))
    found = []
    for wish, kept in (("off", False), ("on", True), ("auto", False)):  # a tiny model keeps its activations
        backbone.checkpoint_activations(wish)
        assert backbone.model.is_gradient_checkpointing == kept
        backbone.model.train()
        backbone.model.zero_grad(set_to_none=True)
        batch_loss(backbone, batch, LossConfig(adversarial="fgm"), False).total.backward()
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
    monkeypatch.setattr("cllmfs.model.backbone._LARGE", 1)
    backbone.checkpoint_activations("auto")
    with pytest.raises(ModelError, match=r"set train\.activation_checkpointing=auto"):
        backbone.checkpoint_activations("on")
    assert not backbone.model.is_gradient_checkpointing


def test_four_bits_need_bitsandbytes(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"pip install 'cllmfs\[qlora\]'"):
        load_backbone(str(tiny_base), device="cpu", weights="nf4")


def test_a_base_in_four_bits_learns(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    tokenizer = own_byte_tokenizer()
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder = save_base(tmp_path / "base", tiny_model("llama", len(tokenizer), **wide), tokenizer)
    whole, rounded = (load_backbone(str(folder), device="cpu", weights=weights) for weights in ("fp32", "nf4"))
    kinds = {type(module).__name__ for module in rounded.model.modules()}
    assert "Linear4bit" in kinds and rounded.takes_trees()
    states = [backbone.forward(IDS, REAL, None).last for backbone in (whole, rounded)]
    likeness = torch.nn.functional.cosine_similarity(*states, dim=-1).mean().item()
    assert 0.9 < likeness < 0.9999, "rounded, and still the same model"
    rounded.attach_lora(LoraConfig(rank=4))
    batch = collate(rows_of(rounded, RowBuilder(rounded.prompt, "sentence-first", tree=True)))
    optimizer = torch.optim.AdamW([p for p in rounded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        total = batch_loss(rounded, batch, LossConfig(), False).total
        losses.append(total.item())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
