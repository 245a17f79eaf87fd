"""What the tests of data files share: odd texts, random examples, and files made of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from cllmfs.schema import Example, Span

TAG_SCHEMES = ("iob1", "iob2", "io", "bioes", "bilou")
in_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)

# What breaks careless readers: emoji beyond the BMP, marks, joiners, right-to-left, and Unicode's own line ends.
ODD = [
    *"abZ0_.-'\"\\/{}[],:#",
    *("\u0301", "\u200d", "\ufe0f", "\u200f", "\ufeff", "\u0e01", "\u4e2d", "\u0434"),
    *("\U0001f469", "\U0001f3fd", "\U0001d49c", "\u05d0", "\u05d1", "\u0627", "\ufb01"),
    *(" ", "\u00a0", "\u2028", "\u2029", "\u0085", "\u3000", "\t", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x00", "\x7f"),
]
odd_text = st.text(st.sampled_from(ODD), max_size=24)
labels = st.sampled_from(["PER", "odd label", "a-b", "\u4eba\u540d", "O"])


@st.composite
def text_examples(draw: st.DrawFn) -> Example:
    """A text with any spans, nested and crossing ones too, no two the same."""
    text = draw(odd_text)
    spans: set[Span] = set()
    if text:
        for _ in range(draw(st.integers(0, 3))):
            start = draw(st.integers(0, len(text) - 1))
            spans.add(Span(start, draw(st.integers(start + 1, len(text))), draw(labels)))
    return Example(text, tuple(spans))


@st.composite
def token_examples(draw: st.DrawFn, flat: bool = False) -> Example:
    """Tokens of visible characters with any spans of them, or with spans that do not overlap."""
    visible = [char for char in ODD if not char.isspace() and char not in "\x00\ufeff"]
    tokens = draw(st.lists(st.text(st.sampled_from(visible), min_size=1, max_size=4), min_size=1, max_size=7))
    spans: set[tuple[int, int, str]] = set()
    cuts = sorted(draw(st.sets(st.integers(0, len(tokens)))))
    for start, end in itertools.pairwise(cuts):
        if draw(st.booleans()):
            spans.add((start, end if flat else draw(st.integers(end, len(tokens))), draw(labels)))
    return Example.from_tokens(tokens, spans)


def write(folder: Path, content: str | bytes, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def lines_of(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def keys(example: Example) -> list[tuple[int, int, str]]:
    return [span.key for span in example.spans]


def tokens_of(example: Example) -> list[str]:
    assert example.token_offsets is not None
    return [example.text[start:end] for start, end in example.token_offsets]
