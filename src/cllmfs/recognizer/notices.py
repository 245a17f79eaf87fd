"""What a recognizer tells besides its answers: what a base cannot read or tell apart, and what scores do not mean.

Each notice is one line, logged as a warning. This file knows the checks and their order; the checks themselves are in
the packages of what they look at.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from cllmfs.assurance.guarantee import text_hash
from cllmfs.encoding.coverage import CoverageNotices
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.formats import trouble_in
from cllmfs.schema import Example, mentions

logger = logging.getLogger(__name__)

_LISTED = 5  # labels that a notice names at most


class Notices:
    """The notices of one recognizer, most of which are given once."""

    def __init__(self, prompt: EncodedPrompt, base: str) -> None:
        self._coverage = CoverageNotices(prompt, base)

    def of_training(
        self,
        shots: Sequence[Example],
        dev: Sequence[Example],
        labels: Mapping[str, str],
        tokens: Iterable[TokenizedText],
    ) -> None:
        """Before a training: repeated texts, labels that ask the same question, shots that cannot be read."""
        lines = [
            *trouble_in(shots, dev),
            *_strange(shots, labels),
            *self._coverage.of_labels(labels),
            *self._coverage.of_texts(tokens, "the shots"),
        ]
        _log(lines)

    def of_labels(self, labels: Mapping[str, str]) -> None:
        """Before a prediction: labels that ask the same question."""
        _log(self._coverage.of_labels(labels))

    def of_texts(self, tokens: Iterable[TokenizedText]) -> None:
        """During a prediction: texts that cannot be read."""
        _log(self._coverage.of_texts(tokens))

    def of_scores(self, gold: Sequence[Example], asked: Mapping[str, str], shots: Collection[str]) -> None:
        """Before an evaluation: gold labels that are not asked for, and texts that the model has learned from.

        ``shots`` has the :func:`~cllmfs.assurance.guarantee.text_hash` of each shot.
        """
        _log([*_unasked(gold, asked), *_learned(gold, shots)])


def _log(lines: Iterable[str]) -> None:
    for line in lines:
        logger.warning("%s", line)


def _strange(shots: Sequence[Example], labels: Mapping[str, str]) -> list[str]:
    """Sentences in which labels were annotated that nobody asks for, perhaps because of their spelling."""
    odd = [(one, min(one.annotated - set(labels))) for one in shots if one.annotated and one.annotated - set(labels)]
    if not odd:
        return []
    example, label = odd[0]
    return [
        f"{len(odd)} sentences have annotated labels that are not trained, such as {label!r:.60} in "
        f"{example.source or repr(example.text[:40])}: they are asked for their other labels only"
    ]


def _unasked(gold: Sequence[Example], asked: Mapping[str, str]) -> list[str]:
    counts = mentions(gold)
    missing = sorted((label for label in counts if label not in asked), key=lambda label: (-counts[label], label))
    if not missing:
        return []
    shown = []
    for label in missing[:_LISTED]:
        close = difflib.get_close_matches(label.casefold(), [one.casefold() for one in asked], n=1)
        meant = next((one for one in asked if close and one.casefold() == close[0]), None)
        shown.append(f"{label!r:.60} ({counts[label]} mentions{f'; did you mean {meant!r:.60}?' if meant else ''})")
    if len(missing) > _LISTED:
        shown.append(f"{len(missing) - _LISTED} more")
    lost = sum(counts[label] for label in missing)
    return [
        f"the model is not asked for {', '.join(shown)}: all {lost} of {counts.total()} gold mentions count as missed; "
        "rename these labels in the file, or train with them"
    ]


def _learned(gold: Sequence[Example], shots: Collection[str]) -> list[str]:
    known = set(shots)
    both = [example for example in gold if text_hash(example.text) in known]
    if not both:
        return []
    place = both[0].source or repr(both[0].text[:40])
    return [
        f"{len(both)} of {len(gold)} sentences are among the shots of the model, such as {place}: the scores on them "
        "say nothing about new texts"
    ]
