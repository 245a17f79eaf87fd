"""The peers of the few-shot benchmark: LoRA on the classifier, the nearest neighbor, fine-tuning by hand."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.few_shot import baseline, lora_sft, nearest_neighbor, token_classifier
from benchmarks.few_shot.nearest_neighbor import NeighborRecipe, abstract_transitions, viterbi
from benchmarks.few_shot.token_classifier import TaggerRecipe
from benchmarks.speed.naive import TYPE_FIRST, NaiveDecoder, PromptRows, mentions_of, occurrences
from cllmfs.benchmark.task import Task, read_answer, write_task
from cllmfs.encoding.tokens import tokenize
from cllmfs.schema import Document, Example
from cllmfs.training.shots import Shot
from tests.conftest import EXAMPLES, byte_tokenizer, tiny_backbone

SHOTS = [
    Example.from_tokens(["Ada", "Byron", "met", "Bo", "in", "Rome"], [(0, 2, "per"), (3, 4, "per"), (5, 6, "loc")]),
    Example.from_tokens(["Rain", "fell", "on", "Oslo"], [(3, 4, "loc")]),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random encoder with a byte tokenizer."""
    from transformers import BertConfig, BertModel

    folder, tokenizer = tmp_path_factory.mktemp("encoder"), byte_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def keys(documents: Sequence[Document] | Sequence[Example]) -> list[list[tuple[int, int, str]]]:
    return [[(span.start, span.end, span.label) for span in document.spans] for document in documents]


def bare(examples: Sequence[Example]) -> list[Example]:
    return [Example(example.text, (), example.token_offsets) for example in examples]


# the command line


def test_recipes_are_set_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, Task(tuple(SHOTS), tuple(bare(SHOTS)), ("loc", "per", "boat"), 3))
    seen: list[Any] = []

    def fine_tune(base: str, shots: Sequence[Example], recipe: Any, seed: int, labels: Sequence[str]) -> str:
        seen.append((base, len(shots), recipe, seed, tuple(labels)))
        return "model"

    def predict(_: str, examples: Sequence[Example]) -> list[Document]:
        return [Document(example.text, ()) for example in examples]

    recipe = lora_sft.SftRecipe()
    options = ("empty", "constraint", "rank")
    system = baseline.Baseline(
        "b", recipe, fine_tune, predict, (), options, "cllmfs-mini", True, lambda model: {"steps": 7, "made": model}
    )
    words = ["--no-empty", "--constraint", "bag", "--rank", "3", "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["b", str(tmp_path), *words])
    baseline.main(system)
    expected = lora_sft.SftRecipe(empty=False, constraint="bag", rank=3, epochs=2)
    assert seen == [("cllmfs-mini", 2, expected, 3, ("loc", "per", "boat"))] and expected != recipe
    _, facts = read_answer(tmp_path, SHOTS)
    assert facts["recipe"]["empty"] is False and facts["recipe"]["constraint"] == "bag"
    assert facts["steps"] == 7 and facts["made"] == "model"
    monkeypatch.setattr(sys, "argv", ["b", str(tmp_path), "--constraint", "grammar"])
    with pytest.raises(SystemExit):
        baseline.main(system)


# the token classifier with LoRA


def test_lora_trains_adapter_and_head_alone(encoder: str) -> None:
    from transformers import AutoModelForTokenClassification

    model = token_classifier.with_lora(AutoModelForTokenClassification.from_pretrained(encoder, num_labels=5), rank=2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in trained if ".lora_A." in name or ".lora_B." in name}
    heads = trained - adapters
    linear = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "layer.0.output.dense")
    assert len(adapters) == 2 * len(linear) and all(any(part in name for name in adapters) for part in linear)
    assert len(heads) == 2 and all(".classifier." in name for name in heads)
    assert not any("classifier" in name for name in adapters)


def test_the_token_classifier_learns_its_shots_by_lora(encoder: str) -> None:
    from transformers import AutoModel

    recipe = TaggerRecipe(learning_rate=2e-2, min_steps=150, max_steps=150, lora=4)
    tagger = token_classifier.fine_tune(encoder, SHOTS, recipe, 0)
    assert keys(token_classifier.predict(tagger, bare(SHOTS))) == keys(SHOTS)
    before = AutoModel.from_pretrained(encoder).state_dict()
    after = tagger.model.bert.state_dict()
    assert after.keys() <= before.keys(), "the adapter is merged"
    for name, weights in after.items():
        change = weights - before[name]
        if name.startswith("embeddings") or "LayerNorm" in name or name.endswith("bias"):
            assert not change.any(), name
        else:
            # rounding leaves small singular values beside the four
            values = torch.linalg.svdvals(change)
            assert values[3] > 1e-3 > 1e-5 * values[0] and values[4] < 1e-4 * values[0], name


# the nearest neighbor: contrastive tuning


def test_divergences_are_those_of_gaussians() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, variance = torch.randn(5, 3, generator=generator), torch.rand(5, 3, generator=generator) + 0.1
    found = nearest_neighbor.divergence(mean, variance)
    each = [torch.distributions.Normal(m, v.sqrt()) for m, v in zip(mean, variance, strict=True)]
    for p, q in itertools.product(range(5), repeat=2):
        both = torch.distributions.kl_divergence(each[p], each[q]) + torch.distributions.kl_divergence(each[q], each[p])
        assert float(found[p, q]) == pytest.approx(float(both.sum()) / 2, rel=1e-4, abs=1e-4)


def by_hand(divergences: torch.Tensor, tags: list[int]) -> float:
    """The loss as CONTaiNER's formula (3) writes it, token by token."""
    losses = []
    for p, tag in enumerate(tags):
        same = [q for q in range(len(tags)) if q != p and tags[q] == tag]
        if same:
            close = torch.exp(-divergences[p].double())
            share = close[same].mean() / sum(close[q] for q in range(len(tags)) if q != p)
            losses.append(-float(share.log()))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("tags", [[0, 0, 1, 1, 2, 0], [0, 0, 0, 0, 0, 0], [0, 1, 2, 3, 4, 4]])
def test_the_contrastive_loss_is_the_published_one(tags: list[int]) -> None:
    points = torch.randn(len(tags), 4, generator=torch.Generator().manual_seed(1))
    divergences = torch.cdist(points, points).square()
    found = nearest_neighbor.contrastive_loss(divergences, torch.tensor(tags))
    assert float(found) == pytest.approx(by_hand(divergences, tags), rel=1e-5)


@pytest.mark.parametrize("tags", [[0, 1, 2, 3], [0, 0, 0, 0], [0]])
def test_the_contrastive_loss_has_finite_gradients(tags: list[int]) -> None:
    gaussians = nearest_neighbor.Gaussians(6, 4)
    vectors = torch.randn(len(tags), 6, requires_grad=True)
    loss = nearest_neighbor.contrastive_loss(nearest_neighbor.divergence(*gaussians(vectors)), torch.tensor(tags))
    loss.backward()
    assert bool(loss.isfinite()) and bool(vectors.grad.isfinite().all())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in gaussians.parameters())
    assert len(set(tags)) < len(tags) or loss.item() == 0.0


def test_the_contrastive_loss_is_lower_where_a_tag_is_close() -> None:
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [3.0, 3.0], [3.1, 3.0]])
    divergences = torch.cdist(points, points).square()
    together, apart = (
        nearest_neighbor.contrastive_loss(divergences, torch.tensor(tags)) for tags in ([0, 0, 1, 1], [0, 1, 0, 1])
    )
    assert float(together) < 0.01 < 10 < float(apart)


# the nearest neighbor: tagging


def test_abstract_transitions_are_counted_in_the_shots() -> None:
    sentences = [["I-a", "I-a", "I-b", "O"], ["O", "O", "I-b"]]
    assert abstract_transitions(sentences) == {
        "start": {"O": 2 / 4, "I": 2 / 4},
        "O": {"O": 2 / 4, "I": 2 / 4},
        "I": {"O": 2 / 6, "I": 2 / 6, "other": 2 / 6},
    }
    assert abstract_transitions([])["I"] == {"O": 1 / 3, "I": 1 / 3, "other": 1 / 3}


@given(st.lists(st.lists(st.sampled_from(["O", "I-a", "I-b", "I-c"]), max_size=6)), st.integers(0, 3))
def test_transitions_are_probabilities(sentences: list[list[str]], types: int) -> None:
    abstract = abstract_transitions(sentences)
    for following in abstract.values():
        assert sum(following.values()) == pytest.approx(1) and min(following.values()) > 0
    names = ["O", "I-a", "I-b", "I-c"][: types + 1]
    for power in (1.0, 0.05):
        start, step = nearest_neighbor.transitions(abstract, names, power)
        assert start.shape == (types + 1,) and step.shape == (types + 1, types + 1)
        assert torch.allclose(start.exp().sum(), torch.ones(())) and torch.allclose(
            step.exp().sum(1), torch.ones(types + 1)
        )
    if types > 1:
        plain = nearest_neighbor.transitions(abstract, names, 1.0)[1].exp()
        assert float(plain[1, 2]) == pytest.approx(abstract["I"]["other"] / (types - 1))
        assert float(plain[1, 1]) == pytest.approx(abstract["I"]["I"])
        assert float(plain[1, 0]) == pytest.approx(abstract["I"]["O"])
        assert float(plain[0, 2]) == pytest.approx(abstract["O"]["I"] / types)


@settings(deadline=None)
@given(st.data())
def test_viterbi_finds_the_best_of_all_sequences(data: st.DataObject) -> None:
    tags = data.draw(st.integers(1, 3))
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    start = torch.randn(tags, generator=generator)
    step = torch.randn(tags, tags, generator=generator)
    emission = 2 * torch.randn(len(lengths), max(lengths), tags, generator=generator)

    def score(row: int, path: Sequence[int]) -> float:
        along = sum(float(step[a, b]) for a, b in itertools.pairwise(path))
        return float(start[path[0]]) + along + sum(float(emission[row, t, tag]) for t, tag in enumerate(path))

    found = viterbi(start, step, emission, torch.tensor(lengths)).tolist()
    for row, length in enumerate(lengths):
        best = max(score(row, path) for path in itertools.product(range(tags), repeat=length))
        assert score(row, found[row][:length]) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_distances_by_blocks_are_the_distances(block: int) -> None:
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(7, 5, generator=generator)
    support = [torch.randn(size, 5, generator=generator) for size in (4, 0, 1)]
    found = nearest_neighbor.nearest(vectors, support, block)
    for row, tag in itertools.product(range(7), range(3)):
        all_of_them = [float((vectors[row] - other).square().sum()) for other in support[tag]]
        assert float(found[row, tag]) == pytest.approx(min(all_of_them, default=float("inf")), rel=1e-4)


@pytest.mark.parametrize("tuning", [True, False])
def test_the_nearest_neighbor_knows_its_shots(encoder: str, tuning: bool) -> None:
    recipe = NeighborRecipe(learning_rate=1e-3, epochs=20, tuning=tuning)
    assert recipe.steps(2) == (20 if tuning else 0)
    model = nearest_neighbor.fine_tune(encoder, SHOTS, recipe, 0)
    assert model.names == ["O", "I-loc", "I-per"] and [len(own) for own in model.support] == [5, 2, 3]
    texts = [*bare(SHOTS), Example("", (), ()), *bare(SHOTS[:1])]
    assert keys(nearest_neighbor.predict(model, texts)) == [*keys(SHOTS), [], *keys(SHOTS[:1])]
    assert nearest_neighbor.predict(model, texts) == nearest_neighbor.predict(model, texts, batch_tokens=1)


def test_tuning_draws_tags_together(encoder: str) -> None:
    def share(tuning: bool) -> float:
        """Distance within the tags by distance of all."""
        recipe = NeighborRecipe(learning_rate=5e-3, epochs=60, tuning=tuning)
        support = nearest_neighbor.fine_tune(encoder, SHOTS, recipe, 0).support
        whole = torch.cat(support)
        return sum(float(torch.cdist(own, own).mean()) for own in support) / float(torch.cdist(whole, whole).mean())

    assert share(tuning=True) < 0.7 * share(tuning=False)


# fine-tuning by hand


def test_free_answers_are_read() -> None:
    assert mentions_of([10, 11, 4, 4, 12, 5, 10, 4], next_id=4, end_id=5) == [(10, 11), (12,)]
    assert mentions_of([10, 4, 11], next_id=4, end_id=5) == [(10,)], "what an unfinished answer leaves open is dropped"
    assert mentions_of([5, 0, 0], next_id=4, end_id=5) == mentions_of([], next_id=4, end_id=5) == []


def test_mentions_are_looked_up_in_the_sentence() -> None:
    tokenizer = tiny_backbone("llama").prompt.tokenizer
    sentence = tokenize(tokenizer, "Bo saw Bo Li, Bobby.")

    def looked_up(*mentions: str) -> tuple[list[tuple[int, int]], int, int]:
        ids = [tuple(tokenizer(mention, add_special_tokens=False)["input_ids"]) for mention in mentions]
        found, ungrounded, repeated = occurrences(sentence, ids)
        return [sentence.char_range(*span) for span in found], ungrounded, repeated

    assert looked_up("Bo", "Li", "Bo") == ([(0, 2), (10, 12), (7, 9)], 0, 0)
    assert looked_up("Bo", "Bo", "Bo", "Bo Li") == ([(0, 2), (7, 9), (7, 12)], 0, 1), "Bobby is one word"
    assert looked_up("Rome", "obby", "Bobby", "Li Bo") == ([(14, 19)], 3, 0)
    assert looked_up("Bo saw Bo Li, Bobby. Bo") == ([], 1, 0)


def answered(decoder: NaiveDecoder, texts: Sequence[str], labels: Sequence[str]) -> list[tuple[Any, list[int]]]:
    """Rows and answers of all prompts, as the decoder emits them."""
    seen: list[tuple[Any, list[int]]] = []
    original = decoder._answers

    def caught(rows: Any) -> list[list[int]]:
        answers = original(rows)
        seen.extend(zip(rows, answers, strict=True))
        return answers

    decoder._answers = caught  # type: ignore[method-assign]
    decoder.predict(texts, labels)
    return seen


def test_a_bag_holds_the_tokens_of_the_sentence() -> None:
    backbone, labels = tiny_backbone("llama"), ["person", "place", "boat"]
    texts = [text for text, _ in EXAMPLES]

    def strangers(constraint: str) -> int:
        """Tokens that are neither of the sentence nor delimiters, up to the end of each answer."""
        count = 0
        for row, answer in answered(NaiveDecoder(backbone, 5, constraint), texts, labels):
            end = backbone.prompt.end_id
            answer = answer[: answer.index(end)] if end in answer else answer
            count += len(set(answer) - {*row.sentence.ids, backbone.prompt.next_id})
        return count

    assert strangers("bag") == strangers("spans") == 0 < strangers("none")


def test_looser_answers_are_counted() -> None:
    backbone = tiny_backbone("llama")
    decoder = NaiveDecoder(backbone, 4, "bag")
    person, tokens = ["Ada met Bo."], tokenize(backbone.prompt.tokenizer, "Ada met Bo.").ids
    following, end = backbone.prompt.next_id, backbone.prompt.end_id
    answer = [*tokens[8:10], following, *tokens[:3], following, *tokens[:2], following, *tokens[:3], end, 0, 0]
    decoder._answers = lambda rows: [answer for _ in rows]  # type: ignore[method-assign]
    assert decoder.predict(person, ["person"]) == [{(8, 10, "person"), (0, 3, "person")}]
    assert decoder.counts == {"answered": 4, "ungrounded": 1, "repeated": 1}


def test_a_long_text_is_read_up_to_a_limit() -> None:
    backbone = tiny_backbone("llama")
    rows = answered(NaiveDecoder(backbone, 4, longest=6), ["Ada met Bo.", "Rain"], ["person"])
    assert [len(row.sentence) for row, _ in rows] == [6, 4]


def test_absent_types_may_be_left_out_of_training() -> None:
    backbone = tiny_backbone("llama")
    encoder = backbone.encoder(TYPE_FIRST)
    shots = [Shot(tokenize(backbone.prompt.tokenizer, "Ada met Bo."), {"person": ((0, 2), (8, 9))})]
    both, present = (PromptRows(encoder, shots, ["person", "place"], empty) for empty in (True, False))
    assert len(both) == 2 and len(present) == 1 and present[0] == both[0]


def test_fine_tuning_by_hand_learns_its_shots(tiny_base: Path) -> None:
    recipe = lora_sft.SftRecipe(learning_rate=1e-2, min_steps=60, max_steps=60, batch_size=4, constraint="bag")
    tuned = lora_sft.fine_tune(str(tiny_base), SHOTS, recipe, 0, ["loc", "per", "boat"])
    assert (tuned.prompts, tuned.steps) == (4, 60), "a type that no shot holds is not trained"
    assert tuned.decoder.constraint == "bag"
    backbone, texts = tuned.decoder.backbone, bare(SHOTS)
    for constraint in ("none", "bag", "spans"):
        model = replace(tuned, decoder=NaiveDecoder(backbone, 64, constraint))
        found = lora_sft.predict(model, texts, chunk=1)
        assert [[key for key in line if key[2] != "boat"] for line in keys(found)] == keys(SHOTS)
        assert [document.text for document in found] == [text.text for text in texts]
        facts = lora_sft.facts(model)
        assert facts["steps"] == 60 and ("answers" in facts) == (constraint != "spans")
    assert [set(line) for line in keys(found)] == NaiveDecoder(backbone, 1).predict(
        [text.text for text in texts], tuned.labels
    )
