"""Contenders that need an environment of their own: each is a process that predicts on request.

The process is this file, run by the Python of the other environment. It reads one line of JSON with the work, and then
one line for each repetition; it writes a line when it is done. Its weights are not trained, which does not change the
cost. Knows the baselines of the few-shot benchmark and processes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Peer:
    """A contender in another environment; calling it predicts the texts once.

    Args:
        python: the Python of the environment.
        system: ``span-marker`` or ``spacy``.
        encoder: the folder of the encoder.
        labels: the types.
        texts: the texts to predict.

    Raises:
        RuntimeError: if its process ends.
    """

    def __init__(self, python: str, system: str, encoder: str, labels: Sequence[str], texts: Sequence[str]) -> None:
        self.system = system
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.speed.peers", system],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(json.dumps({"encoder": encoder, "labels": list(labels), "texts": list(texts)}))

    def __call__(self) -> None:
        self._ask("again")

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _ask(self, line: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: S101 - for the type checker
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        while (answer := self.process.stdout.readline()) != "done\n":  # libraries print other lines
            if not answer:
                raise RuntimeError(f"{self.system} ended with {self.process.wait()}; its error is above")


def _span_marker(work: dict[str, Any]) -> Callable[[], Any]:
    from span_marker import SpanMarkerModel

    from benchmarks.few_shot import span_marker_ner
    from benchmarks.speed.workload import as_tokens

    recipe = span_marker_ner.SpanMarkerRecipe()
    model = SpanMarkerModel.from_pretrained(
        work["encoder"],
        labels=["O", *(f"{edge}-{label}" for label in work["labels"] for edge in "BI")],
        model_max_length=recipe.model_max_length,
        marker_max_length=recipe.marker_max_length,
        entity_max_length=recipe.entity_max_length,
    )
    model.data_collator = span_marker_ner.TrimmedCollator(model.tokenizer, recipe.marker_max_length)
    examples = as_tokens(work["texts"])
    return lambda: span_marker_ner.predict(model.eval(), examples)


def _spacy(work: dict[str, Any]) -> Callable[[], Any]:
    from benchmarks.few_shot import spacy_ner
    from benchmarks.speed.workload import as_tokens

    nlp = spacy_ner.pipeline(work["encoder"])
    for label in work["labels"]:
        nlp.get_pipe("ner").add_label(label)
    examples = as_tokens(work["texts"])
    pairs = [spacy_ner.Pair(spacy_ner.document(nlp, one), spacy_ner.document(nlp, one)) for one in examples[:8]]
    nlp.initialize(lambda: pairs)
    return lambda: spacy_ner.predict(nlp, examples)


def main() -> None:
    system = {"span-marker": _span_marker, "spacy": _spacy}[sys.argv[1]]
    predict = system(json.loads(sys.stdin.readline()))
    print("done", flush=True)
    for _ in sys.stdin:
        predict()
        print("done", flush=True)


if __name__ == "__main__":
    main()
