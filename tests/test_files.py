"""Files and folders that appear whole or not at all, and what becomes of the old ones.

Run as a script, this file stops a writer at every operation on the file system in turn, and checks what remains.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cllmfs import files
from cllmfs.errors import DataError
from cllmfs.files import recover, remove_folder, scratch_folder, whole_file, whole_folder

ROOT = Path(__file__).resolve().parents[1]


def fill(path: Path, *, stop: bool = False) -> None:
    with whole_file(path) as handle:
        handle.write(b"new")
        if stop:
            raise ValueError("stop")


def fill_folder(path: Path, name: str, *, stop: bool = False) -> None:
    with whole_folder(path) as folder:
        (folder / name).touch()
        if stop:
            raise ValueError("stop")


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "out") as handle:
        handle.write(b"new")
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"new"


def test_a_file_stays_as_it_was_if_the_block_raises(tmp_path: Path) -> None:
    for name in ("there", "absent"):
        (tmp_path / "there").write_bytes(b"old")
        with pytest.raises(ValueError, match="stop"):
            fill(tmp_path / name, stop=True)
        assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_bytes() == b"old"


def test_a_link_and_the_permissions_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_device_is_written_to_and_not_replaced() -> None:
    fill(Path(os.devnull))
    assert not Path(os.devnull).is_file()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent/out: the file cannot be written: No such file"):
        fill(tmp_path / "absent" / "out")
    with pytest.raises(DataError, match="the file cannot be written: Is a directory"):
        fill(tmp_path)


def test_a_dash_is_standard_output_only_if_the_caller_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    with whole_file("-", stdout=True) as handle:
        handle.write(b"shown")
    assert capfdbinary.readouterr().out == b"shown" and os.listdir(tmp_path) == []
    fill(Path("-"))
    assert os.listdir(tmp_path) == ["-"]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fill_folder(tmp_path / "out", name)
        assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [name]
    with pytest.raises(ValueError, match="stop"):
        fill_folder(tmp_path / "out", "half", stop=True)
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["two"]


# permissions


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    fill(tmp_path / "out")
    assert mode(tmp_path / "out") == 0o666 & ~umask
    with whole_folder(tmp_path / "model") as folder:
        (folder / "deep").mkdir()
        for name in ("weights", "deep/state"):  # some libraries create files for their owner alone
            os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
    for name in ("model", "model/deep"):
        assert mode(tmp_path / name) == 0o777 & ~umask
    for name in ("model/weights", "model/deep/state"):
        assert mode(tmp_path / name) == 0o666 & ~umask


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_keeps_its_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    fill_folder(tmp_path / "out", "one")
    (tmp_path / "out").chmod(0o2750)
    fill_folder(tmp_path / "out", "two")
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o2750
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["two"]


# what killed runs leave behind


def leave(folder: Path, name: str, content: str = "") -> Path:
    """A leftover: a folder with a file of that content, or an empty file."""
    path = folder / name
    if name.endswith(".part"):
        path.touch()
    else:
        path.mkdir()
        (path / content).touch()
    return path


LONG = "x" * 250


@pytest.mark.parametrize("name", ["out", "out.jsonl", "o*t[a].b", "-", "naïve 東京", LONG])
def test_leftovers_of_killed_runs_are_removed_by_the_next_one(tmp_path: Path, name: str) -> None:
    stem = files._stem(Path(name))
    for left in (f".{stem}.1.partial", f".{stem}.77-0a1b2c3d.partial", f".{stem}.77-0a1b2c3d.part"):
        leave(tmp_path, left, "half")
    fill(tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    (tmp_path / name).unlink()
    leave(tmp_path, f".{stem}.77-0a1b2c3d.partial", "half")
    fill_folder(tmp_path / name, "new")
    assert os.listdir(tmp_path) == [name]


def test_leftovers_of_other_targets_are_not_touched(tmp_path: Path) -> None:
    others = [".model.v2.77-0a1b2c3d.partial", ".modelx.77-0a1b2c3d.partial", ".model.mine.partial", "model.1.partial"]
    for name in others:
        leave(tmp_path, name, "x")
    fill_folder(tmp_path / "model", "new")
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "model"])


def test_what_a_living_writer_writes_is_not_touched(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out") as first:
        (first / "first").touch()
        fill_folder(tmp_path / "out", "second")
        assert os.listdir(tmp_path / "out") == ["second"] and os.listdir(first) == ["first"]
        with whole_folder(tmp_path / "out") as third:
            assert os.listdir(first) == ["first"]
            (third / "third").touch()
        assert os.listdir(tmp_path / "out") == ["third"]
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["first"]
    with whole_file(tmp_path / "file") as handle:
        fill(tmp_path / "file")
        handle.write(b"later")
    assert (tmp_path / "file").read_bytes() == b"later" and sorted(os.listdir(tmp_path)) == ["file", "out"]


def test_the_number_of_a_killed_process_may_belong_to_another_now(tmp_path: Path) -> None:
    leave(tmp_path, f".out.{os.getpid()}-0a1b2c3d.partial", "half")
    leave(tmp_path, f".out.{os.getppid()}.partial", "half")
    fill_folder(tmp_path / "out", "new")
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_that_was_moved_aside_is_put_back(tmp_path: Path) -> None:
    leave(tmp_path, ".out.77-0a1b2c3d.old", "model")
    leave(tmp_path, ".out.77-0a1b2c3d.partial", "next")
    recover(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["model"]
    leave(tmp_path, ".out.78-0a1b2c3d.old", "older")
    recover(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["model"]
    leave(tmp_path, ".out.78-0a1b2c3d.old", "older")
    with pytest.raises(ValueError, match="stop"):
        fill_folder(tmp_path / "out", "half", stop=True)
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["model"]
    recover(tmp_path / "absent" / "out")
    recover(tmp_path / "nothing")
    recover("no\0name")
    assert os.listdir(tmp_path) == ["out"]


def test_without_locks_leftovers_are_removed_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int, how: int) -> None:
        raise OSError(errno.EBADF, "no locks here")  # as for folders on some network file systems

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    new, old = (leave(tmp_path, f".out.{number}-0a1b2c3d.partial", "half") for number in (1, 2))
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    fill_folder(tmp_path / "out", "new")
    assert sorted(os.listdir(tmp_path)) == [new.name, "out"] and os.listdir(tmp_path / "out") == ["new"]


def test_a_writer_whose_place_is_cleaned_up_too_early_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, seen = files._held, list[Path]()

    @contextlib.contextmanager
    def late(path: Path) -> Iterator[bool]:
        seen.append(path)
        if len(seen) == 1:
            files._clean(tmp_path / "out")  # as by another process, before the lock is there
        with held(path) as kept:
            yield kept

    monkeypatch.setattr(files, "_held", late)
    fill(tmp_path / "out")
    assert len(seen) == 2 and os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"new"


def test_a_scratch_folder_goes_with_its_block_or_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with scratch_folder(tmp_path / "out.json") as folder:
        assert mode(folder) == 0o700 and folder.parent.name == "temporary"
        with scratch_folder(tmp_path / "out.json") as second, scratch_folder(tmp_path / "other.json") as other:
            assert len({folder, second, other}) == 3 and folder.is_dir()
        name = folder.name
    assert os.listdir(tmp_path / "temporary") == []
    leave(tmp_path / "temporary", name, "half")
    with scratch_folder(tmp_path / "other.json"):
        assert name in os.listdir(tmp_path / "temporary"), "it is that of another result"
    with scratch_folder(tmp_path / "out.json") as folder:
        assert os.listdir(tmp_path / "temporary") == [folder.name] != [name]
    assert os.listdir(tmp_path / "temporary") == [] and not (tmp_path / "out.json").exists()


def test_a_folder_is_removed_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_folder(tmp_path / "out", "one")
    remove_folder(tmp_path / "out")
    remove_folder(tmp_path / "out")
    assert os.listdir(tmp_path) == []
    fill_folder(tmp_path / "out", "one")
    monkeypatch.setattr(files.shutil, "rmtree", lambda path, ignore_errors: None)  # as if killed in it
    remove_folder(tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists() and len(os.listdir(tmp_path)) == 1
    fill_folder(tmp_path / "out", "two")
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == ["two"]


# stopped at every operation: by a signal that cannot be caught, and by Ctrl-C


def content(path: Path) -> str | None:
    if path.is_file():
        return path.read_text()
    return (path / "a").read_text() + (path / "b").read_text() if path.is_dir() else None


def write_one(path: Path) -> None:
    with whole_file(path) as handle:
        handle.write(b"ne")
        handle.write(b"w ")


def write_both(path: Path) -> None:
    with whole_folder(path) as folder:
        (folder / "a").write_text("ne")
        (folder / "b").write_text("w ")


def in_child(work: Callable[[], Any]) -> int:
    """The exit status of a forked process that does the work: 0, or the number of the signal that killed it."""
    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def stopped_at(number: int, how: str, target: Path, work: Callable[[Path], None]) -> bool:
    """Stop a process at an operation of the given number; whether it came so far."""
    reached = target.parent.parent / "reached"
    reached.unlink(missing_ok=True)

    def run() -> None:
        count = 0

        def on_event(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event.partition(".")[0] in ("open", "os", "shutil", "fcntl", "ctypes"):
                count += 1
                if count == number:
                    reached.touch()
                    if how == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise KeyboardInterrupt

        sys.addaudithook(on_event)
        work(target)

    status = in_child(run)
    assert status == (signal.SIGKILL if how == "kill" and reached.exists() else 0), status
    return reached.exists()


def stop_everywhere(how: str, work: Callable[[Path], None], exists: bool) -> int:
    """Stop a writer at every operation in turn; the number of operations. Raises AssertionError on any loss."""
    for number in range(1, 1000):
        with tempfile.TemporaryDirectory() as place:
            target = Path(place, "folder", "target")
            target.parent.mkdir()
            if exists and work is write_one:
                target.write_text("old ")
            elif exists:
                target.mkdir()
                (target / "a").write_text("old")
                (target / "b").write_text(" ")
            if not stopped_at(number, how, target, work):
                assert content(target) == (None if work is remove_folder else "new ")
                return number
            in_child(lambda target=target: recover(target))
            left = content(target)
            allowed = {"old "} if exists else {None}
            assert left in allowed | ({None} if work is remove_folder else {"new "}), (number, left)
            write_one(target) if work is write_one else write_both(target)
            assert content(target) == "new " and os.listdir(target.parent) == ["target"], (number, how)
    raise AssertionError("the writer never ends")


def stop_all() -> None:
    """Stop each kind of writer everywhere, with and without an exchange of folders in one step."""
    exchange = files._exchange
    for work in (write_one, write_both, remove_folder):
        for how in ("kill", "interrupt"):
            for exists in (False, True):
                for swapped in (True, False) if work is write_both and exists else (True,):
                    files._exchange = exchange if swapped else lambda one, other: False  # type: ignore[assignment]
                    count = stop_everywhere(how, work, exists)
                    print(f"{work.__name__}, {how}, exists={exists}, exchange={swapped}: {count} places")


def test_a_writer_can_be_stopped_anywhere() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.test_files"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    places = [int(line.split()[-2]) for line in done.stdout.splitlines()]
    assert len(places) == 14 and sum(places) > 150


if __name__ == "__main__":
    stop_all()
