"""The commands that need no model: validate, convert, sample. This file knows the options and what is printed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cllmfs.cli.options import Format, Json, Scheme, argument, choice, command, option
from cllmfs.cli.terminal import MISTAKE, counts_table, note, print_json, show, visible
from cllmfs.datasets.sampling import METHODS, sample_episode, sample_k_shot, shortfalls
from cllmfs.errors import ConfigError, ModelError
from cllmfs.formats import convert as convert_file
from cllmfs.formats import read_examples, read_labels, write_examples
from cllmfs.formats.records import Issue
from cllmfs.formats.table import FORMATS, by_suffix
from cllmfs.formats.tagging import SCHEMES
from cllmfs.formats.validation import ValidationReport, validate_file
from cllmfs.model.bases import MINI, base_folder
from cllmfs.schema import Example, LabelSet, mentions

app = typer.Typer()

_ENOUGH = 2000  # about as many texts of a file are read as the base does: enough to know its scripts


@command(
    app,
    "cllmfs validate train.jsonl",
    "cllmfs validate train.conll --scheme bioes --labels labels.toml --base Qwen/Qwen3-0.6B",
    "cllmfs validate train.jsonl --against test.jsonl",
    "cllmfs validate train.jsonl --json | jq '.issues[].rule'",
)
def validate(
    file: Annotated[Path, argument("FILE")],
    labels: Annotated[Path | None, option("--labels FILE", "file with allowed labels: .toml, .json or .txt")] = None,
    base: Annotated[
        str, option("--base BASE", "base to train on: cllmfs-mini, a folder or a hub id in the cache")
    ] = MINI,
    against: Annotated[
        list[Path] | None,
        option(
            "--against OTHER", "labeled file that should have no sentence of FILE, such as a test set; may be repeated"
        ),
    ] = None,
    format: Format = None,
    scheme: Scheme = None,
    json: Json = False,
) -> None:
    """Check a labeled file and report each broken rule by line.

    The command also counts the mentions of each label, and warns of labels that BASE cannot tell apart and of texts
    that it cannot read; no model is loaded. The exit code is 2 if there are errors, and 0 if there are only warnings.
    """
    known = None if labels is None else read_labels(labels)
    checks = functools.partial(_base_issues, base, known)
    report = validate_file(file, labels=known, format=format, scheme=scheme, against=against or (), also=checks)
    if json:
        print_json(report.to_dict())
    else:
        _show_report(report)
    if not report.ok:
        raise typer.Exit(MISTAKE)


def _base_issues(base: str, known: LabelSet | None, examples: Sequence[Example]) -> list[Issue]:
    """Warnings of labels that are alike, and of texts that the base cannot read."""
    from cllmfs.encoding.coverage import CoverageNotices, FilePrompt, alike, spelled_alike, spelling_message
    from cllmfs.encoding.tokens import tokenize
    from cllmfs.model.inspection import check_tokenizer

    labels = {**dict.fromkeys(sorted(mentions(examples)), ""), **(known or {})}
    groups: list[tuple[str, ...]] = []
    same: list[str] = []
    unread: list[str] = []
    if (folder := _base_on_disk(base)) is None:
        note(f"note: {base} is not on this machine: labels are compared by their spelling, and no text is checked")
    else:
        check_tokenizer(folder)
        prompt = FilePrompt(folder)
        notices, groups = CoverageNotices(prompt, base), alike(prompt.query, labels)
        same = notices.of_labels(labels)
        some = examples[:: len(examples) // _ENOUGH + 1]
        unread = notices.of_texts(tokenize(prompt.tokenizer, example.text) for example in some)
    others = [group for group in spelled_alike(labels) if not any(set(group) <= set(asked) for asked in groups)]
    found = {"similar-labels": same + [spelling_message(group) for group in others], "unreadable-texts": unread}
    return [Issue(0, "", rule, message, "warning") for rule, messages in found.items() for message in messages]


def _base_on_disk(base: str) -> Path | None:
    """The folder of a base; ``None`` for a hub id that is not in the cache.

    Raises:
        ModelError: if the base is neither a folder nor a hub id.
    """
    if (folder := base_folder(base)) is not None:
        return folder
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(base, "tokenizer.json")
    except ValueError as error:  # what is no hub id, such as a path
        raise ModelError(f"a base must be {MINI}, an existing folder or a hub id, got {base!r:.80}") from error
    return Path(file).parent if isinstance(file, str) else None


def _show_report(report: ValidationReport) -> None:
    """Each issue as ``file:line: field: rule: message``, the mentions of each label, and a summary."""
    for issue in report.issues:
        place = f"{report.source}:{issue.line}" if issue.line else report.source
        rule = issue.rule if issue.severity == "error" else f"{issue.rule} ({issue.severity})"
        print(visible(": ".join(part for part in (place, issue.field, rule, issue.message) if part)))
    if report.mentions:
        show(counts_table(report.mentions))
    print(
        f"{visible(report.source)}: {report.sentences} sentences ({report.without_spans} without spans), "
        f"{report.tokens} tokens, {sum(report.mentions.values())} mentions; {report.unreadable} unreadable records, "
        f"{len(report.errors)} errors, {len(report.warnings)} warnings"
    )


@command(
    app,
    "cllmfs convert train.conll train.jsonl",
    "cllmfs convert train.jsonl train.conll --scheme-out bioes",
    "cat train.bio | cllmfs convert - - --from conll --to tokens",
)
def convert(
    source: Annotated[Path, argument("IN")],
    target: Annotated[Path, argument("OUT", "file to write, - for standard output")],
    from_format: Annotated[str | None, choice("--from", FORMATS, "; by default detected from IN")] = None,
    to_format: Annotated[str | None, choice("--to", FORMATS, "; by default that of OUT's suffix, else jsonl")] = None,
    scheme_in: Annotated[str | None, choice("--scheme-in", SCHEMES, "; by default detected from the tags")] = None,
    scheme_out: Annotated[str, choice("--scheme-out", SCHEMES)] = "iob2",
) -> None:
    """Convert a labeled file to another format.

    OUT is written completely or not at all. Offsets count the code points of the text. What a format cannot hold, such
    as the ids of records in conll, is counted in a warning. `cllmfs validate` reports what looks wrong in IN.
    """
    written = to_format or (by_suffix(target) or FORMATS["jsonl"]).name
    count = convert_file(
        source, target, from_format=from_format, to_format=written, scheme_in=scheme_in, scheme_out=scheme_out
    )
    note(f"{count} sentences written as {written} to {_name(target)}")


@command(
    app,
    "cllmfs sample train.jsonl --k 5 --seed 0 --output shots.jsonl",
    "cllmfs sample train.conll --k 1 --method exact --labels labels.toml > shots.jsonl",
    "cllmfs sample train.jsonl --method episode --n-way 5 --k 1 --output shots.jsonl --query-output query.jsonl",
)
def sample(
    data: Annotated[Path, argument("DATA")],
    k: Annotated[int, option("--k K", "number of shots of each label", min=1)] = 5,
    seed: Annotated[int, option("--seed N", "seed of the draw")] = 0,
    output: Annotated[Path, option("-o, --output FILE", "JSONL file to write, - for standard output")] = Path("-"),
    method: Annotated[
        str,
        option(
            "--method NAME",
            "at-least: sentences until each label has K mentions; exact: K sentences for each label; "
            "episode: N labels with K to 2K mentions each",
        ),
    ] = "at-least",
    n_way: Annotated[int | None, option("--n-way N", "number of labels of an episode", min=1)] = None,
    labels: Annotated[
        Path | None, option("--labels FILE", "file with the labels to draw for: .toml, .json or .txt")
    ] = None,
    queries: Annotated[int, option("--queries N", "mentions of each label in the query set of an episode", min=1)] = 1,
    query_output: Annotated[
        Path | None, option("--query-output FILE", "JSONL file to write the query set of an episode to")
    ] = None,
    format: Format = None,
    scheme: Scheme = None,
) -> None:
    """Draw a few labeled sentences from many.

    The same seed draws the same sentences on every machine. Labels that get fewer than K mentions are reported on
    standard error.
    """
    if method not in (*METHODS, "episode"):
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, episode; got {method!r}")
    if (method == "episode") != (n_way is not None) or (query_output is not None and method != "episode"):
        raise ConfigError("--method episode needs --n-way; --n-way and --query-output need --method episode")
    chosen = None if labels is None else read_labels(labels)
    pool = read_examples(data, format=format, scheme=scheme)
    if n_way is None:
        shots = sample_k_shot(pool, k, seed, method=method, labels=chosen)
        for label, count in shortfalls(pool, shots, k, labels=chosen).items():
            note(f"warning: the data has only {count} of {k} mentions of {label!r}")
    else:
        if chosen is not None:
            pool = [replace(one, spans=tuple(span for span in one.spans if span.label in chosen)) for one in pool]
        episode = sample_episode(pool, n_way, k, seed, queries=0 if query_output is None else queries)
        shots = list(episode.support)
        if query_output is not None:
            write_examples(episode.query, query_output)
            note(f"query set: {_summary(episode.query, query_output)}")
    write_examples(shots, output)
    note(_summary(shots, output))


def _summary(shots: Sequence[Example], target: Path) -> str:
    listed = ", ".join(f"{label} {count}" for label, count in sorted(mentions(shots).items()))
    return f"{len(shots)} sentences ({listed}) written to {_name(target)}"


def _name(target: Path) -> str:
    return "standard output" if str(target) == "-" else str(target)
