"""Scoring: hand-computed cases, and agreement with seqeval and nervaluate on generated data."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.evaluation import (
    Bin,
    Counts,
    MatchCounts,
    Scores,
    SentenceCounts,
    StringCounts,
    evaluate_spans,
    expected_calibration_error,
    reliability,
)
from cllmfs.schema import Document, Example, Span

TEXT = "Ada Lovelace met Ada in Rome ."
#       0123456789012345678901234567890
PERSON, AGAIN, CITY = Span(0, 12, "person"), Span(17, 20, "person"), Span(24, 28, "city")


def example(*spans: Span, text: str = TEXT) -> Example:
    return Example(text, spans)


def document(*spans: Span, text: str = TEXT) -> Document:
    return Document(text, spans)


# -- Counts ------------------------------------------------------------------------------------------------------------


def test_counts_add_and_rate() -> None:
    counts = Counts(1, 1, 0) + Counts(2, 0, 3)
    assert counts == Counts(3, 1, 3)
    assert counts.precision == 0.75
    assert counts.recall == 0.5
    assert counts.f1 == pytest.approx(0.6)
    assert counts.support == 6


@pytest.mark.parametrize("counts", [Counts(), Counts(0, 4, 0), Counts(0, 0, 4), MatchCounts(), StringCounts()])
def test_undefined_rates_are_zero(counts: Counts | MatchCounts | StringCounts) -> None:
    assert counts.rates == (0.0, 0.0, 0.0)


# -- strict, boundary, typing ------------------------------------------------------------------------------------------


def test_strict_needs_start_end_and_label() -> None:
    scores = evaluate_spans(
        [example(PERSON, AGAIN, CITY)],
        [document(PERSON, Span(17, 20, "city"), Span(24, 30, "city"))],  # right; wrong label; wrong end
    )
    assert scores.micro == Counts(1, 2, 2)
    assert scores.per_label == {"city": Counts(0, 2, 1), "person": Counts(1, 0, 1)}
    assert scores.boundary == Counts(2, 1, 1)
    assert scores.typing_accuracy == 0.5
    # person: P 1, R 1/2, F 2/3; city: all 0
    assert scores.macro == pytest.approx((0.5, 0.25, 1 / 3))


def test_a_span_off_by_one_is_wrong_twice() -> None:
    for wrong in (Span(1, 12, "person"), Span(0, 11, "person")):
        assert evaluate_spans([example(PERSON)], [document(wrong)]).micro == Counts(0, 1, 1)


def test_spans_are_sets_per_text() -> None:
    scores = evaluate_spans([example(PERSON, PERSON)], [document(PERSON, PERSON, PERSON)])
    assert scores.micro == Counts(1, 0, 0)
    assert scores.sentences.exact == 1


def test_the_same_offsets_in_another_text_do_not_match() -> None:
    scores = evaluate_spans([example(PERSON), example()], [document(), document(PERSON)])
    assert scores.micro == Counts(0, 1, 1)
    assert scores.boundary == Counts(0, 1, 1)


def test_typing_accuracy_is_none_without_a_located_prediction() -> None:
    scores = evaluate_spans([example(PERSON)], [document(Span(0, 3, "person"))])
    assert scores.typing_accuracy is None
    assert scores.boundary == Counts(0, 1, 1)


def test_two_labels_on_one_stretch_are_two_typings_and_one_boundary() -> None:
    scores = evaluate_spans([example(PERSON)], [document(PERSON, Span(0, 12, "city"))])
    assert scores.boundary == Counts(1, 0, 0)
    assert scores.typing_accuracy == 0.5


def test_labels_asked_are_listed_and_nothing_is_filtered() -> None:
    scores = evaluate_spans([example(PERSON, CITY)], [document(PERSON)], labels=["river", "person"])
    assert list(scores.per_label) == ["city", "person", "river"]
    assert scores.per_label["river"] == Counts()
    assert scores.per_label["city"] == Counts(0, 0, 1)  # not asked for, missed all the same
    # river occurs nowhere and stays out of the mean: (1 + 0) / 2
    assert scores.macro.f1 == 0.5


def test_sentences() -> None:
    gold = [example(PERSON), example(PERSON), example(), example(), example(PERSON, CITY)]
    predicted = [document(PERSON), document(), document(), document(CITY), document(PERSON)]
    scores = evaluate_spans(gold, predicted)
    assert scores.sentences == SentenceCounts(count=5, exact=2, without_gold=2, clean=1)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_lengths_must_agree() -> None:
    with pytest.raises(DataError, match="2 gold texts and 1 predictions"):
        evaluate_spans([example(), example()], [document()])


def test_texts_must_agree() -> None:
    with pytest.raises(DataError, match=r"prediction 1 must have the same text.*'met'.*from code point 4"):
        evaluate_spans([example(), example(text="Ada met")], [document(), document(text="Ada saw Rome")])


@pytest.mark.parametrize("bad", [Span(0, 99, "person"), Span(3, 3, "person"), Span(-1, 2, "person")])
def test_ill_placed_gold_is_an_error(bad: Span) -> None:
    with pytest.raises(DataError, match="gold text 0"):
        evaluate_spans([example(bad)], [document()])


# -- ungrounded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "count"),
    [
        (Span(0, 12, "person"), 0),
        (Span(0, 12, "person", text="Ada Lovelace"), 0),
        (Span(0, 12, "person", text="ada lovelace"), 1),
        (Span(0, 12, "person", text="Grace Hopper"), 1),
        (Span(0, 12, "person", text=""), 1),
        (Span(24, len(TEXT), "city"), 0),
        (Span(24, len(TEXT) + 1, "city"), 1),
        (Span(24, len(TEXT) + 1, "city", text="Rome ."), 1),  # a slice past the end would agree
        (Span(-6, -2, "city", text="Rome"), 1),  # so would one from the end
        (Span(4, 4, "city", text=""), 1),
        (Span(9, 4, "city"), 1),
    ],
)
def test_ungrounded(span: Span, count: int) -> None:
    scores = evaluate_spans([example(CITY)], [document(span)])
    assert scores.ungrounded == count
    assert scores.to_dict()["ungrounded"] == count
    assert scores.micro.fp == 1  # counted as wrong, never an error


def test_ungrounded_counts_every_prediction() -> None:
    bad = Span(0, 3, "person", text="Eve")
    assert evaluate_spans([example(), example()], [document(bad, CITY), document(bad, bad)]).ungrounded == 3


# -- the paper's line of work ------------------------------------------------------------------------------------------


def test_paper_line_differs_from_strict() -> None:
    text = "Rome is rome , not Paris , says Ann"
    gold = example(Span(0, 4, "city"), Span(8, 12, "city"), Span(19, 24, "city"), text=text)
    predicted = document(Span(0, 4, "city"), Span(32, 35, "city"), Span(32, 35, "person"), text=text)
    scores = evaluate_spans([gold], [predicted])
    # Strict: one of three predictions, one of three gold spans.
    assert scores.micro == Counts(1, 2, 2)
    assert scores.micro.f1 == pytest.approx(1 / 3)
    # Strings: "person" is not asked for; "rome" said once finds both mentions; "ann" is wrong; "paris" is missed.
    assert scores.paper_line == StringCounts(gold=3, gold_found=2, predicted=2, predicted_right=1)
    assert scores.paper_line.rates == pytest.approx((1 / 2, 2 / 3, 4 / 7))


def test_paper_line_ignores_sentences_without_gold_and_repeats() -> None:
    text = "Rome or rome"
    mentions = (Span(0, 4, "city"), Span(8, 12, "city"))
    assert evaluate_spans([example(text=text)], [document(*mentions, text=text)]).paper_line == StringCounts()
    scores = evaluate_spans([example(mentions[1], text=text)], [document(*mentions, text=text)])
    assert scores.paper_line == StringCounts(1, 1, 1, 1)
    assert scores.micro == Counts(1, 1, 0)


def test_paper_line_compares_per_type_and_drops_foreign_strings() -> None:
    gold = example(PERSON, CITY)
    swapped = document(Span(0, 12, "city"), Span(24, 28, "person"))
    assert evaluate_spans([gold], [swapped]).paper_line == StringCounts(2, 0, 2, 0)
    foreign = document(Span(0, 12, "person", text="Grace Hopper"), Span(90, 95, "city"))
    assert evaluate_spans([gold], [foreign]).paper_line == StringCounts(2, 0, 0, 0)


# -- JSON, empty input, sums -------------------------------------------------------------------------------------------


def test_to_dict_form() -> None:
    scores = evaluate_spans([example(PERSON)], [document(PERSON, CITY)], ["river"])
    record = json.loads(json.dumps(scores.to_dict()))
    assert set(record) == {
        "micro", "macro", "per_label", "boundary", "typing_accuracy", "sentences", "scenarios", "paper_line",
        "ungrounded",
    }  # fmt: skip
    assert record["micro"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "tp": 1, "fp": 1, "fn": 0}
    assert record["macro"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert set(record["per_label"]) == {"person", "city", "river"}
    assert record["per_label"]["person"]["support"] == 1
    assert record["boundary"]["recall"] == 1.0
    assert record["sentences"] == {"count": 1, "exact": 0, "without_gold": 0, "clean": 0}
    assert set(record["scenarios"]) == {"strict", "exact", "partial", "type"}
    assert record["scenarios"]["strict"]["spurious"] == 1
    assert record["paper_line"]["note"] == "oracle types, lower-cased strings, not comparable with the strict scores"
    assert record["paper_line"]["f1"] == 1.0
    assert record["ungrounded"] == 0


def test_empty_input() -> None:
    scores = evaluate_spans([], [])
    assert scores == Scores()
    record = scores.to_dict()
    assert record["micro"]["f1"] == record["macro"]["f1"] == record["scenarios"]["partial"]["f1"] == 0.0
    assert record["typing_accuracy"] is None
    assert record["per_label"] == {}


def test_texts_without_spans() -> None:
    scores = evaluate_spans([example(), example(text="")], [document(), document(text="")], ["city"])
    assert scores.micro == Counts()
    assert scores.macro == (0.0, 0.0, 0.0)
    assert scores.sentences == SentenceCounts(2, 2, 2, 2)
    assert scores.scenarios == Scores().scenarios


# -- scenarios ---------------------------------------------------------------------------------------------------------


def test_scenarios_by_hand() -> None:
    # Right; wrong label; overlapping by "Rome" only; "met" overlaps nothing.
    gold = [example(PERSON, AGAIN, CITY)]
    predicted = [document(PERSON, Span(13, 16, "city"), Span(17, 20, "city"), Span(24, 30, "city"))]
    scenarios = evaluate_spans(gold, predicted).scenarios
    assert scenarios == {
        "strict": MatchCounts(correct=1, incorrect=2, spurious=1),
        "exact": MatchCounts(correct=2, incorrect=1, spurious=1),
        "partial": MatchCounts(correct=2, partial=1, spurious=1),
        "type": MatchCounts(correct=2, incorrect=1, spurious=1),
    }
    assert scenarios["partial"].rates == pytest.approx((2.5 / 4, 2.5 / 3, 5 / 7))


def test_touching_spans_do_not_overlap() -> None:
    # "Ada" ends where " Lovelace" begins: an exclusive end taken for an inclusive one would call this an overlap.
    scores = evaluate_spans([example(Span(3, 12, "person"))], [document(Span(0, 3, "person"))])
    assert scores.scenarios is not None
    assert scores.scenarios["partial"] == MatchCounts(missed=1, spurious=1)


def test_scenarios_survive_ill_placed_predictions() -> None:
    predicted = document(Span(5, 5, "person"), Span(9, 2, "person"), Span(-4, -1, "person"), Span(90, 95, "person"))
    scores = evaluate_spans([example(PERSON)], [predicted])
    assert scores.scenarios is not None
    assert set(scores.scenarios.values()) == {MatchCounts(missed=1, spurious=4)}


def test_only_scenarios_need_nervaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nervaluate"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nervaluate", None)
    pair = [example(PERSON)], [document(PERSON)]
    with pytest.raises(ImportError, match="nervaluate"):
        evaluate_spans(*pair)
    scores = evaluate_spans(*pair, scenarios=False)
    assert scores.scenarios is None
    assert scores.to_dict()["scenarios"] is None
    assert scores.micro == Counts(1, 0, 0)
    assert (scores + Scores()).scenarios is None  # unknown stays unknown


# -- agreement with the reference libraries ----------------------------------------------------------------------------

LABELS = ("art", "law", "sea")


@st.composite
def bio_pair(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Two well-formed IOB2 sequences of one length; the second often a small change of the first."""

    def tags(length: int) -> list[str]:
        made: list[str] = []
        while len(made) < length:
            size = draw(st.integers(1, 3))
            label = draw(st.sampled_from([None, *LABELS]))
            made += ["O"] * size if label is None else [f"B-{label}", *[f"I-{label}"] * (size - 1)]
        return made[:length]

    length = draw(st.integers(1, 9))
    gold = tags(length)
    if draw(st.booleans()):
        cut = draw(st.integers(0, length))
        tail = gold[cut:]
        while tail and tail[0].startswith("I-"):  # a cut span would leave an orphan
            tail = tail[1:]
            cut += 1
        return gold, tags(cut) + tail
    return gold, tags(length)


CORPUS = st.lists(bio_pair(), min_size=1, max_size=6)


def token_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
    spans = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        spans.append((start, end, tags[start][2:]))
    return spans


def as_examples(corpus: Sequence[Sequence[str]]) -> list[Example]:
    # All tokens are three characters wide, so that distances in characters order as distances in tokens do.
    return [Example.from_tokens([f"w{i:02}" for i in range(len(tags))], token_spans(tags)) for tags in corpus]


def score(corpus: Sequence[tuple[list[str], list[str]]]) -> Scores:
    return evaluate_spans(as_examples([gold for gold, _ in corpus]), as_examples([found for _, found in corpus]))


@given(CORPUS)
@settings(max_examples=150, deadline=None)
def test_strict_equals_seqeval(corpus: list[tuple[list[str], list[str]]]) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    scheme = pytest.importorskip("seqeval.scheme")
    scores = score(corpus)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = (
            metrics.classification_report(
                [gold for gold, _ in corpus],
                [found for _, found in corpus],
                mode="strict",
                scheme=scheme.IOB2,
                output_dict=True,
                zero_division=0,
            )
            if scores.micro != Counts()
            else None
        )  # seqeval cannot report on no entity at all
    if report is None:
        assert scores.macro == (0.0, 0.0, 0.0)
        return
    expected = {name: (row["precision"], row["recall"], row["f1-score"]) for name, row in report.items()}
    assert scores.micro.rates == pytest.approx(expected.pop("micro avg"))
    assert scores.macro == pytest.approx(expected.pop("macro avg"))
    expected.pop("weighted avg")
    assert set(expected) == set(scores.per_label)
    for name, counts in scores.per_label.items():
        assert counts.rates == pytest.approx(expected[name])
        assert counts.support == report[name]["support"]


@given(CORPUS)
@settings(max_examples=150, deadline=None)
def test_scenarios_equal_nervaluate_on_tokens(corpus: list[tuple[list[str], list[str]]]) -> None:
    nervaluate = pytest.importorskip("nervaluate")
    scores = score(corpus)
    gold, found = [gold for gold, _ in corpus], [found for _, found in corpus]
    overall = nervaluate.Evaluator(gold, found, tags=list(LABELS), loader="list").evaluate()["overall"]
    assert scores.scenarios is not None
    for ours, theirs in {"strict": "strict", "exact": "exact", "partial": "partial", "type": "ent_type"}.items():
        got, expected = scores.scenarios[ours], overall[theirs]
        assert got.counts() == {name: getattr(expected, name) for name in got.counts()}, ours
        assert got.rates == pytest.approx((expected.precision, expected.recall, expected.f1)), ours
    # On flat spans the strict scenario is the strict score.
    assert scores.scenarios["strict"].rates == pytest.approx(scores.micro.rates)


@given(CORPUS, st.data())
@settings(max_examples=100, deadline=None)
def test_sum_of_parts_is_the_whole(corpus: list[tuple[list[str], list[str]]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(corpus)))
    whole = score(corpus)
    assert score(corpus[:cut]) + score(corpus[cut:]) == whole
    assert (score(corpus[:cut]) + score(corpus[cut:])).to_dict() == whole.to_dict()
    assert sum((score([pair]) for pair in reversed(corpus)), Scores()) == whole


@given(CORPUS)
@settings(max_examples=50, deadline=None)
def test_gold_against_itself_is_perfect_and_swapping_swaps_errors(corpus: list[tuple[list[str], list[str]]]) -> None:
    gold = [pair[0] for pair in corpus]
    perfect = score([(tags, tags) for tags in gold])
    assert perfect.micro.fp == perfect.micro.fn == 0
    assert perfect.sentences.exact == perfect.sentences.count == len(corpus)
    there, back = score(corpus), score([(found, right) for right, found in corpus])
    assert (there.micro.tp, there.micro.fp, there.micro.fn) == (back.micro.tp, back.micro.fn, back.micro.fp)


def test_sum_keeps_ungrounded_and_paper_line() -> None:
    one = evaluate_spans([example(PERSON)], [document(Span(0, 3, "person", text="Eve"))], ["river"])
    two = evaluate_spans([example(CITY)], [document(CITY)])
    both = one + two
    assert both.ungrounded == 1
    assert both.paper_line == one.paper_line + two.paper_line == StringCounts(2, 1, 1, 1)
    assert list(both.per_label) == ["city", "person", "river"]


# -- reliability -------------------------------------------------------------------------------------------------------


def test_bins_by_hand() -> None:
    pairs = [(0.05, False), (0.15, True), (0.12, False), (0.1, False), (1.0, True), (0.95, False)]
    bins = reliability(pairs)
    assert [one[:3] for one in bins] == [(0.0, 0.1, 1), (0.1, 0.2, 3), (0.9, 1.0, 2)]
    assert [one.confidence for one in bins] == pytest.approx([0.05, 0.37 / 3, 0.975])
    assert [one.accuracy for one in bins] == pytest.approx([0.0, 1 / 3, 0.5])
    assert expected_calibration_error(bins) == pytest.approx((0.05 + (1 - 0.37) + 0.95) / 6)


def test_bins_of_other_widths() -> None:
    bins = reliability([(0.2, True), (0.3, False), (0.8, True)], bins=2)
    assert bins == [Bin(0.0, 0.5, 2, 0.25, 0.5), Bin(0.5, 1.0, 1, 0.8, 1.0)]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.25 + 0.2) / 3)


def test_nothing_has_no_bins_and_no_error() -> None:
    assert reliability([]) == []
    assert expected_calibration_error([]) == 0.0


@given(
    st.lists(st.tuples(st.integers(1, 100).map(lambda number: number / 100), st.booleans()), min_size=1),
    st.integers(1, 20),
)
def test_every_span_is_in_the_bin_of_its_confidence(pairs: list[tuple[float, bool]], count: int) -> None:
    bins = reliability(pairs, count)
    assert sum(one.spans for one in bins) == len(pairs)
    assert all(one.spans > 0 and one.high - one.low == pytest.approx(1 / count) for one in bins)
    assert [one.low for one in bins] == sorted({one.low for one in bins})
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in bins)
    assert sum(one.spans * one.confidence for one in bins) == pytest.approx(sum(one for one, _ in pairs))
    assert sum(one.spans * one.accuracy for one in bins) == pytest.approx(sum(right for _, right in pairs))
    assert 0.0 <= expected_calibration_error(bins) <= 1.0


# labels that were not annotated


@pytest.mark.parametrize("scenarios", [True, False])
def test_labels_that_were_not_annotated_are_not_counted_at_all(scenarios: bool) -> None:
    text = "Ada met Bo in Rome"
    gold_span, known = Span(0, 3, "PER"), frozenset({"PER"})
    others = (
        Span(8, 10, "ORG"),
        Span(14, 18, "LOC"),
        Span(0, 3, "ORG"),
        Span(0, 99, "LOC"),
        Span(4, 7, "LOC", text="x"),
    )
    predicted = [Document(text, (gold_span, *others)), Document(text, others)]
    gold = [Example(text, (gold_span,), annotated=known), Example(text, (), annotated=known)]
    alone = [Document(text, (gold_span,)), Document(text, ())]
    scores = evaluate_spans(gold, predicted, ["LOC", "PER"], scenarios=scenarios)
    assert scores == evaluate_spans(gold, alone, ["LOC", "PER"], scenarios=scenarios)
    assert (scores.micro, scores.ungrounded) == (Counts(1, 0, 0), 0)
    assert scores.sentences == SentenceCounts(2, 2, 1, 1)
    all_annotated = [replace(example, annotated=None) for example in gold]
    assert evaluate_spans(all_annotated, predicted, scenarios=scenarios).micro == Counts(1, 10, 0)


def test_a_wrong_answer_of_an_annotated_label_still_counts() -> None:
    gold = [Example("Ada met Bo", (Span(0, 3, "PER"),), annotated=frozenset({"PER", "LOC"}))]
    scores = evaluate_spans(gold, [Document("Ada met Bo", (Span(8, 10, "LOC"), Span(8, 10, "ORG")))])
    assert (scores.per_label, scores.micro) == ({"LOC": Counts(0, 1, 0), "PER": Counts(0, 0, 1)}, Counts(0, 1, 1))


def test_gold_of_a_label_that_was_not_annotated_is_refused() -> None:
    gold = [Example("Ada", (Span(0, 3, "PER"),), annotated=frozenset({"LOC"}))]
    with pytest.raises(DataError, match='must be one of its record\'s "labels"'):
        evaluate_spans(gold, [Document("Ada", ())])
