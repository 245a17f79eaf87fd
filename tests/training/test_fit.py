"""Fitting: what is held out and judged, what is chosen from it, and that none of it changes the adapter."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import cllmfs.training.calibrate
import cllmfs.training.fit
from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import Candidate, Extraction, Extractor
from cllmfs.decoding.greedy import Rules
from cllmfs.encoding.batches import Batch
from cllmfs.evaluation import evaluate_spans
from cllmfs.model.adapter import AdapterSlot
from cllmfs.model.bases import MINI, base_folder
from cllmfs.model.loading import FIGURES_FILE
from cllmfs.schema import Example, LabelSet, Span
from cllmfs.training.calibrate import JudgedSpan, Trial, fit_calibration
from cllmfs.training.fit import Fitting, Outcome, fit
from cllmfs.training.loop import Progress
from cllmfs.training.recipe import Recipe, choose_rate
from cllmfs.training.shots import ShotBatches
from tests.conftest import fresh_backbone
from tests.training.test_loop import stop_at
from tests.training.test_shots import example

NAMES = (
    ("Ada", "Bo", "Rome"), ("Kim", "Lea", "Oslo"), ("Zoe", "Max", "Lima"),
    ("Tom", "Eva", "Bern"), ("Jan", "Uwe", "Kiel"), ("Ina", "Pia", "Bonn"),
)  # fmt: skip
SHOTS = [example(f"{one} met {two} in {town}.", person=[one, two], place=[town]) for one, two, town in NAMES]
LABELS = LabelSet(["person", "place"])
SETTINGS = (
    "train.steps=3", "train.learning_rate=0.01", "train.precision=fp32", "train.swap_mentions=0", "train.replay=0",
    "lora.rank=2", "lora.keep=1",
)  # fmt: skip
EXPECTED = ExpectedCalibrations(Calibration(0.42, -0.55, 0.2, vote=0.5), Calibration(0.42, -1.0, 0.1375, vote=0.5))


def extractor_of(*settings: str) -> Extractor:
    """On a tiny model of its own, which is made to answer something."""
    config = Config().with_settings([*SETTINGS, *settings])
    return Extractor(fresh_backbone("llama"), config, rules=Rules(end_bias=-20.0))


class Fitted:
    """A fitting and what comes of it."""

    def __init__(
        self,
        *settings: str,
        examples: Sequence[Example] = SHOTS,
        labels: LabelSet = LABELS,
        expected: ExpectedCalibrations = EXPECTED,
        **arguments: Any,
    ) -> None:
        self.reported: list[Progress] = []
        self.extractor = extractor_of(*settings)
        options = {"on_progress": self.reported.append, **arguments}
        self.outcome: Outcome = fit(self.extractor, examples, labels, expected, **options)

    def weights(self) -> dict[str, Tensor]:
        """Those of the base and of the adapter."""
        return {name: tensor.detach().clone() for name, tensor in self.extractor.backbone.model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def assert_share(made: Fitted, whole: Fitted, share: float) -> None:
    """The update is this share of another one."""
    part, full = (one.extractor.backbone.adapters.update() for one in (made, whole))
    assert part.keys() == full.keys() and all(tensor.any() for tensor in full.values())
    assert all(torch.allclose(part[name], share * tensor) for name, tensor in full.items())


# cross-validation

Event = tuple[str, frozenset[str]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What is trained on and what is read, in turn: ("train" or "read", texts)."""
    noted: list[Event] = []

    class Watched(ShotBatches):
        def __call__(self, step: int) -> list[Batch]:
            batches = super().__call__(step)
            noted.append(("train", frozenset(row.sentence.text for batch in batches for row in batch.rows)))
            return batches

    original = Extractor.candidates

    def candidates(self: Extractor, texts: Sequence[str], *rest: Any) -> list[Extraction]:
        noted.append(("read", frozenset(texts)))
        return original(self, texts, *rest)

    monkeypatch.setattr(cllmfs.training.fit, "ShotBatches", Watched)
    monkeypatch.setattr(Extractor, "candidates", candidates)
    return noted


def in_turn(events: list[Event]) -> list[Event]:
    """Events of a kind that follow each other, put together."""
    return [
        (kind, frozenset().union(*(texts for _, texts in group))) for kind, group in groupby(events, lambda one: one[0])
    ]


def words(texts: frozenset[str]) -> set[str]:
    return set(re.findall(r"\w+", " ".join(texts)))


def mentions(examples: Sequence[Example]) -> set[str]:
    return {one.text[span.start : span.end] for one in examples for span in one.spans}


@pytest.mark.parametrize("swap", [0.0, 1.0])
@pytest.mark.parametrize("folds", [2, 3])
def test_no_model_has_seen_the_part_it_judges(events: list[Event], folds: int, swap: float) -> None:
    """Nor a mention of it in another sentence."""
    Fitted("train.steps=6", f"calibrate.folds={folds}", f"train.swap_mentions={swap}")
    turns = in_turn(events)
    assert [kind for kind, _ in turns] == ["train", "read"] * folds + ["train"]
    left_out: list[str] = []
    for (_, trained), (_, read) in zip(turns[:-1:2], turns[1::2], strict=True):
        judged = [shot for shot in SHOTS if shot.text in read]
        rest = [shot for shot in SHOTS if shot.text not in read]
        assert len(judged) == len(read) == 6 // folds
        assert {shot.text for shot in rest} <= trained, "all the others are learned from"
        assert not words(trained) & mentions(judged)
        assert mentions(rest) <= words(trained)
        left_out += read
    assert sorted(left_out) == sorted(shot.text for shot in SHOTS), "each is judged once"
    assert {shot.text for shot in SHOTS} <= turns[-1][1], "the last training is on all of them"


def test_a_dev_set_takes_the_place_of_held_out_parts(events: list[Event]) -> None:
    dev = [example("Lou saw Max in Graz.", person=["Lou", "Max"], place=["Graz"])]
    Fitted(dev=dev, changes={"evaluate_every": 3})
    assert [texts for kind, texts in in_turn(events) if kind == "read"] == [{dev[0].text}] * 2  # before and after
    assert set().union(*(texts for kind, texts in events if kind == "train")) == {shot.text for shot in SHOTS}


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_holding_parts_out_does_not_change_the_adapter(keep: float) -> None:
    settings = ("train.steps=5", f"lora.keep={keep}", "loss.adversarial=neftune", "train.swap_mentions=0.7")
    before = extractor_of().backbone.model.state_dict()
    plain = Fitted("calibrate.folds=0", *settings)
    assert plain.outcome.held_out_f1 is None
    for folds in (2, 3):
        judged = Fitted(f"calibrate.folds={folds}", *settings)
        assert judged.outcome.held_out_f1 is not None
        assert_equal(judged.weights(), plain.weights())
    trained = plain.weights()
    for name, tensor in before.items():  # the base itself stays as it was
        found = trained[name] if name in trained else trained[name.replace(".weight", ".base_layer.weight")]
        assert torch.equal(found, tensor)


PRIOR = Calibration(0.9, -0.3, 0.2, vote=0.5)


@pytest.fixture(scope="module")
def by_hand() -> tuple[list[JudgedSpan], dict[str, int]]:
    """What models of one half of the shots find in the other half; the prior settles conflicts between types."""
    judged: list[JudgedSpan] = []
    for part in Recipe(learning_rate=0.01, steps=20).folds(SHOTS, 2, 0):
        rest = [shot for number, shot in enumerate(SHOTS) if number not in part]
        alone = Fitted("train.steps=20", "calibrate.folds=0", "lora.keep=0.8", examples=rest)
        for shot in (SHOTS[number] for number in part):
            ((found, _),) = alone.extractor.candidates([shot.text], LABELS, voting=True)
            taken: list[range] = []
            for one in sorted(found, key=lambda one: PRIOR.confidence(one.score, one.vote), reverse=True):
                place = range(one.start, one.end)
                if not any(set(place) & set(other) for other in taken):
                    taken.append(place)
                    right = Span(one.start, one.end, one.label) in shot.spans
                    judged.append(JudgedSpan(one.score, right, one.label, one.vote))
    return judged, {"person": 12, "place": 6}


def test_calibration_and_score_come_from_what_is_found_in_held_out_parts(
    by_hand: tuple[list[JudgedSpan], dict[str, int]],
) -> None:
    judged, gold = by_hand
    assert 0 < sum(one.right for one in judged) < len(judged)
    # half of the shots take half of the steps
    made = Fitted("train.steps=40", "lora.keep=0.8", expected=ExpectedCalibrations(trained=PRIOR)).outcome
    expected = fit_calibration(judged, gold, PRIOR, 0.2)  # half of the shots, half of the lift
    fitted = made.calibration
    figures = (fitted.slope, fitted.shift, fitted.threshold, fitted.vote)
    assert figures == pytest.approx((expected.slope, expected.shift, expected.threshold, expected.vote), abs=1e-5)
    assert fitted.thresholds == expected.thresholds and fitted.vote not in (0.0, PRIOR.vote)
    kept = [one for one in judged if expected.confidence(one.score, one.vote) >= expected.threshold_of(one.label)]
    assert made.held_out_f1 == pytest.approx(2 * sum(one.right for one in kept) / (len(kept) + 18), abs=0.05)
    assert made.dev_f1 is None and (made.steps, made.keep, made.learning_rate) == (40, 0.8, 0.01)


def test_without_parts_and_dev_set_the_expected_calibration_stays() -> None:
    made = Fitted("calibrate.folds=1", expected=ExpectedCalibrations(trained=Calibration(0.5, 0.3, 0.4))).outcome
    assert made.calibration == Calibration(0.5, 0.3, 0.4)
    assert (made.dev_f1, made.held_out_f1) == (None, None)


def test_shots_with_few_mentions_have_an_expected_calibration_of_their_own() -> None:
    enough = Fitted(examples=SHOTS[:2])  # four persons and two places: just three a label
    assert enough.outcome.calibration == EXPECTED.trained
    few = Fitted(examples=[SHOTS[0], example("Kim and Lea met.", person=["Kim"])])
    assert few.outcome.calibration == EXPECTED.few_mentions


def test_expected_confidences_are_lower_with_few_mentions_but_the_same_spans_are_reported() -> None:
    """By the figures of the base that ships with the package."""
    folder = base_folder(MINI)
    assert folder is not None
    figures = json.loads((folder / FIGURES_FILE).read_text(encoding="utf-8"))
    expected = ExpectedCalibrations.of_base(figures, True, FIGURES_FILE)
    usual, few = expected.trained, expected.few_mentions
    for score in (number / 1000 for number in range(1, 1000)):
        for vote in (-6.0, -2.0, -0.1):
            before, after = usual.confidence(score, vote), few.confidence(score, vote)
            assert after < before
            assert (after >= few.threshold) == (before >= usual.threshold)


def test_each_training_is_a_phase_with_steps_of_its_own() -> None:
    names = ["calibrating, part 1 of 3", "calibrating, part 2 of 3", "calibrating, part 3 of 3", "training"]
    # a third is held out, so two of the three steps are as many passes over the rest
    parts = [(name, number, 2) for name in names[:3] for number in (1, 2)]
    assert [(p.phase, p.step.number, p.step.total) for p in Fitted("calibrate.folds=3").reported] == [
        *parts,
        *(("training", n, 3) for n in (1, 2, 3)),
    ]
    assert {p.phase for p in Fitted(dev=SHOTS[:1]).reported} == {"training"}


def test_calibration_takes_as_many_passes_but_of_many_shots_half_of_the_steps() -> None:
    def totals(steps: int, **changes: int) -> list[int]:
        reported = Fitted(f"train.steps={steps}", changes=changes).reported
        return [next(of_phase).step.total for _, of_phase in groupby(reported, lambda progress: progress.phase)]

    assert totals(6) == [3, 3, 6] and totals(1) == [1, 1, 1]
    # a third is held out, two thirds would take 6 steps
    assert totals(9, many_shots=5) == [6, 9]
    assert totals(9, many_shots=5, fold_steps=1) == [4, 9]
    assert totals(9, many_shots=5, fold_steps=5) == [5, 9]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("cllmfs")]


def test_each_warning_is_given_once_whatever_is_held_out_or_varied(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas boat", (Span(0, 3, "person"),))
    settings = ("train.steps=8", "train.swap_mentions=0.9")
    with caplog.at_level(logging.WARNING, "cllmfs"):
        made = Fitted(*settings, examples=[*SHOTS, half], labels=LabelSet(["person", "place", "ship"]))
    assert made.outcome.held_out_f1 is not None
    first, second = warnings_of(caplog)
    assert first.startswith("gold spans that are left out of training, of 19: 1 begin or end where no token does")
    assert second.startswith("no example for ship: asked as the base knows it, not trained")


def test_labels_that_no_shot_answers_are_named(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas apples", (Span(0, 3, "food"),))
    with caplog.at_level(logging.WARNING, "cllmfs"):
        Fitted(examples=[*SHOTS, half], labels=LabelSet(["person", "place", "food", "tool"]))
    assert "no example for food, tool: asked as the base knows it, not trained" in warnings_of(caplog)


def test_a_label_that_the_rest_lacks_is_no_cause_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    once = example("Sue ate figs.", person=["Sue"], food=["figs"])
    with caplog.at_level(logging.WARNING, "cllmfs"):
        made = Fitted(examples=[*SHOTS, once], labels=LabelSet(["person", "place", "food"]))
    assert made.outcome.held_out_f1 is not None
    assert not warnings_of(caplog)


CROWD = example("Ada met Bo and Kim.", person=["Ada", "Bo", "Kim"])
BARE = [Example(text) for text in ("It rained.", "Nobody came.", "Fog again.")]


def test_shots_whose_spans_are_all_in_one_sentence_are_learned() -> None:
    made = Fitted(examples=[CROWD, *BARE])
    assert made.outcome.steps == 3
    phases = {progress.phase for progress in made.reported}
    assert phases == {"calibrating, part 2 of 2", "training"}, "the part without a span has nothing to teach"


def test_many_shots_whose_rest_answers_nothing_are_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recipe, "folds", lambda *_: [[0]])
    outcome = Fitted(examples=[CROWD, *BARE]).outcome
    assert (outcome.steps, outcome.held_out_f1, outcome.calibration) == (3, None, EXPECTED.trained)


def test_changes_to_the_recipe_reach_the_training() -> None:
    absent = Fitted("train.steps=1", "calibrate.folds=0", labels=LabelSet(["person", "place"]), changes={"steps": 2})
    assert absent.outcome.steps == 2 and absent.reported[-1].step.total == 2


# the dev set


def test_the_score_on_the_dev_set_is_that_of_the_weights_and_thresholds_kept() -> None:
    made = Fitted("train.steps=40", "lora.keep=0", dev=SHOTS)
    found = made.extractor.extract([shot.text for shot in SHOTS], LABELS, made.outcome.calibration)
    assert made.outcome.dev_f1 == pytest.approx(evaluate_spans(SHOTS, found, LABELS, scenarios=False).micro.f1)
    assert (made.outcome.dev_f1 or 0.0) > 0.5 and made.outcome.held_out_f1 is None
    assert made.outcome.calibration != EXPECTED.trained


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, *f1s: float) -> list[float]:
    """Let the base, and then the trained model, have these scores; returns those that were not asked for yet."""
    left = list(f1s)
    monkeypatch.setattr(Fitting, "score", lambda *_: SimpleNamespace(micro=SimpleNamespace(f1=left.pop(0))))
    return left


def finds_by_share(monkeypatch: pytest.MonkeyPatch, found: dict[float, tuple[int, int]]) -> list[float]:
    """Let the model find the spans of so many of SHOTS, and so many wrong ones, by the share that is kept.

    Returns the shares that are set, in turn; the shift of the fitted calibration is the number of spans that it was
    fitted on.
    """
    kept: list[float] = []
    original = AdapterSlot.keep

    def keep(self: AdapterSlot, update: dict[str, Tensor], share: float) -> None:
        kept.append(share)
        original(self, update, share)

    def candidates(*_: object) -> list[Extraction]:
        right, wrong = found[kept[-1]]
        spans = [shot.spans if number < right else () for number, shot in enumerate(SHOTS)]
        between = (3, 4, 5, 6, 7, 11, 12, 13, 14)  # no place of a mention of the last shot
        spans[-1] += tuple(Span(at, at + 1, "place") for at in between[:wrong])
        return [Extraction(tuple(Candidate(*span.key, 0.9, -0.1) for span in here), 1) for here in spans]

    monkeypatch.setattr(AdapterSlot, "keep", keep)
    monkeypatch.setattr(Extractor, "candidates", candidates)
    monkeypatch.setattr(
        cllmfs.training.calibrate, "fit_calibration", lambda judged, *_: Calibration(1.0, float(len(judged)), 0.0)
    )
    return kept


@pytest.mark.parametrize(
    "found, share, f1",
    [
        # of 18 spans: 12 of 18 right give an F1 of 2/3, 12 of 12 one of 0.8; of equal ones the planned share, 0.6, wins
        ({1.0: (4, 6), 0.6: (4, 0), 0.5: (4, 0), 0.25: (3, 0), 0.0: (0, 0)}, 0.6, 0.8),
        ({1.0: (4, 0), 0.6: (4, 0), 0.5: (4, 0), 0.25: (4, 0), 0.0: (4, 0)}, 0.6, 0.8),
        ({1.0: (1, 0), 0.6: (2, 0), 0.5: (3, 0), 0.25: (4, 0), 0.0: (6, 0)}, 0.0, 1.0),
        ({1.0: (0, 3), 0.6: (0, 0), 0.5: (0, 0), 0.25: (0, 9), 0.0: (0, 0)}, 0.6, 0.0),
        # chance is 0.24 / sqrt(18) = 0.057: 12 of 12 right gain more over 12 of 15 (24/33), and less over 12 of 14
        ({1.0: (4, 0), 0.6: (4, 3), 0.5: (4, 4), 0.25: (0, 0), 0.0: (0, 0)}, 1.0, 0.8),
        ({1.0: (4, 0), 0.6: (4, 2), 0.5: (4, 3), 0.25: (0, 0), 0.0: (0, 0)}, 0.6, 0.75),
    ],
)
def test_the_dev_set_chooses_the_share(
    monkeypatch: pytest.MonkeyPatch, found: dict[float, tuple[int, int]], share: float, f1: float
) -> None:
    whole = Fitted("calibrate.folds=0")
    left = scores_in_turn(monkeypatch, 0.1, 0.6)  # the dev set before and after training
    kept = finds_by_share(monkeypatch, found)
    made = Fitted("lora.keep=0", dev=SHOTS, changes={"evaluate_every": 3})
    assert left == [] and kept == [0.6, 1.0, 0.5, 0.25, 0.0, 1.0, share]
    assert made.outcome.keep == share and made.outcome.dev_f1 == pytest.approx(f1)
    fitted_on = 3 * found[share][0] + found[share][1]
    assert made.outcome.calibration.shift == fitted_on, "fitted on what the model finds with this share"
    assert_share(made, whole, share)


def test_a_share_that_is_set_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    left = scores_in_turn(monkeypatch, 0.1, 0.6)
    kept = finds_by_share(monkeypatch, {0.3: (4, 0)})
    outcome = Fitted("lora.keep=0.3", dev=SHOTS, changes={"evaluate_every": 3}).outcome
    assert left == [] and kept == [0.3, 1.0, 0.3]
    assert outcome.keep == 0.3 and outcome.dev_f1 == pytest.approx(0.8)


# without a dev set


@pytest.mark.parametrize("folds", [0, 2])
def test_where_too_little_is_held_out_the_planned_share_is_kept(monkeypatch: pytest.MonkeyPatch, folds: int) -> None:
    whole = Fitted("calibrate.folds=0")
    scores_in_turn(monkeypatch)  # any score would be one too many
    made = Fitted("lora.keep=0", f"calibrate.folds={folds}")
    assert made.outcome.keep == 0.6
    assert_share(made, whole, 0.6)


def finds_of_100(monkeypatch: pytest.MonkeyPatch, right: dict[float, int]) -> list[tuple[float, ...]]:
    """Let each part hold 100 mentions, of which so many are found by share, and nothing else; returns what is asked."""
    asked: list[tuple[float, ...]] = []

    def judge(_: Extractor, __: Sequence[Example], ___: LabelSet, shares: Sequence[float], ____: Calibration) -> Trial:
        asked.append(tuple(shares))
        found = {share: [JudgedSpan(0.9, True, "person")] * right[share] for share in shares}
        return Trial(found, Counter(person=100))

    monkeypatch.setattr(cllmfs.training.fit, "judge", judge)
    return asked


@pytest.mark.parametrize(
    "right, share",
    [
        ({1.0: 80, 0.8: 0, 0.6: 60, 0.5: 40}, 1.0),  # F1 of 2 * 80 / 180, 2 * 60 / 160, 2 * 40 / 140
        ({1.0: 40, 0.8: 0, 0.6: 60, 0.5: 80}, 0.5),
        ({1.0: 63, 0.8: 0, 0.6: 60, 0.5: 63}, 0.6),  # 0.773 is no more than chance (0.24 / 10) above an F1 of 0.75
        ({1.0: 64, 0.8: 0, 0.6: 60, 0.5: 63}, 1.0),  # 0.780 is more
    ],
)
def test_a_part_of_many_shots_chooses_the_share(
    monkeypatch: pytest.MonkeyPatch, right: dict[float, int], share: float
) -> None:
    asked = finds_of_100(monkeypatch, right)
    outcome = Fitted("lora.keep=0", changes={"many_shots": 5}).outcome
    assert asked == [(0.6, 1.0, 0.8, 0.5)]
    assert outcome.keep == share and outcome.held_out_f1 == pytest.approx(2 * right[share] / (100 + right[share]))


@pytest.mark.parametrize("many, keep, share", [(6, 0.0, 0.6), (5, 0.7, 0.7)])
def test_one_share_is_tried_where_shots_are_few_or_it_is_set(
    monkeypatch: pytest.MonkeyPatch, many: int, keep: float, share: float
) -> None:
    asked = finds_of_100(monkeypatch, {share: 25})
    assert Fitted(f"lora.keep={keep}", changes={"many_shots": many}).outcome.keep == share
    assert set(asked) == {(share,)}


def fitting(count: int) -> Fitting:
    """A fitting of so many shots, before its first stage."""
    examples = [Example(f"Ada {number}") for number in range(count)]
    recipe = Recipe(learning_rate=1e-3, steps=1)
    return Fitting(extractor_of("lora.keep=0"), examples, [], LABELS, 512, recipe, EXPECTED.trained)


@pytest.mark.parametrize("count, asked", [(17, 17), (50, 50), (51, 26), (1000, 50)])
@pytest.mark.parametrize("f1", [0.24, 0.25])
def test_of_more_shots_the_share_depends_on_what_the_base_knows(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: int, f1: float
) -> None:
    scored: list[Sequence[Example]] = []

    def score(_: Fitting, examples: Sequence[Example]) -> SimpleNamespace:
        scored.append(examples)
        return SimpleNamespace(micro=SimpleNamespace(f1=f1))

    monkeypatch.setattr(Fitting, "score", score)
    made = fitting(count)
    assert made.plan_share() == made.recipe.share(count, f1)
    assert [len(set(examples)) for examples in scored] == [asked]


def test_with_few_shots_the_base_is_not_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in_turn(monkeypatch)  # any score would be one too many
    assert fitting(16).plan_share() == 0.8


def test_the_rate_is_chosen_by_the_width() -> None:
    made = Fitted("train.learning_rate=0", "calibrate.folds=0")
    assert made.outcome.learning_rate == choose_rate(made.extractor.backbone.width)


# varied shots, and resuming


def losses(*settings: str) -> list[float]:
    return [progress.step.loss for progress in Fitted("calibrate.folds=0", "train.steps=6", *settings).reported]


def test_mentions_are_swapped_from_the_second_epoch_on() -> None:
    """Six sentences, four a step: an epoch has two steps."""
    plain, varied = losses(), losses("train.swap_mentions=0.7")
    assert varied[:2] == plain[:2]
    assert all(one != other for one, other in zip(varied[2:], plain[2:], strict=True))
    assert losses("train.swap_mentions=0.7") == varied
    assert losses("train.swap_mentions=0.7", "train.seed=1")[2:] != varied[2:]


def interrupted(folder: Path, when: Callable[[Progress], None], *settings: str, **arguments: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        Fitted(*settings, checkpoint=folder, on_progress=when, **arguments)


RESUMED = ("train.steps=6", "train.swap_mentions=0.7", "lora.keep=0")


@pytest.mark.parametrize("number", [3, 4])  # resumed at the beginning of an epoch, and in the middle of one
def test_a_resumed_fit_ends_as_an_uninterrupted_one(tmp_path: Path, number: int) -> None:
    changes = {"checkpoint_every": number - 1}
    whole = Fitted(*RESUMED, changes=changes)
    assert whole.outcome.held_out_f1 is not None and whole.outcome.calibration != EXPECTED.trained

    def stop(progress: Progress) -> None:
        if progress.phase == "training":
            stop_at(number)(progress)

    interrupted(tmp_path / "state", stop, *RESUMED, changes=changes)
    resumed = Fitted(*RESUMED, changes=changes, checkpoint=tmp_path / "state", resume=True)
    assert resumed.outcome == whole.outcome
    steps = [progress.step.number for progress in resumed.reported if progress.phase == "training"]
    assert steps == list(range(number, 7))
    assert_equal(resumed.weights(), whole.weights())


def test_a_resumed_fit_with_a_dev_set_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    same: dict[str, Any] = {"dev": SHOTS[:3], "changes": {"checkpoint_every": 3}}
    whole = Fitted(*RESUMED, **same)
    interrupted(tmp_path / "state", stop_at(4), *RESUMED, **same)
    resumed = Fitted(*RESUMED, **same, checkpoint=tmp_path / "state", resume=True)
    assert resumed.outcome == whole.outcome
    assert_equal(resumed.weights(), whole.weights())


def test_an_interrupted_calibration_leaves_no_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of a model that has not seen a part must never be resumed as the model."""
    interrupted(tmp_path / "state", stop_at(2), changes={"checkpoint_every": 1})
    assert list(tmp_path.iterdir()) == []
