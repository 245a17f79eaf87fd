"""The style rules that no linter states: sizes, names, module docstrings, stated shapes, the list of files."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "cllmfs"
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(path for folder in ("mini", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

MAX_FILES = 10
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


def tree_block(page: str) -> str | None:
    """The fenced block of a page that lists the package's files, if there is one."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    return next((block for block in blocks if "src/cllmfs" in block and "errors.py" in block), None)


def listed_paths(block: str) -> set[str]:
    """The paths of a list in which two more spaces mean one folder further in; what stands behind a name is ignored."""
    paths: set[str] = set()
    folders: list[str] = []
    for line in filter(str.strip, block.splitlines()):
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [name.removesuffix("/")]
        paths.add("/".join(folders))
    return paths


def test_there_is_something_to_check() -> None:
    assert PACKAGE / "__init__.py" in MODULES
    assert len(MODULES) > 3


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=identify)
def test_folder_is_small(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MAX_FILES, f"a folder has at most {MAX_FILES} files: split it by stage"


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


def test_list_of_files_is_the_package() -> None:
    block = tree_block((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert block is not None, "CONTRIBUTING.md has no fenced block that lists src/cllmfs"
    listed = listed_paths(block)
    assert {identify(path) for path in MODULES} - listed == set(), "modules that CONTRIBUTING.md leaves out"
    assert {path for path in listed if not (ROOT / path).exists()} == set(), "paths in CONTRIBUTING.md without a file"


# one way from texts to rows


def makes_rows(tree: ast.Module) -> bool:
    """Whether a module constructs :class:`cllmfs.encoding.rows.Row`, under whatever name it has imported it."""
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {
        alias.asname or alias.name
        for node in imports
        for alias in node.names
        if alias.name == "Row" and (node.module or "").startswith("cllmfs.")
    }
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return any(
        (isinstance(made, ast.Name) and made.id in names)
        or (isinstance(made, ast.Attribute) and made.attr == "Row" and "rows" in ast.unparse(made.value))
        for made in called
    )


def test_rows_are_made_in_one_place() -> None:
    makers = [identify(path) for path in MODULES + SCRIPTS if makes_rows(parse(path))]
    assert makers == ["src/cllmfs/encoding/encoder.py"], "texts and types become rows in the encoder, nowhere else"


# The checks themselves, on sources made up for them.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from cllmfs.encoding.rows import Row\nx = Row((), ())\n", True),
        ("from cllmfs.encoding.rows import Row as R\ndef f():\n    return [R() for _ in y]\n", True),
        ("from cllmfs.encoding.batches import Row\nx = Row((), ())\n", True),
        ("from cllmfs.encoding import rows\nx = rows.Row((), ())\n", True),
        ("import cllmfs.encoding.rows\nx = cllmfs.encoding.rows.Row((), ())\n", True),
        ("from cllmfs.encoding.rows import Row\ndef f(x: Row) -> Row: return x\n", False),
        ("class Row: ...\nx = Row()\n", False),
        ("from other import Row\nx = Row()\n", False),
    ],
)
def test_makers_of_rows_are_found(source: str, expected: bool) -> None:
    assert makes_rows(ast.parse(source)) == expected


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
    page = "# x\n```python\nimport cllmfs\n```\n\n```\nsrc/cllmfs/\n  errors.py  the errors\n```\n"
    assert tree_block(page) == "src/cllmfs/\n  errors.py  the errors\n"
    assert tree_block("# x\n```\npip install cllmfs\n```\n") is None


def test_listed_paths_follow_the_indentation() -> None:
    block = "a/\n  b/     first\n    c.py  second\n  d.py\ne.md\n"
    assert listed_paths(block) == {"a", "a/b", "a/b/c.py", "a/d.py", "e.md"}


# versions


def test_the_lowest_versions_are_those_that_are_allowed() -> None:
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    lowest = dict(
        line.split("==")
        for line in (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
    floors = dict(re.match(r"([\w-]+)>=([\d.]+)", requirement).groups() for requirement in allowed)  # type: ignore[union-attr]
    assert lowest.keys() - {"datasets", "pyarrow"} == floors.keys()  # these two belong to an extra
    for name in floors.keys() - {"torch"}:  # older CPU wheels of it are not on PyPI
        wanted, pinned = (tuple(map(int, version.split("."))) for version in (floors[name], lowest[name]))
        assert pinned[: len(wanted)] == wanted, name
        assert not any(pinned[len(wanted) :]), name


# spelling

BRITISH = re.compile(
    r"\b\w*(?:colour|licence|catalogue|neighbour|behaviour|favour|labelled|labelling|learnt|analyse[ds]?\b|centred"
    r"|(?:token|recogn|optim|normal|minim|maxim|initial|quant|summar|categor|general|capital|serial)is(?:e|ing|ation))\w*",
    re.IGNORECASE,
)
# Keys of other people's META.json files are read in either spelling.
ALLOWED_SPELLINGS = {"src/cllmfs/datasets/facts.py", "mini/sources.py", "tests/mini/test_data.py"}
PROSE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")]


def prose_and_code() -> Iterator[Path]:
    """Everything that people write and read here, but for the dated log and the sentences that models learn from."""
    for folder in ("src", "mini", "benchmarks", "tests", "docs"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".md", ".toml") and "written" not in path.parts and path.name != "types.toml":
                yield path
    yield from PROSE


def test_one_spelling() -> None:
    skipped = {*ALLOWED_SPELLINGS, "docs/log.md", "src/cllmfs/example/labels.toml", identify(Path(__file__).resolve())}
    found = [
        f"{identify(path)}: {match[0]}"
        for path in prose_and_code()
        if identify(path) not in skipped
        for match in BRITISH.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found, "this project writes American English"


def test_the_pattern_knows_british_words() -> None:
    assert BRITISH.search("the tokeniser") and BRITISH.search("Labelled") and BRITISH.search("neighbouring")
    assert not BRITISH.search("tokenizer, labeled, neighbor, optimistic, generals, realistic")
