"""The register of types of the annotated passages: what each is called, and which mentions answer a question for it.

    types.jsonl    {"type": "river", "names": ["stream"], "descriptions": ["…"], "parents": ["place"], "overlaps": []}

A mention carries its finest type, and is also a mention of each parent. This file knows types and how they relate; it
knows nothing of passages.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cllmfs.errors import DataError
from cllmfs.schema import Span

TYPES_FILE = Path(__file__).with_name("types.jsonl")


@dataclass(frozen=True)
class RegisteredType:
    """A type.

    Attributes:
        type: its plain name, which the annotations use.
        names: other names.
        descriptions: one sentence each.
        parents: more general types; each of its mentions is one of theirs.
        overlaps: types that a mention of this one may also be, without being marked as such.
        covers: narrower kinds that annotators named, and that have no type of their own here; they are never asked.
    """

    type: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    parents: tuple[str, ...] = ()
    overlaps: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()


@dataclass
class Register:
    """All types by their plain names.

    Raises:
        DataError: if a parent or an overlapping type is not in the register, or a type is among its own ancestors.
    """

    types: dict[str, RegisteredType]
    ancestors: dict[str, frozenset[str]] = field(init=False, default_factory=dict)
    descendants: dict[str, frozenset[str]] = field(init=False, default_factory=dict)
    _overlaps: dict[str, set[str]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for kind in self.types.values():
            for other in (*kind.parents, *kind.overlaps):
                if other not in self.types:
                    raise DataError(f"the type {kind.type!r} names {other!r}, which must be in the register")
            for other in kind.overlaps:
                self._overlaps.setdefault(kind.type, set()).add(other)
                self._overlaps.setdefault(other, set()).add(kind.type)
        self.ancestors = {name: frozenset(self._above(name, ())) for name in self.types}
        below: dict[str, set[str]] = {name: set() for name in self.types}
        for name, above in self.ancestors.items():
            for ancestor in above:
                below[ancestor].add(name)
        self.descendants = {name: frozenset(found) for name, found in below.items()}

    def _above(self, name: str, path: Sequence[str]) -> set[str]:
        if name in path:
            raise DataError(f"a type must not be its own ancestor: {' -> '.join([*path, name])}")
        found = set(self.types[name].parents)
        for parent in self.types[name].parents:
            found |= self._above(parent, (*path, name))
        return found

    def plain_names(self) -> dict[str, str]:
        """The plain name of each type by all its names and by what it covers, in small letters."""
        kinds = self.types.values()
        return {name.casefold(): kind.type for kind in kinds for name in (kind.type, *kind.names, *kind.covers)}

    def answers(self, asked: str, marked: str) -> bool:
        """Whether a mention of the type ``marked`` answers a question for the type ``asked``."""
        return asked == marked or asked in self.ancestors[marked]

    def certain(self, asked: str, marked: Iterable[str]) -> bool:
        """Whether it is known for each mention of a passage if it answers a question for a type.

        It is not known where a mention has a more general type than the one asked, or one that may overlap with it.

        Args:
            asked: the type asked for.
            marked: the types marked in the passage.
        """
        wanted = {asked} | self.descendants[asked]
        for other in set(marked):
            if self.answers(asked, other):
                continue
            if other in self.ancestors[asked]:
                return False
            if any(self._overlaps.get(one, set()) & wanted for one in (other, *self.ancestors[other])):
                return False
        return True

    def siblings(self, name: str) -> frozenset[str]:
        """Types with a parent in common, none of them an ancestor or a descendant of this one."""
        near = {one for parent in self.types[name].parents for one in self.descendants[parent]}
        return frozenset(near - {name} - self.ancestors[name] - self.descendants[name])


def read_register(path: Path = TYPES_FILE) -> Register:
    """The register of a file.

    Raises:
        DataError: if a line is no such type, a type or a name comes twice, or as :class:`Register` says.
    """
    types: dict[str, RegisteredType] = {}
    owner: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        record = json.loads(line)
        names, descriptions = tuple(record["names"]), tuple(record["descriptions"])
        others = (tuple(record.get(name, ())) for name in ("parents", "overlaps", "covers"))
        kind = RegisteredType(record["type"], names, descriptions, *others)
        where = {"source": str(path), "line": number}
        if not names or not descriptions:
            raise DataError(f"a type needs another name and a description, got {line!r}", **where)
        for name in (kind.type, *names, *kind.covers):
            if owner.setdefault(name.casefold(), kind.type) != kind.type or kind.type in types:
                raise DataError(f"the name {name!r} stands for {owner[name.casefold()]!r} already", **where)
        types[kind.type] = kind
    return Register(types)


def renamed(spans: Iterable[Span], plain: Mapping[str, str], unknown: Counter[str] | None = None) -> list[Span]:
    """Spans with the register's plain names of their types; those of unknown types are left out, and counted."""
    made = []
    for span in spans:
        kind = plain.get(span.label.casefold())
        if kind is not None:
            made.append(Span(span.start, span.end, kind))
        elif unknown is not None:
            unknown[span.label] += 1
    return list(dict.fromkeys(made))
