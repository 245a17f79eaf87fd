"""Bases from disk or a hub: any Hugging Face causal LM, with its tokenizer and its prompt.

Weights come from safetensors only, and no code of a repository is run. This file knows transformers and where bases are
kept; it knows nothing of LoRA, rows or spans.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.bases import MINI, Fingerprint, base_folder, check_mini
from cllmfs.model.probes import is_causal

PROMPT_FILE = "cllmfs_prompt.json"
FIGURES_FILE = "cllmfs_calibration.json"


def load_backbone(base: str, *, device: str | None = None, weights: str = "auto") -> Backbone:
    """Load a base: ``cllmfs-mini``, or a folder or hub id of a causal LM.

    Args:
        device: a torch device; by default a GPU where there is one.
        weights: number format of the weights, as in :class:`~cllmfs.config.RuntimeConfig`.

    Raises:
        ModelError: if there is no such base, or it is no causal LM with a fast tokenizer and safetensors weights, or
            ``weights`` is ``nf4`` and bitsandbytes is missing, or there is no such device.
    """
    place = _usable_device(device)
    source = str(base_folder(base) or base)
    if base == MINI:
        check_mini()
    options = {"trust_remote_code": False, "use_safetensors": True} | _number_format(weights, place)
    try:
        with _without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True)
            model = AutoModelForCausalLM.from_pretrained(source, **options)
    except Exception as error:  # damaged files raise bare exceptions from compiled code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{base!r} cannot be loaded as a base: a base is {MINI!r}, a folder or a hub id of a causal LM with "
            f"safetensors weights and a tokenizer.json. {reason}"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{base!r} has no fast tokenizer (tokenizer.json), which character offsets need")
    model = model if weights == "nf4" else model.to(place)  # four-bit weights are on the device already
    template, figures = (_json_beside(source, name) for name in (PROMPT_FILE, FIGURES_FILE))
    prompt = PromptTemplate.from_dict(template, str(Path(source) / PROMPT_FILE))
    fingerprint = Fingerprint(base, getattr(model.config, "_commit_hash", None))
    backbone = Backbone(base, model.eval(), tokenizer, prompt, figures, fingerprint)
    if not is_causal(backbone):
        raise ModelError(
            f"{base!r} is no causal LM: later words of a text change what it computes for earlier ones, as in an "
            "encoder; choose a decoder (for BERT, a checkpoint with is_decoder = true)"
        )
    return backbone


def _usable_device(name: str | None) -> torch.device:
    """The device of a name, on which a tensor can be made; by default a GPU where there is one."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the device {name!r} cannot be used; name another one, such as cpu. {reason[:200]}"
        ) from error
    return device


def write_base(backbone: Backbone, folder: Path) -> None:
    """Write a model with its trained update merged in, as a base that :func:`load_backbone` reads, to an empty folder.

    Raises:
        ModelError: if the update is not merged into the weights.
    """
    with _without_progress_bars():
        backbone.model.save_pretrained(folder, state_dict=backbone.adapters.merged_weights())
    backbone.tokenizer.save_pretrained(folder)
    beside = {PROMPT_FILE: backbone.prompt.template.to_dict(), FIGURES_FILE: dict(backbone.figures)}
    for name, record in beside.items():
        if record:
            (folder / name).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A region without progress bars: reading weights takes seconds, and bars only clutter notebooks and logs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _number_format(weights: str, place: torch.device) -> dict[str, Any]:
    """The options of ``from_pretrained`` for the number format of the weights."""
    native = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if weights != "nf4":
        return {"dtype": {"auto": native, "fp32": torch.float32, "bf16": torch.bfloat16}[weights]}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("runtime.weights=nf4 needs bitsandbytes: pip install 'cllmfs[qlora]', or choose bf16")
    from transformers import BitsAndBytesConfig

    # Four-bit normal floats whose scales are quantized too, as in QLoRA (arXiv 2305.14314).
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=native
    )
    return {"dtype": native, "quantization_config": four_bits, "device_map": {"": place}}


def _json_beside(source: str, name: str) -> dict[str, Any]:
    """The JSON object of a file in the base's folder; empty if there is no such file."""
    path = Path(source) / name
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the file must be a JSON object in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path}: the file must be a JSON object, got {record!r:.60}")
    return record
