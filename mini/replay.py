"""The general sentences that the package mixes into training, drawn from the written sheets.

    python -m mini.replay src/cllmfs/replay.jsonl

The same sheets give the same file. Types go by varying names, some with descriptions, as they do while the bundled
model is trained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from mini.data import Query, draw
from mini.sources import written_sources

SENTENCES = 1000
LEFT_OUT = ("roles/", "twins/")  # sheets of types that are alike on purpose: nothing general is learned from them
MOST_TYPES = 7


def records() -> Iterator[dict[str, Any]]:
    """Endless; no text twice."""
    sources = [source for source in written_sources(1.0, set()) if not source.name.startswith(LEFT_OUT)]
    seen = set()
    for index in count():
        query = draw(sources, seed=0, index=index, only_descriptions=False)
        if query.example.text not in seen:
            seen.add(query.example.text)
            yield record(query)


def record(query: Query) -> dict[str, Any]:
    """A sentence, the types asked of it, and where each is mentioned."""
    types = [
        {
            "name": kind.name,
            **({"description": kind.description} if kind.description else {}),
            "spans": [[span.start, span.end] for span in query.gold(kind.key)],
        }
        for kind in query.types[:MOST_TYPES]
    ]
    return {"text": query.example.text, "types": types}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in islice(records(), SENTENCES))
    parser.parse_args().output.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
