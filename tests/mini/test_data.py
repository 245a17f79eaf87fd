"""The training data of cllmfs-mini: what is refused, what is left out, and that spans survive every augmentation."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cllmfs.errors import ConfigError, DataError
from mini import augment, data, written
from mini import sources as sources_module

MINI = Path(__file__).parents[2] / "mini"

Record = tuple[str, list[tuple[int, int, str]]]

# "x" marks every token of a PER mention and "y" of a LOC mention: a gold text can be checked without the gold itself.
ROWS: list[Record] = [
    ('Monday xAnna xBerg said : " yPorto is n\'t far . "', [(1, 3, "PER"), (6, 7, "LOC")]),
    ("We saw xCarlo ( near yNice ) , and xDana 's dog .", [(2, 3, "PER"), (5, 6, "LOC"), (9, 10, "PER")]),
    ("A letter reached yRed yHill yFarm before noon .", [(3, 6, "LOC")]),
    ("Nothing much happened during the afternoon .", []),
    ("xEva xde xVries wrote about yTurku .", [(0, 3, "PER"), (5, 6, "LOC")]),
]


def words(text: str) -> list[str]:
    return text.split()


def put(folder: Path, split: str, rows: list[Record], license: str = "CC BY 4.0 (LICENSE)") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"tokens": text.split(), "spans": spans}) for text, spans in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "META.json").write_text(json.dumps({"licence": license}), encoding="utf-8")


class Bench:
    """A tiny data folder with its two TOML files."""

    def __init__(self, root: Path) -> None:
        self.data_dir, self.sources_file, self.types_file = root / "data", root / "sources.toml", root / "types.toml"
        put(self.data_dir / "letters", "train", ROWS)
        put(self.data_dir / "wnut17", "test", [("some measured sentence here", [])])
        self.list_set()
        self.types_file.write_text(
            '[letters.PER]\nnames = ["person", "name of a person"]\ndescriptions = ["A named person."]\n'
            '[letters.LOC]\nnames = ["place", "spot"]\ndescriptions = ["A named place."]\n'
            '[letters.ORG]\nnames = ["firm", "company"]\ndescriptions = ["A named firm."]\n'
            '[foreign.general.gem]\nnames = ["gem", "jewel"]\ndescriptions = ["A stone."]\nunless = ["letter"]\n'
        )

    def list_set(self, name: str = "letters", **changes: Any) -> None:
        entry = {"folder": name, "splits": ["train"], "weight": 1, "domain": "general", "license": "CC BY 4.0"}
        entry |= {"attribution": "Letters of a village."} | changes
        lines = [f"{key} = {json.dumps(value)}" for key, value in entry.items()]
        self.sources_file.write_text(f"[sources.{name}]\n" + "\n".join(lines) + "\n")

    def load(self, **more: Any) -> list[data.Source]:
        return data.load_sources(self.data_dir, sources_file=self.sources_file, types_file=self.types_file, **more)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    "text, family",
    [
        ("CC BY 4.0", "CC BY"),
        ("CC-BY-3.0", "CC BY"),
        ("CC BY-SA 4.0 (LICENSE.txt)", "CC BY-SA"),
        ('"GENIA Project License for Annotated Corpora" (text seen)', "GENIA"),
        ("Apache-2.0", "APACHE"),
        ("MIT (repository LICENSE)", "MIT"),
        ("CC0 1.0", "CC0"),
        ("public domain", "PUBLIC DOMAIN"),
        ("CC BY-NC 4.0", None),
        ("CC BY-NC-SA 4.0", None),
        ("CC BY-ND 4.0", None),
        ("CC BY 4.0; texts partly CC BY-NC-SA 3.0", None),
        ("annotations CC BY 4.0", None),
        ("not stated (CC0 as far as known)", None),
        ("MITRE terms", None),
        ("", None),
    ],
)
def test_only_open_licenses_are_recognized(text: str, family: str | None) -> None:
    assert sources_module.license_family(text) == family


def test_a_closed_license_is_refused_by_name(bench: Bench) -> None:
    bench.list_set(license="CC BY-NC 4.0")
    with pytest.raises(ConfigError, match=r"'letters'.*'CC BY-NC 4\.0'"):
        bench.load()


def test_a_license_that_the_set_itself_contradicts_is_refused(bench: Bench) -> None:
    put(bench.data_dir / "letters", "train", ROWS, license="not stated")
    with pytest.raises(ConfigError, match=r"'letters'.*'not stated'"):
        bench.load()


@pytest.mark.parametrize(
    "name", ["wnut17", "mit_movie_trivia", "snips", "crossner_ai", "crossner_science", "few_tk_inter"]
)
def test_measuring_sets_are_refused_under_any_name(bench: Bench, name: str) -> None:
    put(bench.data_dir / name, "train", ROWS)
    bench.list_set(name)
    with pytest.raises(ConfigError, match=rf"{name}.*measuring"):
        bench.load()
    bench.list_set("letters", folder=name)
    with pytest.raises(ConfigError, match=rf"{name}.*measuring"):
        bench.load()


def test_sentences_of_measuring_sets_and_duplicates_are_left_out(bench: Bench) -> None:
    put(bench.data_dir / "crossner_ai", "dev", [("NOTHING much , happened-during the afternoon", [])])
    put(bench.data_dir / "letters", "train", [*ROWS, ROWS[2], ("... !", []), ("a\ufffdb c", []), ("w " * 61, [])])
    (source,) = bench.load()
    assert [" ".join(item.tokens) for item in source.items] == [text for n, (text, _) in enumerate(ROWS) if n != 3]
    assert vars(source.report) == {
        "read": 9, "leaked": 1, "in_check_set": 0, "damaged": 2, "duplicate": 1, "too_long": 1, "held_out": 0, "kept": 4
    }  # fmt: skip


def test_without_measuring_sets_nothing_is_loaded(bench: Bench, tmp_path: Path) -> None:
    (bench.data_dir / "wnut17").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leak filter"):
        bench.load()


def test_a_label_without_names_is_refused(bench: Bench) -> None:
    put(bench.data_dir / "letters", "train", [("Buy gold", [(1, 2, "METAL")])])
    with pytest.raises(ConfigError, match="METAL"):
        bench.load()


def test_a_name_for_two_labels_is_refused(bench: Bench) -> None:
    bench.types_file.write_text(bench.types_file.read_text().replace('"spot"', '"Name_of_a person"'))
    with pytest.raises(ConfigError, match=r"letters:PER.*letters:LOC"):
        bench.load()


def test_the_held_out_split_is_not_trained_on(bench: Bench) -> None:
    put(bench.data_dir / "letters", "dev", [ROWS[0], ("xIda left .", [(0, 1, "PER")])])
    bench.list_set(splits=["train", "dev"], held_out="dev")
    (source,) = bench.load()
    assert [item.tokens[0] for item in source.held] == ["Monday", "xIda"]
    assert [item.tokens[0] for item in source.items] == ["We", "A", "Nothing", "xEva"]
    queries = data.held_out_queries([source])["letters"]
    assert queries[1].example.text == "xIda left ."
    assert [(kind.key, kind.name, kind.description) for kind in queries[1].types] == [
        ("letters:LOC", "place", ""),
        ("letters:PER", "person", ""),
    ]
    assert [span.key for span in queries[1].example.spans] == [(0, 4, "letters:PER")]


def test_a_held_out_number_does_not_depend_on_file_order(bench: Bench) -> None:
    bench.list_set(held_out=2)
    (first,) = bench.load()
    put(bench.data_dir / "letters", "train", ROWS[::-1])
    (second,) = bench.load()
    assert len(first.held) == 2 and len(first.items) == 3
    assert {item.tokens[0] for item in first.held} == {item.tokens[0] for item in second.held}


def test_another_sources_check_set_is_not_trained_on(bench: Bench) -> None:
    put(bench.data_dir / "notes", "train", [ROWS[1], ROWS[2]])
    first = bench.sources_file.read_text()
    bench.list_set("notes", held_out=1)
    bench.sources_file.write_text(first + bench.sources_file.read_text())
    types = bench.types_file.read_text()
    bench.types_file.write_text(types + types.replace("letters", "notes").split("[foreign")[0])
    letters, notes = bench.load()
    assert letters.report.in_check_set == 1
    assert notes.held[0].tokens not in [item.tokens for item in letters.items]


def test_a_license_that_the_copy_does_not_state_must_be_stated_elsewhere(bench: Bench) -> None:
    put(bench.data_dir / "letters", "train", ROWS, license="not stated")
    bench.list_set(license_stated_in="README of the authors")
    assert len(bench.load()) == 1
    put(bench.data_dir / "letters", "train", ROWS, license="CC BY-NC 4.0")
    with pytest.raises(ConfigError, match=r"'letters'.*'CC BY-NC 4\.0'"):
        bench.load()


def put_texts(bench: Bench, *rows: tuple[str, list[tuple[str, str]], str]) -> None:
    """A set of texts with spans, given by their own words, and the group of each."""
    records = []
    for text, mentions, group in rows:
        spans = [{"start": text.index(m), "end": text.index(m) + len(m), "label": label} for m, label in mentions]
        records.append(json.dumps({"text": text, "spans": spans, "service": group}))
    (bench.data_dir / "letters" / "train.jsonl").write_text("\n".join(records) + "\n")


def test_texts_with_offsets_are_read_with_their_own_spacing(bench: Bench) -> None:
    put_texts(bench, ("Dear  Anna-Lena,come to  Porto!", [("Anna-Lena", "PER"), ("Porto", "LOC")], ""))
    (source,) = bench.load()
    (item,) = source.items
    assert item.written is not None and item.written.text == "Dear  Anna-Lena,come to  Porto!"
    assert [(item.tokens[start:end], label) for start, end, label in item.spans] == [
        (["Anna-Lena"], "PER"),
        (["Porto"], "LOC"),
    ]
    texts = {data.draw([source], seed=0, index=index).example.text for index in range(200)}
    assert "Dear  Anna-Lena,come to  Porto!" in texts


def test_each_group_of_a_set_is_a_set_of_its_own(bench: Bench) -> None:
    put_texts(
        bench,
        ("Anna called.", [("Anna", "PER")], "calls"),
        ("Porto is wet.", [("Porto", "LOC")], "weather"),
        ("Bo called.", [("Bo", "PER")], "calls"),
        ("Call Cy.", [("Cy", "PER")], "calls"),
        ("Call Di.", [("Di", "PER")], "calls"),
    )
    bench.list_set(each="service", weight=6)
    calls, weather = bench.load()
    assert (calls.name, calls.labels, calls.weight) == ("letters:calls", ("PER",), 4.0)
    assert (weather.name, weather.labels, weather.weight) == ("letters:weather", ("LOC",), 2.0)
    assert calls.types["PER"].names == ("person", "name of a person")
    pairs = [{"name": "the_caller", "description": "Who calls."}, {"name": "Who", "description": "The one who calls."}]
    other = [{"name": "spot", "description": "Where."}, {"name": "who", "description": "Taken."}, pairs[0]]
    other.append({"name": "area", "description": "Where."})
    (bench.data_dir / "letters" / "schema.json").write_text(
        json.dumps({"calls": {"PER": pairs, "LOC": other}, "weather": {"LOC": other}})
    )
    calls, weather = bench.load()
    assert calls.types["PER"] == data.TypeNames(
        "letters:calls:PER", ("the caller", "who"), ("Who calls.", "The one who calls.")
    )
    assert calls.types["LOC"].names == ("spot", "area"), "of a name that two slots share, the first slot keeps it"
    assert weather.types["LOC"].names == ("spot", "who", "the caller", "area")


def test_labels_that_are_not_annotated_everywhere_are_not_asked(bench: Bench) -> None:
    put_texts(bench, ("Anna saw Porto.", [("Anna", "PER"), ("Porto", "LOC")], ""))
    bench.list_set(unasked=["LOC"])
    (source,) = bench.load()
    assert source.labels == ("PER",)
    put(bench.data_dir / "letters", "train", ROWS)
    (source,) = bench.load()
    assert source.labels == ("PER",) and len(source.items) == len(ROWS)


def test_labels_of_another_group_are_no_negatives(bench: Bench) -> None:
    rows = [("xAnna called .", [(0, 1, "PER")]), ("yPorto is wet .", [(0, 1, "LOC")]), ("Nobody .", [])]
    put(bench.data_dir / "letters", "train", [*rows, ("zAcme called .", [(0, 1, "ORG")])])
    bench.list_set(apart=[["PER"], ["LOC"]])
    sources = bench.load()
    asked: dict[str, set[str]] = {}
    for index in range(400):
        query = data.draw(sources, seed=0, index=index)
        first = re.split(r"\W", query.example.text.casefold())[0][:1]
        asked.setdefault(first, set()).update(kind.key for kind in query.types if "foreign" not in kind.key)
    person, place, firm = "letters:PER", "letters:LOC", "letters:ORG"
    assert asked["x"] == {person, firm} and asked["y"] == {place, firm}
    assert asked["z"] == asked["n"] == {person, place, firm}


def test_draws_depend_on_seed_and_index_alone(bench: Bench) -> None:
    one, two = bench.load(), bench.load()
    forward = [data.draw(one, seed=3, index=index) for index in range(60)]
    backward = [data.draw(two, seed=3, index=index) for index in reversed(range(60))][::-1]
    assert forward == backward
    assert forward != [data.draw(one, seed=4, index=index) for index in range(60)]


def test_spans_cover_whole_mentions_and_only_asked_types(bench: Bench) -> None:
    sources = bench.load()
    seen_text = set()
    for index in range(1500):
        query = data.draw(sources, seed=0, index=index)
        text, asked = query.example.text, {kind.key for kind in query.types}
        query.example.check()
        seen_text.add(text)
        assert query.example.labels <= asked
        assert len(asked) == len(query.types) == len({kind.name.casefold() for kind in query.types})
        assert {"letters:PER", "letters:LOC"} <= asked <= {"letters:PER", "letters:LOC", "foreign:gem"}
        assert query.gold("foreign:gem") == () and ("foreign:gem" not in asked or "letter" not in text.lower())
        for mark, key in (("x", "letters:PER"), ("y", "letters:LOC")):
            golden = [word for span in query.gold(key) for word in text[span.start : span.end].lower().split(" ")]
            assert all(word.startswith(mark) for word in golden)
            # every marked word of the text is inside a span: none was lost or moved
            assert len(golden) == sum(word.lstrip('("').startswith(mark) for word in text.lower().split(" "))
    assert len(seen_text) > 60


def test_written_sheets_get_their_share_of_the_draws(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "title: T\nregister: r\n\na = one; first :: The one.\n\n"
    for name, count in (("few", 1), ("more", 9)):
        lines = [f"{{A{number}|a}} sat." for number in range(count)]
        (tmp_path / f"{name}.txt").write_text(head + "\n".join([*lines, "Some measured {sentence|a} here!"]))
    monkeypatch.setattr(sources_module, "sheets", lambda: written.sheets(tmp_path))
    assert [source.name for source in bench.load()] == ["letters"]
    sources = bench.load(written_share=1.5)
    assert [source.name for source in sources] == ["letters", "few", "more"]
    assert sources[0].weight == 1 and sources[1].weight + sources[2].weight == pytest.approx(1.5)
    assert sources[2].weight / sources[1].weight == pytest.approx((10 / 2) ** 0.5)
    assert [source.report.leaked for source in sources] == [0, 1, 1]  # what is measured is in no sheet either
    drawn = [data.draw(sources, seed=0, index=index).source for index in range(2000)]
    assert sum(name != "letters" for name in drawn) / 2000 == pytest.approx(1.5 / 2.5, abs=0.05)


def test_absent_types_are_asked_and_have_no_spans(bench: Bench) -> None:
    sources = bench.load()
    queries = [data.draw(sources, seed=1, index=index) for index in range(300)]
    absent = [(q, kind) for q in queries for kind in q.types if kind.key not in q.example.labels]
    assert any(kind.key == "letters:PER" for _, kind in absent)
    assert all(q.gold(kind.key) == () for q, kind in absent)
    assert sum(not q.example.spans for q in queries) <= 0.2 * len(queries)


def test_rows_for_a_span_scorer_are_asked_all_present_types(bench: Bench) -> None:
    """``benchmarks/few_shot/gliner_rows.py`` draws from the same sets."""
    if not (MINI.parent / "benchmarks" / "few_shot").is_dir():
        pytest.skip("benchmarks is not part of this install")
    from benchmarks.few_shot.gliner_rows import drawn_row, drawn_rows

    loaded = bench.load()
    kind = {name: label for label, names in loaded[0].types.items() for name in names.names}
    mark, sizes = {"PER": "x", "LOC": "y"}, set()
    for index in range(200):
        row = drawn_row(loaded, 3, 0, index)
        assert row == drawn_row(bench.load(), 3, 0, index)
        asked = [kind[name] for name in row["ner_labels"]]
        assert 1 <= len(asked) == len(set(asked)) <= 3
        sizes.add(len(asked))
        text = row["tokenized_text"]
        found = sorted((start, end, mark[kind[name]]) for start, end, name in row["ner"])
        assert all(word.startswith(sign) for start, end, sign in found for word in text[start : end + 1])
        covered = {place for start, end, _ in found for place in range(start, end + 1)}
        assert covered == {place for place, word in enumerate(text) if re.match("[xy][A-Za-z]", word)}
        assert {kind[name] for _, _, name in row["ner"]} <= set(asked)
    assert sizes == {1, 2}

    rows, single = drawn_rows(loaded, 16, 4, 3, 0), [drawn_row(loaded, 3, 0, index) for index in range(64)]
    assert sorted(map(repr, rows[:32])) == sorted(map(repr, single[:32]))
    assert sorted(map(repr, rows)) == sorted(map(repr, single))
    # Of eight batches none reaches into another's lengths.
    spreads = [[len(row["tokenized_text"]) for row in rows[first : first + 4]] for first in range(0, 32, 4)]
    edges = sorted((min(lengths), max(lengths)) for lengths in spreads)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(edges))


def test_natural_spacing() -> None:
    text, offsets = augment.join_naturally(words("He said : `` it is n't $ 5 ( or 6 % ) '' , Ann 's \" yes \" ."))
    assert text == 'He said: "it isn\'t $5 (or 6%)", Ann\'s "yes".'
    assert [text[a:b] for a, b in offsets][:6] == ["He", "said", ":", '"', "it", "is"]
    split = words("NF - kB ( 0 . 05 ) in Wilson ' s disease , i . e . E . coli")
    assert augment.join_naturally(split, split_punctuation=True)[0] == "NF-kB (0.05) in Wilson's disease, i.e. E. coli"
    assert augment.join_naturally(words("NF - kB"))[0] == "NF - kB"


@given(
    st.lists(st.sampled_from(["a", "'s", "(", ")", ".", "-", "$", "5", '"', "'", "@", "longer"]), min_size=1),
    st.booleans(),
)
def test_natural_spacing_keeps_every_token(tokens: list[str], split: bool) -> None:
    text, offsets = augment.join_naturally(tokens, split_punctuation=split)
    assert [text[start:end] for start, end in offsets] == tokens
    assert text.replace(" ", "") == "".join(tokens)
    assert text == text.strip() and "  " not in text


@given(st.integers(0, 2**32))
def test_a_replaced_mention_moves_the_later_spans(seed: int) -> None:
    tokens, spans = words("xa and yb yb met xc ."), [(0, 1, "P"), (2, 4, "L"), (5, 6, "P")]
    pool: dict[str, list[tuple[str, ...]]] = {"P": [("x1", "x2", "x3"), ("x4",)], "L": [("y1",)]}
    made, moved = augment.replace_mention(tokens, spans, pool, np.random.default_rng(seed))
    assert [span[2] for span in moved] == ["P", "L", "P"]
    inside = {at for start, end, _ in moved for at in range(start, end)}
    assert inside == {at for at, token in enumerate(made) if token[0] in "xy"}
    assert sum(made[a:b] != tokens[c:d] for (a, b, _), (c, d, _) in zip(moved, spans, strict=True)) == 1


@given(st.integers(0, 2**32))
def test_a_typo_changes_at_most_one_word(seed: int) -> None:
    tokens = ["In", "London", "42000", "people", "sang"]
    made = augment.add_typo(tokens, np.random.default_rng(seed))
    changed = [(old, new) for old, new in zip(tokens, made, strict=True) if old != new]
    assert len(changed) <= 1
    assert all(
        old in ("London", "people") and abs(len(old) - len(new)) <= 1 and new[0] == old[0] for old, new in changed
    )


def test_the_shipped_lists_are_whole() -> None:
    entries = sources_module._read_toml(sources_module.SOURCES_FILE)
    named = sources_module._read_toml(sources_module.TYPES_FILE)
    assert set(named) == {*entries["sources"], "foreign"} - {"sgd"}  # whose own schema names its types
    assert not set(entries["sources"]) & set(entries["excluded"])
    assert sum(entry["weight"] for entry in entries["sources"].values()) == 100
    for name, entry in entries["sources"].items():
        assert sources_module.license_family(entry["license"]) is not None, name
        assert not sources_module.is_measuring(name) and entry["attribution"]
        for label, kind in named.get(name, {}).items():
            assert 2 <= len(kind["names"]) <= 6 and len(kind["descriptions"]) == 2, (name, label)
            assert len(set(kind["names"])) == len(kind["names"]), (name, label)
