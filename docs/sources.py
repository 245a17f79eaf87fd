"""The sources of the figures in the documentation: result files, data and settings of the repository.

Each function gives one figure, and raises ValueError where the result files do not have it, or contradict what the
sentences say that quote it. Knows the result files; knows nothing of pages.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
import struct
from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.speed.measuring import ratios
from cllmfs import config
from cllmfs.benchmark.results import (
    Summary,
    Systems,
    Value,
    bootstrap_interval,
    f1_of,
    grouped_differences,
    measured,
    read_results,
    refuse_unequal,
    summarize,
)
from cllmfs.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?"
# The folder of the results and their split. Results of dev_recipes have unlike numbers of sentences on purpose.
BENCHMARKS = {
    "few_shot": ("few_shot/results", "test"),
    "dev_recipes": ("few_shot/results_dev", "dev"),
    "ablation": ("ablation/results", "dev"),
    "contrast": ("contrast/results", "test"),
    "cross_domain": ("cross_domain/results", "test"),
    "published": ("published/results", "test"),
}
VALUES: dict[str, Value] = {
    "f1": f1_of,
    "ece": lambda run: run.ece,
    "paper": lambda run: run.paper_line,
    "boundary": lambda run: run.boundary,
    "types": lambda run: run.typing,
}


# --- results of benchmarks -------------------------------------------------------------------------------------------


@cache
def results(benchmark: str) -> Systems:
    """The runs of a benchmark by system."""
    folder, split = BENCHMARKS[benchmark]
    systems = read_results(ROOT / "benchmarks" / folder, split)
    if benchmark != "dev_recipes":
        refuse_unequal(systems)
    return systems


def summary(benchmark: str, system: str, dataset: str, k: int, value: str = "f1") -> Summary:
    """Mean and deviation over support sets; raises ValueError if there is no such result."""
    found = summarize(results(benchmark)[system], dataset, k, VALUES[value])
    if found is None:
        raise ValueError(f"{benchmark} has no {value} of {system} on {dataset} at k = {k}")
    return found


def mean(value: str, benchmark: str, system: str, dataset: str, k: str) -> float:
    """A value of a system; the data set may also be ``average``, ``lowest`` or ``highest``, over all data sets."""
    if dataset in ("average", "lowest", "highest"):
        means = [summary(benchmark, system, each, int(k), value).mean for each in datasets(benchmark)]
        return {"average": statistics.fmean(means), "lowest": min(means), "highest": max(means)}[dataset]
    return summary(benchmark, system, dataset, int(k), value).mean


def spread(benchmark: str, system: str, dataset: str, k: str, value: str = "f1") -> float:
    """The standard deviation of a value over support sets."""
    return summary(benchmark, system, dataset, int(k), value).sd


def datasets(benchmark: str) -> list[str]:
    """The data sets of a benchmark by name."""
    return measured(results(benchmark))[0]


def supports(benchmark: str, system: str, dataset: str, k: str) -> int:
    """The number of support sets; for the average, all data sets must have the same number."""
    names = datasets(benchmark) if dataset == "average" else [dataset]
    (count,) = {summary(benchmark, system, each, int(k)).supports for each in names}
    return count


def gap(benchmark: str, system: str, baseline: str, k: str, value: str = "f1", end: str = "mean") -> float:
    """The mean difference between two systems over all data sets, or the ``low`` or ``high`` end of its interval."""
    groups = grouped_differences(results(benchmark), system, baseline, int(k), VALUES[value])
    return float(getattr(bootstrap_interval(groups), end))


def shared(benchmark: str, system: str, baseline: str, k: str) -> int:
    """The number of support sets that two systems share, all of which must be differences above zero."""
    found = [each for group in grouped_differences(results(benchmark), system, baseline, int(k)) for each in group]
    if min(found) <= 0:
        raise ValueError(f"{system} is not ahead of {baseline} on every support set of {benchmark} at k = {k}")
    return len(found)


def ahead(benchmark: str, system: str, ablation: str) -> int:
    """The runs of other systems on the same shots, in each of which ``system`` must be ahead.

    Args:
        ablation: the beginning of the names that do not count as other systems.
    """
    systems = results(benchmark)
    ours = {(run.dataset, run.k, run.seed): run.f1 for run in systems[system]}
    others = [run for name, runs in systems.items() if not name.startswith(ablation) for run in runs]
    found = [ours[key] - run.f1 for run in others if (key := (run.dataset, run.k, run.seed)) in ours]
    if min(found) <= 0:
        raise ValueError(f"{system} is behind in {sum(each <= 0 for each in found)} of {len(found)} runs")
    return len(found)


# --- other result files ----------------------------------------------------------------------------------------------


@cache
def read_json(path: str) -> Any:
    """The content of a JSON file of the repository."""
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def from_json(path: str, *keys: str) -> float:
    """A number of a JSON file."""
    record = read_json(path)
    for key in keys:
        record = record[int(key) if isinstance(record, list) else key]
    return float(record)


def _speed(cell: str) -> Any:
    return read_json("benchmarks/speed/results.json")["cells"][cell]


def rate(cell: str, contender: str) -> float:
    """Sentences per second of a contender of ``benchmarks/speed``."""
    return float(_speed(cell)["sentences_per_second"][contender])


def times(cell: str, contender: str, reference: str) -> float:
    """How many times as long a contender of ``benchmarks/speed`` takes as another."""
    return ratios(_speed(cell)["seconds"], contender, reference)


def floor(work: str, what: str) -> float:
    """GFLOP, floor and measured milliseconds of a sentence (``gflop``, ``floor``, ``measured``), or their ``ratio``."""
    cell = _speed("floors")
    one, count = cell[work], cell["sentences"][work]
    found = {"gflop": one["flops"] / 1e9, "floor": 1e3 * one["floor"], "measured": 1e3 * one["seconds"]}
    return float(one["seconds"] / one["floor"] if what == "ratio" else found[what] / count)


@cache
def mini_facts() -> dict[str, float]:
    """Counts of cllmfs-mini: millions of parameters, draws, and what its written sheets hold."""
    made = read_json("mini/training.json")
    settings, sheets = made["settings"], made["data"]["sheets"]
    job, base = settings["job"], read_json("src/cllmfs/mini/config.json")
    with open(ROOT / "src" / "cllmfs" / "mini" / "model.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    sizes = {name: math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__"}
    return {
        "parameters": sum(sizes.values()) / 1e6,
        "block_weights": sum(size for name, size in sizes.items() if ".layer." in name) / 1e6,
        "layers": base["num_hidden_layers"],
        "positions": base["max_position_embeddings"],
        **job,
        **settings["recipe"],
        **settings["loss"],
        "contrastive_layer": round(settings["loss"]["contrastive_layer"] * base["num_hidden_layers"]),
        "draws": job["steps"] * job["sentences_per_step"],
        "sheets": sheets["sets"],
        **{name: sheets[name] for name in ("sentences", "mentions", "types")},
    }


@cache
def example_sentences(split: str) -> int:
    """The number of sentences of the package's example data."""
    path = ROOT / "src" / "cllmfs" / "example" / f"{split}.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines())


def setting(name: str) -> float:
    """The default of a setting."""
    return next(float(one.default) for one in config.list_settings() if f"{one.section}.{one.name}" == name)


def recipe(name: str) -> float:
    """A constant of the training recipe."""
    return next(float(one.default) for one in fields(Recipe) if one.name == name)  # type: ignore[arg-type]


def shown(page: str, command: str, row: str, column: str) -> float:
    """A score that a page shows as the output of a command."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = text[text.index(f"\ncllmfs {command}\n") :].split("```text\n")[1].split("```")[0]
    line = next(line for line in block.splitlines() if line.split()[:1] == [row])
    return float(line.split()[1 + ("precision", "recall", "F1", "support").index(column)])


def logged(section: str, number: str) -> str:
    """A number of a section of ``docs/log.md``, named by its date and the beginning of its title.

    For measurements whose results were not kept: the log must have the number.
    """
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    found = [each for each in log.split("\n## ") if each.startswith(section)]
    if len(found) != 1:
        raise ValueError(f"docs/log.md must have one section that begins with {section!r}, got {len(found)}")
    if number not in re.findall(NUMBER, found[0]):
        raise ValueError(f"docs/log.md has no {number} in the section {section!r}")
    return number


# The functions that a template may call, each with the format of its figures.
SOURCES: dict[str, tuple[Callable[..., float | str], str]] = {
    "f1": (partial(mean, "f1"), ".1f"),
    "sd": (spread, ".1f"),
    "paper": (partial(mean, "paper"), ".1f"),
    "ece": (partial(mean, "ece"), ".2f"),
    "supports": (supports, "d"),
    "gap": (gap, ".1f"),
    "low": (partial(gap, end="low"), ".1f"),
    "high": (partial(gap, end="high"), ".1f"),
    "shared": (shared, "d"),
    "ahead": (ahead, "d"),
    "json": (from_json, "g"),
    "rate": (rate, ",.0f"),
    "times": (times, ".1f"),
    "floor": (floor, ".1f"),
    "mini": (lambda name: mini_facts()[name], ",.0f"),
    "example": (example_sentences, "d"),
    "setting": (setting, "g"),
    "recipe": (recipe, "g"),
    "shown": (shown, ".2f"),
    "log": (logged, ""),
}


def evaluate(placeholder: str) -> str:
    """The figure of a placeholder: the name of a source, its words, and perhaps ``|`` and another format."""
    call, _, form = placeholder.partition("|")
    name, *words = shlex.split(call)
    if name not in SOURCES:
        raise ValueError(f"there is no source {name!r}; there are {', '.join(SOURCES)}")
    source, default = SOURCES[name]
    return format(source(*words), form.strip() or default).replace("e-0", "e-")
