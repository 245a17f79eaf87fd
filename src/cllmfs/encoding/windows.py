"""Long texts, cut into overlapping windows of tokens.

Nothing is left out: every token lies in a window, and every position is owned by the window that contains most of its
context. This file knows tokens; it knows nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from cllmfs.encoding.tokens import TokenizedText

_SENTENCE_ENDS = ".!?…؟۔।"
_UNSPACED_SENTENCE_ENDS = "。！？"  # no white space follows these


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``end`` (exclusive) of a text; it reports only spans that begin in ``owns`` (half-open)."""

    start: int
    end: int
    owns: tuple[int, int]


def windows(tokens: TokenizedText, limit: int, overlap: int) -> list[Window]:
    """Cut a text into windows of at most ``limit`` tokens; neighbors share about ``overlap``, at most ``limit // 4``.

    A window ends after a sentence if one ends in its last half, otherwise at white space, otherwise at the edge of a
    word, otherwise between any two tokens. A text of at most ``limit`` tokens is one window; an empty text has none.
    """
    if len(tokens) <= limit:
        return [Window(0, len(tokens), (0, len(tokens)))] if len(tokens) else []
    overlap = min(overlap, limit // 4)
    cuts: list[tuple[int, int]] = []
    ranks, start = _ranks(tokens), 0
    while len(tokens) - start > limit:
        # The best place in the last half of the window; among equal ones, the last.
        end = max(range(start + limit // 2 + 1, start + limit + 1), key=lambda place: (ranks[place], place))
        cuts.append((start, end))
        # Steps of less than a quarter of a window would read a long text many times over.
        start = max(_word_start(tokens, end - overlap), start + max(1, limit // 4))
    cuts.append((start, len(tokens)))
    middles = [(begin + end) // 2 for (_, end), (begin, _) in pairwise(cuts)]
    return [Window(*cut, owns) for cut, owns in zip(cuts, pairwise([0, *middles, len(tokens)]), strict=True)]


def _ranks(tokens: TokenizedText) -> list[int]:
    """How good a cut before each token is: 3 after a sentence, 2 at white space, 1 at the edge of a word, 0 inside one.

    White space may have tokens of its own: a cut before, between or after these is equally good.
    """
    text = tokens.text
    stops: list[int] = []  # where the word before each token ends in the text; -1 inside a word
    stop, inside = 0, False
    for token in range(len(tokens)):
        stops.append(-1 if inside else stop)
        inside = inside or tokens.start_ok[token]
        if tokens.end_ok[token]:
            stop, inside = tokens.char_end[token], False
    ranks = [0] * len(tokens)
    begin, known, rank = len(text), (-1, -1), 0
    for token in range(len(tokens) - 1, -1, -1):
        begin = tokens.char_start[token] if tokens.start_ok[token] else begin
        if (stop := stops[token]) >= 0:
            if (stop, begin) != known:
                known, rank = (stop, begin), _rank(text, stop, begin)
            ranks[token] = rank
    return ranks


def _rank(text: str, stop: int, begin: int) -> int:
    """How good a cut is between a word that ends at ``stop`` and the next word, which begins at ``begin``."""
    last, gap = text[max(stop - 1, 0) : stop], text[stop:begin]
    if (last and (last in _UNSPACED_SENTENCE_ENDS or (gap and last in _SENTENCE_ENDS))) or "\n" in gap:
        return 3
    return 2 if gap else 1


def _word_start(tokens: TokenizedText, position: int) -> int:
    """The last token at or before ``position`` at which a word begins; ``position`` itself if 64 tokens have none."""
    return next((token for token in range(position, max(position - 64, 0), -1) if tokens.start_ok[token]), position)
