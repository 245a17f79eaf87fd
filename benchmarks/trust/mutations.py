"""Gives damaged inputs to every command, and counts tracebacks, hangs, crashes and endless messages.

    python -m benchmarks.trust.mutations --inputs 10000 --output benchmarks/trust/results.json
    python -m benchmarks.trust.mutations --first 1234 --inputs 1 --failures /tmp/failures

An input is a file of a user, of a model folder, of a base or of a benchmark, damaged at random (``damage.py``), or an
argument. A command must end with exit status 0, or with 2 and a message, whatever the input. The commands run in a
forked process, one after another; if that process dies, the input counts as a crash, and another process goes on.
Which input is damaged how depends on its number and the seed alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import select
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.trust.damage import STRANGE, TOML_VALUES, damaged
from benchmarks.trust.kills import TRAIN, in_child, make_home, wait
from benchmarks.trust.record import Recorder
from cllmfs.cli.app import app
from cllmfs.config import Config, list_settings
from cllmfs.formats.table import FORMATS

CPU_LIMIT, WALL_LIMIT, SILENCE_LIMIT = 10, 90, 400  # seconds of an input, and of a process that says nothing
PER_BYTE = 0.003  # seconds more for each byte of the file: a base with a token a byte may find a span at each of them
LONGEST_MESSAGE = 2000
MEMORY = 4 << 30  # bytes that the process may take beyond what it has when it starts

QUICK = ["--set", "train.steps=1", "--set", "calibrate.folds=0", "--set", "lora.rank=1", "--set", "train.replay=0"]
MODEL = (
    ["info", "model", "--json"],
    ["info", "model", "--config"],
    ["predict", "model", "Ada met Bo in Rome."],
    ["evaluate", "model", "few.jsonl"],
    ["merge", "model", "-o", "out/merged"],
    ["calibrate", "model", "towns/test.jsonl", "--recall", "0.5"],
)
BASE = (
    ["info", "base"],
    ["predict", "base", "--label", "person", "Ada met Bo in Rome."],
    ["train", "few.jsonl", "--base", "base", "-o", "out/model", *QUICK],
)
LABELED = (
    ["validate", "{}"],
    ["validate", "{}", "--json", "--labels", "labels.toml"],
    ["convert", "{}", "out/made.jsonl"],
    ["convert", "{}", "out/made", "--to", "{format}"],
    ["convert", "{}", "out/made", "--to", "{format}", "--scheme-out", "bioes"],
    ["sample", "{}", "--k", "1", "-o", "out/made.jsonl"],
    ["sample", "{}", "--k", "1", "--n-way", "1", "--method", "episode", "-o", "out/made.jsonl"],
    ["validate", "{}", "--format", "{format}"],
    ["predict", "model", "--input", "{}", "-o", "out/made.jsonl"],
    ["evaluate", "model", "{}", "--limit", "3"],
    ["train", "{}", "--base", "base", "-o", "out/model", *QUICK],
    ["train", "few.jsonl", "--dev", "{}", "--base", "base", "-o", "out/model", *QUICK],
)
LABELS = (
    ["validate", "few.jsonl", "--labels", "{}"],
    ["sample", "few.jsonl", "--k", "1", "--labels", "{}", "-o", "out/made.jsonl"],
    ["predict", "base", "--labels", "{}", "Ada met Bo."],
    ["train", "few.jsonl", "--labels", "{}", "--base", "base", "-o", "out/model", *QUICK],
)
DATA = (["data", "list", "."], ["data", "info", "towns"], ["data", "info", "towns", "--json"])
DRY_RUN = ["benchmark", "{}", "--data", ".", "-o", "out/results", "--dry-run"]


@dataclass(frozen=True)
class Kind:
    """A file that is damaged, how it is written, the commands that read it, and how often it is chosen."""

    path: str
    syntax: str
    commands: tuple[list[str], ...]
    weight: int = 2


def kinds(home: Path) -> list[Kind]:
    """All files; formats come from the package's table, so that a new one is tried as soon as it is there."""
    labeled = [Kind(f"labeled.{name}", _syntax(home / f"labeled.{name}"), LABELED, 8) for name in FORMATS]
    plain = ("bytes", (["predict", "model", "--input", "{}", "-o", "out/made.jsonl"],))
    return [
        *labeled,
        *(Kind(f"labels.{suffix}", syntax, LABELS, 4)
          for suffix, syntax in (("toml", "toml"), ("json", "json"), ("txt", "columns"))),
        Kind("texts.txt", *plain),
        Kind("settings.toml", "toml", (["train", "absent.jsonl", "--config", "{}", "-o", "out/model"],), 6),
        Kind("model/cllmfs.json", "json", MODEL, 8),
        Kind("model/adapter_config.json", "json", MODEL[1:5], 4),
        Kind("model/adapter_model.safetensors", "bytes", MODEL[2:4], 3),
        Kind("base/config.json", "json", BASE, 5),
        Kind("base/tokenizer.json", "json", BASE, 4),
        Kind("base/tokenizer_config.json", "json", BASE, 5),
        Kind("base/generation_config.json", "json", BASE[:2], 1),
        Kind("base/cllmfs_prompt.json", "json", BASE, 4),
        Kind("base/cllmfs_calibration.json", "json", BASE, 4),
        Kind("base/model.safetensors", "bytes", BASE[:2], 2),
        Kind("benchmark.toml", "toml", (DRY_RUN,), 6),
        Kind("episodes.toml", "toml", (DRY_RUN,), 2),
        Kind("episodes.jsonl", "jsonl", ([*DRY_RUN[:1], "episodes.toml", *DRY_RUN[2:]],), 3),
        Kind("results/first/towns/test-1-shot-0.json", "json",
             (["report", "results", "-o", "out/page.md", "--no-plot"],
              ["benchmark", "benchmark.toml", "--data", ".", "-o", "results", "--dry-run"]), 5),
        Kind("towns/META.json", "json", DATA, 3),
        Kind("towns/test.jsonl", "jsonl", (*DATA[1:], [*DRY_RUN[:1], "benchmark.toml", *DRY_RUN[2:]]), 3),
    ]  # fmt: skip


def _syntax(path: Path) -> str:
    data = path.read_bytes()
    return "jsonl" if data.startswith(b"{") and b"\n{" in data else "json" if data[:1] in (b"{", b"[") else "columns"


def prepare(home: Path) -> None:
    """The files before they are damaged; commands write them, each in a process of its own."""
    make_home(home)
    (home / "few.jsonl").write_text((home / "shots.jsonl").read_text())
    (home / "texts.txt").write_text("Ada met Bo in Rome.\nEva left.\n\nKim 東京\n")
    names = {"person": "who, by name", "place": "where"}
    (home / "labels.toml").write_text("[labels]\nperson = 'who, by name'\nplace = 'where'\n")
    (home / "labels.json").write_text(json.dumps([{"name": k, "description": v} for k, v in names.items()]))
    (home / "labels.txt").write_text("".join(f"{k}\t{v}\n" for k, v in names.items()))
    (home / "settings.toml").write_text(Config().to_toml())
    words = {"word": [["Ada", "saw", "Rome"], ["no"]], "label": [["person", "O", "place"], ["O"]]}
    episode = json.dumps({"support": words, "query": words, "types": ["person", "place"]})
    (home / "episodes.jsonl").write_text(f"{episode}\n{episode}\n")
    runs = '[[runs]]\ndatasets = ["towns"]\nshots = [1]\nsupports = 1\n[systems.first]\ncommand = ["{python}"]\n'
    (home / "episodes.toml").write_text(f'{runs}[data.towns]\nepisodes = "episodes.jsonl"\n')
    (home / "towns" / "META.json").write_text(
        json.dumps({"license": "CC0", "language": "en", "sentences": {"train": 40, "test": 10}, "types": 2})
    )
    numbers = {"slope": 0.42, "shift": -0.5, "threshold": 0.2, "vote": 0.5}
    figures = dict.fromkeys(("trained", "few_mentions", "zero_shot"), numbers)
    (home / "base" / "cllmfs_calibration.json").write_text(json.dumps(figures))
    train = [*TRAIN]
    train[train.index("../base")] = "base"
    commands = [train, ["benchmark", "benchmark.toml", "--data", ".", "--output", "results"]]
    commands.append(["calibrate", "model", "many.jsonl", "--recall", "0.05"])  # so that the manifest has a guarantee
    commands += [["convert", "shots.jsonl", f"labeled.{name}", "--to", name] for name in FORMATS]
    for command in commands:
        if wait(in_child(command, home)):
            raise SystemExit(f"{shlex.join(command)}: {home.with_suffix('.log').read_text()}")


@dataclass
class Case:
    """A damaged input and a command."""

    number: int
    path: str
    data: bytes
    arguments: list[str]
    fault: str = ""
    output: str = ""
    seconds: float = 0.0
    code: int | None = None


def cases(home: Path, seed: int, first: int, count: int) -> Iterator[Case]:
    """The inputs of the numbers from ``first`` on."""
    known = kinds(home)
    originals = {kind.path: (home / kind.path).read_bytes() for kind in known}
    if first < 0:  # every command on undamaged files, to see that each reads what it is meant to read
        for kind in known:
            for command in kind.commands:
                filled = [word.replace("{}", kind.path).replace("{format}", "jsonl") for word in command]
                yield Case(-1, kind.path, originals[kind.path], filled)
        return
    for number in range(first, first + count):
        rng = random.Random(f"{seed} {number}")
        if rng.random() < 0.05:
            yield Case(number, "", b"", _odd_arguments(rng))
            continue
        kind = rng.choices(known, [one.weight for one in known])[0]
        command = [*rng.choice(kind.commands)]
        filled = [word.replace("{}", kind.path).replace("{format}", rng.choice(list(FORMATS))) for word in command]
        yield Case(number, kind.path, damaged(originals[kind.path], kind.syntax, rng), filled)


def _odd_arguments(rng: random.Random) -> list[str]:
    """A command with an odd argument, such as a shell could pass: without NUL, and bytes only as Python shows them."""
    odd = str(rng.choice((*STRANGE, *TOML_VALUES)))[:50_000].replace("\0", "").encode("utf-8", "ignore").decode()
    odd = rng.choice((odd, "\udcff\udc80", "-", "--", "-x", "hf:", "hf:../..", "catalog:", "hf:a/b?c", "cllmfs-mini/x"))
    setting = rng.choice([f"{one.section}.{one.name}" for one in list_settings()])
    return rng.choice(
        (
            ["train", "absent.jsonl", "-o", "out/model", "--set", f"{setting}={odd}"],
            ["predict", "model", "Ada", "--set", f"{setting}={odd}"],
            ["predict", "model", "Ada", "--threshold", odd],
            ["predict", "base", odd, "--label", "person"],
            ["predict", "base", "Ada", "--label", odd],
            ["predict", odd, "Ada"],
            ["info", odd],
            ["data", "info", odd],
            ["train", "few.jsonl", "--base", odd, "-o", "out/model", *QUICK],
            ["benchmark", "benchmark.toml", "--data", ".", "-o", "out/results", "--dry-run", "--define", odd],
            ["benchmark", "benchmark.toml", "--data", ".", "-o", "out/results", "--dry-run", "--system", odd],
            ["validate", odd],
            ["convert", "few.jsonl", odd],
            ["sample", "few.jsonl", "--k", odd],
            ["calibrate", "model", "few.jsonl", "--recall", odd],
        )
    )


class TooSlowError(BaseException):
    """Raised by a timer; no command catches it."""


def try_case(case: Case) -> None:
    """Run a command in this process, in the home folder, and state its fault."""
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in "oe"]
    shutil.rmtree("out", ignore_errors=True)
    os.mkdir("out")
    original = Path(case.path).read_bytes() if case.path else b""
    began, trace = time.process_time(), ""

    def stop(*_: Any) -> None:
        raise TooSlowError

    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    if case.path:
        Path(case.path).write_bytes(case.data)
    try:
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT + PER_BYTE * len(case.data))
        signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT + PER_BYTE * len(case.data))
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            app(case.arguments, prog_name="cllmfs")
    except SystemExit as end:
        case.code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except TooSlowError:
        case.fault = "hang"
        trace = traceback.format_exc()
    except BaseException:  # a panic of compiled code, for example
        case.fault, trace = "traceback", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if case.path:
            Path(case.path).write_bytes(original)
    out, errors = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    case.seconds, case.output = time.process_time() - began, trace or errors
    if not case.fault and case.code not in (0, 2):
        case.fault = "traceback"
    shown = errors + (out if case.arguments[0] == "validate" and "--json" not in case.arguments else "")
    if not case.fault and max(map(len, [*shown.splitlines(), errors[errors.rfind("error:") :]])) > LONGEST_MESSAGE:
        case.fault, case.output = "message", shown


def signature(case: Case) -> str:
    """What equal faults have in common: the exception and the last line of the package, or the message's beginning."""
    frames = re.findall(r'/cllmfs/([\w/]+\.py)", line \d+, in (\w+)', case.output)
    last = case.output.strip().splitlines()[-1:] or [""]
    place = ":".join(frames[-1]) if frames else case.arguments[0]
    return f"{case.fault}: {place}: {re.sub(r'[^A-Za-z ]+', ' ', last[0])[:60]}"


@dataclass
class Tried:
    """What came of all inputs."""

    codes: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, int] = (0.0, -1)
    smallest: dict[str, Case] = field(default_factory=dict)

    def add(self, case: Case) -> None:
        self.codes[str(case.code)] += 1
        self.commands[case.arguments[0]] += 1
        self.slowest = max(self.slowest, (round(case.seconds, 2), case.number))
        if case.number < 0 and case.code and not case.fault:
            case.fault = "undamaged"
        if case.fault:
            self.faults[case.fault] += 1
            name = signature(case)
            self.kinds[name] += 1
            if name not in self.smallest or len(case.data) < len(self.smallest[name].data):
                self.smallest[name] = case
                print(f"{case.number}: {name}", file=sys.stderr, flush=True)


def in_worker(home: Path, todo: list[Case], pipe: int) -> None:
    """Try cases one after another in this forked process, and write a line of JSON for each."""
    os.setsid()
    os.chdir(home)
    os.environ["CLLMFS_DEBUG"] = "1"  # an unexpected error shows its traceback
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for case in todo:
        try_case(case)
        line = {"fault": case.fault, "output": case.output[-20_000:], "seconds": case.seconds, "code": case.code}
        os.write(pipe, (json.dumps(line) + "\n").encode())


def try_all(home: Path, todo: list[Case], tried: Tried) -> None:
    """Try all cases in forked processes; one that dies or falls silent ends its case, and the next goes on after it."""
    at = 0
    while at < len(todo):
        reader, writer = os.pipe()
        if not (worker := os.fork()):
            os.close(reader)
            code = 1
            with contextlib.suppress(BaseException):
                in_worker(home, todo[at : at + 500], writer)
                code = 0
            os._exit(code)
        os.close(writer)
        end = min(at + 500, len(todo))
        silent = False
        with open(reader, "rb", buffering=0) as lines:
            pending = b""
            while select.select([lines], [], [], SILENCE_LIMIT)[0] and (read := lines.read(1 << 16)):
                *whole, pending = (pending + read).split(b"\n")
                for line in whole:
                    vars(todo[at]).update(json.loads(line))
                    tried.add(todo[at])
                    at += 1
            silent = not select.select([lines], [], [], 0)[0]
        if silent:
            os.kill(worker, signal.SIGKILL)
        ended = wait(worker)
        if at < end:
            todo[at].fault, todo[at].output = ("hang", "no answer") if silent else ("crash", f"exit status {ended}")
            tried.add(todo[at])
            _restore(home, todo[at])
            at += 1


def _restore(home: Path, case: Case) -> None:
    """Put the undamaged file back, which a process that died could not do."""
    if case.path:
        shutil.copyfile(home / "undamaged" / case.path, home / case.path)


def keep(folder: Path, tried: Tried) -> None:
    """Write the smallest input of each fault into a folder, with the command that repeats it."""
    for name, case in tried.smallest.items():
        place = folder / f"{case.number}"
        place.mkdir(parents=True, exist_ok=True)
        if case.path:
            (place / Path(case.path).name).write_bytes(case.data)
        command = shlex.join(word[:200] for word in ["cllmfs", *case.arguments])
        text = f"{name}\n\n{command}\n\ndamaged file: {case.path or 'none'}\n\n{case.output[-6000:]}\n"
        (place / "fault.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def main() -> None:
    recorder = Recorder(__file__, __doc__ or "")
    recorder.parser.add_argument("--inputs", type=int, default=300)
    recorder.parser.add_argument("--first", type=int, default=0, help="number of the first input")
    recorder.parser.add_argument("--command", help="try only the inputs of this command")
    recorder.parser.add_argument("--failures", type=Path, help="folder for the inputs that fail")
    options = recorder.parse()
    tried = Tried()
    with tempfile.TemporaryDirectory() as place:
        home = Path(os.path.realpath(place), "home")
        prepare(home)
        for kind in kinds(home):
            (home / "undamaged" / kind.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(home / kind.path, home / "undamaged" / kind.path)
        todo = cases(home, options.seed, options.first, options.inputs)
        try_all(home, [case for case in todo if options.command in (None, case.arguments[0])], tried)
    if options.failures is not None:
        keep(options.failures, tried)
    record = {name: tried.faults[name] for name in ("traceback", "crash", "hang", "message")}
    record |= {"exit_statuses": dict(tried.codes), "commands": dict(tried.commands), "slowest": tried.slowest}
    recorder.finish({**record, "kinds_of_faults": dict(tried.kinds.most_common(40))}, tried.faults.total())


if __name__ == "__main__":
    main()
