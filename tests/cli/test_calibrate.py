"""The command calibrate: on a recognizer whose texts are judged by hand, and on a real tiny model."""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cllmfs.assurance.guarantee import Guarantee, Risk, text_hash
from cllmfs.assurance.thresholds import Judged, JudgedText, choose_thresholds, distinct_texts
from cllmfs.config import RuntimeConfig
from cllmfs.evaluation import Counts
from cllmfs.schema import Example, LabelSet
from tests.cli.conftest import ASKED, cli, jsonl, model_folder

LABELS = {"NAME": "", "PLACE": "a town"}


class Judge:
    """Finds every gold mention with confidence 0.8, and something wrong with confidence 0.2 in each text."""

    labels = LabelSet(LABELS)

    @classmethod
    def load(cls, model: str, **options: Any) -> Judge:
        ASKED.update(model=model, **options)
        return cls()

    def calibrate(self, examples: Sequence[Example], **risk: float | None) -> Guarantee:
        ASKED.update(risk=risk)
        asked = Risk(**risk)  # type: ignore[arg-type]
        texts = [
            JudgedText(
                (*(Judged(0.8, True, span.label) for span in one.spans), Judged(0.2, False, "PLACE")),
                Counter(span.label for span in one.spans),
                Counts(tp=len(one.spans), fp=1),
            )
            for one in distinct_texts(examples, asked, self.labels, [text_hash("Zoë 3")])
        ]
        return choose_thresholds(texts, asked, self.labels, RuntimeConfig())


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cllmfs.recognizer")
    module.EntityRecognizer = Judge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cllmfs.recognizer", module)
    ASKED.clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", LABELS)


def labeled(path: Path, count: int) -> Path:
    span = {"start": 0, "end": 3, "label": "NAME"}
    return jsonl(path, *({"text": f"Ada {number}", "spans": [span]} for number in range(count)))


def stored(model: Path) -> Any:
    return json.loads((model / "cllmfs.json").read_text(encoding="utf-8")).get("guarantee")


@pytest.mark.usefixtures("judge")
def test_a_recall_is_promised_and_stored(tmp_path: Path, model: Path) -> None:
    file = labeled(tmp_path / "labeled.jsonl", 60)
    done = cli("calibrate", model, file, "--recall", "0.95", "--device", "cpu", "--base", "moved")
    assert done.exit_code == 0, done.stderr
    assert (ASKED["device"], ASKED["base"]) == ("cpu", "moved")
    assert ASKED["risk"] == {"recall": 0.95, "precision": None, "confidence": 0.95}
    made = Guarantee.from_dict(stored(model), "m")
    assert (made.recall, made.confidence, made.texts, made.mentions) == (0.95, 0.95, 60, 60)
    assert made.threshold == pytest.approx(0.7999)
    lines = done.stdout.splitlines()
    assert lines[0] == made.statement()
    cells = [line.split() for line in lines]
    assert ["NAME", "0.800", "promised"] in cells
    assert "PLACE 0.800 not promised: 0 texts with a mention, 59 are needed" in " ".join(done.stdout.split())
    assert ["thresholds", "of", "the", "shots", "0.500", "1.000", "0.667"] in cells
    assert ["thresholds", "of", "the", "guarantee", "1.000", "1.000", "1.000"] in cells
    assert lines[-1] == ("60 of the texts have mentions, and count for the recall. These texts chose the thresholds.")
    assert done.stderr.splitlines()[-1] == f"guarantee stored in {model}"


@pytest.mark.usefixtures("judge")
def test_a_precision_is_promised_as_json_and_removed_again(tmp_path: Path, model: Path) -> None:
    file, before = labeled(tmp_path / "labeled.jsonl", 60), (model / "cllmfs.json").read_bytes()
    done = cli("calibrate", model, file, "--precision", "0.8", "--confidence", "0.9", "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["model"] == str(model)
    assert printed["guarantee"].pop("statement").startswith("On average, at most 20 % of the spans reported in a text")
    assert printed["guarantee"] == stored(model)
    assert 0.2 < stored(model)["threshold"] < 0.25
    done = cli("calibrate", model, "--remove", "--json")
    assert json.loads(done.stdout) == {"model": str(model), "guarantee": None}
    assert json.loads((model / "cllmfs.json").read_bytes()) == json.loads(before)
    done = cli("calibrate", model, "--remove")
    assert (done.exit_code, done.stdout) == (0, f"guarantee removed from {model}\n")


@pytest.mark.usefixtures("judge")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recall", "0.95"), "needs at least 59 labeled texts with a mention, got 58; label more"),
        (("--precision", "0.99"), "needs at least 299 labeled texts in which spans are found, got 58"),
        (("--recall", "1"), "recall must lie between 0 and 1, both excluded, got 1.0"),
        (("--recall", "0.9", "--confidence", "0"), "confidence must lie between 0 and 1"),
        ((), "name a value for one of them, or for both"),
        (("--recall", "0.9", "--remove"), "--remove takes the guarantee away, and needs MODEL alone"),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(tmp_path: Path, model: Path, options: Any, said: str) -> None:
    assert cli("calibrate", model, labeled(tmp_path / "l.jsonl", 70), "--recall", "0.9").exit_code == 0
    before = (model / "cllmfs.json").read_bytes()
    done = cli("calibrate", model, labeled(tmp_path / "l.jsonl", 58), *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert (model / "cllmfs.json").read_bytes() == before


@pytest.mark.usefixtures("judge")
def test_shots_strangers_and_missing_arguments_are_refused(tmp_path: Path, model: Path) -> None:
    shot = jsonl(tmp_path / "shot.jsonl", *({"text": f"Zoë {number}", "spans": []} for number in range(9)))
    strange = jsonl(tmp_path / "strange.jsonl", {"text": "Ada", "spans": [{"start": 0, "end": 3, "label": "BOAT"}]})
    for arguments, said in (
        ((model, shot, "--recall", "0.5"), f"error: {shot}:4: a guarantee needs texts that the model has not learned"),
        ((model, strange, "--recall", "0.5"), f"error: {strange}:1: the model does not know the label 'BOAT'"),
        ((model, "--recall", "0.5"), "name the file LABELED after MODEL"),
        ((tmp_path / "none", shot, "--recall", "0.5"), "must be the folder of a trained model"),
        ((model, tmp_path / "none.jsonl", "--recall", "0.5"), "none.jsonl"),
    ):
        done = cli("calibrate", *arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
    assert stored(model) is None


def test_calibrate_and_predict_on_a_tiny_model(tmp_path: Path, tiny_base: Path) -> None:
    """Gold are spans that the model itself finds, so that a promise is possible."""
    shots = jsonl(
        tmp_path / "shots.jsonl",
        {"text": "Ada is in Rome.", "spans": [{"start": 0, "end": 3, "label": "NAME"}]},
        {"text": "Oslo is far.", "spans": [{"start": 0, "end": 4, "label": "PLACE"}]},
    )
    quick = ("--set", "train.steps=2", "--set", "lora.rank=2", "--device", "cpu")
    output = tmp_path / "model"
    assert cli("train", shots, "--output", output, "--base", tiny_base, *quick).exit_code == 0
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"Zoë met Ada {number}\n" for number in range(40)), encoding="utf-8")
    found = tmp_path / "labeled.jsonl"
    assert cli("predict", output, "--input", texts, "--output", found, "--threshold", "0", *quick[-2:]).exit_code == 0
    records = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    gold = [
        {"text": one["text"], "spans": [{key: span[key] for key in ("start", "end", "label")} for span in one["spans"]]}
        for one in records
    ]
    count = sum(bool(one["spans"]) for one in gold)
    assert count >= 14
    done = cli("calibrate", output, jsonl(found, *gold), "--recall", "0.8", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    made = Guarantee.from_dict(stored(output), "m")
    assert (made.texts, made.recall_texts) == (40, count)
    done = cli("predict", output, "--input", texts, "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    kept = [json.loads(line)["spans"] for line in done.stdout.splitlines()]
    for before, after in zip(records, kept, strict=True):
        expected = [one for one in before["spans"] if one["score"] >= made.thresholds.get(one["label"], made.threshold)]
        assert [(one["start"], one["end"], one["label"]) for one in after] == [
            (one["start"], one["end"], one["label"]) for one in expected
        ]
    done = cli("calibrate", output, shots, "--recall", "0.5", "--device", "cpu")
    assert done.exit_code == 2 and "got a shot: 'Ada is in Rome.'" in done.stderr
