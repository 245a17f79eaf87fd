"""The generated reference is that of the code, links lead somewhere, and the site builds and needs no network."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("name", GENERATOR.PAGES)
def test_reference_is_that_of_the_code(name: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if f"\ntyper=={importlib.metadata.version('typer')}\n" not in constraints:
        pytest.skip("another version of typer prints another help")
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == GENERATOR.PAGES[name](), "run `make docs`"


def test_docstrings_become_markdown() -> None:
    docstring = """Reads :class:`~cllmfs.schema.Span` as ``read`` does.

    ::

        call(1)

    Args:
        path: the file, which
            must exist.
        base: its name.

    Raises:
        DataError: if it is empty.
    """
    assert GENERATOR.to_markdown(docstring).splitlines() == [
        "Reads `Span` as `read` does.",
        "",
        "```text",
        "call(1)",
        "```",
        "",
        "**Args**",
        "",
        "- `path`: the file, which",
        "  must exist.",
        "- `base`: its name.",
        "",
        "**Raises**",
        "",
        "- `DataError`: if it is empty.",
    ]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_between_files_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_the_site_builds_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = re.compile(r"<(?:script|img)[^>]* src=\"?([^\s\">]+)|<link [^>]*href=\"?([^\s\">]+)")
    for page in tmp_path.rglob("*.html"):
        links = ["".join(match) for match in loaded.findall(page.read_text(encoding="utf-8"))]
        assert [link for link in links if "://" in link or link.startswith("//")] == [], page.name


def read_table(path: str, first: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of a page whose head begins so."""
    text = (ROOT / path).read_text(encoding="utf-8")
    begin = text.index(f"| {first} |")
    lines = [line.strip("|").split("|") for line in text[begin : text.index("\n\n", begin)].splitlines()]
    head, _, *rows = [[cell.strip(" *") for cell in line] for line in lines]
    return head, rows


def test_layers_in_contributing_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "layers")
    _, rows = read_table("CONTRIBUTING.md", "layer")
    assert [re.findall(r"`(\w+)`", row[0]) for row in rows] == [layer.split(" | ") for layer in layers]
