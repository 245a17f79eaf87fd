"""Rows and batches: where tokens, positions and targets stand, and who sees whom."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cllmfs.encoding.automaton import SpanAutomaton
from cllmfs.encoding.batches import IGNORE, PADDING, PREFIX, collate, pack, tree_mask
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.encoding.rows import Branch, Row, TypeQuery
from cllmfs.encoding.tokens import TokenizedText

NEXT, END = 4, 5
PROMPT: Any = SimpleNamespace(
    template=PromptTemplate(), bos=[9], before=[1], after=[2, 6], open=[3, 7], next_id=NEXT, end_id=END
)


def text_of(*ids: int) -> TokenizedText:
    """Tokens of one character each; a span may begin and end anywhere."""
    count = len(ids)
    edges = (True,) * count
    return TokenizedText("x" * count, ids, edges, edges, tuple(range(count)), tuple(range(1, count + 1)))


SENTENCE = text_of(20, 21, 20)
QUERIES = (TypeQuery("A", (30,), ((0, 0), (1, 2))), TypeQuery("B", (31, 32), ()))


def test_tree_row() -> None:
    (row,) = Encoder(PROMPT).rows(SENTENCE, QUERIES, 8)
    assert row.prefix == (9, 1, 20, 21, 20, 2, 6)
    assert row.sentence_at == 2 and row.prefix[2:5] == SENTENCE.ids
    assert row.candidates == (NEXT, END, 20, 21)
    assert row.index == 8
    assert row.automaton.ids == SENTENCE.ids and not row.bidirectional
    first, second = row.branches
    assert first.ids == (30, 3, 7, 20, NEXT, 21, 20)  # the answer's END is predicted, never fed
    assert first.anchor == 2 and first.ids[first.anchor] == 7
    assert [row.candidates[target] for target in first.targets] == [20, NEXT, 21, 20, END]
    assert [{row.candidates[choice] for choice in step} for step in first.allowed] == [
        {20, 21, END},
        {21, NEXT, END},  # 20 stands for both its occurrences; only the first goes on
        {20, 21},
        {20, NEXT, END},
        {END},
    ]
    assert first.spans == ((0, 0), (1, 2))
    assert second.ids == (31, 32, 3, 7) and [row.candidates[target] for target in second.targets] == [END]
    assert len(row) == 7 + 7 + 4


def test_separate_rows_are_the_branches_of_the_tree() -> None:
    (tree,) = Encoder(PROMPT).rows(SENTENCE, QUERIES)
    rows = Encoder(PROMPT, tree=False).rows(SENTENCE, QUERIES)
    assert [row.branches for row in rows] == [(branch,) for branch in tree.branches]
    assert all(row.prefix == tree.prefix and row.sentence_at == tree.sentence_at for row in rows)


def test_type_first_is_one_sequence_a_type() -> None:
    rows = Encoder(PROMPT, order="type-first").rows(SENTENCE, QUERIES)
    assert [row.prefix for row in rows] == [(), ()]
    first, second = (row.branches[0] for row in rows)
    assert first.ids == (9, 30, 1, 20, 21, 20, 2, 6, 3, 7, 20, NEXT, 21, 20)
    assert first.ids[first.anchor] == 7
    for row in rows:
        assert row.branches[0].ids[row.sentence_at :][:3] == SENTENCE.ids
    assert second.ids == (9, 31, 32, 1, 20, 21, 20, 2, 6, 3, 7)


def test_without_gold_there_is_no_answer() -> None:
    (row,) = Encoder(PROMPT).rows(SENTENCE, [TypeQuery("A", (30,))])
    assert row.branches == (Branch("A", (30, 3, 7), 2),)


@pytest.mark.parametrize("order", ["sentence-first", "type-first"])
@pytest.mark.parametrize("tree", [True, False])
def test_without_queries_there_are_no_rows(order: str, tree: bool) -> None:
    assert Encoder(PROMPT, order=order, tree=tree).rows(SENTENCE, []) == []


def test_gold_that_cannot_be_answered_is_refused() -> None:
    encoder = Encoder(PROMPT)
    overlapping = [TypeQuery("A", (30,), ((0, 1), (1, 2)))]
    with pytest.raises(ValueError, match="no answer"):
        encoder.rows(SENTENCE, overlapping)
    (row,) = Encoder(PROMPT, nested=True).rows(SENTENCE, overlapping)
    assert row.branches[0].ids[3:] == (20, 21, NEXT, 21, 20)


@pytest.mark.parametrize("tree", [True, False])
def test_rows_and_batches_know_how_their_prefix_is_read(tree: bool) -> None:
    for bidirectional in (True, False):
        rows = Encoder(PROMPT, tree=tree, bidirectional=bidirectional).rows(SENTENCE, QUERIES)
        assert {row.bidirectional for row in rows} == {bidirectional} == {collate(rows).bidirectional}
    ordered = Encoder(PROMPT, order="type-first", tree=tree, bidirectional=True).rows(SENTENCE, QUERIES)
    assert not any(row.bidirectional for row in ordered), "a row without a prefix has nothing to read both ways"


def batch_of_two() -> Any:
    encoder = Encoder(PROMPT)
    rows = encoder.rows(SENTENCE, QUERIES, 0)
    rows += encoder.rows(text_of(22), [TypeQuery("B", (31, 32), ((0, 0),))], 1)
    return collate(rows)


def test_collate() -> None:
    batch = batch_of_two()
    assert batch.ids.tolist() == [
        [9, 1, 20, 21, 20, 2, 6, 30, 3, 7, 20, NEXT, 21, 20, 31, 32, 3, 7],
        [9, 1, 22, 2, 6, 31, 32, 3, 7, 22, *[0] * 8],
    ]
    assert batch.branch.tolist() == [
        [PREFIX] * 7 + [0] * 7 + [1] * 4,
        [PREFIX] * 5 + [0] * 5 + [PADDING] * 8,
    ]
    assert batch.positions.tolist() == [[*range(7), *range(7, 14), *range(7, 11)], [*range(10), *[0] * 8]]
    assert batch.query.tolist() == [[9, 10, 11, 12, 13, 17], [8, 9, 0, 0, 0, 0]]
    assert batch.target[1].tolist() == [2, 1, IGNORE, IGNORE, IGNORE, IGNORE]
    assert batch.candidates.tolist() == [[NEXT, END, 20, 21], [NEXT, END, 22, 0]]
    assert batch.anchors.tolist() == [[0, 9], [0, 17], [1, 8]]
    assert batch.sentence.tolist() == [[2, 3], [2, 1]]
    assert batch.spans.tolist() == [[0, 0, 0], [0, 1, 2], [2, 0, 0]]
    assert batch.labels == ["A", "B", "B"]
    assert batch.tokens == 18 + 10


def test_answer_tokens_are_predicted_from_the_token_before() -> None:
    batch = batch_of_two()
    for row in range(2):
        asked = [step for step in range(batch.target.shape[1]) if batch.target[row, step] != IGNORE]
        for step in asked:
            column, target = int(batch.query[row, step]), int(batch.target[row, step])
            token = int(batch.candidates[row, target])
            assert bool(batch.allowed[row, step, target])
            assert token == END or int(batch.ids[row, column + 1]) == token
    assert not batch.allowed[batch.target == IGNORE].any()


def test_batch_moves_whole() -> None:
    batch = batch_of_two()
    moved = batch.to(torch.device("meta"))
    assert moved.rows is batch.rows and moved.labels == batch.labels
    assert all(value.device.type == "meta" for value in vars(moved).values() if isinstance(value, torch.Tensor))


@settings(deadline=None)
@given(st.integers(0, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
def test_tree_mask(shared: int, sizes: list[int], padding: int, bidirectional: bool) -> None:
    marks = [PREFIX] * shared
    for number, size in enumerate(sizes):
        marks += [number] * size
    marks += [PADDING] * padding
    mask = tree_mask(torch.tensor([marks]), bidirectional)[0]
    for viewer, who in enumerate(marks):
        for viewed, whom in enumerate(marks):
            if PADDING in (who, whom):
                # nobody sees padding, so what padding sees is of no matter; but it must see something
                expected = viewer == viewed if whom == PADDING else None
            elif whom == PREFIX:
                expected = viewed <= viewer or (bidirectional and who == PREFIX)
            else:
                expected = who == whom and viewed <= viewer
            assert expected is None or bool(mask[viewer, viewed]) == expected
    assert mask.any(1).all()


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), max_size=20), st.integers(1, 40))
def test_pack(lengths: list[int], budget: int) -> None:
    nothing = SpanAutomaton((), (), (), NEXT, END)
    rows = [
        Row(tuple(range(n - 1)), (Branch("A", (0,), 0),), 0, text_of(), (), nothing, i) for i, n in enumerate(lengths)
    ]
    groups = list(pack(rows, budget))
    assert sorted(row.index for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(map(len, group))
        assert group and (padded <= budget or len(group) == 1)
    for one, two in pairwise(groups):  # no group could have taken the next row too
        assert (len(one) + 1) * len(two[0]) > budget
