"""From texts to spans with character offsets: windows, decoding, confidences, and conflicts between types.

This file knows texts, the model and its calibration; it knows nothing of training, gold spans or files.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from cllmfs.config import Config
from cllmfs.decoding.calibration import Calibration
from cllmfs.decoding.greedy import Rules, decode
from cllmfs.decoding.runners import VoteSettings
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Request
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.model.backbone import Backbone
from cllmfs.schema import Document, LabelSet, Span

_TEXTS_AT_ONCE = 64


class Candidate(NamedTuple):
    """A decoded span: offsets, label, probability of its tokens, and the log of its type's share in the vote."""

    start: int
    end: int
    label: str
    score: float
    vote: float

    def span(self, text: str, calibration: Calibration) -> Span:
        """The span with its confidence."""
        confidence = calibration.confidence(self.score, self.vote)
        return Span(self.start, self.end, self.label, confidence, text[self.start : self.end])


class Extraction(NamedTuple):
    """All candidates of a text, before conflicts are resolved, and the number of windows that it was read in."""

    candidates: tuple[Candidate, ...]
    windows: int


class Extractor:
    """Finds spans with a backbone, and with the adapter that is attached to it at the time.

    The encoder is made from the config, unless it is given.

    Attributes:
        on_read: called with the tokens of the texts that are read, window by window, if set.

    Raises:
        ModelError: if the config asks for something that the model cannot do.
    """

    def __init__(
        self, backbone: Backbone, config: Config, encoder: Encoder | None = None, rules: Rules | None = None
    ) -> None:
        self.on_read: Callable[[list[TokenizedText]], None] | None = None
        self.backbone = backbone
        self.config = config
        self.encoder = encoder or backbone.encoder(config)
        self.rules = rules or Rules()

    def extract(
        self,
        texts: Sequence[str],
        labels: LabelSet,
        calibration: Calibration | None = None,
        threshold: float | None = None,
        *,
        conflicts_first: bool = False,
    ) -> list[Document]:
        """The spans of each text, which may be of any length and script.

        Args:
            texts: the texts.
            labels: the types to ask for.
            calibration: without one, scores are confidences, and all spans are reported.
            threshold: replaces all thresholds of the calibration.
            conflicts_first: resolve the conflicts among all spans, and apply the thresholds to those that remain. What
                is reported is then monotone in each threshold, as a guarantee needs it; otherwise a span of which the
                label has a high threshold may take the place of none. With one common threshold both give the same.
        """
        known = calibration or Calibration()
        if threshold is not None:
            known = replace(known, threshold=threshold, thresholds={})
        documents = []
        for text, (candidates, windows) in zip(texts, self.candidates(texts, labels, known.vote > 0), strict=True):
            spans = [candidate.span(text, known) for candidate in candidates]
            if conflicts_first:
                spans = resolve_conflicts(spans, self.encoder.nested)
            kept = [span for span in spans if (span.score or 0.0) >= known.threshold_of(span.label)]
            documents.append(Document(text, tuple(resolve_conflicts(kept, self.encoder.nested)), windows))
        return documents

    def candidates(self, texts: Sequence[str], labels: LabelSet, voting: bool) -> list[Extraction]:
        """Everything that was decoded in each text; ``voting`` says whether the contrastive similarities vote."""
        parts = (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))
        return [found for part in parts for found in self._candidates(part, labels, voting)]

    def _candidates(self, texts: Sequence[str], labels: LabelSet, voting: bool) -> list[Extraction]:
        queries = self.encoder.queries(labels)
        window = self.encoder.window(queries)
        read = [(number, part) for number, text in enumerate(texts) for part in self.encoder.sentences(text, window)]
        if self.on_read is not None:
            self.on_read([part.tokens for _, part in read])
        runtime, loss = self.config.runtime, self.config.loss
        votes = VoteSettings(self.backbone.layer_index(loss.contrastive_layer), loss.temperature) if voting else None
        answers = decode(
            self.backbone,
            self.encoder,
            [Request(part.tokens, queries) for _, part in read],
            batch_tokens=runtime.batch_tokens,
            voting=votes,
            rules=self.rules,
        )
        found: list[list[Candidate]] = [[] for _ in texts]
        for (number, part), spans in zip(read, answers, strict=True):
            for span in spans:
                if part.owned[0] <= span.first < part.owned[1]:
                    place = part.tokens.char_range(span.first, span.last)
                    found[number].append(Candidate(*place, span.label, span.score, span.vote))
        counts = Counter(number for number, _ in read)  # an empty text has no window and counts as read in one
        return [Extraction(tuple(of_text), counts[number] or 1) for number, of_text in enumerate(found)]


def resolve_conflicts(spans: Iterable[Span], nested: bool) -> list[Span]:
    """Keep the more confident of spans that overlap; with ``nested``, drop only exact repetitions.

    Of equally confident spans the longer one is kept, then the earlier one, then the one whose label sorts first.
    """
    ranked = sorted(spans, key=lambda s: (-(s.score or 0.0), s.start - s.end, s.start, s.label))
    if nested:
        return sorted({span.key: span for span in reversed(ranked)}.values())
    kept: list[Span] = []
    for span in ranked:
        at = bisect_left(kept, span.start, key=lambda other: other.start)
        if (at == 0 or kept[at - 1].end <= span.start) and (at == len(kept) or kept[at].start >= span.end):
            kept.insert(at, span)
    return kept
