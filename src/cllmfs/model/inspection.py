"""Looks at the files of a base before any library loads them: what cannot be read, names code, or has absurd sizes.

The libraries that load a base believe its configuration: it may name code, files outside the folder, or sizes that
fill the memory. This file reads JSON and the headers of weights; it loads no weights and knows no architecture.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cllmfs.errors import ModelError

CONFIG, TOKENIZER, TOKENIZER_CONFIG = "config.json", "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, TRAINED = "adapter_config.json", "cllmfs.json"
# Files that transformers may read beside the weights; whatever else a folder holds is ignored.
CONFIGS = (CONFIG, TOKENIZER_CONFIG, "generation_config.json")
TOKENIZERS = (
    TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip

_PLAIN_VOCABULARIES = ("vocab.json", "added_tokens.json")  # objects of tokens and their numbers

_LARGEST = 64 << 20  # bytes of a configuration
_LARGEST_TOKENIZER = 512 << 20  # bytes
_MOST_TOKENS = 1 << 24  # fifty times the largest vocabulary in use; the library reserves memory up to the last number
_CODE = ("auto_map", "auto_mapping", "code_revision", "runtime_config", "trust_remote_code")
_KERNELS = ("hub_kernels", "kernel_config", "kernels", "use_hub_kernels", "use_kernel", "use_kernels")
_OTHER_FILES = ("backbone", "configuration_files", "fast_tokenizer_files", "transformers_weights")
_BUILT_IN = {"", "eager", "sdpa", "flex_attention", "batched_mm", "grouped_mm"}  # parts of transformers and torch
_QUANTIZATIONS = ("awq", "bitsandbytes", "compressed-tensors", "gptq")  # other methods fetch kernels, or name classes

_LAYERS = re.compile(r".*layers|n_layer")
_WIDTHS = re.compile(r".*_(size|dim|heads|experts)|n_(embd|head|inner)|d_(model|ff|inner|kv)|num_heads")
_POSITIONS = re.compile(r"max_position_embeddings|n_positions|n_ctx|max_seq(uence)?_len(gth)?")
_MOST_POSITIONS = 1 << 31

Shapes = dict[str, tuple[str, tuple[int, ...]]]  # the number format and the shape of each tensor


def check_file(path: Path) -> None:
    """Refuse what is no regular file, or cannot be read; a device or a pipe would be read forever.

    Raises:
        ModelError: with the reason; "permission denied" is told from "no such file".
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelError(f"{path} cannot be read: it is no regular file")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise ModelError(unreadable(path, error)) from error


def is_kind(path: str | Path, kind: int) -> bool:
    """Whether there is a file or folder of a kind, such as ``stat.S_IFDIR``; any text may be asked for.

    Raises:
        ModelError: if looking there is not permitted, since "no" could be wrong.
    """
    try:
        return stat.S_IFMT(os.stat(path).st_mode) == kind
    except PermissionError as error:
        raise ModelError(unreadable(path, error)) from error
    except (OSError, ValueError):  # also for a name that is too long, or holds the character 0
        return False


def unreadable(path: str | Path, error: Exception) -> str:
    """A message that says why a file or a folder cannot be read."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        advice = "ask its owner for the right to read it (chmod a+r; a+rx for its folders)"
        return f"{path} cannot be read: permission denied; {advice}"
    return f"{path} cannot be read: {(isinstance(error, OSError) and error.strerror) or error}"


def read_object(path: Path, *, largest: int = _LARGEST) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: if it cannot be read, is no JSON object, or holds numbers that JSON does not know, such as NaN.
    """
    check_file(path)
    try:
        if path.stat().st_size > largest:
            raise ModelError(f"{path}: the file must have at most {largest >> 20} MB")
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ModelError(unreadable(path, error)) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the file must be a JSON object in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path}: the file must be a JSON object, got {record!r:.60}")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _members(record: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of every member of an object, at any depth."""
    left = [(place, record)]
    while left:
        place, value = left.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                yield f"{place}{name}", name, inner
                left.append((f"{place}{name}.", inner))
        elif isinstance(value, list):
            left += [(place, inner) for inner in value]


def _strings(value: Any) -> list[str]:
    """All texts in a value, at any depth."""
    inner = [value, *(member for _, _, member in _members(value))]
    flat = [one for member in inner for one in (member if isinstance(member, list) else [member])]
    return [one for one in flat if isinstance(one, str)]


def check_config(record: Mapping[str, Any], path: Path) -> None:
    """Refuse a configuration that names code, implementations to fetch, or other files in place of the usual ones.

    Raises:
        ModelError: with the member and the file.
    """
    for place, name, value in _members(dict(record)):
        if not value or (isinstance(value, int | float) and value is not True):
            continue  # a number names nothing: it may be the number of a label that has such a name
        problem = ""
        if name in _CODE or (name.startswith("custom_") and value is not True):
            problem = "names code, which is never run"
        elif "implementation" in name and name != "cache_implementation":
            problem = "" if set(_strings(value)) <= _BUILT_IN else "names an implementation that would be fetched"
        elif name in _KERNELS:
            problem = "asks for kernels that would be fetched"
        elif name in _OTHER_FILES:
            problem = "names other files, which would be read in place of those that were checked"
        elif name == "quantization_config":
            problem = _quantization_problem(value)
        if problem:
            raise ModelError(
                f"{path}: {place[:80]!r} = {str(value)[:80]!r} {problem}; if transformers knows this model without it, "
                "remove it from a copy of the folder, otherwise choose another base"
            )


def _quantization_problem(value: Any) -> str:
    if not isinstance(value, dict):
        return "must be an object"
    bits = value.get("load_in_4bit") is True or value.get("load_in_8bit") is True
    method = value.get("quant_method", "bitsandbytes" if bits else None)
    if method not in _QUANTIZATIONS:
        return f"must name one of the methods {', '.join(_QUANTIZATIONS)}, since others fetch code"
    for name, inner in value.items():
        # GPTQ notes in "meta" which program made the weights; nothing is read from there.
        if name != "meta" and any(re.search(r"[/\\]|::|\.py\b", text) for text in _strings(inner)):
            return f"names something to fetch, in {name!r}"
    return ""


def check_base(folder: Path, name: str) -> None:
    """Refuse a folder that is no base, or a base whose configuration must not be followed.

    Args:
        folder: where its files are.
        name: the base's name in messages.

    Raises:
        ModelError: if it is a trained model or an adapter, lacks a file, has one that cannot be read, or names code.
    """
    if _present(folder / TRAINED):
        raise ModelError(
            f"{name!r} is a trained model, not a base: merge it into a base, `cllmfs merge {name} --output "
            f"{name.rstrip('/')}-base`, and go on with `cllmfs train … --base {name.rstrip('/')}-base`; or train "
            "again, on all sentences, with the base that it was trained on"
        )
    if _present(folder / ADAPTER_CONFIG):
        raise ModelError(
            f"{name!r} is the adapter of a base ({ADAPTER_CONFIG}), not a base: merge it first, `cllmfs merge MODEL "
            "--output FOLDER` for a model of cllmfs, or merge_and_unload() of peft, and pass that folder as --base"
        )
    if not _present(folder / CONFIG):
        raise ModelError(cannot_be_a_base(name, f"{CONFIG} is missing"))
    for file in filter(lambda file: _present(folder / file), (*CONFIGS, *TOKENIZERS)):
        check_file(folder / file)
        if file in CONFIGS:
            check_config(read_object(folder / file), folder / file)


def _present(path: Path) -> bool:
    """Whether there is such a file or link; not being allowed to look is an error, not a no."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise ModelError(unreadable(path, error)) from error
    return True


def cannot_be_a_base(name: str, reason: str) -> str:
    """The message for a base that cannot be loaded."""
    return (
        f"{name!r:.200} cannot be loaded as a base: a base is 'cllmfs-mini', a folder or a hub id of a causal LM with "
        f"safetensors weights and a tokenizer.json. {reason}"
    )


def weight_files(folder: Path, name: str) -> list[Path]:
    """The files of a base's weights, which lie in its folder itself.

    Raises:
        ModelError: if there are none, or the index names a file elsewhere.
    """
    if _present(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if not _present(folder / INDEX):
        raise ModelError(cannot_be_a_base(name, f"{WEIGHTS} is missing; weights in other formats are not read"))
    listed = read_object(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ModelError(f"{folder / INDEX}: weight_map must name the file of each tensor, got {listed!r:.60}")
    for file in listed.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise ModelError(f"{folder / INDEX}: weights must be .safetensors files beside it, got {file!r:.80}")
    return [folder / file for file in sorted(set(listed.values()))]


def read_shapes(files: Iterable[Path]) -> Shapes:
    """Number formats and shapes of the tensors in files of weights, from their headers alone.

    Raises:
        ModelError: if a file cannot be read, is cut off, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open  # the command line needs this file where it needs no library

    found: Shapes = {}
    for path in files:
        check_file(path)
        try:
            with safe_open(path, framework="np") as handle:
                for name in handle.keys():  # noqa: SIM118 (it is no mapping)
                    part = handle.get_slice(name)
                    found[name] = (part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError, ValueError) as error:
            raise ModelError(f"{path}: the weights are damaged: {error}; get the file again") from error
    return found


def check_tokenizer(folder: Path) -> None:
    """Refuse numbers of tokens for which the tokenizers library would reserve all memory, which ends the process.

    Raises:
        ModelError: with the token, its number and the file.
    """
    for file in (TOKENIZER, *_PLAIN_VOCABULARIES, TOKENIZER_CONFIG):
        if not _present(path := folder / file):
            continue
        record = read_object(path, largest=_LARGEST_TOKENIZER)
        for token, number in record.items() if file in _PLAIN_VOCABULARIES else _token_numbers(record):
            if isinstance(number, int) and not -_MOST_TOKENS < number < _MOST_TOKENS:
                raise ModelError(
                    f"{path}: the number of the token {str(token)[:60]!r} must be below {_MOST_TOKENS:,}, got "
                    f"{str(number)[:30]}; get the file again"
                )


def _token_numbers(record: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Tokens and their numbers; whatever has another form than usual is left to the library to refuse."""
    model, added, decoder = (record.get(name) for name in ("model", "added_tokens", "added_tokens_decoder"))
    if isinstance(model, dict) and isinstance(model.get("vocab"), dict):
        yield from model["vocab"].items()
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict):
            yield token.get("content"), token.get("id")
    for number, token in decoder.items() if isinstance(decoder, dict) else ():
        yield token, int(number) if re.fullmatch(r"-?[0-9]{1,40}", number) else None


def check_sizes(config: Mapping[str, Any], shapes: Shapes, path: Path) -> None:
    """Refuse sizes that cannot belong to the weights, before a library reserves memory for them.

    Args:
        config: the content of the file ``path``.
        shapes: of the base's weights.

    Raises:
        ModelError: with the size and the largest that is possible.
    """
    numbers = max(1, sum(product(shape) for _, shape in shapes.values()))
    # Quantized weights hold up to eight numbers in one, and layers may share their tensors.
    limits = ((_LAYERS, 0, 16 * len(shapes)), (_WIDTHS, 0, 8 * numbers), (_POSITIONS, 1, _MOST_POSITIONS))
    for place, name, value in _members(dict(config)):
        for pattern, least, most in limits:
            if not pattern.fullmatch(name) or value is None or isinstance(value, bool | list | dict):
                continue
            if not isinstance(value, int | float) or not least <= value <= most:
                raise ModelError(
                    f"{path}: {place[:80]!r} must be a number from {least} to {most:,} to fit the weights, got "
                    f"{value!r:.60}; get the file again"
                )


def product(shape: Iterable[int]) -> int:
    """The number of elements of a tensor."""
    count = 1
    for size in shape:
        count *= size
    return count
