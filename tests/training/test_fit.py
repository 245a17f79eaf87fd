"""Adapting a base: what is left out and judged, what is chosen from it, and that none of it changes the adapter."""

from __future__ import annotations

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
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import cllmfs.training.fit
from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration, Judged, fit_calibration
from cllmfs.decoding.extraction import Candidate, Extractor
from cllmfs.encoding.batches import Batch
from cllmfs.evaluation import evaluate_spans
from cllmfs.model.backbone import Backbone
from cllmfs.schema import Example, LabelSet, Span
from cllmfs.training.fit import Adaptation, choose_share, fold_examples, prior_calibration, scarce_calibration
from cllmfs.training.shots import Progress, ShotBatches, choose_rate
from tests.conftest import fresh_backbone
from tests.training.test_shots import example, stop_at

NAMES = (
    ("Ada", "Bo", "Rome"), ("Kim", "Lea", "Oslo"), ("Zoe", "Max", "Lima"),
    ("Tom", "Eva", "Bern"), ("Jan", "Uwe", "Kiel"), ("Ina", "Pia", "Bonn"),
)  # fmt: skip
SHOTS = [example(f"{one} met {two} in {town}.", person=[one, two], place=[town]) for one, two, town in NAMES]
LABELS = LabelSet(["person", "place"])
SETTINGS = (
    "train.steps=3", "train.learning_rate=0.01", "train.precision=fp32", "train.swap_mentions=0", "train.replay=0",
    "lora.rank=2", "lora.keep=1", "decode.end_bias=-20", "decode.opening=best",
)  # fmt: skip


def adaptation(*settings: str, examples: Sequence[Example] = SHOTS, labels: LabelSet = LABELS) -> Adaptation:
    """On a tiny model of its own, which is made to answer something."""
    config = Config().with_settings([*SETTINGS, *settings])
    return Adaptation(Extractor(fresh_backbone("llama"), config), examples, labels)


def weights(made: Adaptation) -> dict[str, Tensor]:
    """The base's and the adapter's."""
    return {name: tensor.detach().clone() for name, tensor in made.extractor.backbone.model.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def assert_share(made: Adaptation, whole: Adaptation, share: float) -> None:
    """The update is this share of another one."""
    part, full = ({n: t for n, t in weights(one).items() if ".lora_B." in n} for one in (made, whole))
    assert part.keys() == full.keys() and all(tensor.any() for tensor in full.values())
    assert all(torch.allclose(part[name], share * tensor) for name, tensor in full.items())


# parts to leave out


def of(*labels: str) -> Example:
    """A sentence with a mention of each label, one after another."""
    return Example("x" * max(1, len(labels)), tuple(Span(i, i + 1, label) for i, label in enumerate(labels)))


MANY_KINDS = st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(lambda labels: of(*labels)), max_size=100)


@given(MANY_KINDS, st.integers(0, 6), st.integers(0, 3))
def test_parts_left_out_are_a_partition_the_same_for_a_seed(examples: list[Example], folds: int, seed: int) -> None:
    parts = fold_examples(examples, folds, seed)
    assert parts == fold_examples(examples, folds, seed)
    if parts:
        assert len(parts) == folds and all(part == sorted(part) and part for part in parts)
        assert sorted(number for part in parts for number in part) == list(range(len(examples)))


def test_another_seed_gives_other_parts() -> None:
    assert len({str(fold_examples([of("a")] * 12, 2, seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_rare_labels_are_spread_over_the_parts(folds: int, seed: int) -> None:
    examples = [of("often")] * 23 + [of("rare", "often", "often")] * folds + [of()] * 7 + [of("seldom")] * (2 * folds)
    for part in fold_examples(examples, folds, seed):
        mentions = [label for number in part for label in examples[number].labels]
        assert (mentions.count("rare"), mentions.count("seldom")) == (1, 2)


def test_sentences_of_the_rarest_labels_are_placed_first() -> None:
    """One that has "rare" beside a label that is rarer still may go anywhere; the other one must take that in."""
    examples = [of("rare"), *[of("often")] * 11, of("once", "rare")]
    for seed in range(30):
        parts = fold_examples(examples, 2, seed)
        assert [sum("rare" in examples[number].labels for number in part) for part in parts] == [1, 1]


@pytest.mark.parametrize(
    "examples, folds",
    [
        ([of("a")] * 12, 0),
        ([of("a")] * 12, 1),
        ([of("a", "a", "a")] * 3, 2),  # two of them a part are needed
        ([of("a")] * 7, 4),
        ([of("a", "b"), of("a"), of("b"), of("a")], 2),  # five mentions of two labels
        ([], 2),
    ],
)
def test_too_few_shots_are_not_divided(examples: list[Example], folds: int) -> None:
    assert fold_examples(examples, folds, 0) == []


def test_just_enough_shots_are_divided() -> None:
    """Two sentences a part, three mentions a label."""
    for examples, folds in (
        ([of("a", "a", "a")] * 4, 2),
        ([of("a")] * 8, 4),
        ([of("a", "b"), *[of("a", "b")] * 2, of()], 2),
    ):
        assert len(fold_examples(examples, folds, 0)) == folds


def test_of_many_shots_one_part_is_enough() -> None:
    assert [len(part) for part in fold_examples([of("a")] * 100, 2, 0)] == [50, 50]
    for count, size in ((101, 33), (301, 100), (1200, 300)):
        (part,) = fold_examples([of("a")] * count, 3, 0)
        assert len(set(part)) == size and part == sorted(part) and set(part) <= set(range(count))
    assert fold_examples([of("a")] * 101, 1, 0) == []


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

    def candidates(self: Extractor, texts: Sequence[str], *rest: Any) -> list[tuple[tuple[Candidate, ...], int]]:
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
    adaptation("train.steps=6", f"calibrate.folds={folds}", f"train.swap_mentions={swap}").run()
    turns = in_turn(events)
    assert [kind for kind, _ in turns] == ["train", "read"] * folds + ["train"]
    left_out: list[str] = []
    for (_, trained), (_, read) in zip(turns[:-1:2], turns[1::2], strict=True):
        judged = [shot for shot in SHOTS if shot.text in read]
        rest = [shot for shot in SHOTS if shot.text not in read]
        assert len(judged) == len(read) == 6 // folds
        assert {shot.text for shot in rest} <= trained, "all the others are learnt from"
        assert not words(trained) & mentions(judged)
        assert mentions(rest) <= words(trained)
        left_out += read
    assert sorted(left_out) == sorted(shot.text for shot in SHOTS), "each is judged once"
    assert {shot.text for shot in SHOTS} <= turns[-1][1], "the last training is on all of them"


def test_a_dev_set_takes_the_place_of_parts_left_out(events: list[Event]) -> None:
    dev = [example("Lou saw Max in Graz.", person=["Lou", "Max"], place=["Graz"])]
    adaptation("train.evaluate_every=3").run(dev)
    assert [texts for kind, texts in in_turn(events) if kind == "read"] == [{dev[0].text}] * 2  # before and after
    assert set().union(*(texts for kind, texts in events if kind == "train")) == {shot.text for shot in SHOTS}


@pytest.mark.parametrize("keep", [1.0, 0.6])
def test_leaving_parts_out_does_not_change_the_adapter(keep: float) -> None:
    settings = (f"lora.keep={keep}", "lora.dropout=0.3", "loss.adversarial=neftune", "train.swap_mentions=0.7")
    plain = adaptation("train.steps=5", "calibrate.folds=0", *settings)
    before = weights(plain)
    assert plain.run().held_out_f1 is None
    for folds in (2, 3):
        judged = adaptation("train.steps=5", f"calibrate.folds={folds}", *settings)
        assert judged.run().held_out_f1 is not None
        assert_equal(weights(judged), weights(plain))
    trained = weights(plain)
    assert all(torch.equal(trained[name.replace(".weight", ".base_layer.weight")], tensor)
               if name not in trained else torch.equal(trained[name], tensor) for name, tensor in before.items()), (
        "the base itself stays as it was"
    )  # fmt: skip


EXPECTED = Calibration(0.9, -0.3, 0.2, vote=0.5)


@pytest.fixture(scope="module")
def by_hand() -> tuple[list[Judged], dict[str, int]]:
    """What models trained on one half of the shots alone find in the other half, conflicts settled as expected."""
    judged: list[Judged] = []
    for part in fold_examples(SHOTS, 2, 0):
        rest = [shot for number, shot in enumerate(SHOTS) if number not in part]
        alone = adaptation("train.steps=20", "calibrate.folds=0", "lora.keep=0.8", examples=rest)
        alone.run()
        for shot in (SHOTS[number] for number in part):
            ((found, _),) = alone.extractor.candidates([shot.text], LABELS, voting=True)
            taken: list[range] = []
            for one in sorted(found, key=lambda one: EXPECTED.confidence(one.score, one.vote), reverse=True):
                place = range(one.start, one.end)
                if not any(set(place) & set(other) for other in taken):
                    taken.append(place)
                    right = Span(one.start, one.end, one.label) in shot.spans
                    judged.append(Judged(one.score, right, one.label, one.vote))
    return judged, {"person": 12, "place": 6}


def test_what_is_found_in_parts_left_out_tells_calibration_and_score(
    by_hand: tuple[list[Judged], dict[str, int]],
) -> None:
    judged, gold = by_hand
    assert 0 < sum(one.right for one in judged) < len(judged)
    prior = [f"calibrate.{name}={getattr(EXPECTED, name)}" for name in ("slope", "shift", "threshold", "vote")]
    made = adaptation("train.steps=40", "lora.keep=0.8", *prior).run()  # half of the shots take half of the steps
    expected = fit_calibration(judged, gold, EXPECTED, 0.2)  # half of the shots, half of the lift
    fitted = made.calibration
    figures = (fitted.slope, fitted.shift, fitted.threshold, fitted.vote)
    assert figures == pytest.approx((expected.slope, expected.shift, expected.threshold, expected.vote), abs=1e-5)
    assert fitted.thresholds == expected.thresholds and fitted.vote not in (0.0, EXPECTED.vote)
    kept = [one for one in judged if expected.confidence(one.score, one.vote) >= expected.limit(one.label)]
    assert made.held_out_f1 == pytest.approx(2 * sum(one.right for one in kept) / (len(kept) + 18), abs=0.05)
    assert made.dev_f1 is None and (made.steps, made.keep, made.learning_rate) == (40, 0.8, 0.01)


def test_without_parts_and_dev_set_the_expected_calibration_stays() -> None:
    made = adaptation(
        "calibrate.folds=1", "calibrate.slope=0.5", "calibrate.vote=0", "calibrate.shift=0.3", "calibrate.threshold=0.4"
    ).run()
    assert made.calibration == Calibration(0.5, 0.3, 0.4)
    assert (made.dev_f1, made.held_out_f1) == (None, None)


def test_scarce_shots_have_an_expected_calibration_of_their_own() -> None:
    settings = (
        "calibrate.vote=0.7",
        "calibrate.slope=0.5",
        "calibrate.scarce_shift=-2",
        "calibrate.scarce_threshold=0.3",
    )
    made = adaptation(*settings, examples=SHOTS[:2])  # four persons and two places: just three a label
    assert made.run().calibration == prior_calibration(made.config)
    scarce = adaptation(*settings, examples=[SHOTS[0], example("Kim and Lea met.", person=["Kim"])])
    assert scarce.run().calibration == Calibration(0.5, -2.0, 0.3, vote=0.7)


def test_confidences_of_scarce_shots_are_lower_but_of_the_same_spans() -> None:
    usual, scarce = prior_calibration(Config()), scarce_calibration(Config())
    for score in (number / 1000 for number in range(1, 1000)):
        for vote in (-6.0, -2.0, -0.1):
            before, after = usual.confidence(score, vote), scarce.confidence(score, vote)
            assert after < before
            assert (after >= scarce.threshold) == (before >= usual.threshold)


def told_by(made: Adaptation, **arguments: Any) -> list[Progress]:
    told: list[Progress] = []
    made.run(on_progress=told.append, **arguments)
    return told


def test_each_training_is_a_phase_with_steps_of_its_own() -> None:
    names = ["calibrating, part 1 of 3", "calibrating, part 2 of 3", "calibrating, part 3 of 3", "training"]
    told = told_by(adaptation("calibrate.folds=3"))
    # a third is left out, so two of the three steps are as many passes over the rest
    parts = [(name, number, 2) for name in names[:3] for number in (1, 2)]
    assert [(p.phase, p.step.number, p.step.total) for p in told] == [*parts, *(("training", n, 3) for n in (1, 2, 3))]
    assert {p.phase for p in told_by(adaptation(), dev=SHOTS[:1])} == {"training"}


def test_calibration_takes_as_many_passes_but_of_many_shots_half_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def totals(*settings: str) -> list[int]:
        told = told_by(adaptation(*settings))
        return [next(steps).step.total for _, steps in groupby(told, lambda progress: progress.phase)]

    assert totals("train.steps=6") == [3, 3, 6] and totals("train.steps=1") == [1, 1, 1]
    monkeypatch.setattr(cllmfs.training.fit, "_MANY", 5)  # a third is left out, two thirds would take 6 steps
    assert totals("train.steps=9") == [6, 9]
    monkeypatch.setattr(cllmfs.training.fit, "_FOLD_STEPS", 1)
    assert totals("train.steps=9") == [4, 9]
    monkeypatch.setattr(cllmfs.training.fit, "_FOLD_STEPS", 5)
    assert totals("train.steps=9") == [5, 9]


def test_warnings_are_said_once_whatever_is_left_out_or_varied(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas boat", (Span(0, 3, "person"),))
    made = adaptation(
        "train.steps=8",
        "train.swap_mentions=0.9",
        examples=[*SHOTS, half],
        labels=LabelSet(["person", "place", "ship"]),
    )
    with caplog.at_level(logging.WARNING, "cllmfs"):
        assert made.run().held_out_f1 is not None
    said = [record.getMessage() for record in caplog.records if record.name.startswith("cllmfs")]
    assert len(said) == 2
    assert said[0].startswith("1 gold span(s) are left out of training") and "no example for ship" in said[1]


def test_a_label_that_the_rest_lacks_is_no_cause_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    once = example("Sue ate figs.", person=["Sue"], food=["figs"])
    made = adaptation(examples=[*SHOTS, once], labels=LabelSet(["person", "place", "food"]))
    with caplog.at_level(logging.WARNING, "cllmfs"):
        assert made.run().held_out_f1 is not None
    assert not [record for record in caplog.records if record.name.startswith("cllmfs")]


def test_shots_whose_spans_all_lie_in_one_sentence_are_learnt() -> None:
    crowd = example("Ada met Bo and Kim.", person=["Ada", "Bo", "Kim"])
    bare = [Example(text) for text in ("It rained.", "Nobody came.", "Fog again.")]
    assert fold_examples([crowd, *bare], 2, 0) == [] or adaptation(examples=[crowd, *bare]).run().steps == 3


def test_many_shots_whose_rest_answers_nothing_are_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = example("Ada met Bo and Kim.", person=["Ada", "Bo", "Kim"])
    bare = [Example(text) for text in ("It rained.", "Nobody came.", "Fog again.")]
    monkeypatch.setattr(cllmfs.training.fit, "fold_examples", lambda *_: [[0]])
    made = adaptation(examples=[crowd, *bare])
    outcome = made.run()
    assert (outcome.steps, outcome.held_out_f1, outcome.calibration) == (3, None, prior_calibration(made.config))


# the dev set


def test_the_score_on_the_dev_set_is_that_of_the_weights_and_thresholds_kept() -> None:
    made = adaptation("train.steps=40", "lora.keep=0")
    outcome = made.run(SHOTS)
    found = made.extractor.extract([shot.text for shot in SHOTS], LABELS, outcome.calibration)
    assert outcome.dev_f1 == pytest.approx(evaluate_spans(SHOTS, found, LABELS, scenarios=False).micro.f1)
    assert (outcome.dev_f1 or 0.0) > 0.5 and outcome.held_out_f1 is None
    assert outcome.calibration != prior_calibration(made.config)


def scores_in_turn(monkeypatch: pytest.MonkeyPatch, *f1s: float) -> list[float]:
    """Let the base and what is trained score so, one after another; returns those that are still to come."""
    left = list(f1s)
    monkeypatch.setattr(Adaptation, "score", lambda *_: SimpleNamespace(micro=SimpleNamespace(f1=left.pop(0))))
    return left


def finds_by_share(monkeypatch: pytest.MonkeyPatch, found: dict[float, tuple[int, int]]) -> list[float]:
    """Let the model find the spans of so many of SHOTS, and so many wrong ones, by the share that is kept.

    Returns the shares that are tried; the calibration fitted says in its shift how many spans it is from.
    """
    tried: list[float] = []
    original = Backbone.scale_lora

    def scale(self: Backbone, share: float) -> None:
        tried.append(share)
        original(self, share)

    def candidates(*_: object) -> list[tuple[tuple[Candidate, ...], int]]:
        right, wrong = found[tried[-1]]
        spans = [shot.spans if number < right else () for number, shot in enumerate(SHOTS)]
        between = (3, 4, 5, 6, 7, 11, 12, 13, 14)  # no place of a mention of the last shot
        spans[-1] += tuple(Span(at, at + 1, "place") for at in between[:wrong])
        return [(tuple(Candidate(*span.key, 0.9, -0.1) for span in here), 1) for here in spans]

    monkeypatch.setattr(Backbone, "scale_lora", scale)
    monkeypatch.setattr(Extractor, "candidates", candidates)
    monkeypatch.setattr(
        cllmfs.training.fit, "fit_calibration", lambda judged, *_: Calibration(1.0, float(len(judged)), 0.0)
    )
    return tried


@pytest.mark.parametrize(
    "found, share, f1",
    [
        # of 18 spans: 12 of 18 right are an F1 of 2/3, 12 of 12 one of 0.8; of equal ones 0.6, the usual one
        ({1.0: (4, 6), 0.6: (4, 0), 0.5: (4, 0), 0.25: (3, 0), 0.0: (0, 0)}, 0.6, 0.8),
        ({1.0: (4, 0), 0.6: (4, 0), 0.5: (4, 0), 0.25: (4, 0), 0.0: (4, 0)}, 0.6, 0.8),
        ({1.0: (1, 0), 0.6: (2, 0), 0.5: (3, 0), 0.25: (4, 0), 0.0: (6, 0)}, 0.0, 1.0),
        ({1.0: (0, 3), 0.6: (0, 0), 0.5: (0, 0), 0.25: (0, 9), 0.0: (0, 0)}, 0.6, 0.0),
        # chance is 0.24 / sqrt(18) = 0.057: 12 of 12 right is more than it above 12 of 15 (24/33), less above 12 of 14
        ({1.0: (4, 0), 0.6: (4, 3), 0.5: (4, 4), 0.25: (0, 0), 0.0: (0, 0)}, 1.0, 0.8),
        ({1.0: (4, 0), 0.6: (4, 2), 0.5: (4, 3), 0.25: (0, 0), 0.0: (0, 0)}, 0.6, 0.75),
    ],
)
def test_the_dev_set_chooses_the_share(
    monkeypatch: pytest.MonkeyPatch, found: dict[float, tuple[int, int]], share: float, f1: float
) -> None:
    whole = adaptation("calibrate.folds=0")
    whole.run()
    left = scores_in_turn(monkeypatch, 0.1, 0.6)  # the dev set before and after
    tried = finds_by_share(monkeypatch, found)
    made = adaptation("lora.keep=0", "train.evaluate_every=3")
    outcome = made.run(SHOTS)
    assert left == [] and tried == [0.6, 1.0, 0.5, 0.25, 0.0, share]
    assert outcome.keep == share and outcome.dev_f1 == pytest.approx(f1)
    assert outcome.calibration.shift == 3 * found[share][0] + found[share][1], "fitted on what this share finds"
    assert_share(made, whole, share)


@pytest.mark.parametrize("settings, keep", [(("lora.keep=0.3",), 0.3), (("lora.keep=0", "lora.dora=true"), 1.0)])
def test_a_share_that_is_given_is_the_only_one_tried(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], keep: float
) -> None:
    """DoRA's magnitudes are no update that could be scaled."""
    left = scores_in_turn(monkeypatch, 0.1, 0.6)
    tried = finds_by_share(monkeypatch, {keep: (4, 0)})
    outcome = adaptation("train.evaluate_every=3", *settings).run(SHOTS)
    assert left == [] and tried == [keep, keep]
    assert outcome.keep == keep and outcome.dev_f1 == pytest.approx(0.8)


# without a dev set


@pytest.mark.parametrize("folds", [0, 2])
def test_where_too_little_is_left_out_the_usual_share_is_kept(monkeypatch: pytest.MonkeyPatch, folds: int) -> None:
    whole = adaptation("calibrate.folds=0")
    whole.run()
    scores_in_turn(monkeypatch)  # any score would be one too many
    made = adaptation("lora.keep=0", f"calibrate.folds={folds}")
    assert made.run().keep == 0.6
    assert_share(made, whole, 0.6)


def judges_by_share(monkeypatch: pytest.MonkeyPatch, right: dict[float, int]) -> list[tuple[float, ...]]:
    """Let each part hold 100 mentions, of which so many are found by share, and nothing else; returns what is asked."""
    asked: list[tuple[float, ...]] = []

    def judge(_: Adaptation, examples: Sequence[Example], shares: Sequence[float]) -> cllmfs.training.fit._Trial:
        asked.append(tuple(shares))
        found = {share: [Judged(0.9, True, "person")] * right[share] for share in shares}
        return cllmfs.training.fit._Trial(found, Counter(person=100))

    monkeypatch.setattr(Adaptation, "_judge", judge)
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
    monkeypatch.setattr(cllmfs.training.fit, "_MANY", 5)
    asked = judges_by_share(monkeypatch, right)
    outcome = adaptation("lora.keep=0").run()
    assert asked == [(0.6, 1.0, 0.8, 0.5)]
    assert outcome.keep == share and outcome.held_out_f1 == pytest.approx(2 * right[share] / (100 + right[share]))


@pytest.mark.parametrize(
    "many, settings, shares",
    [
        (6, ("lora.keep=0",), (0.6,)),
        (5, ("lora.keep=0.7",), (0.7,)),
        (5, ("lora.keep=0", "lora.dora=true"), (1.0,)),
    ],
)
def test_one_share_is_tried_where_shots_are_few_or_it_is_given(
    monkeypatch: pytest.MonkeyPatch, many: int, settings: tuple[str, ...], shares: tuple[float, ...]
) -> None:
    monkeypatch.setattr(cllmfs.training.fit, "_MANY", many)
    asked = judges_by_share(monkeypatch, {share: 25 for share in shares})
    assert adaptation(*settings).run().keep == shares[0]
    assert set(asked) == {shares}


def test_the_fewer_shots_the_less_is_kept() -> None:
    known, strange = ([choose_share(count, f1) for count in range(1, 100)] for f1 in (0.25, 0.24))
    assert known == sorted(known) and known[0] == 0.2 and known[3] == 0.5 and known[15:] == [0.8] * 84
    assert strange == sorted(strange) and strange[:16] == known[:16] and strange[35] == 0.9 and strange[98] < 1.0


@pytest.mark.parametrize("count, asked", [(17, 17), (50, 50), (51, 26), (1000, 50)])
@pytest.mark.parametrize("f1", [0.24, 0.25])
def test_of_more_shots_the_share_depends_on_what_the_base_knows(
    monkeypatch: pytest.MonkeyPatch, count: int, asked: int, f1: float
) -> None:
    scored: list[Sequence[Example]] = []

    def score(_: Adaptation, examples: Sequence[Example]) -> SimpleNamespace:
        scored.append(examples)
        return SimpleNamespace(micro=SimpleNamespace(f1=f1))

    monkeypatch.setattr(Adaptation, "score", score)
    made = adaptation("lora.keep=0", examples=[Example(f"Ada {number}") for number in range(count)])
    assert made._usual_share() == choose_share(count, f1)
    assert [len(set(examples)) for examples in scored] == [asked]


def test_of_few_shots_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    scores_in_turn(monkeypatch)  # any score would be one too many
    assert adaptation("lora.keep=0", examples=SHOTS[:4] * 4)._usual_share() == 0.8


def test_the_rate_is_chosen_by_the_width() -> None:
    made = adaptation("train.learning_rate=0", "calibrate.folds=0")
    assert made.run().learning_rate == choose_rate(made.extractor.backbone.width)


# varied shots, and resuming


def losses(*settings: str) -> list[float]:
    return [p.step.loss for p in told_by(adaptation("calibrate.folds=0", "train.steps=6", *settings))]


def test_mentions_are_swapped_from_the_second_epoch_on() -> None:
    """Six sentences, four a step: an epoch has two steps."""
    plain, varied = losses(), losses("train.swap_mentions=0.7")
    assert varied[:2] == plain[:2]
    assert all(one != other for one, other in zip(varied[2:], plain[2:], strict=True))
    assert losses("train.swap_mentions=0.7") == varied
    assert losses("train.swap_mentions=0.7", "train.seed=1")[2:] != varied[2:]


def interrupt(made: Adaptation, folder: Path, when: Callable[[Progress], None]) -> None:
    with pytest.raises(KeyboardInterrupt):
        made.run(checkpoint=folder, on_progress=when)


@pytest.mark.parametrize("number", [3, 4])  # resumed at the beginning of an epoch, and in the middle of one
def test_a_resumed_adaptation_ends_as_an_uninterrupted_one(tmp_path: Path, number: int) -> None:
    settings = ("train.steps=6", "train.swap_mentions=0.7", "lora.keep=0", f"train.checkpoint_every={number - 1}")
    whole = adaptation(*settings)
    straight = whole.run()
    assert straight.held_out_f1 is not None and straight.calibration != prior_calibration(whole.config)

    def stop(progress: Progress) -> None:
        if progress.phase == "training":
            stop_at(number)(progress)

    interrupt(adaptation(*settings), tmp_path / "state", stop)
    resumed = adaptation(*settings)
    told: list[Progress] = []
    assert resumed.run(checkpoint=tmp_path / "state", resume=True, on_progress=told.append) == straight
    assert [p.step.number for p in told if p.phase == "training"] == list(range(number, 7))
    assert_equal(weights(resumed), weights(whole))


def test_a_resumed_adaptation_with_a_dev_set_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    settings = ("train.steps=6", "train.swap_mentions=0.7", "lora.keep=0", "train.checkpoint_every=3")
    whole = adaptation(*settings)
    straight = whole.run(SHOTS[:3])

    broken = adaptation(*settings)
    with pytest.raises(KeyboardInterrupt):
        broken.run(SHOTS[:3], tmp_path / "state", on_progress=stop_at(4))
    resumed = adaptation(*settings)
    assert resumed.run(SHOTS[:3], tmp_path / "state", resume=True) == straight
    assert_equal(weights(resumed), weights(whole))


def test_calibration_interrupted_leaves_no_checkpoint(tmp_path: Path) -> None:
    """A checkpoint of a model that has not seen a part must never be resumed as the model."""
    interrupt(adaptation("train.checkpoint_every=1"), tmp_path / "state", stop_at(2))
    assert list(tmp_path.iterdir()) == []
