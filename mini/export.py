"""Turn a training checkpoint into the base folder that ships: bf16 safetensors, tokenizer, prompt, model card.

Run as ``python -m mini.export runs/mini --start runs/mini-start --output src/cllmfs/mini``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from cllmfs.model.loading import FIGURES_FILE, PROMPT_FILE, load_backbone

CARD = Path(__file__).with_name("MODEL_CARD.md")
TRAINING = Path(__file__).with_name("training.json")  # how the weights that ship were made; the card quotes it
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_KEPT = ("config.json", "model.safetensors", *_TOKENIZER, PROMPT_FILE, FIGURES_FILE, "README.md")


def export(run: Path, start: Path, output: Path) -> None:
    """Write the base folder; every trained parameter must be in the checkpoint."""
    state = load_file(run / "checkpoint" / "state.safetensors")
    record = json.loads((run / "checkpoint" / "state.json").read_text(encoding="utf-8"))
    backbone = load_backbone(str(start), weights="fp32")
    names = dict(backbone.model.named_parameters())
    trained = {key.removeprefix("parameter/"): value for key, value in state.items() if key.startswith("parameter/")}
    if unknown := sorted(set(trained) - set(names)):
        raise SystemExit(f"the checkpoint is of another model: {unknown[0]} is unknown")
    with torch.no_grad():
        for name, value in trained.items():
            names[name].copy_(value)
    output.mkdir(parents=True, exist_ok=True)
    backbone.model.to(torch.bfloat16).save_pretrained(output)
    for name in (*_TOKENIZER, PROMPT_FILE):
        shutil.copyfile(start / name, output / name)
    if CARD.is_file():
        shutil.copyfile(CARD, output / "README.md")
    for path in output.iterdir():
        if path.is_file() and path.name not in _KEPT:
            path.unlink()
        elif path.is_file():
            path.chmod(0o644)  # weights are written for the owner alone, and this folder goes into a package
    facts = {"settings": record["settings"], "data": record["data"]}
    TRAINING.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: step {record['done']} of {record['total']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.run, arguments.start, arguments.output)
