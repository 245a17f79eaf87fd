"""From a recognizer to a model folder and back.

This file knows what a recognizer keeps of its training, and under which names it stands in the manifest; files and
their damages are the business of :mod:`cllmfs.model.folder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cllmfs.assurance.guarantee import KEY, Guarantee
from cllmfs.assurance.retention import RetentionReport
from cllmfs.config import Config, RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.errors import ConfigError, ModelError
from cllmfs.files import whole_folder
from cllmfs.model.adapter import Adapter
from cllmfs.model.bases import MINI, check_base_of
from cllmfs.model.folder import changed_by, versions
from cllmfs.model.loading import check_states, load_backbone, write_base
from cllmfs.recognizer.arguments import checked_config

if TYPE_CHECKING:
    from cllmfs.recognizer.recognizer import EntityRecognizer


_NOT_PICKLED = ("_backbone", "_extractor", "_notices")  # they hold hooks and locks, and follow from the base


def manifest(recognizer: EntityRecognizer) -> dict[str, Any]:
    """What a manifest says of a recognizer."""
    optional = {KEY: recognizer.guarantee, "retention": recognizer.retention}
    return {
        "base": recognizer.base,
        "base_hash": recognizer._backbone.fingerprint.value,
        "trained": recognizer.trained,
        "labels": dict(recognizer.labels or {}),
        "prompt": recognizer._backbone.prompt.template.to_dict(),
        "config": recognizer.config.to_dict(),
        "spans": recognizer._extractor.config.spans.model_dump(),
        "versions": versions(),
        "shots": recognizer.shots,
        "scores": recognizer.scores,
        "calibration": recognizer.calibration.to_dict(),
        **{name: part.to_dict() for name, part in optional.items() if part is not None},
    }


def settings_of(
    model: str | Path, record: Mapping[str, Any], config: Config | None, runtime: RuntimeConfig | None
) -> Config:
    """The settings of a saved model, with those of ``runtime`` replaced.

    Raises:
        ConfigError: if ``config`` has other values for settings that training fixed.
    """
    saved = Config.from_dict(record["config"], f"{model}/cllmfs.json")
    if config is None:
        return saved.with_runtime(runtime)
    if changed := changed_by(checked_config(config).to_dict(), saved.to_dict()):
        raise ConfigError(
            f"{model} was trained with another {', '.join(changed)}, which training fixes; pass runtime= to "
            "change how the model is run, or train again"
        )
    return saved.with_runtime(runtime or config.runtime)


def restore(recognizer: EntityRecognizer, model: str | Path, record: Mapping[str, Any]) -> None:
    """Load what a model folder contains besides settings into a recognizer of the same base and prompt.

    Raises:
        ModelError: if the folder is damaged, or of another base or prompt.
    """
    source, backbone = f"{model}/cllmfs.json", recognizer._backbone
    check_base_of(model, record, backbone.fingerprint)
    if backbone.prompt.template != PromptTemplate.from_dict(record["prompt"], source):
        raise ModelError(
            f"{model} was trained with another prompt than {recognizer.base!r} has now; restore the base's "
            "cllmfs_prompt.json, or train again"
        )
    recognizer._adapter = Adapter.load(Path(model), record)
    if "spans" in record:  # what the shots decided, where the settings left it to them
        spans = Config.from_dict({"spans": record["spans"]}, source).spans
        recognizer._prepare(recognizer.config.model_copy(update={"spans": spans}), recognizer._extractor.rules)
    recognizer.shots, recognizer.scores = record.get("shots", {}), record.get("scores", {})
    recognizer.calibration = recognizer._expected.trained
    if "calibration" in record:
        recognizer.calibration = Calibration.from_dict(record["calibration"], source)
    if KEY in record:
        recognizer.guarantee = Guarantee.from_dict(record[KEY], source)
    if "retention" in record:
        recognizer.retention = RetentionReport.from_dict(record["retention"], source)
    with backbone.reading(recognizer._adapter):
        check_states(backbone)  # an adapter that does not fit its base is reported now, too


def pickled(recognizer: EntityRecognizer) -> dict[str, Any]:
    """What pickle stores: everything but the base, which is loaded again from where it lies."""
    with recognizer._backbone.lock:
        state = {name: value for name, value in vars(recognizer).items() if name not in _NOT_PICKLED}
        extractor = recognizer._extractor
    fingerprint, weights = recognizer._backbone.fingerprint, recognizer._backbone.weights
    if fingerprint.folder is not None and recognizer.base != MINI:
        state["base"] = str(fingerprint.folder)  # the other process may run in another folder
    return {**state, "_loaded": (fingerprint.value, str(recognizer.device), weights, extractor.config, extractor.rules)}


def unpickle(recognizer: EntityRecognizer, state: dict[str, Any]) -> None:
    """Fill a recognizer with what :func:`pickled` gave, and load its base.

    Raises:
        ModelError: if the base is no longer there, or another one.
    """
    found, device, weights, config, rules = state.pop("_loaded")
    vars(recognizer).update(state)
    base = recognizer.base
    recognizer._backbone = load_backbone(base, device=device, weights=weights)
    if recognizer._backbone.fingerprint.value != found:
        raise ModelError(f"{base!r} is not the base that the recognizer was pickled with; use the same files")
    recognizer._prepare(config, rules)


def save_merged(recognizer: EntityRecognizer, target: Path) -> None:
    """Write base and adapter, merged, to a new folder.

    Raises:
        ModelError: as :meth:`EntityRecognizer.save_base`.
    """
    if not recognizer.trained:
        raise ModelError("there is no adapter to merge into the base: call fit() first")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ModelError(f"{target} holds something already; a base is written to a new folder")
    backbone = recognizer._backbone
    try:
        with backbone.reading(recognizer._adapter), whole_folder(target) as aside:
            write_base(backbone, aside)
    except OSError as error:
        raise ModelError(f"the base cannot be written to {target}: {error}") from error
