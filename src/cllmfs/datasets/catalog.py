"""Names of data sets that are not plain folders: ``hf:`` names, and the catalog of recognized benchmarks.

    hf:OWNER/NAME[@REVISION][#CONFIG][?tags=COLUMN]    a data set of the Hugging Face hub
    hf:FOLDER[#CONFIG][?tags=COLUMN]                   a folder that the datasets library saved, or of parquet files
    catalog:NAME                                       an entry of ``catalog.toml``, which gives one of the former

Knows names, and the licenses that the catalog states; loads no data.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from cllmfs.errors import ConfigError, DataError
from cllmfs.network import can_be_hub_id

HUB, CATALOG = "hf:", "catalog:"
_FORM = "hf:OWNER/NAME[@REVISION][#CONFIG][?tags=COLUMN]"
_PARTS = re.compile(r"(?P<path>[^@#?]+)(?:@(?P<revision>[^#?]+))?(?:#(?P<config>[^?]+))?(?:\?tags=(?P<tags>.+))?")


@dataclass(frozen=True)
class HubName:
    """A data set of the hub, or a folder in one of its formats.

    Attributes:
        path: OWNER/NAME, or the folder.
        revision: branch, tag or commit; ``None`` for the main branch.
        config: which of several data sets under one name.
        tags: the column of the tags, unless it has one of the usual names.
    """

    path: str
    revision: str | None = None
    config: str | None = None
    tags: str | None = None

    def __str__(self) -> str:
        marked = (("@", self.revision), ("#", self.config), ("?tags=", self.tags))
        return HUB + self.path + "".join(f"{mark}{part}" for mark, part in marked if part)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder on disk, which needs no download."""
        return os.path.isdir(self.path)  # false, not an error, for a name that is too long


@dataclass(frozen=True)
class Entry:
    """A benchmark of the catalog.

    Attributes:
        name: its name after ``catalog:``.
        language: code of the language, or several.
        types: number of entity types.
        license: the license that its card on the hub states.
        source: its ``hf:`` name; ``None`` if the hub does not have it.
        restricted: whether it is loaded only after its license was accepted; ``reason`` says why.
        tag_names: the names of the tags by number, if the data set does not have them.
    """

    name: str
    language: str
    domain: str
    types: int
    license: str
    source: str | None = None
    restricted: bool = False
    reason: str = ""
    tag_names: tuple[str, ...] = ()


def is_named(text: str) -> bool:
    """Whether a text is a name in one of the forms above, not a plain folder."""
    return text.startswith((HUB, CATALOG))


def parse_hub_name(text: str, data: Path | None = None) -> HubName:
    """The parts of an ``hf:`` name, whose folder is first looked for in ``data``; a wrong name raises ConfigError."""
    parts = _PARTS.fullmatch(text.removeprefix(HUB))
    if not text.startswith(HUB) or parts is None:
        raise ConfigError(f"a data set of the hub is named {_FORM}, got {text!r}")
    name = HubName(**parts.groupdict())
    if data is not None and os.path.isdir(data / name.path):
        name = replace(name, path=str(data / name.path))
    if name.is_folder and name.revision:
        raise ConfigError(f"a folder has no revisions, got {text!r}; leave out @{name.revision}")
    if not (name.is_folder or ("/" in name.path and can_be_hub_id(name.path))):
        raise ConfigError(f"{HUB} must be followed by a folder or by OWNER/NAME of the hub, got {text!r}")
    return name


@functools.cache
def catalog() -> Mapping[str, Entry]:
    """The entries of the catalog by name, in the order of the file."""
    table = tomllib.loads((files("cllmfs.datasets") / "catalog.toml").read_text(encoding="utf-8"))
    return {name: Entry(name, **{**one, "tag_names": tuple(one.get("tag_names", ()))}) for name, one in table.items()}


def find(text: str) -> tuple[HubName, Entry | None]:
    """The data set that a name means, and its entry in the catalog if there is one.

    Raises:
        ConfigError: if the name has none of the forms above, or the catalog has no such entry.
        DataError: if the hub has no copy of the data set.
    """
    if not text.startswith(CATALOG):
        name = parse_hub_name(text)
        return name, None if name.is_folder else _entry_of(name)
    key = text.removeprefix(CATALOG)
    entry = catalog().get(key)
    if entry is None:
        close = difflib.get_close_matches(key, catalog(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"the catalog has no {key!r}; {hint}`cllmfs data list --catalog` shows its entries")
    if entry.source is None:
        hint = "get it from there and name the folder that you saved it in"
        raise DataError(f"{key} is not on the hub: {entry.reason}; {hint}")
    return parse_hub_name(entry.source), entry


def _entry_of(name: HubName) -> Entry | None:
    """The entry of a hub id, if possible of the same configuration: all configurations have the same license."""
    sources = [(parse_hub_name(entry.source), entry) for entry in catalog().values() if entry.source]
    same = {source.config: entry for source, entry in sources if source.path.lower() == name.path.lower()}
    return same.get(name.config, next(iter(same.values()), None))
