"""The published loss curve of cllmfs-mini, and whether a new run begins as it did.

    python -m mini.train --data DATA --start runs/mini-start --output runs/check --until 100
    python -m mini.loss_curve check runs/check      -> fails if the curve's start is another
    python -m mini.loss_curve publish runs/mini     -> writes loss_curve.csv from a whole run

The same data, seed and settings give the same batches; rounding differs between machines, so means are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path

PUBLISHED = Path(__file__).with_name("loss_curve.csv")
WINDOW = 20  # steps in a mean
TOLERANCE = 0.05  # of the published mean


def curve(run: Path) -> list[tuple[int, float, float]]:
    """(last step, mean language-model loss, mean contrastive loss) of each whole window of a run's log.

    A run that was stopped and resumed may have logged steps twice: the later record counts.
    """
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    steps = {record["number"]: record for record in map(json.loads, lines)}
    windows = []
    for last in range(WINDOW, max(steps, default=0) + 1, WINDOW):
        part = [steps[number] for number in range(last - WINDOW + 1, last + 1) if number in steps]
        if len(part) == WINDOW:
            means = [sum(record[name] for record in part) / WINDOW for name in ("language", "contrastive")]
            windows.append((last, round(means[0], 4), round(means[1], 4)))
    return windows


def publish(run: Path, path: Path = PUBLISHED) -> None:
    """Write a run's curve."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("step", "language", "contrastive"))
        writer.writerows(curve(run))


def check(run: Path, path: Path = PUBLISHED) -> list[str]:
    """What differs between a run's curve and the published one where both are; never nothing compared.

    Raises:
        SystemExit: if the run has no whole window to compare.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        published = {
            int(row["step"]): (float(row["language"]), float(row["contrastive"])) for row in csv.DictReader(stream)
        }
    found = {step: (language, contrastive) for step, language, contrastive in curve(run)}
    shared = sorted(found.keys() & published.keys())
    if not shared:
        raise SystemExit(f"{run}: the log must hold at least {WINDOW} steps of the published run")
    return [
        f"step {step}, {name}: {mine} instead of {theirs}"
        for step in shared
        for name, mine, theirs in zip(("language", "contrastive"), found[step], published[step], strict=True)
        if abs(mine - theirs) > TOLERANCE * theirs
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "publish"))
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "publish":
        publish(arguments.run)
    else:
        differences = check(arguments.run)
        print("\n".join(differences) or f"{arguments.run} begins as the published run did")
        sys.exit(1 if differences else 0)
