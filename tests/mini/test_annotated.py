"""The annotated passages: the notation of marks, standoff without the text, and what each question's answer is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cllmfs.errors import DataError
from cllmfs.schema import Span
from mini import data, sources
from mini.annotated import collect, marks, passages, register, review, source, standoff

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


def annotated(text: str, file: str, at: int, first: list[Span], **more: Any) -> standoff.Annotated:
    return standoff.Annotated(file, at, len(text), passages.hash_of(text), "novels", tuple(first), **more)


def test_annotations_are_joined_with_their_text_and_hold_no_word_of_it(folder: Path, tmp_path: Path) -> None:
    spans = [span_of(TEXT, "Ann Lee", "mayor"), span_of(TEXT, "Ouse", "river")]
    kept = [annotated(TEXT, "letters/train.jsonl", 0, spans), annotated(TEXT, "novel.txt", 15, spans)]
    path = tmp_path / "annotations.jsonl"
    standoff.write_annotations(reversed(kept), path)
    assert not {"Ouse", "Ann", "swam", "cold"} & set(re.split(r"\W+", path.read_text()))
    assert list(standoff.read_annotations(path)) == kept
    assert [standoff.text_of(one, folder) for one in kept] == [TEXT, TEXT]
    other = tmp_path / "other"
    (other / "letters").mkdir(parents=True)
    (other / "novel.txt").write_text(f"Chapter é  one.\n{TEXT}\n", encoding="utf-8")
    (other / "letters" / "train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"letters/train\.jsonl: there must be a line 1, got 0 lines"):
        standoff.text_of(kept[0], other)
    with pytest.raises(DataError, match=r"novel\.txt: the text at 15 is not what was annotated"):
        standoff.text_of(kept[1], other)


def test_a_review_is_kept_as_what_it_changed() -> None:
    first = [span_of(TEXT, "Ann Lee", "mayor"), span_of(TEXT, "Ouse", "river"), span_of(TEXT, "Tarn", "river")]
    reviewed = (first[0], span_of(TEXT, "Tarn", "lake"))
    one = annotated(TEXT, "novel.txt", 15, first, second=(first[1],), reviewed=reviewed)
    record = one.to_record()
    assert record["dropped"] == [1, 2] and record["added"] == [[42, 46, "lake"]]
    assert record["second"] == [[26, 30, "river"]]
    assert standoff.Annotated.of_record(json.loads(json.dumps(record))) == one
    untouched = annotated(TEXT, "novel.txt", 15, first, reviewed=tuple(first))
    assert standoff.Annotated.of_record(untouched.to_record()) == untouched
    given_up = standoff.Annotated("novel.txt", 15, 3, "00", "novels", None)
    assert standoff.Annotated.of_record(given_up.to_record()) == given_up


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
    marked = [span_of(TEXT, "Ann Lee", "Head of a town"), span_of(TEXT, "Bo", "person"), span_of(TEXT, "Tarn", "lake")]
    marked += [span_of(TEXT, "Ouse", "river", number) for number in (0, 1)]
    path = tmp_path / "annotations.jsonl"
    one = annotated(TEXT, "novel.txt", 15, [*marked, span_of(TEXT, "cold", "river")], reviewed=tuple(marked))
    standoff.write_annotations([one, annotated(TEXT, "letters/train.jsonl", 0, marked)], path)
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
    path = tmp_path / "annotations.jsonl"
    standoff.write_annotations([annotated(TEXT, "novel.txt", 15, [], reviewed=())], path)
    made = source.annotated_source(folder, 1.0, {sources.normalized([TEXT])}, path, types)
    assert (made.items, made.report.read, made.report.leaked) == ([], 1, 1)


# --- review and collection --------------------------------------------------------------------------------------------


def test_corrections_are_applied_and_counted(tmp_path: Path) -> None:
    before, _ = read(tmp_path, "#7\nAnn Lee | person\nOuse | river\nTarn | river\nBo | dog\n#9\nMay | month\n")
    path = tmp_path / "corrections.txt"
    path.write_text(
        "#7\n- Tarn | river\n+ Tarn | lake\n- Ann Lee | person\n+ Mayor Ann Lee | person\n- Bo | dog\n"
        "+ swam | sport\n#9 skip\n"
    )
    texts = {7: TEXT, 9: "May left in May."}
    after, problems = review.read_corrections(path, texts, before)
    assert not problems and after[9].skipped and not after[9].spans
    counts = review.changes(before[7].spans, after[7].spans)
    assert counts == {"kept": 2, "retyped": 1, "moved": 1, "dropped": 1, "added": 1}
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
    after, problems = review.read_corrections(path, {7: TEXT, 9: ""}, before)
    assert problems == [problem] and after[7].spans == before[7].spans


@pytest.fixture
def readers(tmp_path: Path, folder: Path) -> Path:
    """The files of readers: two passages, of which one is reviewed and has a second reader."""
    made = tmp_path / "readers"
    for name in ("texts", "marks", "second", "judged"):
        (made / name).mkdir(parents=True)
    other = "It rained in Oslo."
    (folder / "novel.txt").write_text(f"{TEXT}\n{other}\n")
    places = []
    for number, (text, at) in enumerate(((TEXT, 0), (other, len(TEXT) + 1)), start=1):
        (made / "texts" / f"00{number}.txt").write_text(f"#{number} [novels]\n{text}\n")
        place = {"number": number, "file": "novel.txt", "at": at, "kind": "novels"}
        places.append(json.dumps({**place, "length": len(text), "hash": passages.hash_of(text)}))
    (made / "places.jsonl").write_text("\n".join(places))
    (made / "marks" / "001.txt").write_text("#1\nAnn Lee | Statesman\nOuse | river\nTarn | moon\n")
    (made / "second" / "001.txt").write_text("#1\nAnn Lee | person\nOuse @1 | river\n")
    (made / "judged" / "001.txt").write_text("#1\n+ Tarn | lake\n")
    return made


def test_what_readers_wrote_is_collected(types: register.Register, readers: Path) -> None:
    (readers / "marks" / "002.txt").write_text("#2\nOslo | place\n")
    one, two = collect.collect(readers)
    assert one.reviewed is not None and [(TEXT[span.start : span.end], span.label) for span in one.reviewed] == [
        ("Ann Lee", "Statesman"),
        ("Ouse", "river"),
        ("Tarn", "lake"),
        ("Tarn", "moon"),
        ("Ouse", "river"),
    ]
    assert (two.first, two.second, two.reviewed) == ((Span(13, 17, "place"),), None, None)
    found = collect.figures([one, two], types)
    assert (found["passages"], found["mentions"], found["mentions_of_unknown_types"]) == (1, 4, 1)
    assert (found["not_reviewed"], found["given_up"]) == (1, 0)
    assert found["review"] == {"kept": 4, "dropped": 0, "added": 1, "retyped": 0, "moved": 0}
    # Of three and two marks two have the same places; one of them has the same type, the other a more general one.
    assert found["agreement"]["all"] == found["agreement"]["novels"] == {
        "passages": 1, "first": 3, "second": 2, "same_place": 2, "same_type": 1, "related_type": 2,
        "f1_same_place": 80.0, "f1_same_type": 40.0, "f1_related_type": 80.0,
    }  # fmt: skip


def test_marks_that_nobody_reviewed_can_be_worked_on_again(readers: Path, folder: Path, tmp_path: Path) -> None:
    (readers / "judged" / "001.txt").unlink()
    made = collect.collect(readers)
    assert collect.not_annotated(readers, made) == ["002"]
    again = tmp_path / "again"
    again.mkdir()
    (again / "places.jsonl").write_text((readers / "places.jsonl").read_text())
    assert collect.restore(again, folder, made) == 1
    assert (again / "marks" / "r000.txt").read_text() == "#1\nAnn Lee | Statesman\nOuse | river\nTarn | moon"
    assert [one.first for one in collect.collect(again)] == [made[0].first]


def test_marks_of_some_occurrences_survive_writing(tmp_path: Path) -> None:
    lines = "#7\nAnn Lee | person\nTarn | lake\nOuse @2 | river"
    found, _ = read(tmp_path, lines + "\n#9\n")
    assert marks.written(found[7], TEXT) == lines
