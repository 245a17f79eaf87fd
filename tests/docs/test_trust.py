"""The page on trust: every test that it names exists, and every trouble names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "trust.md"


def test_every_trouble_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    troubles = [row for row in rows if not row.startswith("| trouble ")]
    assert len(troubles) > 25
    for row in troubles:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert any(isinstance(one, ast.FunctionDef) and one.name == test for one in ast.walk(tree)), (file, test)
