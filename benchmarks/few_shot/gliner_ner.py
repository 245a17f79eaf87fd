"""GLiNER, trained on the sources of cllmfs-mini: every sequence of words is scored against the name of every type.

The model is the output of ``gliner_source.py``, fine-tuned on the shots by GLiNER's own trainer (Zaratiana et al. 2024,
arXiv 2311.08526; https://github.com/urchade/GLiNER, version 0.2.29), or used as it is without shots. It needs
transformers below 5.17 and therefore an environment of its own, where cllmfs is installed without its dependencies:

    python -m venv .venv-gliner
    .venv-gliner/bin/pip install -r benchmarks/few_shot/requirements-gliner.txt
    .venv-gliner/bin/pip install --no-deps -e .

All types are asked of every sentence, in training and in prediction, by the same names as in cllmfs. Words are the
tokens of the data set, so offsets are exact. Spans have at most 12 words, or as many as the longest mention in the
shots. Loss and gradient norm are GLiNER's. Training takes 20 epochs, but at least 300 and at most 3,000 steps; the
README states how the learning rate was chosen.

Knows GLiNER; a system of ``cllmfs benchmark``, see config.toml.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The libraries read these variables when they are imported.
if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch
import transformers
from gliner import GLiNER

from benchmarks.few_shot.baseline import Baseline, Recipe, main, token_spans, token_texts
from cllmfs.encoding.prompts import verbalize
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class GlinerRecipe(Recipe):
    """A recipe that also has the learning rate of the other layers, as a multiple of that of the encoder."""

    others: float = 3.0
    max_grad_norm: float = 10.0
    threshold: float = 0.5  # GLiNER's default


@dataclass
class Asker:
    """A GLiNER model, and the labels of the types by the names that it reads."""

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
    # Sentences of similar length share a batch, which reduces padding.
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
    """The document with GLiNER's spans, whose edges are given in words."""
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
