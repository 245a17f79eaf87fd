"""The plain baseline: an encoder with a linear BIO head, all weights fine-tuned on the shots.

    python benchmarks/few_shot/token_classifier.py --encoder DIR --data DIR --datasets wnut17 --k 5 --seeds 0 1 2 \
        --output results.json

The first sub-word of a token carries its tag; decoding is argmax, a stray I- tag opens a span as conlleval reads it.
Scores are strict micro precision, recall and F1 of (start, end, label) over the whole split. The output file is written
after every run and runs in it are skipped, so a stopped job goes on where it was. It holds scores, settings and counts,
no text.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path, where datasets.py would hide the Hugging Face package of
# that name from transformers.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.few_shot import datasets as benchmark_data
from cllmfs.sampling import shortfalls
from cllmfs.schema import Example

IGNORED = -100
MAX_POSITIONS = 512


@dataclass(frozen=True)
class Recipe:
    """Settings of the fine-tuning; how the defaults were chosen is in the README."""

    learning_rate: float = 1e-4
    epochs: int = 60
    min_steps: int = 300
    max_steps: int = 3000
    batch_size: int = 4
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def steps(self, rows: int) -> int:
        """Steps for so many training rows."""
        return min(max(self.epochs * -(-rows // self.batch_size), self.min_steps), self.max_steps)


@dataclass(frozen=True)
class Row:
    """A sentence as the encoder sees it: sub-word ids, and the position of each token's first sub-word (or -1)."""

    ids: list[int]
    firsts: list[int]


def token_spans(example: Example) -> list[tuple[int, int, str]]:
    """The spans in tokens, end exclusive."""
    offsets = example.token_offsets or ()
    starts = {start: index for index, (start, _) in enumerate(offsets)}
    ends = {end: index + 1 for index, (_, end) in enumerate(offsets)}
    return [(starts[span.start], ends[span.end], span.label) for span in example.spans]


def to_tags(spans: Iterable[tuple[int, int, str]], length: int) -> list[str]:
    """BIO tags of flat spans; of overlapping spans the first stays."""
    tags = ["O"] * length
    for start, end, label in sorted(spans):
        if all(tag == "O" for tag in tags[start:end]):
            tags[start:end] = [f"B-{label}"] + [f"I-{label}"] * (end - start - 1)
    return tags


def to_spans(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Spans of BIO tags; an I- tag after O or after another label opens a span (conlleval)."""
    spans: list[tuple[int, int, str]] = []
    start, label = 0, ""
    for index, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if label and (prefix != "I" or name != label):
            spans.append((start, index, label))
            label = ""
        if prefix != "O" and not label:
            start, label = index, name
    return spans


def encode(tokenizer: Any, example: Example) -> Row:
    """Sub-words of an example; tokens beyond the encoder's positions get no first sub-word."""
    words = [example.text[start:end] for start, end in example.token_offsets or ()]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_POSITIONS)
    firsts = [-1] * len(words)
    for position, word in enumerate(encoded.word_ids()):
        if word is not None and firsts[word] < 0:
            firsts[word] = position
    return Row(list(encoded["input_ids"]), firsts)


def collate(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both [rows, longest row]."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows])
    return ids, mask


def targets(rows: Sequence[Row], tags: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Tag ids at first sub-words, IGNORED elsewhere: [rows, width]."""
    made = torch.full((len(rows), width), IGNORED)
    for number, (row, row_tags) in enumerate(zip(rows, tags, strict=True)):
        for position, tag in zip(row.firsts, row_tags, strict=True):
            if position >= 0:
                made[number, position] = tag
    return made


def fine_tune(encoder: str, shots: Sequence[Example], recipe: Recipe, seed: int) -> tuple[Any, Any, list[str]]:
    """Train on the shots; returns model, tokenizer and the tag names in order of their ids."""
    torch.manual_seed(seed)
    shuffler = random.Random(seed)
    names = ["O"] + [f"{edge}-{label}" for label in sorted({x for s in shots for x in s.labels}) for edge in "BI"]
    ids = {name: index for index, name in enumerate(names)}
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    model: Any = AutoModelForTokenClassification.from_pretrained(encoder, num_labels=len(names))
    rows = [encode(tokenizer, shot) for shot in shots]
    tags = [[ids[tag] for tag in to_tags(token_spans(shot), len(shot.token_offsets or ()))] for shot in shots]
    # Norms and biases are not decayed, as usual for transformers.
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    steps = recipe.steps(len(rows))
    schedule = get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)
    model.train()
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = shuffler.sample(range(len(rows)), len(rows))
        chosen, order = order[: recipe.batch_size], order[recipe.batch_size :]
        batch = [rows[index] for index in chosen]
        inputs, mask = collate(batch, tokenizer.pad_token_id)
        gold = targets(batch, [tags[index] for index in chosen], inputs.shape[1])
        loss = model(input_ids=inputs, attention_mask=mask, labels=gold).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    return model, tokenizer, names


def length_batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Indices in batches of like length, padded size at most ``batch_tokens`` (or one row)."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i].ids)):
        if batch and (len(batch) + 1) * len(rows[index].ids) > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def predict(
    model: Any, tokenizer: Any, names: Sequence[str], examples: Sequence[Example], batch_tokens: int = 4096
) -> list[list[tuple[int, int, str]]]:
    """Token spans of each example, in order."""
    rows = [encode(tokenizer, example) for example in examples]
    found: list[list[tuple[int, int, str]]] = [[] for _ in rows]
    with torch.inference_mode():
        for batch in length_batches(rows, batch_tokens):
            inputs, mask = collate([rows[index] for index in batch], tokenizer.pad_token_id)
            best = model(input_ids=inputs, attention_mask=mask).logits.argmax(-1).tolist()
            for line, index in zip(best, batch, strict=True):
                found[index] = to_spans([names[line[p]] if p >= 0 else "O" for p in rows[index].firsts])
    return found


def strict_scores(gold: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> dict[str, float | int]:
    """Micro scores of exact (start, end, label) matches; a score without a denominator is 0."""
    correct = sum(len(set(g) & set(f)) for g, f in zip(gold, found, strict=True))
    n_gold, n_found = sum(len(set(g)) for g in gold), sum(len(set(f)) for f in found)
    return {
        "precision": correct / n_found if n_found else 0.0,
        "recall": correct / n_gold if n_gold else 0.0,
        "f1": 2 * correct / (n_gold + n_found) if n_gold + n_found else 0.0,
        "correct": correct,
        "predicted": n_found,
        "gold": n_gold,
    }


def run(encoder: str, data: str | None, name: str, k: int, seed: int, split: str, recipe: Recipe) -> dict[str, Any]:
    """One support set: train, predict, score; the record that goes into the output."""
    pool = benchmark_data.unique(benchmark_data.load(name, "train", data))
    shots = benchmark_data.supports(name, k, seed, data)
    test = benchmark_data.load(name, split, data)
    started = time.perf_counter()
    model, tokenizer, names = fine_tune(encoder, shots, recipe, seed)
    trained = time.perf_counter()
    found = predict(model, tokenizer, names, test)
    texts = {example.text for example in test}
    return {
        "dataset": name,
        "split": split,
        "k": k,
        "seed": seed,
        **strict_scores([token_spans(example) for example in test], found),
        "sentences": len(test),
        "support_sentences": len(shots),
        "support_mentions": dict(sorted(Counter(span.label for shot in shots for span in shot.spans).items())),
        "support_shortfalls": shortfalls(pool, shots, k),
        "support_in_split": sum(shot.text in texts for shot in shots),
        "support_sha256": hashlib.sha256(json.dumps([shot.to_dict() for shot in shots]).encode()).hexdigest(),
        "recipe": asdict(recipe),
        "steps": recipe.steps(len(shots)),
        "encoder": Path(encoder).resolve().parent.name if Path(encoder).name == "model" else Path(encoder).name,
        "train_seconds": round(trained - started, 2),
        "predict_seconds": round(time.perf_counter() - trained, 2),
    }


def identity(record: dict[str, Any]) -> str:
    """What makes a run the same run."""
    return json.dumps([record[key] for key in ("dataset", "split", "k", "seed", "recipe")], sort_keys=True)


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """Write all runs and their summary; the file is replaced in one step, so a stop never leaves half of it."""
    groups: dict[str, list[float]] = {}
    for record in runs:
        setting = " ".join(f"{key}={value}" for key, value in record["recipe"].items())
        groups.setdefault(f"{record['dataset']} {record['split']} {record['k']}-shot {setting}", []).append(
            100 * record["f1"]
        )
    summary = {
        name: {
            "runs": len(values),
            "f1_mean": round(statistics.mean(values), 2),
            "f1_sd": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        }
        for name, values in sorted(groups.items())
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps({"summary": summary, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Few-shot token-classifier baseline.")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--data", help=f"folder of the data sets; default: ${benchmark_data.ENVIRONMENT}")
    parser.add_argument("--datasets", nargs="+", required=True)
    parser.add_argument("--k", type=int, nargs="+", default=[5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--learning-rate", type=float, nargs="+", default=[Recipe.learning_rate])
    parser.add_argument("--epochs", type=int, nargs="+", default=[Recipe.epochs])
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Run every data set, setting and seed that the output does not hold yet."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    runs = json.loads(args.output.read_text(encoding="utf-8"))["runs"] if args.output.exists() else []
    done = {identity(record) for record in runs}
    recipes = [Recipe(learning_rate=rate, epochs=epochs) for rate in args.learning_rate for epochs in args.epochs]
    for k, seed, name, recipe in itertools.product(args.k, args.seeds, args.datasets, recipes):
        plan = {"dataset": name, "split": args.split, "k": k, "seed": seed, "recipe": asdict(recipe)}
        if identity(plan) in done:
            continue
        record = run(args.encoder, args.data, name, k, seed, args.split, recipe)
        runs.append(record)
        write(args.output, runs)
        print(
            f"{name} {args.split} {k}-shot seed {seed} lr {recipe.learning_rate:g} epochs {recipe.epochs}: F1 "
            f"{100 * record['f1']:.2f} ({record['support_sentences']} shots, {record['steps']} steps, "
            f"{record['train_seconds']} + {record['predict_seconds']} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
