"""cllmfs as a system of a benchmark: ``python -m cllmfs.benchmark.system --base cllmfs-mini TASK``.

Knows the recogniser and the task folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cllmfs.benchmark.task import Task, serve
from cllmfs.config import Config
from cllmfs.model.bases import MINI
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Document, Example, LabelSet

Model = TypeVar("Model")

_PACKAGES = ("cllmfs", "torch", "transformers", "peft")


def learn(task: Task, base: str, settings: Sequence[str]) -> EntityRecognizer:
    """A recogniser of the task's shots; the base itself, asked for all types, if there are none."""
    config = Config().with_settings([f"train.seed={task.seed}", *settings])
    recognizer = EntityRecognizer(base, labels=LabelSet(task.labels), config=config)
    return recognizer.fit(list(task.shots)) if task.shots else recognizer


def predict(recognizer: EntityRecognizer, texts: Sequence[Example]) -> list[Document]:
    """The spans of each text."""
    return recognizer.predict([text.text for text in texts])


def facts(recognizer: EntityRecognizer, _: Task) -> dict[str, Any]:
    """What the recogniser chose, and where it ran."""
    chosen = {key: value for key, value in recognizer.shots.items() if key != "mentions"}
    return {
        "chosen": {**chosen, **recognizer.scores},
        "calibration": recognizer.calibration.to_dict(),
        "device": recognizer.device.type,
    }


def run(
    description: str,
    learn: Callable[[Task, str, Sequence[str]], Model],
    predict: Callable[[Model, Sequence[Example]], Sequence[Document]],
    facts: Callable[[Model, Task], Mapping[str, Any]],
) -> None:
    """Do the task that the command line names, with the base and the settings that it names.

    Args:
        description: what ``--help`` says.
        learn: (task, base, settings as ``section.name=value``) to a model.
        predict: as :func:`~cllmfs.benchmark.task.serve` takes it.
        facts: likewise.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("task", type=Path, help="folder of the task, see cllmfs.benchmark.task")
    parser.add_argument("--base", default=MINI)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    arguments = parser.parse_args()
    serve(arguments.task, lambda task: learn(task, arguments.base, arguments.set), predict, facts, _PACKAGES)


def main() -> None:
    """Do the task that the command line names."""
    run("cllmfs as a system of a benchmark.", learn, predict, facts)


if __name__ == "__main__":
    main()
