"""What a person at a terminal sees: exit codes, messages, tables, highlighted spans.

Results go to standard output, everything else to standard error. This file knows rich, spans and scores; it knows
nothing of how they are computed, nor of the options of a command.

    exit code   0 success   1 a failure of cllmfs or the machine   2 a mistake that the user can correct   130 Ctrl-C
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cllmfs.errors import CllmfsError
from cllmfs.evaluation import PAPER_LINE_NOTE, Rates, Scores
from cllmfs.schema import Document

P = ParamSpec("P")

FAILURE, MISTAKE, INTERRUPTED = 1, 2, 130
_COLORS = ("cyan", "magenta", "green", "yellow", "bright_blue", "bright_red", "bright_cyan", "bright_magenta")
# The text of a file must not control the terminal: control characters except tab and line feed are shown as symbols.
_VISIBLE = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {127: 0x2421}
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
_PIPE_WIDTH = 200  # columns of a table that is printed to a file or a pipe


class _StderrHandler(logging.Handler):
    """Prints log records to the current standard error, which a progress bar replaces for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"{record.levelname.lower()}: {record.getMessage()}")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Decorate a command so that it ends with the exit codes above and prints an error as one line.

    If ``CLLMFS_DEBUG`` is set, an unexpected error shows its traceback.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        logger = logging.getLogger("cllmfs")
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler(logging.WARNING))
        try:
            command(*args, **kwargs)
            sys.stdout.flush()  # a closed pipe must raise its error here, not when the interpreter exits
        except (typer.Exit, typer.Abort):
            raise
        except CllmfsError as error:
            note(f"error: {error}")
            raise typer.Exit(MISTAKE) from error
        except KeyboardInterrupt as error:
            note("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # What is still buffered for the closed pipe is discarded; standard output may have no file descriptor.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILURE) from error
        except Exception as error:
            if os.environ.get("CLLMFS_DEBUG"):
                traceback.print_exc()
            else:
                message = " ".join(str(error).split())[:500]
                note(f"error: {type(error).__name__}: {message} (set CLLMFS_DEBUG=1 to see the traceback)")
            raise typer.Exit(FAILURE) from error

    return run


def visible(text: str) -> str:
    """The text with a symbol in place of each control character; its length stays the same."""
    return text.translate(_VISIBLE)


def note(message: str) -> None:
    """Print a line to standard error."""
    print(visible(message), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print JSON to standard output, in UTF-8 whatever the encoding of the terminal is.

    Half of a surrogate pair, which UTF-8 cannot hold, becomes an escape of JSON.
    """
    sys.stdout.flush()
    text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def show(*items: RenderableType) -> None:
    """Print tables and texts to standard output, with colors on a terminal only."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    console = Console(markup=False, highlight=False, emoji=False, width=wide)
    for item in items:
        console.print(item, soft_wrap=isinstance(item, Text | str))


def table(*columns: str) -> Table:
    """An empty table with text in the first column and numbers in the others."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left", overflow="fold")
    return made


def counts_table(mentions: Mapping[str, int]) -> Table:
    """The number of mentions of each label, in the order given."""
    made = table("label", "mentions")
    for label, count in mentions.items():
        made.add_row(Text(visible(label)), str(count))
    return made


def show_scores(scores: Scores) -> None:
    """Print all scores to standard output; rates are between 0 and 1."""
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


def show_highlighted(documents: Iterable[Document], labels: Iterable[str]) -> None:
    """Print texts with their spans, in a color for each label by its position; colors repeat after eight labels."""
    colors = dict(zip(labels, itertools.cycle(_COLORS)))
    show(*(highlighted(document, colors) for document in documents))


def highlighted(document: Document, colors: Mapping[str, str]) -> Text:
    """The text with each span as ``[text | label 0.93]``, in the color of its label if there is one.

    Spans may nest, but must not cross.
    """
    text, made = visible(document.text), Text()
    open_spans: list[tuple[int, str]] = []  # end and color, outermost first
    starts = sorted(document.spans, key=lambda span: (span.start, -span.end))
    scores = {span: "" if span.score is None else f" {span.score:.2f}" for span in starts}
    at = 0
    for edge in sorted({edge for span in starts for edge in (span.start, span.end)} | {len(text)}):
        made.append(text[at:edge], style=f"bold {open_spans[-1][1]}".strip() if open_spans else "")
        at = edge
        for span in reversed(starts):  # the innermost ends first
            if span.end == edge:
                open_spans.pop()
                made.append(f" | {visible(span.label)}{scores[span]}]", style=colors.get(span.label, ""))
        for span in starts:
            if span.start == edge:
                open_spans.append((span.end, colors.get(span.label, "")))
                made.append("[", style=open_spans[-1][1])
    return made
