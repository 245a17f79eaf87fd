"""Fuzzed texts of twelve scripts, the same for the same seed on every machine.

A text is made of words and of single code points of one script, of what tokenizers and word rules stumble over (emoji,
combining marks, bidirectional marks, zero-width and control characters), and of white space. This file knows
characters; it knows nothing of models.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

# Ranges of code points (inclusive) and a few words of each script.
SCRIPTS: dict[str, tuple[tuple[tuple[int, int], ...], str]] = {
    "Latin": (
        ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
        "Anna paints Straße İzmir São Łódź O'Neill well-known e-mail Zoë 3rd x_y fjörð",
    ),
    "Cyrillic": (((0x400, 0x4FF), (0x500, 0x52F)), "Мария живёт в Київ съел Ёлка Қазақстан Ђорђе 5-й из-за"),
    "Greek": (((0x370, 0x3FF), (0x1F00, 0x1FFF)), "Αθήνα Ελένη ταξίδι ὁδός Ἀρχιμήδης σας άγιος"),
    "Arabic": (((0x600, 0x6FF), (0x750, 0x77F)), "القاهرة مُحَمَّد كتاب السلام ٢٠٢٤ می‌روم وبالمدينة ﷲ"),
    "Hebrew": (((0x590, 0x5FF), (0xFB1D, 0xFB4F)), "ירושלים שָׁלוֹם צה״ל בתל־אביב דנה ג׳ורג׳"),
    "Devanagari": (((0x900, 0x97F), (0xA8E0, 0xA8FF)), "नमस्ते दिल्ली क्षेत्र श्रीमती हिन्दी १२३ ज़्यादा"),
    "Thai": (((0xE00, 0xE7F),), "กรุงเทพ สวัสดี น้ำ เชียงใหม่ ประเทศไทย ๆ ๒๕"),
    "Han": (((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF)), "北京 上海市 張三 𠮷野 々 中華人民 一二三"),
    "Kana": (((0x3040, 0x309F), (0x30A0, 0x30FF), (0xFF66, 0xFF9F)), "さくら トヨタ ｶﾞｽ が か゛ ラーメン っゃゅ"),
    "Hangul": (((0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x3130, 0x318F)), "서울에서 김철수는 한국어를 각 ㅋㅋ 대한민국의"),
    "Ethiopic": (((0x1200, 0x137F), (0x1380, 0x139F)), "አዲስ፡አበባ ኢትዮጵያ ሰላም፣ ፳፻"),
    "Georgian": (((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)), "თბილისი გიორგი საქართველო ᲗᲑᲘᲚᲘᲡᲘ"),
}

# Pieces of noise, separated by spaces.
NOISE: dict[str, str] = {
    "emoji": "👩\u200d🚀 👨\u200d👩\u200d👧 👍🏽 🇮🇹 🇫🇷🇩🇪 🇯 ❤️\u200d🔥 1️⃣ 😀 ☺ 🏿 \u200d👧 \ufe0f 🏴\U000e0067\U000e007f",
    "combining": "\u0301 e\u0323\u0302 \u0344 a\u20dd \u0338 \u0bcd \u3099 \ufe20 z\u0300\u0300\u0300\u0300",
    "bidi": "\u200e \u200f \u202a \u202b \u202c \u202d \u202e \u2066 \u2067 \u2069 \u061c",
    "zero width": "\u200b \u200c \u200d \u2060 \ufeff \u00ad \u180e \u034f",
    "controls": "\x00 \x01 \x07 \x08 \x1b[31m \x7f \x85 \x1c \ufffe \ufffd \ue000 \u0378",
    "marks of models": "</s> <s> [SEP] [UNK] ##a ▁ Ġ <|endoftext|> <0x0A> | ;",
    "punctuation": ". , ' ’ - – … ( ) « 、 。 ؟ । $ ½ ² / @ #",
}
SPACES = (" ", " ", " ", " ", "  ", "\n", "\r\n", "\r", "\t", "\u00a0", "\u2009", "\u3000", "\u2028", "")
KINDS = ("words", "characters", "noise", "mixed scripts", "repeated", "long line", "short")


def _character(rng: random.Random, script: str) -> str:
    """An assigned code point of a script, or a mark of it."""
    ranges = SCRIPTS[script][0]
    while True:
        low, high = ranges[rng.randrange(len(ranges))]
        char = chr(rng.randint(low, high))
        if unicodedata.category(char) != "Cn":
            return char


def _piece(rng: random.Random, script: str, kind: str) -> str:
    if kind == "mixed scripts":
        script = rng.choice(list(SCRIPTS))
    chance = rng.random()
    if kind == "noise" and chance < 0.5:
        return rng.choice(NOISE[rng.choice(list(NOISE))].split(" "))
    if kind == "characters" or chance > 0.9:
        return "".join(_character(rng, script) for _ in range(rng.randint(1, 6)))
    word = rng.choice(SCRIPTS[script][1].split(" "))
    return word + rng.choice(NOISE["punctuation"].split(" ")) if chance > 0.8 else word


def fuzzed_text(rng: random.Random, script: str) -> tuple[str, str]:
    """A text of a script and what kind of text it is; never half a surrogate pair, sometimes empty."""
    kind = rng.choices(KINDS, weights=(8, 6, 8, 4, 4, 1, 2))[0]
    if kind == "short":
        return rng.choice(["", " ", "\n", _piece(rng, script, "noise"), _character(rng, script)]), kind
    if kind == "repeated":
        pieces = [_piece(rng, script, "words") for _ in range(rng.randint(1, 2))] * rng.randint(2, 9)
        return rng.choice(SPACES).join(pieces), kind
    count = rng.randint(60, 200) if kind == "long line" else rng.randint(2, 16)
    joined = "".join(_piece(rng, script, kind) + rng.choice(SPACES) for _ in range(count))
    return (joined.replace("\n", " ").replace("\r", " ") if kind == "long line" else joined), kind


def fuzzed_texts(seed: int) -> Iterator[tuple[str, str, str]]:
    """Script, kind and text without end; the scripts take turns."""
    number = 0
    while True:
        for script in SCRIPTS:
            text, kind = fuzzed_text(random.Random(f"{seed} {number}"), script)
            yield script, kind, text
            number += 1
