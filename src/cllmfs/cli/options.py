"""Options that several commands share, and the Examples section of their help.

Knows how an option is called and what its help says; knows nothing of what a command does with it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cllmfs.errors import ConfigError
from cllmfs.formats.reading import FORMATS
from cllmfs.formats.tagging import SCHEMES

FORMAT_NAMES, SCHEME_NAMES = " | ".join(FORMATS), " | ".join(SCHEMES)

Labels = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE", help="types with their descriptions: .toml, .json or .txt")
]
LabelNames = Annotated[list[str] | None, typer.Option("--label", metavar="NAME", help="a type; may be repeated")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.NAME=VALUE", help="a setting, see `cllmfs info --config`; may be repeated"),
]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps; a GPU where there is one if not given")
]
Format = Annotated[
    str | None, typer.Option("--format", help=f"{FORMAT_NAMES}; found from each labelled file if not given")
]
Scheme = Annotated[str | None, typer.Option("--scheme", help=f"{SCHEME_NAMES}; found from the tags if not given")]
Json = Annotated[bool, typer.Option("--json", help="print JSON on standard output")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="model folder, or a base: cllmfs-mini, a folder, a hub id", show_default=False
    ),
]
DATA = "CLLMFS_DATA"
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help=f"folder of the data sets; ${DATA} if not given")
]


def data_folder(given: Path | None, *, needed: bool = True) -> Path:
    """The folder of the data sets that an option or the environment names; this folder if neither does and none must.

    Raises:
        ConfigError: if it does not exist, or is not named though it must be.
    """
    where = given or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if where is None and not needed:
        return Path()
    if where is None or not where.is_dir():
        raise ConfigError(f"the data sets' folder must exist, got {where and str(where)!r}; pass --data or set {DATA}")
    return where


def examples(*commands: str) -> str:
    """The Examples section of a command's help, its lines kept apart."""
    return "\n  ".join(["\b\nExamples:", *commands])
