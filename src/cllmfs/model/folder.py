"""A model folder that describes itself, written aside and moved into place.

    cllmfs.json                 manifest: labels, prompt, config, base and its hash, versions, shots, scores
    adapter_config.json         peft's own
    adapter_model.safetensors   the LoRA weights
    README.md                   model card

A folder without a whole manifest is no model, so a killed save is never loadable. Knows files; knows nothing of
training or decoding.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cllmfs.errors import ModelError
from cllmfs.files import whole_folder

MANIFEST = "cllmfs.json"
ADAPTER = "adapter_model.safetensors"
_FORMAT = 1
_REQUIRED = {"format": int, "base": str, "base_hash": str, "labels": dict, "prompt": dict, "config": dict}


@dataclass(frozen=True)
class Manifest:
    """What a model folder says of itself; ``record`` is the JSON object."""

    record: dict[str, Any]

    @property
    def base(self) -> str:
        """Id or folder of the base model."""
        return str(self.record["base"])


def versions() -> dict[str, str]:
    """Versions of what the result depends on."""
    found = {"python": platform.python_version()}
    for name in ("cllmfs", "torch", "transformers", "peft", "tokenizers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def is_model_folder(folder: str | Path) -> bool:
    """Whether a folder holds a trained model."""
    return (Path(folder) / MANIFEST).is_file()


def check_writable(folder: Path) -> None:
    """Raise if ``folder`` holds something that is not a model of ours, which a save would destroy.

    Raises:
        ModelError: if it is a file, or a folder with other content.
    """
    if folder.is_file():
        raise ModelError(f"{folder} is a file; a model is saved to a folder: choose another name")
    if folder.is_dir() and any(folder.iterdir()) and not is_model_folder(folder):
        raise ModelError(f"{folder} is not empty and holds no cllmfs model; choose another folder or empty it")


def write_model(folder: Path, record: Mapping[str, Any], peft: Any) -> Path:
    """Write a model folder whole: everything is written beside it, the manifest last, then renamed.

    Raises:
        ModelError: as :func:`check_writable`, or if the folder cannot be written.
    """
    check_writable(folder)
    try:
        with whole_folder(folder) as aside:
            # Asked to look at the embeddings, peft would ask the hub whether the vocabulary has grown.
            peft.save_pretrained(str(aside), safe_serialization=True, save_embedding_layers=False)
            (aside / "README.md").write_text(model_card(record), encoding="utf-8")
            text = json.dumps({"format": _FORMAT, **record}, ensure_ascii=False, indent=1)
            (aside / MANIFEST).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"the model cannot be saved to {folder}: {error}") from error
    return folder


def read_manifest(folder: str | Path) -> Manifest:
    """Read and check a model folder.

    Raises:
        ModelError: if the manifest or the adapter is missing, damaged or of a later format.
    """
    path = Path(folder) / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} is no whole cllmfs model: {MANIFEST} cannot be read ({error})") from error
    missing = [key for key in _REQUIRED if not isinstance(record, dict) or key not in record]
    if missing:
        raise ModelError(f"{path}: the manifest must name {missing[0]!r}; save the model again")
    if record["format"] != _FORMAT:
        raise ModelError(f"{path}: format {record['format']!r} is not known to this version; upgrade cllmfs")
    for key, kind in _REQUIRED.items():
        if not isinstance(record[key], kind):
            raise ModelError(f"{path}: {key!r} cannot be {record[key]!r:.60}; save the model again")
    if not (Path(folder) / ADAPTER).is_file():
        raise ModelError(f"{folder}: {ADAPTER} is missing; a model is loaded from safetensors alone")
    return Manifest(record)


def model_card(record: Mapping[str, Any]) -> str:
    """The README of a model folder, in Markdown with the metadata block that model hubs read."""
    shots, scores = record.get("shots", {}), record.get("scores", {})
    lines = [
        "---", "library_name: peft", "pipeline_tag: token-classification", f"base_model: {record['base']}",
        "tags: [named-entity-recognition, few-shot, cllmfs]", "---", "",
        "# Few-shot entity recogniser", "",
        f"LoRA adapter of `{record['base']}`, trained with cllmfs {record.get('versions', {}).get('cllmfs', '')} on "
        f"{shots.get('sentences', 0)} sentences (seed {record['config']['train']['seed']}).", "",
        "```", "cllmfs predict FOLDER \"a text\"", "```", "",
        "| label | shots | description |", "|---|---|---|",
    ]  # fmt: skip
    mentions = shots.get("mentions", {})
    for label, description in record["labels"].items():
        cells = [cell.replace("|", "\\|") for cell in (label, str(mentions.get(label, 0)), description)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Scores", ""]
    if scores:
        lines += [f"- {name}: {value}" for name, value in scores.items()]
    else:
        lines.append("None were measured: no dev set was given.")
    lines += [
        "", "## Limits", "",
        "Trained on few sentences: measure it on your own texts (`cllmfs evaluate`) before you rely on it. The licence "
        f"of the base model applies. Base hash: `{record['base_hash']}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)
