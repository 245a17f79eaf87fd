"""The package root: its public names, which are imported when they are needed, and the version."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cllmfs

ROOT = Path(__file__).resolve().parents[2]
MAX_NAMES = 10
LAZY = {"EntityRecognizer": "cllmfs.recognizer", "Risk": "cllmfs.assurance.guarantee"}


def test_names_are_few_and_sorted() -> None:
    assert cllmfs.__all__ == sorted(set(cllmfs.__all__))
    assert len(cllmfs.__all__) <= MAX_NAMES


def test_all_names_everything_the_root_defines() -> None:
    """Whatever the root binds that comes from the package and is no submodule is public."""
    bound = {
        name
        for name, value in vars(cllmfs).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").partition(".")[0] == "cllmfs"
    }
    assert bound | set(LAZY) == set(cllmfs.__all__)


@pytest.mark.parametrize("name", cllmfs.__all__)
def test_name_can_be_imported(name: str) -> None:
    assert getattr(cllmfs, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'cllmfs' has no attribute 'Recognizer'"):
        _ = cllmfs.Recognizer


def test_lazy_names_load_nothing_before_use() -> None:
    code = f"import sys, cllmfs; print(sorted(set(sys.modules) & set({sorted(LAZY.values())!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT / "src", timeout=300
    )
    assert done.stdout.strip() == "[]"


def test_package_is_marked_as_typed() -> None:
    assert Path(cllmfs.__file__).with_name("py.typed").exists()


def test_version_is_the_changelogs_top_entry() -> None:
    entries = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert entries, "CHANGELOG.md has no entry of the form: ## [1.2.3] - date"
    assert entries[0] == cllmfs.__version__
