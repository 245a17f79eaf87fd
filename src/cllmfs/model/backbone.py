"""The base model behind one narrow door: hidden states in, restricted logits out.

Finds out whether a model can run trees, attaches LoRA. Knows transformers and peft; knows nothing of files, prompts'
wording, losses or spans.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import Tensor, nn
from transformers import DynamicCache

from cllmfs.config import LoraConfig
from cllmfs.encoding.prompts import EncodedPrompt, PromptTemplate
from cllmfs.encoding.tokens import with_word_cuts
from cllmfs.errors import ModelError

logger = logging.getLogger(__name__)

_LARGE = 1_000_000_000  # weights from which activations are computed anew on the way back


@dataclass
class Hidden:
    """States of one pass.

    Attributes:
        last: [R, T, d] what the output embedding is applied to.
        layer: [R, T, d] states of the layer asked for, or ``None``.
    """

    last: Tensor
    layer: Tensor | None


class Backbone:
    """A causal LM, its tokenizer and its prompt.

    Attributes:
        name: id or folder, as the user gave it.
        model: the Hugging Face model; LoRA layers, once attached, live inside it.
        tokenizer: cuts at words' edges (:func:`~cllmfs.encoding.tokens.with_word_cuts`).
        prompt: the prompt in the tokenizer's ids.
        peft: the peft wrapper, once :meth:`attach_lora` was called.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any, template: PromptTemplate) -> None:
        self.name = name
        self.model = model
        self.prompt = EncodedPrompt(template, tokenizer)
        self.tokenizer = with_word_cuts(tokenizer)
        self.peft: Any = None
        self._trained_update: dict[str, Tensor] = {}
        self._takes_trees: bool | None = None
        self._recomputes = False
        self._logit_scale: float | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(next(self.model.parameters()).device)

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
        """Longest row; a large number where the architecture sets none."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 1 << 20)

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @property
    def tolerance(self) -> float:
        """How far, as a share of the largest value, two states may differ that are equal but for rounding."""
        return 1e-3 if self.model.dtype == torch.float32 else 5e-2

    def layer_index(self, share: float) -> int:
        """The index into ``hidden_states`` at a share of the depth; 1 is the first layer's output."""
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
        """One pass.

        Args:
            ids: [R, T]; or ``None`` with ``embeds``.
            mask: bool, [R, T, S] who sees whom with S = T + cached columns; or [R, T], real tokens of plain rows.
            positions: [R, T]; ``None`` lets the model count.
            embeds: [R, T, d] instead of ids.
            cache: read and extended, when given.
            layer: index of the hidden states wanted beside the last ones.
            cases: [R, T] letter case, for bases that read it: their token type ids.
        """
        attention = mask if mask.dim() == 2 else self._additive(mask)
        inputs: dict[str, Any] = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
        if cases is not None:
            inputs["token_type_ids"] = cases
        if positions is not None:
            # An answer may outgrow learned positions; its last tokens then share the last one.
            inputs["position_ids"] = positions.clamp(max=self.max_positions - 1)
        with self._captured_projection() as captured:
            output = self.model(
                **inputs,
                attention_mask=attention,
                past_key_values=cache,
                use_cache=cache is not None,
                output_hidden_states=layer is not None,
            )
        return Hidden(captured[0], None if layer is None else output.hidden_states[layer])

    def project(self, hidden: Tensor, candidates: Tensor) -> Tensor:
        """Logits of a few tokens each, without the rest of the vocabulary.

        Args:
            hidden: [R, Q, d] states from :attr:`Hidden.last`.
            candidates: [R, C] token ids.

        Returns:
            [R, Q, C] logits in fp32.
        """
        head = self.model.get_output_embeddings()
        logits = torch.einsum("rqd,rcd->rqc", hidden, head.weight[candidates].to(hidden.dtype)).float()
        if getattr(head, "bias", None) is not None:
            logits = logits + head.bias[candidates].float()[:, None, :]
        if (scale := self.logit_scale()) != 1.0:
            logits = logits * scale
        if cap := self._logit_cap:
            logits = torch.tanh(logits / cap) * cap
        return logits

    @property
    def _logit_cap(self) -> float | None:
        return getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)

    def logit_scale(self) -> float:
        """What the model multiplies its logits by, before any cap; 1 for most.

        Measured, once: Cohere, Granite and others each have their own name for it, and some divide.
        """
        if self._logit_scale is None:
            self._logit_scale = _measure_logit_scale(self, self._logit_cap)
        return self._logit_scale

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """No dropout, no mixed precision, no graph: a probe must see the model itself, whoever asks."""
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
        """Whether a tree gives the same states as its branches run apart; found out by trying, once."""
        if self._takes_trees is None:
            with self.at_rest():
                self._takes_trees = _probe_trees(self)
            if not self._takes_trees:
                logger.warning(
                    "%s cannot share a sentence between types (no 4-D attention masks or position ids); "
                    "each type is run as a row of its own, which is slower",
                    self.name,
                )
        return self._takes_trees

    def attach_lora(self, config: LoraConfig) -> None:
        """Freeze the base and add LoRA layers; a second call is an error of ours."""
        if self.peft is not None:
            raise RuntimeError("LoRA is attached already")
        self.peft = get_peft_model(
            self.model,
            PeftLoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=self.lora_targets(config.targets),
                use_rslora=config.rslora,
                use_dora=config.dora,
            ),
        )
        self.peft.active_peft_config.base_model_name_or_path = self.name  # not where it lies on this machine

    def checkpoint_activations(self, wish: str) -> None:
        """Keep fewer activations in training and compute the others anew on the way back (arXiv 1604.06174).

        Args:
            wish: ``on``, ``off``, or ``auto``: for models of over a billion weights that can.

        Raises:
            ModelError: if it is wished for and the model cannot.
        """
        if wish == "off" or (wish == "auto" and self.model.num_parameters() < _LARGE):
            if self._recomputes:
                self.model.gradient_checkpointing_disable()
                self._recomputes = False
            return
        try:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            self._recomputes = True
        except ValueError as error:
            if wish == "on":
                raise ModelError(
                    f"{self.name} cannot compute activations anew; set train.activation_checkpointing=auto"
                ) from error

    def detach_lora(self) -> None:
        """Take the LoRA layers off again; the base is as it was before :meth:`attach_lora`."""
        self.peft.unload()
        self.peft, self._trained_update = None, {}

    def merge_lora(self) -> None:
        """Add the update into the weights for reading, where they are fp32; training and scaling end with it.

        Reading costs as much as the base alone then. Rounded weights (bf16, 4-bit) would lose small updates.
        """
        if all(parameter.dtype == torch.float32 for parameter in self.model.parameters()):
            self.peft.merge_adapter()

    def merged_weights(self) -> dict[str, Tensor]:
        """The weights under the names they had before LoRA, its update in them; they share memory with the model.

        Raises:
            ModelError: if the update is not in the weights (:meth:`merge_lora`).
        """
        if self.peft is not None and not any(getattr(module, "merged", False) for module in self.model.modules()):
            raise ModelError("only weights in fp32 can hold a small update: load the model with model.weights=fp32")
        weights = self.model.state_dict()
        return {name.replace(".base_layer.", "."): weights[name] for name in weights if ".lora_" not in name}

    def scale_lora(self, share: float) -> None:
        """Keep a share of the update as it was at the first call: interpolation between base (0) and trained (1)."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if ".lora_B." in name:
                    parameter.copy_(self._trained_update.setdefault(name, parameter.detach().clone()) * share)

    def lora_targets(self, names: str = "auto") -> list[str]:
        """Names of the modules that LoRA adapts; ``auto``: every linear layer inside the decoder's blocks.

        Raises:
            ModelError: if a name matches no linear layer.
        """
        found: dict[str, str] = {}
        for path, module in self.model.named_modules():
            inside_block = any(part.isdigit() for part in path.split("."))
            if inside_block and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"):
                found[path] = path.rsplit(".", 1)[-1]
        if names == "auto":
            if not found:
                raise ModelError(f"{self.name}: no linear layers in decoder blocks, so LoRA has nothing to adapt")
            return sorted(found)
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        known = sorted(set(found.values()))
        missing = [name for name in wanted if name not in known]
        if missing or not wanted:
            wrong = f"{missing[0]!r} is no linear layer of {self.name}" if missing else "no layer is named"
            raise ModelError(f"lora.targets: {wrong}; there are {', '.join(known)}")
        return sorted(path for path, name in found.items() if name in wanted)

    def _additive(self, mask: Tensor) -> Tensor:
        """[R, T, S] bool to the [R, 1, T, S] additive mask that attention implementations take."""
        dtype = self.model.dtype
        if torch.is_autocast_enabled(mask.device.type):
            dtype = torch.get_autocast_dtype(mask.device.type)
        zero = torch.zeros((), dtype=dtype, device=mask.device)
        return torch.where(mask, zero, torch.finfo(dtype).min)[:, None]

    @contextlib.contextmanager
    def _captured_projection(self) -> Iterator[list[Tensor]]:
        """Catch what enters the output embedding, and let it project nothing: logits are [R, 0, vocabulary]."""
        captured: list[Tensor] = []

        def catch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            captured.append(inputs[0])
            return (inputs[0][..., :0, :], *inputs[1:])

        handle = self.model.get_output_embeddings().register_forward_pre_hook(catch)
        try:
            yield captured
        finally:
            handle.remove()


def _measure_logit_scale(backbone: Backbone, cap: float | None) -> float:
    """Least squares of the model's logits on what its output embedding gives, over a few arbitrary tokens."""
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: tuple[Tensor, ...], logits: Tensor) -> None:
        caught.append(logits)

    ids = torch.tensor([[3, 7, 5, 2]], device=backbone.device) % backbone.vocabulary
    handle = backbone.model.get_output_embeddings().register_forward_hook(catch)
    try:
        with backbone.at_rest():
            full = backbone.model(input_ids=ids, use_cache=False).logits.double()
    finally:
        handle.remove()
    raw = caught[0].double()
    if cap:  # undone where the hyperbolic tangent is not yet flat
        inside = full.abs() < 0.8 * cap
        raw, full = raw[inside], torch.atanh(full[inside] / cap) * cap
    scale = float((raw * full).sum() / raw.square().sum())
    return 1.0 if not abs(scale - 1.0) > 0.01 else scale  # rounding is no scale


def _probe_trees(backbone: Backbone) -> bool:
    """Compare a tree of two branches with the same rows run apart, on a few arbitrary tokens."""
    from cllmfs.encoding.batches import PREFIX, tree_mask

    config = backbone.model.config.get_text_config()
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        return False
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < backbone.max_positions:
        return False
    # The first branch is long, so that a model that counts columns itself is far off in the second.
    shared, long, short = 5, 24, 3
    total = shared + long + short
    ids = [(7 * column + 3) % min(backbone.vocabulary, 101) for column in range(total)]
    marks = [PREFIX] * shared + [0] * long + [1] * short
    places = [*range(shared + long), *range(shared, shared + short)]

    def as_row(values: list[int]) -> Tensor:
        return torch.tensor([values], device=backbone.device)

    try:
        tree = backbone.forward(as_row(ids), tree_mask(as_row(marks), False), as_row(places)).last[0].float()
        for columns in ([*range(shared + long)], [*range(shared), *range(shared + long, total)]):
            row = as_row([ids[column] for column in columns])
            plain = backbone.forward(row, torch.ones_like(row, dtype=torch.bool), None).last[0].float()
            scale = plain.abs().max().clamp(min=1e-6)
            if not bool(((tree[columns] - plain).abs().max() / scale) < backbone.tolerance):
                return False
    except (TypeError, ValueError, RuntimeError, NotImplementedError, IndexError, AttributeError):
        return False
    return True
