"""Results of a benchmark as pictures: learning curves over the number of shots, and differences with their intervals.

Knows results; knows nothing of the page that shows the pictures. Needs matplotlib to draw.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cllmfs.benchmark.results import Systems, bootstrap_interval, compared, curve, measured
from cllmfs.errors import ConfigError
from cllmfs.files import whole_file

# Colors of Okabe and Ito, which people with color blindness can tell apart; markers and dashes for prints in gray.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 1.5))},
    {"color": "#000000", "marker": "^", "linestyle": (0, (1.5, 1.5))},
    {"color": "#009E73", "marker": "D", "linestyle": (0, (6, 1.5, 1.5, 1.5))},
    {"color": "#CC79A7", "marker": "v", "linestyle": (0, (3, 3))},
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (6, 1, 1, 1, 1, 1))},
)
MOST_CURVES = 5
_SMALL = 7.5  # points: the size of labels

Line = tuple[str, Sequence[float], Sequence[float], Any]  # its name, the x and y of its points, and its color


def plot_curves(systems: Systems, path: Path) -> None:
    """Draw the learning curves of the systems into a PNG file, with one panel for each data set.

    Raises:
        ConfigError: if there are more than :data:`MOST_CURVES` systems, or matplotlib is missing.
    """
    if len(systems) > MOST_CURVES:
        raise ConfigError(f"a picture has at most {MOST_CURVES} learning curves, got {len(systems)}; name fewer")
    datasets, ks = measured(systems)
    figure, panels = panel_grid(datasets, across=min(3, math.ceil(math.sqrt(len(datasets)))), size=(3.1, 2.3))
    labels: list[list[Line]] = []
    for panel, dataset in zip(panels, datasets, strict=True):
        labels.append([])
        for (name, runs), style in zip(systems.items(), STYLES, strict=False):
            if points := curve(runs, dataset):
                places = [k for k, _ in points], [one.mean for _, one in points]
                sds = [one.sd for _, one in points]
                panel.errorbar(*places, sds, **style, markersize=3.5, linewidth=1.3, elinewidth=0.8)
                labels[-1].append((name, *places, style["color"]))
        panel.set_xscale("symlog", linthresh=1, linscale=0.5)  # has room for k = 0, unlike a logarithmic axis
        panel.set_xticks([0, *ks], [str(k) for k in (0, *ks)])
        panel.set_xlim(-0.15, ks[-1] * 1.15)
        panel.minorticks_off()
        panel.set_ylim(0, 1.07 * max(panel.dataLim.y1, 1e-9))
    figure.supxlabel("shots: mentions of each type to learn from (0: zero-shot)", fontsize=8)
    figure.supylabel("strict F1 (%)", fontsize=8)
    figure.draw_without_rendering()  # makes the layout, which decides how near to each other two labels are
    for panel, lines in zip(panels, labels, strict=True):
        label_lines(panel, lines)
    save(figure, path)


def plot_differences(systems: Systems, baseline: str, path: Path) -> None:
    """Draw the differences between the systems and the baseline into a PNG file, with 95 % intervals as bars.

    There is one panel for each k; the systems are sorted by their mean difference, the largest first.

    Raises:
        ConfigError: if matplotlib or scipy is missing.
    """
    found = compared(systems, baseline)
    ks = list(dict.fromkeys(k for k, _ in found))
    means: dict[str, list[float]] = {}
    for (_, name), groups in found.items():
        means.setdefault(name, []).append(statistics.fmean(map(statistics.fmean, groups)))
    names = sorted(means, key=lambda name: -statistics.fmean(means[name]))
    size = (4.5 if len(ks) == 1 else 1.9, 0.5 + 0.17 * len(names))
    figure, panels = panel_grid([f"{k}-shot" for k in ks], across=len(ks), size=size, sharey=True)
    for panel in panels:
        panel.axvline(0, color="0.5", linewidth=0.8)
        panel.grid(axis="x", color="0.9", linewidth=0.6)
    for (k, name), groups in found.items():
        panel, line = panels[ks.index(k)], names.index(name)
        mean, low, high = bootstrap_interval(groups)
        panel.plot([low, high], [line, line], color=STYLES[0]["color"], linewidth=1.6)  # nan draws nothing
        panel.plot([mean], [line], color=STYLES[0]["color"], marker="o", markersize=3.5)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"strict F1 minus that of {baseline}, in points", fontsize=8)
    save(figure, path)


def panel_grid(
    titles: Sequence[str], across: int, size: tuple[float, float], sharex: bool = True, sharey: bool = False
) -> tuple[Any, list[Any]]:
    """A figure with one panel for each title, ``across`` in a row; ``size`` is that of a panel in inches.

    Raises:
        ConfigError: if matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("pictures need matplotlib: pip install 'cllmfs[benchmark]', or pass --no-plot") from error
    down = math.ceil(len(titles) / across)
    figure = Figure(figsize=(0.6 + size[0] * across, 0.5 + size[1] * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=sharex, sharey=sharey, squeeze=False).flat)
    for panel in panels[len(titles) :]:
        panel.remove()
    for panel in panels[max(0, len(titles) - across) : len(titles)]:
        panel.tick_params(labelbottom=True)  # the panel below may have been removed
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=7, length=2.5)
        panel.grid(axis="y", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, panels[: len(titles)]


def label_lines(panel: Any, lines: Sequence[Line]) -> None:
    """Write the name of each line at its end: outside the panel, or inside it where the line ends early.

    The scales, the limits and the layout must be final. Names outside are moved apart; a name inside is written on the
    side of its line that has more room.
    """
    from matplotlib.patheffects import withStroke

    def height(x: float, y: float) -> float:
        place = float(panel.transData.transform((x, y))[1])
        return place * 72.0 / float(panel.figure.dpi)  # in points, as sizes of letters are

    right = max((xs[-1] for _, xs, _, _ in lines), default=0)
    text = {"fontsize": _SMALL, "textcoords": "offset points", "annotation_clip": False}
    ends = [(height(right, ys[-1]), ys[-1], name, color) for name, xs, ys, color in lines if xs[-1] == right]
    outside = sorted(ends, key=lambda label: label[0])
    moved: list[float] = []
    for at, *_ in outside:
        moved.append(max(at, moved[-1] + 1.3 * _SMALL) if moved else at)
    centered = sum(moved) / max(1, len(moved)) - sum(at for at, *_ in outside) / max(1, len(outside))
    for (at, y, name, color), place in zip(outside, moved, strict=True):
        panel.annotate(name, (right, y), (5, place - centered - at), va="center", color=color, **text)
    for name, xs, ys, color in lines:
        if xs[-1] < right:
            others = [dict(zip(x, y, strict=True)).get(xs[-1]) for other, x, y, _ in lines if other != name]
            gaps = [each - ys[-1] for each in others if each is not None]
            above = min((gap for gap in gaps if gap > 0), default=1e9)
            below = min((-gap for gap in gaps if gap <= 0), default=1e9)
            side = {"xytext": (0, 5), "va": "bottom"} if above >= below else {"xytext": (0, -5), "va": "top"}
            halo = [withStroke(linewidth=2, foreground="white")]
            panel.annotate(name, (xs[-1], ys[-1]), ha="center", **side, color=color, path_effects=halo, **text)


def save(figure: Any, path: Path) -> None:
    """Write the figure as a PNG file that depends on its content alone, not on the version of matplotlib."""
    with whole_file(path) as handle:
        figure.savefig(handle, format="png", dpi=200, metadata={"Software": None})
