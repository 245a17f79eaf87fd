"""Compares the answers of many threads on one recognizer, and of other processes, with the answers of one thread.

    python -m benchmarks.trust.threads --threads 64 --texts 1000 --output benchmarks/trust/results.json

Each thread predicts all texts in an order of its own, in calls of one to four texts, which are the same for all
threads: only then must the answers be equal to the last digit. In a second part, threads use recognizers that share a
base and have different adapters, change thresholds, load models and train, all at the same time. In a third part,
recognizers are sent to other processes by pickle.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.trust.record import Recorder, quiet_libraries, write_small_base
from benchmarks.trust.texts import fuzzed_texts

quiet_libraries()

from cllmfs.config import Config  # noqa: E402
from cllmfs.decoding.greedy import Rules  # noqa: E402
from cllmfs.model.bases import MINI  # noqa: E402
from cllmfs.recognizer import EntityRecognizer  # noqa: E402
from cllmfs.schema import Document, Example, Span  # noqa: E402

LABELS = ["person", "place"]
NAMES = ("Ada Byron", "Bo", "Kim Li", "Zoe", "Max", "Eva")
PLACES = ("Rome", "Oslo", "Lima", "Bern", "Kiel", "Bonn")
QUICK = ("train.steps=4", "calibrate.folds=0", "lora.keep=1", "lora.rank=4", "train.replay=0")
Answer = list[tuple[int, int, str, float | None]]


def answer(document: Document) -> Answer:
    """What is compared: offsets, label and confidence of each span."""
    return [(*span.key, span.score) for span in document.spans]


def some_calls(count: int, seed: int) -> list[list[str]]:
    """Short texts of twelve scripts with a few names, in calls of one to four."""
    rng = random.Random(seed)
    texts = []
    for _, kind, text in islice(fuzzed_texts(seed), 3 * count):
        if kind != "long line" and len(texts) < count:
            texts.append(f"{rng.choice(NAMES)} met {text[:24]} in {rng.choice(PLACES)}.")
    calls, at = [], 0
    while at < count:
        size = rng.randint(1, 4)
        calls.append(texts[at : at + size])
        at += size
    return calls


def shots(number: int) -> list[Example]:
    """Sentences to learn from; other numbers give other ones."""
    made = []
    for one, two in zip(NAMES[number:] + NAMES[:number], PLACES, strict=True):
        text = f"{one} lives in {two}." if number % 2 else f"In {two} we saw {one}."
        at, there = text.index(one), text.index(two)
        spans = (Span(at, at + len(one), "person"), Span(there, there + len(two), "place"))
        made.append(Example(text, spans))
    return made[:3]


class Threads:
    """Threads that start together, the exceptions that they raise, and the differences that they count."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []
        self.lock, self.counts, self.errors = threading.Lock(), Counter[str](), Counter[str]()

    def expect(self, name: str, found: Any, *allowed: Any) -> None:
        """Count an answer, and whether it is none of those allowed."""
        with self.lock:
            self.counts[name] += 1
            self.counts[f"{name}, with spans"] += any(found)
            self.counts[f"{name}, different"] += found not in allowed

    def run(self) -> None:
        """Run all jobs in a thread each."""
        barrier = threading.Barrier(len(self.jobs))

        def guarded(job: Callable[[], None]) -> None:
            barrier.wait()
            try:
                job()
            except BaseException as error:  # counted, whatever it is
                with self.lock:
                    self.errors[f"{type(error).__name__}: {error}"[:200]] += 1

        threads = [threading.Thread(target=guarded, args=(job,)) for job in self.jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.jobs.clear()

    @property
    def faults(self) -> int:
        """Differences and exceptions."""
        return sum(count for name, count in self.counts.items() if name.endswith("different")) + self.errors.total()


def predict_alike(threads: Threads, ner: EntityRecognizer, calls: Sequence[list[str]], count: int) -> None:
    """Part 1: every thread predicts all texts."""
    expected = [list(map(answer, ner.predict(call))) for call in calls]

    def job(number: int) -> None:
        order = list(range(len(calls)))
        random.Random(number).shuffle(order)
        for at in order:
            for document, right in zip(ner.predict(calls[at]), expected[at], strict=True):
                threads.expect("texts on one recognizer", answer(document), right)

    threads.jobs = [lambda number=number: job(number) for number in range(count)]  # type: ignore[misc]
    threads.run()


def use_together(threads: Threads, base: str, calls: Sequence[list[str]], count: int, folder: Path) -> None:
    """Part 2: shared bases with different adapters, thresholds, models loaded, and a training in the middle."""
    config = Config().with_settings(QUICK)
    first = EntityRecognizer(base, config=config, labels=LABELS)
    shared = [first, *(EntityRecognizer(base, config=config, labels=LABELS, share=first) for _ in range(3))]
    for number, ner in enumerate(shared[1:], 1):
        ner.fit(shots(number), quiet=True)
    changing, twin = shared[3], EntityRecognizer(base, config=config, labels=LABELS)
    saved = [ner.save(folder / f"model {number}") for number, ner in enumerate(shared[1:3])]
    thresholds = (0.0, 0.3, 0.9)
    everything = (*range(len(calls)),)
    expected = {
        (number, threshold): [[answer(one) for one in ner.predict(calls[at], threshold=threshold)] for at in everything]
        for number, ner in enumerate(shared)
        for threshold in thresholds
    }
    twin.fit(shots(5), quiet=True)
    after = {
        t: [[answer(one) for one in twin.predict(calls[at], threshold=t)] for at in everything] for t in thresholds
    }

    def reading(seed: int) -> None:
        rng = random.Random(seed)
        for at in rng.sample(everything, len(everything)):
            number, threshold = rng.randrange(len(shared)), rng.choice(thresholds)
            found = [answer(one) for one in shared[number].predict(calls[at], threshold=threshold)]
            allowed = [expected[number, threshold][at], *([after[threshold][at]] if number == 3 else [])]
            threads.expect("calls on shared bases", found, *allowed)

    def loading(number: int) -> None:
        for at in everything[: max(3, len(everything) // 5)]:
            ner = EntityRecognizer.load(saved[number % 2], share=first if number % 3 else None)
            found = [answer(one) for one in ner.predict(calls[at], threshold=0.0)]
            threads.expect("models loaded", found, expected[number % 2 + 1, 0.0][at])

    threads.jobs = [lambda seed=seed: reading(seed) for seed in range(count)]  # type: ignore[misc]
    threads.jobs += [lambda number=number: loading(number) for number in range(max(2, count // 8))]  # type: ignore[misc]
    threads.jobs.append(lambda: changing.fit(shots(5), quiet=True) and None)
    threads.run()
    for at in everything[:20]:
        found = [answer(one) for one in changing.predict(calls[at], threshold=0.0)]
        threads.expect("calls after the training", found, after[0.0][at])


_SENT: list[EntityRecognizer] = []


def _receive(ner: EntityRecognizer) -> None:
    _SENT.append(ner)


def _predict_there(call: list[str]) -> list[Answer]:
    return [answer(document) for document in _SENT[0].predict(call)]


def send_by_pickle(threads: Threads, ner: EntityRecognizer, calls: Sequence[list[str]], processes: int) -> None:
    """Part 3: processes that are spawned, and get the recognizer by pickle."""
    expected = [list(map(answer, ner.predict(call))) for call in calls]
    with multiprocessing.get_context("spawn").Pool(processes, _receive, (ner,)) as pool:
        for found, right in zip(pool.map(_predict_there, calls), expected, strict=True):
            threads.expect("calls in other processes", found, right)


def main() -> None:
    recorder = Recorder(__file__, __doc__ or "")
    recorder.parser.add_argument("--threads", type=int, default=8)
    recorder.parser.add_argument("--texts", type=int, default=40, help="texts that each thread predicts")
    recorder.parser.add_argument("--processes", type=int, default=2, help="processes that get a recognizer by pickle")
    recorder.parser.add_argument("--base", default=MINI, help="the base, or small for a tiny one with random weights")
    options = recorder.parse()
    threads, calls = Threads(), some_calls(options.texts, options.seed)
    if options.base == "small":
        Rules.__init__.__defaults__ = (0.1, -4.0)  # random weights would often answer nothing
    with tempfile.TemporaryDirectory() as place:
        base = str(write_small_base(Path(place, "base"))) if options.base == "small" else options.base
        one = EntityRecognizer(base, labels=LABELS, config=Config().with_settings(["runtime.threshold=1e-6"]))
        predict_alike(threads, one, calls, options.threads)
        print(dict(threads.counts), file=sys.stderr, flush=True)
        use_together(threads, base, calls[: max(10, len(calls) // 20)], options.threads, Path(place))
        print(dict(threads.counts), file=sys.stderr, flush=True)
        send_by_pickle(threads, one, calls[:40], options.processes)
    record = {"base": options.base, "counts": dict(sorted(threads.counts.items())), "errors": dict(threads.errors)}
    recorder.finish({**record, "differences": threads.faults}, threads.faults)


if __name__ == "__main__":
    main()
