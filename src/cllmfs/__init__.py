"""Few-shot named entity recognition with a causal LLM: few labeled sentences in, exact spans out.

:class:`EntityRecognizer` and :class:`Risk` are imported when they are first used, so that ``import cllmfs`` does not
load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cllmfs.config import Config
from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.errors import CllmfsError
from cllmfs.formats import read_examples
from cllmfs.schema import Document, Example, LabelSet, Span

if TYPE_CHECKING:
    from cllmfs.assurance.guarantee import Risk
    from cllmfs.recognizer import EntityRecognizer

__version__ = "0.1.0"

__all__ = [
    "CllmfsError",
    "Config",
    "Document",
    "EntityRecognizer",
    "Example",
    "LabelSet",
    "Risk",
    "Span",
    "read_examples",
    "sample_k_shot",
]


def __getattr__(name: str) -> Any:
    if name == "EntityRecognizer":
        from cllmfs.recognizer import EntityRecognizer

        return EntityRecognizer
    if name == "Risk":
        from cllmfs.assurance.guarantee import Risk

        return Risk
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
