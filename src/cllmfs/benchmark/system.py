"""cllmfs as a system of a benchmark: ``python -m cllmfs.benchmark.system --base cllmfs-mini TASK``.

Knows the recognizer and the task folder.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from typing import Any

from cllmfs.benchmark.task import Task, serve
from cllmfs.config import Config
from cllmfs.errors import ConfigError
from cllmfs.model.bases import MINI
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, LabelSet

PACKAGES = ("cllmfs", "torch", "transformers", "peft")
_RECIPE = "recipe."


def split_settings(settings: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The settings of :class:`~cllmfs.config.Config`, and the changes to the training recipe by field.

    Changes are written ``recipe.NAME=VALUE``; the value is read as in TOML, or as a plain string if it is none.

    Raises:
        ConfigError: if a change has no value.
    """
    changes = {}
    for setting in settings:
        if setting.startswith(_RECIPE):
            name, equals, value = setting.removeprefix(_RECIPE).partition("=")
            if not equals:
                raise ConfigError(f"a change to the recipe must be written recipe.NAME=VALUE, got {setting!r}")
            try:
                changes[name] = tomllib.loads(f"value = {value}")["value"]
            except tomllib.TOMLDecodeError:
                changes[name] = value
    return [setting for setting in settings if not setting.startswith(_RECIPE)], changes


def learn(task: Task, arguments: argparse.Namespace) -> EntityRecognizer:
    """A recognizer that has learned from the task's shots; without shots, the base itself with the task's types."""
    settings, changes = split_settings(arguments.set)
    quick = "train.retention=false"  # no figure of a benchmark depends on it
    config = Config().with_settings([f"train.seed={task.seed}", quick, *settings])
    recognizer = EntityRecognizer(arguments.base, labels=LabelSet(task.labels), config=config)
    return recognizer.fit(list(task.shots), recipe=changes) if task.shots else recognizer


def predict(recognizer: EntityRecognizer, texts: Sequence[Example]) -> list[Document]:
    """The spans of each text."""
    return recognizer.predict([text.text for text in texts])


def facts(recognizer: EntityRecognizer, *_: Any) -> dict[str, Any]:
    """The choices that the recognizer made for the user, its calibration and its device."""
    chosen = {key: value for key, value in recognizer.shots.items() if key != "mentions"} | recognizer.scores
    return {"chosen": chosen, "calibration": recognizer.calibration.to_dict(), "device": recognizer.device.type}


def system_parser(description: str) -> argparse.ArgumentParser:
    """A parser of the options that all systems on cllmfs have: the base and its settings."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base", default=MINI, help="name, folder or hub id of the base")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="SECTION.NAME or recipe.NAME; may be repeated"
    )
    return parser


def main() -> None:
    """Do the task that the command line names."""
    serve(system_parser("cllmfs as a system of a benchmark."), learn, predict, facts, PACKAGES)


if __name__ == "__main__":
    main()
