"""The commands that use a model: on a recognizer that records its arguments, and once on a real tiny model."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import select
import sys
import threading
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import typer

from cllmfs.cli import model as cli_model
from cllmfs.config import Config
from cllmfs.evaluation import evaluate_spans
from cllmfs.model.bases import fingerprint
from cllmfs.schema import Document, Example, LabelSet, Span
from tests.cli.conftest import ADA, ASKED, RAIN, cli, jsonl

# predict


@pytest.mark.usefixtures("fake")
def test_predict_writes_a_line_a_text(model: Path) -> None:
    done = cli("predict", model, "Ada met Zoë", "rain", "--threshold", "0.25")
    assert done.exit_code == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records == [
        {
            "text": "Ada met Zoë",
            "spans": [
                {"start": 0, "end": 3, "label": "NAME", "score": 0.9, "text": "Ada"},
                {"start": 8, "end": 11, "label": "NAME", "score": 0.9, "text": "Zoë"},
            ],
        },
        {"text": "rain", "spans": []},
    ]
    assert "Zoë" in done.stdout  # not escaped
    assert (ASKED["threshold"], ASKED["asked_labels"], ASKED["config"]) == (0.25, None, None)


@pytest.mark.usefixtures("fake")
def test_predict_reads_files_and_pipes_and_writes_files(tmp_path: Path, model: Path) -> None:
    texts, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    jsonl(texts, {"text": "Ada"}, {"tokens": ["in", "Rome"]})
    done = cli("predict", model, "--input", texts, "--output", output)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr.splitlines()[-1] == f"2 texts written to {output}"
    lines = output.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["Ada", "in Rome"]
    done = cli("predict", model, "--input", "-", stdin="Ada\n\nno\n")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["Ada", "", "no"]
    done = cli("predict", model, "--input", "-", "--format", "jsonl", stdin='{"text": "Ada"}\n')
    assert json.loads(done.stdout)["text"] == "Ada"


@pytest.mark.usefixtures("fake")
def test_predict_streams(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found in one text has left the process before the next text is asked for."""
    flushed: list[int] = []
    raw = io.BytesIO()
    out = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")  # type: ignore[arg-type]

    def texts() -> Iterator[Example]:
        for number in range(3):
            flushed.append(raw.getvalue().count(b"\n"))
            yield Example(f"text {number}")

    monkeypatch.setattr(cli_model, "unlabeled_batches", lambda _, format: iter([texts()]))
    monkeypatch.setattr(sys, "stdout", out)
    cli_model.predict(str(model), source=Path("-"))
    assert flushed == [0, 1, 2]
    assert raw.getvalue().count(b"\n") == 3


class Reader:
    """A recognizer that reads 64 texts before it answers the first, as the real one does."""

    labels = None

    def stream(self, texts: Iterable[str], **_: Any) -> Iterator[Document]:
        given = iter(texts)
        while chunk := list(itertools.islice(given, 64)):
            yield from (Document(text, ()) for text in chunk)


@contextlib.contextmanager
def pipes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, IO[bytes]]]:
    """Where to write to standard input, and where to read standard output."""
    (stdin, send), (answers, stdout) = os.pipe(), os.pipe()
    with open(stdin, "rb") as source, open(stdout, "w", encoding="utf-8") as target, open(answers, "rb") as found:
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=source))
        monkeypatch.setattr(sys, "stdout", target)
        monkeypatch.setattr(cli_model, "_load", lambda *_: Reader())
        try:
            yield send, found
        finally:
            with contextlib.suppress(OSError):  # closed already
                os.close(send)


def test_predict_answers_a_line_of_a_pipe_when_it_is_there(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    with pipes(monkeypatch) as (send, answers):
        source: dict[str, Any] = {"source": Path("-"), "format": "jsonl"}
        running = threading.Thread(target=cli_model.predict, args=(str(model),), kwargs=source, daemon=True)
        running.start()
        for number in range(3):
            os.write(send, json.dumps({"id": number, "text": f"text {number}"}).encode() + b"\n")
            assert select.select([answers], [], [], 20)[0], "the line is not answered before the next one comes"
            assert json.loads(answers.readline()) == {"text": f"text {number}", "spans": [], "id": number}
        os.write(send, b'{"text": "last"}\n{"text": "very last"}')
        os.close(send)
        assert [json.loads(answers.readline())["text"] for _ in range(2)] == ["last", "very last"]
        running.join(20)
        assert not running.is_alive()


def test_predict_answers_what_comes_before_a_bad_line_of_a_pipe(
    monkeypatch: pytest.MonkeyPatch, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pipes(monkeypatch) as (send, answers):
        os.write(send, b'{"text": "one"}\n{"text": "two"}\nthree\n')
        os.close(send)
        with pytest.raises(typer.Exit) as caught:
            cli_model.predict(str(model), source=Path("-"), format="jsonl")
        assert caught.value.exit_code == 2
        assert [json.loads(answers.readline())["text"] for _ in range(2)] == ["one", "two"]
    assert "error: <stdin>:3: a line must be one JSON object" in capsys.readouterr().err


@pytest.mark.usefixtures("fake")
def test_predict_keeps_the_other_fields_of_a_record(tmp_path: Path, model: Path) -> None:
    span = {"start": 0, "end": 3, "label": "GOLD"}
    other = {"id": "a-17", "meta": {"page": 3}, "label": ["x"], "answer": "Rome"}
    records = [{"text": "in", "spans": [span], "labels": ["GOLD"], **other}] * 70 + [{"id": 2, "tokens": ["Ada"]}]
    for source, stdin in ((jsonl(tmp_path / "in.jsonl", *records), None), (Path("-"), "lines")):
        content = None if stdin is None else (tmp_path / "in.jsonl").read_bytes()
        done = cli("predict", model, "--input", source, "--format", "jsonl", stdin=content)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert answers[:70] == [{"text": "in", "spans": [], **other}] * 70
        assert list(answers[70]) == ["text", "spans", "id"] and answers[70]["id"] == 2


@pytest.mark.usefixtures("fake")
def test_predict_refuses_what_is_no_file_of_texts(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,Ada\n", encoding="utf-8")
    done = cli("predict", model, "--input", path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "write the table as JSON lines" in done.stderr
    done = cli("predict", model, "--input", path, "--format", "text")
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["id,text", "1,Ada"]


@pytest.mark.usefixtures("fake")
def test_predict_names_the_line_that_it_cannot_read(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"Ada\ncaf\xe9\n")
    done = cli("predict", model, "--input", path)
    assert done.exit_code == 2
    assert f"error: {path}:2: files must be UTF-8" in done.stderr
    assert json.loads(done.stdout)["text"] == "Ada"


@pytest.mark.usefixtures("fake")
def test_predict_labels_replace_the_models(tmp_path: Path, model: Path) -> None:
    done = cli("predict", model, "Ada", "--label", "person", "--label", "place")
    assert json.loads(done.stdout)["spans"][0]["label"] == "person"
    assert ASKED["asked_labels"] == LabelSet(["person", "place"])
    labels = tmp_path / "labels.toml"
    labels.write_text('[labels]\nboat = "it floats"', encoding="utf-8")
    assert cli("predict", "some-base", "Ada", "--labels", labels).exit_code == 0
    assert ASKED["asked_labels"] == LabelSet({"boat": "it floats"})
    assert ASKED["model"] == "some-base"


@pytest.mark.usefixtures("fake")
def test_predict_settings_change_the_models_own(model: Path) -> None:
    assert cli("predict", model, "Ada", "--set", "runtime.threshold=0.25").exit_code == 0
    assert ASKED["config"] == Config().with_settings(["spans.nested=true", "runtime.threshold=0.25"])
    # a setting that training fixed may be named with the value that it has
    assert cli("predict", model, "Ada", "--set", "spans.nested=true").exit_code == 0
    # those of a base are not fixed
    options = ("--label", "person", "--set", "spans.nested=true")
    assert cli("predict", "some-base", "Ada", *options).exit_code == 0
    assert ASKED["config"] == Config().with_settings(["spans.nested=true"])


@pytest.mark.usefixtures("fake")
def test_what_training_fixed_cannot_be_set(model: Path, shots: Path) -> None:
    settings = ("--set", "spans.nested=false", "--set", "lora.rank=2", "--set", "runtime.threshold=0.25")
    for command in (("predict", model, "Ada"), ("evaluate", model, shots)):
        done = cli(*command, *settings)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr == (
            f"error: --set cannot change spans.nested, lora.rank of {model}, which training fixed; settings of "
            "[runtime], such as runtime.threshold, can still change. To change others, train a new model\n"
        )
    assert ASKED == {}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MODEL",), "either TEXT or --input"),
        (("MODEL", "text", "--input", "-"), "either TEXT or --input"),
        (("no-such-model", "text"), "name the types to look for with --label NAME or --labels FILE"),
        (("MODEL", "text", "--label", "a", "--labels", "b.txt"), "give one of the two"),
        (("MODEL", "text", "--label", ""), "non-empty"),
        (("MODEL", "text", "--threshold", "2"), "--threshold"),
        (("MODEL", "text", "--set", "spans.edges=line"), "spans.edges must be one of auto, word, token"),
        (("some-base", "text", "--label", "a", "--base", "b"), "--base says where the base of a trained model is, and"),
        (("MODEL", "half \udcff"), "TEXT must be UTF-8"),
    ],
)
def test_predict_refuses_before_loading(model: Path, arguments: tuple[str, ...], said: str) -> None:
    done = cli("predict", *(str(model) if argument == "MODEL" else argument for argument in arguments))
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert ASKED == {}


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("fake")
def test_predict_highlights_on_a_terminal(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(**options: Any) -> str:
        raw = io.BytesIO()
        with Terminal(raw, encoding="utf-8", write_through=True) as screen, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            cli_model.predict(str(model), ["see Ada"], **options)
            return raw.getvalue().decode("utf-8")

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert printed() == "see [Ada | NAME 0.90]\n"
    assert json.loads(printed(json=True))["text"] == "see Ada"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;36mAda\x1b[0m" in printed()


# evaluate


@pytest.mark.usefixtures("fake")
def test_evaluate_prints_the_scores(shots: Path) -> None:
    done = cli("evaluate", "some-base", shots, "--label", "PER", "--json")
    assert done.exit_code == 0, done.stderr
    gold = [Example(ADA["text"], (Span(0, 3, "PER"), Span(13, 17, "LOC"))), Example(RAIN["text"])]
    # "Rome." and "It" are wrong
    found = [
        Document(ADA["text"], (Span(0, 3, "PER"), Span(13, 18, "PER"))),
        Document(RAIN["text"], (Span(0, 2, "PER"),)),
    ]
    assert json.loads(done.stdout) == evaluate_spans(gold, found, ["PER"]).to_dict()
    assert "2 of 2 sentences scored in" in done.stderr
    done = cli("evaluate", "some-base", shots, "--label", "PER")
    assert ["PER", "0.333", "1.000", "0.500", "1"] in [line.split() for line in done.stdout.splitlines()]
    assert "not comparable with the strict scores" in done.stdout


@pytest.mark.usefixtures("fake")
def test_evaluate_takes_types_from_the_file_for_a_base_only(shots: Path, model: Path) -> None:
    done = cli("evaluate", "some-base", shots, "--limit", "1", "--json")
    assert json.loads(done.stdout)["sentences"]["count"] == 1
    assert ASKED["asked_labels"] == LabelSet(["LOC", "PER"])
    assert "1 of 2 sentences scored in" in done.stderr
    assert cli("evaluate", model, shots, "--set", "runtime.threshold=0.5").exit_code == 0
    assert ASKED["asked_labels"] is None
    assert (ASKED["config"].runtime.threshold, ASKED["config"].spans.nested) == (0.5, True)


@pytest.mark.usefixtures("fake")
def test_evaluate_refuses_files_without_a_label_for_a_base(tmp_path: Path) -> None:
    done = cli("evaluate", "some-base", jsonl(tmp_path / "rain.jsonl", RAIN))
    assert done.exit_code == 2
    assert "at least one label is needed" in done.stderr
    assert ASKED == {}


# info


def test_info_names_versions_and_devices() -> None:
    record = json.loads(cli("info", "--json").stdout)
    assert {"cllmfs", "python", "torch", "transformers", "peft", "platform", "cpus", "gpus"} <= set(record)
    assert record["python"] == sys.version.split()[0]
    assert f"python: {sys.version.split()[0]}\n" in cli("info").stdout


def test_info_config_is_the_default_file(tmp_path: Path) -> None:
    done = cli("info", "--config")
    path = tmp_path / "settings.toml"
    path.write_text(done.stdout, encoding="utf-8")
    assert Config.from_toml(path) == Config()
    assert done.stdout == Config().to_toml()


def test_info_of_a_model_is_its_manifest_and_loads_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cllmfs.recognizer", None)  # an import of it fails
    done = cli("info", model, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    shown = cli("info", model).stdout
    assert "base: b\n" in shown and "labels:\n  NAME: \n" in shown
    assert "nested = true" in cli("info", model, "--config").stdout


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("command", [("predict", "MODEL", "Ada"), ("evaluate", "MODEL", "SHOTS")])
def test_base_is_passed_on(model: Path, shots: Path, command: tuple[str, ...]) -> None:
    arguments = [{"MODEL": model, "SHOTS": shots}.get(word, word) for word in command]
    assert cli(*arguments).exit_code == 0
    assert ASKED["moved"] is None
    assert cli(*arguments, "--base", "there/my-base").exit_code == 0
    assert ASKED["moved"] == "there/my-base"


def test_info_says_whether_a_base_is_that_of_the_model(tiny_base: Path, tmp_path: Path, model: Path) -> None:
    record = json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))
    whole = {**record, "base_hash": fingerprint(str(tiny_base))}
    (model / "cllmfs.json").write_text(json.dumps(whole), encoding="utf-8")
    done = cli("info", model, "--base", tiny_base, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {**whole, "base": str(tiny_base)}
    done = cli("info", model, "--base", tmp_path)
    assert done.exit_code == 2 and "was trained on another version of 'b'" in done.stderr
    for arguments in (("--base", "x"), (tiny_base, "--base", "x")):
        done = cli("info", *arguments)
        assert done.exit_code == 2 and "give its folder as MODEL" in done.stderr


def test_a_base_that_cannot_be_found_is_refused_before_any_library_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shots: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cllmfs.recognizer", None)  # an import of it fails
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, said in (("owner/no-such", "the network cannot be reached"), ("../no such", "a hub id has the form")):
        for command in (("predict", name, "Ada", "--label", "x"), ("evaluate", name, shots),
                        ("train", shots, "--base", name, "--output", tmp_path / "m")):  # fmt: skip
            done = cli(*command)
            assert (done.exit_code, done.stdout) == (2, "") and said in done.stderr


def test_a_trained_model_is_no_base_to_train(model: Path, shots: Path, tmp_path: Path) -> None:
    done = cli("train", shots, "--base", model, "--output", tmp_path / "next")
    assert done.exit_code == 2
    assert f"`cllmfs merge {model} --output {model}-base`" in done.stderr
    assert "train again, on all sentences" in " ".join(done.stderr.split()) and not (tmp_path / "next").exists()


def test_info_of_a_broken_model_is_an_error(model: Path) -> None:
    (model / "cllmfs.json").write_bytes(b"\xff\0")
    done = cli("info", model)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is no whole cllmfs model" in done.stderr


@pytest.mark.usefixtures("fake")
def test_info_of_a_base_asks_the_recognizer() -> None:
    done = cli("info", "some-base", "--json")
    assert json.loads(done.stdout)["base"] == "some-base"


# a real model


def test_train_predict_evaluate_and_info_on_a_tiny_model(tmp_path: Path, tiny_base: Path, shots: Path) -> None:
    output = tmp_path / "model"
    quick = ("--set", "train.steps=2", "--set", "lora.rank=2", "--device", "cpu")
    done = cli("train", shots, "--output", output, "--base", tiny_base, "--dev", shots, "--json", *quick)
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["steps"], list(summary["labels"])) == (2, ["LOC", "PER"])
    assert 0.0 <= summary["best_f1"] <= 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "shots.jsonl"]  # no checkpoint, no remains

    done = cli("predict", output, ADA["text"], "", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["text"] for record in records] == [ADA["text"], ""]
    for span in records[0]["spans"]:
        assert span["text"] == ADA["text"][span["start"] : span["end"]]
        assert span["label"] in ("LOC", "PER") and 0.0 <= span["score"] <= 1.0

    done = cli("evaluate", output, shots, "--json", "--set", "runtime.threshold=1.0", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["sentences"]["count"] == 2
    assert json.loads(cli("info", output, "--json").stdout)["shots"]["steps"] == 2
    done = cli("evaluate", tiny_base, shots, "--limit", "1", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "micro" in done.stdout
