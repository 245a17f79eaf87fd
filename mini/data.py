"""Training examples of cllmfs-mini: how one query is drawn from the training sets.

    load_all(data_dir)              -> the public sets, the sheets and the annotated passages, without what is held out
    draw(sources, seed=, index=)    -> Query: a text, the types asked, the gold spans of those types
    held_out(data_dir)              -> the check set, one list of queries a source, nothing augmented

Every draw depends on (seed, index) alone, so that training resumes anywhere. Knows nothing of tokenizers, models or how
a query becomes model input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from cllmfs.schema import Example, Span
from mini.annotated.source import AnnotatedSource, annotated_source
from mini.augment import Rng, TokenSpan, add_typo, join_naturally, pick, replace_mention, shuffled
from mini.sources import Report, Source, TrainingItem, TypeNames, load_sources, measuring_texts, normalized

__all__ = [
    "QueriedType",
    "Query",
    "Report",
    "Source",
    "TrainingItem",
    "TypeNames",
    "draw",
    "held_out",
    "held_out_queries",
    "load_all",
    "load_sources",
    "pick_item",
    "pick_source",
    "summary",
]

MAX_HELD_OUT_TYPES = 12
PLAIN_NAME_SHARE = 0.4  # of the types asked go by their first name
LOWER_CASE_SHARE = 0.25  # of the sentences are in small letters
DESCRIPTION_SHARE = 0.35  # of the types asked have a description beside the name
ONLY_DESCRIPTION_SHARE = 0.04  # of the types asked go by a description in the place of a name


@dataclass(frozen=True)
class QueriedType:
    """A type as asked: ``key`` is stable ("source:label"), name and description (may be empty) are as drawn."""

    key: str
    name: str
    description: str


@dataclass(frozen=True)
class Query:
    """A text, the types asked in order, and their gold spans: ``example.spans`` carry type keys as labels."""

    example: Example
    types: tuple[QueriedType, ...]
    source: str

    def gold(self, key: str) -> tuple[Span, ...]:
        """The gold spans of one type in text order; empty where the type is absent."""
        return tuple(span for span in self.example.spans if span.label == key)


def _step(rng: Rng, steps: Sequence[float]) -> int:
    point = rng.random() * steps[-1]
    return next((number for number, step in enumerate(steps) if point < step), len(steps) - 1)


def pick_source(sources: Sequence[Source], rng: Rng) -> Source:
    """One of the sources, by weight."""
    return sources[_step(rng, list(accumulate(source.weight for source in sources)))]


def pick_item(source: Source, rng: Rng) -> TrainingItem:
    """One of its sentences: seldom one without mentions, half of the others for the sake of a label."""
    if not source.filled or (source.empty and rng.random() < 0.12):
        return source.items[pick(rng, source.empty or source.filled)]
    if rng.random() < 0.5:
        label = list(source.by_label)[_step(rng, source.label_steps)]
        return source.items[pick(rng, source.by_label[label])]
    return source.items[pick(rng, source.filled)]


def _not_annotated(source: Source, inside: set[str]) -> set[str]:
    """Labels that a sentence may hold without a mark, since labels of another group are marked in it."""
    if not any(group & inside for group in source.apart):
        return set()
    return {label for group in source.apart if not group & inside for label in group}


def _choose_types(source: Source, item: TrainingItem, rng: Rng) -> list[TypeNames]:
    """3-6 types where the source has them: up to 4 present, 1-3 absent, seldom 1-2 of another domain, shuffled.

    A written sentence is asked up to 6 present and 1-3 absent ones: its types are many, its sentences few.
    """
    inside = {span[2] for span in item.spans}
    present = shuffled(rng, [label for label in source.labels if label in inside])[: 6 if item.written else 4]
    absent = shuffled(rng, [label for label in source.labels if label not in inside | _not_annotated(source, inside)])
    count = 1 + int(rng.random() * 3)
    if not item.written:
        count = min(max(count, 3 - len(present)), 6 - len(present))
    chosen = [source.types[label] for label in (*present, *absent[:count])]
    few = len(source.labels) <= 2
    if source.foreign and rng.random() < (0.35 if few else 0.08):
        text = " ".join(item.tokens).lower()
        certain = [kind for kind in source.foreign if not any(word in text for word in kind.unless)]
        wanted = 1 + int(few and rng.random() < 0.5)
        chosen += shuffled(rng, certain)[: min(wanted, 6 - len(chosen))]
    return shuffled(rng, chosen)


def _ask(kind: TypeNames, rng: Rng) -> QueriedType:
    name = kind.names[0] if rng.random() < PLAIN_NAME_SHARE else pick(rng, kind.names[1:])
    if rng.random() < 0.15:
        name = (name.lower(), name.title(), name.upper(), name.replace(" ", "_"))[int(rng.random() * 4)]
    return QueriedType(kind.key, name, pick(rng, kind.descriptions) if rng.random() < DESCRIPTION_SHARE else "")


def draw(sources: Sequence[Source], *, seed: int, index: int, only_descriptions: bool = True) -> Query:
    """The query number ``index`` of the endless sequence that ``seed`` names; a pure function of its arguments.

    Args:
        sources: what :func:`load_all` returned, in its order.
        seed, index: non-negative integers.
        only_descriptions: whether a few types go by a description in the place of their name.
    """
    rng = np.random.default_rng((seed, index))
    source = pick_source(sources, rng)
    item = pick_item(source, rng)
    if isinstance(source, AnnotatedSource):
        kinds = source.choose(item, rng)
        types = _distinct([_ask(kind, rng) for kind in kinds])
        asked = {kind.key for kind in types}
        query = Query(source.example_for(item, [kind for kind in kinds if kind.key in asked]), types, source.name)
    else:
        kinds = _choose_types(source, item, rng)
        query = _drawn(source, item, _distinct([_ask(kind, rng) for kind in kinds]), rng)
    query = replace(query, example=_change_case(query.example, rng))
    return _by_descriptions(query, kinds, rng) if only_descriptions else query


def _drawn(source: Source, item: TrainingItem, types: Sequence[QueriedType], rng: Rng) -> Query:
    """A sentence of a set, perhaps with another mention, a typo or the spacing of running text."""
    tokens, spans = item.tokens, item.spans
    if rng.random() < 0.15:
        tokens, spans = replace_mention(tokens, spans, source.mentions, rng)
    if rng.random() < 0.05:
        tokens = add_typo(tokens, rng)
    natural = rng.random() < 0.5
    if natural and item.written is not None and tokens is item.tokens:
        return _as_written(source, item.written, types)
    return _query(source, tokens, spans, types, natural=natural)


def _by_descriptions(query: Query, kinds: Sequence[TypeNames], rng: Rng) -> Query:
    """The query with a few of its types named by a description alone."""
    described = {kind.key: kind.descriptions for kind in kinds}
    types = [
        QueriedType(kind.key, pick(rng, described[kind.key]).rstrip("."), "")
        if rng.random() < ONLY_DESCRIPTION_SHARE
        else kind
        for kind in query.types
    ]
    # Two types with one description could not be told apart.
    return replace(query, types=tuple(types)) if len(_distinct(types)) == len(types) else query


def _change_case(example: Example, rng: Rng) -> Example:
    """A quarter of the sentences in small letters, a few in capitals or with every word's first letter a capital."""
    point = rng.random()
    text = example.text
    if point < LOWER_CASE_SHARE:
        text = text.lower()
    elif point < LOWER_CASE_SHARE + 0.02:
        text = text.upper()
    elif point < LOWER_CASE_SHARE + 0.04:
        text = text.title()
    # A few letters change their number with their case, which would move the spans.
    return replace(example, text=text) if len(text) == len(example.text) else example


def _as_written(source: Source, example: Example, types: Sequence[QueriedType]) -> Query:
    asked = {kind.key for kind in types}
    keyed = [Span(span.start, span.end, f"{source.name}:{span.label}") for span in example.spans]
    made = tuple(span for span in keyed if span.label in asked)
    return Query(Example(example.text, made, source=source.name), tuple(types), source.name)


def _distinct(types: Sequence[QueriedType]) -> tuple[QueriedType, ...]:
    """Two types never go by one name: the later of the two is not asked."""
    by_name = {kind.name.casefold().replace("_", " "): kind for kind in reversed(types)}
    return tuple(kind for kind in types if by_name[kind.name.casefold().replace("_", " ")] is kind)


def _query(
    source: Source,
    tokens: Sequence[str],
    spans: Sequence[TokenSpan],
    types: Sequence[QueriedType],
    *,
    natural: bool = False,
) -> Query:
    asked = {kind.key for kind in types}
    keyed = [(start, end, f"{source.name}:{label}") for start, end, label in spans]
    keyed = [span for span in keyed if span[2] in asked]
    if not natural:
        return Query(Example.from_tokens(tokens, keyed, source.name), tuple(types), source.name)
    text, offsets = join_naturally(tokens, split_punctuation=source.split_punctuation)
    made = tuple(Span(offsets[start][0], offsets[end - 1][1], key) for start, end, key in keyed)
    return Query(Example(text, made, tuple(offsets), source.name), tuple(types), source.name)


def held_out_queries(sources: Sequence[Source]) -> dict[str, list[Query]]:
    """The held-out sentences by source, each asked for all labels of its source under their plain names.

    Where a source has more than 12 labels, the present ones are asked and others fill up, in turn.
    """
    queries: dict[str, list[Query]] = {}
    for source in sources:
        for number, item in enumerate(source.held):
            if isinstance(source, AnnotatedSource):
                kinds = source.choose(item, np.random.default_rng((0, number)))
                asked = tuple(QueriedType(kind.key, kind.names[0], "") for kind in kinds)
                queries.setdefault(source.name, []).append(Query(source.example_for(item, kinds), asked, source.name))
                continue
            inside = {span[2] for span in item.spans}
            turn = number % len(source.labels)
            rolled = source.labels[turn:] + source.labels[:turn]
            chosen = sorted(sorted(rolled, key=lambda label: label not in inside)[:MAX_HELD_OUT_TYPES])
            types = [QueriedType(source.types[label].key, source.types[label].names[0], "") for label in chosen]
            queries.setdefault(source.name, []).append(_query(source, item.tokens, item.spans, types))
    return queries


def load_all(data_dir: str | Path, *, written_share: float = 0.0, annotated_share: float = 0.0) -> list[Source]:
    """The public sets, the written sheets and the annotated passages; raises as :func:`load_sources` does.

    Args:
        data_dir: folder of the public sets and texts.
        written_share, annotated_share: draws from the sheets and from the passages for each draw from the public sets.
    """
    sources = load_sources(data_dir, written_share=written_share)
    if not annotated_share:
        return sources
    checked = {normalized(item.tokens) for source in sources for item in source.held}
    weight = annotated_share * sum(source.weight for source in sources if source.domain != "written")
    return [*sources, annotated_source(Path(data_dir), weight, measuring_texts(Path(data_dir)) | checked)]


def summary(sources: Sequence[Source]) -> dict[str, dict[str, int]]:
    """Sets, sentences, mentions and types of each kind of source, without what is held out."""
    found: dict[str, Counter[str]] = {}
    for source in sources:
        kind = {"written": "sheets", "annotated": "annotated"}.get(source.domain, "public")
        mentions = sum(len(item.spans) for item in source.items)
        counts = {"sets": 1, "sentences": len(source.items), "mentions": mentions, "types": len(source.labels)}
        found.setdefault(kind, Counter()).update(counts)
    return {kind: dict(counts) for kind, counts in found.items()}


def held_out(data_dir: str | Path) -> dict[str, list[Query]]:
    """:func:`held_out_queries` of freshly loaded sources; raises as :func:`load_sources` does."""
    return held_out_queries(load_sources(data_dir))
