"""Letter case as a second input: what each token is given, and its way through rows, batches and the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.config import Config, LossConfig
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Rules, decode
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.batches import collate
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.encoding.rows import Request, Row, TypeQuery
from cllmfs.encoding.tokens import TokenizedText, tokenize
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import PROMPT_FILE, load_backbone
from cllmfs.schema import LabelSet
from cllmfs.training.objective import batch_loss
from cllmfs.training.recipe import Recipe
from cllmfs.words import word_units
from tests.conftest import (
    EXAMPLES,
    SHORT_TEMPLATE,
    cut_tokenizer,
    own_byte_tokenizer,
    requests_of,
    rows_of,
    save_base,
    texts,
    tiny_backbone,
    tiny_model,
    word_tokenizer,
)

CASED = dataclasses.replace(SHORT_TEMPLATE, letter_case=True)


def cased_backbone(tokenizer: Any = None, template: PromptTemplate = CASED, **changes: Any) -> Backbone:
    """A tiny BERT decoder with a vector for each of the three cases."""
    tokenizer = tokenizer or own_byte_tokenizer()
    return Backbone("tiny-bert", tiny_model("bert", len(tokenizer), type_vocab_size=3, **changes), tokenizer, template)


@pytest.fixture(scope="module")
def cased() -> Backbone:
    return cased_backbone()


# what a token is given


def kind_of(word: str) -> int:
    """The rule, letter by letter."""
    capitals = [position for position, char in enumerate(word) if char.lower() != char]
    if not capitals:
        return 0
    return 1 if capitals == [0] else 2


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("rome", 0),
        ("Rome", 1),
        ("ROME", 2),
        ("A", 1),
        ("iPad", 2),
        ("McAda", 2),
        ("1st", 0),
        ("3D", 2),
        ("2026", 0),
        ("東", 0),
        ("Éa", 1),
        ("ÉA", 2),
        ("ß", 0),
        ("Ωμέγας", 1),
        ("ΩΜΈΓΑΣ", 2),
    ],
)
@pytest.mark.parametrize("name", ["byte", "word"])
def test_every_token_of_a_word_has_the_words_case(name: str, word: str, kind: int) -> None:
    tokens = tokenize(cut_tokenizer(name), word)
    assert kind_of(word) == kind
    assert len(tokens) > 0 and tokens.cases == (kind,) * len(tokens)


@pytest.mark.parametrize("name", ["byte", "word"])
@given(text=texts())
@settings(deadline=None)
def test_each_word_of_a_text_has_its_own_case(name: str, text: str) -> None:
    tokens = tokenize(cut_tokenizer(name), text)
    kinds = tokens.cases
    assert len(kinds) == len(tokens)
    units = word_units(text)
    first = -1
    for token in range(len(tokens)):
        first = token if tokens.start_ok[token] else first
        if tokens.end_ok[token]:
            begin, end = tokens.char_range(first, token)
            inside = [text[start:stop] for start, stop in units if begin <= start and stop <= end]
            if len(inside) == 1:  # not glued together by a token that spans several
                assert set(kinds[first : token + 1]) == {kind_of(inside[0])}


def test_folded_tokens_are_told_apart_by_case_alone() -> None:
    one, two = (tokenize(cut_tokenizer("word"), text) for text in ("Ada saw ROME", "ADA saw rome"))
    assert one.ids == two.ids
    assert one.cases == (1, 0, 0, 0, 2) and two.cases == (2, 0, 0, 0, 0)


def test_punctuation_parts_words() -> None:
    tokenizer = cut_tokenizer("word")
    tokens = tokenize(tokenizer, "the-ADA's")
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == ["the", "-", "ada", "'", "s"]
    assert tokens.cases == (0, 0, 2, 0, 0)


def test_no_tokens_have_no_case() -> None:
    assert tokenize(cut_tokenizer("word"), "").cases == ()


@given(words=st.lists(st.sampled_from(["Ada", "ROME", "boat", "qX", "東京", "-", "1st"]), min_size=1), data=st.data())
@settings(deadline=None)
def test_a_window_cut_at_words_has_the_cases_of_the_whole(words: list[str], data: st.DataObject) -> None:
    tokens = tokenize(cut_tokenizer("word"), " ".join(words))
    starts = [token for token in range(len(tokens)) if tokens.start_ok[token]]
    ends = [token + 1 for token in range(len(tokens)) if tokens.end_ok[token]]
    begin = data.draw(st.sampled_from(starts))
    stop = data.draw(st.sampled_from([end for end in ends if end > begin]))
    assert tokens.slice(begin, stop).cases == tokens.cases[begin:stop]


def test_a_window_cut_inside_a_word_lends_no_case_to_its_rest() -> None:
    tokens = tokenize(cut_tokenizer("word"), "boatly QQ the")
    assert tokens.cases == (0, 0, 2, 2, 0)
    assert tokens.slice(1, len(tokens)).cases == (0, 2, 2, 0)


def test_the_case_of_a_word_does_not_depend_on_where_spans_may_begin() -> None:
    for_words, for_tokens = (tokenize(cut_tokenizer("word"), "iPad and NATO", edges) for edges in ("word", "token"))
    assert for_words.cases == for_tokens.cases


# rows and batches


def test_rows_carry_cases_only_where_the_base_reads_them(cased: Backbone) -> None:
    for tree in (True, False):
        for row in rows_of(Encoder(cased.prompt, tree=tree)):
            assert row.cases == row.sentence.cases
        rows = rows_of(Encoder(tiny_backbone("bert").prompt, tree=tree))
        assert all(row.cases == () for row in rows)
        assert collate(rows).cases is None


@pytest.mark.parametrize("order", ["sentence-first", "type-first"])
def test_a_batch_has_cases_at_the_sentences_and_nowhere_else(cased: Backbone, order: str) -> None:
    rows = rows_of(Encoder(cased.prompt, order=order))
    batch = collate(rows)
    assert batch.cases is not None and batch.cases.shape == batch.ids.shape and batch.cases.dtype == torch.long
    for r, row in enumerate(rows):
        columns = range(row.sentence_at, row.sentence_at + len(row.sentence))
        assert batch.ids[r, list(columns)].tolist() == list(row.sentence.ids)
        expected = dict(zip(columns, row.sentence.cases, strict=True))
        assert batch.cases[r].tolist() == [expected.get(column, 0) for column in range(batch.cases.shape[1])]
    assert set(batch.cases.flatten().tolist()) == {0, 1}


def test_a_batch_takes_its_cases_along(cased: Backbone) -> None:
    batch = collate(rows_of(Encoder(cased.prompt)))
    assert batch.cases is not None and batch.cases.any()
    moved = batch.to(torch.device("meta"))
    assert moved.cases is not None and moved.cases.device.type == "meta" and moved.cases.shape == batch.cases.shape


# the model


def test_cases_are_the_models_token_type_ids(cased: Backbone) -> None:
    ids = torch.tensor([[40, 70, 50, 20], [33, 44, 55, 66]])
    cases = torch.tensor([[0, 1, 2, 0], [2, 2, 0, 1]])
    seen = torch.ones_like(ids, dtype=torch.bool)
    with torch.inference_mode():
        ours = cased.forward(ids, seen, None, cases=cases).last
        theirs = cased.model(input_ids=ids, token_type_ids=cases).logits
        bare = cased.forward(ids, seen, None).last
        zeros = cased.forward(ids, seen, None, cases=torch.zeros_like(cases)).last
        embedded = cased.model.get_input_embeddings()(ids)
        from_embeds = cased.forward(None, seen, None, embeds=embedded, cases=cases).last
        everything = torch.arange(cased.vocabulary).expand(len(ids), -1)
        torch.testing.assert_close(cased.project(ours, everything), theirs)
    torch.testing.assert_close(from_embeds, ours)
    torch.testing.assert_close(bare, zeros)
    assert (ours - bare).abs().max() > 0.1


def loss_and_gradient(backbone: Backbone, tree: bool, bidirectional: bool) -> tuple[float, torch.Tensor]:
    backbone.model.zero_grad(set_to_none=True)
    batch = collate(rows_of(Encoder(backbone.prompt, tree=tree, bidirectional=bidirectional)))
    loss = batch_loss(backbone, batch, LossConfig(contrastive_layer=0.5), Recipe(1e-3, 1)).total
    loss.backward()
    gradient = backbone.model.bert.embeddings.token_type_embeddings.weight.grad.clone()
    backbone.model.zero_grad(set_to_none=True)
    return loss.item(), gradient


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
def test_a_tree_with_cases_costs_what_its_branches_cost(cased: Backbone, bidirectional: bool) -> None:
    tree, by_tree = loss_and_gradient(cased, True, bidirectional)
    apart, by_rows = loss_and_gradient(cased, False, bidirectional)
    assert tree == pytest.approx(apart, rel=1e-4)
    torch.testing.assert_close(by_tree, by_rows, rtol=1e-4, atol=1e-4 * by_rows.abs().max().item())
    assert by_rows[0].abs().max() > 1e-3 and by_rows[1].abs().max() > 1e-3
    assert not by_rows[2].any()  # no word of the examples is written in capitals
    backbone = cased_backbone(template=SHORT_TEMPLATE)
    blind, unread = loss_and_gradient(backbone, True, bidirectional)
    assert abs(blind - tree) > 1e-3 and not unread[1].any()


@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("votes", [None, VoteSettings(1, 0.5)], ids=["no votes", "votes"])
def test_cached_trees_decode_with_cases_what_plain_rows_decode(
    cased: Backbone, votes: VoteSettings | None, bidirectional: bool
) -> None:
    def found(backbone: Backbone, tree: bool, cached: bool) -> list[list[Any]]:
        encoder = Encoder(backbone.prompt, tree=tree, bidirectional=bidirectional)
        return decode(backbone, encoder, requests_of(encoder), voting=votes, rules=Rules(end_bias=-3.0), cached=cached)

    def ranges(spans: list[list[Any]]) -> list[list[tuple[int, int, str]]]:
        return [[(span.first, span.last, span.label) for span in part] for part in spans]

    def scores(spans: list[list[Any]]) -> list[float]:
        return [figure for part in spans for span in part for figure in (span.score, span.vote)]

    tree = found(cased, True, True)
    assert any(tree)
    for other in (found(cased, True, False), found(cased, False, True), found(cased, False, False)):
        assert ranges(other) == ranges(tree)
        assert scores(other) == pytest.approx(scores(tree), abs=1e-4)
    blind = found(cased_backbone(template=SHORT_TEMPLATE), True, True)
    assert ranges(blind) != ranges(tree) or scores(blind) != pytest.approx(scores(tree), abs=1e-2)


def uncased_backbone(letter_case: bool) -> Backbone:
    template = PromptTemplate(
        "[CLS]", "[SEP]", query="{label}", query_described="{label} {description}", open="[SEP]",
        next=("[unused0]",), end=("[unused1]",), letter_case=letter_case,
    )  # fmt: skip
    return cased_backbone(word_tokenizer(), template)


@pytest.mark.parametrize("reads", [True, False])
def test_an_uncased_base_sees_capitals_only_by_their_case(reads: bool) -> None:
    backbone = uncased_backbone(reads)
    encoder = Encoder(backbone.prompt, bidirectional=True)
    queries = encoder.queries({"boat": ""})
    sentences = [encoder.tokenize(text) for text in ("the boat Ada", "the boat ada", "the boat ADA")]
    assert len({sentence.ids for sentence in sentences}) == 1
    found = decode(
        backbone, encoder, [Request(sentence, queries) for sentence in sentences], rules=Rules(end_bias=-20.0)
    )
    assert all(found)
    answers = {tuple((span.first, span.last, round(span.score, 4)) for span in spans) for spans in found}
    assert len(answers) == (3 if reads else 1)


class Watching(Encoder):
    """An encoder that notes the rows it makes."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.made: list[Row] = []

    def rows(self, sentence: TokenizedText, queries: Sequence[TypeQuery], index: int = 0) -> list[Row]:
        rows = super().rows(sentence, queries, index)
        self.made += rows
        return rows


def test_windows_of_a_long_text_carry_the_cases_of_their_words() -> None:
    backbone = uncased_backbone(True)
    text = "the boat Ada ROME " * 12
    encoder = Watching(backbone.prompt, window_tokens=10, overlap_tokens=4)
    config = Config().with_settings(["runtime.batch_tokens=100"])
    (document,) = Extractor(backbone, config, encoder).extract([text], LabelSet(["boat"]))
    assert document.windows == len(encoder.made) > 4
    kinds = {"the": 0, "boat": 0, "Ada": 1, "ROME": 2}
    for row in encoder.made:
        starts = [start for start in row.sentence.char_start if start >= 0]
        words = [text[start:].split(" ", 1)[0] for start in starts]
        assert list(row.cases) == [kinds[word] for word in words]


# the template


def test_letter_case_survives_json_and_is_off_unless_asked() -> None:
    assert PromptTemplate().letter_case is False and PromptTemplate.from_dict({}).letter_case is False
    for wanted in (True, False):
        template = dataclasses.replace(SHORT_TEMPLATE, letter_case=wanted)
        record = json.loads(json.dumps(template.to_dict()))
        assert record["letter_case"] is wanted
        assert PromptTemplate.from_dict(record) == template


@pytest.mark.parametrize("value", ["true", "", 1, 0, None, [True]])
def test_letter_case_must_be_true_or_false(value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        PromptTemplate.from_dict({"letter_case": value}, "x.json")
    assert str(caught.value) == f"x.json: letter_case must be true or false, got {value!r}"


def test_a_base_on_disk_says_whether_it_reads_letter_case(tmp_path: Path) -> None:
    tokenizer = own_byte_tokenizer()
    model = tiny_model("bert", len(tokenizer), type_vocab_size=3)
    folder = save_base(tmp_path / "base", model, tokenizer)
    for wanted in (True, False):
        record = {**SHORT_TEMPLATE.to_dict(), "letter_case": wanted}
        (folder / PROMPT_FILE).write_text(json.dumps(record), encoding="utf-8")
        backbone = load_backbone(str(folder), device="cpu")
        rows = rows_of(Encoder(backbone.prompt), EXAMPLES[:1])
        assert bool(rows[0].cases) is wanted
