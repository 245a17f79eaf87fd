"""Prompts: names in words, one-token delimiters on every tokenizer, and what a template must be."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.encoding.prompts import EncodedPrompt, PromptTemplate, verbalize
from cllmfs.errors import ModelError
from tests.conftest import tokenizer_named, tokenizer_names, word_tokenizer

SPECIAL = PromptTemplate(
    before="[CLS]",
    after="[SEP]",
    query="{label}",
    query_described="{label}: {description}",
    open="[unused0]",
    next=("[unused1]",),
    end=("[unused2]",),
    prefix_attention="bidirectional",
)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("person", "person"),
        ("PER", "PER"),
        ("ORG", "ORG"),
        ("creative-work", "creative work"),
        ("CreativeWork", "creative work"),
        ("creative_work", "creative work"),
        ("art/film", "art film"),
        ("Location", "location"),
        ("GPE-city", "GPE city"),
        ("MISC_Thing", "MISC thing"),
        ("type2Diabetes", "type2 diabetes"),
        ("  odd -- name  ", "odd name"),
        ("人物", "人物"),
        ("Straße", "straße"),
        ("___", "___"),
    ],
)
def test_names_in_words(label: str, words: str) -> None:
    assert verbalize(label) == words


@given(st.text(min_size=1).filter(str.strip))
def test_a_name_is_never_empty_and_stays_in_words(label: str) -> None:
    words = verbalize(label)
    assert words.strip()
    if words != label:
        assert words == " ".join(words.split())


@pytest.mark.parametrize("name", tokenizer_names())
def test_delimiters_are_one_token_each(name: str) -> None:
    tokenizer = tokenizer_named(name)
    prompt = EncodedPrompt(SPECIAL if name == "word" else PromptTemplate(), tokenizer)
    assert prompt.next_id != prompt.end_id
    unknown = tokenizer.unk_token_id
    assert prompt.next_id != unknown and (prompt.end_id != unknown or prompt.end_id == tokenizer.eos_token_id)
    # What the model would write after a word reads back as the candidate it was made from.
    word = tokenizer("word", add_special_tokens=False)["input_ids"]
    plain = tokenizer.decode(word)
    for piece_id, pieces in ((prompt.next_id, prompt.template.next), (prompt.end_id, prompt.template.end)):
        written = tokenizer.decode([*word, piece_id], clean_up_tokenization_spaces=False).removeprefix(plain)
        assert written in pieces or written.strip() in pieces
    assert prompt.before and prompt.after and prompt.open
    assert prompt.query("person") != prompt.query("place")


@pytest.mark.parametrize("name", tokenizer_names())
def test_the_first_token_of_a_row_is_the_tokenizers(name: str) -> None:
    tokenizer = tokenizer_named(name)
    prompt = EncodedPrompt(SPECIAL if name == "word" else PromptTemplate(), tokenizer)
    first = tokenizer("a")["input_ids"][:1]
    assert prompt.bos == (first if first == [tokenizer.bos_token_id] else [])


def test_bytes_by_hand() -> None:
    tokenizer = tokenizer_named("byte")
    prompt = EncodedPrompt(PromptTemplate("S:", "\n", "{label}?", "{label}, {description}?", "A:"), tokenizer)

    def read(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    assert prompt.bos == [tokenizer.bos_token_id]
    assert [read(ids) for ids in (prompt.before, prompt.after, prompt.open)] == ["S:", "\n", "A:"]
    assert read([prompt.next_id]) == "|"  # " |" is two bytes, so the next candidate is taken
    assert read([prompt.end_id]) == "\n"
    assert read(prompt.query("CreativeWork")) == "creative work?"
    assert read(prompt.query("work", "a {label}")) == "work, a {label}?"
    assert read(prompt.query("{description}", "text")) == "{description}, text?"
    assert prompt.query("work") is prompt.query("work")  # encoded once


@pytest.mark.parametrize("family", ["llama-3", "qwen3"])
def test_fixed_pieces_have_the_tokens_of_the_base_and_users_words_are_cut(family: str) -> None:
    tokenizer = tokenizer_named(family)
    prompt = EncodedPrompt(PromptTemplate(), tokenizer)
    assert tokenizer.convert_ids_to_tokens(prompt.before) == ["Sentence", ":Ċ"], "as the base was trained to read it"
    for name in ("before", "after", "open"):
        piece = getattr(PromptTemplate, name)
        assert getattr(prompt, name) == tokenizer(piece, add_special_tokens=False)["input_ids"]
    asked = 'Extract every entity of the type "e.g. a".\n'
    assert prompt.query("e.g. a") == prompt.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert prompt.query("e.g. a") != tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert len(prompt.tokenizer("x:\n", add_special_tokens=False)["input_ids"]) == 3
    assert len(tokenizer("x:\n", add_special_tokens=False)["input_ids"]) == 2, "its own tokenizer is left as it is"


def test_pieces_of_the_vocabulary_mean_that_token() -> None:
    tokenizer = tokenizer_named("word")
    prompt = EncodedPrompt(SPECIAL, tokenizer)
    ids = tokenizer.convert_tokens_to_ids
    assert prompt.before == [ids("[CLS]")] and prompt.after == [ids("[SEP]")] and prompt.open == [ids("[unused0]")]
    assert (prompt.next_id, prompt.end_id) == (ids("[unused1]"), ids("[unused2]"))
    assert prompt.bos == []
    assert prompt.query("Boat") == [ids("boat")]


def test_a_byte_that_looks_like_a_letter_is_no_piece() -> None:
    """Byte-level vocabularies write byte E9 as "é"; the letter itself is two bytes."""
    tokenizer = tokenizer_named("byte")
    assert "é" in tokenizer.get_vocab()
    prompt = EncodedPrompt(PromptTemplate(before="é", next=("é", "|")), tokenizer)
    assert tokenizer.decode(prompt.before) == "é"
    assert tokenizer.decode([prompt.next_id]) == "|"


def test_empty_pieces_have_no_tokens() -> None:
    prompt = EncodedPrompt(PromptTemplate(before="", open=""), tokenizer_named("byte"))
    assert prompt.before == [] and prompt.open == []


@pytest.mark.parametrize(("name", "token"), [("word", "[SEP]"), ("byte", "</s>")])
def test_control_tokens_in_a_users_words_are_text(name: str, token: str) -> None:
    tokenizer = tokenizer_named(name)
    prompt = EncodedPrompt(dataclasses.replace(SPECIAL, next=("|", "[unused1]"), end=("\n", "[unused2]")), tokenizer)
    control = tokenizer.convert_tokens_to_ids(token)
    assert control not in prompt.query(token)
    assert control not in prompt.query("boat", f"the {token} boat")


def test_the_end_of_sequence_is_the_last_resort() -> None:
    tokenizer = tokenizer_named("byte")
    assert EncodedPrompt(PromptTemplate(end=("two", "bytes")), tokenizer).end_id == tokenizer.eos_token_id
    assert EncodedPrompt(PromptTemplate(end=()), tokenizer).end_id == tokenizer.eos_token_id
    same = EncodedPrompt(PromptTemplate(next=("|",), end=("|", "!")), tokenizer)  # one delimiter is not both
    assert tokenizer.decode([same.end_id]) == "!"


@pytest.mark.parametrize(
    ("tokenizer", "template", "name", "candidates"),
    [
        ("byte", PromptTemplate(next=("ab", "é")), "next", "['ab', 'é']"),
        ("byte", PromptTemplate(next=()), "next", "[]"),
        ("byte", PromptTemplate(next=("</s>",), end=("</s>", "two")), "end", "['</s>', 'two']"),
        ("word", dataclasses.replace(SPECIAL, next=("ada",), end=("\n",)), "end", r"['\n']"),  # dropped by WordPiece
        ("word", dataclasses.replace(SPECIAL, next=("€",)), "next", "['€']"),  # only as the unknown token
    ],
)
def test_a_delimiter_that_is_no_token(tokenizer: str, template: PromptTemplate, name: str, candidates: str) -> None:
    with pytest.raises(ModelError) as caught:
        EncodedPrompt(template, tokenizer_named(tokenizer))
    assert str(caught.value) == (
        f"the prompt's {name!r} delimiter must be one token of the base's vocabulary, but none of {candidates} is: "
        "name one in the base's cllmfs_prompt.json"
    )


def test_a_delimiter_that_melts_into_the_word_before_is_none() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["x;"])  # "x;" is now one token, so ";" behind a word is not
    template = dataclasses.replace(SPECIAL, next=("; ",))
    with pytest.raises(ModelError, match="'next' delimiter must be one token"):
        EncodedPrompt(template, tokenizer)


@pytest.mark.parametrize("template", [PromptTemplate(), SPECIAL])
def test_templates_survive_json(template: PromptTemplate) -> None:
    assert PromptTemplate.from_dict(json.loads(json.dumps(template.to_dict()))) == template
    assert PromptTemplate.from_dict({}) == PromptTemplate()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"begin": "x"},
            "x.json: unknown piece 'begin'; a template has after, before, end, letter_case, next, open, "
            "prefix_attention, query, query_described",
        ),
        ({"before": 1}, "x.json: before must be a string, got 1"),
        ({"before": ["a"]}, "x.json: before must be a string, got ['a']"),
        ({"next": "|"}, "x.json: next must be a list of strings, got '|'"),
        ({"end": ["a", 2]}, "x.json: end must be a list of strings, got ['a', 2]"),
        ({"query": "Find it."}, "x.json: query must hold {label}, got 'Find it.'"),
        ({"query_described": "{label}"}, "x.json: query_described must hold {description}, got '{label}'"),
        ({"query_described": "{description}"}, "x.json: query_described must hold {label}, got '{description}'"),
        ({"prefix_attention": "full"}, "x.json: prefix_attention must be causal or bidirectional, got 'full'"),
    ],
)
def test_what_a_template_must_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        PromptTemplate.from_dict(values, "x.json")
    assert str(caught.value) == message
