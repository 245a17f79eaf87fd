"""Folders that appear whole or not at all.

Knows files; knows nothing of what lies in them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

CHECKPOINT_STATE = "state.json"  # a checkpoint has it; here, so that the command line sees one without loading torch


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A fresh folder to fill, which takes the place of ``folder`` when the block ends.

    If the block raises, or the process is killed in it, ``folder`` stays as it was. A link keeps pointing to what is
    written. The old folder goes away only after the new one stands.
    """
    target = Path(os.path.realpath(folder))
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if target.exists():
            target.rename(old)
        try:
            aside.rename(target)
        except BaseException:
            if old.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
