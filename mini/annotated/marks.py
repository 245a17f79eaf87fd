"""Files of marks, as annotators write them: which words of a passage are mentions of which type.

    python -m mini.annotated.marks TEXTS MARKS     -> checks a file of marks against its file of passages

    #17
    Iron River | town
    May @2 | month

A mention stands for all its occurrences as whole words, or for those whose numbers follow "@". This file knows the
notation; it knows nothing of where passages come from.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cllmfs.schema import Span

_HEAD = re.compile(r"#(\d+)(?: \[(.*)\])?( skip)?")
_MARK = re.compile(r"(.+?)(?: @(\d+(?:,\d+)*))? \| (.+)")
_TYPE = re.compile(r"[^\W_][\w .,/&'’+-]*")


@dataclass
class Marked:
    """The marks of a passage; ``skipped`` if it is not worth any."""

    number: int
    spans: list[Span] = field(default_factory=list)
    skipped: bool = False


def read_texts(path: Path) -> dict[int, str]:
    """The passages of a file to annotate, by their numbers."""
    found: dict[int, list[str]] = {}
    number = 0
    for line in path.read_text(encoding="utf-8").split("\n"):
        head = _HEAD.fullmatch(line)
        if head is not None and head[2] is not None:
            number = int(head[1])
            found[number] = []
        elif number:
            found[number].append(line)
    return {number: "\n".join(lines).strip("\n") for number, lines in found.items()}


def occurrences(text: str, mention: str) -> list[tuple[int, int]]:
    """Where a mention stands in a text as whole words, in order, without overlaps."""
    left = r"(?<!\w)" if mention[0].isalnum() else ""
    right = r"(?!\w)" if mention[-1].isalnum() else ""
    return [match.span() for match in re.finditer(left + re.escape(mention) + right, text)]


def read_marks(path: Path, texts: dict[int, str]) -> tuple[dict[int, Marked], list[str]]:
    """The marks of a file, and what is wrong with it, each with its line; a mark that is wrong is left out."""
    found: dict[int, Marked] = {}
    problems: list[str] = []
    now: Marked | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        if (head := read_head(line.strip())) is not None:
            now = head
            if now.number not in texts or now.number in found:
                problems.append(f"line {number}: passage {now.number} is not in this file, or comes twice")
            found[now.number] = now
            continue
        problem = "a mark must come below a #number line" if now is None else ""
        if now is not None and now.number in texts:
            spans, problem = spans_of(line.strip(), texts[now.number])
            now.spans += [span for span in spans if span not in now.spans]
        if problem:
            problems.append(f"line {number}: {problem}: {line.strip()!r}")
    problems += [f"passage {number} has no #number line" for number in texts if number not in found]
    for marked in found.values():
        marked.spans.sort(key=lambda span: (span.start, span.end, span.label))
        problems += [f"passage {marked.number}: {problem}" for problem in _overlaps(marked.spans, texts, marked)]
    return found, problems


def read_head(line: str) -> Marked | None:
    """The passage that a line ``#number`` or ``#number skip`` begins, still without marks; ``None`` for other lines."""
    head = _HEAD.fullmatch(line)
    return None if head is None else Marked(int(head[1]), skipped=bool(head[3]))


def spans_of(line: str, text: str) -> tuple[list[Span], str]:
    """The spans of a line ``mention | type``, and what is wrong with it, if anything."""
    match = _MARK.fullmatch(line)
    if match is None:
        return [], "a mark must be 'mention | type'"
    mention, chosen, kind = match[1].strip(), match[2], match[3].strip()
    if _TYPE.fullmatch(kind) is None:
        return [], "the type must be words"
    places = occurrences(text, mention)
    if chosen is not None:
        wanted = [int(one) for one in chosen.split(",")]
        if not all(1 <= one <= len(places) for one in wanted):
            return [], f"the passage has {len(places)} occurrences of it as whole words"
        places = [places[one - 1] for one in wanted]
    if not places:
        return [], "the passage does not have these words"
    return [Span(start, end, kind) for start, end in places], ""


def written(marked: Marked, text: str) -> str:
    """The lines of a passage and its marks, which :func:`read_marks` reads."""
    lines = [f"#{marked.number}{' skip' if marked.skipped else ''}"]
    found: dict[tuple[str, str], list[Span]] = {}
    for span in marked.spans:
        found.setdefault((text[span.start : span.end], span.label), []).append(span)
    for (mention, kind), spans in found.items():
        places = occurrences(text, mention)
        numbers = [str(places.index((span.start, span.end)) + 1) for span in spans]
        chosen = "" if len(numbers) == len(places) else f" @{','.join(numbers)}"
        lines.append(f"{mention}{chosen} | {kind}")
    return "\n".join(lines)


def _overlaps(spans: Sequence[Span], texts: dict[int, str], marked: Marked) -> Iterator[str]:
    """Mentions that lie inside one another; the inner ones are removed. Equal places may have two types."""
    for inner in list(spans):
        for outer in spans:
            longer = outer.end - outer.start > inner.end - inner.start
            if longer and outer.start < inner.end and inner.start < outer.end and inner in marked.spans:
                text = texts.get(marked.number, "")
                marked.spans.remove(inner)
                crosses = inner.start < outer.start or inner.end > outer.end
                if crosses:
                    one, other = text[inner.start : inner.end], text[outer.start : outer.end]
                    yield f"{one!r} and {other!r} overlap"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("marks", type=Path)
    arguments = parser.parse_args()
    read = read_texts(arguments.texts)
    made, wrong = read_marks(arguments.marks, read)
    print(*wrong, sep="\n")
    kinds = Counter(span.label for one in made.values() for span in one.spans)
    count = sum(kinds.values())
    print(f"{len(made)} passages, {count} mentions of {len(kinds)} types; {len(wrong)} problems")
    sys.exit(1 if wrong else 0)
