"""Every measured figure of the documentation, computed from the result files of the repository.

A table between ``<!-- figures: NAME -->`` and ``<!-- end -->`` is written by a function of :data:`TABLES`. A figure in
a sentence is registered in ``figures.toml``: the sentence is a template there, such as ``{f1 few_shot cllmfs wnut17 0}
without any``, whose placeholder calls a function of :data:`SOURCES` with words. :func:`fill` writes both into a page;
``python docs/generate.py`` does it for all pages. Knows the result files; knows nothing of models.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache, partial

from docs.sources import NUMBER, ROOT, evaluate
from docs.tables import TABLES

REGISTRY = ROOT / "docs" / "figures.toml"
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


# Written by programs as a whole, or copied; the log is a dated history.
NOT_BY_HAND = {
    "docs/log.md",
    "src/cllmfs/mini/README.md",
    *(f"docs/reference/{name}.md" for name in ("command-line", "python", "settings")),
    *(f"docs/results/{name}.md" for name in ("ablation", "contrast", "cross_domain", "few_shot", "published")),
    *(f"docs/results/{name}.md" for name in ("guarantee", "speed")),
}


def pages() -> list[str]:
    """Every page whose sentences are written by hand, relative to the root of the repository."""
    patterns = ("README.md", "docs/**/*.md", "benchmarks/**/README.md", "mini/*.md", "src/**/README.md")
    found = {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(found - NOT_BY_HAND)


@cache
def registry() -> dict[str, dict[str, list[str]]]:
    """The registered sentences by page: ``measured`` templates, and ``stated`` sentences whose numbers are not ours."""
    return tomllib.loads(REGISTRY.read_text(encoding="utf-8"))


def pattern(template: str) -> re.Pattern[str]:
    """Matches a template whatever its figures and its line breaks are; each placeholder is a group."""
    parts = [re.sub(r"\s+", r"\\s+", re.escape(part).replace(r"\ ", " ")) for part in PLACEHOLDER.split(template)[::2]]
    return re.compile(f"({NUMBER})".join(parts))


def placeholders(template: str) -> list[str]:
    """The placeholders of a template in order."""
    return PLACEHOLDER.findall(template)


def blocks(text: str) -> Iterator[re.Match[str]]:
    """The generated tables of a page."""
    return _BLOCK.finditer(text)


def fill(page: str, text: str) -> str:
    """The text of a page with its figures as the results have them.

    Raises:
        ValueError: if a registered sentence is not on the page, or the results do not have a figure.
    """
    if unknown := {block[2] for block in blocks(text)} - TABLES.keys():
        raise ValueError(f"{page} has a table that is unknown: {unknown}; there are {', '.join(TABLES)}")
    text = _BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}\n{block[3]}", text)
    for template in registry().get(page, {}).get("measured", []):
        try:
            figures = [evaluate(one) for one in placeholders(template)]
        except (ValueError, KeyError) as error:
            error.add_note(f"in a sentence of {page} that docs/figures.toml registers: {template}")
            raise
        text, count = pattern(template).subn(partial(_replaced, figures=figures), text)
        if not count:
            raise ValueError(f"docs/figures.toml registers a sentence that {page} does not have: {template!r}")
    return text


def _replaced(match: re.Match[str], figures: Sequence[str]) -> str:
    made, end = "", match.start()
    for group, figure in enumerate(figures, start=1):
        made += match.string[end : match.start(group)] + figure
        end = match.end(group)
    return made + match.string[end : match.end()]
