"""Benchmarks: what a configuration asks for, runs that are made once, systems that are processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cllmfs.benchmark.config import (
    BenchmarkConfig,
    DataSource,
    PlannedRun,
    System,
    fill_placeholders,
    read_config,
)
from cllmfs.benchmark.runs import Benchmark, _renamed, confidence_record
from cllmfs.benchmark.task import Task, peak_megabytes, read_answer, read_task, serve, write_task
from cllmfs.cli.app import app
from cllmfs.datasets.episodes import episode_counts, read_episodes
from cllmfs.datasets.splits import load_split, without_duplicates
from cllmfs.errors import ConfigError, DataError, ModelError
from cllmfs.evaluation import Counts
from cllmfs.schema import Document, Example, Span

# data sets


def put_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


ROWS = [{"tokens": [name, "sings", str(number)], "spans": [[0, 1, "per"]]} for number, name in enumerate("ABCDEF")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, rows in (("train", ROWS[:4]), ("validation", ROWS[4:5]), ("test", ROWS[4:])):
        put_lines(tmp_path / "data" / "tiny" / f"{split}.jsonl", rows)
    return tmp_path / "data"


def test_splits_are_files_of_any_format(data: Path) -> None:
    assert [example.text for example in load_split(data / "tiny", "test")] == ["E sings 4", "F sings 5"]
    assert len(load_split(data / "tiny", "dev")) == 1, "dev may be called validation"
    (data / "tiny" / "test.jsonl").unlink()
    (data / "tiny" / "test.conll").write_text("Ada B-per\nsings O\n", encoding="utf-8")
    (example,) = load_split(data / "tiny", "test")
    assert example.spans == (Span(0, 3, "per"),)


def test_a_split_is_one_file(data: Path) -> None:
    with pytest.raises(DataError, match=r"the dev split needs a file such as .*dev.jsonl; there is none"):
        load_split(data / "other", "dev")
    (data / "tiny" / "test.conll").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"got test.jsonl and test.conll"):
        load_split(data / "tiny", "test")
    with pytest.raises(ConfigError, match="one of train, dev, test, got 'all'"):
        load_split(data / "tiny", "all")


def test_the_first_of_duplicates_stays() -> None:
    examples = [Example("a", (Span(0, 1, "x"),)), Example("b"), Example("a")]
    assert without_duplicates(examples) == examples[:2]


# configurations


def config(tmp_path: Path, text: str) -> BenchmarkConfig:
    path = tmp_path / "benchmark.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


GOOD = """
split = "dev"
limit = 7
[data.gum]
path = "sets/gum"
supports = "gum_{k}/{seed}.jsonl"
[systems.ours]
settings = ["train.steps=3"]
[systems."the other"]
command = ["{python}", "other.py", "--encoder", "{encoder}"]
[[runs]]
datasets = ["gum", "wnut"]
shots = [0, 5]
supports = 2
[[runs]]
datasets = ["gum"]
shots = [5]
supports = [1, 4]
systems = ["the other"]
"""


def test_a_configuration_is_read(tmp_path: Path) -> None:
    read = config(tmp_path, GOOD)
    assert (read.split, read.limit) == ("dev", 7)
    assert read.source("gum") == DataSource(path="sets/gum", supports="gum_{k}/{seed}.jsonl")
    assert read.source("wnut") == DataSource(path="wnut")
    ours, other = read.systems["ours"], read.systems["the other"]
    assert ours == System(base="cllmfs-mini", settings=["train.steps=3"], zero_shot=True)
    command = ["{python}", "-m", "cllmfs.benchmark.system", "--base", "cllmfs-mini", "--set", "train.steps=3"]
    assert ours.arguments == command and other.arguments == other.command
    assert ours.record() == {"base": "cllmfs-mini", "settings": ["train.steps=3"]}, "no module of this package"
    assert other.record() == {"command": ["{python}", "other.py", "--encoder", "{encoder}"]}
    # Without shots there is one support set, and only systems that can; no run is named twice.
    assert read.runs == (
        PlannedRun("ours", "gum", 0, 0),
        PlannedRun("ours", "wnut", 0, 0),
        *(PlannedRun(s, d, 5, n) for n in (0, 1) for d in ("gum", "wnut") for s in ("ours", "the other")),
        PlannedRun("the other", "gum", 5, 4),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('path = "sets/gum"', "rename = {a = 1}", "data.gum.rename.a must be a valid string, got 1"),
        (
            'supports = "gum',
            'n_way = 2\nsupports = "gum',
            "data.gum: only one of supports, episodes and n_way is allowed, got supports and n_way",
        ),
        ("supports = 2", "supports = 1000001", "at most 1,000,000 support sets are allowed, got 1000001"),
        ("supports = 2", f"supports = 1{'0' * 30}", "at most 1,000,000 support sets are allowed, got 1000000"),
        ('supports = "gum_{k}/{seed}.jsonl', 'episodes = "gum_{k}/{seed}.jsonl', "the placeholder {seed} has no value"),
        ('supports = "gum_{k}/{seed}.jsonl', 'episodes = "gum_{k}.jsonl', "episodes need shots, got 0 shots of gum"),
        ('split = "dev"', 'split = "train"', "split must be 'dev' or 'test', got 'train'"),
        ("limit = 7", "limit = 0", "limit must be greater than or equal to 1, got 0"),
        ("limit = 7", 'limit = "all"', "limit must be a valid integer, got 'all'"),
        ("limit = 7", "limits = 7", "unknown key limits; there are runs, systems, data, split, limit"),
        ("gum_{k}/{seed}", "gum_{k}/{sed}", "data.gum.supports: the placeholder {sed} has no value; there are k, seed"),
        ("gum_{k}/{seed}", "gum_{k/{seed}", "has an unmatched brace"),
        ("settings =", "setings =", "unknown key systems.ours.setings; there are command, base, settings, zero_shot"),
        (
            "settings =",
            "command = []\nsettings =",
            "systems.ours: either a command or a base with settings is allowed, got both",
        ),
        (
            'settings = ["train.steps=3"]',
            "command = []",
            "systems.ours: a command must have at least one word, got none",
        ),
        ('["train.steps=3"]', "[3]", "systems.ours.settings[0] must be a valid string, got 3"),
        ("shots = [0, 5]", "shots = [-1]", "runs[0].shots[0] must be greater than or equal to 0, got -1"),
        ("shots = [0, 5]", "shots = [true]", "runs[0].shots[0] must be a valid integer, got True"),
        ("shots = [0, 5]", "", "the key runs[0].shots is missing; add it"),
        (
            'systems = ["the other"]',
            'systems = ["others"]',
            "runs[1]: there is no system 'others'; there are ours, the other",
        ),
        ("[systems.ours]", "[systems]\nx = 3\n[systems.ours]", "systems.x must be a table, got 3"),
        ("limit = 7", "limit = ", "must be a TOML file"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_reported(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ConfigError, match=r"benchmark.toml: ") as raised:
        config(tmp_path, GOOD.replace(old, new))
    assert message in str(raised.value)


def test_nothing_to_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a benchmark needs at least one run"):
        config(tmp_path, 'runs = []\n[systems.ours]\nbase = "x"')
    with pytest.raises(ConfigError, match=r"none\.toml: a benchmark's configuration must be a TOML file"):
        read_config(tmp_path / "none.toml")


def test_placeholders_are_filled() -> None:
    assert fill_placeholders(["{a}/b", "{{c}}"], {"a": "x"}) == ["x/b", "{c}"]
    with pytest.raises(ConfigError, match=r"the placeholder \{b\} has no value; there are a"):
        fill_placeholders(["{b}"], {"a": "x"})


# tasks


def test_labels_that_were_not_annotated_count_nowhere(tmp_path: Path) -> None:
    part = Example("Ada met Bo", (Span(0, 3, "person"),), annotated=frozenset({"person"}))
    write_task(tmp_path, Task((part,), (part,), ("person", "place"), 0))
    task = read_task(tmp_path)
    assert task.shots == (part,) and task.texts[0].annotated is None
    document = Document(part.text, (Span(0, 3, "person", 0.9), Span(8, 10, "place", 0.9)))
    record = confidence_record([part], [document])
    assert record is not None and record["bins"] == [[0.9, 1.0, 1, 0.9, 1.0]]
    assert _renamed(part, {"person": "per"}).annotated == {"per"}


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    shot = Example.from_tokens(["Zoë", "𝔸\u2028b"], [(0, 1, "per"), (1, 2, "a b")])
    plain = Example("no tokens", (Span(3, 9, "x"),))
    task = Task((shot, plain), (Example("\x85 tail", (), ((0, 1),)),), ("a b", "per", "x"), 3)
    write_task(tmp_path, task)
    read = read_task(tmp_path)
    assert read == task
    assert [one.token_offsets for one in (*read.shots, *read.texts)] == [shot.token_offsets, None, ((0, 1),)]


def test_an_answer_has_a_line_for_each_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task((), (Example("ab"), Example("c")), ("x",), 0)
    write_task(tmp_path, task)
    with pytest.raises(DataError, match=r"a system must write spans\.jsonl"):
        read_answer(tmp_path, task.texts)
    answer = [Document("ab", (Span(0, 2, "x", 0.25, "ab"),)), Document("c", ())]
    parser = argparse.ArgumentParser()
    parser.add_argument("--more", type=int)
    monkeypatch.setattr(sys, "argv", ["system", "--more", "7", str(tmp_path)])
    serve(
        parser,
        lambda task, arguments: task.seed + arguments.more,
        lambda model, texts: answer,
        lambda model, task, arguments: {"seed": task.seed, "model": model},
        ("pytest",),
    )
    documents, facts = read_answer(tmp_path, task.texts)
    assert documents == answer and documents[0].spans[0].score == 0.25
    assert (facts["seed"], facts["model"]) == (0, 7) and facts["versions"] == {"pytest": pytest.__version__}
    assert facts["seconds"].keys() == {"train", "predict"} and facts["peak_megabytes"] > 20
    with pytest.raises(DataError, match="got 2 lines for 1 texts"):
        read_answer(tmp_path, task.texts[:1])
    for wrong in ('{"spans": [{"start": 0}]}\n', "[]\n", "{\n"):
        (tmp_path / "spans.jsonl").write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match=r"a system must write spans\.jsonl"):
            read_answer(tmp_path, task.texts[:1])


def test_a_process_does_not_show_the_peak_of_the_one_that_started_it() -> None:
    held = b"x" * 300_000_000
    code = "from cllmfs.benchmark.task import peak_megabytes; print(peak_megabytes())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 < float(shown.stdout) < len(held) / 1e6 < peak_megabytes()


# runs

# Finds what the shots' first label is at the first token of every text; fails if its argument says so.
SYSTEM = """
import json, pathlib, sys
*words, folder = sys.argv[1:]
if "fail" in words:
    sys.exit("the system\\nis out of order")
folder = pathlib.Path(folder)
label = json.loads((folder / "task.json").read_text())["labels"][0]
texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
assert all("spans" not in text for text in texts)
score = {} if "unsure" in words else {"score": 0.75}
with (folder / "spans.jsonl").open("w") as file:
    for text in texts:
        start, end = text["tokens"][0]
        file.write(json.dumps({"spans": [{"start": start, "end": end, "label": label, **score}]}) + "\\n")
(folder / "facts.json").write_text(json.dumps({"words": words}))
"""


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, System]:
    (tmp_path / "system.py").write_text(SYSTEM, encoding="utf-8")
    command = ["{python}", "{here}/system.py"]
    return {"The Oracle": System(command=command, zero_shot=True), "unsure": System(command=[*command, "unsure"])}


def plan(tmp_path: Path, systems: dict[str, System], *runs: PlannedRun, **more: Any) -> Benchmark:
    return Benchmark(BenchmarkConfig(runs, systems, **more), tmp_path / "data", tmp_path / "results", tmp_path)


ONE = PlannedRun("The Oracle", "tiny", 1, 0)


def test_a_run_is_recorded_in_counts(tmp_path: Path, data: Path, systems: dict[str, System]) -> None:
    made = plan(tmp_path, systems, ONE)
    made.verify([ONE])
    record = made.make(ONE)
    path = tmp_path / "results" / "the_oracle" / "tiny" / "test-1-shot-0.json"
    assert json.loads(path.read_text(encoding="utf-8")) == record
    micro = record["scores"]["micro"]
    assert (micro["tp"], micro["fp"], micro["fn"], record["scores"]["ungrounded"]) == (2, 0, 0, 0)
    assert record["command"] == ["{python}", "{here}/system.py"], "no path of this machine"
    assert record["shots"]["mentions"] == {"per": 1} and record["shots"]["shortfalls"] == {}
    assert record["confidence"] == {"ece": 0.25, "bins": [[0.7, 0.8, 2, 0.75, 1.0]]}
    assert record["words"] == [] and record["process_seconds"] > 0
    assert str(tmp_path) not in path.read_text(encoding="utf-8") and "sings" not in path.read_text(encoding="utf-8")


def test_runs_are_made_once(tmp_path: Path, data: Path, systems: dict[str, System]) -> None:
    runs = [ONE, PlannedRun("The Oracle", "tiny", 0, 0), PlannedRun("unsure", "tiny", 1, 0)]
    made = plan(tmp_path, systems, *runs)
    assert made.open_runs() == runs and made.open_runs(["unsure"]) == runs[2:]
    zero = made.make(runs[1])
    assert zero["shots"]["sentences"] == 0 and zero["scores"]["micro"]["tp"] == 2
    assert made.make(runs[2])["confidence"] is None
    assert made.open_runs() == runs[:1]
    with pytest.raises(ConfigError, match="there is no system 'nobody'"):
        made.open_runs(["nobody"])
    ours = {**systems, "The Oracle": System(zero_shot=True)}
    for other in (plan(tmp_path, systems, *runs, limit=1), plan(tmp_path, ours, *runs)):
        with pytest.raises(ConfigError, match="was made with another command, base, setting or limit"):
            other.open_runs()
    made.path(ONE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not the result of a benchmark"):
        made.open_runs()


def test_published_supports_are_read(tmp_path: Path, data: Path, systems: dict[str, System]) -> None:
    put_lines(tmp_path / "data" / "sets" / "tiny_2" / "1.jsonl", ROWS[1:3])
    source = {"tiny": DataSource(path="tiny", supports="sets/tiny_{k}/{seed}.jsonl")}
    made = plan(tmp_path, systems, ONE, data=source)
    assert [shot.text for shot in made.shots(PlannedRun("unsure", "tiny", 2, 1))] == ["B sings 1", "C sings 2"]
    with pytest.raises(DataError, match=r"0\.jsonl"):
        made.verify([ONE])


def test_labels_of_published_supports_are_those_of_the_data_set(
    tmp_path: Path, data: Path, systems: dict[str, System]
) -> None:
    put_lines(data / "tiny_1.jsonl", [{"tokens": ["Bo"], "spans": [[0, 1, "person"]]}])
    source = DataSource(path="tiny", supports="tiny_{k}.jsonl", rename={"person": "per"})
    made = plan(tmp_path, systems, ONE, data={"tiny": source})
    assert made.make(ONE)["shots"]["mentions"] == {"per": 1}
    other = plan(tmp_path, systems, ONE, data={"tiny": DataSource(path="tiny", supports="tiny_{k}.jsonl")})
    with pytest.raises(
        DataError, match=r"tiny_1\.jsonl: the labels of the shots must be labels of tiny \(per\), got 'person'"
    ):
        other.verify([ONE])


WORDS = {"word": [["Ada", "Lee", "sings"], ["Bo"]], "label": [["per", "per", "O"], ["per"]]}
EPISODES = [
    {
        "support": WORDS,
        "query": {"word": [["Cy", "in", "Rome"]], "label": [["per", "O", "loc"]]},
        "types": ["per", "loc"],
    },
    {"support": WORDS, "query": {"word": [["Di"], ["Ed"]], "label": [["per"], ["per"]]}, "types": ["per"]},
]


def test_published_episodes_are_read(tmp_path: Path) -> None:
    path = put_lines(tmp_path / "way_1.jsonl", EPISODES)
    first, second = read_episodes(path)
    assert first.labels == ("loc", "per") and second.labels == ("per",)
    assert [(one.text, [s.key for s in one.spans]) for one in first.support] == [
        ("Ada Lee sings", [(0, 7, "per")]),
        ("Bo", [(0, 2, "per")]),
    ]
    assert [span.key for span in first.query[0].spans] == [(0, 2, "per"), (6, 10, "loc")]
    assert first.query[0].source == f"{path}:1"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**EPISODES[0], "types": ["per"]}, r"its types or O, got 'loc'"),
        ({"support": WORDS, "types": ["per"]}, r"support and query, .*got KeyError\('query'\)"),
        ({**EPISODES[0], "query": {"word": [["a"]], "label": [["O", "O"]]}}, "a label for each word"),
        ({**EPISODES[0], "query": {"word": [["a"]], "label": []}}, "a label for each word"),
        ({**EPISODES[0], "query": [1]}, "support and query"),
        ([1], "one JSON object, got"),
    ],
)
def test_what_is_wrong_with_an_episode_is_reported(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"way\.jsonl:2: .*{message}"):
        read_episodes(put_lines(tmp_path / "way.jsonl", [EPISODES[1], record]))


def test_a_file_without_episodes_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold at least one"):
        read_episodes(put_lines(tmp_path / "way.jsonl", []))


def test_an_episode_is_scored_by_both_metrics(tmp_path: Path, systems: dict[str, System]) -> None:
    put_lines(tmp_path / "data" / "way_1.jsonl", EPISODES)
    source = {"way": DataSource(path="way", episodes="way_{k}.jsonl")}
    runs = [PlannedRun("The Oracle", "way", 1, number) for number in range(3)]
    made = plan(tmp_path, systems, *runs, data=source)
    # The first: loc at "Cy", and nothing at "Rome".
    micro, joined = (made.make(runs[0])["scores"][name] for name in ("micro", "episode"))
    assert [(one["tp"], one["fp"], one["fn"]) for one in (micro, joined)] == [(0, 1, 2), (0, 1, 2)]
    # The second: both persons, one run of two tokens for Few-NERD's metric.
    micro, joined = (made.make(runs[1])["scores"][name] for name in ("micro", "episode"))
    assert [(one["tp"], one["fp"], one["fn"]) for one in (micro, joined)] == [(2, 0, 0), (1, 0, 0)]
    with pytest.raises(DataError, match=r"way_1\.jsonl: the number of an episode must be below 2, .*, got 2"):
        made.verify(runs)


def test_the_episode_metric_reads_words_that_a_span_reaches_into() -> None:
    gold = Example.from_tokens(["Ada", "Lee", "(", "Rome", ")"], [(0, 2, "per"), (3, 4, "loc")])
    answer = Document(gold.text, (Span(10, 14, "loc"), Span(0, 5, "per")))
    assert episode_counts([gold], [answer]) == Counts(2, 0, 0)
    assert episode_counts([gold], [Document(gold.text, (Span(10, 16, "loc"),))]) == Counts(0, 1, 2)
    with pytest.raises(DataError, match="a text without"):
        episode_counts([Example("Ada")], [Document("Ada", ())])


def test_episodes_are_drawn(tmp_path: Path, data: Path, systems: dict[str, System]) -> None:
    made = plan(tmp_path, systems, ONE, data={"tiny": DataSource(path="tiny", n_way=1)})
    record = made.make(ONE)
    assert record["shots"]["mentions"] == {"per": 1} and record["scores"]["sentences"]["count"] == 1
    assert record["scores"]["episode"]["tp"] == 1 and record["shots"]["in_split"] == 0


def test_a_system_can_import_the_modules_beside_the_configuration(tmp_path: Path, data: Path) -> None:
    here = tmp_path / "measures" / "tiny"
    here.mkdir(parents=True)
    for folder in (here.parent, here):
        (folder / "__init__.py").touch()
    (here / "shared.py").write_text(SYSTEM, encoding="utf-8")
    (here / "system.py").write_text("import measures.tiny.shared\n", encoding="utf-8")
    systems = {"The Oracle": System(command=["{python}", "{here}/system.py"])}
    made = Benchmark(BenchmarkConfig((ONE,), systems), data, tmp_path / "results", here)
    assert made.values["root"] == str(tmp_path) and made.make(ONE)["scores"]["micro"]["tp"] == 2


def test_a_system_that_fails_says_why(tmp_path: Path, data: Path, systems: dict[str, System]) -> None:
    broken = {
        "fail": System(command=["{python}", "{here}/system.py", "fail"]),
        "missing": System(command=["{here}/nothing"]),
        "silent": System(command=["{python}", "-c", "pass"]),
    }
    made = plan(tmp_path, broken, ONE)
    for name, message in (
        ("fail", "the system ended with exit status 1: the system\nis out of order"),
        ("missing", "the system cannot be started: .*nothing"),
        ("silent", r"silent: a system must write spans\.jsonl"),
    ):
        with pytest.raises(ModelError, match=message):
            made.make(PlannedRun(name, "tiny", 1, 0))
    assert not (tmp_path / "results").exists()


# the commands

TINY = """
[systems.oracle]
command = ["{python}", "{where}/system.py"]
[systems.fail]
command = ["{python}", "{where}/system.py", "fail"]
[[runs]]
datasets = ["tiny"]
shots = [1, 2]
supports = 2
"""


def test_the_commands_run_go_on_and_report(
    tmp_path: Path, data: Path, systems: dict[str, System], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benchmark.toml").write_text(TINY, encoding="utf-8")
    results, page = tmp_path / "results", tmp_path / "page.md"
    words = ["benchmark", str(tmp_path / "benchmark.toml"), "--output", str(results), "--define", f"where={tmp_path}"]
    monkeypatch.setenv("CLLMFS_DATA", str(data))
    runner = CliRunner()
    listed = runner.invoke(app, [*words, "--dry-run"])
    assert listed.exit_code == 0 and listed.stdout.count("-shot-") == 8 and not results.exists()
    done = runner.invoke(app, [*words, "--system", "oracle"])
    assert done.exit_code == 0 and "4/4 oracle, tiny, 2-shot, seed 1: strict F1 100.0" in done.stdout
    rest = runner.invoke(app, words)
    assert rest.exit_code == 1 and "4 runs to do, 4 already done or not selected" in rest.stderr
    assert "4 of 4 runs failed: fail, tiny, 1-shot, seed 0; " in rest.stderr and "is out of order" in rest.stderr
    made = runner.invoke(app, ["report", str(results), "--output", str(page), "--no-plot"])
    assert made.exit_code == 0 and "| tiny | 2 | 100.0 ± 0.0 (2) |" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "the data sets' folder must exist, got None; pass --data or set CLLMFS_DATA"),
        (("--data", "nowhere"), "the data sets' folder must exist, got 'nowhere'"),
        (("--data", ".", "--define", "where"), "--define takes NAME=VALUE, got 'where'"),
        (("--data", "."), "the placeholder {where} has no value; there are here, python, root"),
    ],
)
def test_what_the_command_needs_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.delenv("CLLMFS_DATA", raising=False)
    (tmp_path / "benchmark.toml").write_text(TINY, encoding="utf-8")
    done = CliRunner().invoke(app, ["benchmark", str(tmp_path / "benchmark.toml"), "--output", "results", *words])
    assert done.exit_code == 2 and message in done.stderr


# cllmfs as a system


def test_cllmfs_is_a_system(tmp_path: Path, data: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cllmfs.benchmark import system

    shots = [Example.from_tokens(row["tokens"], [(0, 1, "per")]) for row in ROWS[:4]]
    for number, given in enumerate((shots, [])):
        folder = tmp_path / str(number)
        folder.mkdir()
        write_task(folder, Task(tuple(given), (Example("G sings 6"), Example("")), ("loc", "per"), 1))
        settings = [
            word for one in ("train.steps=2", "calibrate.folds=0", "recipe.negatives=0") for word in ("--set", one)
        ]
        monkeypatch.setattr(sys, "argv", ["system", str(folder), "--base", str(tiny_base), *settings])
        system.main()
        documents, facts = read_answer(folder, read_task(folder).texts)
        assert len(documents) == 2 and all(span.score is not None for one in documents for span in one.spans)
        assert facts["chosen"].get("steps") == (2 if given else None) and facts["device"]
        assert "torch" in facts["versions"]


def test_changes_to_the_recipe_are_split_off() -> None:
    from cllmfs.benchmark.system import split_settings

    words = ["train.replay=0", "recipe.negatives=0", "recipe.warmup=0.2", "recipe.schedule=cosine"]
    assert split_settings(words) == (["train.replay=0"], {"negatives": 0, "warmup": 0.2, "schedule": "cosine"})
    with pytest.raises(ConfigError, match=r"written recipe\.NAME=VALUE, got 'recipe\.negatives'"):
        split_settings(["recipe.negatives"])
