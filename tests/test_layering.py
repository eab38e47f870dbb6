"""Floors that import-linter cannot say: what a checker or a reference may import is an allowed list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "surefoot"
FLOORS = ("surefoot.core", "surefoot.numerics", "surefoot.data", "surefoot.records")
CHECKERS = sorted(SOURCE.glob("*/*verify*.py"), key=str)
DOMAIN_CHECKERS = [p for p in CHECKERS if p.parent.name != "core"] + sorted(SOURCE.glob("*/verify/*.py"), key=str)
REFERENCES = sorted(SOURCE.glob("*/*reference*.py"), key=str)


def imports(path: Path) -> set[str]:
    """Every Surefoot module that a file imports, anywhere in it (names from a package count as modules)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used"
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] == "surefoot"}


@pytest.mark.parametrize("path", DOMAIN_CHECKERS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_checkers_share_nothing_with_solvers(path: Path) -> None:
    """Allowed: the floors below, the domain's problems with the modules they are stated in, and other checkers."""
    folder = path.parent.parent if path.parent.name == "verify" else path.parent
    domain = f"surefoot.{folder.name}"
    problems = sorted(folder.glob("*problem.py"))  # a domain of two systems may have two
    stated_in = {name for problem in problems for name in imports(problem)}
    for name in imports(path):
        vocabulary = name in stated_in or name in {f"{domain}.{problem.stem}" for problem in problems}
        allowed = name.startswith(FLOORS) or vocabulary or "verify" in name.removeprefix(domain)
        assert allowed, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", REFERENCES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_references_use_no_kernel(path: Path) -> None:
    assert not [name for name in imports(path) if "kernel" in name]


def test_core_is_short() -> None:
    lines = sum(len(p.read_text().splitlines()) for p in (SOURCE / "core").glob("*.py"))
    assert lines <= 1200, f"core has {lines} lines"
