"""Texts with labeled spans, and the labels that can be asked for.

Offsets count code points, and the end of a span is exclusive. This file knows the rules that spans and labels must
obey; it knows nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from cllmfs.errors import DataError


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
    """

    text: str
    spans: tuple[Span, ...] = ()
    token_offsets: tuple[tuple[int, int], ...] | None = field(default=None, compare=False)
    source: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spans", tuple(sorted(self.spans)))

    @property
    def labels(self) -> set[str]:
        """The labels that occur."""
        return {span.label for span in self.spans}

    def check(self) -> None:
        """Check the rules for spans.

        Raises:
            DataError: if a span is empty, out of range or has an empty label, or two spans are equal.
        """
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
            if problem:
                raise DataError(problem, source=self.source, field="spans")
            seen.add(span.key)

    @classmethod
    def from_tokens(
        cls, tokens: Iterable[str], spans: Iterable[tuple[int, int, str]], source: str | None = None
    ) -> Example:
        """Join tokens with one space and turn token spans (end exclusive) into character spans.

        Raises:
            DataError: if a token is empty or a span is outside the token range.
        """
        tokens = list(tokens)
        if "" in tokens:
            raise DataError(f"token {tokens.index('')} is empty", source=source, field="tokens")
        ends = list(accumulate(len(token) + 1 for token in tokens))
        offsets = [(end - len(token) - 1, end - 1) for token, end in zip(tokens, ends, strict=True)]
        made = []
        for start, end, label in spans:
            if not 0 <= start < end <= len(tokens):
                message = f"a token span must lie in 0 to {len(tokens)} and hold a token, got [{start}, {end})"
                raise DataError(message, source=source, field="spans")
            made.append(Span(offsets[start][0], offsets[end - 1][1], label))
        return cls(" ".join(tokens), tuple(made), tuple(offsets), source)

    def to_dict(self) -> dict[str, Any]:
        """The native JSONL record."""
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans]}


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
    """

    text: str
    spans: tuple[Span, ...]
    windows: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The JSONL record that ``cllmfs predict`` writes."""
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans]}


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
