"""Trains a GLiNER on the sources of cllmfs-mini, from the encoder that cllmfs-mini was made from.

    .venv-gliner/bin/python -m benchmarks.few_shot.gliner_source --encoder ENCODER --data DATA --output runs/gliner

GLiNER (Zaratiana et al. 2024, arXiv 2311.08526) scores every sequence of words against all types at once. The training
rows come from the data sets in ``mini/sources.toml``, without the sentences of any data set that is used for measuring
(``gliner_rows.py``). The environment is that of ``gliner_ner.py``.

Loss, dropout, maximum span length, gradient norm and scheduler are those of GLiNER's own ``configs/config.yaml``. The
learning rates are not, since those in the file are meant for a hundred thousand steps of a larger encoder; the README
states how ours were chosen.

Knows GLiNER and the training sets; its output is the base of ``gliner_ner.py``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

# The libraries read these variables when they are imported.
if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import transformers
from gliner import GLiNER
from gliner.training import Trainer
from torch.utils.data import SequentialSampler

from benchmarks.few_shot.gliner_rows import drawn_rows
from mini.sources import load_sources

WRITTEN_SHARE = 1.5  # as in mini/config.toml


class InOrder(Trainer):
    """GLiNER's trainer, which here takes the rows in their given order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


def train(arguments: argparse.Namespace) -> None:
    """Train the model and save it."""
    transformers.set_seed(arguments.seed)
    sources = load_sources(arguments.data, written_share=WRITTEN_SHARE)
    rows = drawn_rows(sources, arguments.steps, arguments.batch_size, arguments.types, arguments.seed)
    model = GLiNER.from_config(
        {
            "model_name": arguments.encoder,
            "max_width": 12,
            "hidden_size": 512,
            "dropout": 0.3,
            "max_types": 100,
            "span_mode": arguments.span_mode,
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = model.create_training_args(
            folder,
            learning_rate=arguments.learning_rate,
            others_lr=arguments.others_rate,
            focal_loss_alpha=0.75,
            lr_scheduler_type="cosine",
            warmup_ratio=0.05,
            max_grad_norm=10.0,
            max_steps=arguments.steps,
            per_device_train_batch_size=arguments.batch_size,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=10,
            use_cpu=True,
            seed=arguments.seed,
        )
        InOrder(
            model=model,
            args=settings,
            train_dataset=rows,
            data_collator=model._create_data_collator(),
            processing_class=model.data_processor.transformer_tokenizer,
        ).train()
    model.save_pretrained(arguments.output, safe_serialization=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a GLiNER on the sources of cllmfs-mini.")
    parser.add_argument("--encoder", required=True, help="folder with config.json, weights and tokenizer")
    parser.add_argument("--data", required=True, type=Path, help="folder of the public data sets")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--types", type=int, default=25, help="maximum number of types in a row")
    parser.add_argument("--span-mode", default="markerV0", help="markerV0 scores spans, token_level scores their edges")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the encoder")
    parser.add_argument("--others-rate", type=float, default=3e-4, help="of the new layers")
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())
