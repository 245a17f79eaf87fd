"""Draw N-way K~2K-shot episodes from Few-NERD's INTER test split, in Few-NERD's own form.

    python -m benchmarks.published.draw_episodes --data DATA [--episodes 200]
        -> DATA/_episodes/few_nerd/inter_test_{ways}_{shots}.jsonl

The rules are those of Ding et al. 2021 (arXiv 2105.07464): N types are drawn; a sentence may only have those types, of
which each has K to 2K mentions in the support set, and Q to 2Q in the query set. The draws are this project's, so that
they are other episodes of the same split than the published ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cllmfs.datasets.sampling import Episode, sample_episode
from cllmfs.errors import DataError
from cllmfs.formats import read_examples
from cllmfs.schema import Example, mentions

SETTINGS = {(5, 1): 1, (5, 5): 5, (10, 1): 1, (10, 5): 1}
"""Mentions of a type in the query set, by the numbers of types and of shots, as in Few-NERD's own settings."""


def draw(pool: Sequence[Example], ways: int, shots: int, queries: int, number: int) -> Episode:
    """One episode; the types are drawn anew as long as there is none for them."""
    labels = sorted(mentions(pool))
    for attempt in range(100):
        order = sorted(labels, key=lambda label: hashlib.sha256(f"{number} {attempt} {label}".encode()).digest())
        chosen = set(order[:ways])
        able = [one for one in pool if one.labels and one.labels <= chosen]
        try:
            return sample_episode(able, ways, shots, number, queries=queries)
        except DataError:
            continue
    raise DataError(f"no episode of {ways} types and {shots} shots was found")


def record(episode: Episode) -> dict[str, object]:
    """An episode in Few-NERD's form: words and bare types."""
    return {"support": _side(episode.support), "query": _side(episode.query), "types": list(episode.labels)}


def _side(examples: Sequence[Example]) -> dict[str, list[list[str]]]:
    words, tags = [], []
    for one in examples:
        places = one.token_offsets or ()
        words.append([one.text[start:end] for start, end in places])
        tags.append(
            [next((s.label for s in one.spans if s.start <= start and end <= s.end), "O") for start, end in places]
        )
    return {"word": words, "label": tags}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=200)
    arguments = parser.parse_args()
    sentences = read_examples(arguments.data / "fewnerd_inter_devtest" / "test.jsonl")
    folder = arguments.data / "_episodes" / "few_nerd"
    folder.mkdir(parents=True, exist_ok=True)
    for (n, k), q in SETTINGS.items():
        drawn = [draw(sentences, n, k, q, number) for number in range(arguments.episodes)]
        lines = [json.dumps(record(one), ensure_ascii=False) + "\n" for one in drawn]
        (folder / f"inter_test_{n}_{k}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(n, k, len(drawn), "episodes,", sum(len(one.query) for one in drawn), "query sentences")
