"""The usual way to fine-tune a causal base by hand: supervised fine-tuning of LoRA with transformers, then
``generate()``.

Each pair of a sentence and a type is a prompt of its own, with the type first (arXiv 2408.12834). The loss is the
cross-entropy over the whole vocabulary, and decoding is greedy. Prompts and answers have the same form as those of
cllmfs (:mod:`benchmarks.speed.naive`), so that only training and decoding differ. In training, the types that occur in
the shots are asked; in prediction, all types of the data set. Spans of different types may overlap, since there are no
scores to choose between them.

A system of ``cllmfs benchmark``, see config.toml. The README states how the recipe was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.few_shot.baseline import Baseline, Recipe, found_document, main
from benchmarks.speed.naive import CONSTRAINTS, TYPE_FIRST, NaiveDecoder, PromptRows, train
from cllmfs.config import LoraConfig
from cllmfs.model.bases import MINI
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Example, LabelSet
from cllmfs.training.shots import answered_labels, encode_shots


@dataclass(frozen=True)
class SftRecipe(Recipe):
    """A recipe that also states which types are asked and how answers are constrained; batches are of prompts."""

    batch_size: int = 16
    rank: int = 16
    alpha: int = 32
    empty: bool = field(default=True, metadata={"help": "in training, also ask types that a sentence does not have"})
    constraint: str = field(
        default="spans",
        metadata={"choices": CONSTRAINTS, "help": "what answers may contain: anything, tokens of the sentence, spans"},
    )


@dataclass(frozen=True)
class Answerer:
    """A fine-tuned base that asks all labels, and the numbers of prompts and steps that it was trained with."""

    decoder: NaiveDecoder
    labels: tuple[str, ...]
    prompts: int
    steps: int


def fine_tune(base: str, shots: Sequence[Example], recipe: SftRecipe, seed: int, labels: Sequence[str]) -> Answerer:
    """Train on the shots."""
    torch.manual_seed(seed)
    backbone = load_backbone(base)
    encoder = backbone.encoder(TYPE_FIRST)
    window = encoder.window(encoder.queries(LabelSet(labels)))
    encoded = encode_shots(shots, encoder, window)
    asked = answered_labels(LabelSet(labels), encoded)
    rows = PromptRows(encoder, encoded, list(asked), recipe.empty)
    steps = recipe.steps(len(rows))
    backbone.adapters.attach(LoraConfig(rank=recipe.rank, alpha=recipe.alpha))
    train(backbone, rows, recipe.batch_size, steps, recipe.learning_rate, recipe.warmup, seed)
    backbone.adapters.merge()
    backbone.model.eval()
    decoder = NaiveDecoder(backbone, batch_rows=64, constraint=recipe.constraint, longest=window)
    return Answerer(decoder, tuple(labels), len(rows), steps)


def predict(model: Answerer, examples: Sequence[Example], chunk: int = 64) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    # Texts of similar length share a batch, which reduces padding.
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].text))
    made: list[Document] = [Document("", ())] * len(examples)
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        answers = model.decoder.predict([examples[index].text for index in part], model.labels)
        for index, found in zip(part, answers, strict=True):
            made[index] = found_document(examples[index].text, found)
    return made


def facts(model: Answerer) -> dict[str, Any]:
    """The number of prompts, the steps over them, and counts of the answers if they were not constrained to spans."""
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
