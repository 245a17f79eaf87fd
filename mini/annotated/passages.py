"""Passages of openly licensed text to annotate: where each lies, and how to read it back from there.

    python -m mini.annotated.passages --data DATA --output FOLDER     -> files of numbered passages to annotate

A passage is one to four sentences. It is known by its place, the name of a file and the offset or the line in it, and
by the hash of its text; the text itself stays where it is. This file knows files of text and sentences; it knows
nothing of types.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cllmfs.errors import DataError
from mini.augment import join_naturally
from mini.sources import measuring_texts, normalized

CHUNK = 50  # passages in a file to annotate
FEWEST, MOST = 18, 75  # words of a passage of running text
SEED = 24


@dataclass(frozen=True)
class Origin:
    """A file that passages are taken from.

    Attributes:
        file: its place in the folder of data.
        kind: what sort of text it is.
        wanted: the number of passages.
        words: the fewest words of a passage.
    """

    file: str
    kind: str
    wanted: int
    words: int = FEWEST


ORIGINS = (
    Origin("_text/wikitext2_valid_test.txt", "encyclopedia", 2600),
    Origin("wikigold/train.jsonl", "encyclopedia", 450, 12),
    Origin("wiki_grobid_ner/train.jsonl", "encyclopedia", 400, 12),
    Origin("_text/cia_factbook.txt", "country facts", 900, 12),
    Origin("_text/masc.txt", "American mail, speech and press", 1500, 12),
    Origin("_text/state_union_inaugural.txt", "political speeches", 450),
    Origin("_text/eltec_eng_novels.txt", "novels", 650),
    Origin("btc/train.jsonl", "tweets", 900, 8),
    Origin("uner_en_ewt_reduced/train.jsonl", "reviews, mail and questions on the web", 1000, 9),
    Origin("nlu_home/train.jsonl", "requests to a home assistant", 350, 5),
    Origin("sgd/train.jsonl", "service dialogues", 350, 8),
    Origin("somesci/train.jsonl", "methods sections of life science", 300, 12),
    Origin("mulms/train.jsonl", "materials science papers", 250, 12),
    Origin("geology_bgs/train.jsonl", "geology reports", 200, 12),
    Origin("cyner/train.jsonl", "cyber-security reports", 250, 12),
    Origin("legal_in/train.jsonl", "court judgments", 250, 12),
    Origin("job_ads/train.jsonl", "job descriptions", 150, 10),
    Origin("clinical_trials/train.jsonl", "criteria of clinical trials", 200, 6),
    Origin("psytar/train.jsonl", "patient reviews", 200, 10),
)

_SENTENCE_END = re.compile(r"[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")
_UNREADABLE = re.compile(r"<unk>|�|[\x00-\x08]")


@dataclass(frozen=True)
class Passage:
    """A passage and its place: ``at`` is a character offset for a file of text, a line number (from 0) for JSONL."""

    file: str
    at: int
    kind: str
    text: str

    @property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the text."""
        return hash_of(self.text)


def hash_of(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"the text must be a readable file: {error.strerror}", source=str(path)) from error


@lru_cache(maxsize=4)
def _lines(path: Path) -> tuple[str, ...]:
    return tuple(_content(path).splitlines())


def read_back(data: Path, file: str, at: int, length: int) -> str:
    """The text of a passage from its place.

    Args:
        data: the folder of data.
        file, at: as in :class:`Passage`.
        length: in code points.

    Raises:
        DataError: if there is no such file or line.
    """
    if not file.endswith(".jsonl"):
        return _content(data / file)[at : at + length]
    lines = _lines(data / file)
    if at >= len(lines):
        raise DataError(f"there must be a line {at + 1}, got {len(lines)} lines", source=file)
    return _text_of(lines[at])


def _text_of(line: str) -> str:
    record = json.loads(line)
    return str(record["text"]) if "text" in record else join_naturally(record["tokens"])[0]


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places of the sentences of a paragraph."""
    begin = start
    for match in _SENTENCE_END.finditer(text, start, end):
        yield begin, match.end()
        begin = match.end()
    if begin < end:
        yield begin, end


def _running(origin: Origin, text: str, rng: random.Random) -> Iterator[tuple[int, str]]:
    """Offsets and texts of passages of a file of text, each within a paragraph, in file order."""
    at = 0
    for paragraph in text.split("\n"):
        sentences = list(_sentences(text, at, at + len(paragraph)))
        at += len(paragraph) + 1
        while sentences:
            start, end = sentences.pop(0)
            wanted = rng.choice((1, 1, 2, 2, 3, 4))
            for _ in range(wanted - 1):
                if sentences and len(text[start : sentences[0][1]].split()) <= MOST * 2 // 3:
                    end = sentences.pop(0)[1]
            passage = text[start:end]
            inner = passage.strip()
            if origin.words <= len(inner.split()) <= MOST:
                yield start + len(passage) - len(passage.lstrip()), inner


def candidates(data: Path, origin: Origin) -> list[Passage]:
    """All passages that a file can give, each text once."""
    rng = random.Random(f"{SEED} {origin.file}")
    if origin.file.endswith(".jsonl"):
        places: Iterator[tuple[int, str]] = ((n, _text_of(line)) for n, line in enumerate(_lines(data / origin.file)))
    else:
        places = _running(origin, _content(data / origin.file), rng)
    found: dict[str, Passage] = {}
    for at, text in places:
        if origin.words <= len(text.split()) <= MOST and not _UNREADABLE.search(text) and text == text.strip():
            found.setdefault(normalized([text]), Passage(origin.file, at, origin.kind, text))
    found.pop("", None)
    return list(found.values())


def _in_measuring(passage: Passage, measuring: set[str]) -> bool:
    text = passage.text
    parts = [text, *(text[start:end] for start, end in _sentences(text, 0, len(text)))]
    return any(normalized([part]) in measuring for part in parts)


def chosen(data: Path) -> list[Passage]:
    """The passages to annotate, without any that holds a sentence of a measuring set.

    Raises:
        DataError: if a file is missing, or no measuring set is there.
    """
    measuring = measuring_texts(data)
    found: list[Passage] = []
    for origin in ORIGINS:
        passages = [one for one in candidates(data, origin) if not _in_measuring(one, measuring)]
        random.Random(f"{SEED} {origin.file} choice").shuffle(passages)
        found += passages[: origin.wanted]
    return found


def chunks(passages: list[Passage]) -> list[list[Passage]]:
    """Passages in groups of one file each; the groups of all files alternate, so that a part of them is a fair part."""
    groups: list[tuple[float, list[Passage]]] = []
    for origin in ORIGINS:
        own = [passage for passage in passages if passage.file == origin.file]
        parts = [own[at : at + CHUNK] for at in range(0, len(own), CHUNK)]
        groups += [((number + 0.5) / len(parts), part) for number, part in enumerate(parts)]
    return [part for _, part in sorted(groups, key=lambda group: group[0])]


def write_chunks(data: Path, output: Path) -> int:
    """Write ``FOLDER/texts/NNN.txt`` to annotate, and ``FOLDER/places.jsonl``; the number of passages."""
    (output / "texts").mkdir(parents=True, exist_ok=True)
    groups, number = chunks(chosen(data)), 0
    with (output / "places.jsonl").open("w", encoding="utf-8") as places:
        for chunk, group in enumerate(groups):
            lines = []
            for passage in group:
                number += 1
                lines.append(f"#{number} [{passage.kind}]\n{passage.text}\n")
                record = {"number": number, "file": passage.file, "at": passage.at, "kind": passage.kind}
                record |= {"length": len(passage.text), "hash": passage.hash}
                places.write(json.dumps(record) + "\n")
            (output / "texts" / f"{chunk:03}.txt").write_text("\n".join(lines), encoding="utf-8")
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    print(write_chunks(arguments.data, arguments.output), "passages")
