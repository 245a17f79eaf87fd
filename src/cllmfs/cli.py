"""The ``cllmfs`` command: puts the commands together, and is the entry point.

Knows which commands there are; what they do is in the modules ``cli_*``. Loads no machine learning library: commands
that need a model load it when they run.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from cllmfs import __version__, cli_benchmark, cli_data, cli_model, cli_train
from cllmfs.cli_options import examples

# Plain help: the same in a pipe, on any terminal and in any version of typer.
app = typer.Typer(
    name="cllmfs",
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
_parts = (cli_data, cli_train, cli_model, cli_benchmark)
_commands = [command for part in _parts for command in part.app.registered_commands]
app.registered_commands += sorted(_commands, key=lambda command: command.callback is cli_train.demo)  # the demo last


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
    """Few-shot named entity recognition with a causal LLM: few labelled sentences in, exact spans out."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a text must not fail for the terminal's encoding
    if not os.environ.get("CLLMFS_DEBUG") and not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)  # between libraries: nothing a user could do about
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read by the libraries that load models
    app(prog_name="cllmfs")
