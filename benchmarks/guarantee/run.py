"""How often a promised recall or precision holds on texts that did not choose the thresholds, and what it costs.

    python -m benchmarks.guarantee.candidates --data DIR --cache runs/guarantee
    python -m benchmarks.guarantee.run --cache runs/guarantee --output benchmarks/guarantee/results.json
    python -m benchmarks.guarantee.report benchmarks/guarantee/results.json

For each data set, split and target, some of the sentences choose the thresholds, and all others test the promise. Knows
what was decoded in sentences; knows nothing of models.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.guarantee.candidates import DATASETS, OPENINGS, SEED, SENTENCES, SHOTS, read
from cllmfs.assurance.guarantee import Guarantee, Risk
from cllmfs.assurance.thresholds import JudgedText, choose_thresholds, judge_text
from cllmfs.config import RuntimeConfig
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.extraction import Candidate
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts, Rates
from cllmfs.files import whole_file
from cllmfs.schema import Example, LabelSet, Span

SPLITS, CONFIDENCE = 20, 0.95
MOST, SHARE = 200, 5  # a split has at most so many sentences to choose thresholds on, and at most a fifth of all
TARGETS = {"recall": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95), "precision": (0.5, 0.6, 0.7, 0.8, 0.9)}


def judged(content: Mapping[str, Any], open_at: float) -> list[JudgedText]:
    """The sentences of a data set, with everything that was decoded in them; their words do not matter."""
    calibration = Calibration.from_dict(content["calibration"], "the cache")
    texts = []
    for one in content["texts"]:
        gold = tuple(Span(*key) for key in one["gold"])
        candidates = [Candidate(*each) for each in one["candidates"][str(open_at)]]
        texts.append(judge_text(Example("", gold), candidates, calibration, content["nested"]))
    return texts


def reported(texts: Sequence[JudgedText], made: Guarantee) -> list[list[bool]]:
    """For each text, whether each of the spans that it reports with a guarantee is right."""
    return [
        [one.right for one in text.found if one.confidence >= made.thresholds.get(one.label, made.threshold)]
        for text in texts
    ]


def realized(texts: Sequence[JudgedText], made: Guarantee, kind: str) -> tuple[float, Rates]:
    """The loss on texts that did not choose the thresholds, and strict rates over their mentions."""
    kept, gold = reported(texts, made), [sum(text.gold.values()) for text in texts]
    if kind == "recall":
        losses = [1 - sum(rights) / total for rights, total in zip(kept, gold, strict=True) if total]
    else:
        losses = [1 - sum(rights) / len(rights) for rights in kept if rights]
    right, all_gold = sum(map(sum, kept)), sum(gold)
    return statistics.fmean(losses or [0.0]), Rates.of(right, sum(map(len, kept)), right, all_gold)


def realized_of(texts: Sequence[JudgedText], made: Guarantee, label: str) -> float:
    """The mean share of missed mentions of a label, over the texts that have some."""
    losses = []
    for text in texts:
        if total := text.gold.get(label, 0):
            found = (one for one in text.found if one.label == label and one.right)
            losses.append(1 - sum(one.confidence >= made.thresholds[label] for one in found) / total)
    return statistics.fmean(losses or [0.0])


def cell(texts: Sequence[JudgedText], labels: LabelSet, kind: str, target: float) -> dict[str, Any]:
    """A target on all splits of a data set: in how many it is promised, and what became of it."""
    size = min(MOST, len(texts) // SHARE)
    risks, rates, ordinary, reasons, own = list[float](), list[Rates](), list[Rates](), set[str](), list[float]()
    for split in range(SPLITS):
        mixed = list(texts)
        random.Random(f"{SEED}/{split}").shuffle(mixed)
        chosen, others = mixed[:size], mixed[size:]
        try:
            made = choose_thresholds(chosen, Risk(**{kind: target}, confidence=CONFIDENCE), labels, RuntimeConfig())
        except DataError as error:
            reasons.add("too few texts" if "needs at least" in str(error) else "out of reach")
            continue
        risk, after = realized(others, made, kind)
        risks.append(round(risk, 4))
        rates.append(after)
        ordinary.append(sum((text.ordinary for text in others), Counts()).rates)
        own += [realized_of(others, made, label) for label in made.thresholds]
    return {
        "kind": kind,
        "target": target,
        "given": len(risks),
        "kept": sum(risk <= 1 - target for risk in risks),
        "risks": risks,
        "reasons": sorted(reasons),
        "types_given": len(own),
        "types_kept": sum(risk <= 1 - target for risk in own),
        "before": mean_rates(ordinary),
        "after": mean_rates(rates),
    }


def mean_rates(rates: Sequence[Rates]) -> dict[str, float] | None:
    """Precision, recall and F1, each averaged; ``None`` of nothing."""
    if not rates:
        return None
    columns = zip(*rates, strict=True)
    return {name: round(statistics.fmean(column), 4) for name, column in zip(Rates._fields, columns, strict=True)}


def opening(content: Mapping[str, Any], open_at: float) -> dict[str, float]:
    """What is decoded with an opening: recall before and after conflicts are resolved, and precision after."""
    texts = judged(content, open_at)
    gold = sum(len(one["gold"]) for one in content["texts"])
    decoded = sum(
        len({tuple(key) for key in one["gold"]} & {tuple(each[:3]) for each in one["candidates"][str(open_at)]})
        for one in content["texts"]
    )
    right = sum(one.right for text in texts for one in text.found)
    by_text = [sum(one.right for one in text.found) / total for text in texts if (total := sum(text.gold.values()))]
    return {
        "decoded_recall": round(decoded / gold, 4),
        "recall": round(right / gold, 4),
        "text_recall": round(statistics.fmean(by_text), 4),
        "precision": round(right / sum(len(text.found) for text in texts), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/guarantee"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "splits": SPLITS, "confidence": CONFIDENCE, "shots": SHOTS, "sentences": SENTENCES, "datasets": {},
    }  # fmt: skip
    for name in DATASETS:
        if not (arguments.cache / f"{name}.json").exists():
            print(f"{name} is not in the cache yet")
            continue
        content = read(arguments.cache, name)
        texts, labels = judged(content, OPENINGS[0]), LabelSet(content["labels"])
        openings = [at for at in OPENINGS if str(at) in content["texts"][0]["candidates"]]
        results["datasets"][name] = {
            "types": len(labels),
            "shots": content["shots"],
            "texts": len(texts),
            "chosen_on": min(MOST, len(texts) // SHARE),
            "cells": [cell(texts, labels, kind, target) for kind, targets in TARGETS.items() for target in targets],
            "openings": {str(at): opening(content, at) for at in openings},
        }
        print(f"{name}: done", flush=True)
    with whole_file(arguments.output) as handle:
        handle.write((json.dumps(results, indent=1) + "\n").encode("utf-8"))


if __name__ == "__main__":
    main()
