"""The ``cllmfs`` command, which consists of the commands of the other modules in this folder.

This file knows which commands there are; it knows nothing of what they do. It loads no machine learning library:
commands that need a model load it when they run.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cllmfs import __version__
from cllmfs.cli import benchmark, calibrate, datasets, labeled_files, model, train
from cllmfs.cli.options import examples


class _DemoLast(TyperGroup):
    """Lists the commands in the order of the modules, groups of commands after them, and the demo at the end."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name == "demo")


# Help without rich markup looks the same in a pipe, on any terminal and in any version of typer.
app = typer.Typer(
    name="cllmfs",
    cls=_DemoLast,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "cllmfs demo",
        "cllmfs sample train.jsonl --k 5 --output shots.jsonl",
        "cllmfs train shots.jsonl --output my-model",
        'cllmfs predict my-model "a text"',
        "cllmfs evaluate my-model test.jsonl",
    ),
)
_parts = (labeled_files, train, calibrate, model, benchmark)
app.registered_commands += [command for part in _parts for command in part.app.registered_commands]
app.add_typer(datasets.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cllmfs {__version__}")
        raise typer.Exit


@app.callback()
def _cllmfs(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Few-shot named entity recognition with a causal LLM: few labeled sentences in, exact spans out."""


def main() -> None:
    """Run the command line and exit with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # printing must not fail because of the terminal's encoding
    if not os.environ.get("CLLMFS_DEBUG") and not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # they are about code of libraries, which users cannot change
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # these are read by the libraries that load models
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    app(prog_name="cllmfs")
