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
from cllmfs.decoding.calibration import Calibration, ExpectedCalibrations
from cllmfs.decoding.extraction import resolve_conflicts
from cllmfs.decoding.greedy import decode
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Request
from cllmfs.evaluation import Counts, evaluate_spans
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import load_backbone
from cllmfs.schema import Document, Span
from mini.data import Query, held_out_queries, load_all


def score(backbone: Backbone, encoder: Encoder, queries: Sequence[Query], calibration: Calibration) -> Counts:
    """Strict counts over the queries' own types."""
    requests = [
        Request(encoder.tokenize(query.example.text), tuple(encoder.query(kind.key, kind.name) for kind in query.types))
        for query in queries
    ]
    documents = []
    for query, request, answer in zip(queries, requests, decode(backbone, encoder, requests), strict=True):
        scored = [(request.sentence.char_range(span.first, span.last), span) for span in answer]
        spans = [Span(*place, span.label, calibration.confidence(span.score)) for place, span in scored]
        kept = [span for span in spans if (span.score or 0.0) >= calibration.threshold]
        documents.append(Document(query.example.text, tuple(resolve_conflicts(kept, nested=False))))
    examples = [query.example for query in queries]
    labels = sorted({kind.key for query in queries for kind in query.types})
    return evaluate_spans(examples, documents, labels, scenarios=False).micro


def evaluate(base: str, data: Path, limit: int) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and counts by source, for at most ``limit`` sentences of each set and of each sheet."""
    backbone = load_backbone(base)
    encoder = backbone.encoder(Config())
    calibration = ExpectedCalibrations.of_base(backbone.figures, votes=True, source=base).zero_shot
    totals: dict[str, Counts] = {}
    for name, queries in held_out_queries(load_all(data, written_share=1.0, annotated_share=1.0)).items():
        group = f"written: {name.split('/')[0]}" if "/" in name else name
        counts = score(backbone, encoder, queries[:limit], calibration)
        totals[group] = totals.get(group, Counts()) + counts
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
