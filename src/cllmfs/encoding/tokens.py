"""From text to tokens, with exact character offsets.

Offsets come from the word units of the text (:mod:`cllmfs.words`), never from decoded tokens. A span of tokens is
therefore an exact span of the text, even if the tokenizer drops or normalizes characters. This file knows fast Hugging
Face tokenizers; it knows nothing of prompts, labels or models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import regex
from tokenizers import Regex, pre_tokenizers

from cllmfs.errors import DataError, ModelError
from cllmfs.schema import Span
from cllmfs.words import SEPARATORS, UNSPACED, clusters, word_units

# Tokens must not run across these characters: punctuation and symbols (with the space before them), the characters of
# scripts written without spaces, and separators such as the zero-width space. U+2581 is SentencePiece's space.
_CUT_PATTERN = r"[ \u2581]?(?:(?!\u2581)[\p{P}\p{S}]" rf"|[{UNSPACED}]|[{SEPARATORS}])" r"[\p{M}\u200d\ufe0f]*"


_SEPARATOR = regex.compile(f"[{SEPARATORS}]", regex.V1)


@dataclass(frozen=True)
class TokenizedText:
    """A text as n tokens.

    Attributes:
        ids: token ids.
        start_ok, end_ok: whether a span may begin with the token, and whether one may end with it.
        char_start: where a span that begins with the token begins in the text; -1 where no span may begin.
        char_end: where a span that ends with the token ends in the text (exclusive); -1 where no span may end.
        cases: letter case of the word around the token: 0 without capitals, 1 if only the first letter is a capital, 2
            otherwise. It is a second input of bases whose tokenizer drops case.
        offsets: (start, end) of the token's visible characters in the text; start >= end for white space.
    """

    text: str
    ids: tuple[int, ...]
    start_ok: tuple[bool, ...]
    end_ok: tuple[bool, ...]
    char_start: tuple[int, ...]
    char_end: tuple[int, ...]
    cases: tuple[int, ...] = ()
    offsets: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, end: int) -> TokenizedText:
        """Tokens ``start`` to ``end`` (exclusive); offsets still refer to the whole text."""
        part: dict[str, Any] = {name: value[start:end] for name, value in vars(self).items() if name != "text"}
        return TokenizedText(self.text, **part)

    def token_range(self, start: int, end: int) -> tuple[int, int] | None:
        """The (first, last) tokens of the characters ``start`` to ``end``; ``None`` if no span may lie there."""
        if start < 0 or end < 0:
            return None
        try:
            first, last = self.char_start.index(start), self.char_end.index(end)
        except ValueError:
            return None
        return (first, last) if first <= last else None

    def char_range(self, first: int, last: int) -> tuple[int, int]:
        """The character range (start, end) of the tokens ``first`` to ``last``, both inclusive."""
        return self.char_start[first], self.char_end[last]


def with_word_cuts(tokenizer: Any) -> Any:
    """A copy of a fast tokenizer that also cuts at punctuation and at characters of scripts without spaces.

    The edges of words are then edges of tokens.

    Raises:
        ModelError: if the tokenizer has no fast backend.
    """
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError(
            f"a fast tokenizer (tokenizer.json) is needed for character offsets, got {type(tokenizer).__name__}; "
            "convert it with transformers' convert_slow_tokenizer or choose a base that ships one"
        )
    copied = copy.deepcopy(tokenizer)
    backend = copied.backend_tokenizer
    cut = pre_tokenizers.Split(Regex(_CUT_PATTERN), behavior="isolated")
    existing = backend.pre_tokenizer
    backend.pre_tokenizer = cut if existing is None else pre_tokenizers.Sequence([cut, existing])
    return copied


def tokenize(tokenizer: Any, text: str, edges: str = "word") -> TokenizedText:
    """Tokenize a text, and find the edges at which spans may begin and end.

    Args:
        tokenizer: a fast tokenizer, as :func:`with_word_cuts` makes it.
        text: any text. An empty one gives no tokens, and what looks like a special token ("</s>") is ordinary text.
        edges: ``word``: spans begin and end at the edges of word units; ``token``: also between any two tokens that
            meet at the edge of a grapheme cluster.

    Raises:
        DataError: if the text contains half of a surrogate pair, which no tokenizer accepts.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"a text must be valid Unicode, got half of a surrogate pair, {text[error.start]!a}, at code point "
            f"{error.start}: read the text in its right encoding"
        ) from error
    encoding = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True, verbose=False
    )
    ids = tuple(encoding["input_ids"])
    offsets = [_visible(text, start, end) for start, end in encoding["offset_mapping"]]
    words = _atoms(offsets, word_units(text), len(text))
    first, last = words if edges == "word" else _atoms(offsets, _token_pieces(text, offsets), len(text))
    char_start = tuple(first.get(token, -1) for token in range(len(ids)))
    char_end = tuple(last.get(token, -1) for token in range(len(ids)))
    cases = [0] * len(ids)
    for (begin, start), (final, end) in zip(words[0].items(), words[1].items(), strict=True):
        word = text[start:end]
        case = 0 if word == word.lower() else 1 if word[1:] == word[1:].lower() else 2
        cases[begin : final + 1] = [case] * (final + 1 - begin)
    start_ok, end_ok = tuple(start >= 0 for start in char_start), tuple(end >= 0 for end in char_end)
    return TokenizedText(text, ids, start_ok, end_ok, char_start, char_end, tuple(cases), tuple(offsets))


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """The range of a token without white space at its edges; start >= end if the token is nothing but white space."""
    token = text[start:end]
    return end - len(token.lstrip()), start + len(token.rstrip())


def _token_pieces(text: str, offsets: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The smallest pieces of a text whose edges are edges both of tokens and of grapheme clusters."""
    cuts = {start for start, end in offsets if start < end}
    pieces: list[tuple[int, int]] = []
    for start, end in clusters(text):
        if text[start:end].isspace():
            continue
        apart = _SEPARATOR.match(text, start) or (pieces and _SEPARATOR.match(text, pieces[-1][0]))
        if pieces and pieces[-1][1] == start and start not in cuts and not apart:
            pieces[-1] = (pieces[-1][0], end)
        else:
            pieces.append((start, end))
    return pieces


def _atoms(
    offsets: list[tuple[int, int]], pieces: list[tuple[int, int]], length: int
) -> tuple[dict[int, int], dict[int, int]]:
    """The atoms of a text: the smallest groups of pieces such that no token lies in two of them.

    A span can only begin and end where both a piece (such as a word) and a token do. Usually a piece consists of one or
    more whole tokens. But a tokenizer may merge two words into one token, or give one word several tokens that overlap
    in the text, such as the bytes of an emoji. Pieces that share a token are joined to one atom, and a span contains
    all of it or nothing.

    Args:
        offsets: (start, end) of each token in the text; start >= end for white space.
        pieces: (start, end) of each piece, in order.
        length: number of characters of the text.

    Returns:
        The first token of each atom with the atom's start in the text, and the last token with its end.
    """
    piece_at = [-1] * length  # the piece that each character belongs to; -1 for white space
    for index, (start, end) in enumerate(pieces):
        piece_at[start:end] = [index] * (end - start)
    # The first and the last piece that each token touches.
    covered = [(piece_at[start], piece_at[end - 1]) if start < end else (-1, -1) for start, end in offsets]
    glued = [False] * len(pieces)  # glued[i]: piece i belongs to the atom of piece i - 1
    for low, high in covered:
        if 0 <= low < high:
            glued[low + 1 : high + 1] = [True] * (high - low)
    atom_of: list[int] = []  # the atom of each piece, identified by the atom's first piece
    for index in range(len(pieces)):
        atom_of.append(atom_of[-1] if glued[index] else index)
    spans: dict[int, tuple[int, int]] = {}  # the first and the last token of each atom
    for token, (low, high) in enumerate(covered):
        if min(low, high) >= 0:
            first = spans.get(atom_of[low], (token, token))[0]
            spans[atom_of[low]] = (first, token)
    ends = {atom: end for atom, (_, end) in zip(atom_of, pieces, strict=True)}
    starts = {first: pieces[atom][0] for atom, (first, _) in spans.items()}
    return starts, {last: ends[atom] for atom, (_, last) in spans.items()}


def align(tokens: TokenizedText, spans: Iterable[Span]) -> tuple[list[tuple[int, int, str]], list[Span]]:
    """Gold spans as (first token, last token, label), and the spans that begin or end where no span may."""
    aligned, lost = [], []
    for span in spans:
        if found := tokens.token_range(span.start, span.end):
            aligned.append((*found, span.label))
        else:
            lost.append(span)
    return aligned, lost
