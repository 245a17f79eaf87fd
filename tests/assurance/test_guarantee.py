"""The record of a guarantee: what it says, when it holds, and how it survives in a manifest."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cllmfs.assurance.guarantee import Guarantee, Risk, applies, store
from cllmfs.config import RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.errors import ConfigError, DataError, ModelError
from tests.cli.conftest import model_folder

MADE = Guarantee(
    recall=0.9,
    precision=None,
    confidence=0.95,
    estimated=False,
    texts=120,
    recall_texts=90,
    precision_texts=100,
    mentions=200,
    threshold=0.25,
    thresholds={"person": 0.125},
    unpromised={"place": "10 texts with a mention, 29 are needed"},
    labels={"person": "a human", "place": ""},
    settings={"weights": "auto", "window_tokens": 0, "overlap_tokens": 32},
    before={"precision": 0.75, "recall": 0.5, "f1": 0.6},
    after={"precision": 0.5, "recall": 0.875, "f1": 0.636},
)
LABELS = dict(MADE.labels)

# what is asked for


@pytest.mark.parametrize("name", ["recall", "precision", "confidence"])
@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, -0.1, 1.5, math.nan, math.inf, True, "0.9", [0.9]])
def test_a_risk_lies_between_0_and_1(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must lie between 0 and 1, both excluded, got"):
        Risk(**{"recall": 0.9, name: value})


def test_a_risk_is_about_something() -> None:
    with pytest.raises(ConfigError, match="name a value for one of them"):
        Risk(confidence=0.9)
    with pytest.raises(ConfigError, match="confidence must lie"):
        Risk(recall=0.9, confidence=None)  # type: ignore[arg-type]


# what it says


def test_the_statement_says_what_is_promised() -> None:
    like = "in texts like the 120 that this was measured on."
    assert MADE.statement() == (
        f"On average, at most 10 % of the mentions of a text are missed, with 95 % confidence, {like}"
    )
    assert replace(MADE, recall=None, precision=0.85, confidence=0.999).statement() == (
        f"On average, at most 15 % of the spans reported in a text are wrong, with 99.9 % confidence, {like}"
    )
    assert replace(MADE, precision=0.8).statement() == (
        "On average, at most 10 % of the mentions of a text are missed and at most 20 % of the spans reported in a "
        f"text are wrong, with 95 % confidence for each, {like}"
    )
    estimated = replace(MADE, estimated=True).statement()
    assert estimated.startswith(
        "Estimated, not promised: on average, at most 10 % of the mentions of a text are missed"
    )
    assert estimated.endswith("this model, which learned from all of them, was not measured.")


def test_a_document_says_what_is_promised_and_nothing_of_an_estimate() -> None:
    assert MADE.promise() == {"recall": 0.9, "confidence": 0.95}
    assert replace(MADE, precision=0.5).promise() == {"recall": 0.9, "precision": 0.5, "confidence": 0.95}
    assert replace(MADE, estimated=True).promise() is None


def test_its_thresholds_replace_those_of_a_calibration_and_nothing_else() -> None:
    made = MADE.calibration(Calibration(0.5, 0.1, 0.7, {"place": 0.9}, 0.3))
    assert made == Calibration(0.5, 0.1, 0.25, {"person": 0.125}, 0.3)
    assert (made.threshold_of("person"), made.threshold_of("place")) == (0.125, 0.25)


# when it holds


def test_it_holds_as_it_was_measured() -> None:
    runtime = RuntimeConfig()
    assert applies(MADE, LABELS, None, runtime)
    assert applies(MADE, dict(reversed(LABELS.items())), None, runtime)
    assert applies(MADE, LABELS, None, RuntimeConfig(batch_tokens=64))


@pytest.mark.parametrize(
    ("labels", "threshold", "runtime"),
    [
        (LABELS, 0.25, {}),
        (LABELS, 0.0, {}),
        (LABELS, None, {"threshold": 0.25}),
        (LABELS, None, {"window_tokens": 128}),
        (LABELS, None, {"overlap_tokens": 0}),
        (LABELS, None, {"weights": "nf4"}),
        ({"person": "a human"}, None, {}),
        ({**LABELS, "boat": ""}, None, {}),
        ({**LABELS, "place": "a city"}, None, {}),
    ],
)
def test_it_does_not_hold_for_anything_else(labels: dict[str, str], threshold: float | None, runtime: Any) -> None:
    assert not applies(MADE, labels, threshold, RuntimeConfig(**runtime))


# the record


def test_a_record_comes_back_as_it_was() -> None:
    for made in (MADE, replace(MADE, estimated=True, precision=0.5, thresholds={}, unpromised={})):
        assert Guarantee.from_dict(json.loads(json.dumps(made.to_dict())), "m") == made


@pytest.mark.parametrize("name", list(MADE.to_dict()))
@pytest.mark.parametrize("value", [math.nan, -1, 2.5, "x", [], {"": None}, {"a": -1}, True])
def test_a_damaged_entry_is_told(name: str, value: Any) -> None:
    record = {**MADE.to_dict(), name: value}
    if name == "estimated" and value is True:
        return  # the only one of these values that is right where it is
    with pytest.raises(ModelError, match=r"^m: the guarantee is damaged \(.*--remove"):
        Guarantee.from_dict(record, "m")


@pytest.mark.parametrize("record", [None, 3, "x", [], {}, list(MADE.to_dict()), {**MADE.to_dict(), "more": 1}])
def test_anything_else_than_a_record_is_told(record: Any) -> None:
    with pytest.raises(ModelError, match="the guarantee is damaged"):
        Guarantee.from_dict(record, "m")
    for name in MADE.to_dict():
        with pytest.raises(ModelError, match="the guarantee is damaged"):
            Guarantee.from_dict({key: value for key, value in MADE.to_dict().items() if key != name}, "m")


@pytest.mark.parametrize(
    "change",
    [
        {"recall": None},
        {"recall": 1.0},
        {"confidence": 0.0},
        {"thresholds": {"boat": 0.5}},
        {"settings": {"weights": "auto"}},
    ],
)
def test_entries_that_contradict_each_other_are_told(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="the guarantee is damaged"):
        Guarantee.from_dict({**MADE.to_dict(), **change}, "m")


# the manifest


def test_a_guarantee_is_one_more_entry_of_a_manifest(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", LABELS)
    manifest = folder / "cllmfs.json"
    before = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.chmod(0o640)
    store(folder, MADE)
    after = json.loads(manifest.read_text(encoding="utf-8"))
    assert Guarantee.from_dict(after.pop("guarantee"), "m") == MADE
    assert after == before
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o640
    store(folder, replace(MADE, recall=0.8))
    assert json.loads(manifest.read_text(encoding="utf-8"))["guarantee"]["recall"] == 0.8
    store(folder, None)
    assert json.loads(manifest.read_text(encoding="utf-8")) == before
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_model.safetensors", "cllmfs.json"]


def test_a_damaged_guarantee_can_be_removed_and_replaced(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", LABELS)
    manifest = folder / "cllmfs.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    for then in (MADE, None):
        manifest.write_text(json.dumps({**record, "guarantee": {"recall": "much"}}), encoding="utf-8")
        store(folder, then)
        assert json.loads(manifest.read_text(encoding="utf-8")).get("guarantee") == (then and then.to_dict())


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no whole cllmfs model"):
        store(tmp_path, MADE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_folder_without_permission_stays_as_it_was(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", LABELS)
    before = (folder / "cllmfs.json").read_bytes()
    folder.chmod(0o555)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            store(folder, MADE)
    finally:
        folder.chmod(0o755)
    assert (folder / "cllmfs.json").read_bytes() == before
