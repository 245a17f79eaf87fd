"""How a command ends, and what it shows: messages, tables, highlighted spans."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cllmfs.cli import terminal
from cllmfs.evaluation import evaluate_spans
from cllmfs.formats import write_examples
from cllmfs.schema import Document, Example, Span
from tests.cli.conftest import cli


def plain(item: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(item)
    return capture.get()


def test_spans_are_highlighted_in_their_place() -> None:
    document = Document("Ada met Rome.", (Span(0, 3, "PER", 0.987), Span(8, 12, "LOC")))
    shown = terminal.highlighted(document, {"PER": "red", "LOC": "blue"})
    assert shown.plain == "[Ada | PER 0.99] met [Rome | LOC]."
    colored = {shown.plain[span.start : span.end] for span in shown.spans if "red" in str(span.style)}
    assert colored == {"[", "Ada", " | PER 0.99]"}


def test_nested_spans_are_highlighted_inside_each_other() -> None:
    spans = (Span(0, 4, "LOC", 0.5), Span(0, 10, "ORG", 0.25), Span(5, 10, "X"))
    shown = terminal.highlighted(Document("Rome Times", spans), {})
    assert shown.plain == "[[Rome | LOC 0.50] [Times | X] | ORG 0.25]"


def test_texts_without_spans_or_with_markup_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.highlighted(Document("", ()), {}).plain == ""
    terminal.show(terminal.highlighted(Document("[bold]no[/bold] :smile: " + "x" * 300, ()), {}))
    assert capsys.readouterr().out == "[bold]no[/bold] :smile: " + "x" * 300 + "\n"


def test_visible_keeps_the_length() -> None:
    text = "a\x1b[2J\x7f\x85\tb\nç"
    assert terminal.visible(text) == "a\u241b[2J\u2421\ufffd\tb\nç"


def test_scores_are_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    gold = [Example("Ada met Rome.", (Span(0, 3, "PER"), Span(8, 12, "LOC"))), Example("Rain.")]
    found = [Document("Ada met Rome.", (Span(0, 3, "PER"), Span(8, 12, "PER"))), Document("Rain.", ())]
    terminal.show_scores(evaluate_spans(gold, found))
    rows = {line.strip().split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["LOC"] == ["LOC", "0.000", "0.000", "0.000", "1"]
    assert rows["PER"] == ["PER", "0.500", "1.000", "0.667", "1"]
    assert rows["micro"] == ["micro", "0.500", "0.500", "0.500", "2"]
    assert rows["macro"] == ["macro", "0.250", "0.500", "0.333"]
    assert rows["boundaries, label ignored"][-4:] == ["1.000", "1.000", "1.000", "2"]
    assert rows["SemEval-2013 strict"][-3:] == ["0.500"] * 3
    assert rows["SemEval-2013 exact"][-3:] == ["1.000"] * 3
    # one of two gold strings is found; "rome" is predicted as PER, which is present, and is wrong
    assert rows["paper line (see below)"][-4:] == ["0.500", "0.500", "0.500", "2"]
    assert "typing accuracy: 0.500 (of 2 predictions with a gold span's boundaries)" in rows
    assert "sentences: 1 of 2 exact; 1 of 1 without gold spans stayed empty" in rows
    assert "paper line: oracle types, lower-cased strings, not comparable with the strict scores" in rows


def test_scores_before_and_after_stand_side_by_side() -> None:
    gold = [Example("Ada met Rome.", (Span(0, 3, "PER"), Span(8, 12, "LOC")))]
    before = evaluate_spans(gold, [Document("Ada met Rome.", (Span(0, 3, "PER"),))])
    after = evaluate_spans(gold, [Document("Ada met Rome.", gold[0].spans)])
    rows = [line.split() for line in plain(terminal.comparison_table(before, after)).splitlines()]
    assert ["LOC", "0.000", "1.000", "+1.000", "1"] in rows
    assert ["PER", "1.000", "1.000", "+0.000", "1"] in rows
    assert ["micro", "0.667", "1.000", "+0.333", "2"] in rows


def test_json_holds_what_utf_8_cannot(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    value = {"half of a pair": "\ud800", "city": "東京"}
    terminal.print_json(value)
    printed = capfdbinary.readouterr().out
    assert json.loads(printed) == value and "東京".encode() in printed


def test_unexpected_errors_are_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("cllmfs.cli.labeled_files.validate_file", broken)
    done = cli("validate", data)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: RuntimeError: two lines (set CLLMFS_DEBUG=1 to see the traceback)\n"
    monkeypatch.setenv("CLLMFS_DEBUG", "1")
    done = cli("validate", data)
    assert done.exit_code == 1
    assert done.stderr.startswith("Traceback") and "in broken" in done.stderr


def test_ctrl_c_is_130(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cllmfs.cli.labeled_files.validate_file", stop)
    done = cli("validate", data)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_log_warnings_reach_standard_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*_: object, **__: object) -> int:
        logging.getLogger("cllmfs.anything").warning("%d things", 3)
        return write_examples([], "-")

    monkeypatch.setattr("cllmfs.cli.labeled_files.convert_file", warn)
    for _ in range(2):  # once a run, however many ran before
        assert cli("convert", data, "-").stderr.count("warning: 3 things\n") == 1
