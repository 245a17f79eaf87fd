"""Long texts: cut into overlapping windows of tokens, and put the windows' spans together again.

Nothing is ever left out: every token lies in a window, and each position belongs to the one window that sees most
around it. Knows tokens and scored spans; knows nothing of the model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cllmfs.encoding.tokens import TokenizedText
from cllmfs.schema import Span

_SENTENCE_ENDS = ".!?…؟۔।"
_UNSPACED_SENTENCE_ENDS = "。！？"  # no white space follows these


@dataclass(frozen=True)
class Window:
    """Tokens ``start`` to ``end`` (exclusive) of a text; spans that begin in ``owns`` (half-open) are its to report."""

    start: int
    end: int
    owns: tuple[int, int]


def windows(tokens: TokenizedText, limit: int, overlap: int) -> list[Window]:
    """Cut a text into windows of at most ``limit`` tokens, neighbours sharing about ``overlap``.

    A cut stands after a sentence where there is one in the last half of a window, else at white space, else at a word's
    edge, else between any two tokens. A text of at most ``limit`` tokens is one window; an empty text has none.
    """
    if not len(tokens):
        return []
    if len(tokens) <= limit:
        return [Window(0, len(tokens), (0, len(tokens)))]
    overlap = min(overlap, limit // 4)
    cuts: list[tuple[int, int]] = []
    ranks = _ranks(tokens)
    start = 0
    while len(tokens) - start > limit:
        # The best place in the last half of the window; of equal ones the last.
        end = max(range(start + limit // 2 + 1, start + limit + 1), key=lambda place: (ranks[place], place))
        cuts.append((start, end))
        # Moving on by less than a quarter of a window would read long texts many times over.
        start = max(_word_start(tokens, end - overlap), start + max(1, limit // 4))
    cuts.append((start, len(tokens)))
    made = []
    for index, (begin, end) in enumerate(cuts):
        low = 0 if index == 0 else (begin + cuts[index - 1][1]) // 2
        high = len(tokens) if index == len(cuts) - 1 else (cuts[index + 1][0] + end) // 2
        made.append(Window(begin, end, (low, high)))
    return made


def _ranks(tokens: TokenizedText) -> list[int]:
    """How good a cut is before each token: 3 after a sentence, 2 at white space, 1 at a word's edge, 0 inside a word.

    White space may be tokens of its own; before, among and behind these the cut is the same.
    """
    text = tokens.text
    stops: list[int] = []  # where the word before each token ends; -1 inside a word
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
        stop = stops[token]
        if stop < 0:
            continue
        if (stop, begin) != known:
            known, rank = (stop, begin), _rank(text, stop, begin)
        ranks[token] = rank
    return ranks


def _rank(text: str, stop: int, begin: int) -> int:
    """How good a cut is between a word that ends at ``stop`` and the next, which begins at ``begin``."""
    last, gap = text[max(stop - 1, 0) : stop], text[stop:begin]
    if (last and (last in _UNSPACED_SENTENCE_ENDS or (gap and last in _SENTENCE_ENDS))) or "\n" in gap:
        return 3
    return 2 if gap else 1


def _word_start(tokens: TokenizedText, position: int) -> int:
    """The first token at or before ``position`` at which a word begins; ``position`` itself inside a giant word."""
    for token in range(position, max(position - 64, 0), -1):
        if tokens.start_ok[token]:
            return token
    return position


def resolve_conflicts(spans: Iterable[Span], nested: bool) -> list[Span]:
    """Of spans that overlap keep the more probable ones; with ``nested`` drop exact repetitions alone.

    Equal scores: the longer span wins, then the earlier one, then the label's name decides.
    """
    ranked = sorted(spans, key=lambda s: (-(s.score or 0.0), s.start - s.end, s.start, s.label))
    if nested:
        return sorted({span.key: span for span in reversed(ranked)}.values())
    kept: list[Span] = []
    starts: list[int] = []
    for span in ranked:
        at = bisect_left(starts, span.start)
        clear = (at == 0 or kept[at - 1].end <= span.start) and (at == len(kept) or kept[at].start >= span.end)
        if clear:
            kept.insert(at, span)
            starts.insert(at, span.start)
    return kept


def gold_in_window(window: Window, spans: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Gold token spans (first, last, label) that lie wholly in a window, counted from its start."""
    return [
        (first - window.start, last - window.start, label)
        for first, last, label in spans
        if window.start <= first and last < window.end
    ]
