"""The door to the model: loading and its errors, LoRA's targets, restricted logits, special tokens in a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import (
    ARCHITECTURES,
    FAMILIES,
    SHORT_TEMPLATE,
    family_tokenizer,
    fresh_backbone,
    own_byte_tokenizer,
    save_base,
    tiny_backbone,
    tiny_model,
)

from cllmfs.alignment import tokenize
from cllmfs.config import LoraConfig
from cllmfs.errors import ModelError
from cllmfs.model import PROMPT_FILE, Backbone, fingerprint, load_backbone

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
    half = load_backbone(str(tiny_base), device="cpu", dtype=torch.bfloat16)
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


def test_fingerprint_tells_weights_apart(tiny_base: Path, tmp_path: Path) -> None:
    model = load_backbone(str(tiny_base), device="cpu").model
    copy = copy_of(tiny_base, tmp_path)
    assert fingerprint(str(copy), model) == fingerprint(str(tiny_base), model)
    other = tiny_model("llama", 258, seed=1)
    other.save_pretrained(copy)
    assert fingerprint(str(copy), other) != fingerprint(str(tiny_base), model)


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
