"""Checks whether repeated runs agree with the published results.

    python -m benchmarks.few_shot.compare runs/bench-quick benchmarks/few_shot/results

A run in the first folder must lie within two standard deviations of the mean over support sets in the second folder, or
within two points, whichever is more; other processors and library versions give slightly different figures. The exit
status is 1 if a run does not. Knows results folders.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cllmfs.benchmark.results import Run, Systems, read_results, summarize
from cllmfs.errors import CllmfsError

DEVIATIONS = 2.0
LEAST_TOLERANCE = 2.0  # points of F1


@dataclass(frozen=True)
class Comparison:
    """A run, and the F1 in percent that it should have: ``mean``, give or take ``tolerance``."""

    system: str
    run: Run
    mean: float
    tolerance: float

    @property
    def holds(self) -> bool:
        return abs(self.run.f1 - self.mean) <= self.tolerance

    def __str__(self) -> str:
        where = f"{self.system}, {self.run.dataset}, {self.run.k}-shot, seed {self.run.seed}"
        verdict = "within" if self.holds else "NOT within"
        return f"{where}: {self.run.f1:.1f}, {verdict} {self.mean:.1f} ± {self.tolerance:.1f}"


def compared(runs: Systems, table: Systems) -> Iterator[Comparison]:
    """The runs of the systems, data sets and k that the table has results of."""
    for system, each in runs.items():
        for run in each:
            known = summarize(table.get(system, ()), run.dataset, run.k)
            if known is not None:
                yield Comparison(system, run, known.mean, max(LEAST_TOLERANCE, DEVIATIONS * known.sd))


def main() -> None:
    parser = argparse.ArgumentParser(description="Check whether repeated runs agree with published results.")
    parser.add_argument("runs", type=Path, help="results folder of the repeated runs")
    parser.add_argument("table", type=Path, help="results folder of the published results")
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    try:
        found = list(compared(*(read_results(folder, arguments.split) for folder in (arguments.runs, arguments.table))))
    except CllmfsError as error:
        sys.exit(f"error: {error}")
    print("\n".join(map(str, found)))
    wrong = sum(not one.holds for one in found)
    print(f"{len(found) - wrong} of {len(found)} runs agree with the published results")
    sys.exit(1 if wrong or not found else 0)


if __name__ == "__main__":
    main()
