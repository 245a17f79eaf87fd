"""The page on guarantees, with its picture, made from the results file and nothing else.

    python -m benchmarks.guarantee.report benchmarks/guarantee/results.json --output docs/results/guarantee.md

also writes docs/results/guarantee.png, which needs matplotlib. Knows results; knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cllmfs.benchmark.figures import STYLES, panel_grid, save
from cllmfs.benchmark.report import pipes
from cllmfs.benchmark.tables import MISSING

KINDS = {"recall": "missed mentions", "precision": "wrong spans"}


def markdown(results: Mapping[str, Any], picture: str | None = None) -> str:
    """The whole page; ``picture`` is the address of the picture."""
    datasets, splits = results["datasets"], results["splits"]
    given = [one for data in datasets.values() for one in data["cells"] if one["given"]]
    whole = [one for one in given if one["given"] == splits]
    parts = [
        "# Confidence with a guarantee",
        "`benchmarks/guarantee/report.py` wrote this page from the results file; edit that, not this page.",
        f"For each data set, `cllmfs-mini` learned from {results['shots']} shots of each type. Of up to "
        f"{results['sentences']:,} sentences of its test and dev splits, a random part chose the thresholds "
        "(`cllmfs calibrate`, "
        f"{results['confidence']:.0%} confidence), and all others tested what was promised; this was done "
        f"{splits} times for each target. A promise is kept if, on the sentences that did not choose the thresholds, "
        "the mean loss of a text, its share of missed mentions or of wrong spans, is at most what was promised.",
        _summary(given, whole, splits),
    ]
    if picture:
        parts.append(f"![The loss that was promised and the loss that came about, for every split]({picture})")
    for kind, loss in KINDS.items():
        parts += [f"## Promised {kind}", _explained(kind, loss), pipes(_table(datasets, kind, splits))]
    parts += ["## A recall of single types", _types(given)]
    return "\n\n".join([*parts, *_openings(datasets)]) + "\n"


def _summary(given: list[Any], whole: list[Any], splits: int) -> str:
    promises, kept = sum(one["given"] for one in given), sum(one["kept"] for one in given)
    worst = min((one["kept"] for one in whole), default=0)
    text = f"In all, {promises:,} promises were given, and {kept:,} of them ({kept / max(1, promises):.1%}) were kept."
    if not whole:
        return text
    return (
        f"{text} Where a promise was given in all {splits} splits, it was kept in at least {worst} of them "
        f"({sum(one['kept'] == splits for one in whole)} of {len(whole)} times in all {splits})."
    )


def _explained(kind: str, loss: str) -> str:
    return (
        f"A promise that cannot be given is refused; the table shows how often it was given and kept, the mean and the "
        f"highest share of {loss} of a text that came about, and what it costs: strict precision and recall over all "
        "mentions of the other sentences, with the thresholds of the shots and with those of the guarantee. Of the "
        "targets that were refused in every split, only the first is shown."
        + (" Recall is limited by what is decoded at all: no threshold finds more." if kind == "recall" else "")
    )


def _table(datasets: Mapping[str, Any], kind: str, splits: int) -> list[list[str]]:
    rows = [["data set", kind, "given", "kept", f"{KINDS[kind]}, mean (highest)", "precision", "recall"]]
    for name, data in datasets.items():
        for one in (cell for cell in data["cells"] if cell["kind"] == kind):
            line = [name, f"{one['target']:g}", f"{one['given']} of {splits}"]
            if one["given"]:
                risks = one["risks"]
                costs = [f"{one['before'][rate]:.3f} → {one['after'][rate]:.3f}" for rate in ("precision", "recall")]
                rows.append([*line, str(one["kept"]), f"{statistics.fmean(risks):.3f} ({max(risks):.3f})", *costs])
                continue
            rows.append([*line, MISSING, ", ".join(one["reasons"]), MISSING, MISSING])
            break
    return rows


def _types(given: list[Any]) -> str:
    promises, kept = sum(one["types_given"] for one in given), sum(one["types_kept"] for one in given)
    return (
        f"A promised recall comes with a threshold of its own for each type of which there is enough. Of {promises:,} "
        f"such promises, {kept:,} ({kept / max(1, promises):.1%}) were kept on the other sentences with the type; they "
        "are fewer than all sentences, so chance moves their losses more."
    )


def _openings(datasets: Mapping[str, Any]) -> list[str]:
    rows = [["data set", "`open_at`", "decoded", "after conflicts, all mentions", "mean of texts", "precision"]]
    keys = ("decoded_recall", "recall", "text_recall", "precision")
    for name, data in datasets.items():
        for at, one in data["openings"].items():
            rows.append([name, at, *(f"{one[key]:.3f}" for key in keys)])
    return [
        "## The recall in reach",
        "At threshold 0, recall is that of everything that is decoded. The decoder opens a span wherever one is "
        "probable enough (`open_at`, 0.1 by default), and spans of different types that overlap compete afterward. The "
        "table shows recall before and after that, and the precision of what remains.",
        pipes(rows),
    ]


def plot(results: Mapping[str, Any], path: Path) -> None:
    """Draw the realized losses over the promised ones into a PNG file; a kept promise lies below the diagonal."""
    titles = [f"promised {kind}" for kind in KINDS]
    figure, panels = panel_grid(titles, across=2, size=(3.4, 3.0), sharex=False)
    for panel, (kind, loss) in zip(panels, KINDS.items(), strict=True):
        panel.plot([0, 1], [0, 1], color="0.5", linewidth=0.8)
        for number, data in enumerate(results["datasets"].values()):
            cells = [one for one in data["cells"] if one["kind"] == kind and one["given"]]
            aside = 0.006 * (number - len(results["datasets"]) / 2)  # so that data sets do not hide each other
            for one in cells:
                promised = [1 - one["target"] + aside] * one["given"]
                color = STYLES[number % len(STYLES)]["color"]
                panel.plot(promised, one["risks"], color=color, marker=".", markersize=3, linestyle="", alpha=0.5)
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.set_xlabel(f"share of {loss} that was promised at most", fontsize=8)
    figure.supylabel("share that came about", fontsize=8)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/results/guarantee.md"))
    parser.add_argument("--no-plot", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    picture = arguments.output.with_suffix(".png")
    arguments.output.write_text(markdown(results, None if arguments.no_plot else picture.name), encoding="utf-8")
    if not arguments.no_plot:
        plot(results, picture)


if __name__ == "__main__":
    main()
