"""The commands that need no model, on real files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cllmfs.datasets.sampling import sample_k_shot
from cllmfs.formats import read_examples
from tests.cli.conftest import ADA, RAIN, cli, jsonl
from tests.conftest import own_byte_tokenizer

ADA_CONLL = "Ada\tB-PER\nlives\tO\nin\tO\nRome\tB-LOC\n.\tO\n\n"
ADA_SPACED = "Ada\t_\tB-PER\nlives\t_\tO\nin\t_\tO\nRome\tSpaceAfter=No\tB-LOC\n.\t_\tO\n\n"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Ten sentences with PER, four of them with LOC too, one with ORG."""
    records = []
    for index in range(10):
        spans = [{"start": 0, "end": 2, "label": "PER"}]
        if index < 4:
            spans.append({"start": 7, "end": 9, "label": "LOC"})
        if index == 9:
            spans.append({"start": 7, "end": 9, "label": "ORG"})
        records.append({"text": f"P{index} and Q{index}", "spans": spans})
    return jsonl(tmp_path / "pool.jsonl", *records)


# validate


def test_validate_names_every_issue_and_fails(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "bad.jsonl",
        ADA,
        {"text": "Ada", "spans": [{"start": 0, "end": 9, "label": "PER"}]},
        {"text": "Ada went", "spans": [{"start": 0, "end": 4, "label": "PER"}]},
    )
    done = cli("validate", path)
    lines = done.stdout.splitlines()
    assert done.exit_code == 2
    message = "a span must lie in 0 to 3 (code points), got 0 to 9 (PER)"
    assert lines[0] == f"{path}:2: spans[0]: offset-out-of-range: {message}"
    assert lines[1].startswith(f"{path}:3: spans: span-edge-whitespace (warning): ")
    assert re.search(r"^ *PER +2 *$", done.stdout, re.MULTILINE)
    assert re.search(r"^ *LOC +1 *$", done.stdout, re.MULTILINE)
    assert lines[-1] == (
        f"{path}: 2 sentences (0 without spans), 7 tokens, 3 mentions; 1 unreadable records, 1 errors, "
        f"{sum('(warning)' in line for line in lines)} warnings"
    )


def test_validate_passes_with_warnings_and_with_none(tmp_path: Path, data: Path) -> None:
    path = jsonl(tmp_path / "twice.jsonl", RAIN, RAIN)
    done = cli("validate", path)
    assert done.exit_code == 0
    assert f"{path}:2: text: duplicate-text (warning): " in done.stdout
    done = cli("validate", data)
    assert done.exit_code == 0
    assert "0 errors, 0 warnings" in done.stdout and str(data) + ":" not in done.stdout.splitlines()[0]


def test_validate_json_is_the_report(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "bad.jsonl", {"text": "x"}, ADA)
    done = cli("validate", path, "--json")
    report = json.loads(done.stdout)
    assert done.exit_code == 2
    assert (report["ok"], report["sentences"], report["mentions"]) == (False, 1, {"LOC": 1, "PER": 1})
    assert [(issue["line"], issue["field"], issue["rule"]) for issue in report["issues"]] == [
        (1, "spans", "missing-field")
    ]


def test_validate_knows_labels_formats_and_schemes(tmp_path: Path, data: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("PER\nPLACE\n", encoding="utf-8")
    done = cli("validate", data, "--labels", labels)
    assert done.exit_code == 2
    assert ":1: spans: unknown-label: " in done.stdout
    assert cli("validate", "-", "--format", "conll", "--scheme", "iob2", stdin=ADA_CONLL).exit_code == 0
    done = cli("validate", "-", "--format", "conll", "--scheme", "io", stdin=ADA_CONLL)
    assert done.exit_code == 2
    assert "<stdin>:1: tag: bad-tag: " in done.stdout
    done = cli("validate", data, "--scheme", "bi")
    assert done.exit_code == 2
    assert "scheme must be one of iob1" in done.stderr


def test_validate_tells_sentences_of_other_files(tmp_path: Path, data: Path) -> None:
    others = [jsonl(tmp_path / f"{name}.jsonl", record) for name, record in (("test", RAIN), ("dev", ADA))]
    done = cli("validate", data, "--against", others[0], "--against", others[1])
    assert done.exit_code == 0
    found = "text: seen-elsewhere (warning): a sentence should not be both learned and scored; it is also in"
    assert f"{data}:1: {found} {others[1]}:1" in done.stdout and f"{data}:2: {found} {others[0]}:1" in done.stdout


def test_validate_says_what_is_wrong_with_a_whole_file(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"\n")
    done = cli("validate", empty)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{empty}: empty-file: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x1f\x8b\x08\0junk", "gzip"), (b'{"text": "caf\xe9", "spans": []}\n', "0xe9"), (b"PK\0\1", "NUL byte")],
)
def test_junk_and_other_encodings_name_file_and_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "junk.jsonl"
    path.write_bytes(content)
    done = cli("validate", path)
    assert done.exit_code == 2
    assert done.stdout.startswith(f"{path}:1: bad-encoding: ") and said in done.stdout
    for command in (("convert", path, "-"), ("sample", path)):
        done = cli(*command)
        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {path}:1: ") and said in done.stderr


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"text": "ab", "spans": [{"start": 0, "end": 1, "label": "\x1b[31mX"}]})
    done = cli("validate", path)
    assert "\x1b" not in done.output and "\u241b[31mX" in done.output


def labeled(text: str, *labels: str) -> dict[str, object]:
    """A record whose first words have the labels."""
    words = list(re.finditer(r"\w+", text))
    pairs = zip(words, labels, strict=False)
    return {"text": text, "spans": [{"start": w.start(), "end": w.end(), "label": label} for w, label in pairs]}


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("cllmfs-mini", "'PER' and 'Per' ask the same question of cllmfs-mini"),
        ("own", "'PER' and 'Per' differ only in case"),
        ("nobody/nothing", "'PER' and 'Per' differ only in case"),
    ],
)
def test_validate_names_labels_that_a_base_cannot_tell_apart(tmp_path: Path, base: str, said: str) -> None:
    if base == "own":  # its tokenizer keeps case
        base = str(tmp_path / "base")
        own_byte_tokenizer().save_pretrained(base)
    path = jsonl(tmp_path / "d.jsonl", labeled("Ada Rome", "PER", "LOC"), labeled("Oslo Bo", "LOC", "Per"))
    done = cli("validate", path, "--base", base)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{path}: similar-labels (warning): the labels {said}")
    assert "0 errors, 1 warnings" in done.stdout
    assert ("nobody/nothing is not on this machine" in done.stderr) == (base == "nobody/nothing")
    issues = json.loads(cli("validate", path, "--base", base, "--json").stdout)["issues"]
    assert [(issue["line"], issue["rule"], issue["severity"]) for issue in issues] == [(0, "similar-labels", "warning")]


def test_validate_compares_the_labels_of_a_label_file_with_their_descriptions(tmp_path: Path) -> None:
    path, labels = jsonl(tmp_path / "d.jsonl", labeled("Ada Rome", "PER", "LOC")), tmp_path / "labels.toml"
    labels.write_text('[labels]\nPER = ""\nPer = ""\nLOC = ""\n', encoding="utf-8")
    assert "'PER' and 'Per' ask the same" in cli("validate", path, "--labels", labels).stdout
    labels.write_text('[labels]\nPER = ""\nPer = "one in a novel"\nLOC = ""\n', encoding="utf-8")
    done = cli("validate", path, "--labels", labels)
    assert "'PER' and 'Per' differ only in case" in done.stdout and "ask the same" not in done.stdout


def test_validate_says_that_a_base_cannot_read_the_texts(tmp_path: Path) -> None:
    amharic = [labeled(f"አዲስ አበባ {number}", "PER") for number in range(3)]
    path = jsonl(tmp_path / "d.jsonl", *amharic)
    done = cli("validate", path)
    assert done.exit_code == 0
    assert f"{path}: unreadable-texts (warning): cllmfs-mini cannot read 85 % of the letters" in done.stdout
    assert "(Ethiopic)" in done.stdout
    piped = cli("validate", "-", stdin=path.read_bytes())
    assert "<stdin>: unreadable-texts (warning): " in piped.stdout
    own_byte_tokenizer().save_pretrained(tmp_path / "base")
    assert "0 warnings" in cli("validate", path, "--base", tmp_path / "base").stdout
    mixed = jsonl(tmp_path / "mixed.jsonl", *[labeled(f"It rains {number}") for number in range(9)], amharic[0])
    assert "cannot read 10 % of the texts" in cli("validate", mixed).stdout


@pytest.mark.parametrize("base", ["/no/such/folder", "../..", "a/b/c", ""])
def test_validate_refuses_what_is_no_base(tmp_path: Path, data: Path, base: str) -> None:
    done = cli("validate", data, "--base", base)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: a base ") and len(done.stderr) < 300


# convert


def test_convert_there_and_back(tmp_path: Path, data: Path) -> None:
    there, back = tmp_path / "data.conll", tmp_path / "back.jsonl"
    done = cli("convert", data, there)  # the extension names the format
    assert done.exit_code == 0, done.stderr
    assert there.read_text(encoding="utf-8").startswith(ADA_SPACED)
    assert done.stderr == f"2 sentences written as conll to {there}\n"
    assert cli("convert", there, back).exit_code == 0
    assert back.read_bytes() == data.read_bytes()


def test_convert_counts_what_is_lost(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in.jsonl", {**ADA, "id": 1}, {"text": "It  rains.", "spans": [], "id": 2})
    done = cli("convert", source, tmp_path / "out.conll")
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == (
        "warning: what conll cannot hold is left out: other fields (2 sentences), white space other than a space "
        "between tokens (1 sentence)"
    )


def test_convert_leaves_out_what_was_not_accepted(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "in.jsonl", {**RAIN, "answer": "accept"}, {**ADA, "answer": "reject"})
    done = cli("convert", source, "-")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [RAIN]
    assert '1 of 2 records are left out, because their "answer" is not "accept" (reject 1)' in done.stderr


def test_convert_through_pipes_with_schemes() -> None:
    done = cli("convert", "-", "-", "--from", "conll", "--to", "conll", "--scheme-out", "bioes", stdin=ADA_CONLL)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == ADA_CONLL.replace("B-", "S-")
    done = cli("convert", "-", "-", "--to", "tags", "--scheme-in", "iob1", stdin="Ada I-PER\nByron I-PER\nRome B-PER\n")
    assert json.loads(done.stdout) == {"tokens": ["Ada", "Byron", "Rome"], "ner_tags": ["B-PER", "I-PER", "B-PER"]}


def test_convert_leaves_the_target_where_it_fails(tmp_path: Path) -> None:
    nested = jsonl(
        tmp_path / "nested.jsonl",
        {"text": "Rome Oslo", "spans": [{"start": 0, "end": 9, "label": "A"}, {"start": 0, "end": 4, "label": "B"}]},
    )
    target = tmp_path / "out.conll"
    target.write_text("mine", encoding="utf-8")
    done = cli("convert", nested, target)
    assert done.exit_code == 2
    assert "tags cannot hold overlapping spans" in done.stderr and f"{nested}:1" in done.stderr
    assert target.read_text(encoding="utf-8") == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nested.jsonl", "out.conll"]


def test_convert_refuses_an_unknown_format(data: Path) -> None:
    done = cli("convert", data, "-", "--to", "xml")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "format must be one of jsonl, tokens, tags, conll, got 'xml'" in done.stderr


# sample


def test_sample_is_the_librarys_draw(tmp_path: Path, pool: Path) -> None:
    output = tmp_path / "shots.jsonl"
    done = cli("sample", pool, "--k", 2, "--seed", 7, "--output", output)
    assert done.exit_code == 0, done.stderr
    assert read_examples(output) == sample_k_shot(read_examples(pool), 2, 7)
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "warning: the data has only 1 of 2 mentions of 'ORG'"
    assert re.fullmatch(
        rf"\d sentences \(LOC 2, ORG 1, PER \d\) written to {re.escape(str(output))}", done.stderr.splitlines()[1]
    )


def test_sample_streams_by_default_and_takes_methods_and_labels(tmp_path: Path, pool: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('["LOC"]', encoding="utf-8")
    done = cli("sample", "-", "--k", 3, "--method", "exact", "--labels", labels, stdin=pool.read_bytes())
    assert done.exit_code == 0, done.stderr
    shots = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(shots) == 3
    assert all({"PER", "LOC"} == {span["label"] for span in shot["spans"]} for shot in shots)
    assert "warning" not in done.stderr


def test_sample_an_episode_with_its_query_set(tmp_path: Path, pool: Path) -> None:
    query = tmp_path / "query.jsonl"
    done = cli("sample", pool, "--method", "episode", "--n-way", 2, "--k", 1, "--query-output", query)
    assert done.exit_code == 0, done.stderr
    support = [json.loads(line) for line in done.stdout.splitlines()]
    assert {span["label"] for shot in support for span in shot["spans"]} == {"LOC", "PER"}
    assert not {shot["text"] for shot in support} & {example.text for example in read_examples(query)}
    labels = tmp_path / "labels.json"
    labels.write_text('["LOC"]', encoding="utf-8")
    done = cli("sample", pool, "--method", "episode", "--n-way", 1, "--k", 1, "--labels", labels)
    assert {span["label"] for line in done.stdout.splitlines() for span in json.loads(line)["spans"]} == {"LOC"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "episode"), "--method episode needs --n-way"),
        (("--n-way", "2"), "--n-way and --query-output need --method episode"),
        (("--query-output", "q.jsonl"), "--n-way and --query-output need --method episode"),
        (("--method", "most"), "--method must be one of at-least, exact, episode; got 'most'"),
        (("--k", "0"), "--k"),
        (("--method", "episode", "--n-way", "9"), "lower n_way"),
    ],
)
def test_sample_refuses(pool: Path, options: tuple[str, ...], said: str) -> None:
    done = cli("sample", pool, *options)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr


def test_sample_refuses_labels_that_the_data_lacks(tmp_path: Path, pool: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("boat\n", encoding="utf-8")
    done = cli("sample", pool, "--labels", labels)
    assert done.exit_code == 2
    assert "'boat' does not" in done.stderr


def test_sampling_a_file_onto_itself_keeps_it_whole(pool: Path) -> None:
    before = len(read_examples(pool))
    assert cli("sample", pool, "--k", 1, "--output", pool).exit_code == 0
    assert 0 < len(read_examples(pool)) < before
