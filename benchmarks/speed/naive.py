"""What one would write without this package: a prompt for each sentence and type, and the libraries' own loops.

Decoding is Hugging Face ``generate()`` over padded batches with ``prefix_allowed_tokens_fn``, greedy, as published
generative recognisers do it (GENRE, arXiv 2010.00904); training is ``transformers.Trainer`` with the loss over the
whole vocabulary. The prompt is the method's own order, the type first (arXiv 2408.12834). The answers' language is that
of cllmfs, so that both write the same kind of answer; decoding can be held to it less strictly, or not at all.

Knows rows and transformers; knows nothing of clocks.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments

from cllmfs.encoding.automaton import SpanAutomaton, State
from cllmfs.encoding.batches import IGNORE, Row, RowBuilder, TypeQuery
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.tokens import TokenizedText, tokenize
from cllmfs.model.backbone import Backbone
from cllmfs.training.shots import Shot

Found = set[tuple[int, int, str]]  # start and end character, label
Allowed = Callable[[int, Tensor], list[int]]  # row of the batch, its ids so far

CONSTRAINTS = ("none", "bag", "spans")


class NaiveDecoder:
    """One prompt for each sentence and type, decoded by ``generate()``.

    Args:
        backbone: the model, its tokenizer and its prompt.
        batch_rows: prompts in a batch.
        constraint: what an answer may hold. ``spans``: spans of the sentence, as cllmfs has it; ``bag``: tokens of the
            sentence and delimiters in any order; ``none``: anything.
        longest: tokens of a text that are read; what stands beyond is not.

    Attributes:
        counts: of the answers without ``spans``: "answered" spans, of which some are "ungrounded", in no place of the
            sentence, or "repeated" more often than they stand there.
    """

    def __init__(
        self, backbone: Backbone, batch_rows: int, constraint: str = "spans", longest: int | None = None
    ) -> None:
        assert constraint in CONSTRAINTS, constraint  # noqa: S101
        self.backbone = backbone
        self.batch_rows = batch_rows
        self.constraint = constraint
        self.longest = longest
        self.counts = Counter({"answered": 0, "ungrounded": 0, "repeated": 0})
        self.builder = RowBuilder(backbone.prompt, "type-first", tree=False)

    def predict(self, texts: Sequence[str], labels: Sequence[str]) -> list[Found]:
        """The spans of each text."""
        rows: list[Row] = []
        queries = [TypeQuery(label, tuple(self.backbone.prompt.query(label))) for label in labels]
        automata: list[SpanAutomaton] = []
        for number, text in enumerate(texts):
            sentence = tokenize(self.backbone.tokenizer, text).slice(0, self.longest)
            rows += self.builder.rows(sentence, queries, number)
            automata.append(self.builder.automaton(sentence))
        found: list[Found] = [set() for _ in texts]
        for start in range(0, len(rows), self.batch_rows):
            group = rows[start : start + self.batch_rows]
            for row, answer in zip(group, self._answers(group, automata), strict=True):
                label = row.branches[0].label
                ranges = (row.sentence.char_range(*span) for span in self._spans(row, automata[row.index], answer))
                found[row.index] |= {(first, last, label) for first, last in ranges}
        return found

    def _spans(self, row: Row, automaton: SpanAutomaton, answer: Sequence[int]) -> list[tuple[int, int]]:
        if self.constraint == "spans":
            return spans_of(automaton, answer)
        return grounded(row.sentence, answer, self.backbone.prompt, self.counts)

    def _answers(self, rows: Sequence[Row], automata: Sequence[SpanAutomaton]) -> list[list[int]]:
        prompts = [row.branches[0].ids for row in rows]
        width = max(map(len, prompts))
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for line, prompt in enumerate(prompts):  # generate() wants the padding on the left
            ids[line, width - len(prompt) :] = torch.tensor(prompt)
            mask[line, width - len(prompt) :] = 1
        longest = max(len(row.sentence) for row in rows)
        room = min(2 * longest + 1, self.backbone.max_positions - width)
        with torch.inference_mode():
            output = self.backbone.model.generate(
                input_ids=ids.to(self.backbone.device),
                attention_mask=mask.to(self.backbone.device),
                max_new_tokens=room,
                do_sample=False,
                eos_token_id=self.backbone.prompt.end_id,
                pad_token_id=0,
                prefix_allowed_tokens_fn=self._constraint(rows, automata, width),
            )
        return [line[width:].tolist() for line in output]

    def _constraint(self, rows: Sequence[Row], automata: Sequence[SpanAutomaton], width: int) -> Allowed | None:
        if self.constraint == "none":
            return None
        if self.constraint == "bag":
            return lambda line, _: list(rows[line].candidates)
        return self._allowed([automata[row.index] for row in rows], width)

    def _allowed(self, automata: Sequence[SpanAutomaton], width: int) -> Allowed:
        """What each row may emit next; its state moves along with the tokens instead of being read anew each time."""
        states = [State() for _ in automata]

        def allowed(line: int, ids: Tensor) -> list[int]:
            automaton, state = automata[line], states[line]
            if len(ids) > width and not state.ended:
                state = states[line] = automaton.advance(state, int(ids[-1]))
            return list(automaton.choices(state)) or [automaton.end_id]

        return allowed


def spans_of(automaton: SpanAutomaton, answer: Sequence[int]) -> list[tuple[int, int]]:
    """The (first, last) tokens that an answer names; what an unfinished one leaves open is dropped."""
    state, spans = State(), []
    for token in answer:
        was_open = bool(state.candidates)
        state = automaton.advance(state, token)
        if was_open and not state.candidates:
            spans.append(state.last)
        if state.ended:
            break
    return spans


def mentions_of(answer: Sequence[int], next_id: int, end_id: int) -> list[tuple[int, ...]]:
    """The tokens between an answer's delimiters, empty ones left out; what an unfinished one leaves open is dropped."""
    mentions, mention = list[tuple[int, ...]](), list[int]()
    for token in answer:
        if token not in (next_id, end_id):
            mention.append(token)
            continue
        mentions += [tuple(mention)] if mention else []
        mention = []
        if token == end_id:
            break
    return mentions


def grounded(
    sentence: TokenizedText, answer: Sequence[int], prompt: EncodedPrompt, counts: Counter[str]
) -> list[tuple[int, int]]:
    """The places of the mentions of an answer that nothing held to spans, as :func:`occurrences` finds them.

    ``counts`` is told of them: how many were "answered", "ungrounded" and "repeated".
    """
    mentions = mentions_of(answer, prompt.next_id, prompt.end_id)
    found, ungrounded, repeated = occurrences(sentence, mentions)
    counts.update(answered=len(mentions), ungrounded=ungrounded, repeated=repeated)
    return found


def occurrences(sentence: TokenizedText, mentions: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, int]], int, int]:
    """Where the mentions stand, as (first, last) tokens: each in the first place, at words' edges, not yet taken.

    Returns:
        The places; how many mentions stand nowhere; how many stand only in places that are taken.
    """
    found, ungrounded, repeated = list[tuple[int, int]](), 0, 0
    for mention in mentions:
        size = len(mention)
        places = [
            (first, first + size - 1)
            for first in range(len(sentence) - size + 1)
            if sentence.ids[first : first + size] == mention
            and sentence.start_ok[first]
            and sentence.end_ok[first + size - 1]
        ]
        free = [place for place in places if place not in found]
        found += free[:1]
        ungrounded += not places
        repeated += bool(places) and not free
    return found, ungrounded, repeated


class PromptRows(torch.utils.data.Dataset[dict[str, Any]]):
    """Sentences x types as rows of ids and labels, the prompt's labels ignored; in order, a sentence's types together.

    Args:
        builder: of type-first rows.
        shots: sentences with their gold spans.
        labels: types asked of every sentence.
        empty: ask a sentence types that it does not hold, too.
    """

    def __init__(self, builder: RowBuilder, shots: Sequence[Shot], labels: Sequence[str], empty: bool = True) -> None:
        self.rows: list[dict[str, Any]] = []
        asked = {label: tuple(builder.prompt.query(label)) for label in labels}
        for shot in shots:
            gold = {label: shot.gold.get(label, ()) for label in asked}
            queries = [TypeQuery(label, ids, gold[label]) for label, ids in asked.items() if empty or gold[label]]
            for row in builder.rows(shot.sentence, queries):
                (branch,) = row.branches
                prompt = list(branch.ids[: branch.anchor + 1])
                answer = [row.candidates[target] for target in branch.targets]
                self.rows.append({"ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Rows to a batch, padded on the right: ids, attention mask and labels of shape [R, T]."""
    width = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for line, row in enumerate(rows):
        size = len(row["ids"])
        ids[line, :size], mask[line, :size] = torch.tensor(row["ids"]), 1
        labels[line, :size] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _InOrder(Trainer):
    """Rows in order: a step holds all types of its sentences, as the steps of the other contenders do."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train(
    backbone: Backbone,
    rows: PromptRows,
    batch_rows: int,
    steps: int,
    rate: float,
    warmup: float = 0.0,
    seed: int | None = None,
) -> None:
    """Train the parameters that are not frozen; the loss runs over the whole vocabulary.

    The rate rises over a share ``warmup`` of the steps, then falls to 0. Rows are shuffled by the seed; in order if
    there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_rows,
            max_steps=steps,
            learning_rate=rate,
            warmup_steps=round(warmup * steps),
            seed=42 if seed is None else seed,
            weight_decay=0.01,
            max_grad_norm=1.0,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            use_cpu=backbone.device.type == "cpu",
        )
        kind = _InOrder if seed is None else Trainer
        trainer = kind(model=backbone.model, args=settings, train_dataset=rows, data_collator=padded)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
