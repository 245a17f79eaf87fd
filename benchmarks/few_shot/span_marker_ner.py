"""The peer SpanMarker on the baseline's encoder: every stretch of words between two markers gets a label or none.

SpanMarker (https://github.com/tomaarsen/SpanMarkerNER) marks all stretches up to a number of words (after PL-Marker, Ye
et al. 2022, arXiv 2109.06067). Encoder, shots, test sentences and scorer are those of the other systems. Version 1.8.1
needs transformers below 5, so it has an environment of its own, in which cllmfs brings no dependencies along:

    python -m venv .venv-span-marker
    .venv-span-marker/bin/pip install -r benchmarks/few_shot/requirements-span-marker.txt
    .venv-span-marker/bin/pip install --no-deps -e .

Sequence lengths, batch size, warm-up and weight decay are those of SpanMarker's own training scripts (256 tokens, 128
marker pairs, 4, 0.1, 0.01). Two things are set by the shots: the steps, because its 3 epochs would be a dozen steps
here, and the longest mention, 8 words by default, because it could not even learn longer ones (a sixth of the mentions
of mit_movie_trivia).

The steps are 20 passes over the shots, at least 300 and at most 3,000; how the learning rate was chosen is in the
README. Its trainer takes a GPU where there is one.

Knows SpanMarker; it is a system of ``cllmfs benchmark``, as config.toml names it.
"""

from __future__ import annotations

import logging
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
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import torch
import transformers
from span_marker import SpanMarkerModel, Trainer
from span_marker.data_collator import SpanMarkerDataCollator

from benchmarks.few_shot.adapter import Baseline, Recipe, main, tag_names, to_tags, token_spans, token_texts
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class SpanMarkerRecipe(Recipe):
    """Beside what all recipes have, the lengths."""

    model_max_length: int = 256
    marker_max_length: int = 128
    entity_max_length: int = 8  # words; more if a shot has a longer mention


class TrimmedCollator(SpanMarkerDataCollator):
    """SpanMarker's collator, without the padding that no row of the batch uses.

    The original pads every row to 512 positions: on a CPU most of the time. Padding is masked, so nothing else changes.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate to the used length T; ids and positions have shape [B, T], the mask [B, T, T], labels [B, T / 2]."""
        batch: dict[str, torch.Tensor] = super().__call__(features)
        # Markers begin at an even position and come in pairs, so the length is even as the model wants it.
        used = int((batch["start_marker_indices"] + 2 * batch["num_marker_pairs"]).max())
        batch["attention_mask"] = batch["attention_mask"][:, :used, :used]
        for name, length in (("input_ids", used), ("position_ids", used), ("labels", used // 2)):
            if name in batch:
                batch[name] = batch[name][:, :length].contiguous()
        return batch


def words(example: Example, tokenizer: Any) -> list[str]:
    """The tokens of an example; one without any sub-word becomes the unknown token, or SpanMarker would lose count."""
    tokens = token_texts(example)
    kept = set(tokenizer(tokens, is_split_into_words=True, add_special_tokens=False).word_ids())
    return [token if index in kept else tokenizer.unk_token for index, token in enumerate(tokens)]


def fine_tune(encoder: str, shots: Sequence[Example], recipe: SpanMarkerRecipe, seed: int) -> Any:
    """Train on the shots; returns the model."""
    transformers.set_seed(seed)
    datasets.disable_progress_bars()
    names = tag_names(shots)
    ids = {name: index for index, name in enumerate(names)}
    longest = max((end - start for shot in shots for start, end, _ in token_spans(shot)), default=0)
    model = SpanMarkerModel.from_pretrained(
        encoder,
        labels=names,
        model_max_length=recipe.model_max_length,
        marker_max_length=recipe.marker_max_length,
        entity_max_length=max(recipe.entity_max_length, longest),
    )
    model.data_collator = TrimmedCollator(model.tokenizer, recipe.marker_max_length)
    tokens = [words(shot, model.tokenizer.tokenizer) for shot in shots]
    tags = [[ids[tag] for tag in to_tags(token_spans(shot), len(shot.token_offsets or ()))] for shot in shots]
    steps = recipe.steps(len(shots))
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            learning_rate=recipe.learning_rate,
            max_steps=steps,
            per_device_train_batch_size=recipe.batch_size,
            warmup_ratio=recipe.warmup,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=seed,
        )
        rows = datasets.Dataset.from_dict({"tokens": tokens, "ner_tags": tags})
        Trainer(model=model, args=settings, train_dataset=rows).train()
    return model


def predict(model: Any, examples: Sequence[Example], batch_size: int = 16) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    # Sentences of like length share a batch: less padding.
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].token_offsets or ()))
    tokens = [words(examples[index], model.tokenizer.tokenizer) for index in order]
    answers = model.predict(datasets.Dataset.from_dict({"tokens": tokens}), batch_size=batch_size)
    found: list[Document] = [Document("", ())] * len(examples)
    for index, answer in zip(order, answers, strict=True):
        text, offsets = examples[index].text, examples[index].token_offsets or ()
        spans = []
        for entity in answer:
            start, end = offsets[entity["word_start_index"]][0], offsets[entity["word_end_index"] - 1][1]
            spans.append(Span(start, end, entity["label"], entity["score"], text[start:end]))
        found[index] = Document(text, tuple(sorted(spans)))
    return found


if __name__ == "__main__":
    logging.getLogger("span_marker").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    main(
        Baseline(
            "SpanMarker",
            SpanMarkerRecipe(learning_rate=3e-4),
            fine_tune,
            predict,
            ("span_marker", "transformers", "torch"),
            facts=lambda model: {"device": model.device.type},
        )
    )
