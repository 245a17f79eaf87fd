"""Episodes of N labels and K to 2K shots: published files of them, and their metric.

Knows the files' form, Few-NERD's (Ding et al. 2021, arXiv 2105.07464), a JSON object a line:

    {"support": {"word": [["Ada", "sings"]], "label": [["person", "O"]]}, "query": {...}, "types": ["person", "city"]}

Labels are bare types; neighbours of one type are one span. Knows nothing of systems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cllmfs.datasets.sampling import Episode
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts, episode_scores
from cllmfs.formats.jsonl import load_object
from cllmfs.formats.records import Issue, read_lines, source_name
from cllmfs.formats.tagging import TokenSpan, spans_of_tags
from cllmfs.schema import Document, Example, Span

OUTSIDE = "O"


def read_episodes(path: str | Path) -> list[Episode]:
    """All episodes of a file, in order.

    Raises:
        DataError: if the file cannot be read or holds none, or an episode breaks the form, with its line.
    """
    name = source_name(path)
    episodes = [_episode(number, line, name) for number, line in read_lines(path) if isinstance(line, Issue) or line]
    if not episodes:
        raise DataError("a file of episodes must hold at least one", source=name)
    return episodes


def _episode(number: int, line: str | Issue, name: str) -> Episode:
    record = line if isinstance(line, Issue) else load_object(number, line)
    if isinstance(record, Issue):
        raise DataError(record.message, source=name, line=number)
    try:
        labels = tuple(sorted(set(record["types"])))
        support, query = (_sentences(record[side], labels, f"{name}:{number}") for side in ("support", "query"))
    except (KeyError, TypeError) as error:
        message = f"an episode has support and query, each with word and label, and types; got {error!r}"
        raise DataError(message, source=name, line=number) from error
    return Episode(labels, support, query)


def _sentences(side: Mapping[str, Any], labels: Sequence[str], where: str) -> tuple[Example, ...]:
    words, tags = side["word"], side["label"]
    if [len(sentence) for sentence in words] != [len(sentence) for sentence in tags]:
        raise DataError("an episode's sentences must have a label for each word", source=where)
    if unknown := {tag for sentence in tags for tag in sentence} - {OUTSIDE, *labels}:
        raise DataError(f"an episode's labels are its types or {OUTSIDE}, got {min(unknown)!r}", source=where)
    return tuple(Example.from_tokens(w, _runs(t), where) for w, t in zip(words, tags, strict=True))


def _runs(tags: Sequence[str]) -> list[TokenSpan]:
    return spans_of_tags([tag if tag == OUTSIDE else f"I-{tag}" for tag in tags])


def episode_counts(gold: Sequence[Example], answered: Sequence[Document]) -> Counts:
    """Few-NERD's metric (:func:`~cllmfs.evaluation.episode_scores`) of the answers to an episode's query sentences.

    A token has the type of the first span that reaches into it.

    Raises:
        DataError: if a sentence has no tokens.
    """
    right = [_types(text, text.spans) for text in gold]
    return episode_scores(right, [_types(text, one.spans) for text, one in zip(gold, answered, strict=True)])


def _types(text: Example, spans: Sequence[Span]) -> list[str]:
    if text.token_offsets is None:
        raise DataError("the episode metric compares tokens, got a text without; read it from a tokenised file")
    ordered = sorted(spans, key=lambda span: (span.start, span.end))

    def at(start: int, end: int) -> str:
        return next((span.label for span in ordered if span.start < end and start < span.end), OUTSIDE)

    return [at(start, end) for start, end in text.token_offsets]
