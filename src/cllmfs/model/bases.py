"""Which base model is meant by a name, where it lies, and what tells one version of it from another.

Knows folders and hashes; loads nothing.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from pathlib import Path

from cllmfs.errors import ModelError

MINI = "cllmfs-mini"
MINI_HASH = (  # of the weights that ship with this version, with their config and tokenizer
    "sha256:e4f1c88a108ca3870b86d7d9055c76c4c773e8ca26178ab98ee6da4701c4d882"
)


def base_folder(base: str) -> Path | None:
    """The folder of a base on disk; ``None`` for a hub id."""
    if base == MINI:
        return Path(str(files("cllmfs") / "mini"))
    return Path(base) if Path(base).is_dir() else None


def fingerprint(base: str, commit: str | None = None) -> str:
    """What tells one base from another: a SHA-256 over config, tokenizer and weights of a folder, or the hub's commit.

    Args:
        base: as the user gave it.
        commit: the commit that was loaded, for a hub id.
    """
    folder = base_folder(base)
    return f"commit:{commit}" if folder is None else _folder_hash(folder)


@functools.cache
def check_mini() -> None:
    """Make sure, once, that the bundled weights are the ones this version was released with.

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
