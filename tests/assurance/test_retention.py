"""What tuning makes a base forget: the sentences that ship, the types that are left out, both scores, the notice."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any, cast

import pytest
import torch

from cllmfs.assurance.retention import NOTICE_POINTS, Retention, RetentionReport, retention_sentences
from cllmfs.config import Config, LoraConfig
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.prompts import verbalize
from cllmfs.errors import ModelError
from cllmfs.evaluation import Counts
from cllmfs.formats import read_examples
from cllmfs.model.bases import MINI
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, LabelSet, Span
from cllmfs.training.replay import AskedType, GeneralSentence, general_sentences
from mini import retention as maker
from mini import written
from mini.sources import normalized

# what ships


def test_the_file_is_what_the_sheets_give() -> None:
    lines = (files("cllmfs.assurance") / "retention.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == list(maker.records())
    assert sum(len(line.encode()) + 1 for line in lines) <= 60_000


def test_every_sentence_asks_all_types_of_its_sheet_for_spans_that_it_holds() -> None:
    sheets = list(written.sheets(maker.FOLDER))
    subject = {example.text: sheet for sheet in sheets for example in sheet.examples}
    assert len(subject) == len(retention_sentences()) == 160
    for sentence in retention_sentences():
        assert [kind.name for kind in sentence.types] == [kind.names[0] for kind in subject[sentence.text].types]
        taken = sorted((span.start, span.end) for kind in sentence.types for span in kind.spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(taken)), "spans overlap"
        for start, end in taken:
            assert 0 <= start < end <= len(sentence.text)
            mention = sentence.text[start:end]
            assert mention == mention.strip() and not mention.lower().startswith(("a ", "an ", "the ")), mention


def test_no_sentence_and_no_subject_is_trained_on() -> None:
    sheets = list(written.sheets())
    trained = {normalized([example.text]) for sheet in sheets for example in sheet.examples}
    trained |= {normalized([sentence.text]) for sentence in general_sentences()}
    for split in ("train", "test"):
        trained |= {normalized([e.text]) for e in read_examples(str(files("cllmfs.example") / f"{split}.jsonl"))}
    assert len(trained) > 20_000
    assert not {normalized([sentence.text]) for sentence in retention_sentences()} & trained
    known = {sheet.name.rpartition("/")[2] for sheet in sheets} | {sheet.title for sheet in sheets}
    assert not {one for sheet in written.sheets(maker.FOLDER) for one in (sheet.name, sheet.title)} & known


# the report


def counts(f1: float) -> Counts:
    """Counts of this F1, a multiple of 0.001."""
    right = round(1000 * f1)
    return Counts(right, 1000 - right, 1000 - right)


@pytest.mark.parametrize("after, points", [(0.593, None), (0.592, "61.2 to 59.2"), (0.31, "61.2 to 31.0"), (0.7, None)])
def test_a_fall_of_two_points_is_told(after: float, points: str | None) -> None:
    report = RetentionReport(counts(0.612), counts(after), types=41, sentences=160)
    assert (report.drop >= NOTICE_POINTS) == (points is not None)
    notice = report.notice()
    if points is None:
        assert notice is None
    else:
        assert notice is not None and "41 other types" in notice and f"fell from {points}" in notice
        assert all(setting in notice for setting in ("train.replay", "train.steps", "lora.keep"))


@pytest.mark.parametrize(
    "after, says", [(0.6, "fell from 61.2 to 60.0"), (0.612, "stayed at 61.2"), (0.7, "rose from 61.2 to 70.0")]
)
def test_the_summary_is_one_line(after: float, says: str) -> None:
    report = RetentionReport(counts(0.612), counts(after), types=41, sentences=160)
    assert says in report.summary() and "\n" not in report.summary()


def test_the_record_is_plain_json_and_gives_the_report_back() -> None:
    report = RetentionReport(Counts(2, 1, 1), Counts(1, 1, 2), types=3, sentences=9)
    record = json.loads(json.dumps(report.to_dict()))
    assert record["before"]["f1"] == pytest.approx(2 / 3) and record["after"]["f1"] == pytest.approx(0.4)
    assert RetentionReport.from_dict(record, "cllmfs.json") == report


@pytest.mark.parametrize(
    "damage", [{"before": None}, {"after": {"tp": 1, "fp": 1}}, {"types": -1}, {"sentences": 1.5}, {"types": True}]
)
def test_a_damaged_record_is_a_model_error(damage: dict[str, Any]) -> None:
    record = RetentionReport(Counts(2, 1, 1), Counts(1, 1, 2), types=3, sentences=9).to_dict()
    for wrong in ({**record, **damage}, {name: record[name] for name in record.keys() - damage.keys()}, [], "no"):
        with pytest.raises(ModelError, match=r"m/cllmfs\.json: .*retention"):
            RetentionReport.from_dict(wrong, "m/cllmfs.json")


# what is asked, and how it is scored

SENTENCES = (
    GeneralSentence("Ada rowed", (AskedType("person", "", (Span(0, 3, "person"),)), AskedType("boat", "", ()))),
    GeneralSentence(
        "Bo saw Rome",
        (
            AskedType("person", "", (Span(0, 2, "person"),)),
            AskedType("blood group", "of a human", ()),
            AskedType("city", "", (Span(7, 11, "city"),)),
        ),
    ),
    GeneralSentence("Nobody", (AskedType("person", "", ()),)),
)


class Scripted:
    """In place of an extractor: notes what it was asked, and answers the spans that it was given for a text."""

    def __init__(self, answers: Mapping[str, Sequence[Span]]) -> None:
        self.answers = answers
        self.asked: dict[str, dict[str, str]] = {}
        self.calibrations: set[float] = set()

    def extract(self, texts: Sequence[str], labels: LabelSet, calibration: Calibration) -> list[Document]:
        self.asked |= {text: dict(labels) for text in texts}
        self.calibrations.add(calibration.threshold)
        return [Document(text, tuple(s for s in self.answers.get(text, ()) if s.label in labels)) for text in texts]


def scripted(tuned: Sequence[str], answers: Mapping[str, Sequence[Span]] | None = None) -> tuple[Scripted, Retention]:
    extractor = Scripted(answers or {})
    return extractor, Retention(cast(Any, extractor), Calibration(threshold=0.3), tuned, SENTENCES)


def test_each_sentence_is_asked_for_its_own_types() -> None:
    extractor, retention = scripted(["tool"])
    assert extractor.asked == {
        "Ada rowed": {"person": "", "boat": ""},
        "Bo saw Rome": {"person": "", "blood group": "of a human", "city": ""},
        "Nobody": {"person": ""},
    }
    report = retention.report()
    assert (report.types, report.sentences) == (4, 3)
    assert extractor.calibrations == {0.3}, "both sides are scored with the same calibration"


@pytest.mark.parametrize(
    "tuned, asked",
    [
        (["person"], {"Ada rowed": ["boat"], "Bo saw Rome": ["blood group", "city"]}),
        (["Person", "BloodGroup"], {"Ada rowed": ["boat"], "Bo saw Rome": ["city"]}),
        (["PERSON", "blood_group", "City", "boat"], {}),
    ],
)
def test_types_of_the_shots_are_left_out_by_their_name_in_words(tuned: list[str], asked: dict[str, list[str]]) -> None:
    extractor, retention = scripted(tuned)
    assert {text: list(labels) for text, labels in extractor.asked.items()} == asked
    report = retention.report()
    assert (report.types, report.sentences) == (sum(map(len, asked.values())), len(asked))
    assert (report.drop, report.notice()) == (0.0, None)  # it is no error if nothing is left


def test_the_second_score_is_of_the_model_as_it_is_then() -> None:
    answers = {"Ada rowed": [Span(0, 3, "person")], "Bo saw Rome": [Span(0, 2, "person"), Span(7, 11, "city")]}
    extractor, retention = scripted([], answers)
    extractor.answers = {"Ada rowed": [Span(0, 9, "person")], "Nobody": [Span(0, 6, "person")]}
    report = retention.report()
    assert (report.before, report.after) == (Counts(3, 0, 0), Counts(0, 2, 3))


def test_a_base_that_is_disturbed_is_told_and_one_that_is_not_keeps_its_score() -> None:
    backbone = load_backbone(MINI, device="cpu")
    zero_shot = ExpectedCalibrations.of_base(backbone.figures, votes=True, source=MINI).zero_shot
    retention = Retention(Extractor(backbone, Config()), zero_shot, ["Price"], retention_sentences()[::16])
    torch.manual_seed(0)
    backbone.adapters.attach(LoraConfig(rank=4))
    untouched = retention.report()  # the matrices B begin at 0
    assert untouched.after == untouched.before and untouched.before.f1 > 0.6
    noise = {name: torch.randn_like(part) * 0.1 for name, part in backbone.adapters.update().items()}
    backbone.adapters.keep(noise, 1.0)
    disturbed = retention.report()
    assert disturbed.before == untouched.before and disturbed.after.f1 < 0.3
    assert disturbed.notice() is not None
    asked = {kind.name for sentence in retention_sentences()[::16] for kind in sentence.types}
    assert disturbed.types == len({verbalize(name) for name in asked} - {"price"})
