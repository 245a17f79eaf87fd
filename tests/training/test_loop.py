"""The loop: resuming is not noticed, broken batches do not break weights, checkpoints are whole and of the same run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cllmfs.training.loop
from cllmfs.config import LoraConfig, LossConfig, TrainConfig
from cllmfs.encoding.batches import Batch, RowBuilder, collate
from cllmfs.errors import ModelError
from cllmfs.model.forward import autocast
from cllmfs.training.loop import Optimisation
from cllmfs.training.objective import LossParts, batch_loss
from tests.conftest import EXAMPLES, fresh_backbone, rows_of

TOTAL = 6
LANGUAGE = LossConfig(contrastive="none")


def make(
    total: int = TOTAL, rank: int = 2, loss: LossConfig | None = None, batches: int = 1, **train: Any
) -> Optimisation:
    """A run over LoRA layers with dropout; each step has sentences of its own."""
    backbone = fresh_backbone("llama")
    torch.manual_seed(0)
    backbone.attach_lora(LoraConfig(rank=rank, dropout=0.2))
    rows = rows_of(backbone, RowBuilder(backbone.prompt, "sentence-first", tree=True), EXAMPLES[:2])

    def batches_of(step: int) -> list[Batch]:
        return [collate([rows[(step + shift) % 2]]) for shift in range(batches)]

    settings = {"learning_rate": 0.01, "precision": "fp32", **train}
    return Optimisation(backbone, batches_of, total, loss or LossConfig(), TrainConfig(**settings), False)


def weights(run: Optimisation) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in run.parameters.items()}


def all_steps(run: Optimisation) -> list[float]:
    return [step.loss for step in run.steps()]


@pytest.mark.parametrize("adversarial", ["none", "neftune"])
def test_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, adversarial: str) -> None:
    loss = LossConfig(adversarial=adversarial)
    whole = make(loss=loss)
    start = weights(whole)
    losses = all_steps(whole)
    broken = make(loss=loss)
    steps = broken.steps()
    first = [next(steps).loss for _ in range(3)]
    best = {"best": torch.arange(3.0)}
    broken.save(tmp_path / "state", {"note": "half"}, best)
    torch.manual_seed(99)  # the random state at the time of resuming is of no matter
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
    # With dropout off, two batches of a step are one batch of all their rows.
    apart, together = make(total=1, loss=LANGUAGE, batches=2), make(total=1, loss=LANGUAGE)
    rows = [row for batch in apart.batches_of(0) for row in batch.rows]
    together.batches_of = lambda step: [collate(rows)]
    for run in (apart, together):
        for module in run.backbone.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    (one,), (two,) = list(apart.steps()), list(together.steps())
    assert one.loss == pytest.approx(two.loss, rel=1e-5)
    assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-4)


def test_a_broken_batch_leaves_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(total=3)
    steps = run.steps()
    next(steps)
    before = weights(run)

    def broken(*arguments: Any) -> LossParts:
        parts = batch_loss(*arguments)
        return LossParts(parts.total * float("nan"), parts.language, parts.contrastive)

    with monkeypatch.context() as patch:
        patch.setattr(cllmfs.training.loop, "batch_loss", broken)
        step = next(steps)
    assert math.isnan(step.loss) and not math.isfinite(step.gradient_norm)
    assert all(torch.equal(value, before[name]) for name, value in weights(run).items())
    assert math.isfinite(next(steps).loss)
    after = weights(run)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value, before[name]) for name, value in after.items())


def rates(schedule: str, total: int, warmup: float) -> list[float]:
    run = make(total=total, schedule=schedule, warmup=warmup, learning_rate=1.0)
    found = []
    for _ in range(total):
        found.append(run.optimizer.param_groups[0]["lr"])
        run._scheduler_step()
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

    def moment(run: Optimisation) -> float:
        return math.sqrt(sum(s["exp_avg"].square().sum().item() for s in run.optimizer.state.values())) / 0.1

    assert moment(free) == pytest.approx(norms[0], rel=1e-4)
    assert moment(tight) == pytest.approx(0.01, rel=1e-3)


def test_weight_decay_spares_vectors() -> None:
    backbone = fresh_backbone("gpt2")
    run = Optimisation(backbone, lambda step: [], 1, LANGUAGE, TrainConfig(weight_decay=0.5), False)
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
