"""The base model behind one interface: token ids in, hidden states out, and logits of only the tokens needed.

This file knows transformers; it knows nothing of files, losses or spans.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from cllmfs.config import Config
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import EncodedPrompt, PromptTemplate
from cllmfs.errors import ModelError
from cllmfs.model.adapter import Adapter, AdapterSlot
from cllmfs.model.bases import Fingerprint
from cllmfs.model.probes import measure_logit_scale, runs_trees

logger = logging.getLogger(__name__)

LARGE = 1_000_000_000  # parameters above which a base counts as large


@dataclass
class Hidden:
    """The hidden states [R, T, d] of one forward pass."""

    last: Tensor  # those that the output embedding is applied to
    layer: Tensor | None  # those of the layer that was asked for, if one was


class Backbone:
    """A causal LM, its tokenizer and its prompt.

    Attributes:
        name: id or folder, as the user gave it.
        model: the Hugging Face model.
        tokenizer: as the base ships it.
        prompt: the prompt in the tokenizer's ids.
        figures: the content of ``cllmfs_calibration.json`` in the base's folder; empty if there is no such file.
        fingerprint: distinguishes versions of the base.
        adapters: where an adapter is attached to the model.
        lock: held during training and prediction, since only one adapter at a time is attached to the model.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        template: PromptTemplate,
        figures: Mapping[str, Any] | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.prompt = EncodedPrompt(template, tokenizer)
        self.figures = figures or {}
        self.fingerprint = fingerprint or Fingerprint(name)
        self.adapters = AdapterSlot(model, name)
        self.lock = threading.RLock()
        self._in_training = False
        self._takes_trees: bool | None = None

    @property
    def device(self) -> torch.device:
        """The device that the model is on."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def weights(self) -> str:
        """The number format of the weights, by its name in :class:`~cllmfs.config.RuntimeConfig`."""
        if getattr(self.model, "is_quantized", False):
            return "nf4"
        return "fp32" if self.model.dtype == torch.float32 else "bf16"

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def width(self) -> int:
        """Size d of its hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def max_positions(self) -> int:
        """The longest row; a large number where the architecture sets no limit."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def tolerance(self) -> float:
        """The largest difference, as a share of the largest value, between states that differ only by rounding."""
        return 1e-3 if self.model.dtype == torch.float32 else 5e-2

    def layer_index(self, share: float) -> int:
        """The index into ``hidden_states`` at a share of the depth; 1 is the output of the first layer."""
        return max(1, min(self.layers, round(share * self.layers)))

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings, [R, T] to [R, T, d]."""
        return self.model.get_input_embeddings()(ids)  # type: ignore[no-any-return]

    def forward(
        self,
        ids: Tensor | None,
        mask: Tensor,
        positions: Tensor | None,
        *,
        embeds: Tensor | None = None,
        cache: DynamicCache | None = None,
        layer: int | None = None,
        cases: Tensor | None = None,
    ) -> Hidden:
        """Run one forward pass.

        Args:
            ids: [R, T]; or ``None`` with ``embeds``.
            mask: bool, [R, T, S], true where a column attends to another, and S is T plus the cached columns; or
                [R, T], true at the real tokens of plain rows.
            positions: [R, T]; with ``None`` the model numbers the columns itself.
            embeds: [R, T, d], in place of ids.
            cache: read and extended, if given.
            layer: index of the hidden states that are returned in addition to the last ones.
            cases: [R, T] letter case, for bases that read it as token type ids.
        """
        inputs: dict[str, Any] = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
        inputs["attention_mask"] = mask if mask.dim() == 2 else self._additive(mask)
        if cases is not None:
            inputs["token_type_ids"] = cases
        if positions is not None:
            # A long answer may exceed the model's positions: its last tokens then share the last one.
            inputs["position_ids"] = positions.clamp(max=self.max_positions - 1)
        with self._captured_projection() as captured:
            output = self.model(
                **inputs, past_key_values=cache, use_cache=cache is not None, output_hidden_states=layer is not None
            )
        return Hidden(captured[0], None if layer is None else output.hidden_states[layer])

    def project(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """Logits of a few candidate tokens, without the rest of the vocabulary, in fp32.

        States [R, Q, d] from :attr:`Hidden.last` and candidate ids [R, C] give logits [R, Q, C].
        """
        head = self.model.get_output_embeddings()
        logits = torch.einsum("rqd,rcd->rqc", hidden, head.weight[candidates].to(hidden.dtype)).float()
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[candidates].float()[:, None, :]
        if self.logit_scale != 1.0:
            logits = logits * self.logit_scale
        if cap := self._logit_cap:
            logits = torch.tanh(logits / cap) * cap
        return logits

    @property
    def _logit_cap(self) -> float | None:
        return getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    @functools.cached_property
    def logit_scale(self) -> float:
        """The factor that the model applies to its logits before any cap; 1 for most models.

        It is measured, because Cohere, Granite and others each have their own name for it, and some divide by it.
        """
        return measure_logit_scale(self, self._logit_cap)

    @contextlib.contextmanager
    def reading(self, adapter: Adapter | None) -> Iterator[None]:
        """Give the caller the model with an adapter, or without any, until the end of the block; other threads wait.

        Raises:
            ModelError: if the adapter does not fit, or the block would run in the middle of a training of this base,
                such as in a callback of it, where activating another adapter would destroy the one in training.
        """
        with self.lock:
            if self._in_training:
                raise ModelError(f"{self.name} is being trained; predict when the training is over")
            self.adapters.activate(adapter)
            yield

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Give the caller the untouched base to train an adapter on; if the block raises, no adapter is left on it.

        Raises:
            ModelError: as :meth:`reading`.
        """
        with self.reading(None):
            self._in_training = True
            try:
                yield
            except BaseException:
                self.adapters.detach()
                raise
            finally:
                self._in_training = False

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """A region without dropout, mixed precision and autograd, whatever the caller has turned on."""
        training = self.model.training
        if training:
            self.model.eval()
        try:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                yield
        finally:
            if training:
                self.model.train()

    def takes_trees(self) -> bool:
        """Whether a tree gives the same states as its branches in rows of their own; this is tried once."""
        if self._takes_trees is None:
            with self.at_rest():
                self._takes_trees = runs_trees(self)
            if not self._takes_trees:
                logger.warning(
                    "%s cannot share a sentence between types (it takes no 4-D attention masks or position ids); "
                    "each type becomes a row of its own, which is slower",
                    self.name,
                )
        return self._takes_trees

    def encoder(self, config: Config, *, tree: bool = True) -> Encoder:
        """The encoder of texts and types for this base.

        Args:
            config: order, attention, edges, nesting and windows. Where shots would decide (``auto``), spans begin and
                end at the edges of words and do not nest.
            tree: share a sentence between its types where the model can; ``False`` makes a row for each type.

        Raises:
            ModelError: if the settings ask for bidirectional attention and the model cannot provide it.
        """
        wanted, trees = config.prompt.prefix_attention, self.takes_trees()
        attention = self.prompt.template.prefix_attention if wanted == "auto" else wanted
        bidirectional = attention == "bidirectional" and config.prompt.order == "sentence-first"
        if bidirectional and not trees:
            raise ModelError(
                f"{self.name} takes no 4-D attention mask, so its attention must be causal: set "
                "prompt.prefix_attention=causal"
            )
        return Encoder(
            self.prompt,
            order=config.prompt.order,
            tree=tree and trees,
            bidirectional=bidirectional,
            edges="token" if config.spans.edges == "token" else "word",
            nested=config.spans.nested is True,
            max_positions=self.max_positions,
            window_tokens=config.runtime.window_tokens,
            overlap_tokens=config.runtime.overlap_tokens,
        )

    def checkpoint_activations(self, mode: str, large: int = LARGE) -> None:
        """Recompute activations in the backward pass instead of keeping them (arXiv 1604.06174), or stop doing so.

        Args:
            mode: ``on``, ``off``, or ``auto``, which does so for large models that support it.
            large: number of parameters from which a model counts as large.

        Raises:
            ModelError: if the mode is ``on`` and the model does not support it.
        """
        keep_all = mode == "off" or (mode == "auto" and self.model.num_parameters() < large)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer versions of transformers use other names
            if keep_all and self.model.is_gradient_checkpointing:
                self.model.gradient_checkpointing_disable()
            if keep_all:
                return
            try:
                self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            except ValueError as error:
                if mode == "on":
                    advice = "set train.activation_checkpointing=auto"
                    raise ModelError(f"{self.name} cannot recompute activations; {advice}") from error

    def _additive(self, mask: Tensor) -> Tensor:
        """Turn a bool mask [R, T, S] into the additive mask [R, 1, T, S] that attention implementations take."""
        kind = mask.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.model.dtype
        zero = torch.zeros((), dtype=dtype, device=mask.device)
        return torch.where(mask, zero, torch.finfo(dtype).min)[:, None]

    @contextlib.contextmanager
    def _captured_projection(self) -> Iterator[list[Tensor]]:
        """Catch the states [R, T, d] that enter the output embedding, and let it project none of them.

        The product with the whole vocabulary costs more than all layers of a small model, and only the logits of a
        few candidates are ever needed (:meth:`project`). A hook works for every architecture, even if there are layers
        between the last hidden states and the output embedding. The model's own logits become [R, 0, vocabulary].
        """
        captured: list[Tensor] = []

        def catch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            captured.append(inputs[0])
            return (inputs[0][..., :0, :], *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(catch)
        try:
            yield captured
        finally:
            handle.remove()
