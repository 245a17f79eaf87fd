"""Finds the code blocks of a Markdown page and runs them in a folder.

    ```jsonl title="shots.jsonl"    is written to that file
    ```python                       is executed; the blocks of a page share their names
    ```sh                           is run command by command: `cllmfs` in this process, anything else in a shell, but
                                    not `make`, whose targets are only looked up
    ```text                         shows output, or a fragment, and is not run

An HTML comment on the line above a block changes this: ``<!-- not run: reason -->`` leaves it out, ``<!-- fails -->``
expects an error of cllmfs, and ``<!-- output -->`` compares a text block with what the last command or Python block
printed. ``<!-- scores -->`` compares the micro-averaged scores that a text block shows, if models are trained in full;
rounding differs between machines, so :data:`TOLERANCE` is allowed. A page that uses the files of another page says so:
``<!-- continues: tutorial.md -->``.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from cllmfs.cli.app import app
from cllmfs.errors import CllmfsError

TOLERANCE = 0.05
_BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FENCE = re.compile(r"^\s*```", re.MULTILINE)
_CONTINUES = re.compile(r"^<!-- continues: (\S+) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A code block; ``line`` is the line of the page on which it begins."""

    language: str
    title: str | None
    note: str
    body: str
    line: int

    @property
    def reason_not_to_run(self) -> str | None:
        """Why the block is left out, if it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None


def read_blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            match["language"],
            match["title"],
            match["note"] or "",
            match["body"],
            text.count("\n", 0, match.start("language")) + 1,
        )
        for match in _BLOCK.finditer(text)
    ]
    assert 2 * len(found) == len(_FENCE.findall(text)), "a block must begin in the first column of its line"
    return found


def continued_page(page: Path) -> Path | None:
    """The page whose files this one uses."""
    match = _CONTINUES.search(page.read_text(encoding="utf-8"))
    return None if match is None else page.parent / match[1]


def read_commands(body: str) -> Iterator[str]:
    """The commands of a shell block, comments left out, continued lines joined."""
    for line in body.replace("\\\n", " ").splitlines():
        command = re.sub(r"(^|\s+)# .*", "", line).strip()
        if command:
            yield command


class Runner:
    """Runs the blocks of one page in the current folder; with ``quick``, models are hardly trained."""

    def __init__(self, folder: Path, quick: bool = False) -> None:
        self.folder = folder
        self.quick = quick
        self.output = ""
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Run a block; raises if it fails, or does not although it should."""
        if block.reason_not_to_run is not None:
            return
        fails = block.note == "fails"
        if block.title is not None:
            (self.folder / block.title).write_text(block.body, encoding="utf-8")
        elif block.language == "python":
            self._python(block, fails)
        elif block.language == "sh":
            for command in read_commands(block.body):
                self._shell(command, fails)
        else:
            assert block.language == "text", f"a block of {block.language or 'no language'} needs a title or a reason"
            if block.note == "output":
                assert _squeezed(block.body) == _squeezed(self.output)
            if block.note == "scores" and not self.quick:
                shown, scored = _micro(block.body), _micro(self.output)
                assert all(abs(a - b) <= TOLERANCE for a, b in zip(shown, scored, strict=True)), (shown, scored)

    def _python(self, block: Block, fails: bool) -> None:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile(block.body, f"line {block.line}", "exec"), self.names)
        except CllmfsError as error:
            if not fails:
                raise
            print(error, file=printed)
        else:
            assert not fails, "no error was raised"
        self.output = printed.getvalue()

    def _shell(self, command: str, fails: bool) -> None:
        if command.startswith("make "):
            return
        if not command.startswith("cllmfs "):
            # `python` is the Python that runs the tests.
            environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
            shell = shutil.which("bash") or "sh"
            done = subprocess.run([shell, "-ec", command], capture_output=True, text=True, env=environment, check=False)
            code, self.output = done.returncode, done.stdout + done.stderr
        else:
            words, target = shlex.split(command)[1:], None
            if ">" in words:
                words, (_, target) = words[:-2], words[-2:]
            result = CliRunner().invoke(app, words)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            code, self.output = result.exit_code, result.output
            if target is not None:
                (self.folder / target).write_text(result.stdout, encoding="utf-8")
        assert (code != 0) == fails, f"`{command}` left with {code}:\n{self.output}"


def _micro(text: str) -> list[float]:
    """Micro-averaged precision, recall and F1 in the output of ``cllmfs evaluate``."""
    return [float(word) for word in next(line for line in text.splitlines() if "micro" in line).split()[1:4]]


def _squeezed(text: str) -> str:
    """The text without differences in white space, which depend on the width of the terminal."""
    return " ".join(text.split())
