"""Data sets of the few-shot benchmark: read from a folder that the user brings, never part of the project.

Layout: ``<folder>/<name>/{train,dev,test}.jsonl``, a JSON object a line:
``{"tokens": [...], "spans": [[start_token, end_token_exclusive, "label"], ...]}``. The folder is an argument or the
environment variable CLLMFS_DATA. Knows files, shots and the options that say which; knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.sampling import sample_k_shot
from cllmfs.schema import Example

ENVIRONMENT = "CLLMFS_DATA"
SPLITS = ("train", "dev", "test")


def folder(data: str | Path | None = None) -> Path:
    """The data folder: ``data`` if given, else what CLLMFS_DATA names.

    Raises:
        DataError: if neither names a folder.
    """
    value = data if data is not None else os.environ.get(ENVIRONMENT)
    if not value:
        raise DataError(f"the benchmark needs its data folder; pass --data or set {ENVIRONMENT}")
    path = Path(value)
    if not path.is_dir():
        raise DataError(f"the data folder must exist, got {str(path)!r}")
    return path


def load(name: str, split: str, data: str | Path | None = None) -> list[Example]:
    """All sentences of a split, in file order; tokens are joined with one space.

    Raises:
        DataError: if the split is unknown or missing, or a line breaks the layout.
    """
    if split not in SPLITS:
        raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}")
    path = folder(data) / name / f"{split}.jsonl"
    if not path.is_file():
        raise DataError(f"data set {name!r} needs the file {path}, which does not exist")
    examples = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                spans = [(int(start), int(end), str(label)) for start, end, label in record["spans"]]
                tokens = [str(token) for token in record["tokens"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"a line must hold tokens and spans: {error}", source=str(path), line=number) from error
            examples.append(Example.from_tokens(tokens, spans, source=f"{name}/{split}.jsonl:{number}"))
    return examples


def unique(examples: list[Example]) -> list[Example]:
    """The first of each group of examples with the same text, in order."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.text, example)
    return list(first.values())


def supports(name: str, k: int, seed: int, data: str | Path | None = None) -> list[Example]:
    """The greedy K-shot support set of a seed: drawn from the training split without duplicate sentences.

    Raises:
        DataError: as :func:`load` and :func:`cllmfs.sampling.sample_k_shot`.
    """
    return sample_k_shot(unique(load(name, "train", data)), k, seed)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options by which every system is told its runs: data sets, numbers of shots, seeds, sentences, output."""
    parser.add_argument("--data", help=f"folder of the data sets; default: ${ENVIRONMENT}")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--limit", type=int, help="score the first N sentences only")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--output", type=Path, required=True)


def scored(arguments: argparse.Namespace) -> dict[str, list[Example]]:
    """The sentences to score of each data set that the options name."""
    return {name: load(name, arguments.split, arguments.data)[: arguments.limit] for name in arguments.datasets}
