"""Files and folders that appear whole or not at all, and what becomes of the old ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cllmfs.errors import DataError
from cllmfs.files import whole_file, whole_folder


def fill(path: Path, *, stop: bool = False) -> None:
    with whole_file(path) as handle:
        handle.write(b"new")
        if stop:
            raise ValueError("stop")


def fill_folder(path: Path, name: str, *, stop: bool = False) -> None:
    with whole_folder(path) as folder:
        (folder / name).touch()
        if stop:
            raise ValueError("stop")


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "out") as handle:
        handle.write(b"new")
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"new"


def test_a_file_stays_as_it_was_if_the_block_raises(tmp_path: Path) -> None:
    for name in ("there", "absent"):
        (tmp_path / "there").write_bytes(b"old")
        with pytest.raises(ValueError, match="stop"):
            fill(tmp_path / name, stop=True)
        assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_bytes() == b"old"


def test_a_link_and_the_permissions_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_to_and_not_replaced() -> None:
    fill(Path(os.devnull))
    assert not Path(os.devnull).is_file()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent/out: the file cannot be written: No such file"):
        fill(tmp_path / "absent" / "out")
    with pytest.raises(DataError, match="the file cannot be written: Is a directory"):
        fill(tmp_path)


def test_a_dash_is_standard_output_only_if_the_caller_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    with whole_file("-", stdout=True) as handle:
        handle.write(b"shown")
    assert capfdbinary.readouterr().out == b"shown" and os.listdir(tmp_path) == []
    fill(Path("-"))
    assert os.listdir(tmp_path) == ["-"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill_folder(tmp_path / "out", name)
        assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [name]
    with pytest.raises(ValueError, match="stop"):
        fill_folder(tmp_path / "out", "half", stop=True)
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["two"]
