"""The written sheets: what breaks their format, and that marked spans survive on every way to a query."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.errors import DataError
from cllmfs.schema import Example, Span
from mini import data, written
from mini import sources as sources_module

MINI = Path(__file__).parents[2] / "mini"

# No word has five letters, so no typo is made; the words of mentions begin with the first letter of their type's key.
SHEET = """\
title: Notes from a boat yard
register: log book

boat = boat; vessel :: A named boat.
part = boat part; spare :: A part of a boat. :: What a boat is made of.
who = person; man or woman :: Who did it.

{Boo|boat} lost a {p-arm|part} off {Bay 2|boat}, and {Wu|who}'s {pin|part} too.
{Wim W. Wu|who} and {Wo|who}: {B.B.|boat} can go.

No boat came in; no one was here.
{Wéé|who}{Wii|who} had the {p.5|part}/{pot|part} in "{Bö|boat}".
"""
MENTIONS = {
    "boat": {"Boo", "Bay 2", "B.B.", "Bö"},
    "part": {"p-arm", "pin", "p.5", "pot"},
    "who": {"Wu", "Wim W. Wu", "Wo", "Wéé", "Wii"},
}


def sheet_of(text: str, folder: Path, name: str = "yard/notes") -> written.Sheet:
    path = folder / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return written.read_sheet(path, name)


@pytest.fixture
def sheet(tmp_path: Path) -> written.Sheet:
    return sheet_of(SHEET, tmp_path)


def marked(example: Example) -> list[tuple[str, str]]:
    return [(example.text[span.start : span.end], span.label) for span in example.spans]


# the format


def test_a_sheet_is_read(sheet: written.Sheet, tmp_path: Path) -> None:
    assert (sheet.name, sheet.title, sheet.register) == ("yard/notes", "Notes from a boat yard", "log book")
    assert sheet.types == (
        written.WrittenType("boat", ("boat", "vessel"), ("A named boat.",)),
        written.WrittenType("part", ("boat part", "spare"), ("A part of a boat.", "What a boat is made of.")),
        written.WrittenType("who", ("person", "man or woman"), ("Who did it.",)),
    )
    assert [example.text for example in sheet.examples] == [
        "Boo lost a p-arm off Bay 2, and Wu's pin too.",
        "Wim W. Wu and Wo: B.B. can go.",
        "No boat came in; no one was here.",
        'WééWii had the p.5/pot in "Bö".',
    ]
    assert [marked(example) for example in sheet.examples] == [
        [("Boo", "boat"), ("p-arm", "part"), ("Bay 2", "boat"), ("Wu", "who"), ("pin", "part")],
        [("Wim W. Wu", "who"), ("Wo", "who"), ("B.B.", "boat")],
        [],
        [("Wéé", "who"), ("Wii", "who"), ("p.5", "part"), ("pot", "part"), ("Bö", "boat")],
    ]
    file = tmp_path / "yard" / "notes.txt"
    assert [example.source for example in sheet.examples] == [f"{file}:{number}" for number in (8, 9, 11, 12)]


HEAD = ["title: T", "register: r", ""]
TYPES = ["a = one; first :: The one.", "b = two; second :: The other.", ""]
BODY = ["{A|a} saw {B|b}."]


@pytest.mark.parametrize(
    ("lines", "at", "message"),
    [
        ([], 1, "must open with 'title: …' and 'register: …'"),
        (["title: T"], 1, "must open with"),
        (["register: r", "title: T", "", *TYPES, *BODY], 1, "must open with"),
        (["title: T", "", "register: r", *TYPES, *BODY], 1, "must open with"),
        ([*HEAD, *TYPES], 6, "a sheet needs types, an empty line and sentences"),
        ([*HEAD, *TYPES[:2], *BODY], 6, "a sheet needs types, an empty line and sentences"),
        ([*HEAD, TYPES[0], "b: two; second :: The other.", "", *BODY], 5, "'key = names :: description', got 'b: two"),
        ([*HEAD, "A = one; first :: The one.", "", "{A|a}."], 4, "'key = names :: description', got 'A = one"),
        ([*HEAD, TYPES[0], "b = two :: The other.", "", *BODY], 5, "two names and a description, got 'b = two ::"),
        ([*HEAD, TYPES[0], "b = two; :: The other.", "", *BODY], 5, "two names and a description"),
        ([*HEAD, TYPES[0], "b = two; second", "", *BODY], 5, "two names and a description"),
        ([*HEAD, TYPES[0], "b = two; second ::", "", *BODY], 5, "two names and a description"),
        ([*HEAD, TYPES[0], "b = two; second :: The other. ::", "", *BODY], 5, "two names and a description"),
        ([*HEAD, TYPES[0], "b = two; FIRST :: The other.", "", *BODY], 4, "the name 'first' stands for two types"),
        ([*HEAD, "a = the one; one :: T.", "b = two; the_one :: T.", "", *BODY], 4, "'the one' stands for two types"),
        ([*HEAD, *TYPES, *BODY, "", "{C|c} left."], 9, "the key 'c' must be one of the sheet's types"),
        ([*HEAD, *TYPES, *BODY, "{ A|a} left."], 8, "must not begin or end with a space: ' A'"),
        ([*HEAD, *TYPES, *BODY, "{A |a} left."], 8, "must not begin or end with a space: 'A '"),
        ([*HEAD, *TYPES, *BODY, "{the {A|a}|b} left."], 8, "must be {text|key}, without nesting"),
        ([*HEAD, *TYPES, *BODY, "{A|a left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "A|a} left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "A | B left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "{|a} left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "{A|} left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "{A|B} left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "{A|a|b} left."], 8, "must be {text|key}"),
        ([*HEAD, *TYPES, *BODY, "{A|a}nn left."], 8, "must not cut a word: 'A'"),
        ([*HEAD, *TYPES, *BODY, "Not 4{2|a} left."], 8, "must not cut a word: '2'"),
        ([*HEAD, *TYPES, *BODY, "{A|a}{B|b} left."], 8, "must not cut a word: 'A'"),
        ([*HEAD, *TYPES, "{A|a} left."], 4, r"every type needs mentions, found none of ['b']"),
    ],
)
def test_what_breaks_the_format_is_told_with_file_and_line(
    tmp_path: Path, lines: list[str], at: int, message: str
) -> None:
    with pytest.raises(DataError) as caught:
        sheet_of("\n".join(lines) + "\n", tmp_path, "bad")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.txt'}:{at}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["{A|a}'s", "({A|a})", "x-{A|a}-y", "das{東|a}京", '"{A|a}"', "{A b|a}", "_{A|a}_"])
def test_a_mention_may_touch_what_is_no_ascii_word(tmp_path: Path, line: str) -> None:
    made = sheet_of("\n".join([*HEAD, *TYPES, *BODY, line]), tmp_path)
    assert made.examples[1].text == line.replace("{", "").replace("|a}", "")
    assert len(made.examples[1].spans) == 1


PARTS = st.tuples(
    st.sampled_from(["", "went to", "no,", "(", "-", "東", "é", "don't", "3.5 %"]),
    st.sampled_from(["Ada", "wi-fi 2", "B. B.", "東京", "O'Nil", "$5", "¿Qué?"]),
    st.sampled_from(["a", "b"]),
)


@given(st.lists(PARTS, max_size=6))
def test_marks_are_taken_off_and_nothing_else(parts: list[tuple[str, str, str]]) -> None:
    line = " ".join(f"{before} {{{mention}|{key}}}" for before, mention, key in parts) + " ."
    example = written._sentence(line, {"a", "b"}, "x.txt", 3)
    assert example.text == " ".join(f"{before} {mention}" for before, mention, _ in parts) + " ."
    assert marked(example) == [(mention, key) for _, mention, key in parts]
    assert example.source == "x.txt:3"


def test_sheets_are_named_by_their_place_and_come_in_order(tmp_path: Path) -> None:
    for name in ("sea/zeal", "land/road", "sea/boats"):
        sheet_of(SHEET, tmp_path, name)
    (tmp_path / "sea" / "notes.md").write_text("not a sheet", encoding="utf-8")
    assert [one.name for one in written.sheets(tmp_path)] == ["land/road", "sea/boats", "sea/zeal"]


def test_the_check_names_every_error_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet_of(SHEET, tmp_path, "good")
    for name in ("bad", "worse"):
        (tmp_path / f"{name}.txt").write_text("title: T\n", encoding="utf-8")
    assert written._check(tmp_path) == 2
    *errors, counts = capsys.readouterr().out.splitlines()
    assert [error.split(": ")[0] for error in errors] == [f"{tmp_path / name}.txt:1" for name in ("bad", "worse")]
    for part in ("1 sheets", "4 sentences", "3 types", "13 mentions", "1 empty", "3 different plain names"):
        assert part in counts
    (tmp_path / "bad.txt").unlink()
    (tmp_path / "worse.txt").unlink()
    assert written._check(tmp_path) == 0


# sheets as sources


def squeezed(text: str) -> str:
    """The text without white space and case: what spacing and capitals cannot change."""
    return "".join(text.split()).casefold()


def assert_tokens_keep_the_sentence(item: data.TrainingItem) -> None:
    """Every visible character is in one token, in order, and every span covers its mention."""
    assert item.written is not None
    assert "".join(item.tokens) == "".join(item.written.text.split())
    assert all(item.tokens)
    found = [("".join(item.tokens[start:end]), label) for start, end, label in item.spans]
    assert found == [("".join(text.split()), label) for text, label in marked(item.written)]


def test_sentences_become_words_with_edges_at_their_mentions(sheet: written.Sheet) -> None:
    source = sources_module.sheet_source(sheet, 1.0, set())
    for item in source.items:
        assert_tokens_keep_the_sentence(item)
    assert source.items[0].tokens == ["Boo", "lost", "a", "p-arm", "off", "Bay", "2", ",", "and", "Wu", "'", "s", "pin", "too", "."]  # fmt: skip  # noqa: E501
    assert source.items[3].tokens[:2] == ["Wéé", "Wii"]
    assert source.items[3].tokens[4:7] == ["p.5", "/", "pot"]


@given(st.lists(PARTS, max_size=6), st.sampled_from(["", " ", "\u00a0"]))
def test_no_token_crosses_the_edge_of_a_mention(parts: list[tuple[str, str, str]], gap: str) -> None:
    text, spans = "", []
    for before, mention, key in parts:
        text += before + gap
        spans.append(Span(len(text), len(text) + len(mention), key))
        text += mention + gap
    item = sources_module.written_item(Example(text, tuple(spans)), "s")
    assert_tokens_keep_the_sentence(item)


def test_a_sheet_is_a_source_of_its_own(sheet: written.Sheet) -> None:
    source = sources_module.sheet_source(sheet, 2.5, set())
    assert (source.name, source.domain, source.weight) == ("yard/notes", "written", 2.5)
    assert sources_module.license_family(source.license) == "APACHE"
    assert "Notes from a boat yard" in source.attribution and "log book" in source.attribution
    assert source.labels == ("boat", "part", "who") and source.foreign == ()
    assert {key: (kind.key, kind.names) for key, kind in source.types.items()} == {
        "boat": ("yard/notes:boat", ("boat", "vessel")),
        "part": ("yard/notes:part", ("boat part", "spare")),
        "who": ("yard/notes:who", ("person", "man or woman")),
    }
    sources_module._check_names(source)


def long_sheet(count: int, *more: str) -> str:
    lines = [f"{{A{number}|a}} saw {{B{number}|b}}." for number in range(count)]
    return "\n".join([*HEAD, *TYPES, *lines, *more])


def test_every_tenth_sentence_is_held_out(tmp_path: Path) -> None:
    source = sources_module.sheet_source(sheet_of(long_sheet(25), tmp_path), 1.0, set())
    assert [item.tokens[0] for item in source.held] == ["A9", "A19"]
    assert [item.tokens[0] for item in source.items] == [f"A{n}" for n in range(25) if n not in (9, 19)]
    assert (source.report.read, source.report.held_out, source.report.kept) == (25, 2, 23)


def test_measured_sentences_and_repetitions_are_left_out(tmp_path: Path) -> None:
    text = long_sheet(12, "{A3|a}  SAW {B3|b} !", "{A5|a} saw {B5|b}.")
    measuring = {sources_module.normalized(["a5", "saw b5"])}
    source = sources_module.sheet_source(sheet_of(text, tmp_path), 1.0, measuring)
    # A5 is measured, twice; A3 is there twice; of the eleven that are left the tenth is A10.
    assert [item.tokens[0] for item in source.held] == ["A10"]
    assert [item.tokens[0] for item in source.items] == [f"A{n}" for n in range(12) if n not in (5, 10)]
    report = vars(source.report)
    assert {key: value for key, value in report.items() if value} == {
        "read": 14, "leaked": 2, "duplicate": 1, "held_out": 1, "kept": 10
    }  # fmt: skip


def test_sheets_share_the_weight_by_the_root_of_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("one/small", 4), ("two/large", 36)):
        sheet_of(long_sheet(count), tmp_path, name)
    monkeypatch.setattr(sources_module, "sheets", lambda: written.sheets(tmp_path))
    found = sources_module.written_sources(8.0, set())
    assert [(source.name, source.weight) for source in found] == [("one/small", 2.0), ("two/large", 6.0)]
    monkeypatch.setattr(sources_module, "sheets", lambda: iter(()))
    assert sources_module.written_sources(8.0, set()) == []


# draws


def test_every_drawn_span_is_a_marked_mention_up_to_case(sheet: written.Sheet) -> None:
    source = sources_module.sheet_source(sheet, 1.0, set())
    known = {f"yard/notes:{key}": {squeezed(text) for text in texts} for key, texts in MENTIONS.items()}
    whole = {squeezed(example.text): example for example in sheet.examples}
    seen, untouched = collections.Counter[str](), 0
    for index in range(2000):
        query = data.draw([source], seed=0, index=index)
        query.example.check()
        text, asked = query.example.text, {kind.key for kind in query.types}
        assert query.source == "yard/notes" and query.example.labels <= asked <= set(known)
        for span in query.example.spans:
            mention = text[span.start : span.end]
            assert mention == mention.strip() and squeezed(mention) in known[span.label]
            seen[mention] += 1
        # Where no mention was replaced, all marked mentions of the types asked are there, and no others.
        if original := whole.get(squeezed(text)):
            untouched += 1
            expected = [(squeezed(one), f"yard/notes:{key}") for one, key in marked(original)]
            assert [(squeezed(one), key) for one, key in marked(query.example)] == [
                m for m in expected if m[1] in asked
            ]
    assert 1600 < untouched < 2000
    assert {squeezed(one) for one in seen} == set.union(*known.values())
    assert {"wim w. wu", "Wim W. Wu", "WIM W. WU", "Wim W . Wu"} <= set(seen)  # small, as written, capitals, as tokens


def test_about_half_of_the_draws_are_spaced_as_written(sheet: written.Sheet) -> None:
    source = sources_module.sheet_source(sheet, 1.0, set())
    whole = {example.text.casefold() for example in sheet.examples}
    texts = [data.draw([source], seed=2, index=index).example.text.casefold() for index in range(1200)]
    # Half of those without a replaced mention, which are at least 85 of 100.
    assert 0.40 < sum(text in whole for text in texts) / 1200 < 0.56


def test_a_sentence_as_written_has_the_spans_of_the_types_asked(sheet: written.Sheet) -> None:
    source = sources_module.sheet_source(sheet, 1.0, set())
    asked = [data.QueriedType("yard/notes:who", "person", ""), data.QueriedType("yard/notes:part", "spare", "")]
    query = data._as_written(source, sheet.examples[0], asked)
    assert query.example.text == sheet.examples[0].text and query.types == tuple(asked)
    assert marked(query.example) == [
        ("p-arm", "yard/notes:part"), ("Wu", "yard/notes:who"), ("pin", "yard/notes:part")
    ]  # fmt: skip
    assert query.gold("yard/notes:boat") == ()


@given(st.text("aBcß İŉ'é東.-1", max_size=12), st.integers(0, 2**32))
def test_changed_case_moves_no_span(text: str, seed: int) -> None:
    spans = (Span(0, len(text), "a"),) if text else ()
    made = data._change_case(Example(text, spans), np.random.default_rng(seed))
    assert made.spans == spans
    assert made.text in {text, *(one for one in (text.lower(), text.upper(), text.title()) if len(one) == len(text))}


def test_a_quarter_is_in_small_letters_and_a_few_are_in_capitals() -> None:
    rng = np.random.default_rng(0)
    counts = collections.Counter(data._change_case(Example("the Bay is wet"), rng).text for _ in range(20000))
    assert counts.keys() == {"the bay is wet", "THE BAY IS WET", "The Bay Is Wet", "the Bay is wet"}
    shares = {"the bay is wet": 0.25, "THE BAY IS WET": 0.02, "The Bay Is Wet": 0.02, "the Bay is wet": 0.71}
    for text, share in shares.items():
        assert counts[text] / 20000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20000) ** 0.5)


def test_a_written_sentence_is_asked_up_to_six_present_types_and_up_to_three_absent_ones(tmp_path: Path) -> None:
    keys = "abcdefgh"
    types = [f"{key} = kind {key}; sort {key} :: Described as {key}." for key in keys]
    lines = [" ".join(f"{{{key}{count}|{key}}}" for key in keys[:count]) for count in (2, 7, 8)]
    source = sources_module.sheet_source(sheet_of("\n".join([*HEAD, *types, "", *lines]), tmp_path), 1.0, set())
    asked: dict[int, set[tuple[int, int]]] = {2: set(), 7: set(), 8: set()}
    for index in range(800):
        query = data.draw([source], seed=0, index=index)
        words = query.example.text.split()
        present = len(query.example.labels)
        asked[len(words)].add((present, len(query.types) - present))
    assert asked == {2: {(2, 1), (2, 2), (2, 3)}, 7: {(6, 1)}, 8: {(6, 0)}}


def test_held_out_sentences_of_a_sheet_are_asked_by_plain_names(tmp_path: Path) -> None:
    source = sources_module.sheet_source(sheet_of(long_sheet(10), tmp_path), 1.0, set())
    (query,) = data.held_out_queries([source])["yard/notes"]
    assert [(kind.key, kind.name) for kind in query.types] == [("yard/notes:a", "one"), ("yard/notes:b", "two")]
    assert marked(query.example) == [("A9", "yard/notes:a"), ("B9", "yard/notes:b")]


# the sheets of the repository


def test_all_shipped_sheets_parse_and_keep_their_spans() -> None:
    names = []
    for sheet in written.sheets():
        names.append(sheet.name)
        assert sheet.name.count("/") == 1 and sheet.title and sheet.register, sheet.name
        assert len({kind.key for kind in sheet.types}) == len(sheet.types), sheet.name
        source = sources_module.sheet_source(sheet, 1.0, set())
        sources_module._check_names(source)
        for item in (*source.items, *source.held):
            assert item.written is not None
            item.written.check()
            assert_tokens_keep_the_sentence(item)
    assert len(names) == len(set(names)) > 100


def test_a_few_types_are_asked_by_a_description_alone(tmp_path: Path) -> None:
    types = ["a = kind a; sort a :: Whatever is an A.", "b = kind b; sort b :: Whatever is a B."]
    text = "\n".join([*HEAD, *types, "", "Here is {an x|a} and {a y|b}."])
    source = sources_module.sheet_source(sheet_of(text, tmp_path), 1.0, set())
    kinds = [kind for index in range(2000) for kind in data.draw([source], seed=0, index=index).types]
    alone = [kind for kind in kinds if kind.name.startswith("Whatever")]
    assert {(kind.key[-1], kind.name, kind.description) for kind in alone} == {
        ("a", "Whatever is an A", ""),
        ("b", "Whatever is a B", ""),
    }
    assert len(alone) / len(kinds) == pytest.approx(data.ONLY_DESCRIPTION_SHARE, abs=0.015)
