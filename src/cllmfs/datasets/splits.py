"""Data sets of a benchmark: a folder with a file for each split, in any format that can be read, or a named data set.

Knows file names and what splits are called; knows nothing of shots, systems or scores. Names (``hf:...``,
``catalogue:...``) are those of :mod:`cllmfs.datasets.catalogue`.
"""

from __future__ import annotations

from pathlib import Path

from cllmfs.datasets.catalogue import HUB, is_named, parse_hub_name
from cllmfs.datasets.hub import load_hub
from cllmfs.errors import DataError
from cllmfs.formats.reading import CONLL_SUFFIXES, JSON_SUFFIXES
from cllmfs.formats.writing import read_examples
from cllmfs.schema import Example

SPLITS = ("train", "dev", "test")
_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}


def load_split(source: str | Path, split: str, *, licence_accepted: bool = False) -> list[Example]:
    """All sentences of a split, in order.

    Args:
        source: a folder with a file named after each split, such as ``train.jsonl`` or ``dev.conll``, or a name.
        split: train, dev or test; dev may be called validation or valid.
        licence_accepted: whether the user accepted the terms of a named data set's licence.

    Raises:
        ConfigError: if the name is wrong, or what it needs is not installed.
        DataError: if the split is unknown, it is not there or there more than once, it breaks a rule, or the licence
            must be accepted first.
    """
    if split not in SPLITS:
        raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}")
    if is_named(str(source)):
        (examples,) = load_hub(str(source), _NAMES[split], licence_accepted=licence_accepted).values()
        return examples
    found = split_files(source, split)
    if not found:
        example = Path(source) / f"{split}{JSON_SUFFIXES[0]}"
        raise DataError(f"the {split} split needs a file such as {example}; there is none")
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise DataError(f"the {split} split must be one file, got {both} in {source}; take one away")
    return read_examples(found[0])


def load_splits(source: str | Path, *, licence_accepted: bool = False) -> dict[str, list[Example]]:
    """All splits that are there, by the names train, dev and test.

    Raises:
        ConfigError, DataError: as :func:`load_split`; also if there is no split at all.
    """
    if is_named(str(source)):
        found = load_hub(str(source), licence_accepted=licence_accepted)
        splits = {split: found[name] for split in SPLITS for name in _NAMES[split] if name in found}
        listed = f"; it has {', '.join(found)}"
    else:
        splits = {split: load_split(source, split) for split in SPLITS if split_files(source, split)}
        listed = ""
    if not splits:
        raise DataError(f"{source} has none of the splits {', '.join(SPLITS)}{listed}")
    return splits


def split_files(folder: str | Path, split: str) -> list[Path]:
    """The files of a folder that are named after a split; it should be one at most."""
    names = [f"{name}{suffix}" for name in _NAMES[split] for suffix in (*JSON_SUFFIXES, *CONLL_SUFFIXES)]
    return [path for name in names if (path := Path(folder) / name).is_file()]


def below(data: Path, path: str) -> str:
    """The source of a data set whose path is given below a data folder; a name stays a name.

    What follows ``hf:`` is a folder below the data folder if there is one.

    Raises:
        ConfigError: if an ``hf:`` name is wrong.
    """
    if path.startswith(HUB):
        return str(parse_hub_name(path, data))
    return path if is_named(path) else str(data / path)


def without_twins(examples: list[Example]) -> list[Example]:
    """The first of each group of examples with the same text, in order."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.text, example)
    return list(first.values())
