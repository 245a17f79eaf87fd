"""The command in this process and in one of its own, sentences, and a recognizer that records its arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cllmfs.cli import model as cli_model
from cllmfs.cli import train as cli_train
from cllmfs.cli.app import app
from cllmfs.config import Config
from cllmfs.evaluation import Scores, evaluate_spans
from cllmfs.schema import Document, Example, LabelSet, Span
from tests.test_progress import Progress, Step

# In the order of the help.
COMMANDS = (
    "validate",
    "convert",
    "sample",
    "train",
    "calibrate",
    "predict",
    "evaluate",
    "merge",
    "info",
    "benchmark",
    "report",
    "data",
    "demo",
)

ROOT = Path(__file__).resolve().parents[2]

ADA = {
    "text": "Ada lives in Rome.",
    "spans": [{"start": 0, "end": 3, "label": "PER"}, {"start": 13, "end": 17, "label": "LOC"}],
}
RAIN = {"text": "It rains.", "spans": []}

ASKED: dict[str, Any] = {}
HOOKS: dict[str, Callable[..., None]] = {}


def cli(*arguments: object, stdin: bytes | str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def process(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **settings}
    command = [sys.executable, "-m", "cllmfs", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, env=environment)


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "data.jsonl", ADA, RAIN)


class FakeRecognizer:
    """Gives the first label to every capitalized word; records its arguments in ``ASKED``; ``HOOKS`` can break it."""

    def __init__(self, base: str, *, labels: Any = None, config: Any = None, device: Any = None) -> None:
        ASKED.update(base=base, labels=labels, config=config, device=device)
        HOOKS.get("init", lambda: None)()
        self.base, self.config, self.trained = base, config or Config(), False
        self.labels = None if labels is None else LabelSet(labels)
        self.retention = None

    @classmethod
    def load(
        cls, model: str, *, labels: Any = None, config: Any = None, base: Any = None, device: Any = None
    ) -> FakeRecognizer:
        ASKED.update(model=model, moved=base)
        manifest = Path(model) / "cllmfs.json"
        saved = json.loads(manifest.read_text(encoding="utf-8"))["labels"] if manifest.exists() else None
        return cls(model, labels=labels or saved, config=config, device=device)

    def fit(
        self, examples: Sequence[Example], *, dev: Any = None, checkpoint: Any = None, resume: bool = False,
        on_progress: Any = None,
    ) -> FakeRecognizer:  # fmt: skip
        ASKED.update(examples=list(examples), dev=dev, checkpoint=checkpoint, resume=resume)
        on_progress(Progress(Step(2, 2, loss=9.0), phase="calibrating, part 1 of 1"))
        for number in range(1, 4):
            on_progress(Progress(Step(number, 3), dev_f1=0.5 if dev else None, best_f1=0.75 if dev else None))
        HOOKS.get("fit", lambda _: None)(checkpoint)
        self.labels = self.labels or LabelSet.of_examples(examples)
        self.shots = {"steps": 3}
        self.trained = True
        return self

    def stream(self, texts: Iterable[str], *, labels: Any = None, threshold: float | None = None) -> Iterator[Document]:
        ASKED.update(asked_labels=labels, threshold=threshold)
        label = next(iter(labels or self.labels or ()))
        for text in texts:
            words, at = [], 0
            for word in text.split(" "):
                if word[:1].isupper():
                    words.append(Span(at, at + len(word), label, 0.9, word))
                at += len(word) + 1
            yield Document(text, tuple(words))

    def predict(self, texts: Sequence[str]) -> list[Document]:
        return list(self.stream(texts))

    def evaluate(self, examples: Sequence[Example], *, labels: Any = None) -> Scores:
        return evaluate_spans(examples, list(self.stream([one.text for one in examples], labels=labels)), labels or ())

    def save(self, folder: Path) -> Path:
        return model_folder(folder, dict(self.labels or {}), self.config)

    def info(self) -> dict[str, Any]:
        return {"base": self.base, "trained": self.trained, "config": self.config.to_dict()}


def model_folder(folder: Path, labels: dict[str, str], config: Config | None = None) -> Path:
    record = {
        "format": 2, "base": "b", "base_hash": "h", "labels": labels, "prompt": {},
        "config": (config or Config()).to_dict(),
    }  # fmt: skip
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "cllmfs.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("cllmfs.recognizer")
    module.EntityRecognizer = FakeRecognizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cllmfs.recognizer", module)
    for command in (cli_model, cli_train):
        monkeypatch.setattr(command, "check_findable", lambda base: None)
    ASKED.clear()
    HOOKS.clear()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    return jsonl(tmp_path / "shots.jsonl", ADA, RAIN)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", {"NAME": ""}, Config().with_settings(["spans.nested=true"]))
