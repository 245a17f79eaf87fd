"""From the name of a base to its folder, and to a fingerprint that distinguishes its versions.

This file knows folders and hashes; it loads no weights.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from cllmfs.errors import ModelError

MINI = "cllmfs-mini"
# The hash of the weights, config and tokenizer that ship with this version.
MINI_HASH = "sha256:e4f1c88a108ca3870b86d7d9055c76c4c773e8ca26178ab98ee6da4701c4d882"


def base_folder(base: str) -> Path | None:
    """The folder of a base on disk; ``None`` for a hub id."""
    if base == MINI:
        return Path(str(files("cllmfs") / "mini"))
    return Path(base) if Path(base).is_dir() else None


def fingerprint(base: str, commit: str | None = None) -> str:
    """The fingerprint of a base: SHA-256 of the config, tokenizer and weights of its folder, or the hub's commit."""
    folder = base_folder(base)
    return f"commit:{commit}" if folder is None else _folder_hash(folder)


@dataclass(eq=False)
class Fingerprint:
    """The fingerprint of a base as it was when loaded; it is hashed when first needed, since weights are large."""

    base: str  # its name, as the user gave it
    commit: str | None = None  # for a hub id, the commit that was loaded

    def __post_init__(self) -> None:
        self._files = self._list_files()

    @functools.cached_property
    def value(self) -> str:
        """As :func:`fingerprint` gives it.

        Raises:
            ModelError: if the files of the base have changed since it was loaded.
        """
        if self._list_files() != self._files:
            raise ModelError(f"the files of {self.base!r} have changed since it was loaded; load it again")
        return fingerprint(self.base, self.commit)

    def _list_files(self) -> list[tuple[str, int, int]]:
        folder = base_folder(self.base)
        files = sorted(folder.glob("*.*")) if folder else []
        return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]


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


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    names = [folder / name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()]
    for path in [*names, *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
