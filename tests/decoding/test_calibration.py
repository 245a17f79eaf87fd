"""Confidences by hand, and the records that calibrations are read from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.errors import ModelError

# the map


@pytest.mark.parametrize(
    ("slope", "shift", "score", "expected"),
    [
        (1.0, 0.0, 0.3, 0.3),
        (2.0, 0.0, 0.75, 0.9),  # odds 3 become 9
        (1.0, math.log(4), 0.5, 0.8),  # odds 1 become 4
        (0.5, math.log(2), 0.2, 0.5),  # odds 1/4 become 1/2, then 1
        (1.0, math.log(3), 0.0, 0.0),
        (0.5, 0.0, 1.0, 0.999),
    ],
)
def test_confidence_is_a_line_on_the_log_odds(slope: float, shift: float, score: float, expected: float) -> None:
    assert Calibration(slope, shift).confidence(score) == pytest.approx(expected, abs=1e-4)


def test_a_vote_is_weighed_beside_the_log_odds() -> None:
    made = Calibration(0.5, math.log(2), vote=2.0)
    assert made.confidence(0.2, math.log(1 / 8)) == pytest.approx(0.5)
    assert made.confidence(0.2, math.log(1 / 16)) == pytest.approx(0.2)  # odds 1 become 1/4
    assert made.confidence(0.2, math.log(1 / 4)) == pytest.approx(0.8)
    assert Calibration().confidence(0.3, -5.0) == 0.3


def test_a_calibration_of_nothing_leaves_scores_and_reports_all() -> None:
    plain = Calibration()
    assert [plain.confidence(score) for score in (0.0, 0.123456789, 1.0)] == [0.0, 0.123456789, 1.0]
    assert plain.threshold_of("person") == 0.0


def test_a_labels_own_threshold_comes_before_the_common_one() -> None:
    made = Calibration(threshold=0.4, thresholds={"boat": 0.7, "place": 0.0})
    assert (made.threshold_of("boat"), made.threshold_of("place"), made.threshold_of("person")) == (0.7, 0.0, 0.4)


# records


def test_a_calibration_survives_json() -> None:
    made = Calibration(0.8125, -0.375, 0.25, {"person": 0.5, "ünïcode": 0.0}, vote=0.5)
    record = json.loads(json.dumps(made.to_dict()))
    assert record == {
        "slope": 0.8125, "shift": -0.375, "threshold": 0.25, "thresholds": {"person": 0.5, "ünïcode": 0.0}, "vote": 0.5
    }  # fmt: skip
    assert Calibration.from_dict(record, "x.json") == made
    del record["vote"]
    assert Calibration.from_dict(record, "x.json") == replace(made, vote=0.0), "saved before there were votes"
    assert Calibration.from_dict(json.loads(json.dumps(Calibration().to_dict())), "x.json") == Calibration()


def test_the_record_does_not_share_the_thresholds() -> None:
    thresholds = {"person": 0.5}
    record = Calibration(thresholds=thresholds).to_dict()
    record["thresholds"]["person"] = 0.9
    assert thresholds == {"person": 0.5}


WHOLE: dict[str, Any] = {"slope": 1.0, "shift": 0.0, "threshold": 0.5}


@pytest.mark.parametrize(
    "record",
    [
        *({key: value for key, value in WHOLE.items() if key != left_out} for left_out in WHOLE),
        {**WHOLE, "slope": "steep"},
        {**WHOLE, "slope": 0.0},
        {**WHOLE, "slope": -1},
        {**WHOLE, "slope": True},
        {**WHOLE, "shift": float("nan")},
        {**WHOLE, "shift": 10**400},
        {**WHOLE, "threshold": 7},
        {**WHOLE, "vote": -0.5},
        {**WHOLE, "thresholds": {"person": -1}},
        {**WHOLE, "shift": None},
        {**WHOLE, "threshold": [0.5]},
        {**WHOLE, "thresholds": ["person"]},
        {**WHOLE, "thresholds": {"person": "half"}},
        [],
    ],
)
def test_what_is_no_calibration_is_refused_with_its_file(record: Any) -> None:
    with pytest.raises(ModelError, match=r"^x\.json: a calibration must hold the numbers slope, shift and threshold: "):
        Calibration.from_dict(record, "x.json")


def test_a_calibration_without_thresholds_of_labels_has_none() -> None:
    assert Calibration.from_dict(WHOLE, "x.json") == Calibration(threshold=0.5)


# what is expected of a base

FIGURES = {
    "trained": {"slope": 0.42, "shift": -0.55, "threshold": 0.2, "vote": 0.5},
    "few_mentions": {"slope": 0.42, "shift": -1.0, "threshold": 0.1375, "vote": 0.5},
    "zero_shot": {"slope": 0.35, "shift": -1.2, "threshold": 0.15, "vote": 0.5},
}


def test_the_figures_of_a_base_are_its_expected_calibrations() -> None:
    expected = ExpectedCalibrations.of_base(FIGURES, True, "x.json")
    assert expected.trained == Calibration(0.42, -0.55, 0.2, vote=0.5)
    assert expected.few_mentions == Calibration(0.42, -1.0, 0.1375, vote=0.5)
    assert expected.zero_shot == Calibration(0.35, -1.2, 0.15, vote=0.5)


@pytest.mark.parametrize("figures", [FIGURES, {}])
def test_without_votes_none_is_expected_to_count(figures: dict[str, Any]) -> None:
    voting, silent = (ExpectedCalibrations.of_base(figures, votes, "x.json") for votes in (True, False))
    for name in FIGURES:
        assert getattr(voting, name).vote == 0.5
        assert getattr(silent, name) == replace(getattr(voting, name), vote=0.0)


def test_the_scores_of_a_base_without_figures_are_taken_as_they_are() -> None:
    expected = ExpectedCalibrations.of_base({}, False, "x.json")
    assert expected.trained == expected.few_mentions == expected.zero_shot == Calibration(threshold=0.2)
    assert expected.trained.confidence(0.3) == 0.3


@pytest.mark.parametrize(
    "figures",
    [
        {"trained": FIGURES["trained"]},
        {**FIGURES, "scarce": FIGURES["trained"]},
        {**FIGURES, "zero_shot": {"slope": 1.0}},
        {**FIGURES, "zero_shot": {**FIGURES["zero_shot"], "slope": "steep"}},
        {**FIGURES, "zero_shot": 3},
    ],
)
def test_wrong_figures_are_refused_with_their_file(figures: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"^x\.json: (the file must hold trained, few_mentions, zero_shot|a calibr)"):
        ExpectedCalibrations.of_base(figures, True, "x.json")
