"""Bases from disk or a hub: any Hugging Face causal LM, its tokenizer and its prompt, in the weights that are wished.

Safetensors only, no remote code. Knows transformers and where bases lie; knows nothing of LoRA, rows or spans.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.bases import MINI, base_folder, check_mini

PROMPT_FILE = "cllmfs_prompt.json"


def load_backbone(base: str, *, device: str | None = None, weights: str = "auto") -> Backbone:
    """Load ``cllmfs-mini``, a folder or a hub id.

    Weights are read from safetensors alone and no code of the repository is run.

    Args:
        base: what to load.
        device: a torch device; a GPU where there is one, when not given.
        weights: what they are held in, as in :class:`~cllmfs.config.ModelConfig`.

    Raises:
        ModelError: if there is no such base, or it is no causal LM with a fast tokenizer and safetensors weights, or
            four bits are wished and bitsandbytes is missing.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    source = str(base_folder(base) or base)
    if base == MINI:
        check_mini()
    held = _held(weights, place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True)
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, use_safetensors=True, **held)
    except Exception as error:  # damaged files raise bare exceptions from compiled code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{base!r} cannot be loaded as a base: a base is {MINI!r}, a folder or a hub id of a causal LM with "
            f"safetensors weights and a tokenizer.json. {reason}"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{base!r} has no fast tokenizer (tokenizer.json), which character offsets need")
    model = model if weights == "nf4" else model.to(place)  # four-bit weights are where they were made
    backbone = Backbone(base, model.eval(), tokenizer, _template(source))
    if not _is_causal(backbone):
        raise ModelError(
            f"{base!r} is no causal LM: what stands later in a text changes what it computes earlier, as in encoders; "
            "choose a decoder (for BERT, a checkpoint with is_decoder = true)"
        )
    return backbone


def write_base(backbone: Backbone, folder: Path) -> None:
    """Write a model, its trained update included, as a base that :func:`load_backbone` reads.

    Args:
        backbone: what to write.
        folder: an empty folder.

    Raises:
        ModelError: if the update cannot be put into the weights.
    """
    weights = backbone.merged_weights()
    backbone.model.save_pretrained(folder, state_dict=weights)
    # The backbone's own tokenizer cuts at words' edges, which the base does not.
    source = str(base_folder(backbone.name) or backbone.name)
    AutoTokenizer.from_pretrained(source, trust_remote_code=False, use_fast=True).save_pretrained(folder)
    template = json.dumps(backbone.prompt.template.to_dict(), ensure_ascii=False, indent=1)
    (folder / PROMPT_FILE).write_text(template + "\n", encoding="utf-8")


def _held(weights: str, place: torch.device) -> dict[str, Any]:
    """How ``from_pretrained`` is told what the weights are held in."""
    native = torch.bfloat16 if place.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if weights != "nf4":
        return {"dtype": {"auto": native, "fp32": torch.float32, "bf16": torch.bfloat16}[weights]}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError("model.weights = nf4 needs bitsandbytes: pip install 'cllmfs[qlora]', or choose bf16")
    from transformers import BitsAndBytesConfig

    # Normal floats of four bits whose scales are quantised too, as in QLoRA (arXiv 2305.14314).
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=native,
    )
    return {"dtype": native, "quantization_config": four_bits, "device_map": {"": place}}


def _template(source: str) -> PromptTemplate:
    path = Path(source) / PROMPT_FILE
    if not path.is_file():
        return PromptTemplate()
    try:
        return PromptTemplate.from_dict(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: a prompt template must be a JSON object in UTF-8: {error}") from error


def _is_causal(backbone: Backbone) -> bool:
    """Whether two plain rows that differ in their last token alone have the same states before it."""
    ids = torch.tensor([[3, 7, 5, 2], [3, 7, 5, 9]], device=backbone.device) % backbone.vocabulary
    with backbone.at_rest():
        states = backbone.forward(ids, torch.ones_like(ids, dtype=torch.bool), None).last[:, :3].float()
    return bool((states[0] - states[1]).abs().max() <= backbone.tolerance * states.abs().max())
