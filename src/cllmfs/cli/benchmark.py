"""The commands that measure systems side by side: benchmark, report.

Knows the options and what is printed; the work is done by :mod:`cllmfs.benchmark.runs` and
:mod:`cllmfs.benchmark.report`, which are imported when a command runs, so that ``--help`` stays quick.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cllmfs.cli.options import DataFolder, data_folder, examples
from cllmfs.cli.terminal import FAILURE, clock, guarded, note
from cllmfs.errors import ConfigError, ModelError

app = typer.Typer()


@app.command(
    epilog=examples(
        "cllmfs benchmark benchmark.toml --data DIR --output results",
        "cllmfs benchmark benchmark.toml --data DIR --output results --system cllmfs --dry-run",
        "cllmfs benchmark benchmark.toml --data DIR --output results --define encoder=DIR",
    )
)
@guarded
def benchmark(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="what to measure: a TOML file", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="results, a file each", show_default=False)
    ],
    data: DataFolder = None,
    systems: Annotated[
        list[str] | None, typer.Option("--system", metavar="NAME", help="run this system only; may be repeated")
    ] = None,
    defined: Annotated[
        list[str] | None,
        typer.Option("--define", metavar="NAME=VALUE", help="a placeholder in the systems' commands; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be run, and check that it can")] = False,
) -> None:
    """Measure systems side by side on data sets, from few shots.

    Each run leaves a file. Runs that have a result are skipped, so a stopped job goes on where it was. A system that
    fails is told at the end; the others go on.
    """
    from cllmfs.benchmark.config import read_config
    from cllmfs.benchmark.runs import Benchmark

    measured = read_config(config)
    where = data_folder(data, needed=measured.needs_folder)
    values = {"here": str(config.resolve().parent), **_values(defined or ())}
    plan = Benchmark(measured, where, output, values)
    cells = plan.open_cells(systems or ())
    plan.check(cells)
    if dry_run:
        for cell in cells:
            print(plan.path(cell))
    note(f"{len(cells)} runs to do, {len(plan.config.cells) - len(cells)} done or left out")
    failed: list[str] = []
    began = time.monotonic()
    for number, cell in enumerate([] if dry_run else cells, 1):
        title = f"{cell.system}, {cell.dataset}, {cell.k}-shot, seed {cell.seed}"
        try:
            micro = plan.run(cell)["scores"]["micro"]
        except ModelError as error:
            failed.append(title)
            note(f"error: {title}: {error}")
            continue
        spent = clock(time.monotonic() - began)
        print(f"{number}/{len(cells)} {title}: strict F1 {100 * micro['f1']:.1f} ({spent})", flush=True)
    if failed:
        note(f"{len(failed)} of {len(cells)} runs failed: {'; '.join(failed)}")
        raise typer.Exit(FAILURE)


def _values(defined: list[str] | tuple[str, ...]) -> dict[str, str]:
    values = {}
    for word in defined:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigError(f"a placeholder is defined as NAME=VALUE, got {word!r}")
        values[name] = value
    return values


@app.command(
    epilog=examples(
        "cllmfs report results --output page.md",
        "cllmfs report results --output dev.md --split dev",
        'cllmfs report results --output page.md --first cllmfs --first "token classifier" --no-plot',
    )
)
@guarded
def report(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="folder that `cllmfs benchmark` wrote", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="page in Markdown; pictures beside it")
    ] = Path("report.md"),
    split: Annotated[str, typer.Option("--split", help="dev | test")] = "test",
    first: Annotated[
        list[str] | None,
        typer.Option("--first", metavar="NAME", help="systems that come first, in this order"),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="system that all are compared with; the second, if none is named"),
    ] = None,
    plot: Annotated[bool, typer.Option(help="draw learning curves and reliability; needs matplotlib")] = True,
    title: Annotated[str, typer.Option(help="the page's heading")] = "Few-shot results",
) -> None:
    """Make a page of a benchmark's results, with pictures."""
    from cllmfs.benchmark.report import write_report

    write_report(results, output, split=split, order=first or (), baseline=baseline, plot=plot, title=title)
    note(f"written: {output}")
