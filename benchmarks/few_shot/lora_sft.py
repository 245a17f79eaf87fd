"""What one would do by hand with a causal base: LoRA and supervised fine-tuning with transformers, then ``generate()``.

Each sentence and type is a prompt of its own, the type first (arXiv 2408.12834); the loss is the cross-entropy over the
whole vocabulary, and decoding is greedy. Prompts and answers are in the package's language
(:mod:`benchmarks.speed.naive`), so that what the two do differently is how they train and decode. Types that the shots
hold are asked in training, all types of the data set of every text; of spans of several types that overlap all stay,
there being no score to choose by.

A system of ``cllmfs benchmark``, as config.toml names it; how the recipe was chosen is in the README.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch

from benchmarks.few_shot.adapter import Baseline, Recipe, found_document, main
from benchmarks.speed.naive import CONSTRAINTS, NaiveDecoder, PromptRows, train
from cllmfs.config import Config, LoraConfig
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.batches import RowBuilder
from cllmfs.model.bases import MINI
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Example, LabelSet
from cllmfs.training.shots import answered_labels, prepare_shots


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """Beside what all recipes have, what is asked and how answers are held to the sentence; batches are of prompts."""

    batch_size: int = 16
    rank: int = 16
    alpha: int = 32
    empty: bool = field(default=True, metadata={"help": "ask types in training that a sentence does not hold"})
    constraint: str = field(
        default="spans",
        metadata={"choices": CONSTRAINTS, "help": "of answers: none, tokens of the sentence, its spans"},
    )


@dataclass(frozen=True)
class Answerer:
    """A fine-tuned base; it learned from so many prompts in so many steps, and asks all the labels."""

    decoder: NaiveDecoder
    labels: tuple[str, ...]
    prompts: int
    steps: int


def fine_tune(base: str, shots: Sequence[Example], recipe: SftRecipe, seed: int, labels: Sequence[str]) -> Answerer:
    """Train on the shots."""
    torch.manual_seed(seed)
    backbone = load_backbone(base)
    builder = RowBuilder(backbone.prompt, "type-first", tree=False)
    config = Config()
    window = Extractor(backbone, config).window(LabelSet(labels))
    prepared = prepare_shots(shots, backbone, builder, config.decode.edges, window, config.decode.overlap_tokens)
    asked = answered_labels(LabelSet(labels), prepared)
    rows = PromptRows(builder, prepared, list(asked), recipe.empty)
    steps = recipe.steps(len(rows))
    backbone.attach_lora(LoraConfig(rank=recipe.rank, alpha=recipe.alpha))
    train(backbone, rows, recipe.batch_size, steps, recipe.learning_rate, recipe.warmup, seed)
    backbone.merge_lora()
    backbone.model.eval()
    decoder = NaiveDecoder(backbone, batch_rows=64, constraint=recipe.constraint, longest=window)
    return Answerer(decoder, tuple(labels), len(rows), steps)


def predict(model: Answerer, examples: Sequence[Example], chunk: int = 64) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    # Texts of like length share a batch: less padding.
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].text))
    made: list[Document] = [Document("", ())] * len(examples)
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        answers = model.decoder.predict([examples[index].text for index in part], model.labels)
        for index, found in zip(part, answers, strict=True):
            made[index] = found_document(examples[index].text, found)
    return made


def facts(model: Answerer) -> dict[str, Any]:
    """The steps are by prompts; answers that no constraint held to spans are counted."""
    device = model.decoder.backbone.device.type
    counts = {} if model.decoder.constraint == "spans" else {"answers": dict(model.decoder.counts)}
    return {"prompts": model.prompts, "steps": model.steps, "device": device, **counts}


BASELINE = Baseline(
    "LoRA-SFT",
    SftRecipe(learning_rate=1e-3, epochs=5),
    fine_tune,
    predict,
    ("transformers", "torch", "peft"),
    options=("empty", "constraint"),
    base=MINI,
    asks=True,
    facts=facts,
)

if __name__ == "__main__":
    main(BASELINE)
