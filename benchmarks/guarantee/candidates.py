"""Trains a model for each data set and writes down everything that it decodes in sentences with gold spans.

    python -m benchmarks.guarantee.candidates --data DIR --cache runs/guarantee

This is the slow part of the benchmark: about ten minutes for each data set on one core. ``run.py`` draws its splits
from the files, which hold offsets, labels, scores and votes, and no text. Knows data sets and the parts of the
recognizer; knows nothing of guarantees.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.datasets.splits import load_splits, without_duplicates
from cllmfs.decoding.calibration import ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Rules
from cllmfs.encoding.tokens import tokenize
from cllmfs.files import whole_file
from cllmfs.model.bases import MINI
from cllmfs.model.loading import load_backbone
from cllmfs.schema import LabelSet
from cllmfs.training.fit import fit
from cllmfs.training.shots import settle_spans

DATASETS = (
    "crossner_ai", "crossner_politics", "crossner_science", "gum", "mit_movie_trivia", "psytar", "snips", "wnut17",
)  # fmt: skip
SHOTS, SEED, SENTENCES = 5, 0, 1500
OPENINGS = (0.1, 0.02)  # values of Rules.open_at; the first is the default


def collect(folder: Path, k: int = SHOTS, seed: int = SEED, most: int = SENTENCES) -> dict[str, Any]:
    """The candidates of a model of ``k`` shots in at most ``most`` sentences of the test and dev splits.

    The sentences are drawn at random; none of them is a shot.
    """
    splits = load_splits(folder)
    shots = sample_k_shot(splits["train"], k, seed)
    labels, backbone = LabelSet.of_examples(shots), load_backbone(MINI)
    settings = Config().with_settings([f"train.seed={seed}"])
    config = settle_spans(settings, shots, partial(tokenize, backbone.prompt.tokenizer))
    expected = ExpectedCalibrations.of_base(backbone.figures, config.calibrate.votes, MINI)
    extractor = Extractor(backbone, config)
    with backbone.training():
        calibration = fit(extractor, shots, labels, expected).calibration
        adapter = backbone.adapters.capture()
    learned = {shot.text for shot in shots}
    pool = [one for one in without_duplicates(splits["test"] + splits.get("dev", [])) if one.text not in learned]
    random.Random(f"{seed}/sentences").shuffle(pool)
    chosen = pool[:most]
    found: dict[float, Any] = {}
    with backbone.reading(adapter):
        for open_at in OPENINGS:
            reader = Extractor(backbone, config, rules=Rules(open_at=open_at))
            found[open_at] = reader.candidates([one.text for one in chosen], labels, calibration.vote > 0)
    return {
        "labels": list(labels),
        "shots": len(shots),
        "nested": extractor.encoder.nested,
        "calibration": calibration.to_dict(),
        "texts": [
            {
                "gold": [list(span.key) for span in one.spans],
                "candidates": {str(at): [list(each) for each in found[at][n].candidates] for at in OPENINGS},
            }
            for n, one in enumerate(chosen)
        ],
    }


def read(cache: Path, name: str) -> Mapping[str, Any]:
    """What :func:`collect` found for a data set.

    Raises:
        FileNotFoundError: if it was not collected yet.
    """
    content: Mapping[str, Any] = json.loads((cache / f"{name}.json").read_text(encoding="utf-8"))
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("runs/guarantee"))
    parser.add_argument("--dataset", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    for name in arguments.dataset or DATASETS:
        if (path := arguments.cache / f"{name}.json").exists():
            continue
        content = collect(arguments.data / name)
        with whole_file(path) as handle:
            handle.write(json.dumps(content, separators=(",", ":")).encode("utf-8"))
        print(f"{name}: {content['shots']} shots, {len(content['texts'])} sentences", flush=True)


if __name__ == "__main__":
    main()
