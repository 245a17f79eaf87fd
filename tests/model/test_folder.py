"""Model folders: whole or not at all, self-describing, never code; a damaged or foreign one is named as such."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import cllmfs.files
import cllmfs.model.folder
from cllmfs.config import SECTIONS, Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.errors import CllmfsError, ConfigError, DataError, ModelError
from cllmfs.model.bases import MINI, base_folder
from cllmfs.model.folder import check_writable, is_model_folder, model_card, read_manifest, write_model
from cllmfs.model.loading import FIGURES_FILE
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, Span

SHOT = Example("Ada met Bo.", (Span(0, 3, "person"), Span(8, 10, "a|b")))
SETTINGS = ("train.steps=20", "train.learning_rate=1e-2", "train.precision=fp32", "lora.rank=2", "lora.keep=0.6")
FITTED = {"slope": 0.5, "shift": 0.25, "threshold": 0.125, "thresholds": {"person": 0.75}, "vote": 0.25}
FIGURES = {
    "trained": {"slope": 0.5, "shift": -0.25, "threshold": 0.125, "vote": 0.5},
    "few_mentions": {"slope": 0.5, "shift": 0.75, "threshold": 0.25, "vote": 0.5},
    "zero_shot": {"slope": 1.0, "shift": 0.0, "threshold": 0.0, "vote": 0.0},
}
FILES = {"cllmfs.json", "adapter_config.json", "adapter_model.safetensors", "README.md"}


def fitted(base: Path, seed: int = 0) -> EntityRecognizer:
    settings = Config().with_settings([*SETTINGS, f"train.seed={seed}"])
    return EntityRecognizer(str(base), config=settings).fit([SHOT], labels={"person": "a human", "a|b": "x | y"})


@pytest.fixture(scope="module")
def own_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the base, for tests to change, with figures of its own."""
    folder = Path(shutil.copytree(tiny_base, tmp_path_factory.mktemp("own") / "base"))
    (folder / FIGURES_FILE).write_text(json.dumps(FIGURES), encoding="utf-8")
    return folder


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
    record = read_manifest(kept)
    known = {"adapter_hash": record["adapter_hash"], "base_folder": record["base_folder"]}
    assert record == {"format": 2, **json.loads(json.dumps(trained.info())), **known}
    assert record["base"] == str(own_base)
    assert (kept / record["base_folder"]["relative"]).resolve() == own_base.resolve()
    assert record["base_folder"]["absolute"] == str(own_base)
    digest = hashlib.sha256((kept / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert record["adapter_hash"] == f"sha256:{digest}"
    assert record["labels"] == {"person": "a human", "a|b": "x | y"} and list(record["labels"]) == ["person", "a|b"]
    shots = {"sentences": 1, "mentions": {"a|b": 1, "person": 1}, "steps": 20, "keep": 0.6}
    assert {name: record["shots"][name] for name in shots} == shots
    assert set(record["config"]) == set(SECTIONS)
    assert record["config"]["lora"]["rank"] == 2
    assert {"cllmfs", "torch", "transformers", "peft", "tokenizers", "safetensors", "python"} == set(record["versions"])
    assert record["prompt"]["before"] == "S:"
    assert record["scores"] == {} and record["trained"] is True
    few = {**FIGURES["few_mentions"], "thresholds": {}}
    assert record["calibration"] == few, "there are too few shots to fit another"


def test_the_card_is_markdown_with_escaped_labels(kept: Path, own_base: Path) -> None:
    lines = (kept / "README.md").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "---" and "---" in lines[1:]
    assert f"base_model: {own_base}" in lines and "library_name: peft" in lines
    assert "| person | 1 | a human |" in lines
    assert r"| a\|b | 1 | x \| y |" in lines


def test_the_card_names_scores(trained: EntityRecognizer) -> None:
    bare = {name: part for name, part in trained.info().items() if name not in ("scores", "retention")}
    assert "No scores were measured: there was no dev set, and there were too few shots" in model_card(bare)
    card = model_card({**trained.info(), "scores": {"dev strict micro F1": 0.75}})
    assert "- dev strict micro F1: 0.75" in card and "No scores were measured" not in card
    retention = {"before": {"f1": 0.6}, "after": {"f1": 0.55}, "types": 40, "sentences": 150}
    card = model_card({**trained.info(), "retention": retention})
    assert "on 40 other types, in 150 sentences: 0.6000 before training, 0.5500 after" in card


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


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    trained: EntityRecognizer, model: Path, error: BaseException, exists: bool
) -> None:
    folder = model if exists else model.with_name("new")
    before = content(model)

    def save_half(aside: Path) -> None:
        (aside / "adapter_model.safetensors").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        write_model(folder, trained.info(), save_half)
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
    with pytest.raises(ModelError, match=r"is no whole cllmfs model: .*cllmfs\.json cannot be read: No such file"):
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
    change(model, adapter_hash=None)


def leave_out_weight(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path)
    change(model, adapter_hash=None)


def other_alpha(model: Path) -> None:
    record = json.loads((model / "adapter_config.json").read_text())
    (model / "adapter_config.json").write_text(json.dumps({**record, "lora_alpha": 64}))


def flip(at: int) -> Callable[[Path], object]:
    """One bit of the adapter's file changes."""

    def damage(model: Path) -> None:
        path = model / "adapter_model.safetensors"
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 2
        path.write_bytes(content)

    return damage


def value_in_adapter(value: float) -> Callable[[Path], object]:
    def damage(model: Path) -> None:
        path = model / "adapter_model.safetensors"
        tensors = load_file(path)
        for tensor in tensors.values():
            tensor[0] = value
        save_file(tensors, path)

    return damage


def manifest_of_another(model: Path) -> None:
    """The adapter of another model of the same base and shape is copied into the folder."""
    path = model / "adapter_model.safetensors"
    save_file({name: tensor.flip(0) for name, tensor in load_file(path).items()}, path)


def other_rank(model: Path) -> None:
    record = json.loads((model / "adapter_config.json").read_text())
    (model / "adapter_config.json").write_text(json.dumps({**record, "r": 3}))


@pytest.mark.parametrize(
    "damage, kind, message",
    [
        (manifest(b""), ModelError, r"is no whole cllmfs model: .*cllmfs\.json: the file must be a JSON object"),
        (manifest(b'{"format": 1, "base'), ModelError, "is no whole cllmfs model"),
        (manifest(b"\xff\xfe\x00"), ModelError, "is no whole cllmfs model"),
        (manifest(b"[1]"), ModelError, r"must be a JSON object, got \[1\]"),
        (manifest(b"[" * 100_000), ModelError, "must be a JSON object"),
        (manifest(b"9" * 10_000), ModelError, "must be a JSON object"),
        (lambda model: change(model, scores={"f1": float("nan")}), ModelError, "NaN is no number of JSON"),
        (manifest(b"{}"), ModelError, "must name 'format'"),
        (lambda model: change(model, base_hash=None), ModelError, "must name 'base_hash'"),
        (lambda model: change(model, format=3), ModelError, "format 3 is not known to this version; upgrade"),
        (lambda model: change(model, labels=["person"]), ModelError, r"'labels' cannot be \['person'\]"),
        (lambda model: change(model, labels={}), DataError, "at least one label"),
        (lambda model: change(model, config="none"), ModelError, "'config' cannot be 'none'"),
        (lambda model: change(model, shots=[1]), ModelError, r"'shots' cannot be \[1\]"),
        (lambda model: change(model, shots={"mentions": 3}), ModelError, "'shots' must hold counts"),
        (lambda model: change(model, shots={"hashes": {"a": 1}}), ModelError, "'shots' must hold .* and hashes"),
        (lambda model: change(model, shots={"hashes": ["a", {}]}), ModelError, "hashes of shots must be texts"),
        (lambda model: change(model, labels={"person": 5}), ModelError, "descriptions of labels .* must be texts"),
        (lambda model: change(model, versions=[]), ModelError, r"'versions' cannot be \[\]"),
        (
            lambda model: change(model, format=1, config={"decode": 5}),
            ModelError,
            "such as 'train', got 'decode'",
        ),
        (
            lambda model: change(model, format=1, config={"deocde": {}}),
            ModelError,
            "such as 'train', got 'deocde'",
        ),
        (lambda model: change(model, config={"train": {"magic": 1}}), ConfigError, r"cllmfs\.json.*train\.magic"),
        (lambda model: change(model, prompt={"before": "?"}), ModelError, "was trained with another prompt"),
        (lambda model: change(model, base_hash="sha256:00"), ModelError, "trained on another version of"),
        (lambda model: change(model, base_hash="x"), ModelError, "trained on another version of"),
        (lambda model: change(model, base_folder=[1]), ModelError, r"'base_folder' cannot be \[1\]"),
        (lambda model: change(model, base_folder={"absolute": 1}), ModelError, "'base_folder' must hold paths"),
        (lambda model: change(model, adapter_hash=1), ModelError, "'adapter_hash' cannot be 1"),
        (lambda model: change(model, adapter_hash="sha256:00"), ModelError, "holds other weights than those"),
        (lambda model: change(model, calibration={}), ModelError, r"cllmfs\.json: a calibration must hold the numbers"),
        (lambda model: change(model, calibration=[1]), ModelError, r"'calibration' cannot be \[1\]"),
        (lambda model: change(model, calibration={**FITTED, "slope": "steep"}), ModelError, "a calibration .*'steep'"),
        (
            lambda model: change(model, calibration={**FITTED, "shift": None}),
            ModelError,
            "a calibration must hold the numbers slope",
        ),
        (lambda model: change(model, calibration={**FITTED, "thresholds": ["person"]}), ModelError, "a calibration "),
        (
            lambda model: change(model, calibration={**FITTED, "thresholds": {"person": []}}),
            ModelError,
            "a calibration",
        ),
        (drop("adapter_model.safetensors"), ModelError, r"adapter_model\.safetensors is missing"),
        (drop("adapter_config.json"), ModelError, "holds no whole adapter"),
        (drop("cllmfs.json"), ModelError, "is no whole cllmfs model"),
        (cut_adapter, ModelError, "holds no whole adapter"),
        (rename_weight, ModelError, "does not fit"),
        (leave_out_weight, ModelError, r"does not fit .*: the weight .*lora_\S+ is unknown or missing"),
        (other_rank, ModelError, "does not fit"),
        (other_alpha, ModelError, r"the adapter has lora\.alpha = 64, but the manifest 32"),
        (flip(-1), ModelError, r"holds other weights than those .*the file is damaged, or that of another model"),
        (flip(-40_000), ModelError, "holds other weights than those|holds no whole adapter"),
        (flip(3), ModelError, "holds no whole adapter"),
        (flip(12), ModelError, "holds no whole adapter|does not fit|holds other weights"),
        (value_in_adapter(float("nan")), ModelError, "holds other weights than those"),
        (manifest_of_another, ModelError, "holds other weights than those"),
    ],
)
def test_damaged_folders_are_named(
    model: Path, damage: Callable[[Path], object], kind: type[CllmfsError], message: str
) -> None:
    damage(model)
    with pytest.raises(kind, match=message) as caught:
        EntityRecognizer.load(model)
    assert len(str(caught.value)) < 1500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("nan", r"the weight '\S+lora_\S+' holds numbers that are not finite"),
        ("inf", r"the weight '\S+lora_\S+' holds numbers that are not finite"),
        ("1e38", "computes numbers that are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_found_without_a_hash(model: Path, damage: str, message: str) -> None:
    """Older models have no hash of their adapter."""
    value_in_adapter(float(damage))(model)
    change(model, adapter_hash=None)
    with pytest.raises(ModelError, match=message):
        EntityRecognizer.load(model)


def test_extra_weights_do_not_fit(model: Path) -> None:
    path = model / "adapter_model.safetensors"
    save_file({**load_file(path), "base_model.model.lm_head.weight": torch.zeros(258, 32)}, path)
    change(model, adapter_hash=None)
    with pytest.raises(ModelError, match=r"must hold weights of LoRA, and only those, got '\S+lm_head\.weight'"):
        EntityRecognizer.load(model)


@pytest.mark.parametrize("name", ["cllmfs.json", "adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_missing(
    model: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=rf"{re.escape(name)} cannot be read: permission denied; ask its owner"):
        EntityRecognizer.load(model)


# the base of a model


@pytest.fixture
def place(tiny_base: Path, tmp_path: Path) -> Path:
    """A folder with a base, and a model in a folder of it that was trained on that base."""
    base = shutil.copytree(tiny_base, tmp_path / "here" / "my-base")
    fitted(base).save(tmp_path / "here" / "models" / "m")
    return tmp_path / "here"


def asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the hub must not be asked"))


def test_a_base_by_relative_path_is_found_from_anywhere(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    made = fitted(Path("my-base"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # also before it is saved
    asks_nobody(monkeypatch)
    saved = made.save("../models/m")
    record = read_manifest(saved)
    assert record["base"] == "my-base"
    assert record["base_folder"] == {"relative": "../../my-base", "absolute": str(tmp_path / "my-base")}
    expected = made.predict(SHOT.text, threshold=0.0)
    for folder in (tmp_path, tmp_path / "models", tmp_path / "models" / "m", Path("/")):
        monkeypatch.chdir(folder)
        loaded = EntityRecognizer.load(tmp_path / "models" / "m")
        assert loaded.predict(SHOT.text, threshold=0.0) == expected
    monkeypatch.chdir(tmp_path / "models" / "m")
    EntityRecognizer.load(".")


def test_a_base_that_moved_together_with_its_model_is_found(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks_nobody(monkeypatch)
    moved = place.rename(place.with_name("there"))
    loaded = EntityRecognizer.load(moved / "models" / "m")
    assert Path(loaded.base).samefile(moved / "my-base")
    again = loaded.save(moved / "copy")
    assert read_manifest(again)["base_folder"] == {"relative": "../my-base", "absolute": str(moved / "my-base")}
    link = moved.with_name("link")
    link.symlink_to(moved / "models" / "m")
    EntityRecognizer.load(link)


def test_a_model_that_was_copied_alone_finds_its_base_where_it_was(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks_nobody(monkeypatch)
    copied = shutil.copytree(place / "models" / "m", place.parent / "far" / "away" / "from" / "it")
    assert Path(EntityRecognizer.load(copied).base).samefile(place / "my-base")


def test_base_says_where_the_base_is_now(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where the base has another path."""
    asks_nobody(monkeypatch)
    copied = shutil.copytree(place / "models" / "m", place.parent / "app" / "model")
    now = (place / "my-base").rename(place.parent / "weights")
    with pytest.raises(ModelError, match=r"which is no longer there: no folder .*my-base'.*--base FOLDER \(base= in"):
        EntityRecognizer.load(copied)
    assert EntityRecognizer.load(copied, base=str(now)).base == str(now)
    monkeypatch.chdir(now)
    assert EntityRecognizer.load(copied, base=".").base == "."
    with pytest.raises(ModelError, match="no folder '/nowhere'"):
        EntityRecognizer.load(copied, base="/nowhere")
    with pytest.raises(ModelError, match="no folder 'owner/some-base'"):
        EntityRecognizer.load(copied, base="owner/some-base")


def test_another_base_in_its_place_is_not_taken(place: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks_nobody(monkeypatch)
    model, base = place / "models" / "m", place / "my-base"
    config = base / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # updated in place
    with pytest.raises(
        ModelError, match=r"trained on another version of .*my-base' \(sha256:\w+…\) than that in .*my-base"
    ):
        EntityRecognizer.load(model)
    with pytest.raises(ModelError, match=r"another version of .* than that in .*my-base' \(sha256:\w+…\)"):
        EntityRecognizer.load(model, base=str(base))
    with pytest.raises(ModelError, match=r"another version of .* than that in .*mini"):
        EntityRecognizer.load(model, base="cllmfs-mini")
    assert EntityRecognizer.load(model, base=str(tiny_base)).base == str(tiny_base), "a copy of the old one is the base"


def test_a_decoy_with_the_name_of_the_base_does_not_hide_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    fitted(Path("my-base")).save("m")
    decoy = Path(shutil.copytree(tiny_base, tmp_path / "elsewhere" / "my-base"))
    (decoy / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(decoy.parent)
    assert Path(EntityRecognizer.load(tmp_path / "m").base).samefile(tmp_path / "my-base")


def test_a_manifest_from_before_there_were_places_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks_nobody(monkeypatch)
    model = place / "models" / "m"
    change(model, base_folder=None, adapter_hash=None)
    EntityRecognizer.load(model)
    change(model, base="my-base")
    with pytest.raises(ModelError, match=r"no folder 'my-base'.*--base FOLDER"):
        EntityRecognizer.load(model)
    EntityRecognizer.load(model, base=str(place / "my-base"))
    monkeypatch.chdir(place)
    EntityRecognizer.load(model)


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b", "", "/" + "x/" * 3000])
def test_any_text_may_be_asked_for_a_model(name: str) -> None:
    assert not is_model_folder(name)


def test_base_is_for_trained_models_only(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="base= is where the base of a trained model is"):
        EntityRecognizer.load(tiny_base, base=str(tiny_base))


def test_the_bundled_base_has_no_place(tmp_path: Path) -> None:
    settings = Config().with_settings(["train.steps=1", "calibrate.folds=0", "train.replay=0"])
    saved = EntityRecognizer(config=settings).fit([SHOT]).save(tmp_path / "m")
    record = read_manifest(saved)
    assert record["base"] == "cllmfs-mini" and "base_folder" not in record
    copy = shutil.copytree(str(base_folder(MINI)), tmp_path / "mini of this version")
    assert EntityRecognizer.load(saved, base=str(copy)).base == str(copy)
    change(saved, base_hash="sha256:" + "0" * 64)
    with pytest.raises(ModelError, match="install the version of cllmfs that it names"):
        EntityRecognizer.load(saved)


# trained models are no bases


def test_a_trained_model_as_base_is_told_with_the_way_out(model: Path, tmp_path: Path) -> None:
    way = rf"is a trained model, not a base: .*`cllmfs merge {re.escape(str(model))} --output .*-base`.*train … --base"
    for name in (str(model), f"{model}/"):
        with pytest.raises(ModelError, match=way.replace("model --", "model/? --")):
            EntityRecognizer(name)
    (model / "cllmfs.json").unlink()
    with pytest.raises(ModelError, match=r"is the adapter of a base \(adapter_config\.json\), not a base: merge it"):
        EntityRecognizer(str(model))


def test_a_calibration_is_read_from_the_manifest(model: Path) -> None:
    change(model, calibration=FITTED)
    loaded = EntityRecognizer.load(model)
    assert loaded.calibration == Calibration(0.5, 0.25, 0.125, {"person": 0.75}, vote=0.25)
    assert loaded.info()["calibration"] == FITTED


def test_a_model_saved_before_there_was_calibration_has_the_expected_one(model: Path) -> None:
    change(model, calibration=None)
    assert EntityRecognizer.load(model).calibration == Calibration.from_dict(FIGURES["trained"], "x.json")
    record = json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    change(model, config={**record["config"], "calibrate": {"votes": False}})
    assert EntityRecognizer.load(model).calibration == Calibration(0.5, -0.25, 0.125, vote=0.0)


def test_a_model_needs_no_files_but_manifest_and_adapter(model: Path, trained: EntityRecognizer) -> None:
    (model / "README.md").unlink()
    found = EntityRecognizer.load(model).predict(SHOT.text, threshold=0.0)
    assert found.spans and found == trained.predict(SHOT.text, threshold=0.0)


# models of format 1

# As the version before wrote them, with every setting at another value than its default.
FORMAT_1: dict[str, dict[str, Any]] = {
    "model": {"weights": "fp32"},
    "prompt": {"order": "type-first", "prefix_attention": "causal", "descriptions": True, "tree": "off"},
    "lora": {
        "rank": 2, "alpha": 3, "dropout": 0.1, "targets": "q_proj", "rslora": True, "dora": True, "keep": 0.5,
    },
    "loss": {
        "support": "sentence", "contrastive": "ancestor", "contrastive_weight": 0.2, "contrastive_layer": 0.5,
        "temperature": 0.3, "adversarial": "fgm", "noise_alpha": 4.0, "epsilon": 2.0,
    },
    "train": {
        "learning_rate": 0.01, "steps": 7, "batch_sentences": 3, "batch_tokens": 99, "negatives": 5,
        "swap_mentions": 0.1, "replay": 1, "warmup": 0.2, "schedule": "cosine", "weight_decay": 0.0,
        "max_grad_norm": 2.0, "evaluate_every": 3, "patience": 2, "checkpoint_every": 9,
        "activation_checkpointing": "on", "precision": "fp32", "seed": 11,
    },
    "decode": {
        "edges": "token", "nested": True, "opening": "first", "open_at": 0.1, "end_bias": 0.0, "threshold": 0.4,
        "batch_tokens": 500, "window_tokens": 60, "overlap_tokens": 6,
    },
    "calibrate": {
        "folds": 3, "slope": 0.3, "shift": -0.1, "vote": 0.7, "threshold": 0.3, "scarce_shift": -0.9,
        "scarce_threshold": 0.2, "zero_shot_slope": 0.2, "zero_shot_shift": -0.8, "zero_shot_threshold": 0.1,
    },
}  # fmt: skip
IN_FORMAT_2: dict[str, dict[str, Any]] = {
    "prompt": {"order": "type-first", "prefix_attention": "causal"},
    "spans": {"edges": "token", "nested": True},
    "lora": {"rank": 2, "alpha": 3, "targets": "q_proj", "keep": 0.5},
    "loss": {
        "contrastive": "ancestor", "contrastive_weight": 0.2, "contrastive_layer": 0.5, "temperature": 0.3,
        "adversarial": "fgm",
    },
    "train": {
        "learning_rate": 0.01, "steps": 7, "batch_sentences": 3, "batch_tokens": 99, "swap_mentions": 0.1, "replay": 1,
        "activation_checkpointing": "on", "precision": "fp32", "seed": 11,
    },
    "calibrate": {"folds": 3, "votes": True},
    "runtime": {
        "weights": "fp32", "threshold": 0.4, "batch_tokens": 500, "window_tokens": 60,
        "overlap_tokens": 6,
    },
}  # fmt: skip


def old_model(folder: Path, changes: dict[str, dict[str, Any]] | None = None, **record: Any) -> Path:
    """A model folder of format 1 with these settings instead of those of FORMAT_1; its adapter is empty."""
    config = {name: {**section, **(changes or {}).get(name, {})} for name, section in FORMAT_1.items()}
    labels = {"person": "a human", "place": ""}
    whole = {"format": 1, "base": "b", "base_hash": "sha256:0", "labels": labels, "prompt": {}, "config": config}
    (folder / "cllmfs.json").write_text(json.dumps({**whole, **record}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


def test_every_setting_of_format_1_has_its_place(tmp_path: Path) -> None:
    record = read_manifest(old_model(tmp_path, scores={"f1": 0.5}))
    assert record["format"] == 2 and record["scores"] == {"f1": 0.5}
    assert record["labels"] == {"person": "a human", "place": ""}
    assert record["config"] == IN_FORMAT_2
    config = Config.from_dict(record["config"])
    new = {"retention": True}  # settings that format 1 did not have
    assert config.to_dict() == {**IN_FORMAT_2, "train": {**IN_FORMAT_2["train"], **new}}, "no other is left out"
    defaults = Config().to_dict()
    same = {f"{part}.{name}" for part, values in IN_FORMAT_2.items() for name in values
            if values[name] == defaults[part][name]}  # fmt: skip
    assert same == {"calibrate.votes"}, "the others would show if they were forgotten"


@pytest.mark.parametrize("form", ["span", "supcon", "symmetric"])
def test_contrastive_forms_that_are_gone_only_mattered_in_training(tmp_path: Path, form: str) -> None:
    record = read_manifest(old_model(tmp_path, {"loss": {"contrastive": form}}))
    assert "contrastive" not in record["config"]["loss"]
    assert Config.from_dict(record["config"]).loss.temperature == 0.3


def test_votes_of_weight_0_are_no_votes(tmp_path: Path) -> None:
    record = read_manifest(old_model(tmp_path, {"calibrate": {"vote": 0.0}}))
    assert record["config"]["calibrate"] == {"folds": 3, "votes": False}


def test_labels_that_were_asked_without_descriptions_still_are(tmp_path: Path) -> None:
    record = read_manifest(old_model(tmp_path, {"prompt": {"descriptions": False}}))
    assert record["labels"] == {"person": "", "place": ""}


@pytest.mark.parametrize(("name", "value"), [("opening", "best"), ("open_at", 0.2), ("end_bias", -1.0)])
def test_models_that_were_read_by_other_rules_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    old_model(tmp_path, {"decode": {name: value}})
    message = rf"cllmfs\.json: the model was trained with decode\.{name} = {value!r}, .*cannot read; train it again"
    with pytest.raises(ModelError, match=message):
        read_manifest(tmp_path)


def test_a_model_older_than_some_sections_has_their_defaults(tmp_path: Path) -> None:
    old_model(tmp_path, config={"train": {"steps": 7}, "lora": {"rank": 2}})
    config = Config.from_dict(read_manifest(tmp_path)["config"])
    assert config == Config().with_settings(["train.steps=7", "lora.rank=2"])


def test_a_model_of_format_1_answers_as_it_did(model: Path, trained: EntityRecognizer) -> None:
    record = json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    new = record["config"]
    old = {
        "model": {"weights": new["runtime"]["weights"]},
        "prompt": {**new["prompt"], "descriptions": True, "tree": "auto"},
        "lora": {**new["lora"], "dropout": 0.0, "rslora": False, "dora": False},
        "loss": {**new["loss"], "support": "automaton"},
        "train": {**new["train"], "negatives": -1},
        "decode": {**new["spans"], "opening": "first", "open_at": 0.1, "end_bias": 0.0, "threshold": 0.0},
        "calibrate": {"folds": 2, "slope": 0.42, "vote": 0.5},
    }
    change(model, format=1, config=old)
    loaded = EntityRecognizer.load(model)
    found = loaded.predict(SHOT.text, threshold=0.0)
    assert found.spans and found == trained.predict(SHOT.text, threshold=0.0)
    assert loaded.config == trained.config and loaded.calibration == trained.calibration


# a base that changes


def test_a_changed_base_is_noticed(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    saved = fitted(base).save(tmp_path / "model")
    EntityRecognizer.load(saved)
    weights = load_file(base / "model.safetensors")
    name = sorted(weights)[0]
    weights[name] = weights[name] + 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"trained on another version of .*or train it again"):
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
def test_a_base_with_code_is_refused(tiny_base: Path, tmp_path: Path, known: bool) -> None:
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
    with pytest.raises(ModelError, match=r"'auto_map' .* names code, which is never run"):
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
