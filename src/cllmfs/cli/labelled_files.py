"""The commands that need no model: validate, convert, sample.

Knows the options and what is printed; the work is done by :mod:`cllmfs.formats.validation`,
:mod:`cllmfs.formats.writing` and :mod:`cllmfs.datasets.sampling`. Knows nothing of models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cllmfs.cli.options import FORMAT_NAMES, SCHEME_NAMES, Format, Json, Scheme, examples
from cllmfs.cli.terminal import MISTAKE, counts_table, guarded, note, print_json, show, visible
from cllmfs.datasets.sampling import METHODS, sample_episode, sample_k_shot, shortfalls
from cllmfs.errors import ConfigError
from cllmfs.formats.reading import CONLL_SUFFIXES
from cllmfs.formats.records import Issue
from cllmfs.formats.validation import ValidationReport, validate_file
from cllmfs.formats.writing import convert as convert_file
from cllmfs.formats.writing import read_examples, read_labels, write_examples
from cllmfs.schema import Example, LabelSet

app = typer.Typer()


@app.command(
    epilog=examples(
        "cllmfs validate train.jsonl",
        "cllmfs validate train.conll --scheme bioes --labels labels.toml",
        "cllmfs validate train.jsonl --json | jq '.issues[].rule'",
    )
)
@guarded
def validate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="labelled file, - for standard input", show_default=False)
    ],
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="the labels that may occur: .toml, .json or .txt")
    ] = None,
    format: Format = None,
    scheme: Scheme = None,
    json: Json = False,
) -> None:
    """Check a labelled file; name every broken rule with its line.

    Counts the mentions of each label. Exit code 2 if there are errors, 0 if there are warnings at most.
    """
    known = None if labels is None else read_labels(labels)
    report = validate_file(file, labels=known, format=format, scheme=scheme)
    if json:
        print_json(report.to_dict())
    else:
        _show_report(report)
    if not report.ok:
        raise typer.Exit(MISTAKE)


def _show_report(report: ValidationReport) -> None:
    for issue in report.issues:
        print(visible(_issue_line(report.source, issue)))
    if report.mentions:
        show(counts_table(report.mentions))
    print(
        f"{visible(report.source)}: {report.sentences} sentences ({report.without_spans} without spans), "
        f"{report.tokens} tokens, {sum(report.mentions.values())} mentions; {report.unreadable} unreadable records, "
        f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    )


def _issue_line(source: str, issue: Issue) -> str:
    """``file:line: field: rule: message``; a warning says so beside its rule."""
    place = f"{source}:{issue.line}" if issue.line else source
    rule = issue.rule if issue.severity == "error" else f"{issue.rule} ({issue.severity})"
    return ": ".join(part for part in (place, issue.field, rule, issue.message) if part)


@app.command(
    epilog=examples(
        "cllmfs convert train.conll train.jsonl",
        "cllmfs convert train.jsonl train.conll --scheme-out bioes",
        "cat train.bio | cllmfs convert - - --from conll --to tokens",
    )
)
@guarded
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="file to read, - for standard input", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="file to write, - for standard output", show_default=False)
    ],
    from_format: Annotated[
        str | None, typer.Option("--from", help=f"{FORMAT_NAMES}; found from the file if not given")
    ] = None,
    to_format: Annotated[
        str | None, typer.Option("--to", help=f"{FORMAT_NAMES}; else by OUT's extension: conll or jsonl")
    ] = None,
    scheme_in: Annotated[
        str | None, typer.Option("--scheme-in", help=f"{SCHEME_NAMES}; found from the tags if not given")
    ] = None,
    scheme_out: Annotated[str, typer.Option("--scheme-out", help=SCHEME_NAMES)] = "iob2",
) -> None:
    """Turn one annotation format into another.

    OUT appears whole or stays as it was. Offsets are those of the text, in code points; see `cllmfs validate` for what
    is suspicious in IN.
    """
    written = to_format or ("conll" if target.suffix.lower() in CONLL_SUFFIXES else "jsonl")
    count = convert_file(
        source, target, from_format=from_format, to_format=written, scheme_in=scheme_in, scheme_out=scheme_out
    )
    note(f"{count} sentences written as {written} to {_name(target)}")


@app.command(
    epilog=examples(
        "cllmfs sample train.jsonl --k 5 --seed 0 --output shots.jsonl",
        "cllmfs sample train.conll --k 1 --method exact --labels labels.toml > shots.jsonl",
        "cllmfs sample train.jsonl --method episode --n-way 5 --k 1 --output shots.jsonl --query-output query.jsonl",
    )
)
@guarded
def sample(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="labelled file, - for standard input", show_default=False)
    ],
    k: Annotated[int, typer.Option("--k", min=1, help="shots of each label")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="of the draw: one seed, one set of shots")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="JSONL file to write, - for standard output")
    ] = Path("-"),
    method: Annotated[
        str,
        typer.Option(
            "--method",
            help="at-least: sentences until each label has K mentions; exact: K sentences a label; "
            "episode: N labels with K to 2K mentions each",
        ),
    ] = "at-least",
    n_way: Annotated[int | None, typer.Option("--n-way", min=1, help="labels of an episode")] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="FILE", help="draw for these labels only: .toml, .json or .txt")
    ] = None,
    queries: Annotated[
        int, typer.Option("--queries", min=1, help="mentions of each label in an episode's query set")
    ] = 1,
    query_output: Annotated[
        Path | None, typer.Option("--query-output", metavar="FILE", help="where an episode's query set goes, as JSONL")
    ] = None,
    format: Format = None,
    scheme: Scheme = None,
) -> None:
    """Draw few labelled sentences out of many.

    One seed gives the same sentences on every machine. Labels that get fewer than K mentions are named on standard
    error.
    """
    if method not in (*METHODS, "episode"):
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, episode; got {method!r}")
    if (method == "episode") != (n_way is not None) or (query_output is not None and method != "episode"):
        raise ConfigError("--method episode needs --n-way; --n-way and --query-output go with --method episode only")
    chosen = None if labels is None else read_labels(labels)
    pool = read_examples(data, format=format, scheme=scheme)
    if n_way is None:
        shots = sample_k_shot(pool, k, seed, method=method, labels=chosen)
        for label, count in shortfalls(pool, shots, k, labels=chosen).items():
            note(f"warning: {label!r} has {count} of {k} mentions; there are no more to draw")
    else:
        asked = 0 if query_output is None else queries
        episode = sample_episode(_only(pool, chosen), n_way, k, seed, queries=asked)
        shots = list(episode.support)
        if query_output is not None:
            write_examples(episode.query, query_output)
            note(f"query set: {_summary(episode.query, query_output)}")
    write_examples(shots, output)
    note(_summary(shots, output))


def _only(pool: list[Example], labels: LabelSet | None) -> list[Example]:
    """The examples with the spans of these labels."""
    if labels is None:
        return pool
    return [replace(one, spans=tuple(span for span in one.spans if span.label in labels)) for one in pool]


def _summary(shots: Sequence[Example], target: Path) -> str:
    counts = Counter(span.label for shot in shots for span in shot.spans)
    listed = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
    return f"{len(shots)} sentences ({listed}) written to {_name(target)}"


def _name(target: Path) -> str:
    return "standard output" if str(target) == "-" else str(target)
