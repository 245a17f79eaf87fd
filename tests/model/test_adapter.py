"""An adapter's life on a base: attached, trained, kept in part, merged, saved, taken off; the base stays as it was."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from cllmfs.config import LoraConfig, LossConfig
from cllmfs.decoding.greedy import DecodedSpan, Rules, decode
from cllmfs.encoding.batches import collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.errors import ModelError
from cllmfs.model.adapter import CONFIG_FILE, Adapter, lora_targets
from cllmfs.model.backbone import Backbone
from cllmfs.model.folder import ADAPTER
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import ARCHITECTURES, fresh_backbone, requests_of, rows_of, tiny_backbone, tiny_model

IDS = torch.tensor([[40, 70, 50, 20, 80], [33, 44, 55, 66, 77]])
REAL = torch.ones_like(IDS, dtype=torch.bool)
TARGETS = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "qwen3": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "mistral": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    "gpt2": {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"},
    "neox": {"query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"},
    "bert": {"query", "key", "value", "attention.output.dense", "intermediate.dense", "1.output.dense"},
}


def parameters(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in backbone.model.state_dict().items()}


def states(backbone: Backbone) -> torch.Tensor:
    with backbone.at_rest():
        return backbone.forward(IDS, REAL, None).last


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    """Whether all tensors are the same, bit for bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def train(backbone: Backbone, seed: int = 0, **settings: Any) -> None:
    """Attach an adapter that has learned something, at random."""
    torch.manual_seed(seed)
    backbone.adapters.attach(LoraConfig(**{"rank": 3, **settings}))
    shake(backbone.model)


def shake(model: Any) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn_like(parameter))


def trained(architecture: str, seed: int = 0, **settings: Any) -> Backbone:
    """A model of one's own with such an adapter."""
    backbone = fresh_backbone(architecture)
    train(backbone, seed, **settings)
    return backbone


def captured(backbone: Backbone, seed: int, **settings: Any) -> Adapter:
    """An adapter that has learned something on a base, which is left alone."""
    train(backbone, seed, **settings)
    adapter = backbone.adapters.capture()
    backbone.adapters.detach()
    return adapter


def update(backbone: Backbone) -> dict[str, torch.Tensor]:
    """What LoRA adds to each layer's weights."""
    layers = {path: module for path, module in backbone.model.named_modules() if hasattr(module, "get_delta_weight")}
    return {path: module.get_delta_weight("default").detach() for path, module in layers.items()}


# where LoRA goes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lora_goes_to_all_linear_layers_of_the_blocks(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    before = backbone.forward(IDS, REAL, None).last.detach()
    found = lora_targets(backbone.model, backbone.name)
    assert all(any(path.endswith(name) for path in found) for name in TARGETS[architecture])
    assert len(found) == 2 * len(TARGETS[architecture])
    assert not any("head" in path or "cls" in path or "embed" in path for path in found)
    for _ in range(2):  # a new adapter takes the place of the one before
        backbone.adapters.attach(LoraConfig(rank=3))
        learning = [name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad]
        assert len(learning) == 2 * len(found) and all("lora_" in name for name in learning)
        torch.testing.assert_close(backbone.forward(IDS, REAL, None).last, before)  # it starts as nothing


def test_lora_targets_by_name() -> None:
    model = tiny_backbone("llama").model
    found = lora_targets(model, "tiny-llama", "q_proj, v_proj")
    assert found == [f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in ("q", "v")]
    with pytest.raises(ModelError, match=r"'c_attn' is no linear layer of tiny-llama; there are down_proj, gate_proj"):
        lora_targets(model, "tiny-llama", "q_proj,c_attn")
    with pytest.raises(ModelError, match="lm_head"):
        lora_targets(model, "tiny-llama", "lm_head")
    with pytest.raises(ModelError, match="no layer is named"):
        lora_targets(model, "tiny-llama", " , ")


def test_a_model_without_linear_layers_in_blocks_has_nothing_to_adapt() -> None:
    with pytest.raises(ModelError, match="x: no linear layers in decoder blocks"):
        lora_targets(torch.nn.Sequential(), "x")


# its whole life


def learned(backbone: Backbone, lora: LoraConfig, steps: int = 4) -> Adapter:
    """An adapter that was trained for a few steps, and is still attached."""
    torch.manual_seed(0)
    backbone.adapters.attach(lora)
    batch = collate(rows_of(Encoder(backbone.prompt)))
    optimizer = torch.optim.AdamW([p for p in backbone.model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(steps):
        batch_loss(backbone, batch, LossConfig(contrastive_layer=0.5), Recipe(2e-2, steps)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return backbone.adapters.capture()


def answers(backbone: Backbone) -> list[list[DecodedSpan]]:
    encoder = Encoder(backbone.prompt)
    return decode(backbone, encoder, requests_of(encoder), rules=Rules(end_bias=-3.0))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert"])
def test_the_life_of_an_adapter_leaves_the_base_bit_for_bit(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    slot = backbone.adapters
    before, said = parameters(backbone), answers(backbone)
    adapter = learned(backbone, LoraConfig(rank=2))
    backbone.model.eval()
    attached = states(backbone)
    slot.merge()
    torch.testing.assert_close(states(backbone), attached, rtol=1e-4, atol=1e-4)
    assert not equal(before, slot.merged_weights()), "the update is in the weights"
    changed = answers(backbone)
    assert changed != said
    slot.detach()
    assert slot.peft is None and equal(parameters(backbone), before) and answers(backbone) == said
    slot.activate(adapter)
    assert answers(backbone) == changed
    slot.activate(None)
    assert equal(parameters(backbone), before) and answers(backbone) == said


def test_adapters_that_take_turns_on_a_base_answer_as_the_first_time() -> None:
    backbone = fresh_backbone("llama")
    slot = backbone.adapters
    before = parameters(backbone)
    first = learned(backbone, LoraConfig(rank=2))
    second = learned(backbone, LoraConfig(rank=5, alpha=8, targets="q_proj,down_proj"), steps=8)
    found: dict[int, list[Any]] = {}
    for adapter in (first, second, first, None, second, first, None):
        slot.activate(adapter)
        said = answers(backbone)
        assert found.setdefault(id(adapter), said) == said
        assert (slot.peft is None) == (adapter is None)
    assert len(found) == 3 and len({str(said) for said in found.values()}) == 3, "each has its own answers"
    assert equal(parameters(backbone), before)


def test_an_adapter_that_is_active_is_not_activated_again() -> None:
    backbone = fresh_backbone("llama")
    adapter = captured(backbone, 0)
    backbone.adapters.activate(adapter)
    peft, now = backbone.adapters.peft, parameters(backbone)
    backbone.adapters.activate(adapter)
    assert backbone.adapters.peft is peft and equal(parameters(backbone), now)


def test_a_captured_adapter_is_a_copy() -> None:
    backbone = trained("llama")
    adapter = backbone.adapters.capture()
    copied = {name: tensor.clone() for name, tensor in adapter.weights.items()}
    shake(backbone.model)
    assert equal(dict(adapter.weights), copied)
    assert not equal(dict(backbone.adapters.capture().weights), copied)


def test_adapters_of_one_base_say_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """Their turns are no news: neither peft nor transformers warns."""
    backbone = fresh_backbone("llama")
    one, two = captured(backbone, 0), captured(backbone, 1, rank=2)
    for adapter in (one, two, one):
        backbone.adapters.activate(adapter)
    assert [str(warning.message) for warning in recwarn] == []


def without_a_weight(adapter: Adapter) -> Adapter:
    return Adapter(adapter.config, dict(list(adapter.weights.items())[1:]))


def with_an_unknown_weight(adapter: Adapter) -> Adapter:
    name, tensor = next(iter(adapter.weights.items()))
    return Adapter(adapter.config, {**adapter.weights, name.replace("layers.0", "layers.7"): tensor})


def with_another(**changes: Any) -> Callable[[Adapter], Adapter]:
    def change(adapter: Adapter) -> Adapter:
        config = copy.copy(adapter.config)
        for name, value in changes.items():
            setattr(config, name, value)
        return Adapter(config, adapter.weights)

    return change


@pytest.mark.parametrize("active", [True, False], ids=["in place of another", "on the base"])
@pytest.mark.parametrize(
    "damage",
    [
        without_a_weight,
        with_an_unknown_weight,
        with_another(r=4),
        with_another(r=0),
        with_another(r="three"),
        with_another(target_modules=3),
        with_another(target_modules={"model.layers.9.mlp"}),
        with_another(target_modules={"model.layers.0.self_attn.q_proj", "model.layers.1.input_layernorm"}),
    ],
    ids=[
        "a weight too few",
        "a weight too many",
        "rank",
        "no rank",
        "a word",
        "a number",
        "no such layer",
        "no linear layer",
    ],
)
def test_an_adapter_that_does_not_fit_leaves_the_base_alone(damage: Callable[[Adapter], Adapter], active: bool) -> None:
    backbone = fresh_backbone("llama")
    slot = backbone.adapters
    before, modules = parameters(backbone), str(backbone.model)
    fitting = captured(backbone, 0)
    if active:
        slot.activate(fitting)
    with pytest.raises(ModelError, match="the adapter does not fit 'tiny-llama': "):
        slot.activate(damage(captured(fresh_backbone("llama"), 1)))
    assert slot.peft is None and equal(parameters(backbone), before) and str(backbone.model) == modules
    slot.activate(fitting)
    assert not torch.equal(states(backbone), states(fresh_backbone("llama")))


# off again


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox"])
def test_lora_taken_off_leaves_the_base_as_it_was(architecture: str) -> None:
    backbone = fresh_backbone(architecture)
    slot = backbone.adapters
    before, computed = parameters(backbone), states(backbone)
    for share in (1.0, 0.25):
        train(backbone)
        assert not torch.equal(states(backbone), computed)
        slot.keep(slot.update(), share)
        slot.detach()
        assert slot.peft is None
        assert equal(parameters(backbone), before)
        assert torch.equal(states(backbone), computed)
    slot.detach()  # there is nothing to take off, which is no error
    assert equal(parameters(backbone), before)


def test_a_second_lora_is_as_if_it_were_the_first() -> None:
    """Neither the first one's weights nor its trained update stay behind."""
    alone, second = trained("llama", seed=7), trained("llama", seed=3)
    second.adapters.keep(second.adapters.update(), 0.5)
    second.adapters.detach()
    train(second, seed=7)
    for backbone in (alone, second):
        backbone.adapters.keep(backbone.adapters.update(), 0.75)
    assert equal(parameters(second), parameters(alone))


def test_shares_are_of_the_trained_update_however_often_one_is_set() -> None:
    backbone = trained("llama")
    slot = backbone.adapters
    whole, at_full, trained_update = update(backbone), states(backbone), slot.update()
    assert all(tensor.abs().max() > 0.01 for tensor in whole.values())
    for share in (0.5, 0.25, 0.25, 0.0, 0.75, 1.0):
        slot.keep(trained_update, share)
        for path, tensor in update(backbone).items():
            torch.testing.assert_close(tensor, share * whole[path])
    assert torch.equal(states(backbone), at_full), "even after 0, all of it is back"
    slot.keep(trained_update, 0.0)
    torch.testing.assert_close(states(backbone), states(fresh_backbone("llama")))


# merged


@pytest.mark.parametrize("settings", [{}, {"targets": "q_proj,down_proj"}])
def test_merged_lora_computes_the_same_and_keeps_the_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    backbone = trained("llama", **settings)
    slot = backbone.adapters
    before = states(backbone)
    base = {name: tensor for name, tensor in parameters(backbone).items() if "base_layer" in name}
    (tmp_path / "before").mkdir()
    slot.capture().save(tmp_path / "before")
    slot.merge()
    now = parameters(backbone)
    assert any(not torch.equal(now[name], tensor) for name, tensor in base.items()), "it is in the weights now"
    torch.testing.assert_close(states(backbone), before, rtol=1e-4, atol=1e-4)
    slot.merge()  # a second time is nothing new
    assert equal(parameters(backbone), now)
    (tmp_path / "after").mkdir()
    slot.capture().save(tmp_path / "after")
    for name in (ADAPTER, CONFIG_FILE):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


@pytest.mark.parametrize("architecture", ["gpt2", "neox"])
def test_merging_suits_other_kinds_of_layers(architecture: str) -> None:
    backbone = trained(architecture)
    before = states(backbone)
    assert (before - states(fresh_backbone(architecture))).abs().max() > 0.1
    backbone.adapters.merge()
    torch.testing.assert_close(states(backbone), before, rtol=1e-4, atol=1e-4)


def test_rounded_weights_are_not_merged() -> None:
    """bf16 has eight bits: small updates would be lost."""
    backbone = fresh_backbone("llama")
    backbone.model.to(torch.bfloat16)
    train(backbone)
    before, computed = parameters(backbone), states(backbone)
    backbone.adapters.merge()
    assert equal(parameters(backbone), before)
    assert torch.equal(states(backbone), computed)
    with pytest.raises(ModelError, match=r"load the model with runtime\.weights=fp32"):
        backbone.adapters.merged_weights()


def test_merged_weights_have_the_names_of_the_base() -> None:
    backbone = trained("llama")
    slot = backbone.adapters
    names = fresh_backbone("llama").model.state_dict().keys()
    slot.merge()
    assert slot.merged_weights().keys() == names
    slot.detach()
    assert slot.merged_weights().keys() == names, "without an adapter they are the base's own"


def test_weights_published_in_bf16_come_back_bit_for_bit() -> None:
    """Their copies take half the memory, and must lose nothing."""
    backbone = fresh_backbone("llama")
    with torch.no_grad():
        for parameter in backbone.model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    before = parameters(backbone)
    adapter = captured(backbone, 0)
    backbone.adapters.activate(adapter)
    backbone.adapters.detach()
    assert equal(parameters(backbone), before)


# files


def test_an_adapter_survives_its_files_and_peft_reads_them(tmp_path: Path) -> None:
    from peft import PeftModel

    backbone = trained("llama", rank=4, alpha=12, targets="q_proj,up_proj")
    expected = states(backbone)
    backbone.adapters.capture().save(tmp_path)
    assert {ADAPTER, CONFIG_FILE} <= {path.name for path in tmp_path.iterdir()}
    loaded = Adapter.load(tmp_path)
    other = fresh_backbone("llama")
    other.adapters.activate(loaded)
    torch.testing.assert_close(states(other), expected, rtol=1e-4, atol=1e-4)
    model = PeftModel.from_pretrained(tiny_model("llama", 258), str(tmp_path)).eval()
    with torch.no_grad():
        theirs = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_adapters_of_older_models_are_read_as_they_were_trained(settings: dict[str, Any], tmp_path: Path) -> None:
    """Scaling by the root of the rank and weight decomposition were settings once; peft's file says so."""
    model = tiny_model("llama", 258)
    config = PeftLoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=lora_targets(model, "x", "q_proj,down_proj"), **settings
    )
    torch.manual_seed(0)
    peft = get_peft_model(model, config).eval()
    shake(peft)
    peft.save_pretrained(str(tmp_path), save_embedding_layers=False)
    with torch.no_grad():
        expected = peft(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    backbone = fresh_backbone("llama")
    before, plain = parameters(backbone), states(backbone)
    backbone.adapters.activate(Adapter.load(tmp_path))
    torch.testing.assert_close(states(backbone), expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 0.05
    (tmp_path / "again").mkdir()
    backbone.adapters.capture().save(tmp_path / "again")
    again = Adapter.load(tmp_path / "again")
    assert all(getattr(again.config, name) for name in settings)
    backbone.adapters.detach()
    assert equal(parameters(backbone), before) and torch.equal(states(backbone), plain)


def drop_config(folder: Path) -> None:
    (folder / CONFIG_FILE).unlink()


def drop_weights(folder: Path) -> None:
    (folder / ADAPTER).unlink()


def damage_config(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("{")


def list_config(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("[1]")


def cut_weights(folder: Path) -> None:
    (folder / ADAPTER).write_bytes((folder / ADAPTER).read_bytes()[:-50])


def empty_weights(folder: Path) -> None:
    (folder / ADAPTER).write_bytes(b"")


def nothing_for_lora(folder: Path) -> None:
    save_file({"x": torch.zeros(2)}, folder / ADAPTER)


def device_as_weights(folder: Path) -> None:
    (folder / ADAPTER).unlink()
    (folder / ADAPTER).symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "damage",
    [
        drop_config, drop_weights, damage_config, list_config, cut_weights, empty_weights, nothing_for_lora,
        device_as_weights,
    ],
)  # fmt: skip
def test_files_that_are_missing_or_damaged_are_a_model_error(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    trained("llama").adapters.capture().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=r"holds no whole adapter: .*; save the model again") as caught:
        Adapter.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("lora_alpha", None),
        ("lora_alpha", -1),
        ("lora_alpha", True),
        ("lora_alpha", 10**400),
        ("r", "8"),
        ("r", 0),
        ("target_modules", "("),
        ("target_modules", [1]),
        ("target_modules", []),
        ("use_rslora", "x"),
        ("use_dora", 1),
    ],
)
def test_what_adapter_config_may_not_hold(tmp_path: Path, key: str, value: object) -> None:
    trained("llama").adapters.capture().save(tmp_path)
    path = tmp_path / CONFIG_FILE
    record = {**json.loads(path.read_text(encoding="utf-8")), key: value}
    path.write_text(json.dumps({name: entry for name, entry in record.items() if entry is not None}), encoding="utf-8")
    with pytest.raises(ModelError, match=rf"holds no whole adapter: {CONFIG_FILE}: {key} must be "):
        Adapter.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lora_alpha", float("nan"), "NaN is no number of JSON"),
        ("r", 1 << 19, "r = 524288 does not fit the weights, whose rank is 3"),
        ("r", 2, "r = 2 does not fit the weights"),
        (
            "target_modules",
            [f"layers.{number}.q_proj" for number in range(100_000)],
            "100000 target_modules do not fit",
        ),
        ("alpha_pattern", {"q_proj": 64}, "alpha_pattern = .* is not supported, only plain LoRA is"),
        ("rank_pattern", {"q_proj": 2}, "rank_pattern = .* is not supported"),
        ("layer_replication", [[0, 2], [1, 2]], "layer_replication = .* is not supported"),
        ("modules_to_save", ["lm_head"], "modules_to_save = .* is not supported"),
        ("bias", "all", "bias = 'all' is not supported"),
        ("peft_type", "IA3", "peft_type = 'IA3' is not supported"),
        ("init_lora_weights", "pissa", "init_lora_weights = 'pissa' is not supported"),
        ("auto_mapping", {"base_model_class": "Trap", "parent_library": "trap"}, "'auto_mapping' .* names code"),
        ("runtime_config", {"ephemeral_gpu_offload": "trap"}, "'runtime_config' .* names code"),
        ("auto_map", {"AutoModel": "trap.Trap"}, "'auto_map' .* names code"),
    ],
)
def test_what_would_change_an_adapter_or_name_code_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    trained("llama").adapters.capture().save(tmp_path)
    path = tmp_path / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: value}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"holds no whole adapter: .*{message}") as caught:
        Adapter.load(tmp_path)
    assert len(str(caught.value)) < 1000


def test_the_same_adapter_is_saved_as_the_same_bytes(tmp_path: Path) -> None:
    paths = [f"layers.{number}.up" for number in (2, 0, 1)]
    for number, targets in enumerate((set(paths), set(reversed(paths)), paths)):
        (tmp_path / str(number)).mkdir()
        config = PeftLoraConfig(r=1, target_modules=targets)
        Adapter(config, {"a": torch.zeros(1)}).save(tmp_path / str(number))
        record = json.loads((tmp_path / str(number) / CONFIG_FILE).read_text(encoding="utf-8"))
        assert record["target_modules"] == sorted(paths)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded_nor_captured(tmp_path: Path, value: float) -> None:
    backbone = trained("llama")
    adapter = backbone.adapters.capture()
    adapter.save(tmp_path)
    name = sorted(adapter.weights)[3]
    broken = {**load_file(tmp_path / ADAPTER)}
    broken[name][1, 2] = value
    message = rf"the weight '{name}' holds numbers that are not finite \(NaN or infinite\)"
    with pytest.raises(ModelError, match=f"{message}; the adapter was not saved"):
        Adapter(adapter.config, broken).save(tmp_path)
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / ADAPTER).values())
    save_file(broken, tmp_path / ADAPTER)
    with pytest.raises(ModelError, match=f"{message}; .* is damaged; copy it again"):
        Adapter.load(tmp_path)
    with torch.no_grad():
        next(part for path, part in backbone.model.named_parameters() if ".lora_B." in path)[0, 0] = value
    with pytest.raises(ModelError, match=r"not finite .*; training has failed: lower train\.learning_rate"):
        backbone.adapters.capture()
