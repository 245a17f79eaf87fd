"""What a recognizer tells, what it refuses, and what it keeps in pickles, threads and guarantees."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
import pickle
import shutil
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from cllmfs.assurance.guarantee import Risk, text_hash
from cllmfs.config import Config, RuntimeConfig
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, Span
from tests.recognizer.test_recognizer import MORE, SHOTS, TEXTS, eager, facts, quick


@pytest.fixture(scope="module")
def trained(tiny_base: Path) -> EntityRecognizer:
    """Trained for three steps; tests leave it as it is."""
    return quick(tiny_base).fit(MORE)


# records, white space, repeated texts


def records() -> list[dict[str, Any]]:
    return [{**one.to_dict(), "id": number} for number, one in enumerate(MORE)]


def test_records_and_generators_are_examples(tiny_base: Path, trained: EntityRecognizer) -> None:
    for examples in (records(), iter(records()), (one for one in MORE)):
        made = quick(tiny_base).fit(examples)
        assert [facts(one) for one in made.predict(TEXTS)] == [facts(one) for one in trained.predict(TEXTS)]
    assert trained.evaluate(iter(records()), quick=True) == trained.evaluate(MORE, quick=True)
    for wrong in ("shots.jsonl", [3], {"text": "Ada"}):
        with pytest.raises(DataError):
            quick(tiny_base).fit(wrong)  # type: ignore[arg-type]


def test_white_space_at_the_edges_of_spans_does_not_count(
    tiny_base: Path, trained: EntityRecognizer, caplog: pytest.LogCaptureFixture
) -> None:
    def wider(one: Example) -> Example:
        after = [span.end + (one.text[span.end : span.end + 1] == " ") for span in one.spans]
        return Example(one.text, tuple(Span(s.start, end, s.label) for s, end in zip(one.spans, after, strict=True)))

    dragged = [wider(one) for one in MORE]
    assert dragged != MORE
    with caplog.at_level(logging.WARNING, "cllmfs"):
        made = quick(tiny_base).fit(dragged)
    assert "white space at their edges" in caplog.text and "left out of training" not in caplog.text
    assert [facts(one) for one in made.predict(TEXTS)] == [facts(one) for one in trained.predict(TEXTS)]
    assert trained.evaluate(dragged, quick=True) == trained.evaluate(MORE, quick=True)
    with pytest.raises(DataError, match="more than white space"):
        quick(tiny_base).fit([*MORE, Example("Ada  sat", (Span(3, 5, "person"),))])


def test_repeated_texts_are_told(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Example(SHOTS[0].text, SHOTS[0].spans[:1])
    with caplog.at_level(logging.WARNING, "cllmfs"):
        quick(tiny_base).fit([*SHOTS, other], dev=SHOTS[1:2])
    assert "with other spans" in caplog.text and "1 of 1 held-out sentences are training sentences, too" in caplog.text


# labels


@pytest.mark.parametrize("pair", [("PER", "Per"), ("drug_name", "drug name"), ("DrugName", "drug-name")])
def test_labels_that_ask_the_same_question_are_told_once(
    pair: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    recognizer = EntityRecognizer(labels=[*pair, "city"])
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer.predict("Ada met Bo in Rome.")
        recognizer.predict("Ada met Bo in Rome.")
    (told,) = [record.getMessage() for record in caplog.records]
    assert all(repr(label) in told for label in pair) and "city" not in told


def test_gold_labels_that_are_not_asked_for_are_told(
    trained: EntityRecognizer, caplog: pytest.LogCaptureFixture
) -> None:
    gold = [Example("Ada met Bo in Rome.", (Span(0, 3, "Person"), Span(8, 10, "Person"), Span(14, 18, "boat")))]
    with caplog.at_level(logging.WARNING, "cllmfs"):
        scores = trained.evaluate(gold, quick=True)
    assert "'Person' (2 mentions; did you mean 'person'?), 'boat' (1 mentions)" in caplog.text
    assert "all 3 of 3 gold mentions count as missed" in caplog.text
    assert scores.micro.fn == 3


def test_scores_on_shots_are_told(trained: EntityRecognizer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cllmfs"):
        trained.evaluate([*MORE[:2], Example("Zoe sat")], quick=True)
    assert "2 of 3 sentences are among the shots of the model" in caplog.text
    assert trained.shots["hashes"] == sorted({text_hash(one.text) for one in MORE})


def test_texts_that_a_base_cannot_read_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    recognizer = EntityRecognizer(labels=["city"])
    with caplog.at_level(logging.WARNING, "cllmfs"):
        recognizer.predict(["ผมอยู่ที่กรุงเทพ", "เขาไปเชียงใหม่"] * 2)
        recognizer.predict("เราพบกันที่ภูเก็ต")
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "cllmfs-mini cannot read" in told[0] and "Thai" in told[0]
    caplog.clear()
    recognizer.predict(["Ada met Bo in Rome.", "Åse flyttet til Tromsø.", "Анна живёт в Москве."])
    assert not caplog.records


# only some labels annotated


def test_labels_that_were_not_annotated_are_not_scored(trained: EntityRecognizer) -> None:
    whole, labels = MORE[0], frozenset({"place"})
    places = tuple(span for span in whole.spans if span.label == "place")
    part = trained.evaluate([Example(whole.text, places, annotated=labels)], quick=True)
    assert part.per_label["person"].tp == part.per_label["person"].fp == part.per_label["person"].fn == 0
    assert part.per_label["place"] == trained.evaluate([whole], quick=True).per_label["place"]


# pickles


def test_pickled_and_copied_recognizers_answer_the_same(trained: EntityRecognizer) -> None:
    expected = [facts(one) for one in trained.predict(TEXTS)]
    for other in (pickle.loads(pickle.dumps(trained)), copy.deepcopy(trained)):
        assert other.trained and other.labels == trained.labels and other.shots == trained.shots
        assert [facts(one) for one in other.predict(TEXTS)] == expected
    assert [facts(one) for one in trained.predict(TEXTS)] == expected


def test_a_pickle_needs_the_same_base(tiny_base: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    kept = pickle.dumps(EntityRecognizer(str(base), labels=["person"]))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "note": "another"}))
    with pytest.raises(ModelError, match="not the base that the recognizer was pickled with"):
        pickle.loads(kept)


def _answers(recognizer: EntityRecognizer) -> list[Any]:
    return [facts(one) for one in recognizer.predict(TEXTS)]


def test_a_spawned_process_gets_the_recognizer(trained: EntityRecognizer) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_answers, [trained]) == [_answers(trained)]


# what the shots decide is saved


def test_edges_and_nesting_that_the_shots_decided_are_saved(tiny_base: Path, tmp_path: Path) -> None:
    odd = [
        Example("Boschmitarbeiter streiken", (Span(0, 5, "company"),)),
        Example("University of Leeds", (Span(0, 19, "school"), Span(14, 19, "place"))),
    ]
    made = quick(tiny_base).fit([*MORE, *odd, *odd])
    assert made.config.spans == Config().spans
    assert made.info()["spans"] == {"edges": "token", "nested": True}
    loaded = eager(EntityRecognizer.load, made.save(tmp_path / "model"))
    assert loaded.config == made.config and loaded.info()["spans"] == made.info()["spans"]
    assert [facts(one) for one in loaded.predict(TEXTS)] == [facts(one) for one in made.predict(TEXTS)]
    assert made.fit(MORE).info()["spans"] == {"edges": "word", "nested": False}  # decided anew


# guarantees


def test_a_guarantee_is_given_kept_and_carried(
    trained: EntityRecognizer, tiny_base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = copy.deepcopy(trained)
    texts = [Example(f"Ada met Bo in Rome {number}.") for number in range(40)]
    before = [facts(one) for one in model.predict(TEXTS)]
    with pytest.raises(DataError, match="labeled texts with a mention"):
        model.calibrate(texts, recall=0.95)
    assert model.guarantee is None and [facts(one) for one in model.predict(TEXTS)] == before
    found = model.predict([one.text for one in texts])
    easy = [Example(one.text, tuple(Span(*span.key) for span in one.spans)) for one in found]
    assert any(one.spans for one in easy), "what the model finds is taken for gold"
    made = model.calibrate(easy, recall=0.7, confidence=0.9)
    assert made.promise() == {"recall": 0.7, "confidence": 0.9}
    (document,) = model.predict([TEXTS[0]])
    assert document.guarantee == made.promise() and document.to_dict()["guarantee"] == made.promise()
    for given in ({"threshold": 0.5}, {"labels": ["person"]}):
        assert model.predict(TEXTS[0], **given).guarantee is None  # type: ignore[arg-type]
    loaded = eager(EntityRecognizer.load, model.save(tmp_path / "model"))
    assert loaded.guarantee == made
    assert [facts(one) for one in loaded.predict(TEXTS)] == [facts(one) for one in model.predict(TEXTS)]
    with pytest.raises(DataError, match="not learned from"):
        model.calibrate([*easy, MORE[0]], recall=0.7)
    assert quick(tiny_base).fit(MORE).guarantee is None


def test_from_shots_alone_there_is_an_estimate_and_no_promise(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "cllmfs"):
        made = quick(tiny_base, "calibrate.folds=2").fit(MORE, risk=Risk(recall=0.95))
    assert made.guarantee is None and "The thresholds stay those that were fitted on the shots" in caplog.text


# retention


def test_what_tuning_makes_a_base_forget_is_measured_and_kept(tmp_path: Path) -> None:
    settings = Config().with_settings(["train.steps=2", "calibrate.folds=0"])
    made = EntityRecognizer(config=settings).fit(MORE)
    assert made.retention is not None and made.retention.before.support == made.retention.after.support > 50
    assert made.retention.before.f1 > 0.3
    record = json.loads((made.save(tmp_path / "model") / "cllmfs.json").read_text())
    assert record["retention"] == made.retention.to_dict()
    assert EntityRecognizer.load(tmp_path / "model").info()["retention"] == record["retention"]
    off = EntityRecognizer(config=settings.with_settings(["train.retention=false"])).fit(MORE)
    assert off.retention is None
    assert [facts(one) for one in off.predict(TEXTS)] == [facts(one) for one in made.predict(TEXTS)]


def easy_texts(model: EntityRecognizer, count: int = 40) -> list[Example]:
    """Texts whose gold spans are what the model finds."""
    found = model.predict([f"Ada met Bo in Rome {number}." for number in range(count)])
    return [Example(one.text, tuple(Span(*span.key) for span in one.spans)) for one in found]


def test_a_guarantee_holds_for_the_weights_that_it_was_measured_with(
    trained: EntityRecognizer, tiny_base: Path, tmp_path: Path
) -> None:
    model = copy.deepcopy(trained)
    made = model.calibrate(easy_texts(model), recall=0.5, confidence=0.9)
    assert made.settings["weights"] == "fp32", "what auto has become"
    folder = model.save(tmp_path / "model")
    same = EntityRecognizer.load(folder, runtime=RuntimeConfig(weights="fp32"))
    assert same.predict(TEXTS[0]).guarantee == made.promise()
    low = EntityRecognizer(str(tiny_base), config=Config().with_settings(["runtime.weights=bf16"]))
    assert EntityRecognizer.load(folder, share=low).predict(TEXTS[0]).guarantee is None
    assert copy.deepcopy(low)._backbone.weights == "bf16"


def test_a_risk_that_thresholds_cannot_serve_is_refused_before_training(tiny_base: Path) -> None:
    for options in ({"risk": {"recall": 0.9}}, {"risk": Risk(recall=0.9), "dev": MORE[:1]}):
        model = quick(tiny_base)
        with pytest.raises(ConfigError, match="risk"):
            model.fit(MORE, **options)  # type: ignore[arg-type]
        assert not model.trained and not model.shots
    fixed = quick(tiny_base, "runtime.threshold=0.3").fit(MORE)
    with pytest.raises(ConfigError, match=r"runtime\.threshold = 0\.3 replaces the thresholds"):
        fixed.calibrate(easy_texts(fixed), recall=0.5)


def test_shots_of_a_training_that_goes_on_are_not_taken_for_unseen(tiny_base: Path) -> None:
    model = quick(tiny_base).fit(MORE)
    gold, begun, outcome = easy_texts(model), threading.Event(), list[Any]()

    def calibrate() -> None:
        begun.wait(60)
        try:
            outcome.append(model.calibrate(gold, recall=0.2, confidence=0.8))
        except DataError as error:
            outcome.append(str(error))

    other = threading.Thread(target=calibrate)
    other.start()

    def hold(_: Any) -> None:
        if not begun.is_set():
            begun.set()
            time.sleep(0.3)  # the other thread waits for this training

    model.fit([one for one in gold if one.spans], on_progress=hold)
    other.join()
    assert "not learned from" in outcome[0] and model.guarantee is None


def test_a_whole_annotation_counts_beside_a_partial_one(trained: EntityRecognizer) -> None:
    model = copy.deepcopy(trained)
    whole = easy_texts(model)
    places = (tuple(span for span in one.spans if span.label == "place") for one in whole)
    part = [Example(one.text, spans, annotated={"place"}) for one, spans in zip(whole, places, strict=True)]
    made = model.calibrate([*part, *whole], recall=0.5, confidence=0.9)
    assert made.texts == 40


def test_labels_whose_sentences_cannot_be_learned_from_are_told(
    tiny_base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "Ada Bo Kim Zoe Eve Max Ian Joe Leo Mia Ann Sam Adas"
    names = [Span(at, at + 3, "person") for at in (0, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 48)]
    odd = Example(text, tuple(names))  # the last one ends inside a word
    with pytest.raises(DataError, match="each sentence with a span has one that no answer can contain"):
        quick(tiny_base, "spans.edges=word").fit([odd])
    place = Example("Rome is far", (Span(0, 4, "place"),))
    with caplog.at_level(logging.WARNING, "cllmfs"):
        quick(tiny_base, "spans.edges=word").fit([odd, place])
        quick(tiny_base, "spans.edges=word", "calibrate.folds=2").fit([odd, odd, odd, place, *MORE])
    assert "person: asked as the base knows it, not trained: each sentence with it has" in caplog.text
    assert "no example for person" not in caplog.text


def test_annotated_labels_that_nobody_asks_for_are_told(tiny_base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cllmfs"):
        quick(tiny_base).fit([*MORE, Example("Ben is in Rome", annotated={"Person"})])
    assert "1 sentences have annotated labels that are not trained, such as 'Person'" in caplog.text


def test_other_fields_of_a_record_do_not_matter_to_a_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    dated = [{**one.to_dict(), "when": date(2026, 1, number + 1)} for number, one in enumerate(MORE)]
    quick(tiny_base).fit(dated, checkpoint=tmp_path / "one", recipe={"checkpoint_every": 1})
    made = quick(tiny_base).fit(MORE, checkpoint=tmp_path / "one", resume=True, recipe={"checkpoint_every": 1})
    assert made.trained


def test_a_pickle_finds_its_base_from_another_folder(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, tmp_path / "mine" / "base")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    kept = pickle.dumps(EntityRecognizer("base", labels=["person"]))
    monkeypatch.chdir(tmp_path / "other")
    assert pickle.loads(kept).predict("Ada sat.").text == "Ada sat."
