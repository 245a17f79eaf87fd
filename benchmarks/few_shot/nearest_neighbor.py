"""A nearest-neighbor tagger: a token gets the tag of the support token that is nearest in the encoder's last layer.

The encoder is first fine-tuned on the shots as in CONTaiNER (Das et al. 2022, arXiv 2109.07589): two projections turn
each token into a Gaussian, and a contrastive loss reduces the symmetric KL divergence between tokens with the same tag.
The projections are then dropped. Tagging follows StructShot (Yang & Katiyar 2020, arXiv 2010.02405): the probabilities
of the tags are a softmax over squared distances to the nearest support token of each tag, and Viterbi decoding uses
transitions between abstract tags (O, I, and I of another type). The transitions are counted in the shots, since there
is no source domain.

A system of ``cllmfs benchmark``, see config.toml. It uses IO tags, on the first subword of a token; the README states
how the recipe was chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, AutoTokenizer

from benchmarks.few_shot.baseline import Baseline, Recipe, drawn_batches, main, to_tags, token_spans
from benchmarks.few_shot.token_classifier import Row, collate, document, encode, optimizer_of
from cllmfs.encoding.batches import pack
from cllmfs.formats.tagging import spans_of_tags
from cllmfs.schema import Document, Example


@dataclass(frozen=True)
class NeighborRecipe(Recipe):
    """A recipe that also has the size of the Gaussians and the weight of the transitions; batches are large."""

    batch_size: int = 32
    min_steps: int = 0
    dimensions: int = 128
    power: float = field(default=0.05, metadata={"help": "exponent of the transitions (StructShot's temperature)"})
    tuning: bool = field(default=True, metadata={"help": "fine-tune the encoder first"})

    def steps(self, rows: int) -> int:
        """The number of optimizer steps for this number of training rows; 0 without tuning."""
        return super().steps(rows) if self.tuning else 0


@dataclass(frozen=True)
class Neighbors:
    """An encoder, and the vectors and transitions of the shots.

    Attributes:
        model: the encoder.
        tokenizer: its tokenizer.
        names: the tags in order of their ids, ``O`` first.
        support: for each tag, the vectors of its support tokens, [S, d]; S is 0 for ``O`` if no shot has it.
        start: [C] log probability of each tag at the start of a sentence.
        step: [C, C] log probability of each tag (dim 1) after each tag (dim 0).
    """

    model: Any
    tokenizer: Any
    names: list[str]
    support: list[Tensor]
    start: Tensor
    step: Tensor


# tuning


class Gaussians(nn.Module):
    """Projections of vectors [T, d] to the means and variances, [T, dimensions] each, of diagonal Gaussians."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, dimensions)
        self.variance = nn.Linear(width, dimensions)

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        vectors = nn.functional.relu(vectors)
        return self.mean(vectors), nn.functional.elu(self.variance(vectors)) + 1 + 1e-6


def divergence(mean: Tensor, variance: Tensor) -> Tensor:
    """Symmetric KL divergence between each two of T diagonal Gaussians, [T, l] each: [T, T].

    It is half the sum of the divergences in both directions.
    """
    precision = 1 / variance
    # The squares of the differences are expanded, which avoids a tensor of shape [T, T, l].
    one_way = (variance + mean.square()) @ precision.T - 2 * mean @ (mean * precision).T
    one_way = one_way + (mean.square() * precision).sum(-1) - mean.shape[1]
    return (one_way + one_way.T) / 4


def contrastive_loss(divergences: Tensor, tags: Tensor) -> Tensor:
    """CONTaiNER's loss, over the tokens whose tag some other token has as well; 0 if there are none.

    Args:
        divergences: [T, T].
        tags: [T] tag ids.
    """
    itself = torch.eye(len(tags), dtype=torch.bool)
    positive = (tags[:, None] == tags) & ~itself
    anchors = positive.any(1)
    if not anchors.any():
        return divergences.sum() * 0.0
    positive, closeness = positive[anchors], -divergences[anchors]
    same = closeness.masked_fill(~positive, -torch.inf).logsumexp(1) - positive.sum(1).log()
    others = closeness.masked_fill(itself[anchors], -torch.inf).logsumexp(1)
    return (others - same).mean()


def token_vectors(model: Any, batch: Sequence[Row], pad: int) -> Tensor:
    """The last layer at the first subwords of the tokens of a batch, row after row: [T, d]."""
    inputs, mask = collate(batch, pad)
    states = model(input_ids=inputs, attention_mask=mask).last_hidden_state
    places = [(line, place) for line, row in enumerate(batch) for place in row.firsts if place >= 0]
    lines, columns = torch.tensor(places, dtype=torch.long).reshape(-1, 2).T
    return states[lines, columns]


def kept_tags(row: Row, tags: Sequence[int]) -> list[int]:
    """The tag ids of the tokens that have a first subword."""
    return [tag for place, tag in zip(row.firsts, tags, strict=True) if place >= 0]


def tune(
    model: Any, pad: int, rows: Sequence[Row], tags: Sequence[Sequence[int]], recipe: NeighborRecipe, seed: int
) -> None:
    """Fine-tune the encoder; the projections to Gaussians are dropped at the end."""
    whole = nn.ModuleList([model, Gaussians(model.config.hidden_size, recipe.dimensions)])
    optimizer, schedule = optimizer_of(whole, recipe, recipe.steps(len(rows)))
    whole.train()
    for chosen in drawn_batches(len(rows), recipe, seed):
        vectors = token_vectors(model, [rows[index] for index in chosen], pad)
        gold = torch.tensor([tag for index in chosen for tag in kept_tags(rows[index], tags[index])])
        contrastive_loss(divergence(*whole[1](vectors)), gold).backward()
        nn.utils.clip_grad_norm_(whole.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def fine_tune(encoder: str, shots: Sequence[Example], recipe: NeighborRecipe, seed: int) -> Neighbors:
    """Tune on the shots, then compute their vectors and count their transitions."""
    torch.manual_seed(seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    model: Any = AutoModel.from_pretrained(encoder)
    written = [io_tags(shot) for shot in shots]
    names = ["O", *sorted({tag for line in written for tag in line} - {"O"})]
    ids = {name: index for index, name in enumerate(names)}
    rows = [encode(tokenizer, shot) for shot in shots]
    tags = [[ids[tag] for tag in line] for line in written]
    tune(model, tokenizer.pad_token_id, rows, tags, recipe, seed)
    model.eval()
    with torch.no_grad():
        vectors = torch.cat([token_vectors(model, [row], tokenizer.pad_token_id) for row in rows])
    gold = torch.tensor([tag for row, line in zip(rows, tags, strict=True) for tag in kept_tags(row, line)])
    support = [vectors[gold == tag] for tag in range(len(names))]
    return Neighbors(model, tokenizer, names, support, *transitions(abstract_transitions(written), names, recipe.power))


# tagging


def io_tags(shot: Example) -> list[str]:
    """IO tags of a shot's tokens; adjacent mentions of the same type become one."""
    tags = to_tags(token_spans(shot), len(shot.token_offsets or ()))
    return [tag if tag == "O" else f"I-{tag[2:]}" for tag in tags]


def abstract_transitions(sentences: Iterable[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Probabilities of the next abstract tag at the start, after O and after I; with add-one smoothing."""
    counts = {
        "start": Counter({"O": 1, "I": 1}),
        "O": Counter({"O": 1, "I": 1}),
        "I": Counter({"O": 1, "I": 1, "other": 1}),
    }
    for tags in sentences:
        counts["start"].update(tag[0] for tag in tags[:1])
        for before, now in pairwise(tags):
            other = now != before and "O" not in (now, before)
            counts[before[0]]["other" if other else now[0]] += 1
    return {
        before: {now: count / following.total() for now, count in following.items()}
        for before, following in counts.items()
    }


def transitions(abstract: dict[str, dict[str, float]], names: Sequence[str], power: float) -> tuple[Tensor, Tensor]:
    """Log probabilities of each tag at the start, [C], and of each tag (dim 1) after each tag (dim 0), [C, C].

    The probability of an abstract tag is divided among its types; then all are raised to a power and normalized.
    """
    types = len(names) - 1
    begin = torch.tensor([abstract["start"]["O"]] + [abstract["start"]["I"] / max(types, 1)] * types)
    step = torch.full((len(names), len(names)), abstract["I"]["other"] / max(types - 1, 1))
    step.fill_diagonal_(abstract["I"]["I"])
    step[:, 0] = abstract["I"]["O"]
    step[0] = abstract["O"]["I"] / max(types, 1)
    step[0, 0] = abstract["O"]["O"]
    return (power * begin.log()).log_softmax(-1), (power * step.log()).log_softmax(-1)


def nearest(vectors: Tensor, support: Sequence[Tensor], block: int = 512) -> Tensor:
    """Squared distance from each of T vectors to the nearest support vector of each tag, [T, C].

    It is infinite for a tag without support vectors.

    Args:
        vectors: [T, d].
        support: [S, d] for each of C tags.
        block: the number of vectors that are compared at once.
    """
    made = torch.full((len(vectors), len(support)), torch.inf)
    for start in range(0, len(vectors), block):
        part = vectors[start : start + block]
        for tag, own in enumerate(support):
            if len(own):
                made[start : start + block, tag] = torch.cdist(part, own).amin(1).square()
    return made


def viterbi(start: Tensor, step: Tensor, emission: Tensor, lengths: Tensor) -> Tensor:
    """The most probable tags of each row, [R, T]; tags beyond the length of a row have no meaning.

    Args:
        start: [C] log probabilities.
        step: [C, C] log probabilities of each tag (dim 1) after each tag (dim 0).
        emission: [R, T, C] log probabilities.
        lengths: [R] number of tokens, at least 1.
    """
    score, stay = start + emission[:, 0], torch.arange(len(start))
    origins = []
    for place in range(1, emission.shape[1]):
        best, origin = (score[:, :, None] + step).max(1)
        inside = (place < lengths)[:, None]
        score = torch.where(inside, best + emission[:, place], score)
        origins.append(torch.where(inside, origin, stay))
    path = [score.argmax(1, keepdim=True)]
    for origin in reversed(origins):
        path.append(origin.gather(1, path[-1]))
    return torch.cat(path[::-1], 1)


def predict(model: Neighbors, examples: Sequence[Example], batch_tokens: int = 4096) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    rows = [encode(model.tokenizer, example) for example in examples]
    found = [Document(example.text, ()) for example in examples]
    filled = [index for index, row in enumerate(rows) if any(place >= 0 for place in row.firsts)]
    with torch.inference_mode():
        for batch in pack(filled, batch_tokens, lambda index: len(rows[index].ids)):
            chosen = [rows[index] for index in batch]
            vectors = token_vectors(model.model, chosen, model.tokenizer.pad_token_id)
            lengths = [sum(place >= 0 for place in row.firsts) for row in chosen]
            emission = (-nearest(vectors, model.support)).log_softmax(-1)
            padded = pad_sequence(list(emission.split(lengths)), batch_first=True)
            best = viterbi(model.start, model.step, padded, torch.tensor(lengths)).tolist()
            for line, row, index in zip(best, chosen, batch, strict=True):
                own = iter(line)
                tags = [model.names[next(own)] if place >= 0 else "O" for place in row.firsts]
                found[index] = document(examples[index], spans_of_tags(tags))
    return found


BASELINE = Baseline(
    "nearest neighbor",
    NeighborRecipe(learning_rate=1e-4, epochs=30),
    fine_tune,
    predict,
    ("transformers", "torch"),
    options=("tuning", "power"),
)

if __name__ == "__main__":
    main(BASELINE)
