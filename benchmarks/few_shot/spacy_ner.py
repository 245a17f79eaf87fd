"""The peer spaCy on the baseline's encoder: its transition-based ``ner`` over a transformer, trained as one.

spaCy (https://spacy.io) 3.8 with spacy-transformers 1.4, which loads the encoder from a folder and fine-tunes it.
Encoder, shots, test sentences and scorer are those of the other systems. spacy-transformers needs transformers up to
4.53.2, so it has an environment of its own, in which cllmfs brings no dependencies along:

    python -m venv .venv-spacy
    .venv-spacy/bin/pip install -r benchmarks/few_shot/requirements-spacy.txt
    .venv-spacy/bin/pip install --no-deps -e .
    .venv-spacy/bin/python benchmarks/few_shot/spacy_ner.py --encoder DIR --data DIR --datasets wnut17 --k 5 \
        --seeds 0 1 2 --output results.json

Pipeline and optimiser are those that ``spacy init config --pipeline ner --gpu`` writes: a parser of width 64 over the
mean of a token's sub-words; Adam, weight decay 0.01, gradient norm at most 1, dropout 0.1, warm-up and linear decay.
The batches are of 4 sentences as the baseline's, and the steps are set by the shots: spaCy would stop by a dev set,
which few shots do not have. Documents are made from the data's tokens, so offsets are exact.

The learning rate, 5e-5, is that of the template; the steps are 20 passes over the shots, at least 300, at most 3,000.
Neither is chosen on dev sets: of the grid below nothing is measured yet. The command measures what is missing of it:

    .venv-spacy/bin/python benchmarks/few_shot/spacy_ner.py --encoder DIR --data DIR --split dev \
        --datasets snips mit_movie_trivia crossner_politics --k 5 --seeds 0 --learning-rate 5e-5 1e-4 3e-4 \
        --epochs 20 60 --output benchmarks/few_shot/results/spacy_dev.json

The output file is written after every run and runs in it are skipped, so a stopped job goes on where it was. It holds
scores, settings and counts, no text. Knows spaCy; what it shares with the baseline it takes from there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path, where datasets.py would hide the Hugging Face package of
# that name from transformers. The libraries are told to stay off the network before they are imported: they read this
# only then.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import spacy
import torch
from spacy.tokens import Doc
from spacy.training import Example as Pair
from thinc.api import Adam, warmup_linear

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
    dropout: float = 0.1

    def steps(self, rows: int) -> int:
        """Steps for so many training rows."""
        return min(max(self.epochs * -(-rows // self.batch_size), self.min_steps), self.max_steps)


def pipeline(encoder: str) -> Any:
    """An untrained pipeline of transformer and ner, as spaCy's own template has it; no language's rules take part."""
    nlp = spacy.blank("xx")
    strides = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96}
    transformer = {
        "@architectures": "spacy-transformers.TransformerModel.v3",
        "name": encoder,
        "tokenizer_config": {"use_fast": True},
        "get_spans": strides,
    }
    listener = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": "reduce_mean.v1"},
    }
    parser = {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": "ner",
        "extra_state_tokens": False,
        "hidden_width": 64,
        "maxout_pieces": 2,
        "use_upper": False,
        "tok2vec": listener,
    }
    nlp.add_pipe("transformer", config={"model": transformer})
    nlp.add_pipe("ner", config={"model": parser})
    return nlp


def document(nlp: Any, example: Example, tags: list[str] | None = None) -> Any:
    """A spaCy document of the example's tokens, with the same text; ``tags`` are BIO tags, one a token."""
    offsets = example.token_offsets or ()
    words = [example.text[start:end] for start, end in offsets]
    spaces = [example.text[end : end + 1] == " " for _, end in offsets]
    made = Doc(nlp.vocab, words=words, spaces=spaces, ents=tags)
    assert made.text == example.text  # noqa: S101 - else its offsets are not the example's
    return made


def fine_tune(encoder: str, shots: Sequence[Example], recipe: Recipe, seed: int) -> tuple[Any, int]:
    """Train on the shots; returns the pipeline and the number of steps."""
    spacy.util.fix_random_seed(seed)
    shuffler = random.Random(seed)
    nlp = pipeline(encoder)
    tags = [to_tags(token_spans(shot), len(shot.token_offsets or ())) for shot in shots]
    pairs = [Pair(document(nlp, shot), document(nlp, shot, row)) for shot, row in zip(shots, tags, strict=True)]
    nlp.initialize(lambda: pairs)
    steps = recipe.steps(len(pairs))
    optimizer = Adam(
        learn_rate=warmup_linear(recipe.learning_rate, round(recipe.warmup * steps), steps),
        L2=recipe.weight_decay,
        L2_is_weight_decay=True,
        grad_clip=recipe.max_grad_norm,
        use_averages=False,
    )
    order: list[int] = []
    for _ in range(steps):
        if not order:
            order = shuffler.sample(range(len(pairs)), len(pairs))
        batch, order = order[: recipe.batch_size], order[recipe.batch_size :]
        nlp.update([pairs[index] for index in batch], drop=recipe.dropout, sgd=optimizer)
        optimizer.step_schedules()
    return nlp, steps


def predict(nlp: Any, examples: Sequence[Example], batch_size: int = 32) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    documents = nlp.pipe((document(nlp, example) for example in examples), batch_size=batch_size)
    return [
        Document(made.text, tuple(Span(e.start_char, e.end_char, e.label_, None, e.text) for e in made.ents))
        for made in documents
    ]


def run(plan: dict[str, Any], recipe: Recipe, test: Sequence[Example], args: argparse.Namespace) -> dict[str, Any]:
    """One support set: train, predict, score; the record that goes into the output."""
    name, k = plan["dataset"], plan["k"]
    pool = benchmark_data.unique(benchmark_data.load(name, "train", args.data))
    shots = benchmark_data.supports(name, k, plan["seed"], args.data)
    started = time.perf_counter()
    nlp, steps = fine_tune(args.encoder, shots, recipe, plan["seed"])
    trained = time.perf_counter()
    found = predict(nlp, test)
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
        "versions": {package: version(package) for package in ("spacy", "spacy-transformers", "transformers", "torch")},
        "train_seconds": round(trained - started, 2),
        "predict_seconds": round(finished - trained, 2),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Few-shot spaCy ner.")
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
