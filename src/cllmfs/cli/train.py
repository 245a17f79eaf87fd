"""The commands that train: train, demo.

Knows the options, where results go and what must be refused before hours are spent; the work is done by
:class:`cllmfs.recognizer.EntityRecognizer`, which is imported when a command runs, so that ``--help`` stays quick.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cllmfs.cli.options import Device, Format, Json, Labels, Settings, examples
from cllmfs.cli.terminal import (
    INTERRUPTED,
    TrainingProgress,
    clock,
    comparison_table,
    guarded,
    highlighted,
    label_colours,
    note,
    print_json,
    show,
    visible,
)
from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.errors import ConfigError, ModelError
from cllmfs.files import CHECKPOINT_STATE
from cllmfs.formats.writing import read_examples, read_labels
from cllmfs.model.folder import check_writable, is_model_folder
from cllmfs.schema import Example, LabelSet

if TYPE_CHECKING:
    from cllmfs.recognizer import EntityRecognizer
    from cllmfs.training.shots import Progress

app = typer.Typer()

BASE = "cllmfs-mini"
_SHOWN = 10  # predictions that the demo shows


# --- train -----------------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "cllmfs train shots.jsonl --output my-model",
        "cllmfs train shots.jsonl --output my-model --labels labels.toml --dev dev.jsonl --seed 1",
        "cllmfs train shots.jsonl --output my-model --base Qwen/Qwen3-0.6B --set lora.rank=32 --set train.steps=300",
        "cllmfs train shots.jsonl --output my-model --resume",
    )
)
@guarded
def train(
    shots: Annotated[
        Path, typer.Argument(metavar="SHOTS", help="labelled sentences, - for standard input", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="model folder to write; it appears whole, at the end")
    ],
    base: Annotated[str, typer.Option("--base", help="causal LM: cllmfs-mini, a folder, a hub id")] = BASE,
    labels: Labels = None,
    dev: Annotated[
        Path | None,
        typer.Option("--dev", metavar="FILE", help="labelled sentences whose F1 decides when to stop and what to keep"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="of training; beats --set and --config")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML settings; --set beats them")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the checkpoint of an interrupted run")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an existing model and its checkpoint")
    ] = False,
    device: Device = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Train on few labelled sentences and save a model folder.

    Ctrl-C stops at any time; the same command with --resume goes on from the last checkpoint, which lies in
    DIR.checkpoint until DIR is complete.
    """
    chosen = _train_config(config, settings, seed)
    checkpoint = _check_output(output, resume, overwrite)
    types = None if labels is None else read_labels(labels)
    learned = read_examples(shots, format=format)
    held_out = None if dev is None else read_examples(dev, format=format)
    if resume and not checkpoint.exists():
        note(f"there is no checkpoint in {checkpoint}: training begins at the first step")
    began = time.monotonic()
    try:
        from cllmfs.recognizer import EntityRecognizer

        ner = EntityRecognizer(base, labels=types, config=chosen, device=device)
        if overwrite:
            shutil.rmtree(checkpoint, ignore_errors=True)  # an old run must never be resumed as this one
        with TrainingProgress() as progress:
            ner.fit(learned, dev=held_out, checkpoint=checkpoint, resume=resume, on_progress=progress)
        folder = ner.save(output)
    except KeyboardInterrupt as error:
        if checkpoint.exists():
            note(f"interrupted; {checkpoint} holds the last checkpoint: {_how_to_resume(overwrite)}")
        else:
            note("interrupted before the first checkpoint: nothing was saved")
        raise typer.Exit(INTERRUPTED) from error
    shutil.rmtree(checkpoint, ignore_errors=True)
    seconds = time.monotonic() - began
    note(f"trained on {len(learned)} sentences in {clock(seconds)}")
    if json:
        print_json(_train_summary(folder, ner, len(learned), progress.last, seconds))
    else:
        print(f"model: {visible(str(folder))}")


def _how_to_resume(overwrite: bool) -> str:
    return f"run the same command with --resume{' instead of --overwrite' if overwrite else ''} to go on"


def _train_config(file: Path | None, settings: Iterable[str] | None, seed: int | None) -> Config:
    """Defaults, beaten by the file, beaten by ``--set``, beaten by ``--seed``."""
    config = Config() if file is None else Config.from_toml(file)
    return config.with_settings([*(settings or ()), *([] if seed is None else [f"train.seed={seed}"])])


def _check_output(output: Path, resume: bool, overwrite: bool) -> Path:
    """The folder for checkpoints. Raises where saving would fail after training, or would destroy something unasked.

    Raises:
        ConfigError: if the options contradict each other, or a model or checkpoint is in the way.
        ModelError: if the place holds something that is not ours, or cannot be written to.
    """
    if resume and overwrite:
        raise ConfigError("--resume keeps the checkpoint and --overwrite drops it; give one of the two")
    check_writable(output)
    output = output.absolute()
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    if checkpoint.exists() and not (checkpoint / CHECKPOINT_STATE).is_file():
        raise ModelError(
            f"{checkpoint} is in the way and is no checkpoint of cllmfs; move it or choose another --output"
        )
    if checkpoint.exists() and not (resume or overwrite):
        raise ConfigError(
            f"{checkpoint} holds the checkpoint of an interrupted run; go on from it with --resume, or start afresh "
            "with --overwrite"
        )
    if is_model_folder(output) and not overwrite and not (resume and checkpoint.exists()):
        raise ConfigError(f"{output} holds a trained model; replace it with --overwrite or choose another --output")
    parent = next(folder for folder in output.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ModelError(f"a model cannot be saved to {output}: {parent} is not a folder that can be written to")
    return checkpoint


def _train_summary(
    folder: Path, ner: EntityRecognizer, sentences: int, last: Progress | None, seconds: float
) -> dict[str, Any]:
    finite = last is not None and math.isfinite(last.step.loss)
    return {
        "model": str(folder),
        "base": ner.base,
        "labels": dict(ner.labels or {}),
        "sentences": sentences,
        "steps": ner.shots["steps"],
        "loss": last.step.loss if last is not None and finite else None,
        "dev_f1": None if last is None else last.dev_f1,
        "best_f1": None if last is None else last.best_f1,
        "seconds": round(seconds, 3),
    }


# --- demo ------------------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "cllmfs demo",
        "cllmfs demo --k 1 --seed 3",
        "cllmfs demo --output demo-model",
    )
)
@guarded
def demo(
    k: Annotated[int, typer.Option("--k", min=1, help="mentions of each type to learn from")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="of the draw and of training")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="keep the model here; else nothing is saved")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Teach the bundled model six new types and show what it finds.

    The types are those of a bicycle workshop. Runs offline on a CPU: scores before and after training on sentences
    that it has not seen.
    """
    if output is not None:
        _check_output(output, resume=False, overwrite=False)
    labels, pool, test = _example_data()
    shots = sample_k_shot(pool, k, seed)
    note(f"{len(shots)} sentences to learn from, at least {k} mentions of each of {len(labels)} types, if there are")
    from cllmfs.recognizer import EntityRecognizer

    times = [time.monotonic()]
    ner = EntityRecognizer(BASE, labels=labels, config=_train_config(None, None, seed), device=device)
    note(f"zero-shot: {len(test)} test sentences, types known by name and description only")
    before = ner.evaluate(test)
    times.append(time.monotonic())
    with TrainingProgress() as progress:
        ner.fit(shots, on_progress=progress)
    times.append(time.monotonic())
    note("few-shot: the same sentences again")
    after = ner.evaluate(test)
    times.append(time.monotonic())
    found = ner.predict([example.text for example in test[:_SHOWN]])
    folder = None if output is None else ner.save(output)
    zero, training, few = (last - first for first, last in pairwise(times))
    if json:
        print_json(
            {
                "k": k,
                "seed": seed,
                "shots": len(shots),
                "test": len(test),
                "zero_shot": before.to_dict(),
                "few_shot": after.to_dict(),
                "seconds": {"zero_shot": round(zero, 3), "training": round(training, 3), "few_shot": round(few, 3)},
                "predictions": [document.to_dict() for document in found],
                "model": None if folder is None else str(folder),
            }
        )
        return
    show(comparison_table(before, after), f"the first {len(found)} test sentences after training:", "")
    colours = label_colours(labels)
    show(*(highlighted(document, colours) for document in found))
    print(f"\nzero-shot evaluation {clock(zero)}, training {clock(training)}, few-shot evaluation {clock(few)}")
    if folder is None:
        print("nothing was saved: --output DIR keeps the model")
    else:
        print(f'model: {visible(str(folder))}; try: cllmfs predict {visible(str(folder))} "The rear hub has play."')


def _example_data() -> tuple[LabelSet, list[Example], list[Example]]:
    """Labels, training pool and test sentences that ship with the package."""
    folder = resources.files("cllmfs") / "example"
    with (
        resources.as_file(folder / "labels.toml") as labels,
        resources.as_file(folder / "train.jsonl") as train_file,
        resources.as_file(folder / "test.jsonl") as test_file,
    ):
        return read_labels(labels), read_examples(train_file), read_examples(test_file)
