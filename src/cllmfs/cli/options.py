"""Options and arguments that several commands share, and the Examples section of their help.

This file knows what an option is called and what its help says; it knows nothing of what a command does with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from cllmfs.cli.terminal import guarded
from cllmfs.errors import ConfigError
from cllmfs.formats.table import FORMATS
from cllmfs.formats.tagging import SCHEMES

P = ParamSpec("P")
Command = Callable[P, None]
DATA = "CLLMFS_DATA"


def argument(metavar: str, help: str = "labeled file, - for standard input") -> Any:
    """A positional argument; by default it is the labeled file that a command reads."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


def option(usage: str, help: str, **more: Any) -> Any:
    """An option, described as in the help: ``"-o, --output FILE"``, or ``"--json"`` for a flag."""
    names = [word for word in usage.replace(",", "").split() if word.startswith("-")]
    metavar = None if usage.endswith(names[-1]) else usage.split()[-1]
    return typer.Option(*names, metavar=metavar, help=help, **more)


def choice(name: str, names: Iterable[str], help: str = "") -> Any:
    """An option that takes one of the names, which its help lists before ``help``."""
    return option(f"{name} NAME", " | ".join(names) + help)


Labels = Annotated[Path | None, option("--labels FILE", "file with types and their descriptions: .toml, .json or .txt")]
LabelNames = Annotated[list[str] | None, option("--label NAME", "name of a type; may be repeated")]
Settings = Annotated[
    list[str] | None,
    option(
        "--set SECTION.NAME=VALUE",
        "change a setting; may be repeated; `cllmfs info --config` lists all settings, and of a trained model only "
        "those of [runtime] can change",
    ),
]
Device = Annotated[str | None, option("--device NAME", "cpu, cuda, cuda:1 or mps; by default a GPU if there is one")]
Format = Annotated[str | None, choice("--format", FORMATS, "; by default detected for each labeled file")]
Scheme = Annotated[str | None, choice("--scheme", SCHEMES, "; by default detected from the tags")]
Json = Annotated[bool, option("--json", "print JSON to standard output")]
Model = Annotated[str, argument("MODEL", "folder of a trained model, or a base: cllmfs-mini, a folder or a hub id")]
MovedBase = Annotated[
    str | None,
    option("--base FOLDER", "where the base of MODEL is, if it has moved; its hash must be the one that MODEL names"),
]
DataFolder = Annotated[Path | None, option("--data DIR", f"folder of the data sets; by default ${DATA}")]


def data_folder(given: Path | None, *, needed: bool = True) -> Path:
    """The folder of the data sets that an option or the environment names; if none is needed, the current folder.

    Raises:
        ConfigError: if the folder does not exist, or none is named although one is needed.
    """
    folder = given or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if folder is None and not needed:
        return Path()
    if folder is None or not folder.is_dir():
        raise ConfigError(
            f"the data sets' folder must exist, got {folder and str(folder)!r}; pass --data or set {DATA}"
        )
    return folder


def examples(*commands: str) -> str:
    """The Examples section of a command's help, with each command on a line of its own."""
    return "\n  ".join(["\b\nExamples:", *commands])


def command(app: typer.Typer, *usages: str, name: str | None = None) -> Callable[[Command[P]], Command[P]]:
    """Decorate a function so that it becomes a command of ``app``; ``usages`` are the examples of its help."""
    return lambda function: app.command(name, epilog=examples(*usages))(guarded(function))
