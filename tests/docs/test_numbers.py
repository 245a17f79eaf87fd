"""Every number that the README, the cards and the documentation quote is that of a result file.

A number in a sentence must be in a table that ``docs/generate.py`` writes, in a sentence that ``docs/figures.toml``
registers, or of a kind that is never a measurement (:data:`NO_MEASUREMENT`). ``docs/log.md`` is a dated history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs import figures
from docs.sources import NUMBER, ROOT, evaluate
from tests.docs.test_site import GENERATOR

# A number by itself: not part of a name (WNUT-17, bf16), a path or a longer number.
_ALONE = re.compile(rf"(?<![\w./])(?<![A-Za-z][-_]){NUMBER}(?![\w/]|[.,]\d)(?!-[A-Z])")
_CODE = (
    r"^(```|~~~).*?^\1",  # fenced
    r"(?<=\n\n)(?:(?: {4}|\t)[^\n]*\n+)+",  # indented
    r"`[^`\n]*(?:\n[^`\n]+)?`",  # inline, perhaps over a line break
    r"<!--.*?-->",
    r"\]\([^)]*\)",  # the target of a link
    r"https?://\S+",
)
NO_MEASUREMENT = (
    r"^#+ \d+\. ",  # a numbered heading
    r"^ *\d+\. ",  # an item of a numbered list
    r"\b\d{4}-\d\d-\d\d\b",  # a date
    r"\b(?:19|20)\d\d\b(?=[,):;.\s])",  # a year
    r"arXiv\s+\d{4}\.\d{5}",
    r"\b[vV]?\d+\.\d+\.\d+\b",  # a version
    r"\b(?:Python|Apache|CC0|CC BY(?:-SA)?|Unicode|Llama|GPT)[- ]\d+(?:\.\d+)?",
    # How much is asked or learned from: it says under which conditions a figure holds.
    rf"\b{NUMBER}(?:,? (?:to|and|or) {NUMBER})?(?: |-)(?:shots?|ways?|types)\b",
    r"\bk = \d+",
    r"\b95 % (?=\w*\s*(?:interval|bootstrap))",
)


def blank(text: str, expression: str) -> str:
    """The text with what matches as spaces, so that places stay the same."""
    flags = re.MULTILINE | (re.DOTALL if expression in _CODE else re.NOFLAG)
    return re.sub(expression, lambda match: re.sub(r"\S", " ", match[0]), text, flags=flags)


def prose(text: str) -> str:
    """A page without code and generated tables."""
    for block in figures.blocks(text):
        text = text.replace(block[0], re.sub(r"\S", " ", block[0]))
    for expression in _CODE:
        text = blank(text, expression)
    return text


def without_exempt(text: str) -> str:
    for expression in NO_MEASUREMENT:
        text = blank(text, expression)
    return text


def registered(page: str, text: str) -> Iterator[tuple[int, int]]:
    """Where the registered sentences of a page are."""
    for templates in figures.registry().get(page, {}).values():
        for template in templates:
            yield from (match.span() for match in figures.pattern(template).finditer(text))


def unknown_numbers(page: str, text: str) -> list[str]:
    """The numbers of a page that nothing accounts for, each with its place."""
    known = list(registered(page, text))
    return [
        f"{page}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for match in _ALONE.finditer(without_exempt(prose(text)))
        if not any(start <= match.start() < end for start, end in known)
    ]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", figures.pages())
def test_every_number_is_accounted_for(page: str) -> None:
    advice = (
        "a figure that was measured belongs into a generated table or a template of docs/figures.toml (`measured`), "
        "a setting, a condition or a figure of other people into the list `stated` there"
    )
    assert not unknown_numbers(page, read(page)), advice


@pytest.mark.parametrize("page", figures.pages())
def test_figures_are_those_of_the_results(page: str) -> None:
    assert read(page) == figures.fill(page, read(page)), "run `python docs/generate.py`"


def test_the_card_in_the_package_is_that_of_the_recipe() -> None:
    assert read("src/cllmfs/mini/README.md") == read(GENERATOR.MINI_CARD), "run `python docs/generate.py`"


def test_pages_of_results_are_those_of_the_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    GENERATOR.write_results(tmp_path)
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md")}
    assert {f"docs/results/{name}" for name in made} == {name for name in figures.NOT_BY_HAND if "/results/" in name}
    for name, text in made.items():
        assert read(f"docs/results/{name}") == text, "run `python docs/generate.py`"


@pytest.mark.parametrize("page", figures.registry())
def test_registered_sentences_are_on_their_page(page: str) -> None:
    assert page in figures.pages()
    tables = figures.registry()[page]
    assert tables.keys() <= {"measured", "stated"}
    absent = [
        each for templates in tables.values() for each in templates if not figures.pattern(each).search(read(page))
    ]
    assert not absent, "correct or remove the sentence in docs/figures.toml"


@pytest.mark.parametrize("page", figures.registry())
def test_measured_figures_are_computed(page: str) -> None:
    """A decimal outside the placeholders of a measured sentence would be a figure that nothing compares."""
    tables = figures.registry()[page]
    for template in tables.get("measured", []):
        assert figures.placeholders(template), template
        rest = figures.PLACEHOLDER.sub("X", template)
        assert not [each for each in _ALONE.findall(without_exempt(rest)) if re.search(r"^[-+]|[.,]", each)], template
    assert not [each for each in tables.get("stated", []) if figures.placeholders(each)]


@pytest.mark.parametrize("page", figures.registry())
def test_figures_of_the_log_name_its_date(page: str) -> None:
    """Results that were not kept are quoted with a link to the log and the date of the entry, in the same paragraph."""
    text = read(page)
    for template in figures.registry()[page].get("measured", []):
        dates = {each[5:15] for each in map(str.strip, figures.placeholders(template)) if each.startswith("log ")}
        for match in figures.pattern(template).finditer(text):
            begin, end = text.rfind("\n\n", 0, match.start()), text.find("\n\n", match.end())
            assert all(date in text[begin:end] and "log.md)" in text[begin:end] for date in dates), template


# The checks themselves, on pages made up for them.


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("It reaches 53.1 here.", ["53.1"]),
        ("It gains +5.5 [5.0, 6.1] points.", ["+5.5", "5.0", "6.1"]),
        ("| cllmfs | **44.4** (5) | 40.0 ± 1.4 |", ["44.4", "5", "40.0", "1.4"]),
        ("1,953 sentences in 8 ms, 95 %", ["1,953", "8", "95"]),
        ("A rate of 3e-4.", ["3e-4"]),
        ("WNUT-17, bf16, L6-v2 and Llama-2-7B are names.", []),
        ("with 5 shots, 1 to 20 shots or 10-shot, of 39 types", []),
        ("but 5 points", ["5"]),
        ("published in 2022 ([arXiv 2208.14565](https://arxiv.org/abs/2208.14565)), on 2026-11-28", []),
        ("version 0.1.0, Python 3.11", []),
        ("`rank=16`, and\n\n```sh\nrun 17\n```\n\n    run 18\n\nend", []),
        ("## 2. Describe\n\n1. first\n", []),
        ("with a 95 % interval, and 95 % of them", ["95"]),
        ("<!-- figures: recipes -->\n| 1.5 |\n<!-- end -->\n2.5", ["2.5"]),
    ],
)
def test_numbers_are_found(text: str, numbers: list[str]) -> None:
    assert [each.rpartition(": ")[2] for each in unknown_numbers("page.md", text)] == numbers


def test_the_place_of_a_number_is_named() -> None:
    assert unknown_numbers("page.md", "one\n\n`2` and 3.5\n") == ["page.md:3: 3.5"]


def test_figures_are_written_into_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "F1 is {mini layers}, and not {mini positions|,.1f}"
    monkeypatch.setattr(figures, "registry", lambda: {"page.md": {"measured": [template], "stated": ["up to 7"]}})
    old = "F1 is 5, and\nnot -1,234.5 (up to 7, or 8)."
    assert unknown_numbers("page.md", old) == ["page.md:2: 8"]
    assert figures.fill("page.md", old) == "F1 is 6, and\nnot 512.0 (up to 7, or 8)."
    with pytest.raises(ValueError, match=r"registers a sentence that page\.md does not have: 'F1 is"):
        figures.fill("page.md", "F1 was 5, and not 6")
    with pytest.raises(ValueError, match=r"page\.md has a table that is unknown: .*'x'"):
        figures.fill("page.md", f"<!-- figures: x -->\n<!-- end -->\n{old}")


@pytest.mark.parametrize(
    ("placeholder", "message"),
    [
        ("f2 few_shot cllmfs wnut17 0", "there is no source 'f2'"),
        ("f1 few_shot SpanMarker wnut17 50", "few_shot has no f1 of SpanMarker on wnut17 at k = 50"),
        ("log '2026-11-28: published support sets' 99.9", r"docs/log\.md has no 99\.9 in the section"),
        ("log 2026-11-28 42.5", "must have one section that begins with '2026-11-28'"),
        ("ahead few_shot 'token classifier' token", "token classifier is behind in"),
        ("shared few_shot 'token classifier' cllmfs 5", "is not ahead of cllmfs on every support set"),
    ],
)
def test_false_placeholders_are_refused(placeholder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(placeholder)


def test_sources_agree_with_result_files_read_by_hand() -> None:
    counts = [
        json.loads(read(f"benchmarks/few_shot/results/cllmfs/wnut17/test-5-shot-{seed}.json"))["scores"]["micro"]
        for seed in range(5)
    ]
    scores = [200 * one["tp"] / (2 * one["tp"] + one["fp"] + one["fn"]) for one in counts]
    assert evaluate("f1 few_shot cllmfs wnut17 5 | .6f") == f"{sum(scores) / 5:.6f}"
    assert evaluate("supports few_shot cllmfs average 5") == "5"
    card = json.loads(read("src/cllmfs/mini/config.json"))
    assert evaluate("mini layers") == str(card["num_hidden_layers"])
