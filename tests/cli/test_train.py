"""The commands that train: on a recognizer that records its arguments, and once on a real tiny model."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from pathlib import Path

import pytest

from cllmfs.config import Config
from cllmfs.decoding.calibration import ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Rules
from cllmfs.errors import ModelError
from cllmfs.formats import read_examples
from cllmfs.recognizer import EntityRecognizer
from tests.cli.conftest import ADA, ASKED, HOOKS, RAIN, cli, jsonl


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
def test_train_with_a_preset_and_changes_to_it(tmp_path: Path, shots: Path) -> None:
    options = ("--preset", "paper", "--set", "train.steps=20", "--seed", 3)
    assert cli("train", shots, "-o", tmp_path / "model", *options).exit_code == 0
    assert ASKED["config"] == Config.preset("paper").with_settings(["train.steps=20", "train.seed=3"])


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
        (("--preset", "papers"), "unknown preset 'papers'; there are paper"),
        (("--preset", "paper", "--config", "settings.toml"), "--preset and --config exclude each other"),
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
    for place, said in (
        (other, "holds no cllmfs model"),
        (file, "is a file"),
        (file / "sub", "is not a folder with write permission"),
    ):
        done = cli("train", shots, "--output", place, "--overwrite")  # not even with --overwrite
        assert done.exit_code == 2, place
        assert said in done.stderr
    assert (other / "thesis.tex").exists()
    blocked = tmp_path / "blocked.checkpoint"
    blocked.mkdir()
    done = cli("train", shots, "--output", tmp_path / "blocked", "--overwrite")
    assert done.exit_code == 2
    assert "which contains something else; move it" in done.stderr
    assert ASKED == {}


@pytest.mark.usefixtures("fake")
def test_train_replaces_a_model_only_when_told(tmp_path: Path, shots: Path, model: Path) -> None:
    done = cli("train", shots, "--output", model)
    assert done.exit_code == 2
    assert f"{model} contains a trained model; replace it with --overwrite" in done.stderr
    assert ASKED == {}
    assert cli("train", shots, "--output", model, "--overwrite").exit_code == 0
    assert json.loads((model / "cllmfs.json").read_text(encoding="utf-8"))["labels"] == {"LOC": "", "PER": ""}


@pytest.mark.usefixtures("fake")
def test_train_asks_what_to_do_with_a_checkpoint(tmp_path: Path, shots: Path) -> None:
    output = tmp_path / "model"
    make_checkpoint(checkpoint_of(output))
    done = cli("train", shots, "--output", output)
    assert done.exit_code == 2
    assert "continue it with --resume, or start again with --overwrite" in done.stderr
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
    how = "run the same command with --resume instead of --overwrite"
    assert last == f"interrupted; {how} to continue from {checkpoint_of(output)}"
    assert checkpoint_of(output).exists() and not output.exists()

    def stop_early(_: Path) -> None:
        raise KeyboardInterrupt

    HOOKS["fit"] = stop_early
    done = cli("train", shots, "--output", tmp_path / "other")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "interrupted before the first checkpoint; nothing was saved"


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
    assert done.stderr == "error: RuntimeError: out of memory (set CLLMFS_DEBUG=1 to see the traceback)\n"


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
    assert "training 0:0" in rest
    assert "The model was not saved; --output DIR saves it.\n" in rest
    assert rest.index("To continue with your own data:") < rest.index("train shots.jsonl --output my-model")


@pytest.mark.usefixtures("fake")
def test_demo_json_and_output(tmp_path: Path) -> None:
    done = cli("demo", "--json", "--output", tmp_path / "demo-model")
    record = json.loads(done.stdout)
    assert (record["k"], record["seed"], record["test"]) == (5, 0, 153)
    assert record["model"] == str(tmp_path / "demo-model") and (tmp_path / "demo-model" / "cllmfs.json").exists()
    assert len(record["predictions"]) == 10
    assert record["few_shot"]["micro"]["fn"] > 0
    assert set(record["seconds"]) == {"zero_shot", "training", "few_shot"}
    assert "own data" not in done.output
    ASKED.clear()
    done = cli("demo", "--output", tmp_path / "demo-model")
    assert done.exit_code == 2
    assert "contains a trained model" in done.stderr
    assert ASKED == {}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("on_path", "called", "command"),
    [
        ("/usr/bin/cllmfs", "/opt/env/bin/cllmfs", "cllmfs"),
        (None, "/opt/my env/bin/cllmfs", "'/opt/my env/bin/cllmfs'"),
        (None, "/opt/env/site-packages/cllmfs/__main__.py", "/opt/env/bin/python -m cllmfs"),
    ],
)
def test_demo_ends_with_commands_that_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str | None, called: str, command: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: on_path)
    monkeypatch.setattr(sys, "argv", [called, "demo"])
    monkeypatch.setattr(sys, "executable", "/opt/env/bin/python")
    output = tmp_path / "my model"
    said = cli("demo", "--output", output).stdout
    assert f"model: {output}\n" in said
    assert ("cllmfs is not on your PATH" in said) is (on_path is None)
    assert f"   {command} predict '{output}' \"The rear hub has play.\"\n" in said
    commands = ("validate shots.jsonl", "train shots.jsonl --output my-model", 'predict my-model "Another text."')
    assert said.endswith("".join(f"   {command} {words}\n" for words in commands))


@pytest.mark.usefixtures("fake")
def test_the_labeled_sentence_that_the_demo_shows_is_valid(tmp_path: Path) -> None:
    line = next(line for line in cli("demo").stdout.splitlines() if line.startswith('   {"text"'))
    path = tmp_path / "shots.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert "component" in cli("validate", path).stdout
    assert cli("validate", path).exit_code == 0
    (example,) = read_examples(path)
    assert [example.text[span.start : span.end] for span in example.spans] == ["rear hub"]


# a real model


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Enough shots to hold out some of them."""
    records = [
        {"text": f"{one} saw {two}", "spans": [{"start": 0, "end": 3, "label": "PER"},
                                               {"start": 8, "end": 11, "label": "PER"}]}
        for one, two in (("Ada", "Bob"), ("Kim", "Lea"), ("Max", "Zoe"), ("Tom", "Eva"))
    ]  # fmt: skip
    return jsonl(tmp_path / "many.jsonl", *records)


QUICK = ("--json", "--device", "cpu", "--set", "train.steps=3", "--set", "lora.rank=2")


def test_train_calibrates_on_held_out_shots_and_reports_only_the_training(
    tmp_path: Path, tiny_base: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A random model rarely finds anything: here an answer hardly ends before there is nothing left to find.
    eager = functools.partial(Extractor, rules=Rules(end_bias=-20.0))
    monkeypatch.setattr("cllmfs.recognizer.recognizer.Extractor", eager)
    output = tmp_path / "model"
    done = cli("train", many, "--output", output, "--base", tiny_base, *QUICK)
    assert done.exit_code == 0, done.stderr
    lines = [line.partition(", loss ") for line in done.stderr.splitlines() if ", loss " in line]
    reported = [what for what, _, _ in lines]
    parts = [f"calibrating, part {part} of 2, step {step}/2" for part in (1, 2) for step in (1, 2)]
    assert reported == [*parts, "step 1/3", "step 2/3", "step 3/3"]
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["sentences"], summary["best_f1"]) == (3, 4, None)
    assert f"{summary['loss']:.3f} " in lines[-1][2]
    manifest = json.loads(cli("info", output, "--json").stdout)
    assert 0.0 <= manifest["scores"]["held-out shots strict micro F1"] <= 1.0
    expected = ExpectedCalibrations().trained
    assert (manifest["calibration"]["slope"], manifest["calibration"]["shift"]) != (expected.slope, expected.shift)


def test_a_run_resumed_after_its_last_step_reports_no_loss_of_the_calibration(
    tmp_path: Path, tiny_base: Path, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Path:
        raise ModelError("No space left on device")

    run = ("train", many, "--output", tmp_path / "model", "--base", tiny_base, *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(EntityRecognizer, "save", full)
        assert cli(*run).exit_code == 2
    done = cli(*run, "--resume")
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["loss"], summary["steps"]) == (None, 3)
