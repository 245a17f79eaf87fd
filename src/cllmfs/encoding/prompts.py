"""The prompt of a base: the pieces of text around a sentence and a type, and their token ids.

Both orders consist of the same pieces::

    sentence-first   before SENTENCE after | query(type) open    everything left of the bar is shared by all types
    type-first       query(type) before SENTENCE after open      the order of the paper (arXiv 2408.12834)

This file knows tokenizers; it knows nothing of rows, attention or the model.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cllmfs.encoding.tokens import with_word_cuts
from cllmfs.errors import ModelError

PROMPT_FILE = "cllmfs_prompt.json"  # in the folder of a base


@dataclass(frozen=True)
class PromptTemplate:
    """The prompt of a base, which ``cllmfs_prompt.json`` in the base's folder may change.

    A piece that is exactly one entry of the vocabulary (``[CLS]``, ``[unused1]``) means that token; any other piece is
    text. The delimiters ``next`` and ``end`` must be one token each: the first candidate that is one token is used.

    Attributes:
        before, after: precede and follow the sentence.
        query: asks for a type; ``{label}`` stands for the name of the type in words.
        query_described: the same for a type with a description, for which ``{description}`` stands.
        open: opens the answer; its last token is the anchor of the contrastive objective.
        next: candidates for the delimiter between two spans.
        end: candidates for the delimiter that ends the answer; the last resort is the end-of-sequence token.
        prefix_attention: what ``prompt.prefix_attention = "auto"`` means for this base.
        letter_case: whether the tokenizer drops case and the base reads it as token type ids (0, 1, 2) instead.
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
            ModelError: if a piece is unknown, or has a wrong type or value, or a query lacks its ``{label}``.
        """
        known = {spec.name for spec in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ModelError(f"{source}: unknown piece {unknown[0]!r}; a template has {', '.join(sorted(known))}")
        for name, value in values.items():
            if name == "letter_case":
                valid, wanted = isinstance(value, bool), "true or false"
            elif name in ("next", "end"):
                valid = isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
                wanted = "a list of strings"
            else:
                valid, wanted = isinstance(value, str), "a string"
            if not valid:
                raise ModelError(f"{source}: {name} must be {wanted}, got {value!r}")
        made: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        template = cls(**made)
        for name, pieces in (("query", ("{label}",)), ("query_described", ("{label}", "{description}"))):
            if missing := [piece for piece in pieces if piece not in getattr(template, name)]:
                raise ModelError(f"{source}: {name} must hold {missing[0]}, got {getattr(template, name)!r}")
        if (attention := template.prefix_attention) not in ("causal", "bidirectional"):
            raise ModelError(f"{source}: prefix_attention must be causal or bidirectional, got {attention!r}")
        return template

    def question(self, label: str, description: str = "") -> str:
        """The query for a type in words, given its label and its description, which may be empty."""
        words = {"label": verbalize(label), "description": description}
        pattern = self.query_described if description else self.query
        return re.sub(r"\{(label|description)\}", lambda found: words[found[1]], pattern)

    def to_dict(self) -> dict[str, Any]:
        """A record that is ready for JSON."""
        return {**dataclasses.asdict(self), "next": list(self.next), "end": list(self.end)}


def verbalize(label: str) -> str:
    """A label in words: ``creative-work`` and ``CreativeWork`` become "creative work"; ``ORG`` stays."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", re.sub(r"[_\-/]+", " ", label)).split()
    return " ".join(word if word.isupper() else word.lower() for word in words) or label


class EncodedPrompt:
    """A template as token ids of a tokenizer.

    Attributes:
        tokenizer: encodes sentences and queries; it cuts at the edges of words
            (:func:`~cllmfs.encoding.tokens.with_word_cuts`).
        bos: the beginning-of-sequence token in a list, which is empty if the tokenizer adds no such token.
        before, after, open: ids of the pieces of the template.
        next_id, end_id: the delimiter between spans, and the one that ends the answer.

    Raises:
        ModelError: if no candidate of a delimiter is a single token.
    """

    def __init__(self, template: PromptTemplate, tokenizer: Any) -> None:
        self.template = template
        # The fixed pieces get the tokens that the base saw for such text in its training, so its own tokenizer encodes
        # them. Queries are cut like sentences: a type's name then has the same tokens wherever it is written.
        self.tokenizer = with_word_cuts(tokenizer)
        self._tokenizer = tokenizer
        self._vocabulary: dict[str, int] = tokenizer.get_vocab()
        bos = getattr(tokenizer, "bos_token_id", None)
        self.bos: list[int] = [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []
        self.before = self._encode(template.before)
        self.after = self._encode(template.after)
        self.open = self._encode(template.open)
        self.next_id = self._single("next", template.next)
        self.end_id = self._single("end", template.end, getattr(tokenizer, "eos_token_id", None), taken=self.next_id)
        self._queries: dict[tuple[str, str], list[int]] = {}

    def query(self, label: str, description: str = "") -> list[int]:
        """Ids that ask for a type, given its label and its description, which may be empty."""
        key = (label, description)
        if key not in self._queries:
            text = self.template.question(label, description)
            # "</s>" in a type's name is text, not the special token that it looks like.
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            self._queries[key] = list(encoded["input_ids"])
        return self._queries[key]

    def _encode(self, piece: str) -> list[int]:
        entry = self._entry(piece)
        if entry is not None:
            return [entry]
        return self._encode_text(piece) if piece else []

    def _entry(self, piece: str) -> int | None:
        """The id of the entry that is the piece; one that decodes to something else ("é" for byte E9) is none."""
        entry = self._vocabulary.get(piece)
        found = entry is not None and self._tokenizer.decode([entry], clean_up_tokenization_spaces=False) == piece
        return entry if found else None

    def _single(self, name: str, pieces: Sequence[str], fallback: int | None = None, taken: int | None = None) -> int:
        # The unknown token must not be a delimiter, or else every unknown word of a sentence would be one.
        useless = (taken, getattr(self._tokenizer, "unk_token_id", None))
        lead = self._encode_text("x")
        for piece in pieces:
            # The piece follows a letter, because some tokenizers put a space before the first word of a text.
            behind = self._encode_text("x" + piece)
            ids = behind[len(lead) :] if behind[: len(lead)] == lead else []
            if (entry := self._entry(piece)) is not None:
                ids = [entry]
            if len(ids) == 1 and ids[0] not in useless:
                return ids[0]
        if fallback not in (None, taken):
            return fallback
        raise ModelError(
            f"the prompt's {name!r} delimiter must be one token of the base's vocabulary, but none of {list(pieces)} "
            "is: name one in the base's cllmfs_prompt.json"
        )

    def _encode_text(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])
