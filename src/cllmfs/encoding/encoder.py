"""The one place where texts and types become rows, for training, prediction and the training of a base alike.

An :class:`Encoder` knows the prompt and the tokenizer of a base, the order of sentence and type, where spans may begin
and end, and how long texts are cut into windows. It knows nothing of the model's weights, losses or decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

from cllmfs.encoding.automaton import SpanAutomaton
from cllmfs.encoding.prompts import EncodedPrompt
from cllmfs.encoding.rows import Branch, Row, TypeQuery
from cllmfs.encoding.tokens import TokenizedText, align, tokenize
from cllmfs.encoding.windows import windows
from cllmfs.errors import DataError
from cllmfs.schema import Span

Answers = Mapping[str, tuple[tuple[int, int], ...]]
"""Gold spans by label, as (first, last) tokens of a sentence."""

_LONGEST_WINDOW = 512  # tokens; longer windows make attention expensive and gain nothing


@dataclass(frozen=True)
class Sentence:
    """A stretch of a text that is read at once: the whole text, or a window of a long one.

    Attributes:
        tokens: its tokens; their character offsets refer to the whole text.
        owned: (start, end) tokens, half-open: windows overlap, so each reports only the spans that begin in this range.
    """

    tokens: TokenizedText
    owned: tuple[int, int]


@dataclass(eq=False)
class Encoder:
    """Turns texts and types into rows.

    Args:
        prompt: the base's prompt as token ids, together with its tokenizer.
        order: ``sentence-first`` or ``type-first``.
        tree: one row for each sentence, with a branch for each type; otherwise one row for each type. ``type-first``
            rows are never trees.
        bidirectional: whether the sentence's tokens attend to one another in both directions.
        edges: ``word`` or ``token``: where spans may begin and end.
        nested: whether answers may contain nested spans.
        max_positions: the longest row that the model can read.
        window_tokens: the longest stretch of a text that is read at once; 0 for half of ``max_positions``, at most 512.
        overlap_tokens: tokens that neighboring windows share.
    """

    prompt: EncodedPrompt
    _: KW_ONLY
    order: str = "sentence-first"
    tree: bool = True
    bidirectional: bool = False
    edges: str = "word"
    nested: bool = False
    max_positions: int = 1 << 20
    window_tokens: int = 0
    overlap_tokens: int = 32

    def __post_init__(self) -> None:
        if self.order == "type-first":  # no row has a prefix that could be shared or read in both directions
            self.tree = self.bidirectional = False

    def query(
        self, label: str, name: str, description: str = "", spans: Iterable[tuple[int, int]] | None = None
    ) -> TypeQuery:
        """A query for the type ``name``, whose answers carry ``label``; ``spans`` is its gold answer, if known."""
        return TypeQuery(label, tuple(self.prompt.query(name, description)), None if spans is None else tuple(spans))

    def queries(self, labels: Mapping[str, str]) -> tuple[TypeQuery, ...]:
        """Queries for labels with their descriptions, which may be empty."""
        return tuple(self.query(label, label, description) for label, description in labels.items())

    def window(self, queries: Sequence[TypeQuery]) -> int:
        """The number of sentence tokens that may be read at once, together with the longest of the queries.

        Raises:
            DataError: if a query is so long that it leaves no room for a sentence.
        """
        prompt = self.prompt
        longest = max(len(query.ids) for query in queries)
        frame = len(prompt.bos) + len(prompt.before) + len(prompt.after) + len(prompt.open) + longest
        wanted = self.window_tokens or min(_LONGEST_WINDOW, self.max_positions // 2)
        # An answer can be longer than its sentence: all of its tokens, and delimiters between them. Room is left for an
        # answer half as long as the sentence: longer ones are rare, and positions beyond the last are clamped.
        room = int((self.max_positions - frame) / 1.5)
        if room < 8:
            raise DataError(
                f"a label's description is too long: the query takes {frame} of the model's {self.max_positions} "
                "positions; shorten it"
            )
        return min(wanted, room)

    def tokenize(self, text: str) -> TokenizedText:
        """The whole text in tokens; it raises the errors of :func:`cllmfs.encoding.tokens.tokenize`."""
        return tokenize(self.prompt.tokenizer, text, self.edges)

    def sentences(self, text: str, window: int) -> list[Sentence]:
        """Tokenize a text (:meth:`tokenize`) in stretches of at most ``window`` tokens; an empty text has none."""
        tokens = self.tokenize(text)
        return [
            Sentence(tokens.slice(part.start, part.end), (part.owns[0] - part.start, part.owns[1] - part.start))
            for part in windows(tokens, window, self.overlap_tokens)
        ]

    def automaton(self, sentence: TokenizedText) -> SpanAutomaton:
        """The automaton that allows exactly the possible answers to a sentence."""
        return SpanAutomaton(
            sentence.ids, sentence.start_ok, sentence.end_ok, self.prompt.next_id, self.prompt.end_id, self.nested
        )

    def answers(self, sentence: TokenizedText, spans: Iterable[Span]) -> dict[str, tuple[tuple[int, int], ...]]:
        """The gold spans of a sentence that an answer can contain, by label.

        Spans that begin or end where no span may, or lie outside the sentence, are left out; so are, unless spans may
        be nested, those that overlap an earlier span of their label.
        """
        automaton = self.automaton(sentence)
        by_label: dict[str, list[tuple[int, int]]] = {}
        for first, last, label in align(sentence, spans)[0]:
            by_label.setdefault(label, []).append((first, last))
        return {label: tuple(automaton.emittable(found)) for label, found in sorted(by_label.items())}

    def rows(self, sentence: TokenizedText, queries: Sequence[TypeQuery], index: int = 0) -> list[Row]:
        """The rows of a sentence: one tree, or one row for each type; none if there are no queries.

        Gold spans must be possible answers (:meth:`answers`). ``index`` is the caller's number for the sentence.
        """
        if not queries:
            return []
        prompt, automaton = self.prompt, self.automaton(sentence)
        candidates = tuple(sorted({*sentence.ids, prompt.next_id, prompt.end_id}))
        local = {token: position for position, token in enumerate(candidates)}
        cases = sentence.cases if prompt.template.letter_case else ()
        same = (sentence, candidates, automaton, index, cases, self.bidirectional)
        block, start = (*prompt.before, *sentence.ids, *prompt.after), len(prompt.bos) + len(prompt.before)
        if self.order == "type-first":
            heads = [(*prompt.bos, *query.ids, *block, *prompt.open) for query in queries]
            made = [Branch.of(query, head, automaton, local) for query, head in zip(queries, heads, strict=True)]
            return [Row((), (one,), start + len(query.ids), *same) for query, one in zip(queries, made, strict=True)]
        made = [Branch.of(query, (*query.ids, *prompt.open), automaton, local) for query in queries]
        groups = [tuple(made)] if self.tree else [(branch,) for branch in made]
        return [Row((*prompt.bos, *block), group, start, *same) for group in groups]
