"""Validation: one file for each rule, with its line, field and severity; counts; and that all problems are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cllmfs.errors import ConfigError, DataError
from cllmfs.formats import read_examples
from cllmfs.formats.validation import Issue, validate_file
from cllmfs.schema import LabelSet
from tests.formats.conftest import lines_of, write


def record(text: str, *spans: tuple[int, int, str], **more: Any) -> dict[str, Any]:
    return {"text": text, "spans": [{"start": s, "end": e, "label": label} for s, e, label in spans], **more}


def found(issues: tuple[Issue, ...]) -> list[tuple[int, str, str, str]]:
    return [(issue.line, issue.field, issue.rule, issue.severity) for issue in issues]


def test_clean_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        lines_of(
            record("Ada met Bo.", (0, 3, "PER"), (8, 10, "PER")),
            record("No names."),
            {"tokens": ["Rome", "!"], "spans": [[0, 1, "LOC"]]},
        ),
    )
    report = validate_file(path, labels=LabelSet(["PER", "LOC"]))
    assert report.ok
    assert report.to_dict() == {
        "source": str(path),
        "issues": [],
        "unreadable": 0,
        "sentences": 3,
        "without_spans": 1,
        "tokens": 4 + 3 + 2,
        "mentions": {"PER": 2, "LOC": 1},
        "ok": True,
    }


@pytest.mark.parametrize(
    ("bad", "field", "rule", "severity"),
    [
        ({"text": "Ada"}, "spans", "missing-field", "error"),
        ({"spans": []}, "text", "missing-field", "error"),
        ({"text": None, "spans": []}, "text", "wrong-type", "error"),
        (record("Ada", (0, 9, "PER")), "spans[0]", "offset-out-of-range", "error"),
        (record("Ada", (2, 2, "PER")), "spans[0]", "empty-span", "error"),
        (record("Ada", (0, 3, "")), "spans[0]", "empty-label", "error"),
        (record("Ada", (0, 3, "PER"), (0, 3, "PER")), "spans", "duplicate-span", "error"),
        (record("Ada Bo Cy", (0, 6, "PER"), (4, 9, "PER")), "spans", "overlap", "error"),
        (record("Ada Bo Cy", (0, 9, "PER"), (4, 6, "PER")), "spans", "overlap", "warning"),
        (record("Ada Bo", (0, 3, "PER"), (0, 6, "PER")), "spans", "overlap", "warning"),
        (record("Ada Bo", (0, 6, "PER"), (4, 6, "PER")), "spans", "overlap", "warning"),
        (record("Ada", (0, 3, "PER"), (0, 3, "LOC")), "spans", "overlap", "warning"),
        (record("Ada", (0, 2, "PER")), "spans", "off-token-edge", "warning"),
        (record("Ada", (1, 3, "PER")), "spans", "off-token-edge", "warning"),
        (
            record("Ada's", (0, 5, "PER"), tokens=["Ada's"]) | {"spans": [{"start": 0, "end": 3, "label": "PER"}]},
            "spans",
            "off-token-edge",
            "error",
        ),
        (record("Ada", tokens=["Adam"]), "tokens", "off-token-edge", "warning"),
        (record("to Ada", (2, 6, "PER")), "spans", "span-edge-whitespace", "warning"),
        (record("Ada\u00a0", (0, 4, "PER")), "spans", "span-edge-whitespace", "warning"),
        (record("Ada", (0, 3, "PERS")), "spans", "unknown-label", "error"),
        (record("\u00a0 "), "text", "empty-text", "warning"),
        (record("First."), "text", "duplicate-text", "warning"),
        (record("First.", (0, 5, "PER")), "text", "conflicting-duplicate", "error"),
        (
            record("Ada") | {"spans": [{"start": 0, "end": 3, "label": "PER", "text": "Bo"}]},
            "spans[0]",
            "mention-mismatch",
            "error",
        ),
        (
            record("Ada\u00a0Lee") | {"spans": [{"start": 0, "end": 7, "label": "PER", "text": "Ada  Lee"}]},
            "spans[0]",
            "mention-mismatch",
            "warning",
        ),
        (record("to  Ada", (2, 4, "PER")), "spans", "empty-span", "error"),
        (record("Ada\u200b", (0, 4, "PER")), "spans", "span-edge-whitespace", "warning"),
        (record("Ada", (0, 3, "PER"), labels=["LOC"]), "spans", "not-annotated", "error"),
        (record("Ada", (0, 3, "PER"), labels=["PER", "Loc"]), "spans", "unknown-label", "error"),
        (record("Ada", labels=["PER", "PER"]), "labels", "empty-label", "error"),
        (record("Ada", labels=[]), "labels", "empty-label", "error"),
        (
            record("Ada", (0, 3, "PER"), labels=["PER"], answer="reject"),
            "answer",
            "left-out",
            "warning",
        ),
        ({"tokens": ["Ada"], "ner_tags": ["X-PER"]}, "ner_tags[0]", "bad-tag", "error"),
        ({"tokens": ["Ada"], "ner_tags": ["I-"]}, "ner_tags[0]", "empty-label", "error"),
        ({"tokens": ["Ada", "Bo"], "ner_tags": ["B-PER", "I-LOC"]}, "ner_tags[1]", "damaged-tags", "warning"),
    ],
)
def test_each_rule(tmp_path: Path, bad: dict[str, Any], field: str, rule: str, severity: str) -> None:
    path = write(tmp_path, lines_of(record("First."), bad))
    report = validate_file(path, labels=LabelSet(["PER", "LOC"]))
    assert found(report.issues) == [(2, field, rule, severity)]
    assert report.ok == (severity == "warning")
    assert len(report.errors) + len(report.warnings) == 1


@pytest.mark.parametrize(
    ("content", "line", "rule"),
    [
        (b"", 0, "empty-file"),
        (b"\n\n", 0, "empty-file"),
        (b"{\n", 1, "bad-json"),
        ('{"text": "Zoë", "spans": []}'.encode("latin-1"), 1, "bad-encoding"),
        (b"\x00\x01\n\x00\n\x00\n", 1, "bad-encoding"),  # reported once, not for each line of junk
    ],
)
def test_rules_of_files(tmp_path: Path, content: bytes, line: int, rule: str) -> None:
    report = validate_file(write(tmp_path, content))
    assert found(report.issues) == [(line, "", rule, "error")]
    assert not report.ok
    assert (report.sentences, report.unreadable) == (0, min(line, 1))


def test_every_problem_is_reported(tmp_path: Path) -> None:
    both = {"text": "Ada", "spans": [{"start": True, "end": 2.0, "label": ""}, "x"]}
    content = lines_of(both) + "junk\n" + lines_of(record("Ada", (0, 3, "PER"))) + lines_of({"text": 1, "spans": 2})
    report = validate_file(write(tmp_path, content))
    assert found(report.issues) == [
        (1, "spans[0]", "wrong-type", "error"),
        (1, "spans[0]", "wrong-type", "error"),
        (1, "spans[0]", "empty-label", "error"),
        (1, "spans[1]", "wrong-type", "error"),
        (2, "", "bad-json", "error"),
        (4, "text", "wrong-type", "error"),
        (4, "spans", "wrong-type", "error"),
    ]
    assert (report.sentences, report.unreadable, report.mentions) == (1, 3, {"PER": 1})


def test_issues_in_columns_have_the_line_of_the_token(tmp_path: Path) -> None:
    content = "Ada\tB-PER\nBo\tI-LOC\n\nCy\tX-PER\nDi\n\nEd\tB-\nFay\tO\n"
    report = validate_file(write(tmp_path, content, "a.conll"))
    assert found(report.issues) == [
        (2, "tag", "damaged-tags", "warning"),
        (4, "tag", "bad-tag", "error"),
        (5, "tag", "missing-field", "error"),
        (7, "tag", "empty-label", "error"),
    ]
    assert (report.sentences, report.unreadable, report.tokens) == (1, 2, 2)
    assert report.mentions == {"PER": 1, "LOC": 1}


def test_scheme_is_one_for_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "Ada\tI-PER\nBo\tI-PER\n\nCy\tB-PER\n", "a.conll")
    assert [issue.rule for issue in validate_file(path).issues] == ["damaged-tags"]  # iob2 by its second sentence
    assert validate_file(path, scheme="iob2").warnings[0].message.startswith("'I-PER' continues nothing; iob2 begins")
    assert [issue.line for issue in validate_file(path, scheme="iob1").issues] == [4]
    assert [issue.rule for issue in validate_file(path, scheme="io").issues] == ["bad-tag"]


def test_messages_help(tmp_path: Path) -> None:
    path = write(tmp_path, lines_of(record("Ada", (0, 3, "PERS"))))
    (issue,) = validate_file(path, labels=LabelSet(["PER", "LOC"])).issues
    assert issue.message == "a label must be one of: PER, LOC; got 'PERS'; did you mean 'PER'?"


def test_words_of_unspaced_scripts_have_edges_everywhere(tmp_path: Path) -> None:
    assert validate_file(write(tmp_path, lines_of(record("\u6211\u5728\u5317\u4eac", (2, 4, "LOC"))))).issues == ()


def test_reader_and_validation_agree(tmp_path: Path) -> None:
    """What the reader refuses is an error here, with the same words; what it takes is at most suspicious."""
    refused = write(tmp_path, lines_of(record("Ada"), record("Zo\u00eb", (0, 4, "PER"))), "refused.jsonl")
    with pytest.raises(DataError) as caught:
        read_examples(refused)
    (issue,) = validate_file(refused).issues
    assert (caught.value.message, caught.value.line, caught.value.field) == (issue.message, issue.line, issue.field)
    crossing = write(tmp_path, lines_of(record("Ada Bo Cy", (0, 6, "A"), (4, 9, "B"))), "crossing.jsonl")
    assert len(read_examples(crossing)[0].spans) == 2
    assert not validate_file(crossing).ok


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        validate_file(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigError, match="format must be one of"):
        validate_file(write(tmp_path, "{}"), format="xml")
