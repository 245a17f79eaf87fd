"""What loading a part of the package brings with it: no machine learning library before a model is asked for.

Each check runs in a fresh interpreter, since this one may have loaded anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.conftest import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "accelerate", "datasets", "huggingface_hub", "numpy", "pandas", "peft", "pyarrow", "safetensors", "tokenizers",
    "torch", "transformers",
)  # fmt: skip
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
LIGHT = next(contract["source_modules"] for contract in CONTRACTS if contract["id"] == "light")

# Runs a statement, then prints the modules that it loaded; --help leaves by SystemExit.
PROBE = """
import sys
try:
    exec(sys.argv.pop(1))
except SystemExit as leaving:
    assert not leaving.code, f"left with {leaving.code!r}"
print()
print("loaded:", *sorted(sys.modules))
"""


def source_file(module: str) -> Path:
    return ROOT / "src" / (module.replace(".", "/") + ".py")


def modules_after(statement: str, *arguments: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after the statement."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, statement, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    label, *names = done.stdout.splitlines()[-1].split()
    assert label == "loaded:"
    return set(names)


def heavy_modules_after(statement: str, *arguments: str) -> list[str]:
    """The heavy ones among them."""
    return sorted(set(HEAVY) & modules_after(statement, *arguments))


def test_probe_sees_a_heavy_module() -> None:
    assert heavy_modules_after("import safetensors") == ["safetensors"]


def test_package_is_light() -> None:
    assert heavy_modules_after("import cllmfs") == []


def test_every_module_of_the_light_packages_is_light() -> None:
    packages = {name: source_file(name).with_suffix("") for name in LIGHT}
    files = {name: sorted(folder.glob("*.py")) for name, folder in packages.items()}
    modules = [f"{name}.{path.stem}" for name, inside in files.items() for path in inside if path.stem != "__init__"]
    modules += [name for name in LIGHT if source_file(name).exists()]
    assert {name.split(".")[1] for name in modules} == {name.split(".")[1] for name in LIGHT}
    assert heavy_modules_after(f"import {', '.join(modules)}") == []


LIGHT_COMMANDS = [("--help",), ("--version",), ("data", "list", "--catalog"), ("info", "--config")]
LIGHT_COMMANDS += [(name, "--help") for name in COMMANDS]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_command_line_is_light(arguments: tuple[str, ...]) -> None:
    run = "import runpy; runpy.run_module('cllmfs', run_name='__main__')"
    assert heavy_modules_after(run, *arguments) == []


@pytest.mark.parametrize("module", ["decoding.extraction", "decoding.calibration", "encoding.encoder", "model.loading"])
def test_reading_needs_no_training(module: str) -> None:
    loaded = modules_after(f"import cllmfs.{module}")
    assert f"cllmfs.{module}" in loaded
    assert [name for name in loaded if name.startswith("cllmfs.training")] == []


def test_encoding_needs_no_model_and_the_model_no_decoding() -> None:
    packages = {"encoding": "encoder", "model": "loading"}
    above = {"encoding": ("cllmfs.model", "cllmfs.decoding"), "model": ("cllmfs.decoding",)}
    for package, module in packages.items():
        loaded = modules_after(f"import cllmfs.{package}.{module}")
        assert [name for name in loaded if name.startswith(above[package])] == []
