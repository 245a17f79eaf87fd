"""Label files: entity types with their descriptions, read from TOML, JSON or plain text and written as TOML."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from cllmfs.errors import DataError
from cllmfs.files import whole_file
from cllmfs.formats.records import source_name, text_lines
from cllmfs.schema import LabelSet


def read_labels(path: str | Path) -> LabelSet:
    """The entity types of a file, with their descriptions if it has any.

    .toml: a table ``[labels]`` of name = "description", or ``[[label]]`` with name and description, or a list
    ``labels = ["PER"]``; .json: the same as an object, a list of objects or a list of strings; .txt: a label on each
    line, its description after a tab.

    Raises:
        DataError: if the file is not one of these, or a label is empty or given twice.
    """
    name, suffix = source_name(path), Path(path).suffix.lower()
    lines = [line for _, line in text_lines(path)]
    body = "\n".join(lines)
    try:
        if suffix == ".toml":
            pairs = _label_pairs(tomllib.loads(body))
        elif suffix == ".json":
            pairs = _label_pairs(json.loads(body, object_pairs_hook=_distinct))
        elif suffix == ".txt":
            cells = [line.partition("\t") for line in lines if line.strip()]
            pairs = [(label.strip(), description.strip()) for label, _, description in cells]
        else:
            raise DataError(f"a label file ends in .toml, .json or .txt, got {suffix or 'no extension'!r}")
        LabelSet([label for label, _ in pairs])  # a mapping would hide a label that is given twice
        return LabelSet(dict(pairs))
    except (ValueError, RecursionError) as error:
        raise DataError(f"the file must be {suffix[1:].upper()}: {error}", source=name) from error
    except DataError as error:
        raise DataError(error.message, source=name, field=error.field) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; the json module would silently keep the last of several equal keys."""
    found = dict(pairs)
    if len(found) < len(pairs):
        LabelSet([key for key, _ in pairs])  # raises
    return found


def _label_pairs(content: Any) -> list[tuple[str, str]]:
    if isinstance(content, dict):
        inner = (content[key] for key in ("labels", "label") if isinstance(content.get(key), dict | list))
        content = next(inner, content)
    if isinstance(content, dict):
        content = [{"name": name, "description": description} for name, description in content.items()]
    pairs: list[Any] = []
    for index, entry in enumerate(content if isinstance(content, list) else [content]):
        record = entry if isinstance(entry, dict) else {"name": entry}
        pair = (record.get("name"), record.get("description", ""))
        if not all(isinstance(part, str) for part in pair):
            rule = 'a label is name = "description", or has a name and a description that are strings'
            raise DataError(f"{rule}; got {entry!r}", field=f"labels[{index}]")
        pairs.append(pair)
    return pairs


def write_labels(labels: LabelSet, path: str | Path) -> None:
    """Write the labels as TOML, in order, such that :func:`read_labels` gives them back.

    Raises:
        DataError: if the file cannot be written.
    """
    with whole_file(path, stdout=True) as handle:
        handle.write(tomli_w.dumps({"labels": dict(labels)}).encode("utf-8"))
