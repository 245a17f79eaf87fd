"""The scripts of ``benchmarks/trust`` in a small size, in processes of their own; and that they find what is wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.trust.damage import damaged
from benchmarks.trust.grounding import problems
from benchmarks.trust.texts import SCRIPTS, fuzzed_texts
from cllmfs.schema import Document, Span

ROOT = Path(__file__).resolve().parents[1]


def counted(script: str, folder: Path, *options: object) -> dict[str, Any]:
    """What a script counts; its exit status must be 0."""
    results = folder / "results.json"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", f"benchmarks.trust.{script}", "--output", results, *options]
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    entry: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))[script]
    assert entry["versions"]["cllmfs"] and entry["date"]
    return entry


def test_no_span_is_ungrounded(tmp_path: Path) -> None:
    found = counted("grounding", tmp_path, "--spans", 1000, "--random-only")
    assert found["spans"] >= 1000 and found["ungrounded"] == 0
    assert set(found["spans_by"]["script"]) == set(SCRIPTS)
    assert all(found["spans_by"]["script"].values()) and len(found["spans_by"]["mode"]) == 8


def test_threads_and_processes_answer_as_one_thread_does(tmp_path: Path) -> None:
    found = counted("threads", tmp_path, "--threads", 8, "--texts", 12, "--base", "small", "--processes", 1)
    assert found["differences"] == 0 and found["errors"] == {}
    counts = found["counts"]
    assert counts["texts on one recognizer"] == 8 * 12 == counts["texts on one recognizer, with spans"]
    for name in ("calls on shared bases", "models loaded", "calls after the training", "calls in other processes"):
        assert counts[f"{name}, with spans"] > 0


def test_nothing_is_lost_when_commands_are_killed(tmp_path: Path) -> None:
    found = counted("kills", tmp_path, "--kills", 6)
    assert found["kills"] >= 6 and found["faults"] == 0


def test_damaged_inputs_are_answered_with_messages(tmp_path: Path) -> None:
    found = counted("mutations", tmp_path, "--inputs", 50)
    assert sum(found["exit_statuses"].values()) == 50
    assert [found[name] for name in ("traceback", "crash", "hang", "message")] == [0, 0, 0, 0]


# the scripts themselves


def test_texts_are_the_same_for_the_same_seed() -> None:
    one, same, other = (list(islice(fuzzed_texts(seed), 60)) for seed in (1, 1, 2))
    assert one == same != other
    assert {script for script, _, _ in one} == set(SCRIPTS) and len(SCRIPTS) == 12
    for _, _, text in one:
        text.encode()


@pytest.mark.parametrize(
    "spans, problem",
    [
        ([Span(0, 3, "person", 0.5, "Ada")], None),
        ([Span(0, 13, "person", 0.5, "Ada")], "offsets outside"),
        ([Span(2, 2, "person", 0.5, "")], "empty"),
        ([Span(0, 3, "person", 0.5, "Bo")], "another text of the span"),
        ([Span(3, 4, "person", 0.5, " ")], "white space alone"),
        ([Span(4, 6, "person", 0.5, "Zo")], "edge inside a word"),
        ([Span(4, 7, "person", 0.5, "Zoe")], "edge inside a grapheme cluster"),
        ([Span(0, 3, "place", 0.5, "Ada")], "label not asked"),
        ([Span(0, 3, "person", None, "Ada")], "no confidence"),
        ([Span(4, 8, "person", 0.5, "Zoe\u0308"), Span(0, 3, "person", 0.5, "Ada")], "not sorted, or twice"),
        ([Span(0, 3, "person", 0.5, "Ada"), Span(0, 8, "person", 0.5, "Ada Zoe\u0308")], "overlapping"),
    ],
)
def test_ungrounded_spans_are_noticed(spans: list[Span], problem: str | None) -> None:
    text = "Ada Zoe\u0308 sat"
    found = list(problems(Document(text, tuple(spans)), text, ["person"], "word", nested=False))
    assert found == [] if problem is None else problem in found


@pytest.mark.parametrize(
    "syntax, data",
    [
        ("json", b'{"labels": {"a": "b"}, "n": [1, 2]}'),
        ("jsonl", b'{"text": "a"}\n{"text": "b"}\n'),
        ("toml", b"[labels]\na = 1\n"),
        ("columns", b"Ada B-PER\nsat O\n"),
        ("bytes", b"abc"),
    ],
)
def test_damage_depends_on_the_seed_alone(syntax: str, data: bytes) -> None:
    made = [[damaged(data, syntax, random.Random(seed)) for seed in range(200)] for _ in range(2)]
    assert made[0] == made[1] and len(set(made[0])) > 80
    assert any(one != other for one, other in pairwise(made[0])) and sum(one == data for one in made[0]) < 60
