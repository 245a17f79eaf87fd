"""The commands that train: train, demo.

This file knows the options, where results go, and which mistakes must be found before a long training begins. The
recognizer, which does the work, is imported when a command runs, so that ``--help`` stays fast.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cllmfs.cli.options import Device, Format, Json, Labels, Settings, argument, choice, command, option
from cllmfs.cli.terminal import INTERRUPTED, comparison_table, note, print_json, show, show_highlighted, visible
from cllmfs.config import PRESETS, Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.errors import ConfigError, ModelError
from cllmfs.files import CHECKPOINT_STATE, recover, remove_folder
from cllmfs.formats import read_examples, read_labels
from cllmfs.model.bases import MINI, check_findable
from cllmfs.model.folder import check_writable, is_model_folder
from cllmfs.progress import TrainingProgress, clock
from cllmfs.schema import Example, LabelSet

if TYPE_CHECKING:
    from cllmfs.recognizer import EntityRecognizer
    from cllmfs.training.loop import Progress

app = typer.Typer()

_SHOWN = 10  # number of sentences that the demo shows


@command(
    app,
    "cllmfs train shots.jsonl --output my-model",
    "cllmfs train shots.jsonl --output my-model --labels labels.toml --dev dev.jsonl --seed 1",
    "cllmfs train shots.jsonl --output my-model --base Qwen/Qwen3-0.6B --set lora.rank=32 --set train.steps=300",
    "cllmfs train shots.jsonl --output my-model --resume",
)
def train(
    shots: Annotated[Path, argument("SHOTS", "file with labeled sentences, - for standard input")],
    output: Annotated[Path, option("-o, --output DIR", "model folder, which is written when training is done")],
    base: Annotated[str, option("--base BASE", "causal LM: cllmfs-mini, a folder or a hub id")] = MINI,
    labels: Labels = None,
    dev: Annotated[
        Path | None, option("--dev FILE", "labeled sentences; F1 on them decides when to stop and what to keep")
    ] = None,
    seed: Annotated[int | None, option("--seed N", "seed of the training; overrides --set train.seed", min=0)] = None,
    config: Annotated[Path | None, option("--config FILE", "TOML file with settings; --set overrides it")] = None,
    preset: Annotated[
        str | None, choice("--preset", PRESETS, ": the method of arXiv 2408.12834; --set overrides it")
    ] = None,
    settings: Settings = None,
    resume: Annotated[bool, option("--resume", "continue from the checkpoint of an interrupted run")] = False,
    overwrite: Annotated[bool, option("--overwrite", "replace an existing model and its checkpoint")] = False,
    device: Device = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Train a model on a few labeled sentences.

    Ctrl-C stops the training at any time. The same command with --resume continues from the last checkpoint, which is
    kept in DIR.checkpoint until DIR is complete.
    """
    chosen = _train_config(preset, config, settings, seed)
    checkpoint = _check_output(output, resume, overwrite)
    check_findable(base)  # before the libraries are imported, which takes seconds
    types = None if labels is None else read_labels(labels)
    learned = read_examples(shots, format=format)
    held_out = None if dev is None else read_examples(dev, format=format)
    if resume and not checkpoint.exists():
        note(f"there is no checkpoint in {checkpoint}; training begins with the first step")
    began = time.monotonic()
    try:
        from cllmfs.recognizer import EntityRecognizer

        ner = EntityRecognizer(base, labels=types, config=chosen, device=device)
        if overwrite:
            remove_folder(checkpoint)  # --resume must never continue an older run
        with TrainingProgress() as progress:
            ner.fit(learned, dev=held_out, checkpoint=checkpoint, resume=resume, on_progress=progress)
        folder = ner.save(output)
    except KeyboardInterrupt as error:
        if checkpoint.exists():
            instead = " instead of --overwrite" if overwrite else ""
            note(f"interrupted; run the same command with --resume{instead} to continue from {checkpoint}")
        else:
            note("interrupted before the first checkpoint; nothing was saved")
        raise typer.Exit(INTERRUPTED) from error
    remove_folder(checkpoint)
    seconds = time.monotonic() - began
    if ner.retention is not None and ner.retention.notice() is None:  # a notice has been logged
        note(ner.retention.summary())
    note(f"trained on {len(learned)} sentences in {clock(seconds)}")
    if json:
        print_json(_train_summary(folder, ner, len(learned), progress.last, seconds))
    else:
        print(f"model: {visible(str(folder))}")


def _train_config(preset: str | None, file: Path | None, settings: Iterable[str] | None, seed: int | None) -> Config:
    """The defaults, a preset or a file, changed by ``--set`` and then by ``--seed``."""
    if preset is not None and file is not None:
        raise ConfigError("--preset and --config exclude each other; give one of the two, and change it with --set")
    config = Config.preset(preset) if preset else Config() if file is None else Config.from_toml(file)
    return config.with_settings([*(settings or ()), *([] if seed is None else [f"train.seed={seed}"])])


def _check_output(output: Path, resume: bool, overwrite: bool) -> Path:
    """The folder for checkpoints, after checks whose failure would otherwise be noticed only when training is done.

    Raises:
        ConfigError: if the options contradict each other, or a model or a checkpoint would be overwritten.
        ModelError: if the folder contains something that is not a model, or cannot be written to.
    """
    if resume and overwrite:
        raise ConfigError("--resume keeps the checkpoint and --overwrite deletes it; give one of the two")
    check_writable(output)
    output = output.absolute()
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    recover(checkpoint)
    if checkpoint.exists() and not (checkpoint / CHECKPOINT_STATE).is_file():
        raise ModelError(
            f"checkpoints are saved to {checkpoint}, which contains something else; move it or choose another --output"
        )
    if checkpoint.exists() and not (resume or overwrite):
        raise ConfigError(
            f"{checkpoint} contains the checkpoint of an interrupted run; continue it with --resume, or start again "
            "with --overwrite"
        )
    if is_model_folder(output) and not overwrite and not (resume and checkpoint.exists()):
        raise ConfigError(f"{output} contains a trained model; replace it with --overwrite or choose another --output")
    parent = next(folder for folder in output.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ModelError(f"a model cannot be saved to {output}: {parent} is not a folder with write permission")
    return checkpoint


def _train_summary(
    folder: Path, ner: EntityRecognizer, sentences: int, last: Progress | None, seconds: float
) -> dict[str, Any]:
    return {
        "model": str(folder),
        "base": ner.base,
        "labels": dict(ner.labels or {}),
        "sentences": sentences,
        "steps": ner.shots["steps"],
        "loss": last.step.loss if last is not None and math.isfinite(last.step.loss) else None,
        "dev_f1": last and last.dev_f1,
        "best_f1": last and last.best_f1,
        "seconds": round(seconds, 3),
    }


@command(app, "cllmfs demo", "cllmfs demo --k 1 --seed 3", "cllmfs demo --output demo-model")
def demo(
    k: Annotated[int, option("--k K", "mentions of each type to learn from", min=1)] = 5,
    seed: Annotated[int, option("--seed N", "seed of the draw and of the training", min=0)] = 0,
    output: Annotated[Path | None, option("-o, --output DIR", "model folder; by default nothing is saved")] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Teach the bundled model six new types and show what it finds.

    The types come from a bicycle workshop. Everything runs offline on a CPU. The demo prints the scores before and
    after training, on sentences that the model has not seen.
    """
    if output is not None:
        _check_output(output, resume=False, overwrite=False)
    labels, pool, test = _example_data()
    shots = sample_k_shot(pool, k, seed)
    note(f"learning {len(labels)} types from {len(shots)} sentences, with at least {k} mentions of each if possible")
    from cllmfs.recognizer import EntityRecognizer

    times = [time.monotonic()]
    ner = EntityRecognizer(MINI, labels=labels, config=_train_config(None, None, None, seed), device=device)
    note(f"zero-shot: evaluating {len(test)} test sentences with only the names and descriptions of the types")
    before = ner.evaluate(test)
    times.append(time.monotonic())
    with TrainingProgress() as progress:
        ner.fit(shots, on_progress=progress)
    times.append(time.monotonic())
    note("few-shot: evaluating the same sentences again")
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
    show_highlighted(found, labels)
    print(f"\nzero-shot evaluation {clock(zero)}, training {clock(training)}, few-shot evaluation {clock(few)}")
    print(_next_steps(folder))


_OWN_DATA = """
To continue with your own data:

1. Write a few labeled sentences to a file shots.jsonl, each on a line of its own:
   {"text": "The rear hub has play.", "spans": [{"start": 4, "end": 12, "label": "component"}]}
   start and end count the characters of the text from 0; end is the place after the last character.
2. Check the file, train a model, and use it:"""


def _next_steps(folder: Path | None) -> str:
    """Next steps after the demo, as commands that can be copied; its model is in ``folder``, if it was saved."""
    lines = ["The model was not saved; --output DIR saves it." if folder is None else f"model: {folder}"]
    program = "cllmfs"
    if shutil.which(program) is None:
        called = Path(sys.argv[0]).absolute()
        module = called.name == "__main__.py"  # python -m cllmfs
        program = shlex.join([sys.executable, "-m", "cllmfs"] if module else [str(called)])
        lines.append("cllmfs is not on your PATH, so the commands below call it by its path.")
    if folder is not None:
        lines += ["", "To use the model:", f'   {program} predict {shlex.quote(str(folder))} "The rear hub has play."']
    commands = ("validate shots.jsonl", "train shots.jsonl --output my-model", 'predict my-model "Another text."')
    return visible("\n".join([*lines, _OWN_DATA, *(f"   {program} {words}" for words in commands)]))


def _example_data() -> tuple[LabelSet, list[Example], list[Example]]:
    """The labels, training sentences and test sentences that are part of the package."""
    folder = resources.files("cllmfs") / "example"
    with (
        resources.as_file(folder / "labels.toml") as labels,
        resources.as_file(folder / "train.jsonl") as train_file,
        resources.as_file(folder / "test.jsonl") as test_file,
    ):
        return read_labels(labels), read_examples(train_file), read_examples(test_file)
