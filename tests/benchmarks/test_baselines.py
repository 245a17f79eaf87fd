"""The baselines of the few-shot benchmark: tags there and back, a task done, the classifier itself."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.few_shot import baseline, compare, token_classifier
from benchmarks.few_shot.baseline import Baseline, Recipe, tag_names, to_tags, token_spans
from benchmarks.few_shot.token_classifier import document
from cllmfs.benchmark.results import Run
from cllmfs.benchmark.task import Task, read_answer, read_task, write_task
from cllmfs.formats.tagging import spans_of_tags
from cllmfs.schema import Document, Example

ADA = Example.from_tokens(["Ada", "Byron", "met", "Bo", "in", "Rome"], [(0, 2, "per"), (3, 4, "per"), (5, 6, "loc")])


# tags


@given(st.data())
def test_flat_spans_survive_tags(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, 12), min_size=2)))
    spans = [(a, b, data.draw(st.sampled_from("xy"))) for a, b in itertools.pairwise(cuts)]
    spans = [span for span in spans if data.draw(st.booleans())]
    assert spans_of_tags(to_tags(spans, 12)) == spans


def test_of_overlapping_spans_the_first_stays() -> None:
    assert to_tags([(1, 3, "b"), (0, 2, "a")], 3) == ["B-a", "I-a", "O"]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        (["I-a", "I-a", "O"], [(0, 2, "a")]),
        (["O", "B-a", "I-b"], [(1, 2, "a"), (2, 3, "b")]),
        (["B-a", "B-a"], [(0, 1, "a"), (1, 2, "a")]),
        (["O", "O"], []),
    ],
)
def test_stray_tags_are_read_as_conlleval_does(tags: list[str], spans: list[tuple[int, int, str]]) -> None:
    assert spans_of_tags(tags) == spans


def test_token_spans_become_spans_of_the_text() -> None:
    assert token_spans(ADA) == [(0, 2, "per"), (3, 4, "per"), (5, 6, "loc")]
    assert [(span.text, span.label) for span in document(ADA, token_spans(ADA)).spans] == [
        ("Ada Byron", "per"),
        ("Bo", "per"),
        ("Rome", "loc"),
    ]
    assert tag_names([ADA]) == ["O", "B-loc", "I-loc", "B-per", "I-per"]


def test_steps_are_passes_within_bounds() -> None:
    recipe = Recipe(epochs=10, min_steps=30, max_steps=100, batch_size=4)
    assert [recipe.steps(rows) for rows in (1, 12, 13, 400)] == [30, 30, 40, 100]


# the program


class Oracle:
    """Finds the first token of every sentence; notes how it was trained."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, int, float]] = []

    def fine_tune(self, encoder: str, shots: Sequence[Example], recipe: Recipe, seed: int) -> Oracle:
        self.seen.append((encoder, len(shots), seed, recipe.learning_rate))
        return self

    def predict(self, model: Any, examples: Sequence[Example]) -> list[Document]:
        assert model is self
        return [document(example, [(0, 1, "per")]) for example in examples]


def test_a_baseline_does_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, Task((ADA, ADA), (ADA, Example("Bo", (), ((0, 2),))), ("loc", "per"), 4))
    oracle = Oracle()
    monkeypatch.setattr(sys, "argv", ["oracle", str(tmp_path), "--encoder", "e", "--learning-rate", "1e-3"])
    baseline.main(Baseline("oracle", Recipe(), oracle.fine_tune, oracle.predict, ("pytest",)))
    assert oracle.seen == [("e", 2, 4, 1e-3)]
    documents, facts = read_answer(tmp_path, read_task(tmp_path).texts)
    assert [(span.text, span.label) for one in documents for span in one.spans] == [("Ada", "per"), ("Bo", "per")]
    assert facts["steps"] == 300 and facts["recipe"]["learning_rate"] == 1e-3 and set(facts["versions"]) == {"pytest"}


# the token classifier


def test_the_token_classifier_learns_its_shots(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    from tests.conftest import own_byte_tokenizer

    tokenizer = own_byte_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    recipe = token_classifier.TaggerRecipe(learning_rate=5e-3, min_steps=150, max_steps=150)
    model = token_classifier.fine_tune(str(tmp_path), [ADA] * 4, recipe, 0)
    (found,) = token_classifier.predict(model, [ADA])
    assert [(span.start, span.end, span.label) for span in found.spans] == [
        (s.start, s.end, s.label) for s in ADA.spans
    ]


# runs beside their table


def test_runs_are_compared_with_their_cells() -> None:
    def run(seed: int, f1: float, k: int = 5) -> Run:
        return Run("alpha", k, seed, f1, 10, "s")

    table = {"ours": [run(0, 40.0), run(1, 44.0), run(2, 42.0), run(0, 30.0, k=1)]}  # 42 with a deviation of 2
    runs = {
        "ours": [run(0, 46.0), run(1, 46.1), run(0, 28.0, k=1), run(1, 27.9, k=1), run(0, 9.0, k=9)],
        "new": [run(0, 1)],
    }
    found = list(compare.compared(runs, table))
    assert [one.holds for one in found] == [True, False, True, False]
    assert str(found[1]) == "ours, alpha, 5-shot, seed 1: 46.1, NOT within 42.0 ± 4.0"
