"""Splits: folders with a file for each, and paths inside a data folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cllmfs.datasets.splits import load_splits, resolve
from cllmfs.errors import ConfigError, DataError
from tests.datasets.conftest import ADA, RAIN, ROME


def test_a_path_is_below_the_data_folder_and_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    assert resolve(tmp_path, "wnut17") == str(tmp_path / "wnut17")
    assert resolve(tmp_path, "hf:saved?tags=x") == f"hf:{tmp_path / 'saved'}?tags=x"
    assert resolve(tmp_path, "hf:a/b#c") == "hf:a/b#c"
    assert resolve(tmp_path, "catalog:wnut17") == "catalog:wnut17"
    with pytest.raises(ConfigError, match=r"a folder has no revisions, got .*; leave out @main"):
        resolve(tmp_path, "hf:saved@main")


def test_a_folder_of_conll_files_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ada\tB-per\nKing\tI-per\nsings\tO\n\nIt\tO\nrains\tO\n", encoding="utf-8")
    (tmp_path / "valid.bio").write_text("It O\nrains O\n", encoding="utf-8")
    (tmp_path / "test.bioes").write_text("Rome S-loc\nsings O\n", encoding="utf-8")
    assert load_splits(tmp_path) == {"train": [ADA, RAIN], "dev": [RAIN], "test": [ROME]}
    (tmp_path / "test.bioes").write_text("Rome Q-loc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.bioes:1, field 'tag': a tag is O or one of"):
        load_splits(tmp_path)
    with pytest.raises(DataError, match="has none of the splits train, dev, test"):
        load_splits(tmp_path / "none")
