"""How a tokenized sentence is varied: another mention, a typo, natural spacing.

Works on tokens and token spans (start, end exclusive, label) that are flat and sorted. Knows nothing of files or types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Rng = np.random.Generator
TokenSpan = tuple[int, int, str]
T = TypeVar("T")

_CLITIC = re.compile(r"['’](?:s|re|ve|ll|d|m)|n['’]t", re.I)
_CLOSING = frozenset([".", ",", ";", ":", "!", "?", ")", "]", "}", "%", "...", "…", "”", "''"])
_OPENING = frozenset(["(", "[", "{", "“"])
_QUOTES = frozenset(["``", "''", '"'])
_MONEY = frozenset(["$", "£", "€"])


def pick(rng: Rng, options: Sequence[T]) -> T:
    """One of the options, each as likely as the other."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: Rng, values: Sequence[T]) -> list[T]:
    """The values in a random order."""
    return [values[number] for number in rng.permutation(len(values))] if len(values) > 1 else list(values)


def replace_mention(
    tokens: list[str], spans: list[TokenSpan], mentions: Mapping[str, Sequence[tuple[str, ...]]], rng: Rng
) -> tuple[list[str], list[TokenSpan]]:
    """Put another mention of the same label in the place of one; later spans move along. Over 8 tokens: no change."""
    if not spans:
        return tokens, spans
    number = int(rng.random() * len(spans))
    start, end, label = spans[number]
    new = pick(rng, mentions[label])
    if len(new) > 8:
        return tokens, spans
    shift = len(new) - (end - start)
    later = [(a + shift, b + shift, c) for a, b, c in spans[number + 1 :]]
    return [*tokens[:start], *new, *tokens[end:]], [*spans[:number], (start, end + shift, label), *later]


def add_typo(tokens: list[str], rng: Rng) -> list[str]:
    """Swap, drop or double one inner letter of one word of at least five letters; no change where there is none."""
    words = [number for number, token in enumerate(tokens) if len(token) >= 5 and token.isalpha()]
    if not words:
        return tokens
    number = pick(rng, words)
    token = tokens[number]
    at = 1 + int(rng.random() * (len(token) - 2))
    head, here, after, tail = token[:at], token[at], token[at + 1], token[at + 2 :]
    changed = pick(rng, (head + after + here + tail, head + after + tail, head + here + here + after + tail))
    return [*tokens[:number], changed, *tokens[number + 1 :]]


def _glued_in_split(before: str, token: str, after: str) -> tuple[bool, bool]:
    """(no space before, no space after) a mark that the source split off a word: "IL - 8", "0 . 05", "Wilson ' s"."""
    if token in ("-", "/"):
        return True, True
    if token == "'":
        return True, after == "s"
    if token == "." and before and after:
        number = before[-1].isdigit() and after[0].isdigit()
        initials = len(before) == 1 and len(after) == 1 and before.islower() and after.islower()
        return True, number or initials
    return False, False


def join_naturally(tokens: Sequence[str], *, split_punctuation: bool = False) -> tuple[str, list[tuple[int, int]]]:
    """Join tokens with the spacing of running text.

    Args:
        tokens: non-empty tokens.
        split_punctuation: the source splits at every punctuation mark, so hyphens, slashes and decimal points glue.

    Returns:
        The text and the (start, end) of each token in it. Tokens are unchanged, but two-mark quotes become ".
    """
    parts: list[str] = []
    offsets: list[tuple[int, int]] = []
    position, glue, quoted = 0, True, False
    for number, token in enumerate(tokens):
        before = tokens[number - 1] if number else ""
        after = tokens[number + 1] if number + 1 < len(tokens) else ""
        left = token in _CLOSING or _CLITIC.fullmatch(token) is not None
        right = token in _OPENING
        if token in _QUOTES:
            left, right, quoted = quoted, not quoted, not quoted
            token = '"'
        elif token in _MONEY:
            right = after[:1].isdigit()
        elif token in ("@", "#"):
            right = after[:1].isalnum() or after[:1] == "_"
        elif token == "'" and not split_punctuation:
            left = before.endswith("s")
        elif split_punctuation:
            more_left, more_right = _glued_in_split(before, token, after)
            left, right = left or more_left, right or more_right
        if not (glue or left):
            parts.append(" ")
            position += 1
        parts.append(token)
        offsets.append((position, position + len(token)))
        position += len(token)
        glue = right
    return "".join(parts), offsets
