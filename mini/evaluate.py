"""Score a base on the sentences that its training held out: strict F1 by source, no example given.

    python -m mini.evaluate src/cllmfs/mini --data DATA --output runs/held_out.json

Public sets are scored one by one, written sheets by region. Types are asked under their plain names, present or not.
The base was trained on these types: new ones are what ``benchmarks/few_shot`` measures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from cllmfs.config import Config
from cllmfs.decoding.extraction import Extractor
from cllmfs.decoding.greedy import Request, decode
from cllmfs.encoding.batches import TypeQuery
from cllmfs.encoding.tokens import tokenize
from cllmfs.encoding.windows import resolve_conflicts
from cllmfs.evaluation import Counts, evaluate_spans
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Span
from cllmfs.training.fit import zero_shot_calibration
from mini.data import Query, held_out_queries, load_sources


def score(extractor: Extractor, queries: Sequence[Query]) -> Counts:
    """Strict counts over the queries' own types."""
    backbone, trust = extractor.backbone, zero_shot_calibration(extractor.config)
    requests = [
        Request(
            tokenize(backbone.tokenizer, query.example.text),
            tuple(TypeQuery(kind.key, tuple(backbone.prompt.query(kind.name))) for kind in query.types),
        )
        for query in queries
    ]
    answers = decode(
        backbone, extractor.builder, requests, extractor.config.decode, bidirectional=extractor.bidirectional
    )
    documents = []
    for query, request, answer in zip(queries, requests, answers, strict=True):
        scored = [(request.sentence.char_range(span.first, span.last), span) for span in answer]
        spans = [Span(*place, span.label, trust.confidence(span.score)) for place, span in scored]
        kept = resolve_conflicts([span for span in spans if (span.score or 0.0) >= trust.threshold], nested=False)
        documents.append(Document(query.example.text, tuple(kept)))
    examples = [query.example for query in queries]
    labels = sorted({kind.key for query in queries for kind in query.types})
    return evaluate_spans(examples, documents, labels, scenarios=False).micro


def evaluate(base: str, data: Path, limit: int) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and counts by source, at most ``limit`` sentences of each set and of each sheet."""
    extractor = Extractor(load_backbone(base), Config())
    totals: dict[str, Counts] = {}
    for name, queries in held_out_queries(load_sources(data, written_share=1.0)).items():
        group = f"written: {name.split('/')[0]}" if "/" in name else name
        totals[group] = totals.get(group, Counts()) + score(extractor, queries[:limit])
    return {group: counts.to_dict() for group, counts in totals.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="folder of a base, or cllmfs-mini")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    table = evaluate(arguments.base, arguments.data, arguments.limit)
    for group, record in table.items():
        print(f"{group:28} P {record['precision']:.3f}  R {record['recall']:.3f}  F1 {record['f1']:.3f}")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
