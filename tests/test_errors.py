"""Errors: messages of any length stay readable, and survive pickling."""

from __future__ import annotations

import pickle

import pytest

from cllmfs.config import Config
from cllmfs.errors import CllmfsError, ConfigError, DataError, ModelError, shortened
from cllmfs.formats import read_examples
from cllmfs.schema import Example, LabelSet, Span

LONG = "x" * 100_000


@pytest.mark.parametrize("kind", [CllmfsError, ConfigError, DataError, ModelError])
def test_a_long_message_keeps_its_begin_and_its_end(kind: type[CllmfsError]) -> None:
    message = str(kind(f"the label {LONG!r} is unknown; add it to the labels"))
    assert len(message) == 1500
    assert message.startswith("the label 'xxx") and " … " in message
    assert message.endswith("xxx' is unknown; add it to the labels")
    assert str(kind("a rule, got 3; do this")) == "a rule, got 3; do this"


def test_a_long_place_leaves_room_for_the_message() -> None:
    error = DataError("a rule, got 3; do this", source=LONG, line=12, field=LONG)
    assert len(str(error)) <= 1500 and str(error).endswith(": a rule, got 3; do this")
    assert error.source == LONG and error.line == 12
    short = DataError("a rule", source="a.jsonl", line=3, field="spans[0]")
    assert str(short) == "a.jsonl:3, field 'spans[0]': a rule"


def test_an_error_is_the_same_after_pickling() -> None:
    for error in (DataError("a rule", source="a.jsonl", line=3, field="text"), ModelError("no"), ModelError(LONG)):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and vars(again) == vars(error)


def test_shortened_keeps_what_is_short() -> None:
    assert shortened("abcdef", 6, 2) == "abcdef"
    assert shortened("abcdefghij", 8, 2) == "abc … ij"


def refused_with(value: str) -> dict[str, object]:
    """Calls that quote a value of the user, by what it is."""
    return {
        "a label": lambda: Example("Ada", (Span(0, 9, value),)).check(),
        "a type": lambda: LabelSet([value, value]),
        "a key": lambda: Config.from_dict({"train": {value: 1}}),
        "a section": lambda: Config.from_dict({value: 1}),
        "a value": lambda: Config.from_dict({"spans": {"edges": value}}),
        "an assignment": lambda: Config().with_settings([value]),
        "a path": lambda: read_examples(value),
    }


@pytest.mark.parametrize("what", refused_with(""))
def test_what_is_quoted_may_be_of_any_length(what: str) -> None:
    with pytest.raises(CllmfsError) as caught:
        refused_with(LONG)[what]()  # type: ignore[operator]
    assert len(str(caught.value)) <= 1500
