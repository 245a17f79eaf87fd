"""Token spans: to tags and back (IOB1, IOB2, IO, BIOES, BILOU), and to examples and back.

The only code in the package that interprets BIO-like tags. Knows tags, tokens and examples; knows nothing of files.

Tags are read as leniently as conlleval reads them (Tjong Kim Sang and Buchholz 2000, the scorer of the CoNLL shared
task): a damaged sequence still gives spans, by the same rules for every scheme. Tags are written strictly.

The scheme is detected over all sentences of a file together:

    E-, S-            -> bioes
    L-, U-            -> bilou (bioes where both kinds occur)
    only I-           -> io: a maximal run of one type is one span, as in IOB1
    B- and I-         -> iob1 if every B- follows a tag of its own type, else iob2
    only O            -> iob2
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

import regex

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats.rules.offsets import short
from cllmfs.schema import Example, Span
from cllmfs.words import UNSPACED, word_units

TokenSpan = tuple[int, int, str]
"""First token, one past the last token, label."""

SCHEMES: dict[str, str] = {"iob1": "BI", "iob2": "BI", "io": "I", "bioes": "BIES", "bilou": "BILU"}
"""The prefixes that each scheme may use besides O."""

# No space lies between two characters of which one is of a script written without spaces or is punctuation of such
# scripts, and the other is so, too, or is other punctuation; nor between a digit and a Chinese or Japanese character.
_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}"
_TIGHT = rf"[{UNSPACED}\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
_NEXT_TO_TIGHT = rf"[{UNSPACED}\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\p{{P}}]"
_JOINED = regex.compile(
    rf"{_TIGHT}{_NEXT_TO_TIGHT}|{_NEXT_TO_TIGHT}{_TIGHT}|\p{{Nd}}[{_CJK}]|[{_CJK}]\p{{Nd}}", regex.V1
)
_ANY_TIGHT = regex.compile(_TIGHT, regex.V1)
_UNSPACED = regex.compile(f"[{UNSPACED}]", regex.V1)

_ALIASES = {"bio": "iob2", "iobes": "bioes"}
_PREFIXES = "BIESLU"
_AS_BIOES = {"L": "E", "U": "S"}


def check_scheme(scheme: str) -> str:
    """The scheme's name in lower case; "bio" means iob2, "iobes" means bioes; raises ConfigError if it is unknown."""
    name = _ALIASES.get(scheme.lower(), scheme.lower())
    if name not in SCHEMES:
        raise ConfigError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    return name


def tag_problem(tag: str, scheme: str | None = None) -> tuple[str, str] | None:
    """(rule, message) if a single tag is wrong, else ``None``; without a scheme, all known prefixes are allowed."""
    allowed = _PREFIXES if scheme is None else SCHEMES[scheme]
    if tag == "O":
        return None
    prefix, dash, label = tag.partition("-")
    if not dash or len(prefix) != 1 or prefix not in allowed:
        place = "" if scheme is None else f" in scheme {scheme}"
        forms = ", ".join(f"{letter}-TYPE" for letter in allowed)
        return "bad-tag", f"a tag{place} is O or one of {forms}, got {short(tag)}"
    if not label.strip():
        return (
            "empty-label",
            f"a tag's type must not be empty, got {short(tag)}; write O or a type, such as {prefix}-PER",
        )
    return None


def _split(tag: str) -> tuple[str, str]:
    """Prefix (L and U read as E and S) and label of a tag that has no problem."""
    prefix, _, label = tag.partition("-")
    return _AS_BIOES.get(prefix, prefix), label


def _continues(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether a tag continues the chunk of the tag before it, by conlleval's rules."""
    return now[0] in "IE" and before[0] in "BI" and before[1] == now[1]


def spans_of_tags(tags: Sequence[str]) -> list[TokenSpan]:
    """The spans of a tag sequence by conlleval's lenient rules; every tag must be free of a :func:`tag_problem`.

    A tag that cannot continue the chunk before it begins a new one, whatever its prefix.
    """
    spans: list[TokenSpan] = []
    start = 0
    before = ("O", "")
    for index, tag in enumerate([*tags, "O"]):
        now = _split(tag)
        if not _continues(before, now):
            if before[0] != "O":
                spans.append((start, index, before[1]))
            start = index
        before = now
    return spans


def detect_scheme(sentences: Iterable[Sequence[str]]) -> str:
    """The scheme of all the tag sequences together, by the rules in the module's docstring."""
    prefixes: set[str] = set()
    every_b_follows_its_type = True
    for tags in sentences:
        label_before = ""
        for tag in tags:
            prefix, _, label = tag.partition("-")
            prefixes.add(prefix)
            if prefix == "B" and label != label_before:
                every_b_follows_its_type = False
            label_before = label
    if prefixes & {"E", "S"}:
        return "bioes"
    if prefixes & {"L", "U"}:
        return "bilou"
    if "B" not in prefixes:
        return "io" if "I" in prefixes else "iob2"
    return "iob1" if every_b_follows_its_type else "iob2"


def damage(tags: Sequence[str], scheme: str) -> Iterator[tuple[int, str]]:
    """(token index, message) for each tag that breaks the grammar of the scheme, although conlleval still reads it."""
    before = ("O", "")
    for index, tag in enumerate([*tags, "O"]):
        now = _split(tag)
        follows = _continues(before, now)
        if scheme in ("bioes", "bilou") and before[0] in ("B", "I") and not follows:
            yield index - 1, f"{tags[index - 1]!r} leaves a {scheme} chunk open; its last tag must be an end tag"
        if tag[0] != "O" and tag[0] not in SCHEMES[scheme]:
            yield index, f"{tag!r} is not a tag of {scheme}; the file mixes schemes"
        elif scheme == "iob1" and now[0] == "B" and before[1] != now[1]:
            yield index, f"{tag!r} follows no chunk of its own type; iob1 begins such a chunk with I-"
        elif scheme not in ("iob1", "io") and now[0] in ("I", "E") and not follows:
            yield index, f"{tag!r} continues nothing; {scheme} begins a chunk with B-, so this is read as a new chunk"
        before = now


def tags_of_spans(spans: Iterable[TokenSpan], length: int, scheme: str = "iob2") -> list[str]:
    """One tag for each token, strictly by the scheme; the inverse of :func:`spans_of_tags`.

    Raises:
        ConfigError: if there is no such scheme.
        DataError: if spans overlap or leave the token range, or io cannot separate two adjacent spans of one type.
    """
    scheme = check_scheme(scheme)
    single, last = {"bioes": ("S", "E"), "bilou": ("U", "L")}.get(scheme, ("B", "I"))
    tags = ["O"] * length
    before: TokenSpan = (0, 0, "")
    for span in sorted(spans):
        start, end, label = span
        if not 0 <= start < end <= length:
            raise DataError(f"a token span must lie in 0 to {length} and hold a token, got {span}", field="spans")
        if start < before[1]:
            message = f"tags cannot hold overlapping spans, got token spans {before} and {span}"
            raise DataError(f"{message}; write the format jsonl or tokens instead", field="spans")
        touches = before[1] == start and before[2] == label
        if scheme == "io" and touches:
            message = f"scheme io cannot separate adjacent spans of one type, got {before} and {span}; use iob2"
            raise DataError(message, field="spans")
        tags[start:end] = [f"I-{label}"] * (end - start)
        tags[end - 1] = f"{last}-{label}"
        if scheme != "io" and (scheme != "iob1" or touches):
            tags[start] = f"{single if end - start == 1 else 'B'}-{label}"
        before = span
    return tags


def example_of_tokens(
    tokens: list[str],
    spans: Iterable[TokenSpan],
    text: object,
    source: str | None = None,
    spaces: Sequence[bool] | None = None,
) -> Example:
    """The example of these tokens and spans.

    Args:
        tokens, spans, source: as for :meth:`cllmfs.schema.Example.from_tokens`.
        text: kept if the tokens make it up; otherwise the tokens are joined.
        spaces: for each token, whether a space follows it; by default as :func:`spaces_between` tells.
    """
    offsets = align_tokens(text, tokens) if isinstance(text, str) else None
    if not isinstance(text, str) or offsets is None:
        return Example.from_tokens(tokens, spans, source, spaces_between(tokens) if spaces is None else spaces)
    made = tuple(Span(offsets[first][0], offsets[end - 1][1], label) for first, end, label in spans)
    return Example(text, made, tuple(offsets), source)


def spaces_between(tokens: Sequence[str]) -> list[bool]:
    """For each token, whether a space follows it in a text of its script; one follows the last token, too.

    Tokens of scripts that are written without spaces (:data:`cllmfs.words.UNSPACED`) and the punctuation beside them
    touch each other. So do all the tokens of a sentence in such a script that is given character by character.
    """
    if _ANY_TIGHT.search("".join(tokens)) is None:  # as in most texts, and this is much faster
        return [True] * len(tokens)
    if all(len(token) == 1 for token in tokens) and any(map(_UNSPACED.match, tokens)):
        return [False] * (len(tokens) - 1) + [True]
    pairs = (one[-1:] + other[:1] for one, other in zip(tokens, [*tokens, ""][1:], strict=True))
    return [_JOINED.fullmatch(pair) is None for pair in pairs]


def align_tokens(text: str, tokens: Iterable[str]) -> list[tuple[int, int]] | None:
    """(start, end) of each token in the text, or ``None`` unless only white space lies between the tokens in order."""
    offsets: list[tuple[int, int]] = []
    at = 0
    for token in tokens:
        while not text.startswith(token, at) and text[at : at + 1].isspace():
            at += 1
        if not text.startswith(token, at):
            return None
        offsets.append((at, at + len(token)))
        at += len(token)
    return None if text[at:].strip() else offsets


def tokenized(example: Example) -> tuple[list[str], list[TokenSpan]]:
    """An example's tokens, or else its words, and its token spans; a token is split if a span begins or ends inside it.

    Raises:
        DataError: if a span covers white space only, or two spans differ in white space only.
    """
    text = example.text
    pieces = token_pieces(example)
    starts, ends = [start for start, _ in pieces], [end for _, end in pieces]
    spans: list[TokenSpan] = []
    for span in example.spans:
        found = (bisect_left(starts, span.start), bisect_right(ends, span.end), span.label)
        if found[0] >= found[1]:
            raise DataError(f"a span must cover a token, got white space only at {span.key}", field="spans")
        if found in spans:
            raise DataError(f"spans must differ in their tokens, got {span.key} and another on {found}", field="spans")
        spans.append(found)
    return [text[start:end] for start, end in pieces], spans


def token_pieces(example: Example) -> list[tuple[int, int]]:
    """(start, end) of each token of :func:`tokenized`."""
    if not example.spans:
        return list(token_offsets(example))
    edges = sorted({edge for span in example.spans for edge in (span.start, span.end)})
    return [piece for token in token_offsets(example) for piece in _split_at(example.text, token, edges)]


def token_offsets(example: Example) -> Sequence[tuple[int, int]]:
    """(start, end) of the example's own tokens, or of its words if it has none."""
    return word_units(example.text) if example.token_offsets is None else example.token_offsets


def _split_at(text: str, token: tuple[int, int], edges: list[int]) -> Iterator[tuple[int, int]]:
    """The token, split at each edge inside it; the parts are stripped of white space."""
    start, end = token
    inside = edges[bisect_right(edges, start) : bisect_left(edges, end)]
    if not inside:
        yield token
        return
    for first, last in zip([start, *inside], [*inside, end], strict=True):
        part = text[first:last]
        if part.strip():
            yield first + len(part) - len(part.lstrip()), last - len(part) + len(part.rstrip())
