"""The peer GLiNER, trained on the sources of cllmfs-mini: every stretch of words is scored against every type's name.

GLiNER (Zaratiana et al. 2024, arXiv 2311.08526; https://github.com/urchade/GLiNER) 0.2.29 from the folder that
``gliner_source.py`` leaves, fine-tuned on the shots by its own trainer; without shots it answers as it is. Shots,
test sentences and scorer are those of the other systems. It needs transformers below 5.17, so it has an
environment of its own, in which cllmfs brings no dependencies along:

    python -m venv .venv-gliner
    .venv-gliner/bin/pip install -r benchmarks/few_shot/requirements-gliner.txt
    .venv-gliner/bin/pip install --no-deps -e .

All types are asked of every sentence, in training as in answering, by the names that cllmfs asks them by. Words are the
data's tokens, so offsets are exact; a span is as long as the longest of the shots, at least 12 words. Loss and gradient
norm are GLiNER's. The steps are 20 passes over the shots, at least 300 and at most 3,000; how the rate was chosen is in
the README.

Knows GLiNER; it is a system of ``cllmfs benchmark``, as config.toml names it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path. The libraries are told to stay off the network before they
# are imported: they read this only then.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch
import transformers
from gliner import GLiNER

from benchmarks.few_shot.adapter import Baseline, Recipe, main, token_spans, token_texts
from cllmfs.encoding.prompts import verbalize
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class GlinerRecipe(Recipe):
    """Beside what all recipes have, the rate of all but the encoder, as a multiple of the encoder's."""

    others: float = 3.0
    max_grad_norm: float = 10.0
    threshold: float = 0.5  # GLiNER's default


@dataclass
class Asker:
    """A GLiNER and the types it is asked for: their labels by the names that it reads."""

    model: Any
    labels: dict[str, str]
    threshold: float


def fine_tune(base: str, shots: Sequence[Example], recipe: GlinerRecipe, seed: int, labels: Sequence[str]) -> Asker:
    """Train on the shots, if there are any."""
    transformers.set_seed(seed)
    model = GLiNER.from_pretrained(base, local_files_only=True)
    asker = Asker(model, {verbalize(label): label for label in labels}, recipe.threshold)
    if not shots:
        return asker
    spans = [token_spans(shot) for shot in shots]
    longest = max((end - start for part in spans for start, end, _ in part), default=0)
    model.config.max_width = max(model.config.max_width, longest)
    model.model.span_rep_layer.span_rep_layer.max_width = model.config.max_width
    rows = [
        {
            "tokenized_text": token_texts(shot),
            "ner": [(start, end - 1, verbalize(label)) for start, end, label in part],
            "ner_labels": list(asker.labels),
        }
        for shot, part in zip(shots, spans, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        model.train_model(
            rows,
            None,
            output_dir=folder,
            learning_rate=recipe.learning_rate,
            others_lr=recipe.others * recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            focal_loss_alpha=0.75,
            warmup_ratio=recipe.warmup,
            max_grad_norm=recipe.max_grad_norm,
            max_steps=recipe.steps(len(rows)),
            per_device_train_batch_size=recipe.batch_size,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
    return asker


def predict(asker: Asker, examples: Sequence[Example], batch_size: int = 16) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    asker.model.eval()
    # Sentences of like length share a batch: less padding.
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].token_offsets or ()))
    collator = asker.model.create_collator()
    found: list[Document] = [Document("", ())] * len(examples)
    with torch.inference_mode():
        for first in range(0, len(order), batch_size):
            part = order[first : first + batch_size]
            rows = asker.model.prepare_base_input([token_texts(examples[index]) for index in part])
            batch = asker.model.collate_batch(rows, list(asker.labels), collator)
            output = asker.model.run_batch(batch, threshold=asker.threshold)
            answers = asker.model.decode_batch(output, batch, threshold=asker.threshold)
            for index, answer in zip(part, answers, strict=True):
                found[index] = document(examples[index], answer, asker.labels)
    return found


def document(example: Example, answer: Sequence[Any], labels: dict[str, str]) -> Document:
    """GLiNER's spans, whose edges are words, as spans of the text."""
    text, offsets = example.text, example.token_offsets or ()
    spans = []
    for span in answer:
        start, end = offsets[span.start][0], offsets[span.end][1]
        spans.append(Span(start, end, labels[span.entity_type], float(span.score), text[start:end]))
    return Document(text, tuple(sorted(spans)))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(
        Baseline(
            "GLiNER",
            GlinerRecipe(learning_rate=1e-4),
            fine_tune,
            predict,
            ("gliner", "transformers", "torch"),
            options=("threshold",),
            base="runs/gliner",
            asks=True,
        )
    )
