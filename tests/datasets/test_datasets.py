"""Data sets: folders, hub names, what a licence asks for, the catalogue, and the commands that show them."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cllmfs.benchmark.config import BenchmarkConfig, Cell, DataSource, System, read_config
from cllmfs.benchmark.runs import Benchmark
from cllmfs.cli.app import app
from cllmfs.datasets import hub as hub_datasets
from cllmfs.datasets.catalogue import HubName, catalogue, find, is_named, parse_hub_name
from cllmfs.datasets.facts import SplitFacts, dataset_facts, split_facts, told
from cllmfs.datasets.splits import below, load_split, load_splits
from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.tagging import tag_problem
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


# names


def test_a_name_has_parts() -> None:
    full = "hf:DFKI-SLT/few-nerd@refs/convert/parquet#inter?tags=fine_ner_tags"
    name = parse_hub_name(full)
    assert name == HubName("DFKI-SLT/few-nerd", "refs/convert/parquet", "inter", "fine_ner_tags")
    assert str(name) == full
    assert parse_hub_name("hf:a/b#c") == HubName("a/b", config="c")
    assert is_named(full) and is_named("catalogue:wnut17") and not is_named("wnut17")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/b", r"is named hf:OWNER/NAME\[@REVISION\]\[#CONFIG\]\[\?tags=COLUMN\], got 'a/b'"),
        ("hf:", "is named hf:OWNER/NAME"),
        ("hf:a/b?columns=x", "is named hf:OWNER/NAME"),
        ("hf:wnut_17", "is followed by a folder or by OWNER/NAME of the hub, got 'hf:wnut_17'"),
        ("hf:/no/such/folder", "is followed by a folder or by OWNER/NAME"),
        ("catalogue:wnut_17", r"the catalogue has no 'wnut_17'; did you mean 'wnut17'\?"),
    ],
)
def test_names_of_another_form_are_told(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(text)


def test_a_path_is_below_the_data_folder_and_a_name_stays(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    assert below(tmp_path, "wnut17") == str(tmp_path / "wnut17")
    assert below(tmp_path, "hf:saved?tags=x") == f"hf:{tmp_path / 'saved'}?tags=x"
    assert below(tmp_path, "hf:a/b#c") == "hf:a/b#c"
    assert below(tmp_path, "catalogue:wnut17") == "catalogue:wnut17"
    with pytest.raises(ConfigError, match=r"a folder has no revisions, got .*; leave @main out"):
        below(tmp_path, "hf:saved@main")


# the catalogue


def test_the_catalogue_is_well_formed() -> None:
    path = Path(hub_datasets.__file__).with_name("catalogue.toml")
    raw = tomllib.loads(path.read_text(encoding="utf-8"))  # TOML refuses a name that is given twice
    required = {"language", "domain", "types", "licence"}
    optional = {"source", "restricted", "reason", "tag_names"}
    assert len(raw) >= 15 and list(raw) == sorted(raw)
    for key, values in raw.items():
        assert required <= values.keys() <= required | optional, key
    sources = [entry.source for entry in catalogue().values() if entry.source]
    assert len(set(sources)) == len(sources)
    for entry in catalogue().values():
        assert entry.types > 0 and entry.licence and entry.language and entry.domain, entry.name
        assert entry.restricted == bool(entry.reason), f"{entry.name}: just what is restricted has a reason"
        if entry.source is None:
            assert entry.restricted, entry.name
        else:
            parsed, same = find(f"catalogue:{entry.name}")
            assert same is entry and parsed.path.count("/") == 1 and parse_hub_name(entry.source) == parsed
            assert find(entry.source)[1] is entry, "an hf: name is the catalogue's entry too"
        if "-nc" in entry.licence or entry.licence in ("other", "unknown", "not stated"):
            assert entry.restricted, entry.name
        if entry.tag_names:
            assert not any(tag_problem(tag) for tag in entry.tag_names), entry.name
            assert len({tag[2:] for tag in entry.tag_names} - {""}) == entry.types, entry.name
            assert len(set(entry.tag_names)) == len(entry.tag_names), entry.name


def test_another_configuration_has_the_licence_of_the_whole() -> None:
    assert find("hf:unimelb-nlp/wikiann#de")[1] is catalogue()["wikiann_en"]
    assert find("hf:dfki-slt/few-nerd#intra")[1] is catalogue()["few_nerd_intra"]
    assert find("hf:somebody/something")[1] is None


# licences


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any way to the hub fails the test."""

    def called(*_: object, **__: object) -> None:
        pytest.fail("the hub must not be asked")

    monkeypatch.setattr(hub_datasets, "_open", called)
    monkeypatch.setattr(hub_datasets, "card_facts", called)
    monkeypatch.setattr("socket.socket.connect", called)


@pytest.mark.parametrize(
    "source", ["hf:eriktks/conll2003", "hf:eriktks/conll2003@main#conll2003", "catalogue:conll2003"]
)
def test_what_is_restricted_is_not_loaded_unasked(offline: None, source: str) -> None:
    with pytest.raises(DataError, match=r"\(other\): the text is of the Reuters Corpus") as raised:
        load_split(source, "test")
    for way in ("licence_accepted = true", "--accept-licence", "https://huggingface.co/datasets/eriktks/conll2003"):
        assert way in str(raised.value)
    with pytest.raises(DataError, match="only after its licence was accepted"):
        load_splits(source)


def test_what_the_hub_does_not_have_must_be_had_elsewhere(offline: None) -> None:
    with pytest.raises(DataError, match=r"i2b2_2010 is not on the hub: records of patients.*give the folder"):
        load_split("catalogue:i2b2_2010", "test", licence_accepted=True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, r"\(not stated\): its card does not say which licence"),
        ({"licence": "Unknown"}, r"\(Unknown\): its card does not say which licence"),
        ({"licence": "cc-by-nc-4.0"}, r"\(cc-by-nc-4.0\): non-commercial use only"),
        ({"licence": "mit"}, None),
    ],
)
def test_a_licence_that_is_not_in_the_catalogue_is_that_of_the_card(
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
        assert load_split("hf:somebody/something", "test", licence_accepted=True) == [ADA, RAIN, ROME]
        assert asked == [], "an accepted licence is not looked up"
    else:
        assert load_split("hf:somebody/something", "test") == [ADA, RAIN, ROME]


def test_the_card_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.DatasetCard("---\nlicense:\n- mit\n- cc0-1.0\nlanguage: en\n---\nA set.\n")
    monkeypatch.setattr(hub.DatasetCard, "load", lambda path: card)
    assert hub_datasets.card_facts(HubName("a/b")) == {"licence": "mit, cc0-1.0", "language": "en"}

    def unreachable(path: str) -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr(hub.DatasetCard, "load", unreachable)
    assert hub_datasets.card_facts(HubName(str(tmp_path))) == {}, "a folder without a card"
    with pytest.raises(DataError, match="the card of hf:a/b cannot be read: OSError: no route"):
        load_split("hf:a/b", "test")


def test_a_card_in_a_folder_is_read(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n", encoding="utf-8")
    (tmp_path / "META.json").write_text('{"domain": "songs", "licence": ["mine", 1]}', encoding="utf-8")
    assert told(f"hf:{tmp_path}") == {"licence": "mine, 1", "domain": "songs"}
    (tmp_path / "META.json").write_text("[", encoding="utf-8")
    assert told(f"hf:{tmp_path}") == {"licence": "cc-by-4.0"}


# folders


def test_a_folder_of_conll_files_is_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text("Ada\tB-per\nKing\tI-per\nsings\tO\n\nIt\tO\nrains\tO\n", encoding="utf-8")
    (tmp_path / "valid.bio").write_text("It O\nrains O\n", encoding="utf-8")
    (tmp_path / "test.bioes").write_text("Rome S-loc\nsings O\n", encoding="utf-8")
    assert load_splits(tmp_path) == {"train": [ADA, RAIN], "dev": [RAIN], "test": [ROME]}
    (tmp_path / "test.bioes").write_text("Rome Q-loc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.bioes:1, field 'tag': a tag is O or one of"):
        load_splits(tmp_path)
    with pytest.raises(DataError, match="has none of the splits train, dev, test"):
        load_splits(tmp_path / "none")


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
    with pytest.raises(ConfigError, match=r"has no configurations, got hf:.*#en; leave it out"):
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
    with pytest.raises(DataError, match=r"hf:.*nothing cannot be loaded: \w+: "):
        load_split(f"hf:{tmp_path / 'nothing'}", "test")


def test_the_library_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"the datasets library.*is not installed: pip install 'cllmfs\[hub\]'"):
        load_split(f"hf:{tmp_path}", "test")
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(__version__="3.6.0"))  # ran scripts if told to
    with pytest.raises(ConfigError, match=r"version 4 or later.*, got 3\.6\.0: pip install 'cllmfs\[hub\]'"):
        load_split(f"hf:{tmp_path}", "test")


# columns


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
    with pytest.raises(DataError, match=r"test:1, field 'ner_tags': numbers of tags must have names, got 1 without"):
        loaded(library, tmp_path, plain)
    hidden = library.Dataset.from_list([{"tokens": ["Ada"], "tags": [-1]}, {"tokens": ["Ada"], "tags": [5]}])
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": hidden})
    for rows in ([0], [1]):
        monkeypatch.setattr(library, "load_dataset", lambda *_, rows=rows, **__: {"test": hidden.select(rows)})
        with pytest.raises(DataError, match=r"test:1, field 'tags': the number of a tag must be in 0 to 4, got (-1|5)"):
            load_split("catalogue:bc5cdr", "test", licence_accepted=True)


def test_the_catalogue_names_the_numbers_where_a_data_set_does_not(
    library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = library.Dataset.from_list([{"tokens": ["two", "salts"], "tags": [1, 4]}, {"tokens": ["flu"], "tags": [2]}])
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": data})
    first, second = load_split("hf:tner/bc5cdr", "test", licence_accepted=True)
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


def test_other_columns_are_told(library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = library.Dataset.from_list([{"text": "good", "labels": 1}])
    with pytest.raises(DataError, match=r"tokens with ner_tags, or spans of tokens or text; it has text, labels"):
        loaded(library, tmp_path, reviews)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": table(library).select([])})
    with pytest.raises(DataError, match="hf:leondz/wnut_17 test: a split must have a sentence at least, got none"):
        load_split("catalogue:wnut17", "test")


# downloads


def test_a_download_names_revision_and_configuration(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def load(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append((args, kwargs))
        return {"validation": table(library), "extra": table(library)}

    monkeypatch.setattr(library, "load_dataset", load)
    assert load_split("hf:DFKI-SLT/few-nerd@v1#inter", "dev") == [ADA, RAIN, ROME]
    assert calls == [(("DFKI-SLT/few-nerd", "inter"), {"revision": "v1"})]
    with pytest.raises(DataError, match="one split called test; hf:leondz/wnut_17 has validation, extra"):
        load_split("catalogue:wnut17", "test")
    assert list(load_splits("catalogue:wnut17")) == ["dev"]


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
    with pytest.raises(DataError, match="is made by a script, which is never run; without @v1 the hub's own copy"):
        load_split("hf:DFKI-SLT/few-nerd@v1#intra", "test")
    del paths[2]
    assert load_split("hf:DFKI-SLT/few-nerd@refs/convert/parquet", "test") == [ADA, RAIN, ROME]
    assert calls[-1]["data_dir"] == "inter"


# benchmarks

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
    cell = Cell("first", "songs", 1, 0)
    config = BenchmarkConfig(
        (cell,), {"first": System(("{python}", str(tmp_path / "system.py")))}, {"songs": DataSource("hf:saved")}
    )
    made = Benchmark(config, tmp_path / "data", tmp_path / "results", {})
    made.check([cell])
    micro = made.run(cell)["scores"]["micro"]
    # "per" at "Ada", which is but half of the mention, and at "Rome", which is a "loc".
    assert (micro["tp"], micro["fp"], micro["fn"]) == (0, 2, 2)
    assert (tmp_path / "results" / "first" / "songs" / "test-1-shot-0.json").is_file()


def test_a_benchmark_asks_for_the_licence_before_it_runs(
    library: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
    [data.news]
    path = "catalogue:conll2003"
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
    assert done.exit_code == 2 and "only after its licence was accepted" in done.stderr
    path.write_text(text.replace("[systems", "licence_accepted = true\n[systems"), encoding="utf-8")
    assert read_config(path).source("news") == DataSource("catalogue:conll2003", licence_accepted=True)
    splits = {"train": table(library), "test": table(library)}
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: splits)
    done = cli(*words)  # no folder is needed where all data sets are named
    assert done.exit_code == 0 and done.stdout.count("-shot-") == 5
    path.write_text(text.replace('["news"]', '["hf:a/b"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"hf:a/b needs a name of its own; write \[data.NAME\] path = 'hf:a/b'"):
        read_config(path)


# counts


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
    meta = {"licence": "CC0", "language": "en", "domain": "songs", "source": {"repo": "x/y", "commit": "ab"}, "n": 1}
    (data / "songs" / "META.json").write_text(json.dumps(meta), encoding="utf-8")
    put(data / "told" / "test.jsonl", ROME)
    counts = {"splits": {"test": {"sentences": 1234}, "odd": {"sentences": 1}, "dev": 3}, "labels": ["a", "b"]}
    (data / "told" / "META.json").write_text(json.dumps({**counts, "license": ["MIT", "\x1b"]}), encoding="utf-8")
    (data / "notes").mkdir()
    (data / "file.txt").write_text("", encoding="utf-8")
    return data


def test_facts_of_a_folder(folder: Path) -> None:
    facts = dataset_facts("songs", str(folder / "songs"))
    assert facts.told == {"language": "en", "domain": "songs", "licence": "CC0", "origin": "repo x/y, commit ab"}
    assert facts.test_in_train == 1 and facts.labels == ["loc", "per"]
    assert facts.splits["train"] == SplitFacts(3, 7, {"per": 1}, 2, 2, 1)
    assert dataset_facts("told", str(folder / "told")).test_in_train is None


# commands


def test_list_shows_a_line_for_each_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_argument = cli("data", "list", folder)
    assert by_argument.exit_code == 0
    assert cli("data", "list", "--data", folder).stdout == by_argument.stdout
    monkeypatch.setenv("CLLMFS_DATA", str(folder))
    assert cli("data", "list").stdout == by_argument.stdout
    rows = [line.split() for line in by_argument.stdout.splitlines()]
    assert ["songs", "en", "2", "3", "2", "CC0", "songs"] in rows
    assert ["told", "2", "1,234", "MIT,", "␛"] in rows, "sizes are those of META.json; control characters are shown"
    assert "notes" not in by_argument.stdout
    records = json.loads(cli("data", "list", "--json").stdout)
    assert [record["name"] for record in records] == ["songs", "told"]
    assert records[0]["sentences"] == {"train": 3, "test": 2} and records[0]["told"]["licence"] == "CC0"


def test_list_goes_on_after_a_broken_data_set(folder: Path) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "test.jsonl").write_text("{", encoding="utf-8")
    done = cli("data", "list", folder)
    assert done.exit_code == 2
    assert "told" in done.stdout and "bad" not in done.stdout
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


def test_list_of_the_catalogue_has_a_line_for_each_however_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (70, 160):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = cli("data", "list", "--catalogue").stdout.splitlines()
        rows = {line.split()[0]: line for line in lines if line.strip()}
        assert catalogue().keys() <= rows.keys()
        shown = [line for line in lines if line.split()[:1] == ["conll2003"]]
        assert len(shown) == 1 and len(shown[0]) <= width and " yes " in shown[0] and " yes " not in rows["wnut17"]
        assert ("hf:eriktks/conll2003" in shown[0]) == (width == 160)
    monkeypatch.delenv("COLUMNS")  # a pipe has no edge
    assert "hf:DFKI-SLT/few-nerd#supervised?tags=fine_ner_tags" in cli("data", "list", "--catalogue").stdout
    records = json.loads(cli("data", "list", "--catalogue", "--json").stdout)
    assert [record["name"] for record in records] == list(catalogue())
    assert next(record for record in records if record["name"] == "conll2003")["restricted"] is True


@pytest.mark.parametrize("command", ["list", "info"])
def test_help_of_the_commands_has_examples(command: str) -> None:
    shown = cli("data", command, "--help").stdout.partition("Examples:\n")[2].splitlines()
    assert len(shown) >= 3 and all(line.startswith(f"    cllmfs data {command}") for line in shown)


def test_info_shows_counts_and_what_is_told(folder: Path) -> None:
    done = cli("data", "info", "songs", "--data", folder)
    assert done.exit_code == 0
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for row in (
        "licence: CC0",
        "origin: repo x/y, commit ab",
        "songs train test",
        "sentences 3 2",
        "tokens 7 4",
        "mentions 1 1",
        "sentences without mentions 66.7% 50.0%",
        "longest mention, tokens 2 1",
        "sentences that occurred before 1 0",
        "mentions of 2 types train test",
        "loc 0 1",
        "per 1 0",
        "1 sentences of test are in train too",
    ):
        assert row in rows
    record = json.loads(cli("data", "info", folder / "songs", "--json").stdout)
    assert record["splits"]["train"]["repeated"] == 1 and record["labels"] == ["loc", "per"]
    (folder / "songs" / "META.json").unlink()
    assert "licence: not known" in cli("data", "info", folder / "songs").stdout


def test_info_refuses_and_accepts(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLLMFS_DATA", raising=False)
    monkeypatch.setattr(library, "load_dataset", lambda *_, **__: {"test": table(library)})
    refused = cli("data", "info", "catalogue:conll2003")
    assert refused.exit_code == 2 and "--accept-licence" in refused.stderr and refused.stdout == ""
    done = cli("data", "info", "catalogue:conll2003", "--accept-licence", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["told"]["origin"] == "https://huggingface.co/datasets/eriktks/conll2003"
    missing = cli("data", "info", "nothing")
    assert missing.exit_code == 2 and "nothing has none of the splits" in missing.stderr


def test_facts_of_the_hub_do_without_a_card(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(path: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.DatasetCard.load", unreachable)
    assert told("hf:a/b") == {"origin": "https://huggingface.co/datasets/a/b"}
    monkeypatch.setattr(
        "huggingface_hub.DatasetCard.load",
        lambda path: SimpleNamespace(data=SimpleNamespace(to_dict=lambda: {"license": "mit"})),
    )
    assert told("hf:a/b")["licence"] == "mit"
