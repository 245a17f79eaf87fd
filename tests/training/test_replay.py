"""General sentences in training: those that ship, the rows that are made of them, and the steps that hold them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cllmfs.training.replay
from cllmfs.config import Config, TrainConfig
from cllmfs.decoding.calibration import ExpectedCalibrations
from cllmfs.decoding.extraction import Extractor
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.rows import Row
from cllmfs.schema import LabelSet, Span
from cllmfs.training.fit import fit
from cllmfs.training.recipe import Recipe
from cllmfs.training.replay import AskedType, GeneralSentence, Replay, general_sentences
from cllmfs.training.shots import ShotBatches, encode_shots
from tests.conftest import fresh_backbone, tiny_backbone
from tests.training.test_shots import contents, example

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_backbone("llama").prompt)


# what ships


def test_the_sentences_are_many_and_each_comes_once() -> None:
    texts = [sentence.text for sentence in general_sentences()]
    assert len(texts) == len(set(texts)) == 1000


def test_every_sentence_asks_different_types_for_spans_that_it_holds() -> None:
    answered = 0
    for sentence in general_sentences():
        names = [kind.name.casefold() for kind in sentence.types]
        assert names and len(names) == len(set(names))
        for kind in sentence.types:
            answered += bool(kind.spans)
            for span in kind.spans:
                assert 0 <= span.start < span.end <= len(sentence.text)
                mention = sentence.text[span.start : span.end]
                assert mention == mention.strip()
    asked = sum(len(sentence.types) for sentence in general_sentences())
    assert 0.4 < answered / asked < 0.6, "half of the questions have an answer"


def test_the_file_is_what_the_sheets_give(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mini.replay", str(tmp_path / "made.jsonl")]
    subprocess.run(command, check=True, timeout=120, cwd=ROOT)
    shipped = Path(cllmfs.training.replay.__file__).with_name("replay.jsonl")
    assert (tmp_path / "made.jsonl").read_bytes() == shipped.read_bytes()


# rows


def answers(row: Row) -> dict[str, list[str]]:
    """The mentions that the branches answer, read back from their targets."""
    text = row.sentence.text
    return {
        branch.label: [text[slice(*row.sentence.char_range(first, last))] for first, last in branch.spans]
        for branch in row.branches
    }


@pytest.mark.parametrize("tree", [True, False])
def test_rows_ask_the_types_of_the_sentence(tree: bool) -> None:
    text = "Ada rowed to Rome"
    kinds = (
        AskedType("person", "", (Span(0, 3, "person"),)),
        AskedType("town", "a place", (Span(13, 17, "town"),)),
        AskedType("boat", "", ()),
    )
    prompt = tiny_backbone("llama").prompt
    rows = Replay(Encoder(prompt, tree=tree), 1, 0, [GeneralSentence(text, kinds)])(5)
    assert len(rows) == (1 if tree else 3)
    found = {label: mentions for row in rows for label, mentions in answers(row).items()}
    assert found == {"person": ["Ada"], "town": ["Rome"], "boat": []}
    for row in rows:
        assert all(row.candidates[branch.targets[-1]] == prompt.end_id for branch in row.branches)


def test_the_rows_of_a_step_depend_on_seed_and_step_alone(encoder: Encoder) -> None:
    one, same, other = (Replay(encoder, 3, seed) for seed in (4, 4, 5))
    assert contents(one(7)) == contents(same(7))
    assert contents(one(7)) != contents(one(8))
    assert [row.sentence.text for row in one(7)] != [row.sentence.text for row in other(7)]


def test_all_sentences_come_before_one_comes_again(encoder: Encoder) -> None:
    few = general_sentences()[:5]
    replay = Replay(encoder, 2, 0, few)
    read = [row.sentence.text for step in range(5) for row in replay(step)]
    assert sorted(read[:5]) == sorted(sentence.text for sentence in few) and read[:5] == read[5:]


def test_a_sentence_that_outgrows_the_model_is_left_out() -> None:
    kinds = (AskedType("person", "", ()),)
    sentences = [GeneralSentence(text, kinds) for text in ("Ada rowed", "Ada rowed " * 60)]
    small = fresh_backbone("bert", max_position_embeddings=128).encoder(Config())
    assert [row.sentence.text for row in Replay(small, 2, 0, sentences)(0)] == ["Ada rowed"]


# in training


def test_a_step_holds_its_shots_and_the_general_rows(encoder: Encoder) -> None:
    examples = [example("Ada met Bo.", person=["Ada", "Bo"]), example("It rained in Rome.", place=["Rome"])]
    shots = encode_shots(examples, encoder, 512)
    labels, train = LabelSet(["person", "place"]), TrainConfig(batch_sentences=2)
    recipe = Recipe(learning_rate=1e-3, steps=1, negatives=5)
    replay = Replay(encoder, 3, 0)
    plain = ShotBatches(lambda _: shots, labels, encoder, train, recipe)
    mixed = ShotBatches(lambda _: shots, labels, encoder, train, recipe, replay)
    for step in (0, 4):
        texts = [row.sentence.text for batch in mixed(step) for row in batch.rows]
        own = [row.sentence.text for batch in plain(step) for row in batch.rows]
        assert sorted(texts) == sorted([*own, *(row.sentence.text for row in replay(step))]) and len(texts) == 5


@pytest.mark.parametrize("count", [0, 2])
def test_the_setting_says_how_many(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = Replay.__call__

    def call(self: Replay, step: int) -> list[Row]:
        asked.append(self.count)
        return original(self, step)

    monkeypatch.setattr(Replay, "__call__", call)
    config = Config().with_settings([f"train.replay={count}", "train.steps=2", "calibrate.folds=0", "lora.rank=2"])
    shots = [example("Ada met Bo.", person=["Ada", "Bo"])]
    fit(Extractor(fresh_backbone("llama"), config), shots, LabelSet(["person"]), ExpectedCalibrations())
    assert asked == [count] * (2 if count else 0)
