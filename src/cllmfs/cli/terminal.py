"""What a person at a terminal meets: exit codes, messages, tables, highlighted spans, a progress bar.

Results go to standard output, all else to standard error. Knows rich, spans and scores; knows nothing of how they came
about, nor of any option of a command.

    exit code   0 done   1 a fault of ours or the machine's   2 a mistake the user can mend   130 Ctrl-C
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Self

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from cllmfs.errors import CllmfsError
from cllmfs.evaluation import PAPER_LINE_NOTE, Rates, Scores
from cllmfs.schema import Document

if TYPE_CHECKING:
    from cllmfs.training.shots import Progress

P = ParamSpec("P")

FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130
_COLOURS = ("cyan", "magenta", "green", "yellow", "bright_blue", "bright_red", "bright_cyan", "bright_magenta")
# A file's text must not steer the terminal: control characters are shown, one for one, but for tab and line feed.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_PIPE_WIDTH = 200  # of tables in a file or a pipe, which has no edge
_LINES_APART = 30.0  # seconds between lines of progress where there is no terminal


# --- how a command ends ----------------------------------------------------------------------------------------------


class _StderrHandler(logging.Handler):
    """Prints log records to whatever standard error is at that moment: a progress bar takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Give a command the exit codes above: its errors become one line each, not a traceback.

    With ``CLLMFS_DEBUG`` set, an unexpected error shows its traceback.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        logger = logging.getLogger("cllmfs")
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler(logging.WARNING))
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # a closed pipe must be met here, not when the interpreter leaves
        except (typer.Exit, typer.Abort):
            raise
        except CllmfsError as error:
            note(f"error: {error}")
            raise typer.Exit(MISTAKE) from error
        except KeyboardInterrupt as error:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            _drop_output()
            raise typer.Exit(FAILURE) from error
        except Exception as error:
            if os.environ.get("CLLMFS_DEBUG"):
                traceback.print_exc()
            else:
                said = " ".join(str(error).split())
                note(f"error: {type(error).__name__}: {said[:500]} (CLLMFS_DEBUG=1 shows where)")
            raise typer.Exit(FAILURE) from error

    return run


def _drop_output() -> None:
    """Send what is still buffered for a closed pipe to nowhere."""
    with contextlib.suppress(OSError, ValueError):  # there may be no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# --- messages and tables ---------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text with its control characters as symbols; of the same length."""
    return text.translate(_VISIBLE)


def note(message: str) -> None:
    """A line to standard error."""
    print(visible(message), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """A JSON document to standard output, in UTF-8 whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write((json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode("utf-8"))
    sys.stdout.buffer.flush()


def show(*items: RenderableType) -> None:
    """Tables and texts to standard output; colours on a terminal only."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    console = Console(markup=False, highlight=False, emoji=False, width=wide)
    for item in items:
        console.print(item, soft_wrap=isinstance(item, Text | str))


def table(*columns: str) -> Table:
    """An empty table whose first column is text and whose others are numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", overflow="fold")
    return made


def counts_table(mentions: Mapping[str, int]) -> Table:
    """Mentions of each label, in the order given."""
    made = table("label", "mentions")
    for label, count in mentions.items():
        made.add_row(Text(visible(label)), str(count))
    return made


def show_scores(scores: Scores) -> None:
    """All scores to standard output, rates from 0 to 1."""
    made = table("strict", "precision", "recall", "F1", "support")

    def row(name: str, rates: Rates, support: int | None = None) -> None:
        made.add_row(Text(visible(name)), *(f"{rate:.3f}" for rate in rates), "" if support is None else str(support))

    for label, counts in scores.per_label.items():
        row(label, counts.rates, counts.support)
    made.add_section()
    row("micro", scores.micro.rates, scores.micro.support)
    row("macro", scores.macro)
    made.add_section()
    row("boundaries, label ignored", scores.boundary.rates, scores.boundary.support)
    for name, matches in (scores.scenarios or {}).items():
        row(f"SemEval-2013 {name}", matches.rates)
    row("paper line (see below)", scores.paper_line.rates, scores.paper_line.gold)
    accuracy, sentences = scores.typing_accuracy, scores.sentences
    typing = "none" if accuracy is None else f"{accuracy:.3f}"
    show(
        made,
        f"typing accuracy: {typing} (of {scores.located} predictions with a gold span's boundaries)",
        f"sentences: {sentences.exact} of {sentences.count} exact; "
        f"{sentences.clean} of {sentences.without_gold} without gold spans stayed empty",
        f"ungrounded predictions: {scores.ungrounded}",
        f"paper line: {PAPER_LINE_NOTE}",
    )


def comparison_table(before: Scores, after: Scores) -> Table:
    """Strict F1 of zero-shot and few-shot side by side, for each label and micro-averaged."""
    made = table("strict F1", "zero-shot", "few-shot", "gain", "support")

    def row(name: str, first: float, second: float, support: int) -> None:
        made.add_row(Text(visible(name)), f"{first:.3f}", f"{second:.3f}", f"{second - first:+.3f}", str(support))

    for label, counts in after.per_label.items():
        known = before.per_label.get(label)
        row(label, known.f1 if known else 0.0, counts.f1, counts.support)
    made.add_section()
    row("micro", before.micro.f1, after.micro.f1, after.micro.support)
    return made


# --- highlighted spans -----------------------------------------------------------------------------------------------


def label_colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label, by its place; they repeat after eight."""
    return {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(labels)}


def highlighted(document: Document, colours: Mapping[str, str]) -> Text:
    """The text with each span as ``[text | label 0.93]``, coloured by its label; spans may nest.

    Args:
        document: its spans must not cross.
        colours: by label; a label that is missing gets no colour of its own.
    """
    text, made = visible(document.text), Text()
    open_spans: list[tuple[int, str]] = []  # end and colour, outermost first
    starts = sorted(document.spans, key=lambda span: (span.start, -span.end))
    scores = {span: "" if span.score is None else f" {span.score:.2f}" for span in starts}
    at = 0
    for edge in sorted({edge for span in starts for edge in (span.start, span.end)} | {len(text)}):
        made.append(text[at:edge], style=f"bold {open_spans[-1][1]}".strip() if open_spans else "")
        at = edge
        for span in reversed(starts):  # the innermost ends first
            if span.end == edge:
                open_spans.pop()
                made.append(f" | {visible(span.label)}{scores[span]}]", style=colours.get(span.label, ""))
        for span in starts:
            if span.start == edge:
                open_spans.append((span.end, colours.get(span.label, "")))
                made.append("[", style=open_spans[-1][1])
    return made


# --- progress --------------------------------------------------------------------------------------------------------


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours from one hour on."""
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


class TrainingProgress:
    """Shows training steps on standard error: a bar on a terminal, else a line now and then.

    A context manager, called with each step.

    Attributes:
        last: the record of the training's latest step, not of calibration; ``None`` before the first.
    """

    def __init__(self) -> None:
        self.last: Progress | None = None
        self._phase = ""
        self._first = 0
        self._began = self._printed = time.monotonic()
        self._printed_number = 0
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = ("{task.fields[phase]}", "{task.fields[count]}", "{task.fields[left]}", "{task.fields[facts]}")
            texts = [TextColumn(column, markup=False) for column in columns]
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
        if self._bar is not None:
            self._bar.update(
                self._task, completed=number, total=total, phase=progress.phase, count=count, left=left, facts=facts
            )
            return
        far = (number - self._printed_number) * 10 >= total or now - self._printed >= _LINES_APART
        if not begun or far or number == total:
            phase = "" if training else progress.phase
            note(", ".join(part for part in (phase, count, facts, left) if part))
            self._printed, self._printed_number = now, number
