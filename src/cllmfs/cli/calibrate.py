"""The command that promises a recall or a precision: calibrate.

This file knows the options and what is printed. The recognizer, which does the work, is imported when the command runs,
so that ``--help`` stays fast.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cllmfs.assurance.guarantee import Guarantee, Risk, store
from cllmfs.cli.options import Device, Format, Json, MovedBase, argument, command, option
from cllmfs.cli.terminal import note, print_json, show, table, visible
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import read_examples
from cllmfs.model.folder import is_model_folder

app = typer.Typer()


@command(
    app,
    "cllmfs calibrate my-model labeled.jsonl --recall 0.9",
    "cllmfs calibrate my-model labeled.jsonl --precision 0.8 --confidence 0.9 --json",
    "cllmfs calibrate my-model --remove",
)
def calibrate(
    model: Annotated[str, argument("MODEL", "folder of a trained model")],
    labeled: Annotated[Path | None, argument("LABELED", "file of labeled texts, which the model has not seen")] = None,
    recall: Annotated[
        float | None, option("--recall R", "share of the mentions of a text that is found on average, such as 0.9")
    ] = None,
    precision: Annotated[
        float | None, option("--precision P", "share of the spans reported in a text that is right on average")
    ] = None,
    confidence: Annotated[float, option("--confidence C", "how certain each promise is to hold")] = 0.95,
    remove: Annotated[bool, option("--remove", "go back to the thresholds that were fitted on the shots")] = False,
    base: MovedBase = None,
    device: Device = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Choose thresholds that come with a guarantee.

    The guarantee is about texts like those in LABELED: labeled texts of the kind that the model will read, chosen at
    random, and not its shots. It is stored in MODEL, and `cllmfs predict` uses its thresholds from then on. If it
    cannot be given, the command says why, and MODEL stays as it is.
    """
    if not is_model_folder(model):
        raise DataError(f"{model!r} must be the folder of a trained model; train one with `cllmfs train`")
    if remove:
        if labeled is not None or recall is not None or precision is not None:
            raise ConfigError("--remove takes the guarantee away, and needs MODEL alone")
        store(model, None)
        _print(model, None, json)
        return
    Risk(recall, precision, confidence)  # wrong values are refused before the libraries are loaded
    if labeled is None:
        raise ConfigError("a guarantee rests on labeled texts: name the file LABELED after MODEL")
    examples = read_examples(labeled, format=format)
    from cllmfs.recognizer import EntityRecognizer

    ner = EntityRecognizer.load(model, base=base, device=device)
    spinner = Console(stderr=True, markup=False).status(f"reading {len(examples)} texts")
    with spinner if sys.stderr.isatty() else nullcontext():
        made = ner.calibrate(examples, recall=recall, precision=precision, confidence=confidence)
    store(model, made)
    _print(model, made, json)


def _print(model: str, made: Guarantee | None, json: bool) -> None:
    if json:
        record: dict[str, Any] = {} if made is None else {"statement": made.statement(), **made.to_dict()}
        print_json({"model": model, "guarantee": record or None})
    elif made is None:
        print(f"guarantee removed from {visible(model)}")
    else:
        _show(made)
    if made is not None:
        note(f"guarantee stored in {model}")


def _show(made: Guarantee) -> None:
    """The promise, the threshold of each label, and what it costs."""
    thresholds = table("label", "threshold")
    if made.precision is None:
        thresholds.add_column("its own recall")
    for label in made.labels:
        reason = made.unpromised.get(label)
        own = [] if made.precision is not None else ["promised" if reason is None else f"not promised: {reason}"]
        thresholds.add_row(Text(visible(label)), f"{made.thresholds.get(label, made.threshold):.3f}", *map(Text, own))
    costs = table(f"on the {made.texts} texts", "precision", "recall", "F1")
    for name, rates in (("thresholds of the shots", made.before), ("thresholds of the guarantee", made.after)):
        costs.add_row(name, *(f"{rates[key]:.3f}" for key in ("precision", "recall", "f1")))
    counted = []
    if made.recall is not None:
        counted.append(f"{made.recall_texts} of the texts have mentions, and count for the recall")
    if made.precision is not None:
        counted.append(f"{made.precision_texts} have reported spans, and count for the precision")
    show(made.statement(), thresholds, costs, f"{'; '.join(counted)}. These texts chose the thresholds.")
