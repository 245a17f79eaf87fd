"""The peer SpanMarker on the baseline's encoder: every stretch of words between two markers gets a label or none.

SpanMarker (https://github.com/tomaarsen/SpanMarkerNER) marks all stretches up to a number of words (after PL-Marker, Ye
et al. 2022, arXiv 2109.06067). Encoder, shots, test sentences and scorer are those of the other systems. Version 1.8.1
needs transformers below 5, so it has an environment of its own, in which cllmfs brings no dependencies along:

    python -m venv .venv-span-marker
    .venv-span-marker/bin/pip install -r benchmarks/few_shot/requirements-span-marker.txt
    .venv-span-marker/bin/pip install --no-deps -e .
    .venv-span-marker/bin/python benchmarks/few_shot/span_marker_ner.py --encoder DIR --data DIR --datasets wnut17 \
        --k 5 --seeds 0 1 2 --output results.json

Sequence lengths, batch size, warm-up and weight decay are those of SpanMarker's own training scripts (256 tokens, 128
marker pairs, 4, 0.1, 0.01). Two things are set by the shots: the steps, because its 3 epochs would be a dozen steps
here, and the longest mention, 8 words by default, because it could not even learn longer ones (a sixth of the mentions
of mit_movie_trivia).

The learning rate, 5e-5, is that of SpanMarker's scripts for encoders of BERT's kind; the steps are 20 passes over the
shots, at least 300 and at most 3,000. Neither is chosen on dev sets: of the grid below nothing is measured yet. The
command measures what is missing of it:

    .venv-span-marker/bin/python benchmarks/few_shot/span_marker_ner.py --encoder DIR --data DIR --split dev \
        --datasets snips mit_movie_trivia crossner_politics --k 5 --seeds 0 --learning-rate 5e-5 1e-4 3e-4 \
        --epochs 20 60 --output benchmarks/few_shot/results/span_marker_dev.json

The output file is written after every run and runs in it are skipped, so a stopped job goes on where it was. It holds
scores, settings and counts, no text. Knows SpanMarker; what it shares with the baseline it takes from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path, where datasets.py would hide the Hugging Face package of
# that name. The libraries are told to stay off the network before they are imported: they read this only then.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import datasets
import torch
import transformers
from span_marker import SpanMarkerModel, Trainer
from span_marker.data_collator import SpanMarkerDataCollator

from benchmarks.few_shot import datasets as benchmark_data
from benchmarks.few_shot.token_classifier import identity, to_tags, token_spans, write
from cllmfs.evaluation import evaluate_spans
from cllmfs.sampling import shortfalls
from cllmfs.schema import Document, Example, Span


@dataclass(frozen=True)
class Recipe:
    """Settings of the fine-tuning; where they come from is in the module's docstring."""

    learning_rate: float = 5e-5
    epochs: int = 20
    min_steps: int = 300
    max_steps: int = 3000
    batch_size: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    model_max_length: int = 256
    marker_max_length: int = 128
    entity_max_length: int = 8  # words; more if a shot has a longer mention

    def steps(self, rows: int) -> int:
        """Steps for so many training rows."""
        return min(max(self.epochs * -(-rows // self.batch_size), self.min_steps), self.max_steps)


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
    tokens = [example.text[start:end] for start, end in example.token_offsets or ()]
    kept = set(tokenizer(tokens, is_split_into_words=True, add_special_tokens=False).word_ids())
    return [token if index in kept else tokenizer.unk_token for index, token in enumerate(tokens)]


def fine_tune(encoder: str, shots: Sequence[Example], recipe: Recipe, seed: int) -> tuple[Any, int]:
    """Train on the shots; returns the model and the number of steps."""
    transformers.set_seed(seed)
    datasets.disable_progress_bars()
    names = ["O"] + [f"{edge}-{label}" for label in sorted({x for s in shots for x in s.labels}) for edge in "BI"]
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
    return model, steps


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


def run(plan: dict[str, Any], recipe: Recipe, test: Sequence[Example], args: argparse.Namespace) -> dict[str, Any]:
    """One support set: train, predict, score; the record that goes into the output."""
    name, k = plan["dataset"], plan["k"]
    pool = benchmark_data.unique(benchmark_data.load(name, "train", args.data))
    shots = benchmark_data.supports(name, k, plan["seed"], args.data)
    started = time.perf_counter()
    model, steps = fine_tune(args.encoder, shots, recipe, plan["seed"])
    trained = time.perf_counter()
    found = predict(model, test)
    finished = time.perf_counter()
    scores = evaluate_spans(test, found, scenarios=False)
    micro, texts = scores.micro, {example.text for example in test}
    return {
        **{key: plan[key] for key in ("dataset", "split", "k", "seed")},
        **micro.rates._asdict(),
        "correct": micro.tp,
        "predicted": micro.tp + micro.fp,
        "gold": micro.support,
        "boundary_f1": scores.boundary.f1,
        "ungrounded": scores.ungrounded,
        "sentences": len(test),
        "support_sentences": len(shots),
        "support_mentions": dict(sorted(Counter(span.label for shot in shots for span in shot.spans).items())),
        "support_shortfalls": shortfalls(pool, shots, k),
        "support_in_split": sum(shot.text in texts for shot in shots),
        "support_sha256": hashlib.sha256(json.dumps([shot.to_dict() for shot in shots]).encode()).hexdigest(),
        "recipe": plan["recipe"],
        "steps": steps,
        "encoder": Path(args.encoder).resolve().parent.name
        if Path(args.encoder).name == "model"
        else Path(args.encoder).name,
        "versions": {package: version(package) for package in ("span_marker", "transformers", "torch")},
        "train_seconds": round(trained - started, 2),
        "predict_seconds": round(finished - trained, 2),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Few-shot SpanMarker.")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--data", help=f"folder of the data sets; default: ${benchmark_data.ENVIRONMENT}")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--limit", type=int, help="score the first N sentences only")
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[Recipe.learning_rate])
    parser.add_argument("--epochs", type=int, nargs="+", default=[Recipe.epochs])
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Run every data set, number of shots, seed and setting that the output does not hold yet."""
    args = arguments()
    logging.getLogger("span_marker").setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = json.loads(args.output.read_text(encoding="utf-8"))["runs"] if args.output.exists() else []
    done = {(identity(record), record["sentences"]) for record in runs}
    for name in args.datasets:
        test = benchmark_data.load(name, args.split, args.data)[: args.limit]
        for k, seed in ((k, seed) for k in args.k for seed in args.seeds):
            for rate, epochs in ((rate, epochs) for rate in args.learning_rate for epochs in args.epochs):
                recipe = Recipe(learning_rate=rate, epochs=epochs)
                plan = {"dataset": name, "split": args.split, "k": k, "seed": seed, "recipe": asdict(recipe)}
                if (identity(plan), len(test)) in done:
                    continue
                record = run(plan, recipe, test, args)
                runs.append(record)
                write(args.output, runs)
                print(
                    f"{name} {args.split} {k}-shot seed {seed} lr {rate:g} epochs {epochs}: F1 "
                    f"{100 * record['f1']:.2f} ({record['support_sentences']} shots, {record['steps']} steps, "
                    f"{record['train_seconds']} + {record['predict_seconds']} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
