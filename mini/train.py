"""Train ``cllmfs-mini`` on extraction trees.

    python -m mini.build WHEEL --output runs/mini-start
    python -m mini.train --data DATA --start runs/mini-start --output runs/mini
    python -m mini.export runs/mini --output src/cllmfs/mini

Settings come from ``config.toml`` beside this file; ``--set job.steps=1400`` changes one. The run is logged to
``OUTPUT/log.jsonl``, saved every few hundred steps and resumes from its last checkpoint when called again.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from cllmfs.config import Config
from cllmfs.encoding.batches import Batch, collate, pack
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Row
from cllmfs.model.loading import load_backbone
from cllmfs.training.loop import Optimization
from cllmfs.training.recipe import Recipe
from mini.data import Query, Source, draw, load_all, summary

CONFIG = Path(__file__).with_name("config.toml")


def read_settings(path: Path, changes: Sequence[str] = ()) -> dict:
    """The settings of a file, with some of them changed: each change is a line of TOML, ``section.name = value``.

    Raises:
        SystemExit: if a change is no such line, or the file has no such setting.
    """
    settings = tomllib.loads(path.read_text(encoding="utf-8"))
    for change in changes:
        try:
            changed = tomllib.loads(change)
        except tomllib.TOMLDecodeError as error:
            raise SystemExit(f"a change is a line of TOML, such as job.steps=1400, got {change!r}: {error}") from error
        for section, values in changed.items():
            known = settings.get(section, {})
            if not isinstance(values, dict) or set(values) - set(known):
                names = ", ".join(f"{section}.{name}" for section, names in settings.items() for name in names)
                raise SystemExit(f"there is no such setting: {change!r}; there are {names}")
            known.update(values)
    return settings


def rows_of(query: Query, encoder: Encoder, index: int, longest: int) -> list[Row]:
    """The tree of one drawn query; none if its sentence is empty or longer than ``longest`` tokens."""
    text = encoder.tokenize(query.example.text)
    if not len(text) or len(text) > longest:
        return []
    gold = encoder.answers(text, query.example.spans)
    types = [encoder.query(kind.key, kind.name, kind.description, gold.get(kind.key, ())) for kind in query.types]
    return encoder.rows(text, types, index)


def batches_of(step: int, sources: Sequence[Source], encoder: Encoder, job: dict) -> list[Batch]:
    """The batches of one step: a function of the step's number alone."""
    size = job["sentences_per_step"]
    rows = []
    for index in range(step * size, (step + 1) * size):
        rows += rows_of(draw(sources, seed=job["seed"], index=index), encoder, index, job["max_sentence_tokens"])
    return [collate(group) for group in pack(rows, job["batch_tokens"])]


def train(data: Path, start: Path, output: Path, settings: dict, stop_after: float, until: int | None) -> None:
    """Run or resume; leaves ``OUTPUT/checkpoint`` and ``OUTPUT/log.jsonl``.

    Args:
        data: folder of the public sets.
        start: the untrained decoder.
        output: where checkpoint and log go.
        settings: the content of ``config.toml``.
        stop_after: seconds after which a run stops, to be resumed.
        until: the last step, the schedule being that of the whole run.
    """
    output.mkdir(parents=True, exist_ok=True)
    sources = load_all(data, **{name: settings["job"][name] for name in ("written_share", "annotated_share")})
    facts = summary(sources)
    backbone = load_backbone(str(start), weights="fp32")
    backbone.model.get_input_embeddings().weight.requires_grad_(False)
    job = settings["job"]
    config = Config.from_dict({"loss": settings["loss"], "train": {"seed": job["seed"]}})
    encoder = backbone.encoder(config)
    optimization = Optimization(
        backbone,
        lambda step: batches_of(step, sources, encoder, job),
        config,
        Recipe(steps=job["steps"], **settings["recipe"]),
    )
    checkpoint = output / "checkpoint"
    if checkpoint.is_dir():
        optimization.load(checkpoint)
    began, tokens = time.monotonic(), 0
    with (output / "log.jsonl").open("a", encoding="utf-8") as log:
        for step in optimization.steps():
            tokens += step.tokens
            elapsed = time.monotonic() - began
            print(json.dumps({**asdict(step), "tokens_per_second": round(tokens / elapsed)}), file=log, flush=True)
            last = step.number in (step.total, until) or elapsed > stop_after
            if step.number % job["checkpoint_every"] == 0 or last:
                optimization.save(checkpoint, {"settings": settings, "data": facts})
            if last:
                break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS")
    parser.add_argument(
        "--until", type=int, metavar="STEP", help="stop there; the schedule stays that of the whole run"
    )
    arguments = parser.parse_args()
    train(
        arguments.data,
        arguments.start,
        arguments.output,
        read_settings(arguments.config, arguments.set),
        arguments.stop_after,
        arguments.until,
    )
