"""Measurements that need a process of their own: peak memory, the time to the first answer, a stream of documents.

    python -m benchmarks.speed.processes training trees 150000 CONFIG

does one piece of work, with the configuration given as JSON, and prints its peak memory as JSON. :func:`peak` starts
such processes, :func:`start` any others. Knows the contenders and processes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cllmfs.benchmark.task import peak_megabytes

ROOT = Path(__file__).resolve().parents[2]
Config = Mapping[str, Any]

_IMPORT = "import cllmfs"
_PREDICT = "from cllmfs import EntityRecognizer as E; print(len(E().predict('The hub creaks.', labels=['part']).spans))"
STARTS = {
    "python alone": [sys.executable, "-c", "pass"],
    "import cllmfs": [sys.executable, "-c", _IMPORT],
    "cllmfs --help": [sys.executable, "-m", "cllmfs", "--help"],
    "first prediction": [sys.executable, "-c", _PREDICT],
}


def peak(config: Config, kind: str, way: str, size: int) -> dict[str, float]:
    """Peak megabytes of a process that does a piece of work: after its model is loaded, and at its end.

    Args:
        config: the configuration of the benchmark.
        kind: ``decoding``, ``training`` or ``stream``.
        way: the contender; for a stream, the folder for its files.
        size: the size of the vocabulary; for a stream, its megabytes.

    Raises:
        RuntimeError: if the process fails.
    """
    command = [sys.executable, "-m", "benchmarks.speed.processes", kind, way, str(size), json.dumps(dict(config))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{kind} {way} failed: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def start(command: Sequence[str]) -> Callable[[], None]:
    """A function that runs a command from its start to its end.

    Raises:
        RuntimeError: if the process fails, when the function is called.
    """

    def work() -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")

    return work


def _decoding(config: Config, way: str, vocabulary: int) -> Callable[[], Any]:
    from benchmarks.speed import workload
    from benchmarks.speed.contenders import Recognizer, loaded
    from benchmarks.speed.naive import NaiveDecoder

    backbone, labels = loaded(config["base"], vocabulary), workload.type_names(config["types"])
    texts = workload.texts(backbone.prompt.tokenizer, config["tokens"], config["sentences"], config["seed"])
    if way == "naive":
        decoder = NaiveDecoder(backbone, config["naive_batch"])
        return lambda: decoder.predict(texts, labels)
    recognizer = Recognizer(backbone, way == "trees")
    return lambda: recognizer.predict(texts, labels)


def _training(config: Config, way: str, vocabulary: int) -> Callable[[], Any]:
    from benchmarks.speed import workload
    from benchmarks.speed.contenders import NaiveTraining, Training, loaded

    backbone, labels = loaded(config["base"], vocabulary), workload.training_labels(config["types"])
    if way == "naive":
        return partial(NaiveTraining(backbone, labels).steps, config["steps"])
    return partial(Training(backbone, labels, way == "trees").steps, config["steps"])


def _stream(config: Config, way: str, megabytes: int) -> Callable[[], Any]:
    """``cllmfs predict`` over a JSONL file, with a tiny base, since only the memory is measured."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from benchmarks.speed import workload
    from cllmfs.cli.app import app
    from cllmfs.model.bases import base_folder
    from cllmfs.model.loading import PROMPT_FILE

    folder = Path(way)
    own = Path(str(base_folder(config["base"])))
    tokenizer = AutoTokenizer.from_pretrained(own)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(config["seed"])
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **sizes))
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    shutil.copy(own / PROMPT_FILE, folder / "base")
    texts = workload.texts(tokenizer, 256, 64, 0)
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        number = 0
        while file.tell() < megabytes * 1e6:
            file.write(json.dumps({"text": f"{number}: {texts[number % len(texts)]}"}) + "\n")
            number += 1
    paths = ["--input", str(folder / "texts.jsonl"), "--output", str(folder / "spans.jsonl")]

    def predict() -> None:
        if code := app(["predict", str(folder / "base"), *paths, "--label", "part"], standalone_mode=False):
            raise RuntimeError(f"cllmfs predict ended with {code}")

    return predict


def main() -> None:
    kind, way, size, config = sys.argv[1:]
    work = {"decoding": _decoding, "training": _training, "stream": _stream}[kind](json.loads(config), way, int(size))
    loaded, began = peak_megabytes(), time.perf_counter()
    work()
    print(json.dumps({"loaded": loaded, "peak": peak_megabytes(), "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
