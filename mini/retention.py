"""The sentences on which the package measures what tuning makes a base forget, from the sheets under ``retained/``.

    python -m mini.retention src/cllmfs/assurance/retention.jsonl

The sheets have the format of ``written/``, but no training reads them, and none of their subjects is in ``written/``.
Every sentence is asked for all types of its sheet under their plain names, in every fourth sheet with descriptions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cllmfs.schema import Example
from mini.written import Sheet, sheets

FOLDER = Path(__file__).with_name("retained")


def records() -> Iterator[dict[str, Any]]:
    """In the order of the sheets."""
    for number, sheet in enumerate(sheets(FOLDER)):
        for example in sheet.examples:
            yield record(sheet, example, described=number % 4 == 3)


def record(sheet: Sheet, example: Example, described: bool) -> dict[str, Any]:
    """A sentence, the types of its sheet, and where each is mentioned."""
    types = [
        {
            "name": kind.names[0],
            **({"description": kind.descriptions[0]} if described else {}),
            "spans": [[span.start, span.end] for span in example.spans if span.label == kind.key],
        }
        for kind in sheet.types
    ]
    return {"text": example.text, "types": types}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    lines = (json.dumps(one, ensure_ascii=False, separators=(",", ":")) + "\n" for one in records())
    parser.parse_args().output.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
