"""The example of docs/write-a-card.md is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "write-a-card.md"
RUN = """
import sys
from surefoot import catalog
catalog.BUILT_IN = {"ridge": "surefoot_ridge.card:CARD"}
import pytest
sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "tests"]))
"""


def test_the_example_passes_its_contract_tests(tmp_path: Path) -> None:
    files = re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", PAGE.read_text(), re.S)
    assert {"problem.py", "method.py", "verify.py", "card.py", "pyproject.toml", "tests/test_contracts.py"} == {
        n for n, _ in files
    }
    package = tmp_path / "src" / "surefoot_ridge"
    package.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (package / "__init__.py").touch()
    for name, text in files:
        (tmp_path / name if "/" in name or name.endswith("toml") else package / name).write_text(text)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
