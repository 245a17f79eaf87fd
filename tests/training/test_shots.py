"""Few-shot training: the rows of a step, when it stops, which weights stay, and that resuming is not noticed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cllmfs.config import Config, LoraConfig, LossConfig, TrainConfig
from cllmfs.encoding.batches import PADDING, Batch, RowBuilder, TypeQuery, collate
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import DataError
from cllmfs.schema import Example, LabelSet, Span
from cllmfs.training.loop import Optimisation
from cllmfs.training.shots import (
    Progress,
    Shot,
    ShotBatches,
    Trainer,
    answered_labels,
    choose_negatives,
    choose_rate,
    choose_steps,
    prepare_shots,
)
from tests.conftest import fresh_backbone, tiny_backbone

LABELS = LabelSet({"person": "", "place": "", "boat": "a vessel", "food": "", "tool": ""})


def example(text: str, **mentions: list[str]) -> Example:
    """A sentence with every occurrence of the mentions labelled."""
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


def builder(nested: bool = False, tree: bool = True) -> RowBuilder:
    return RowBuilder(tiny_backbone("llama").prompt, "sentence-first", tree, nested)


def shots(
    examples: tuple[Example, ...] = SENTENCES, edges: str = "word", window: int = 512, nested: bool = False
) -> list[Shot]:
    return prepare_shots(examples, tiny_backbone("llama"), builder(nested), edges, window, 16)


def batches(tree: bool = True, **train: object) -> ShotBatches:
    config = Config(train=TrainConfig(**{"batch_sentences": 3, **train}))  # type: ignore[arg-type]
    return ShotBatches(shots(), LABELS, tiny_backbone("llama"), builder(tree=tree), config)


def asked(step: list[Batch]) -> dict[int, set[str]]:
    """The types asked of each sentence."""
    found: dict[int, set[str]] = {}
    for batch in step:
        for row in batch.rows:
            names = [branch.label for branch in row.branches]
            assert not found.setdefault(row.index, set()) & set(names), "a type is asked of a sentence once"
            found[row.index] |= set(names)
    return found


# preparing shots


def test_gold_becomes_the_token_spans_of_each_label() -> None:
    (shot,) = shots((SENTENCES[0],))  # a token a byte
    assert shot.gold == {"person": ((0, 2), (8, 9)), "place": ((14, 17),)}


def test_spans_off_the_edges_are_named_and_the_rest_stays(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas boat", (Span(0, 3, "person"), Span(5, 9, "boat")), source="shots.jsonl:7")
    with caplog.at_level(logging.WARNING, "cllmfs"):
        first, second = shots((half, SENTENCES[0]))
    assert first.gold == {"boat": ((5, 8),)}
    assert second.gold["person"] == ((0, 2), (8, 9))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("1 gold span(s)") and "'Ada' (person) in shots.jsonl:7" in message
    assert "decode.edges=token" in message


def test_token_edges_let_a_part_of_a_word_in(caplog: pytest.LogCaptureFixture) -> None:
    (shot,) = shots((Example("Adas boat", (Span(0, 3, "person"),)),), edges="token")
    assert shot.gold == {"person": ((0, 2),)} and not caplog.records


def test_overlapping_spans_of_a_label_need_nested_answers(caplog: pytest.LogCaptureFixture) -> None:
    nest = Example("Ada Byron sat", (Span(0, 3, "person"), Span(0, 9, "person"), Span(4, 9, "place")))
    (flat,) = shots((nest,))
    assert flat.gold == {"person": ((0, 8),), "place": ((4, 8),)}
    assert "1 gold span(s)" in caplog.text
    caplog.clear()
    (nested,) = shots((nest,), nested=True)
    assert nested.gold == {"person": ((0, 2), (0, 8)), "place": ((4, 8),)} and not caplog.records


def test_a_long_sentence_is_cut_and_each_span_stands_in_a_window(caplog: pytest.LogCaptureFixture) -> None:
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
    parts = shots((long,), window=40)
    assert len(parts) > 1 and not any(part.gold.get("place") for part in parts)
    assert parts[0].gold["person"] == ((0, 2),)
    assert "1 gold span(s)" in caplog.text and "fit no window" in caplog.text


def test_a_span_lost_in_one_window_and_kept_in_another_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    text = "Ada saw Bo. " * 12
    shots((example(text, person=["Ada", "Bo"]),), window=40)
    assert not caplog.records


def test_spans_that_all_end_inside_words_leave_nothing_to_learn() -> None:
    with pytest.raises(DataError, match=r"at least one span that can be answered; all 1 gold span\(s\)"):
        shots((Example("Adas boat", (Span(0, 3, "person"),)), SENTENCES[2]))


def test_empty_texts_alone_are_no_shots() -> None:
    with pytest.raises(DataError, match="at least one sentence with words in it, got 2 empty texts"):
        shots((Example(""), Example("")))
    assert len(shots((Example(""), SENTENCES[0]))) == 1


def test_quietly_prepared_shots_are_the_same_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """For examples that were prepared before, varied or in part."""
    half = Example("Adas boat", (Span(0, 3, "person"), Span(5, 9, "boat")))
    backbone = tiny_backbone("llama")

    def quietly(*examples: Example) -> list[Shot]:
        return prepare_shots(examples, backbone, builder(), "word", 512, 16, quiet=True)

    with caplog.at_level(logging.WARNING, "cllmfs"):
        assert [shot.gold for shot in quietly(half, SENTENCES[0])] == [{"boat": ((5, 8),)}, shots()[0].gold]
        assert quietly(Example("")) == []
        assert [shot.gold for shot in quietly(Example("Adas", (Span(0, 3, "person"),)))] == [{}]
        assert list(answered_labels(LABELS, shots((SENTENCES[0],)), quiet=True)) == ["person", "place"]
    assert not caplog.records


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
    assert made.per_epoch == -(-len(SENTENCES) // size)
    orders = []
    for epoch in range(3):
        steps = [asked(made(epoch * made.per_epoch + part)) for part in range(made.per_epoch)]
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


def test_descriptions_are_asked_unless_switched_off() -> None:
    backbone = tiny_backbone("llama")
    for described in (True, False):
        config = Config().with_settings([f"prompt.descriptions={str(described).lower()}"])
        made = ShotBatches(shots(), LABELS, backbone, builder(), config)
        assert made.queries["boat"] == tuple(backbone.prompt.query("boat", "a vessel" if described else ""))


def test_labels_that_no_shot_answers_are_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    half = Example("Adas apples", (Span(0, 3, "person"), Span(5, 11, "food")))
    assert answered_labels(LABELS, shots((half, SENTENCES[1]))) == LabelSet(
        {"place": "", "boat": "a vessel", "food": ""}
    )
    assert "no example for person, tool: asked as the base knows it, not trained" in caplog.text


# shots that are varied


def told_apart(epoch: int) -> list[Shot]:
    """As many sentences as there are, each naming the epoch."""
    return shots(tuple(example(f"Ada {epoch} {number}", person=["Ada"]) for number in range(len(SENTENCES))))


def varied_batches(made_for: list[int]) -> ShotBatches:
    """Batches of varied shots that note the epochs they were varied for."""

    def varied(epoch: int) -> list[Shot]:
        made_for.append(epoch)
        return told_apart(epoch)

    config = Config(train=TrainConfig(batch_sentences=3, negatives=1))
    return ShotBatches(shots(), LABELS, tiny_backbone("llama"), builder(), config, varied)


def sentences(step: list[Batch]) -> dict[int, str]:
    return {row.index: row.sentence.text for batch in step for row in batch.rows}


def test_shots_are_varied_from_the_second_epoch_on_and_once_for_each() -> None:
    made_for: list[int] = []
    made = varied_batches(made_for)
    read: list[dict[int, str]] = [{} for _ in range(4)]
    for step in range(4 * made.per_epoch):
        read[step // made.per_epoch] |= sentences(made(step))
    assert read[0] == {number: shot.text for number, shot in enumerate(SENTENCES)}
    for epoch in (1, 2, 3):
        assert read[epoch] == {number: f"Ada {epoch} {number}" for number in range(len(SENTENCES))}
    assert made_for == [1, 2, 3]


def test_a_step_of_varied_shots_is_a_function_of_its_number() -> None:
    """A resumed run begins in the middle of an epoch; another order must not be noticed, either."""
    straight, jumping = varied_batches([]), varied_batches([])
    rows = {step: [batch.rows for batch in straight(step)] for step in range(9)}
    for step in (4, 0, 8, 7, 1, 4):
        assert [batch.rows for batch in jumping(step)] == rows[step]


# how many steps


def test_steps_grow_with_the_shots_within_bounds() -> None:
    chosen = [choose_steps(count, 4) for count in range(1, 3000)]
    assert chosen == sorted(chosen)
    assert chosen[0] == 60 and chosen[-1] == 2000
    assert choose_steps(40, 4) == 200
    assert choose_steps(41, 4) == 220, "a part of a batch is a step, too"
    assert choose_steps(0, 4) == 60
    assert all(choose_steps(100, size) >= choose_steps(100, size + 1) for size in range(1, 200))


def test_of_many_shots_more_absent_types_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_negatives(count) for count in (1, 100, 101, 5000)] == [8, 8, 20, 20]
    monkeypatch.setattr("cllmfs.training.shots.choose_negatives", {len(SENTENCES): 1}.get)
    for index, names in asked(batches(batch_sentences=len(SENTENCES))(0)).items():
        assert len(names - SENTENCES[index].labels) == 1, "so many as chosen where the setting leaves it open"


def test_the_rate_falls_with_the_width_of_the_base() -> None:
    assert choose_rate(64) == choose_rate(384) == 2e-3
    assert choose_rate(768) == pytest.approx(1e-3) and choose_rate(4096) == pytest.approx(1.875e-4)


# stopping and choosing


def optimisation(total: int, **train: object) -> Optimisation:
    """LoRA on a tiny model and one short row, so that a step takes milliseconds."""
    backbone = fresh_backbone("llama")
    torch.manual_seed(0)
    backbone.attach_lora(LoraConfig(rank=1))
    made = RowBuilder(backbone.prompt, "sentence-first", tree=True)
    rows = [
        made.rows(tokenize(backbone.tokenizer, text), [TypeQuery("x", tuple(backbone.prompt.query("x")), ((0, 2),))])
        for text in ("Ada sat", "Kim ran", "Lea hid")
    ]
    values = {"learning_rate": 0.02, "precision": "fp32", "evaluate_every": 1, **train}
    return Optimisation(
        backbone, lambda step: [collate(rows[step % 3])], total, LossConfig(contrastive="none"),
        TrainConfig(**values), False,  # type: ignore[arg-type]
    )  # fmt: skip


def weights(run: Optimisation) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def scripted(run: Optimisation, scores: list[float]) -> tuple[Callable[[], float], list[dict[str, Tensor]]]:
    """An evaluation that gives the scores in turn, and the weights it was given."""
    seen: list[dict[str, Tensor]] = []

    def evaluate() -> float:
        seen.append(weights(run))
        return scores[len(seen) - 1]

    return evaluate, seen


@pytest.mark.parametrize(
    "scores, patience, done, best",
    [
        ([0.5, 0.6, 0.7, 0.6, 0.6], 2, 4, 2),  # two evaluations without gain end it
        ([0.5, 0.6, 0.5, 0.7, 0.6, 0.6], 2, 5, 3),  # a gain begins the count anew
        ([0.9, 0.1, 0.2, 0.3], 3, 3, 0),  # the base itself is the first candidate
        ([0.5, 0.5, 0.5], 2, 2, 0),  # as good is no gain
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6, 6),  # to the end
        ([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.4], 2, 6, 5),  # at the end, the best before
    ],
)
def test_training_stops_without_gain_and_leaves_the_best(
    scores: list[float], patience: int, done: int, best: int
) -> None:
    run = optimisation(6, patience=patience)
    evaluate, seen = scripted(run, scores)
    trainer = Trainer(run, evaluate, None)
    trainer.run()
    assert (run.done, len(seen)) == (done, len(scores))
    assert same(weights(run), seen[best])
    assert not any(same(seen[best], other) for index, other in enumerate(seen) if index != best)
    assert trainer.best_f1 == scores[best]


@pytest.mark.parametrize("every, total, steps", [(2, 5, [0, 2, 4, 5]), (2, 4, [0, 2, 4]), (0, 20, [*range(0, 21, 2)])])
def test_when_the_dev_set_is_evaluated(every: int, total: int, steps: list[int]) -> None:
    run = optimisation(total, evaluate_every=every, patience=50)
    at: list[int] = []
    Trainer(run, lambda: float(at.append(run.done) or run.done), None).run()
    assert at == steps


def test_without_a_dev_set_all_steps_run_and_the_last_weights_stay() -> None:
    run = optimisation(4)
    start = weights(run)
    trainer = Trainer(run, None, None)
    trainer.run()
    assert run.done == 4 and trainer.best_f1 is None and trainer.best == {}
    assert not same(weights(run), start)


def test_progress_tells_every_step_and_the_scores() -> None:
    run = optimisation(4, evaluate_every=2)
    evaluate, _ = scripted(run, [0.2, 0.6, 0.4])
    told: list[Progress] = []
    Trainer(run, evaluate, None).run(on_progress=told.append)
    assert [(p.step.number, p.dev_f1, p.best_f1) for p in told] == [
        (1, 0.2, 0.2), (2, 0.6, 0.6), (3, 0.6, 0.6), (4, 0.4, 0.6),
    ]  # fmt: skip
    assert all(p.tokens_per_second > 0 and p.step.total == 4 for p in told)


def test_progress_names_what_is_trained() -> None:
    told: list[Progress] = []
    Trainer(optimisation(2), None, None).run(on_progress=told.append)
    Trainer(optimisation(1), None, None).run(on_progress=told.append, phase="calibrating, part 1 of 2")
    assert [progress.phase for progress in told] == ["training", "training", "calibrating, part 1 of 2"]


# resuming


def pseudo_f1(run: Optimisation) -> Callable[[], float]:
    """A score that goes up and down with the steps, and depends on the weights in its last digits."""
    course = (0.1, 0.3, 0.2, 0.4, 0.3, 0.35, 0.2, 0.5, 0.6, 0.4, 0.5, 0.7, 0.6)
    return lambda: course[run.done] + 1e-6 * sum(float(p.detach().abs().sum()) for p in run.parameters.values())


def stop_at(number: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.step.number == number:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("patience, done", [(3, 6), (50, 12)])
@pytest.mark.parametrize("interrupted", [3, 5])
def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, patience: int, done: int, interrupted: int) -> None:
    settings = {"patience": patience, "checkpoint_every": 2}
    whole = optimisation(12, **settings)
    straight = Trainer(whole, pseudo_f1(whole), None)
    scores: list[float | None] = []
    straight.run(on_progress=lambda progress: scores.append(progress.dev_f1))
    broken = optimisation(12, **settings)
    with pytest.raises(KeyboardInterrupt):
        Trainer(broken, pseudo_f1(broken), tmp_path / "state").run(on_progress=stop_at(interrupted))
    again = optimisation(12, **settings)
    resumed = Trainer(again, pseudo_f1(again), tmp_path / "state")
    rest: list[float | None] = []
    resumed.run(resume=True, on_progress=lambda progress: rest.append(progress.dev_f1))
    assert rest == scores[interrupted - 1 :], "it goes on from the checkpoint of the step before"
    assert same(weights(again), weights(whole)) and again.done == whole.done == done
    assert (resumed.best_f1, resumed.last_f1) == (straight.best_f1, straight.last_f1)
    assert resumed.without_gain == straight.without_gain
    assert same(resumed.best, straight.best)


def test_resuming_after_an_early_stop_changes_nothing(tmp_path: Path) -> None:
    run = optimisation(9, patience=1, checkpoint_every=100)
    evaluate, _ = scripted(run, [0.1, 0.8, 0.3])
    Trainer(run, evaluate, tmp_path / "state").run()
    again = optimisation(9, patience=1)
    trainer = Trainer(again, lambda: pytest.fail("it is over: nothing is evaluated"), tmp_path / "state")
    trainer.run(resume=True)
    assert again.done == 2 and trainer.best_f1 == 0.8
    assert same(weights(again), weights(run))


def test_resume_without_a_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    run = optimisation(2)
    evaluate, seen = scripted(run, [0.1, 0.2, 0.3])
    Trainer(run, evaluate, tmp_path / "none").run(resume=True)
    assert run.done == 2 and len(seen) == 3


def test_without_resume_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    run = optimisation(2, checkpoint_every=1)
    Trainer(run, None, tmp_path / "state").run()
    again = optimisation(2, checkpoint_every=1)
    numbers: list[int] = []
    Trainer(again, None, tmp_path / "state").run(on_progress=lambda progress: numbers.append(progress.step.number))
    assert numbers == [1, 2]
