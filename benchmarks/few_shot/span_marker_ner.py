"""SpanMarker: every sequence of words between two markers gets a label or none.

SpanMarker (https://github.com/tomaarsen/SpanMarkerNER) puts markers around all sequences of up to a number of words
(after PL-Marker, Ye et al. 2022, arXiv 2109.06067). The encoder is that of the other systems. Version 1.8.1 needs
transformers below 5 and therefore an environment of its own, where cllmfs is installed without its dependencies:

    python -m venv .venv-span-marker
    .venv-span-marker/bin/pip install -r benchmarks/few_shot/requirements-span-marker.txt
    .venv-span-marker/bin/pip install --no-deps -e .

Sequence lengths, batch size, warmup and weight decay are those of SpanMarker's own training scripts (256 tokens, 128
marker pairs, 4, 0.1, 0.01). Two settings depend on the shots. Training takes 20 epochs, but at least 300 and at most
3,000 steps, because SpanMarker's 3 epochs would be a dozen steps here. The maximum length of a mention, 8 words by
default, is that of the longest mention in the shots, because longer mentions cannot be learned (a sixth of those of
mit_movie_trivia). The README states how the learning rate was chosen. The trainer uses a GPU if there is one.

Knows SpanMarker; a system of ``cllmfs benchmark``, see config.toml.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The libraries read these variables when they are imported.
if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import torch
import transformers
from span_marker import SpanMarkerModel, Trainer
from span_marker.data_collator import SpanMarkerDataCollator

from benchmarks.few_shot.baseline import Baseline, Recipe, main, tag_names, to_tags, token_spans, token_texts
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class SpanMarkerRecipe(Recipe):
    """A recipe that also has the maximum lengths."""

    model_max_length: int = 256
    marker_max_length: int = 128
    entity_max_length: int = 8  # in words; more if a shot has a longer mention


class TrimmedCollator(SpanMarkerDataCollator):
    """SpanMarker's collator, without the padding that no row of the batch needs.

    The original pads every row to 512 positions, which takes most of the time on a CPU. Padding is masked, so the
    results do not change.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate to the used length T; ids and positions have shape [B, T], the mask [B, T, T], labels [B, T / 2]."""
        batch: dict[str, torch.Tensor] = super().__call__(features)
        # Markers begin at an even position and come in pairs, so the length is even, as the model requires.
        used = int((batch["start_marker_indices"] + 2 * batch["num_marker_pairs"]).max())
        batch["attention_mask"] = batch["attention_mask"][:, :used, :used]
        for name, length in (("input_ids", used), ("position_ids", used), ("labels", used // 2)):
            if name in batch:
                batch[name] = batch[name][:, :length].contiguous()
        return batch


def words(example: Example, tokenizer: Any) -> list[str]:
    """The tokens of an example; a token without subwords becomes the unknown token, since SpanMarker would skip it."""
    tokens = token_texts(example)
    kept = set(tokenizer(tokens, is_split_into_words=True, add_special_tokens=False).word_ids())
    return [token if index in kept else tokenizer.unk_token for index, token in enumerate(tokens)]


def fine_tune(encoder: str, shots: Sequence[Example], recipe: SpanMarkerRecipe, seed: int) -> Any:
    """Train on the shots and return the model."""
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
    # Sentences of similar length share a batch, which reduces padding.
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
