"""The ways of doing the same work that are compared: decoding and training with cllmfs and without it.

Each contender is made once, with its model, and then called again and again. Knows the models; knows nothing of clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForTokenClassification, AutoTokenizer

from benchmarks.few_shot import token_classifier
from benchmarks.speed import naive, workload
from cllmfs.config import Config
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Request, decode
from cllmfs.encoding.batches import RowBuilder
from cllmfs.encoding.tokens import tokenize
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import load_backbone
from cllmfs.schema import LabelSet
from cllmfs.training.loop import Optimisation
from cllmfs.training.shots import Shot, ShotBatches, prepare_shots

RATE = 2e-3
STEP_SENTENCES = 4
OVERLAP = 32  # tokens between the windows of a long shot; the example has none


def loaded(base: str, vocabulary: int = 0) -> Backbone:
    """A base with at least so many tokens: added ones are never used, but cost whoever asks for all of them."""
    backbone = load_backbone(base)
    if vocabulary > backbone.vocabulary:
        backbone.model.resize_token_embeddings(vocabulary, mean_resizing=False)
    return backbone


class Recogniser:
    """Decoding with cllmfs.

    Args:
        backbone: the model.
        tree: share each sentence between the types; else a row each.
        settings: ``section.name=value``, as ``--set`` takes them.
    """

    def __init__(self, backbone: Backbone, tree: bool, settings: Sequence[str] = ()) -> None:
        config = Config().with_settings([f"prompt.tree={'on' if tree else 'off'}", *settings])
        self.extractor = Extractor(backbone, config)

    def predict(self, texts: Sequence[str], labels: Sequence[str]) -> list[naive.Found]:
        """The spans of each text; no threshold, no confidence."""
        documents = self.extractor.extract(texts, LabelSet(labels))
        return [{span.key for span in document.spans} for document in documents]

    def empty_share(self, texts: Sequence[str], labels: Sequence[str]) -> float:
        """The share of questions answered by nothing, before spans of several types are set against each other."""
        extractor = self.extractor
        queries = extractor.queries(LabelSet(labels))
        requests = [Request(tokenize(extractor.backbone.tokenizer, text), queries) for text in texts]
        decoding = extractor.config.decode
        found = decode(extractor.backbone, extractor.builder, requests, decoding, bidirectional=extractor.bidirectional)
        answered = sum(len({span.label for span in spans}) for spans in found)
        return 1 - answered / (len(texts) * len(labels))


class TokenClassifier:
    """An encoder with a linear BIO head; its head is not trained, which costs the same."""

    def __init__(self, encoder: str | Path, labels: Sequence[str]) -> None:
        names = ["O", *(f"{edge}-{label}" for label in labels for edge in "BI")]
        model = AutoModelForTokenClassification.from_pretrained(encoder, num_labels=len(names))
        nn.init.zeros_(model.classifier.weight)  # all is O: an untrained head would make spans of noise
        self.tagger = token_classifier.Tagger(model.eval(), AutoTokenizer.from_pretrained(encoder), names)

    def predict(self, texts: Sequence[str]) -> None:
        """Tag the texts."""
        token_classifier.predict(self.tagger, workload.as_tokens(texts))


def example_shots(extractor: Extractor, builder: RowBuilder, labels: Sequence[str]) -> list[Shot]:
    """The package's example with its gold answers, as training reads it."""
    window = extractor.window(LabelSet(labels))
    return prepare_shots(workload.example_sentences(), extractor.backbone, builder, "word", window, OVERLAP)


class Training:
    """LoRA training with cllmfs, all types asked of every sentence.

    Args:
        backbone: the model, without an adapter.
        labels: the types.
        tree: share each sentence between the types; else a row each.
        settings: ``section.name=value``.
    """

    def __init__(self, backbone: Backbone, labels: Sequence[str], tree: bool, settings: Sequence[str] = ()) -> None:
        torch.manual_seed(0)
        self.config = Config().with_settings(
            [
                f"train.learning_rate={RATE}",
                f"train.batch_sentences={STEP_SENTENCES}",
                "train.negatives=1000",
                f"prompt.tree={'on' if tree else 'off'}",
                *settings,
            ]
        )
        self.extractor = Extractor(backbone, self.config)
        backbone.attach_lora(self.config.lora)
        builder = self.extractor.builder
        shots = example_shots(self.extractor, builder, labels)
        self.batches = ShotBatches(shots, LabelSet(labels), backbone, builder, self.config)

    def steps(self, count: int) -> int:
        """So many optimiser steps, from the first; returns the tokens that were read."""
        config, extractor = self.config, self.extractor
        run = Optimisation(extractor.backbone, self.batches, count, config.loss, config.train, extractor.bidirectional)
        return sum(step.tokens for step in run.steps())


class NaiveTraining:
    """LoRA training with ``transformers.Trainer``: a row for each sentence and type, loss over the vocabulary."""

    def __init__(self, backbone: Backbone, labels: Sequence[str]) -> None:
        torch.manual_seed(0)
        self.backbone = backbone
        self.types = len(labels)
        builder = RowBuilder(backbone.prompt, "type-first", tree=False)
        self.rows = naive.PromptRows(builder, example_shots(Extractor(backbone, Config()), builder, labels), labels)
        backbone.attach_lora(Config().lora)

    def steps(self, count: int) -> None:
        """So many optimiser steps, from the first."""
        naive.train(self.backbone, self.rows, STEP_SENTENCES * self.types, count, RATE)
