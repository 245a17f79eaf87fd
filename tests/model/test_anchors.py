"""Votes against slow references that loop over plain numbers."""

from __future__ import annotations

import math

import pytest
import torch

from cllmfs.model.anchors import span_votes, votes
from tests.training.test_contrast import Plain, cos, random_batch


def test_votes_agree_with_a_loop() -> None:
    batch = random_batch(5)
    found = votes(batch.anchors, batch.rows, batch.states, batch.threshold, temperature=0.1)
    plain = Plain(batch)
    expected = [
        [(cos(anchor, state) - cos(anchor, plain.threshold[row])) / 0.1 for state in plain.states[row]]
        for anchor, row in zip(plain.anchors, plain.rows, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_votes_in_low_precision_and_without_anchors() -> None:
    states, threshold = torch.randn(2, 3, 4).bfloat16(), torch.zeros(2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = votes(states[:, 0], torch.tensor([0, 1]), states, threshold, temperature=0.5)
    assert found.dtype == torch.float32
    assert found[:, 0].tolist() == pytest.approx([2.0, 2.0], abs=1e-5)
    none = torch.zeros(0, dtype=torch.long)
    assert votes(threshold[:0], none, states, threshold, temperature=0.5).shape == (0, 3)


def test_shares_of_a_span_agree_with_a_loop() -> None:
    cast = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)) * 4
    places = [(0, 0, 2), (1, 4, 0), (3, 3, 1), (0, 4, 2)]
    found = span_votes(cast, *torch.tensor(places).unbind(1))
    for share, (first, last, kind) in zip(found.tolist(), places, strict=True):
        logits = [0.0, *((votes[first] + votes[last]) / 2 for votes in cast.tolist())]
        assert share == pytest.approx(logits[1 + kind] - math.log(sum(map(math.exp, logits))), abs=1e-5)


def test_a_span_is_shared_with_no_entity_even_where_one_type_is_asked() -> None:
    first, last, kind = torch.tensor([[0, 0, 0], [1, 1, 0]]).unbind(1)
    shares = span_votes(torch.tensor([[0.0, 30.0]]), first, last, kind)
    assert shares.tolist() == pytest.approx([-math.log(2), 0.0], abs=1e-5)
    none = torch.zeros(0, dtype=torch.long)
    assert span_votes(torch.zeros(3, 4), none, none, none).shape == (0,)
