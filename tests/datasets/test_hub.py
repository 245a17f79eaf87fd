"""Data sets of the hub: licenses, saved folders, columns, downloads, and benchmarks over them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cllmfs.benchmark.config import BenchmarkConfig, DataSource, PlannedRun, System, read_config
from cllmfs.benchmark.runs import Benchmark
from cllmfs.datasets import hub as hub_datasets
from cllmfs.datasets.catalog import HubName
from cllmfs.datasets.splits import load_split, load_splits
from cllmfs.errors import ConfigError, DataError
from cllmfs.schema import Example, Span
from tests.datasets.conftest import ADA, RAIN, ROME, ROWS, cli, table


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any way to the hub fails the test."""

    def called(*_: object, **__: object) -> None:
        pytest.fail("the hub must not be asked")

    monkeypatch.setattr(hub_datasets, "open_dataset", called)
    monkeypatch.setattr(hub_datasets, "card_facts", called)
    monkeypatch.setattr("socket.socket.connect", called)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached, and whoever tries all the same fails the test."""
    monkeypatch.setattr(hub_datasets, "hub_reachable", lambda: False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the hub must not be asked"))


@pytest.mark.parametrize("source", ["hf:eriktks/conll2003", "hf:eriktks/conll2003@main#conll2003", "catalog:conll2003"])
def test_what_is_restricted_is_not_loaded_unasked(offline: None, source: str) -> None:
    with pytest.raises(DataError, match=r"\(other\): the text comes from the Reuters Corpus") as raised:
        load_split(source, "test")
    for way in ("license_accepted = true", "--accept-license", "https://huggingface.co/datasets/eriktks/conll2003"):
        assert way in str(raised.value)
    with pytest.raises(DataError, match="only after its license was accepted"):
        load_splits(source)


def test_what_the_hub_does_not_have_is_refused(offline: None) -> None:
    with pytest.raises(DataError, match=r"i2b2_2010 is not on the hub: patient records.*name the folder"):
        load_split("catalog:i2b2_2010", "test", license_accepted=True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, r"\(not stated\): its card does not name its license"),
        ({"license": "Unknown"}, r"\(Unknown\): its card does not name its license"),
        ({"license": "cc-by-nc-4.0"}, r"\(cc-by-nc-4.0\): non-commercial use only"),
        ({"license": "mit"}, None),
    ],
)
def test_a_license_that_is_not_in_the_catalog_is_that_of_the_card(
    library: Any, monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], message: str | None
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(hub_datasets, "card_facts", lambda name: asked.append(name) or facts)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": table(library)})
    if message is not None:
        with pytest.raises(DataError, match=message):
            load_split("hf:somebody/something", "test")
        assert asked == [HubName("somebody/something")]
        asked.clear()
        assert load_split("hf:somebody/something", "test", license_accepted=True) == [ADA, RAIN, ROME]
        assert asked == [], "an accepted license is not looked up"
    else:
        assert load_split("hf:somebody/something", "test") == [ADA, RAIN, ROME]


def test_the_card_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard("---\nlicense:\n- mit\n- cc0-1.0\nlanguage: en\n---\nA set.\n")
    monkeypatch.setattr(hub.DatasetCard, "load", lambda path: card)
    assert hub_datasets.card_facts(HubName("a/b")) == {"license": "mit, cc0-1.0", "language": "en"}

    def unreachable(path: str) -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr(hub_datasets, "hub_reachable", lambda: True)

    monkeypatch.setattr(hub.DatasetCard, "load", unreachable)
    assert hub_datasets.card_facts(HubName(str(tmp_path))) == {}, "a folder without a card"
    with pytest.raises(DataError, match="the card of hf:a/b cannot be read: OSError: no route"):
        load_split("hf:a/b", "test")


def test_without_a_network_what_is_not_cached_is_refused_at_once(library: Any, no_network: None) -> None:
    began = time.monotonic()
    message = "the network cannot be reached and hf:leondz/wnut_17 is not in the cache; connect"
    with pytest.raises(DataError, match=message):
        load_split("hf:leondz/wnut_17", "test", license_accepted=True)
    with pytest.raises(DataError, match=r"the card of hf:a/b cannot be read: the network cannot be reached, and it is"):
        load_split("hf:a/b", "test")
    with pytest.raises(DataError, match="the network cannot be reached and hf:a/b@refs/convert/parquet is not"):
        load_split("hf:a/b@refs/convert/parquet", "test", license_accepted=True)
    assert time.monotonic() - began < 10


def test_without_a_network_only_the_cache_is_asked(
    library: Any, no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def load(*_: Any, **__: Any) -> dict[str, Any]:
        seen.append(library.config.HF_HUB_OFFLINE)
        return {"test": table(library)}

    before = library.config.HF_HUB_OFFLINE
    monkeypatch.setattr(library, "load_dataset", load)
    assert load_split("hf:a/b", "test", license_accepted=True) == [ADA, RAIN, ROME]
    assert seen == [True] and library.config.HF_HUB_OFFLINE is before


@pytest.mark.parametrize(
    "name",
    [
        "../..x", "..x/..", "a b/c", "a/b c", "/no/such/folder", "a/b/c", "a", "a/", "-a/b", "a/b..c", "a--b/c",
        "o/" + "x" * 95, "a/b.git", "x" * 5000 + "/y",
    ],
)  # fmt: skip
def test_names_that_the_hub_cannot_have_are_refused_at_once(offline: None, name: str) -> None:
    with pytest.raises(ConfigError, match="must be followed by a folder or by OWNER/NAME of the hub") as raised:
        load_split(f"hf:{name}", "test", license_accepted=True)
    assert len(str(raised.value)) <= 1500


def test_a_folder_without_data_is_not_searched_by_the_library(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``hf:../..`` is a folder, perhaps one with all of a user's files."""
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: pytest.fail("it must not be searched"))
    folder = tmp_path / "home" / "work"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=r"\.\./\.\.: the folder holds no data: there is no file that ends with .arrow"):
        load_split("hf:../..", "test")
    monkeypatch.setattr(hub_datasets, "_MOST_FILES", 4)
    for number in range(5):
        (folder / f"{number}.json").write_text("{}")
    with pytest.raises(DataError, match="must hold at most 4 files and folders; name the folder below it"):
        load_split("hf:../..", "test")


def test_what_save_to_disk_wrote_is_loaded(library: Any, saved: Path, tmp_path: Path) -> None:
    source = f"hf:{saved}"
    assert load_splits(source) == {"train": [ADA, RAIN, ROME], "dev": [RAIN], "test": [ADA, ROME]}
    assert load_split(source, "dev") == [RAIN]
    assert load_split(source, "test")[0].token_offsets == ((0, 3), (4, 8), (9, 14))
    table(library).save_to_disk(tmp_path / "one")
    assert load_split(f"hf:{tmp_path / 'one'}", "train") == [ADA, RAIN, ROME]
    table(library).save_to_disk(tmp_path / "parts" / "test")
    assert load_split(f"hf:{tmp_path / 'parts'}", "test") == [ADA, RAIN, ROME]
    with pytest.raises(DataError, match=r"one split called train; hf:.*parts has test"):
        load_split(f"hf:{tmp_path / 'parts'}", "train")
    with pytest.raises(DataError, match=r"one split called dev or validation or valid; hf:.*one has train"):
        load_split(f"hf:{tmp_path / 'one'}", "dev")
    with pytest.raises(ConfigError, match=r"has no configurations, got hf:.*#en; leave out the part after #"):
        load_split(f"{source}#en", "test")


def test_parquet_and_json_files_are_loaded(library: Any, tmp_path: Path) -> None:
    for name, rows in (("train", ROWS), ("test", ROWS[:1])):
        (tmp_path / "files").mkdir(exist_ok=True)
        table(library, rows).to_parquet(tmp_path / "files" / f"{name}.parquet")
    assert load_splits(f"hf:{tmp_path / 'files'}") == {"train": [ADA, RAIN, ROME], "test": [ADA]}
    lines = tmp_path / "lines" / "test.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"tokens": ["Rome", "sings"], "tags": ["B-loc", "O"]}\n', encoding="utf-8")
    assert load_split(f"hf:{lines.parent}", "test") == [ROME]
    with pytest.raises(DataError, match=r"cannot be loaded: ValueError: BuilderConfig 'en' not found"):
        load_split(f"hf:{lines.parent}#en", "test")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing: the folder holds no data"):
        load_split(f"hf:{tmp_path / 'nothing'}", "test")


def test_the_library_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"the datasets library.*is not installed: pip install 'cllmfs\[hub\]'"):
        load_split(f"hf:{tmp_path}", "test")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))  # could run scripts
    with pytest.raises(ConfigError, match=r"version 4 or later.*, got 3\.6\.0: pip install 'cllmfs\[hub\]'"):
        load_split(f"hf:{tmp_path}", "test")


def loaded(library: Any, path: Path, data: Any, ending: str = "") -> list[Example]:
    library.DatasetDict({"test": data}).save_to_disk(path / "columns")
    return load_split(f"hf:{path / 'columns'}{ending}", "test")


def test_tags_may_be_strings_of_any_scheme(library: Any, tmp_path: Path) -> None:
    rows = [{"tokens": ["Ada", "King", "sings"], "labels": ["B-per", "E-per", "O"]}]
    assert loaded(library, tmp_path, table(library, rows)) == [ADA]


def test_types_without_prefixes_are_tags_of_io(library: Any, tmp_path: Path) -> None:
    rows = [
        {"tokens": ["Ada", "King", "sings"], "ner_tags": [1, 1, 0]},
        {"tokens": ["It", "rains"], "ner_tags": [0, 0]},
    ]
    assert loaded(library, tmp_path, table(library, rows, ner_tags=["O", "per", "art-film"])) == [ADA, RAIN]
    with pytest.raises(DataError, match=r"columns test:1, field 'ner_tags\[0\]': a tag is O or one of .*got 'per'"):
        loaded(library, tmp_path / "mixed", table(library, rows, ner_tags=["O", "per", "B-loc"]))


def test_another_column_is_taken_when_asked_only(library: Any, tmp_path: Path) -> None:
    rows = [{**ROWS[0], "fine_ner_tags": [1, 1, 0], "tags": ["B-x", "O", "O"], "id": "0"}]
    data = table(library, rows, fine_ner_tags=["O", "per-queen"])
    assert loaded(library, tmp_path / "a", data) == [ADA]
    (fine,) = loaded(library, tmp_path / "b", data, "?tags=fine_ner_tags")
    assert fine.spans == (Span(0, 8, "per-queen"),)
    for column in ("id", "none"):
        with pytest.raises(
            DataError, match=rf"tokens and {column}, lists; it has tokens, ner_tags, fine_ner_tags, tags"
        ):
            loaded(library, tmp_path / column, data, f"?tags={column}")


def test_numbers_need_names(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = library.Dataset.from_list(ROWS)
    with pytest.raises(DataError, match=r"test:1, field 'ner_tags': tag numbers must have names, got 1; use a copy"):
        loaded(library, tmp_path, plain)
    hidden = library.Dataset.from_list([{"tokens": ["Ada"], "tags": [-1]}, {"tokens": ["Ada"], "tags": [5]}])
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": hidden})
    for rows in ([0], [1]):
        monkeypatch.setattr(library, "load_dataset", lambda *_, rows=rows, **__: {"test": hidden.select(rows)})
        with pytest.raises(DataError, match=r"test:1, field 'tags': a tag number must be in 0 to 4, got (-1|5)"):
            load_split("catalog:bc5cdr", "test", license_accepted=True)


def test_the_catalog_names_the_numbers_where_a_data_set_does_not(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = library.Dataset.from_list([{"tokens": ["two", "salts"], "tags": [1, 4]}, {"tokens": ["flu"], "tags": [2]}])
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": data})
    first, second = load_split("hf:tner/bc5cdr", "test", license_accepted=True)
    assert (first.spans, second.spans) == ((Span(0, 9, "Chemical"),), (Span(0, 3, "Disease"),))


def test_spans_are_read_too(library: Any, tmp_path: Path) -> None:
    span = {"start": 0, "end": 8, "label": "per", "id": "x"}
    texts = library.Dataset.from_list([{"text": "Ada King sings", "spans": [span]}, {"text": "It rains", "spans": []}])
    assert loaded(library, tmp_path / "texts", texts) == [ADA, RAIN]
    lists = {"start": [0], "end": [8], "label": ["per"]}
    older = library.Dataset.from_list([{"text": "Ada King sings", "entities": lists}])
    assert loaded(library, tmp_path / "older", older) == [ADA]
    tokens = library.Dataset.from_list([{"tokens": ["Rome", "sings"], "spans": [{"start": 0, "end": 1, "label": 0}]}])
    features = tokens.features.copy()
    features["spans"] = [
        {**dict.fromkeys(("start", "end"), library.Value("int64")), "label": library.ClassLabel(names=["loc"])}
    ]
    assert loaded(library, tmp_path / "tokens", tokens.cast(features)) == [ROME]
    outside = library.Dataset.from_list([{"text": "Ada", "spans": [{**span, "end": 9}]}])
    with pytest.raises(DataError, match=r"test:1, field 'spans\[0\]': a span must lie in 0 to 3"):
        loaded(library, tmp_path / "outside", outside)


def test_other_columns_are_refused(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = library.Dataset.from_list([{"text": "good", "labels": 1}])
    with pytest.raises(DataError, match=r"tokens with ner_tags, or spans of tokens or text; it has text, labels"):
        loaded(library, tmp_path, reviews)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": table(library).select([])})
    with pytest.raises(DataError, match="hf:leondz/wnut_17 test: a split must have at least one sentence, got none"):
        load_split("catalog:wnut17", "test")


def test_a_download_names_revision_and_configuration(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append((args, kwargs))
        return {"validation": table(library), "extra": table(library)}

    monkeypatch.setattr(library, "load_dataset", load)
    assert load_split("hf:DFKI-SLT/few-nerd@v1#inter", "dev") == [ADA, RAIN, ROME]
    assert calls == [(("DFKI-SLT/few-nerd", "inter"), {"revision": "v1"})]
    with pytest.raises(DataError, match="one split called test; hf:leondz/wnut_17 has validation, extra"):
        load_split("catalog:wnut17", "test")
    assert list(load_splits("catalog:wnut17")) == ["dev"]


def test_a_failed_download_says_why(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ValueError("Config name is missing.\nPlease pick one among: ['de', 'en']")

    monkeypatch.setattr(library, "load_dataset", load)
    message = (
        r"cannot be loaded: ValueError: Config name is missing. Please pick .*; name one: hf:leondz/wnut_17#CONFIG"
    )
    with pytest.raises(DataError, match=message):
        load_split("hf:leondz/wnut_17", "test")


def test_scripts_are_not_run_but_the_hubs_copy_is_loaded(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def load(*_: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(kwargs)
        if "data_dir" not in kwargs:
            raise RuntimeError("Dataset scripts are no longer supported, but found few-nerd.py")
        return {"test": table(library)}

    paths = ["README.md", "inter/test/0000.parquet", "intra/test/0000.parquet"]
    monkeypatch.setattr(library, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: paths)
    assert load_split("hf:DFKI-SLT/few-nerd#intra", "test") == [ADA, RAIN, ROME]
    assert calls[-1] == {"revision": "refs/convert/parquet", "data_dir": "intra"}
    for wrong, got in (("", "None"), ("#super", "'super'")):
        with pytest.raises(ConfigError, match=f"one of its configurations after a #: inter, intra; got {got}"):
            load_split(f"hf:DFKI-SLT/few-nerd{wrong}", "test")
    with pytest.raises(
        DataError, match="is made by a script, which is never run; leave out @v1 to load the hub's own copy"
    ):
        load_split("hf:DFKI-SLT/few-nerd@v1#intra", "test")
    del paths[2]
    assert load_split("hf:DFKI-SLT/few-nerd@refs/convert/parquet", "test") == [ADA, RAIN, ROME]
    assert calls[-1]["data_dir"] == "inter"


# Finds the first label at the first token of every text.
SYSTEM = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[-1])
label = json.loads((folder / "task.json").read_text())["labels"][-1]
texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
with (folder / "spans.jsonl").open("w") as file:
    for text in texts:
        start, end = text["tokens"][0]
        file.write(json.dumps({"spans": [{"start": start, "end": end, "label": label, "score": 0.5}]}) + "\\n")
(folder / "facts.json").write_text("{}")
"""


def test_a_benchmark_runs_over_a_saved_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "system.py").write_text(SYSTEM, encoding="utf-8")
    run = PlannedRun("first", "songs", 1, 0)
    config = BenchmarkConfig(
        (run,),
        {"first": System(command=["{python}", str(tmp_path / "system.py")])},
        {"songs": DataSource(path="hf:saved")},
    )
    benchmark = Benchmark(config, tmp_path / "data", tmp_path / "results", tmp_path)
    benchmark.verify([run])
    micro = benchmark.make(run)["scores"]["micro"]
    # "per" at "Ada", which is only half of the mention, and at "Rome", which is a "loc".
    assert (micro["tp"], micro["fp"], micro["fn"]) == (0, 2, 2)
    assert (tmp_path / "results" / "first" / "songs" / "test-1-shot-0.json").is_file()


def test_a_benchmark_asks_for_the_license_before_it_runs(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
    [data.news]
    path = "catalog:conll2003"
    [systems.none]
    command = ["{python}", "-c", "pass"]
    [[runs]]
    datasets = ["news"]
    shots = [1]
    """
    path = tmp_path / "benchmark.toml"
    path.write_text(text, encoding="utf-8")
    monkeypatch.delenv("CLLMFS_DATA", raising=False)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: pytest.fail("it must not be loaded"))
    words = ("benchmark", path, "--output", tmp_path / "results", "--dry-run")
    done = cli(*words)
    assert done.exit_code == 2 and "only after its license was accepted" in done.stderr
    path.write_text(text.replace("[systems", "license_accepted = true\n[systems"), encoding="utf-8")
    assert read_config(path).source("news") == DataSource(path="catalog:conll2003", license_accepted=True)
    splits = {"train": table(library), "test": table(library)}
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: splits)
    done = cli(*words)  # no folder is needed where all data sets are named
    assert done.exit_code == 0 and done.stdout.count("-shot-") == 5
    path.write_text(text.replace('["news"]', '["hf:a/b"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hf:a/b needs a short name; write \[data.NAME\] path = 'hf:a/b'"):
        read_config(path)
