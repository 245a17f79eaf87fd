"""Model folders: whole or not at all, self-describing, never code; a damaged or foreign one is named as such."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import cllmfs.files
import cllmfs.model.folder
from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.errors import CllmfsError, ConfigError, DataError, ModelError
from cllmfs.model.folder import check_writable, is_model_folder, model_card, read_manifest, write_model
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, Span

SHOT = Example("Ada met Bo.", (Span(0, 3, "person"), Span(8, 10, "a|b")))
SETTINGS = (
    "train.steps=1",
    "train.precision=fp32",
    "lora.rank=2",
    "lora.keep=0.6",
    "decode.end_bias=-20",
    "calibrate.scarce_shift=0.75",
)
TRUST = {"slope": 0.5, "shift": 0.25, "threshold": 0.125, "thresholds": {"person": 0.75}, "vote": 0.25}
FILES = {"cllmfs.json", "adapter_config.json", "adapter_model.safetensors", "README.md"}


def fitted(base: Path, seed: int = 0) -> EntityRecognizer:
    settings = Config().with_settings([*SETTINGS, f"train.seed={seed}"])
    return EntityRecognizer(str(base), config=settings).fit([SHOT], labels={"person": "a human", "a|b": "x | y"})


@pytest.fixture(scope="module")
def own_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the base, for tests to change."""
    return Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("own") / "base"))


@pytest.fixture(scope="module")
def trained(own_base: Path) -> EntityRecognizer:
    return fitted(own_base)


@pytest.fixture(scope="module")
def kept(trained: EntityRecognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.save(tmp_path_factory.mktemp("kept") / "model")


@pytest.fixture
def model(kept: Path, tmp_path: Path) -> Path:
    """A model folder to damage."""
    return Path(shutil.copytree(kept, tmp_path / "model"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change(model: Path, **changes: Any) -> None:
    record = json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            del record[key]
        else:
            record[key] = value
    (model / "cllmfs.json").write_text(json.dumps(record), encoding="utf-8")


# what a folder holds


def test_a_folder_holds_these_files_and_no_pickle(kept: Path) -> None:
    assert {path.name for path in kept.iterdir()} == FILES
    assert all(path.suffix in (".json", ".safetensors", ".md") for path in kept.rglob("*"))
    assert all("lora_" in key for key in load_file(kept / "adapter_model.safetensors")), "the base is not in it"
    assert [path.name for path in kept.parent.iterdir()] == ["model"], "nothing is left beside it"


def test_the_manifest_is_complete(kept: Path, trained: EntityRecognizer, own_base: Path) -> None:
    record = read_manifest(kept).record
    assert record == {"format": 1, **json.loads(json.dumps(trained.info()))}
    assert read_manifest(kept).base == record["base"] == str(own_base)
    assert record["labels"] == {"person": "a human", "a|b": "x | y"} and list(record["labels"]) == ["person", "a|b"]
    shots = {"sentences": 1, "mentions": {"a|b": 1, "person": 1}, "steps": 1, "keep": 0.6}
    assert {name: record["shots"][name] for name in shots} == shots
    assert set(record["config"]) == {"model", "prompt", "lora", "loss", "train", "decode", "calibrate"}
    assert record["config"]["lora"]["rank"] == 2
    assert {"cllmfs", "torch", "transformers", "peft", "tokenizers", "safetensors", "python"} == set(record["versions"])
    assert record["prompt"]["before"] == "S:"
    assert record["scores"] == {} and record["trained"] is True
    expected = record["config"]["calibrate"]
    assert expected["scarce_shift"] == 0.75
    fitted = {name: expected[name] for name in ("slope", "vote")}
    fitted |= {name: expected[f"scarce_{name}"] for name in ("shift", "threshold")}
    assert record["calibration"] == {**fitted, "thresholds": {}}, "too few shots to fit another"


def test_the_card_is_markdown_with_escaped_labels(kept: Path, own_base: Path) -> None:
    lines = (kept / "README.md").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "---" and "---" in lines[1:]
    assert f"base_model: {own_base}" in lines and "library_name: peft" in lines
    assert "| person | 1 | a human |" in lines
    assert r"| a\|b | 1 | x \| y |" in lines
    assert "None were measured: no dev set was given." in lines


def test_the_card_names_scores(trained: EntityRecognizer) -> None:
    card = model_card({**trained.info(), "scores": {"dev strict micro F1": 0.75}})
    assert "- dev strict micro F1: 0.75" in card and "None were measured" not in card


def test_saving_again_replaces_the_model(trained: EntityRecognizer, model: Path, own_base: Path) -> None:
    (model / "notes.txt").write_text("mine")
    before = content(model)
    fitted(own_base, seed=1).save(model)
    after = content(model)
    assert set(after) == FILES
    assert after["adapter_model.safetensors"] != before["adapter_model.safetensors"]
    assert [path.name for path in model.parent.iterdir()] == ["model"]


def test_folders_above_are_made_and_an_empty_one_is_taken(trained: EntityRecognizer, tmp_path: Path) -> None:
    assert is_model_folder(trained.save(tmp_path / "a" / "b" / "model"))
    (tmp_path / "empty").mkdir()
    assert is_model_folder(trained.save(str(tmp_path / "empty")))


def test_a_link_and_the_present_folder_are_saved_to(
    trained: EntityRecognizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained.save(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    trained.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and is_model_folder(tmp_path / "real")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trained.save(".")
    assert is_model_folder(tmp_path / "here")


# saves that fail


class Dying:
    """An adapter whose save writes a part and then fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def save_pretrained(self, folder: str, **_: Any) -> None:
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    trained: EntityRecognizer, model: Path, error: BaseException, exists: bool
) -> None:
    folder = model if exists else model.with_name("new")
    before = content(model)
    with pytest.raises(type(error)):
        write_model(folder, trained.info(), Dying(error))
    assert content(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("broken", ["write_text", "rename"])
def test_a_full_disk_is_a_model_error_and_costs_nothing(
    trained: EntityRecognizer, model: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = content(model)
    original = getattr(Path, broken)

    def fail(self: Path, *args: Any, **kwargs: Any) -> Any:
        if ".partial" in str(self) and self.name != "README.md":
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, broken, fail)
    with pytest.raises(ModelError, match=r"cannot be saved to .*No space left"):
        trained.save(model)
    monkeypatch.undo()
    assert content(model) == before
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    EntityRecognizer.load(model)


def test_a_killed_save_is_not_loadable(trained: EntityRecognizer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill runs no clean-up: the part stays beside the old model."""
    before = content(model)
    monkeypatch.setattr(cllmfs.files.shutil, "rmtree", lambda *args, **kwargs: None)

    def kill(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(cllmfs.model.folder, "model_card", kill)
    with pytest.raises(KeyboardInterrupt):
        trained.save(model)
    monkeypatch.undo()
    (partial,) = [path for path in model.parent.iterdir() if path.name.endswith(".partial")]
    assert (partial / "adapter_model.safetensors").is_file()
    assert not is_model_folder(partial)
    with pytest.raises(ModelError, match=r"is no whole cllmfs model: cllmfs\.json cannot be read"):
        EntityRecognizer.load(partial)
    assert content(model) == before
    EntityRecognizer.load(model)
    trained.save(model)
    assert is_model_folder(model)


def test_foreign_folders_and_files_are_not_overwritten(trained: EntityRecognizer, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ModelError, match="is not empty and holds no cllmfs model"):
        trained.save(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    (tmp_path / "file").write_text("text")
    with pytest.raises(ModelError, match="is a file"):
        trained.save(tmp_path / "file")
    with pytest.raises(ModelError, match="is a file"):
        check_writable(tmp_path / "file")
    with pytest.raises(ModelError, match="cannot be saved"):
        trained.save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "text"


# folders that are damaged


def manifest(text: bytes) -> Callable[[Path], object]:
    return lambda model: (model / "cllmfs.json").write_bytes(text)


def drop(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def cut_adapter(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def rename_weight(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name.replace("layers.0", "layers.7")] = tensors.pop(name)
    save_file(tensors, path)


def leave_out_weight(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)


def other_rank(model: Path) -> None:
    record = json.loads((model / "cllmfs.json").read_text())
    record["config"]["lora"]["rank"] = 3
    (model / "cllmfs.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage, kind, message",
    [
        (manifest(b""), ModelError, r"is no whole cllmfs model: cllmfs\.json cannot be read"),
        (manifest(b'{"format": 1, "base'), ModelError, "is no whole cllmfs model"),
        (manifest(b"\xff\xfe\x00"), ModelError, "is no whole cllmfs model"),
        (manifest(b"[1]"), ModelError, "must name 'format'"),
        (manifest(b"{}"), ModelError, "must name 'format'"),
        (lambda model: change(model, base_hash=None), ModelError, "must name 'base_hash'"),
        (lambda model: change(model, format=2), ModelError, "format 2 is not known to this version; upgrade"),
        (lambda model: change(model, labels=["person"]), ModelError, r"'labels' cannot be \['person'\]"),
        (lambda model: change(model, labels={}), DataError, "at least one label"),
        (lambda model: change(model, config="none"), ModelError, "'config' cannot be 'none'"),
        (lambda model: change(model, config={"train": {"magic": 1}}), ConfigError, r"cllmfs\.json.*train\.magic"),
        (lambda model: change(model, prompt={"before": "?"}), ModelError, "was trained with another prompt"),
        (lambda model: change(model, base_hash="sha256:00"), ModelError, "trained on another version of"),
        (lambda model: change(model, base="/nowhere/base"), ModelError, "'/nowhere/base' cannot be loaded as a base"),
        (lambda model: change(model, calibration={}), ModelError, r"cllmfs\.json: a calibration holds slope, shift"),
        (lambda model: change(model, calibration=[1]), ModelError, "a calibration holds slope, shift, threshold and"),
        (lambda model: change(model, calibration={**TRUST, "slope": "steep"}), ModelError, "a calibration .*'steep'"),
        (lambda model: change(model, calibration={**TRUST, "shift": None}), ModelError, "a calibration holds slope"),
        (lambda model: change(model, calibration={**TRUST, "thresholds": ["person"]}), ModelError, "a calibration "),
        (lambda model: change(model, calibration={**TRUST, "thresholds": {"person": []}}), ModelError, "a calibration"),
        (drop("adapter_model.safetensors"), ModelError, r"adapter_model\.safetensors is missing"),
        (drop("cllmfs.json"), ModelError, "is no whole cllmfs model"),
        (cut_adapter, ModelError, "does not fit its base"),
        (rename_weight, ModelError, "does not fit its base"),
        (leave_out_weight, ModelError, r"does not fit its base: the weight .*lora_\S+ is unknown or missing"),
        (other_rank, ModelError, "does not fit its base"),
    ],
)
def test_damaged_folders_are_named(
    model: Path, damage: Callable[[Path], object], kind: type[CllmfsError], message: str
) -> None:
    damage(model)
    with pytest.raises(kind, match=message):
        EntityRecognizer.load(model)


def test_a_calibration_is_read_from_the_manifest(model: Path) -> None:
    change(model, calibration=TRUST)
    loaded = EntityRecognizer.load(model)
    assert loaded.calibration == Calibration(0.5, 0.25, 0.125, {"person": 0.75}, vote=0.25)
    assert loaded.info()["calibration"] == TRUST


def test_a_model_saved_before_there_was_calibration_has_the_expected_one(model: Path) -> None:
    record = json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    del record["config"]["calibrate"]
    change(model, calibration=None, config=record["config"])
    expected = Config().calibrate
    prior = Calibration(expected.slope, expected.shift, expected.threshold, vote=expected.vote)
    assert prior.shift != 0.75 and EntityRecognizer.load(model).calibration == prior
    record["config"]["calibrate"] = {"slope": 2.0, "vote": 0.125, "shift": 0.5, "threshold": 0.25}
    change(model, config=record["config"])
    assert EntityRecognizer.load(model).calibration == Calibration(2.0, 0.5, 0.25, vote=0.125)


def test_a_model_needs_no_files_but_manifest_and_adapter(model: Path, trained: EntityRecognizer) -> None:
    (model / "README.md").unlink()
    (model / "adapter_config.json").unlink()
    assert EntityRecognizer.load(model).predict(SHOT.text) == trained.predict(SHOT.text)


def test_a_changed_base_is_noticed(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    saved = fitted(base).save(tmp_path / "model")
    EntityRecognizer.load(saved)
    weights = load_file(base / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"trained on another version of .*train it again"):
        EntityRecognizer.load(saved)
    shutil.rmtree(base)
    shutil.copytree(tiny_base, base)
    EntityRecognizer.load(saved)
    prompt = json.loads((base / "cllmfs_prompt.json").read_text())
    (base / "cllmfs_prompt.json").write_text(json.dumps({**prompt, "before": "Text:"}))
    with pytest.raises(ModelError, match="was trained with another prompt"):
        EntityRecognizer.load(saved)


# code and pickles are never run


SPY = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_base_is_not_run(tiny_base: Path, tmp_path: Path, known: bool) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "spy.SpyConfig", "AutoModelForCausalLM": "spy.SpyModel", "AutoTokenizer": ["spy.SpyTok", None],
    }  # fmt: skip
    if not known:
        config["model_type"] = "spy"
    (base / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((base / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": [None, "spy.SpyTok"]}
    (base / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (base / "spy.py").write_text(SPY)
    if known:
        EntityRecognizer(str(base), labels=["person"]).predict("Ada")
    else:
        with pytest.raises(ModelError, match="cannot be loaded as a base"):
            EntityRecognizer(str(base))
    assert not list(tmp_path.rglob("ran"))


def test_pickled_weights_are_not_read(tiny_base: Path, tmp_path: Path) -> None:
    import torch

    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        EntityRecognizer(str(base))


def test_a_pickled_adapter_is_not_read(model: Path) -> None:
    import torch

    torch.save(load_file(model / "adapter_model.safetensors"), model / "adapter_model.bin")
    (model / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="loaded from safetensors alone"):
        EntityRecognizer.load(model)
