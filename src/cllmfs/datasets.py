"""Data sets of a benchmark: a folder with a file for each split, in any format that can be read.

Knows file names; knows nothing of shots, systems or scores.
"""

from __future__ import annotations

from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.formats import read_examples
from cllmfs.records import CONLL_SUFFIXES, JSON_SUFFIXES
from cllmfs.schema import Example

SPLITS = ("train", "dev", "test")
_NAMES = {"train": ("train",), "dev": ("dev", "validation", "valid"), "test": ("test",)}


def load_split(folder: str | Path, split: str) -> list[Example]:
    """All sentences of a split, in file order.

    Args:
        folder: with a file named after each split, such as ``train.jsonl`` or ``dev.conll``.
        split: train, dev or test; dev may be called validation or valid.

    Raises:
        DataError: if the split is unknown, it has no file or more than one, or the file breaks a rule.
    """
    if split not in SPLITS:
        raise DataError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}")
    names = [f"{name}{suffix}" for name in _NAMES[split] for suffix in (*JSON_SUFFIXES, *CONLL_SUFFIXES)]
    found = [path for name in names if (path := Path(folder) / name).is_file()]
    if not found:
        raise DataError(f"the {split} split needs a file such as {Path(folder) / names[0]}; there is none")
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise DataError(f"the {split} split must be one file, got {both} in {folder}; take one away")
    return read_examples(found[0])


def without_twins(examples: list[Example]) -> list[Example]:
    """The first of each group of examples with the same text, in order."""
    first: dict[str, Example] = {}
    for example in examples:
        first.setdefault(example.text, example)
    return list(first.values())
