"""Data sets of the Hugging Face hub, and folders in its formats, through the ``datasets`` library.

    tokens with ner_tags, tags, labels ...    class labels, or strings; any scheme, or bare types without prefixes
    tokens with spans                         start, end (token indices, end exclusive), label
    text with spans or entities               start, end (code points, end exclusive), label

Knows licences, columns and what their numbers mean. Code of a data set is never run: where one is made by a script, the
copy is taken that the hub made of it. Needs the library when it loads; knows nothing of which splits there ought to be.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cllmfs.datasets.catalogue import Entry, HubName, find
from cllmfs.errors import CllmfsError, ConfigError, DataError
from cllmfs.formats.tagging import tag_problem
from cllmfs.formats.writing import examples_of_rows
from cllmfs.schema import Example

CONVERTED = "refs/convert/parquet"  # the branch where the hub puts its copies, a folder for each configuration
_VERSION = 4  # of the library: earlier ones can run scripts
_TAGS = ("ner_tags", "tags", "labels", "ner_labels", "bio_tags", "ner")
_SPANS = ("spans", "entities")
_NO_LICENCE = ("", "none", "other", "unknown")

_Row = dict[str, Any]
_logger = logging.getLogger(__name__)


def load_hub(text: str, wanted: Sequence[str] = (), *, licence_accepted: bool = False) -> dict[str, list[Example]]:
    """The splits of a data set, by the names that it gives them.

    Args:
        text: a name as :mod:`cllmfs.datasets.catalogue` knows them.
        wanted: names of one split, which must be there under one of them; all splits if empty.
        licence_accepted: whether the user accepted the terms of a licence that asks for it.

    Raises:
        ConfigError: if the name is wrong, or the ``datasets`` library is missing.
        DataError: if the licence asks to be accepted, the data cannot be loaded, or they are of no form above.
    """
    name, entry = find(text)
    if not (licence_accepted or name.is_folder):
        _check_licence(name, entry)
    there = _open(name)
    chosen = [split for split in there if split in wanted or not wanted]
    if len(chosen) != 1 and wanted:
        raise DataError(f"there must be one split called {' or '.join(wanted)}; {name} has {', '.join(there)}")
    names = entry.tag_names if entry else ()
    return {split: _examples(there[split], name, names, f"{name} {split}") for split in chosen}


# --- licences --------------------------------------------------------------------------------------------------------


def _check_licence(name: HubName, entry: Entry | None) -> None:
    if entry is not None:
        licence, reason = entry.licence, entry.reason if entry.restricted else ""
    else:
        licence = card_facts(name).get("licence", "")
        reason = "its card does not say which licence it is under" if licence.lower() in _NO_LICENCE else ""
        reason = "non-commercial use only" if "-nc" in licence.lower() else reason
    if reason:
        raise DataError(
            f"{name} is loaded only after its licence was accepted ({licence or 'not stated'}): {reason}. Read the "
            f"terms at https://huggingface.co/datasets/{name.path}; to accept them, write licence_accepted = true into "
            "its [data.NAME] of the benchmark's configuration, or pass --accept-licence to `cllmfs data info`"
        )


def card_facts(name: HubName) -> dict[str, str]:
    """Licence and language that a data set's card states, as far as it does; of a folder, by its README.md.

    Raises:
        DataError: if the hub cannot be asked.
    """
    from huggingface_hub import DatasetCard

    readme = Path(name.path) / "README.md"
    if name.is_folder and not readme.is_file():
        return {}
    try:
        card = DatasetCard.load(str(readme) if name.is_folder else name.path)
    except Exception as error:  # whatever the network, the hub and a YAML reader may raise
        message = f"the card of {name} cannot be read: {_said(error)}; it is not needed where the licence is accepted"
        raise DataError(message) from error
    data = card.data.to_dict()
    facts = {"licence": _listed(data.get("license")), "language": _listed(data.get("language"))}
    return {key: value for key, value in facts.items() if value}


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


# --- loading ---------------------------------------------------------------------------------------------------------


def _library(name: HubName) -> Any:
    wanted = f"{name} needs the datasets library, version {_VERSION} or later, which runs no code of a data set"
    try:
        import datasets as library
    except ImportError as error:
        raise ConfigError(f"{wanted}; it is not installed: pip install 'cllmfs[hub]'") from error
    if int(library.__version__.split(".")[0]) < _VERSION:
        raise ConfigError(f"{wanted}, got {library.__version__}: pip install 'cllmfs[hub]'")
    return library


def _open(name: HubName) -> Mapping[str, Any]:
    """The library's data set of each split."""
    library = _library(name)
    try:
        found = _saved(name, library) if name.is_folder else None
        if found is None:
            found = _loaded(name, library)
    except CllmfsError:
        raise
    except Exception as error:  # whatever the network, the hub and the readers of many formats may raise
        hint = "" if name.config or "config" not in str(error).lower() else f"; name one: {name}#CONFIG"
        raise DataError(f"{name} cannot be loaded: {_said(error)}{hint}") from error
    return {str(found.split or "train"): found} if isinstance(found, library.Dataset) else found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _saved(name: HubName, library: Any) -> Any:
    """What ``save_to_disk`` left in a folder, or in folders named after the splits; ``None`` if nothing."""
    folder = Path(name.path)
    parts = [path.parent for path in sorted(folder.glob("*/state.json"))]
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        found = library.load_from_disk(str(folder))
    elif parts:
        found = {part.name: library.load_from_disk(str(part)) for part in parts}
    else:
        return None
    if name.config:
        raise ConfigError(f"a folder that save_to_disk wrote has no configurations, got {name}; leave it out")
    return found


def _loaded(name: HubName, library: Any) -> Any:
    if name.revision != CONVERTED:
        try:
            return library.load_dataset(name.path, name.config, revision=name.revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or name.is_folder:
                raise
            if name.revision:
                message = f"{name} is made by a script, which is never run; without @{name.revision} the hub's own copy"
                raise DataError(f"{message} of the data is loaded") from error
        _logger.warning("%s is made by a script, which is not run; the hub's own copy of the data is loaded", name)
    return library.load_dataset(name.path, revision=CONVERTED, data_dir=_converted(name))


def _converted(name: HubName) -> str:
    """The folder of a configuration on the branch of the hub's copies."""
    from huggingface_hub import HfApi

    paths = HfApi().list_repo_files(name.path, repo_type="dataset", revision=CONVERTED)
    configs = sorted({path.split("/")[0] for path in paths if path.endswith(".parquet")})
    if name.config in configs or (name.config is None and len(configs) == 1):
        return name.config or configs[0]
    raise ConfigError(f"{name} needs one of its configurations after a #: {', '.join(configs)}; got {name.config!r}")


# --- columns ---------------------------------------------------------------------------------------------------------


def _examples(data: Any, name: HubName, tag_names: Sequence[str], source: str) -> list[Example]:
    if not len(data):
        raise DataError("a split must have a sentence at least, got none", source=source)
    columns, features = list(data.features), data.features
    listed = [column for column in columns if getattr(features[column], "feature", None) is not None]
    tags = name.tags or next((column for column in _TAGS if column in listed), "")
    spans = next((column for column in _SPANS if column in columns), None)
    if "tokens" in columns and tags in listed:
        rows = data.select_columns(["tokens", tags])
        record = _tag_reader(rows, tags, _names(features[tags]) or tag_names, source)
    elif spans and not name.tags and ("text" in columns or "tokens" in columns):
        base = "text" if "text" in columns else "tokens"
        rows = data.select_columns([base, spans])
        record = _span_reader(base, spans, _names(features[spans]), source)
    else:
        wanted = f"tokens and {name.tags}, lists" if name.tags else "tokens with ner_tags, or spans of tokens or text"
        raise DataError(f"{name} must have columns with {wanted}; it has {', '.join(columns)}; ?tags=COLUMN names one")
    return examples_of_rows(map(record, range(1, len(rows) + 1), rows), source)


def _names(feature: Any) -> tuple[str, ...]:
    """The names of the class labels somewhere inside a column of tags or spans; empty if it has none."""
    if isinstance(feature, dict):
        return _names(feature.get("label"))
    if isinstance(feature, list):
        return _names(feature[0])
    inner = getattr(feature, "feature", None)
    return tuple(getattr(feature, "names", None) or ()) if inner is None else _names(inner)


def _tag_reader(rows: Any, column: str, names: Sequence[str], source: str) -> Callable[[int, _Row], _Row]:
    """From a row of tokens and tags to a record of the format tags."""
    known = set(names or _strings(row[column] for row in rows)) - {"O"}
    # Types without prefixes, as Few-NERD has them: a run of one type is one mention.
    bare = all(tag_problem(tag) for tag in known)

    def record(number: int, row: _Row) -> _Row:
        tags = [_name(tag, names, f"{source}:{number}", column) for tag in row[column] or ()]
        return {"tokens": row["tokens"], "ner_tags": [f"I-{tag}" if bare and tag != "O" else tag for tag in tags]}

    return record


def _strings(columns: Iterable[Sequence[object] | None]) -> Iterator[str]:
    return (tag for tags in columns for tag in tags or () if isinstance(tag, str))


def _span_reader(base: str, column: str, names: Sequence[str], source: str) -> Callable[[int, _Row], _Row]:
    """From a row with spans to a record of the format jsonl or tokens."""

    def record(number: int, row: _Row) -> _Row:
        entries = row[column] or []
        if isinstance(entries, dict):  # an older way of the library: a list of each key
            entries = [dict(zip(entries, values, strict=True)) for values in zip(*entries.values(), strict=True)]
        place = f"{source}:{number}"
        made = [{**entry, "label": _name(entry.get("label"), names, place, column)} for entry in entries]
        if base == "text":
            return {"text": row["text"], "spans": made}
        return {"tokens": row["tokens"], "spans": [[one.get("start"), one.get("end"), one["label"]] for one in made]}

    return record


def _name(value: object, names: Sequence[str], place: str, column: str) -> object:
    """A tag or label by its number; a string is its own name."""
    if not isinstance(value, int):
        return value
    if not names:
        message = f"numbers of tags must have names, got {value} without; take a copy whose features name its classes"
        raise DataError(message, source=place, field=column)
    if not 0 <= value < len(names):
        message = f"the number of a tag must be in 0 to {len(names) - 1}, got {value}; perhaps this split's are hidden"
        raise DataError(message, source=place, field=column)
    return names[value]
