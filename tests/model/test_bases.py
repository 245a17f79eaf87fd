"""Names of bases: which folder is meant, what tells two versions apart, and that the bundled weights are whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import cllmfs.model.bases
from cllmfs.errors import ModelError
from cllmfs.model.bases import MINI, MINI_HASH, base_folder, base_places, check_mini, fingerprint
from cllmfs.model.loading import load_backbone
from tests.conftest import tiny_model


@pytest.fixture(autouse=True)
def _unchecked() -> Iterator[None]:
    """Each test checks the weights anew, and none of its results is left to others."""
    check_mini.cache_clear()
    yield
    check_mini.cache_clear()


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder that passes for the bundled weights."""
    folder = tmp_path / "mini"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(f"the whole of {name}", encoding="utf-8")
    monkeypatch.setattr(cllmfs.model.bases, "base_folder", lambda base: folder if base == MINI else Path(base))
    monkeypatch.setattr(cllmfs.model.bases, "MINI_HASH", fingerprint(str(folder)))
    return folder


# names


def test_a_name_is_the_bundled_base_a_folder_or_a_hub_id(tmp_path: Path) -> None:
    bundled = base_folder(MINI)
    assert bundled is not None and (bundled / "model.safetensors").is_file()
    assert base_folder(str(tmp_path)) == tmp_path
    assert base_folder("some/hub-id") is None
    (tmp_path / "file").write_text("")
    assert base_folder(str(tmp_path / "file")) is None


@pytest.mark.parametrize("name", ["x" * 5000, "a\x00b", "", "\udcff"])
def test_any_text_may_be_asked_for_a_folder(name: str) -> None:
    assert base_folder(name) is None


def test_the_places_of_a_base_are_seen_from_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "bases" / "b"
    assert base_places(Path("bases/b"), Path("models/m")) == {"relative": "../../bases/b", "absolute": str(base)}
    assert base_places(base, Path("link/m"))["relative"] == "../../bases/b", "from where the model really lies"
    assert base_places(base, base / "m")["relative"] == ".."


# versions


def test_fingerprint_tells_config_weights_and_tokenizer_apart(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    seen = [fingerprint(str(copy))]
    assert seen[0] == fingerprint(str(tiny_base)), "the place does not count"
    for name in ("tokenizer.json", "config.json"):
        file = copy / name
        file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        seen.append(fingerprint(str(copy)))
    tiny_model("llama", 258, seed=1).save_pretrained(copy)
    seen.append(fingerprint(str(copy)))
    assert len(set(seen)) == 4
    assert all(len(value) == 7 + 64 and value.startswith("sha256:") for value in seen)


def test_a_second_weights_file_counts(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    before = fingerprint(str(copy))
    (copy / "model-2.safetensors").write_bytes(b"more")
    assert fingerprint(str(copy)) != before


def test_fingerprint_of_a_hub_id_is_its_commit() -> None:
    assert fingerprint("some/hub-id", "abc123") == "commit:abc123"


# the bundled weights


def test_the_bundled_weights_are_those_of_this_version() -> None:
    check_mini()
    assert fingerprint(MINI) == MINI_HASH


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_damaged_bundled_files_are_refused(bundled: Path, name: str) -> None:
    check_mini()
    check_mini.cache_clear()
    with (bundled / name).open("ab") as stream:
        stream.write(b"\n")
    message = r"the weights of cllmfs-mini in .*mini are not those of this version .*install cllmfs again"
    with pytest.raises(ModelError, match=message):
        check_mini()


def test_missing_bundled_weights_are_refused(bundled: Path) -> None:
    shutil.rmtree(bundled)
    with pytest.raises(ModelError, match=r"not those of this version .*found no such folder.*install cllmfs again"):
        check_mini()


def test_a_refusal_is_not_remembered_and_a_pass_is(bundled: Path) -> None:
    weights = bundled / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    for _ in range(2):
        with pytest.raises(ModelError, match="not those of this version"):
            check_mini()
    weights.write_bytes(whole)
    check_mini()
    weights.unlink()
    check_mini()  # hashing them for every recognizer would cost more than loading


@pytest.mark.usefixtures("bundled")
def test_the_bundled_base_is_checked_before_it_is_loaded(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cllmfs.model.bases, "MINI_HASH", "sha256:of other weights")
    with pytest.raises(ModelError, match="not those of this version"):
        load_backbone(MINI, device="cpu")
    assert load_backbone(str(tiny_base), device="cpu").name == str(tiny_base), "other bases are not"
