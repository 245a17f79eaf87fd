"""What a data set is called where it is no plain folder: ``hf:`` names, and the catalogue of recognised benchmarks.

    hf:OWNER/NAME[@REVISION][#CONFIG][?tags=COLUMN]    a data set of the Hugging Face hub
    hf:FOLDER[#CONFIG][?tags=COLUMN]                   a folder that the datasets library saved, or of parquet files
    catalogue:NAME                                     an entry of ``catalogue.toml``, which gives one of the former

Knows names, and what the catalogue says of licences; loads no data.
"""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from cllmfs.errors import ConfigError, DataError

HUB, CATALOGUE = "hf:", "catalogue:"
_FORM = "hf:OWNER/NAME[@REVISION][#CONFIG][?tags=COLUMN]"
_PARTS = re.compile(r"(?P<path>[^@#?]+)(?:@(?P<revision>[^#?]+))?(?:#(?P<config>[^?]+))?(?:\?tags=(?P<tags>.+))?")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class HubName:
    """A data set of the hub, or a folder in one of its formats.

    Attributes:
        path: OWNER/NAME, or the folder.
        revision: branch, tag or commit; ``None`` for the main one.
        config: which of several data sets under one name.
        tags: the column of the tags, where it is not the usual one.
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
        return Path(self.path).is_dir()


@dataclass(frozen=True)
class Entry:
    """A benchmark of the catalogue.

    Attributes:
        name: what ``catalogue:`` takes.
        language: code of the language, or several.
        domain: what the texts are.
        types: entity types.
        licence: as the hub's card states it.
        source: its ``hf:`` name; ``None`` where it must be had elsewhere.
        restricted: whether it is loaded only after the licence was accepted.
        reason: why.
        tag_names: what the tags' numbers mean, where the data set does not say.
    """

    name: str
    language: str
    domain: str
    types: int
    licence: str
    source: str | None = None
    restricted: bool = False
    reason: str = ""
    tag_names: tuple[str, ...] = ()


def is_named(text: str) -> bool:
    """Whether a text is a name of one of the forms above, rather than a plain folder."""
    return text.startswith((HUB, CATALOGUE))


def parse_hub_name(text: str, data: Path | None = None) -> HubName:
    """The parts of an ``hf:`` name.

    Args:
        text: the name.
        data: a folder that the name's folder may lie in.

    Raises:
        ConfigError: if it is not of the form above.
    """
    parts = _PARTS.fullmatch(text.removeprefix(HUB))
    if not text.startswith(HUB) or parts is None:
        raise ConfigError(f"a data set of the hub is named {_FORM}, got {text!r}")
    name = HubName(**parts.groupdict())
    if data is not None and (data / name.path).is_dir():
        name = replace(name, path=str(data / name.path))
    if name.is_folder:
        if name.revision:
            raise ConfigError(f"a folder has no revisions, got {text!r}; leave @{name.revision} out")
    elif not _HUB_ID.fullmatch(name.path):
        raise ConfigError(f"{HUB} is followed by a folder or by OWNER/NAME of the hub, got {text!r}")
    return name


@functools.cache
def catalogue() -> Mapping[str, Entry]:
    """The catalogue's entries by name, in the file's order."""
    table = tomllib.loads((files("cllmfs.datasets") / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: Entry(name, **{**values, "tag_names": tuple(values.get("tag_names", ()))})
        for name, values in table.items()
    }


def find(text: str) -> tuple[HubName, Entry | None]:
    """What a name of one of the forms above means, and what the catalogue says of it, if it is there.

    Raises:
        ConfigError: if it has another form, or the catalogue has no such entry.
        DataError: if the hub has no copy of the entry.
    """
    if not text.startswith(CATALOGUE):
        name = parse_hub_name(text)
        return name, None if name.is_folder else _entry_of(name)
    key = text.removeprefix(CATALOGUE)
    entry = catalogue().get(key)
    if entry is None:
        close = difflib.get_close_matches(key, catalogue(), n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"the catalogue has no {key!r}; {hint}`cllmfs data list --catalogue` shows what it has")
    if entry.source is None:
        raise DataError(f"{key} is not on the hub: {entry.reason}; get it there, and give the folder where it lies")
    return parse_hub_name(entry.source), entry


def _entry_of(name: HubName) -> Entry | None:
    """The entry of a hub id, of the same configuration if there is one: a licence is that of the whole."""
    same = {source.config: entry for entry, source in _sources() if source.path.lower() == name.path.lower()}
    return same.get(name.config, next(iter(same.values()), None))


@functools.cache
def _sources() -> tuple[tuple[Entry, HubName], ...]:
    return tuple((entry, parse_hub_name(entry.source)) for entry in catalogue().values() if entry.source)
