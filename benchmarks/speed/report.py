"""Speed and memory as tables and a picture, from the results file and nothing else.

    python benchmarks/speed/report.py benchmarks/speed/results.json

writes docs/speed.md and, with matplotlib, docs/speed.png. Ratios are medians over repetitions in which the contenders
took turns. What the file does not hold is left out. Knows results; knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np

from benchmarks.speed.measuring import ratios
from cllmfs.benchmark.report import MISSING, pipes

FIRST = "trees"  # the contender that the others are compared with
_AXIS = re.compile(r"decoding, (\d+) (types|tokens)")

Cells = Mapping[str, Mapping[str, Any]]


def axis(cells: Cells, name: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The cells along an axis, ``types`` or ``tokens``, by rising value."""
    found = ((_AXIS.fullmatch(key), cell) for key, cell in cells.items())
    return sorted(((int(m[1]), cell) for m, cell in found if m and m[2] == name), key=lambda pair: pair[0])


def contenders(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """All that occur, the first one in front."""
    names = dict.fromkeys(name for cell in cells for name in cell["seconds"])
    return sorted(names, key=lambda name: name != FIRST)


def rate_table(head: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Sentences a second of each contender, and in brackets how many times as fast the first one is."""
    names = contenders(cell for _, cell in rows)
    table = [[head, *names]]
    for value, cell in rows:
        line = [value]
        for name in names:
            if name not in cell["seconds"]:
                line.append(MISSING)
                continue
            times = "" if name == FIRST else f" ({ratios(cell['seconds'], name, FIRST):.2g} x)"
            line.append(f"{cell['sentences_per_second'][name]:.3g}{times}")
        table.append(line)
    return table


def cost_model(cells: Cells, config: Mapping[str, Any], contender: str) -> tuple[float, float, float] | None:
    """Seconds a sentence as a + b x tokens + c x types, over both axes; ``None`` with less than four cells.

    Least squares of the relative errors: small cells count as much as large ones.
    """
    points = []
    for name in ("types", "tokens"):
        for value, cell in axis(cells, name):
            if contender in cell["seconds"]:
                sizes = {"tokens": config["tokens"], "types": config["types"]} | {name: value}
                seconds = statistics.median(cell["seconds"][contender]) / cell["sentences"]
                points.append((1.0, sizes["tokens"], sizes["types"], seconds))
    if len(points) < 4:
        return None
    table = np.array(points)
    wanted = table[:, 3]
    (a, b, c), *_ = np.linalg.lstsq(table[:, :3] / wanted[:, None], np.ones(len(points)), rcond=None)
    return float(a), float(b), float(c)


def growth(cells: Cells, contender: str, low: int, high: int) -> float | None:
    """How many times as long ``high`` types take as ``low``; ``None`` if one was not measured."""
    found = {types: cell for types, cell in axis(cells, "types") if contender in cell["seconds"]}
    if low not in found or high not in found:
        return None
    seconds = {types: statistics.median(found[types]["seconds"][contender]) for types in (low, high)}
    return seconds[high] / seconds[low]


def markdown(content: Mapping[str, Any], picture: str | None = None) -> str:
    """The whole page; ``picture`` is the address of the picture."""
    cells, config = content["cells"], content["config"]
    parts = [
        "# Speed and memory",
        "Written by `benchmarks/speed/report.py` from the results file; change that, not this page.",
        _machine(content["machine"]),
        f"Sentences a second; in brackets how many times as long each takes as {FIRST}, the median of "
        f"{config['repetitions']} repetitions in which all took their turn. `{config['base']}` without shots, "
        f"{config['tokens']} tokens a sentence and {config['types']} types where nothing else is said. What each "
        "contender is: [benchmarks/speed](../benchmarks/speed/README.md).",
    ]
    for name in ("types", "tokens"):
        if rows := axis(cells, name):
            parts += [f"## Decoding, {name}", pipes(rate_table(name, [(str(value), cell) for value, cell in rows]))]
    if picture:
        parts.append(f"![Sentences a second over types and tokens]({picture})")
    parts += _growth_and_cost(cells, config)
    for title, work in (("Decoding, vocabulary", "decoding"), ("Training, vocabulary", "training")):
        rows = [(key.rpartition(" ")[2], cell) for key, cell in cells.items() if key.startswith(f"{work}, vocabulary ")]
        if rows:
            parts += [f"## {title}", pipes(rate_table("tokens in the vocabulary", rows))]
    parts += _variants(cells)
    return "\n\n".join(parts + _floors(cells) + _processes(cells)) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['threads']} threads, {machine['memory_gb']} GB, {machine['system']}, "
        f"Python {machine['python']}; {packages}."
    )


def _growth_and_cost(cells: Cells, config: Mapping[str, Any]) -> list[str]:
    lines = []
    for name in contenders(cell for _, cell in axis(cells, "types")):
        steps = [(low, high, growth(cells, name, low, high)) for low, high in ((1, 16), (16, 64))]
        grown = "; ".join(f"{low} to {high} types: {times:.1f} x" for low, high, times in steps if times is not None)
        model = cost_model(cells, config, name)
        cost = "" if model is None else "{:.3g} {:+.3g} tokens {:+.3g} types".format(*(1e3 * part for part in model))
        lines.append([name, grown or MISSING, cost or MISSING])
    if not lines:
        return []
    head = ["contender", "growth of the time", "milliseconds a sentence, fitted"]
    return ["## How the cost grows", pipes([head, *lines])]


def _variants(cells: Cells) -> list[str]:
    """The cells whose contenders are variants of one way: each beside the first."""
    parts = []
    for key, title in (
        ("decoding, tokens in a batch", "Decoding, tokens in a batch"),
        ("decoding, empty answers", "Decoding, share of empty answers"),
        ("training, objectives", "Training, objectives"),
    ):
        if key not in cells:
            continue
        cell = cells[key]
        rows = [["variant", "sentences a second", "times as long as the first"]]
        base = next(iter(cell["seconds"]))
        for name, rate in cell["sentences_per_second"].items():
            shown = f"{name}, {cell['empty_share'][name]:.0%} empty" if "empty_share" in cell else name
            rows.append([shown, f"{rate:.3g}", f"{ratios(cell['seconds'], name, base):.2f}"])
        parts += [f"## {title}", pipes(rows)]
    return parts


def _floors(cells: Cells) -> list[str]:
    if "floors" not in cells:
        return []
    cell = cells["floors"]
    rows = [["work", "GFLOP a sentence", "floor, ms a sentence", "measured, ms a sentence", "measured / floor"]]
    for name, count in cell["sentences"].items():
        one = cell[name]
        figures = (one["flops"] / 1e9, 1e3 * one["floor"], 1e3 * one["seconds"])
        rows.append([name, *(f"{figure / count:.3g}" for figure in figures), f"{one['seconds'] / one['floor']:.2f}"])
    rates = f"{cell['flops_per_second'] / 1e9:.0f} GFLOP/s in plain products of the model's shapes, "
    return ["## Floors", rates + f"{cell['bytes_per_second'] / 1e9:.1f} GB/s in copies.", pipes(rows)]


def _processes(cells: Cells) -> list[str]:
    parts = []
    if "logits" in cells:
        sizes = cells["logits"]
        parts.append(
            f"Logits of a training step at the largest vocabulary: {sizes['restricted']:.3g} MB restricted to what may "
            f"be emitted, {sizes['whole']:.4g} MB over the vocabulary."
        )
    if "memory" in cells:
        rows = [["process", "model loaded, MB", "peak, MB"]]
        rows += [[name, f"{one['loaded']:.0f}", f"{one['peak']:.0f}"] for name, one in cells["memory"].items()]
        parts.append(pipes(rows))
    if "starts" in cells:
        rows = [["process", "seconds"]] + [[name, f"{seconds:.2f}"] for name, seconds in cells["starts"].items()]
        parts.append(pipes(rows))
    return ["## Memory and start", *parts] if parts else []


def plot(cells: Cells, path: Path) -> None:
    """Draw sentences a second over types and over tokens into a PNG file."""
    from matplotlib.figure import Figure

    from cllmfs.benchmark.figures import STYLES

    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    names = contenders(cell for name in ("types", "tokens") for _, cell in axis(cells, name))
    for panel, name in zip(figure.subplots(1, 2, sharey=True), ("types", "tokens"), strict=True):
        rows = axis(cells, name)
        for contender, (color, marker) in zip(names, STYLES, strict=False):
            points = [(x, cell["sentences_per_second"].get(contender)) for x, cell in rows]
            known = [(x, rate) for x, rate in points if rate is not None]
            panel.plot(*zip(*known, strict=True), color=color, marker=marker, markersize=3.5, label=contender)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks([x for x, _ in rows], [str(x) for x, _ in rows])
        panel.set_xlabel("types asked" if name == "types" else "tokens in a sentence", fontsize=8)
        panel.tick_params(labelsize=7, length=2.5)
        panel.grid(color="0.9", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supylabel("sentences a second", fontsize=8)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=8)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/speed.md"), help="the picture lies beside it")
    parser.add_argument("--no-plot", action="store_true")
    arguments = parser.parse_args()
    content = json.loads(arguments.results.read_text(encoding="utf-8"))
    picture = arguments.output.with_suffix(".png")
    drawn = not arguments.no_plot and bool(axis(content["cells"], "types") and axis(content["cells"], "tokens"))
    arguments.output.write_text(markdown(content, picture.name if drawn else None), encoding="utf-8")
    if drawn:
        plot(content["cells"], picture)


if __name__ == "__main__":
    main()
