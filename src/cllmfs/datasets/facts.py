"""What a data set holds, in counts: sentences, mentions, repetitions; and what is written of its licence and source.

Knows splits, ``META.json`` beside the data, the catalogue and the hub's cards; knows nothing of how facts are shown.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cllmfs.datasets.catalogue import HUB, find, is_named
from cllmfs.datasets.hub import card_facts
from cllmfs.datasets.splits import SPLITS, load_splits, split_files
from cllmfs.errors import CllmfsError
from cllmfs.schema import Example
from cllmfs.words import word_units

META = "META.json"
_TOLD = ("title", "language", "domain", "licence", "origin")


@dataclass(frozen=True)
class SplitFacts:
    """Counts of a split.

    Attributes:
        sentences: all of them.
        tokens: of the data set; words, where it gives texts only.
        mentions: of each label, the most frequent first.
        without_mentions: sentences that have none.
        longest_mention: in tokens; 0 if there is none.
        repeated: sentences whose text occurred before in the split.
    """

    sentences: int
    tokens: int
    mentions: Mapping[str, int]
    without_mentions: int
    longest_mention: int
    repeated: int


@dataclass(frozen=True)
class DatasetFacts:
    """Counts of a data set.

    Attributes:
        name: as the user gave it.
        told: title, language, domain, licence and origin, as far as they are known.
        splits: by name, in the order train, dev, test; only those that are there.
        test_in_train: sentences of test whose text is in train too; ``None`` if either is missing.
    """

    name: str
    told: Mapping[str, str]
    splits: Mapping[str, SplitFacts]
    test_in_train: int | None

    @property
    def labels(self) -> list[str]:
        """All labels, the most frequent first."""
        totals: Counter[str] = Counter()
        for facts in self.splits.values():
            totals.update(facts.mentions)
        return [label for label, _ in _ranked(totals)]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {**asdict(self), "labels": self.labels}


@dataclass(frozen=True)
class Listed:
    """A data set of a folder of data sets, in a line.

    Attributes:
        name: what the commands and a benchmark's configuration call it.
        told: as in :class:`DatasetFacts`.
        types: labels; ``None`` if not known.
        sentences: of each split; of those only that are known.
    """

    name: str
    told: Mapping[str, str]
    types: int | None
    sentences: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)


def dataset_facts(name: str, source: str, *, licence_accepted: bool = False) -> DatasetFacts:
    """Load a data set and count.

    Args:
        name: what to call it.
        source: a folder, or a name: see :func:`cllmfs.datasets.splits.load_split`.
        licence_accepted: whether the user accepted the terms of its licence.

    Raises:
        ConfigError, DataError: as :func:`cllmfs.datasets.splits.load_splits`.
    """
    splits = load_splits(source, licence_accepted=licence_accepted)
    both = None
    if "train" in splits and "test" in splits:
        known = {example.text for example in splits["train"]}
        both = sum(example.text in known for example in splits["test"])
    return DatasetFacts(name, told(source), {split: split_facts(found) for split, found in splits.items()}, both)


def split_facts(examples: Sequence[Example]) -> SplitFacts:
    """Count a split."""
    mentions = Counter(span.label for example in examples for span in example.spans)
    tokens, longest = 0, 0
    for example in examples:
        units = word_units(example.text) if example.token_offsets is None else example.token_offsets
        tokens += len(units)
        longest = max([longest, *_lengths(example, units)])
    return SplitFacts(
        sentences=len(examples),
        tokens=tokens,
        mentions=dict(_ranked(mentions)),
        without_mentions=sum(not example.spans for example in examples),
        longest_mention=longest,
        repeated=len(examples) - len({example.text for example in examples}),
    )


def _lengths(example: Example, units: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Tokens that each span touches."""
    starts, ends = [start for start, _ in units], [end for _, end in units]
    return (bisect_left(starts, span.end) - bisect_right(ends, span.start) for span in example.spans)


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


# --- what is written of a data set -----------------------------------------------------------------------------------


def told(source: str) -> dict[str, str]:
    """Title, language, domain, licence and origin of a data set, as far as something says them.

    Of a folder by its ``META.json``, whose keys may be missing; else by the catalogue, else by the hub's card.

    Raises:
        ConfigError, DataError: if a name is wrong; a card that cannot be read tells nothing.
    """
    if not is_named(source):
        return _of_meta(_meta(Path(source)))
    name, entry = find(source)
    if entry is not None:
        hub = f"https://huggingface.co/datasets/{name.path}"
        return {"language": entry.language, "domain": entry.domain, "licence": entry.licence, "origin": hub}
    facts = {} if name.is_folder else {"origin": f"https://huggingface.co/datasets/{name.path}"}
    with contextlib.suppress(CllmfsError):
        facts |= card_facts(name)
    return {**facts, **(_of_meta(_meta(Path(name.path))) if name.is_folder else {})}


def _meta(folder: Path) -> Mapping[str, Any]:
    """The folder's ``META.json``; empty if it has none that can be read."""
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    spelled = {**meta, "licence": meta.get("licence", meta.get("license")), "origin": meta.get("source")}
    facts = {key: _flat(spelled.get(key)) for key in _TOLD}
    return {key: value for key, value in facts.items() if value}


def _flat(value: object) -> str:
    """A value of a JSON file in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    return "" if value is None else str(value)


# --- a folder of data sets -------------------------------------------------------------------------------------------


def list_folder(data: Path) -> Iterator[Listed | tuple[str, CllmfsError]]:
    """The data sets right below a folder, by name; the error instead where one cannot be read.

    A folder counts if it has a file of a split, or what the datasets library saves. Counts are those of ``META.json``
    where it has them; else they are made.
    """
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        source = _source(folder)
        if source is None:
            continue
        name = folder.name if source == str(folder) else HUB + folder.name
        try:
            yield _listed(name, source, _meta(folder))
        except CllmfsError as error:
            yield name, error


def _source(folder: Path) -> str | None:
    if any(split_files(folder, split) for split in SPLITS):
        return str(folder)
    saved = ("dataset_dict.json", "state.json", "*/state.json", "*.parquet", "*/*.parquet")
    return f"{HUB}{folder}" if any(True for pattern in saved for _ in folder.glob(pattern)) else None


def _listed(name: str, source: str, meta: Mapping[str, Any]) -> Listed:
    counted, types = _counts_of_meta(meta)
    if not counted or types is None:
        splits = load_splits(source)
        counted = {split: len(found) for split, found in splits.items()}
        types = len(_labels(example for found in splits.values() for example in found))
    return Listed(name, told(source), types, counted)


def _labels(examples: Iterable[Example]) -> set[str]:
    return {label for example in examples for label in example.labels}


def _counts_of_meta(meta: Mapping[str, Any]) -> tuple[dict[str, int], int | None]:
    splits, labels = meta.get("splits"), meta.get("labels")
    counted = {
        split: facts["sentences"]
        for split, facts in (splits.items() if isinstance(splits, dict) else ())
        if split in SPLITS and isinstance(facts, dict) and isinstance(facts.get("sentences"), int)
    }
    return counted, len(labels) if isinstance(labels, list | dict) else None
