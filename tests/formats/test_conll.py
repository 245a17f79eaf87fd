"""CoNLL columns: read in every scheme and written by hand, and each error by its text."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cllmfs.errors import DataError
from cllmfs.formats import read_examples, validate_file, write_examples
from cllmfs.schema import Example, Span
from tests.formats.conftest import (
    TAG_SCHEMES,
    keys,
    lines_of,
    tokens_of,
    write,
)

CONLL = """-DOCSTART- -X- -X- O

Ada NNP B-NP {ada}
Byron NNP I-NP {byron}
met VBD B-VP O
Bo NNP B-NP {bo}

Rome NNP B-NP {rome}
"""

CONLL_TAGS = {
    "iob1": ("I-PER", "I-PER", "I-PER", "I-LOC"),
    "iob2": ("B-PER", "I-PER", "B-PER", "B-LOC"),
    "io": ("I-PER", "I-PER", "I-PER", "I-LOC"),
    "bioes": ("B-PER", "E-PER", "S-PER", "S-LOC"),
    "bilou": ("B-PER", "L-PER", "U-PER", "U-LOC"),
}


@pytest.mark.parametrize("scheme", TAG_SCHEMES)
@pytest.mark.parametrize("tabs", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("forced", [False, True])
def test_conll_by_hand(tmp_path: Path, scheme: str, tabs: bool, line_end: str, bom: bytes, forced: bool) -> None:
    content = CONLL.format(**dict(zip(("ada", "byron", "bo", "rome"), CONLL_TAGS[scheme], strict=True)))
    content = content.replace("\n", line_end).replace(" ", "\t" if tabs else "  ")
    path = write(tmp_path, bom + content.encode(), "data.conll")
    first, second = read_examples(path, scheme=scheme if forced else None)
    assert (first.text, keys(first)) == ("Ada Byron met Bo", [(0, 9, "PER"), (14, 16, "PER")])
    assert (second.text, keys(second), second.source) == ("Rome", [(0, 4, "LOC")], f"{path}:8")


def test_tokens_with_odd_spaces_survive_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a\u00a0b O\nc\u2028d\tB-X\n\u0085\tO\ntwo words\tI-X\n", "a.conll")
    (example,) = read_examples(path)
    assert tokens_of(example) == ["a\u00a0b", "c\u2028d", "\u0085", "two words"]


@pytest.mark.parametrize(
    ("content", "scheme", "message"),
    [
        ("Ada B-PER\nmet\n", None, ":2, field 'tag': a line needs a token and a tag, got one column: str 'met'"),
        ("Ada B-PER\n\tO\n", None, ":2, field 'token': the first column must hold a token"),
        ("Ada B-PER\nmet PER\n", None, ":2, field 'tag': a tag is O or one of .*got 'PER'"),
        ("Ada S-PER\n", "iob2", "a tag in scheme iob2 is O or one of B-TYPE, I-TYPE, got 'S-PER'"),
        ("Ada\tO\rmet\tO\r", None, "carriage return inside it"),
        ("\n-DOCSTART- O\n\n", None, "the file holds no records"),
    ],
)
def test_bad_columns(tmp_path: Path, content: str, scheme: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path, content, "a.conll"), scheme=scheme)


def test_bad_bytes_in_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=":2: files must be UTF-8"):
        read_examples(write(tmp_path, "Bo O\nZoë O\n".encode("latin-1"), "a.conll"))


def test_conll_is_written_by_hand(tmp_path: Path) -> None:
    examples = [Example("Zoë's here.", (Span(0, 3, "PER"),)), Example("Rome", (Span(0, 2, "X"),))]
    write_examples(examples, tmp_path / "a.conll", format="conll", scheme="bioes")
    rows = [("Zoë", "No", "S-PER"), ("'", "No", "O"), ("s", "", "O"), ("here", "No", "O"), (".", "", "O"), ()]
    rows += [("Ro", "No", "S-X"), ("me", "", "O"), ()]  # the span's edge cuts the second word
    cells = [(row[0], f"SpaceAfter={row[1]}" if row[1] else "_", row[2]) if row else () for row in rows]
    expected = "".join("\t".join(row) + "\n" for row in cells)
    assert (tmp_path / "a.conll").read_bytes().decode() == expected


NUMBERED = """# text = Lena lives in Bonn .
1\tLena\tB-PER\tO
2\tBrandt\tI-PER\tO
3-4\tim\tO\tO
3\tin\tO\tO
4\tdem\tO\tO
5\tKölner\tB-ORG\tB-LOC
6\tDom\tI-ORG\tO

1\tAda\tB-PER\tO
2\tsings\tO\tO
"""


@pytest.mark.parametrize(
    "content",
    [
        NUMBERED,
        NUMBERED.replace("\t", " "),
        NUMBERED.replace("# text = Lena lives in Bonn .\n", ""),
        "0 Lena B-PER\n1 Brandt I-PER\n2 left O\n\n0 Bo B-PER\n1 stays O\n",
        "1 Lena B-PER\n2 left O\n\n3 Bo B-PER\n4 stays O\n",  # counted on through the file
        "1\tLena\tNNP\tB-PER\n2\tleft\tVBD\tO\n",
    ],
)
def test_a_column_of_numbers_is_not_taken_for_the_tokens(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content, "a.tsv")
    with pytest.raises(
        DataError, match="the first column must hold the token, but here it counts the tokens"
    ) as caught:
        read_examples(path)
    (issue,) = validate_file(path).issues
    assert issue.rule == "numbered-tokens"
    message = caught.value.message
    command = message[message.index("awk ") :].split("; column")[0]
    done = subprocess.run(["bash", "-c", f"{command} {path}"], capture_output=True, text=True, check=True)
    mended = read_examples(write(tmp_path, done.stdout, "b.tsv"))
    assert len(mended) == 2 - (content.count("\n\n") == 0)
    first = ("Lena", [(0, 4, "PER")])
    if "Brandt" in content:
        first = ("Lena Brandt", [(0, 11, "PER")])
    assert mended[0].text.startswith(first[0]) and keys(mended[0])[:1] == first[1]


def test_the_outer_tags_are_advised_and_the_inner_ones_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\$3\}'; column 4 has tags, too$"):
        read_examples(write(tmp_path, NUMBERED, "a.tsv"))


@pytest.mark.parametrize(
    "content",
    [
        "1 O\n2 O\n3 B-X\n",  # nothing else can be the token
        "1 CD O\n",
        "1990 CD O\n1991 CD O\n",
        "1 CD O\n2 CD O\napples NNS O\n",
        "1\tSpaceAfter=No\tO\n2\tSpaceAfter=No\tO\n3\t_\tO\n",
    ],
)
def test_numbers_may_be_tokens(tmp_path: Path, content: str) -> None:
    (example,) = read_examples(write(tmp_path, content, "a.tsv"))
    assert tokens_of(example)[0] == content.split()[0]


def test_marks_of_spaces_are_followed(tmp_path: Path) -> None:
    content = "Ada\tNNP\tSpaceAfter=No\tB-PER\n's\tPOS\tCase=Gen|SpaceAfter=No\tO\n!\tX\t_\tO\nSpaceAfter=No\tX\t_\tO\n"
    (example,) = read_examples(write(tmp_path, content, "a.conll"))
    assert (example.text, keys(example)) == ("Ada's! SpaceAfter=No", [(0, 3, "PER")])
    # where marks are, what has none is followed by a space, in any script
    content = "王 _ B-PER\n小 SpaceAfter=No O\n明 _ O\n\n京 _ O\n都 _ O\n"
    assert [example.text for example in read_examples(write(tmp_path, content, "a.conll"))] == ["王 小明", "京 都"]


def test_files_without_marks_have_the_spaces_of_their_script(tmp_path: Path) -> None:
    content = "王 _ _ B-PER\n明 _ _ I-PER\n在 _ _ O\n北 _ _ B-LOC\n京 _ _ I-LOC\n"
    (example,) = read_examples(write(tmp_path, content, "a.conll"))
    assert (example.text, keys(example)) == ("王明在北京", [(0, 2, "PER"), (3, 5, "LOC")])
    record = {"tokens": ["王", "明"], "ner_tags": ["B-PER", "I-PER"]}
    (example,) = read_examples(write(tmp_path, lines_of(record)))
    assert (example.text, keys(example)) == ("王明", [(0, 2, "PER")])


@pytest.mark.parametrize(
    ("texts", "written"),
    [
        (["Ada met Bo", "王明"], "Ada\tO\nmet\tO\nBo\tO\n\n王\tO\n明\tO\n\n"),  # no mark is needed
        (["王 明", "王明"], "王\tSpaceAfter=Yes\tO\n明\t_\tO\n\n王\tSpaceAfter=No\tO\n明\t_\tO\n\n"),
        (["a-b", "c d"], "a\tSpaceAfter=No\tO\n-\tSpaceAfter=No\tO\nb\t_\tO\n\nc\t_\tO\nd\t_\tO\n\n"),
    ],
)
def test_marks_are_written_where_they_are_needed(tmp_path: Path, texts: list[str], written: str) -> None:
    path = tmp_path / "a.conll"
    write_examples(map(Example, texts), path, format="conll")
    assert path.read_text(encoding="utf-8") == written
    assert [example.text for example in read_examples(path)] == texts
