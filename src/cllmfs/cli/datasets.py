"""The commands that show data sets: data list, data info.

Knows the options and what is printed; the work is done by :mod:`cllmfs.datasets.facts` and
:mod:`cllmfs.datasets.catalogue`, which are imported when a command runs, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cllmfs.cli.options import DATA, DataFolder, Json, data_folder, examples
from cllmfs.cli.terminal import MISTAKE, guarded, note, print_json, show, table, visible

if TYPE_CHECKING:
    from cllmfs.datasets.facts import DatasetFacts, Listed

app = typer.Typer(
    name="data",
    help="Show data sets: those of a folder, and recognised benchmarks.",
    no_args_is_help=True,
    epilog=examples(
        "cllmfs data list DIR",
        "cllmfs data list --catalogue",
        "cllmfs data info DIR/wnut17",
        "cllmfs data info hf:DFKI-SLT/few-nerd#inter?tags=fine_ner_tags",
    ),
)


@app.command(
    name="list",
    epilog=examples("cllmfs data list DIR", "cllmfs data list --json", "cllmfs data list --catalogue"),
)
@guarded
def list_(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="folder of the data sets, as --data", show_default=False)
    ] = None,
    data: DataFolder = None,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="the recognised benchmarks instead, and where the hub has them")
    ] = False,
    json: Json = False,
) -> None:
    """List the data sets of a folder, with languages, sizes and licences.

    Sizes are those of a data set's META.json where it has them. A data set that cannot be read is told on standard
    error.
    """
    if catalogue:
        _list_catalogue(json)
        return
    from cllmfs.datasets.facts import list_folder

    found: list[Listed] = []
    failed = 0
    for one in list_folder(data_folder(directory or data)):
        if isinstance(one, tuple):
            failed += 1
            note(f"error: {one[0]}: {one[1]}")
        else:
            found.append(one)
    if json:
        print_json([one.to_dict() for one in found])
    elif found:
        show(_listing(found))
    else:
        note("there is no data set in the folder: a data set is a folder with a file of each split, such as test.jsonl")
    if failed:
        raise typer.Exit(MISTAKE)


def _listing(found: Iterable[Listed]) -> Table:
    made = _one_line_each("data set", "language", "types", "train", "dev", "test", "licence", "domain")
    for one in found:
        sizes = (one.sentences.get(split) for split in ("train", "dev", "test"))
        counts = ["" if size is None else f"{size:,}" for size in (one.types, *sizes)]
        language, licence, domain = (_cut(one.told.get(key, "")) for key in ("language", "licence", "domain"))
        made.add_row(visible(one.name), language, *counts, licence, domain)
    return made


def _list_catalogue(json: bool) -> None:
    from dataclasses import asdict

    from cllmfs.datasets.catalogue import CATALOGUE
    from cllmfs.datasets.catalogue import catalogue as entries

    if json:
        print_json([asdict(entry) for entry in entries().values()])
        return
    made = _one_line_each("data set", "language", "types", "restricted", "licence", "source")
    for entry in entries().values():
        restricted = "yes" if entry.restricted else ""
        source = entry.source or "not on the hub"
        made.add_row(entry.name, _cut(entry.language), str(entry.types), restricted, _cut(entry.licence), _cut(source))
    show(
        made,
        f"{CATALOGUE}NAME names one, in a benchmark's configuration too; a restricted one is loaded only after its "
        "licence was accepted. --json says why it is restricted.",
    )


def _one_line_each(*columns: str) -> Table:
    """A table of texts first, second and in the last two columns, which give way where the terminal is narrow."""
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


@app.command(
    epilog=examples(
        "cllmfs data info DIR/wnut17",
        "cllmfs data info wnut17 --data DIR --json",
        "cllmfs data info hf:leondz/wnut_17",
        "cllmfs data info catalogue:conll2003 --accept-licence",
    )
)
@guarded
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help=f"a folder, one below --data or ${DATA}, hf:OWNER/NAME, hf:FOLDER, or catalogue:NAME",
            show_default=False,
        ),
    ],
    data: DataFolder = None,
    licence_accepted: Annotated[
        bool, typer.Option("--accept-licence", help="load it although its licence is to be accepted first")
    ] = False,
    json: Json = False,
) -> None:
    """Show a data set: licence, source, and counts of each split.

    What it needs from the Hugging Face hub is downloaded. Mentions are counted in tokens of the data set, or words.
    """
    from cllmfs.datasets.facts import dataset_facts
    from cllmfs.datasets.splits import below

    source = name
    if not Path(name).is_dir():
        source = below(data_folder(data, needed=False), name)
    facts = dataset_facts(name, source, licence_accepted=licence_accepted)
    if json:
        print_json(facts.to_dict())
    else:
        _show_facts(facts)


def _show_facts(facts: DatasetFacts) -> None:
    counts = table(visible(facts.name), *facts.splits)
    rows = {
        "sentences": [f"{one.sentences:,}" for one in facts.splits.values()],
        "tokens": [f"{one.tokens:,}" for one in facts.splits.values()],
        "mentions": [f"{sum(one.mentions.values()):,}" for one in facts.splits.values()],
        "sentences without mentions": [
            f"{one.without_mentions / one.sentences:.1%}" if one.sentences else "" for one in facts.splits.values()
        ],
        "longest mention, tokens": [str(one.longest_mention) for one in facts.splits.values()],
        "sentences that occurred before": [f"{one.repeated:,}" for one in facts.splits.values()],
    }
    for title, cells in rows.items():
        counts.add_row(title, *cells)
    labels = table(f"mentions of {len(facts.labels)} types", *facts.splits)
    for label in facts.labels:
        labels.add_row(Text(visible(label)), *(f"{one.mentions.get(label, 0):,}" for one in facts.splits.values()))
    told = [f"{key}: {visible(value)}" for key, value in facts.told.items()]
    told += [] if facts.told.get("licence") else ["licence: not known"]
    show(*told, counts, labels)
    if facts.test_in_train is not None:
        print(f"{facts.test_in_train:,} sentences of test are in train too")
