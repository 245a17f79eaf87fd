"""What loading the package costs: no machine learning library before a model is asked for.

Each check runs in a fresh interpreter, since this one may have loaded anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "accelerate", "datasets", "huggingface_hub", "numpy", "pandas", "peft", "pyarrow", "safetensors", "tokenizers",
    "torch", "transformers",
)  # fmt: skip
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LIGHT = next(contract["source_modules"] for contract in CONTRACTS if contract["id"] == "light")

# Runs a statement, then prints the heavy modules that it loaded; --help leaves by SystemExit.
PROBE = """
import sys
try:
    exec(sys.argv.pop(1))
except SystemExit as leaving:
    assert not leaving.code, f"left with {{leaving.code!r}}"
print()
print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)))
"""


def source_file(module: str) -> Path:
    return ROOT / "src" / (module.replace(".", "/") + ".py")


def heavy_modules_after(statement: str, *arguments: str) -> list[str]:
    """The heavy modules that a fresh interpreter has loaded after the statement."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), statement, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    label, *names = done.stdout.splitlines()[-1].split()
    assert label == "loaded:"
    return names


def test_probe_sees_a_heavy_module() -> None:
    assert heavy_modules_after("import safetensors") == ["safetensors"]


def test_package_is_light() -> None:
    assert heavy_modules_after("import cllmfs") == []


def test_light_floors_are_light() -> None:
    modules = [name for name in LIGHT if source_file(name).exists()]
    assert len(modules) > 3
    assert heavy_modules_after(f"import {', '.join(modules)}") == []


LIGHT_COMMANDS = [("--help",), ("--version",), ("data", "--help"), ("data", "list", "--catalogue")]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_command_line_is_light(arguments: tuple[str, ...]) -> None:
    if not source_file("cllmfs.cli.app").exists():
        pytest.skip("cllmfs.cli.app is not there yet")
    run = "import runpy; runpy.run_module('cllmfs', run_name='__main__')"
    assert heavy_modules_after(run, *arguments) == []
