"""The optimisation loop: batches of a step in, one record a step out, and a state that can be saved and resumed.

A step is a function of its number alone: the caller's ``batches_of(step)`` must give the same batches for the same
number, and random draws inside a step are seeded with it. A resumed run therefore ends where an uninterrupted one does.
Knows the objective and AdamW; knows nothing of decoding, files or progress bars.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import get_scheduler

from cllmfs.config import LossConfig, TrainConfig
from cllmfs.encoding.batches import Batch
from cllmfs.errors import ModelError
from cllmfs.files import CHECKPOINT_STATE, whole_folder
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import autocast
from cllmfs.training.objective import batch_loss

_TENSOR_FILE = "state.safetensors"


@dataclass(frozen=True)
class Step:
    """One optimiser step, for whoever watches.

    Attributes:
        number: steps done, this one included.
        total: steps planned.
        loss: what was minimised.
        language: its language-model part.
        contrastive: its contrastive part, before weighting.
        gradient_norm: L2 norm before clipping.
        tokens: real tokens in the step's batches.
    """

    number: int
    total: int
    loss: float
    language: float
    contrastive: float
    gradient_norm: float
    tokens: int


class Optimisation:
    """AdamW over the trainable parameters of a backbone.

    Args:
        backbone: its parameters with ``requires_grad`` are trained.
        batches_of: the batches of step n, n from 0; their gradients are averaged, weighted by their answer tokens.
        total: steps planned; the schedule ends there.
        loss: what is minimised.
        train: rates, clipping, precision, seed.
        bidirectional: attention inside the sentence block.
    """

    def __init__(
        self,
        backbone: Backbone,
        batches_of: Callable[[int], Sequence[Batch]],
        total: int,
        loss: LossConfig,
        train: TrainConfig,
        bidirectional: bool,
    ) -> None:
        self.backbone = backbone
        self.batches_of = batches_of
        self.total = total
        self.loss = loss
        self.train = train
        self.bidirectional = bidirectional
        self.done = 0
        backbone.checkpoint_activations(train.activation_checkpointing)
        self.parameters = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad}
        decayed = [p for p in self.parameters.values() if p.dim() > 1]
        plain = [p for p in self.parameters.values() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": train.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=train.learning_rate,
        )
        warmup = max(1, round(train.warmup * total))
        self.scheduler = get_scheduler(
            train.schedule, self.optimizer, num_warmup_steps=warmup, num_training_steps=total + 1
        )
        self._scheduler_step()  # the first step would have rate 0: the schedule is read one step ahead

    def steps(self) -> Iterator[Step]:
        """Run the remaining steps; the caller saves, evaluates and stops.

        The model stays in training mode until the iterator ends or is closed: what evaluates between two steps puts it
        at rest (:meth:`~cllmfs.model.backbone.Backbone.at_rest`), as decoding does.
        """
        try:
            while self.done < self.total:
                yield self._step()
        finally:
            self.backbone.model.eval()

    def _step(self) -> Step:
        torch.manual_seed((self.train.seed * 1_000_003 + self.done) % (1 << 63))
        if not self.backbone.model.training:  # the walk over all modules costs a small base 5 % of a step
            self.backbone.model.train()
        batches = self.batches_of(self.done)
        weights = [float((batch.target >= 0).sum()) for batch in batches]
        loss = language = contrastive = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            batch = batch.to(self.backbone.device)
            with autocast(self.backbone.device, self.train.precision):
                parts = batch_loss(self.backbone, batch, self.loss, self.bidirectional)
            share = weight / sum(weights)
            (parts.total * share).backward()  # type: ignore[no-untyped-call]
            loss += share * parts.total.item()
            language += share * parts.language.item()
            contrastive += share * parts.contrastive.item()
        limit = self.train.max_grad_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        if torch.isfinite(norm):  # one broken batch must not break the weights
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.done += 1
        tokens = sum(batch.tokens for batch in batches)
        return Step(self.done, self.total, loss, language, contrastive, norm.item(), tokens)

    def _scheduler_step(self) -> None:
        with warnings.catch_warnings():  # it expects an optimiser step between any two of its own
            warnings.simplefilter("ignore", UserWarning)
            self.scheduler.step()

    def save(self, folder: Path, extra: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None) -> None:
        """Write parameters and optimiser state into ``folder``, moved into place whole.

        Args:
            folder: replaced if it exists.
            extra: JSON-ready facts to keep beside the state.
            weights: other tensors to keep, such as the best parameters so far, under names of the caller's.
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
        """Restore what :meth:`save` wrote.

        Returns:
            The extra facts, and the extra tensors.

        Raises:
            ModelError: if the state is missing, damaged, or of another run.
        """
        try:
            record = json.loads((folder / CHECKPOINT_STATE).read_text(encoding="utf-8"))
            done, total = int(record["done"]), int(record["total"])
            tensors = load_file(folder / _TENSOR_FILE, device=str(self.backbone.device))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelError(f"{folder}: this is no whole checkpoint ({error}); start without --resume") from error
        shapes = {key.removeprefix("parameter/"): t.shape for key, t in tensors.items() if key.startswith("parameter/")}
        if shapes != {name: p.shape for name, p in self.parameters.items()} or total != self.total:
            raise ModelError(f"{folder}: the checkpoint is of a run with other settings; start without --resume")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"parameter/{name}"])
                kinds = [key for key in tensors if key.startswith("optimizer/") and key.split("/", 2)[2] == name]
                if kinds:
                    state = {key.split("/", 2)[1]: tensors[key] for key in kinds}
                    # AdamW counts its steps on the CPU, whatever device the parameters are on.
                    self.optimizer.state[parameter] = {**state, "step": state["step"].cpu()}
        self.done = done
        for _ in range(self.done):
            self._scheduler_step()
        return record, {k.removeprefix("extra/"): v for k, v in tensors.items() if k.startswith("extra/")}
