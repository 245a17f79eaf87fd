"""What the tests of data sets share: examples, the datasets library, and a folder that it saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cllmfs.schema import Example, Span

TAGS = ["O", "B-per", "I-per", "B-loc"]


ROWS = [
    {"tokens": ["Ada", "King", "sings"], "ner_tags": [1, 2, 0]},
    {"tokens": ["It", "rains"], "ner_tags": [0, 0]},
    {"tokens": ["Rome", "sings"], "ner_tags": [3, 0]},
]


ADA, RAIN, ROME = (
    Example("Ada King sings", (Span(0, 8, "per"),)),
    Example("It rains"),
    Example("Rome sings", (Span(0, 4, "loc"),)),
)


def cli(*arguments: object) -> Result:
    from cllmfs.cli.app import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The datasets library, whose cache is the test's own."""
    found = pytest.importorskip("datasets", reason="needs the datasets library: pip install 'cllmfs[hub]'")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found.disable_progress_bars()
    return found


def table(library: Any, rows: list[dict[str, Any]] = ROWS, **columns: Any) -> Any:
    """A data set of the library; columns of class labels by the names of the classes."""
    made = library.Dataset.from_list(rows)
    features = made.features.copy()
    for column, names in ({"ner_tags": TAGS} | columns).items():
        if column in features and names:
            features[column] = library.Sequence(library.ClassLabel(names=names))
    return made.cast(features)


@pytest.fixture
def saved(library: Any, tmp_path: Path) -> Path:
    """A folder that save_to_disk wrote, with splits as the hub calls them."""
    made = table(library)
    splits = {"train": made, "validation": made.select([1]), "test": made.select([0, 2])}
    library.DatasetDict(splits).save_to_disk(tmp_path / "data" / "saved")
    return tmp_path / "data" / "saved"
