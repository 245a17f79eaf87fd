"""Takes variants of the package out again after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cllmfs.decoding import greedy
from cllmfs.training import contrast, objective


@pytest.fixture(autouse=True)
def package_as_it_was() -> Iterator[None]:
    """Puts back the functions that ``benchmarks.ablation.variants.install`` replaces."""
    forms, logits = dict(contrast.FORMS), objective.answer_logits
    rules = greedy.are_empty, greedy.open_or_end, greedy.closing_token
    yield
    contrast.FORMS.update(forms)
    objective.answer_logits = logits
    greedy.are_empty, greedy.open_or_end, greedy.closing_token = rules
