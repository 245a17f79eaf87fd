"""Tag schemes: tags to token spans and back, for IOB1, IOB2, IO, BIOES and BILOU.

The only walk over BIO-like tags in the package. Knows tags and token indices; knows nothing of files or texts.

Reading is lenient as conlleval is (Tjong Kim Sang and Buchholz 2000, the CoNLL shared task scorer): a damaged sequence
still gives spans, and that walk is the same for every scheme. Writing is strict.

Rule of detection, over all the sentences of a file together:

    E-, S-            -> bioes
    L-, U-            -> bilou (bioes where both kinds occur)
    only I-           -> io: a maximal run of one type is one span, which is what IOB1 says too
    B- and I-         -> iob1 if every B- follows a tag of its own type, else iob2
    no tag but O      -> iob2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cllmfs.errors import ConfigError, DataError

TokenSpan = tuple[int, int, str]

SCHEMES: dict[str, str] = {"iob1": "BI", "iob2": "BI", "io": "I", "bioes": "BIES", "bilou": "BILU"}
"""Scheme to the prefixes it may use beside O."""

_ALIASES = {"bio": "iob2", "iobes": "bioes"}
_PREFIXES = "BIESLU"
_AS_BIOES = {"L": "E", "U": "S"}


def check_scheme(scheme: str) -> str:
    """The scheme's name in lower case; "bio" is iob2, "iobes" is bioes.

    Raises:
        ConfigError: if there is no such scheme.
    """
    name = _ALIASES.get(scheme.lower(), scheme.lower())
    if name not in SCHEMES:
        raise ConfigError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    return name


def tag_problem(tag: str, scheme: str | None = None) -> tuple[str, str] | None:
    """(rule, message) of what is wrong with a single tag, or ``None``; no scheme allows the prefixes of all of them."""
    allowed = _PREFIXES if scheme is None else SCHEMES[scheme]
    if tag == "O":
        return None
    prefix, dash, label = tag.partition("-")
    if not dash or len(prefix) != 1 or prefix not in allowed:
        under = "" if scheme is None else f" in scheme {scheme}"
        forms = ", ".join(f"{letter}-TYPE" for letter in allowed)
        return "bad-tag", f"a tag{under} is O or one of {forms}, got {tag!r}"
    if not label.strip():
        return "empty-label", f"a tag's type must not be empty, got {tag!r}; write O or a type, such as {prefix}-PER"
    return None


def _split(tag: str) -> tuple[str, str]:
    """Prefix (L and U read as E and S) and label of a tag that has no problem."""
    prefix, _, label = tag.partition("-")
    return _AS_BIOES.get(prefix, prefix), label


def _continues(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether a tag goes on with the chunk of the tag before it, by conlleval's rules."""
    return now[0] in "IE" and before[0] in "BI" and before[1] == now[1]


def spans_of_tags(tags: Sequence[str]) -> list[TokenSpan]:
    """Chunks of a tag sequence, (first token, one past the last, label), by conlleval's lenient rules.

    A tag that cannot continue the chunk before it begins a new one, whatever its prefix. The tags must each pass
    :func:`tag_problem`.
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
    """The scheme of all the tag sequences together, by the rule in the module's docstring."""
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
    """(token index, message) for each tag that breaks the scheme's own grammar, though conlleval still reads it."""
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
            yield index, f"{tag!r} continues nothing; {scheme} begins a chunk with B-, it is read as a new chunk"
        before = now


def tags_of_spans(spans: Iterable[TokenSpan], length: int, scheme: str = "iob2") -> list[str]:
    """One tag a token, strictly by the scheme; the inverse of :func:`spans_of_tags`.

    Raises:
        ConfigError: if there is no such scheme.
        DataError: if spans overlap or leave the tokens, or io cannot keep two neighbours of one type apart.
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
            raise DataError(
                f"tags cannot hold overlapping spans, got token spans {before} and {span}; "
                "write the format jsonl or tokens instead",
                field="spans",
            )
        touches = before[1] == start and before[2] == label
        if scheme == "io" and touches:
            raise DataError(
                f"scheme io cannot keep neighbours of one type apart, got {before} and {span}; use iob2", field="spans"
            )
        tags[start:end] = [f"I-{label}"] * (end - start)
        tags[end - 1] = f"{last}-{label}"
        tags[start] = f"{single if end - start == 1 else 'B'}-{label}"
        if scheme == "io" or (scheme == "iob1" and not touches):
            tags[start] = f"I-{label}"
        before = span
    return tags
