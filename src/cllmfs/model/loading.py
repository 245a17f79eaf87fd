"""Bases from disk or a hub: any Hugging Face causal LM, with its tokenizer and its prompt.

Weights come from safetensors only, and no code of a repository is run: the files of a base are looked at before a
library reads them, and those of a hub id are first downloaded. This file knows transformers and where bases are kept;
it knows nothing of LoRA, rows or spans.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from cllmfs.encoding.prompts import PROMPT_FILE, PromptTemplate
from cllmfs.errors import CllmfsError, ModelError
from cllmfs.model.adapter import check_finite
from cllmfs.model.backbone import Backbone
from cllmfs.model.bases import MINI, Fingerprint, base_folder, check_findable, check_mini, not_cached
from cllmfs.model.inspection import (
    ADAPTER_CONFIG,
    CONFIG,
    CONFIGS,
    INDEX,
    TOKENIZERS,
    TRAINED,
    WEIGHTS,
    Shapes,
    cannot_be_a_base,
    check_base,
    check_sizes,
    check_tokenizer,
    product,
    read_object,
    read_shapes,
    weight_files,
)
from cllmfs.model.probes import is_causal
from cllmfs.network import hub_reachable

FIGURES_FILE = "cllmfs_calibration.json"

_LARGEST_BUFFERS = 1 << 30  # elements; some architectures keep a mask of positions times positions in each layer
# Weights of the decoder's numbered blocks, in contrast to those of an encoder of images, or of another output.
_BLOCK = re.compile(r"(model\.|transformer\.|gpt_neox\.|model\.decoder\.)?(layers|h|blocks)\.\d+\.")
_FLOATS = ("F64", "F32", "F16", "BF16")
_loading = threading.Lock()  # transformers changes settings of the whole process while it builds a model


def load_backbone(base: str, *, device: str | None = None, weights: str = "auto") -> Backbone:
    """Load a base: ``cllmfs-mini``, or a folder or hub id of a causal LM.

    Args:
        device: a torch device; by default a GPU where there is one.
        weights: number format of the weights, as in :class:`~cllmfs.config.RuntimeConfig`.

    Raises:
        ModelError: if there is no such base, or it is a trained model, or no causal LM with a fast tokenizer and
            safetensors weights, or it names code or sizes that do not fit its weights, or a weight is not finite, or
            ``weights`` is ``nf4`` and bitsandbytes is missing, or there is no such device.
    """
    place = _usable_device(device)
    folder, commit = _files_of(base)
    with _loading, _without_progress_bars(), _own_errors(base):
        tokenizer, model = _read(folder, base, place, weights)
    template, figures = (_json_beside(folder, name) for name in (PROMPT_FILE, FIGURES_FILE))
    prompt = PromptTemplate.from_dict(template, str(folder / PROMPT_FILE))
    with _own_errors(base):
        backbone = Backbone(base, model.eval(), tokenizer, prompt, figures, Fingerprint(base, commit))
        if base != MINI:
            _check_rows(backbone)
            check_states(backbone)
        causal = is_causal(backbone)
    if not causal:
        raise ModelError(
            f"{base!r} is no causal LM: later words of a text change what it computes for earlier ones, as in an "
            "encoder; choose a decoder (for BERT, a checkpoint with is_decoder = true)"
        )
    return backbone


def _files_of(base: str) -> tuple[Path, str | None]:
    """The folder of a base, whose configuration is checked, and its commit if it comes from the hub."""
    check_findable(base)
    folder = base_folder(base)
    if folder is None:
        downloaded = _downloaded(base)
        return downloaded, downloaded.name
    if base == MINI:
        check_mini()  # its files are then those of this version, and need no other check
    return folder, None


def _read(folder: Path, base: str, place: torch.device, weights: str) -> tuple[Any, Any]:
    """The tokenizer and the model in a folder, on the device."""
    options = {"trust_remote_code": False, "use_safetensors": True} | _number_format(weights, place)
    if base != MINI:
        _check_weights(folder, base)
        check_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, use_fast=True)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(f"{base!r} has no fast tokenizer (tokenizer.json), which character offsets need")
    model, report = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True, **options)
    if base != MINI:
        _check_report(report, base)
        check_finite(model.state_dict(), f"the base {base!r:.200} is damaged: get it again")
        ids = 1 + max(tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
        rows = int(model.get_input_embeddings().weight.shape[0])
        if ids > rows:
            problem = f"the tokenizer has {ids:,} numbers of tokens, but the weights only {rows:,}"
            raise ModelError(f"{base!r:.200}: {problem}; they are not of one model: get the folder again")
    return tokenizer, model if weights == "nf4" else model.to(place)  # four-bit weights are on the device already


def check_states(backbone: Backbone) -> None:
    """Refuse a model, with the adapter that is active on it, whose hidden states are not finite.

    Weights that are finite, but far too large, give such states; scores would then be worthless.

    Raises:
        ModelError: if they are not finite.
    """
    ids = torch.arange(8, device=backbone.device)[None] % backbone.vocabulary
    with backbone.at_rest():
        states = backbone.forward(ids, torch.ones_like(ids, dtype=torch.bool), None).last
    if not bool(torch.isfinite(states).all()):
        raise ModelError(
            f"{backbone.name!r:.200} computes numbers that are not finite (NaN or infinite): its weights, or those of "
            "its adapter, are damaged; get them again, or train the model again"
        )


@contextlib.contextmanager
def _own_errors(base: str) -> Iterator[None]:
    """A region in which whatever a library raises about a base becomes a short ModelError."""
    try:
        yield
    except CllmfsError:
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            f"the device has too little memory for {base!r}; choose runtime.weights=bf16 or nf4, or another device"
        ) from error
    except BaseException as error:  # damaged files raise bare exceptions, and compiled code such as are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(cannot_be_a_base(base, lines[0][:300])) from error


def _downloaded(base: str) -> Path:
    """The folder in the hub's cache with the files of a base; what its configuration names is checked before weights.

    Raises:
        ModelError: if the hub does not have it, or cannot be reached and the cache has no whole copy.
    """
    from huggingface_hub import snapshot_download

    cached = not hub_reachable()

    def fetch(*files: str, revision: str | None = None) -> Path:
        found = snapshot_download(base, revision=revision, allow_patterns=list(files), local_files_only=cached)
        return Path(found)

    try:
        with _without_progress_bars():
            folder = fetch(*CONFIGS, *TOKENIZERS, INDEX, ADAPTER_CONFIG, TRAINED, PROMPT_FILE, FIGURES_FILE)
            if cached and not (folder / CONFIG).is_file():
                raise FileNotFoundError(CONFIG)
            check_base(folder, base)
            files = [file.name for file in weight_files(folder, base)] if (folder / INDEX).exists() else [WEIGHTS]
            fetch(*files, revision=folder.name)
            if cached and not all((folder / file).is_file() for file in files):
                raise FileNotFoundError(WEIGHTS)
    except CllmfsError:
        raise
    except Exception as error:  # whatever the network and the hub may raise
        if cached:
            raise ModelError(not_cached(base)) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            cannot_be_a_base(base, f"There is no such folder, and the hub says: {reason[:300]}")
        ) from error
    return folder


def _check_weights(folder: Path, base: str) -> None:
    """Compare the configuration with the headers of the weights, before memory is reserved for either."""
    shapes = read_shapes(weight_files(folder, base))
    record = read_object(folder / CONFIG)
    check_sizes(record, shapes, folder / CONFIG)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    with torch.device("meta"):  # tensors without memory
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _compare(expected, shapes, base)
    planned, given = sum(p.numel() for p in model.parameters()), sum(product(shape) for _, shape in shapes.values())
    if planned > 16 * given or sum(buffer.numel() for buffer in model.buffers()) > _LARGEST_BUFFERS:
        raise ModelError(
            f"{base!r:.200}: its config.json describes a model of {planned:,} weights, but its files hold {given:,}; "
            "get the folder again"
        )


def _compare(expected: dict[str, tuple[int, ...]], shapes: Shapes, base: str) -> None:
    for name, (kind, shape) in shapes.items():
        if kind in _FLOATS and expected.get(name, shape) != shape:
            raise ModelError(
                f"{base!r:.200}: the weight {name!r:.200} has the shape {list(shape)}, but config.json asks for "
                f"{list(expected[name])}; the files are not those of one model: get the folder again"
            )


def _check_report(report: dict[str, Any], base: str) -> None:
    """Refuse a base of which weights are missing, which would be random numbers, or blocks are left over."""
    problems = report.get("error_msgs") or [*map(str, report.get("mismatched_keys") or ())]
    missing = sorted(report.get("missing_keys") or ())
    left = sorted(name for name in report.get("unexpected_keys") or () if _BLOCK.match(name))
    if missing:
        problems = [f"the weight {missing[0]!r:.200} and {len(missing) - 1} others are missing"]
    elif left and not problems:
        problems = [f"the weight {left[0]!r:.200} belongs to no part that config.json describes"]
    if problems:
        raise ModelError(cannot_be_a_base(base, f"{str(problems[0]).splitlines()[0][:300]}; get the folder again"))


def _check_rows(backbone: Backbone) -> None:
    """Refuse a base whose prompts or texts would hold tokens that have no row in the embedding.

    Special tokens may lack one, such as a padding token that was added later, as long as no prompt holds them.
    """
    prompt, rows = backbone.prompt, backbone.vocabulary
    fixed = {*prompt.bos, *prompt.before, *prompt.after, *prompt.open, prompt.next_id, prompt.end_id}
    added = backbone.tokenizer.added_tokens_decoder
    used = sorted(fixed | {number for number, token in added.items() if not token.special})
    if used and used[-1] >= rows:
        raise ModelError(
            f"{backbone.name!r:.200}: the token {str(backbone.tokenizer.convert_ids_to_tokens(used[-1]))[:60]!r} has "
            f"the number {used[-1]:,}, but the embedding only {rows:,} rows: the tokenizer is not that of these "
            "weights, or tokens were added without resizing the embedding; get the folder again"
        )


def _usable_device(name: str | None) -> torch.device:
    """The device of a name, on which a tensor can be made; by default a GPU where there is one."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "meta":
            raise RuntimeError("meta holds no numbers")
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the device {name!r:.60} cannot be used; name another one, such as cpu. {reason[:200]}"
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


def _json_beside(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object of a file in the base's folder; empty if there is no such file."""
    return read_object(folder / name) if (folder / name).is_file() else {}
