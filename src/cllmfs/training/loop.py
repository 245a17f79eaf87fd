"""The training loop: steps of the optimizer, checkpoints that can be resumed, and early stopping.

A step is a function of its number alone: ``batches_of(step)`` must give the same batches for the same number, and
random draws in a step are seeded with that number. A resumed run therefore ends with the same weights as one that was
never interrupted. This file knows the objective and AdamW; it knows nothing of shots, decoding or progress bars.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import get_scheduler

from cllmfs.config import Config
from cllmfs.encoding.batches import Batch
from cllmfs.errors import ModelError
from cllmfs.files import CHECKPOINT_STATE, whole_folder
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import autocast
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe

_TENSOR_FILE = "state.safetensors"


@dataclass(frozen=True)
class Step:
    """The figures of one optimizer step."""

    number: int  # steps done, this one included
    total: int  # steps planned
    loss: float  # what was minimized
    language: float  # the loss of the answers
    contrastive: float  # the contrastive loss, before weighting
    gradient_norm: float  # L2 norm before clipping
    tokens: int  # real tokens in the step's batches


@dataclass(eq=False)
class Optimization:
    """AdamW over the trainable parameters of a backbone: those with ``requires_grad``.

    ``batches_of`` gives the batches of a step, counted from 0; their gradients are averaged, weighted by answer tokens.
    """

    backbone: Backbone
    batches_of: Callable[[int], Sequence[Batch]]
    config: Config
    recipe: Recipe
    done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        recipe, self.total = self.recipe, self.recipe.steps
        self.backbone.checkpoint_activations(self.config.train.activation_checkpointing)
        self.parameters = {name: p for name, p in self.backbone.model.named_parameters() if p.requires_grad}
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        plain = [p for p in self.parameters.values() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
        warmup = max(1, round(recipe.warmup * self.total))
        self.scheduler = get_scheduler(recipe.schedule, self.optimizer, warmup, self.total + 1)
        self._scheduler_step()  # the schedule begins with rate 0, which would waste a step: it runs one ahead

    def steps(self) -> Iterator[Step]:
        """Run the remaining steps; the caller saves, evaluates and stops.

        The model stays in training mode until the iterator ends or is closed. Whoever evaluates between two steps must
        put it at rest (:meth:`~cllmfs.model.backbone.Backbone.at_rest`), as decoding does.

        Raises:
            ModelError: if the loss, the gradient or the weights are no longer finite.
        """
        try:
            while self.done < self.total:
                yield self._step()
        finally:
            self.backbone.model.eval()

    def _step(self) -> Step:
        torch.manual_seed((self.config.train.seed * 1_000_003 + self.done) % (1 << 63))
        if not self.backbone.model.training:  # train() visits all modules, which takes 5 % of a step of a small base
            self.backbone.model.train()
        batches = self.batches_of(self.done)
        weights = [float((batch.target >= 0).sum()) for batch in batches]
        loss = language = contrastive = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            batch = batch.to(self.backbone.device)
            with autocast(self.backbone.device, self.config.train.precision):
                parts = batch_loss(self.backbone, batch, self.config.loss, self.recipe)
            share = weight / sum(weights)
            (parts.total * share).backward()  # type: ignore[no-untyped-call]
            loss += share * parts.total.item()
            language += share * parts.language.item()
            contrastive += share * parts.contrastive.item()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.recipe.max_grad_norm or float("inf"))
        if not (math.isfinite(loss) and math.isfinite(norm.item())):
            raise ModelError(self._diverged(f"the loss is {loss:.4g} and the norm of the gradient {norm.item():.4g}"))
        self.optimizer.step()
        if self.done + 1 == self.total and not all(bool(torch.isfinite(p).all()) for p in self.parameters.values()):
            raise ModelError(self._diverged("a weight is not finite"))  # no loss of a later step would show it
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.done += 1
        tokens = sum(batch.tokens for batch in batches)
        return Step(self.done, self.total, loss, language, contrastive, norm.item(), tokens)

    def _diverged(self, what: str) -> str:
        rate = self.recipe.learning_rate
        return (
            f"training diverged in step {self.done + 1} of {self.total}: {what}; lower train.learning_rate (it is "
            f"{rate:g}), or set train.precision=fp32"
        )

    def _scheduler_step(self) -> None:
        with warnings.catch_warnings():  # it warns unless the optimizer steps between any two of its own steps
            warnings.simplefilter("ignore", UserWarning)
            self.scheduler.step()

    def save(self, folder: Path, extra: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> None:
        """Write parameters and the optimizer's state into ``folder``, which appears whole and is replaced if it exists.

        ``extra`` are JSON-ready facts, and ``weights`` other tensors, such as the best so far, that are saved with it.
        """
        tensors = {f"parameter/{name}": p.detach().contiguous() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value).contiguous()
        tensors.update({f"extra/{name}": value.detach().contiguous() for name, value in (weights or {}).items()})
        record = {"done": self.done, "total": self.total, **extra}
        with whole_folder(folder) as aside:
            save_file(tensors, aside / _TENSOR_FILE)
            (aside / CHECKPOINT_STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    def load(self, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Restore what :meth:`save` wrote; returns the extra facts and the extra tensors.

        Raises:
            ModelError: if the state is missing, damaged, or that of another run.
        """
        try:
            record = json.loads((folder / CHECKPOINT_STATE).read_text(encoding="utf-8"))
            done, total = int(record["done"]), int(record["total"])
            tensors = load_file(folder / _TENSOR_FILE, device=str(self.backbone.device))
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise ModelError(f"{folder} is no whole checkpoint ({error!s:.200}); start without --resume") from error
        shapes = {key.removeprefix("parameter/"): t.shape for key, t in tensors.items() if key.startswith("parameter/")}
        if shapes != {name: p.shape for name, p in self.parameters.items()} or total != self.total:
            raise ModelError(f"{folder}: the checkpoint belongs to a run with other settings; start without --resume")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                kinds = [key for key in tensors if key.startswith("optimizer/") and key.split("/", 2)[2] == name]
                if kinds:
                    state = {key.split("/", 2)[1]: tensors[key] for key in kinds}
                    # AdamW counts its steps on the CPU, whatever the device of the parameters.
                    self.optimizer.state[parameter] = {**state, "step": state["step"].cpu()}
        self.done = done
        for _ in range(self.done):
            self._scheduler_step()
        return record, {k.removeprefix("extra/"): v for k, v in tensors.items() if k.startswith("extra/")}


@dataclass(frozen=True)
class Progress:
    """The state of training after a step."""

    step: Step
    tokens_per_second: float  # since training began or was resumed
    dev_f1: float | None = None  # strict micro-F1 of the last evaluation on the dev set, if there is one
    best_f1: float | None = None  # the best so far
    phase: str = "training"  # or which part of the shots is held out for calibration


@dataclass(eq=False)
class Trainer:
    """Runs an optimization with early stopping and checkpoints."""

    optimization: Optimization  # not yet begun
    evaluate: Callable[[], float] | None  # the strict F1 on the dev set with the current weights, if there is one
    checkpoint: Path | None  # folder for checkpoints; ``None`` saves none
    run: str = ""  # identifies the settings and data of the training; a checkpoint of another run is not resumed
    best: dict[str, Tensor] = field(default_factory=dict, init=False)
    best_f1: float | None = field(default=None, init=False)
    last_f1: float | None = field(default=None, init=False)
    without_gain: int = field(default=0, init=False)  # evaluations since the best

    def train(
        self, resume: bool = False, on_progress: Callable[[Progress], None] | None = None, phase: str = "training"
    ) -> None:
        """Train to the end or to the early stop; with a dev set, the weights with the best F1 on it are restored.

        Raises:
            ModelError: if ``resume`` finds a damaged checkpoint, or the checkpoint of another run.
        """
        if resume and self.checkpoint is not None and self.checkpoint.is_dir():
            self._load(self.checkpoint)
        else:
            self._evaluate()  # the base itself is the first candidate
        began, tokens = time.monotonic(), 0
        if not self._stopped():
            for step in self.optimization.steps():
                tokens += step.tokens
                self._after(step)
                if on_progress is not None:
                    speed = tokens / max(time.monotonic() - began, 1e-9)
                    on_progress(Progress(step, speed, self.last_f1, self.best_f1, phase))
                if self._stopped():
                    break
        if self.best:
            with torch.no_grad():
                for name, parameter in self.optimization.parameters.items():
                    parameter.copy_(self.best[name])

    def _stopped(self) -> bool:
        return self.without_gain >= self.optimization.recipe.patience

    def _after(self, step: Step) -> None:
        recipe, last = self.optimization.recipe, step.number == step.total
        if last or step.number % (recipe.evaluate_every or max(1, recipe.steps // 10)) == 0:
            self._evaluate()
        due = step.number % recipe.checkpoint_every == 0 or last or self._stopped()
        if self.checkpoint is not None and due:
            scores = {"best_f1": self.best_f1, "last_f1": self.last_f1, "without_gain": self.without_gain}
            self.optimization.save(self.checkpoint, {"run": self.run, **scores}, self.best)

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self.last_f1 = self.evaluate()
        if self.best_f1 is None or self.last_f1 > self.best_f1:
            self.best_f1, self.without_gain = self.last_f1, 0
            self.best = {name: p.detach().clone() for name, p in self.optimization.parameters.items()}
        else:
            self.without_gain += 1

    def _load(self, checkpoint: Path) -> None:
        facts, self.best = self.optimization.load(checkpoint)
        if facts.get("run", self.run) != self.run:
            problem = "the checkpoint belongs to a run with other settings, labels or sentences"
            raise ModelError(f"{checkpoint}: {problem}; start without --resume")
        self.best_f1, self.last_f1 = facts["best_f1"], facts["last_f1"]
        self.without_gain = int(facts["without_gain"])
