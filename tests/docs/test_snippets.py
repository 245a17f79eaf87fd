"""Every code block of the README and of the documentation runs.

Training takes two steps here, which shows that a command or a call works; ``pytest -m slow tests/docs`` trains in full.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.snippets import Runner, continued_page, read_blocks, read_commands

ROOT = Path(__file__).resolve().parents[2]
# Written by programs, or a diary of past commands.
LEFT_OUT = {"docs/log.md", *(f"docs/reference/{name}.md" for name in ("command-line", "settings", "python"))}
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.relative_to(ROOT).as_posix() not in LEFT_OUT and "```" in page.read_text(encoding="utf-8")
]


def identify(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="session")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, bool], Path]:
    """Runs a page once, after the page that it continues, and gives the folder with its files.

    What is trained in a few steps (``quick``) and what is trained in full is kept apart.
    """
    folders: dict[tuple[Path, bool], Path] = {}

    def run(page: Path, quick: bool) -> Path:
        page = page.resolve()
        if (page, quick) in folders:
            return folders[page, quick]
        folder = tmp_path_factory.mktemp(page.stem)
        before = continued_page(page)
        if before is not None:
            shutil.copytree(run(before, quick), folder, dirs_exist_ok=True)
        runner, start = Runner(folder, quick), Path.cwd()
        os.chdir(folder)
        try:
            for block in read_blocks(page):
                try:
                    runner.run(block)
                except BaseException as error:
                    error.add_note(f"in the block at {identify(page)}:{block.line}")
                    raise
        finally:
            os.chdir(start)
        folders[page, quick] = folder
        return folder

    return run


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_blocks_run(page: Path, run_page: Callable[[Path, bool], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cllmfs.training.recipe.choose_steps", lambda *_: 2)
    run_page(page, True)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_blocks_run_with_full_training(page: Path, run_page: Callable[[Path, bool], Path]) -> None:
    run_page(page, False)


def test_what_is_not_run_has_a_reason() -> None:
    left_out = {
        f"{identify(page)}:{block.line}": block.reason_not_to_run
        for page in PAGES
        for block in read_blocks(page)
        if block.reason_not_to_run is not None
    }
    print(*(f"not run: {place}: {reason}" for place, reason in left_out.items()), sep="\n")
    assert all(left_out.values())


@pytest.mark.parametrize("page", PAGES, ids=identify)
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"`make ([a-z-]+)", page.read_text(encoding="utf-8"))
    for block in read_blocks(page):
        named += [command.split()[1] for command in read_commands(block.body) if re.match(r"make [a-z-]+", command)]
    assert set(named) <= targets


# The runner itself, on pages made up for it.


def write_page(folder: Path, *lines: str) -> Path:
    page = folder / "page.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page


def run_blocks(folder: Path, *lines: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.chdir(folder)
    runner = Runner(folder)
    for block in read_blocks(write_page(folder, *lines)):
        runner.run(block)
    return runner


def test_a_titled_block_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_blocks(tmp_path, '```json title="a.json"', "{}", "```", monkeypatch=monkeypatch)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "{}\n"


def test_python_blocks_share_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("```python", "one = 1", "```", "", "```python", "two = one + 1", "```")
    assert run_blocks(tmp_path, *lines, monkeypatch=monkeypatch).names["two"] == 2


def test_a_failing_command_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("```sh", "cllmfs validate absent.jsonl", "```")
    with pytest.raises(AssertionError, match="left with 2"):
        run_blocks(tmp_path, *lines, monkeypatch=monkeypatch)
    run_blocks(tmp_path, "<!-- fails -->", *lines, monkeypatch=monkeypatch)


def test_output_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("```sh", "echo one two", "```", "", "<!-- output -->", "```text")
    run_blocks(tmp_path, *lines, "one   two", "```", monkeypatch=monkeypatch)
    with pytest.raises(AssertionError):
        run_blocks(tmp_path, *lines, "three", "```", monkeypatch=monkeypatch)


def test_scores_are_compared_with_a_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("```sh", "echo ' micro 0.90 0.50 0.64 34'", "```", "", "<!-- scores -->", "```text", " strict")
    run_blocks(tmp_path, *lines, " micro   0.875   0.500   0.640   34", "```", monkeypatch=monkeypatch)
    with pytest.raises(AssertionError, match=r"0\.8, 0\.5, 0\.64"):
        run_blocks(tmp_path, *lines, " micro   0.800   0.500   0.640   34", "```", monkeypatch=monkeypatch)


def test_an_unknown_language_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="needs a title or a reason"):
        run_blocks(tmp_path, "```json", "{}", "```", monkeypatch=monkeypatch)


def test_an_indented_block_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="first column"):
        read_blocks(write_page(tmp_path, "- a list", "  ```text", "  ```"))


def test_continued_lines_and_comments() -> None:
    assert list(read_commands("# why\none \\\n  two  # because\n\nthree#3\n")) == ["one    two", "three#3"]
