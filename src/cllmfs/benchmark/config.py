"""The configuration of a benchmark: data sets, shots, support sets and systems, read from a TOML file.

Knows the keys of the file and their values; runs nothing.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cllmfs.datasets.catalog import is_named
from cllmfs.errors import ConfigError
from cllmfs.model.bases import MINI


class PlannedRun(NamedTuple):
    """One run: a system learns from one support set of a data set and predicts its split. ``k`` 0 means zero-shot."""

    system: str
    dataset: str
    k: int
    seed: int


def _check_placeholders(pattern: str, known: Collection[str]) -> str:
    """The pattern; a ValueError if one of its placeholders is unknown."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError as error:
        raise ValueError(f"{pattern!r} has an unmatched brace ({error})") from error
    if unknown := sorted(names - set(known)):
        hint = f"there are {', '.join(sorted(known))} (--define NAME=VALUE adds others)"
        raise ValueError(f"the placeholder {{{unknown[0]}}} has no value; {hint}")
    return pattern


def _first_numbers(value: Any) -> Any:
    """The numbers from 0 for a count of them; any other value as it is."""
    if type(value) is not int:
        return value
    if value > _MOST_SUPPORTS:
        raise ValueError(f"at most {_MOST_SUPPORTS:,} support sets are allowed, got {str(value)[:30]}")
    return [*range(value)]


_MOST_SUPPORTS = 1_000_000
_Numbers = list[Annotated[int, Field(ge=0)]]
_Seeds = Annotated[_Numbers, BeforeValidator(_first_numbers)]


class _Table(BaseModel):
    """A table of the file: every key is known, and every value has the right type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSource(_Table):
    """Where a data set is stored, and how its shots are chosen.

    Attributes:
        path: its folder inside the data folder, or a name that :mod:`cllmfs.datasets.catalog` knows.
        supports: files of published support sets, with ``{k}`` and ``{seed}``; if empty, the training split is sampled.
        license_accepted: whether the user accepted the terms of its license, where a license requires that.
        rename: labels of the support files that the data set calls by another name, with that name.
        episodes: files of published episodes (:mod:`cllmfs.datasets.episodes`), with ``{k}``; seed 0 is the first one.
        n_way: draw episodes of this many labels from the split; 0 draws none.
        queries: minimum number of mentions of each label in the query set of a drawn episode.
    """

    path: str = ""
    supports: Annotated[str, AfterValidator(partial(_check_placeholders, known=("k", "seed")))] = ""
    license_accepted: bool = False
    rename: dict[str, str] = {}
    episodes: Annotated[str, AfterValidator(partial(_check_placeholders, known=("k",)))] = ""
    n_way: int = 0
    queries: int = 1

    @model_validator(mode="after")
    def _check_shots(self) -> Self:
        if len(both := [key for key in ("supports", "episodes", "n_way") if key in self.model_fields_set]) > 1:
            raise ValueError(f"only one of supports, episodes and n_way is allowed, got {' and '.join(both)}")
        return self

    @property
    def episodic(self) -> bool:
        """Whether each run is an episode, which has few labels and few sentences; episodes are scored together."""
        return bool(self.episodes or self.n_way)


class System(_Table):
    """A system that is measured: another program, or cllmfs with a base and settings.

    Attributes:
        command: the program and its arguments; the task folder is added last. Placeholders are ``{python}``, ``{here}``
            (the folder of the configuration), ``{root}`` (the folder that modules are imported from) and the user's.
        base: the base of cllmfs, if there is no command; placeholders are filled in as well.
        settings: settings of cllmfs, each as ``section.name=value``.
        zero_shot: whether the system can predict without shots; by default, cllmfs can and other programs cannot.
    """

    command: list[str] = []
    base: str = MINI
    settings: list[str] = []
    zero_shot: bool = False

    @model_validator(mode="before")
    @classmethod
    def _check_kind(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        if "command" in table and ("base" in table or "settings" in table):
            raise ValueError("either a command or a base with settings is allowed, got both")
        if table.get("command") == []:
            raise ValueError("a command must have at least one word, got none")
        return {"zero_shot": "command" not in table, **table}

    @property
    def arguments(self) -> list[str]:
        """The command that is run, with its placeholders."""
        settings = [word for setting in self.settings for word in ("--set", setting)]
        return self.command or ["{python}", "-m", "cllmfs.benchmark.system", "--base", self.base, *settings]

    def record(self) -> dict[str, Any]:
        """What a result states about the system; no module of this package is named, since modules move."""
        return {"command": self.command} if self.command else {"base": self.base, "settings": self.settings}


@dataclass(frozen=True)
class BenchmarkConfig:
    """A benchmark, whose systems and data sources are stored by name.

    Attributes:
        runs: the planned runs in order, each once.
        data: the data sources by the name of the data set; a data set that is missing here is the folder of its name.
        split: dev or test.
        limit: the number of sentences that are scored, from the first on; ``None`` scores all.
    """

    runs: tuple[PlannedRun, ...]
    systems: Mapping[str, System]
    data: Mapping[str, DataSource] = field(default_factory=dict)
    split: str = "test"
    limit: int | None = None

    def source(self, dataset: str) -> DataSource:
        """The source of a data set."""
        return self.data.get(dataset, DataSource(path=dataset))

    @property
    def needs_folder(self) -> bool:
        """Whether any file is read from the data folder."""
        sources = [self.source(run.dataset) for run in self.runs]
        return any(source.supports or source.episodes or not is_named(source.path) for source in sources)


class _Runs(_Table):
    """A ``[[runs]]`` table: each of its systems learns from each support set of each data set."""

    datasets: list[str]
    shots: _Numbers
    supports: _Seeds = [*range(5)]
    systems: list[str] | None = None


class _File(_Table):
    """The tables of a file; a data set without a path is the folder of its name."""

    runs: list[_Runs]
    systems: dict[str, System]
    data: dict[str, DataSource] = {}
    split: Literal["dev", "test"] = "test"
    limit: Annotated[int, Field(ge=1)] | None = None


def read_config(path: str | Path) -> BenchmarkConfig:
    """Read a configuration; raises ConfigError if that fails, or a key is unknown, missing or of the wrong type."""
    try:
        file = _File.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_message(error.errors()[0])}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: a benchmark's configuration must be a TOML file: {error!s:.200}") from error
    runs = tuple(dict.fromkeys(_planned(file, path)))
    if not runs:
        raise ConfigError(f"{path}: a benchmark needs at least one run; add a [[runs]] table")
    data = {name: one.model_copy(update={"path": one.path or name}) for name, one in file.data.items()}
    config = BenchmarkConfig(runs, file.systems, data, file.split, file.limit)
    if zero_shot := next((run for run in runs if run.k == 0 and config.source(run.dataset).episodic), None):
        raise ConfigError(f"{path}: episodes need shots, got 0 shots of {zero_shot.dataset}; remove 0 from its shots")
    return config


def _planned(file: _File, path: str | Path) -> Iterator[PlannedRun]:
    for number, table in enumerate(file.runs):
        systems = list(file.systems) if table.systems is None else table.systems
        where = f"{path}: runs[{number}]"
        if unknown := [name for name in systems if name not in file.systems]:
            known = ", ".join(file.systems) or "none"
            raise ConfigError(f"{where}: there is no system {unknown[0]!r}; there are {known}")
        if unnamed := [name for name in table.datasets if is_named(name)]:
            raise ConfigError(f"{where}: {unnamed[0]} needs a short name; write [data.NAME] path = {unnamed[0]!r}")
        for k, seed, dataset, system in product(table.shots, table.supports, table.datasets, systems):
            # Without shots, all seeds give the same run.
            if k or (seed == table.supports[0] and file.systems[system].zero_shot):
                yield PlannedRun(system, dataset, k, seed)


def _message(error: ErrorDetails) -> str:
    """What pydantic found wrong, as a message in the words of this project; ``runs[0]`` is the first run."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"])[1:]
    if error["type"] == "extra_forbidden":
        tables: dict[int | str, type[_Table]] = {"data": DataSource, "systems": System, "runs": _Runs}
        known = tables[error["loc"][0]] if len(error["loc"]) > 1 else _File
        return f"unknown key {place}; there are {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"the key {place} is missing; add it"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}"
    rule = error["msg"].replace("Input should", "must").replace("valid dictionary", "table")
    return f"{place} {rule.partition(' or instance')[0]}, got {error['input']!r}"


def fill_placeholders(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The command with the values of its placeholders; raises ConfigError if one has no value."""
    try:
        return [_check_placeholders(word, values).format_map(values) for word in command]
    except ValueError as error:
        raise ConfigError(f"{' '.join(command)}: {error}") from error
