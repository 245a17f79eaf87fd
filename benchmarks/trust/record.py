"""The results file of these scripts: one JSON file with one entry for each script, and small bases to try things on.

This file knows where results go, and which versions they depend on; it knows nothing of what a script counts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cllmfs.benchmark.runs import write_result
from cllmfs.model.folder import versions

PROMPT_FILE = "cllmfs_prompt.json"
RESULTS = Path(__file__).parent / "results.json"


def quiet_libraries() -> None:
    """Settings of the libraries below, for scripts that fork and that must never ask a network; before they load."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "OMP_NUM_THREADS", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


class Recorder:
    """The options that all scripts share, and the entry that one of them writes."""

    def __init__(self, script: str, description: str) -> None:
        self.name = Path(script).stem
        self.parser = argparse.ArgumentParser(description=description)
        self.parser.add_argument("--output", type=Path, help=f"results file, such as {RESULTS}; none by default")
        self.parser.add_argument("--seed", type=int, default=0)

    def parse(self) -> argparse.Namespace:
        """The options of the command line; the clock starts."""
        self.options = self.parser.parse_args()
        self.began = time.monotonic(), sum(os.times()[:4])
        return self.options

    def finish(self, record: Mapping[str, Any], faults: int) -> None:
        """Print the entry, write it if there is a results file, and exit with status 1 if there were faults."""
        wall, cpu = time.monotonic() - self.began[0], sum(os.times()[:4]) - self.began[1]
        options = {key: value for key, value in vars(self.options).items() if isinstance(value, int | float)}
        entry = {
            "date": datetime.date.today().isoformat(),
            "options": options,
            **record,
            "seconds": {"wall": round(wall), "cpu": round(cpu)},
            "versions": versions(),
        }
        print(json.dumps(entry, indent=1, ensure_ascii=False))
        if (path := self.options.output) is not None:
            results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            write_result(path, dict(sorted({**results, self.name: entry}.items())))
        raise SystemExit(1 if faults else 0)


def byte_tokenizer() -> Any:
    """A token a byte, after ``<s>``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def write_small_base(folder: Path, tokenizer: str | Path | None = None, seed: int = 0) -> Path:
    """A base with tiny random weights, which answers nonsense at fifty times the speed of a useful one.

    Its tokenizer is that of a folder, or a token a byte. If the folder is a base itself, its architecture and its
    prompt are used; otherwise it becomes a Llama.
    """
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    made = byte_tokenizer() if tokenizer is None else transformers.AutoTokenizer.from_pretrained(str(tokenizer))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if tokenizer is not None and Path(tokenizer, "config.json").is_file():
        config = transformers.AutoConfig.from_pretrained(str(tokenizer), **sizes, initializer_range=0.2)
    else:
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
        config = transformers.LlamaConfig(
            vocab_size=len(made), num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2,
            **ids, **sizes,
        )  # fmt: skip
    torch.manual_seed(seed)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    made.save_pretrained(folder)
    prompt = {"before": "S:", "after": "\n", "query": "{label}?", "open": "A:"}
    if tokenizer is not None and (own := Path(tokenizer, PROMPT_FILE)).is_file():
        prompt = json.loads(own.read_text(encoding="utf-8"))
    (folder / PROMPT_FILE).write_text(json.dumps(prompt), encoding="utf-8")
    return folder
