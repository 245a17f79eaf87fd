"""Writes all of the documentation that comes from the code or from result files.

The reference (command line, settings, Python API) comes from the code, the pages and pictures in ``docs/results`` from
the result files of ``benchmarks``, and so do the figures that other pages quote (``docs/figures.py``). ``python
docs/generate.py`` writes everything again, and ``make docs`` runs it first; tests compare the files with it.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import cllmfs
from cllmfs import config, errors, evaluation, formats
from cllmfs.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `python docs/generate.py` finds only this folder

from benchmarks.guarantee import report as guarantee_report  # noqa: E402
from benchmarks.speed import report as speed_report  # noqa: E402
from cllmfs.benchmark.report import write_report  # noqa: E402
from docs import figures  # noqa: E402

FOLDER = ROOT / "docs" / "reference"
RESULTS = ROOT / "docs" / "results"
NOTE = "<!-- Written by docs/generate.py from the code: change the code, then run `make docs`. -->"
MODULES = {
    cllmfs: cllmfs.__all__,
    formats: formats.__all__,
    evaluation: ("evaluate_spans", "Scores", "Counts"),
    errors: ("CllmfsError", "DataError", "ConfigError", "ModelError"),
}
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")


# --- the command line ------------------------------------------------------------------------------------------------


def command_line() -> str:
    """The help of each command."""
    parts = ["# Command line", NOTE, "What each command prints with `--help`."]
    for path, text in _commands(typer.main.get_command(app), "cllmfs"):
        parts += [f"## {path}", f"```text\n{text}\n```"]
    return _page(parts)


def _commands(command: Any, name: str, parent: Any = None) -> Iterator[tuple[str, str]]:
    """The path and the help of a command and of all commands below it."""
    context = command.context_class(command, info_name=name, parent=parent, terminal_width=100)
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).strip().splitlines())
    for part in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _commands(command.get_command(context, part), part, context)


# --- the settings ----------------------------------------------------------------------------------------------------


def settings() -> str:
    """A table for each section of the settings."""
    parts = [
        "# Settings",
        NOTE,
        "`cllmfs info --config` prints all settings as TOML. `--config` reads them, and `--set SECTION.NAME=VALUE` "
        "changes one setting; in Python, `Config.from_toml` and `Config().with_settings` do the same.",
        "Training fixes most settings: they are saved with the model, and cannot change when it is loaded. Those of "
        "[runtime](#runtime) say how a model is run, and may change whenever it is loaded.",
    ]
    for name, section in config.SECTIONS.items():
        rows = [one for one in config.list_settings() if one.section == name]
        fixed = " Fixed by training." if rows[0].fixed else ""
        table = ["| setting | default | values | meaning |", "|---|---|---|---|"]
        table += [f"| `{one.name}` | `{_value(one.default)}` | {_values(one)} | {_cell(one.help)} |" for one in rows]
        parts += [f"## {name}", f"{inspect.cleandoc(section.__doc__ or '')}{fixed}", "\n".join(table)]
    return _page(parts)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values(setting: config.Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{config.written(choice)}`" for choice in setting.choices)
    kind = {bool: "`true`, `false`", int: "whole number", float: "number", str: "text"}[type(setting.default)]
    low, high = setting.low, setting.high
    if high is not None:
        return f"{kind}, {low:g} to {high:g}"
    return kind if low is None else f"{kind}, at least {low:g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# --- the Python API --------------------------------------------------------------------------------------------------


def python_api() -> str:
    """The public names with their docstrings."""
    parts = ["# Python API", NOTE]
    for module, names in MODULES.items():
        text = f"`from {module.__name__} import ...`" if module is cllmfs else to_markdown(module.__doc__ or "")
        parts += [f"## {module.__name__}", text]
        for name in names if module is cllmfs else sorted(set(names) - set(cllmfs.__all__)):
            parts += _described(name, getattr(module, name), "###")
    return _page(parts)


def _described(name: str, value: Any, heading: str) -> list[str]:
    parts = [f"{heading} {name}", f"```text\n{_signature(name, value)}\n```", to_markdown(inspect.getdoc(value) or "")]
    members: dict[str, Any] = {}
    for kind in reversed(inspect.getmro(value)) if inspect.isclass(value) else ():
        members |= vars(kind) if kind.__module__.startswith("cllmfs") else {}
    for member, found in members.items():
        found = getattr(found, "__func__", found)  # a class method
        code = found.fget if isinstance(found, property) else found
        if member.startswith("_") or not inspect.isfunction(code) or not code.__module__.startswith("cllmfs"):
            continue
        title = f"{name}.{member}"
        signature = [] if isinstance(found, property) else [f"```text\n{_signature(title, found)}\n```"]
        parts += [f"{heading}# {title}", *signature, to_markdown(inspect.getdoc(found) or "")]
    return parts


def _signature(name: str, value: Any) -> str:
    """The call on one line, or one line an argument where it is long; without types' modules."""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return name
    parameters = [one for one in signature.parameters.values() if one.name not in ("self", "cls")]
    words = [_parameter(one) for one in parameters]
    keyword = next((i for i, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if keyword is not None:
        words.insert(keyword, "*")
    returned = "" if signature.return_annotation in (inspect.Signature.empty, "None") else signature.return_annotation
    arrow = f" -> {returned}" if returned and not inspect.isclass(value) else ""
    line = f"{name}({', '.join(words)}){arrow}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(words) + f",\n){arrow}"


def _parameter(one: inspect.Parameter) -> str:
    kind = one.annotation if isinstance(one.annotation, str) else getattr(one.annotation, "__name__", "")
    word = f"{one.name}: {kind}" if one.annotation is not one.empty else one.name
    if one.default is one.empty:
        return word
    default = f"{type(one.default).__name__}()" if isinstance(one.default, BaseModel) else repr(one.default)
    return f"{word} = {default}"


def to_markdown(docstring: str) -> str:
    """A docstring of Google's format, with Sphinx roles and indented code, as Markdown."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")
    made: list[str] = []
    section, in_code = "", False
    for line in text.splitlines():
        indented = line.startswith("    ")
        if in_code and line and not indented:
            _close(made)
            in_code = False
        if line.rstrip(":") in SECTIONS:
            section = line.rstrip(":")
            made += [f"**{section}**", ""]
        elif section and indented:
            made.append(_entry(line[4:], section))
        elif indented:
            made += [line[4:]] if in_code else ["```text", line[4:]]
            in_code = True
        else:
            section = section if not line else ""
            made.append("" if line == "::" else line.removesuffix(":") if line.endswith("::") else line)
    if in_code:
        _close(made)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(made)).strip()


def _close(made: list[str]) -> None:
    while not made[-1]:
        made.pop()
    made += ["```", ""]


def _entry(line: str, section: str) -> str:
    """A line of a section such as Args: an item of a list, or the rest of one."""
    if line.startswith(" ") or section in ("Returns", "Yields"):
        return f"  {line.strip()}" if line.startswith(" ") else line
    name, colon, rest = line.partition(":")
    return f"- `{name}`:{rest}" if colon and re.fullmatch(r"[\w., `*]+", name) else f"- {line}"


def _page(parts: list[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"


# --- results and figures ---------------------------------------------------------------------------------------------

# The results of each page of `cllmfs report`, and what the report is told.
REPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "few_shot.md": (
        "few_shot",
        {
            "order": ["cllmfs", "token classifier"],
            "curves": ["cllmfs", "plain LoRA", "GLiNER", "token classifier"],
        },
    ),
    "published.md": (
        "published",
        {"order": ["cllmfs", "token classifier"], "title": "On published support sets", "plot": False},
    ),
    "contrast.md": (
        "contrast",
        {
            "order": ["in base, tuning and votes", "no contrast"],
            "title": "With and without the contrastive objective",
            "plot": False,
        },
    ),
    "ablation.md": (
        "ablation",
        {"split": "dev", "order": ["cllmfs"], "baseline": "cllmfs", "title": "What each part contributes"},
    ),
    "cross_domain.md": (
        "cross_domain",
        {"order": ["source, then target", "target only"], "title": "Across domains", "plot": False},
    ),
}
MINI_CARD = "mini/MODEL_CARD.md"  # written by hand but for its figures, and copied into the package


def write_results(folder: Path) -> None:
    """The pages of results with their pictures."""
    for name, (benchmark, options) in REPORTS.items():
        write_report(ROOT / "benchmarks" / benchmark / "results", folder / name, **options)
    content = json.loads((ROOT / "benchmarks" / "speed" / "results.json").read_text(encoding="utf-8"))
    (folder / "speed.md").write_text(speed_report.markdown(content, "speed.png"), encoding="utf-8")
    speed_report.plot(content["cells"], folder / "speed.png")
    content = json.loads((ROOT / "benchmarks" / "guarantee" / "results.json").read_text(encoding="utf-8"))
    (folder / "guarantee.md").write_text(guarantee_report.markdown(content, "guarantee.png"), encoding="utf-8")
    guarantee_report.plot(content, folder / "guarantee.png")


def write_figures() -> None:
    """The figures that other pages quote, and the copy of the base's card."""
    for name in figures.pages():
        text = (ROOT / name).read_text(encoding="utf-8")
        if (made := figures.fill(name, text)) != text:
            (ROOT / name).write_text(made, encoding="utf-8")
    shutil.copyfile(ROOT / MINI_CARD, ROOT / "src" / "cllmfs" / "mini" / "README.md")


PAGES = {"command-line.md": command_line, "settings.md": settings, "python.md": python_api}


def main() -> None:
    """Write everything."""
    for name, made in PAGES.items():
        (FOLDER / name).write_text(made(), encoding="utf-8")
    write_results(RESULTS)
    write_figures()


if __name__ == "__main__":
    main()
