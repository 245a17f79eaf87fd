"""The contenders: ways to do the same work, decoding and training with cllmfs and without it.

Each contender is made once, with its model, and then called many times. Knows the models; knows nothing of clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, AutoTokenizer

from benchmarks.few_shot import token_classifier
from benchmarks.speed import naive, workload
from cllmfs.config import Config
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Rules, decode
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Request
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import load_backbone
from cllmfs.schema import LabelSet
from cllmfs.training.loop import Optimization
from cllmfs.training.recipe import Recipe
from cllmfs.training.shots import Shot, ShotBatches, encode_shots

RATE = 2e-3
STEP_SENTENCES = 4


def loaded(base: str, vocabulary: int = 0) -> Backbone:
    """A base with at least this vocabulary; added tokens never occur, but cost time if all logits are computed."""
    backbone = load_backbone(base)
    if vocabulary > backbone.vocabulary:
        backbone.model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return backbone


class Recognizer:
    """Decoding with cllmfs.

    Args:
        backbone: the model.
        tree: whether the types of a sentence share one row; otherwise each type has its own.
        settings: settings of cllmfs, each as ``section.name=value``.
        rules: how answers are chosen.
    """

    def __init__(
        self, backbone: Backbone, tree: bool, settings: Sequence[str] = (), rules: Rules | None = None
    ) -> None:
        config = Config().with_settings(settings)
        self.extractor = Extractor(backbone, config, backbone.encoder(config, tree=tree), rules)

    def predict(self, texts: Sequence[str], labels: Sequence[str]) -> list[naive.Found]:
        """The spans of each text, without thresholds and confidences."""
        documents = self.extractor.extract(texts, LabelSet(labels))
        return [{span.key for span in document.spans} for document in documents]

    def empty_share(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """The share of answers that are empty, before conflicts between spans of different types are resolved."""
        extractor = self.extractor
        queries = extractor.encoder.queries(LabelSet(labels))
        requests = [Request(extractor.encoder.tokenize(text), queries) for text in texts]
        budget = extractor.config.runtime.batch_tokens
        found = decode(extractor.backbone, extractor.encoder, requests, batch_tokens=budget, rules=extractor.rules)
        answered = sum(len({span.label for span in spans}) for spans in found)
        return 1 - answered / (len(texts) * len(labels))


class TokenClassifier:
    """An encoder with a linear BIO head, which is not trained; that does not change the cost."""

    def __init__(self, encoder: str | Path, labels: Sequence[str]) -> None:
        names = ["O", *(f"{edge}-{label}" for label in labels for edge in "BI")]
        model = AutoModelForTokenClassification.from_pretrained(encoder, num_labels=len(names))
        nn.init.zeros_(model.classifier.weight)  # all tags are O; an untrained head would predict random spans
        self.tagger = token_classifier.Tagger(model.eval(), AutoTokenizer.from_pretrained(encoder), names)

    def predict(self, texts: Sequence[str]) -> None:
        """Tag the texts."""
        token_classifier.predict(self.tagger, workload.as_tokens(texts))


def example_shots(encoder: Encoder, labels: Sequence[str]) -> list[Shot]:
    """The sentences of the package's example with their gold answers, encoded for training."""
    window = encoder.window(encoder.queries(LabelSet(labels)))
    return encode_shots(workload.example_sentences(), encoder, window)


class Training:
    """LoRA training with cllmfs; all types are asked of every sentence.

    Args:
        backbone: the model, without an adapter.
        labels: the types.
        tree: whether the types of a sentence share one row; otherwise each type has its own.
        settings: settings of cllmfs, each as ``section.name=value``.
    """

    def __init__(self, backbone: Backbone, labels: Sequence[str], tree: bool, settings: Sequence[str] = ()) -> None:
        torch.manual_seed(0)
        fixed = [f"train.learning_rate={RATE}", f"train.batch_sentences={STEP_SENTENCES}"]
        self.backbone = backbone
        self.config = Config().with_settings([*fixed, *settings])
        encoder = backbone.encoder(self.config, tree=tree)
        shots = example_shots(encoder, labels)
        self.recipe = Recipe.plan(self.config, len(shots), backbone.width, {"negatives": len(labels)})
        backbone.adapters.attach(self.config.lora)
        self.batches = ShotBatches(lambda _: shots, LabelSet(labels), encoder, self.config.train, self.recipe)

    def steps(self, count: int) -> int:
        """Run the first ``count`` steps of the optimizer, and return the number of tokens in them."""
        run = Optimization(self.backbone, self.batches, self.config, replace(self.recipe, steps=count))
        return sum(step.tokens for step in run.steps())


class NaiveTraining:
    """LoRA training with ``transformers.Trainer``: a row for each sentence and type, loss over the whole vocabulary."""

    def __init__(self, backbone: Backbone, labels: Sequence[str]) -> None:
        torch.manual_seed(0)
        self.backbone = backbone
        self.types = len(labels)
        encoder = backbone.encoder(naive.TYPE_FIRST)
        self.rows = naive.PromptRows(encoder, example_shots(encoder, labels), labels)
        backbone.adapters.attach(Config().lora)

    def steps(self, count: int) -> None:
        """Run the first ``count`` steps of the optimizer."""
        naive.train(self.backbone, self.rows, STEP_SENTENCES * self.types, count, RATE)
