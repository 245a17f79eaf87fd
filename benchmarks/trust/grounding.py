"""Counts predicted spans that are not grounded in their text, on fuzzed texts of twelve scripts.

    python -m benchmarks.trust.grounding --spans 1000000 --output benchmarks/trust/results.json

Every candidate is reported (threshold 0), and the small random bases are made to answer more than they would, so that
there are many spans to check. Most of the spans come from random bases, since whether a span is grounded depends on the
tokenizer, the automaton, the windows and the conflicts between types, and not on what the model has learned. The
bundled base gives a part of the spans before and after a short training.
"""

from __future__ import annotations

import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from benchmarks.trust.record import Recorder, quiet_libraries, write_small_base
from benchmarks.trust.texts import fuzzed_texts

quiet_libraries()

from cllmfs.config import Config  # noqa: E402
from cllmfs.decoding.greedy import Rules  # noqa: E402
from cllmfs.formats import read_examples  # noqa: E402
from cllmfs.model.bases import MINI, base_folder  # noqa: E402
from cllmfs.recognizer import EntityRecognizer  # noqa: E402
from cllmfs.schema import Document  # noqa: E402
from cllmfs.words import clusters, word_units  # noqa: E402

LABELS = ["person", "place", "</s>", "東京", "a b\nc", "x" * 80, "👩‍🚀", "work of art"]
MODES: dict[str, tuple[str, ...]] = {
    "word edges": (),
    "token edges": ("spans.edges=token",),
    "word edges, nested": ("spans.nested=true",),
    "token edges, nested": ("spans.edges=token", "spans.nested=true"),
    "small windows": ("runtime.window_tokens=12", "runtime.overlap_tokens=4", "runtime.batch_tokens=400"),
    "small windows, nested": ("runtime.window_tokens=9", "runtime.overlap_tokens=0", "spans.nested=true"),
    "type first": ("prompt.order=type-first",),
    "no votes": ("calibrate.votes=false", "spans.edges=token", "spans.nested=true"),
}
EAGER = Rules(end_bias=-2.0)  # random weights would often answer nothing
MINI_SHARE = 2500  # one in so many spans comes from the bundled base, before and after training
BATCH = 96


def problems(document: Document, text: str, labels: Sequence[str], edges: str, nested: bool) -> Iterator[str]:
    """What is wrong with a document; the rules are stated here anew, from the documentation."""
    if document.text != text:
        yield "another text"
    breaks = {0, *(end for _, end in clusters(text))}
    units = word_units(text) if edges == "word" else []
    starts = [start for start, _ in units]
    for span in document.spans:
        if not (span.start >= 0 and span.end <= len(text)):
            yield "offsets outside"
        if span.start >= span.end:
            yield "empty"
        if span.text != text[span.start : span.end]:
            yield "another text of the span"
        if not (span.text or "").strip():
            yield "white space alone"
        if not {span.start, span.end} <= breaks:
            yield "edge inside a grapheme cluster"
        if edges == "word" and any(_inside(units, starts, edge) for edge in (span.start, span.end)):
            yield "edge inside a word"
        if span.label not in labels:
            yield "label not asked"
        if span.score is None or not 0.0 < span.score <= 1.0:
            yield "no confidence"
    if list(document.spans) != sorted(document.spans) or len({s.key for s in document.spans}) < len(document.spans):
        yield "not sorted, or twice"
    if not nested and any(one.end > other.start for one, other in pairwise(document.spans)):
        yield "overlapping"


def _inside(units: Sequence[tuple[int, int]], starts: Sequence[int], edge: int) -> bool:
    at = bisect_right(starts, edge) - 1
    return at >= 0 and units[at][0] < edge < units[at][1]


class Count:
    """Spans by model, mode and script, the faults, and the first texts that show them."""

    def __init__(self) -> None:
        self.spans: dict[str, Counter[str]] = {name: Counter() for name in ("model", "mode", "script", "kind")}
        self.texts, self.faults, self.shown = 0, Counter[str](), list[dict[str, Any]]()

    def check(self, ner: EntityRecognizer, model: str, mode: str, read: Sequence[tuple[str, str, str]]) -> int:
        """Predict a batch of (script, kind, text); the number of spans that were found."""
        labels = LABELS[: 8 if model != "zero-shot" else 4]
        documents = ner.predict([text for _, _, text in read], labels=labels, threshold=0.0)
        encoder = ner._extractor.encoder  # the settings may leave edges and nesting to the shots
        for (script, kind, text), document in zip(read, documents, strict=True):
            for name, value in (("model", model), ("mode", mode), ("script", script), ("kind", kind)):
                self.spans[name][value] += len(document.spans)
            for problem in problems(document, text, labels, encoder.edges, encoder.nested):
                self.faults[problem] += 1
                if len(self.shown) < 20:
                    self.shown.append({"problem": problem, "model": model, "mode": mode, **document.to_dict()})
        self.texts += len(read)
        return sum(len(document.spans) for document in documents)

    def until(self, wanted: int, ner: dict[str, EntityRecognizer], model: str, seed: int) -> None:
        """Check batches in each mode until a model has given so many spans."""
        texts, size = fuzzed_texts(seed), min(BATCH, max(5, wanted // 400))
        found = 0
        while found < wanted:
            for mode, one in ner.items():
                found += self.check(one, model, mode, list(islice(texts, size)))
        print(f"{model}: {found} spans, {time.process_time():.0f} s", file=sys.stderr, flush=True)


def in_modes(base: str, modes: Iterable[str], rules: Rules | None = None) -> dict[str, EntityRecognizer]:
    """Recognizers of one base, in each mode."""
    made: dict[str, EntityRecognizer] = {}
    first = None
    for mode in modes:
        ner = EntityRecognizer(base, config=Config().with_settings(MODES[mode]), share=first)
        if rules is not None:
            ner._extractor.rules = rules
        first, made[mode] = first or ner, ner
    return made


def train(ner: EntityRecognizer, number: int) -> None:
    """A training of a few seconds on the example data."""
    shots = read_examples(Path(str(base_folder(MINI))).parent / "example" / "train.jsonl")[number : number + 3]
    shots = [one for one in shots if one.spans]
    ner.fit(shots, quiet=True)


def trained() -> dict[str, EntityRecognizer]:
    """The bundled base after a few steps, with word edges and with nested spans."""
    quick = ("train.steps=8", "calibrate.folds=0", "lora.keep=1")
    made: dict[str, EntityRecognizer] = {}
    for mode in ("word edges", "token edges, nested"):
        ner = EntityRecognizer(MINI, config=Config().with_settings([*quick, *MODES[mode]]))
        train(ner, 0)
        made[mode] = ner
    return made


def main() -> None:
    recorder = Recorder(__file__, __doc__ or "")
    recorder.parser.add_argument("--spans", type=int, default=20_000, help="number of predicted spans to check")
    recorder.parser.add_argument(
        "--tokenizers", type=Path, help="folder of tokenizer folders, for further random bases"
    )
    recorder.parser.add_argument("--random-only", action="store_true", help="leave out the bundled base")
    options = recorder.parse()
    count, share = Count(), options.spans // MINI_SHARE
    if not options.random_only:
        zero = in_modes(MINI, ["word edges", "small windows", "token edges, nested"])
        count.until(share, zero, "zero-shot", options.seed)
        count.until(share, trained(), "trained", options.seed + 10)
    folders = sorted(file.parent for file in (options.tokenizers or Path("none")).glob("*/tokenizer.json"))
    bases: list[tuple[str, Path | None]] = [("random, a token a byte", None)]
    bases += [
        (f"random, tokens of {MINI}", base_folder(MINI)),
        *((f"random, tokens of {one.name}", one) for one in folders),
    ]
    with tempfile.TemporaryDirectory() as place:
        for number, (name, tokenizer) in enumerate(bases):
            base = write_small_base(Path(place, str(number)), tokenizer, options.seed)
            left = (options.spans - sum(count.spans["model"].values())) // (len(bases) - number)
            count.until(left, in_modes(str(base), MODES, EAGER), name, options.seed + 20 * number)
    total, faults = sum(count.spans["model"].values()), sum(count.faults.values())
    spans = {name: dict(counts) for name, counts in count.spans.items()}
    record = {"spans": total, "texts": count.texts, "ungrounded": faults, "problems": dict(count.faults)}
    recorder.finish({**record, "spans_by": spans, "shown": count.shown}, faults)


if __name__ == "__main__":
    main()
