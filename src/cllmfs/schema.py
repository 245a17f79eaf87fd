"""What an example is: a text and labelled spans of it, in code points, end exclusive.

Knows the rules that a span must keep; knows nothing of files, tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cllmfs.errors import DataError


@dataclass(frozen=True, order=True)
class Span:
    """A labelled stretch of a text.

    Attributes:
        start: first code point.
        end: one past the last code point.
        label: the entity type.
        score: probability of the span's path under the decoding constraint, in [0, 1]; ``None`` for gold spans.
        text: the covered text, filled in on predictions; never part of equality.
    """

    start: int
    end: int
    label: str
    score: float | None = field(default=None, compare=False)
    text: str | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[int, int, str]:
        """What strict scoring compares: (start, end, label)."""
        return (self.start, self.end, self.label)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record; ``score`` and ``text`` only where known."""
        record: dict[str, Any] = {"start": self.start, "end": self.end, "label": self.label}
        if self.score is not None:
            record["score"] = round(self.score, 6)
        if self.text is not None:
            record["text"] = self.text
        return record


@dataclass(frozen=True)
class Example:
    """A text with its gold spans.

    Attributes:
        text: the text, untouched.
        spans: gold spans, sorted by start; they may nest across labels.
        token_offsets: (start, end) of each token where the source was tokenised, else ``None``.
        source: "file:line" of the record, where known; used in messages only.
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
        """Raise on the first span that breaks a rule.

        Raises:
            DataError: if a span is empty, out of range or has an empty label, or two spans are the same.
        """
        seen: set[tuple[int, int, str]] = set()
        for span in self.spans:
            if not span.label.strip():
                raise DataError("a span's label must not be empty", source=self.source, field="spans")
            if span.start >= span.end:
                raise DataError(
                    f"a span must hold at least one character, got start {span.start}, end {span.end}",
                    source=self.source,
                    field="spans",
                )
            if span.start < 0 or span.end > len(self.text):
                raise DataError(
                    f"a span must lie in the text (0 to {len(self.text)} code points), got {span.start} to {span.end} "
                    f"({span.label}); offsets in bytes or UTF-16 units must be converted",
                    source=self.source,
                    field="spans",
                )
            if span.key in seen:
                raise DataError(f"the span {span.key} is given twice", source=self.source, field="spans")
            seen.add(span.key)

    @classmethod
    def from_tokens(
        cls, tokens: Iterable[str], spans: Iterable[tuple[int, int, str]], source: str | None = None
    ) -> Example:
        """Join tokens with one space and turn token spans (end exclusive) into character spans.

        Raises:
            DataError: if a token is empty or a span leaves the token range.
        """
        tokens = list(tokens)
        offsets: list[tuple[int, int]] = []
        position = 0
        for index, token in enumerate(tokens):
            if not token:
                raise DataError(f"token {index} is empty", source=source, field="tokens")
            offsets.append((position, position + len(token)))
            position += len(token) + 1
        made = []
        for start, end, label in spans:
            if not 0 <= start < end <= len(tokens):
                raise DataError(
                    f"a token span must lie in 0 to {len(tokens)} and hold a token, got [{start}, {end})",
                    source=source,
                    field="spans",
                )
            made.append(Span(offsets[start][0], offsets[end - 1][1], label))
        return cls(" ".join(tokens), tuple(made), tuple(offsets), source)

    def to_dict(self) -> dict[str, Any]:
        """The native JSONL record."""
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans]}


@dataclass(frozen=True)
class Document:
    """A text with predicted spans.

    Attributes:
        text: the text as given.
        spans: predictions sorted by position, each with score and text.
        windows: how many windows the text was read in; 1 unless it was longer than the model's window.
    """

    text: str
    spans: tuple[Span, ...]
    windows: int = 1

    def to_dict(self) -> dict[str, Any]:
        """The JSONL record that ``cllmfs predict`` streams."""
        return {"text": self.text, "spans": [span.to_dict() for span in self.spans]}


class LabelSet(Mapping[str, str]):
    """Entity types in order, each with a description (guideline), which may be empty.

    A mapping from label to description. Build it from a mapping or from a list of names.

    Raises:
        DataError: if a label is empty or given twice, none is given, or one string takes the place of a list.
    """

    def __init__(self, labels: Mapping[str, str] | Iterable[str]) -> None:
        if isinstance(labels, str):
            raise DataError(
                f"labels must be a list or a mapping, got the string {labels!r}: write [{labels!r}]", field="labels"
            )
        pairs = list(labels.items()) if isinstance(labels, Mapping) else [(label, "") for label in labels]
        self._descriptions: dict[str, str] = {}
        for label, description in pairs:
            if not isinstance(label, str) or not label.strip():
                raise DataError(f"a label must be a non-empty string, got {label!r}", field="labels")
            if label in self._descriptions:
                raise DataError(f"the label {label!r} is given twice", field="labels")
            self._descriptions[label] = " ".join(str(description or "").split())
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
