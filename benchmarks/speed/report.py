"""Speed and memory as tables and a picture, made from the results file and nothing else.

    python -m benchmarks.speed.report benchmarks/speed/results.json --output docs/results/speed.md

also writes docs/results/speed.png, which needs matplotlib. Ratios are medians over repetitions in which the contenders
took turns. Measurements that the file does not have are left out. Knows results; knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.measuring import ratios
from cllmfs.benchmark.figures import STYLES, Line, label_lines, panel_grid, save
from cllmfs.benchmark.report import pipes
from cllmfs.benchmark.tables import MISSING

FIRST = "trees"  # the contender that the others are compared with
_AXIS = re.compile(r"decoding, (\d+) (types|tokens)")

Cells = Mapping[str, Mapping[str, Any]]


def axis(cells: Cells, name: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The measurements along an axis, ``types`` or ``tokens``, in order of its values."""
    found = ((_AXIS.fullmatch(key), cell) for key, cell in cells.items())
    return sorted(((int(m[1]), cell) for m, cell in found if m and m[2] == name), key=lambda pair: pair[0])


def contenders(cells: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of all contenders; :data:`FIRST` comes first."""
    names = dict.fromkeys(name for cell in cells for name in cell["seconds"])
    return sorted(names, key=lambda name: name != FIRST)


def rate_table(head: str, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[str]]:
    """Sentences per second of each contender, and in parentheses how many times as fast the first one is."""
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
    """The seconds for a sentence as a + b x tokens + c x types; ``None`` if there are fewer than four measurements.

    The fit over both axes minimizes squared relative errors, so that short durations count as much as long ones.
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
    """The time for ``high`` types divided by that for ``low`` types; ``None`` if one was not measured."""
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
        "`benchmarks/speed/report.py` wrote this page from the results file; edit that, not this page.",
        _machine(content["machine"]),
        f"The tables show sentences per second and, in parentheses, how many times as long each contender takes as "
        f"{FIRST}: the median of {config['repetitions']} repetitions in which the contenders took turns. "
        f"`{config['base']}` is used without shots; unless stated otherwise, a sentence has {config['tokens']} tokens "
        f"and {config['types']} types are asked. The contenders are described in `benchmarks/speed/README.md`.",
    ]
    for name in ("types", "tokens"):
        if rows := axis(cells, name):
            parts += [f"## Decoding, {name}", pipes(rate_table(name, [(str(value), cell) for value, cell in rows]))]
    if picture:
        parts.append(f"![Sentences per second over types and tokens]({picture})")
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
    head = ["contender", "growth of the time", "milliseconds per sentence, fitted"]
    return ["## How the cost grows", pipes([head, *lines])]


def _variants(cells: Cells) -> list[str]:
    """The measurements whose contenders are variants of the same way, each compared with the first."""
    parts = []
    for key, title in (
        ("decoding, tokens in a batch", "Decoding, tokens in a batch"),
        ("decoding, empty answers", "Decoding, share of empty answers"),
        ("training, objectives", "Training, objectives"),
    ):
        if key not in cells:
            continue
        cell = cells[key]
        rows = [["variant", "sentences per second", "times as long as the first"]]
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
    rows = [["work", "GFLOP per sentence", "floor, ms per sentence", "measured, ms per sentence", "measured / floor"]]
    for name, count in cell["sentences"].items():
        one = cell[name]
        figures = (one["flops"] / 1e9, 1e3 * one["floor"], 1e3 * one["seconds"])
        rows.append([name, *(f"{figure / count:.3g}" for figure in figures), f"{one['seconds'] / one['floor']:.2f}"])
    rates = f"Plain matrix products of the model's shapes reach {cell['flops_per_second'] / 1e9:.0f} GFLOP/s, "
    return ["## Floors", rates + f"copies {cell['bytes_per_second'] / 1e9:.1f} GB/s.", pipes(rows)]


def _processes(cells: Cells) -> list[str]:
    parts = []
    if "logits" in cells:
        sizes = cells["logits"]
        parts.append(
            f"The logits of a training step at the largest vocabulary take {sizes['restricted']:.3g} MB if they are "
            f"restricted to the tokens that may be emitted, and {sizes['whole']:.4g} MB over the whole vocabulary."
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
    """Draw sentences per second over types and over tokens into a PNG file."""
    axes = {"types": "types asked", "tokens": "tokens in a sentence"}
    figure, panels = panel_grid(["" for _ in axes], across=2, size=(3.9, 3.0), sharex=False, sharey=True)
    names = contenders(cell for name in axes for _, cell in axis(cells, name))
    labels: list[list[Line]] = []
    for panel, (name, title) in zip(panels, axes.items(), strict=True):
        rows = axis(cells, name)
        labels.append([])
        for contender, style in zip(names, STYLES, strict=False):
            points = [(x, cell["sentences_per_second"].get(contender)) for x, cell in rows]
            xs, rates = zip(*((x, rate) for x, rate in points if rate is not None), strict=True)
            panel.plot(xs, rates, **style, markersize=3.5, linewidth=1.3)
            labels[-1].append((contender, xs, rates, style["color"]))
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.margins(y=0.1)
        panel.set_xticks([x for x, _ in rows], [str(x) for x, _ in rows])
        panel.set_xlabel(title, fontsize=8)
    figure.supylabel("sentences per second", fontsize=8)
    figure.draw_without_rendering()  # makes the layout, which decides how near to each other two labels are
    for panel, lines in zip(panels, labels, strict=True):
        label_lines(panel, lines)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--output", type=Path, default=Path("docs/results/speed.md"), help="page; the picture is beside it"
    )
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
