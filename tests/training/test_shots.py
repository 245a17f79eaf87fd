"""Shots: how examples are encoded, what is left out and reported, and which rows are in the batches of a step."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from cllmfs.config import Config, SpansConfig, TrainConfig
from cllmfs.encoding.batches import PADDING, Batch
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Row
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import DataError
from cllmfs.schema import Example, LabelSet, Span
from cllmfs.training.recipe import Recipe
from cllmfs.training.shots import Shot, ShotBatches, answered_labels, check_shots, encode_shots, settle_spans
from tests.conftest import tiny_backbone

LABELS = LabelSet({"person": "", "place": "", "boat": "a vessel", "food": "", "tool": ""})


def example(text: str, **mentions: list[str]) -> Example:
    """A sentence with every occurrence of the mentions labeled."""
    found = [
        Span(match.start(), match.end(), label)
        for label, names in mentions.items()
        for name in names
        for match in re.finditer(re.escape(name), text)
    ]
    return Example(text, tuple(found))


SENTENCES = (
    example("Ada met Bo in Rome.", person=["Ada", "Bo"], place=["Rome"]),
    example("The Skua left Oslo.", boat=["Skua"], place=["Oslo"]),
    example("Nobody saw it."),
    example("Kim ate an apple.", person=["Kim"], food=["apple"]),
    example("Bo rowed the Skua", person=["Bo"], boat=["Skua"]),
    example("Rain again", food=[]),
    example("Lima is far", place=["Lima"]),
)


def encoder(edges: str = "word", nested: bool = False, tree: bool = True) -> Encoder:
    return Encoder(tiny_backbone("llama").prompt, edges=edges, nested=nested, tree=tree, overlap_tokens=16)


def shots(examples: tuple[Example, ...] = SENTENCES, window: int = 512, **settings: bool | str) -> list[Shot]:
    """The examples, encoded and checked."""
    encoded = encode_shots(examples, encoder(**settings), window)  # type: ignore[arg-type]
    check_shots(examples, encoded, encoder(**settings))  # type: ignore[arg-type]
    return encoded


def batches(tree: bool = True, negatives: int = -1, **train: int) -> ShotBatches:
    config = TrainConfig(**{"batch_sentences": 3, **train})
    recipe = Recipe(learning_rate=1e-3, steps=1, negatives=negatives)
    encoded = shots()
    return ShotBatches(lambda _: encoded, LABELS, encoder(tree=tree), config, recipe)


def asked(step: list[Batch]) -> dict[int, set[str]]:
    """The types asked of each sentence."""
    found: dict[int, set[str]] = {}
    for batch in step:
        for row in batch.rows:
            names = [branch.label for branch in row.branches]
            assert not found.setdefault(row.index, set()) & set(names), "a type is asked of a sentence once"
            found[row.index] |= set(names)
    return found


def contents(rows: Iterable[Row]) -> list[Row]:
    """The rows without their automata, which follow from the sentences and are compared by identity."""
    return [replace(row, automaton=None) for row in rows]  # type: ignore[arg-type]


# encoding and checking


def test_gold_becomes_the_token_spans_of_each_label() -> None:
    (shot,) = shots((SENTENCES[0],))  # a token a byte
    assert shot.gold == {"person": ((0, 2), (8, 9)), "place": ((14, 17),)}


def test_spans_off_the_edges_are_named_and_the_rest_stays(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas boat", (Span(0, 3, "person"), Span(5, 9, "boat")), source="shots.jsonl:7")
    with caplog.at_level(logging.WARNING, "cllmfs"):
        first, second, *_ = shots((half, *SENTENCES))
    assert first.gold == {"boat": ((5, 8),)}
    assert second.gold["person"] == ((0, 2), (8, 9))
    (message,) = [record.getMessage() for record in caplog.records]
    assert "left out of training, of 12: 1 begin or end where no token does" in message
    assert "'Ada' (person) in shots.jsonl:7" in message and "spans.edges=token" in message


def test_a_label_whose_span_is_lost_is_not_asked_there() -> None:
    half = Example("Adas boat", (Span(0, 3, "person"), Span(5, 9, "boat")))
    (shot,) = encode_shots((half,), encoder(), 512)
    assert not shot.knows("person") and shot.knows("boat") and shot.knows("place")
    made = ShotBatches(lambda _: [shot], LABELS, encoder(), TrainConfig(), Recipe(learning_rate=1e-3, steps=1))
    assert asked(made(0))[0].isdisjoint({"person"})
    assert {"boat", "place"} <= asked(made(0))[0]
    assert list(answered_labels(LABELS, [shot])) == ["boat"]


@pytest.mark.parametrize("text", ["Call \ufffd\ufffd", "\ufffd\ufffd called", "Call \x07\x07"])
def test_a_span_of_characters_that_the_tokenizer_drops_is_not_taught_as_absent(text: str) -> None:
    from cllmfs.model.loading import load_backbone

    odd = min(text.find(char) for char in "\ufffd\x07" if char in text)
    made = Example(text, (Span(odd, odd + 2, "person"),))
    (shot,) = encode_shots((made,), load_backbone("cllmfs-mini").encoder(Config()), 512)
    assert shot.gold.get("person") or not shot.knows("person")


def test_only_annotated_labels_are_asked() -> None:
    part = Example("Ada met Bo in Rome.", (Span(0, 3, "person"), Span(8, 10, "person")), annotated={"person", "boat"})
    (shot,) = encode_shots((part,), encoder(), 512)
    recipe = Recipe(learning_rate=1e-3, steps=1, negatives=99)
    made = ShotBatches(lambda _: [shot], LABELS, encoder(), TrainConfig(), recipe)
    assert asked(made(0)) == {0: {"person", "boat"}}


def test_a_window_that_cuts_a_mention_is_not_asked_for_its_label() -> None:
    text = "Ada saw the long grey boat of Bo, and Kim saw it too"
    long = example(text, boat=["the long grey boat of Bo"], person=["Kim"])
    parts = encode_shots((long,), encoder(), 32)
    assert len(parts) > 1 and any(not part.knows("boat") for part in parts)
    for part in parts:
        start, end = min(at for at in part.sentence.char_start if at >= 0), max(part.sentence.char_end)
        touches = start < 32 and end > 8
        assert part.knows("boat") == (bool(part.gold.get("boat")) or not touches)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_training_stops_if_more_than_a_tenth_of_the_spans_cannot_be_used(count: int) -> None:
    half = tuple(Example("Adas boat", (Span(0, 3, "person"),), source=f"shots.jsonl:{n}") for n in range(count))
    good = tuple(Example("Ada sat", (Span(0, 3, "person"),)) for _ in range(9 * count))
    assert len(shots((*half, *good))) == 10 * count  # exactly a tenth
    with pytest.raises(DataError, match=rf"{count} of {10 * count - 1} gold spans cannot be learned.*shots.jsonl:0"):
        shots((*half, *good[1:]))


# what the shots decide


def settled(*examples: Example, **settings: object) -> tuple[object, object]:
    config = Config(spans=SpansConfig(**settings))  # type: ignore[arg-type]
    made = settle_spans(config, examples, partial(tokenize, tiny_backbone("llama").prompt.tokenizer)).spans
    return made.edges, made.nested


PLAIN = tuple(Example("Ada sat", (Span(0, 3, "person"),)) for _ in range(19))
ODD = {
    "compound": Example("Boschmitarbeiter streiken", (Span(0, 5, "company"),)),
    "particle": Example("서울에서 만났다", (Span(0, 2, "place"),)),
    "ending": Example("Ankaradan geldi", (Span(0, 6, "place"),)),
    "prefix": Example("وباريس جميلة", (Span(1, 6, "place"),)),
    "number and unit": Example("5kg Mehl", (Span(0, 1, "quantity"), Span(1, 3, "unit"))),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_shots_inside_words_ask_for_token_edges(odd: Example, caplog: pytest.LogCaptureFixture) -> None:
    assert settled(*PLAIN, odd, odd) == ("token", False)
    assert "2 of 21 gold spans" in caplog.text or "4 of 23 gold spans" in caplog.text
    assert settled(*PLAIN, odd, odd, edges="word") == ("word", False)
    (shot,) = encode_shots((odd,), encoder(edges="token"), 512)
    assert sum(map(len, shot.gold.values())) == len(odd.spans) and not shot.unknown


def test_one_slip_among_many_spans_changes_nothing() -> None:
    assert settled(*PLAIN, Example("Adas boat", (Span(0, 3, "person"),))) == ("word", False)
    assert settled(*PLAIN, Example("Ada Byron", (Span(0, 3, "person"), Span(0, 9, "place")))) == ("word", False)
    assert settled(*PLAIN, *PLAIN, Example("Adas boat", (Span(0, 3, "person"),))) == ("word", False)
    rare = Example("Boschmitarbeiter streiken", (Span(0, 5, "company"),))
    assert settled(*PLAIN, *PLAIN, *PLAIN, rare, rare) == ("token", False)  # all spans of a label


@pytest.mark.parametrize("inner", ["place", "school"])
def test_shots_that_nest_ask_for_nested_answers(inner: str, caplog: pytest.LogCaptureFixture) -> None:
    nest = Example("University of Leeds", (Span(0, 19, "school"), Span(14, 19, inner)))
    assert settled(*PLAIN, nest, nest) == ("word", True)
    assert "2 of 23 gold spans overlap an earlier one" in caplog.text and "nested spans are predicted" in caplog.text
    assert settled(*PLAIN, nest, nest, nested=False) == ("word", False)
    assert "spans.nested=true would predict both" in caplog.text
    assert settled(*PLAIN) == ("word", False)


def test_token_edges_let_a_part_of_a_word_in(caplog: pytest.LogCaptureFixture) -> None:
    (shot,) = shots((Example("Adas boat", (Span(0, 3, "person"),)),), edges="token")
    assert shot.gold == {"person": ((0, 2),)} and not caplog.records


def test_overlapping_spans_of_a_label_need_nested_answers(caplog: pytest.LogCaptureFixture) -> None:
    nest = Example("Ada Byron sat", (Span(0, 3, "person"), Span(0, 9, "person"), Span(4, 9, "place")))
    (flat,) = shots((nest,))
    assert flat.gold == {"person": ((0, 8),), "place": ((4, 8),)}
    assert "1 overlap an earlier span of their label" in caplog.text
    caplog.clear()
    (nested,) = shots((nest,), nested=True)
    assert nested.gold == {"person": ((0, 2), (0, 8)), "place": ((4, 8),)} and not caplog.records


def test_a_long_sentence_is_cut_and_each_span_is_in_a_window(caplog: pytest.LogCaptureFixture) -> None:
    text = " ".join(f"Ada rowed to Rome{number}." for number in range(12))
    long = example(text, person=["Ada"])
    parts = shots((long,), window=48)
    assert len(parts) > 4 and all(len(part.sentence) <= 48 for part in parts)
    found = {part.sentence.char_range(first, last) for part in parts for first, last in part.gold.get("person", ())}
    assert found == {(span.start, span.end) for span in long.spans}
    assert not caplog.records


def test_a_span_that_fits_no_window_is_named(caplog: pytest.LogCaptureFixture) -> None:
    text = "Ada " + "saw Bo and " * 8
    long = Example(text, (Span(0, len(text) - 1, "place"), Span(0, 3, "person")))
    with pytest.raises(DataError, match=r"1 of 2 gold spans cannot be learned.* fit no window"):
        shots((long,), window=40)
    parts = shots((long, *SENTENCES), window=40)[: -len(SENTENCES)]
    assert len(parts) > 1 and not any(part.gold.get("place") for part in parts)
    assert parts[0].gold["person"] == ((0, 2),)
    assert "1 fit no window" in caplog.text
    assert not any(part.knows("place") for part in parts)


def test_a_span_lost_in_one_window_and_kept_in_another_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    text = "Ada saw Bo. " * 12
    shots((example(text, person=["Ada", "Bo"]),), window=40)
    assert not caplog.records


def test_spans_that_all_end_inside_words_leave_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="1 of 1 gold spans cannot be learned, and training without them would teach"):
        shots((Example("Adas boat", (Span(0, 3, "person"),)), SENTENCES[2]))


def test_empty_texts_alone_are_no_shots() -> None:
    with pytest.raises(DataError, match="at least one sentence with words in it, got 2 empty texts"):
        shots((Example(""), Example("")))
    assert len(shots((Example(""), SENTENCES[0]))) == 1


def test_shots_that_are_only_encoded_are_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Variants and parts of examples were checked before, as a whole."""
    half = Example("Adas boat", (Span(0, 3, "person"), Span(5, 9, "boat")))

    def encoded(*examples: Example) -> list[Shot]:
        return encode_shots(examples, encoder(), 512)

    with caplog.at_level(logging.WARNING, "cllmfs"):
        assert [shot.gold for shot in encoded(half, SENTENCES[0])] == [{"boat": ((5, 8),)}, shots()[0].gold]
        assert encoded(Example("")) == []
        assert [shot.gold.get("person", ()) for shot in encoded(Example("Adas", (Span(0, 3, "person"),)))] == [()]
    assert not caplog.records


def test_shots_carry_the_numbers_of_their_examples() -> None:
    long = example(" ".join(["Ada rowed."] * 8), person=["Ada"])
    numbers = [shot.example for shot in shots((Example(""), SENTENCES[0], long, SENTENCES[1]), window=40)]
    assert numbers[0] == 1 and numbers[-1] == 3 and set(numbers[1:-1]) == {2} and len(numbers) > 4


def test_labels_that_no_shot_answers_are_left_out() -> None:
    half = Example("Adas apples", (Span(0, 3, "person"), Span(5, 11, "food")))
    answered = answered_labels(LABELS, encode_shots((half, SENTENCES[1]), encoder(), 512))
    assert answered == LabelSet({"place": "", "boat": "a vessel", "food": ""})


# the batches of a step


def test_a_step_is_a_function_of_its_number() -> None:
    one, other = batches(negatives=2), batches(negatives=2)
    order = [5, 0, 3, 11, 3]
    for step, again in zip([one(step) for step in order], [other(step) for step in reversed(order)][::-1], strict=True):
        assert len(step) == len(again)
        for batch, same in zip(step, again, strict=True):
            assert batch.labels == same.labels
            for name, tensor in vars(batch).items():
                if isinstance(tensor, Tensor):
                    assert torch.equal(tensor, getattr(same, name)), name


def test_another_seed_gives_another_order() -> None:
    orders = [[sorted(asked(batches(seed=seed)(step))) for step in range(3)] for seed in range(5)]
    assert len({str(order) for order in orders}) > 1


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_an_epoch_visits_every_sentence_once(size: int) -> None:
    made = batches(batch_sentences=size)
    assert made.steps_per_epoch == -(-len(SENTENCES) // size)
    orders = []
    for epoch in range(3):
        steps = [asked(made(epoch * made.steps_per_epoch + part)) for part in range(made.steps_per_epoch)]
        assert all(1 <= len(step) <= size for step in steps)
        visited = [index for step in steps for index in step]
        assert sorted(visited) == list(range(len(SENTENCES)))
        orders.append([sorted(step) for step in steps])
    if size < len(SENTENCES):
        assert any(order != orders[0] for order in orders[1:]), "epochs differ in their order"


@pytest.mark.parametrize("tree", [True, False])
@pytest.mark.parametrize("negatives", [0, 1, 2, 50])
def test_present_types_are_always_asked_and_few_absent_ones(tree: bool, negatives: int) -> None:
    made = batches(tree, negatives=negatives)
    for step in range(6):
        for index, names in asked(made(step)).items():
            present = SENTENCES[index].labels
            absent = len(LABELS) - len(present)
            assert present <= names
            assert len(names - present) == min(negatives, absent)


def test_absent_types_are_drawn_anew_each_epoch() -> None:
    made = batches(negatives=1, batch_sentences=len(SENTENCES))
    drawn = {frozenset(asked(made(epoch))[2]) for epoch in range(20)}
    assert drawn == {frozenset([label]) for label in LABELS}


def test_answers_are_the_gold_and_absent_types_answer_nothing() -> None:
    made = batches(negatives=50)
    gold = [shot.gold for shot in made.shots]
    for batch in made(0) + made(1) + made(2):
        for row in batch.rows:
            for branch in row.branches:
                assert branch.spans == gold[row.index].get(branch.label, ())
                assert len(branch.targets) == 1 + sum(last - first + 2 for first, last in branch.spans) - bool(
                    branch.spans
                )


def test_batches_keep_within_the_token_budget() -> None:
    whole, small = batches(negatives=50)(0), batches(negatives=50, batch_tokens=150)(0)
    assert len(small) > len(whole)
    for batch in small:
        assert len(batch.rows) == 1 or batch.branch.numel() <= 150
    assert sum(int((batch.branch != PADDING).sum()) for batch in small) == sum(batch.tokens for batch in whole)


def test_of_many_shots_more_absent_types_are_asked() -> None:
    labels = LabelSet([f"type{number}" for number in range(30)])
    for count, negatives in ((100, 8), (101, 20)):
        many = shots(tuple(example(f"Ada {number}", type0=["Ada"]) for number in range(count)))
        recipe = Recipe(learning_rate=1e-3, steps=1)
        made = ShotBatches(lambda _, many=many: many, labels, encoder(), TrainConfig(), recipe)  # type: ignore[misc]
        assert {len(names) for names in asked(made(0)).values()} == {1 + negatives}


def test_descriptions_are_asked() -> None:
    prompt = tiny_backbone("llama").prompt
    ids = {branch.label: branch.ids for batch in batches(negatives=50)(0) for row in batch.rows
           for branch in row.branches if not branch.spans}  # fmt: skip
    assert ids["boat"][: -len(prompt.open)] == tuple(prompt.query("boat", "a vessel"))
    assert ids["food"][: -len(prompt.open)] == tuple(prompt.query("food", ""))


# shots that are varied


def of_epoch(epoch: int) -> list[Shot]:
    """As many sentences as there are, each naming the epoch."""
    return shots(tuple(example(f"Ada {epoch} {number}", person=["Ada"]) for number in range(len(SENTENCES))))


def varied_batches(made_for: list[int]) -> ShotBatches:
    """Batches of varied shots that note the epochs for which they were varied."""

    def varied(epoch: int) -> list[Shot]:
        made_for.append(epoch)
        return of_epoch(epoch) if epoch else shots()

    config = TrainConfig(batch_sentences=3)
    return ShotBatches(varied, LABELS, encoder(), config, Recipe(learning_rate=1e-3, steps=1, negatives=1))


def sentences(step: list[Batch]) -> dict[int, str]:
    return {row.index: row.sentence.text for batch in step for row in batch.rows}


def test_shots_are_varied_from_the_second_epoch_on_and_once_for_each() -> None:
    made_for: list[int] = []
    made = varied_batches(made_for)
    read: list[dict[int, str]] = [{} for _ in range(4)]
    for step in range(4 * made.steps_per_epoch):
        read[step // made.steps_per_epoch] |= sentences(made(step))
    assert read[0] == {number: shot.text for number, shot in enumerate(SENTENCES)}
    for epoch in (1, 2, 3):
        assert read[epoch] == {number: f"Ada {epoch} {number}" for number in range(len(SENTENCES))}
    assert made_for == [0, 1, 2, 3]


def test_a_step_of_varied_shots_is_a_function_of_its_number() -> None:
    """A resumed run begins in the middle of an epoch; another order must not be noticed, either."""
    straight, jumping = varied_batches([]), varied_batches([])
    rows = {step: [contents(batch.rows) for batch in straight(step)] for step in range(9)}
    for step in (4, 0, 8, 7, 1, 4):
        assert [contents(batch.rows) for batch in jumping(step)] == rows[step]
