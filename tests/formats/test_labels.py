"""Label files: each form by hand, the round trip, and each error by its text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.formats import read_labels, write_labels
from cllmfs.schema import LabelSet
from tests.formats.conftest import (
    ODD,
    in_folder,
    odd_text,
    write,
)

LABELS = LabelSet({"PER": "a person", "odd name": ""})


@in_folder
@given(
    st.dictionaries(
        st.text(st.sampled_from(ODD), min_size=1, max_size=6).filter(str.strip), odd_text, min_size=1, max_size=4
    )
)
def test_labels_round_trip(tmp_path: Path, described: dict[str, str]) -> None:
    write_labels(LabelSet(described), tmp_path / "labels.toml")
    assert read_labels(tmp_path / "labels.toml") == LabelSet(described)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.toml", '[labels]\nPER = "a person"\n"odd name" = ""\n'),
        ("a.toml", '[[label]]\nname = "PER"\ndescription = "a person"\n[[label]]\nname = "odd name"\n'),
        ("a.toml", 'PER = "a person"\n"odd name" = ""\n'),
        ("a.txt", "PER\ta person\r\n\nodd name\n"),
        ("a.json", '{"PER": "a person", "odd name": ""}'),
        ("a.json", '{\n"labels": {"PER": "a  person", "odd name": ""}}'),
        ("a.json", '[{"name": "PER", "description": "a person"}, "odd name"]'),
    ],
)
def test_label_files(tmp_path: Path, name: str, content: str) -> None:
    assert read_labels(write(tmp_path, content, name)) == LABELS


def test_plain_label_lists(tmp_path: Path) -> None:
    for name, content in (("a.toml", 'labels = ["PER", "LOC"]'), ("a.json", '["PER", "LOC"]'), ("a.txt", "PER\nLOC")):
        assert read_labels(write(tmp_path, content, name)) == LabelSet(["PER", "LOC"])


def test_labels_are_written_by_hand(tmp_path: Path) -> None:
    write_labels(LabelSet({"PER": 'say "who"', "a.b": "", "\u4eba": "x\x7fy"}), tmp_path / "labels.toml")
    expected = '[labels]\nPER = "say \\"who\\""\n"a.b" = ""\n"\u4eba" = "x\\u007fy"\n'
    assert (tmp_path / "labels.toml").read_text(encoding="utf-8") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "[labels\n", "a.toml: the file must be TOML: "),
        ("a.toml", "[labels]\nPER = 5\n", r"labels\[0\]'.*are strings; got .*5"),
        ("a.toml", "[labels]\n", "at least one label is needed"),
        ("a.toml", '[labels]\nPER = ""\nPER = ""\n', "must be TOML"),
        ("a.toml", '[[label]]\nname = "PER"\n[[label]]\nname = "PER"\n', "the label 'PER' is given twice"),
        ("a.toml", '[[label]]\ndescription = "PER"\n', "has a name and a description"),
        ("a.json", "{", "the file must be JSON: "),
        ("a.json", '{"PER": "", "PER": ""}', "the label 'PER' is given twice"),
        ("a.json", "[1]", "has a name and a description that are strings; got 1"),
        ("a.json", "7", "has a name and a description that are strings; got 7"),
        ("a.txt", "PER\nPER\n", "a.txt, field 'labels': the label 'PER' is given twice"),
        ("a.txt", "\tdescription\n", "must be a non-empty string"),
        ("a.txt", "", "at least one label is needed"),
        ("a.yaml", "PER: x", "a label file ends in .toml, .json or .txt, got '.yaml'"),
    ],
)
def test_bad_label_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(write(tmp_path, content, name))
