"""The commands that show data sets: data list, data info.

This file knows the options and what is printed. The work is done by :mod:`cllmfs.datasets.facts` and
:mod:`cllmfs.datasets.catalog`, which are imported when a command runs, so that ``--help`` stays fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cllmfs.cli.options import DATA, DataFolder, Json, argument, command, data_folder, examples, option
from cllmfs.cli.terminal import MISTAKE, note, print_json, show, table, visible

if TYPE_CHECKING:
    from cllmfs.datasets.facts import DatasetFacts, DatasetSummary

app = typer.Typer(
    name="data",
    help="Show the data sets of a folder, and recognized benchmarks.",
    no_args_is_help=True,
    epilog=examples(
        "cllmfs data list DIR",
        "cllmfs data list --catalog",
        "cllmfs data info DIR/wnut17",
        "cllmfs data info hf:DFKI-SLT/few-nerd#inter?tags=fine_ner_tags",
    ),
)


@command(app, "cllmfs data list DIR", "cllmfs data list --json", "cllmfs data list --catalog", name="list")
def list_(
    directory: Annotated[Path | None, argument("DIR", "folder of the data sets, in place of --data")] = None,
    data: DataFolder = None,
    catalog: Annotated[bool, option("--catalog", "list recognized benchmarks instead, with their hub names")] = False,
    json: Json = False,
) -> None:
    """List the data sets of a folder, with languages, sizes and licenses.

    The sizes of a data set come from its META.json if it has one. A data set that cannot be read is reported on
    standard error.
    """
    if catalog:
        _list_catalog(json)
        return
    from cllmfs.datasets.facts import list_folder

    found: list[DatasetSummary] = []
    failed = False
    for one in list_folder(data_folder(directory or data)):
        if isinstance(one, tuple):
            failed = True
            note(f"error: {one[0]}: {one[1]}")
        else:
            found.append(one)
    if json:
        print_json([one.to_dict() for one in found])
    elif found:
        show(_listing(found))
    else:
        note("there is no data set in the folder; each is a folder with a file for every split, such as test.jsonl")
    if failed:
        raise typer.Exit(MISTAKE)


def _listing(found: Iterable[DatasetSummary]) -> Table:
    made = _one_line_each("data set", "language", "types", "train", "dev", "test", "license", "domain")
    for one in found:
        sizes = (one.sentences.get(split) for split in ("train", "dev", "test"))
        counts = ["" if size is None else f"{size:,}" for size in (one.types, *sizes)]
        language, license, domain = (_cut(one.metadata.get(key, "")) for key in ("language", "license", "domain"))
        made.add_row(visible(one.name), language, *counts, license, domain)
    return made


def _list_catalog(json: bool) -> None:
    from cllmfs.datasets.catalog import CATALOG, catalog

    if json:
        print_json([asdict(entry) for entry in catalog().values()])
        return
    made = _one_line_each("data set", "language", "types", "restricted", "license", "source")
    for entry in catalog().values():
        restricted, source = "yes" if entry.restricted else "", entry.source or "not on the hub"
        made.add_row(entry.name, _cut(entry.language), str(entry.types), restricted, _cut(entry.license), _cut(source))
    show(
        made,
        f"{CATALOG}NAME refers to one of them, also in the configuration of a benchmark. A restricted one is loaded "
        "only after its license has been accepted; --json shows why it is restricted.",
    )


def _one_line_each(*columns: str) -> Table:
    """A table with text in the first two and the last two columns; on a narrow terminal, the last two shrink."""
    made = table(*columns)
    made.padding = (0, 1, 0, 0)
    for number, column in enumerate(made.columns):
        last = number >= len(columns) - 2
        column.no_wrap = not last
        column.header = _cut(columns[number])
        column.justify = "left" if number < 2 or last else "right"
    made.columns[1].max_width, made.columns[1].overflow = 12, "ellipsis"
    return made


def _cut(value: str) -> Text:
    return Text(visible(" ".join(value.split())), no_wrap=True, overflow="ellipsis")


@command(
    app,
    "cllmfs data info DIR/wnut17",
    "cllmfs data info wnut17 --data DIR --json",
    "cllmfs data info hf:leondz/wnut_17",
    "cllmfs data info catalog:conll2003 --accept-license",
)
def info(
    name: Annotated[
        str,
        argument("SET", f"a folder, the name of one in --data or ${DATA}, hf:OWNER/NAME, hf:FOLDER or catalog:NAME"),
    ],
    data: DataFolder = None,
    license_accepted: Annotated[
        bool, option("--accept-license", "accept the license of the data set, if it must be accepted")
    ] = False,
    json: Json = False,
) -> None:
    """Show a data set: license, source, and counts of each split.

    A data set of the Hugging Face hub is downloaded. Lengths are counted in the tokens of the data set; if it has
    none, in words.
    """
    from cllmfs.datasets.facts import dataset_facts
    from cllmfs.datasets.splits import resolve

    source = name if Path(name).is_dir() else resolve(data_folder(data, needed=False), name)
    facts = dataset_facts(name, source, license_accepted=license_accepted)
    if json:
        print_json(facts.to_dict())
    else:
        _show_facts(facts)


def _show_facts(facts: DatasetFacts) -> None:
    splits, counts = facts.splits.values(), table(visible(facts.name), *facts.splits)
    empty = (f"{one.without_mentions / one.sentences:.1%}" if one.sentences else "" for one in splits)
    counts.add_row("sentences", *(f"{one.sentences:,}" for one in splits))
    counts.add_row("tokens", *(f"{one.tokens:,}" for one in splits))
    counts.add_row("mentions", *(f"{sum(one.mentions.values()):,}" for one in splits))
    counts.add_row("sentences without mentions", *empty)
    counts.add_row("longest mention, tokens", *(str(one.longest_mention) for one in splits))
    counts.add_row("repeated sentences", *(f"{one.repeated:,}" for one in splits))
    labels = table(f"mentions of {len(facts.labels)} types", *facts.splits)
    for label in facts.labels:
        labels.add_row(Text(visible(label)), *(f"{one.mentions.get(label, 0):,}" for one in splits))
    stated = [f"{key}: {visible(value)}" for key, value in facts.metadata.items()]
    stated += [] if facts.metadata.get("license") else ["license: not known"]
    show(*stated, counts, labels)
    if facts.test_in_train is not None:
        print(f"{facts.test_in_train:,} sentences of test are in train too")
