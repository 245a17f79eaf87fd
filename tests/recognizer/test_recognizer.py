"""The recognizer end to end on a tiny model: it learns, is saved and loaded, is fitted again, and refuses mistakes."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file

from cllmfs.config import Config, RuntimeConfig
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import DecodedSpan, Rules
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.rows import Request
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.model.adapter import AdapterSlot
from cllmfs.model.loading import FIGURES_FILE
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, LabelSet, Span
from cllmfs.training.loop import Progress


def example(text: str, **mentions: list[str]) -> Example:
    """A sentence with every occurrence of the mentions labeled."""
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
# A random model rarely finds anything: here an answer hardly ends before there is nothing left to find.
EAGER = Rules(end_bias=-20.0)
# Nested answers may hold every stretch of a text, so they must be able to end earlier.
LESS_EAGER = Rules(end_bias=-2.0)


def config(*assignments: str) -> Config:
    return Config().with_settings(assignments)


def facts(document: Document) -> list[tuple[int, int, str, float | None]]:
    return [(*span.key, span.score) for span in document.spans]


def keys(document: Document) -> list[tuple[int, int, str]]:
    return [span.key for span in document.spans]


def assert_same(one: list[Document], other: list[Document], tolerance: float = 1e-6) -> None:
    assert [keys(document) for document in one] == [keys(document) for document in other]
    for document, again in zip(one, other, strict=True):
        for span, other_span in zip(document.spans, again.spans, strict=True):
            assert span.score == pytest.approx(other_span.score, abs=tolerance)
            assert (span.text, document.text) == (other_span.text, again.text)


def with_figures(folder: Path, base: Path, **figures: Calibration) -> Path:
    """A copy of a base with other calibrations to be expected, in a new folder."""
    shutil.copytree(base, folder)
    record = {name: calibration.to_dict() for name, calibration in figures.items()}
    (folder / FIGURES_FILE).write_text(json.dumps(record), encoding="utf-8")
    return folder


def reporting_all(base: Path, folder: Path) -> Path:
    """A copy of a base, in a new folder, whose expected calibrations report every span."""
    every = Calibration(0.42, -0.55, 0.0, vote=0.5)
    return with_figures(folder, base, trained=every, few_mentions=every, zero_shot=every)


@pytest.fixture(scope="module")
def open_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, which here reports every span."""
    return reporting_all(tiny_base, tmp_path_factory.mktemp("bases") / "open")


def eager(make: Callable[..., EntityRecognizer], *args: Any, rules: Rules = EAGER, **options: Any) -> EntityRecognizer:
    """A recognizer, as ``make`` makes it, that answers something even if its weights are random."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cllmfs.recognizer.recognizer.Extractor", partial(Extractor, rules=rules))
        return make(*args, **options)


@pytest.fixture(scope="module")
def memorized(tiny_base: Path) -> EntityRecognizer:
    """A tiny model that knows SHOTS by heart; tests leave it as it is."""
    return EntityRecognizer(str(tiny_base), config=config("train.steps=60", *LEARN)).fit(SHOTS)


@pytest.fixture(scope="module")
def untrained(open_base: Path) -> EntityRecognizer:
    """A random model that is made to answer something."""
    return eager(EntityRecognizer, str(open_base), labels=["person", "place"])


def quick(base: Path, *assignments: str, **options: Any) -> EntityRecognizer:
    """A recognizer that learns for three steps, and then answers something."""
    settings = config("train.steps=3", *LEARN, *assignments)
    return eager(EntityRecognizer, str(base), config=settings, **options)


def interrupt_at(number: int, phase: str = "training") -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if (progress.step.number, progress.phase) == (number, phase):
            raise KeyboardInterrupt

    return interrupt


# learning


def test_it_learns_its_shots_by_heart(memorized: EntityRecognizer) -> None:
    assert memorized.trained
    for shot, document in zip(SHOTS, memorized.predict([shot.text for shot in SHOTS]), strict=True):
        assert keys(document) == [span.key for span in shot.spans]
        assert all(span.score is not None and span.score > 0.5 for span in document.spans)


def test_labels_of_the_shots_are_its_own(memorized: EntityRecognizer) -> None:
    assert memorized.labels == LabelSet(["person", "place"])
    shots = {"sentences": 3, "mentions": {"person": 3, "place": 3}, "steps": 60, "keep": 1.0}
    assert {name: memorized.shots[name] for name in shots} == shots
    assert memorized.scores == {}


def test_evaluation_counts_what_it_gets_right(memorized: EntityRecognizer) -> None:
    right = memorized.evaluate(SHOTS)
    assert right.micro.f1 == 1.0
    wrong = [Example(shot.text, tuple(Span(s.start, s.end, "place") for s in shot.spans)) for shot in SHOTS]
    assert 0.4 < memorized.evaluate(wrong, quick=True).micro.f1 < 0.6


def test_a_long_text_is_read_in_windows_and_loses_nothing(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "Ada met Bo in Rome. Kim left Oslo for Lima. Nobody saw Bo there.\n"
        "Rome waited; Ada did not. Zoë and Kim wrote to Oslo. It rained — “much”, Kim said.\r\n"
        "Lima answered Zoë. Ada came back from Rome, and Bo stayed in Lima."
    )
    long = example(text, person=["Ada", "Bo", "Kim", "Zoë"], place=["Rome", "Oslo", "Lima"])
    settings = ("train.steps=90", "runtime.window_tokens=48", "runtime.overlap_tokens=12", *LEARN)
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer = EntityRecognizer(str(tiny_base), config=config(*settings)).fit([long])
    assert not caplog.records, "every gold span lies in some window"
    document = recognizer.predict(text)
    assert document.windows >= 5
    assert keys(document) == [span.key for span in long.spans]
    assert all(text[span.start : span.end] == span.text for span in document.spans)


def test_a_span_is_reported_by_the_window_that_owns_its_start(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if a neighboring window, which sees less around the span, is more confident."""
    text = " ".join(f"w{number}" for number in range(60))

    def all_words(
        _: object, __: object, requests: list[Request], *___: object, **____: object
    ) -> list[list[DecodedSpan]]:
        found = []
        for request in requests:
            size, starts, ends = len(request.sentence), request.sentence.start_ok, request.sentence.end_ok
            words = [
                (first, ends.index(True, first)) for first in range(size) if starts[first] and True in ends[first:]
            ]
            found.append([DecodedSpan(*word, "x", 1 - min(word[0] + 1, size - word[0]) / 1000) for word in words])
        return found

    monkeypatch.setattr("cllmfs.decoding.extraction.decode", all_words)
    settings = config("runtime.window_tokens=40", "runtime.overlap_tokens=10")
    recognizer = EntityRecognizer(str(tiny_base), labels=["x"], config=settings)
    recognizer.calibration = Calibration()
    document = recognizer.predict(text)
    assert document.windows > 5 and " ".join(span.text or "" for span in document.spans) == text
    # The text's own ends apart, the owner of a word sees at least half of the overlap on either side of its start.
    assert all(1 - (span.score or 0.0) >= 5 / 1000 - 1e-9 for span in document.spans[2:-2])


def test_fit_is_deterministic_for_a_seed(open_base: Path) -> None:
    made = []
    for seed in (5, 5, 6):
        recognizer = quick(open_base, f"train.seed={seed}", "loss.adversarial=neftune")
        losses: list[float] = []
        recognizer.fit(SHOTS, on_progress=lambda progress, losses=losses: losses.append(progress.step.loss))
        made.append((losses, [facts(document) for document in recognizer.predict(TEXTS)]))
    assert made[0] == made[1]
    assert made[0] != made[2]
    assert any(made[0][1])


def test_labels_without_a_shot_are_named_and_asked_all_the_same(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer = quick(tiny_base).fit(SHOTS, labels={"boat": "a vessel", "person": "", "place": ""})
    assert "no example for boat" in caplog.text
    assert list(recognizer.labels or ()) == ["boat", "person", "place"]
    assert recognizer.shots["mentions"] == {"person": 3, "place": 3}


def test_a_label_whose_spans_cannot_be_answered_is_not_trained(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would only be taught to answer nothing."""
    half = Example("Skuas sail", (Span(0, 4, "boat"),))
    with caplog.at_level(logging.WARNING, "cllmfs"):
        quick(tiny_base, "spans.edges=word").fit([*MORE, half])
    assert "1 begin or end where no token does" in caplog.text and "no example for boat" in caplog.text


def test_the_dev_set_chooses_and_is_recorded(tiny_base: Path) -> None:
    reported: list[Progress] = []
    recognizer = EntityRecognizer(str(tiny_base), config=config("train.steps=60", *LEARN, "lora.keep=0"))
    recipe = {"evaluate_every": 20, "patience": 9}
    dev = SHOTS * 4  # with fewer mentions, the shares would differ by no more than chance
    recognizer.fit(SHOTS, dev=dev, on_progress=reported.append, recipe=recipe)
    assert reported[-1].best_f1 == 1.0 and reported[0].dev_f1 is not None and reported[0].dev_f1 < 1.0
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
    """All settings but the number of steps have their defaults."""
    settings = config("train.steps=3", "train.precision=fp32")
    held_out, dev = (eager(EntityRecognizer, str(tiny_base), config=settings) for _ in range(2))
    held_out.fit(MORE)
    assert list(held_out.scores) == ["held-out shots strict micro F1"]
    assert held_out.calibration != ExpectedCalibrations().trained
    dev.fit(MORE, dev=SHOTS)
    assert list(dev.scores) == ["dev strict micro F1"]
    for made in (held_out, dev):
        assert all(0.0 <= score <= 1.0 for score in made.scores.values())
        assert made.shots["steps"] == 3 and made.shots["learning_rate"] == 2e-3
        assert 0.0 <= made.shots["keep"] <= 1.0


def test_reading_merged_weights_finds_the_same(
    open_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = quick(open_base).fit(SHOTS)
    with monkeypatch.context() as patch:
        patch.setattr(AdapterSlot, "merge", lambda _: None)
        apart = quick(open_base).fit(SHOTS)
        unmerged = apart.predict(TEXTS)
    assert any(document.spans for document in unmerged)
    assert_same(merged.predict(TEXTS), unmerged, 1e-4)
    adapters = [
        made.save(tmp_path / name) / "adapter_model.safetensors" for name, made in (("a", merged), ("b", apart))
    ]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


def test_an_interrupted_fit_resumes_from_its_checkpoint(open_base: Path, tmp_path: Path) -> None:
    def five_steps() -> EntityRecognizer:
        return eager(EntityRecognizer, str(open_base), config=config("train.steps=5", *LEARN))

    recipe = {"checkpoint_every": 2}
    whole = five_steps().fit(SHOTS, recipe=recipe)
    broken = five_steps()
    with pytest.raises(KeyboardInterrupt):
        broken.fit(SHOTS, checkpoint=tmp_path / "state", on_progress=interrupt_at(3), recipe=recipe)
    assert (tmp_path / "state").is_dir() and not broken.trained
    numbers: list[int] = []
    resumed = five_steps()
    resumed.fit(
        SHOTS,
        checkpoint=tmp_path / "state",
        resume=True,
        on_progress=lambda progress: numbers.append(progress.step.number),
        recipe=recipe,
    )
    assert numbers == [3, 4, 5]
    assert_same(resumed.predict(TEXTS), whole.predict(TEXTS), 0.0)


# fitting again


BOAT = example("Zoe rows the Skua.", person=["Zoe"], boat=["Skua"])


def assert_equal(one: EntityRecognizer, other: EntityRecognizer, folder: Path) -> None:
    """The two are one model, to the last bit."""
    assert (one.labels, one.calibration, one.shots, one.scores) == (
        other.labels, other.calibration, other.shots, other.scores
    )  # fmt: skip
    weights = [made.save(folder / str(id(made))) / "adapter_model.safetensors" for made in (one, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    documents = one.predict(TEXTS)
    assert any(document.spans for document in documents)
    assert [facts(document) for document in documents] == [facts(document) for document in other.predict(TEXTS)]


@pytest.mark.parametrize("settings", [(), ("calibrate.folds=2", "train.swap_mentions=0.7", "train.replay=2")])
def test_fitting_again_gives_what_a_new_recognizer_gives(
    open_base: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    again = quick(open_base, *settings)
    for shots in (MORE, MORE, [*MORE, BOAT], SHOTS):
        again.fit(shots)
        assert_equal(again, quick(open_base, *settings).fit(shots), tmp_path)


def test_fitting_again_with_what_is_given_for_it_alone(open_base: Path, tmp_path: Path) -> None:
    """Labels, a dev set and a recipe of one training leave no trace in the next one."""
    again = quick(open_base, "loss.adversarial=fgm-view", "train.activation_checkpointing=on")
    labels = {"place": "", "person": "a human"}
    again.fit(SHOTS, dev=SHOTS, labels=labels, recipe={"patience": 1, "warmup": 0.5})
    fresh = quick(open_base, "loss.adversarial=fgm-view", "train.activation_checkpointing=on")
    assert_equal(again.fit(MORE, labels=labels), fresh.fit(MORE, labels=labels), tmp_path)
    again.fit([*MORE, BOAT])
    assert again.labels == LabelSet({"boat": "", "person": "a human", "place": ""}), "descriptions are kept"


def test_labels_of_the_constructor_are_asked_after_every_training(open_base: Path) -> None:
    made = quick(open_base, labels={"boat": "a vessel", "place": "", "person": ""})
    for _ in range(2):
        assert made.fit(SHOTS).labels == LabelSet({"boat": "a vessel", "place": "", "person": ""})


def test_a_loaded_model_is_fitted_again(open_base: Path, tmp_path: Path) -> None:
    quick(open_base).fit(SHOTS, labels={"person": "a human", "place": ""}).save(tmp_path / "model")
    loaded = eager(EntityRecognizer.load, tmp_path / "model")
    loaded.fit([*MORE, BOAT])
    labels = {"boat": "", "person": "a human", "place": ""}
    assert loaded.labels == LabelSet(labels)
    assert_equal(loaded, quick(open_base).fit([*MORE, BOAT], labels=labels), tmp_path)


@pytest.fixture(scope="module")
def undisturbed(open_base: Path) -> tuple[EntityRecognizer, EntityRecognizer]:
    """Recognizers that were fitted once, on SHOTS and on MORE; tests leave them as they are."""
    return quick(open_base, "calibrate.folds=2").fit(SHOTS), quick(open_base, "calibrate.folds=2").fit(MORE)


@pytest.mark.parametrize(
    "error, arguments",
    [
        (DataError, {"examples": []}),
        (DataError, {"examples": [Example("👩‍🚀 sat", (Span(0, 1, "person"),))]}),
        (DataError, {"examples": SHOTS, "labels": ["person"]}),
        (ConfigError, {"examples": MORE, "recipe": {"fold_stepz": 1}}),
        (ConfigError, {"examples": MORE, "recipe": {"schedule": "zigzag"}}),
        (KeyboardInterrupt, {"examples": MORE, "on_progress": interrupt_at(1, "calibrating, part 2 of 2")}),
        (KeyboardInterrupt, {"examples": [*MORE, BOAT], "on_progress": interrupt_at(2)}),
    ],
)
def test_a_fit_that_fails_leaves_the_adapter_before_it(
    open_base: Path,
    tmp_path: Path,
    undisturbed: tuple[EntityRecognizer, EntityRecognizer],
    error: type[BaseException],
    arguments: dict[str, Any],
) -> None:
    made = quick(open_base, "calibrate.folds=2").fit(SHOTS)
    with pytest.raises(error):
        made.fit(**arguments)
    assert made.trained
    assert_equal(made, undisturbed[0], tmp_path)
    assert_equal(made.fit(MORE), undisturbed[1], tmp_path)


def test_a_first_fit_that_fails_leaves_the_base(open_base: Path) -> None:
    made, base = (quick(open_base, labels=["person", "place"]) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        made.fit(SHOTS, on_progress=interrupt_at(2))
    assert not made.trained
    assert made.predict(TEXTS) == base.predict(TEXTS)


# sharing a base


def test_recognizers_that_share_a_base_answer_as_each_alone(open_base: Path, tmp_path: Path) -> None:
    others = ("train.seed=3", "lora.rank=4", "train.steps=5")
    alone = [quick(open_base).fit(SHOTS), quick(open_base, *others).fit([*MORE, BOAT]), quick(open_base, labels=["x"])]
    first = quick(open_base)
    shared = [first, quick(open_base, *others, share=first), quick(open_base, labels=["x"], share=first)]
    shared[1].fit([*MORE, BOAT])
    shared[0].fit(SHOTS)
    expected = [[facts(document) for document in made.predict(TEXTS)] for made in alone]
    assert all(any(found) for found in expected)
    for turn in (0, 1, 2, 1, 0, 2, 0):
        assert [facts(document) for document in shared[turn].predict(TEXTS)] == expected[turn]
    streams = [made.stream(TEXTS) for made in shared]
    for position in range(len(TEXTS)):
        assert [facts(next(stream)) for stream in streams] == [found[position] for found in expected]
    for made, one in zip(shared[:2], alone[:2], strict=True):
        assert_equal(made, one, tmp_path)
    shared[0].fit(MORE)
    assert [facts(document) for document in shared[1].predict(TEXTS)] == expected[1], "another's new training"


def test_a_model_is_loaded_onto_a_shared_base(open_base: Path, tmp_path: Path) -> None:
    first = quick(open_base).fit(SHOTS)
    saved = quick(open_base, "train.seed=3").fit(MORE)
    saved.save(tmp_path / "model")
    loaded = eager(EntityRecognizer.load, tmp_path / "model", share=first)
    before = first.predict(TEXTS)
    assert_same(loaded.predict(TEXTS), saved.predict(TEXTS), 0.0)
    assert_same(first.predict(TEXTS), before, 0.0)


def test_only_the_same_base_is_shared(tiny_base: Path, open_base: Path, tmp_path: Path) -> None:
    made = quick(tiny_base).fit(SHOTS)
    with pytest.raises(ConfigError, match=r"share must be a recognizer of the same base, .*open', got one of .*llama'"):
        EntityRecognizer(str(open_base), share=made)
    folder = made.save(tmp_path / "model")
    with pytest.raises(ConfigError, match="share must be a recognizer of the same base"):
        EntityRecognizer.load(folder, share=EntityRecognizer(str(open_base)))


# what is shown


class Terminal(io.StringIO):
    """Text that is written to a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_is_shown(tiny_base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    quick(tiny_base, "calibrate.folds=2").fit(MORE)
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_progress_is_shown(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "160")
    quick(tiny_base).fit(SHOTS)
    assert "training" in terminal.getvalue()
    assert "step 3/3" in terminal.getvalue()


def test_on_a_terminal_nothing_is_shown_if_nobody_wants_it(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    quick(tiny_base).fit(SHOTS, quiet=True)
    steps: list[int] = []
    quick(tiny_base).fit(SHOTS, on_progress=lambda progress: steps.append(progress.step.number))
    assert (terminal.getvalue(), steps) == ("", [1, 2, 3])


def test_in_a_notebook_progress_is_shown_in_lines(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", io)  # that it was imported is all that counts
    quick(tiny_base).fit(SHOTS)
    captured = capsys.readouterr()
    assert captured.out == "" and [line.partition(",")[0] for line in captured.err.splitlines()][-1] == "step 3/3"


SESSION = """
from cllmfs import EntityRecognizer, Config, Example, Span
settings = Config().with_settings(["train.steps=2"])
shots = [Example("Ada met Bo.", (Span(0, 3, "person"), Span(8, 10, "person"))), Example("It rained.")]
ner = EntityRecognizer(config=settings).fit(shots)
ner.save({folder!r})
ner = EntityRecognizer.load({folder!r})
ner.predict("Kim met Lea.")
ner.fit(shots)
"""


def test_libraries_print_and_warn_of_nothing(tmp_path: Path) -> None:
    """With the base that ships with the package, in an interpreter of its own."""
    code = SESSION.format(folder=str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# keeping


def test_saved_and_loaded_it_predicts_the_same(memorized: EntityRecognizer, tmp_path: Path) -> None:
    assert memorized.save(tmp_path / "model") == tmp_path / "model"
    loaded = EntityRecognizer.load(tmp_path / "model")
    assert loaded.trained and loaded.labels == memorized.labels
    assert_same(loaded.predict(TEXTS), memorized.predict(TEXTS))
    assert (loaded.shots, loaded.config, loaded.base) == (memorized.shots, memorized.config, memorized.base)
    again = loaded.save(tmp_path / "again")
    assert json.loads((again / "cllmfs.json").read_text()) == json.loads((tmp_path / "model/cllmfs.json").read_text())


def test_chosen_layers_and_rank_survive_the_disk(open_base: Path, tmp_path: Path) -> None:
    made = quick(open_base, "lora.targets=q_proj,down_proj", "lora.rank=3", "lora.alpha=5").fit(SHOTS)
    made.save(tmp_path / "model")
    loaded = eager(EntityRecognizer.load, tmp_path / "model")
    assert_same(loaded.predict(TEXTS), made.predict(TEXTS))
    weights = update(loaded, tmp_path / "again")
    assert {tensor.shape[1] for tensor in weights.values()} == {3}
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "down_proj"}


def test_labels_and_runtime_can_be_replaced_at_loading(memorized: EntityRecognizer, tmp_path: Path) -> None:
    memorized.save(tmp_path / "model")
    loaded = EntityRecognizer.load(tmp_path / "model", labels=["place"], runtime=RuntimeConfig(threshold=0.3))
    (document,) = loaded.predict([SHOTS[0].text])
    assert {span.label for span in document.spans} <= {"place"}
    assert loaded.config == memorized.config.with_runtime(RuntimeConfig(threshold=0.3)) and loaded.trained


def test_a_config_with_the_same_fixed_settings_changes_the_runtime_alone(
    memorized: EntityRecognizer, tmp_path: Path
) -> None:
    memorized.save(tmp_path / "model")
    same = memorized.config.with_settings(["runtime.threshold=0.3"])
    assert EntityRecognizer.load(tmp_path / "model", config=same).config == same
    both = EntityRecognizer.load(tmp_path / "model", config=same, runtime=RuntimeConfig(batch_tokens=99))
    assert both.config.runtime == RuntimeConfig(batch_tokens=99), "runtime comes before config"


@pytest.mark.parametrize(
    "changes, names",
    [
        (["spans.nested=true"], "spans.nested"),
        (["train.seed=7", "lora.rank=3", "runtime.threshold=0.3"], "lora.rank, train.seed"),
        (["prompt.order=type-first"], "prompt.order"),
    ],
)
def test_settings_that_training_fixed_are_not_replaced(
    memorized: EntityRecognizer, tmp_path: Path, changes: list[str], names: str
) -> None:
    memorized.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=rf"was trained with another {names}, which training fixes; pass runtime="):
        EntityRecognizer.load(tmp_path / "model", config=memorized.config.with_settings(changes))


# Where format 1 had the settings that have moved since.
BEFORE = {
    "model": ["weights"],
    "decode": ["threshold", "batch_tokens", "window_tokens", "overlap_tokens", "edges", "nested"],
}


def test_a_model_of_format_1_loads(open_base: Path, tmp_path: Path) -> None:
    made = quick(open_base, "spans.edges=token", "runtime.window_tokens=40").fit(SHOTS)
    path = made.save(tmp_path / "model") / "cllmfs.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    old: dict[str, dict[str, Any]] = record["config"]
    moved = {**old.pop("spans"), **old.pop("runtime")}
    for section, names in BEFORE.items():
        old.setdefault(section, {}).update({name: moved.pop(name) for name in names})
    assert moved == {}
    old["prompt"] |= {"descriptions": True, "tree": "auto"}
    old["lora"] |= {"dropout": 0.1, "dora": False}
    old["loss"] |= {"contrastive": "symmetric", "support": "automaton", "noise_alpha": 5.0}
    old["train"] |= {"negatives": -1, "schedule": "linear"}
    old["decode"] |= {"opening": "first", "open_at": 0.1, "end_bias": 0.0}
    del old["calibrate"]["votes"]
    old["calibrate"] |= {"vote": 0.5, "slope": 0.42, "scarce_shift": -1.0}
    path.write_text(json.dumps({**record, "format": 1}), encoding="utf-8")
    loaded = eager(EntityRecognizer.load, tmp_path / "model")
    assert loaded.config == made.config
    assert loaded.calibration == made.calibration
    documents = loaded.predict(TEXTS)
    assert any(document.spans for document in documents)
    assert_same(documents, made.predict(TEXTS))


def test_a_base_loads_as_a_recognizer_that_was_not_trained(tiny_base: Path) -> None:
    loaded = EntityRecognizer.load(tiny_base, labels=["person"])
    assert not loaded.trained and loaded.info()["trained"] is False
    assert loaded.predict("Ada met Bo.").text == "Ada met Bo."


def test_info_is_json_and_complete(memorized: EntityRecognizer) -> None:
    info = json.loads(json.dumps(memorized.info()))
    assert set(info) == {
        "base", "base_hash", "trained", "labels", "prompt", "config", "spans", "versions", "shots",
        "scores", "calibration",
    }  # fmt: skip
    assert info["trained"] is True and info["labels"] == {"person": "", "place": ""}
    assert info["base_hash"].startswith("sha256:") and len(info["base_hash"]) == 7 + 64
    assert Config.from_dict(info["config"]) == memorized.config


def test_what_was_fitted_on_the_shots_is_saved_and_loaded(tiny_base: Path, tmp_path: Path) -> None:
    made = quick(tiny_base, "calibrate.folds=2").fit(MORE)
    folder = made.save(tmp_path / "model")
    record = json.loads((folder / "cllmfs.json").read_text(encoding="utf-8"))
    assert record["calibration"] == made.calibration.to_dict() and record["scores"] == made.scores != {}
    loaded = eager(EntityRecognizer.load, folder)
    assert loaded.calibration == made.calibration != ExpectedCalibrations().trained
    assert loaded.scores == made.scores
    assert_same(loaded.predict(TEXTS), made.predict(TEXTS))


def test_what_was_fitted_beats_what_is_expected_of_the_base(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    made = quick(base, "calibrate.folds=2").fit(MORE)
    folder = made.save(tmp_path / "model")
    lower = Calibration(shift=2.0, threshold=0.9)
    other = with_figures(tmp_path / "other", base, trained=lower, few_mentions=lower, zero_shot=lower)
    shutil.copy(other / FIGURES_FILE, base)
    assert EntityRecognizer.load(folder).calibration == made.calibration


# predicting


def test_one_text_gives_a_document_and_many_a_list(memorized: EntityRecognizer) -> None:
    one = memorized.predict(SHOTS[0].text)
    assert isinstance(one, Document) and one.text == SHOTS[0].text and one.windows == 1
    assert [document.text for document in memorized.predict(iter(TEXTS))] == TEXTS
    assert memorized.predict([]) == []


def test_texts_without_a_word_have_no_spans(untrained: EntityRecognizer) -> None:
    for text in ("", " ", "\n\t \u3000"):
        assert untrained.predict(text) == Document(text, (), 1)


def test_a_batch_predicts_like_single_texts(memorized: EntityRecognizer, untrained: EntityRecognizer) -> None:
    for recognizer in (memorized, untrained):
        batch = recognizer.predict(TEXTS)
        assert_same([recognizer.predict(text) for text in TEXTS], batch, 1e-5)
        assert_same(recognizer.predict(TEXTS[::-1])[::-1], batch, 1e-5)
    assert any(document.spans for document in untrained.predict(TEXTS))


def test_stream_is_lazy_and_keeps_the_order(memorized: EntityRecognizer) -> None:
    drawn = 0

    def source() -> Iterator[str]:
        nonlocal drawn
        for number in range(150):
            drawn += 1
            yield f"Ada {number}"

    stream = memorized.stream(source())
    assert drawn == 0
    assert next(stream).text == "Ada 0"
    assert 1 <= drawn <= 64
    assert [document.text for document in stream] == [f"Ada {number}" for number in range(1, 150)]
    assert drawn == 150


def test_the_threshold_drops_spans_below_it(untrained: EntityRecognizer) -> None:
    documents = untrained.predict(TEXTS, threshold=0.0)
    scores = sorted(span.score or 0.0 for document in documents for span in document.spans)
    assert len(scores) > 4
    middle = scores[len(scores) // 2]
    kept = untrained.predict(TEXTS, threshold=middle)
    for document, rest in zip(documents, kept, strict=True):
        assert list(rest.spans) == [span for span in document.spans if (span.score or 0.0) >= middle]
    set_once = eager(
        EntityRecognizer, untrained.base, labels=untrained.labels, config=config(f"runtime.threshold={middle}")
    )
    assert set_once.predict(TEXTS) == kept


WORDS = "Ada Bo Kim Lea Max"


@pytest.fixture
def certain(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EntityRecognizer]:
    """Makes recognizers that find the first three words to be a person, the others a place, at these scores."""
    scores = (0.2, 0.5, 0.8, 0.2, 0.5)

    def found(_: object, __: object, requests: list[Request], *___: object, **____: object) -> list[list[DecodedSpan]]:
        (request,) = requests
        spans = []
        for number, (match, score) in enumerate(zip(re.finditer(r"\w+", request.sentence.text), scores, strict=True)):
            at = request.sentence.token_range(*match.span())
            assert at is not None
            spans.append(DecodedSpan(*at, "person" if number < 3 else "place", score))
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
def test_the_expected_calibration_of_a_base_holds_before_anything_is_fitted(tiny_base: Path, tmp_path: Path) -> None:
    zero_shot, other = Calibration(1.0, -0.4, 0.3, vote=0.5), Calibration(2.0, 1.0, 0.9)
    base = with_figures(tmp_path / "base", tiny_base, trained=other, few_mentions=other, zero_shot=zero_shot)
    recognizer = EntityRecognizer(str(base), labels=["person", "place"], config=config("calibrate.votes=false"))
    assert recognizer.calibration == Calibration(1.0, -0.4, 0.3), "without votes"
    assert EntityRecognizer(str(base)).calibration == zero_shot
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


@pytest.mark.parametrize("settings", [(), ("runtime.threshold=0.9",)])
@pytest.mark.parametrize("threshold, kept", [(0.0, WORDS), (0.3, "Bo Kim Max"), (0.7, "Kim"), (1.0, "")])
def test_a_threshold_that_is_asked_for_beats_all_others(
    certain: Callable[..., EntityRecognizer], settings: tuple[str, ...], threshold: float, kept: str
) -> None:
    recognizer = certain(FITTED, *settings)
    assert words(recognizer.predict(WORDS, threshold=threshold)) == kept
    assert words(next(recognizer.stream([WORDS], threshold=threshold))) == kept


def test_a_threshold_among_the_settings_beats_the_fitted_ones(certain: Callable[..., EntityRecognizer]) -> None:
    assert words(certain(FITTED, "runtime.threshold=0.3").predict(WORDS)) == "Bo Kim Max"
    assert words(certain(FITTED, "runtime.threshold=0").predict(WORDS)) == "Kim Lea Max", "0 leaves it to them"


@pytest.mark.parametrize("weight, label, odds", [(0.0, "person", 1.0), (1.0, "place", 8 / 3)])
def test_votes_weigh_in_confidences_and_settle_conflicts(
    certain: Callable[..., EntityRecognizer], monkeypatch: pytest.MonkeyPatch, weight: float, label: str, odds: float
) -> None:
    asked: list[VoteSettings | None] = []

    def found(*_: object, voting: VoteSettings | None, **__: object) -> list[list[DecodedSpan]]:
        asked.append(voting)  # odds of 1 and 2/3 with shares of 1/32 and 1/2, which are 1/4 and 4 times an eighth
        return [[DecodedSpan(0, 2, "person", 0.5, math.log(1 / 32)), DecodedSpan(0, 2, "place", 0.4, math.log(1 / 2))]]

    recognizer = certain(Calibration(vote=weight), "loss.contrastive_layer=0.5", "loss.temperature=0.2")
    monkeypatch.setattr("cllmfs.decoding.extraction.decode", found)
    (span,) = recognizer.predict("Ada").spans
    assert (span.label, span.score) == (label, pytest.approx(odds / (1 + odds)))
    assert asked == [VoteSettings(1, 0.2) if weight else None]


def test_a_span_below_its_labels_threshold_is_in_nobodys_way(
    certain: Callable[..., EntityRecognizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals = [DecodedSpan(0, 2, "person", 0.5), DecodedSpan(0, 2, "place", 0.4)]
    monkeypatch.setattr("cllmfs.decoding.extraction.decode", lambda *_, **__: [rivals])
    assert [span.label for span in certain(Calibration(threshold=0.3)).predict("Ada").spans] == ["person"]
    assert [span.label for span in certain(FITTED).predict("Ada").spans] == ["place"]


def test_the_order_of_the_labels_does_not_matter(memorized: EntityRecognizer, untrained: EntityRecognizer) -> None:
    for recognizer in (memorized, untrained):
        one = recognizer.predict(TEXTS, labels=["person", "place", "boat"])
        other = recognizer.predict(TEXTS, labels=["boat", "place", "person"])
        assert_same(one, other, 1e-5)


def test_flat_spans_never_overlap_and_nested_ones_may(open_base: Path) -> None:
    labels = ["a", "b", "c", "d"]
    flat = eager(EntityRecognizer, str(open_base), labels=labels)
    nested = eager(
        EntityRecognizer, str(open_base), labels=labels, config=config("spans.nested=true"), rules=LESS_EAGER
    )
    for document in flat.predict(TEXTS):
        ends = [0, *(span.end for span in document.spans)]
        assert all(span.start >= end for span, end in zip(document.spans, ends, strict=False))
    found = [document.spans for document in nested.predict(TEXTS)]
    assert any(one.end > other.start for spans in found for one, other in pairwise(spans))
    assert all(len({span.key for span in spans}) == len(spans) for spans in found)


def test_small_batches_change_nothing(open_base: Path) -> None:
    """Types that do not fit one row are asked in several rows."""
    labels = [f"type{number}" for number in range(9)]
    wide, narrow = (
        eager(
            EntityRecognizer,
            str(open_base),
            labels=labels,
            config=config("spans.nested=true", f"runtime.batch_tokens={tokens}"),
            rules=LESS_EAGER,
        )
        for tokens in (8192, 60)
    )
    documents = wide.predict(TEXTS[:3])
    assert len({span.label for document in documents for span in document.spans}) > 2
    assert_same(narrow.predict(TEXTS[:3]), documents, 1e-5)


# mistakes


@pytest.mark.parametrize(
    "shots, labels, message",
    [
        ([], None, "at least one labeled sentence, got none"),
        ([Example("Ada sat"), Example("")], None, "none of the 2 sentences has a labeled span"),
        (SHOTS, "person", r"list or a mapping, got the string 'person'"),
        (SHOTS, [], "at least one label is needed"),
        (SHOTS, ["person"], r"the label 'place' is not among the labels given \(person\)"),
        (SHOTS, ["person", "place", "place"], "'place' is given twice"),
        ([Example("Ada", (Span(0, 9, "person"),))], None, r"must lie in the text .*got 0 to 9"),
        ([Example("Ada", (Span(2, 2, "person"),))], None, "at least one character"),
        ([Example("", (Span(0, 1, "person"),))], None, "must lie in the text"),
    ],
)
def test_what_cannot_be_learned_is_refused(tiny_base: Path, shots: list[Example], labels: Any, message: str) -> None:
    recognizer = quick(tiny_base)
    with pytest.raises(DataError, match=message):
        recognizer.fit(shots, labels=labels)
    assert not recognizer.trained


def test_dev_sentences_are_checked_before_training(tiny_base: Path) -> None:
    with pytest.raises(DataError, match=r"dev.jsonl:3.*'boat' is not among"):
        quick(tiny_base).fit(SHOTS, dev=[Example("The Skua", (Span(4, 8, "boat"),), source="dev.jsonl:3")])
    with pytest.raises(DataError, match="must lie in the text"):
        quick(tiny_base).fit(SHOTS, dev=[Example("Ada", (Span(0, 7, "person"),))])


def test_there_is_nothing_to_save_before_fit(untrained: EntityRecognizer, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"call fit\(\) first"):
        untrained.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_types_must_be_known_to_predict(tiny_base: Path) -> None:
    recognizer = EntityRecognizer(str(tiny_base))
    with pytest.raises(DataError, match="no types are known"):
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
def test_texts_must_be_strings(memorized: EntityRecognizer, texts: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        memorized.predict(texts)


def test_stream_refuses_one_string(memorized: EntityRecognizer) -> None:
    """Its characters would be texts."""
    with pytest.raises(DataError, match="got str 'Ada'"):
        next(memorized.stream("Ada"))


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_the_threshold_is_a_probability(memorized: EntityRecognizer, threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold must lie in 0 to 1"):
        memorized.predict("Ada", threshold=threshold)


def test_nothing_to_evaluate_is_refused(memorized: EntityRecognizer) -> None:
    with pytest.raises(DataError, match="at least one sentence"):
        memorized.evaluate([])


def test_a_label_longer_than_the_model_is_refused(tiny_base: Path) -> None:
    with pytest.raises(DataError, match="description is too long"):
        EntityRecognizer(str(tiny_base), labels={"person": "word " * 300}).predict("Ada sat")


def test_a_base_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="cannot be loaded as a base"):
        EntityRecognizer(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="cannot be loaded as a base"):
        EntityRecognizer.load(tmp_path / "missing")


def test_layers_that_the_model_lacks_are_refused(tiny_base: Path) -> None:
    with pytest.raises(ModelError, match=r"lora\.targets: 'wheel' is no linear layer"):
        quick(tiny_base, "lora.targets=wheel").fit(SHOTS)


@pytest.mark.parametrize("given", [{"train": {"steps": 3}}, "paper", RuntimeConfig()])
def test_an_unchecked_config_is_refused(tiny_base: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=rf"config must be a Config, got {type(given).__name__}; Config.from_dict"):
        EntityRecognizer(str(tiny_base), config=given)


def test_a_change_to_the_recipe_is_checked(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match="unknown field 'warm_up'"):
        quick(tiny_base).fit(SHOTS, recipe={"warm_up": 0.2})


# what happens at the same time, or in the middle of something else


def test_nothing_is_asked_of_a_base_in_training(open_base: Path) -> None:
    made = quick(open_base).fit(SHOTS)
    shared = quick(open_base, share=made)
    before = [facts(document) for document in made.predict(TEXTS)]
    for call in (lambda: made.predict("Ada"), lambda: shared.predict("Ada", labels=["x"]), lambda: shared.fit(SHOTS)):
        with pytest.raises(ModelError, match="is being trained; predict when the training is over"):
            made.fit(MORE, on_progress=lambda _, call=call: call())
    assert [facts(document) for document in made.predict(TEXTS)] == before
    assert made.fit(MORE).trained


def test_who_waits_for_a_training_gets_all_of_it(open_base: Path) -> None:
    made = quick(open_base).fit(SHOTS)
    renamed = [
        Example(shot.text, tuple(replace(span, label=f"new {span.label}") for span in shot.spans)) for shot in MORE
    ]
    found: list[Document] = []
    waiting = threading.Thread(target=lambda: found.extend(made.predict(TEXTS)))

    def start(progress: Progress) -> None:
        if progress.step.number == 1 and not waiting.ident:
            waiting.start()

    made.fit(renamed, on_progress=start)
    waiting.join()
    assert [facts(document) for document in found] == [facts(document) for document in made.predict(TEXTS)]
    assert {span.label for document in found for span in document.spans} <= {"new person", "new place"}


def test_a_stream_keeps_the_model_that_it_began_with(open_base: Path) -> None:
    made = quick(open_base).fit(SHOTS)
    texts = TEXTS * 20  # more than are read at once
    expected = [facts(document) for document in made.predict(texts)]
    stream = made.stream(texts)
    found = [next(stream)]
    made.fit([Example("Rain fell.", (Span(0, 4, "weather"),))])
    found += stream
    assert [facts(document) for document in found] == expected


@pytest.mark.parametrize("at", range(1, 4))
def test_an_adapter_that_is_taken_off_in_part_is_not_used(
    open_base: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quick(open_base).fit(SHOTS)
    other = quick(open_base, labels=["person", "place"], share=made)
    expected = [facts(document) for document in made.predict(TEXTS)]
    replaced = iter(range(100))

    def interrupted(self: Any, *args: Any, **options: Any) -> Any:
        if next(replaced) == at:
            raise KeyboardInterrupt
        return replace_module(self, *args, **options)

    tuner = type(made._backbone.adapters.peft.base_model)
    replace_module = tuner._replace_module
    with monkeypatch.context() as patch:
        patch.setattr(tuner, "_replace_module", interrupted)
        with pytest.raises(KeyboardInterrupt):
            other.predict(TEXTS)
    assert [facts(document) for document in made.predict(TEXTS)] == expected


def test_an_update_that_is_merged_in_part_does_not_count(
    open_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quick(open_base).fit(SHOTS)
    right = load_file(made.save_base(tmp_path / "right") / "model.safetensors")
    other = quick(open_base, labels=["person"], share=made)
    other.predict("Ada")  # takes the adapter off
    merge = BaseTuner.merge_adapter

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        merge(self, *args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BaseTuner, "merge_adapter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.predict("Ada")
    written = load_file(made.save_base(tmp_path / "written") / "model.safetensors")
    assert written.keys() == right.keys() and all(torch.equal(written[name], right[name]) for name in right)


def test_a_base_that_was_replaced_on_disk_is_not_taken_for_the_loaded_one(open_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(open_base, base)
    loaded = quick(base, labels=["person"])
    config_file = base / "config.json"
    config_file.write_text(config_file.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    model = quick(base).fit(SHOTS).save(tmp_path / "model")
    with pytest.raises(ModelError, match="have changed since it was loaded; load it again"):
        EntityRecognizer.load(model, share=loaded)
    assert EntityRecognizer.load(model).trained


@pytest.mark.parametrize(
    "changes, examples, labels",
    [
        (("train.seed=1",), MORE, None),
        (("train.learning_rate=0.5",), MORE, None),
        (("lora.alpha=1",), MORE, None),
        ((), MORE[:-1], None),
        ((), MORE, {"person": "somebody", "place": ""}),
    ],
)
def test_the_checkpoint_of_another_run_is_not_resumed(
    open_base: Path, tmp_path: Path, changes: tuple[str, ...], examples: list[Example], labels: dict[str, str] | None
) -> None:
    state = tmp_path / "state"
    quick(open_base).fit(MORE, checkpoint=state)
    with pytest.raises(ModelError, match="belongs to a run with other settings, labels or sentences"):
        quick(open_base, *changes).fit(examples, labels=labels, checkpoint=state, resume=True)
    assert quick(open_base).fit(MORE, checkpoint=state, resume=True).trained


@pytest.mark.parametrize("options", [{"runtime": RuntimeConfig(weights="bf16")}, {"device": "meta"}])
def test_what_a_shared_base_is_not_is_refused(memorized: EntityRecognizer, options: Any, tmp_path: Path) -> None:
    folder = memorized.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"the shared base has runtime\.weights=fp32 and is on cpu"):
        EntityRecognizer.load(folder, share=memorized, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"config": {}}, "config must be a Config, got dict"),
        ({"runtime": {}}, "config: runtime must be a RuntimeConfig"),
        ({"share": "x"}, "share must be a recognizer of the same base"),
        ({"labels": 5}, "labels must be a list or a mapping, got 5"),
    ],
)
def test_arguments_of_another_type_are_refused(tiny_base: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        EntityRecognizer.load(str(tiny_base), **options)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(tiny_base: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"the device '{device}' cannot be used"):
        EntityRecognizer(str(tiny_base), device=device)


@pytest.mark.parametrize("stream", [None, object()])
def test_fit_needs_no_standard_error(open_base: Path, stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert quick(open_base).fit(SHOTS).trained
