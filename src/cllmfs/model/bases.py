"""From the name of a base to its folder, and to a fingerprint that distinguishes its versions.

A trained model refers to its base by a name, two paths and a fingerprint, and the fingerprint decides: a folder is the
base of a model if it has the fingerprint that the model was trained on. This file knows folders and hashes; it loads no
weights.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cllmfs.errors import ModelError
from cllmfs.model.inspection import cannot_be_a_base, check_base, is_kind, unreadable
from cllmfs.network import UNREACHABLE, can_be_hub_id, hub_reachable

MINI = "cllmfs-mini"
# The hash of the weights, config and tokenizer that ship with this version.
MINI_HASH = "sha256:e4f1c88a108ca3870b86d7d9055c76c4c773e8ca26178ab98ee6da4701c4d882"
_OF_FILES, _OF_COMMIT = "sha256:", "commit:"

logger = logging.getLogger(__name__)


def base_folder(base: str) -> Path | None:
    """The folder of a base on disk; ``None`` for a hub id."""
    if base == MINI:
        return Path(str(files("cllmfs") / "mini"))
    return Path(base) if is_kind(base, stat.S_IFDIR) else None


def check_findable(base: str) -> None:
    """Refuse a name under which no base can be found; this needs neither torch nor a look-up on the hub.

    Raises:
        ModelError: if it is no folder, and either cannot be a hub id, or the hub cannot be reached and its cache has no
            such base; or if it is the folder of a trained model, or of a base that is refused.
    """
    folder = base_folder(base)
    if folder is not None:
        if base != MINI:
            check_base(folder, base)
    elif not can_be_hub_id(base):
        form = "a hub id has the form NAME or OWNER/NAME, with at most 96 characters"
        raise ModelError(cannot_be_a_base(base, f"There is no such folder, and {form}"))
    elif not (hub_reachable() or _is_cached(base)):
        raise ModelError(not_cached(base))


def not_cached(base: str) -> str:
    """The message for a hub id that is not whole in the cache, while the hub cannot be reached."""
    reason = f"There is no such folder, {UNREACHABLE}, and {base} is not, or not whole, in the cache"
    advice = "connect to the network, correct the path, or name a folder that holds the base"
    return cannot_be_a_base(base, f"{reason}; {advice}")


def _is_cached(base: str) -> bool:
    from huggingface_hub import constants

    return os.path.isdir(Path(constants.HF_HUB_CACHE) / f"models--{base.replace('/', '--')}" / "snapshots")


def fingerprint(base: str, commit: str | None = None) -> str:
    """The fingerprint of a base: SHA-256 of the config, tokenizer and weights of its folder, or the hub's commit."""
    folder = base_folder(base)
    return f"{_OF_COMMIT}{commit}" if folder is None else _folder_hash(folder)


@dataclass(eq=False)
class Fingerprint:
    """The fingerprint of a base as it was when loaded; it is hashed when first needed, since weights are large.

    Attributes:
        base: its name, as the user gave it.
        commit: for a hub id, the commit that was loaded.
        folder: absolute path of its folder; ``None`` for a hub id.
    """

    base: str
    commit: str | None = None

    def __post_init__(self) -> None:
        found = None if self.commit else base_folder(self.base)
        self.folder = None if found is None else Path(os.path.abspath(found))
        self._files = _listed(self.folder)

    @functools.cached_property
    def value(self) -> str:
        """As :func:`fingerprint` gives it.

        Raises:
            ModelError: if the files of the base have changed since it was loaded.
        """
        if _listed(self.folder) != self._files:
            raise ModelError(f"the files of {self.base!r} have changed since it was loaded; load it again")
        return f"{_OF_COMMIT}{self.commit}" if self.folder is None else _known_hash(self.folder, self._files)


def base_places(base: Path, model: Path) -> dict[str, str]:
    """Where a base lies on disk: its absolute path, and its path from a model folder if there is one.

    The second stays right if both are moved together, and on other machines.
    """
    places = {"absolute": os.path.abspath(base)}
    try:
        relative = os.path.relpath(os.path.realpath(base), os.path.realpath(model))
    except ValueError:  # another drive
        return places
    return {"relative": relative.replace(os.sep, "/"), **places}


def locate_base(model: str | Path, record: Mapping[str, Any], given: str | None = None) -> str:
    """The name under which the base of a trained model can be loaded now.

    Args:
        model: the model folder.
        record: its manifest.
        given: where the base is, according to the user; otherwise it is looked for under its name, then where it was,
            seen from the model folder, then at its absolute path.

    Raises:
        ModelError: if no folder is the base that the model was trained on; it says where was looked.
    """
    name, wanted = str(record["base"]), str(record["base_hash"])
    if not wanted.startswith(_OF_FILES):
        return given or name
    if given is None and name == MINI:
        return name
    places = record.get("base_folder", {})
    seen_from_model = places.get("relative") and os.path.join(os.path.realpath(model), places["relative"])
    looked = [given] if given else [name, seen_from_model, places.get("absolute")]
    others: list[str] = []
    missing: list[str] = []
    for place in dict.fromkeys(os.path.normpath(place) if place != MINI else place for place in looked if place):
        folder = base_folder(place)
        if folder is None:
            missing.append(f"{place!r:.200}")
            continue
        found = _known_hash(Path(os.path.abspath(folder)), _listed(folder))
        if found == wanted:
            return place
        others.append(f"{str(folder)!r:.200} ({found[:20]}…)")
    if others:
        problem = f"was trained on another version of {name!r:.200} ({wanted[:20]}…) than that in {', '.join(others)}"
    else:
        problem = f"was trained on the base {name!r:.200}, which is no longer there: no folder {', '.join(missing)}"
    made_with = record.get("versions", {}).get("cllmfs")
    hint = f"; the model was made with cllmfs {made_with}, whose {MINI} is its base" if name == MINI else ""
    advice = "say where its base is with --base FOLDER (base= in Python), or train it again"
    raise ModelError(f"{model} {problem}{hint}; {advice}")


def check_base_of(model: str | Path, record: Mapping[str, Any], found: Fingerprint) -> None:
    """Check that a loaded base is the one that a model was trained on.

    A folder in place of a hub id can only be recognized by the name that the hub's cache gives to it, which is the
    commit. Any other folder is accepted with a warning, since it may be a copy.

    Raises:
        ModelError: if it is another one.
    """
    wanted = str(record["base_hash"])
    if wanted.startswith(_OF_COMMIT) and found.folder is not None and found.base != MINI:
        commit = wanted.removeprefix(_OF_COMMIT)
        if commit not in (found.folder.name, found.folder.resolve().name):
            logger.warning(
                "%s was trained on the commit %s of %s; whether %s holds the same files cannot be verified",
                model, commit[:12], record["base"], found.folder,
            )  # fmt: skip
    elif found.value != wanted:
        advice = f"install the version of cllmfs that it names: {record.get('versions', {}).get('cllmfs')}"
        advice = advice if record["base"] == MINI else "say where its base is with --base (base= in Python)"
        raise ModelError(
            f"{model} was trained on another version of {found.base!r:.200} ({wanted[:20]}…, found "
            f"{found.value[:20]}…); train it again, or {advice}"
        )


@functools.cache
def check_mini() -> None:
    """Check, once in a process, that the bundled weights are those that this version was released with.

    Raises:
        ModelError: if they are missing or damaged.
    """
    folder = base_folder(MINI)
    found = "no such folder" if folder is None or not folder.is_dir() else _folder_hash(folder)
    if found != MINI_HASH:
        raise ModelError(
            f"the weights of {MINI} in {folder} are not those of this version (expected {MINI_HASH[:20]}…, found "
            f"{found[:20]}…): install cllmfs again"
        )


def _listed(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the files of a base."""
    try:
        files = sorted(folder.glob("*.*")) if folder else []
        return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file())
    except OSError as error:
        raise ModelError(unreadable(folder or "", error)) from error


@functools.lru_cache(maxsize=8)
def _known_hash(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """The hash of a folder whose files are those listed: it is needed to find a base, and again when it is loaded."""
    return _folder_hash(folder)


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    try:
        names = [folder / name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
        for path in [*names, *(path for path in sorted(folder.glob("*.safetensors")) if path.is_file())]:
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    except OSError as error:
        raise ModelError(unreadable(error.filename or folder, error)) from error
    return f"{_OF_FILES}{digest.hexdigest()}"
