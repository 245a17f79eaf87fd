"""The command line as a whole, what it prints, and the commands that need no model, on real files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import cllmfs
from cllmfs.cli import terminal
from cllmfs.cli.app import app, main
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.evaluation import evaluate_spans
from cllmfs.formats.writing import read_examples, write_examples
from cllmfs.schema import Document, Example, Span

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "validate",
    "convert",
    "sample",
    "train",
    "predict",
    "evaluate",
    "merge",
    "info",
    "benchmark",
    "report",
    "data",
    "demo",
)

ADA = {
    "text": "Ada lives in Rome.",
    "spans": [{"start": 0, "end": 3, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}],
}
RAIN = {"text": "It rains.", "spans": []}
ADA_CONLL = "Ada\tB-PER\nlives\tO\nin\tO\nRome\tB-LOC\n.\tO\n\n"


def cli(*arguments: object, stdin: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def process(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """The command in an interpreter of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **settings}
    command = [sys.executable, "-m", "cllmfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, env=environment)


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "data.jsonl", ADA, RAIN)


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Ten sentences with PER, four of them with LOC too, one with ORG."""
    records = []
    for index in range(10):
        spans = [{"start": 0, "end": 2, "label": "PER"}]
        if index < 4:
            spans.append({"start": 7, "end": 9, "label": "LOC"})
        if index == 9:
            spans.append({"start": 7, "end": 9, "label": "ORG"})
        records.append({"text": f"P{index} and Q{index}", "spans": spans})
    return jsonl(tmp_path / "pool.jsonl", *records)


# the command as a whole


@pytest.mark.parametrize("arguments", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_has_examples(arguments: tuple[str, ...]) -> None:
    done = cli(*arguments, "--help")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    shown = lines[lines.index("  Examples:") + 1 :]
    assert len(shown) >= 3
    for line in shown:
        assert line.startswith("    ") and f"cllmfs {arguments[0] if arguments else ''}" in line


def test_help_lists_the_commands_in_their_order() -> None:
    listed = cli("-h").stdout.partition("Commands:\n")[2].partition("\n\n")[0]
    assert tuple(line.split()[0] for line in listed.splitlines()) == COMMANDS
    assert "..." not in listed  # each summary fits


def test_version() -> None:
    done = cli("--version")
    assert (done.exit_code, done.stdout) == (0, f"cllmfs {cllmfs.__version__}\n")


def test_no_command_shows_help() -> None:
    assert "Commands:" in cli().output


def test_unknown_option_is_the_users_mistake() -> None:
    done = cli("validate", "--lables", "x", "file")
    assert done.exit_code == 2
    assert "--lables" in done.stderr


def test_help_of_a_model_command_loads_no_heavy_module() -> None:
    code = (
        "import sys; from cllmfs.cli.app import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'numpy', 'cllmfs.recognizer'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--help"],
        capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert "Examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_errors_of_a_real_process_are_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = process("convert", tmp_path / "missing.jsonl", "-")
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.decode().count("\n") == 1
    assert f"error: {tmp_path / 'missing.jsonl'}: the file cannot be read" in done.stderr.decode()


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    big = jsonl(tmp_path / "big.jsonl", *[{"text": "x" * 1000, "spans": []}] * 500)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cllmfs", "convert", str(big), "-"],
            stdout=writer, stderr=subprocess.PIPE, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )  # fmt: skip
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_texts_beyond_the_terminals_encoding_are_escaped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "東京", "spans": [{"start": 0, "end": 2, "label": "場所"}]})
    done = process("validate", path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"\u5834\u6240" in done.stdout


def test_main_keeps_the_libraries_quiet_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cllmfs.cli.app.app", lambda prog_name: None)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")  # so that it is put back, too
        monkeypatch.delenv(name)
    monkeypatch.delenv("CLLMFS_DEBUG", raising=False)
    monkeypatch.setattr(sys, "warnoptions", [])
    for watched in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda watched=watched: watched, raising=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            main()
            warnings.warn("a library's", FutureWarning, stacklevel=1)
        assert (os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") == "1") is not watched
        assert (os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") == "1") is not watched
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")  # the user's word
    main()
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "0"


def test_unexpected_errors_are_one_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("cllmfs.cli.labelled_files.validate_file", broken)
    done = cli("validate", data)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: RuntimeError: two lines (CLLMFS_DEBUG=1 shows where)\n"
    monkeypatch.setenv("CLLMFS_DEBUG", "1")
    done = cli("validate", data)
    assert done.exit_code == 1
    assert done.stderr.startswith("Traceback") and "in broken" in done.stderr


def test_ctrl_c_is_130(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cllmfs.cli.labelled_files.validate_file", stop)
    done = cli("validate", data)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


# validate


def test_validate_names_every_issue_and_fails(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "bad.jsonl",
        ADA,
        {"text": "Ada", "spans": [{"start": 0, "end": 9, "label": "PER"}]},
        {"text": "Ada went", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
    )
    done = cli("validate", path)
    lines = done.stdout.splitlines()
    assert done.exit_code == 2
    message = "a span must lie in 0 to 3 (code points), got 0 to 9 (PER)"
    assert lines[0] == f"{path}:2: spans[0]: offset-out-of-range: {message}"
    assert lines[1].startswith(f"{path}:3: spans: span-edge-whitespace (warning): ")
    assert re.search(r"^ *PER +2 *$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *LOC +1 *$", done.stdout, re.MULTILINE)
    assert lines[-1] == (
        f"{path}: 2 sentences (0 without spans), 7 tokens, 3 mentions; 1 unreadable records, 1 errors, "
        f"{sum('(warning)' in line for line in lines)} warnings"
    )


def test_validate_passes_with_warnings_and_with_none(tmp_path: Path, data: Path) -> None:
    path = jsonl(tmp_path / "twice.jsonl", RAIN, RAIN)
    done = cli("validate", path)
    assert done.exit_code == 0
    assert f"{path}:2: text: duplicate-text (warning): " in done.stdout
    done = cli("validate", data)
    assert done.exit_code == 0
    assert "0 errors, 0 warnings" in done.stdout and str(data) + ":" not in done.stdout.splitlines()[0]


def test_validate_json_is_the_report(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "bad.jsonl", {"text": "x"}, ADA)
    done = cli("validate", path, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 2
    assert (report["ok"], report["sentences"], report["mentions"]) == (False, 1, {"LOC": 1, "PER": 1})
    assert [(issue["line"], issue["field"], issue["rule"]) for issue in report["issues"]] == [
        (1, "spans", "missing-field")
    ]


def test_validate_knows_labels_formats_and_schemes(tmp_path: Path, data: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("PER\nPLACE\n", encoding="utf-8")
    done = cli("validate", data, "--labels", labels)
    assert done.exit_code == 2
    assert ":1: spans: unknown-label: " in done.stdout
    assert cli("validate", "-", "--format", "conll", "--scheme", "iob2", stdin=ADA_CONLL).exit_code == 0
    done = cli("validate", "-", "--format", "conll", "--scheme", "io", stdin=ADA_CONLL)
    assert done.exit_code == 2
    assert "<stdin>:1: tag: bad-tag: " in done.stdout
    done = cli("validate", data, "--scheme", "bi")
    assert done.exit_code == 2
    assert "scheme must be one of iob1" in done.stderr


def test_validate_says_what_is_wrong_with_a_whole_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n")
    done = cli("validate", empty)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{empty}: empty-file: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x1f\x8b\x08\0junk", "gzip"), (b'{"text": "caf\xe9", "spans": []}\n', "0xe9"), (b"PK\0\1", "NUL byte")],
)
def test_junk_and_other_encodings_name_file_and_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "junk.jsonl"
    path.write_bytes(content)
    done = cli("validate", path)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{path}:1: bad-encoding: ") and said in done.stdout
    for command in (("convert", path, "-"), ("sample", path)):
        done = cli(*command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {path}:1: ") and said in done.stderr


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "ab", "spans": [{"start": 0, "end": 1, "label": "\x1b[31mX"}]})
    done = cli("validate", path)
    assert "\x1b" not in done.output and "\u241b[31mX" in done.output


# convert


def test_convert_there_and_back(tmp_path: Path, data: Path) -> None:
    there, back = tmp_path / "data.conll", tmp_path / "back.jsonl"
    done = cli("convert", data, there)  # the extension names the format
    assert done.exit_code == 0, done.stderr
    assert there.read_text(encoding="utf-8").startswith(ADA_CONLL.removesuffix("\n"))
    assert done.stderr == f"2 sentences written as conll to {there}\n"
    assert cli("convert", there, back).exit_code == 0
    assert json.loads(back.read_text(encoding="utf-8").splitlines()[0])["spans"][1]["label"] == "LOC"
    assert len(read_examples(back)) == 2


def test_convert_through_pipes_with_schemes() -> None:
    done = cli("convert", "-", "-", "--from", "conll", "--to", "conll", "--scheme-out", "bioes", stdin=ADA_CONLL)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ADA_CONLL.replace("B-", "S-")
    done = cli("convert", "-", "-", "--to", "tags", "--scheme-in", "iob1", stdin="Ada I-PER\nByron I-PER\nRome B-PER\n")
    assert json.loads(done.stdout) == {"tokens": ["Ada", "Byron", "Rome"], "ner_tags": ["B-PER", "I-PER", "B-PER"]}


def test_convert_leaves_the_target_where_it_fails(tmp_path: Path) -> None:
    nested = jsonl(
        tmp_path / "nested.jsonl",
        {"text": "Rome Oslo", "spans": [{"start": 0, "end": 9, "label": "A"}, {"start": 0, "end": 4, "label": "B"}]},
    )
    target = tmp_path / "out.conll"
    target.write_text("mine", encoding="utf-8")
    done = cli("convert", nested, target)
    assert done.exit_code == 2
    assert "tags cannot hold overlapping spans" in done.stderr and f"{nested}:1" in done.stderr
    assert target.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nested.jsonl", "out.conll"]


def test_convert_refuses_an_unknown_format(data: Path) -> None:
    done = cli("convert", data, "-", "--to", "xml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "format must be one of jsonl, tokens, tags, conll, got 'xml'" in done.stderr


# sample


def test_sample_is_the_librarys_draw(tmp_path: Path, pool: Path) -> None:
    output = tmp_path / "shots.jsonl"
    done = cli("sample", pool, "--k", 2, "--seed", 7, "--output", output)
    assert done.exit_code == 0, done.stderr
    assert read_examples(output) == sample_k_shot(read_examples(pool), 2, 7)
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "warning: 'ORG' has 1 of 2 mentions; there are no more to draw"
    assert re.fullmatch(
        rf"\d sentences \(LOC 2, ORG 1, PER \d\) written to {re.escape(str(output))}", done.stderr.splitlines()[1]
    )


def test_sample_streams_by_default_and_takes_methods_and_labels(tmp_path: Path, pool: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('["LOC"]', encoding="utf-8")
    done = cli("sample", "-", "--k", 3, "--method", "exact", "--labels", labels, stdin=pool.read_bytes())
    assert done.exit_code == 0, done.stderr
    shots = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(shots) == 3
    assert all({"PER", "LOC"} == {span["label"] for span in shot["spans"]} for shot in shots)
    assert "warning" not in done.stderr


def test_sample_an_episode_with_its_query_set(tmp_path: Path, pool: Path) -> None:
    query = tmp_path / "query.jsonl"
    done = cli("sample", pool, "--method", "episode", "--n-way", 2, "--k", 1, "--query-output", query)
    assert done.exit_code == 0, done.stderr
    support = [json.loads(line) for line in done.stdout.splitlines()]
    assert {span["label"] for shot in support for span in shot["spans"]} == {"LOC", "PER"}
    assert not {shot["text"] for shot in support} & {example.text for example in read_examples(query)}
    labels = tmp_path / "labels.json"
    labels.write_text('["LOC"]', encoding="utf-8")
    done = cli("sample", pool, "--method", "episode", "--n-way", 1, "--k", 1, "--labels", labels)
    assert {span["label"] for line in done.stdout.splitlines() for span in json.loads(line)["spans"]} == {"LOC"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "episode"), "--method episode needs --n-way"),
        (("--n-way", "2"), "--n-way and --query-output go with --method episode"),
        (("--query-output", "q.jsonl"), "--n-way and --query-output go with --method episode"),
        (("--method", "most"), "--method must be one of at-least, exact, episode; got 'most'"),
        (("--k", "0"), "--k"),
        (("--method", "episode", "--n-way", "9"), "lower n_way"),
    ],
)
def test_sample_refuses(pool: Path, options: tuple[str, ...], said: str) -> None:
    done = cli("sample", pool, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_sample_refuses_labels_that_the_data_lacks(tmp_path: Path, pool: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("boat\n", encoding="utf-8")
    done = cli("sample", pool, "--labels", labels)
    assert done.exit_code == 2
    assert "'boat' does not" in done.stderr


def test_sampling_a_file_onto_itself_keeps_it_whole(pool: Path) -> None:
    before = len(read_examples(pool))
    assert cli("sample", pool, "--k", 1, "--output", pool).exit_code == 0
    assert 0 < len(read_examples(pool)) < before


# what is shown


def plain(item: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(item)
    return capture.get()


def test_spans_are_highlighted_in_their_place() -> None:
    document = Document("Ada met Rome.", (Span(0, 3, "PER", 0.987), Span(8, 12, "LOC")))
    shown = terminal.highlighted(document, {"PER": "red", "LOC": "blue"})
    assert shown.plain == "[Ada | PER 0.99] met [Rome | LOC]."
    coloured = {shown.plain[span.start : span.end] for span in shown.spans if "red" in str(span.style)}
    assert coloured == {"[", "Ada", " | PER 0.99]"}


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


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3723, "1:02:03")])
def test_clock(seconds: float, said: str) -> None:
    assert terminal.clock(seconds) == said


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
    seen: list[int] = field(default_factory=list)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.TrainingProgress() as progress:
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
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.TrainingProgress() as progress:
        now[0] += 1000  # loading
        progress(Progress(Step(30)))  # type: ignore[arg-type]
        now[0] += 8
        progress(Progress(Step(34)))  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines()[-1].endswith("0:12 left")  # 2 s a step, 6 steps


def test_each_phase_of_training_begins_with_a_line_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    phases = [("calibrating, part 1 of 2", 1), ("calibrating, part 2 of 2", 1), ("training", 2)]
    with terminal.TrainingProgress() as progress:
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
        assert part[1].endswith(f"{terminal.clock(35 * seconds)} left"), "each has a speed of its own"
    assert progress.last is not None and progress.last.phase == "training"


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard error a terminal."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    watch(monkeypatch)
    with terminal.TrainingProgress() as progress:
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

    with terminal.TrainingProgress() as progress:
        line = shown(Progress(Step(20, 20), phase="calibrating, part 2 of 2"))
        assert line.startswith("calibrating, part 2 of 2 ") and "step 20/20" in line
        line = shown(Progress(Step(1)))
        assert line.startswith("training ") and "step 1/40" in line and "left" not in line
        assert "left" in shown(Progress(Step(2)))


def test_log_warnings_reach_standard_error(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    def warn(*_: object, **__: object) -> int:
        logging.getLogger("cllmfs.anything").warning("%d things", 3)
        return write_examples([], "-")

    monkeypatch.setattr("cllmfs.cli.labelled_files.convert_file", warn)
    for _ in range(2):  # once a run, however many ran before
        assert cli("convert", data, "-").stderr.count("warning: 3 things\n") == 1
