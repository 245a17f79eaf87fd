"""A trained model as a base: answers as before, is an ordinary folder, is a start for other types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from cllmfs.cli.app import app
from cllmfs.config import Config
from cllmfs.errors import ModelError
from cllmfs.recognizer import EntityRecognizer
from cllmfs.schema import Example, Span

SHOTS = [
    Example("Ada met Bo in Rome.", (Span(0, 3, "person"), Span(8, 10, "person"), Span(14, 18, "city"))),
    Example("Kyiv is old.", (Span(0, 4, "city"),)),
]
TEXTS = ["Bo saw Oslo and Ada.", "", "Nobody came."]
# fp32 on a GPU too: only such weights are written as a base.
EXACT = ("runtime.weights=fp32", "train.precision=fp32")
SETTINGS = (*EXACT, "train.steps=20", "lora.rank=4", "train.learning_rate=1e-2", "calibrate.folds=0")


def fitted(base: str) -> EntityRecognizer:
    return EntityRecognizer(base, config=Config().with_settings([*SETTINGS, "lora.keep=1"])).fit(SHOTS)


@pytest.fixture(scope="module")
def trained(tiny_base: Path) -> EntityRecognizer:
    return fitted(str(tiny_base))


@pytest.fixture(scope="module")
def merged(trained: EntityRecognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.save_base(tmp_path_factory.mktemp("merged") / "base")


def raw(ner: EntityRecognizer) -> list[list[tuple[int, int, str, float]]]:
    documents = ner.predict(TEXTS, labels=["person", "city"], threshold=0.0)
    return [[(s.start, s.end, s.label, round(s.score or 0.0, 4)) for s in one.spans] for one in documents]


@pytest.mark.parametrize("base", ["tiny", "cllmfs-mini"])
def test_the_base_answers_as_the_trained_model_did(
    base: str, trained: EntityRecognizer, merged: Path, tmp_path: Path
) -> None:
    model = trained if base == "tiny" else fitted(base)
    folder = merged if base == "tiny" else model.save_base(tmp_path / "base")
    exact = Config().with_settings(EXACT)
    made = EntityRecognizer(str(folder), config=exact)
    made.calibration = model.calibration
    assert raw(made) == raw(model) and any(raw(made))
    plain = EntityRecognizer(model.base, config=exact)
    plain.calibration = model.calibration
    assert raw(plain) != raw(model), "the update must matter, or this shows nothing"


def test_the_folder_is_an_ordinary_base(merged: Path, tiny_base: Path, trained: EntityRecognizer) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (merged, tiny_base))
    assert ours.keys() == theirs.keys() and not any("lora" in name for name in ours)
    assert {name for name in ours if not ours[name].equal(theirs[name])}, "something was learned"
    # The cuts at the edges of words are the package's, not the tokenizer's.
    kept, first = (json.loads((folder / "tokenizer.json").read_text("utf-8")) for folder in (merged, tiny_base))
    assert kept["pre_tokenizer"] == first["pre_tokenizer"] and kept["model"] == first["model"]
    assert EntityRecognizer(str(merged)).info()["prompt"] == trained.info()["prompt"]
    assert all(path.suffix in (".json", ".safetensors", ".jinja") for path in merged.iterdir())


def test_the_base_learns_other_types(merged: Path, tmp_path: Path) -> None:
    folder = fitted(str(merged)).save(tmp_path / "next")
    again = EntityRecognizer.load(folder)
    assert again.base == str(merged) and again.predict(TEXTS[0]).text == TEXTS[0]


def test_writing_leaves_the_model_as_it_was(trained: EntityRecognizer, tmp_path: Path) -> None:
    before = raw(trained)
    trained.save_base(tmp_path / "base")
    assert raw(trained) == before and trained.trained


def test_what_cannot_be_written_is_reported(trained: EntityRecognizer, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no adapter to merge into the base: call fit\(\) first"):
        EntityRecognizer(str(tiny_base)).save_base(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(ModelError, match="holds something already"):
            trained.save_base(place)
    with pytest.raises(ModelError, match="cannot be written to"):
        trained.save_base(Path("/proc/none/base"))
    assert not (tmp_path / "none").exists() and (tmp_path / "full" / "mine.txt").read_text("utf-8") == "mine"


def test_rounded_weights_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    rounded = EntityRecognizer(str(tiny_base), config=Config().with_settings([*SETTINGS, "runtime.weights=bf16"]))
    rounded.fit(SHOTS)
    with pytest.raises(ModelError, match=r"runtime\.weights=fp32"):
        rounded.save_base(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_the_command(trained: EntityRecognizer, merged: Path, tmp_path: Path) -> None:
    model = trained.save(tmp_path / "model")
    done = CliRunner().invoke(app, ["merge", str(model), "--output", str(tmp_path / "base")])
    assert done.exit_code == 0 and done.stdout == f"base: {tmp_path / 'base'}\n"
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", merged))
    assert all(ours[name].allclose(theirs[name]) for name in theirs)
    refused = {tmp_path / "base": "a base has no adapter to merge", tmp_path / "no": "must be the folder"}
    for wrong, message in refused.items():
        failed = CliRunner().invoke(app, ["merge", str(wrong), "--output", str(tmp_path / "other")])
        assert failed.exit_code == 2 and message in failed.stderr and not (tmp_path / "other").exists()
