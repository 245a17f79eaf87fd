"""Letter case as a second input: what each token is given, and its way through rows, batches and the model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.config import Config, DecodeConfig, LossConfig
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Request, decode
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.batches import RowBuilder, TypeQuery, collate
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.encoding.tokens import TokenizedText, tokenize
from cllmfs.errors import ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import PROMPT_FILE, load_backbone
from cllmfs.schema import LabelSet
from cllmfs.training.objective import batch_loss
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
    with cut_tokenizer(name) as tokenizer:
        tokens = tokenize(tokenizer, word)
    assert kind_of(word) == kind
    assert len(tokens) > 0 and tokens.cases == (kind,) * len(tokens)


@pytest.mark.parametrize("name", ["byte", "word"])
@given(text=texts())
@settings(deadline=None)
def test_each_word_of_a_text_has_its_own_case(name: str, text: str) -> None:
    with cut_tokenizer(name) as tokenizer:
        tokens = tokenize(tokenizer, text)
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
    with cut_tokenizer("word") as tokenizer:
        one, two = (tokenize(tokenizer, text) for text in ("Ada saw ROME", "ADA saw rome"))
    assert one.ids == two.ids
    assert one.cases == (1, 0, 0, 0, 2) and two.cases == (2, 0, 0, 0, 0)


def test_punctuation_parts_words() -> None:
    with cut_tokenizer("word") as tokenizer:
        tokens = tokenize(tokenizer, "the-ADA's")
    assert tokenizer.convert_ids_to_tokens(tokens.ids) == ["the", "-", "ada", "'", "s"]
    assert tokens.cases == (0, 0, 2, 0, 0)


def test_no_tokens_have_no_case() -> None:
    with cut_tokenizer("word") as tokenizer:
        assert tokenize(tokenizer, "").cases == ()


@given(words=st.lists(st.sampled_from(["Ada", "ROME", "boat", "qX", "東京", "-", "1st"]), min_size=1), data=st.data())
@settings(deadline=None)
def test_a_window_cut_at_words_has_the_cases_of_the_whole(words: list[str], data: st.DataObject) -> None:
    with cut_tokenizer("word") as tokenizer:
        tokens = tokenize(tokenizer, " ".join(words))
    starts = [token for token in range(len(tokens)) if tokens.start_ok[token]]
    ends = [token + 1 for token in range(len(tokens)) if tokens.end_ok[token]]
    begin = data.draw(st.sampled_from(starts))
    stop = data.draw(st.sampled_from([end for end in ends if end > begin]))
    assert tokens.slice(begin, stop).cases == tokens.cases[begin:stop]


def test_a_window_cut_inside_a_word_lends_no_case_to_its_rest() -> None:
    with cut_tokenizer("word") as tokenizer:
        tokens = tokenize(tokenizer, "boatly QQ the")
    assert tokens.cases == (0, 0, 2, 2, 0)
    assert tokens.slice(1, len(tokens)).cases == (0, 2, 2, 0)


def test_the_case_of_a_word_does_not_depend_on_where_spans_may_begin() -> None:
    with cut_tokenizer("word") as tokenizer:
        for_words, for_tokens = (tokenize(tokenizer, "iPad and NATO", edges) for edges in ("word", "token"))
    assert for_words.cases == for_tokens.cases


# rows and batches


def test_rows_carry_cases_only_where_the_base_reads_them(cased: Backbone) -> None:
    for tree in (True, False):
        for row in rows_of(cased, RowBuilder(cased.prompt, "sentence-first", tree)):
            assert row.cases == row.sentence.cases
        plain = tiny_backbone("bert")
        rows = rows_of(plain, RowBuilder(plain.prompt, "sentence-first", tree))
        assert all(row.cases == () for row in rows)
        assert collate(rows).cases is None


@pytest.mark.parametrize("order", ["sentence-first", "type-first"])
def test_a_batch_has_cases_at_the_sentences_and_nowhere_else(cased: Backbone, order: str) -> None:
    rows = rows_of(cased, RowBuilder(cased.prompt, order, tree=True))
    batch = collate(rows)
    assert batch.cases is not None and batch.cases.shape == batch.ids.shape and batch.cases.dtype == torch.long
    for r, row in enumerate(rows):
        columns = range(row.sentence_at, row.sentence_at + len(row.sentence))
        assert batch.ids[r, list(columns)].tolist() == list(row.sentence.ids)
        expected = dict(zip(columns, row.sentence.cases, strict=True))
        assert batch.cases[r].tolist() == [expected.get(column, 0) for column in range(batch.cases.shape[1])]
    assert set(batch.cases.flatten().tolist()) == {0, 1}


def test_a_batch_takes_its_cases_along(cased: Backbone) -> None:
    batch = collate(rows_of(cased, RowBuilder(cased.prompt, "sentence-first", tree=True)))
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
    batch = collate(rows_of(backbone, RowBuilder(backbone.prompt, "sentence-first", tree)))
    loss = batch_loss(backbone, batch, LossConfig(contrastive="infonce", contrastive_layer=0.5), bidirectional).total
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
@pytest.mark.parametrize("opening", ["first", "best"])
def test_cached_trees_decode_with_cases_what_plain_rows_decode(
    cased: Backbone, opening: str, votes: VoteSettings | None, bidirectional: bool
) -> None:
    config = DecodeConfig(end_bias=-3.0, opening=opening)

    def found(backbone: Backbone, tree: bool, cached: bool) -> list[list[Any]]:
        builder = RowBuilder(backbone.prompt, "sentence-first", tree)
        requests = requests_of(backbone)
        return decode(backbone, builder, requests, config, bidirectional=bidirectional, voting=votes, cached=cached)

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
    builder = RowBuilder(backbone.prompt, "sentence-first", tree=True)
    query = TypeQuery("boat", tuple(backbone.prompt.query("boat")))
    sentences = [tokenize(backbone.tokenizer, text) for text in ("the boat Ada", "the boat ada", "the boat ADA")]
    assert len({sentence.ids for sentence in sentences}) == 1
    found = decode(
        backbone, builder, [Request(sentence, (query,)) for sentence in sentences],
        DecodeConfig(end_bias=-20.0, opening="best"), bidirectional=True,
    )  # fmt: skip
    assert all(found)
    answers = {tuple((span.first, span.last, round(span.score, 4)) for span in spans) for spans in found}
    assert len(answers) == (3 if reads else 1)


def test_windows_of_a_long_text_carry_the_cases_of_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = uncased_backbone(True)
    text = "the boat Ada ROME " * 12
    seen: list[tuple[int, tuple[int, ...], TokenizedText]] = []
    build = RowBuilder.rows

    def watched(builder: RowBuilder, sentence: TokenizedText, *rest: Any) -> Any:
        rows = build(builder, sentence, *rest)
        seen.extend((row.sentence_at, row.cases, row.sentence) for row in rows)
        return rows

    monkeypatch.setattr(RowBuilder, "rows", watched)
    config = Config().with_settings(["decode.window_tokens=10", "decode.overlap_tokens=4", "decode.batch_tokens=100"])
    (document,) = Extractor(backbone, config).extract([text], LabelSet(["boat"]))
    assert document.windows == len(seen) > 4
    kinds = {"the": 0, "boat": 0, "Ada": 1, "ROME": 2}
    for _, cases, sentence in seen:
        starts = [start for start in sentence.char_start if start >= 0]
        words = [text[start:].split(" ", 1)[0] for start in starts]
        assert list(cases) == [kinds[word] for word in words]


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
        rows = rows_of(backbone, RowBuilder(backbone.prompt, "sentence-first", tree=True), EXAMPLES[:1])
        assert bool(rows[0].cases) is wanted
