"""The simplest baseline: an encoder with a linear BIO head.

Either all weights are fine-tuned on the shots, or LoRA and the head. The first subword of a token carries its tag.
Decoding takes the best tag of each token; an I- tag without a beginning opens a span, as conlleval reads it. A GPU is
used if there is one. The README states how the recipe was chosen. A system of ``cllmfs benchmark``, see config.toml.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForTokenClassification, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.few_shot.baseline import (
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
    """A recipe that also states which weights of the encoder are trained."""

    lora: int = field(default=0, metadata={"help": "rank of LoRA on the encoder's linear layers; 0 trains all weights"})


@dataclass(frozen=True)
class Tagger:
    """A fine-tuned classifier; ``names`` has its tags in order of their ids."""

    model: Any
    tokenizer: Any
    names: list[str]


@dataclass(frozen=True)
class Row:
    """A sentence as the encoder reads it: subword ids, and the position of each token's first subword (or -1)."""

    ids: list[int]
    firsts: list[int]


def encode(tokenizer: Any, example: Example) -> Row:
    """The row of an example; tokens beyond the encoder's positions have no first subword."""
    words = token_texts(example)
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_POSITIONS)
    firsts = [-1] * len(words)
    for position, word in enumerate(encoded.word_ids()):
        if word is not None and firsts[word] < 0:
            firsts[word] = position
    return Row(list(encoded["input_ids"]), firsts)


def collate(rows: Sequence[Row], pad: int, device: torch.device | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask, both [rows, longest row], on ``device`` or else on the CPU."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (width - len(row.ids)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row.ids) + [0] * (width - len(row.ids)) for row in rows], device=device)
    return ids, mask


def targets(rows: Sequence[Row], tags: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """Tag ids at first subwords, IGNORED elsewhere: [rows, width]."""
    made = torch.full((len(rows), width), IGNORED)
    for number, (row, row_tags) in enumerate(zip(rows, tags, strict=True)):
        for position, tag in zip(row.firsts, row_tags, strict=True):
            if position >= 0:
                made[number, position] = tag
    return made


def with_lora(model: Any, rank: int) -> Any:
    """The classifier with LoRA of this rank on the encoder's linear layers; only LoRA and the head are trained."""
    head = ["classifier"]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=head, modules_to_save=head
    )
    return get_peft_model(model, config)


def optimizer_of(model: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """AdamW over the weights that are trained, and its schedule for this number of steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # Norms and biases are not decayed, as is usual for transformers.
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
    optimizer, schedule = optimizer_of(model, recipe, recipe.steps(len(rows)))
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
    """The document of an example with spans given in tokens."""
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
