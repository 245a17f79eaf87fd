"""The commands that need a model: on a stand-in that tells what it was asked, and once on a real tiny model."""

from __future__ import annotations

import io
import json
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cllmfs.cli import model as cli_model
from cllmfs.config import Config
from cllmfs.errors import ModelError
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.schema import Document, Example, LabelSet, Span
from tests.cli.test_app import ADA, RAIN, Progress, Step, cli, jsonl

ASKED: dict[str, Any] = {}
HOOKS: dict[str, Callable[..., None]] = {}


class FakeRecognizer:
    """Calls every capitalised word the first label; notes its arguments in ``ASKED``; ``HOOKS`` can break it."""

    def __init__(self, base: str, *, labels: Any = None, config: Any = None, device: Any = None) -> None:
        ASKED.update(base=base, labels=labels, config=config, device=device)
        HOOKS.get("init", lambda: None)()
        self.base, self.config, self.trained = base, config or Config(), False
        self.labels = None if labels is None else LabelSet(labels)

    @classmethod
    def load(cls, model: str, *, labels: Any = None, config: Any = None, device: Any = None) -> FakeRecognizer:
        ASKED["model"] = model
        manifest = Path(model) / "cllmfs.json"
        saved = json.loads(manifest.read_text(encoding="utf-8"))["labels"] if manifest.exists() else None
        return cls(model, labels=labels or saved, config=config, device=device)

    def fit(
        self, examples: Sequence[Example], *, dev: Any = None, checkpoint: Any = None, resume: bool = False,
        on_progress: Any = None,
    ) -> FakeRecognizer:  # fmt: skip
        ASKED.update(examples=list(examples), dev=dev, checkpoint=checkpoint, resume=resume)
        on_progress(Progress(Step(2, 2, loss=9.0), phase="calibrating, part 1 of 1"))
        for number in range(1, 4):
            on_progress(Progress(Step(number, 3), dev_f1=0.5 if dev else None, best_f1=0.75 if dev else None))
        HOOKS.get("fit", lambda _: None)(checkpoint)
        self.labels = self.labels or LabelSet.of_examples(examples)
        self.shots = {"steps": 3}
        self.trained = True
        return self

    def stream(self, texts: Iterable[str], *, labels: Any = None, threshold: float | None = None) -> Iterator[Document]:
        ASKED.update(asked_labels=labels, threshold=threshold)
        label = next(iter(labels or self.labels or ()))
        for text in texts:
            words, at = [], 0
            for word in text.split(" "):
                if word[:1].isupper():
                    words.append(Span(at, at + len(word), label, 0.9, word))
                at += len(word) + 1
            yield Document(text, tuple(words))

    def predict(self, texts: Sequence[str]) -> list[Document]:
        return list(self.stream(texts))

    def evaluate(self, examples: Sequence[Example], *, labels: Any = None) -> Scores:
        return evaluate_spans(examples, list(self.stream([one.text for one in examples], labels=labels)), labels or ())

    def save(self, folder: Path) -> Path:
        return model_folder(folder, dict(self.labels or {}), self.config)

    def info(self) -> dict[str, Any]:
        return {"base": self.base, "trained": self.trained, "config": self.config.to_dict()}


def model_folder(folder: Path, labels: dict[str, str], config: Config | None = None) -> Path:
    record = {
        "format": 1, "base": "b", "base_hash": "h", "labels": labels, "prompt": {},
        "config": (config or Config()).to_dict(),
    }  # fmt: skip
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "cllmfs.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cllmfs.recognizer")
    module.EntityRecognizer = FakeRecognizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cllmfs.recognizer", module)
    ASKED.clear()
    HOOKS.clear()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "shots.jsonl", ADA, RAIN)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", {"NAME": ""}, Config().with_settings(["decode.nested=true"]))


def checkpoint_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.checkpoint")


def make_checkpoint(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text("{}", encoding="utf-8")


# train


@pytest.mark.usefixtures("fake")
def test_train_saves_and_says_where(tmp_path: Path, shots: Path) -> None:
    output = tmp_path / "new" / "model"
    HOOKS["fit"] = lambda checkpoint: (checkpoint.mkdir(parents=True), make_checkpoint(checkpoint))
    done = cli("train", shots, "--output", output)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"model: {output}\n"
    assert (output / "cllmfs.json").is_file()
    assert not checkpoint_of(output).exists()
    assert ASKED["base"] == "cllmfs-mini"
    assert ASKED["checkpoint"] == checkpoint_of(output)
    assert (ASKED["labels"], ASKED["dev"], ASKED["resume"]) == (None, None, False)
    assert [example.text for example in ASKED["examples"]] == [ADA["text"], RAIN["text"]]
    lines = [line for line in done.stderr.splitlines() if "step " in line]
    assert lines[0].startswith("calibrating, part 1 of 1, step 2/2, loss 9.000")
    assert lines[1].startswith("step 1/3, loss 1.250") and lines[-1].startswith("step 3/3, loss 1.250")


@pytest.mark.usefixtures("fake")
def test_train_summary_is_json(tmp_path: Path, shots: Path) -> None:
    labels = tmp_path / "labels.toml"
    labels.write_text('labels = {PER = "a person", LOC = ""}', encoding="utf-8")
    output = tmp_path / "model"
    done = cli(
        "train", shots, "-o", output, "--json", "--labels", labels, "--dev", shots, "--base", "b", "--device", "cpu"
    )
    summary = json.loads(done.stdout)
    assert summary.pop("seconds") >= 0
    assert summary == {
        "model": str(output), "base": "b", "labels": {"PER": "a person", "LOC": ""}, "sentences": 2, "steps": 3,
        "loss": 1.25, "dev_f1": 0.5, "best_f1": 0.75,
    }  # fmt: skip
    assert ASKED["device"] == "cpu"
    assert len(ASKED["dev"]) == 2


@pytest.mark.usefixtures("fake")
def test_train_settings_beat_each_other_in_order(tmp_path: Path, shots: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[train]\nseed = 1\nsteps = 10\n[lora]\nrank = 4\n", encoding="utf-8")
    options = ("--config", file, "--set", "train.seed=2", "--set", "train.steps=20")
    assert cli("train", shots, "-o", tmp_path / "a", *options, "--seed", 3).exit_code == 0
    assert ASKED["config"] == Config().with_settings(["lora.rank=4", "train.steps=20", "train.seed=3"])
    assert cli("train", shots, "-o", tmp_path / "b", *options).exit_code == 0
    assert ASKED["config"].train.seed == 2
    assert cli("train", shots, "-o", tmp_path / "c").exit_code == 0
    assert ASKED["config"] == Config()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "train.rate=1"), "unknown setting train.rate"),
        (("--set", "steps=1"), "--set takes section.name=value"),
        (("--config", "missing.toml"), "missing.toml: a config must be a readable TOML file"),
        (("--seed", "-1"), "--seed"),
        (("--labels", "missing.toml"), "missing.toml: the file cannot be read"),
        (("--dev", "missing.jsonl"), "missing.jsonl: the file cannot be read"),
        (("--resume", "--overwrite"), "give one of the two"),
    ],
)
def test_train_refuses_bad_options_before_loading(
    tmp_path: Path, shots: Path, options: tuple[str, ...], said: str
) -> None:
    done = cli("train", shots, "--output", tmp_path / "model", *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert ASKED == {}
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("fake")
def test_train_refuses_what_is_in_the_way(tmp_path: Path, shots: Path) -> None:
    other, file = tmp_path / "other", tmp_path / "file"
    other.mkdir()
    (other / "thesis.tex").write_text("mine", encoding="utf-8")
    file.write_text("mine", encoding="utf-8")
    for place, said in ((other, "holds no cllmfs model"), (file, "is a file"), (file / "sub", "is not a folder")):
        done = cli("train", shots, "--output", place, "--overwrite")  # not even with --overwrite
        assert done.exit_code == 2, place
        assert said in done.stderr
    assert (other / "thesis.tex").exists()
    blocked = tmp_path / "blocked.checkpoint"
    blocked.mkdir()
    done = cli("train", shots, "--output", tmp_path / "blocked", "--overwrite")
    assert done.exit_code == 2
    assert "is no checkpoint of cllmfs" in done.stderr
    assert ASKED == {}


@pytest.mark.usefixtures("fake")
def test_train_replaces_a_model_only_when_told(tmp_path: Path, shots: Path, model: Path) -> None:
    done = cli("train", shots, "--output", model)
    assert done.exit_code == 2
    assert f"{model} holds a trained model; replace it with --overwrite" in done.stderr
    assert ASKED == {}
    assert cli("train", shots, "--output", model, "--overwrite").exit_code == 0
    assert json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))["labels"] == {"LOC": "", "PER": ""}


@pytest.mark.usefixtures("fake")
def test_train_asks_what_to_do_with_a_checkpoint(tmp_path: Path, shots: Path) -> None:
    output = tmp_path / "model"
    make_checkpoint(checkpoint_of(output))
    done = cli("train", shots, "--output", output)
    assert done.exit_code == 2
    assert "go on from it with --resume, or start afresh with --overwrite" in done.stderr
    assert ASKED == {}
    HOOKS["init"] = lambda: ASKED.update(there=checkpoint_of(output).exists())
    HOOKS["fit"] = lambda checkpoint: ASKED.update(kept=checkpoint.exists())
    assert cli("train", shots, "--output", output, "--resume").exit_code == 0
    assert (ASKED["resume"], ASKED["kept"]) == (True, True)
    assert not checkpoint_of(output).exists()
    make_checkpoint(checkpoint_of(output))
    assert cli("train", shots, "--output", output, "--overwrite").exit_code == 0
    assert (ASKED["resume"], ASKED["there"], ASKED["kept"]) == (False, True, False)


@pytest.mark.usefixtures("fake")
def test_train_resumes_over_an_older_model_but_not_without_a_checkpoint(
    tmp_path: Path, shots: Path, model: Path
) -> None:
    done = cli("train", shots, "--output", model, "--resume")
    assert done.exit_code == 2
    make_checkpoint(checkpoint_of(model))
    assert cli("train", shots, "--output", model, "--resume").exit_code == 0
    done = cli("train", shots, "--output", tmp_path / "fresh", "--resume")
    assert done.exit_code == 0
    assert "there is no checkpoint in" in done.stderr


@pytest.mark.usefixtures("fake")
def test_ctrl_c_in_training_says_how_to_resume(tmp_path: Path, shots: Path) -> None:
    output = tmp_path / "model"

    def stop_late(checkpoint: Path) -> None:
        make_checkpoint(checkpoint)
        raise KeyboardInterrupt

    HOOKS["fit"] = stop_late
    done = cli("train", shots, "--output", output, "--overwrite")
    assert done.exit_code == 130
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"interrupted; {checkpoint_of(output)} holds the last checkpoint: ")
    assert last.endswith("run the same command with --resume instead of --overwrite to go on")
    assert checkpoint_of(output).exists() and not output.exists()

    def stop_early(_: Path) -> None:
        raise KeyboardInterrupt

    HOOKS["fit"] = stop_early
    done = cli("train", shots, "--output", tmp_path / "other")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "interrupted before the first checkpoint: nothing was saved"


@pytest.mark.usefixtures("fake")
def test_model_errors_are_the_users_and_others_are_not(tmp_path: Path, shots: Path) -> None:
    def refuse() -> None:
        raise ModelError("no such base; name another")

    HOOKS["init"] = refuse
    done = cli("train", shots, "--output", tmp_path / "model")
    assert (done.exit_code, done.stderr) == (2, "error: no such base; name another\n")

    def crash() -> None:
        raise RuntimeError("out of memory")

    HOOKS["init"] = crash
    done = cli("train", shots, "--output", tmp_path / "model")
    assert done.exit_code == 1
    assert done.stderr == "error: RuntimeError: out of memory (CLLMFS_DEBUG=1 shows where)\n"


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

    def texts(_: Path, format: str | None) -> Iterator[str]:
        for number in range(3):
            flushed.append(raw.getvalue().count(b"\n"))
            yield f"text {number}"

    monkeypatch.setattr(cli_model, "iter_texts", texts)
    monkeypatch.setattr(sys, "stdout", out)
    cli_model.predict(str(model), source=Path("-"))
    assert flushed == [0, 1, 2]
    assert raw.getvalue().count(b"\n") == 3


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
    assert cli("predict", model, "Ada", "--set", "decode.end_bias=-1").exit_code == 0
    assert ASKED["config"] == Config().with_settings(["decode.nested=true", "decode.end_bias=-1"])


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("MODEL",), "either TEXT or --input"),
        (("MODEL", "text", "--input", "-"), "either TEXT or --input"),
        (("no-such-model", "text"), "name them with --label NAME or --labels FILE, or mend the path"),
        (("MODEL", "text", "--label", "a", "--labels", "b.txt"), "give one of the two"),
        (("MODEL", "text", "--label", ""), "non-empty"),
        (("MODEL", "text", "--threshold", "2"), "--threshold"),
        (("MODEL", "text", "--set", "decode.edges=line"), "decode.edges must be one of word, token"),
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
    assert cli("evaluate", model, shots, "--set", "decode.end_bias=0.5").exit_code == 0
    assert ASKED["asked_labels"] is None
    assert (ASKED["config"].decode.end_bias, ASKED["config"].decode.nested) == (0.5, True)


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


def test_info_of_a_broken_model_is_an_error(model: Path) -> None:
    (model / "cllmfs.json").write_bytes(b"\xff\0")
    done = cli("info", model)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is no whole cllmfs model" in done.stderr


@pytest.mark.usefixtures("fake")
def test_info_of_a_base_asks_the_recogniser() -> None:
    done = cli("info", "some-base", "--json")
    assert json.loads(done.stdout)["base"] == "some-base"


# demo


@pytest.mark.usefixtures("fake")
def test_demo_shows_before_and_after(tmp_path: Path) -> None:
    done = cli("demo", "--k", "1", "--seed", "3")
    assert done.exit_code == 0, done.stderr
    assert ASKED["config"] == Config().with_settings(["train.seed=3"])
    assert list(ASKED["labels"]) == ["component", "fault", "tool", "consumable", "measurement", "standard"]
    assert 0 < len(ASKED["examples"]) <= 6
    table, _, rest = done.stdout.partition("the first 10 test sentences after training:")
    first = [line.split()[0] for line in table.splitlines() if line.split()]
    named = [word for word in first if word.isalpha()]
    assert named == ["strict", "component", "consumable", "fault", "measurement", "standard", "tool", "micro"]
    assert rest.count(" | component 0.90]") >= 10
    assert "nothing was saved" in rest
    assert "training 0:0" in rest


@pytest.mark.usefixtures("fake")
def test_demo_json_and_output(tmp_path: Path) -> None:
    done = cli("demo", "--json", "--output", tmp_path / "demo-model")
    record = json.loads(done.stdout)
    assert (record["k"], record["seed"], record["test"]) == (5, 0, 153)
    assert record["model"] == str(tmp_path / "demo-model") and (tmp_path / "demo-model" / "cllmfs.json").exists()
    assert len(record["predictions"]) == 10
    assert record["few_shot"]["micro"]["fn"] > 0
    assert set(record["seconds"]) == {"zero_shot", "training", "few_shot"}
    ASKED.clear()
    done = cli("demo", "--output", tmp_path / "demo-model")
    assert done.exit_code == 2
    assert "holds a trained model" in done.stderr
    assert ASKED == {}


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

    done = cli("evaluate", output, shots, "--json", "--set", "decode.threshold=1.0", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["sentences"]["count"] == 2
    assert json.loads(cli("info", output, "--json").stdout)["shots"]["steps"] == 2
    done = cli("evaluate", tiny_base, shots, "--limit", "1", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert "micro" in done.stdout


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Shots enough to leave some of them out."""
    records = [
        {"text": f"{one} saw {two}", "spans": [{"start": 0, "end": 3, "label": "PER"},
                                               {"start": 8, "end": 11, "label": "PER"}]}
        for one, two in (("Ada", "Bob"), ("Kim", "Lea"), ("Max", "Zoe"), ("Tom", "Eva"))
    ]  # fmt: skip
    return jsonl(tmp_path / "many.jsonl", *records)


QUICK = [word for setting in ("train.steps=3", "lora.rank=2", "decode.end_bias=-20", "decode.opening=best")
         for word in ("--set", setting)]  # fmt: skip


def test_train_calibrates_on_shots_left_out_and_tells_of_the_training_alone(
    tmp_path: Path, tiny_base: Path, many: Path
) -> None:
    output = tmp_path / "model"
    done = cli("train", many, "--output", output, "--base", tiny_base, "--json", "--device", "cpu", *QUICK)
    assert done.exit_code == 0, done.stderr
    lines = [line.partition(", loss ") for line in done.stderr.splitlines() if ", loss " in line]
    told = [what for what, _, _ in lines]
    parts = [f"calibrating, part {part} of 2, step {step}/2" for part in (1, 2) for step in (1, 2)]
    assert told == [*parts, "step 1/3", "step 2/3", "step 3/3"]
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["sentences"], summary["best_f1"]) == (3, 4, None)
    assert f"{summary['loss']:.3f} " in lines[-1][2]
    manifest = json.loads(cli("info", output, "--json").stdout)
    assert 0.0 <= manifest["scores"]["held-out shots strict micro F1"] <= 1.0
    expected = manifest["config"]["calibrate"]
    assert {name: manifest["calibration"][name] for name in ("slope", "shift")} != {
        name: expected[name] for name in ("slope", "shift")
    }


def test_a_run_resumed_behind_its_last_step_does_not_pass_calibration_off_as_training(
    tmp_path: Path, tiny_base: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cllmfs.recognizer import EntityRecognizer

    def full(*_: object) -> Path:
        raise ModelError("No space left on device")

    run = ("train", many, "--output", tmp_path / "model", "--base", tiny_base, "--json", "--device", "cpu", *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(EntityRecognizer, "save", full)
        assert cli(*run).exit_code == 2
    done = cli(*run, "--resume")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["loss"], summary["steps"]) == (None, 3)
