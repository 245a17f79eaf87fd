"""The input of the speed benchmark: texts of a given length, made from the package's example, and names of types.

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
from cllmfs.formats import read_examples
from cllmfs.schema import Example
from cllmfs.words import word_units

_TYPES = Path(__file__).with_name("types.txt")


def type_names(count: int) -> list[str]:
    """The first names of ``types.txt``.

    Raises:
        ConfigError: if the file has fewer names.
    """
    names = _TYPES.read_text(encoding="utf-8").split("\n")[:-1]
    if not 1 <= count <= len(names):
        raise ConfigError(f"the number of types must be between 1 and {len(names)}, got {count}")
    return names[:count]


def example_sentences() -> list[Example]:
    """The labeled sentences of the package's example, shots and test."""
    folder = Path(str(files("cllmfs") / "example"))
    return [*read_examples(folder / "train.jsonl"), *read_examples(folder / "test.jsonl")]


def training_labels(count: int) -> list[str]:
    """The types of the example first, then others."""
    own = sorted({label for example in example_sentences() for label in example.labels})
    return [*own, *(name for name in type_names(count) if name not in own)][:count]


def texts(tokenizer: Any, tokens: int, count: int, seed: int) -> list[str]:
    """Texts of at most ``tokens`` tokens of ``tokenizer``: joined sentences of the example, cut at the end of a word.

    No two texts are equal, so no contender can reuse results.

    Raises:
        ConfigError: if the example is too small.
    """
    rng = random.Random(f"{seed}/{tokens}")
    sentences = [example.text for example in example_sentences()]
    made: dict[str, None] = {}
    for _ in range(100 * count):
        if text := _text(tokenizer, tokens, sentences, rng):
            made[text] = None
        if len(made) == count:
            return list(made)
    raise ConfigError(
        f"the example gives only {len(made)} different texts of {tokens} tokens, got a request for {count}"
    )


def _text(tokenizer: Any, tokens: int, sentences: Sequence[str], rng: random.Random) -> str:
    """A text that ends with a word; empty if the first word is too long."""
    parts: list[str] = []
    while True:
        parts.append(rng.choice(sentences))
        text = " ".join(parts)
        cut = tokenize(tokenizer, text)
        if len(cut) >= tokens:
            return text[: max(cut.char_end[:tokens])] if max(cut.char_end[:tokens]) > 0 else ""


def as_tokens(texts: Sequence[str]) -> list[Example]:
    """The texts with the offsets of their words, which the systems on encoders read."""
    return [Example(text, token_offsets=tuple(word_units(text))) for text in texts]
