"""The recogniser end to end on a tiny model: it learns shots by heart, survives the disk, and says what is wrong."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.greedy import Request, TokenSpan
from cllmfs.decoding.runners import VoteSettings
from cllmfs.errors import DataError, ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, LabelSet, Span
from cllmfs.training.fit import prior_calibration
from cllmfs.training.shots import Progress


def example(text: str, **mentions: list[str]) -> Example:
    """A sentence with every occurrence of the mentions labelled."""
    found = [
        Span(match.start(), match.end(), label)
        for label, names in mentions.items()
        for name in names
        for match in re.finditer(rf"\b{re.escape(name)}\b", text)
    ]
    return Example(text, tuple(found))


SHOTS = [
    example("Ada met Bo in Rome.", person=["Ada", "Bo"], place=["Rome"]),
    example("Kim left Oslo, then Lima.", person=["Kim"], place=["Oslo", "Lima"]),
    example("Nobody saw it."),
]
# Enough to leave some of them out.
MORE = [
    *SHOTS,
    example("Bo saw Kim in Lima.", person=["Bo", "Kim"], place=["Lima"]),
    example("Rain in Oslo", place=["Oslo"]),
]
TEXTS = [*(shot.text for shot in SHOTS), "", "  ", "Bo and Ada left Lima for Rome, 東京 and Oslo.\r\nKim 👩‍🚀 stayed."]
LEARN = (
    "train.learning_rate=0.01",
    "train.precision=fp32",
    "train.swap_mentions=0",
    "train.replay=0",
    "lora.keep=1",
    "calibrate.folds=0",
)
# 0.2 of the parameters of a tiny model say little: a random one must be told to find anything at all.
EAGER = ("decode.end_bias=-20", "decode.opening=best", "calibrate.threshold=0")


def config(*assignments: str) -> Config:
    return Config().with_settings(assignments)


def facts(document: Document) -> list[tuple[int, int, str, float | None]]:
    return [(*span.key, span.score) for span in document.spans]


def keys(document: Document) -> list[tuple[int, int, str]]:
    return [span.key for span in document.spans]


def assert_same(one: list[Document], other: list[Document], tolerance: float = 1e-6) -> None:
    assert [keys(document) for document in one] == [keys(document) for document in other]
    for document, again in zip(one, other, strict=True):
        for span, twin in zip(document.spans, again.spans, strict=True):
            assert span.score == pytest.approx(twin.score, abs=tolerance)
            assert (span.text, document.text) == (twin.text, again.text)


@pytest.fixture(scope="module")
def memorised(tiny_base: Path) -> EntityRecognizer:
    """A tiny model that knows SHOTS by heart; tests leave it as it is."""
    return EntityRecognizer(str(tiny_base), config=config("train.steps=60", *LEARN)).fit(SHOTS)


@pytest.fixture(scope="module")
def untrained(tiny_base: Path) -> EntityRecognizer:
    """A random model that is made to answer something."""
    return EntityRecognizer(str(tiny_base), labels=["person", "place"], config=config(*EAGER))


def quick(tiny_base: Path, *assignments: str) -> EntityRecognizer:
    return EntityRecognizer(str(tiny_base), config=config("train.steps=3", *LEARN, *assignments))


# learning


def test_it_learns_its_shots_by_heart(memorised: EntityRecognizer) -> None:
    assert memorised.trained
    for shot, document in zip(SHOTS, memorised.predict([shot.text for shot in SHOTS]), strict=True):
        assert keys(document) == [span.key for span in shot.spans]
        assert all(span.score is not None and span.score > 0.5 for span in document.spans)


def test_labels_of_the_shots_are_its_own(memorised: EntityRecognizer) -> None:
    assert memorised.labels == LabelSet(["person", "place"])
    shots = {"sentences": 3, "mentions": {"person": 3, "place": 3}, "steps": 60, "keep": 1.0}
    assert {name: memorised.shots[name] for name in shots} == shots
    assert memorised.scores == {}


def test_evaluation_counts_what_it_gets_right(memorised: EntityRecognizer) -> None:
    right = memorised.evaluate(SHOTS)
    assert right.micro.f1 == 1.0
    wrong = [Example(shot.text, tuple(Span(s.start, s.end, "place") for s in shot.spans)) for shot in SHOTS]
    assert 0.4 < memorised.evaluate(wrong, quick=True).micro.f1 < 0.6


def test_a_long_text_is_read_in_windows_and_loses_nothing(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "Ada met Bo in Rome. Kim left Oslo for Lima. Nobody saw Bo there.\n"
        "Rome waited; Ada did not. Zoë and Kim wrote to Oslo. It rained — “much”, Kim said.\r\n"
        "Lima answered Zoë. Ada came back from Rome, and Bo stayed in Lima."
    )
    long = example(text, person=["Ada", "Bo", "Kim", "Zoë"], place=["Rome", "Oslo", "Lima"])
    settings = ("train.steps=90", "decode.window_tokens=48", "decode.overlap_tokens=12", "decode.opening=best", *LEARN)
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer = EntityRecognizer(str(tiny_base), config=config(*settings)).fit([long])
    assert not caplog.records, "every gold span lies in some window"
    document = recognizer.predict(text)
    assert document.windows >= 5
    assert keys(document) == [span.key for span in long.spans]
    assert all(text[span.start : span.end] == span.text for span in document.spans)


def test_a_span_is_reported_by_the_window_that_owns_its_start(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a neighbour, which sees less around it, is surer."""
    text = " ".join(f"w{number}" for number in range(60))

    def all_words(
        _: object, __: object, requests: list[Request], *___: object, **____: object
    ) -> list[list[TokenSpan]]:
        found = []
        for request in requests:
            size, starts, ends = len(request.sentence), request.sentence.start_ok, request.sentence.end_ok
            words = [
                (first, ends.index(True, first)) for first in range(size) if starts[first] and True in ends[first:]
            ]
            found.append([TokenSpan(*word, "x", 1 - min(word[0] + 1, size - word[0]) / 1000) for word in words])
        return found

    monkeypatch.setattr("cllmfs.decoding.extraction.decode", all_words)
    settings = ("decode.window_tokens=40", "decode.overlap_tokens=10", "calibrate.slope=1", "calibrate.shift=0")
    document = EntityRecognizer(str(tiny_base), labels=["x"], config=config(*settings)).predict(text)
    assert document.windows > 5 and " ".join(span.text or "" for span in document.spans) == text
    # The text's own ends apart, the owner of a word sees at least half of the overlap on either side of its start.
    assert all(1 - (span.score or 0.0) >= 5 / 1000 - 1e-9 for span in document.spans[2:-2])


def test_fit_is_deterministic_for_a_seed(tiny_base: Path) -> None:
    made = []
    for seed in (5, 5, 6):
        recognizer = quick(tiny_base, f"train.seed={seed}", "lora.dropout=0.3", "loss.adversarial=neftune", *EAGER)
        losses: list[float] = []
        recognizer.fit(SHOTS, on_progress=lambda progress, losses=losses: losses.append(progress.step.loss))
        made.append((losses, [facts(document) for document in recognizer.predict(TEXTS)]))
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_labels_without_a_shot_are_named_and_asked_all_the_same(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer = quick(tiny_base, *EAGER).fit(SHOTS, labels={"boat": "a vessel", "person": "", "place": ""})
    assert "no example for boat" in caplog.text
    assert list(recognizer.labels or ()) == ["boat", "person", "place"]
    assert recognizer.shots["mentions"] == {"person": 3, "place": 3}


def test_a_label_whose_spans_cannot_be_answered_is_not_trained(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would only be taught to answer nothing."""
    half = Example("Skuas sail", (Span(0, 4, "boat"),))
    with caplog.at_level(logging.WARNING, "cllmfs"):
        quick(tiny_base).fit([*SHOTS, half])
    assert "1 gold span(s)" in caplog.text and "no example for boat" in caplog.text


def test_the_dev_set_chooses_and_is_recorded(tiny_base: Path) -> None:
    told: list[Progress] = []
    settings = ("train.steps=60", "train.evaluate_every=20", "train.patience=9", *LEARN, "lora.keep=0")
    recognizer = EntityRecognizer(str(tiny_base), config=config(*settings))
    recognizer.fit(SHOTS, dev=SHOTS * 4, on_progress=told.append)  # fewer could not tell the shares apart
    assert told[-1].best_f1 == 1.0 and told[0].dev_f1 is not None and told[0].dev_f1 < 1.0
    assert recognizer.scores == {"dev strict micro F1": 1.0} and recognizer.shots["keep"] == 1.0
    assert recognizer.evaluate(SHOTS, quick=True).micro.f1 == 1.0


def update(recognizer: EntityRecognizer, folder: Path) -> dict[str, torch.Tensor]:
    """The factor of each layer's update that a share scales."""
    adapter = load_file(recognizer.save(folder) / "adapter_model.safetensors")
    return {name: tensor for name, tensor in adapter.items() if ".lora_B." in name}


def assert_share(part: dict[str, torch.Tensor], whole: dict[str, torch.Tensor], share: float) -> None:
    assert all(tensor.any() for tensor in whole.values()) and part.keys() == whole.keys()
    assert all(torch.allclose(part[name], share * tensor) for name, tensor in whole.items())


def test_a_share_of_the_update_is_kept(tiny_base: Path, tmp_path: Path) -> None:
    whole, half = (quick(tiny_base, f"lora.keep={keep}").fit(SHOTS) for keep in (1.0, 0.5))
    assert (whole.shots["keep"], half.shots["keep"]) == (1.0, 0.5)
    assert_share(update(half, tmp_path / "half"), update(whole, tmp_path / "whole"), 0.5)


def test_the_outcome_is_recorded(tiny_base: Path) -> None:
    """With all settings as they come, but for the number of steps."""
    settings = ("train.steps=3", "train.precision=fp32", *EAGER)
    held_out, dev = (EntityRecognizer(str(tiny_base), config=config(*settings)) for _ in range(2))
    held_out.fit(MORE)
    assert list(held_out.scores) == ["held-out shots strict micro F1"]
    assert held_out.calibration != prior_calibration(held_out.config)
    dev.fit(MORE, dev=SHOTS)
    assert list(dev.scores) == ["dev strict micro F1"]
    for made in (held_out, dev):
        assert all(0.0 <= score <= 1.0 for score in made.scores.values())
        assert made.shots["steps"] == 3 and made.shots["learning_rate"] == 2e-3
        assert 0.0 <= made.shots["keep"] <= 1.0


def test_reading_merged_weights_finds_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = quick(tiny_base, *EAGER).fit(SHOTS)
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "merge_lora", lambda _: None)
        apart = quick(tiny_base, *EAGER).fit(SHOTS)
    assert_same(merged.predict(TEXTS), apart.predict(TEXTS), 1e-4)
    adapters = [
        made.save(tmp_path / name) / "adapter_model.safetensors" for name, made in (("a", merged), ("b", apart))
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_an_interrupted_fit_resumes_from_its_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    settings = ("train.steps=5", "train.checkpoint_every=2", *LEARN, *EAGER)
    whole = EntityRecognizer(str(tiny_base), config=config(*settings)).fit(SHOTS)

    def stop(progress: Progress) -> None:
        if progress.step.number == 3:
            raise KeyboardInterrupt

    broken = EntityRecognizer(str(tiny_base), config=config(*settings))
    with pytest.raises(KeyboardInterrupt):
        broken.fit(SHOTS, checkpoint=tmp_path / "state", on_progress=stop)
    assert (tmp_path / "state").is_dir()
    numbers: list[int] = []
    resumed = EntityRecognizer(str(tiny_base), config=config(*settings))
    resumed.fit(SHOTS, checkpoint=tmp_path / "state", resume=True, on_progress=lambda p: numbers.append(p.step.number))
    assert numbers == [3, 4, 5]
    assert_same(resumed.predict(TEXTS), whole.predict(TEXTS), 0.0)


# keeping


def test_saved_and_loaded_it_predicts_the_same(memorised: EntityRecognizer, tmp_path: Path) -> None:
    assert memorised.save(tmp_path / "model") == tmp_path / "model"
    loaded = EntityRecognizer.load(tmp_path / "model")
    assert loaded.trained and loaded.labels == memorised.labels
    assert_same(loaded.predict(TEXTS), memorised.predict(TEXTS))
    assert (loaded.shots, loaded.config, loaded.base) == (memorised.shots, memorised.config, memorised.base)
    again = loaded.save(tmp_path / "again")
    assert json.loads((again / "cllmfs.json").read_text()) == json.loads((tmp_path / "model/cllmfs.json").read_text())


def test_dora_and_chosen_layers_survive_the_disk(tiny_base: Path, tmp_path: Path) -> None:
    lora = ("lora.dora=true", "lora.rslora=true", "lora.targets=q_proj,down_proj", "lora.dropout=0.2", "lora.rank=3")
    made = quick(tiny_base, *lora, *EAGER).fit(SHOTS)
    made.save(tmp_path / "model")
    assert_same(EntityRecognizer.load(tmp_path / "model").predict(TEXTS), made.predict(TEXTS))


def test_labels_and_settings_can_be_replaced_at_loading(memorised: EntityRecognizer, tmp_path: Path) -> None:
    memorised.save(tmp_path / "model")
    loaded = EntityRecognizer.load(tmp_path / "model", labels=["place"], config=config("decode.threshold=0.3"))
    (document,) = loaded.predict([SHOTS[0].text])
    assert {span.label for span in document.spans} <= {"place"}
    assert loaded.config.decode.threshold == 0.3 and loaded.trained


def test_a_base_loads_as_a_recogniser_that_was_not_trained(tiny_base: Path) -> None:
    loaded = EntityRecognizer.load(tiny_base, labels=["person"])
    assert not loaded.trained and loaded.info()["trained"] is False
    assert loaded.predict("Ada met Bo.").text == "Ada met Bo."


def test_info_is_json_and_complete(memorised: EntityRecognizer) -> None:
    info = json.loads(json.dumps(memorised.info()))
    assert set(info) == {
        "base", "base_hash", "trained", "labels", "prompt", "config", "versions", "shots", "scores",
        "calibration",
    }  # fmt: skip
    assert info["trained"] is True and info["labels"] == {"person": "", "place": ""}
    assert info["base_hash"].startswith("sha256:") and len(info["base_hash"]) == 7 + 64
    assert Config.from_dict(info["config"]) == memorised.config


def test_what_was_fitted_on_the_shots_is_saved_and_loaded(tiny_base: Path, tmp_path: Path) -> None:
    made = quick(tiny_base, *EAGER, "calibrate.folds=2").fit(MORE)
    folder = made.save(tmp_path / "model")
    record = json.loads((folder / "cllmfs.json").read_text(encoding="utf-8"))
    assert record["calibration"] == made.calibration.to_dict() and record["scores"] == made.scores != {}
    loaded = EntityRecognizer.load(folder)
    assert loaded.calibration == made.calibration != prior_calibration(made.config)
    assert loaded.scores == made.scores
    assert_same(loaded.predict(TEXTS), made.predict(TEXTS))
    other = EntityRecognizer.load(folder, config=config(*EAGER, "calibrate.shift=2", "calibrate.threshold=0.9"))
    assert other.calibration == made.calibration, "what was measured beats what is expected"


# predicting


def test_one_text_gives_a_document_and_many_a_list(memorised: EntityRecognizer) -> None:
    one = memorised.predict(SHOTS[0].text)
    assert isinstance(one, Document) and one.text == SHOTS[0].text and one.windows == 1
    assert [document.text for document in memorised.predict(iter(TEXTS))] == TEXTS
    assert memorised.predict([]) == []


def test_texts_without_a_word_have_no_spans(untrained: EntityRecognizer) -> None:
    for text in ("", " ", "\n\t \u3000"):
        assert untrained.predict(text) == Document(text, (), 1)


def test_a_batch_predicts_like_single_texts(memorised: EntityRecognizer, untrained: EntityRecognizer) -> None:
    for recognizer in (memorised, untrained):
        batch = recognizer.predict(TEXTS)
        assert_same([recognizer.predict(text) for text in TEXTS], batch, 1e-5)
        assert_same(recognizer.predict(TEXTS[::-1])[::-1], batch, 1e-5)
    assert any(document.spans for document in untrained.predict(TEXTS))


def test_stream_is_lazy_and_keeps_the_order(memorised: EntityRecognizer) -> None:
    drawn = 0

    def source() -> Iterator[str]:
        nonlocal drawn
        for number in range(150):
            drawn += 1
            yield f"Ada {number}"

    stream = memorised.stream(source())
    assert drawn == 0
    assert next(stream).text == "Ada 0"
    assert 1 <= drawn <= 64
    assert [document.text for document in stream] == [f"Ada {number}" for number in range(1, 150)]
    assert drawn == 150


def test_the_threshold_drops_spans_below_it(untrained: EntityRecognizer) -> None:
    documents = untrained.predict(TEXTS, threshold=0.0)
    scores = sorted(span.score or 0.0 for document in documents for span in document.spans)
    assert len(scores) > 4
    limit = scores[len(scores) // 2]
    kept = untrained.predict(TEXTS, threshold=limit)
    for document, rest in zip(documents, kept, strict=True):
        assert list(rest.spans) == [span for span in document.spans if (span.score or 0.0) >= limit]
    set_once = EntityRecognizer(
        untrained.base, labels=untrained.labels, config=config(*EAGER, f"decode.threshold={limit}")
    )
    assert set_once.predict(TEXTS) == kept


WORDS = "Ada Bo Kim Lea Max"


@pytest.fixture
def certain(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EntityRecognizer]:
    """Makes recognisers that find the first three words to be a person, the others a place, at these scores."""
    scores = (0.2, 0.5, 0.8, 0.2, 0.5)

    def found(_: object, __: object, requests: list[Request], *___: object, **____: object) -> list[list[TokenSpan]]:
        (request,) = requests
        spans = []
        for number, (match, score) in enumerate(zip(re.finditer(r"\w+", request.sentence.text), scores, strict=True)):
            at = request.sentence.token_range(*match.span())
            assert at is not None
            spans.append(TokenSpan(*at, "person" if number < 3 else "place", score))
        return [spans]

    monkeypatch.setattr("cllmfs.decoding.extraction.decode", found)

    def made(calibration: Calibration, *settings: str) -> EntityRecognizer:
        recognizer = EntityRecognizer(str(tiny_base), labels=["person", "place"], config=config(*settings))
        recognizer.calibration = calibration
        return recognizer

    return made


def words(document: Document) -> str:
    return " ".join(span.text or "" for span in document.spans)


def test_scores_are_calibrated_confidences(certain: Callable[..., EntityRecognizer]) -> None:
    scores = [span.score for span in certain(Calibration()).predict(WORDS).spans]
    assert scores == [0.2, 0.5, 0.8, 0.2, 0.5]
    scores = [span.score for span in certain(Calibration(slope=0.5, shift=math.log(2))).predict(WORDS).spans]
    assert scores == pytest.approx([0.5, 2 / 3, 0.8, 0.5, 2 / 3])  # odds 1/4, 1, 4 become 1, 2, 4


@pytest.mark.usefixtures("certain")
def test_the_expected_calibration_of_a_base_holds_before_anything_is_fitted(tiny_base: Path) -> None:
    expected = ("zero_shot_slope=1", "zero_shot_shift=-0.4", "zero_shot_threshold=0.3", "vote=0")
    expected = tuple(f"calibrate.{setting}" for setting in expected)
    recognizer = EntityRecognizer(str(tiny_base), labels=["person", "place"], config=config(*expected))
    assert recognizer.calibration == Calibration(1.0, -0.4, 0.3)
    document = recognizer.predict(WORDS)
    assert words(document) == "Bo Kim Max"
    odds = [math.exp(-0.4), 4 * math.exp(-0.4), math.exp(-0.4)]
    assert [span.score for span in document.spans] == pytest.approx([odd / (1 + odd) for odd in odds])


@pytest.mark.parametrize(
    "calibration, kept",
    [
        (Calibration(threshold=0.5), "Bo Kim Max"),  # as high is high enough
        (Calibration(threshold=0.5001), "Kim"),
        (Calibration(threshold=0.6, thresholds={"place": 0.1}), "Kim Lea Max"),
        (Calibration(threshold=0.1, thresholds={"place": 0.9, "person": 0.3}), "Bo Kim"),
        (Calibration(threshold=0.6, thresholds={"boat": 0.0}), "Kim"),
        # odds 1/4 and 1 become 1 and 2: thresholds are of confidences, not of scores
        (Calibration(0.5, math.log(2), 0.6, {"place": 0.45}), "Bo Kim Lea Max"),
    ],
)
def test_spans_count_from_the_fitted_threshold_of_their_label(
    certain: Callable[..., EntityRecognizer], calibration: Calibration, kept: str
) -> None:
    assert words(certain(calibration).predict(WORDS)) == kept


FITTED = Calibration(threshold=0.6, thresholds={"place": 0.1})


@pytest.mark.parametrize("settings", [(), ("decode.threshold=0.9",)])
@pytest.mark.parametrize("threshold, kept", [(0.0, WORDS), (0.3, "Bo Kim Max"), (0.7, "Kim"), (1.0, "")])
def test_a_threshold_that_is_asked_for_beats_all_others(
    certain: Callable[..., EntityRecognizer], settings: tuple[str, ...], threshold: float, kept: str
) -> None:
    recognizer = certain(FITTED, *settings)
    assert words(recognizer.predict(WORDS, threshold=threshold)) == kept
    assert words(next(recognizer.stream([WORDS], threshold=threshold))) == kept


def test_a_threshold_among_the_settings_beats_the_fitted_ones(certain: Callable[..., EntityRecognizer]) -> None:
    assert words(certain(FITTED, "decode.threshold=0.3").predict(WORDS)) == "Bo Kim Max"
    assert words(certain(FITTED, "decode.threshold=0").predict(WORDS)) == "Kim Lea Max", "0 leaves it to them"


@pytest.mark.parametrize("weight, label, odds", [(0.0, "person", 1.0), (1.0, "place", 8 / 3)])
def test_votes_weigh_in_confidences_and_settle_conflicts(
    certain: Callable[..., EntityRecognizer], monkeypatch: pytest.MonkeyPatch, weight: float, label: str, odds: float
) -> None:
    asked: list[VoteSettings | None] = []

    def found(*_: object, voting: VoteSettings | None, **__: object) -> list[list[TokenSpan]]:
        asked.append(voting)  # odds of 1 and 2/3 with shares of 1/32 and 1/2, which are 1/4 and 4 times an eighth
        return [[TokenSpan(0, 2, "person", 0.5, math.log(1 / 32)), TokenSpan(0, 2, "place", 0.4, math.log(1 / 2))]]

    recognizer = certain(Calibration(vote=weight), "loss.contrastive_layer=0.5", "loss.temperature=0.2")
    monkeypatch.setattr("cllmfs.decoding.extraction.decode", found)
    (span,) = recognizer.predict("Ada").spans
    assert (span.label, span.score) == (label, pytest.approx(odds / (1 + odds)))
    assert asked == [VoteSettings(1, 0.2) if weight else None]


def test_a_span_below_its_labels_threshold_is_in_nobodys_way(
    certain: Callable[..., EntityRecognizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals = [TokenSpan(0, 2, "person", 0.5), TokenSpan(0, 2, "place", 0.4)]
    monkeypatch.setattr("cllmfs.decoding.extraction.decode", lambda *_, **__: [rivals])
    assert [span.label for span in certain(Calibration(threshold=0.3)).predict("Ada").spans] == ["person"]
    assert [span.label for span in certain(FITTED).predict("Ada").spans] == ["place"]


def test_the_order_of_the_labels_does_not_matter(memorised: EntityRecognizer, untrained: EntityRecognizer) -> None:
    for recognizer in (memorised, untrained):
        one = recognizer.predict(TEXTS, labels=["person", "place", "boat"])
        other = recognizer.predict(TEXTS, labels=["boat", "place", "person"])
        assert_same(one, other, 1e-5)


def test_flat_spans_never_overlap_and_nested_ones_may(tiny_base: Path) -> None:
    labels = ["a", "b", "c", "d"]
    flat = EntityRecognizer(str(tiny_base), labels=labels, config=config(*EAGER))
    nested = EntityRecognizer(str(tiny_base), labels=labels, config=config("decode.end_bias=-2", "decode.nested=true"))
    for document in flat.predict(TEXTS):
        ends = [0, *(span.end for span in document.spans)]
        assert all(span.start >= end for span, end in zip(document.spans, ends, strict=False))
    found = [document.spans for document in nested.predict(TEXTS)]
    assert any(one.end > other.start for spans in found for one, other in pairwise(spans))
    assert all(len({span.key for span in spans}) == len(spans) for spans in found)


def test_few_tokens_a_row_change_nothing(tiny_base: Path) -> None:
    """Types that do not fit one row are asked in several."""
    labels = [f"type{number}" for number in range(9)]
    settings = ("decode.end_bias=-2", "decode.nested=true", "decode.opening=best", "calibrate.threshold=0")
    wide = EntityRecognizer(str(tiny_base), labels=labels, config=config(*settings))
    narrow = EntityRecognizer(str(tiny_base), labels=labels, config=config(*settings, "decode.batch_tokens=60"))
    documents = wide.predict(TEXTS[:3])
    assert len({span.label for document in documents for span in document.spans}) > 2
    assert_same(narrow.predict(TEXTS[:3]), documents, 1e-5)


# mistakes


@pytest.mark.parametrize(
    "shots, labels, message",
    [
        ([], None, "at least one labelled sentence, got none"),
        ([Example("Ada sat"), Example("")], None, "none of the 2 sentences has a labelled span"),
        (SHOTS, "person", r"list or a mapping, got the string 'person'"),
        (SHOTS, [], "at least one label is needed"),
        (SHOTS, ["person"], r"the label 'place' is not among the labels given \(person\)"),
        (SHOTS, ["person", "place", "place"], "'place' is given twice"),
        ([Example("Ada", (Span(0, 9, "person"),))], None, r"must lie in the text .*got 0 to 9"),
        ([Example("Ada", (Span(2, 2, "person"),))], None, "at least one character"),
        ([Example("", (Span(0, 1, "person"),))], None, "must lie in the text"),
    ],
)
def test_what_cannot_be_learnt_is_refused(tiny_base: Path, shots: list[Example], labels: Any, message: str) -> None:
    recognizer = quick(tiny_base)
    with pytest.raises(DataError, match=message):
        recognizer.fit(shots, labels=labels)
    assert not recognizer.trained


def test_dev_sentences_are_checked_before_training(tiny_base: Path) -> None:
    with pytest.raises(DataError, match=r"dev.jsonl:3.*'boat' is not among"):
        quick(tiny_base).fit(SHOTS, dev=[Example("The Skua", (Span(4, 8, "boat"),), source="dev.jsonl:3")])
    with pytest.raises(DataError, match="must lie in the text"):
        quick(tiny_base).fit(SHOTS, dev=[Example("Ada", (Span(0, 7, "person"),))])


def test_a_trained_recogniser_is_not_trained_again(memorised: EntityRecognizer) -> None:
    with pytest.raises(ModelError, match="trained already"):
        memorised.fit(SHOTS)


def test_there_is_nothing_to_save_before_fit(untrained: EntityRecognizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"call fit\(\) first"):
        untrained.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_types_must_be_known_to_predict(tiny_base: Path) -> None:
    recognizer = EntityRecognizer(str(tiny_base))
    with pytest.raises(DataError, match="which types"):
        recognizer.predict("Ada sat")
    with pytest.raises(DataError, match="list or a mapping, got the string 'person'"):
        recognizer.predict("Ada sat", labels="person")
    with pytest.raises(DataError, match="list or a mapping, got the string 'person'"):
        EntityRecognizer(str(tiny_base), labels="person")
    with pytest.raises(DataError, match="non-empty string"):
        recognizer.predict("Ada sat", labels=["person", " "])
    assert recognizer.evaluate(SHOTS, quick=True).micro.f1 <= 1.0, "the gold names the types"


@pytest.mark.parametrize("texts, message", [
    (7, "strings, one or many, got int"),
    (None, "strings, one or many, got NoneType"),
    (b"Ada sat", "strings, one or many, got bytes"),
    (["Ada", 3], "got int at position 1"),
    (["Ada"] * 70 + [b"Bo"], "got bytes at position 70"),
    (["Ada", SHOTS[0]], "got Example at position 1"),
    (["Ada \ud800"], "half of a surrogate pair"),
])  # fmt: skip
def test_texts_must_be_strings(memorised: EntityRecognizer, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        memorised.predict(texts)


def test_stream_refuses_one_string(memorised: EntityRecognizer) -> None:
    """Its characters would be texts."""
    with pytest.raises(DataError, match="got str 'Ada'"):
        next(memorised.stream("Ada"))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_the_threshold_is_a_probability(memorised: EntityRecognizer, threshold: float) -> None:
    with pytest.raises(DataError, match="threshold must lie in 0 to 1"):
        memorised.predict("Ada", threshold=threshold)


def test_nothing_to_evaluate_is_refused(memorised: EntityRecognizer) -> None:
    with pytest.raises(DataError, match="at least one sentence"):
        memorised.evaluate([])


def test_a_label_longer_than_the_model_is_refused(tiny_base: Path) -> None:
    with pytest.raises(DataError, match="description is too long"):
        EntityRecognizer(str(tiny_base), labels={"person": "word " * 300}).predict("Ada sat")


def test_a_base_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded as a base"):
        EntityRecognizer(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="cannot be loaded as a base"):
        EntityRecognizer.load(tmp_path / "missing")


def test_settings_that_the_model_cannot_keep_are_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"lora\.targets: 'wheel' is no linear layer"):
        quick(tiny_base, "lora.targets=wheel").fit(SHOTS)
