"""Facts of data sets: counts, metadata, and the commands that show them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cllmfs.datasets.catalog import catalog
from cllmfs.datasets.facts import SplitFacts, dataset_facts, metadata, split_facts
from cllmfs.schema import Example, Span
from tests.datasets.conftest import ADA, RAIN, ROME, cli, table


def test_a_card_in_a_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", encoding="utf-8")
    (tmp_path / "META.json").write_text('{"domain": "songs", "license": ["mine", 1]}', encoding="utf-8")
    assert metadata(f"hf:{tmp_path}") == {"license": "mine, 1", "domain": "songs"}
    (tmp_path / "META.json").write_text("[", encoding="utf-8")
    assert metadata(f"hf:{tmp_path}") == {"license": "cc-by-4.0"}


def test_a_split_is_counted() -> None:
    nested = Example("Ada King's song", (Span(0, 8, "per"), Span(0, 15, "work"), Span(1, 2, "bit")))
    assert split_facts([nested, ADA, RAIN, ADA]) == SplitFacts(
        sentences=4,
        tokens=5 + 3 + 2 + 3,  # Ada, King, ', s, song
        mentions={"per": 3, "bit": 1, "work": 1},
        without_mentions=1,
        longest_mention=5,
        repeated=1,
    )
    assert list(split_facts([nested, ADA]).mentions) == ["per", "bit", "work"]
    assert split_facts([]) == SplitFacts(0, 0, {}, 0, 0, 0)
    assert split_facts([Example("a b", (Span(1, 2, "x"),))]).longest_mention == 0, "white space is no token"


def put(path: Path, *examples: Example) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(example.to_dict()) + "\n" for example in examples), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder: one set with a META.json, one without, one that is broken, and what is no data set."""
    data = tmp_path / "data"
    put(data / "songs" / "train.jsonl", ADA, RAIN, RAIN)
    put(data / "songs" / "test.jsonl", RAIN, ROME)
    meta = {"license": "CC0", "language": "en", "domain": "songs", "source": {"repo": "x/y", "commit": "ab"}, "n": 1}
    (data / "songs" / "META.json").write_text(json.dumps(meta), encoding="utf-8")
    put(data / "tallied" / "test.jsonl", ROME)
    counts = {"splits": {"test": {"sentences": 1234}, "odd": {"sentences": 1}, "dev": 3}, "labels": ["a", "b"]}
    (data / "tallied" / "META.json").write_text(json.dumps({**counts, "license": ["MIT", "\x1b"]}), encoding="utf-8")
    (data / "notes").mkdir()
    (data / "file.txt").write_text("", encoding="utf-8")
    return data


def test_facts_of_a_folder(folder: Path) -> None:
    facts = dataset_facts("songs", str(folder / "songs"))
    assert facts.metadata == {"language": "en", "domain": "songs", "license": "CC0", "origin": "repo x/y, commit ab"}
    assert facts.test_in_train == 1 and facts.labels == ["loc", "per"]
    assert facts.splits["train"] == SplitFacts(3, 7, {"per": 1}, 2, 2, 1)
    assert dataset_facts("tallied", str(folder / "tallied")).test_in_train is None


def test_facts_of_the_hub_do_without_a_card(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.DatasetCard.load", unreachable)
    assert metadata("hf:a/b") == {"origin": "https://huggingface.co/datasets/a/b"}
    monkeypatch.setattr(
        "huggingface_hub.DatasetCard.load",
        lambda path: SimpleNamespace(data=SimpleNamespace(to_dict=lambda: {"license": "mit"})),
    )
    assert metadata("hf:a/b")["license"] == "mit"


def test_list_shows_a_line_for_each_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_argument = cli("data", "list", folder)
    assert by_argument.exit_code == 0
    assert cli("data", "list", "--data", folder).stdout == by_argument.stdout
    monkeypatch.setenv("CLLMFS_DATA", str(folder))
    assert cli("data", "list").stdout == by_argument.stdout
    rows = [line.split() for line in by_argument.stdout.splitlines()]
    assert ["songs", "en", "2", "3", "2", "CC0", "songs"] in rows
    assert ["tallied", "2", "1,234", "MIT,", "␛"] in rows, "sizes are those of META.json; control characters are shown"
    assert "notes" not in by_argument.stdout
    records = json.loads(cli("data", "list", "--json").stdout)
    assert [record["name"] for record in records] == ["songs", "tallied"]
    assert records[0]["sentences"] == {"train": 3, "test": 2} and records[0]["metadata"]["license"] == "CC0"


def test_list_goes_on_after_a_broken_data_set(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "test.jsonl").write_text("{", encoding="utf-8")
    done = cli("data", "list", folder)
    assert done.exit_code == 2
    assert "tallied" in done.stdout and "bad" not in done.stdout
    assert "error: bad: " in done.stderr and "test.jsonl:1" in done.stderr


def test_list_says_where_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLLMFS_DATA", raising=False)
    assert "the data sets' folder must exist, got None; pass --data or set CLLMFS_DATA" in cli("data", "list").stderr
    assert "there is no data set in the folder" in cli("data", "list", tmp_path).stderr


def test_list_knows_what_the_library_saved(saved: Path) -> None:
    (record,) = json.loads(cli("data", "list", saved.parent, "--json").stdout)
    assert (record["name"], record["types"]) == ("hf:saved", 2)
    assert record["sentences"] == {"train": 3, "dev": 1, "test": 2}
    assert json.loads(cli("data", "info", "hf:saved", "--data", saved.parent, "--json").stdout)["test_in_train"] == 2


def test_list_of_the_catalog_has_a_line_for_each_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (70, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = cli("data", "list", "--catalog").stdout.splitlines()
        rows = {line.split()[0]: line for line in lines if line.strip()}
        assert catalog().keys() <= rows.keys()
        shown = [line for line in lines if line.split()[:1] == ["conll2003"]]
        assert len(shown) == 1 and len(shown[0]) <= width and " yes " in shown[0] and " yes " not in rows["wnut17"]
        assert ("hf:eriktks/conll2003" in shown[0]) == (width == 160)
    monkeypatch.delenv("COLUMNS")  # a pipe has no edge
    assert "hf:DFKI-SLT/few-nerd#supervised?tags=fine_ner_tags" in cli("data", "list", "--catalog").stdout
    records = json.loads(cli("data", "list", "--catalog", "--json").stdout)
    assert [record["name"] for record in records] == list(catalog())
    assert next(record for record in records if record["name"] == "conll2003")["restricted"] is True


@pytest.mark.parametrize("command", ["list", "info"])
def test_help_of_the_commands_has_examples(command: str) -> None:
    shown = cli("data", command, "--help").stdout.partition("Examples:\n")[2].splitlines()
    assert len(shown) >= 3 and all(line.startswith(f"    cllmfs data {command}") for line in shown)


def test_info_shows_counts_and_metadata(folder: Path) -> None:
    done = cli("data", "info", "songs", "--data", folder)
    assert done.exit_code == 0
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for row in (
        "license: CC0",
        "origin: repo x/y, commit ab",
        "songs train test",
        "sentences 3 2",
        "tokens 7 4",
        "mentions 1 1",
        "sentences without mentions 66.7% 50.0%",
        "longest mention, tokens 2 1",
        "repeated sentences 1 0",
        "mentions of 2 types train test",
        "loc 0 1",
        "per 1 0",
        "1 sentences of test are in train too",
    ):
        assert row in rows
    record = json.loads(cli("data", "info", folder / "songs", "--json").stdout)
    assert record["splits"]["train"]["repeated"] == 1 and record["labels"] == ["loc", "per"]
    (folder / "songs" / "META.json").unlink()
    assert "license: not known" in cli("data", "info", folder / "songs").stdout


def test_info_refuses_and_accepts(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLLMFS_DATA", raising=False)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": table(library)})
    refused = cli("data", "info", "catalog:conll2003")
    assert refused.exit_code == 2 and "--accept-license" in refused.stderr and refused.stdout == ""
    done = cli("data", "info", "catalog:conll2003", "--accept-license", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["metadata"]["origin"] == "https://huggingface.co/datasets/eriktks/conll2003"
    missing = cli("data", "info", "nothing")
    assert missing.exit_code == 2 and "nothing has none of the splits" in missing.stderr
