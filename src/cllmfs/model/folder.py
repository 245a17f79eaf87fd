"""The folder of a trained model, which describes itself and appears whole or not at all.

    cllmfs.json                 manifest: labels, prompt, settings, base and its hash, versions, shots, scores, ...
    adapter_config.json         peft's configuration
    adapter_model.safetensors   the LoRA weights
    README.md                   model card

The manifest is written last: a folder without a whole manifest is not a model. It holds the hashes of base and adapter,
so that others in their place are noticed, and the places of the base on disk. This file knows the files of a folder; it
knows nothing of training or decoding.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cllmfs.config import FIXED, MOVED, SECTIONS
from cllmfs.errors import ModelError
from cllmfs.files import recover, whole_folder
from cllmfs.model.bases import base_places
from cllmfs.model.inspection import TRAINED as MANIFEST
from cllmfs.model.inspection import check_file, is_kind, read_object, unreadable

ADAPTER = "adapter_model.safetensors"
_FORMAT = 2
_REQUIRED = {"format": int, "base": str, "base_hash": str, "labels": dict, "prompt": dict, "config": dict}
_OPTIONAL = {
    "spans": dict, "shots": dict, "scores": dict, "versions": dict, "calibration": dict, "base_folder": dict,
    "adapter_hash": str,
}  # fmt: skip

# Format 1 had other sections (config.MOVED names those of settings that moved) and more settings.
# _STILL_READ_AS names settings that are gone, with the only value at which a model is still read as it was trained.
_SECTIONS_OF_FORMAT_1 = ("model", "prompt", "lora", "loss", "train", "decode", "calibrate")
_STILL_READ_AS = {"opening": "first", "open_at": 0.1, "end_bias": 0.0}


def versions() -> dict[str, str]:
    """Versions of everything that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("cllmfs", "torch", "transformers", "peft", "tokenizers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder holds a trained model, which is put back if a killed run had moved it aside."""
    recover(folder)
    return is_kind(Path(folder) / MANIFEST, stat.S_IFREG)


def check_writable(folder: Path) -> None:
    """Refuse a folder whose content a save would destroy.

    Raises:
        ModelError: if it is a file, or a folder that contains something other than a model.
    """
    try:
        if folder.is_file():
            raise ModelError(f"{folder} is a file; a model is saved to a folder: choose another name")
        if folder.is_dir() and any(folder.iterdir()) and not is_model_folder(folder):
            raise ModelError(f"{folder} is not empty and holds no cllmfs model; choose another folder or empty it")
    except OSError as error:
        raise ModelError(f"the model cannot be saved to {folder}: {error.strerror or error}") from error


def write_model(folder: Path, record: Mapping[str, Any], save_adapter: Any, base: Path | None = None) -> Path:
    """Write a model folder: a new folder is filled, with the manifest last, and then takes the place of the old one.

    Args:
        folder: where the model is saved.
        record: the content of the manifest.
        save_adapter: writes the adapter to the folder that it is given.
        base: the folder of the base, if it has one that is not part of the package.

    Raises:
        ModelError: as :func:`check_writable`, or if the folder cannot be written.
    """
    check_writable(folder)
    try:
        with whole_folder(folder) as aside:
            save_adapter(aside)
            (aside / "README.md").write_text(model_card(record), encoding="utf-8")
            whole = {"format": _FORMAT, **record, "adapter_hash": _hash_of(aside / ADAPTER)}
            if base is not None:
                whole["base_folder"] = base_places(base, folder)
            text = json.dumps(whole, ensure_ascii=False, indent=1)
            (aside / MANIFEST).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the model cannot be saved to {folder}: {error}") from error
    return folder


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a model folder, in the format of this version.

    Raises:
        ModelError: if the manifest or the adapter is missing or damaged, or this version cannot read the model as it
            was trained.
    """
    path = Path(folder) / MANIFEST
    try:
        record = read_object(path)
    except ModelError as error:
        raise ModelError(f"{folder} is no whole cllmfs model: {error}") from error
    missing = [key for key in _REQUIRED if key not in record]
    if missing:
        raise ModelError(f"{path}: the manifest must name {missing[0]!r}; save the model again")
    if record["format"] not in (1, _FORMAT):
        raise ModelError(f"{path}: format {record['format']!r} is not known to this version; upgrade cllmfs")
    for key, kind in (_REQUIRED | _OPTIONAL).items():
        if key in record and not isinstance(record[key], kind):
            raise ModelError(f"{path}: {key!r} cannot be {record[key]!r:.60}; save the model again")
    shots = record.get("shots", {})
    hashes = shots.get("hashes", [])
    if not isinstance(shots.get("mentions", {}), dict) or not isinstance(hashes, list):
        raise ModelError(f"{path}: 'shots' must hold counts of mentions, and hashes; save the model again")
    if not all(isinstance(text, str) for text in (*hashes, *record["labels"].values())):
        raise ModelError(f"{path}: descriptions of labels and hashes of shots must be texts; save the model again")
    if not all(isinstance(place, str) for place in record.get("base_folder", {}).values()):
        raise ModelError(f"{path}: 'base_folder' must hold paths, got {record['base_folder']!r:.60}")
    if not os.path.lexists(Path(folder) / ADAPTER):
        raise ModelError(f"{folder}: {ADAPTER} is missing; a model is loaded from safetensors alone")
    check_file(Path(folder) / ADAPTER)
    return _of_format_1(record, path) if record["format"] == 1 else record


def check_adapter_file(folder: Path, record: Mapping[str, Any]) -> None:
    """Check that the weights in a model folder are those that were saved with its manifest.

    Raises:
        ModelError: if a bit of them has changed, or they are those of another model.
    """
    wanted = record.get("adapter_hash")  # older models have none
    if wanted is not None and _hash_of(folder / ADAPTER) != wanted:
        raise ModelError(
            f"{folder / ADAPTER} holds other weights than those that were saved with {MANIFEST}: the file is damaged, "
            "or that of another model; copy the whole folder again, or train the model again"
        )


def _hash_of(path: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise ModelError(unreadable(path, error)) from error


def _of_format_1(record: dict[str, Any], path: Path) -> dict[str, Any]:
    """Convert a manifest of format 1 to the present format, without a change of meaning."""
    old: dict[str, dict[str, Any]] = record["config"]
    for name, part in old.items():
        if name not in _SECTIONS_OF_FORMAT_1 or not isinstance(part, dict):
            raise ModelError(f"{path}: the settings must be tables such as 'train', got {name!r}: {part!r:.60}")
    for name, value in _STILL_READ_AS.items():
        if (found := old.get("decode", {}).get(name, value)) != value:
            setting = f"decode.{name} = {found!r}"
            raise ModelError(
                f"{path}: the model was trained with {setting}, which this version cannot read; train it again"
            )
    new: dict[str, dict[str, Any]] = {
        section: {name: old[section][name] for name in kind.model_fields if name in old.get(section, {})}
        for section, kind in SECTIONS.items()
    }
    for name, (before, after) in MOVED.items():
        if name in old.get(before, {}):
            new[after][name] = old[before][name]
    if new["loss"].get("contrastive") in ("span", "supcon", "symmetric"):
        del new["loss"]["contrastive"]  # these forms are gone, and mattered only in training
    new["calibrate"]["votes"] = old.get("calibrate", {}).get("vote", 1) != 0
    described = old.get("prompt", {}).get("descriptions", True)
    labels = record["labels"] if described else dict.fromkeys(record["labels"], "")
    return {**record, "format": _FORMAT, "config": new, "labels": labels}


def changed_by(config: Mapping[str, Mapping[str, Any]], saved: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The settings fixed by training whose values in ``config`` differ from those in ``saved``."""
    return [
        f"{section}.{name}"
        for section in FIXED
        for name, value in config[section].items()
        if saved.get(section, {}).get(name, value) != value
    ]


def model_card(record: Mapping[str, Any]) -> str:
    """The README of a model folder: Markdown, with the metadata block that model hubs read."""
    from huggingface_hub import ModelCardData  # it quotes what YAML would misread, such as a colon in a path

    tags = ["named-entity-recognition", "few-shot", "cllmfs"]
    metadata = ModelCardData(
        base_model=record["base"], library_name="peft", pipeline_tag="token-classification", tags=tags
    )
    shots, scores = record.get("shots", {}), record.get("scores", {})
    mentions = shots.get("mentions", {})
    lines = [
        "---", metadata.to_yaml(), "---", "", "# Few-shot entity recognizer", "",
        f"LoRA adapter of `{record['base']}`, trained with cllmfs {record.get('versions', {}).get('cllmfs', '')} on "
        f"{shots.get('sentences', 0)} sentences (seed {record['config']['train']['seed']}).", "",
        "```", "cllmfs predict FOLDER \"a text\"", "```", "",
        "| label | shots | description |", "|---|---|---|",
    ]  # fmt: skip
    for label, description in record["labels"].items():
        cells = [cell.replace("|", "\\|") for cell in (label, str(mentions.get(label, 0)), description)]
        lines.append(f"| {' | '.join(cells)} |")
    measured = [f"- {name}: {value}" for name, value in scores.items()]
    unmeasured = "No scores were measured: there was no dev set, and there were too few shots to hold some out."
    if retention := record.get("retention"):
        before, after = (f"{retention[side]['f1']:.4f}" for side in ("before", "after"))
        measured.append(
            f"- strict micro F1 on {retention['types']} other types, in {retention['sentences']} sentences: {before} "
            f"before training, {after} after"
        )
    lines += [
        "", "## Scores", "", *(measured or [unmeasured]), "", "## Limits", "",
        "The model was trained on few sentences: measure it on your own texts (`cllmfs evaluate`) before you rely on "
        f"it. The license of the base model applies. Base hash: `{record['base_hash']}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)
