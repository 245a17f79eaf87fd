"""What a benchmark measures: data sets, shots, supports and systems, read from a TOML file.

Knows the file's keys and what they may hold; runs nothing.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cllmfs.datasets.catalogue import is_named
from cllmfs.datasets.splits import SPLITS
from cllmfs.errors import ConfigError
from cllmfs.model.bases import MINI

_ADAPTER = ("{python}", "-m", "cllmfs.benchmark.system")


class Cell(NamedTuple):
    """One run: a system learns one support set of a data set and answers its split. ``k`` 0: without shots."""

    system: str
    dataset: str
    k: int
    seed: int


@dataclass(frozen=True)
class DataSource:
    """Where a data set lies, and what is made of it.

    Attributes:
        path: its folder, below the data folder; or a name, see :mod:`cllmfs.datasets.catalogue`.
        supports: files of published support sets, with ``{k}`` and ``{seed}``; drawn from the training split if empty.
        licence_accepted: whether the user accepted the terms of its licence, where they are to be accepted.
        rename: labels of those files, where the data set has another name for them.
        episodes: files of published episodes (:mod:`cllmfs.datasets.episodes`), with ``{k}``; a cell's seed is an
            episode's number, from 0 on.
        n_way: draw episodes of so many labels from the split instead; 0 for none.
        queries: mentions of each label in a drawn episode's query set, at least.
    """

    path: str
    supports: str = ""
    licence_accepted: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    episodes: str = ""
    n_way: int = 0
    queries: int = 1

    @property
    def episodic(self) -> bool:
        """Whether a cell is an episode: sentences of few labels, and few of them, to be scored in sum."""
        return bool(self.episodes or self.n_way)


@dataclass(frozen=True)
class System:
    """A system that is measured: a command that is given a task folder as its last argument.

    Attributes:
        command: words with placeholders: ``{python}``, ``{here}`` (the configuration's folder), and defined ones.
        zero_shot: whether it answers without shots.
    """

    command: tuple[str, ...]
    zero_shot: bool = False


@dataclass(frozen=True)
class BenchmarkConfig:
    """A benchmark.

    Attributes:
        cells: what is run, in order, without repetitions.
        systems: by name.
        data: where the data sets that need it lie; the others are folders of their name.
        split: dev or test.
        limit: score the first so many sentences only; ``None`` for all.
    """

    cells: tuple[Cell, ...]
    systems: Mapping[str, System]
    data: Mapping[str, DataSource] = field(default_factory=dict)
    split: str = "test"
    limit: int | None = None

    def source(self, dataset: str) -> DataSource:
        """Where a data set lies."""
        return self.data.get(dataset, DataSource(dataset))

    @property
    def needs_folder(self) -> bool:
        """Whether anything lies below the data folder, rather than all data sets being named."""
        sources = [self.source(cell.dataset) for cell in self.cells]
        return any(source.supports or source.episodes or not is_named(source.path) for source in sources)


def read_config(path: str | Path) -> BenchmarkConfig:
    """Read a benchmark's configuration.

    Raises:
        ConfigError: if the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: a benchmark's configuration must be a TOML file: {error}") from error
    try:
        return _config(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _config(table: Mapping[str, Any]) -> BenchmarkConfig:
    top = _Keys(table, "the file", {"split": str, "limit": int, "data": dict, "systems": dict, "runs": list})
    split, limit = top.get("split", "test"), top.get("limit", None)
    if split not in SPLITS[1:]:
        raise ConfigError(f"split must be dev or test, got {split!r}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    data = {name: _source(name, _a_table(value, f"data.{name}")) for name, value in top.get("data", {}).items()}
    systems = {name: _system(name, _a_table(value, f"systems.{name}")) for name, value in top["systems"].items()}
    cells: dict[Cell, None] = {}
    for number, value in enumerate(top["runs"], 1):
        cells |= dict.fromkeys(_cells(_a_table(value, f"runs, entry {number}"), f"runs, entry {number}", systems))
    if not cells:
        raise ConfigError("there must be something to run; name it in [[runs]]")
    made = BenchmarkConfig(tuple(cells), systems, data, split, limit)
    if free := next((cell for cell in cells if cell.k == 0 and made.source(cell.dataset).episodic), None):
        raise ConfigError(f"episodes have shots, got 0 of {free.dataset}; take 0 out of its shots")
    return made


def _source(name: str, table: Mapping[str, Any]) -> DataSource:
    where = f"data.{name}"
    texts, numbers = dict.fromkeys(("path", "supports", "episodes"), str), dict.fromkeys(("n_way", "queries"), int)
    keys = _Keys(table, where, {**texts, "licence_accepted": bool, "rename": dict, **numbers})
    _strings(list(keys.get("rename", {}).values()), f"{where}.rename")
    if len(both := [key for key in ("supports", "episodes", "n_way") if key in table]) > 1:
        raise ConfigError(f"{where} takes one of supports, episodes and n_way, got {' and '.join(both)}")
    _check_placeholders(keys.get("supports", ""), {"k", "seed"}, f"{where}.supports")
    _check_placeholders(keys.get("episodes", ""), {"k"}, f"{where}.episodes")
    return DataSource(**{"path": name, **table})


def _system(name: str, table: Mapping[str, Any]) -> System:
    where = f"systems.{name}"
    keys = _Keys(table, where, {"base": str, "settings": list, "command": list, "zero_shot": bool})
    if "command" in table:
        if "base" in table or "settings" in table:
            raise ConfigError(f"{where} is a command or a base with settings, not both")
        command = _strings(keys["command"], f"{where}.command")
        if not command:
            raise ConfigError(f"{where}.command must have a word at least")
        return System(command, keys.get("zero_shot", False))
    settings = _strings(keys.get("settings", []), f"{where}.settings")
    told = [word for setting in settings for word in ("--set", setting)]
    return System((*_ADAPTER, "--base", keys.get("base", MINI), *told), keys.get("zero_shot", True))


def _cells(table: Mapping[str, Any], where: str, systems: Mapping[str, System]) -> Iterator[Cell]:
    kinds: dict[str, type | tuple[type, ...]] = {"datasets": list, "shots": list, "supports": (int, list)}
    keys = _Keys(table, where, {**kinds, "systems": list})
    datasets, shots = _strings(keys["datasets"], f"{where}: datasets"), _numbers(keys["shots"], f"{where}: shots")
    supports = keys.get("supports", 5)
    seeds = tuple(range(supports)) if isinstance(supports, int) else _numbers(supports, f"{where}: supports")
    named = _strings(keys.get("systems", list(systems)), f"{where}: systems")
    if unknown := [name for name in named if name not in systems]:
        raise ConfigError(f"{where}: there is no system {unknown[0]!r}; there are {', '.join(systems) or 'none'}")
    if unnamed := [name for name in datasets if is_named(name)]:
        raise ConfigError(f"{where}: {unnamed[0]} needs a name of its own; write [data.NAME] path = {unnamed[0]!r}")
    for k in shots:
        for seed in seeds if k else seeds[:1]:  # without shots there is nothing to draw
            for dataset in datasets:
                for system in named:
                    if k or systems[system].zero_shot:
                        yield Cell(system, dataset, k, seed)


def filled(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """A command with its placeholders filled in.

    Raises:
        ConfigError: if a placeholder has no value.
    """
    made = []
    for word in command:
        _check_placeholders(word, set(values), " ".join(command))
        made.append(word.format_map(values))
    return made


def _check_placeholders(pattern: str, known: set[str], where: str) -> None:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
    except ValueError as error:
        raise ConfigError(f"{where}: {pattern!r} has a brace too many or too few ({error})") from error
    if unknown := sorted(names - known):
        raise ConfigError(
            f"{where}: the placeholder {{{unknown[0]}}} has no value; there are {', '.join(sorted(known))} "
            "(--define NAME=VALUE gives others)"
        )


class _Keys:
    """A table whose keys are known and of the right kind."""

    def __init__(self, table: Mapping[str, Any], where: str, kinds: Mapping[str, type | tuple[type, ...]]) -> None:
        self.table = table
        self.where = where
        for key, value in table.items():
            if key not in kinds:
                raise ConfigError(f"{where} has no key {key!r}; there are {', '.join(kinds)}")
            # A bool is an int in Python, but no number here.
            if not isinstance(value, kinds[key]) or (isinstance(value, bool) and kinds[key] is not bool):
                raise ConfigError(f"{where}: {key} is of the wrong kind, got {value!r}")

    def __getitem__(self, key: str) -> Any:
        if key not in self.table:
            raise ConfigError(f"{self.where} needs {key!r}")
        return self.table[key]

    def get(self, key: str, otherwise: Any) -> Any:
        return self.table.get(key, otherwise)


def _a_table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, got {value!r}")
    return value


def _strings(values: Sequence[Any], where: str) -> tuple[str, ...]:
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise ConfigError(f"{where} must be strings, got {wrong[0]!r}")
    return tuple(values)


def _numbers(values: Sequence[Any], where: str) -> tuple[int, ...]:
    if wrong := [value for value in values if not isinstance(value, int) or isinstance(value, bool) or value < 0]:
        raise ConfigError(f"{where} must be whole numbers from 0 on, got {wrong[0]!r}")
    return tuple(values)
