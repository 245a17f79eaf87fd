"""The obvious way to do without this package: a prompt for each sentence and type, and the loops of the libraries.

Decoding is the greedy ``generate()`` of Hugging Face over padded batches with ``prefix_allowed_tokens_fn``, as
published generative recognizers use it (GENRE, arXiv 2010.00904). Training is ``transformers.Trainer`` with the loss
over the whole vocabulary. The prompt has the order of the method's paper, the type first (arXiv 2408.12834). Answers
have the same form as those of cllmfs; decoding can also constrain them less strictly, or not at all.

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

from cllmfs.config import Config
from cllmfs.encoding.automaton import SpanAutomaton, State
from cllmfs.encoding.batches import IGNORE
from cllmfs.encoding.encoder import Encoder
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.rows import Row
from cllmfs.encoding.tokens import TokenizedText
from cllmfs.model.backbone import Backbone
from cllmfs.training.shots import Shot

Found = set[tuple[int, int, str]]  # start and end character, label
Allowed = Callable[[int, Tensor], list[int]]  # row of the batch, its ids so far

CONSTRAINTS = ("none", "bag", "spans")
TYPE_FIRST = Config().with_settings(["prompt.order=type-first"])


class NaiveDecoder:
    """Decodes one prompt for each sentence and type with ``generate()``.

    Args:
        backbone: the model, its tokenizer and its prompt.
        batch_rows: the number of prompts in a batch.
        constraint: what an answer may contain. ``spans``: spans of the sentence, as in cllmfs; ``bag``: tokens of the
            sentence and delimiters in any order; ``none``: anything.
        longest: the number of tokens at which a text is cut.

    Attributes:
        counts: for constraints other than ``spans``: the mentions that were "answered", those of them that are
            "ungrounded", because they do not occur in the sentence, and those that are "repeated" more often than they
            occur.
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
        self.encoder = backbone.encoder(TYPE_FIRST)

    def predict(self, texts: Sequence[str], labels: Sequence[str]) -> list[Found]:
        """The spans of each text."""
        rows: list[Row] = []
        queries = [self.encoder.query(label, label) for label in labels]
        for number, text in enumerate(texts):
            rows += self.encoder.rows(self.encoder.tokenize(text).slice(0, self.longest), queries, number)
        found: list[Found] = [set() for _ in texts]
        for start in range(0, len(rows), self.batch_rows):
            group = rows[start : start + self.batch_rows]
            for row, answer in zip(group, self._answers(group), strict=True):
                label = row.branches[0].label
                ranges = (row.sentence.char_range(*span) for span in self._spans(row, answer))
                found[row.index] |= {(first, last, label) for first, last in ranges}
        return found

    def _spans(self, row: Row, answer: Sequence[int]) -> list[tuple[int, int]]:
        if self.constraint == "spans":
            return spans_of(row.automaton, answer)
        return grounded(row.sentence, answer, self.backbone.prompt, self.counts)

    def _answers(self, rows: Sequence[Row]) -> list[list[int]]:
        prompts = [row.branches[0].ids for row in rows]
        width = max(map(len, prompts))
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for line, prompt in enumerate(prompts):  # generate() needs the padding on the left
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
                prefix_allowed_tokens_fn=self._constraint(rows, width),
            )
        return [line[width:].tolist() for line in output]

    def _constraint(self, rows: Sequence[Row], width: int) -> Allowed | None:
        if self.constraint == "none":
            return None
        if self.constraint == "bag":
            return lambda line, _: list(rows[line].candidates)
        return self._allowed([row.automaton for row in rows], width)

    def _allowed(self, automata: Sequence[SpanAutomaton], width: int) -> Allowed:
        """The tokens that each row may emit next; the state moves with the tokens, which are not read again."""
        states = [State() for _ in automata]

        def allowed(line: int, ids: Tensor) -> list[int]:
            automaton, state = automata[line], states[line]
            if len(ids) > width and not state.ended:
                state = states[line] = automaton.advance(state, int(ids[-1]))
            return list(automaton.choices(state)) or [automaton.end_id]

        return allowed


def spans_of(automaton: SpanAutomaton, answer: Sequence[int]) -> list[tuple[int, int]]:
    """The spans in an answer, as (first, last) tokens; a span that an unfinished answer leaves open is dropped."""
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
    """The non-empty mentions between the delimiters; one that an unfinished answer leaves open is dropped."""
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
    """The places that :func:`occurrences` finds for the mentions of an answer that was not constrained to spans.

    The numbers of "answered", "ungrounded" and "repeated" mentions are added to ``counts``.
    """
    mentions = mentions_of(answer, prompt.next_id, prompt.end_id)
    found, ungrounded, repeated = occurrences(sentence, mentions)
    counts.update(answered=len(mentions), ungrounded=ungrounded, repeated=repeated)
    return found


def occurrences(sentence: TokenizedText, mentions: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, int]], int, int]:
    """The places of the mentions, as (first, last) tokens: each at its first free occurrence between edges of words.

    Returns:
        The places, the number of mentions that do not occur, and of those whose occurrences are all taken.
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
    """Rows of ids and labels for each pair of a sentence and a type, in order of the sentences; prompts have no labels.

    Args:
        encoder: makes type-first rows.
        shots: sentences with their gold spans.
        labels: the types that are asked of every sentence.
        empty: also ask types that a sentence does not have.
    """

    def __init__(self, encoder: Encoder, shots: Sequence[Shot], labels: Sequence[str], empty: bool = True) -> None:
        self.rows: list[dict[str, Any]] = []
        for shot in shots:
            gold = {label: shot.gold.get(label, ()) for label in labels if empty or shot.gold.get(label)}
            queries = [encoder.query(label, label, spans=spans) for label, spans in gold.items()]
            for row in encoder.rows(shot.sentence, queries):
                (branch,) = row.branches
                prompt = list(branch.ids[: branch.anchor + 1])
                answer = [row.candidates[target] for target in branch.targets]
                self.rows.append({"ids": prompt + answer, "labels": [IGNORE] * len(prompt) + answer})

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of rows, padded on the right: ids, attention mask and labels of shape [R, T]."""
    width = max(len(row["ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for line, row in enumerate(rows):
        size = len(row["ids"])
        ids[line, :size], mask[line, :size] = torch.tensor(row["ids"]), 1
        labels[line, :size] = torch.tensor(row["labels"])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _InOrder(Trainer):
    """A trainer that takes the rows in order: as for the other contenders, a step has all types of its sentences."""

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
    """Train the parameters that are not frozen, with the loss over the whole vocabulary.

    The learning rate rises over a share ``warmup`` of the steps and then falls to 0. Rows are shuffled with the seed;
    they stay in order if there is none.
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
