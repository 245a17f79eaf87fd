"""LoRA on a base: attaching an adapter, scaling it, merging it into the weights, and detaching it again.

An :class:`Adapter` is a value: peft's configuration and the trained weights. An :class:`AdapterSlot` is the place on a
base where one adapter at a time is active, so that several recognizers can share one base. This file knows peft; it
knows nothing of what the adapter is trained for.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cllmfs.config import LoraConfig
from cllmfs.errors import ModelError
from cllmfs.model.folder import ADAPTER, check_adapter_file
from cllmfs.model.inspection import ADAPTER_CONFIG as CONFIG_FILE
from cllmfs.model.inspection import check_config, check_file, read_object

# What may differ from peft's defaults without changing what the adapter computes, besides what is read.
_WITHOUT_EFFECT = {
    "base_model_name_or_path", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_dropout", "peft_version",
    "revision", "task_type",
}  # fmt: skip
_READ = ("target_modules", "r", "lora_alpha", "use_rslora", "use_dora")


@dataclass(frozen=True, eq=False)
class Adapter:
    """A trained adapter, independent of any base: peft's configuration, and the weights under peft's names."""

    config: PeftLoraConfig
    weights: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write the two files of peft's own format.

        Raises:
            ModelError: if a weight is not finite.
        """
        check_finite(self.weights, "the adapter was not saved")
        config = copy.copy(self.config)
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)  # peft keeps a set, whose order differs between processes
        config.save_pretrained(str(folder))
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.weights.items()}
        save_file(weights, folder / ADAPTER, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any] | None = None) -> Adapter:
        """Read what :meth:`save` wrote; only the fields that LoRA needs are taken from peft's configuration.

        Args:
            folder: the model folder.
            record: its manifest, to which rank, alpha and weights must belong.

        Raises:
            ModelError: if a file is missing, damaged or that of another model, or a weight is not finite.
        """
        try:
            for name in (CONFIG_FILE, ADAPTER):
                check_file(folder / name)
            settings = _lora_settings(read_object(folder / CONFIG_FILE), folder)
            weights = load_file(folder / ADAPTER)
            _check_shapes(settings, weights)
            config = PeftLoraConfig(**settings)
        except (OSError, ValueError, TypeError, RecursionError, SafetensorError, ModelError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ModelError(f"{folder} holds no whole adapter: {reason}; save the model again") from error
        if record is not None:
            check_adapter_file(folder, record)
            lora = record.get("config", {}).get("lora", {})
            for name, found in (("rank", config.r), ("alpha", config.lora_alpha)):
                if lora.get(name, found) != found:
                    problem = f"the adapter has lora.{name} = {found}, but the manifest {lora[name]!r:.60}"
                    raise ModelError(f"{folder}: {problem}; copy the whole folder again")
        check_finite(weights, f"{folder} is damaged; copy it again, or train the model again")
        return cls(config, weights)


def check_finite(weights: Mapping[str, Tensor], advice: str) -> None:
    """Refuse weights that are not numbers, or infinite: every answer would be worthless.

    Raises:
        ModelError: with the name of the tensor, and ``advice``.
    """
    for name, tensor in weights.items():
        if not (tensor.is_floating_point() and tensor.numel() and tensor.element_size() > 1):
            continue
        if not all(torch.isfinite(value) for value in torch.aminmax(tensor.detach())):
            problem = "holds numbers that are not finite (NaN or infinite)"
            raise ModelError(f"the weight {name!r:.200} {problem}; {advice}")


class AdapterSlot:
    """The place on a base where one adapter at a time is active.

    Attributes:
        model: the Hugging Face model; attaching an adapter puts LoRA layers into it, and detaching takes them out.
        name: the base's name in messages.
        peft: peft's wrapper of the model while an adapter is attached, otherwise ``None``.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model, self.name = model, name
        self.peft: Any = None
        self._active: Adapter | None = None
        self._originals: dict[str, Tensor] = {}  # copies of the base's weights while an update is merged

    def attach(self, lora: LoraConfig) -> None:
        """Freeze the base and attach a new trainable adapter in place of any other."""
        self.detach()
        targets = lora_targets(self.model, self.name, lora.targets)
        self._attach(PeftLoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets))

    def _attach(self, config: PeftLoraConfig) -> None:
        config.base_model_name_or_path = None  # peft warns if this differs from the path of the files
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft comments on what it chooses or corrects by itself
            self.peft = get_peft_model(self.model, config)
        self.peft.active_peft_config.base_model_name_or_path = self.name  # saved instead of the path on this machine

    def detach(self) -> None:
        """Detach the adapter; the base is then exactly as it was before."""
        self._active = None  # first: if this is interrupted, no adapter may count as whole
        self._unmerge()
        if self.peft is not None:
            self.peft.unload()
        for name, layer in list(self._layers()):  # left where peft refused an adapter halfway
            parent, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(parent), last, layer.get_base_layer())
        self.peft = None

    def capture(self) -> Adapter:
        """Copy the attached adapter; the copy then counts as the active adapter.

        Raises:
            ModelError: if a weight is not finite.
        """
        weights = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        copied = {name: tensor.detach().clone() for name, tensor in weights.items()}
        check_finite(copied, "training has failed: lower train.learning_rate")
        self._active = Adapter(copy.copy(self.peft.active_peft_config), copied)
        return self._active

    def activate(self, adapter: Adapter | None) -> None:
        """Make an adapter the active one and prepare it for prediction; ``None`` detaches any adapter.

        Raises:
            ModelError: if the adapter does not fit the base.
        """
        if adapter is None:
            self.detach()
        elif adapter is not self._active:
            self.detach()
            try:
                self._attach(copy.copy(adapter.config))
                outcome = set_peft_model_state_dict(self.peft, dict(adapter.weights))
                lost = [*outcome.unexpected_keys, *(key for key in outcome.missing_keys if "lora_" in key)]
                if lost:
                    raise ValueError(f"the weight {lost[0]!r} is unknown or missing")
            except (RuntimeError, TypeError, ValueError) as error:
                self.detach()
                raise ModelError(f"the adapter does not fit {self.name!r}: {str(error).splitlines()[0]}") from error
            self._active = adapter
        self.model.eval()
        self.merge()

    def merge(self) -> None:
        """Add the update to the base's weights, so that prediction costs no more than with the base alone.

        Only weights in fp32 are merged: less precise ones (bf16, four bits) would lose small updates.
        """
        if self.peft is None or self._originals or any(p.dtype != torch.float32 for p in self.model.parameters()):
            return
        for name, layer in self._layers():
            self._originals[name] = _compact(layer.get_base_layer().weight.detach())
        try:
            self.peft.merge_adapter()
        except BaseException:
            self._unmerge()  # an update that is merged in part must not count as merged
            raise

    def _unmerge(self) -> None:
        """Restore the base's weights; subtracting the update instead would leave rounding errors in them."""
        with torch.no_grad():
            for name, layer in self._layers():
                if name in self._originals:
                    layer.get_base_layer().weight.copy_(self._originals[name])
                    layer.merged_adapters.clear()
        self._originals = {}

    def _layers(self) -> Iterator[tuple[str, Any]]:
        return ((name, part) for name, part in self.model.named_modules() if isinstance(part, BaseTunerLayer))

    def merged_weights(self) -> dict[str, Tensor]:
        """The weights with the update, under the names that they have without LoRA; they share the model's memory.

        Raises:
            ModelError: if the update is not merged (:meth:`merge`).
        """
        if self.peft is not None and not self._originals:
            raise ModelError("only weights in fp32 can hold a small update: load the model with runtime.weights=fp32")
        weights = self.model.state_dict()
        return {name.replace(".base_layer.", "."): weights[name] for name in weights if ".lora_" not in name}

    def update(self) -> dict[str, Tensor]:
        """A copy of the matrices B of the attached adapter: the update is their product with the matrices A."""
        return {name: part.detach().clone() for name, part in self.model.named_parameters() if ".lora_B." in name}

    def keep(self, update: Mapping[str, Tensor], share: float) -> None:
        """Apply a share of an :meth:`update`: 0 gives the weights of the base, 1 those that were trained."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name in update:
                    parameter.copy_(update[name] * share)


def _check_shapes(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Compare rank and modules with the weights before peft makes matrices of that size.

    Raises:
        ValueError: if they do not belong together.
    """
    inner = [tensor.shape[0] for name, tensor in weights.items() if ".lora_A." in name and tensor.dim() > 0]
    foreign = next((name for name in weights if ".lora_" not in name), "")
    if foreign or not inner:  # others would replace weights of the base
        raise ValueError(f"{ADAPTER} must hold weights of LoRA, and only those, got {foreign!r:.200}")
    if set(inner) != {settings["r"]}:
        raise ValueError(f"r = {settings['r']} does not fit the weights, whose rank is {inner[0]}")
    if len(settings["target_modules"]) > 4 * len(inner):  # single weights that are missing are named when attached
        raise ValueError(f"{len(settings['target_modules'])} target_modules do not fit {len(inner)} weights")


def _lora_settings(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What is read of ``adapter_config.json``; everything else in it must have no effect.

    Raises:
        ModelError: if it names code.
        ValueError: if a value is missing, of another type, or would change what the adapter computes.
    """
    mapping = record.get("auto_mapping")
    library = str(mapping.get("parent_library", "")) if isinstance(mapping, dict) else ""
    if library.startswith("transformers."):  # peft notes the class of the base if it was not told the task
        record = {**record, "auto_mapping": None}
    check_config(record, folder / CONFIG_FILE)
    defaults = {**PeftLoraConfig().to_dict(), "peft_type": "LORA"}
    for name, value in record.items():
        known = name in _READ or name in _WITHOUT_EFFECT or not value
        if not known and name in defaults and value != defaults[name]:
            raise ValueError(f"{CONFIG_FILE}: {name} = {value!r:.60} is not supported, only plain LoRA is")
    start = record.get("init_lora_weights", True)
    if isinstance(start, str) and start not in ("gaussian", "eva", "orthogonal"):  # others change the base's weights
        raise ValueError(f"{CONFIG_FILE}: init_lora_weights = {start!r:.60} is not supported")
    targets = record.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(path, str) for path in targets):
        raise ValueError(f"{CONFIG_FILE}: target_modules must be a list of names, got {targets!r:.60}")
    settings: dict[str, Any] = {"target_modules": targets}
    for name in ("r", "lora_alpha"):
        value = settings[name] = record.get(name)
        if type(value) is not int or not 0 < value < 1 << 20:
            raise ValueError(f"{CONFIG_FILE}: {name} must be a whole number above 0, got {value!r:.60}")
    for name in ("use_rslora", "use_dora"):
        value = settings[name] = record.get(name, False)
        if type(value) is not bool:
            raise ValueError(f"{CONFIG_FILE}: {name} must be true or false, got {value!r:.60}")
    return settings


def _compact(weight: Tensor) -> Tensor:
    """A copy of the weight, in bf16 if that loses nothing: most bases are published in bf16, at half the size."""
    half = weight.to(torch.bfloat16)
    return half if torch.equal(half.to(weight.dtype), weight) else weight.clone()


def lora_targets(model: Any, name: str, targets: str = "auto") -> list[str]:
    """Paths of the modules that LoRA adapts; ``auto`` adapts every linear layer inside the decoder's blocks.

    Args:
        model: the Hugging Face model, without LoRA.
        name: its name in messages.
        targets: names of modules, separated by commas, or ``auto``.

    Raises:
        ModelError: if a name belongs to no linear layer.
    """
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        inside_block = any(part.isdigit() for part in path.split("."))
        if inside_block and (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"):
            found[path] = path.rsplit(".", 1)[-1]
    if targets == "auto":
        if not found:
            raise ModelError(f"{name}: no linear layers in decoder blocks, so LoRA has nothing to adapt")
        return sorted(found)
    wanted = [part.strip() for part in targets.split(",") if part.strip()]
    known = sorted(set(found.values()))
    missing = [part for part in wanted if part not in known]
    if missing or not wanted:
        wrong = f"{missing[0]!r} is no linear layer of {name}" if missing else "no layer is named"
        raise ModelError(f"lora.targets: {wrong}; there are {', '.join(known)}")
    return sorted(path for path, last in found.items() if last in wanted)
