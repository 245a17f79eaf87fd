"""Ways to damage a file: bytes, lines, values of JSON and TOML, columns. The same for the same seed.

This file knows syntax; it knows nothing of what the files mean.
"""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

DEEP = "[" * 100_000
# Values that no reader expects.
STRANGE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**30, 10**400, -(10**18), 0.5, 1e308, float("nan"), float("inf"), "",
    " ", "\n", "O", "B-", "-1", "1", "..", "/", "\x00", "\ud800", "\udfff\ud800", "\ufeff", "a\r\nb", "x" * 100_000,
    "👩‍🚀", "e\u0301", "東京", "%s{}", "</s>", "../../etc/passwd", [], {}, [[]], [None], [1, "a"], {"a": 1}, {"": {}},
    [[[[[[[[]]]]]]]], ["B-PER"] * 50, {"start": 0}, [0, 1, "person"], list(range(2000)),
)  # fmt: skip
TOML_VALUES = (
    "-1", "0", "1e400", "nan", "inf", "10000000000000000000000000", '""', '"\\u0000"', '"x"', "[]", "{}", "[1, 2]",
    "true", "1979-05-27", '"""\nlong\n"""', "[[[[[]]]]]", DEEP, '"\\uD800"', "0xff", '{ a = 1 }',
    "'" + "y" * 50_000 + "'",
    "[" + "{}," * 40 + "]", '"{here}{nothing}"', '"{"', "9223372036854775808", '["cllmfs"]',
)  # fmt: skip
CELLS = (
    "", "O", "B-", "I-X", "B-PER", "-", "_", "B-a-b", "S-X", "E-X", "L-X", "-DOCSTART-", "#", "x" * 5000, "\u2028",
)  # fmt: skip
TOML_LINES = ("[x]", "[[x]]", "[labels]", "[[labels]]", "x = 1", "= 1", '"" = ""', "[a.b.c]", "[")
PIECES = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\r", b"\n\n\n", b"\xc3", b"\xed\xa0\x80", b"\x1f\x8b",
    b"\xf0\x9f\x98\x80", b"\xe2\x80\xa8", b"\t\t", b'"', b"\\", b"{", b"]", b"B-", b"-DOCSTART-", b"#", b"\x85",
    b"\x1b[2J", b"  ", b",", b"null", b"NaN", b"1e999", b"\\ud800", b"\xe2\x80\xae", b"\x0b", b"\x0c", b"\x1c",
)  # fmt: skip


def damaged(data: bytes, syntax: str, rng: random.Random) -> bytes:
    """The bytes after one to three damages; ``syntax`` is json, jsonl, toml, columns or bytes."""
    chance = rng.random()
    if chance < 0.01:
        return rng.choice((b"", b"\n", b"\xef\xbb\xbf", b" ", b"\x00" * 64, rng.randbytes(300), DEEP.encode(), b"{}"))
    made: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": _json, "jsonl": _json_lines, "toml": _toml, "columns": _columns,
    }  # fmt: skip
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kinds = [_bytes, _lines, *([made[syntax]] * 5 if syntax in made else [])]
        data = rng.choice(kinds)(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    end = min(end, at + 40)
    flipped = bytes([data[at] ^ (1 << rng.randrange(8))]) if at < len(data) else b""
    choices: tuple[Callable[[], bytes], ...] = (
        lambda: data[:at] + flipped + data[at + 1 :],
        lambda: data[:at],
        lambda: data[:at] + data[end:],
        lambda: data[:end] + data[at:],
        lambda: data[:at] + rng.choice(PIECES) + data[at:],
        lambda: data[:at] + rng.choice(PIECES) + data[end:],
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "latin-1", "utf-8")), "replace"),
    )
    return rng.choice(choices)()


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines[one], lines[two] = lines[two], lines[one]
    elif change == 1:
        lines.insert(two, lines[one])
    elif change == 2:
        del lines[one]
    else:
        lines[one] = lines[one] * rng.choice((2, 50))
    return b"\n".join(lines)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a value of JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _change_value(value: Any, rng: random.Random) -> Any:
    """A value of JSON with one place replaced, removed, renamed or swapped."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or rng.random() < 0.03:
        return rng.choice(STRANGE)
    container, key = rng.choice(places)
    change, (other, other_key) = rng.random(), rng.choice(places)
    if change < 0.55:
        container[key] = copy.deepcopy(rng.choice(STRANGE))
    elif change < 0.7:
        del container[key]
    elif change < 0.8 and isinstance(container, dict):
        container[rng.choice(("x", "", "text", "labels", str(key).upper(), " " + str(key), "\ud800"))] = container.pop(
            key
        )
    elif change < 0.9:
        container[key] = copy.deepcopy(other[other_key])
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    else:
        container[key] = [container[key]]
    return value


def _dump(value: Any, rng: random.Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05:
        text = text.replace("null", DEEP, 1).replace("true", "[" * 3000 + "]" * 3000, 1)
    if rng.random() < 0.05 and text.startswith("{") and len(text) > 2:
        text = "{" + text[1:-1] + "," + text[1:]  # every key twice
    return text.encode("utf-8", "surrogatepass")


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        return _dump(_change_value(json.loads(data), rng), rng)
    except (ValueError, RecursionError):
        return _bytes(data, rng)


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = _json(lines[at], rng)
    return b"\n".join(lines)


def _toml(data: bytes, rng: random.Random) -> bytes:
    lines = data.decode("utf-8", "replace").split("\n")
    at = rng.randrange(len(lines))
    key, equals, _ = lines[at].partition("=")
    change = rng.random()
    if equals and change < 0.6:
        lines[at] = f"{key}= {rng.choice(TOML_VALUES)}"
    elif change < 0.75:
        lines[at] = re.sub(r"\w+", lambda found: rng.choice((found[0], "x", "a.b", '""', "labels")), lines[at], count=2)
    elif change < 0.9:
        lines.insert(
            at, rng.choice(("[x]", "[[x]]", "[labels]", "[[labels]]", "x = 1", "= 1", '"" = ""', "[a.b.c]", "["))
        )
    else:
        lines.insert(at, lines[rng.randrange(len(lines))])
    return "\n".join(lines).encode("utf-8", "replace")


def _columns(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    separator = b"\t" if b"\t" in lines[at] else b" "
    cells = lines[at].split(separator)
    cell, new = rng.randrange(len(cells)), rng.choice(CELLS).encode()
    change = rng.random()
    if change < 0.5:
        cells[cell] = new
    elif change < 0.7:
        cells.insert(cell, new)
    elif change < 0.85:
        del cells[cell]
    else:
        separator = rng.choice((b"\t", b" ", b"  ", b",", b"\xc2\xa0", b"\t \t"))
    lines[at] = separator.join(cells)
    return b"\n".join(lines)
