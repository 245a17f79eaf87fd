"""The tables of figures in the documentation, made from the result files.

Each function gives one table in Markdown; its name is that of the block on a page. Knows the sources; knows nothing of
pages.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from cllmfs.benchmark.report import pipes
from cllmfs.benchmark.results import measured, summarize
from cllmfs.benchmark.tables import MISSING
from docs.sources import datasets, gap, mean, read_json, results, summary


def few_shot_averages() -> str:
    """Averages over the six data sets by system and number of shots, with the number of support sets; best in bold."""
    systems = {
        "cllmfs": "**cllmfs**",
        "plain LoRA": "plain LoRA on the same base",
        "GLiNER": "GLiNER, trained on the sources of `cllmfs-mini`",
        "token classifier": "token classifier",
        "token classifier, LoRA": "token classifier, LoRA",
        "ancestor": "the method's public ancestor on `cllmfs-mini`",
        "spaCy": "spaCy `ner`",
        "nearest neighbor": "nearest neighbor (StructShot)",
        "SpanMarker": "SpanMarker",
    }
    ks = [0, *measured(results("few_shot"))[1]]
    columns = {k: {name: _average(name, k) for name in systems} for k in ks}
    rows = [["system", *(f"{k} shots" if k == 0 else str(k) for k in ks)]]
    for name, title in systems.items():
        rows.append([title])
        for column in columns.values():
            best = max(one[0] for one in column.values() if one)
            rows[-1].append(MISSING if not (one := column[name]) else _bold(f"{one[0]:.1f}", one[0] == best) + one[1])
    return pipes(rows)


def _average(system: str, k: int) -> tuple[float, str] | None:
    """The average over all data sets and the number of support sets in parentheses; ``None`` if a data set lacks it."""
    found = [summarize(results("few_shot")[system], each, k) for each in datasets("few_shot")]
    known = [one for one in found if one]
    if len(known) < len(found):
        return None
    counts = sorted({one.supports for one in known})
    shown_counts = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return statistics.fmean(one.mean for one in known), f" ({shown_counts})" if k else ""


def _bold(text: str, chosen: bool) -> str:
    return f"**{text}**" if chosen else text


def mini_scores() -> str:
    """F1 of cllmfs-mini without shots and with 1 and 5, by data set, with the number of types of each."""
    titles = {
        "crossner_ai": "CrossNER AI",
        "crossner_politics": "CrossNER politics",
        "crossner_science": "CrossNER science",
        "mit_movie_trivia": "MIT movie trivia",
        "snips": "SNIPS",
        "wnut17": "WNUT-17",
    }
    rows = [["data set (types)", "zero-shot", "1-shot", "5-shot"]]
    for dataset in datasets("few_shot"):
        record = read_json(f"benchmarks/few_shot/results/cllmfs/{dataset}/test-0-shot-0.json")
        if (record["base"], record["settings"]) != ("cllmfs-mini", []):
            raise ValueError(
                "the results of cllmfs in benchmarks/few_shot must be of cllmfs-mini with default settings"
            )
        cells = [summary("few_shot", "cllmfs", dataset, k).text() for k in (0, 1, 5)]
        rows.append([f"{titles[dataset]} ({len(record['scores']['per_label'])})", *cells])
    return pipes(rows)


def ablation_steps() -> str:
    """The ladder from plain LoRA to all of cllmfs: F1 of each step and what it gains."""
    steps = {
        "rung 1, plain LoRA": "plain LoRA, with constrained decoding",
        "rung 2, absent types": "[types that a sentence does not hold are asked as well](#absent-types)",
        "rung 3, loss over the automaton": "[the loss is over what the decoder may emit](#a-loss-over-what-the-decoder-"
        "may-emit)",
        "rung 4, swapped mentions": "[mentions are swapped](#more-variety-from-few-shots)",
        "rung 5, replay": "[general sentences are replayed](#against-forgetting)",
        "rung 6, part of the update": "[a share of the update is kept](#against-forgetting)",
        "no contrast, no votes": "[confidences and thresholds are calibrated](#confidences)",
        "no votes": "[contrastive objective in training](#the-contrastive-objective)",
        "cllmfs": "[contrastive votes on decoded spans](#votes): all of cllmfs",
    }
    rows, before = [["parts, each added to those above it", "strict F1", "gain"]], ""
    for system, title in steps.items():
        gained = format(gap("ablation", system, before, "5"), "+.1f") if before else ""
        rows.append([title, format(mean("f1", "ablation", system, "average", "5"), ".1f"), gained])
        before = system
    return pipes(rows)


def recipes() -> str:
    """Scores on dev splits by recipe of the other systems; the recipe that was chosen for each is in bold."""
    chosen = {
        "token classifier 1e-4 60",
        "token classifier LoRA 1e-3 60",
        "nearest neighbor 1e-4 30",
        "ancestor 0.001",
        "SpanMarker 3e-4",
        "spaCy 1e-4",
        "GLiNER 1e-4 20",
    }
    sets = ("crossner_politics", "wnut17", "snips")
    rows = [["system and recipe", *sets]]
    for name, runs in results("dev_recipes").items():
        found = [summarize(runs, each, 5) for each in sets]
        rows.append([_bold(name, name in chosen), *(f"{one.mean:.1f}" if one else MISSING for one in found)])
    return pipes(rows)


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table for table in (few_shot_averages, mini_scores, ablation_steps, recipes)
}
