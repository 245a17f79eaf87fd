"""Files and folders that appear whole or not at all, whatever they contain."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cllmfs.errors import DataError

# Marks a folder as a training checkpoint. It is defined here so that the command line can look for it without torch.
CHECKPOINT_STATE = "state.json"


@contextlib.contextmanager
def whole_file(path: str | Path, *, stdout: bool = False) -> Iterator[BinaryIO]:
    """A handle for writing bytes; the file takes the place of ``path`` when the block ends without an error.

    If the block raises, or the process is killed in it, ``path`` stays as it was. A link stays a link, to the new file,
    which has the permissions of the file that it replaces. A device or a pipe cannot be replaced, so it receives the
    bytes at once; so does standard output, which "-" means if ``stdout`` is true.

    Raises:
        DataError: if the file cannot be written, for example because its folder does not exist.
    """
    if stdout and str(path) == "-":
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            with open(target, "wb") as handle:
                yield handle
            return
        part = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with open(part, "xb") as handle:
                yield handle
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"the file cannot be written: {error.strerror or error}", source=str(path)) from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` when the block ends without an error.

    If the block raises, or the process is killed in it, ``folder`` stays as it was. A link stays a link, to the new
    folder. The old folder is removed only after the new one is in its place.
    """
    target = Path(os.path.realpath(folder))
    aside, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("partial", "old"))
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)
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
