"""Options that several commands share, and the Examples section of their help.

Knows how an option is called and what its help says; knows nothing of what a command does with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cllmfs.records import FORMATS
from cllmfs.tagging import SCHEMES

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


def examples(*commands: str) -> str:
    """The Examples section of a command's help, its lines kept apart."""
    return "\n  ".join(["\b\nExamples:", *commands])
