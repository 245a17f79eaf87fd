"""The commands that use a model: predict, evaluate, merge, info.

Knows the options and where results go; the work is done by :class:`cllmfs.recognizer.EntityRecognizer`, which is
imported when a command runs, so that ``--help`` stays quick. Knows nothing of training.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cllmfs.cli.options import Device, Format, Json, LabelNames, Labels, Model, Settings, examples
from cllmfs.cli.terminal import (
    clock,
    guarded,
    highlighted,
    label_colours,
    note,
    print_json,
    show,
    show_scores,
    visible,
)
from cllmfs.config import Config
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.jsonl import has_surrogate
from cllmfs.formats.writing import iter_texts, read_examples, read_labels, write_examples
from cllmfs.model.folder import is_model_folder, read_manifest, versions
from cllmfs.schema import Document, Example, LabelSet

if TYPE_CHECKING:
    from cllmfs.recognizer import EntityRecognizer

app = typer.Typer()


# --- predict and evaluate --------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        'cllmfs predict my-model "The rear hub has play."',
        "cllmfs predict my-model --input texts.txt --output spans.jsonl --threshold 0.5",
        "cat texts.txt | cllmfs predict my-model --input - | jq -c '.spans[]'",
        'cllmfs predict cllmfs-mini --label person --label place "Ada Lovelace was born in London."',
    )
)
@guarded
def predict(
    model: Model,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="texts; or --input", show_default=False)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--input", "-i", metavar="FILE", help="a text a line, or JSONL with text; - for standard input"),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="JSONL file, whole at the end; - streams")
    ] = Path("-"),
    labels: Labels = None,
    names: LabelNames = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.0, max=1.0, help="drop spans with a lower score")
    ] = None,
    settings: Settings = None,
    device: Device = None,
    format: Annotated[
        str | None, typer.Option("--format", help="of --input: text | jsonl; by its extension if not given")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSONL on a terminal too")] = False,
) -> None:
    """Find spans in texts: one JSON object a line.

    Each has the text and its spans with start, end, label, score and text. Offsets count code points, end
    exclusive. On a terminal, spans of TEXT are highlighted instead.
    """
    if bool(texts) == (source is not None):
        raise ConfigError("predict needs either TEXT or --input FILE (- for standard input), and not both")
    if any(has_surrogate(text) for text in texts or ()):
        raise DataError("TEXT must be UTF-8")
    types = _types(labels, names)
    if types is None and not is_model_folder(model):
        raise DataError(
            f"{model!r} is no folder of a trained model, so it is taken for a base, which has no types of its own: "
            "name them with --label NAME or --labels FILE, or mend the path"
        )
    given: Iterable[str] = iter_texts(source, format=format) if source is not None else texts or ()
    ner = _load(model, types, settings, device)
    documents = ner.stream(given, labels=types, threshold=threshold)
    if source is None and str(output) == "-" and not json and sys.stdout.isatty():
        colours = label_colours(types or ner.labels or ())
        show(*(highlighted(document, colours) for document in documents))
        return
    count = write_examples(_flushed(documents, live=str(output) == "-"), output)
    if str(output) != "-":
        note(f"{count} texts written to {output}")


def _flushed(documents: Iterable[Document], live: bool) -> Iterator[Example]:
    """Documents in the shape that the writer takes; each leaves the process before the next is computed."""
    for document in documents:
        yield Example(document.text, document.spans)
        if live:
            sys.stdout.buffer.flush()


def _types(file: Path | None, names: Sequence[str] | None) -> LabelSet | None:
    if file is not None and names:
        raise ConfigError("types come from --labels FILE or from --label NAME; give one of the two")
    if file is not None:
        return read_labels(file)
    return LabelSet(names) if names else None


def _load(model: str, types: LabelSet | None, settings: Sequence[str] | None, device: str | None) -> EntityRecognizer:
    """The recogniser, its own settings changed by ``--set``, which is checked before anything is loaded."""
    config = None
    if settings:
        saved = Config.from_dict(read_manifest(model).record["config"], model) if is_model_folder(model) else Config()
        config = saved.with_settings(settings)
    from cllmfs.recognizer import EntityRecognizer

    return EntityRecognizer.load(model, labels=types, config=config, device=device)


def _busy(message: str) -> AbstractContextManager[object]:
    """A spinner on standard error, on terminals only."""
    if not sys.stderr.isatty():
        return nullcontext()
    return Console(stderr=True, markup=False).status(message)


@app.command(
    epilog=examples(
        "cllmfs evaluate my-model test.jsonl",
        "cllmfs evaluate my-model test.conll --limit 200 --json",
        "cllmfs evaluate cllmfs-mini test.jsonl --labels labels.toml",
    )
)
@guarded
def evaluate(
    model: Model,
    test: Annotated[
        Path, typer.Argument(metavar="TEST", help="labelled file, - for standard input", show_default=False)
    ],
    labels: Labels = None,
    names: LabelNames = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="score the first N sentences only")] = None,
    settings: Settings = None,
    device: Device = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Score a model on labelled sentences, strictly.

    A span counts if its start, its end and its label are right. Types are those named here, else the model's own;
    for a base, else those of TEST.
    """
    types = _types(labels, names)
    gold = read_examples(test, format=format)
    if types is None and not is_model_folder(model):
        types = LabelSet.of_examples(gold)
    scored = gold[:limit]
    ner = _load(model, types, settings, device)
    began = time.monotonic()
    with _busy(f"evaluating {len(scored)} sentences"):
        scores = ner.evaluate(scored, labels=types)
    note(f"{len(scored)} of {len(gold)} sentences scored in {clock(time.monotonic() - began)}")
    if json:
        print_json(scores.to_dict())
    else:
        show_scores(scores)


# --- merge -----------------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "cllmfs merge my-model --output my-base",
        "cllmfs merge my-model --output my-base --device cpu",
        "cllmfs merge my-model --output my-base && cllmfs train shots.jsonl --base my-base --output next-model",
    )
)
@guarded
def merge(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="folder to write; it must be new")],
    device: Device = None,
) -> None:
    """Write a trained model as a base, for other types.

    The folder is an ordinary causal LM with the adapter in its weights, which are in fp32. What was learned of one set
    of types is then the start for another: `cllmfs train --base DIR`.
    """
    if not is_model_folder(model):
        raise DataError(f"{model!r} is no folder of a trained model, so there is nothing to merge")
    ner = _load(model, None, ["model.weights=fp32"], device)
    print(f"base: {visible(str(ner.save_base(output)))}")


# --- info ------------------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "cllmfs info",
        "cllmfs info my-model --json",
        "cllmfs info --config > settings.toml",
    )
)
@guarded
def info(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="model folder or base", show_default=False)
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="print all settings as TOML, those of MODEL or the defaults")
    ] = False,
    json: Json = False,
) -> None:
    """Tell versions and devices, what a model is, or all settings.

    Without MODEL and options, it prints what a bug report should hold.
    """
    if config:
        chosen = Config() if model is None else Config.from_dict(_model_record(model)["config"], model)
        if json:
            print_json(chosen.to_dict())
        else:
            print(chosen.to_toml(), end="")
        return
    record = _machine() if model is None else _model_record(model)
    if json:
        print_json(record)
    else:
        for line in _lines(record):
            print(visible(line))


def _model_record(model: str) -> dict[str, Any]:
    if is_model_folder(model):
        return read_manifest(model).record
    from cllmfs.recognizer import EntityRecognizer

    return EntityRecognizer.load(model).info()


def _machine() -> dict[str, Any]:
    """Versions, CPU and GPUs; says why where torch cannot be loaded."""
    record: dict[str, Any] = {**versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken install is just what a bug report is about
        return {**record, "torch error": str(error)}
    record["torch threads"] = torch.get_num_threads()
    record["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    record["mps"] = torch.backends.mps.is_available()
    return record


def _lines(record: dict[str, Any], indent: str = "") -> Iterator[str]:
    """``key: value`` lines; nested objects are indented."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | dict):
            yield f"{indent}{key}: {', '.join(map(str, value)) or 'none'}"
        else:
            yield f"{indent}{key}: {value}"
