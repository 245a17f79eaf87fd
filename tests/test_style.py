"""The style rules that no linter states: sizes, names, module docstrings, stated shapes, the README's file tree."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "cllmfs"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("mini", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BANNED_NAMES = {"base", "common", "core", "helpers", "misc", "util", "utils"}
ARRAY_TYPES = {"Tensor", "LongTensor", "FloatTensor", "BoolTensor", "ndarray", "NDArray"}
# "Shape", "scalar", or dimensions in brackets that begin with a name: [B, T], [2 * B], []; not a range such as [0, 1].
SHAPE = re.compile(r"\bshapes?\b|\bscalars?\b|\[\]|\[[A-Za-z(\d* ]*[A-Za-z][^\[\]:'\"]*\]", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def function_lines(node: Function) -> int:
    """Lines from ``def`` to the end, the docstring's own lines left out."""
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public classes and functions of a module, and the public methods of the classes."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def names_array(annotation: ast.AST | None) -> bool:
    """Whether a type annotation mentions an array type, at any depth, quoted or not.

    Mappings do not count: tensors by name, as in a state dict, have no one shape.
    """
    match annotation:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in ARRAY_TYPES
        case ast.Constant(value=str(text)):
            try:
                return names_array(ast.parse(text, mode="eval"))
            except SyntaxError:  # a string inside Literal[...] or Annotated[...]
                return False
        case ast.Subscript(value=ast.Name(id="dict" | "Mapping" | "MutableMapping")) | None:
            return False
    return any(names_array(child) for child in ast.iter_child_nodes(annotation))


def handles_arrays(node: Function | ast.ClassDef) -> bool:
    """Whether a function's signature, or a field of a class, has an array type."""
    if isinstance(node, ast.ClassDef):
        return any(
            names_array(item.annotation)
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and not (isinstance(item.target, ast.Name) and item.target.id.startswith("_"))
        )
    arguments = node.args
    annotated = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return any(names_array(item.annotation) for item in annotated if item is not None) or names_array(node.returns)


def without_shape(tree: ast.Module) -> list[str]:
    """Public names that handle arrays but whose docstring states no shape."""
    return [
        name
        for name, node in public_definitions(tree.body)
        if handles_arrays(node) and not SHAPE.search(ast.get_docstring(node) or "")
    ]


def tree_block(readme: str) -> str | None:
    """The fenced block of the README that draws the package's files, if there is one."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", readme, flags=re.MULTILINE | re.DOTALL)
    return next((block for block in blocks if "src/cllmfs" in block and "errors.py" in block), None)


def test_there_is_something_to_check() -> None:
    assert PACKAGE / "__init__.py" in MODULES
    assert len(MODULES) > 3


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_file_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{lines} lines; a file has at most {MAX_FILE_LINES}: split it by stage"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=identify)
def test_functions_are_short(path: Path) -> None:
    long = {node.name: size for node in functions(parse(path)) if (size := function_lines(node)) > MAX_FUNCTION_LINES}
    assert not long, f"functions have at most {MAX_FUNCTION_LINES} lines besides the docstring"


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=identify)
def test_module_has_a_docstring(path: Path) -> None:
    assert (ast.get_docstring(parse(path)) or "").strip(), "say what the module knows and what it does not know"


def test_module_names_say_something() -> None:
    named = {path.stem for path in MODULES + SCRIPTS} | {path.stem for path in (ROOT / "tests").rglob("*.py")}
    assert not named & BANNED_NAMES


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_array_docstrings_state_shapes(path: Path) -> None:
    assert not without_shape(parse(path)), "say 'Shape' or a shape such as [B, T] in these docstrings"


def test_readme_tree_is_the_package() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md")
    block = tree_block(readme.read_text(encoding="utf-8"))
    if block is None:
        pytest.skip("README.md has no fenced block that draws src/cllmfs")
    named = set(re.findall(r"[\w-]+\.py\b", block))
    assert {path.name for path in MODULES} - named == set(), "modules that the tree leaves out"
    on_disk = {path.name for path in MODULES + SCRIPTS} | {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert named - on_disk == set(), "names in the tree without a file"


# The checks themselves, on sources made up for them.


def only_function(source: str) -> Function:
    return next(functions(ast.parse(source)))


def test_function_lines_leave_the_docstring_out() -> None:
    assert function_lines(only_function("def f():\n    return 1\n")) == 2
    assert function_lines(only_function('def f():\n    """One.\n\n    More.\n    """\n    return 1\n')) == 2
    assert function_lines(only_function("def f(\n    a,\n):\n    return (\n        a\n    )\n")) == 6


@pytest.mark.parametrize(
    ("docstring", "states"),
    [
        ("Shape: as the input.", True),
        ("Logits [B, T, V].", True),
        ("A mask [T].", True),
        ("A scalar.", True),
        ("Probabilities in [0, 1].", False),
        ("Scores each row.", False),
        ("The slice x[1:2].", False),
        ("", False),
    ],
)
def test_shape_pattern(docstring: str, states: bool) -> None:
    assert bool(SHAPE.search(docstring)) is states


def test_missing_shapes_are_found() -> None:
    source = """
def plain(x: int) -> int: ...
def argument(x: Tensor): "Rows."
def nested(x: list[torch.Tensor | None]): "Rows."
def quoted(x: "np.ndarray"): "Rows."
def starred(*x: Tensor): "Rows."
def result() -> tuple[int, Tensor]: "Rows."
def state() -> dict[str, Tensor]: "Parameters."
def good(x: Tensor) -> Tensor: "Rows [B, T] to [B]."
def literal(x: Literal["a b"]): "Text."
def _private(x: Tensor): ...
class Batch:
    "Rows."
    ids: Tensor
    def forward(self, x: Tensor): ...
    def _hidden(self, x: Tensor): ...
class Fine:
    "ids [B, T]"
    ids: Tensor
class _Private:
    ids: Tensor
"""
    assert without_shape(ast.parse(source)) == [
        "argument",
        "nested",
        "quoted",
        "starred",
        "result",
        "Batch",
        "Batch.forward",
    ]


def test_tree_block_is_found_among_others() -> None:
    readme = "# x\n```python\nimport cllmfs\n```\n\n```\nsrc/cllmfs/\n  errors.py  the errors\n```\n"
    assert tree_block(readme) == "src/cllmfs/\n  errors.py  the errors\n"
    assert tree_block("# x\n```\npip install cllmfs\n```\n") is None


# versions


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = dict(
        line.split("==")
        for line in (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", requirement).groups() for requirement in allowed)  # type: ignore[union-attr]
    assert lowest.keys() == floors.keys()
    for name in floors.keys() - {"torch"}:  # older CPU wheels of it are not on PyPI
        wanted, pinned = (tuple(map(int, version.split("."))) for version in (floors[name], lowest[name]))
        assert pinned[: len(wanted)] == wanted, name
        assert not any(pinned[len(wanted) :]), name
