"""Offsets are exact for every tokenizer and any text: properties, and what each edge case means by hand."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cllmfs.encoding.tokens import TokenizedText, align, tokenize, with_word_cuts
from cllmfs.errors import DataError, ModelError
from cllmfs.schema import Span
from cllmfs.words import clusters, word_units
from tests.conftest import (
    TEXT_PIECES,
    byte_tokenizer,
    cut_tokenizer,
    texts,
    tokenizer_named,
    tokenizer_names,
    word_tokenizer,
)


def without_spaces(text: str) -> str:
    return text.replace(" ", "").replace("▁", "")


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


# What a tokenizer does to a text that can be read back from its tokens; SentencePiece writes a space as "▁".
KEEPS = {
    **dict.fromkeys(["byte", "gpt2", "llama-3", "olmo2-dolma2"], str),
    **dict.fromkeys(["gpt-neox-20b", "qwen2.5", "qwen3"], composed),
    **dict.fromkeys(["llama-2", "mistral-v1", "mistral-v3"], without_spaces),
}


@pytest.fixture(scope="module", params=tokenizer_names())
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, cut_tokenizer(request.param)


@pytest.fixture(scope="module")
def bytes_cut() -> Any:
    return with_word_cuts(byte_tokenizer())


@pytest.fixture(scope="module")
def words_cut() -> Any:
    return with_word_cuts(word_tokenizer())


def edges_of(tokens: TokenizedText) -> list[tuple[int, int]]:
    """The (first, last) tokens of all spans that an answer may hold."""
    ends = [token for token in range(len(tokens)) if tokens.end_ok[token]]
    return [(first, last) for first in range(len(tokens)) if tokens.start_ok[first] for last in ends if last >= first]


def spans_of(tokens: TokenizedText) -> list[str]:
    """The shortest span at each start, as text."""
    shortest: dict[int, int] = {}
    for first, last in edges_of(tokens):
        shortest.setdefault(first, last)
    return [tokens.text[slice(*tokens.char_range(first, last))] for first, last in shortest.items()]


def check_offsets(tokens: TokenizedText, edges: str) -> None:
    text = tokens.text
    assert len({len(tokens), *map(len, (tokens.start_ok, tokens.end_ok, tokens.char_start, tokens.char_end))}) == 1
    starts = [position for position in tokens.char_start if position >= 0]
    ends = [position for position in tokens.char_end if position >= 0]
    assert [position >= 0 for position in tokens.char_start] == list(tokens.start_ok)
    assert [position >= 0 for position in tokens.char_end] == list(tokens.end_ok)
    # Strictly rising, so that no two tokens begin, or end, a span at one place.
    assert starts == sorted(set(starts)) and ends == sorted(set(ends))
    pieces = word_units(text) if edges == "word" else clusters(text)
    assert set(starts) <= {start for start, _ in pieces}
    assert set(ends) <= {end for _, end in pieces}
    for first, last in edges_of(tokens):
        start, end = tokens.char_range(first, last)
        assert 0 <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
        assert tokens.token_range(start, end) == (first, last)


@pytest.mark.parametrize("edges", ["word", "token"])
@given(text=texts())
@example(text="")
@example(text=" \u00a0\r\n")
@example(text="İİ ﬁn e\u0301\u200f😀\x00 \u200bA")
@settings(deadline=None, max_examples=40)
def test_offsets_are_exact(named: tuple[str, Any], edges: str, text: str) -> None:
    check_offsets(tokenize(named[1], text, edges), edges)


@given(text=st.lists(st.sampled_from(TEXT_PIECES), max_size=10).map("".join))
@settings(deadline=None, max_examples=40)
def test_tokens_spell_the_span(named: tuple[str, Any], text: str) -> None:
    """The tokens from a span's first to its last are its characters and no others, read back from the tokens."""
    name, tokenizer = named
    if name not in KEEPS:
        pytest.skip(f"a text cannot be read back from the tokens of {name}")
    form = KEEPS[name]
    tokens = tokenize(tokenizer, text)
    for first, last in edges_of(tokens):
        start, end = tokens.char_range(first, last)
        read = tokenizer.decode(tokens.ids[first : last + 1], clean_up_tokenization_spaces=False)
        assert form(read).strip() == form(text[start:end]).strip()


PROSE = (
    "Ada Byron-King (1815–1852) wrote “Notes”, didn't she? e-mail: ada@x.org, №7; 50% of $3.50.",
    "Zoë İnan naïvely met Øystein in Straße 12… ÉTÉ",
    "東京都の渋谷区で、山田さんは「カフェ」に行った。𠮷野家",
    "서울에서 김철수가 부산으로 갔다.",
    "Анна Каренина живёт в Москве; Αθήνα, Ελλάδα!",
    "القاهرة، مصر؛ שלום: עולם.",
    "दिल्ली में, தமிழ் নদী।",
    "ไปกรุงเทพ ភ្នំពេញ",
    "👩‍🚀 flew 🇮🇹 → 🇫🇷 👍🏽",
    "line one\nline\ttwo\r\nNBSP\u00a0here  two  spaces",
    "שלום\u200f, ภาษา\u200bไทย \u2067עברית\u2069.",
    "</s> is text, <|endoftext|> too, and <s>[INST]",
)


@pytest.mark.parametrize("text", PROSE)
def test_every_word_unit_of_prose_is_reachable(named: tuple[str, Any], text: str) -> None:
    name, tokenizer = named
    units = word_units(text)
    if name == "word":  # WordPiece drops what its normalizer calls control, and a word of it alone has no token
        units = [(s, e) for s, e in units if not all(unicodedata.category(char) == "Cf" for char in text[s:e])]
    tokens = tokenize(tokenizer, text)
    unreachable = [text[start:end] for start, end in units if tokens.token_range(start, end) is None]
    assert unreachable == []


@given(text=texts())
@settings(deadline=None)
def test_bytes_reach_every_word_unit(bytes_cut: Any, text: str) -> None:
    tokens = tokenize(bytes_cut, text)
    found = [(start, end) for start, end in zip(tokens.char_start, tokens.char_end, strict=True)]
    assert [start for start, _ in found if start >= 0] == [start for start, _ in word_units(text)]
    assert [end for _, end in found if end >= 0] == [end for _, end in word_units(text)]


@given(text=texts())
@settings(deadline=None)
def test_bytes_reach_every_cluster_with_token_edges(bytes_cut: Any, text: str) -> None:
    tokens = tokenize(bytes_cut, text, "token")
    visible = [(start, end) for start, end in clusters(text) if not text[start:end].isspace()]
    assert all(tokens.token_range(start, end) is not None for start, end in visible)


def test_bytes_by_hand(bytes_cut: Any) -> None:
    tokens = tokenize(bytes_cut, "Zoë,\u00a0a b")
    assert len(tokens) == 10  # ë and the space after the comma are two bytes each
    assert tokens.char_start == (0, -1, -1, -1, 3, -1, -1, 5, -1, 7)
    assert tokens.char_end == (-1, -1, -1, 3, 4, -1, -1, 6, -1, 8)
    assert tokens.start_ok == tuple(position >= 0 for position in tokens.char_start)
    assert tokens.token_range(0, 3) == (0, 3)
    assert tokens.token_range(0, 4) == (0, 4)
    assert tokens.token_range(5, 8) == (7, 9)
    assert tokens.token_range(0, 2) is None  # inside a word
    assert tokens.token_range(3, 3) is None
    assert tokens.token_range(5, 4) is None
    assert tokens.token_range(4, 6) is None  # begins with white space
    assert tokens.token_range(-1, -1) is None


def test_token_edges_by_hand(bytes_cut: Any) -> None:
    tokens = tokenize(bytes_cut, "aë e\u0301", "token")
    assert tokens.char_start == (0, 1, -1, -1, 3, -1, -1)
    assert tokens.char_end == (1, -1, 2, -1, -1, -1, 5)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Ada Byron met Zoë", ["Ada", "Byron", "met", "Zoë"]),  # folded, cut in pieces, accents stripped
        ("Zoe\u0308burg-ADA", ["Zoe\u0308burg", "-", "ADA"]),
        ("İda's boat", ["İda", "'", "s", "boat"]),  # lower-casing makes two characters of one
        ("京東大", ["京", "東", "大"]),
        ("ada\u200bbyron", ["ada", "byron"]),  # the separator is dropped, but tokens still end at it
        ("ro\u200bme", ["ro\u200bme"]),  # and here they do not: what one token covers is one piece
        ("ada \u200b byron", ["ada", "byron"]),  # a unit without a token is no span
        ("\ufeffada", ["ada"]),
        ("co\u00adop", ["co\u00adop"]),
        ("[SEP] ada", ["[", "SEP", "]", "ada"]),  # a control token's name is text
        ("\x00\x07", []),
    ],
)
def test_dropping_and_folding_by_hand(words_cut: Any, text: str, spans: list[str]) -> None:
    assert spans_of(tokenize(words_cut, text)) == spans


def test_control_tokens_in_a_text_are_text(named: tuple[str, Any]) -> None:
    _, tokenizer = named
    for token in tokenizer.all_special_tokens:
        ids = tokenize(tokenizer, f"a {token} b").ids
        unknown = tokenizer.unk_token_id  # what a word without a token becomes
        assert tokenizer.convert_tokens_to_ids(token) not in set(ids) - {unknown}, token


def test_no_tokens_of_nothing(bytes_cut: Any) -> None:
    assert len(tokenize(bytes_cut, "")) == 0
    blank = tokenize(bytes_cut, " \n")
    assert len(blank) == 2 and not any(blank.start_ok) and not any(blank.end_ok)


@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "ab\ud83d\ude00"])
def test_half_a_surrogate_pair_is_refused(bytes_cut: Any, text: str) -> None:
    with pytest.raises(
        DataError, match=r"valid Unicode, got half of a surrogate pair, '\\ud[0-9a-f]{3}', at code point"
    ):
        tokenize(bytes_cut, text)


def test_slow_tokenizers_are_refused() -> None:
    with pytest.raises(ModelError, match=r"a fast tokenizer \(tokenizer\.json\) is needed .*, got str; convert"):
        with_word_cuts("no tokenizer")


@pytest.mark.parametrize("name", tokenizer_names())
def test_the_tokenizer_of_the_base_stays_as_it_was(name: str) -> None:
    tokenizer = tokenizer_named(name)
    texts_with_punctuation = [*PROSE, "Sentence:\n", "it's: (e.g.) a-b;\n\n"]
    before = [tokenizer(text)["input_ids"] for text in texts_with_punctuation]
    backend = tokenizer.backend_tokenizer.to_str()
    cut = with_word_cuts(tokenizer)
    for text in texts_with_punctuation:
        tokenize(cut, text)
    assert cut is not tokenizer and cut.backend_tokenizer.to_str() != backend
    assert tokenizer.backend_tokenizer.to_str() == backend
    assert [tokenizer(text)["input_ids"] for text in texts_with_punctuation] == before


def test_cutting_twice_changes_nothing() -> None:
    tokenizer = with_word_cuts(byte_tokenizer())
    once = tokenize(tokenizer, "Ada, 東京 🇮🇹!")
    assert tokenize(with_word_cuts(tokenizer), "Ada, 東京 🇮🇹!") == once


def test_slices_keep_offsets_of_the_whole_text(bytes_cut: Any) -> None:
    tokens = tokenize(bytes_cut, "ab cd ef")
    part = tokens.slice(3, 6)
    assert part.text == "ab cd ef" and len(part) == 3
    assert part.ids == tokens.ids[3:6]
    assert part.token_range(3, 5) == (0, 1)
    assert part.char_range(0, 1) == (3, 5)
    assert part.token_range(0, 2) is None


def test_align_names_what_it_loses(bytes_cut: Any) -> None:
    tokens = tokenize(bytes_cut, "Ada Byron, Rome")
    whole, part, place = Span(0, 9, "person"), Span(0, 2, "person"), Span(11, 15, "place")
    aligned, lost = align(tokens, [whole, part, place])
    assert aligned == [(0, 8, "person"), (11, 14, "place")]
    assert lost == [part]
    aligned, lost = align(tokenize(bytes_cut, "Ada Byron, Rome", "token"), [whole, part, place])
    assert (0, 1, "person") in aligned and lost == []
