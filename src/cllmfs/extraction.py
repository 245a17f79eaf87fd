"""Texts in, spans with character offsets out: windows, decoding, calibrated confidences, conflicts between types.

Knows texts, the model and the calibration; knows nothing of training, gold spans or files.
"""

from __future__ import annotations

from collections.abc import Sequence

from cllmfs.alignment import tokenize
from cllmfs.batching import RowBuilder, TypeQuery, split_queries
from cllmfs.calibration import Calibration
from cllmfs.config import Config
from cllmfs.decoding import Request, decode
from cllmfs.errors import DataError, ModelError
from cllmfs.model import Backbone
from cllmfs.optimisation import autocast
from cllmfs.runners import VoteSettings
from cllmfs.schema import Document, LabelSet, Span
from cllmfs.windows import resolve_conflicts, windows


class Extractor:
    """Reads spans off a backbone, as it is when it is asked.

    Args:
        backbone: the model, with or without an adapter.
        config: how queries are written and answers decoded.

    Raises:
        ModelError: if the config asks for what the model cannot do.
    """

    def __init__(self, backbone: Backbone, config: Config) -> None:
        self.backbone = backbone
        self.config = config
        prompt = config.prompt
        wish = prompt.prefix_attention
        attention = backbone.prompt.template.prefix_attention if wish == "auto" else wish
        takes_trees = backbone.takes_trees()
        if prompt.tree == "on" and not takes_trees:
            raise ModelError(
                f"prompt.tree = on, but {backbone.name} cannot share a sentence between types; set it to auto"
            )
        self.bidirectional = attention == "bidirectional" and prompt.order == "sentence-first"
        if self.bidirectional and not takes_trees:
            raise ModelError(f"{backbone.name} takes no 4-D attention mask, so prompt.prefix_attention must be causal")
        tree = takes_trees and prompt.tree != "off"
        self.builder = RowBuilder(backbone.prompt, prompt.order, tree, config.decode.nested)

    def queries(self, labels: LabelSet) -> tuple[TypeQuery, ...]:
        """The types in token ids, with their descriptions where the config wants them."""
        described = self.config.prompt.descriptions
        return tuple(
            TypeQuery(label, tuple(self.backbone.prompt.query(label, description if described else "")))
            for label, description in labels.items()
        )

    def extract(
        self,
        texts: Sequence[str],
        labels: LabelSet,
        calibration: Calibration | None = None,
        threshold: float | None = None,
    ) -> list[Document]:
        """Spans of each text.

        Args:
            texts: any length, any script.
            labels: the types to ask.
            calibration: turns scores into confidences and says which spans count; neither when not given.
            threshold: replaces the calibration's thresholds.
        """
        config = self.config.decode
        queries = self.queries(labels)
        requests: list[Request] = []
        origins: list[tuple[int, tuple[int, int]]] = []  # the text of each request, and the tokens it owns
        counts = [0] * len(texts)
        limit = self.window(labels)
        for number, text in enumerate(texts):
            tokens = tokenize(self.backbone.tokenizer, text, config.edges)
            for part in windows(tokens, limit, config.overlap_tokens):
                counts[number] += 1
                sentence = tokens.slice(part.start, part.end)
                for group in split_queries(queries, config.batch_tokens - len(sentence)):
                    requests.append(Request(sentence, group))
                    origins.append((number, (part.owns[0] - part.start, part.owns[1] - part.start)))
        with autocast(self.backbone.device, self.config.train.precision):
            answers = decode(
                self.backbone, self.builder, requests, config, bidirectional=self.bidirectional, voting=self._voting()
            )
        trust = calibration or Calibration()
        found: list[list[Span]] = [[] for _ in texts]
        for request, (number, owns), spans in zip(requests, origins, answers, strict=True):
            for span in spans:
                score = trust.confidence(span.score)
                if owns[0] <= span.first < owns[1] and score >= (
                    trust.limit(span.label) if threshold is None else threshold
                ):
                    start, end = request.sentence.char_range(span.first, span.last)
                    found[number].append(Span(start, end, span.label, score, texts[number][start:end]))
        return [
            Document(text, tuple(resolve_conflicts(spans, config.nested)), max(count, 1))
            for text, spans, count in zip(texts, found, counts, strict=True)
        ]

    def _voting(self) -> VoteSettings:
        loss, weight = self.config.loss, self.config.decode.vote_weight
        return VoteSettings(weight, self.backbone.layer_index(loss.contrastive_layer), loss.temperature)

    def window(self, labels: LabelSet) -> int:
        """Sentence tokens read at once: what is set, within what the model's positions leave beside the query.

        Raises:
            DataError: if a label's description leaves no room for a sentence.
        """
        prompt = self.backbone.prompt
        query = max(len(query.ids) for query in self.queries(labels))
        frame = len(prompt.bos) + len(prompt.before) + len(prompt.after) + len(prompt.open) + query
        wished = self.config.decode.window_tokens or min(512, self.backbone.max_positions // 2)
        # An answer can be as long as the sentence and a delimiter a token: leave room for a quarter of that.
        room = int((self.backbone.max_positions - frame) / 1.5)
        if room < 8:
            raise DataError(
                f"a label's description is too long: the query takes {frame} of the model's "
                f"{self.backbone.max_positions} positions; shorten it or set prompt.descriptions=false"
            )
        return min(wished, room)
