"""The plain baseline: an encoder with a linear BIO head, all weights fine-tuned on the shots, or LoRA and the head.

A system of ``cllmfs benchmark``, as config.toml names it. The first sub-word of a token carries its tag; decoding is
argmax, a stray I- tag opens a span as conlleval reads it. It runs on a GPU where there is one. How the recipe was
chosen is in the README.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Run as a script, Python puts this folder first on the path.
if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForTokenClassification, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.few_shot.adapter import (
    Baseline,
    Recipe,
    drawn_batches,
    main,
    tag_names,
    to_tags,
    token_spans,
    token_texts,
)
from cllmfs.encoding.batches import pack
from cllmfs.formats.tagging import TokenSpan, spans_of_tags
from cllmfs.schema import Document, Example, Span

IGNORED = -100
MAX_POSITIONS = 512


@dataclass(frozen=True)
class TaggerRecipe(Recipe):
    """Beside what all recipes have, how much of the encoder is trained."""

    lora: int = field(default=0, metadata={"help": "rank of LoRA on the encoder's linear layers; 0 trains all weights"})


@dataclass(frozen=True)
class Tagger:
    """A fine-tuned classifier; ``names`` are its tags in order of their ids."""

    model: Any
    tokenizer: Any
    names: list[str]


@dataclass(frozen=True)
class Row:
    """A sentence as the encoder sees it: sub-word ids, and the position of each token's first sub-word (or -1)."""

    ids: list[int]
    firsts: list[int]


def encode(tokenizer: Any, example: Example) -> Row:
    """Sub-words of an example; tokens beyond the encoder's positions get no first sub-word."""
    words = token_texts(example)
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_POSITIONS)
    firsts = [-1] * len(words)
    for position, word in enumerate(encoded.word_ids()):
        if word is not None and firsts[word] < 0:
            firsts[word] = position
    return Row(list(encoded["input_ids"]), firsts)


def collate(rows: Sequence[Row], pad: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both [rows, longest row]; on the CPU unless told otherwise."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    return ids, mask


def targets(rows: Sequence[Row], tags: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Tag ids at first sub-words, IGNORED elsewhere: [rows, width]."""
    made = torch.full((len(rows), width), IGNORED)
    for number, (row, row_tags) in enumerate(zip(rows, tags, strict=True)):
        for position, tag in zip(row.firsts, row_tags, strict=True):
            if position >= 0:
                made[number, position] = tag
    return made


def with_lora(model: Any, rank: int) -> Any:
    """The classifier with all frozen but LoRA of this rank on the encoder's linear layers, and the whole head."""
    head = ["classifier"]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=head, modules_to_save=head
    )
    return get_peft_model(model, config)


def optimisation(model: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """AdamW over the weights that are trained, and its schedule of so many steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Norms and biases are not decayed, as usual for transformers.
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    return optimizer, get_linear_schedule_with_warmup(optimizer, round(recipe.warmup * steps), steps)


def fine_tune(encoder: str, shots: Sequence[Example], recipe: TaggerRecipe, seed: int) -> Tagger:
    """Train on the shots."""
    torch.manual_seed(seed)
    names = tag_names(shots)
    ids = {name: index for index, name in enumerate(names)}
    tokenizer: Any = AutoTokenizer.from_pretrained(encoder)
    model: Any = AutoModelForTokenClassification.from_pretrained(encoder, num_labels=len(names))
    if recipe.lora:
        model = with_lora(model, recipe.lora)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = [encode(tokenizer, shot) for shot in shots]
    tags = [[ids[tag] for tag in to_tags(token_spans(shot), len(shot.token_offsets or ()))] for shot in shots]
    optimizer, schedule = optimisation(model, recipe, recipe.steps(len(rows)))
    model.train()
    for chosen in drawn_batches(len(rows), recipe, seed):
        batch = [rows[index] for index in chosen]
        inputs, mask = collate(batch, tokenizer.pad_token_id, model.device)
        gold = targets(batch, [tags[index] for index in chosen], inputs.shape[1]).to(model.device)
        loss = model(input_ids=inputs, attention_mask=mask, labels=gold).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if recipe.lora:
        model = model.merge_and_unload()
    model.eval()
    return Tagger(model, tokenizer, names)


def predict(tagger: Tagger, examples: Sequence[Example], batch_tokens: int = 4096) -> list[Document]:
    """Spans at the offsets of the examples' texts, in order of the examples."""
    rows = [encode(tagger.tokenizer, example) for example in examples]
    found: list[Document] = [Document("", ())] * len(rows)
    with torch.inference_mode():
        for batch in pack(range(len(rows)), batch_tokens, lambda index: len(rows[index].ids)):
            chosen = [rows[index] for index in batch]
            inputs, mask = collate(chosen, tagger.tokenizer.pad_token_id, tagger.model.device)
            best = tagger.model(input_ids=inputs, attention_mask=mask).logits.argmax(-1).tolist()
            for line, index in zip(best, batch, strict=True):
                tags = [tagger.names[line[place]] if place >= 0 else "O" for place in rows[index].firsts]
                found[index] = document(examples[index], spans_of_tags(tags))
    return found


def document(example: Example, spans: Iterable[TokenSpan]) -> Document:
    """Spans of tokens as spans of the text."""
    text, offsets = example.text, example.token_offsets or ()
    ranges = [(offsets[start][0], offsets[end - 1][1], label) for start, end, label in spans]
    return Document(text, tuple(Span(start, end, label, None, text[start:end]) for start, end, label in ranges))


BASELINE = Baseline(
    "token classifier",
    TaggerRecipe(learning_rate=1e-4, epochs=60),
    fine_tune,
    predict,
    ("transformers", "torch", "peft"),
    options=("lora",),
    facts=lambda tagger: {"device": tagger.model.device.type},
)

if __name__ == "__main__":
    main(BASELINE)
