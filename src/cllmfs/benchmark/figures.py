"""Results of a benchmark as pictures: learning curves over shots and time, differences with intervals, reliability.

Knows results; knows nothing of the page. Needs matplotlib when it draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cllmfs.benchmark.results import (
    Run,
    Systems,
    cell,
    compared,
    curve,
    measured,
    pooled_bins,
    timed,
    zero_shot_systems,
)
from cllmfs.benchmark.significance import bootstrap_interval
from cllmfs.errors import ConfigError

# Okabe and Ito's colours, which the colour-blind tell apart, but brown for their yellow, which is faint on white; and
# markers for print without colours.
STYLES = (
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
    ("#000000", "X"),
    ("#999999", "*"),
    ("#8C564B", "p"),
)
DASHES = (0, (4, 2))
LEAST_SPANS = 20  # a bin of fewer says too little to be drawn


def plot_curves(systems: Systems, path: Path) -> None:
    """Draw the learning curves into a PNG file, a panel for each data set.

    Of more systems than there are colours that can be told apart, the first are drawn.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    systems = dict(list(systems.items())[: len(STYLES)])
    datasets, ks = measured(systems)
    figure, panels = _panels(datasets)
    for panel, dataset in zip(panels, datasets, strict=True):
        _draw_curves(panel, systems, dataset)
    panels[0].set_xlim(0.85 * ks[0], ks[-1] / 0.85)
    panels[0].set_xticks(ks, [str(k) for k in ks])
    figure.supxlabel("k: mentions of each type to learn from", fontsize=8)
    figure.supylabel("strict F1 in per cent", fontsize=8)
    _save(figure, [*_lines(systems), *_lines(systems, zero_shot_systems(systems))], path)


def plot_times(systems: Systems, path: Path) -> None:
    """Draw F1 over the seconds of learning into a PNG file, a panel for each data set; points bear their k.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    systems = dict(list(systems.items())[: len(STYLES)])
    datasets = measured(systems)[0]
    figure, panels = _panels(datasets)
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for panel, dataset in zip(panels, datasets, strict=True):
        for runs, (color, marker) in reversed(list(zip(systems.values(), STYLES, strict=False))):
            points = timed(runs, dataset)
            seconds, f1s = [each for _, each, _ in points], [f1 for _, _, f1 in points]
            panel.plot(seconds, f1s, color=color, marker=marker, markersize=3.5, linewidth=1.2)
            for k, *at in points:
                panel.annotate(str(k), at, (3, -7), textcoords="offset points", fontsize=5.5, color=color)
        panel.set_xscale("log")
        _dress(panel, dataset)
        _from_zero(panel)
    panels[0].xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panels[0].xaxis.set_minor_locator(NullLocator())
    figure.supxlabel("seconds of learning", fontsize=8)
    figure.supylabel("strict F1 in per cent", fontsize=8)
    _save(figure, _lines(systems), path)


def plot_reliability(runs: Sequence[Run], path: Path) -> None:
    """Draw a system's reliability diagrams into a PNG file, a panel for each data set, a line for each k.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    datasets = sorted({run.dataset for run in runs if run.bins})
    ks = sorted({run.k for run in runs if run.bins})
    figure, panels = _panels(datasets)
    from matplotlib import colormaps
    from matplotlib.lines import Line2D

    colors = {k: colormaps["viridis"](0.85 * number / max(1, len(ks) - 1)) for number, k in enumerate(ks)}
    for panel, dataset in zip(panels, datasets, strict=True):
        panel.plot([0, 1], [0, 1], color="0.6", linestyle=DASHES, linewidth=1.0)
        for k in ks:
            bins = [one for one in pooled_bins(runs, dataset, k) if one.spans >= LEAST_SPANS]
            confidences, accuracies = [one.confidence for one in bins], [one.accuracy for one in bins]
            line = {"color": colors[k], "marker": "o", "markersize": 2.5, "linewidth": 1.2}
            panel.plot(confidences, accuracies, **line, clip_on=False)  # all right: a whole marker on the panel's edge
        _dress(panel, dataset)
        panel.set_ylim(0, 1)
        panel.set_aspect("equal")
    panels[0].set_xlim(0, 1)
    figure.supxlabel("confidence", fontsize=8)
    figure.supylabel("share of spans that are right", fontsize=8)
    _save(figure, [Line2D([], [], color=colors[k], marker="o", markersize=3, label=_name(k)) for k in ks], path)


def plot_differences(systems: Systems, baseline: str, path: Path) -> None:
    """Draw how far each system is from the baseline into a PNG file: a panel for each k, 95 % intervals as bars.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    names = [name for name in systems if name != baseline]
    found = compared(systems, baseline)
    ks = list(dict.fromkeys(k for k, _ in found))
    figure, panels = _panels([_name(k) for k in ks], height=0.5 + 0.22 * len(names), sharey=True)
    for panel, k in zip(panels, ks, strict=True):
        panel.axvline(0, color="0.6", linestyle=DASHES, linewidth=1.0)
        _dress(panel, _name(k))
        panel.grid(axis="x", color="0.9", linewidth=0.6)
    for (k, name), groups in found.items():
        panel, line = panels[ks.index(k)], names.index(name)
        mean, low, high = bootstrap_interval(groups)
        panel.plot([low, high], [line, line], color=STYLES[0][0], linewidth=1.6)  # nan draws nothing
        panel.plot([mean], [line], color=STYLES[0][0], marker="o", markersize=4)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"strict F1 in points, less {baseline}", fontsize=8)
    _save(figure, [], path)


def _lines(systems: Systems, zero_shot: Sequence[str] | None = None) -> list[Any]:
    """The legend's lines, one for each system; dashed ones for those named in ``zero_shot``, if it is given."""
    from matplotlib.lines import Line2D

    made = []
    for name, (color, marker) in zip(systems, STYLES, strict=False):
        if zero_shot is None:
            made.append(Line2D([], [], color=color, marker=marker, markersize=4, linewidth=1.5, label=name))
        elif name in zero_shot:
            made.append(Line2D([], [], color=color, linestyle=DASHES, linewidth=1.2, label=f"{name}, zero-shot"))
    return made


def _name(k: int) -> str:
    return f"{k}-shot" if k else "zero-shot"


def _panels(titles: Sequence[str], height: float = 2.0, sharey: bool = False) -> tuple[Any, list[Any]]:
    """A figure with a panel of that height for each title, all with one x-axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the pictures need matplotlib: pip install 'cllmfs[benchmark]', or pass --no-plot") from error
    across = min(4, math.ceil(math.sqrt(len(titles))))
    down = math.ceil(len(titles) / across)
    figure = Figure(figsize=(0.6 + 2.5 * across, 0.9 + height * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, sharey=sharey, squeeze=False).flat)
    for panel in panels[len(titles) :]:
        panel.remove()
    for panel in panels[max(0, len(titles) - across) : len(titles)]:
        panel.tick_params(labelbottom=True)  # the panel below may have been removed
    return figure, panels[: len(titles)]


def _save(figure: Any, handles: Sequence[Any], path: Path) -> None:
    if handles:
        widest = 0.6 + 0.065 * max(len(handle.get_label()) for handle in handles)  # inches, at this size of letters
        columns = max(1, min(len(handles), 6, int(figure.get_figwidth() / widest)))
        figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
    # Without the library's version in it the file depends on the results alone.
    figure.savefig(path, dpi=200, metadata={"Software": None})


def _draw_curves(panel: Any, systems: Systems, dataset: str) -> None:
    # Drawn from the last to the first, so that the first system lies on top.
    for runs, (color, marker) in reversed(list(zip(systems.values(), STYLES, strict=False))):
        points = curve(runs, dataset)
        ks, means, sds = [k for k, _ in points], [one.mean for _, one in points], [one.sd for _, one in points]
        low = [mean - sd for mean, sd in zip(means, sds, strict=True)]
        high = [mean + sd for mean, sd in zip(means, sds, strict=True)]
        if len(points) > 1:
            panel.fill_between(ks, low, high, color=color, alpha=0.18, linewidth=0)
        else:  # a band needs two points
            panel.vlines(ks, low, high, color=color, linewidth=1.2)
        panel.plot(ks, means, color=color, marker=marker, markersize=3.5, linewidth=1.4)
        free = cell(runs, dataset, 0)
        if free is not None:
            panel.axhline(free.mean, color=color, linestyle=DASHES, linewidth=1.2)
    panel.set_xscale("log")
    panel.minorticks_off()
    _dress(panel, dataset)
    _from_zero(panel)


def _from_zero(panel: Any) -> None:
    """Heights from 0, with room above the highest point: the library's own margin is a share of their range alone."""
    panel.set_ylim(0, 1.07 * max(panel.dataLim.y1, 1e-9))


def _dress(panel: Any, title: str) -> None:
    panel.set_title(title, fontsize=9)
    panel.tick_params(labelsize=7, length=2.5)
    panel.grid(axis="y", color="0.9", linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
