"""Few-NERD's episodes as they are drawn here: its rules, and its form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.published.draw_episodes import draw, record
from cllmfs.datasets.episodes import read_episodes
from cllmfs.schema import Example, mentions


def pool() -> list[Example]:
    """Forty sentences with one or two mentions of types a to e; every fifth has two types."""
    made = []
    for number in range(40):
        label, other = "abcde"[number % 5], "abcde"[(number + 1) % 5]
        spans = [(0, 2, label), *([(3, 4, other)] if number % 5 == 0 else [])]
        made.append(Example.from_tokens([f"Ada{number}", "Bo", "met", "Cy", "."], spans))
    return made


@pytest.mark.parametrize("number", range(10))
def test_an_episode_has_the_rules_of_few_nerd(number: int) -> None:
    episode = draw(pool(), 3, 2, 1, number)
    assert len(episode.labels) == 3
    texts = [one.text for one in (*episode.support, *episode.query)]
    assert len(set(texts)) == len(texts)
    whole = {one.text: one.labels for one in pool()}
    assert all(whole[text] <= set(episode.labels) for text in texts), "no sentence has another type"
    for side, least in ((episode.support, 2), (episode.query, 1)):
        counts = mentions(side)
        assert all(least <= counts[label] <= 2 * least for label in episode.labels)


def test_episodes_are_written_in_the_form_that_is_read(tmp_path: Path) -> None:
    episodes = [draw(pool(), 2, 1, 1, number) for number in range(3)]
    path = tmp_path / "episodes.jsonl"
    path.write_text("".join(json.dumps(record(one)) + "\n" for one in episodes))
    for one, again in zip(episodes, read_episodes(path), strict=True):
        assert one.labels == again.labels
        for side, other in ((one.support, again.support), (one.query, again.query)):
            assert [(text.text, text.spans) for text in side] == [(text.text, text.spans) for text in other]


def test_draws_differ_and_repeat() -> None:
    assert draw(pool(), 3, 1, 1, 1) == draw(pool(), 3, 1, 1, 1)
    assert len({draw(pool(), 3, 1, 1, number).support for number in range(8)}) > 4
