"""Compares runs with the table they belong to: is each within what its cell says?

    python benchmarks/few_shot/compare.py runs/bench-quick benchmarks/few_shot/results

The second folder's mean and standard deviation over supports say where a run of the first should lie: within two
deviations, at least two points, since other processors and library versions round otherwise. Ends with 1 if one does
not. Knows results folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cllmfs.benchmark.results import Run, Systems, cell, read_results
from cllmfs.errors import CllmfsError

DEVIATIONS = 2.0
LEAST = 2.0  # points of F1


@dataclass(frozen=True)
class Comparison:
    """A run beside its cell: F1 in per cent, and how far from ``mean`` it may lie."""

    system: str
    run: Run
    mean: float
    room: float

    @property
    def holds(self) -> bool:
        return abs(self.run.f1 - self.mean) <= self.room

    def __str__(self) -> str:
        where = f"{self.system}, {self.run.dataset}, {self.run.k}-shot, seed {self.run.seed}"
        verdict = "within" if self.holds else "NOT within"
        return f"{where}: {self.run.f1:.1f}, {verdict} {self.mean:.1f} ± {self.room:.1f}"


def compared(runs: Systems, table: Systems) -> Iterator[Comparison]:
    """Each run that has a cell in the table."""
    for system, each in runs.items():
        for run in each:
            known = cell(table.get(system, ()), run.dataset, run.k)
            if known is not None:
                yield Comparison(system, run, known.mean, max(LEAST, DEVIATIONS * known.sd))


def main() -> None:
    parser = argparse.ArgumentParser(description="Are runs within what a table of results says?")
    parser.add_argument("runs", type=Path, help="results folder of the runs")
    parser.add_argument("table", type=Path, help="results folder behind the table")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    try:
        found = list(compared(*(read_results(folder, arguments.split) for folder in (arguments.runs, arguments.table))))
    except CllmfsError as error:
        sys.exit(f"error: {error}")
    print("\n".join(map(str, found)))
    wrong = sum(not one.holds for one in found)
    print(f"{len(found) - wrong} of {len(found)} runs are within what the table says")
    sys.exit(1 if wrong or not found else 0)


if __name__ == "__main__":
    main()
