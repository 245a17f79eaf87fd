"""The errors that users see.

    CllmfsError                 base class; its message states the rule, the value received, and what to do
    ├── DataError               a data file or an example is wrong; has file, line and field
    ├── ConfigError             a setting or an argument is unknown or out of range
    └── ModelError              a base model or a model folder cannot be used

A message quotes what it is about, which may be a label or a path of any length, so it is shortened in the middle. Any
other exception is a bug in the package, not a mistake of the user. This file knows nothing of the other files.
"""

from __future__ import annotations

_LONGEST = 1500  # characters of a message
_END = 600  # characters at its end, where the advice stands, that are always kept


def shortened(text: str, longest: int = _LONGEST, end: int = _END) -> str:
    """The text, with an ellipsis in place of its middle if it is longer than ``longest``; its end is kept."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - end - 3]} … {text[len(text) - end :]}"


class CllmfsError(Exception):
    """Base class of all errors that a user can cause and correct; a long message is shortened in the middle."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(str(message)))


class DataError(CllmfsError):
    """A data file or an example breaks a rule.

    Args:
        message: the rule, the value received, what to do.
        source: file name, if known.
        line: 1-based line, if known.
        field: the JSON field or column, if known.
    """

    def __init__(
        self, message: str, *, source: str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        self.message, self.source, self.line, self.field = shortened(message), source, line, field
        super().__init__(str(self))

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        where = ", ".join(part for part in (place, f"field {self.field!r}" if self.field else "") if part)
        return shortened(f"{shortened(where, 600, 200)}: {self.message}" if where else self.message)


class ConfigError(CllmfsError):
    """A setting or an argument is unknown, of the wrong type or out of range."""


class ModelError(CllmfsError):
    """A base model or a model folder cannot be loaded or used."""
