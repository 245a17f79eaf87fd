"""The recipe: which settings win, what is chosen by the number of shots, and how shots are divided to hold some out."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.config import Config
from cllmfs.errors import ConfigError
from cllmfs.schema import Example, Span
from cllmfs.training.recipe import Recipe, choose_negatives, choose_rate, choose_steps

RECIPE = Recipe(learning_rate=1e-3, steps=100)
NUMBERS = itertools.count()  # repetitions of a text would be kept together


def several(count: int, *labels: str) -> list[Example]:
    return [of(*labels) for _ in range(count)]


def of(*labels: str) -> Example:
    """A sentence of its own, with a mention of each label, one after another."""
    text = "x" * max(1, len(labels)) + f" {next(NUMBERS)}"
    return Example(text, tuple(Span(i, i + 1, label) for i, label in enumerate(labels)))


# planning


def test_settings_win_where_they_are_not_0() -> None:
    settings = Config().with_settings(["train.steps=7", "train.learning_rate=0.5", "train.batch_sentences=2"])
    assert Recipe.plan(settings, 40, 768) == Recipe(learning_rate=0.5, steps=7)
    chosen = Recipe.plan(settings.with_settings(["train.steps=0", "train.learning_rate=0"]), 40, 768)
    assert (chosen.steps, chosen.learning_rate) == (choose_steps(40, 2), choose_rate(768))


def test_changes_win_over_everything_else() -> None:
    changes = {"steps": 3, "negatives": 0, "warmup": 1, "dev_shares": (0.5,), "schedule": "cosine"}
    made = Recipe.plan(Config().with_settings(["train.steps=7"]), 40, 384, changes)
    assert {name: getattr(made, name) for name in changes} == changes
    plain = Recipe.plan(Config().with_settings(["train.steps=7"]), 40, 384)
    others = {spec.name for spec in fields(Recipe)} - changes.keys()
    assert all(getattr(made, name) == getattr(plain, name) for name in others)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"negative": 0}, r"recipe: unknown field 'negative'; there are chance, checkpoint_every, .*weight_decay"),
        ({"negatives": 0.5}, r"recipe\.negatives must be of type int, got 0\.5"),
        ({"warmup": "0.1"}, r"recipe\.warmup must be of type float, got '0\.1'"),
        ({"warmup": True}, r"recipe\.warmup must be of type float, got True"),
        ({"schedule": 3}, r"recipe\.schedule must be of type str, got 3"),
        ({"dev_shares": 0.5}, r"recipe\.dev_shares must be of type tuple, got 0\.5"),
        ({"dev_shares": ("x",)}, r"recipe\.dev_shares must be finite, got \('x',\)"),
        ({"learning_rate": float("nan")}, r"recipe\.learning_rate must be finite, got nan"),
        ({"schedule": "zigzag"}, r"recipe\.schedule must be one of linear, cosine, .*, got 'zigzag'"),
        ({"negatives": True}, r"recipe\.negatives must be of type int, got True"),
        ({"checkpoint_every": 0}, r"recipe\.checkpoint_every must be at least 1, got 0"),
        ({"steps": 0}, r"recipe\.steps must be at least 1, got 0"),
    ],
)
def test_impossible_changes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.plan(Config(), 40, 384, changes)


def test_steps_grow_with_the_shots_within_bounds() -> None:
    chosen = [choose_steps(count, 4) for count in range(1, 3000)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 60 and chosen[-1] == 2000
    assert choose_steps(40, 4) == 200
    assert choose_steps(41, 4) == 220, "a part of a batch is a step, too"
    assert choose_steps(0, 4) == 60
    assert all(choose_steps(100, size) >= choose_steps(100, size + 1) for size in range(1, 200))


def test_of_many_shots_more_absent_types_are_asked() -> None:
    assert [choose_negatives(count) for count in (1, 100, 101, 5000)] == [8, 8, 20, 20]


def test_the_rate_falls_with_the_width_of_the_base() -> None:
    assert choose_rate(64) == choose_rate(384) == 2e-3
    assert choose_rate(768) == pytest.approx(1e-3) and choose_rate(4096) == pytest.approx(1.875e-4)


def test_the_fewer_shots_the_less_is_kept() -> None:
    known, unknown = ([RECIPE.share(count, f1) for count in range(1, 100)] for f1 in (0.25, 0.24))
    assert known == sorted(known) and known[0] == 0.2 and known[3] == 0.5 and known[15:] == [0.8] * 84
    assert unknown == sorted(unknown) and unknown[:16] == known[:16] and unknown[35] == 0.9 and unknown[98] < 1.0


@pytest.mark.parametrize(
    "steps, left, of_all, expected",
    [
        (6, 3, 6, 3),  # as many passes
        (3, 2, 3, 2),
        (1, 1, 2, 1),
        (100, 67, 100, 67),
        (1000, 67, 100, 500),  # half of the steps
        (400, 67, 100, 240),  # or 240, if they are more
        (2000, 1, 3, 667),
    ],
)
def test_models_for_calibration_train_for_fewer_steps(steps: int, left: int, of_all: int, expected: int) -> None:
    assert Recipe(learning_rate=1e-3, steps=steps).steps_without(left, of_all) == expected


# parts that are held out


MANY_KINDS = st.lists(st.lists(st.sampled_from("abc"), max_size=4).map(lambda labels: of(*labels)), max_size=100)


@given(MANY_KINDS, st.integers(0, 6), st.integers(0, 3))
def test_held_out_parts_are_a_partition_that_depends_on_the_seed_alone(
    examples: list[Example], folds: int, seed: int
) -> None:
    parts = RECIPE.folds(examples, folds, seed)
    assert parts == RECIPE.folds(examples, folds, seed)
    if parts:
        assert len(parts) == folds and all(part == sorted(part) and part for part in parts)
        assert sorted(number for part in parts for number in part) == list(range(len(examples)))


def test_another_seed_gives_other_parts() -> None:
    assert len({str(RECIPE.folds(several(12, "a"), 2, seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_rare_labels_are_spread_over_the_parts(folds: int, seed: int) -> None:
    examples = (
        several(23, "often") + several(folds, "rare", "often", "often") + several(7) + several(2 * folds, "seldom")
    )
    for part in RECIPE.folds(examples, folds, seed):
        mentions = [label for number in part for label in examples[number].labels]
        assert (mentions.count("rare"), mentions.count("seldom")) == (1, 2)


def test_sentences_of_the_rarest_labels_are_placed_first() -> None:
    """One that has "rare" beside a label that is rarer still may go to any part; the other one must go elsewhere."""
    examples = [of("rare"), *several(11, "often"), of("once", "rare")]
    for seed in range(30):
        parts = RECIPE.folds(examples, 2, seed)
        assert [sum("rare" in examples[number].labels for number in part) for part in parts] == [1, 1]


@pytest.mark.parametrize(
    "examples, folds",
    [
        (several(12, "a"), 0),
        (several(12, "a"), 1),
        (several(3, "a", "a", "a"), 2),  # each part needs two of them
        (several(7, "a"), 4),
        ([of("a", "b"), of("a"), of("b"), of("a")], 2),  # five mentions of two labels
        ([], 2),
    ],
)
def test_too_few_shots_are_not_divided(examples: list[Example], folds: int) -> None:
    assert RECIPE.folds(examples, folds, 0) == []


def test_just_enough_shots_are_divided() -> None:
    """Two sentences a part, three mentions a label."""
    for examples, folds in (
        (several(4, "a", "a", "a"), 2),
        (several(8, "a"), 4),
        ([of("a", "b"), *several(2, "a", "b"), of()], 2),
    ):
        assert len(RECIPE.folds(examples, folds, 0)) == folds


def test_of_many_shots_one_part_is_enough() -> None:
    assert [len(part) for part in RECIPE.folds(several(100, "a"), 2, 0)] == [50, 50]
    for count, size in ((101, 33), (301, 100), (1200, 300)):
        (part,) = RECIPE.folds(several(count, "a"), 3, 0)
        assert len(set(part)) == size and part == sorted(part) and set(part) <= set(range(count))
    assert RECIPE.folds(several(101, "a"), 1, 0) == []


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("repeated", [12, 60])  # 60 times make so many shots that one part is enough
def test_repetitions_of_a_text_are_in_one_part(count: int, repeated: int) -> None:
    shots = [of("a"), of("a", "b"), of("b"), of("a")] * repeated
    parts = RECIPE.folds(shots, count, 0)
    texts = [{shots[number].text for number in part} for part in parts]
    rest = [{shots[number].text for number in range(len(shots)) if number not in set(part)} for part in parts]
    assert all(held and not held & others for held, others in zip(texts, rest, strict=True))
