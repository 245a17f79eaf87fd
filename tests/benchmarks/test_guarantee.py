"""The guarantee benchmark: what is judged, which promises count as kept, and its page."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.guarantee import report, run
from cllmfs.assurance.thresholds import Judged
from cllmfs.decoding.calibration import Calibration
from cllmfs.evaluation import Counts
from cllmfs.schema import LabelSet

LABELS = LabelSet(["person", "place"])


def content(count: int, right: float = 0.9) -> dict[str, Any]:
    """Texts with one person each, found in ``right`` of them at a confidence from 0.5 to 1, and a wrong place."""
    draw, texts = random.Random(0), []
    for _ in range(count):
        found = [[0, 3, "person", 0.5 + draw.random() / 2, 0.0]] if draw.random() < right else []
        texts.append({"gold": [[0, 3, "person"]], "candidates": {"0.1": [*found, [5, 8, "place", 0.2, 0.0]]}})
    return {
        "labels": list(LABELS),
        "shots": 7,
        "nested": False,
        "calibration": Calibration(threshold=0.3).to_dict(),
        "texts": texts,
    }


def test_candidates_are_judged_as_predicted_spans_are() -> None:
    found = content(1, right=1.0)
    found["texts"][0]["candidates"]["0.1"].append([2, 8, "person", 0.1, 0.0])  # overlaps both and is the least sure
    (text,) = run.judged(found, 0.1)
    person, place = text.found
    assert place == Judged(0.2, False, "place") and person[1:] == (True, "person")
    assert (text.gold, text.ordinary) == ({"person": 1}, Counts(tp=1))


def test_a_promise_is_given_and_kept_on_the_other_texts() -> None:
    texts = run.judged(content(500), 0.1)
    made = run.cell(texts, LABELS, "recall", 0.7)
    assert (made["given"], made["reasons"]) == (20, [])
    assert made["kept"] == sum(risk <= 0.3 for risk in made["risks"]) >= 19
    assert made["types_given"] == 20 and made["before"]["precision"] == 1.0
    refused = run.cell(texts, LABELS, "recall", 0.95)
    assert (refused["given"], refused["reasons"], refused["after"]) == (0, ["out of reach"], None)
    few = run.cell(texts[:50], LABELS, "precision", 0.8)
    assert (few["given"], few["reasons"]) == (0, ["too few texts"])
    precise = run.cell(texts, LABELS, "precision", 0.8)
    assert precise["kept"] == 20 and max(precise["risks"]) == 0.0
    assert precise["after"]["precision"] == 1.0 and precise["after"]["recall"] == pytest.approx(0.9, abs=0.03)


def test_the_recall_in_reach_is_told_before_and_after_conflicts() -> None:
    found = content(10, right=1.0)
    for one in found["texts"][:5]:
        one["candidates"]["0.1"].append([0, 4, "place", 0.99, 0.0])  # more confident than the person
    for one in found["texts"]:
        one["candidates"]["0.1"][0][3] = 0.7
    made = run.opening(found, 0.1)
    assert made == {"decoded_recall": 1.0, "recall": 0.5, "text_recall": 0.5, "precision": 0.25}


def test_the_page_and_its_picture_come_from_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "gum.json").write_text(json.dumps(content(400)), encoding="utf-8")
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["run", "--cache", str(cache), "--output", str(results)])
    run.main()
    monkeypatch.setattr(sys, "argv", ["report", str(results), "--output", str(page)])
    report.main()
    text = page.read_text(encoding="utf-8")
    cells = json.loads(results.read_text(encoding="utf-8"))["datasets"]["gum"]["cells"]
    given = [one for one in cells if one["given"]]
    assert f"In all, {sum(one['given'] for one in given)} promises were given, and " in text
    assert "| gum | 0.5 | 20 of 20 | 20 |" in text
    assert "| gum | 0.9 | 0 of 20 | - | out of reach | - | - |" in text
    assert "| gum | 0.95 |" not in text
    assert "| gum | 0.1 | 0." in text
    assert (tmp_path / "page.png").stat().st_size > 10_000
