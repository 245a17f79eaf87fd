"""The annotated passages: the notation of marks, standoff without the text, and what each question's answer is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cllmfs.errors import DataError
from cllmfs.schema import Span
from mini import data
from mini.annotated import assemble, marks, passages, register, review, source, standoff

TYPES = [
    {"type": "person", "names": ["human being"], "descriptions": ["Somebody."]},
    {"type": "politician", "names": ["statesman"], "descriptions": ["Who makes politics."], "parents": ["person"]},
    {"type": "mayor", "names": ["head of a town"], "descriptions": ["Who leads a town."], "parents": ["politician"]},
    {"type": "singer", "names": ["vocalist"], "descriptions": ["Who sings."], "parents": ["person"]},
    {"type": "user name", "names": ["account"], "descriptions": ["A name on the web."], "overlaps": ["singer"]},
    {"type": "place", "names": ["location"], "descriptions": ["Somewhere."]},
    {"type": "river", "names": ["stream"], "descriptions": ["It flows."], "parents": ["place"]},
    {"type": "lake", "names": ["inland water"], "descriptions": ["It lies."], "parents": ["place"]},
]
TEXT = "Mayor Ann Lee swam in the Ouse and in the Tarn with Bo. The Ouse was cold."


@pytest.fixture
def types(tmp_path: Path) -> register.Register:
    path = tmp_path / "types.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in TYPES))
    return register.read_register(path)


def span_of(text: str, mention: str, label: str, number: int = 0) -> Span:
    start, end = marks.occurrences(text, mention)[number]
    return Span(start, end, label)


# --- marks ------------------------------------------------------------------------------------------------------------


def read(tmp_path: Path, text: str) -> tuple[dict[int, marks.Marked], list[str]]:
    path = tmp_path / "marks.txt"
    path.write_text(text, encoding="utf-8")
    return marks.read_marks(path, {7: TEXT, 9: "May left in May."})


def test_a_mention_stands_for_all_its_occurrences_or_for_those_named(tmp_path: Path) -> None:
    found, problems = read(tmp_path, "#7\nOuse | river\nAnn Lee | person\n#9\nMay @2 | month\nMay @1 | person\n")
    assert not problems
    assert found[7].spans == [
        span_of(TEXT, "Ann Lee", "person"),
        span_of(TEXT, "Ouse", "river"),
        span_of(TEXT, "Ouse", "river", 1),
    ]
    assert found[9].spans == [Span(0, 3, "person"), Span(12, 15, "month")]


@pytest.mark.parametrize(
    "text, problem",
    [
        ("#7\nThames | river\n#9\n", "line 2: the passage does not have these words: 'Thames | river'"),
        ("#7\nOus | river\n#9\n", "line 2: the passage does not have these words: 'Ous | river'"),
        ("#7\nOuse @3 | river\n#9\n", "line 2: the passage has 2 occurrences of it as whole words: 'Ouse @3 | river'"),
        ("#7\nOuse river\n#9\n", "line 2: a mark must be 'mention | type': 'Ouse river'"),
        ("#7\nOuse | ?\n#9\n", "line 2: the type must be words: 'Ouse | ?'"),
        ("Ouse | river\n#7\n#9\n", "line 1: a mark must come below a #number line: 'Ouse | river'"),
        ("#7\n#8\n#9\n", "line 2: passage 8 is not in this file, or comes twice"),
        ("#7\n#7\n#9\n", "line 2: passage 7 is not in this file, or comes twice"),
        ("#7\n", "passage 9 has no #number line"),
        ("#7\nMayor Ann | title\nAnn Lee | person\n#9\n", "passage 7: 'Ann Lee' and 'Mayor Ann' overlap"),
    ],
)
def test_marks_that_do_not_fit_are_told(tmp_path: Path, text: str, problem: str) -> None:
    _, problems = read(tmp_path, text)
    assert [one for one in problems if "passage 9 has" not in one or "9" in problem] and problem in problems


def test_of_nested_mentions_the_outer_one_stays(tmp_path: Path) -> None:
    found, problems = read(tmp_path, "#7\nMayor Ann Lee | person\nAnn | first name\n#9 skip\n")
    assert not problems and found[9].skipped
    assert found[7].spans == [span_of(TEXT, "Mayor Ann Lee", "person")]


# --- standoff ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    (made / "letters").mkdir(parents=True)
    (made / "letters" / "train.jsonl").write_text(json.dumps({"text": TEXT, "spans": []}) + "\n")
    (made / "novel.txt").write_text(f"Chapter é one.\n{TEXT}\n", encoding="utf-8")
    return made


def test_annotations_are_joined_with_their_text_and_hold_no_word_of_it(folder: Path, tmp_path: Path) -> None:
    spans = [span_of(TEXT, "Ann Lee", "mayor"), span_of(TEXT, "Ouse", "river")]
    kept = [passages.Passage("novel.txt", 15, "novels", TEXT), passages.Passage("letters/train.jsonl", 0, "mail", TEXT)]
    path = tmp_path / "passages.jsonl"
    assert standoff.write_annotations(path, [(one, spans) for one in kept]) == 2
    assert not {"Ouse", "Ann", "swam", "cold"} & set(path.read_text().replace('"', " ").split())
    for one in standoff.read_annotations(path):
        example = standoff.with_text(one, folder)
        assert (example.text, list(example.spans)) == (TEXT, spans)
    other = tmp_path / "other"
    (other / "letters").mkdir(parents=True)
    (other / "novel.txt").write_text(f"Chapter é  one.\n{TEXT}\n", encoding="utf-8")
    (other / "letters" / "train.jsonl").write_text("")
    first, second = standoff.read_annotations(path)
    with pytest.raises(DataError, match=r"letters/train\.jsonl: there must be a line 1, got 0 lines"):
        standoff.with_text(first, other)
    with pytest.raises(
        DataError, match=r"novel\.txt: the text at 15 is not what was annotated; bring the same version"
    ):
        standoff.with_text(second, other)


# --- register ---------------------------------------------------------------------------------------------------------


def test_a_mention_answers_for_its_type_and_all_above(types: register.Register) -> None:
    assert [one for one in types.types if types.answers(one, "mayor")] == ["person", "politician", "mayor"]
    assert types.siblings("politician") == {"singer"}
    assert types.siblings("river") == {"lake"}


@pytest.mark.parametrize(
    "asked, marked, certain",
    [
        ("river", ["lake"], True),
        ("politician", ["mayor"], True),
        ("mayor", ["politician"], False),  # the politician may be a mayor
        ("mayor", ["singer"], True),
        ("singer", ["user name"], False),
        ("user name", ["singer"], False),
        ("person", ["user name"], False),  # since a singer is a person
        ("politician", ["user name"], True),
        ("river", [], True),
    ],
)
def test_what_is_certain(types: register.Register, asked: str, marked: list[str], certain: bool) -> None:
    assert types.certain(asked, marked) is certain


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"parents": ["planet"]}, "'planet', which must be in the register"),
        ({"parents": ["lake"]}, "must not be its own ancestor"),
        ({"names": ["Stream"]}, "the name 'Stream' stands for 'river' already"),
        ({"type": "river"}, "the name 'river' stands for 'river' already"),
        ({"names": []}, "needs another name and a description"),
    ],
)
def test_a_register_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    path = tmp_path / "types.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in [*TYPES[:-1], TYPES[-1] | change]))
    with pytest.raises(DataError, match=problem):
        register.read_register(path)


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(types: register.Register, folder: Path, tmp_path: Path) -> source.AnnotatedSource:
    marked = [span_of(TEXT, "Ann Lee", "mayor"), span_of(TEXT, "Bo", "person"), span_of(TEXT, "Tarn", "lake")]
    marked += [span_of(TEXT, "Ouse", "river", number) for number in (0, 1)]
    path = tmp_path / "passages.jsonl"
    standoff.write_annotations(path, [(passages.Passage("novel.txt", 15, "novels", TEXT), marked)])
    return source.annotated_source(folder, 1.0, set(), path, types)


@pytest.mark.parametrize("index", range(100))
def test_answers_are_the_mentions_of_the_type_and_of_all_below(drawn: source.AnnotatedSource, index: int) -> None:
    query = data.draw([drawn], seed=1, index=index)
    mentions = {
        "person": ["Ann Lee", "Bo"],
        "mayor": ["Ann Lee"],
        "place": ["Ouse", "Tarn", "Ouse"],
        "river": ["Ouse", "Ouse"],
        "lake": ["Tarn"],
        "politician": None,  # Bo is a person of whom nothing is known
        "singer": None,
    }
    for kind in query.types:
        wanted = mentions.get(kind.key.removeprefix("annotated:"), [])
        assert wanted is not None
        found = sorted(query.gold(kind.key), key=lambda span: span.start)
        assert [query.example.text[span.start : span.end].casefold() for span in found] == [
            one.casefold() for one in wanted
        ]


def test_every_type_that_is_certain_is_asked_sooner_or_later(drawn: source.AnnotatedSource) -> None:
    asked = {kind.names[0] for n in range(300) for kind in drawn.choose(drawn.items[0], np.random.default_rng(n))}
    assert asked == {"person", "mayor", "place", "river", "lake"}


def test_passages_of_measuring_sets_are_left_out(types: register.Register, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    standoff.write_annotations(path, [(passages.Passage("novel.txt", 15, "novels", TEXT), [])])
    made = source.annotated_source(folder, 1.0, {passages.normalized([TEXT])}, path, types)
    assert (made.items, made.report.leaked) == ([], 1)


# --- review and assembly ----------------------------------------------------------------------------------------------


def test_corrections_are_applied_and_counted(tmp_path: Path) -> None:
    before, _ = read(tmp_path, "#7\nAnn Lee | person\nOuse | river\nTarn | river\nBo | dog\n#9\nMay | month\n")
    path = tmp_path / "corrections.txt"
    path.write_text(
        "#7\n- Tarn | river\n+ Tarn | lake\n- Ann Lee | person\n+ Mayor Ann Lee | person\n- Bo | dog\n"
        "+ swam | sport\n#9 skip\n"
    )
    texts = {7: TEXT, 9: "May left in May."}
    after, counts, problems = review.read_corrections(path, texts, before)
    assert not problems and after[9].skipped and not after[9].spans
    assert dict(counts) == {"kept": 2, "retyped": 1, "moved": 1, "dropped": 1, "added": 1, "skipped": 1}
    assert [TEXT[span.start : span.end] for span in after[7].spans] == ["Mayor Ann Lee", "swam", "Ouse", "Tarn", "Ouse"]
    assert before[7].spans[0] == span_of(TEXT, "Ann Lee", "person"), "the marks themselves stay"


@pytest.mark.parametrize(
    "text, problem",
    [
        ("#7\n- Ouse | lake\n", "line 2: there is no such mark: '- Ouse | lake'"),
        ("#7\n+ Thames | river\n", "line 2: the passage does not have these words: '+ Thames | river'"),
        ("#7\nOuse | river\n", "line 2: a correction must be '- mention | type' or '+ mention | type': 'Ouse | river'"),
        ("+ Ouse | river\n", "line 1: a correction must be '- mention | type' or '+ mention | type': '+ Ouse | river'"),
        ("#8\n", "line 1: passage 8 has no marks"),
    ],
)
def test_corrections_that_do_not_fit_are_told(tmp_path: Path, text: str, problem: str) -> None:
    before, _ = read(tmp_path, "#7\nOuse | river\n#9\n")
    path = tmp_path / "corrections.txt"
    path.write_text(text)
    after, _, problems = review.read_corrections(path, {7: TEXT, 9: ""}, before)
    assert problems == [problem] and after[7].spans == before[7].spans


def test_reviewed_passages_are_brought_together(types: register.Register, tmp_path: Path) -> None:
    for name in ("texts", "marks", "second", "judged"):
        (tmp_path / name).mkdir()
    for number, file in enumerate(("000", "001"), start=1):
        (tmp_path / "texts" / f"{file}.txt").write_text(f"#{number} [novels]\n{TEXT}\n")
        (tmp_path / "marks" / f"{file}.txt").write_text(f"#{number}\nAnn Lee | Statesman\nOuse | river\nTarn | moon\n")
    place = {"file": "novel.txt", "at": 3, "kind": "novels", "length": len(TEXT), "hash": passages.hash_of(TEXT)}
    (tmp_path / "places.jsonl").write_text("".join(json.dumps({"number": n, **place}) + "\n" for n in (1, 2)))
    (tmp_path / "second" / "000.txt").write_text("#1\nAnn Lee | person\nOuse @1 | river\n")
    (tmp_path / "judged" / "000.txt").write_text("#1\n+ Tarn | lake\n")
    ((passage, spans),), figures = assemble.assemble(tmp_path, types)
    assert passage == passages.Passage("novel.txt", 3, "novels", TEXT)
    assert [(TEXT[span.start : span.end], span.label) for span in spans] == [
        ("Ann Lee", "politician"),
        ("Ouse", "river"),
        ("Tarn", "lake"),
        ("Ouse", "river"),
    ]
    assert (figures["passages"], figures["mentions"], figures["mentions_of_unknown_types"]) == (1, 4, 1)
    assert figures["review"] == {"kept": 4, "dropped": 0, "added": 1, "retyped": 0, "moved": 0, "skipped": 0}
    # Of three and two marks two have the same places; one of them has the same type, the other a more general one.
    assert figures["agreement"]["all"] == figures["agreement"]["novels"] == {
        "passages": 1, "first": 3, "second": 2, "same_place": 2, "same_type": 1, "related_type": 2,
        "f1_same_place": 80.0, "f1_same_type": 40.0, "f1_related_type": 80.0,
    }  # fmt: skip
