"""Checks what users pass to a recognizer: settings, labels, examples, thresholds, texts, and a base to share.

This file knows the rules for arguments; it trains and predicts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cllmfs.assurance.guarantee import Risk
from cllmfs.config import Config
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.reading import examples_of
from cllmfs.model.bases import base_folder
from cllmfs.schema import Example, LabelSet

if TYPE_CHECKING:
    from cllmfs.recognizer.recognizer import EntityRecognizer

logger = logging.getLogger(__name__)

Labels = LabelSet | Mapping[str, str] | Iterable[str]


def checked_config(config: Config | None) -> Config:
    """The config, or the defaults."""
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config must be a Config, got {type(config).__name__}; Config.from_dict(...) checks a dict")
    return config or Config()


def checked_threshold(threshold: Any, default: float) -> float | None:
    """A threshold in 0 to 1; ``None`` for those of the calibration, which is also what a default of 0 means."""
    if threshold is None:
        return default or None
    if isinstance(threshold, bool) or not (isinstance(threshold, int | float) and 0.0 <= threshold <= 1.0):
        raise ConfigError(f"threshold must lie in 0 to 1, got {threshold!r:.60}")
    return float(threshold)


def checked_texts(texts: Any) -> Iterable[str]:
    """The texts, if they are more than one string."""
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise DataError(f"texts must be strings, one or many, got {type(texts).__name__} {str(texts)[:40]!r}")
    return texts


def check_risk(risk: Any, config: Config, has_dev: bool = False) -> None:
    """Check that thresholds can be chosen for a risk.

    Raises:
        ConfigError: if it is no :class:`~cllmfs.assurance.guarantee.Risk`, ``runtime.threshold`` would replace the
            thresholds, or a dev set leaves no shots held out.
    """
    if risk is None:
        return
    if not isinstance(risk, Risk):
        raise ConfigError(f"risk must be a Risk, such as Risk(recall=0.9), got {risk!r:.60}")
    if config.runtime.threshold:
        raise ConfigError(
            f"runtime.threshold = {config.runtime.threshold} replaces the thresholds that a risk needs; leave it at 0"
        )
    if has_dev:
        raise ConfigError(
            "risk is estimated on shots that are held out, and with a dev set there are none; leave dev out, or call "
            "calibrate() with other labeled texts"
        )


def gold_examples(examples: Any) -> list[Example]:
    """The examples of a training or an evaluation, checked, with spans that have no white space at their edges.

    Raises:
        DataError: if one is no example, or breaks a rule.
    """
    given = examples_of(examples, "examples")
    for example in given:
        example.check()
    made = [example.trimmed() for example in given]
    moved = [example for example, other in zip(given, made, strict=True) if example is not other]
    if moved:
        place = moved[0].source or repr(moved[0].text[:40])
        logger.warning(
            "spans of %d texts, such as %s, have white space at their edges, which is left out of them",
            len(moved),
            place,
        )
    return made


def labels_to_fit(
    examples: Sequence[Example], dev: Sequence[Example], given: LabelSet | None, known: LabelSet | None
) -> LabelSet:
    """The labels of a training.

    Args:
        examples: the shots.
        dev: the dev set, which may be empty.
        given: the labels that the user named, if any; otherwise they are those of the examples.
        known: labels whose descriptions are used again.

    Raises:
        DataError: if there is nothing to learn from, or an example has a label that was not given.
    """
    if not examples:
        raise DataError("training needs at least one labeled sentence, got none")
    if not any(example.spans for example in examples):
        raise DataError(f"none of the {len(examples)} sentences has a labeled span; label a few first")
    asked = given
    if asked is None:
        descriptions = dict(known or {})
        asked = LabelSet({label: descriptions.get(label, "") for label in LabelSet.of_examples(examples)})
    for example in [*examples, *dev]:
        for span in example.spans:
            if span.label not in asked:
                raise DataError(
                    f"the label {span.label!r} is not among the labels given ({', '.join(asked)}); add it to them",
                    source=example.source,
                )
    return asked


def check_shared(share: EntityRecognizer | None, base: str, weights: str, device: str | None) -> None:
    """Check that the loaded base of another recognizer is what would be loaded.

    Raises:
        ConfigError: if it is not.
    """
    if share is None:
        return
    if not hasattr(share, "device") or not _is_same_base(share, base):
        got = f"one of {share.base!r}" if hasattr(share, "device") else f"{share!r:.60}"
        raise ConfigError(f"share must be a recognizer of the same base, {base!r}, got {got}")
    elsewhere = device is not None and not str(share.device).startswith(device)  # "cuda" means "cuda:0", too
    if weights not in ("auto", share._backbone.weights) or elsewhere:
        raise ConfigError(
            f"the shared base has runtime.weights={share._backbone.weights} and is on {share.device}; leave "
            "runtime.weights and device out, or load the base again"
        )


def _is_same_base(share: EntityRecognizer, base: str) -> bool:
    """Whether a name means the base of another recognizer; a folder may have several names."""
    folder, loaded = base_folder(base), share._backbone.fingerprint.folder
    return share.base == base or (folder is not None and loaded is not None and folder.resolve() == loaded.resolve())
