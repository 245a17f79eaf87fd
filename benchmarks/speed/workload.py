"""What the speed benchmark reads: texts of a wished length, made from the package's example, and names of types.

Knows the example data and a tokenizer; knows nothing of models or clocks.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import ConfigError
from cllmfs.formats.writing import read_examples
from cllmfs.schema import Example
from cllmfs.words import word_units

_TYPES = Path(__file__).with_name("types.txt")


def type_names(count: int) -> list[str]:
    """The first names of ``types.txt``.

    Raises:
        ConfigError: if more are wanted than there are.
    """
    names = _TYPES.read_text(encoding="utf-8").split("\n")[:-1]
    if not 1 <= count <= len(names):
        raise ConfigError(f"there are 1 to {len(names)} types, got {count}")
    return names[:count]


def example_sentences() -> list[Example]:
    """The labelled sentences of the package's example, shots and test."""
    folder = Path(str(files("cllmfs") / "example"))
    return [*read_examples(folder / "train.jsonl"), *read_examples(folder / "test.jsonl")]


def training_labels(count: int) -> list[str]:
    """The example's types first, then others: the example answers some of them."""
    own = sorted({label for example in example_sentences() for label in example.labels})
    return [*own, *(name for name in type_names(count) if name not in own)][:count]


def texts(tokenizer: Any, tokens: int, count: int, seed: int) -> list[str]:
    """Texts of about so many tokens of ``tokenizer``: sentences of the example one after the other, cut at a word.

    No two are equal, so nothing can be kept from one to the next.

    Raises:
        ConfigError: if the example does not give so many.
    """
    rng = random.Random(f"{seed}/{tokens}")
    sentences = [example.text for example in example_sentences()]
    made: dict[str, None] = {}
    for _ in range(100 * count):
        if text := _text(tokenizer, tokens, sentences, rng):
            made[text] = None
        if len(made) == count:
            return list(made)
    raise ConfigError(f"the example gives only {len(made)} texts of {tokens} tokens, {count} are wanted")


def _text(tokenizer: Any, tokens: int, sentences: Sequence[str], rng: random.Random) -> str:
    """A text that ends with a word, or nothing if the first word is too long."""
    parts: list[str] = []
    while True:
        parts.append(rng.choice(sentences))
        text = " ".join(parts)
        cut = tokenize(tokenizer, text)
        if len(cut) >= tokens:
            return text[: max(cut.char_end[:tokens])] if max(cut.char_end[:tokens]) > 0 else ""


def as_tokens(texts: Sequence[str]) -> list[Example]:
    """The texts with the offsets of their words, as the encoders read them."""
    return [Example(text, token_offsets=tuple(word_units(text))) for text in texts]
