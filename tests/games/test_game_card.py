"""The card's page and its kinds of input, as a user meets them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.cli import main
from surefoot.core.certificate import read_claims
from surefoot.core.rundir import RunReader

PAGE = Path(__file__).parents[2] / "docs" / "cards" / "small-gain-nash.md"
NAU = 'NFG 1 R "Nau" { "a" "b" "c" } { 2 2 2 }\n\n3 0 2 0 1 0 0 2 0 1 0 0 1 0 0 0 3 0 0 1 0 2 0 3\n'  # one irrational equilibrium


def test_the_page_s_example_runs_and_is_right() -> None:
    """-x exp(-x - c y) is least at x = 1 whatever y: the equilibrium is (1, 1)."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(code) == 1
    names: dict[str, Any] = {}
    exec(code[0], names)
    assert names["result"].answer == pytest.approx([1, 1], abs=names["result"].certificate.claim("error").value)


def outcomes(run: Path) -> dict[str, str]:
    return {claim.name: claim.outcome for claim in read_claims(RunReader(run))}


def test_a_table_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "game.nfg").write_text(NAU)
    assert main(["run", "small-gain-nash", str(tmp_path / "game.nfg"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert outcomes(tmp_path / "out") == {
        "unique-logit": "holds", "logit-error": "holds", "nash-regret": "holds", "unique-nash": "holds",
    }  # fmt: skip
    assert main(["verify", str(tmp_path / "out"), "--full"]) == 0


@pytest.mark.parametrize("flags", [[], ["--integrator", "rk4"], ["--rates", "per-player"], ["--preset", "paper"]])
def test_matrices_from_the_command_line(tmp_path: Path, flags: list[str]) -> None:
    game = {"jacobian": np.array([[1.0, 2.0], [0.2, 1.0]]), "blocks": np.array([1, 1]), "offset": np.array([1.0, -1.0])}
    np.savez(tmp_path / "game.npz", **game)
    assert (
        main(["run", "small-gain-nash", str(tmp_path / "game.npz"), "-o", str(tmp_path / "out"), "--quiet", *flags])
        == 0
    )
    assert outcomes(tmp_path / "out")["small-gain"] == "holds"
    assert main(["verify", str(tmp_path / "out"), "--full"]) == 0


@pytest.mark.parametrize(
    ("name", "arrays"),
    [
        ("nan", {"jacobian": np.full((2, 2), np.nan), "blocks": np.array([1, 1])}),
        ("blocks", {"jacobian": np.eye(2), "blocks": np.array([3])}),
        ("missing", {"matrix": np.eye(2)}),
        ("ragged", {"payoffs": np.zeros((2, 3))}),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, arrays: dict[str, np.ndarray]
) -> None:
    np.savez(tmp_path / f"{name}.npz", **arrays)
    assert main(["run", "small-gain-nash", str(tmp_path / f"{name}.npz"), "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert "expected" in (said := capsys.readouterr().err) or "NaN" in said or "need" in said
