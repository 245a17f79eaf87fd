"""Kills commands at random moments, and checks that nothing is lost, half written or left behind.

    python -m benchmarks.trust.kills --kills 500 --output benchmarks/trust/results.json

Every command writes over something that is there already. After a kill, what it writes must be what it was, or new and
whole; the next run must end, give what an undisturbed run gives, and remove what the killed one left. Half of the
kills come at a random time, the other half at a random operation on the files that the command writes. A process that
has the libraries loaded forks for each run, which takes a tenth of the time of a start; ``--real`` of the kills hit
commands that are started as users start them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.trust.record import Recorder, quiet_libraries, write_small_base

quiet_libraries()

from cllmfs.cli.app import app  # noqa: E402
from cllmfs.recognizer import EntityRecognizer  # noqa: E402, F401  # loaded here once for all forked processes
from cllmfs.training.recipe import Recipe  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDED = {0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
WRITING = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "shutil.rmtree", "shutil.copymode")
# What two undisturbed runs do not have in common.
VARYING = {"seconds", "process_seconds", "peak_megabytes"}
NAMES = ("Ada", "Bo", "Kim", "Zoe", "Max", "Eva", "Tom", "Lea")
TOWNS = ("Rome", "Oslo", "Lima", "Bern", "Kiel", "Bonn", "Graz", "Pisa")
SYSTEM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[-1])
lines = (folder / "texts.jsonl").read_text().splitlines()
made = [json.dumps({"spans": [{"start": 0, "end": 3, "label": "person", "score": 0.5}]}) for line in lines]
(folder / "spans.jsonl").write_text("\\n".join(made) + "\\n")
"""
BENCHMARK = """
[[runs]]
datasets = ["towns"]
shots = [1, 2]
supports = 2
[systems.first]
command = ["{python}", "-S", "{here}/system.py"]
"""


@dataclass(frozen=True)
class Job:
    """A command that writes something.

    Attributes:
        command: the arguments of cllmfs; the working folder holds copies of ``inputs``.
        targets: the files or folders that it writes.
        again: the arguments of the next run, after a kill.
        inputs: files and folders of the home folder that the working folder gets.
        before: a function that puts something old where the command writes.
        grows: whether every file of a target is written by itself, so that some may be there and others not.
    """

    name: str
    command: list[str]
    targets: list[str]
    again: list[str] = field(default_factory=list)
    inputs: tuple[str, ...] = ()
    before: Callable[[Path], None] = lambda _: None
    grows: bool = False


def _old_files(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).write_text("old\n") for name in names] and None


def _old_model(folder: Path) -> None:
    shutil.copytree(folder.parent / "other", folder / "model")


TRAIN = ["train", "shots.jsonl", "--base", "../base", "--output", "model", "--set", "train.steps=12"]
TRAIN += ["--set", "calibrate.folds=0", "--set", "lora.rank=2", "--set", "train.replay=0", "--set", "lora.keep=1"]
RESULTS = ["benchmark", "benchmark.toml", "--data", ".", "--output", "results"]
JOBS = (
    Job("train", TRAIN, ["model"], [*TRAIN, "--resume"], ("shots.jsonl",)),
    Job("train --overwrite", [*TRAIN, "--overwrite"], ["model"], [], ("shots.jsonl",), _old_model),
    Job("predict", ["predict", "../other", "--input", "texts.txt", "--output", "out.jsonl"], ["out.jsonl"], [],
        ("texts.txt",), _old_files("out.jsonl")),
    Job("convert", ["convert", "shots.jsonl", "out.conll"], ["out.conll"], [], ("shots.jsonl",),
        _old_files("out.conll")),
    Job("sample", ["sample", "many.jsonl", "--k", "3", "--output", "out.jsonl"], ["out.jsonl"], [], ("many.jsonl",),
        _old_files("out.jsonl")),
    Job("merge", ["merge", "../other", "--output", "merged"], ["merged"]),
    Job("calibrate", ["calibrate", "other", "many.jsonl", "--recall", "0.05"], ["other"], [], ("other", "many.jsonl"),
        grows=True),
    Job("benchmark", RESULTS, ["results"], [], ("benchmark.toml", "system.py", "towns"), grows=True),
    Job("report", ["report", "results", "--output", "page.md", "--no-plot"], ["page.md"], [], ("results",),
        _old_files("page.md")),
)  # fmt: skip
WEIGHTS = {"train": 6, "train --overwrite": 3, "predict": 5, "convert": 4, "merge": 3, "calibrate": 3, "benchmark": 4}


def sentences(first: int, count: int) -> Iterator[dict[str, Any]]:
    for number in range(first, first + count):
        one, town = NAMES[number % 8], TOWNS[(number * 3 + number // 8) % 8]
        text = f"{one} met nobody in {town}, number {number}."
        at = text.index(town)
        spans = [{"start": 0, "end": len(one), "label": "person"}]
        yield {"text": text, "spans": [*spans, {"start": at, "end": at + len(town), "label": "place"}]}


def make_home(home: Path) -> None:
    """Everything that the commands need, in one folder; two models of a small base, of which one is trained."""
    (home / "towns").mkdir(parents=True)
    files = {"shots": (0, 6), "many": (100, 200), "towns/train": (0, 40), "towns/test": (100, 10)}
    for name, (first, count) in files.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in sentences(first, count)))
    (home / "texts.txt").write_text("".join(one["text"] + "\n" for one in sentences(0, 100)))
    (home / "system.py").write_text(SYSTEM)
    (home / "benchmark.toml").write_text(BENCHMARK)
    (home / "temporary").mkdir()
    write_small_base(home / "base")


def in_child(arguments: Sequence[str], folder: Path, stop_at: int = 0, how: int = signal.SIGKILL) -> int:
    """Fork a process that runs a command in a folder; its number.

    It counts its operations on the files of the folder; at the one of the number ``stop_at`` it sends itself a signal.
    """
    if child := os.fork():
        return child
    code = 1
    try:
        run_here(arguments, folder, stop_at, how)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's work may go on here


def run_here(arguments: Sequence[str], folder: Path, stop_at: int, how: int) -> None:
    """Run a command in this forked process, in a folder; what it prints and the count of its operations lie beside."""
    os.setsid()
    os.chdir(folder)
    log = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    counts = os.open(folder.parent / f"{folder.name}.count", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count, place = 0, str(folder)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        names = [one for one in arguments[: 1 if event == "open" else 2] if isinstance(one, str | os.PathLike)]
        if event not in WRITING or not any(os.path.abspath(name).startswith(place) for name in names):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        count += 1
        os.write(counts, b".")
        if count == stop_at:
            os.kill(os.getpid(), how)

    sys.addaudithook(on_event)
    try:
        app(list(arguments), prog_name="cllmfs")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def started(arguments: Sequence[str], folder: Path) -> int:
    """Start a command as users do; the number of its process."""
    command = [sys.executable, "-m", "cllmfs", *arguments]
    with open(folder.parent / f"{folder.name}.log", "wb") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True).pid


def wait(process: int) -> int:
    """The exit status of a process, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def undisturbed(arguments: Sequence[str], folder: Path) -> tuple[int, float, int]:
    """Run a command to its end: exit status, seconds, and operations on files."""
    began = time.monotonic()
    code = wait(in_child(arguments, folder))
    return code, time.monotonic() - began, (folder.parent / f"{folder.name}.count").stat().st_size


def content(path: Path) -> Any:
    """What there is at a path, ready to be compared: without durations, and with the names of all files."""
    if path.is_dir():
        return {str(one.relative_to(path)): content(one) for one in sorted(path.rglob("*")) if one.is_file()}
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        record = json.loads(data)
    except ValueError:
        return hashlib.sha256(data).hexdigest()
    return {k: v for k, v in record.items() if k not in VARYING} if isinstance(record, dict) else record


def hidden(folder: Path) -> list[str]:
    """Names that no user should find."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def _is_hidden(path: str) -> bool:
    return Path(path).name.startswith(".")


class Kills:
    """Kills, what came of them, and the faults."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.rng = home, random.Random(seed)
        self.counts, self.faults = Counter[str](), list[str]()
        self.references: dict[str, tuple[Any, float, int]] = {}
        self.round = 0

    def fresh(self, job: Job) -> Path:
        """A new working folder for a job."""
        self.round += 1
        folder = self.home / f"round{self.round:04}"
        folder.mkdir()
        for name in job.inputs:
            source = self.home / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, folder / name)  # type: ignore[operator]
        job.before(folder)
        return folder

    def log(self, folder: Path) -> str:
        """The end of what a command printed."""
        return (self.home / f"{folder.name}.log").read_text(errors="replace")[-500:]

    def targets(self, job: Job, folder: Path) -> dict[str, Any]:
        return {name: content(folder / name) for name in job.targets}

    def learn_all(self) -> None:
        """Run every job undisturbed; the model and the results that other jobs need come first."""
        first = Job("other", [*TRAIN, "--seed", "7"], ["model"], inputs=("shots.jsonl",))
        for job in (first, *JOBS):
            folder = self.learn(job)
            if job is first:
                shutil.move(folder / "model", self.home / "other")
            if job.name == "benchmark":
                shutil.move(folder / "results", self.home / "results")

    def choose(self) -> Job:
        """A job, by its weight."""
        return self.rng.choices(JOBS, [WEIGHTS.get(job.name, 1) for job in JOBS])[0]

    def learn(self, job: Job) -> Path:
        """Run a job undisturbed, to know its outcome, its duration and its operations; its folder."""
        folder = self.fresh(job)
        code, seconds, operations = undisturbed(job.command, folder)
        self.references[job.name] = (self.targets(job, folder), seconds, operations)
        if code or hidden(folder):
            raise SystemExit(f"{job.name}: undisturbed, exit status {code}, {hidden(folder)}, {self.log(folder)}")
        print(f"{job.name}: {seconds:.1f} s, {operations} operations", file=sys.stderr, flush=True)
        return folder

    def disturb(self, job: Job, arguments: Sequence[str], folder: Path, real: bool) -> int:
        """Start a command and kill it; its exit status."""
        _, seconds, operations = self.references[job.name]
        how = self.rng.choice(SIGNALS)
        by_time = real or self.rng.random() < 0.5
        if real:
            process = started(arguments, folder)
            seconds += 5
        else:
            process = in_child(arguments, folder, 0 if by_time else self.rng.randint(1, operations), how)
        if by_time:
            threading.Event().wait(self.rng.uniform(0, 1.05 * seconds))
            os.kill(process, how)  # it cannot be another one, since nobody has waited for it yet
        code = wait(process)
        if code == 1 and how == signal.SIGINT and "Aborted" in self.log(folder):  # before the command itself began
            code = 130
        key = f"{job.name}: {'real start, ' if real else ''}{signal.Signals(-code).name if code < 0 else code}"
        self.counts[key] += 1
        self.counts["kills"] += code not in (0, 2)  # the others had ended before
        return code

    def run(self, job: Job, real: bool = False) -> None:
        """Kill a job, perhaps several times, and let it end."""
        folder, complaints = self.fresh(job), []
        reference, before = self.references[job.name][0], self.targets(job, folder)
        arguments, code = job.command, 1
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            code = self.disturb(job, arguments, folder, real)
            self.check(job, folder, before, reference, code, complaints)
            if code == 0:
                break
            before = self.targets(job, folder) if job.grows else before
            arguments = job.again or job.command
        if code != 0:
            last = wait(started(arguments, folder) if real else in_child(arguments, folder))
            refused = last == 2 and content(folder / job.targets[0]) == reference[job.targets[0]]  # it was done
            if last and not refused:
                complaints.append(f"the next run ends with exit status {last}")
        if self.targets(job, folder) != reference:
            complaints.append("the result is not that of an undisturbed run")
        if left := hidden(folder):
            complaints.append(f"left behind: {left}")
        if complaints:
            self.faults.append(f"{job.name}, {folder.name}: {'; '.join(complaints)}. {self.log(folder)}")
        else:
            shutil.rmtree(folder)

    def check(self, job: Job, folder: Path, before: Any, reference: Any, code: int, complaints: list[str]) -> None:
        """What must be true right after a kill."""
        if code not in ENDED and not (code == 2 and self.targets(job, folder) == reference):
            complaints.append(f"exit status {code}: {self.log(folder)}")
        for name, now in self.targets(job, folder).items():
            whole = (before[name], reference[name])
            if job.grows:
                visible = {key: value for key, value in (now or {}).items() if not _is_hidden(key)}
                old, new = ({k: v for k, v in (each or {}).items() if not _is_hidden(k)} for each in whole)
                if any(value not in (old.get(key), new.get(key)) for key, value in visible.items()):
                    complaints.append(f"{name} has a half file")
                if lost := old.keys() - visible.keys():
                    complaints.append(f"{name} has lost {sorted(lost)}")
            elif now not in whole:
                complaints.append(f"{name} is neither old nor new")


def frequent_checkpoints() -> None:
    """Let every training save its state after three steps, so that trainings of a second have something to lose."""
    plan = Recipe.plan
    Recipe.plan = lambda config, sentences, width, changes=None: plan(  # type: ignore[method-assign, assignment]
        config, sentences, width, {"checkpoint_every": 3, **(changes or {})}
    )


def main() -> None:
    recorder = Recorder(__file__, __doc__ or "")
    recorder.parser.add_argument("--kills", type=int, default=30)
    recorder.parser.add_argument("--real", type=int, default=0, help="rounds with commands that are started anew")
    options = recorder.parse()
    frequent_checkpoints()
    with tempfile.TemporaryDirectory() as place:
        home = Path(os.path.realpath(place), "home")
        make_home(home)
        tempfile.tempdir = os.environ["TMPDIR"] = str(home / "temporary")  # of the commands, to see what they leave
        kills = Kills(home, options.seed)
        kills.learn_all()
        while kills.counts["kills"] < options.kills:
            kills.run(kills.choose(), real=kills.counts["rounds"] < options.real)
            kills.counts["rounds"] += 1
        left = len(os.listdir(home / "temporary"))
    record = {"kills": kills.counts.pop("kills"), "real_rounds": options.real, "faults": len(kills.faults)}
    counts = dict(sorted(kills.counts.items()))
    recorder.finish(
        {**record, "temporary_folders_left": left, "ends": counts, "shown": kills.faults[:20]}, record["faults"]
    )


if __name__ == "__main__":
    main()
