"""Facts of a data set: counts of its sentences, mentions and repetitions, and metadata such as license and origin.

Knows splits, ``META.json`` beside the data, the catalog and the hub's cards; knows nothing of how facts are shown.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cllmfs.datasets.catalog import HUB, find, is_named
from cllmfs.datasets.hub import card_facts
from cllmfs.datasets.splits import SPLITS, load_splits, split_files
from cllmfs.errors import CllmfsError
from cllmfs.formats.tagging import token_offsets
from cllmfs.schema import Example, mentions

META = "META.json"
_KEYS = ("title", "language", "domain", "license", "origin")


@dataclass(frozen=True)
class SplitFacts:
    """Counts of a split.

    Attributes:
        tokens: number of tokens; of words if the data set has texts only.
        mentions: number of mentions of each label, the most frequent first.
        without_mentions: number of sentences that have no mention.
        longest_mention: length of the longest mention in tokens; 0 if there is none.
        repeated: number of sentences whose text occurred before in the split.
    """

    sentences: int
    tokens: int
    mentions: Mapping[str, int]
    without_mentions: int
    longest_mention: int
    repeated: int


@dataclass(frozen=True)
class DatasetFacts:
    """Counts and metadata of a data set.

    Attributes:
        name: its name as the user gave it.
        metadata: title, language, domain, license and origin, as far as they are known.
        splits: the splits that exist, by name, in the order train, dev, test.
        test_in_train: number of test sentences whose text is in train too; ``None`` if either is missing.
    """

    name: str
    metadata: Mapping[str, str]
    splits: Mapping[str, SplitFacts]
    test_in_train: int | None

    @property
    def labels(self) -> list[str]:
        """All labels, the most frequent first."""
        totals = sum((Counter(facts.mentions) for facts in self.splits.values()), Counter[str]())
        return [label for label, _ in _ranked(totals)]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {**asdict(self), "labels": self.labels}


@dataclass(frozen=True)
class DatasetSummary:
    """One data set in the list of a folder.

    Attributes:
        name: its name in commands and in the configuration of a benchmark.
        metadata: as in :class:`DatasetFacts`.
        types: number of labels.
        sentences: number of sentences of each split, as far as it is known.
    """

    name: str
    metadata: Mapping[str, str]
    types: int
    sentences: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)


def dataset_facts(name: str, source: str, *, license_accepted: bool = False) -> DatasetFacts:
    """Load a data set and count what it contains; ``name`` is its name in the result.

    The other arguments and the errors are those of :func:`cllmfs.datasets.splits.load_splits`.
    """
    splits = load_splits(source, license_accepted=license_accepted)
    known = {example.text for example in splits.get("train", ())}
    shared = sum(example.text in known for example in splits["test"]) if known and "test" in splits else None
    return DatasetFacts(name, metadata(source), {split: split_facts(found) for split, found in splits.items()}, shared)


def split_facts(examples: Sequence[Example]) -> SplitFacts:
    """Count what a split contains."""
    units = [token_offsets(example) for example in examples]
    lengths = (length for pair in zip(examples, units, strict=True) for length in _lengths(*pair))
    return SplitFacts(
        sentences=len(examples),
        tokens=sum(map(len, units)),
        mentions=dict(_ranked(mentions(examples))),
        without_mentions=sum(not example.spans for example in examples),
        longest_mention=max(lengths, default=0),
        repeated=len(examples) - len({example.text for example in examples}),
    )


def _lengths(example: Example, units: Sequence[tuple[int, int]]) -> Iterator[int]:
    """The number of tokens that each span touches."""
    starts, ends = [start for start, _ in units], [end for _, end in units]
    return (bisect_left(starts, span.end) - bisect_right(ends, span.start) for span in example.spans)


def _ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def metadata(source: str) -> dict[str, str]:
    """Title, language, domain, license and origin of a data set, as far as they are stated.

    They come from the ``META.json`` of a folder, else from the catalog, else from the card on the hub. A card that
    cannot be read counts as empty; a wrong name raises ConfigError or DataError.
    """
    if not is_named(source):
        return _of_meta(_meta(Path(source)))
    name, entry = find(source)
    facts = {} if name.is_folder else {"origin": f"https://huggingface.co/datasets/{name.path}"}
    if entry is not None:
        return {"language": entry.language, "domain": entry.domain, "license": entry.license, **facts}
    with contextlib.suppress(CllmfsError):
        facts |= card_facts(name)
    return {**facts, **(_of_meta(_meta(Path(name.path))) if name.is_folder else {})}


def _meta(folder: Path) -> Mapping[str, Any]:
    """The content of the folder's ``META.json``; empty if there is none that can be read."""
    try:
        found = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _of_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    known = {**meta, "license": meta.get("license", meta.get("licence")), "origin": meta.get("source")}
    facts = {key: _flat(known.get(key)) for key in _KEYS}
    return {key: value for key, value in facts.items() if value}


def _flat(value: object) -> str:
    """A value of a JSON file as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    return "" if value is None else str(value)


def list_folder(data: Path) -> Iterator[DatasetSummary | tuple[str, CllmfsError]]:
    """The data sets in a folder, by name; for one that cannot be read, its name and the error.

    A data set is a folder that has a file for a split, or that the datasets library saved. Counts come from
    ``META.json`` if it has them; otherwise the data set is loaded and counted.
    """
    saved = ("dataset_dict.json", "state.json", "*/state.json", "*.parquet", "*/*.parquet")
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        if any(split_files(folder, split) for split in SPLITS):
            prefix = ""
        elif any(True for pattern in saved for _ in folder.glob(pattern)):
            prefix = HUB
        else:
            continue
        try:
            yield _summary(prefix + folder.name, f"{prefix}{folder}", _meta(folder))
        except CllmfsError as error:
            yield prefix + folder.name, error


def _summary(name: str, source: str, meta: Mapping[str, Any]) -> DatasetSummary:
    splits, labels = meta.get("splits"), meta.get("labels")
    counted = {
        split: facts["sentences"]
        for split, facts in (splits.items() if isinstance(splits, dict) else ())
        if split in SPLITS and isinstance(facts, dict) and isinstance(facts.get("sentences"), int)
    }
    if counted and isinstance(labels, list | dict):
        return DatasetSummary(name, metadata(source), len(labels), counted)
    loaded = load_splits(source)
    types = mentions(example for found in loaded.values() for example in found)
    return DatasetSummary(name, metadata(source), len(types), {split: len(found) for split, found in loaded.items()})
