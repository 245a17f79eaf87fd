"""Texts with labeled spans, and the labels that can be asked for.

Offsets count code points, and the end of a span is exclusive. This file knows the rules that spans and labels must
obey; it knows nothing of files, tokenizers or models.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from cllmfs.errors import DataError

# Zero-width space, byte-order mark, word joiner and marks of direction: at the edge of a span, they are white space.
_INVISIBLE = "\u200b\ufeff\u2060\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_JOINERS = "\u200c\u200d"  # of letters: at the end of a word they may matter, at its beginning they join nothing


@dataclass(frozen=True, order=True)
class Span:
    """A labeled part of a text. Two spans are equal if start, end and label are equal.

    Attributes:
        start: first code point.
        end: one past the last code point.
        label: the entity type.
        score: confidence in a predicted span, in [0, 1]; ``None`` for gold spans.
        text: the covered text; set on predictions.
    """

    start: int
    end: int
    label: str
    score: float | None = field(default=None, compare=False)
    text: str | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[int, int, str]:
        """(start, end, label), which strict scoring compares."""
        return (self.start, self.end, self.label)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record, with ``score`` and ``text`` if they are known."""
        score = {} if self.score is None else {"score": round(self.score, 6)}
        text = {} if self.text is None else {"text": self.text}
        return {"start": self.start, "end": self.end, "label": self.label, **score, **text}


@dataclass(frozen=True)
class Example:
    """A text with its gold spans.

    Attributes:
        text: the text, unchanged.
        spans: gold spans, sorted by start; spans may overlap.
        token_offsets: (start, end) of each token if the source was tokenized, otherwise ``None``.
        source: "file:line" of the record, if known; used in messages only.
        annotated: the labels that were annotated in this text, so that nothing is known of any other; ``None`` if all
            were.
        extra: the other fields of the record, such as its id, which are kept when it is written again.
    """

    text: str
    spans: tuple[Span, ...] = ()
    token_offsets: tuple[tuple[int, int], ...] | None = field(default=None, compare=False)
    source: str | None = field(default=None, compare=False)
    annotated: frozenset[str] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", tuple(sorted(self.spans)))
        if self.annotated is not None:
            object.__setattr__(self, "annotated", frozenset(self.annotated))

    @property
    def labels(self) -> set[str]:
        """The labels that occur."""
        return {span.label for span in self.spans}

    def check(self) -> None:
        """Check the rules for spans.

        Raises:
            DataError: if a span is empty, out of range, has an empty label or one that was not annotated, or states
                another text than the one at its offsets; or if two spans are equal.
        """
        names = self.annotated
        if names is not None and not (names and all(isinstance(name, str) and name.strip() for name in names)):
            message = f"the annotated labels must be non-empty names, at least one; got {list(names)!r:.60}"
            raise DataError(
                f"{message}: leave them out if all labels were annotated", source=self.source, field="labels"
            )
        seen: set[tuple[int, int, str]] = set()
        for span in self.spans:
            problem = ""
            if not span.label.strip():
                problem = "a span's label must not be empty"
            elif span.start >= span.end:
                problem = f"a span must hold at least one character, got start {span.start}, end {span.end}"
            elif span.start < 0 or span.end > len(self.text):
                problem = (
                    f"a span must lie in the text (0 to {len(self.text)} code points), got {span.start} to {span.end} "
                    f"({span.label}); offsets in bytes or UTF-16 units must be converted"
                )
            elif span.key in seen:
                problem = f"the span {span.key} is given twice"
            elif self.annotated is not None and span.label not in self.annotated:
                problem = not_annotated(span.label, self.annotated)
            elif span.text is not None and not alike(span.text, self.text[span.start : span.end]):
                problem = (
                    f"a span's text must be the text at its offsets, got {span.text[:40]!r} for "
                    f"{self.text[span.start : span.end][:40]!r} ({span.start} to {span.end})"
                )
            if problem:
                raise DataError(problem, source=self.source, field="spans")
            seen.add(span.key)

    def trimmed(self) -> Example:
        """The example whose spans have no white space at their edges; spans that become equal are merged.

        The zero-width space and the byte-order mark count as white space. Every span must lie in the text.

        Raises:
            DataError: if a span covers nothing but white space.
        """
        made: dict[tuple[int, int, str], Span] = {}
        for span in self.spans:
            start, end = visible_part(self.text, span.start, span.end)
            if start == end:
                message = f"a span must cover more than white space, got {span.key}; remove it"
                raise DataError(message, source=self.source, field="spans")
            if (start, end) != (span.start, span.end):
                text = None if span.text is None else self.text[start:end]
                span = replace(span, start=start, end=end, text=text)
            made.setdefault(span.key, span)
        return (
            self if tuple(made) == tuple(span.key for span in self.spans) else replace(self, spans=tuple(made.values()))
        )

    @classmethod
    def from_tokens(
        cls,
        tokens: Iterable[str],
        spans: Iterable[tuple[int, int, str]],
        source: str | None = None,
        spaces: Iterable[bool] | None = None,
    ) -> Example:
        """Join tokens to a text and turn token spans (end exclusive) into character spans.

        Args:
            tokens, spans: the tokens, and (first token, one past the last, label) of each span.
            source: "file:line", used in messages only.
            spaces: for each token, whether a space follows it, which the last one ignores; by default, one always does.

        Raises:
            DataError: if a token is empty or a span is outside the token range.
        """
        tokens = list(tokens)
        if "" in tokens:
            raise DataError(f"token {tokens.index('')} is empty", source=source, field="tokens")
        gaps = [1] * len(tokens) if spaces is None else list(map(int, spaces))
        starts = accumulate((len(token) + gap for token, gap in zip(tokens, gaps, strict=True)), initial=0)
        offsets = [(start, start + len(token)) for token, start in zip(tokens, starts, strict=False)]
        made = []
        for start, end, label in spans:
            if not 0 <= start < end <= len(tokens):
                message = f"a token span must lie in 0 to {len(tokens)} and hold a token, got [{start}, {end})"
                raise DataError(message, source=source, field="spans")
            made.append(Span(offsets[start][0], offsets[end - 1][1], label))
        text = "".join(token + " " * gap for token, gap in zip(tokens, gaps, strict=True))
        return cls(text[: offsets[-1][1]] if offsets else "", tuple(made), tuple(offsets), source)

    def to_dict(self) -> dict[str, Any]:
        """The native JSONL record: text and spans, the annotated labels if not all were, then all other fields."""
        labels = {} if self.annotated is None else {"labels": sorted(self.annotated)}
        record = {"text": self.text, "spans": [span.to_dict() for span in self.spans], **labels}
        return {**record, **{key: value for key, value in self.extra.items() if key not in record}}


def visible_part(text: str, start: int, end: int) -> tuple[int, int]:
    """The span from start to end without the white space at its edges; empty if it covers nothing else."""
    while start < end and (is_blank(text[start : start + 1]) or text[start] in _JOINERS):
        start += 1
    while start < end and is_blank(text[end - 1 : end]):
        end -= 1
    return start, end


def is_blank(char: str) -> bool:
    """Whether a character is white space, or one of the invisible characters that :meth:`Example.trimmed` drops."""
    return char.isspace() or (char != "" and char in _INVISIBLE)


def alike(one: str, other: str) -> bool:
    """Whether two texts differ in white space and Unicode normalization at most."""
    return one == other or bare(one) == bare(other)


def bare(text: str) -> str:
    """The text in Unicode's compatibility form (NFKC) without any white space."""
    return "".join(unicodedata.normalize("NFKC", text).translate(dict.fromkeys(map(ord, _INVISIBLE))).split())


def not_annotated(label: str, annotated: Iterable[str]) -> str:
    """The message for a span whose label is not among those that were annotated."""
    known = ", ".join(sorted(annotated))
    return (
        f"a span's label must be one of its record's \"labels\", which name what was annotated ({known:.200}); "
        f"got {label[:60]!r}: add it there, or remove the span"
    )


def mentions(examples: Iterable[Example]) -> Counter[str]:
    """How many spans of each label the examples have."""
    return Counter(span.label for example in examples for span in example.spans)


@dataclass(frozen=True)
class Document:
    """A text with predicted spans.

    Attributes:
        text: the text, unchanged.
        spans: predictions sorted by position, each with score and text.
        windows: number of windows in which the text was read; more than 1 if it was longer than the model's window.
        guarantee: the recall, the precision and the confidence that the model promises for texts like this one, if it
            promises any.
    """

    text: str
    spans: tuple[Span, ...]
    windows: int = 1
    guarantee: Mapping[str, float] | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The JSONL record that ``cllmfs predict`` writes."""
        promise = {} if self.guarantee is None else {"guarantee": dict(self.guarantee)}
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans], **promise}


class LabelSet(Mapping[str, str]):
    """Entity types in order, each with a description (guideline), which may be empty.

    A mapping from label to description, made from a mapping or from a list of names.

    Raises:
        DataError: if a label is empty or given twice, if there are none, or if a string is given instead of a list.
    """

    def __init__(self, labels: Mapping[str, str] | Iterable[str]) -> None:
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            got = f"the string {labels!r}: write [{labels!r}]" if isinstance(labels, str) else f"{labels!r:.60}"
            raise DataError(f"labels must be a list or a mapping, got {got}", field="labels")
        pairs = list(labels.items()) if isinstance(labels, Mapping) else [(label, "") for label in labels]
        self._descriptions: dict[str, str] = {}
        for label, description in pairs:
            if not isinstance(label, str) or not label.strip():
                raise DataError(f"a label must be a non-empty string, got {label!r}", field="labels")
            if label in self._descriptions:
                raise DataError(f"the label {label!r} is given twice", field="labels")
            self._descriptions[label] = " ".join(str(description or "").split())
            try:
                f"{label}{description}".encode()
            except UnicodeEncodeError as error:
                message = f"a label must be valid Unicode, got {label!a}: {description!a}"
                raise DataError(message, field="labels") from error
        if not self._descriptions:
            raise DataError("at least one label is needed, got none", field="labels")

    def __getitem__(self, label: str) -> str:
        return self._descriptions[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._descriptions)

    def __len__(self) -> int:
        return len(self._descriptions)

    def __repr__(self) -> str:
        return f"LabelSet({self._descriptions!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelSet) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self._descriptions.items()))

    @classmethod
    def of_examples(cls, examples: Iterable[Example]) -> LabelSet:
        """The labels of the examples, sorted by name, without descriptions."""
        return cls(sorted({label for example in examples for label in example.labels}))
