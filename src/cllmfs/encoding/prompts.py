"""How a query is written: template pieces around a sentence and a type, and their token ids.

Both orders are made of the same pieces::

    sentence-first   before SENTENCE after | query(type) open    the part left of the bar is shared by all types
    type-first       query(type) before SENTENCE after open      the order of the paper (arXiv 2408.12834)

Knows a tokenizer by duck type; knows nothing of rows, attention or the model.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cllmfs.errors import ModelError


@dataclass(frozen=True)
class PromptTemplate:
    """The template of a base model.

    A piece that is exactly one entry of the vocabulary (``[CLS]``, ``[unused1]``) means that token; any other piece is
    text. The delimiters ``next`` and ``end`` must be one token each: the first candidate that is one is taken.

    Attributes:
        before: stands before the sentence.
        after: stands after it.
        query: asks for a type; ``{label}`` is the type's name in words.
        query_described: the same with a ``{description}``.
        open: opens the answer; its last token is the anchor of the contrastive objective.
        next: candidates for the delimiter between two spans.
        end: candidates for the delimiter that ends the answer; the tokenizer's end-of-sequence token comes last.
        prefix_attention: what ``prompt.prefix_attention = "auto"`` means for this base.
        letter_case: the base's tokenizer folds case, and the base reads it as token type ids (0, 1, 2) instead.
    """

    before: str = "Sentence:\n"
    after: str = "\n"
    query: str = 'Extract every entity of the type "{label}".\n'
    query_described: str = 'Extract every entity of the type "{label}": {description}\n'
    open: str = "Answer:"
    next: tuple[str, ...] = (" |", "|", " ||", "||", ";")
    end: tuple[str, ...] = ("\n",)
    prefix_attention: str = "causal"
    letter_case: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "prompt template") -> PromptTemplate:
        """Inverse of :meth:`to_dict`.

        Raises:
            ModelError: on an unknown piece, one that is no text, a query without its ``{label}``, another attention.
        """
        known = {spec.name for spec in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(f"{source}: unknown piece {unknown[0]!r}; a template has {', '.join(sorted(known))}")
        made: dict[str, Any] = {}
        if not isinstance(values.get("letter_case", False), bool):
            raise ModelError(f"{source}: letter_case must be true or false, got {values['letter_case']!r}")
        for name, value in values.items():
            if name == "letter_case":
                made[name] = value
                continue
            many = name in ("next", "end")
            texts = value if many and isinstance(value, list | tuple) else [value]
            if many != isinstance(value, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise ModelError(
                    f"{source}: {name} must be {'a list of strings' if many else 'a string'}, got {value!r}"
                )
            made[name] = tuple(value) if many else value
        template = cls(**made)
        for name, pieces in (("query", ("{label}",)), ("query_described", ("{label}", "{description}"))):
            if missing := [piece for piece in pieces if piece not in getattr(template, name)]:
                raise ModelError(f"{source}: {name} must hold {missing[0]}, got {getattr(template, name)!r}")
        if template.prefix_attention not in ("causal", "bidirectional"):
            raise ModelError(
                f"{source}: prefix_attention must be causal or bidirectional, got {template.prefix_attention!r}"
            )
        return template

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready record."""
        record = dataclasses.asdict(self)
        return {**record, "next": list(self.next), "end": list(self.end)}


def verbalize(label: str) -> str:
    """A label's name in words: ``creative-work`` and ``CreativeWork`` become "creative work", ``ORG`` stays."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_\-/]+", " ", label)).split()
    return " ".join(word if word.isupper() else word.lower() for word in words) or label


class EncodedPrompt:
    """A template in a tokenizer's ids.

    Attributes:
        bos: the beginning-of-sequence token, where the tokenizer sets one; else empty.
        before: ids before the sentence.
        after: ids after the sentence.
        open: ids that open the answer.
        next_id: the delimiter between spans.
        end_id: the delimiter that ends the answer.

    Raises:
        ModelError: if no candidate of a delimiter is a single token.
    """

    def __init__(self, template: PromptTemplate, tokenizer: Any) -> None:
        self.template = template
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        self.bos = self._bos()
        self.before = self._encode(template.before)
        self.after = self._encode(template.after)
        self.open = self._encode(template.open)
        self.next_id = self._single("next", template.next, ())
        eos = getattr(tokenizer, "eos_token_id", None)
        self.end_id = self._single("end", template.end, () if eos is None else (eos,), taken=self.next_id)
        self._queries: dict[tuple[str, str], list[int]] = {}

    def query(self, label: str, description: str = "") -> list[int]:
        """Ids that ask for a type; what looks like a special token in its name or description is text."""
        key = (label, description)
        if key not in self._queries:
            pattern = self.template.query_described if description else self.template.query
            name = verbalize(label)
            words = {"label": name, "description": description}
            text = re.sub(r"\{(label|description)\}", lambda found: words[found[1]], pattern)
            self._queries[key] = self._encode_text(text, literal=True)
        return self._queries[key]

    def _bos(self) -> list[int]:
        bos = getattr(self._tokenizer, "bos_token_id", None)
        with_special = self._tokenizer("a")["input_ids"]
        return [bos] if bos is not None and with_special[:1] == [bos] else []

    def _encode(self, piece: str) -> list[int]:
        if not piece:
            return []
        entry = self._entry(piece)
        return self._encode_text(piece) if entry is None else [entry]

    def _entry(self, piece: str) -> int | None:
        """The token that a piece names. A byte-level entry that reads otherwise ("é" for the byte E9) is not named."""
        entry = self._vocabulary.get(piece)
        if entry is None or self._tokenizer.decode([entry], clean_up_tokenization_spaces=False) != piece:
            return None
        return entry

    def _single(self, name: str, pieces: Iterable[str], fallback: tuple[int, ...], taken: int | None = None) -> int:
        candidates = list(pieces)
        # Unknown text has a token too, but the sentence's own unknown words would then be delimiters.
        useless = (taken, getattr(self._tokenizer, "unk_token_id", None))
        lead = self._encode_text("x")
        for piece in candidates:
            # Behind a letter, so that a tokenizer that sets a space before a text does not set it here.
            behind = self._encode_text("x" + piece)
            ids = behind[len(lead) :] if behind[: len(lead)] == lead else []
            entry = self._entry(piece)
            ids = ids if entry is None else [entry]
            if len(ids) == 1 and ids[0] not in useless:
                return ids[0]
        for token in fallback:
            if token != taken:
                return token
        raise ModelError(
            f"the prompt's {name!r} delimiter must be one token of the base's vocabulary; none of {candidates} is: "
            "name one in the base's cllmfs_prompt.json"
        )

    def _encode_text(self, text: str, literal: bool = False) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=literal)["input_ids"])
