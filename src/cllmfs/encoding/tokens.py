"""Text to tokens, with exact character offsets carried along.

Offsets come from the text's own word units (:mod:`cllmfs.words`), never from decoded tokens, so that a span of tokens
is a span of the text whatever the tokenizer drops, folds or normalises. Knows a fast Hugging Face tokenizer by duck
type; knows nothing of prompts, labels or models.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Regex, pre_tokenizers

from cllmfs.errors import DataError, ModelError
from cllmfs.schema import Span
from cllmfs.words import clusters, word_units

# Tokens must not run across these: punctuation and symbols (with the space before them), the characters of scripts
# written without spaces, the zero-width space and bidirectional marks. U+2581 is SentencePiece's space.
_CUT_PATTERN = (
    r"[ \u2581]?(?:(?!\u2581)[\p{P}\p{S}]"
    r"|[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Bopomofo}]"
    r"|[\u200b\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069])"
    r"[\p{M}\u200d\ufe0f]*"
)


@dataclass(frozen=True)
class TokenizedText:
    """A text as tokens, n of them.

    Attributes:
        text: the text.
        ids: token ids.
        start_ok: whether a span may begin with the token.
        end_ok: whether a span may end with the token.
        char_start: where a span that begins with the token begins in the text; -1 where none may.
        char_end: where a span that ends with the token ends in the text (exclusive); -1 where none may.
        cases: how the word around the token is written: 0 without capitals, 1 with a capital first, then small
            letters, 2 otherwise. For bases whose tokenizer folds case away but which read it as a second input.
    """

    text: str
    ids: tuple[int, ...]
    start_ok: tuple[bool, ...]
    end_ok: tuple[bool, ...]
    char_start: tuple[int, ...]
    char_end: tuple[int, ...]
    cases: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, end: int) -> TokenizedText:
        """Tokens ``start`` to ``end`` (exclusive); offsets still count in the whole text."""
        return TokenizedText(
            self.text,
            self.ids[start:end],
            self.start_ok[start:end],
            self.end_ok[start:end],
            self.char_start[start:end],
            self.char_end[start:end],
            self.cases[start:end],
        )

    def token_range(self, start: int, end: int) -> tuple[int, int] | None:
        """The (first, last) token of the characters ``start`` to ``end``, or None where no token edge stands there."""
        if start < 0 or end < 0:
            return None
        try:
            first, last = self.char_start.index(start), self.char_end.index(end)
        except ValueError:
            return None
        return (first, last) if first <= last else None

    def char_range(self, first: int, last: int) -> tuple[int, int]:
        """The character range (start, end) of the tokens ``first`` to ``last`` inclusive."""
        return self.char_start[first], self.char_end[last]


def with_word_cuts(tokenizer: Any) -> Any:
    """Make a fast tokenizer cut at punctuation and unspaced characters, so that word edges are token edges; in place.

    Raises:
        ModelError: if the tokenizer has no fast backend.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"a fast tokenizer (tokenizer.json) is needed for character offsets, got {type(tokenizer).__name__}; "
            "convert it with transformers' convert_slow_tokenizer or choose a base that ships one"
        )
    cut = pre_tokenizers.Split(Regex(_CUT_PATTERN), behavior="isolated")
    existing = backend.pre_tokenizer
    backend.pre_tokenizer = cut if existing is None else pre_tokenizers.Sequence([cut, existing])
    return tokenizer


def tokenize(tokenizer: Any, text: str, edges: str = "word") -> TokenizedText:
    """Tokenise a text, with the edges at which spans may begin and end.

    Args:
        tokenizer: a fast tokenizer, as :func:`with_word_cuts` leaves it.
        text: any text; an empty one gives no tokens, and what looks like a special token ("</s>") is text like any.
        edges: ``word``: spans begin and end at word units' edges; ``token``: also between any two tokens that stand at
            a grapheme cluster's edge.

    Raises:
        DataError: if the text holds half of a surrogate pair, which no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text must be valid Unicode, got half of a surrogate pair, {text[error.start]!a}, at code point "
            f"{error.start}: read the text with its right encoding"
        ) from error
    encoding = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
    )
    ids = tuple(encoding["input_ids"])
    offsets = [_visible(text, start, end) for start, end in encoding["offset_mapping"]]
    words = _atoms(offsets, word_units(text), len(text))
    first, last = words if edges == "word" else _atoms(offsets, _token_pieces(text, offsets), len(text))
    char_start, char_end = [-1] * len(ids), [-1] * len(ids)
    for token, start in first.items():
        char_start[token] = start
    for token, end in last.items():
        char_end[token] = end
    return TokenizedText(
        text,
        ids,
        tuple(start >= 0 for start in char_start),
        tuple(end >= 0 for end in char_end),
        tuple(char_start),
        tuple(char_end),
        _letter_cases(text, len(ids), *words),
    )


def _letter_cases(text: str, count: int, first: dict[int, int], last: dict[int, int]) -> tuple[int, ...]:
    """The cases of ``count`` tokens, from the first and last tokens of words with the words' edges in the text."""
    cases = [0] * count
    for (begin, start), (final, end) in zip(sorted(first.items()), sorted(last.items()), strict=True):
        cases[begin : final + 1] = [_word_case(text[start:end])] * (final + 1 - begin)
    return tuple(cases)


def _word_case(word: str) -> int:
    if word == word.lower():
        return 0
    return 1 if word[1:] == word[1:].lower() else 2


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's range without white space at its edges; empty for a token of white space alone."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _token_pieces(text: str, offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Grapheme clusters merged along tokens: the finest pieces whose edges are edges of tokens and of clusters."""
    visible = [(start, end) for start, end in clusters(text) if not text[start:end].isspace()]
    cuts = {start for start, end in offsets if start < end}
    pieces: list[tuple[int, int]] = []
    for start, end in visible:
        if pieces and pieces[-1][1] == start and start not in cuts:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))
    return pieces


def _atoms(
    offsets: list[tuple[int, int]], pieces: list[tuple[int, int]], length: int
) -> tuple[dict[int, int], dict[int, int]]:
    """Smallest groups of pieces that no token leaves.

    Returns:
        first: first token of each atom, with the atom's start in the text.
        last: last token of each atom, with the atom's end.
    """
    piece_at = [-1] * length
    for index, (start, end) in enumerate(pieces):
        piece_at[start:end] = [index] * (end - start)
    covered: list[tuple[int, int] | None] = []  # the pieces of each token, first and last
    glued = [False] * (len(pieces) + 1)  # glued[i]: piece i belongs with piece i - 1
    for start, end in offsets:
        low, high = (piece_at[start], piece_at[end - 1]) if start < end else (-1, -1)
        if low < 0 or high < 0:
            covered.append(None)
            continue
        covered.append((low, high))
        if low < high:
            glued[low + 1 : high + 1] = [True] * (high - low)
    atom_of: list[int] = []
    for index in range(len(pieces)):
        atom_of.append(atom_of[-1] if index and glued[index] else index)
    spans: dict[int, tuple[int, int]] = {}
    for token, pair in enumerate(covered):
        if pair is not None:
            atom = atom_of[pair[0]]
            spans[atom] = (spans[atom][0], token) if atom in spans else (token, token)
    ends = {atom_of[index]: pieces[index][1] for index in range(len(pieces))}
    first = {tokens[0]: pieces[atom][0] for atom, tokens in spans.items()}
    last = {tokens[1]: ends[atom] for atom, tokens in spans.items()}
    return first, last


def align(tokens: TokenizedText, spans: Iterable[Span]) -> tuple[list[tuple[int, int, str]], list[Span]]:
    """Gold spans as (first token, last token, label), and those whose edges are no edges here."""
    aligned, lost = [], []
    for span in spans:
        found = tokens.token_range(span.start, span.end)
        if found is None:
            lost.append(span)
        else:
            aligned.append((*found, span.label))
    return aligned, lost
