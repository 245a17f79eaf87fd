"""Data sets in splits: a folder with a file for each split, in any format that can be read, or a named data set.

Knows the names of files and splits; knows nothing of shots, systems or scores. Names (``hf:...``, ``catalog:...``) are
explained in :mod:`cllmfs.datasets.catalog`.
"""

from __future__ import annotations

from pathlib import Path

from cllmfs.datasets.catalog import HUB, is_named, parse_hub_name
from cllmfs.datasets.hub import load_hub
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import read_examples
from cllmfs.formats.table import FORMATS
from cllmfs.schema import Example

SPLITS = ("train", "dev", "test")
_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}


def load_split(source: str | Path, split: str, *, license_accepted: bool = False) -> list[Example]:
    """All sentences of a split, in order.

    Args:
        source: a folder with a file named after each split, such as ``train.jsonl`` or ``dev.conll``, or a name.
        split: train, dev or test; dev may be called validation or valid.
        license_accepted: whether the user accepted the terms of a named data set's license.

    Raises:
        ConfigError: if the split or the name is unknown, or a library that the name needs is not installed.
        DataError: if the split is missing or there are several files of it, the data breaks a rule, or the license must
            be accepted first.
    """
    if split not in SPLITS:
        raise ConfigError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}")
    if is_named(str(source)):
        (examples,) = load_hub(str(source), _NAMES[split], license_accepted=license_accepted).values()
        return examples
    found = split_files(source, split)
    if not found:
        example = Path(source) / f"{split}.jsonl"
        raise DataError(f"the {split} split needs a file such as {example}; there is none")
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise DataError(f"the {split} split must be one file, got {both} in {source}; remove one")
    return read_examples(found[0])


def load_splits(source: str | Path, *, license_accepted: bool = False) -> dict[str, list[Example]]:
    """All splits that exist, by the names train, dev and test.

    Raises:
        ConfigError, DataError: as for :func:`load_split`; also if there is no split at all.
    """
    if is_named(str(source)):
        found = load_hub(str(source), license_accepted=license_accepted)
        splits = {split: found[name] for split in SPLITS for name in _NAMES[split] if name in found}
        listed = f"; it has {', '.join(found)}"
    else:
        splits = {split: load_split(source, split) for split in SPLITS if split_files(source, split)}
        listed = ""
    if not splits:
        raise DataError(f"{source} has none of the splits {', '.join(SPLITS)}{listed}")
    return splits


def split_files(folder: str | Path, split: str) -> list[Path]:
    """The files of a folder that are named after a split; there should be at most one."""
    suffixes = [suffix for format in FORMATS.values() for suffix in format.suffixes]
    names = [f"{name}{suffix}" for name in _NAMES[split] for suffix in suffixes]
    return [path for name in names if (path := Path(folder) / name).is_file()]


def resolve(data: Path, path: str) -> str:
    """The source of a data set whose path is relative to a data folder; a name is returned unchanged.

    If the data folder contains a folder of the name that follows ``hf:``, that folder is meant. A wrong ``hf:``
    name raises ConfigError.
    """
    if path.startswith(HUB):
        return str(parse_hub_name(path, data))
    return path if is_named(path) else str(data / path)


def without_duplicates(examples: list[Example]) -> list[Example]:
    """The first of each group of examples with the same text and the same annotated labels, in order."""
    first: dict[tuple[str, frozenset[str] | None], Example] = {}
    for example in examples:
        first.setdefault((example.text, example.annotated), example)
    return list(first.values())
