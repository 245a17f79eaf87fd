"""The report of the few-shot benchmark: figures worked out by hand, missing cells, refusals, the same output twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cllmfs.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "few_shot").is_dir():
    pytest.skip("benchmarks is not part of this install", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.few_shot import figures, report, results  # noqa: E402
from benchmarks.few_shot.results import Bin, Run  # noqa: E402

# As run.py writes them: by name, in percent.
KEYED: dict[str, dict[str, Any]] = {
    "alpha test 0-shot 0": {"f1": 20.0, "sentences": 10, "shots": 0, "ece": 0.2},
    "alpha test 5-shot 0": {"f1": 40.0, "sentences": 10, "shots": 3, "ece": 0.1},
    "alpha test 5-shot 1": {"f1": 44.0, "sentences": 10, "shots": 4, "ece": 0.3},
    "beta test 5-shot 0": {"f1": 60.0, "sentences": 20, "shots": 2},
    "alpha dev 5-shot 0": {"f1": 99.0, "sentences": 7, "shots": 3},
}


def listed(dataset: str, k: int, seed: int, f1: float, shots: int, sentences: int = 10) -> dict[str, Any]:
    """As the other systems write them: a list, in shares."""
    where = {"dataset": dataset, "split": "test", "k": k, "seed": seed}
    return where | {"f1": f1, "sentences": sentences, "support_sentences": shots, "recipe": {"epochs": 1}}


LISTED = [
    listed("alpha", 5, 0, 0.30, 3),
    listed("alpha", 5, 1, 0.36, 4),
    listed("beta", 5, 0, 0.50, 2, sentences=20),
    listed("alpha", 1, 0, 0.10, 1),
]


def put(path: Path, runs: Any) -> Path:
    path.write_text(json.dumps({"summary": {}, "runs": runs}), encoding="utf-8")
    return path


@pytest.fixture
def systems(tmp_path: Path) -> dict[str, list[Run]]:
    return {
        "cllmfs": results.read_runs(put(tmp_path / "cllmfs.json", KEYED), "test"),
        "token classifier": results.read_runs(put(tmp_path / "classifier.json", LISTED), "test"),
    }


def test_both_formats_are_read_as_percent(systems: dict[str, list[Run]]) -> None:
    assert systems["cllmfs"][1] == Run("alpha", 5, 0, 40.0, 10, 3, 0.1)
    assert systems["token classifier"][0] == Run("alpha", 5, 0, 30.0, 10, 3)


def test_only_the_split_is_read(systems: dict[str, list[Run]], tmp_path: Path) -> None:
    assert 99.0 not in {run.f1 for run in systems["cllmfs"]}
    assert [run.f1 for run in results.read_runs(tmp_path / "cllmfs.json", "dev")] == [99.0]


def test_the_table(systems: dict[str, list[Run]]) -> None:
    # alpha: sd of 40 and 44 is sqrt(8), of 30 and 36 sqrt(18); the difference is (10 + 8) / 2. The average at k 1 is
    # over alpha alone, all that was measured at this k. beta has no zero-shot answer, so the average at k 5 has
    # none either.
    assert report.table(systems, "token classifier") == [
        ["data set", "k", "zero-shot", "cllmfs", "token classifier", "cllmfs less token classifier"],
        ["alpha", "1", "20.0", "-", "10.0 (1)", "-"],
        ["alpha", "5", "20.0", "42.0 ± 2.8 (2)", "33.0 ± 4.2 (2)", "+9.0"],
        ["beta", "1", "-", "-", "-", "-"],
        ["beta", "5", "-", "60.0 (1)", "50.0 (1)", "+10.0"],
        ["average of 1 of 2", "1", "20.0", "-", "10.0", "-"],
        ["average of 2", "5", "-", "51.0", "41.5", "+9.5"],
    ]


def test_a_system_without_a_data_set_has_no_average(systems: dict[str, list[Run]]) -> None:
    systems["peer"] = [Run("alpha", 5, 0, 35.0, 10, 3)]
    _, _, alpha, _, beta, *_, last = report.table(systems, "token classifier")
    # Differences of the peer are over seed 0 alone, the support that both have: 35 less 30.
    assert alpha[-3:] == ["35.0 (1)", "+9.0", "+5.0"] and beta[-3:] == ["-", "+10.0", "-"]
    assert last == ["average of 2", "5", "-", "51.0", "41.5", "-", "+9.5", "-"]


def test_nothing_in_common_is_no_average() -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0, 10, 3)], "b": [Run("beta", 5, 0, 50.0, 20, 2)]}
    assert report.table(systems, "b")[-1] == ["average of 2", "5", "-", "-", "-"]


def test_supports_that_are_not_shared_make_no_difference() -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0, 10, 3)], "b": [Run("alpha", 5, 1, 50.0, 10, 3)]}
    assert report.table(systems, "b")[1:] == [
        ["alpha", "5", "30.0 (1)", "50.0 (1)", "-"],
        ["average of 1", "5", "30.0", "50.0", "-"],
    ]


@pytest.mark.parametrize(("gap", "shown"), [(0.04, "0.0"), (-0.04, "0.0"), (0.06, "+0.1"), (-3.0, "-3.0")])
def test_differences_carry_their_sign(gap: float, shown: str) -> None:
    systems = {"a": [Run("alpha", 5, 0, 30.0 + gap, 10, 3)], "b": [Run("alpha", 5, 0, 30.0, 10, 3)]}
    assert report.table(systems, "b")[1][-1] == shown


def test_zero_shot_columns_are_named_where_two_systems_have_one() -> None:
    systems = {
        name: [Run("alpha", 0, 0, f1, 10, 0), Run("alpha", 5, 0, 30.0, 10, 3)] for name, f1 in (("a", 1), ("b", 2))
    }
    head, row, *_ = report.table(systems, "b")
    assert (head[2:4], row[2:4]) == (["zero-shot a", "zero-shot b"], ["1.0", "2.0"])


def test_calibration_table(systems: dict[str, list[Run]]) -> None:
    # sd of 0.1 and 0.3 is sqrt(0.02); beta carries no figure, so it has no row, and the classifier no column.
    assert report.calibration_table(systems) == [
        ["data set", "k", "cllmfs"],
        ["alpha", "0", "0.200 (1)"],
        ["alpha", "5", "0.200 ± 0.141 (2)"],
    ]
    assert report.calibration_table({"token classifier": systems["token classifier"]}) == []


def test_the_page(systems: dict[str, list[Run]]) -> None:
    page = report.markdown(systems, "token classifier", "test", "curves.png")
    assert "| alpha | 5 | 20.0 | 42.0 ± 2.8 (2) | 33.0 ± 4.2 (2) | +9.0 |\n" in page
    assert "(curves.png)" in page and "test split" in page and "## Calibration" in page
    assert "png" not in report.markdown(systems, "token classifier", "test")


def test_the_order_of_runs_does_not_matter(systems: dict[str, list[Run]]) -> None:
    turned = {name: runs[::-1] for name, runs in systems.items()}
    assert report.markdown(turned, "token classifier", "test") == report.markdown(systems, "token classifier", "test")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Run("alpha", 5, 0, 50.0, 9, 3), "must score the same sentences of alpha, got 10 .a. and 9 .b"),
        (Run("alpha", 5, 0, 50.0, 10, 4), "must learn from the same shots, got 3 .a. and 4 .b."),
    ],
)
def test_unlike_runs_are_refused(other: Run, message: str) -> None:
    with pytest.raises(DataError, match=message):
        results.check({"a": [Run("alpha", 5, 0, 30.0, 10, 3)], "b": [other]})


def test_two_runs_of_a_support_are_refused() -> None:
    run = Run("alpha", 5, 0, 30.0, 10, 3)
    with pytest.raises(DataError, match="a must have one run a support, got two of alpha, 5-shot, seed 0"):
        results.check({"a": [run, run]})


@pytest.mark.parametrize("runs", [{"alpha": {}}, {"alpha test 5-shot 0": {"f1": 1.0}}, [{"dataset": "alpha"}], 5])
def test_a_file_of_something_else_is_named(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: a results file must hold runs"):
        results.read_runs(put(tmp_path / "results.json", runs), "test")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: a results file must be readable"):
        results.read_runs(tmp_path / "none.json", "test")


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    report.main()


def test_the_command_writes_the_page(
    systems: dict[str, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "page.md"
    named = [f"--system=cllmfs={tmp_path / 'cllmfs.json'}", f"--system=token classifier={tmp_path / 'classifier.json'}"]
    command(monkeypatch, *named, "--no-plot", f"--output={output}")
    assert output.read_text(encoding="utf-8") == report.markdown(systems, "token classifier", "test")
    assert not (tmp_path / "page.png").exists()
    with pytest.raises(
        SystemExit, match="baseline must be one of the systems 'cllmfs', 'token classifier', got 'other'"
    ):
        command(monkeypatch, *named, "--baseline=other", f"--output={output}")


def test_a_system_may_have_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, runs in (("one", LISTED[:1]), ("two", LISTED[1:])):
        put(tmp_path / f"{part}.json", runs)
    named = [f"--system=a={tmp_path / part}.json" for part in ("one", "two")]
    command(monkeypatch, *named, "--baseline=a", "--no-plot", f"--output={tmp_path / 'page.md'}")
    assert "| alpha | 5 | 33.0 ± 4.2 (2) |\n" in (tmp_path / "page.md").read_text(encoding="utf-8")


def test_a_system_needs_a_name_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, "--system=results.json", f"--output={tmp_path / 'page.md'}")
    assert "a system is given as \"name=results.json\", got 'results.json'" in capsys.readouterr().err


def test_curves_are_by_k_and_leave_zero_shot_out(systems: dict[str, list[Run]]) -> None:
    points = results.curve(systems["token classifier"], "alpha")
    assert [(k, one.mean, one.supports) for k, one in points] == [(1, 10.0, 1), (5, 33.0, 2)]
    assert results.curve(systems["cllmfs"], "gamma") == []


def test_the_plot_is_the_same_twice(systems: dict[str, list[Run]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("one.png", "two.png"):
        figures.plot_curves(systems, tmp_path / name)
    drawn = (tmp_path / "one.png").read_bytes()
    assert drawn.startswith(b"\x89PNG") and drawn == (tmp_path / "two.png").read_bytes()


def test_reliability_pools_the_supports_by_their_spans() -> None:
    one = Run("alpha", 5, 0, 40.0, 10, 3, bins=(Bin(0.1, 10, 0.15, 0.2), Bin(0.8, 30, 0.8, 0.9)))
    two = Run("alpha", 5, 1, 40.0, 10, 3, bins=(Bin(0.8, 10, 0.88, 0.5),))
    other = Run("alpha", 1, 0, 40.0, 10, 3, bins=(Bin(0.8, 10, 0.9, 0.0),))
    low, high = results.pooled_bins([two, one, other], "alpha", 5)
    assert low == Bin(0.1, 10, 0.15, 0.2)
    # (30 * 0.8 + 10 * 0.88) / 40 and (30 * 0.9 + 10 * 0.5) / 40
    assert high == pytest.approx(Bin(0.8, 40, 0.82, 0.8))
    assert results.pooled_bins([one], "beta", 5) == []


def test_diagrams_are_drawn_where_there_are_confidences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    keyed = {"alpha test 5-shot 0": {**KEYED["alpha test 5-shot 0"], "reliability": [[0.8, 30, 0.85, 0.9]]}}
    confident, plain = put(tmp_path / "cllmfs.json", keyed), put(tmp_path / "classifier.json", LISTED[:1])
    assert results.read_runs(confident, "test")[0].bins == (Bin(0.8, 30, 0.85, 0.9),)
    command(monkeypatch, f"--system=b={plain}", "--baseline=b", f"--output={tmp_path / 'plain.md'}")
    assert [path.name for path in tmp_path.glob("*.png")] == ["plain.png"]
    named = (f"--system=b={plain}", f"--system=a={confident}")
    command(monkeypatch, *named, "--baseline=b", f"--output={tmp_path / 'page.md'}")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert (tmp_path / "page_reliability.png").is_file() and "(page_reliability.png)" in page


def test_more_systems_than_colours_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    many = {str(number): [Run("alpha", 5, 0, 30.0, 10, 3)] for number in range(7)}
    with pytest.raises(ConfigError, match="at most 6 systems, got 7"):
        figures.plot_curves(many, tmp_path / "many.png")


def test_the_plot_says_what_it_needs(
    systems: dict[str, list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib, or pass --no-plot"):
        figures.plot_curves(systems, tmp_path / "curves.png")
