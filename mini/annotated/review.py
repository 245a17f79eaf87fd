"""A reviewer's corrections of marks: what is dropped, and what is added in its place.

    python -m mini.annotated.review TEXTS MARKS                  -> each passage with its marks, to be reviewed
    python -m mini.annotated.review TEXTS MARKS CORRECTIONS      -> checks the corrections, and says what they change

    #17
    - Iron River | town
    + Iron River | village
    + bridge | structure
    #18 skip

A passage without corrections is not named; ``skip`` gives a passage up. Corrections use the notation of
:mod:`mini.annotated.marks`. This file knows nothing of where passages come from.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cllmfs.schema import Span
from mini.annotated.marks import Marked, read_head, read_marks, read_texts, spans_of


def read_corrections(
    path: Path, texts: dict[int, str], marks: dict[int, Marked]
) -> tuple[dict[int, Marked], list[str]]:
    """The marks with the corrections of a file, and what is wrong with the file, line by line."""
    made = {number: Marked(number, list(one.spans), one.skipped) for number, one in marks.items()}
    problems: list[str] = []
    now: Marked | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line:
            continue
        if (head := read_head(line)) is not None:
            now = made.get(head.number)
            if now is None:
                problems.append(f"line {number}: passage {head.number} has no marks")
            elif head.skipped:
                now.skipped, now.spans = True, []
            continue
        sign, rest = line[:1], line[1:].strip()
        if now is None or sign not in "+-":
            problems.append(f"line {number}: a correction must be '- mention | type' or '+ mention | type': {line!r}")
            continue
        spans, problem = spans_of(rest, texts[now.number])
        if sign == "-" and not problem and not any(span in now.spans for span in spans):
            problem = "there is no such mark"
        if problem:
            problems.append(f"line {number}: {problem}: {line!r}")
        elif sign == "-":
            now.spans = [span for span in now.spans if span not in spans]
        else:
            now.spans += [span for span in spans if span not in now.spans]
    for one in made.values():
        one.spans.sort(key=lambda span: (span.start, span.end, span.label))
    return made, problems


def changes(before: Sequence[Span], after: Sequence[Span]) -> Counter[str]:
    """What a review changed: spans ``kept``, ``dropped`` and ``added``, ``retyped`` and ``moved``.

    A span is retyped if it has another type at the same place, and moved if its type has an overlapping place.
    """
    gone = [span for span in before if span not in after]
    fresh = [span for span in after if span not in before]
    counts = Counter(kept=len(before) - len(gone))
    for kind, same in (("retyped", _same_place), ("moved", _same_type)):
        for span in list(gone):
            if (other := next((one for one in fresh if same(span, one)), None)) is not None:
                counts[kind] += 1
                gone.remove(span)
                fresh.remove(other)
    counts["dropped"] = len(gone)
    counts["added"] = len(fresh)
    return counts


def _same_place(one: Span, other: Span) -> bool:
    return (one.start, one.end) == (other.start, other.end)


def _same_type(one: Span, other: Span) -> bool:
    return one.label == other.label and one.start < other.end and other.start < one.end


def shown(texts: dict[int, str], marks: dict[int, Marked]) -> str:
    """Each passage with its marks, one a line, each mention as often as it is marked."""
    lines = []
    for number, text in texts.items():
        one = marks.get(number)
        lines.append(f"#{number}{' skip' if one is not None and one.skipped else ''}\n{text}")
        counts = Counter((text[span.start : span.end], span.label) for span in (one.spans if one else ()))
        lines += [f"    {mention} | {kind}{f' (x{n})' if n > 1 else ''}" for (mention, kind), n in counts.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("marks", type=Path)
    parser.add_argument("corrections", type=Path, nargs="?")
    arguments = parser.parse_args()
    read = read_texts(arguments.texts)
    marked, _ = read_marks(arguments.marks, read)
    if arguments.corrections is None:
        print(shown(read, marked))
        sys.exit()
    corrected, wrong = read_corrections(arguments.corrections, read, marked)
    print(*wrong, sep="\n")
    changed = sum((changes(one.spans, corrected[number].spans) for number, one in marked.items()), Counter[str]())
    print(", ".join(f"{count} {name}" for name, count in changed.items()) + f"; {len(wrong)} problems")
    sys.exit(1 if wrong else 0)
