"""Booby-trapped, absurd and damaged bases: each is refused before a library follows it, and no code of it runs."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cllmfs.errors import ModelError
from cllmfs.model.inspection import check_config, check_file, read_object, weight_files
from cllmfs.model.loading import load_backbone
from cllmfs.recognizer import EntityRecognizer
from tests.conftest import own_byte_tokenizer, save_base, tiny_model

Damage = Callable[[Path], object]


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """A base to damage."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


def put(file: str, **members: Any) -> Damage:
    """Set members of a JSON file of the base; the file is made if there is none."""

    def damage(base: Path) -> None:
        path = base / file
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps({**record, **members}), encoding="utf-8")

    return damage


def with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(base: Path) -> None:
        tensors = load_file(base / "model.safetensors")
        change(tensors)
        save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})

    return damage


# traps

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
TRAP = "from pathlib import Path\nPath({!r}).touch()\n"
CLASSES = {"AutoConfig": "trap.Trap", "AutoModelForCausalLM": "trap.Trap", "AutoTokenizer": ["trap.Trap", "trap.Trap"]}


class Payload:
    """Its pickle touches a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def other_config(base: Path) -> None:
    """Another file takes the place of the configuration that was checked."""
    record = json.loads((base / CONFIG).read_text(encoding="utf-8"))
    (base / "config.4.0.0.json").write_text(json.dumps({**record, "auto_map": CLASSES}), encoding="utf-8")
    put(CONFIG, configuration_files=["config.4.0.0.json"])(base)


def pickled_weights(base: Path) -> None:
    with (base / "pytorch_model.bin").open("wb") as stream:
        pickle.dump(Payload(base.parent / "ran"), stream)
    (base / "model.safetensors").unlink()


def pickled_shards(base: Path) -> None:
    pickled_weights(base)
    index(base, "pytorch_model.bin")


def index(base: Path, file: Any) -> None:
    names = load_file(base / "model.safetensors") if (base / "model.safetensors").exists() else ["lm_head.weight"]
    listed = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (base / "model.safetensors.index.json").write_text(json.dumps(listed), encoding="utf-8")


def shards_elsewhere(file: str) -> Damage:
    def damage(base: Path) -> None:
        index(base, file.format(base.parent))
        (base / "model.safetensors").rename(base.parent / "elsewhere.safetensors")

    return damage


def custom_generate(base: Path) -> None:
    (base / "custom_generate").mkdir()
    shutil.copy(base / "trap.py", base / "custom_generate" / "generate.py")
    put(GENERATION, custom_generate="trap/generate")(base)


ELSEWHERE = r"index\.json: weights must be \.safetensors files beside it, got "
QUANTIZER = "must name one of the methods awq, bitsandbytes, compressed-tensors, gptq"
TRAPS: dict[str, tuple[Damage, str]] = {
    "code of a known model": (put(CONFIG, auto_map=CLASSES), "'auto_map'.* names code, which is never run"),
    "code of an unknown model": (put(CONFIG, auto_map=CLASSES, model_type="trap"), "'auto_map'.* names code"),
    "code of a tokenizer": (put(TOKENIZER, auto_map={"AutoTokenizer": [None, "trap.Trap"]}), r"tokenizer_config.*code"),
    "code of another repository": (put(CONFIG, auto_map={"AutoConfig": "o/r--trap.Trap"}), "'auto_map'.*code"),
    "code in a list": (put(TOKENIZER, auto_map=["trap.Trap", None]), "'auto_map'.*code"),
    "code of generation": (custom_generate, "generation_config.*'custom_generate'.*code"),
    "code below": (put(CONFIG, text_config={"auto_map": CLASSES}), r"'text_config\.auto_map'.*code"),
    "code in a list of parts": (put(CONFIG, parts=[{"deep": [{"auto_map": CLASSES}]}]), "auto_map'.*code"),
    "trust": (put(CONFIG, trust_remote_code=True), "'trust_remote_code'.*code"),
    "pipelines": (put(CONFIG, custom_pipelines={"ner": {"impl": "trap.Trap"}}), "'custom_pipelines'.*code"),
    "kernel": (put(CONFIG, _attn_implementation="o/kernel"), "'_attn_implementation' = 'o/kernel' names an impl"),
    "kernel, internal": (put(CONFIG, _attn_implementation_internal="o/kernel:fn"), "would be fetched"),
    "kernel, public": (put(CONFIG, attn_implementation="kernels-community/x"), "would be fetched"),
    "kernel by its name": (put(CONFIG, _attn_implementation="flash_attention_2"), "would be fetched"),
    "kernel by part": (put(CONFIG, _attn_implementation={"": "sdpa", "text_config": "o/kernel"}), "would be fetched"),
    "kernel below": (put(CONFIG, text_config={"_attn_implementation": "o/kernel"}), "would be fetched"),
    "kernel of experts": (put(CONFIG, _experts_implementation="o/kernel"), "would be fetched"),
    "kernel of generation": (put(GENERATION, attn_implementation="o/kernel"), "would be fetched"),
    "kernels": (put(CONFIG, use_kernels=True), "'use_kernels'.* asks for kernels"),
    "kernels by layer": (put(CONFIG, kernel_config={"RMSNorm": "o/kernel:Norm"}), "'kernel_config'.* asks for kernels"),
    "unknown quantizer": (put(CONFIG, quantization_config={"quant_method": "trap"}), QUANTIZER),
    "no quantizer": (put(CONFIG, quantization_config={"bits": 4}), QUANTIZER),
    "quantizer with kernels": (put(CONFIG, quantization_config={"quant_method": "fp8"}), QUANTIZER),
    "quantizer with classes": (put(CONFIG, quantization_config={"quant_method": "torchao"}), QUANTIZER),
    "quantizer with a place": (
        put(CONFIG, quantization_config={"quant_method": "gptq", "tokenizer": "o/tokenizer"}),
        "names something to fetch, in 'tokenizer'",
    ),
    "quantizer with a file": (
        put(CONFIG, quantization_config={"quant_method": "awq", "modules": [{"x": "trap.py"}]}),
        "names something to fetch, in 'modules'",
    ),
    "quantizer as text": (put(CONFIG, quantization_config="trap"), "must be an object"),
    "another configuration": (other_config, "'configuration_files'.*names other files"),
    "another tokenizer": (put(TOKENIZER, fast_tokenizer_files=["tokenizer.4.0.json"]), "names other files"),
    "other weights": (put(CONFIG, transformers_weights="../x.safetensors"), "names other files"),
    "pickled weights": (pickled_weights, r"model\.safetensors is missing; weights in other formats are not read"),
    "pickled shards": (pickled_shards, ELSEWHERE),
    "weights above": (shards_elsewhere("../elsewhere.safetensors"), ELSEWHERE),
    "weights anywhere": (shards_elsewhere("{}/elsewhere.safetensors"), ELSEWHERE),
    "weights by number": (lambda base: (index(base, 3), (base / "model.safetensors").unlink()), ELSEWHERE),
    "an adapter in the base": (
        put("adapter_config.json", base_model_name_or_path="o/other", peft_type="LORA"),
        r"is the adapter of a base .*merge it first",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_refused_and_none_of_its_code_runs(name: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing may be fetched"))
    spring, message = TRAPS[name]
    for file in ("trap.py", "modeling_llama.py", "tokenization_llama.py", "__init__.py"):
        (base / file).write_text(TRAP.format(str(base.parent / "ran")), encoding="utf-8")
    spring(base)
    with pytest.raises(ModelError, match=message) as caught:
        load_backbone(str(base), device="cpu")
    assert not (base.parent / "ran").exists()
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "members"),
    [
        (CONFIG, {"auto_map": {}, "use_kernels": False, "kernel_config": None}),
        (CONFIG, {"_attn_implementation": "eager"}),
        (CONFIG, {"attn_implementation": "sdpa", "_attn_implementation_autoset": True}),
        (CONFIG, {"cache_implementation": "static", "conv_kernel": 4}),
        (CONFIG, {"label2id": {"auto_map": 0, "kernels": 1, "custom_code": 2}, "id2label": {"0": "auto_map"}}),
        (GENERATION, {"cache_implementation": "hybrid"}),
        (TOKENIZER, {"name_or_path": "o/other", "auto_map": {}}),
        (TOKENIZER, {"chat_template": "{{ raise_exception('auto_map') }}"}),
    ],
)
def test_what_names_nothing_to_fetch_is_loaded(base: Path, file: str, members: dict[str, Any]) -> None:
    put(file, **members)(base)
    for unread in ("trap.py", "modeling_llama.py", "pytorch_model.bin", "training_args.bin"):
        (base / unread).write_text(TRAP.format(str(base.parent / "ran")), encoding="utf-8")
    assert load_backbone(str(base), device="cpu").vocabulary == 258
    assert not (base.parent / "ran").exists()


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "gptq", "bits": 4, "meta": {"uri": "https://example.org/x", "quantizer": ["x:1"]}},
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "compressed-tensors", "ignore": ["re:.*lm_head"], "config_groups": {"a": {"targets": ["x"]}}},
        {"quant_method": "awq", "modules_to_not_convert": ["model.layers.0"]},
    ],
)  # fmt: skip
def test_quantizations_without_code_are_not_refused(quantization: dict[str, Any]) -> None:
    check_config({"quantization_config": quantization}, Path(CONFIG))


# sizes


@pytest.mark.parametrize(
    "member, value",
    [
        *((name, 10**9) for name in ("hidden_size", "vocab_size", "intermediate_size")),
        *((name, 10**9) for name in ("num_attention_heads", "num_key_value_heads", "head_dim")),
        ("hidden_size", 40_000),
        ("intermediate_size", 300_000),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 10**12),
        ("num_hidden_layers", 300),
        ("max_position_embeddings", -1),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", 10**12),
        *((name, "32") for name in ("hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")),
        *((name, -2) for name in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads")),
        *((name, 0) for name in ("hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads")),
        ("hidden_size", [32]),
        ("hidden_size", {"a": 1}),
        ("hidden_size", None),
        ("num_hidden_layers", 2.5),
        ("vocab_size", 1e400),
        ("pad_token_id", 10**9),
        ("hidden_act", "no-such-function"),
        ("hidden_act", 7),
        ("rope_parameters", "x"),
        ("rope_parameters", {"rope_type": "no-such-type"}),
        ("torch_dtype", "no-such-type"),
        ("rms_norm_eps", "small"),
        ("model_type", 7),
        ("model_type", ["llama"]),
        ("architectures", 7),
    ],
)  # fmt: skip
def test_absurd_configurations_are_refused_at_once(base: Path, member: str, value: Any) -> None:
    put(CONFIG, **{member: value})(base)
    before, began = peak(), time.monotonic()
    said = refusal(base)
    assert len(said) < 1000 and "\n" not in said
    assert said or member in ("architectures", "torch_dtype", "pad_token_id", "rope_parameters"), "it has no effect"
    assert time.monotonic() - began < 20, "seconds at most, on a busy machine"
    assert peak() - before < 300 << 20, "no memory is reserved for it"


def refusal(base: Path) -> str:
    """The message with which a base is refused; empty if it is loaded. Any other error fails the test."""
    try:
        made = EntityRecognizer(str(base), labels=["person"])
    except ModelError as error:
        return str(error)
    assert made.predict("Ada met <z> Bo.").text == "Ada met <z> Bo."
    return ""


def peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_sizes_of_parts_are_checked_too(base: Path) -> None:
    put(CONFIG, text_config={"hidden_size": 10**9})(base)
    with pytest.raises(ModelError, match=r"'text_config\.hidden_size' must be a number from 0 to .*, got 1000000000"):
        load_backbone(str(base), device="cpu")


# damage


def cut(file: str, keep: int) -> Damage:
    return lambda base: (base / file).write_bytes((base / file).read_bytes()[:keep])


def flip(file: str, at: int, bit: int = 0) -> Damage:
    def damage(base: Path) -> None:
        content = bytearray((base / file).read_bytes())
        content[at] ^= 1 << bit
        (base / file).write_bytes(content)

    return damage


def set_to(value: float) -> Damage:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value

    return with_weights(change)


def other_model(**sizes: Any) -> Damage:
    """The weights of another model in place of the base's own."""

    def damage(base: Path) -> None:
        other = save_base(base.parent / "other", tiny_model("llama", 258, **sizes), own_byte_tokenizer())
        shutil.copy(other / "model.safetensors", base / "model.safetensors")

    return damage


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.mlp.up.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")


def larger_tokenizer(base: Path) -> None:
    from tokenizers import Tokenizer, models

    vocabulary = {f"t{number}": number for number in range(300)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="t0")).save(str(base / "tokenizer.json"))


WEIGHTS = "model.safetensors"
NOT_FINITE = r"the weight 'model\.layers\.1\.mlp\.up_proj\.weight' holds numbers that are not finite"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "NaN": (set_to(float("nan")), NOT_FINITE),
    "infinite": (set_to(float("inf")), NOT_FINITE),
    "minus infinite": (set_to(float("-inf")), NOT_FINITE),
    "far too large": (set_to(3e38), "computes numbers that are not finite"),
    "weights empty": (cut(WEIGHTS, 0), "the weights are damaged"),
    "weights cut in the header": (cut(WEIGHTS, 500), "the weights are damaged"),
    "weights cut in the length": (cut(WEIGHTS, 5), "the weights are damaged"),
    "weights cut in the numbers": (cut(WEIGHTS, -1), "the weights are damaged"),
    "length of the header": (flip(WEIGHTS, 5, 4), "the weights are damaged"),
    "begin of the header": (flip(WEIGHTS, 8, 2), "the weights are damaged"),
    "weights are text": (lambda base: (base / WEIGHTS).write_text("<html>404</html>"), "the weights are damaged"),
    "weights are a pointer": (
        lambda base: (base / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "the weights are damaged",
    ),
    "no weights": (lambda base: (base / WEIGHTS).unlink(), r"model\.safetensors is missing"),
    "no tensors": (with_weights(dict.clear), r"config\.json|the weights are damaged"),
    "a tensor is missing": (
        with_weights(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")), "are missing"
    ),
    "a layer more": (other_model(num_hidden_layers=3), r"'model\.layers\.2.* belongs to no part that config\.json"),
    "a layer less": (other_model(num_hidden_layers=1), r"'model\.layers\.1.* are missing"),
    "a tensor is renamed": (with_weights(renamed), "up_proj.* are missing"),
    "another width": (other_model(hidden_size=40), "has the shape .* but config.json asks for"),
    "another vocabulary": (
        lambda base: save_base(base, tiny_model("llama", 200), own_byte_tokenizer()),
        "the tokenizer has 258 numbers of tokens, but the weights only 200",
    ),
    "a larger tokenizer": (larger_tokenizer, "the tokenizer has 300 numbers of tokens, but the weights only 258"),
    "config empty": (cut(CONFIG, 0), r"config\.json: the file must be a JSON object"),
    "config cut": (cut(CONFIG, 40), r"config\.json: the file must be a JSON object"),
    "config a list": (lambda base: (base / CONFIG).write_text("[]"), r"must be a JSON object, got \[\]"),
    "config in UTF-16": (
        lambda base: (base / CONFIG).write_text((base / CONFIG).read_text(), encoding="utf-16"), "JSON object in UTF-8"
    ),
    "config nested": (lambda base: (base / CONFIG).write_text("[" * 100_000), r"config\.json: the file must be a JSON"),
    "config nested and whole": (
        lambda base: (base / CONFIG).write_text('{"a":' * 900 + "1" + "}" * 900), "cannot be loaded as a base|JSON"
    ),
    "config of NaN": (put(CONFIG, rms_norm_eps=float("nan")), "NaN is no number of JSON"),
    "config without type": (lambda base: (base / CONFIG).write_text("{}"), "cannot be loaded as a base"),
    "no config": (lambda base: (base / CONFIG).unlink(), r"cannot be loaded as a base: .*config\.json is missing"),
    "config a folder": (
        lambda base: ((base / CONFIG).unlink(), (base / CONFIG).mkdir()), "cannot be read: it is no regular file"
    ),
    "config a pipe": (
        lambda base: ((base / CONFIG).unlink(), os.mkfifo(base / CONFIG)), "cannot be read: it is no regular file"
    ),
    "weights a device": (
        lambda base: ((base / WEIGHTS).unlink(), (base / WEIGHTS).symlink_to("/dev/zero")), "it is no regular file"
    ),
    "tokenizer a device": (
        lambda base: ((base / "tokenizer.json").unlink(), (base / "tokenizer.json").symlink_to("/dev/zero")),
        "it is no regular file",
    ),
    "a link to nothing": (
        lambda base: ((base / WEIGHTS).unlink(), (base / WEIGHTS).symlink_to("nowhere")), "No such file or directory"
    ),
    "tokenizer empty": (cut("tokenizer.json", 0), r"tokenizer\.json: the file must be a JSON object"),
    "tokenizer cut": (cut("tokenizer.json", 700), r"tokenizer\.json: the file must be a JSON object"),
    "tokenizer of another kind": (lambda base: (base / "tokenizer.json").write_text('{"a": 1}'), "cannot be loaded as"),
    "tokenizer_config a list": (lambda base: (base / TOKENIZER).write_text("[1]"), r"must be a JSON object, got \[1\]"),
    "index empty": (
        lambda base: ((base / WEIGHTS).unlink(), (base / f"{WEIGHTS}.index.json").write_text("{}")),
        "weight_map must name the file of each tensor, got None",
    ),
    "index names what is not there": (
        lambda base: (index(base, "part.safetensors"), (base / WEIGHTS).unlink()), "No such file or directory"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_base_is_refused(name: str, base: Path) -> None:
    damage, message = DAMAGES[name]
    damage(base)
    with pytest.raises(ModelError, match=message) as caught:
        load_backbone(str(base), device="cpu")
    assert len(str(caught.value)) < 1000 and "\n" not in str(caught.value)


def test_shards_are_read_like_one_file(tiny_base: Path, base: Path) -> None:
    tensors = load_file(base / WEIGHTS)
    (base / WEIGHTS).unlink()
    names = sorted(tensors)
    listed = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    for file in set(listed.values()):
        part = {name: tensors[name] for name in names if listed[name] == file}
        save_file(part, base / file, metadata={"format": "pt"})
    (base / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}), encoding="utf-8")
    assert [file.name for file in weight_files(base, "x")] == sorted(set(listed.values()))
    whole, parts = (load_backbone(str(folder), device="cpu").model.state_dict() for folder in (tiny_base, base))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


# odd tokenizers

ODD_TOKENIZERS: tuple[dict[str, Any], ...] = (
    {"bos_token": 5}, {"bos_token": ["<s>"]}, {"bos_token": {"content": 3}}, {"bos_token": {"a": "b"}},
    {"eos_token": {}}, {"eos_token": "x" * 100_000}, {"pad_token": None}, {"pad_token": True},
    {"unk_token": "\ud800"}, {"bos_token": ""}, {"extra_special_tokens": 5}, {"extra_special_tokens": ["a", 5]},
    {"extra_special_tokens": {"a": 5}}, {"additional_special_tokens": "abc"}, {"added_tokens_decoder": 5},
    {"added_tokens_decoder": {"x": {"content": "a"}}}, {"added_tokens_decoder": {"5": "a"}},
    {"added_tokens_decoder": {"-1": {"content": "a"}}}, {"added_tokens_decoder": {"9" * 30: {"content": "a"}}},
    {"added_tokens_decoder": {"999999": {"content": "<z>", "special": True}}}, {"tokenizer_class": 5},
    {"tokenizer_class": "NoSuchTokenizer"}, {"tokenizer_class": ["a"]}, {"tokenizer_class": "BertModel"},
    {"tokenizer_class": ""}, {"model_max_length": "long"}, {"model_max_length": -1}, {"model_max_length": 1e400},
    {"padding_side": "up"}, {"padding_side": 5}, {"truncation_side": []}, {"chat_template": 5},
    {"chat_template": [{"name": 1}]}, {"add_prefix_space": "maybe"}, {"model_input_names": 5},
    {"model_input_names": ["a", 1]}, {"special_tokens_map_file": "/dev/zero"}, {"backend": 7},
    {"clean_up_tokenization_spaces": "x"}, {"split_special_tokens": {}}, {"init_inputs": ["x"]}, {"processor_class": 5},
)  # fmt: skip


@pytest.mark.parametrize("members", ODD_TOKENIZERS, ids=lambda members: str(members)[:50])
def test_an_odd_tokenizer_config_is_used_or_refused(base: Path, members: dict[str, Any]) -> None:
    put(TOKENIZER, **members)(base)
    said = refusal(base)
    assert not said or re.search(r"tokenizer_config\.json|cannot be loaded as a base|has no fast tokenizer", said)
    assert len(said) < 1000 and "\n" not in said


# numbers of tokens


def set_in(file: str, *place: str | int, value: Any) -> Damage:
    """Set one member of a JSON file, at a depth."""

    def damage(base: Path) -> None:
        record = json.loads((base / file).read_text(encoding="utf-8"))
        inner = record
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        (base / file).write_text(json.dumps(record), encoding="utf-8")

    return damage


TOO_HIGH = r"{}: the number of the token .* must be below 16,777,216, got {}; get the file again"
NUMBERS: dict[str, tuple[Damage, str]] = {
    **{
        f"{place[-1]} {number}": (
            set_in("tokenizer.json", *place, value=number), TOO_HIGH.format("tokenizer.json", number)
        )
        for place in (("model", "vocab", "a"), ("model", "vocab", "\n"), ("added_tokens", 0, "id"))
        for number in (1 << 24, (1 << 32) - 2, 1 << 32, 1 << 70, -(1 << 40))
    },
    "vocab.json": (put("vocab.json", a=0, b=(1 << 32) - 2), TOO_HIGH.format("vocab.json", "4294967294")),
    "added_tokens.json": (put("added_tokens.json", a=4 << 30), TOO_HIGH.format("added_tokens.json", "4294967296")),
    "added_tokens_decoder": (
        put(TOKENIZER, added_tokens_decoder={"4294967294": {"content": "<z>", "special": True}}),
        TOO_HIGH.format(TOKENIZER, "4294967294"),
    ),
    "a number above the rows": (set_in("tokenizer.json", "model", "vocab", "\u010a", value=5000), "has 5,001 numbers"),
    "a delimiter without a row": (
        put(TOKENIZER, added_tokens_decoder={"9000": {"content": "\n", "special": True}}, eos_token="\n"),
        r"the token '\\n' has the number 258, but the embedding only 258 rows",
    ),
    "an added word without a row": (
        put(TOKENIZER, added_tokens_decoder={"9000": {"content": "word", "special": False}}),
        "the token 'word' has the number 258, but the embedding only 258 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_of_a_token_that_the_base_cannot_hold_is_refused(base: Path, name: str) -> None:
    damage, message = NUMBERS[name]
    damage(base)
    with pytest.raises(ModelError, match=message):
        load_backbone(str(base), device="cpu")


def test_a_padding_token_may_lack_a_row(base: Path) -> None:
    put(TOKENIZER, added_tokens_decoder={"9000": {"content": "<pad>", "special": True}}, pad_token="<pad>")(base)
    assert load_backbone(str(base), device="cpu").vocabulary == 258


# files that may not be read


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, "tokenizer.json", TOKENIZER])
def test_what_may_not_be_read_is_told_from_what_is_not_there(
    base: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == file:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    message = rf"{file.replace('.', '[.]')} cannot be read: permission denied; ask its owner"
    with pytest.raises(ModelError, match=message):
        load_backbone(str(base), device="cpu")


def test_a_folder_that_may_not_be_entered_is_told_from_one_that_is_not_there(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = os.stat

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if str(path).startswith(str(base)):
            raise PermissionError(13, "Permission denied", str(path))
        return state(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for call in (lambda: load_backbone(str(base)), lambda: EntityRecognizer.load(base)):
        with pytest.raises(ModelError, match="cannot be read: permission denied"):
            call()


def test_large_files_of_settings_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with path.open("wb") as stream:
        stream.truncate(65 << 20)  # a hole, which takes no place on disk
    with pytest.raises(ModelError, match="must have at most 64 MB"):
        read_object(path)
    check_file(path)
