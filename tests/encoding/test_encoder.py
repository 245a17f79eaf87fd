"""The encoder: gold answers of windows, room for a sentence beside the queries, stretches of long texts."""

from __future__ import annotations

import pytest

from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.rows import TypeQuery
from cllmfs.errors import DataError
from cllmfs.schema import Span
from tests.conftest import SHORT_TEMPLATE, own_byte_tokenizer

PROMPT = EncodedPrompt(SHORT_TEMPLATE, own_byte_tokenizer())  # one token for each byte
FRAME = 1 + len("S:") + len("\n") + len("A:")  # the token that begins the sequence, and the pieces of the prompt


# gold answers


def test_gold_of_a_window_counts_from_its_start_and_lies_in_it_wholly() -> None:
    encoder = Encoder(PROMPT, edges="token")
    window = encoder.tokenize("abcdefghijklmnop").slice(4, 10)
    gold = [(0, 1, "a"), (4, 5, "a"), (5, 9, "b"), (5, 10, "c"), (3, 4, "d"), (12, 13, "a")]  # tokens, both inclusive
    spans = [Span(first, last + 1, label) for first, last, label in gold]
    assert encoder.answers(window, spans) == {"a": ((0, 1),), "b": ((1, 5),)}


def test_gold_that_no_answer_can_hold_is_left_out() -> None:
    spans = [Span(0, 2, "x"), Span(0, 3, "x"), Span(0, 9, "x"), Span(4, 9, "y"), Span(4, 9, "x")]
    flat, nested = Encoder(PROMPT), Encoder(PROMPT, nested=True)
    sentence = flat.tokenize("Ada Byron")
    assert flat.answers(sentence, spans) == {"x": ((0, 8),), "y": ((4, 8),)}, "the longest; none inside a word"
    assert nested.answers(sentence, spans) == {"x": ((0, 2), (0, 8), (4, 8)), "y": ((4, 8),)}
    assert flat.answers(sentence, []) == {}
    assert flat.answers(flat.tokenize(""), spans) == {}


@pytest.mark.parametrize("nested", [False, True])
def test_every_answer_has_a_row(nested: bool) -> None:
    encoder = Encoder(PROMPT, nested=nested)
    sentence = encoder.tokenize("Ada Byron Ada")
    gold = [Span(0, 3, "x"), Span(0, 9, "x"), Span(4, 13, "x"), Span(10, 13, "x")]
    (found,) = encoder.answers(sentence, gold).values()
    (row,) = encoder.rows(sentence, [encoder.query("x", "x", spans=found)])
    assert row.branches[0].spans == found and row.automaton.nested == nested


# queries


def test_a_query_asks_by_name_and_answers_by_label() -> None:
    encoder = Encoder(PROMPT)
    assert encoder.query("PER", "person") == TypeQuery("PER", tuple(PROMPT.query("person")))
    described = encoder.query("PER", "person", "a human", [(0, 2)])
    assert described == TypeQuery("PER", tuple(PROMPT.query("person", "a human")), ((0, 2),))
    assert encoder.queries({"person": "", "place": "a site"}) == (
        encoder.query("person", "person"),
        encoder.query("place", "place", "a site"),
    )


@pytest.mark.parametrize(
    ("positions", "wanted", "expected"),
    [
        (10_000, 0, 512),  # longer windows make attention dear
        (10_000, 2000, 2000),
        (1000, 0, 500),  # half of the positions
        (1000, 900, int((1000 - FRAME - len("person?")) / 1.5)),  # an answer needs room, too
        (40, 0, int((40 - FRAME - len("person?")) / 1.5)),
    ],
)
def test_the_sentence_has_room_beside_the_longest_query(positions: int, wanted: int, expected: int) -> None:
    encoder = Encoder(PROMPT, max_positions=positions, window_tokens=wanted)
    assert encoder.window(encoder.queries({"person": "", "boat": ""})) == expected


def test_a_query_that_leaves_no_room_is_refused() -> None:
    encoder = Encoder(PROMPT, max_positions=64)
    queries = encoder.queries({"person": "a human being " * 4})
    with pytest.raises(DataError, match=r"description is too long: the query takes \d+ of the model's 64 positions"):
        encoder.window(queries)


# texts


def test_stretches_of_a_long_text_count_in_the_whole_text_and_own_each_token_once() -> None:
    encoder = Encoder(PROMPT, overlap_tokens=4)
    text = "Ada met Bo. " * 10
    parts = encoder.sentences(text, 24)
    assert len(parts) > 4 and all(len(part.tokens) <= 24 and part.tokens.text == text for part in parts)
    owned = []
    for part in parts:
        starts = part.tokens.char_start[slice(*part.owned)]
        owned += [start for start in starts if start >= 0]
    whole = encoder.tokenize(text)
    assert owned == [start for start in whole.char_start if start >= 0]


def test_a_short_text_is_one_stretch_and_an_empty_text_none() -> None:
    encoder = Encoder(PROMPT)
    (part,) = encoder.sentences("Ada met Bo.", 512)
    assert part.tokens == encoder.tokenize("Ada met Bo.") and part.owned == (0, 11)
    assert encoder.sentences("", 512) == []


def test_the_edges_of_spans_are_those_of_the_encoder() -> None:
    words, tokens = (Encoder(PROMPT, edges=edges).tokenize("Ada") for edges in ("word", "token"))
    assert words.token_range(0, 2) is None and tokens.token_range(0, 2) == (0, 1)


def test_type_first_rows_are_no_trees_and_read_one_way() -> None:
    encoder = Encoder(PROMPT, order="type-first", tree=True, bidirectional=True)
    assert not encoder.tree and not encoder.bidirectional
