"""What a base cannot tell apart, and what it cannot read: labels with the same query, texts in an unknown script.

Both follow from the tokenizer and the prompt alone. This file knows these two and the spelling of labels; it knows
nothing of weights or gold spans.
"""

from __future__ import annotations

import json
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from cllmfs.encoding.prompts import PROMPT_FILE, PromptTemplate, verbalize
from cllmfs.encoding.tokens import TokenizedText, with_word_cuts
from cllmfs.errors import ModelError
from cllmfs.words import clusters

_UNREADABLE = 0.5  # a text is unreadable if at least this share of its letters and digits is unknown
_MANY_TEXTS = 0.1  # share of unreadable texts among readable ones that is worth a notice
_LISTED = 5  # labels that a message names at most


class Prompt(Protocol):
    """The part of :class:`~cllmfs.encoding.prompts.EncodedPrompt` that is needed here."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of sentences and queries."""

    def query(self, label: str, description: str = "") -> list[int]:
        """The token ids that ask for a type."""


class FilePrompt:
    """The queries and the tokenizer of a base, read from the files in its folder without torch and transformers.

    Raises:
        ModelError: if the folder has no ``tokenizer.json``, or a file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        file, prompt = folder / "tokenizer.json", folder / PROMPT_FILE
        try:
            backend = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare exceptions
            raise ModelError(f"a base needs a fast tokenizer in {file}: {error!s:.200}") from error
        backend.no_truncation()  # the file may hold the settings of another program's last call
        backend.no_padding()
        try:
            template = json.loads(prompt.read_text(encoding="utf-8")) if prompt.exists() else {}
            self._template = PromptTemplate.from_dict(dict(template), str(prompt))
        except (OSError, RecursionError, TypeError, ValueError) as error:
            raise ModelError(f"{prompt} must be a JSON object in UTF-8: {error!s:.200}") from error
        self.tokenizer = with_word_cuts(_FileTokenizer(backend))

    def query(self, label: str, description: str = "") -> list[int]:
        """Ids that ask for a type, given its label and its description, which may be empty."""
        return list(self.tokenizer(self._template.question(label, description))["input_ids"])


class _FileTokenizer:
    """A tokenizer of the tokenizers library, called as one of transformers is; no text is a special token to it."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend

    def __call__(self, text: str, **options: Any) -> dict[str, Sequence[Any]]:
        self.backend_tokenizer.encode_special_tokens = True
        encoding = self.backend_tokenizer.encode(text, add_special_tokens=False)
        return {"input_ids": encoding.ids, "offset_mapping": encoding.offsets}


def unknown_ids(tokenizer: Any) -> frozenset[int]:
    """The ids that a fast tokenizer gives to what is not in its vocabulary; none if it falls back to bytes."""
    backend = tokenizer.backend_tokenizer
    names = [getattr(tokenizer, "unk_token", None), getattr(backend.model, "unk_token", None)]
    ids = {backend.token_to_id(name) for name in names if name}
    if not ids and type(backend.model).__name__ == "Unigram":  # the library shows its unknown id in JSON only
        ids = {json.loads(backend.model.__getstate__()).get("unk_id")}
    return frozenset(ids - {None})


# labels


def alike(
    query: Callable[[str, str], Sequence[int]], labels: Mapping[str, str] | Iterable[str]
) -> list[tuple[str, ...]]:
    """Groups of labels that ask the same question, in the order of the labels.

    Args:
        query: the token ids that ask for a label with its description, such as ``encoder.prompt.query``.
        labels: labels, with their descriptions if it is a mapping.
    """
    described = labels if isinstance(labels, Mapping) else dict.fromkeys(labels, "")
    return _grouped(described, lambda label: tuple(query(label, described[label])))


def spelled_alike(labels: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of labels that differ only in white space, Unicode form, case, or in how their words are joined."""
    return _grouped(labels, _folded)


def _grouped(labels: Iterable[str], key: Callable[[str], Any]) -> list[tuple[str, ...]]:
    groups: dict[Any, list[str]] = {}
    for label in labels:
        groups.setdefault(key(label), []).append(label)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _composed(label: str) -> str:
    """The label as it looks: in one Unicode form, and without invisible characters."""
    shown = "".join(char for char in label if unicodedata.category(char) != "Cf")
    return unicodedata.normalize("NFKC", shown)


def _folded(label: str) -> str:
    return unicodedata.normalize("NFKC", re.sub(r"\s", "", verbalize(_composed(label))).casefold()) or label.strip()


def spelling_message(labels: Sequence[str]) -> str:
    """One line on labels of :func:`spelled_alike`: what distinguishes them, and what to do."""
    return f"{_named(labels)} differ only in {_difference(labels)}; if they mean the same type, use one name for both"


def _difference(labels: Sequence[str]) -> str:
    """The least of the differences that :func:`spelled_alike` ignores."""
    kinds: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("white space at the edges", str.strip),
        ("invisible characters or Unicode form", lambda label: _composed(label).strip()),
        ("case", lambda label: _composed(label).strip().casefold()),
    )
    alone = (name for name, kind in kinds if len(set(map(kind, labels))) == 1)
    return next(alone, "case or in how their words are joined")


def _named(labels: Sequence[str]) -> str:
    """``the labels 'PER' and 'Per'``; labels that look the same are written with escapes."""
    escape = len(set(map(_composed, labels))) < len(labels)
    shown = [f"{label!a:.60}" if escape else f"{label!r:.60}" for label in labels[:_LISTED]]
    if len(labels) > _LISTED:
        shown.append(f"{len(labels) - _LISTED} more")
    return f"the labels {', '.join(shown[:-1])} and {shown[-1]}"


# texts


@dataclass
class Coverage:
    """How much of some texts a base can read, counted in letters and digits: emoji and punctuation do not matter.

    Attributes:
        texts: texts that have letters.
        unreadable: those of which at least half is unknown.
        letters: letters and digits of all texts.
        unknown: those that the base cannot read, counted by character.
    """

    texts: int = 0
    unreadable: int = 0
    letters: int = 0
    unknown: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, texts: Iterable[TokenizedText], unknown: frozenset[int]) -> Coverage:
        """The coverage of texts whose tokenizer has these :func:`unknown_ids`; a window counts as a text."""
        made = cls()
        for text in texts:
            letters, missed = _letters(text, unknown)
            made.texts += letters > 0
            made.letters += letters
            if missed:
                made.unreadable += len(missed) >= _UNREADABLE * letters
                made.unknown.update(missed)
        return made

    @property
    def share(self) -> float:
        """The share of the letters that are unknown, between 0 and 1."""
        return self.unknown.total() / self.letters if self.letters else 0.0

    @property
    def script(self) -> str:
        """The script of most of the unknown letters, such as "Thai"; empty if there are none."""
        counts: Counter[str] = Counter()
        for char, count in self.unknown.items():
            counts[script_of(char)] += count
        return counts.most_common(1)[0][0] if counts else ""

    def message(self, base: str, what: str = "the texts") -> str | None:
        """One line if most letters, or many whole texts, are unknown to the base; ``None`` otherwise."""
        if not self.unreadable or (self.share < _UNREADABLE and self.unreadable < _MANY_TEXTS * self.texts):
            return None
        script = self.script
        example = next(char for char, _ in self.unknown.most_common() if script_of(char) == script)
        # Rounded down, so that "100 %" means all.
        if self.share >= _UNREADABLE:
            part = f"{int(100 * self.share)} % of the letters of {what}, such as {example!r} ({script})"
        else:
            least = f"in which at least half of the letters are unknown to it, such as {example!r} ({script})"
            part = f"{int(100 * self.unreadable / self.texts)} % of {what}, {least}"
        return (
            f"{base} cannot read {part}: every word that it cannot read looks the same to it; choose a base that knows "
            "the script"
        )


def _letters(tokens: TokenizedText, unknown: frozenset[int]) -> tuple[int, str]:
    """The number of letters and digits from the first token to the last, and those in unknown tokens or in none."""
    text, offsets = tokens.text, tokens.offsets
    if not offsets:  # the tokenizer dropped all characters
        letters = "" if tokens.ids else "".join(filter(str.isalnum, text))
        return len(letters), letters
    low, high = min(start for start, _ in offsets), max(end for _, end in offsets)
    if low >= high:  # nothing but white space
        return 0, ""
    part = text[low:high]
    state = bytearray(high - low)  # 0: no token, 1: a known token, 2: an unknown token
    for token, (start, end) in zip(tokens.ids, offsets, strict=True):
        if start < end and token not in unknown:
            state[start - low : end - low] = b"\1" * (end - start)
    if not unknown.isdisjoint(tokens.ids):
        for token, (start, end) in zip(tokens.ids, offsets, strict=True):
            if start < end and token in unknown:
                state[start - low : end - low] = b"\2" * (end - start)
    is_letter = list(map(str.isalnum, part))
    missed = [at for at, letter in enumerate(is_letter) if letter and state[at] != 1]
    if any(state[at] == 0 for at in missed):
        # A tokenizer that composes characters covers only the first of them; one that drops characters covers none.
        covered = {at for start, end in clusters(part) if 1 in state[start:end] for at in range(start, end)}
        missed = [at for at in missed if state[at] == 2 or at not in covered]
    return sum(is_letter), "".join(part[at] for at in missed)


def script_of(char: str) -> str:
    """The script of a character by its Unicode name: "Thai", "Hangul", "CJK"; "Unnamed" if it has no name."""
    words = unicodedata.name(char, "UNNAMED").replace("-", " ").split()
    name = words[: 2 if words[0] in ("NEW", "OLD") else 1]
    return " ".join(word if word == "CJK" else word.capitalize() for word in name)


# notices


class CoverageNotices:
    """Says once what a base cannot tell apart or read; it may be called from several threads.

    Args:
        prompt: the prompt of the base.
        base: the name of the base in messages.
    """

    def __init__(self, prompt: Prompt, base: str) -> None:
        self.base = base
        self._prompt = prompt
        self._unknown = unknown_ids(prompt.tokenizer)
        self._said: set[Any] = set()
        self._lock = threading.Lock()

    def of_labels(self, labels: Mapping[str, str]) -> list[str]:
        """A line for each group of labels that ask the same question, unless it was said before."""
        return [self._alike(group, labels) for group in alike(self._prompt.query, labels) if self._is_new(group)]

    def of_texts(self, texts: Iterable[TokenizedText], what: str = "the texts") -> list[str]:
        """A line if most of the texts, or many of them, cannot be read, unless it was said of this script before."""
        coverage = Coverage.of(texts, self._unknown)
        message = coverage.message(self.base, what)
        return [message] if message and self._is_new(coverage.script) else []

    def _is_new(self, what: Any) -> bool:
        with self._lock:
            before = len(self._said)
            self._said.add(what)
            return len(self._said) > before

    def _alike(self, labels: Sequence[str], descriptions: Mapping[str, str]) -> str:
        first = labels[0]
        unread = not self._unknown.isdisjoint(self._prompt.query(first, descriptions[first]))
        why = f"{self.base} reads their names as unknown words" if unread else "they have the same tokens"
        return (
            f"{_named(labels)} ask the same question of {self.base} ({why}), so it cannot tell them apart: use one "
            "name if they mean the same type; otherwise rename one of them, or describe it in a label file"
        )
