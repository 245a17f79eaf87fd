"""Data sets of the Hugging Face hub, and folders in its formats, through the ``datasets`` library.

    tokens with ner_tags, tags, labels ...    class labels, or strings; any scheme, or bare types without prefixes
    tokens with spans                         start, end (token indices, end exclusive), label
    text with spans or entities               start, end (code points, end exclusive), label

Knows licenses, columns and the names behind their numbers. The code of a data set is never run: if a script makes the
data set, the hub's own copy of the data is loaded. Without a network, only what was downloaded before is used, and
nothing is waited for. Needs the library for loading only; does not know which splits there should be.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cllmfs.datasets.catalog import Entry, HubName, find
from cllmfs.errors import CllmfsError, ConfigError, DataError
from cllmfs.formats.reading import examples_of
from cllmfs.formats.tagging import tag_problem
from cllmfs.network import UNREACHABLE, hub_reachable, only_the_cache
from cllmfs.schema import Example

CONVERTED = "refs/convert/parquet"  # the branch with the hub's own copies, a folder for each configuration
_VERSION = 4  # of the library; earlier versions can run scripts
_TAGS = ("ner_tags", "tags", "labels", "ner_labels", "bio_tags", "ner")
_SPANS = ("spans", "entities")
_NO_LICENSE = ("", "none", "other", "unknown")
_DATA_FILES = (".arrow", ".csv", ".gz", ".json", ".jsonl", ".parquet", ".tsv", ".zip", ".zst")
_MOST_FILES = 2_000  # in the folder of a data set; the library takes more than a millisecond for each of them

_Row = dict[str, Any]
_logger = logging.getLogger(__name__)


def load_hub(text: str, wanted: Sequence[str] = (), *, license_accepted: bool = False) -> dict[str, list[Example]]:
    """The splits of a data set, by the data set's own names for them.

    Args:
        text: a name in one of the forms of :mod:`cllmfs.datasets.catalog`.
        wanted: possible names of one split, of which exactly one must exist; all splits if empty.
        license_accepted: whether the user accepted the terms of the license, if it requires that.

    Raises:
        ConfigError: if the name is wrong, or the ``datasets`` library is missing.
        DataError: if the license must be accepted first, or the data cannot be loaded or have none of the forms above.
    """
    name, entry = find(text)
    if not (license_accepted or name.is_folder):
        _check_license(name, entry)
    splits = open_dataset(name)
    chosen = [split for split in splits if split in wanted or not wanted]
    if len(chosen) != 1 and wanted:
        raise DataError(f"there must be one split called {' or '.join(wanted)}; {name} has {', '.join(splits)}")
    names = entry.tag_names if entry else ()
    return {split: _examples(splits[split], name, names, f"{name} {split}") for split in chosen}


def _check_license(name: HubName, entry: Entry | None) -> None:
    license = entry.license if entry else card_facts(name).get("license", "")
    if entry:
        reason = entry.reason if entry.restricted else ""
    elif license.lower() in _NO_LICENSE:
        reason = "its card does not name its license"
    else:
        reason = "non-commercial use only" if "-nc" in license.lower() else ""
    if reason:
        raise DataError(
            f"{name} is loaded only after its license was accepted ({license or 'not stated'}): {reason}. Read the "
            f"terms at https://huggingface.co/datasets/{name.path}; to accept them, write license_accepted = true in "
            "its [data.NAME] section of the benchmark's configuration, or pass --accept-license to `cllmfs data info`"
        )


def card_facts(name: HubName) -> dict[str, str]:
    """License and language, if the card (README.md) states them; raises DataError if the hub's card cannot be read."""
    from huggingface_hub import DatasetCard

    readme = Path(name.path) / "README.md"
    if name.is_folder and not readme.is_file():
        return {}
    cached = not name.is_folder and not hub_reachable()
    try:
        with only_the_cache() if cached else contextlib.nullcontext():
            card = DatasetCard.load(str(readme) if name.is_folder else name.path)
    except Exception as error:  # whatever the network, the hub and a YAML reader may raise
        absent = cached and isinstance(error, ConnectionError | FileNotFoundError)
        reason = f"{UNREACHABLE}, and it is not in the cache" if absent else _reason(error)
        message = f"the card of {name} cannot be read: {reason}; it is not needed once the license is accepted"
        raise DataError(message) from error
    stated = {key: card.data.to_dict().get(key) for key in ("license", "language")}
    return {key: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for key, v in stated.items() if v}


def _library(name: HubName) -> Any:
    wanted = f"{name} needs the datasets library, version {_VERSION} or later, which runs no code of a data set"
    try:
        import datasets as library
    except ImportError as error:
        raise ConfigError(f"{wanted}; it is not installed: pip install 'cllmfs[hub]'") from error
    if int(library.__version__.split(".")[0]) < _VERSION:
        raise ConfigError(f"{wanted}, got {library.__version__}: pip install 'cllmfs[hub]'")
    return library


def open_dataset(name: HubName) -> Mapping[str, Any]:
    """The library's data set for each split."""
    library = _library(name)
    cached = not name.is_folder and not hub_reachable()
    try:
        found = _saved(name, library) if name.is_folder else None
        if found is None:
            with only_the_cache() if cached else contextlib.nullcontext():
                found = _loaded(name, library)
    except CllmfsError:
        raise
    except Exception as error:  # whatever the network, the hub and the readers of many formats may raise
        if cached and isinstance(error, ConnectionError | FileNotFoundError):
            advice = "connect to the network, or name a folder that holds the data"
            raise DataError(f"{UNREACHABLE} and {name} is not in the cache; {advice}") from error
        hint = "" if name.config or "config" not in str(error).lower() else f"; name one: {name}#CONFIG"
        raise DataError(f"{name} cannot be loaded: {_reason(error)}{hint}") from error
    return {str(found.split or "train"): found} if isinstance(found, library.Dataset) else found


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _saved(name: HubName, library: Any) -> Any:
    """What ``save_to_disk`` wrote into a folder, or into folders named after the splits; ``None`` if nothing."""
    folder = Path(name.path)
    parts = [path.parent for path in sorted(folder.glob("*/state.json"))]
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        found = library.load_from_disk(str(folder))
    elif parts:
        found = {part.name: library.load_from_disk(str(part)) for part in parts}
    else:
        _check_folder(folder)
        return None
    if name.config:
        rule = "a folder that save_to_disk wrote has no configurations"
        raise ConfigError(f"{rule}, got {name}; leave out the part after #")
    return found


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is not one of a data set, such as a home folder: the library would search all of it."""
    count, holds_data = 0, False
    for _, _, names in os.walk(folder):
        count += len(names) + 1
        holds_data = holds_data or any(name.endswith(_DATA_FILES) for name in names)
        if count > _MOST_FILES:
            rule = f"a folder of a data set must hold at most {_MOST_FILES:,} files and folders"
            raise DataError(f"{rule}; name the folder below it that holds the data", source=str(folder))
    if not holds_data:
        known = ", ".join(_DATA_FILES)
        raise DataError(f"the folder holds no data: there is no file that ends with {known}", source=str(folder))


def _loaded(name: HubName, library: Any) -> Any:
    if name.revision != CONVERTED:
        try:
            return library.load_dataset(name.path, name.config, revision=name.revision)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error) or name.is_folder:
                raise
            if name.revision:
                message = f"{name} is made by a script, which is never run; leave out @{name.revision} to load"
                raise DataError(f"{message} the hub's own copy of the data") from error
        _logger.warning("%s is made by a script, which is not run; loading the hub's own copy of the data", name)
    return library.load_dataset(name.path, revision=CONVERTED, data_dir=_converted(name))


def _converted(name: HubName) -> str:
    """The folder of a configuration on the branch with the hub's copies."""
    from huggingface_hub import HfApi

    paths = HfApi().list_repo_files(name.path, repo_type="dataset", revision=CONVERTED)
    configs = sorted({path.split("/")[0] for path in paths if path.endswith(".parquet")})
    if name.config in configs or (name.config is None and len(configs) == 1):
        return name.config or configs[0]
    raise ConfigError(f"{name} needs one of its configurations after a #: {', '.join(configs)}; got {name.config!r}")


def _examples(data: Any, name: HubName, tag_names: Sequence[str], source: str) -> list[Example]:
    if not len(data):
        raise DataError("a split must have at least one sentence, got none", source=source)
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
    return examples_of(map(record, range(1, len(rows) + 1), rows), source)


def _names(feature: Any) -> tuple[str, ...]:
    """The names of the class labels inside a column of tags or spans, at any depth; empty if it has none."""
    if isinstance(feature, dict):
        return _names(feature.get("label"))
    if isinstance(feature, list):
        return _names(feature[0])
    inner = getattr(feature, "feature", None)
    return tuple(getattr(feature, "names", None) or ()) if inner is None else _names(inner)


def _tag_reader(rows: Any, column: str, names: Sequence[str], source: str) -> Callable[[int, _Row], _Row]:
    """A function from a row of tokens and tags to a record of the format tags."""
    known = set(names or (tag for row in rows for tag in row[column] or () if isinstance(tag, str))) - {"O"}
    # Few-NERD has types without prefixes: a run of one type is one mention.
    bare = all(tag_problem(tag) for tag in known)

    def record(number: int, row: _Row) -> _Row:
        tags = [_name(tag, names, f"{source}:{number}", column) for tag in row[column] or ()]
        return {"tokens": row["tokens"], "ner_tags": [f"I-{tag}" if bare and tag != "O" else tag for tag in tags]}

    return record


def _span_reader(base: str, column: str, names: Sequence[str], source: str) -> Callable[[int, _Row], _Row]:
    """A function from a row with spans to a record of the format jsonl or tokens."""

    def record(number: int, row: _Row) -> _Row:
        entries = row[column] or []
        if isinstance(entries, dict):  # older versions of the library gave a list for each key
            entries = [dict(zip(entries, values, strict=True)) for values in zip(*entries.values(), strict=True)]
        made = [{**entry, "label": _name(entry.get("label"), names, f"{source}:{number}", column)} for entry in entries]
        if base == "text":
            return {"text": row["text"], "spans": made}
        return {"tokens": row["tokens"], "spans": [[one.get("start"), one.get("end"), one["label"]] for one in made]}

    return record


def _name(value: object, names: Sequence[str], place: str, column: str) -> object:
    """The name of a tag or label by its number; a string is a name already."""
    if not isinstance(value, int):
        return value
    if 0 <= value < len(names):
        return names[value]
    if names:
        rule, hint = f"a tag number must be in 0 to {len(names) - 1}", "perhaps the tags of this split are hidden"
    else:
        rule, hint = "tag numbers must have names", "use a copy whose features name its classes"
    raise DataError(f"{rule}, got {value}; {hint}", source=place, field=column)
