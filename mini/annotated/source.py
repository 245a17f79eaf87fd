"""The annotated passages as a training set: which types a passage is asked for, and what the answers are.

A question for a type is answered by the mentions of that type and of all types below it. Types that the register leaves
uncertain for a passage are not asked of it. Knows nothing of how passages were annotated, or of models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cllmfs.schema import Example, Span
from mini.annotated.register import Register, read_register, renamed
from mini.annotated.standoff import ANNOTATIONS_FILE, read_annotations, text_of
from mini.augment import Rng, pick, shuffled
from mini.sources import Report, Source, TrainingItem, TypeNames, normalized, written_item

NAME = "annotated"
HELD_OUT = 20  # one passage in so many is kept for the check set
MOST_PRESENT, MOST_ABSENT = 8, 5
GENERAL_SHARE = 0.3  # of the present types are asked as a more general type, if that is certain
SIBLING_SHARE = 0.5  # of the absent types are siblings of a present one, if there are any


@dataclass
class AnnotatedSource(Source):
    """A :class:`~mini.sources.Source` whose labels are types of a register."""

    register: Register = field(default_factory=lambda: Register({}))

    def __post_init__(self) -> None:
        super().__post_init__()
        used, below = self.by_label.keys(), self.register.descendants
        self._common = [label for label in sorted(self.register.types) if label in used or below[label] & used]

    def choose(self, item: TrainingItem, rng: Rng) -> list[TypeNames]:
        """The types that a passage is asked for: present ones, some of them more generally, and absent ones."""
        present = shuffled(rng, sorted({label for _, _, label in item.spans}))
        wanted = 1 + int(rng.random() * MOST_PRESENT)
        chosen: dict[str, None] = {}
        for label in present[:wanted]:
            chosen[self._general(label, present, rng) if rng.random() < GENERAL_SHARE else label] = None
        for _ in range(1 + int(rng.random() * MOST_ABSENT)):
            if (label := self._absent(present, rng)) is not None:
                chosen[label] = None
        return shuffled(rng, [self.types[label] for label in chosen])

    def example_for(self, item: TrainingItem, asked: Sequence[TypeNames]) -> Example:
        """A passage as it was written, with the answers to questions for types; spans carry the types' keys."""
        passage = item.written or Example("")
        spans = [
            Span(mark.start, mark.end, kind.key)
            for kind in asked
            for mark in passage.spans
            if self.register.answers(kind.names[0], mark.label)
        ]
        return Example(passage.text, tuple(dict.fromkeys(spans)), source=self.name)

    def _general(self, label: str, present: Sequence[str], rng: Rng) -> str:
        above = [one for one in sorted(self.register.ancestors[label]) if self.register.certain(one, present)]
        return pick(rng, above) if above else label

    def _absent(self, present: Sequence[str], rng: Rng) -> str | None:
        """A type of which the passage certainly has no mention: a sibling of a present one, or any."""
        near: Sequence[str] = ()
        if present and rng.random() < SIBLING_SHARE:
            near = sorted(self.register.siblings(pick(rng, present)))
        for options in (near, self._common):
            for _ in range(4 if options else 0):
                label = pick(rng, options)
                answered = any(self.register.answers(label, one) for one in present)
                if not answered and self.register.certain(label, present):
                    return label
        return None


def annotated_source(
    data: Path, weight: float, measuring: set[str], path: Path = ANNOTATIONS_FILE, register: Register | None = None
) -> AnnotatedSource:
    """The annotated passages that a reviewer has read, joined with their text.

    Args:
        data: the folder of data.
        weight: the share of draws.
        measuring: normalized texts that must not be trained on.

    Raises:
        DataError: as :func:`~mini.annotated.standoff.text_of` and :func:`~mini.annotated.register.read_register` do.
    """
    register = register or read_register()
    plain = register.plain_names()
    report, items, held = Report(), [], []
    for one in read_annotations(path):
        if one.reviewed is None:
            continue
        report.read += 1
        item = written_item(Example(text_of(one, data), tuple(renamed(one.reviewed, plain))), NAME)
        if normalized(item.tokens) in measuring:
            report.leaked += 1
        elif int(hashlib.sha256(one.hash.encode()).hexdigest(), 16) % HELD_OUT == 0:
            held.append(item)
        else:
            items.append(item)
    report.held_out, report.kept = len(held), len(items)
    types = {
        kind.type: TypeNames(f"{NAME}:{kind.type}", (kind.type, *kind.names), kind.descriptions)
        for kind in register.types.values()
    }
    attribution = "Passages of the sets and texts named in mini/annotated, annotated for this project."
    return AnnotatedSource(
        NAME, "annotated", "Apache-2.0", attribution, weight, False, items, held, types, (), report, register=register
    )
