"""The command line as a whole: help, exit codes, pipes, encodings."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import cllmfs
from cllmfs.cli.app import main
from tests.cli.conftest import COMMANDS, ROOT, cli, jsonl, process


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_has_examples(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--help")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    shown = lines[lines.index("  Examples:") + 1 :]
    assert len(shown) >= 3
    for line in shown:
        assert line.startswith("    ") and f"cllmfs {arguments[0] if arguments else ''}" in line


def test_help_lists_the_commands_in_their_order() -> None:
    listed = cli("-h").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert tuple(line.split()[0] for line in listed.splitlines()) == COMMANDS
    assert "..." not in listed  # each summary fits


def test_version() -> None:
    done = cli("--version")
    assert (done.exit_code, done.stdout) == (0, f"cllmfs {cllmfs.__version__}\n")


def test_no_command_shows_help() -> None:
    assert "Commands:" in cli().output


def test_unknown_option_is_the_users_mistake() -> None:
    done = cli("validate", "--lables", "x", "file")
    assert done.exit_code == 2
    assert "--lables" in done.stderr


def test_help_of_a_model_command_loads_no_heavy_module() -> None:
    code = (
        "import sys; from cllmfs.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy', 'cllmfs.recognizer'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert "Examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_errors_of_a_real_process_are_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = process("convert", tmp_path / "missing.jsonl", "-")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().count("\n") == 1
    assert f"error: {tmp_path / 'missing.jsonl'}: the file cannot be read" in done.stderr.decode()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    big = jsonl(tmp_path / "big.jsonl", *[{"text": "x" * 1000, "spans": []}] * 500)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cllmfs", "convert", str(big), "-"],
            stdout=writer, stderr=subprocess.PIPE, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_texts_beyond_the_terminals_encoding_are_escaped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "東京", "spans": [{"start": 0, "end": 2, "label": "場所"}]})
    done = process("validate", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"\u5834\u6240" in done.stdout


def test_main_keeps_the_libraries_quiet_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cllmfs.cli.app.app", lambda prog_name: None)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")  # so that it is put back, too
        monkeypatch.delenv(name)
    monkeypatch.delenv("CLLMFS_DEBUG", raising=False)
    monkeypatch.setattr(sys, "warnoptions", [])
    for watched in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            main()
            warnings.warn("a library's", FutureWarning, stacklevel=1)
        assert (os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == "1") is not watched
        assert (os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") == "1") is not watched
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")  # the user's word
    main()
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "0"
