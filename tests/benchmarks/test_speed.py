"""The speed benchmark's parts: its texts, the naive way against a slow reference, its clocks, its report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import run as gpu
from benchmarks.speed import measuring, processes, report, run, workload
from benchmarks.speed.naive import TYPE_FIRST, NaiveDecoder, PromptRows, padded, spans_of
from benchmarks.speed.roofline import operations
from cllmfs.config import Config
from cllmfs.encoding.automaton import SpanAutomaton, State
from cllmfs.encoding.batches import IGNORE
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.tokens import tokenize
from cllmfs.errors import ConfigError
from cllmfs.training.shots import Shot
from tests.conftest import EXAMPLES, own_byte_tokenizer, tiny_backbone

# what is read


@pytest.mark.parametrize("tokens", [8, 40, 300])
def test_texts_have_the_given_length_and_no_duplicates(tokens: int) -> None:
    tokenizer = tiny_backbone("llama").prompt.tokenizer
    made = workload.texts(tokenizer, tokens, 20, seed=3)
    assert len(set(made)) == 20 and made == workload.texts(tokenizer, tokens, 20, seed=3)
    longest_word = max(len(word) for text in made for word in text.split())
    for text in made:
        assert tokens - longest_word <= len(tokenize(tokenizer, text)) <= tokens
        assert text == text.strip()


def test_types_are_names_without_duplicates() -> None:
    names = workload.type_names(128)
    assert len({name.lower() for name in names}) == 128 and all(name == name.strip() != "" for name in names)
    assert workload.type_names(3) == names[:3]
    with pytest.raises(ConfigError, match=r"must be between 1 and .*, got 0"):
        workload.type_names(0)
    asked, answered = workload.training_labels(12), {label for x in workload.example_sentences() for label in x.labels}
    assert len(set(asked)) == 12 and answered < set(asked)


def test_encoders_read_the_words_at_their_places() -> None:
    (example,) = workload.as_tokens(["The hub, loose."])
    assert [example.text[start:end] for start, end in example.token_offsets or ()] == ["The", "hub", ",", "loose", "."]


# the naive way


def greedy(backbone: Any, encoder: Encoder, text: str, label: str) -> list[int]:
    """The answer token by token, each pass over the whole prompt: the most probable of those allowed."""
    (row,) = encoder.rows(encoder.tokenize(text), [encoder.query(label, label)])
    automaton, state, answer = row.automaton, State(), list[int]()
    while not state.ended:
        with torch.no_grad():
            logits = backbone.model(torch.tensor([[*row.branches[0].ids, *answer]])).logits[0, -1]
        choices = sorted(automaton.choices(state))
        answer.append(choices[int(logits[choices].argmax())])
        state = automaton.advance(state, answer[-1])
    return answer


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_naive_decoding_is_greedy_decoding(batch_rows: int) -> None:
    backbone = tiny_backbone("llama")
    texts, labels = [text for text, _ in EXAMPLES], ["person", "place", "boat"]
    decoder = NaiveDecoder(backbone, batch_rows)
    expected: list[set[tuple[int, int, str]]] = [set() for _ in texts]
    for number, text in enumerate(texts):
        sentence = decoder.encoder.tokenize(text)
        for label in labels:
            spans = spans_of(decoder.encoder.automaton(sentence), greedy(backbone, decoder.encoder, text, label))
            expected[number] |= {(*sentence.char_range(*span), label) for span in spans}
    assert decoder.predict(texts, labels) == expected
    assert any(expected)


def test_answers_are_read_as_they_are_written() -> None:
    automaton = SpanAutomaton((10, 11, 10, 12), (True,) * 4, (True,) * 4, next_id=4, end_id=5)
    for spans in ([], [(0, 1)], [(0, 0), (1, 2), (3, 3)]):
        answer = [token for token, _ in automaton.path(spans)]
        assert spans_of(automaton, [*answer, 0, 0]) == spans
    assert spans_of(automaton, [10, 4, 11]) == [(0, 0)], "what an unfinished answer leaves open is dropped"


def test_prompt_rows_hold_every_type_with_its_answer() -> None:
    backbone = tiny_backbone("llama")
    encoder = backbone.encoder(TYPE_FIRST)
    sentence = encoder.tokenize("Ada met Bo.")
    rows = PromptRows(encoder, [Shot(sentence, {"person": ((0, 2), (8, 9))})], ["person", "place"])
    assert len(rows) == 2
    automaton = encoder.automaton(sentence)
    for row, gold in zip(rows, [[(0, 2), (8, 9)], []], strict=True):
        answer = [token for token in row["labels"] if token != IGNORE]
        assert row["ids"][-len(answer) :] == answer and spans_of(automaton, answer) == gold
        assert all(token == IGNORE for token in row["labels"][: -len(answer)])
    batch = padded([rows[0], rows[1]])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    assert batch["attention_mask"].sum(1).tolist() == [len(rows[0]["ids"]), len(rows[1]["ids"])]
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORE).all()


# clocks


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    done: list[str] = []
    contenders = {name: lambda name=name: done.append(name) for name in "abc"}
    seconds = measuring.in_turn(contenders, repetitions=3)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    assert len(done) == 12 and [done[start] for start in (3, 6, 9)] == ["a", "b", "c"]


def test_ratios_are_taken_within_repetitions() -> None:
    seconds = {"slow": [2.0, 40.0, 9.0], "fast": [1.0, 10.0, 3.0]}  # by hand: 2, 4, 3
    assert measuring.ratios(seconds, "slow", "fast") == 3.0


def test_operations_are_counted() -> None:
    left, right = torch.ones(3, 4), torch.ones(4, 5)
    assert operations(lambda: left @ right) == 2 * 3 * 4 * 5
    backbone = tiny_backbone("llama")
    encoder = backbone.encoder(Config())
    (row,) = encoder.rows(encoder.tokenize(EXAMPLES[0][0]), [encoder.query("person", "person")])
    ids = torch.tensor([row.prefix])
    assert operations(lambda: backbone.model(ids)) > operations(lambda: backbone.model(ids[:, :5])) > 0


# the cells

CONFIG = {
    "seed": 0,
    "repetitions": 1,
    "naive_batch": 4,
    "sentences": 2,
    "tokens": 16,
    "types": 2,
    "steps": 1,
    "stream_megabytes": 1,
    "axes": {"vocabulary": [512], "batch_tokens": [64, 256], "end_bias": [-4.0, 4.0]},
    "objectives": {"no contrast": ["loss.contrastive=none"], "fgm": ["loss.adversarial=fgm"]},
}


def test_cells_measure_every_contender_on_the_same_work(tiny_base: Path) -> None:
    config = {**CONFIG, "base": str(tiny_base)}
    vocabulary = run.training(config, 512)
    assert vocabulary["seconds"].keys() == {"trees", "separate rows", "naive"} and vocabulary["sentences"] == 4
    assert run.objectives(config)["seconds"].keys() == {"no contrast", "fgm"}
    sizes = run.variants(config, "batch_tokens", run.with_batches, 3)
    assert sizes["seconds"].keys() == {"64", "256"} and sizes["sentences"] == 3 and "empty_share" not in sizes
    shares = run.variants(config, "end_bias", run.with_bias, 2, shares=True)["empty_share"]
    assert shares["-4.0"] < shares["4.0"] == 1.0
    assert 0 < 20 * run.logits(config)["restricted"] < run.logits(config)["whole"]
    floors = run.floors(config)
    assert floors["prediction"]["flops"] > 0 and floors["training"]["flops"] > 0
    assert floors["sentences"] == {"prediction": 2, "training": 4}


def test_processes_do_their_work(tiny_base: Path) -> None:
    found = processes.peak({**CONFIG, "base": str(tiny_base)}, "training", "naive", 512)
    assert 50 < found["loaded"] <= found["peak"] and found["seconds"] > 0
    with pytest.raises(RuntimeError, match=r"decoding trees failed: .*must be between 1 and .*, got 0"):
        processes.peak({**CONFIG, "base": str(tiny_base), "types": 0}, "decoding", "trees", 512)


def test_shots_become_a_saved_model(tiny_base: Path, tmp_path: Path) -> None:
    command = run.fit_command({**CONFIG, "base": str(tiny_base)}, tmp_path)
    processes.start([*command, "--set", "train.steps=1", "--set", "calibrate.folds=0"])()
    manifest = json.loads((tmp_path / "model" / "cllmfs.json").read_text(encoding="utf-8"))
    assert len(manifest["labels"]) == 8 and manifest["shots"]["sentences"] == 12


# the report


def content() -> dict[str, Any]:
    """Results in which a sentence takes 1 + 0.1 tokens + 0.5 types milliseconds, and three times that naively."""

    def cell(tokens: int, types: int, naive: bool = True) -> dict[str, Any]:
        seconds = 10 * (1 + 0.1 * tokens + 0.5 * types) / 1e3
        times = {"naive": [3 * seconds] * 2} if naive else {}
        times["trees"] = [seconds] * 2
        rates = {name: 10 / each[0] for name, each in times.items()}
        return {"seconds": times, "sentences": 10, "sentences_per_second": rates}

    cells = {f"decoding, {types} types": cell(24, types, types <= 16) for types in (64, 1, 16)}
    cells |= {f"decoding, {tokens} tokens": cell(tokens, 12) for tokens in (8, 128)}
    cells["training, vocabulary 150000"] = cell(24, 12)
    cells["decoding, empty answers"] = {**cell(24, 12), "empty_share": {"naive": 0.5, "trees": 0.25}}
    cells["floors"] = {
        "flops_per_second": 3e11,
        "bytes_per_second": 4e10,
        "prediction": {"flops": 6e9, "seconds": 0.04, "floor": 0.02},
        "sentences": {"prediction": 10},
    }
    machine = {"processor": "P", "threads": 2, "memory_gb": 8, "system": "S", "python": "3", "packages": {"torch": "2"}}
    config = {"base": "cllmfs-mini", "tokens": 24, "types": 12, "repetitions": 2}
    processes = {
        "logits": {"restricted": 0.5, "whole": 806.4},
        "starts": {"import cllmfs": 0.08},
        "memory": {"stream of 20 MB": {"loaded": 100.0, "peak": 200.0}},
    }
    return {"cells": cells | processes, "machine": machine, "config": config}


def test_the_cost_model_is_found_again() -> None:
    made = content()
    assert report.cost_model(made["cells"], made["config"], "trees") == pytest.approx((1e-3, 1e-4, 5e-4))
    assert report.cost_model(made["cells"], made["config"], "naive") == pytest.approx((3e-3, 3e-4, 1.5e-3))
    assert report.cost_model(made["cells"], made["config"], "nobody") is None


def test_growth_is_reported_where_both_ends_were_measured() -> None:
    cells = content()["cells"]
    assert report.growth(cells, "trees", 1, 16) == pytest.approx(11.4 / 3.9)
    assert report.growth(cells, "naive", 16, 64) is None


def test_rates_come_with_ratios_and_what_is_missing_is_shown() -> None:
    rows = [(str(types), cell) for types, cell in report.axis(content()["cells"], "types")]
    table = report.rate_table("types", rows)
    assert table[0] == ["types", "trees", "naive"] and [line[0] for line in table[1:]] == ["1", "16", "64"]
    assert table[1] == ["1", "256", "85.5 (3 x)"] and table[3][2] == report.MISSING


def test_the_page_shows_all_that_was_measured(tmp_path: Path) -> None:
    made = content()
    page = report.markdown(made, "speed.png")
    for text in ("1 to 16 types: 2.9 x", "1 +0.1 tokens +0.5 types", "50% empty", "2.00 |", "806.4 MB", "| 0.08 |"):
        assert text in page, text
    report.plot(made["cells"], tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    bare = report.markdown({**made, "cells": {}})
    assert "##" not in bare and "![" not in bare


# on a GPU


def test_the_gpu_script_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    small = ["--types", "2", "--axis", "1", "2", "--sentences", "2", "--steps", "1", "--repetitions", "1"]
    paths = ["--tokenizer", str(tmp_path / "tokenizer"), "--output", str(tmp_path / "results.json")]
    monkeypatch.setattr(sys, "argv", ["run.py", "--shape", "tiny", *small, *paths])
    gpu.main()
    found = json.loads((tmp_path / "results.json").read_text())["tiny"]
    assert found["weights"] > 2e6 and found["matrix_flops_per_second"] > 0
    assert found["decoding"].keys() == {"1", "2"}
    kept, anew = (found[f"training, trees, activations anew {mode}"] for mode in ("off", "on"))
    assert kept["tokens_per_second"] > 0 and found["training, naive"]["sentences_per_second"] > 0
    # computed anew, a pass forward is run twice: once and a half of two passes
    work = [made["flops_per_second"] / made["tokens_per_second"] for made in (kept, anew)]
    assert 1.2 < work[1] / work[0] < 1.8
