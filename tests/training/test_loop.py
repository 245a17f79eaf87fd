"""The loop: resumed runs end as uninterrupted ones, broken batches break no weights, the best weights stay."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cllmfs.training.loop
from cllmfs.config import Config, LoraConfig, LossConfig, TrainConfig
from cllmfs.encoding.batches import Batch, collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.errors import ModelError
from cllmfs.model.forward import autocast
from cllmfs.training.loop import Optimization, Progress, Trainer
from cllmfs.training.objective import LossParts, batch_loss
from cllmfs.training.recipe import Recipe
from tests.conftest import EXAMPLES, fresh_backbone, rows_of

TOTAL = 6
LANGUAGE = LossConfig(contrastive="none")


def make(
    total: int = TOTAL,
    rank: int = 2,
    loss: LossConfig | None = None,
    batches: int = 1,
    dropout: float = 0.2,
    precision: str = "fp32",
    **recipe: Any,
) -> Optimization:
    """A run over LoRA layers on a model with dropout; each step has sentences of its own."""
    backbone = fresh_backbone("llama", attention_dropout=dropout)
    torch.manual_seed(0)
    backbone.adapters.attach(LoraConfig(rank=rank))
    rows = rows_of(Encoder(backbone.prompt), EXAMPLES[:2])

    def batches_of(step: int) -> list[Batch]:
        return [collate([rows[(step + shift) % 2]]) for shift in range(batches)]

    config = Config(loss=loss or LossConfig(), train=TrainConfig(precision=precision))
    return Optimization(backbone, batches_of, config, Recipe(**{"learning_rate": 0.01, "steps": total, **recipe}))


def weights(run: Optimization) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def all_steps(run: Optimization) -> list[float]:
    return [step.loss for step in run.steps()]


@pytest.mark.parametrize("adversarial", ["none", "neftune"])
def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, adversarial: str) -> None:
    loss = LossConfig(adversarial=adversarial)
    whole = make(loss=loss)
    start = weights(whole)
    losses = all_steps(whole)
    assert losses != all_steps(make(loss=loss, dropout=0.0)), "the model draws random numbers"
    broken = make(loss=loss)
    steps = broken.steps()
    first = [next(steps).loss for _ in range(3)]
    best = {"best": torch.arange(3.0)}
    broken.save(tmp_path / "state", {"note": "half"}, best)
    torch.manual_seed(99)  # the random state at the time of resuming does not matter
    resumed = make(loss=loss)
    record, extra = resumed.load(tmp_path / "state")
    assert (resumed.done, record["note"], record["total"]) == (3, "half", TOTAL)
    assert extra.keys() == best.keys() and torch.equal(extra["best"], best["best"])
    assert first + all_steps(resumed) == losses
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())
    assert any(not torch.equal(value, start[name]) for name, value in weights(whole).items())


def test_steps_are_reported() -> None:
    run = make(batches=2)
    reports = list(run.steps())
    assert [step.number for step in reports] == list(range(1, TOTAL + 1))
    assert all(step.total == TOTAL and step.tokens == sum(b.tokens for b in run.batches_of(0)) for step in reports)
    for step in reports:
        assert step.loss == pytest.approx(step.language + 0.3 * step.contrastive, rel=1e-5)
        assert step.gradient_norm > 0
    assert reports[-1].loss < reports[0].loss
    assert not run.backbone.model.training
    assert list(run.steps()) == []


def test_batches_of_a_step_weigh_by_their_answer_tokens() -> None:
    # Without dropout, two batches of a step are one batch of all their rows.
    apart, together = (make(total=1, loss=LANGUAGE, batches=batches, dropout=0.0) for batches in (2, 1))
    rows = [row for batch in apart.batches_of(0) for row in batch.rows]
    together.batches_of = lambda step: [collate(rows)]
    (one,), (two,) = list(apart.steps()), list(together.steps())
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    run = make(total=3)
    steps = run.steps()
    next(steps)
    before = weights(run)

    def broken(*arguments: Any) -> LossParts:
        parts = batch_loss(*arguments)
        return LossParts(parts.total * value, parts.language, parts.contrastive)

    monkeypatch.setattr(cllmfs.training.loop, "batch_loss", broken)
    with pytest.raises(ModelError, match=rf"diverged in step 2 of 3: the loss is {value}.*lower train\.learning_rate"):
        next(steps)
    assert all(torch.equal(kept, before[name]) for name, kept in weights(run).items()), "the step was not made"
    assert not run.backbone.model.training


def test_a_gradient_that_is_not_finite_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(total=3)
    steps = run.steps()
    next(steps)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(ModelError, match=r"in step 2 of 3: the loss is [\d.]+ and the norm of the gradient inf; lower"):
        next(steps)


def test_weights_that_the_last_step_destroys_end_the_training() -> None:
    run = make(total=1)

    def destroy(*_: Any) -> None:
        next(iter(run.parameters.values())).data[0] = float("nan")

    run.optimizer.register_step_post_hook(destroy)
    with pytest.raises(ModelError, match=r"in step 1 of 1: a weight is not finite; lower train\.learning_rate"):
        next(run.steps())


def rates(schedule: str, total: int, warmup: float) -> list[float]:
    """The rate that each step is made with."""
    run = make(total=total, schedule=schedule, warmup=warmup, learning_rate=1.0)
    found: list[float] = []
    run.optimizer.register_step_pre_hook(lambda optimizer, *_: found.append(optimizer.param_groups[0]["lr"]))
    all_steps(run)
    return found


def test_schedule() -> None:
    assert rates("linear", 10, 0.4) == pytest.approx([0.25, 0.5, 0.75, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7])
    assert rates("constant_with_warmup", 4, 0.5) == pytest.approx([0.5, 1, 1, 1])
    assert rates("linear", 4, 0.0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert rates("linear", 3, 1.0) == pytest.approx([1 / 3, 2 / 3, 1])
    cosine = rates("cosine", 5, 0.2)
    assert cosine[0] == 1 and cosine == sorted(cosine, reverse=True) and cosine[-1] > 0


def test_clipping() -> None:
    # AdamW's first step has the size of the rate whatever the gradient, so clipping shows in its first moment.
    free, tight = make(total=1, max_grad_norm=0.0), make(total=1, max_grad_norm=0.01)
    norms = [step.gradient_norm for run in (free, tight) for step in run.steps()]
    assert norms[0] == pytest.approx(norms[1]) and norms[0] > 0.01

    def moment(run: Optimization) -> float:
        return math.sqrt(sum(s["exp_avg"].square().sum().item() for s in run.optimizer.state.values())) / 0.1

    assert moment(free) == pytest.approx(norms[0], rel=1e-4)
    assert moment(tight) == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_spares_vectors() -> None:
    backbone = fresh_backbone("gpt2")
    run = Optimization(backbone, lambda step: [], Config(), Recipe(learning_rate=1e-3, steps=1, weight_decay=0.5))
    decayed, plain = run.optimizer.param_groups
    assert decayed["weight_decay"] == 0.5 and all(p.dim() > 1 for p in decayed["params"])
    assert plain["weight_decay"] == 0.0 and all(p.dim() <= 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(backbone.model.parameters()))


def saved(tmp_path: Path, **settings: Any) -> Path:
    run = make(**settings)
    next(run.steps())
    run.save(tmp_path / "state", {})
    return tmp_path / "state"


def test_saving_replaces_the_folder_and_leaves_nothing_aside(tmp_path: Path) -> None:
    run = make()
    steps = run.steps()
    for count in (1, 2):
        next(steps)
        run.save(tmp_path / "state", {"count": count})
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        assert json.loads((tmp_path / "state" / "state.json").read_text())["count"] == count


@pytest.mark.parametrize("other", [{"total": TOTAL + 1}, {"rank": 4}, {"rank": 1}])
def test_checkpoint_of_another_run_is_refused(tmp_path: Path, other: dict[str, int]) -> None:
    folder = saved(tmp_path, **{"rank": 1} if other.get("rank") == 4 else {})
    run = make(**other)
    before = weights(run)
    with pytest.raises(ModelError, match=r"other settings; start without --resume"):
        run.load(folder)
    assert run.done == 0 and all(torch.equal(value, before[name]) for name, value in weights(run).items())


@pytest.mark.parametrize("damage", ["no state", "no tensors", "torn tensors", "torn state", "empty state", "no folder"])
def test_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    folder = saved(tmp_path)
    state, tensors = folder / "state.json", folder / "state.safetensors"
    if damage == "no state":
        state.unlink()
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "torn tensors":
        tensors.write_bytes(tensors.read_bytes()[:100])
    elif damage == "torn state":
        state.write_text(state.read_text()[:10])
    elif damage == "empty state":
        state.write_text("{}")
    else:
        folder = tmp_path / "none"
    with pytest.raises(ModelError, match="no whole checkpoint") as caught:
        make().load(folder)
    assert str(folder) in str(caught.value)


def test_precision() -> None:
    cpu = torch.device("cpu")
    with autocast(cpu, "bf16"):
        assert torch.is_autocast_enabled("cpu")
    with autocast(cpu, "fp32"):
        assert not torch.is_autocast_enabled("cpu")


def test_mixed_precision_trains() -> None:
    run = make(total=3, precision="bf16")
    assert all(math.isfinite(loss) for loss in all_steps(run))
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights(run).values())


# stopping and choosing


def optimization(steps: int, **recipe: int) -> Optimization:
    """LoRA on a tiny model and one short row, so that a step takes milliseconds."""
    backbone = fresh_backbone("llama")
    torch.manual_seed(0)
    backbone.adapters.attach(LoraConfig(rank=1))
    encoder = Encoder(backbone.prompt)
    texts = ("Ada sat", "Kim ran", "Lea hid")
    rows = [encoder.rows(encoder.tokenize(text), [encoder.query("x", "x", spans=((0, 2),))]) for text in texts]
    values: dict[str, Any] = {"learning_rate": 0.02, "evaluate_every": 1, **recipe}
    config = Config(loss=LANGUAGE, train=TrainConfig(precision="fp32"))
    return Optimization(backbone, lambda step: [collate(rows[step % 3])], config, Recipe(steps=steps, **values))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def scripted(run: Optimization, scores: list[float]) -> tuple[Callable[[], float], list[dict[str, Tensor]]]:
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
    run = optimization(6, patience=patience)
    evaluate, seen = scripted(run, scores)
    trainer = Trainer(run, evaluate, None)
    trainer.train()
    assert (run.done, len(seen)) == (done, len(scores))
    assert same(weights(run), seen[best])
    assert not any(same(seen[best], other) for index, other in enumerate(seen) if index != best)
    assert trainer.best_f1 == scores[best]


@pytest.mark.parametrize("every, total, steps", [(2, 5, [0, 2, 4, 5]), (2, 4, [0, 2, 4]), (0, 20, [*range(0, 21, 2)])])
def test_when_the_dev_set_is_evaluated(every: int, total: int, steps: list[int]) -> None:
    run = optimization(total, evaluate_every=every, patience=50)
    at: list[int] = []
    Trainer(run, lambda: float(at.append(run.done) or run.done), None).train()
    assert at == steps


def test_without_a_dev_set_all_steps_run_and_the_last_weights_stay() -> None:
    run = optimization(4)
    start = weights(run)
    trainer = Trainer(run, None, None)
    trainer.train()
    assert run.done == 4 and trainer.best_f1 is None and trainer.best == {}
    assert not same(weights(run), start)


def test_progress_reports_every_step_and_the_scores() -> None:
    run = optimization(4, evaluate_every=2)
    evaluate, _ = scripted(run, [0.2, 0.6, 0.4])
    reported: list[Progress] = []
    Trainer(run, evaluate, None).train(on_progress=reported.append)
    assert [(p.step.number, p.dev_f1, p.best_f1) for p in reported] == [
        (1, 0.2, 0.2), (2, 0.6, 0.6), (3, 0.6, 0.6), (4, 0.4, 0.6),
    ]  # fmt: skip
    assert all(p.tokens_per_second > 0 and p.step.total == 4 for p in reported)


def test_progress_names_what_is_trained() -> None:
    reported: list[Progress] = []
    Trainer(optimization(2), None, None).train(on_progress=reported.append)
    Trainer(optimization(1), None, None).train(on_progress=reported.append, phase="calibrating, part 1 of 2")
    assert [progress.phase for progress in reported] == ["training", "training", "calibrating, part 1 of 2"]


# resuming


def pseudo_f1(run: Optimization) -> Callable[[], float]:
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
    whole = optimization(12, **settings)
    straight = Trainer(whole, pseudo_f1(whole), None)
    scores: list[float | None] = []
    straight.train(on_progress=lambda progress: scores.append(progress.dev_f1))
    broken = optimization(12, **settings)
    with pytest.raises(KeyboardInterrupt):
        Trainer(broken, pseudo_f1(broken), tmp_path / "state").train(on_progress=stop_at(interrupted))
    again = optimization(12, **settings)
    resumed = Trainer(again, pseudo_f1(again), tmp_path / "state")
    rest: list[float | None] = []
    resumed.train(resume=True, on_progress=lambda progress: rest.append(progress.dev_f1))
    assert rest == scores[interrupted - 1 :], "it goes on from the checkpoint of the step before"
    assert same(weights(again), weights(whole)) and again.done == whole.done == done
    assert (resumed.best_f1, resumed.last_f1) == (straight.best_f1, straight.last_f1)
    assert resumed.without_gain == straight.without_gain
    assert same(resumed.best, straight.best)


def test_resuming_after_an_early_stop_changes_nothing(tmp_path: Path) -> None:
    run = optimization(9, patience=1, checkpoint_every=100)
    evaluate, _ = scripted(run, [0.1, 0.8, 0.3])
    Trainer(run, evaluate, tmp_path / "state").train()
    again = optimization(9, patience=1)
    trainer = Trainer(again, lambda: pytest.fail("it is over: nothing is evaluated"), tmp_path / "state")
    trainer.train(resume=True)
    assert again.done == 2 and trainer.best_f1 == 0.8
    assert same(weights(again), weights(run))


def test_resume_without_a_checkpoint_begins_at_the_beginning(tmp_path: Path) -> None:
    run = optimization(2)
    evaluate, seen = scripted(run, [0.1, 0.2, 0.3])
    Trainer(run, evaluate, tmp_path / "none").train(resume=True)
    assert run.done == 2 and len(seen) == 3


def test_without_resume_a_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    run = optimization(2, checkpoint_every=1)
    Trainer(run, None, tmp_path / "state").train()
    again = optimization(2, checkpoint_every=1)
    numbers: list[int] = []
    Trainer(again, None, tmp_path / "state").train(on_progress=lambda progress: numbers.append(progress.step.number))
    assert numbers == [1, 2]
