"""Shows the records of training steps: as a bar on a terminal, otherwise as lines at intervals."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from cllmfs.training.loop import Progress

_SECONDS_BETWEEN_LINES = 30.0  # if there is no terminal


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, and as hours if it is an hour or more."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_facts(progress: Progress) -> str:
    """Losses, dev F1 and speed of a step in one line."""
    step = progress.step
    facts = [f"loss {step.loss:.3f} (language {step.language:.3f}, contrastive {step.contrastive:.3f})"]
    if progress.dev_f1 is not None and progress.best_f1 is not None:
        facts.append(f"dev F1 {progress.dev_f1:.3f}, best {progress.best_f1:.3f}")
    return ", ".join([*facts, f"{progress.tokens_per_second:,.0f} tokens/s"])


def is_watched() -> bool:
    """Whether a person sees standard error: it is a terminal, or this is a notebook."""
    return _on_terminal() or "ipykernel" in sys.modules


def _on_terminal() -> bool:
    """Whether standard error is a terminal; programs without a console have none, or something else in its place."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):
        return False


class TrainingProgress:
    """Shows training steps on standard error; a context manager that is called with each step.

    Attributes:
        last: the record of the latest step of training; ``None`` before the first, and during calibration.
    """

    def __init__(self) -> None:
        self.last: Progress | None = None
        self._phase, self._first, self._printed_number = "", 0, 0
        self._began = self._printed = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if _on_terminal():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            names = ("phase", "count", "left", "facts")
            texts = [TextColumn(f"{{task.fields[{name}]}}", markup=False) for name in names]
            self._bar = Bar(texts[0], BarColumn(16), *texts[1:], console=Console(stderr=True, highlight=False))
            self._task = self._bar.add_task("", total=None, phase="training", count="", left="", facts="preparing")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show a step."""
        number, total, now = progress.step.number, progress.step.total, time.monotonic()
        begun = self._phase == progress.phase
        if not begun:
            self._phase, self._first, self._began, self._printed_number = progress.phase, number, now, 0
        training = progress.phase == "training"
        self.last = progress if training else None
        done = number - self._first  # a resumed run begins late: its speed is that of its own steps
        left = f"{clock((now - self._began) / done * (total - number))} left" if done else ""
        count, facts = f"step {number}/{total}", progress_facts(progress)
        if self._bar is not None and self._task is not None:
            shown: dict[str, Any] = {"phase": progress.phase, "count": count, "left": left, "facts": facts}
            self._bar.update(self._task, completed=number, total=total, **shown)
            return
        far = (number - self._printed_number) * 10 >= total or now - self._printed >= _SECONDS_BETWEEN_LINES
        if not begun or far or number == total:
            phase = "" if training else progress.phase
            print(", ".join(part for part in (phase, count, facts, left) if part), file=sys.stderr, flush=True)
            self._printed, self._printed_number = now, number
