"""Finds texts that occur twice: copies, contradictions, two annotators of one text, training sentences among test ones.

Within a file, only equal texts count, since offsets belong to a text; between two files, white space and case do not
matter, since a sentence that differs in them only is still known. Knows examples; nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cllmfs.schema import Example, bare

_ANNOTATOR_KEYS = ("annotator", "annotator_id", "_annotator_id", "_session_id", "completed_by", "username", "user")


class Repeat(NamedTuple):
    """A text that an earlier example has, too.

    Attributes:
        number: which example repeats, counted from 0.
        earlier: which example has the text before it.
        conflict: whether their spans differ, among the labels that were annotated in both.
        annotators: the two annotators, ready for a message, if the records name them; else empty.
    """

    number: int
    earlier: int
    conflict: bool
    annotators: str


def repeats(examples: Iterable[Example]) -> Iterator[Repeat]:
    """The repeated texts, in order; texts of white space only are left out.

    Two examples in which different labels were annotated are parts of one answer, and no repeat.
    """
    seen: dict[str, list[tuple[int, Example]]] = {}
    for number, example in enumerate(examples):
        if not bare(example.text):
            continue
        before = seen.setdefault(example.text, [])
        for earlier, other in before:
            shared = _shared(other, example)
            if shared is None or shared:
                conflict = _keys(other, shared) != _keys(example, shared)
                yield Repeat(number, earlier, conflict, _annotators(other, example))
                break
        else:
            before.append((number, example))


def _shared(one: Example, other: Example) -> frozenset[str] | None:
    """The labels that were annotated in both; ``None`` means all."""
    if one.annotated is None or other.annotated is None:
        return other.annotated if one.annotated is None else one.annotated
    return one.annotated & other.annotated


def _keys(example: Example, labels: frozenset[str] | None) -> set[tuple[int, int, str]]:
    return {span.key for span in example.spans if labels is None or span.label in labels}


def _annotators(one: Example, other: Example) -> str:
    for key in _ANNOTATOR_KEYS:
        first, second = one.extra.get(key), other.extra.get(key)
        if isinstance(first, str | int) and isinstance(second, str | int) and first != second:
            return f"two annotators of one text ({key} {first!r:.40} and {second!r:.40})"
    return ""


def sentence_key(text: str) -> str:
    """What two texts have in common that differ in white space and case only; empty if there is only white space."""
    return bare(text).casefold()


def trouble_in(examples: Iterable[Example], dev: Iterable[Example] | None = None) -> list[str]:
    """One line for each kind of repetition in training examples, with its number and its first place.

    Args:
        examples: what is learned from.
        dev: what is scored; its sentences should not occur in the examples.
    """
    learned = list(examples)
    found = list(repeats(learned))
    lines = []
    if conflicts := [one for one in found if one.conflict]:
        who = next((one.annotators for one in conflicts if one.annotators), "")
        lines.append(
            f"{_counted(conflicts)} the text of another one with other spans, such as {_where(learned, conflicts[0])}"
            f"{who and ': ' + who}; keep one record of each text"
        )
    if copies := [one for one in found if not one.conflict]:
        lines.append(f"{_counted(copies)} another one exactly, such as {_where(learned, copies[0])}")
    known: dict[str, int] = {}
    for number, example in enumerate(learned):
        known.setdefault(sentence_key(example.text), number)
    known.pop("", None)
    held_out = list(dev or ())
    both = [number for number, example in enumerate(held_out) if sentence_key(example.text) in known]
    if both:
        place = _place(held_out, both[0], "held-out")
        source = _place(learned, known[sentence_key(held_out[both[0]].text)], "training")
        lines.append(
            f"{len(both)} of {len(held_out)} held-out sentences are training sentences, too, such as {place} "
            f"({source}); the score on them says nothing about new texts"
        )
    return lines


def _counted(found: list[Repeat]) -> str:
    return f"{len(found)} training sentence{'s repeat' if len(found) > 1 else ' repeats'}"


def _where(examples: list[Example], one: Repeat) -> str:
    return f"{_place(examples, one.number, 'training')} ({_place(examples, one.earlier, 'training')})"


def _place(examples: list[Example], number: int, kind: str) -> str:
    return examples[number].source or f"{kind} sentence {number + 1}"
