"""The report of a benchmark: figures worked out by hand, missing cells, refusals, the same output twice."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cllmfs.benchmark import figures, report, results, tables
from cllmfs.benchmark.config import PlannedRun
from cllmfs.benchmark.results import EpisodeCounts, Run
from cllmfs.benchmark.runs import result_path, write_result
from cllmfs.cli.app import app
from cllmfs.errors import ConfigError, DataError
from cllmfs.evaluation import Counts

# System, data set, k, seed and split; spans found, made up and missed; sentences scored; digest; calibration error.
RUNS: list[tuple[str, str, int, int, str, tuple[int, int, int], int, str, float | None]] = [
    ("cllmfs", "alpha", 0, 0, "test", (20, 80, 80), 10, "none", 0.2),
    ("cllmfs", "alpha", 5, 0, "test", (40, 60, 60), 10, "a5-0", 0.1),
    ("cllmfs", "alpha", 5, 1, "test", (44, 56, 56), 10, "a5-1", 0.3),
    ("cllmfs", "beta", 5, 0, "test", (60, 40, 40), 20, "b5-0", None),
    ("cllmfs", "alpha", 5, 0, "dev", (99, 1, 1), 7, "a5-0", None),
    ("token classifier", "alpha", 5, 0, "test", (30, 70, 70), 10, "a5-0", None),
    ("token classifier", "alpha", 5, 1, "test", (36, 64, 64), 10, "a5-1", None),
    ("token classifier", "beta", 5, 0, "test", (50, 50, 50), 20, "b5-0", None),
    ("token classifier", "alpha", 1, 0, "test", (10, 90, 90), 10, "a1-0", None),
]


def put(folder: Path, *runs: Any, limit: int | None = None) -> Path:
    for system, dataset, k, seed, split, (tp, fp, fn), sentences, digest, ece in runs:
        scores = {"micro": {"tp": tp, "fp": fp, "fn": fn}, "sentences": {"count": sentences}}
        record = {"system": system, "dataset": dataset, "k": k, "seed": seed, "split": split, "scores": scores}
        record |= {
            "shots": {"sha256": digest},
            "confidence": None if ece is None else {"ece": ece, "bins": []},
            "limit": limit,
        }
        write_result(result_path(folder, PlannedRun(system, dataset, k, seed), split), record)
    return folder


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, list[Run]]:
    return results.read_results(put(tmp_path / "results", *RUNS), "test")


def test_results_are_read_by_system_and_split(systems: dict[str, list[Run]], tmp_path: Path) -> None:
    assert list(systems) == ["cllmfs", "token classifier"]
    assert systems["cllmfs"][1] == Run("alpha", 5, 0, pytest.approx(40.0), 10, "a5-0", 0.1)
    assert systems["token classifier"][0] == Run("alpha", 1, 0, pytest.approx(10.0), 10, "a1-0")
    assert [run.f1 for run in results.read_results(tmp_path / "results", "dev")["cllmfs"]] == [pytest.approx(99.0)]


def test_the_table(systems: dict[str, list[Run]]) -> None:
    # alpha: sd of 40 and 44 is sqrt(8), of 30 and 36 sqrt(18); the difference is (10 + 8) / 2. The average at k 1 is
    # over alpha alone, all that was measured at this k. beta has no zero-shot answer, so the average at k 5 has
    # none either.
    assert tables.f1_table(systems, "token classifier") == [
        ["data set", "k", "zero-shot", "cllmfs", "token classifier", "cllmfs minus token classifier"],
        ["alpha", "1", "20.0", "-", "10.0 (1)", "-"],
        ["alpha", "5", "20.0", "42.0 ± 2.8 (2)", "33.0 ± 4.2 (2)", "+9.0"],
        ["beta", "1", "-", "-", "-", "-"],
        ["beta", "5", "-", "60.0 (1)", "50.0 (1)", "+10.0"],
        ["average of 1 of 2", "1", "20.0", "-", "10.0 (1)", "-"],
        ["average of 2", "5", "-", "51.0 (1 to 2)", "41.5 (1 to 2)", "+9.5"],
    ]


def test_a_system_without_a_data_set_has_no_average(systems: dict[str, list[Run]]) -> None:
    systems["peer"] = [Run("alpha", 5, 0, 35.0, 10, "a5-0")]
    _, _, alpha, _, beta, *_, last = tables.f1_table(systems, "token classifier")
    assert alpha[-2:] == ["35.0 (1)", "+9.0"] and beta[-2:] == ["-", "+10.0"]
    assert last == ["average of 2", "5", "-", "51.0 (1 to 2)", "41.5 (1 to 2)", "-", "+9.5"]


def test_nothing_in_common_is_no_average() -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0, 10, "s")], "b": [Run("beta", 5, 0, 50.0, 20, "t")]}
    assert tables.f1_table(systems, "b")[-1] == ["average of 2", "5", "-", "-", "-"]


def test_supports_that_are_not_shared_make_no_difference() -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0, 10, "s")], "b": [Run("alpha", 5, 1, 50.0, 10, "s")]}
    assert tables.f1_table(systems, "b")[1:] == [
        ["alpha", "5", "30.0 (1)", "50.0 (1)", "-"],
        ["average of 1", "5", "30.0 (1)", "50.0 (1)", "-"],
    ]


@pytest.mark.parametrize(("gap", "shown"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-3.0, "-3.0")])
def test_differences_carry_their_sign(gap: float, shown: str) -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0 + gap, 10, "s")], "b": [Run("alpha", 5, 0, 30.0, 10, "s")]}
    assert tables.f1_table(systems, "b")[1][-1] == shown


def test_zero_shot_columns_are_named_where_two_systems_have_one() -> None:
    systems = {
        name: [Run("alpha", 0, 0, f1, 10, "none"), Run("alpha", 5, 0, 30.0, 10, "s")]
        for name, f1 in (("a", 1), ("b", 2))
    }
    head, row, *_ = tables.f1_table(systems, "b")
    assert (head[2:4], row[2:4]) == (["zero-shot a", "zero-shot b"], ["1.0", "2.0"])


def test_differences_are_over_shared_supports(systems: dict[str, list[Run]]) -> None:
    systems["peer"] = [Run("alpha", 5, 0, 35.0, 10, "a5-0", boundary=60.0), Run("alpha", 5, 3, 99.0, 10, "s")]
    head, ours, peer = tables.differences(systems, "token classifier")
    assert head == ["system", "k", "data sets", "supports", "strict F1", "boundary F1", "correct types"]
    # alpha: 10 and 8; beta: 10, from one support, which cannot be drawn anew.
    assert ours == ["cllmfs", "5", "2", "3", "+9.5", "-", "-"]
    assert peer == ["peer", "5", "1", "1", "+5.0", "-", "-"]
    # With alpha alone, drawing its two anew gives means of 8, 9 and 10.
    alone = {name: [run for run in runs if run.dataset == "alpha"] for name, runs in systems.items()}
    assert tables.differences(alone, "token classifier")[1][4] == "+9.0 [+8.0, +10.0]"
    assert tables.differences({"a": systems["peer"]}, "a") == []


def test_differences_of_boundaries_and_types() -> None:
    def runs(f1: float, boundary: float, typing: float | None) -> list[Run]:
        return [Run("alpha", 5, n, f1 + n, 10, "s", boundary=boundary, typing=typing) for n in range(2)]

    table = tables.differences({"a": runs(30, 50, 70), "b": runs(20, 51, 65)}, "b")
    assert table[1][4:] == ["+10.0 [+10.0, +10.0]", "-1.0 [-1.0, -1.0]", "+5.0 [+5.0, +5.0]"]
    assert tables.differences({"a": runs(30, 50, 70), "b": runs(20, 51, None)}, "b")[1][-1] == "-"
    partly = [*runs(20, 51, 65)[:1], *runs(20, 51, None)[1:]]
    assert tables.differences({"a": runs(30, 50, 70), "b": partly}, "b")[1][-1] == "-"


def test_time_is_the_median_of_the_runs() -> None:
    runs = [
        Run("alpha", 5, n, 30.0, 10, "s", train_seconds=t, sentences_per_second=r)
        for n, t, r in ((0, 10.0, 2.0), (1, 30.0, 4.0), (2, 31.0, 400.0))
    ]
    systems = {"a": runs, "b": [Run("alpha", 1, 0, 30.0, 10, "s")]}
    assert tables.costs(systems) == [
        ["figure", "k", "a"],
        ["seconds of learning", "1", "-"],
        ["seconds of learning", "5", "30 (3)"],
        ["sentences per second", "1", "-"],
        ["sentences per second", "5", "4 (3)"],
    ]
    assert tables.costs({"b": systems["b"]}) == []


def test_the_page_bears_its_title_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = put(tmp_path / "results", RUNS[1], RUNS[5])
    report.write_report(folder, tmp_path / "pages" / "page.md", plot=False, title="From afar")
    assert (tmp_path / "pages" / "page.md").read_text(encoding="utf-8").startswith("# From afar\n")


def test_what_a_result_says_beside_f1_is_read(tmp_path: Path) -> None:
    folder = put(tmp_path, RUNS[1])
    path = folder / "cllmfs" / "alpha" / "test-5-shot-0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["scores"] |= {"boundary": {"f1": 0.5}, "typing_accuracy": 0.8, "episode": {"tp": 1, "fp": 2, "fn": 3}}
    write_result(path, record | {"seconds": {"train": 7.0, "predict": 4.0}})
    (run,) = results.read_results(folder, "test")["cllmfs"]
    assert (run.boundary, run.typing, run.train_seconds, run.sentences_per_second) == (50.0, 80.0, 7.0, 2.5)
    assert run.episode == (Counts(1, 2, 3), Counts(40, 60, 60))


@pytest.mark.parametrize(("device", "train_seconds"), [("cpu", 7.0), ("cuda", None)])
def test_seconds_on_a_gpu_are_not_compared(tmp_path: Path, device: str, train_seconds: float | None) -> None:
    folder = put(tmp_path, RUNS[1])
    path = folder / "cllmfs" / "alpha" / "test-5-shot-0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    write_result(path, record | {"seconds": {"train": 7.0, "predict": 4.0}, "device": device})
    (run,) = results.read_results(folder, "test")["cllmfs"]
    assert run.train_seconds == train_seconds and (run.sentences_per_second is None) == (train_seconds is None)


def test_episodes_are_summed_and_stand_apart(systems: dict[str, list[Run]]) -> None:
    def episode(seed: int, joined: Counts, apart: Counts, sentences: int = 2) -> Run:
        counts = EpisodeCounts(joined, apart)
        return Run("way", 1, seed, 99.0, sentences, f"e{seed}", 0.5, episode=counts)

    plain = report.markdown(systems, "token classifier", "test")
    systems["cllmfs"] += [
        episode(0, Counts(1, 0, 0), Counts(2, 1, 1)),
        episode(1, Counts(0, 1, 3), Counts(0, 2, 2), sentences=3),
    ]
    results.refuse_unequal(systems)
    # Joined 1 found, 1 made up, 3 missed: 2 / 6; apart 2, 3, 3: 4 / 10.
    assert tables.episode_table(systems) == [["episodes", "k", "cllmfs"], ["way", "1", "33.3 / 40.0 (2)"]]
    page = report.markdown(systems, "token classifier", "test")
    before, _, rest = page.partition("## Episodes")
    assert before == plain.partition("## Calibration")[0] and "| way | 1 | 33.3 / 40.0 (2) |" in rest
    assert rest.endswith(plain.partition("## Calibration")[2]), "their calibration errors are of single episodes"
    systems["token classifier"].append(episode(0, Counts(), Counts(), sentences=5))
    with pytest.raises(DataError, match=r"the same sentences of way, got 2 .*token classifier, way, 1-shot, seed 0"):
        results.refuse_unequal(systems)


def test_episodes_alone_make_a_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folder = put(tmp_path, RUNS[1])
    path = folder / "cllmfs" / "alpha" / "test-5-shot-0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["scores"]["episode"] = {"tp": 1, "fp": 0, "fn": 1}
    write_result(path, record)
    report.write_report(folder, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| alpha | 5 | 66.7 / 40.0 (1) |" in page and "Strict micro-F1" not in page
    assert not (tmp_path / "page.png").exists()


def test_differences_are_drawn(systems: dict[str, list[Run]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sizes = []
    for k, name in ((5, "one.png"), (5, "two.png"), (1, "three.png")):
        systems["peer"] = [Run("alpha", k, 0, 35.0, 10, "s")]
        figures.plot_differences(systems, "token classifier", tmp_path / name)
        sizes.append((tmp_path / name).read_bytes())
    assert sizes[0].startswith(b"\x89PNG") and sizes[0] == sizes[1] != sizes[2]


def test_calibration_table(systems: dict[str, list[Run]]) -> None:
    # sd of 0.1 and 0.3 is sqrt(0.02); beta carries no figure, so it has no row, and the classifier no column.
    assert tables.calibration_table(systems) == [
        ["data set", "k", "cllmfs"],
        ["alpha", "0", "0.200 (1)"],
        ["alpha", "5", "0.200 ± 0.141 (2)"],
    ]
    assert tables.calibration_table({"token classifier": systems["token classifier"]}) == []


def test_the_paper_line_has_its_own_section(tmp_path: Path) -> None:
    folder = put(tmp_path, *RUNS[:2])
    path = folder / "cllmfs" / "alpha" / "test-5-shot-0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    # By hand: 3 of 4 strings right, 3 of 5 mentions found.
    record["scores"]["paper_line"] = {"gold": 5, "gold_found": 3, "predicted": 4, "predicted_right": 3, "note": "x"}
    write_result(path, record)
    page = report.markdown(results.read_results(folder, "test"), "cllmfs", "test")
    head, _, rest = page.partition("## The paper line's protocol")
    assert "66.7" not in head and "not comparable with the strict scores" in rest
    assert rest.count("\n| alpha ") == 1 and "| alpha | 5 | 66.7 (1) |" in rest


def test_the_page(systems: dict[str, list[Run]]) -> None:
    page = report.markdown(systems, "token classifier", "test", {report.CURVES: "curves.png"})
    assert "| alpha | 5 | 20.0 | 42.0 ± 2.8 (2) | 33.0 ± 4.2 (2) | +9.0 |\n" in page
    assert "(curves.png)" in page and "test split" in page and "## Calibration" in page
    assert "png" not in report.markdown(systems, "token classifier", "test")


def test_the_order_of_runs_does_not_matter(systems: dict[str, list[Run]]) -> None:
    turned = {name: runs[::-1] for name, runs in systems.items()}
    assert report.markdown(turned, "token classifier", "test") == report.markdown(systems, "token classifier", "test")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Run("alpha", 5, 0, 50.0, 9, "s"), "must score the same sentences of alpha, got 10 .a. and 9 .b"),
        (
            Run("alpha", 5, 0, 50.0, 10, "u"),
            "must learn from the same shots, but a and b did not: alpha, 5-shot, seed 0",
        ),
    ],
)
def test_unlike_runs_are_refused(other: Run, message: str) -> None:
    with pytest.raises(DataError, match=message):
        results.refuse_unequal({"a": [Run("alpha", 5, 0, 30.0, 10, "s")], "b": [other]})


@pytest.mark.parametrize("written", ["{}", "[]", "{", '{"split": "test", "system": "a"}'])
def test_a_file_of_something_else_is_named(written: str, tmp_path: Path) -> None:
    path = put(tmp_path, RUNS[0]) / "cllmfs" / "alpha" / "test-0-shot-0.json"
    path.write_text(written, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"test-0-shot-0\.json: a result must have the form that `cllmfs benchmark` writes"
    ):
        results.read_results(tmp_path, "test")


@pytest.mark.parametrize(
    "keys, value",
    [
        (["system"], 3), (["dataset"], ["alpha"]), (["dataset"], 1), (["k"], "many"), (["k"], 1 << 60), (["seed"], -1),
        (["seed"], None), (["scores"], []), (["scores", "micro", "tp"], 0.5), (["scores", "micro", "fp"], 1 << 60),
        (["scores", "sentences", "count"], "9"), (["shots"], 5), (["shots", "sha256"], {}), (["confidence"], [1]),
        (["confidence"], {"ece": "x"}), (["confidence"], {"ece": float("nan")}), (["limit"], "all"), (["seconds"], 1),
        (["seconds"], {"train": []}), (["seconds"], {"predict": "1"}), (["seconds"], {"train": float("inf")}),
        (["scores", "boundary"], 1), (["scores", "typing_accuracy"], "x"), (["scores", "paper_line"], {"gold": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_of_another_type_is_named(keys: list[str], value: Any, tmp_path: Path) -> None:
    path = put(tmp_path, RUNS[0]) / "cllmfs" / "alpha" / "test-0-shot-0.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    inner = record
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DataError, match=r"test-0-shot-0\.json: a result must have the form") as caught:
        results.read_results(tmp_path, "test")
    assert len(str(caught.value)) < 600


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a results folder must exist, got .*none"):
        results.read_results(tmp_path / "none", "test")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    output, folder = tmp_path / "page.md", put(tmp_path / "results", *RUNS)
    words = ["report", str(folder), "--output", str(output), "--no-plot"]
    assert CliRunner().invoke(app, words).exit_code == 0
    systems = results.read_results(folder, "test")
    assert output.read_text(encoding="utf-8") == report.markdown(systems, "token classifier", "test")
    assert not (tmp_path / "page.png").exists()
    assert CliRunner().invoke(app, [*words, "--first", "token classifier"]).exit_code == 0
    assert "| token classifier | cllmfs | token classifier minus cllmfs |" in output.read_text(encoding="utf-8")
    for option in ("--first", "--baseline"):
        wrong = CliRunner().invoke(app, [*words, option, "other"])
        assert wrong.exit_code == 2 and "there is no result of 'other'" in wrong.stderr
    none = CliRunner().invoke(app, ["report", str(put(tmp_path / "zero", RUNS[0])), "--output", str(output)])
    assert none.exit_code == 2 and "must hold results with shots, got none of the test split" in none.stderr


def test_the_first_system_can_be_the_baseline(tmp_path: Path) -> None:
    folder, output = put(tmp_path / "results", *RUNS), tmp_path / "page.md"
    words = ["report", str(folder), "--output", str(output), "--no-plot", "--baseline", "cllmfs"]
    assert CliRunner().invoke(app, words).exit_code == 0
    page = output.read_text(encoding="utf-8")
    assert "| data set | k | zero-shot | cllmfs | token classifier |\n" in page  # no column of its own
    assert "## Differences from cllmfs\n" in page
    assert "\n| token classifier | 5 | 2 | 3 | -9.5 " in page


def test_one_system_is_compared_with_nobody(tmp_path: Path) -> None:
    report.write_report(put(tmp_path / "results", *RUNS[:4]), tmp_path / "page.md", plot=False)
    assert "| alpha | 5 | 20.0 | 42.0 ± 2.8 (2) |\n" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_curves_are_by_k_zero_shot_first(systems: dict[str, list[Run]]) -> None:
    points = results.curve(systems["token classifier"], "alpha")
    assert [(k, pytest.approx(one.mean), one.supports) for k, one in points] == [(1, 10.0, 1), (5, 33.0, 2)]
    assert [k for k, _ in results.curve(systems["cllmfs"], "alpha")] == [0, 5]
    assert results.curve(systems["cllmfs"], "gamma") == []


def test_the_plot_is_the_same_twice(systems: dict[str, list[Run]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.png", "two.png"):
        figures.plot_curves(systems, tmp_path / name)
    drawn = (tmp_path / "one.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and drawn == (tmp_path / "two.png").read_bytes()


def test_every_line_is_labeled_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn: list[Any] = []
    monkeypatch.setattr(figure, "savefig", lambda self, *_, **__: drawn.append(self))
    names = ("a", "b", "a system of some other kind")
    systems = {name: [Run("alpha", k, 0, 30.0 + k, 10, f"{k}") for k in (0, 1, 5)] for name in names}
    systems["short"] = [Run("alpha", 1, 0, 20.0, 10, "1")]
    figures.plot_curves(systems, tmp_path / "page.png")
    (picture,) = drawn
    picture.draw_without_rendering()
    labels = picture.axes[0].texts
    assert sorted(label.get_text() for label in labels) == sorted(systems)
    boxes = {label.get_text(): label.get_window_extent() for label in labels}
    end = picture.axes[0].transData.transform((5, 0))[0]
    assert all(box.x0 > end for name, box in boxes.items() if name != "short"), "right of the line"
    assert all(picture.bbox.x0 <= box.x0 < box.x1 <= picture.bbox.x1 for box in boxes.values())
    heights = sorted((boxes[name].y0, boxes[name].y1) for name in names)
    assert all(low[1] <= high[0] for low, high in pairwise(heights)), "equal ends, yet no label covers another"


def test_no_picture_is_drawn_where_the_table_is_enough(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report.write_report(put(tmp_path / "plain", RUNS[5]), tmp_path / "plain.md")
    assert not list(tmp_path.glob("*.png")), "one k of one system"


def test_the_curves_of_named_systems_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [(f"s{n}", "alpha", k, 0, "test", (30 + n * k, 9, 9), 10, f"a{k}", None) for n in range(7) for k in (1, 5)]
    folder = put(tmp_path / "results", *runs)
    drawn = {}
    for name, curves in (("first", []), ("five", [f"s{n}" for n in range(5)]), ("two", ["s6", "s1"])):
        report.write_report(folder, tmp_path / f"{name}.md", curves=curves)
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["first"] == drawn["five"] != drawn["two"]
    with pytest.raises(ConfigError, match="at most 5 learning curves, got 6; name fewer"):
        report.write_report(folder, tmp_path / "page.md", curves=[f"s{n}" for n in range(6)])
    with pytest.raises(ConfigError, match="there is no result of 'other'"):
        report.write_report(folder, tmp_path / "page.md", curves=["other"])


def test_differences_are_sorted_by_size() -> None:
    means = {"a": 30, "b": 20, "c": 40, "d": 35}
    systems = {name: [Run("alpha", 5, n, f1 + n, 10, f"{n}") for n in (0, 1)] for name, f1 in means.items()}
    assert [row[0] for row in tables.differences(systems, "a")[1:]] == ["c", "d", "b"]


ALPHA, BETA, GAMMA = (("a", name, 5, 0, "test", (40, 60, 60), 10, name, None) for name in ("alpha", "beta", "gamma"))


@pytest.mark.parametrize(
    ("runs", "stated"),
    [
        ([(ALPHA, None)], "every sentence of the test split of alpha (10)"),
        ([(ALPHA, None), (BETA, None)], "every sentence of the test split of alpha (10) and beta (10)"),
        ([(ALPHA, 10)], "the first 10 sentences of the test split of alpha"),
        ([(ALPHA, 11)], "every sentence of the test split of alpha (10)"),  # the split ends before the limit
        ([(ALPHA, 10), (BETA, 10)], "the first 10 sentences of the test split of alpha and beta"),
        (
            [(ALPHA, None), (BETA, 10), (GAMMA, None)],
            "every sentence of the test split of alpha (10) and gamma (10), "
            "and on the first 10 sentences of the test split of beta",
        ),
        (
            [(ALPHA, 10), ((*BETA[:6], 1200, *BETA[7:]), 1200)],
            "the first 10 sentences of the test split of alpha, "
            "and on the first 1,200 sentences of the test split of beta",
        ),
        # Another system had no limit and scored as many: the split has no more.
        ([(ALPHA, 10), (("b", *ALPHA[1:]), None)], "every sentence of the test split of alpha (10)"),
    ],
)
def test_the_scored_sentences_are_stated(runs: list[tuple[Any, int | None]], stated: str, tmp_path: Path) -> None:
    for run, limit in runs:
        put(tmp_path / "results", run, limit=limit)
    report.write_report(tmp_path / "results", tmp_path / "page.md", plot=False)
    assert f"The systems are scored on {stated}. All types" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_the_split_is_stated(tmp_path: Path) -> None:
    put(tmp_path / "results", *RUNS, limit=7)
    report.write_report(tmp_path / "results", tmp_path / "page.md", split="dev", plot=False)
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "The systems are scored on the first 7 sentences of the dev split of alpha." in page
    assert "test split" not in page and "beta" not in page


def test_runs_with_a_limit_are_not_compared_with_whole_splits(tmp_path: Path) -> None:
    put(tmp_path / "results", ALPHA)
    put(tmp_path / "results", ("b", *ALPHA[1:6], 5, *ALPHA[7:]), limit=5)
    with pytest.raises(DataError, match=r"must score the same sentences of alpha, got 10 \(a\) and 5 \(b"):
        report.write_report(tmp_path / "results", tmp_path / "page.md", plot=False)


def test_query_sentences_are_counted_once_for_all_systems() -> None:
    counts = EpisodeCounts(Counts(1, 0, 0), Counts(1, 0, 0))
    runs = [Run("way", k, seed, 99.0, 2 + seed, f"e{seed}", episode=counts) for k, seed in ((1, 0), (1, 1), (5, 0))]
    page = report.markdown({"a": runs, "b": runs[:1]}, "a", "test")
    assert "asked of all of its query sentences: 5 of way at k = 1 and 2 of way at k = 5." in page
    assert "The systems are scored on" not in page


def test_a_wide_table_of_few_rows_is_turned() -> None:
    names = [f"s{number}" for number in range(11)]
    row = ["alpha", "5", *map(str, range(11))]
    assert report.fit_to_page([["data set", "k", *names[:10]], row[:12]]) == [["data set", "k", *names[:10]], row[:12]]
    turned = report.fit_to_page([["data set", "k", *names], row, ["beta", "1", *["-"] * 11]])
    assert turned == [["system", "alpha, k = 5", "beta, k = 1"], *([f"s{n}", str(n), "-"] for n in range(11))]
    long = [["data set", "k", *names], *[row] * 12]
    assert report.fit_to_page(long) == long  # would be as wide, turned


def test_one_k_makes_no_curves(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [(f"s{number}", "alpha", 5, 0, "test", (30 + number, 9, 9), 10, "s", None) for number in range(10)]
    report.write_report(put(tmp_path / "many", *runs), tmp_path / "page.md")
    assert sorted(path.name for path in tmp_path.glob("page*")) == ["page.md", "page_differences.png"]
    more = ("s0", "alpha", 1, 0, "test", (20, 9, 9), 10, "t", None)
    report.write_report(put(tmp_path / "many", more), tmp_path / "page.md")
    assert (tmp_path / "page.png").is_file()


def test_the_plot_says_what_it_needs(
    systems: dict[str, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install .*, or pass --no-plot"):
        figures.plot_curves(systems, tmp_path / "curves.png")
