"""The errors that users see.

    CllmfsError                 base class; its message states the rule, the value received, and what to do
    ├── DataError               a data file or an example is wrong; has file, line and field
    ├── ConfigError             a setting or an argument is unknown or out of range
    └── ModelError              a base model or a model folder cannot be used

Any other exception is a bug in the package, not a mistake of the user. This file knows nothing of the other files.
"""

from __future__ import annotations


class CllmfsError(Exception):
    """Base class of all errors that a user can cause and correct."""


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
        self.message, self.source, self.line, self.field = message, source, line, field
        super().__init__(str(self))

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        where = ", ".join(part for part in (place, f"field {self.field!r}" if self.field else "") if part)
        return f"{where}: {self.message}" if where else self.message


class ConfigError(CllmfsError):
    """A setting or an argument is unknown, of the wrong type or out of range."""


class ModelError(CllmfsError):
    """A base model or a model folder cannot be loaded or used."""
