"""Episodes of N labels and K to 2K shots: published files of them, and their metric.

Knows the file format of Few-NERD (Ding et al. 2021, arXiv 2105.07464), a JSON object on each line:

    {"support": {"word": [["Ada", "sings"]], "label": [["person", "O"]]}, "query": {...}, "types": ["person", "city"]}

Labels are bare types; adjacent tokens of one type are one span. Knows nothing of systems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from cllmfs.datasets.sampling import Episode
from cllmfs.errors import DataError
from cllmfs.evaluation import Counts
from cllmfs.formats.jsonl import load_object
from cllmfs.formats.records import Issue, source_name, text_lines
from cllmfs.formats.tagging import TokenSpan, spans_of_tags
from cllmfs.schema import Document, Example, Span

OUTSIDE = "O"


def read_episodes(path: str | Path) -> list[Episode]:
    """All episodes of a file, in order; raises DataError if it cannot be read, or has none or one of another form."""
    name = source_name(path)
    episodes = [_episode(number, line, name) for number, line in text_lines(path) if line]
    if not episodes:
        raise DataError("a file of episodes must hold at least one", source=name)
    return episodes


def _episode(number: int, line: str, name: str) -> Episode:
    record = load_object(number, line)
    if isinstance(record, Issue):
        raise record.to_error(name)
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
    """Maximal runs of one type as token spans."""
    return spans_of_tags([tag if tag == OUTSIDE else f"I-{tag}" for tag in tags])


def episode_counts(gold: Sequence[Example], predicted: Sequence[Document]) -> Counts:
    """Few-NERD's metric (:func:`episode_scores`) of the predictions for the query sentences of an episode.

    A token has the type of the first span that overlaps it. Raises DataError if a sentence has no tokens.
    """
    right = [_types(text, text.spans) for text in gold]
    return episode_scores(right, [_types(text, one.spans) for text, one in zip(gold, predicted, strict=True)])


def _types(text: Example, spans: Sequence[Span]) -> list[str]:
    if text.token_offsets is None:
        raise DataError("the episode metric compares tokens, got a text without tokens; read it from a tokenized file")
    ordered = sorted(spans, key=lambda span: (span.start, span.end))
    return [
        next((span.label for span in ordered if span.start < end and start < span.end), OUTSIDE)
        for start, end in text.token_offsets
    ]


def episode_scores(gold_tags: Sequence[Sequence[str]], predicted_tags: Sequence[Sequence[str]]) -> Counts:
    """Few-NERD's episode metric (Ding et al. 2021, arXiv 2105.07464): IO spans over the flattened query batch.

    The tags of all query sentences are joined into one sequence; a span is a maximal run of one tag other than ``O``,
    **even across the end of a sentence**, unlike in :func:`~cllmfs.evaluation.evaluate_spans`. Sum the counts over
    episodes, then take the rates.

    Args:
        gold_tags: a sequence of tags for each query sentence; a tag is a bare type or ``O``, without B- or I-.
        predicted_tags: the same shape.

    Raises:
        DataError: if the shapes differ or a tag begins with ``I-``.
    """
    shape, other = ([len(tags) for tags in batch] for batch in (gold_tags, predicted_tags))
    if shape != other:
        raise DataError(f"gold and predicted tags must have one shape, got {shape} and {other}; tag every query token")
    gold, predicted = (list(chain.from_iterable(batch)) for batch in (gold_tags, predicted_tags))
    if wrong := next((tag for tag in (*gold, *predicted) if tag.startswith("I-")), None):
        raise DataError(f"episode tags are bare types or O, got {wrong!r}; remove the B- and I- prefixes")
    return Counts.of(set(_runs(gold)), set(_runs(predicted)))
