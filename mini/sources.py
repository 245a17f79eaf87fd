"""The training sets of cllmfs-mini: which are allowed, what is kept of them, and what their labels are called.

Refuses a license off the allow-list and any measuring set; leaves out every sentence that a measuring set holds.
Knows files and licenses. Knows nothing of queries, augmentation or models.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cllmfs.errors import ConfigError, DataError
from cllmfs.schema import Example, Span
from mini.augment import TokenSpan
from mini.written import Sheet, sheets

SOURCES_FILE = Path(__file__).with_name("sources.toml")
TYPES_FILE = Path(__file__).with_name("types.toml")
MAX_TOKENS = 60
MEASURING = ("wnut17", "mit_movie_trivia", "snips", "crossner_", "few_tk_", "fewnerd_")

_LICENCES = re.compile(
    r"(CC[ -]BY-SA|CC[ -]BY|CC0|public domain|MIT|Apache|GENIA|BSD|CDLA-Permissive)"
    r"(?=$|[ -]v?\d|\s*\(|[,;.]| Licen[cs]e| Project)",
    re.I,
)
_RESTRICTED = re.compile(r"(?<![a-z])(?:nc|nd|non-?commercial|no-?deriv\w*|not stated|mixed)(?![a-z])", re.I)
_NOT_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class TrainingItem:
    """One sentence: tokens, (start token, end token exclusive, label) spans, name of its source.

    ``written`` is the sentence with its own spacing, where it did not come as tokens. ``group`` says to which part of a
    set it belongs, if each part has labels of its own.
    """

    tokens: list[str]
    spans: list[TokenSpan]
    source: str
    written: Example | None = None
    group: str = ""


@dataclass(frozen=True)
class TypeNames:
    """How a label may be put in words; ``names[0]`` is the plain name. ``unless`` only serves foreign types."""

    key: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    unless: tuple[str, ...] = ()


@dataclass
class Report:
    """Sentences of one source: read, and why they were left out. ``read`` = the sum of the others.

    ``leaked``: in a measuring set; ``in_check_set``: held out by another source; ``damaged``: no words, broken
    characters or overlapping spans.
    """

    read: int = 0
    leaked: int = 0
    in_check_set: int = 0
    damaged: int = 0
    duplicate: int = 0
    too_long: int = 0
    held_out: int = 0
    kept: int = 0


@dataclass
class Source:
    """A training set, ready to draw from. ``items`` holds no held-out and no measuring sentence.

    ``apart`` are groups of labels: where one of a group is present, those of the others were not annotated.
    """

    name: str
    domain: str
    license: str
    attribution: str
    weight: float
    split_punctuation: bool
    items: list[TrainingItem]
    held: list[TrainingItem]
    types: dict[str, TypeNames]
    foreign: tuple[TypeNames, ...]
    report: Report
    apart: tuple[frozenset[str], ...] = ()
    labels: tuple[str, ...] = field(init=False)
    mentions: dict[str, list[tuple[str, ...]]] = field(init=False, default_factory=dict)
    filled: list[int] = field(init=False, default_factory=list)
    empty: list[int] = field(init=False, default_factory=list)
    by_label: dict[str, list[int]] = field(init=False, default_factory=dict)
    label_steps: list[float] = field(init=False)

    def __post_init__(self) -> None:
        for number, item in enumerate(self.items):
            (self.filled if item.spans else self.empty).append(number)
            for label in sorted({span[2] for span in item.spans}):
                self.by_label.setdefault(label, []).append(number)
            for start, end, label in item.spans:
                self.mentions.setdefault(label, []).append(tuple(item.tokens[start:end]))
        seen = {span[2] for item in (*self.items, *self.held) for span in item.spans}
        self.labels = tuple(sorted(seen))
        # Square root: rare labels come up more often than they occur, yet a handful of sentences is not drilled.
        self.by_label = dict(sorted(self.by_label.items()))
        roots = np.sqrt([len(rows) for rows in self.by_label.values()]) if self.by_label else np.ones(1)
        self.label_steps = [float(step) for step in np.cumsum(roots / roots.sum())]


def license_family(text: str) -> str | None:
    """The allow-listed family that a license text opens with, upper-case, or ``None``.

    Texts that open well but name a non-commercial, no-derivatives, mixed or missing license further on are refused too.
    """
    match = _LICENCES.match(text.strip().strip("\"'"))
    if match is None or _RESTRICTED.search(text):
        return None
    return match.group(1).upper().replace("CC-BY", "CC BY")


def is_measuring(name: str) -> bool:
    """Whether a set is kept for measuring (zero-shot and few-shot tests), so that training must not see it."""
    return any(name.startswith(prefix) if prefix.endswith("_") else name == prefix for prefix in MEASURING)


def normalized(tokens: Sequence[str]) -> str:
    """Letters and digits of a sentence in lower case, so that two tokenizations of a sentence come out the same."""
    return _NOT_WORD.sub("", "".join(tokens).lower())


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} must be a readable TOML file, got: {error}") from error


def _read_split(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError("a split must be a JSONL file, found none; put the set there or take it off", source=str(path))
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _refuse(name: str, entry: Mapping[str, Any], folder: Path) -> None:
    """Refuse a measuring set, a license off the allow-list, and a license that the set's own META.json contradicts.

    Where that file states none, ``license_stated_in`` names the place where its authors do.
    """
    if is_measuring(name) or is_measuring(folder.name):
        raise ConfigError(f"the set {folder.name!r} is a measuring set and must not be trained on; take off {name!r}")
    license = str(entry.get("license", "not stated"))
    allowed = "CC BY, CC BY-SA, CC0, public domain, MIT, Apache, GENIA, BSD, CDLA-Permissive"
    family = license_family(license)
    if family is None:
        raise ConfigError(f"the set {name!r} has the license {license!r}, which is not allowed; allowed: {allowed}")
    meta = folder / "META.json"
    if meta.is_file():
        stated = str(json.loads(meta.read_text(encoding="utf-8")).get("licence", "not stated"))
        elsewhere = stated.startswith("not stated") and "license_stated_in" in entry
        if license_family(stated) != family and not elsewhere:
            raise ConfigError(
                f"the set {name!r} is listed as {license!r}, but its META.json states {stated!r}; allowed: {allowed}"
            )


def _type_names(key: str, entry: Mapping[str, Any]) -> TypeNames:
    names, descriptions = tuple(entry.get("names", ())), tuple(entry.get("descriptions", ()))
    if len(names) < 2 or not descriptions:
        raise ConfigError(f"the type {key!r} needs at least two names and one description, got {entry!r}")
    return TypeNames(key, names, descriptions, tuple(entry.get("unless", ())))


def _check_names(source: Source) -> None:
    """Every label has names, and no name stands for two labels of the source (or of its foreign types)."""
    if missing := [label for label in source.labels if label not in source.types]:
        raise ConfigError(f"the set {source.name!r} has labels without names: {missing}; add them to types.toml")
    owner: dict[str, str] = {}
    for kind in (*source.types.values(), *source.foreign):
        for name in {name.casefold().replace("_", " ") for name in kind.names}:
            if owner.setdefault(name, kind.key) != kind.key:
                raise ConfigError(f"the name {name!r} stands for {owner[name]!r} and {kind.key!r}; choose another")


def measuring_texts(data_dir: Path) -> set[str]:
    """Normalized texts of every measuring set under ``data_dir``.

    Raises:
        DataError: if none is there, for then nothing could be kept out of training.
    """
    folders = sorted(folder for folder in data_dir.iterdir() if folder.is_dir() and is_measuring(folder.name))
    if not folders:
        raise DataError(f"the leak filter needs the measuring sets {MEASURING}, found none in {data_dir}; add them")
    files = [path for folder in folders for path in sorted(folder.glob("*.jsonl"))]
    return {normalized(record["tokens"]) for path in files for record in _read_split(path)}


def _clean(record: Mapping[str, Any], source: str, entry: Mapping[str, Any]) -> TrainingItem | None:
    """The record as an item, or ``None`` if it has no words, broken characters or spans that overlap."""
    group = str(record.get(entry.get("each"), ""))
    unasked = set(entry.get("unasked", ()))
    if "text" in record:
        return _clean_text(record, source, group, unasked)
    tokens = [str(token) for token in record["tokens"]]
    spans = sorted((int(start), int(end), str(label)) for start, end, label in record["spans"] if label not in unasked)
    ends = [0, *(span[1] for span in spans)]
    if any(not end_before <= start < end for end_before, (start, end, _) in zip(ends, spans, strict=False)):
        return None
    if (
        ends[-1] > len(tokens)
        or not all(token.strip() for token in tokens)
        or any("\ufffd" in token for token in tokens)
    ):
        return None

    # A lone "@" or "+" is an artefact of tokenization; a lone currency sign is a mention.
    def speaks(start: int, end: int) -> bool:
        return any(char.isalnum() or unicodedata.category(char) == "Sc" for char in "".join(tokens[start:end]))

    return TrainingItem(tokens, [span for span in spans if speaks(span[0], span[1])], source, group=group)


def _clean_text(record: Mapping[str, Any], source: str, group: str, unasked: set[str]) -> TrainingItem | None:
    """:func:`_clean` of a record with a text and offsets."""
    text = str(record["text"])
    marks = [mark for mark in record["spans"] if mark["label"] not in unasked]
    spans = [Span(mark["start"], mark["end"], mark["label"]) for mark in marks]
    spans = sorted((span for span in spans if any(char.isalnum() for char in text[span.start : span.end])), key=_place)
    if "\ufffd" in text or any(one.end > other.start for one, other in pairwise(spans)):
        return None
    return replace(written_item(Example(text, tuple(spans)), source), group=group)


def _place(span: Span) -> tuple[int, int]:
    return span.start, span.end


def _split_items(
    name: str, entry: Mapping[str, Any], folder: Path, measuring: set[str], report: Report
) -> tuple[dict[str, TrainingItem], dict[str, TrainingItem]]:
    """(training, held-out) items by normalized text; a held-out split wins over a duplicate elsewhere."""
    hold: str | int = entry.get("held_out", 0)
    splits = sorted(entry["splits"], key=lambda split: split != hold)
    kept: dict[str, TrainingItem] = {}
    held: dict[str, TrainingItem] = {}
    for split in splits:
        for record in _read_split(folder / f"{split}.jsonl"):
            report.read += 1
            text = normalized(record["tokens"] if "tokens" in record else [record["text"]])
            if text in measuring:
                report.leaked += 1
            elif not text or (item := _clean(record, name, entry)) is None:
                report.damaged += 1
            elif text in kept or text in held:
                report.duplicate += 1
            elif len(item.tokens) > MAX_TOKENS:
                report.too_long += 1
            else:
                (held if split == hold else kept)[text] = item
    if isinstance(hold, int) and hold:
        # By hash, so that the choice does not depend on the order of the file.
        chosen = sorted(kept, key=lambda text: hashlib.sha256(text.encode()).digest())[:hold]
        held = {text: kept.pop(text) for text in chosen}
    report.held_out = len(held)
    return kept, held


# A word with what is glued into it ("wi-fi", "3.5", "don't"), or one mark.
_WORD = re.compile(r"\w+(?:[-'’./:@&+]\w+)*|[^\w\s]")


def written_item(example: Example, source: str) -> TrainingItem:
    """A sentence that did not come as tokens, as tokens; a mention's edges are always tokens' edges."""
    edges = sorted({0, len(example.text), *(at for span in example.spans for at in (span.start, span.end))})
    words = [
        (low + match.start(), low + match.end())
        for low, high in pairwise(edges)
        for match in _WORD.finditer(example.text[low:high])
    ]
    starts = {start: number for number, (start, _) in enumerate(words)}
    ends = {end: number + 1 for number, (_, end) in enumerate(words)}
    spans = [(starts[span.start], ends[span.end], span.label) for span in example.spans]
    return TrainingItem([example.text[start:end] for start, end in words], spans, source, example)


def sheet_source(sheet: Sheet, weight: float, measuring: set[str]) -> Source:
    """A written sheet as a training set; every tenth sentence is held out."""
    report = Report(read=len(sheet.examples))
    kept: dict[str, TrainingItem] = {}
    for example in sheet.examples:
        item = written_item(example, sheet.name)
        text = normalized(item.tokens)
        report.leaked += text in measuring
        report.duplicate += text in kept
        if text not in measuring:
            kept.setdefault(text, item)
    items = list(kept.values())
    held, items = items[9::10], [item for number, item in enumerate(items) if number % 10 != 9]
    report.held_out, report.kept = len(held), len(items)
    types = {kind.key: TypeNames(f"{sheet.name}:{kind.key}", kind.names, kind.descriptions) for kind in sheet.types}
    attribution = f"{sheet.title} ({sheet.register}), written for this project."
    return Source(sheet.name, "written", "Apache-2.0", attribution, weight, False, items, held, types, (), report)


def _parts(source: Source, schema: Path) -> list[Source]:
    """A set for each group of a set's items; they share its weight in the ratio of the square roots of their sizes.

    A schema, if the set has one, names the labels of each group.
    """
    named = json.loads(schema.read_text(encoding="utf-8")) if schema.is_file() else {}
    groups = sorted({item.group for item in source.items})
    roots = {group: sum(item.group == group for item in source.items) ** 0.5 for group in groups}
    return [
        replace(
            source,
            name=f"{source.name}:{group}",
            weight=source.weight * roots[group] / sum(roots.values()),
            items=[item for item in source.items if item.group == group],
            held=[item for item in source.held if item.group == group],
            types=_schema_types(f"{source.name}:{group}", named[group]) if named else source.types,
        )
        for group in groups
    ]


def _schema_types(source: str, slots: Mapping[str, Any]) -> dict[str, TypeNames]:
    """The types of a service; of a name that two slots share, only the first slot keeps it."""
    types, taken = {}, set[str]()
    for label, pairs in slots.items():
        names = dict.fromkeys(name for pair in pairs if (name := pair["name"].replace("_", " ").lower()) not in taken)
        taken |= set(names)
        descriptions = tuple(dict.fromkeys(pair["description"] for pair in pairs))
        types[label] = _type_names(f"{source}:{label}", {"names": list(names), "descriptions": descriptions})
    return types


def load_sources(
    data_dir: str | Path,
    *,
    sources_file: Path = SOURCES_FILE,
    types_file: Path = TYPES_FILE,
    written_share: float = 0.0,
) -> list[Source]:
    """Read, filter and index every set of ``sources_file``.

    Args:
        data_dir: folder with one folder a set (``*.jsonl`` of tokens and token spans, META.json).
        written_share: draws from the written sheets for each draw from those sets.

    Raises:
        ConfigError: a license off the allow-list, a measuring set, a label without names, one name for two labels.
        DataError: a missing set or split, or no measuring set to filter by.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise DataError(f"the data folder must exist, got {data_dir}")
    entries, words = _read_toml(sources_file).get("sources", {}), _read_toml(types_file)
    for name, entry in entries.items():
        _refuse(name, entry, data_dir / entry["folder"])
    measuring = measuring_texts(data_dir)
    reports = {name: Report() for name in entries}
    read = {n: _split_items(n, e, data_dir / e["folder"], measuring, reports[n]) for n, e in entries.items()}
    checked = {text for _, held in read.values() for text in held}
    sources = []
    for name, entry in entries.items():
        kept, held = read[name]
        # A sentence that another set holds out is no training sentence here either.
        items = [item for text, item in kept.items() if text not in checked]
        reports[name].in_check_set = len(kept) - len(items)
        reports[name].kept = len(items)
        foreign = words.get("foreign", {}).get(entry["domain"], {})
        source = Source(
            name=name,
            domain=entry["domain"],
            license=entry["license"],
            attribution=entry["attribution"],
            weight=float(entry["weight"]),
            split_punctuation=bool(entry.get("split_punctuation", False)),
            items=items,
            held=list(held.values()),
            types={label: _type_names(f"{name}:{label}", kind) for label, kind in words.get(name, {}).items()},
            foreign=tuple(_type_names(f"foreign:{key}", kind) for key, kind in foreign.items()),
            report=reports[name],
            apart=tuple(frozenset(group) for group in entry.get("apart", ())),
        )
        parts = [source] if "each" not in entry else _parts(source, data_dir / entry["folder"] / "schema.json")
        for part in parts:
            _check_names(part)
        sources += parts
    if not written_share:
        return sources
    return sources + written_sources(written_share * sum(source.weight for source in sources), measuring)


def written_sources(weight: float, measuring: set[str]) -> list[Source]:
    """All sheets, sharing ``weight`` in the ratio of the square roots of their sizes."""
    found = list(sheets())
    roots = [len(sheet.examples) ** 0.5 for sheet in found]
    return [sheet_source(s, weight * root / sum(roots), measuring) for s, root in zip(found, roots, strict=True)]
