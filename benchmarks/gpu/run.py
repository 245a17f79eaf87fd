"""Measures speed and memory of large bases on a GPU: random weights of known shapes, real tokenizers.

    python -m benchmarks.gpu.run --shape qwen3-0.6b --tokenizer DIR --output benchmarks/gpu/results.json

Training uses bf16 and LoRA, on trees and, for comparison, on a row for each sentence and type with
``transformers.Trainer``, with and without recomputed activations. The results are tokens per second, their share of the
rate of matrix products in the same run, peak memory, and the speed of decoding with 1 to 64 types. ``--base DIR
--weights nf4`` takes a base from disk in four bits instead. The script also runs on a CPU; ``--shape tiny`` is made for
that. Operations of grouped-query attention are counted by torch 2.13, but not by 2.11.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks.speed import workload
from benchmarks.speed.contenders import STEP_SENTENCES, NaiveTraining, Recognizer, Training
from benchmarks.speed.measuring import in_turn, machine
from benchmarks.speed.roofline import operations, products
from cllmfs.benchmark.runs import write_result
from cllmfs.decoding.greedy import Rules
from cllmfs.encoding.prompts import PromptTemplate
from cllmfs.model.backbone import Backbone
from cllmfs.model.loading import load_backbone

HERE = Path(__file__).parent


def random_base(shape: str, tokenizer: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    """A model of a shape in ``shapes.toml`` with random weights, made on the device."""
    sizes = tomllib.loads((HERE / "shapes.toml").read_text(encoding="utf-8"))[shape]
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Backbone(shape, model.eval(), AutoTokenizer.from_pretrained(tokenizer), PromptTemplate())


def peak_gigabytes(device: torch.device) -> float | None:
    """Peak memory on the GPU since the last call, in gigabytes; ``None`` on a CPU."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 2)


def matrix_rate(width: int, device: torch.device, dtype: torch.dtype, repetitions: int) -> float:
    """Median FLOP/s of plain matrix products of the model's shapes."""
    work = products(8192, width, 4 * width, 20, device, dtype)
    work()
    return statistics.median(work() for _ in range(repetitions))


def training(
    make: Callable[[], Backbone], types: int, steps: int, repetitions: int, settings: Sequence[str]
) -> dict[str, Any]:
    """Training on trees: tokens and sentences per second, operations, peak memory."""
    learner = Training(make(), workload.training_labels(types), True, settings)
    device, tokens = learner.backbone.device, list[int]()
    flops = operations(lambda: tokens.append(learner.steps(steps)))
    peak_gigabytes(device)
    seconds = statistics.median(in_turn({"": partial(learner.steps, steps)}, repetitions)[""])
    return {
        "tokens_per_second": round(tokens[0] / seconds, 1),
        "sentences_per_second": round(STEP_SENTENCES * steps / seconds, 2),
        "flops_per_second": round(flops / seconds),
        "peak_gb": peak_gigabytes(device),
    }


def naive_training(make: Callable[[], Backbone], types: int, steps: int, repetitions: int) -> dict[str, Any]:
    """Training with a row for each sentence and type through ``Trainer``."""
    learner = NaiveTraining(make(), workload.training_labels(types))
    peak_gigabytes(learner.backbone.device)
    seconds = statistics.median(in_turn({"": partial(learner.steps, steps)}, repetitions)[""])
    rate = round(STEP_SENTENCES * steps / seconds, 2)
    return {"sentences_per_second": rate, "peak_gb": peak_gigabytes(learner.backbone.device)}


def decoding(backbone: Backbone, axis: Sequence[int], sentences: int, repetitions: int) -> dict[str, Any]:
    """Sentences per second on trees, by the number of types; the bias makes most answers of random weights empty."""
    reader = Recognizer(backbone, True, rules=Rules(end_bias=2.0))
    texts = workload.texts(backbone.prompt.tokenizer, 32, sentences, 0)
    contenders = {str(types): partial(reader.predict, texts, workload.type_names(types)) for types in axis}
    seconds = in_turn(contenders, repetitions)
    return {types: round(sentences / statistics.median(times), 2) for types, times in seconds.items()}


def measure(
    make: Callable[[], Backbone], arguments: argparse.Namespace, keep: Callable[[dict[str, Any]], None]
) -> None:
    """All measurements of one base; the results are kept after each part, since a large base takes long."""
    types, steps, repetitions = arguments.types, arguments.steps, arguments.repetitions
    backbone = make()
    device, dtype = backbone.device, backbone.model.dtype
    found: dict[str, Any] = {
        "machine": machine() | {"gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None},
        "weights": backbone.model.num_parameters(),
        "dtype": str(dtype),
        "matrix_flops_per_second": round(matrix_rate(backbone.width, device, dtype, repetitions)),
        "decoding": decoding(backbone, arguments.axis, arguments.sentences, repetitions),
    }
    keep(found)
    del backbone
    for mode in ("off", "on"):
        settings = [f"train.activation_checkpointing={mode}"]
        made = training(make, types, steps, repetitions, settings)
        made["share_of_matrix_rate"] = round(made["flops_per_second"] / found["matrix_flops_per_second"], 4)
        found[f"training, trees, activations anew {mode}"] = made
        keep(found)
    found["training, naive"] = naive_training(make, types, steps, repetitions)
    keep(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--shape", help="shape in shapes.toml, with random weights")
    what.add_argument("--base", help="folder or id of a base")
    parser.add_argument("--tokenizer", help="folder of the tokenizer for a shape")
    parser.add_argument(
        "--weights", default="auto", choices=("auto", "fp32", "bf16", "nf4"), help="number format of the base's weights"
    )
    parser.add_argument("--types", type=int, default=12)
    parser.add_argument("--axis", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.shape and not arguments.tokenizer:
        parser.error("--shape needs --tokenizer")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    make: Callable[[], Backbone] = (
        partial(random_base, arguments.shape, arguments.tokenizer, device, dtype)
        if arguments.shape
        else partial(load_backbone, arguments.base, weights=arguments.weights)
    )
    content = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    name = arguments.shape or f"{Path(arguments.base).name}, {arguments.weights}"
    measure(make, arguments, lambda found: write_result(arguments.output, content | {name: found}))
    print(arguments.output.read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
