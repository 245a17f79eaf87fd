"""The errors that users see.

    CllmfsError                 base of all; carries a message that says rule, value received, what to do
    ├── DataError               a data file or an example is wrong; knows file, line and field
    ├── ConfigError             a setting is unknown or out of range
    └── ModelError              a base model or a model folder cannot be used

Knows nothing of the rest of the package. Anything else that is raised is a bug of ours, not a user's mistake.
"""

from __future__ import annotations


class CllmfsError(Exception):
    """Base of every error that a user can cause and mend."""


class DataError(CllmfsError):
    """A data file or an example breaks a rule.

    Args:
        message: rule, value received, what to do.
        source: file name, where known.
        line: 1-based line, where known.
        field: the JSON field or column, where known.
    """

    def __init__(
        self, message: str, *, source: str | None = None, line: int | None = None, field: str | None = None
    ) -> None:
        self.message = message
        self.source = source
        self.line = line
        self.field = field
        super().__init__(str(self))

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        where = ", ".join(part for part in (place, f"field {self.field!r}" if self.field else "") if part)
        return f"{where}: {self.message}" if where else self.message


class ConfigError(CllmfsError):
    """A setting is unknown, of the wrong type or out of range."""


class ModelError(CllmfsError):
    """A base model or a model folder cannot be loaded or used."""
