"""What is shown while a model trains, on a terminal and elsewhere."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

import pytest

from cllmfs import progress as progress_module
from cllmfs.progress import TrainingProgress, clock


@dataclass
class Step:
    number: int
    total: int = 40
    loss: float = 1.25
    language: float = 1.0
    contrastive: float = 0.5
    gradient_norm: float = 0.0
    tokens: int = 0


@dataclass
class Progress:
    step: Step
    tokens_per_second: float = 1234.5
    dev_f1: float | None = None
    best_f1: float | None = None
    phase: str = "training"


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_clock(seconds: float, said: str) -> None:
    assert clock(seconds) == said


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress() as progress:
        for number in range(1, 41):
            progress(Progress(Step(number), dev_f1=0.5 if number > 20 else None, best_f1=0.75))  # type: ignore[arg-type]
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert [int(re.match(r"step (\d+)/40, ", line)[1]) for line in lines] == [1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 40]  # type: ignore[index]
    assert lines[0] == "step 1/40, loss 1.250 (language 1.000, contrastive 0.500), 1,234 tokens/s"
    assert "dev F1 0.500, best 0.750" in lines[-1] and lines[-1].endswith("0:00 left")
    assert progress.last is not None and progress.last.step.number == 40


def test_time_left_of_a_resumed_run_counts_its_own_steps_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    with TrainingProgress() as progress:
        now[0] += 1000  # loading
        progress(Progress(Step(30)))  # type: ignore[arg-type]
        now[0] += 8
        progress(Progress(Step(34)))  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines()[-1].endswith("0:12 left")  # 2 s a step, 6 steps


def test_each_phase_of_training_begins_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    phases = [("calibrating, part 1 of 2", 1), ("calibrating, part 2 of 2", 1), ("training", 2)]
    with TrainingProgress() as progress:
        for phase, seconds in phases:
            for number in range(1, 41):
                now[0] += seconds
                progress(Progress(Step(number), phase=phase))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 * 11
    for (phase, seconds), part in zip(phases, (lines[:11], lines[11:22], lines[22:]), strict=True):
        named = "" if phase == "training" else f"{phase}, "
        assert [line.partition("/40, ")[0] for line in part] == [
            f"{named}step {number}" for number in (1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 40)
        ]
        assert part[0].endswith("tokens/s"), "nothing is known of its speed yet"
        assert part[1].endswith(f"{clock(35 * seconds)} left"), "each has a speed of its own"
    assert progress.last is not None and progress.last.phase == "training"


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard error a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watch(monkeypatch)
    with TrainingProgress() as progress:
        progress(Progress(Step(40)))  # type: ignore[arg-type]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "training" in captured.err and "step 40/40" in captured.err
    assert "loss 1.250" in captured.err and "━" in captured.err


def test_the_bar_names_the_phase_and_goes_on_to_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(monkeypatch)

    def shown(given: Progress) -> str:
        """The bar's line as it stands after this step."""
        progress(given)  # type: ignore[arg-type]
        assert progress._bar is not None
        progress._bar.refresh()
        plain_text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capsys.readouterr().err)
        return plain_text.replace("\r", "\n").splitlines()[-1]

    with TrainingProgress() as progress:
        line = shown(Progress(Step(20, 20), phase="calibrating, part 2 of 2"))
        assert line.startswith("calibrating, part 2 of 2 ") and "step 20/20" in line
        line = shown(Progress(Step(1)))
        assert line.startswith("training ") and "step 1/40" in line and "left" not in line
        assert "left" in shown(Progress(Step(2)))
