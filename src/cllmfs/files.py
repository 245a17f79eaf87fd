"""Files and folders that appear whole or not at all, whatever they contain, and leave nothing behind.

Something new is written under a hidden name beside its place (``.NAME.PID-TOKEN.part`` or ``.partial``) and then takes
that place. What a killed process left there is removed by the next one that writes the same file or folder. This file
knows the file system; it knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from cllmfs.errors import DataError

if sys.platform != "win32":
    import fcntl

# Marks a folder as a training checkpoint. It is defined here so that the command line can look for it without torch.
CHECKPOINT_STATE = "state.json"

_DAY = 24 * 60 * 60
_LONG_NAME = 200  # bytes; most file systems allow 255, and a hidden name is up to 30 longer
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # constants of Linux


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
        with _new(target, "part", lambda part: part.touch(exist_ok=False)) as part:
            with open(part, "wb") as handle:
                yield handle
            if target.exists():
                shutil.copymode(target, part)
            os.replace(part, target)
    except OSError as error:
        raise DataError(f"the file cannot be written: {error.strerror or error}", source=str(path)) from error


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` when the block ends without an error.

    If the block raises, or the process is killed in it, ``folder`` stays as it was. A link stays a link, to the new
    folder, which has the permissions of the folder that it replaces. The files in it get the permissions that new files
    have, even if a library created them for their owner alone.
    """
    target = Path(os.path.realpath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _new(target, "partial", Path.mkdir) as aside:
        readable = aside.stat().st_mode & 0o666  # by the umask, which itself can only be read by changing it
        yield aside
        for file in aside.rglob("*"):
            if file.is_file() and not file.is_symlink():
                file.chmod(readable)
        if target.is_dir():
            shutil.copymode(target, aside)
        _put(aside, target)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """An empty temporary folder for making ``target``, readable by its owner alone, which is removed with the block.

    If the process is killed in the block, the next one that makes ``target`` removes the folder.
    """
    digest = hashlib.sha256(os.fsencode(os.path.realpath(target))).hexdigest()[:16]
    place = Path(os.path.realpath(tempfile.gettempdir()), f"cllmfs-{digest}")
    with _new(place, "partial", lambda path: path.mkdir(0o700)) as folder:
        yield folder


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step: it never stays in its place with a part of its files, even if the process is killed.

    Nothing happens if there is no such folder, or if it cannot be removed.
    """
    target = Path(os.path.realpath(folder))
    _clean(target)
    if target.is_dir():
        gone = _beside(target, "partial")
        with contextlib.suppress(OSError):
            target.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """Put right what a killed process left where :func:`whole_folder` writes ``folder``.

    Leftovers are removed. The folder is put back if the process was killed after moving it aside and before putting the
    new one in its place, which can only happen on file systems in which two folders cannot change places in one step.
    Whoever looks for such a folder calls this first.
    """
    with contextlib.suppress(ValueError):  # no name of a file system, such as one with a NUL
        _clean(Path(os.path.realpath(folder)))


def _put(aside: Path, target: Path) -> None:
    """Rename a folder to ``target``, in whose place there may be another one, which is removed."""
    try:
        aside.rename(target)  # this replaces an empty folder, too
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if _exchange(aside, target):  # whoever made ``aside`` removes what is there now
        return
    old = _beside(target, "old")
    with _held(target):
        try:
            target.rename(old)
            aside.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; false where the system or the file system cannot do so."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


# Hidden names beside a target, and who may remove what is there. A process holds a lock on what it writes there, which
# the system gives back when the process ends, however it ends. The number of the process would not do: it is given out
# again, and on a shared disk it says nothing about the processes of other machines.


@contextlib.contextmanager
def _new(target: Path, kind: str, make: Callable[[Path], None]) -> Iterator[Path]:
    """Something new beside the target, held while the block runs and removed if it is still there after it.

    What killed processes left beside the target is removed first.
    """
    _clean(target)
    while True:
        path = _beside(target, kind)
        try:
            make(path)
            with _held(path) as kept:
                if not kept:
                    continue  # another process cleaned up before the lock was there
                yield path
                return
        finally:
            _remove(path)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a shared lock on a file or a folder; false if it is gone. Without locks, nothing but time protects it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_SH)
        yield path.exists()
    finally:
        os.close(handle)


@contextlib.contextmanager
def _seized(path: Path) -> Iterator[bool]:
    """Hold the exclusive lock, which no process gets while another holds any; true if nobody writes there any more.

    Where there are no locks, this is taken to be so after a day.
    """
    if sys.platform == "win32":
        yield False
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            abandoned = True
        except BlockingIOError:
            abandoned = False
        except OSError:
            abandoned = time.time() - os.fstat(handle).st_mtime > _DAY
        yield abandoned
    finally:
        os.close(handle)


def _clean(target: Path) -> None:
    """Remove what killed processes left beside a target; if it was moved aside and is missing, it is put back."""
    for path in _leftovers(target):
        with contextlib.suppress(OSError), _seized(path) as abandoned:
            if abandoned and path.suffix == ".old" and not target.exists():
                path.rename(target)
            elif abandoned:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _stem(target: Path) -> str:
    """The part of the hidden names that belongs to the target; a long name would become too long."""
    name = os.fsencode(target.name)
    return target.name if len(name) <= _LONG_NAME else hashlib.sha256(name).hexdigest()


def _beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{_stem(target)}.{os.getpid()}-{secrets.token_hex(4)}.{kind}")


def _leftovers(target: Path) -> list[Path]:
    """Everything under the hidden names of a target, the latest first."""
    pattern = re.compile(rf"\.{re.escape(_stem(target))}\.\d+(-[0-9a-f]+)?\.(part|partial|old)")
    try:
        found = [target.with_name(name) for name in os.listdir(target.parent) if pattern.fullmatch(name)]
        return sorted(found, key=lambda path: path.lstat().st_ctime_ns, reverse=True)
    except OSError:
        return []
