"""Texts in, spans with character offsets out: windows, decoding, calibrated confidences, conflicts between types.

Knows texts, the model and the calibration; knows nothing of training, gold spans or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.greedy import Request, decode
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.batches import RowBuilder, TypeQuery
from cllmfs.encoding.tokens import tokenize
from cllmfs.encoding.windows import resolve_conflicts, windows
from cllmfs.errors import DataError, ModelError
from cllmfs.model.backbone import Backbone
from cllmfs.model.forward import autocast
from cllmfs.schema import Document, LabelSet, Span


class Candidate(NamedTuple):
    """A span that was decoded: offsets, type, probability of its path, log of its type's share in the vote."""

    start: int
    end: int
    label: str
    score: float
    vote: float

    def span(self, text: str, trust: Calibration) -> Span:
        """The span with its confidence."""
        score = trust.confidence(self.score, self.vote)
        return Span(self.start, self.end, self.label, score, text[self.start : self.end])


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
            calibration: turns scores and votes into confidences and says which spans count; neither when not given.
            threshold: replaces the calibration's thresholds.
        """
        trust = calibration or Calibration()
        documents = []
        for text, (found, count) in zip(texts, self.candidates(texts, labels, trust.vote > 0), strict=True):
            kept = []
            for span in (candidate.span(text, trust) for candidate in found):
                if (span.score or 0.0) >= (trust.limit(span.label) if threshold is None else threshold):
                    kept.append(span)
            documents.append(Document(text, tuple(resolve_conflicts(kept, self.config.decode.nested)), count))
        return documents

    def candidates(
        self, texts: Sequence[str], labels: LabelSet, voting: bool
    ) -> list[tuple[tuple[Candidate, ...], int]]:
        """All that was decoded of each text, conflicts of types and repetitions included, and its number of windows.

        Args:
            texts: any length, any script.
            labels: the types to ask.
            voting: let the contrastive similarities vote.
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
                requests.append(Request(tokens.slice(part.start, part.end), queries))
                origins.append((number, (part.owns[0] - part.start, part.owns[1] - part.start)))
        voters = self._voters() if voting else None
        with autocast(self.backbone.device, self.config.train.precision):
            answers = decode(
                self.backbone, self.builder, requests, config, bidirectional=self.bidirectional, voting=voters
            )
        found: list[list[Candidate]] = [[] for _ in texts]
        for request, (number, owns), spans in zip(requests, origins, answers, strict=True):
            for span in spans:
                if owns[0] <= span.first < owns[1]:
                    place = request.sentence.char_range(span.first, span.last)
                    found[number].append(Candidate(*place, span.label, span.score, span.vote))
        return [(tuple(of_text), max(count, 1)) for of_text, count in zip(found, counts, strict=True)]

    def _voters(self) -> VoteSettings:
        loss = self.config.loss
        return VoteSettings(self.backbone.layer_index(loss.contrastive_layer), loss.temperature)

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
