"""Bases from disk: what is loaded, what is refused, what is written beside a base."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cllmfs.config import Config, LoraConfig, LossConfig
from cllmfs.encoding.batches import collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import PROMPT_FILE
from cllmfs.errors import ModelError
from cllmfs.model.folder import read_manifest
from cllmfs.model.loading import FIGURES_FILE, load_backbone, write_base
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, Span
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import SHORT_TEMPLATE, own_byte_tokenizer, rows_of, save_base, tiny_backbone, tiny_model

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


def pickle_weights(folder: Path) -> None:
    torch.save(tiny_backbone("llama").model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-type"}')


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize("damage", [pickle_weights, damage_tokenizer, damage_config, no_config])
def test_base_that_cannot_be_loaded(tiny_base: Path, tmp_path: Path, damage: Any) -> None:
    folder = copy_of(tiny_base, tmp_path)
    damage(folder)
    with pytest.raises(ModelError, match=r"safetensors weights and a tokenizer\.json"):
        load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize("name", ["no-such-device", "cuda:99", "meta", "cpu:x", "", "x" * 100_000, "xpu", "fpga"])
def test_a_device_that_cannot_be_used_is_named(tiny_base: Path, name: str) -> None:
    if not name:
        assert load_backbone(str(tiny_base), device=name).device.type in ("cpu", "cuda")
        return
    with pytest.raises(ModelError, match=r"the device '.* cannot be used; name another one, such as cpu") as caught:
        load_backbone(str(tiny_base), device=name)
    assert len(str(caught.value)) < 500


def test_too_little_memory_is_a_model_error(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelError, match=r"too little memory for .*runtime\.weights=bf16 or nf4"):
        load_backbone(str(tiny_base), device="cpu")


# bases of the hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with the tiny base as owner/tiny, and no network; returns the folder of its commit."""
    home = tmp_path / "hub" / "models--owner--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    snapshot = home / "snapshots" / COMMIT
    shutil.copytree(tiny_base, home / "blobs")
    snapshot.mkdir(parents=True)
    for blob in (home / "blobs").iterdir():  # as the hub's library keeps them
        (snapshot / blob.name).symlink_to(Path("..") / ".." / "blobs" / blob.name)
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("nothing may be fetched"))
    return snapshot


def test_a_base_in_the_cache_is_loaded_with_its_prompt_and_its_commit(cache: Path) -> None:
    backbone = load_backbone("owner/tiny", device="cpu")
    assert (backbone.name, backbone.fingerprint.value) == ("owner/tiny", f"commit:{COMMIT}")
    assert backbone.fingerprint.folder is None
    assert backbone.prompt.template == SHORT_TEMPLATE, "the base's own"
    original = tiny_backbone("llama").forward(IDS, REAL, None).last
    torch.testing.assert_close(backbone.forward(IDS, REAL, None).last, original)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_base_that_is_not_whole_in_the_cache_says_so_at_once(cache: Path, missing: str) -> None:
    (cache / missing).unlink()
    with pytest.raises(
        ModelError, match="the network cannot be reached, and owner/tiny is not, or not whole, in the ca"
    ):
        load_backbone("owner/tiny", device="cpu")


def test_a_base_that_is_not_in_the_cache_says_so_at_once(cache: Path) -> None:
    with pytest.raises(
        ModelError, match=r"There is no such folder, the network .*owner/other is not, .*or name a folder"
    ):
        load_backbone("owner/other", device="cpu")


@pytest.mark.parametrize(
    "name", ["../..x", "a b", "a/b/c", "x" * 97, "/no/such/folder", "./none", "a\x00b", "o/" * 9999]
)
def test_a_name_that_no_base_can_have_is_refused_without_a_look_up(cache: Path, name: str) -> None:
    with pytest.raises(
        ModelError, match="There is no such folder, and a hub id has the form NAME or OWNER/NAME"
    ) as caught:
        load_backbone(name, device="cpu")
    assert len(str(caught.value)) < 700


def test_what_a_base_of_the_hub_names_is_checked_before_its_weights_are_fetched(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fnmatch

    fetched: list[str] = []
    target = tmp_path / "new" / COMMIT
    target.mkdir(parents=True)

    def download(name: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        assert (name, local_files_only) == ("owner/new", False) and revision in (None, COMMIT)
        for file in cache.iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                fetched.append(file.name)
                shutil.copy(file, target / file.name)
        return str(target)

    monkeypatch.delenv("HF_HUB_OFFLINE")
    for module in ("bases", "loading"):
        monkeypatch.setattr(f"cllmfs.model.{module}.hub_reachable", lambda: True)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    (cache / "trap.py").write_text("raise SystemExit", encoding="utf-8")
    assert load_backbone("owner/new", device="cpu").fingerprint.value == f"commit:{COMMIT}"
    assert fetched[-1] == "model.safetensors" and "trap.py" not in fetched
    fetched.clear()
    config = json.loads((cache / "config.json").read_text(encoding="utf-8"))
    (cache / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoConfig": "trap.Trap"}}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"'auto_map' .* names code"):
        load_backbone("owner/new", device="cpu")
    assert "config.json" in fetched and "model.safetensors" not in fetched


def test_a_model_of_a_hub_base_takes_its_snapshot_and_warns_of_other_folders(
    cache: Path, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Config().with_settings(["train.steps=1", "calibrate.folds=0", "train.replay=0", "lora.rank=2"])
    shot = Example("Ada met Bo.", (Span(0, 3, "person"),))
    saved = EntityRecognizer("owner/tiny", config=settings).fit([shot]).save(tmp_path / "m")
    assert read_manifest(saved)["base_hash"] == f"commit:{COMMIT}" and "base_folder" not in read_manifest(saved)
    assert EntityRecognizer.load(saved).base == "owner/tiny"
    assert EntityRecognizer.load(saved, base=str(cache)).base == str(cache)
    assert not caplog.records, "the name of the folder is the commit"
    EntityRecognizer.load(saved, base=str(tiny_base))
    (record,) = caplog.records
    assert "was trained on the commit 0123456789ab of owner/tiny; whether" in record.getMessage()
    assert "cannot be verified" in record.getMessage()
    other = tmp_path / "hub" / "models--owner--tiny" / "snapshots" / COMMIT[::-1]
    cache.rename(other)
    (tmp_path / "hub" / "models--owner--tiny" / "refs" / "main").write_text(COMMIT[::-1], encoding="utf-8")
    with pytest.raises(ModelError, match=r"trained on another version of 'owner/tiny' .*--base"):
        EntityRecognizer.load(saved)


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


# what lies beside a base


def test_the_figures_of_a_base_lie_beside_it(tiny_base: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_base, tmp_path)
    assert load_backbone(str(folder), device="cpu").figures == {}
    figures = {"trained": {"slope": 0.5, "shift": 0.0, "threshold": 0.25, "vote": 0.5}}
    (folder / FIGURES_FILE).write_text(json.dumps(figures), encoding="utf-8")
    backbone = load_backbone(str(folder), device="cpu")
    assert backbone.figures == figures
    (tmp_path / "written").mkdir()
    write_base(backbone, tmp_path / "written")
    again = load_backbone(str(tmp_path / "written"), device="cpu")
    assert again.figures == figures and again.prompt.template == SHORT_TEMPLATE
    assert again.tokenizer.backend_tokenizer.to_str() == backbone.tokenizer.backend_tokenizer.to_str()


def test_no_figures_are_written_where_there_are_none(tiny_base: Path, tmp_path: Path) -> None:
    write_base(load_backbone(str(tiny_base), device="cpu"), tmp_path)
    assert (tmp_path / PROMPT_FILE).is_file() and not (tmp_path / FIGURES_FILE).exists()


@pytest.mark.parametrize("name", [PROMPT_FILE, FIGURES_FILE])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_what_is_no_json_object_is_refused_with_its_file(
    tiny_base: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = copy_of(tiny_base, tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: the file must be a JSON object"):
        load_backbone(str(folder), device="cpu")


# four bits


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
    rounded.adapters.attach(LoraConfig(rank=4))
    batch = collate(rows_of(Encoder(rounded.prompt)))
    optimizer = torch.optim.AdamW([p for p in rounded.model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(12):
        total = batch_loss(rounded, batch, LossConfig(), Recipe(1e-2, 12)).total
        losses.append(total.item())
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
