"""The commands that compare systems: benchmark and report.

This file knows the options and what is printed; :mod:`cllmfs.benchmark` does the work, and is imported when a command
runs, so that ``--help`` stays fast.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cllmfs.cli.options import DataFolder, argument, command, data_folder, option
from cllmfs.cli.terminal import FAILURE, note
from cllmfs.errors import ConfigError, ModelError
from cllmfs.progress import clock

app = typer.Typer()


@command(
    app,
    "cllmfs benchmark benchmark.toml --data DIR --output results",
    "cllmfs benchmark benchmark.toml --data DIR --output results --system cllmfs --dry-run",
    "cllmfs benchmark benchmark.toml --data DIR --output results --define encoder=DIR",
)
def benchmark(
    config: Annotated[Path, argument("CONFIG", "TOML file that names the systems, data sets and shots")],
    output: Annotated[Path, option("-o, --output DIR", "folder of the results, with one file for each run")],
    data: DataFolder = None,
    systems: Annotated[list[str] | None, option("--system NAME", "run only this system; may be repeated")] = None,
    defined: Annotated[
        list[str] | None, option("--define NAME=VALUE", "value of a placeholder in the configuration; may be repeated")
    ] = None,
    dry_run: Annotated[bool, option("--dry-run", "check and list the runs without making them")] = False,
) -> None:
    """Measure systems on the same few shots, with the same scorer.

    Each run writes one file. Runs that have a result are skipped, so a stopped benchmark continues where it was. If a
    system fails, the other runs are made all the same, and the failures are listed at the end.
    """
    from cllmfs.benchmark.config import read_config
    from cllmfs.benchmark.runs import Benchmark

    plan = read_config(config)
    folder, values = data_folder(data, needed=plan.needs_folder), _values(defined or [])
    benchmark = Benchmark(plan, folder, output, config.parent, values)
    runs = benchmark.open_runs(systems or ())
    benchmark.verify(runs)
    if dry_run:
        for run in runs:
            print(benchmark.path(run))
    note(f"{len(runs)} runs to do, {len(plan.runs) - len(runs)} already done or not selected")
    failed: list[str] = []
    began = time.monotonic()
    for number, run in enumerate([] if dry_run else runs, 1):
        title = f"{run.system}, {run.dataset}, {run.k}-shot, seed {run.seed}"
        try:
            micro = benchmark.make(run)["scores"]["micro"]
        except ModelError as error:
            failed.append(title)
            note(f"error: {title}: {error}")
            continue
        spent = clock(time.monotonic() - began)
        print(f"{number}/{len(runs)} {title}: strict F1 {100 * micro['f1']:.1f} ({spent})", flush=True)
    if failed:
        note(f"{len(failed)} of {len(runs)} runs failed: {'; '.join(failed)}")
        raise typer.Exit(FAILURE)


def _values(defined: list[str]) -> dict[str, str]:
    values = {}
    for word in defined:
        name, equals, value = word.partition("=")
        if not (equals and name.isidentifier()):
            raise ConfigError(f"--define takes NAME=VALUE, got {word!r}")
        values[name] = value
    return values


@command(
    app,
    "cllmfs report results --output page.md",
    "cllmfs report results --output dev.md --split dev",
    'cllmfs report results --output page.md --first cllmfs --first "token classifier" --curve cllmfs',
)
def report(
    results: Annotated[Path, argument("RESULTS", "folder that `cllmfs benchmark` wrote")],
    output: Annotated[Path, option("-o, --output FILE", "page in Markdown; its pictures are beside it")] = Path(
        "report.md"
    ),
    split: Annotated[str, option("--split", "dev | test")] = "test",
    first: Annotated[
        list[str] | None, option("--first NAME", "system that comes first; repeat it to name the next ones")
    ] = None,
    baseline: Annotated[
        str | None, option("--baseline NAME", "system that the others are compared with; by default the second one")
    ] = None,
    curves: Annotated[
        list[str] | None,
        option("--curve NAME", "system whose learning curve is drawn; may be repeated, by default the first 5"),
    ] = None,
    plot: Annotated[bool, typer.Option(help="draw learning curves and differences; needs matplotlib")] = True,
    title: Annotated[str, typer.Option(help="heading of the page")] = "Few-shot results",
) -> None:
    """Write a page of tables and pictures of benchmark results."""
    from cllmfs.benchmark.report import write_report

    order, drawn = first or (), curves or ()
    write_report(results, output, split=split, order=order, baseline=baseline, curves=drawn, plot=plot, title=title)
    note(f"written: {output}")
