"""The commands that use a model: predict, evaluate, merge, info.

This file knows the options and where results go; it knows nothing of training. The recognizer, which does the work, is
imported when a command runs, so that ``--help`` stays fast.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cllmfs.cli.options import (
    Device,
    Format,
    Json,
    LabelNames,
    Labels,
    Model,
    MovedBase,
    Settings,
    argument,
    command,
    option,
)
from cllmfs.cli.terminal import note, print_json, show_highlighted, show_scores, visible
from cllmfs.config import Config
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import read_examples, read_labels, write_examples
from cllmfs.formats.jsonl import has_surrogate
from cllmfs.formats.reading import unlabeled_batches
from cllmfs.model.bases import check_findable, locate_base
from cllmfs.model.folder import changed_by, is_model_folder, read_manifest, versions
from cllmfs.progress import clock
from cllmfs.schema import Document, Example, LabelSet

if TYPE_CHECKING:
    from cllmfs.recognizer import EntityRecognizer

app = typer.Typer()


@command(
    app,
    'cllmfs predict my-model "The rear hub has play."',
    "cllmfs predict my-model --input texts.txt --output spans.jsonl --threshold 0.5",
    "cat texts.txt | cllmfs predict my-model --input - | jq -c '.spans[]'",
    'cllmfs predict cllmfs-mini --label person --label place "Ada Lovelace was born in London."',
)
def predict(
    model: Model,
    texts: Annotated[list[str] | None, argument("TEXT", "one or more texts, in place of --input")] = None,
    source: Annotated[
        Path | None,
        option("-i, --input FILE", "one text on each line, or JSONL with text or tokens; - for standard input"),
    ] = None,
    output: Annotated[
        Path, option("-o, --output FILE", "JSONL file, complete at the end; - for standard output, line by line")
    ] = Path("-"),
    labels: Labels = None,
    names: LabelNames = None,
    threshold: Annotated[
        float | None, option("--threshold P", "omit spans with a lower score", min=0.0, max=1.0)
    ] = None,
    settings: Settings = None,
    base: MovedBase = None,
    device: Device = None,
    format: Annotated[
        str | None, option("--format NAME", "format of --input: text | jsonl; by default that of its suffix")
    ] = None,
    json: Annotated[bool, option("--json", "print JSONL on a terminal, too")] = False,
) -> None:
    """Find spans in texts; print one JSON object for each text.

    An object has the text and its spans with start, end, label, score and text, then the other fields of its record in
    FILE, such as an id. Offsets count code points, and end is exclusive. A line from a pipe is answered when it is
    there. On a terminal, the spans of TEXT are highlighted instead.
    """
    if bool(texts) == (source is not None):
        raise ConfigError("predict needs either TEXT or --input FILE (- for standard input), and not both")
    if any(has_surrogate(text) for text in texts or ()):
        raise DataError("TEXT must be UTF-8")
    types = _types(labels, names)
    if types is None and not is_model_folder(model):
        raise DataError(
            f"{model!r} is not the folder of a trained model. If it is a base, name the types to look for with "
            "--label NAME or --labels FILE; otherwise correct the path"
        )
    batches = iter([list(map(Example, texts or ()))]) if source is None else unlabeled_batches(source, format=format)
    ner = _load(model, types, settings, base, device)
    stream = partial(ner.stream, labels=types, threshold=threshold)
    if source is None and str(output) == "-" and not json and sys.stdout.isatty():
        show_highlighted(stream(texts or ()), types or ner.labels or ())
        return
    if source is not None and str(source) != "-" and source.is_file():
        # Everything is there, so the recognizer makes the batches.
        batches = iter([chain.from_iterable(batches)])
    count = write_examples(_flushed(batches, stream, live=str(output) == "-"), output)
    if str(output) != "-":
        note(f"{count} texts written to {output}")


def _flushed(
    batches: Iterator[Iterable[Example]], stream: Callable[[Iterable[str]], Iterator[Document]], live: bool
) -> Iterator[Example]:
    """The texts with predicted spans and their other fields; if ``live``, each is flushed before the next is computed.

    A batch is answered before the next one is read.
    """
    for batch in batches:
        waiting: deque[Example] = deque()  # those that the recognizer has read ahead
        for document in stream(_noted(batch, waiting)):
            promise = {} if document.guarantee is None else {"guarantee": dict(document.guarantee)}
            # A promise of another model, which wrote the text before, does not hold for this one.
            kept = {name: value for name, value in waiting.popleft().extra.items() if name != "guarantee"}
            yield Example(document.text, document.spans, extra={**kept, **promise})
            if live:
                sys.stdout.buffer.flush()


def _noted(batch: Iterable[Example], waiting: deque[Example]) -> Iterator[str]:
    """The texts of a batch, each noted when it is read."""
    for example in batch:
        waiting.append(example)
        yield example.text


def _types(file: Path | None, names: Sequence[str] | None) -> LabelSet | None:
    if file is not None and names:
        raise ConfigError("--labels FILE and --label NAME exclude each other; give one of the two")
    if file is not None:
        return read_labels(file)
    return LabelSet(names) if names else None


def _load(
    model: str, types: LabelSet | None, settings: Sequence[str] | None, base: str | None, device: str | None
) -> EntityRecognizer:
    """The recognizer, with settings changed by ``--set``; these are checked before anything is loaded.

    Raises:
        ConfigError: if an assignment is wrong, or changes a setting that training fixed, or a base has no base.
    """
    config, trained = None, is_model_folder(model)
    if base is not None and not trained:
        raise ConfigError(f"--base says where the base of a trained model is, and {model!r:.200} is none; leave it out")
    if not trained:
        check_findable(model)  # before the libraries are imported, which takes seconds
    if settings:
        saved = Config.from_dict(read_manifest(model)["config"], model) if trained else Config()
        config = saved.with_settings(settings)
        if trained and (changed := changed_by(config.to_dict(), saved.to_dict())):
            raise ConfigError(
                f"--set cannot change {', '.join(changed)} of {model}, which training fixed; settings of [runtime], "
                "such as runtime.threshold, can still change. To change others, train a new model"
            )
    from cllmfs.recognizer import EntityRecognizer

    return EntityRecognizer.load(model, labels=types, config=config, base=base, device=device)


@command(
    app,
    "cllmfs evaluate my-model test.jsonl",
    "cllmfs evaluate my-model test.conll --limit 200 --json",
    "cllmfs evaluate cllmfs-mini test.jsonl --labels labels.toml",
)
def evaluate(
    model: Model,
    test: Annotated[Path, argument("TEST")],
    labels: Labels = None,
    names: LabelNames = None,
    limit: Annotated[int | None, option("--limit N", "score only the first N sentences", min=1)] = None,
    settings: Settings = None,
    base: MovedBase = None,
    device: Device = None,
    format: Format = None,
    json: Json = False,
) -> None:
    """Score a model on labeled sentences.

    A span counts only if its start, its end and its label are right. The types are those of --label or --labels; if
    there are none, those of the model, or of TEST for a base.
    """
    types = _types(labels, names)
    gold = read_examples(test, format=format)
    if types is None and not is_model_folder(model):
        types = LabelSet.of_examples(gold)
    scored, ner = gold[:limit], _load(model, types, settings, base, device)
    began = time.monotonic()
    spinner = Console(stderr=True, markup=False).status(f"evaluating {len(scored)} sentences")
    with spinner if sys.stderr.isatty() else nullcontext():
        scores = ner.evaluate(scored, labels=types)
    note(f"{len(scored)} of {len(gold)} sentences scored in {clock(time.monotonic() - began)}")
    if json:
        print_json(scores.to_dict())
    else:
        show_scores(scores)


@command(
    app,
    "cllmfs merge my-model --output my-base",
    "cllmfs merge my-model --output my-base --device cpu",
    "cllmfs merge my-model --output my-base && cllmfs train shots.jsonl --base my-base --output next-model",
)
def merge(
    model: Annotated[str, argument("MODEL", "folder of a trained model")],
    output: Annotated[Path, option("-o, --output DIR", "new folder to write")],
    base: MovedBase = None,
    device: Device = None,
) -> None:
    """Merge a trained model into a new base, to train other types.

    DIR becomes an ordinary causal LM in fp32, with the adapter merged into its weights. `cllmfs train --base DIR` then
    begins with what the model learned about its types.
    """
    if not is_model_folder(model):
        raise DataError(f"{model!r} must be the folder of a trained model; a base has no adapter to merge")
    ner = _load(model, None, ["runtime.weights=fp32"], base, device)
    print(f"base: {visible(str(ner.save_base(output)))}")


@command(app, "cllmfs info", "cllmfs info my-model --json", "cllmfs info --config > settings.toml")
def info(
    model: Annotated[str | None, argument("MODEL", "folder of a trained model, or a base")] = None,
    config: Annotated[bool, option("--config", "print all settings as TOML: those of MODEL, or the defaults")] = False,
    base: MovedBase = None,
    json: Json = False,
) -> None:
    """Show a model, all settings, or versions and devices.

    Without MODEL and options, the command prints what a bug report should contain.
    """
    if base is not None and (model is None or not is_model_folder(model)):
        raise ConfigError("--base says where the base of a trained model is; give its folder as MODEL")
    if config:
        chosen = Config() if model is None else Config.from_dict(_model_record(model)["config"], model)
        if json:
            print_json(chosen.to_dict())
        else:
            print(chosen.to_toml(), end="")
        return
    record = _machine() if model is None else _model_record(model)
    if model is not None and base is not None:
        record["base"] = locate_base(model, record, base)
    if json:
        print_json(record)
    else:
        for line in _lines(record):
            print(visible(line))


def _model_record(model: str) -> dict[str, Any]:
    if is_model_folder(model):
        return read_manifest(model)
    from cllmfs.recognizer import EntityRecognizer

    return EntityRecognizer.load(model).info()


def _machine() -> dict[str, Any]:
    """Versions, CPU and GPUs; if torch cannot be imported, the reason."""
    record: dict[str, Any] = {**versions(), "platform": platform.platform(), "cpus": os.cpu_count()}
    try:
        import torch
    except (ImportError, OSError) as error:  # a bug report may be about a broken installation
        return {**record, "torch error": str(error)}
    record["torch threads"] = torch.get_num_threads()
    record["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    record["mps"] = torch.backends.mps.is_available()
    return record


def _lines(record: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of the form ``key: value``; nested objects are indented."""
    for key, value in record.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | dict):
            yield f"{indent}{key}: {', '.join(map(str, value)) or 'none'}"
        else:
            yield f"{indent}{key}: {value}"
