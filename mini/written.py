"""The sheets under ``written/``: sentences with marked spans that were written for this project.

    python -m mini.written [FOLDER]     -> checks every sheet; errors with file and line, then counts

A sheet holds one subject in one register::

    title: Complaints about kitchen machines
    register: customer review

    machine = kitchen appliance; appliance :: A machine used for cooking or cleaning in a kitchen.
    fault = defect; problem :: What the customer says is wrong with the machine.

    My {Kelvo mixer|machine} started {leaking oil|fault} on the first day.

Type lines are ``key = name; other name :: description :: other description``. Knows nothing of drawing or models.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.schema import Example, Span

FOLDER = Path(__file__).with_name("written")

_TYPE = re.compile(r"([a-z]+) = (.+)")
_MENTION = re.compile(r"\{([^{}|]+)\|([a-z]+)\}")


@dataclass(frozen=True)
class WrittenType:
    """A type of a sheet: its key, at least two names (the plain one first) and at least one description."""

    key: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """One file: ``name`` is "region/slug"; the spans of ``examples`` carry type keys as labels."""

    name: str
    title: str
    register: str
    types: tuple[WrittenType, ...]
    examples: tuple[Example, ...]


def _type_line(line: str, source: str, number: int) -> WrittenType:
    match = _TYPE.fullmatch(line)
    if match is None:
        raise DataError(f"a type line must be 'key = names :: description', got {line!r}", source=source, line=number)
    names, *descriptions = (part.strip() for part in match[2].split("::"))
    listed = tuple(name.strip() for name in names.split(";") if name.strip())
    if len(listed) < 2 or not descriptions or not all(descriptions):
        raise DataError(f"a type needs two names and a description, got {line!r}", source=source, line=number)
    return WrittenType(match[1], listed, tuple(descriptions))


def _sentence(line: str, keys: set[str], source: str, number: int) -> Example:
    """The sentence without its marks, and its spans."""
    text, spans, at = "", [], 0
    for match in _MENTION.finditer(line):
        text += line[at : match.start()]
        mention, key = match.groups()
        if key not in keys:
            raise DataError(f"the key {key!r} must be one of the sheet's types", source=source, line=number)
        if mention != mention.strip():
            raise DataError(f"a mention must not begin or end with a space: {mention!r}", source=source, line=number)
        spans.append(Span(len(text), len(text) + len(mention), key))
        text, at = text + mention, match.end()
    text += line[at:]
    if any(mark in text for mark in "{}|"):
        raise DataError(f"a mention must be {{text|key}}, without nesting, got {line!r}", source=source, line=number)
    for span in spans:
        inner = text[span.start - 1 : span.start + 1] if span.start else ""
        outer = text[span.end - 1 : span.end + 1]
        if any(len(pair) == 2 and pair.isalnum() and pair.isascii() for pair in (inner, outer)):
            raise DataError(
                f"a mention must not cut a word: {text[span.start : span.end]!r}", source=source, line=number
            )
    return Example(text, tuple(spans), source=f"{source}:{number}")


def read_sheet(path: Path, name: str) -> Sheet:
    """One sheet.

    Raises:
        DataError: a header, type line or mention that breaks the format, with file and line; a type without mentions;
            one name for two types.
    """
    lines = [line.rstrip() for line in path.read_text(encoding="utf-8").splitlines()]
    source = str(path)
    head = lines[:2]
    if len(head) < 2 or not head[0].startswith("title: ") or not head[1].startswith("register: "):
        raise DataError("a sheet must open with 'title: …' and 'register: …'", source=source, line=1)
    blocks: list[list[tuple[int, str]]] = [[]]
    for number, line in enumerate(lines[2:], start=3):
        if line:
            blocks[-1].append((number, line))
        elif blocks[-1]:
            blocks.append([])
    blocks = [block for block in blocks if block]
    if len(blocks) < 2:
        raise DataError("a sheet needs types, an empty line and sentences", source=source, line=len(lines))
    types = [_type_line(line, source, number) for number, line in blocks[0]]
    keys = {kind.key for kind in types}
    owner: dict[str, str] = {}
    for kind in types:
        for label in {label.casefold().replace("_", " ") for label in kind.names}:
            if owner.setdefault(label, kind.key) != kind.key:
                raise DataError(f"the name {label!r} stands for two types", source=source, line=blocks[0][0][0])
    examples = [_sentence(line, keys, source, number) for block in blocks[1:] for number, line in block]
    used = {span.label for example in examples for span in example.spans}
    if unused := sorted(keys - used):
        raise DataError(f"every type needs mentions, found none of {unused}", source=source, line=blocks[0][0][0])
    return Sheet(name, head[0][7:].strip(), head[1][10:].strip(), tuple(types), tuple(examples))


def sheets(folder: Path = FOLDER) -> Iterator[Sheet]:
    """Every sheet below ``folder`` in the order of their names; raises as :func:`read_sheet` does."""
    for path in sorted(folder.rglob("*.txt")):
        yield read_sheet(path, path.relative_to(folder).with_suffix("").as_posix())


def _check(folder: Path) -> int:
    """Print every error and what there is; the number of errors."""
    errors, count, mentions, names = 0, Counter[str](), Counter[str](), set()
    for path in sorted(folder.rglob("*.txt")):
        try:
            sheet = read_sheet(path, path.stem)
        except DataError as error:
            errors += 1
            print(error)
            continue
        count.update(sheets=1, sentences=len(sheet.examples), types=len(sheet.types))
        count["mentions"] += sum(len(example.spans) for example in sheet.examples)
        count["empty"] += sum(not example.spans for example in sheet.examples)
        mentions.update(span.label for example in sheet.examples for span in example.spans)
        names.update(kind.names[0].casefold() for kind in sheet.types)
    print(
        ", ".join(f"{value} {name}" for name, value in count.items()), f"{len(names)} different plain names", sep=", "
    )
    return errors


if __name__ == "__main__":
    sys.exit(1 if _check(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER) else 0)
