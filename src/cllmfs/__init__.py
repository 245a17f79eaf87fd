"""Few-shot named entity recognition with a causal LLM: few labelled sentences in, exact spans out.

Light names are imported at once; :class:`EntityRecognizer` on first use, so that ``import cllmfs`` never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.formats.writing import read_examples
from cllmfs.schema import Document, Example, LabelSet, Span

if TYPE_CHECKING:
    from cllmfs.recognizer import EntityRecognizer

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Document",
    "EntityRecognizer",
    "Example",
    "LabelSet",
    "Span",
    "read_examples",
    "sample_k_shot",
]


def __getattr__(name: str) -> Any:
    if name == "EntityRecognizer":
        from cllmfs.recognizer import EntityRecognizer

        return EntityRecognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
