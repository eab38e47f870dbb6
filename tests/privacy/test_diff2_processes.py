"""Real processes over gloo give the numbers of one process, bit for bit; private ones agree among themselves."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surefoot.core.solve import solve
from surefoot.privacy.exchange import InProcess, Processes, joined

EXAMPLE = Path(__file__).parents[2] / "examples" / "diff2_processes.py"


def example() -> Any:
    spec = importlib.util.spec_from_file_location("diff2_processes", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tables(folder: Path, sizes: tuple[int, ...]) -> str:
    rng = np.random.default_rng(0)
    for rank, size in enumerate(sizes):
        X = rng.uniform(-0.5, 0.5, size=(size, 2))
        rows = np.column_stack([X, X @ [1.0, -0.5] + 0.1 * rng.normal(size=size)])
        np.savetxt(folder / f"site-{rank}.csv", rows, delimiter=",", header="a,b,y", comments="")
    return str(folder / "site-{rank}.csv")


def launched(table: str, world: int, *flags: str) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={world}",
        str(EXAMPLE),
        table,
    ]
    command += ["--rounds", "12", "--restart", "4", "--epsilon", "5", "--delta", "1e-3", "--allow-large-delta", *flags]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=240, check=False)
    lines = [line[2:] for line in done.stdout.splitlines() if line.startswith("@@")]
    assert len(lines) == 1, done.stderr[-3000:]
    return json.loads(lines[0])


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "trust"), [((1, 30), "secagg"), ((1, 12, 5, 20), "central")])
def test_processes_equal_the_simulation(sizes: tuple[int, ...], trust: str, tmp_path: Path) -> None:
    table, module = tables(tmp_path, sizes), example()
    found = launched(table, len(sizes), "--seed", "3", "--not-private", "--trust", trust)
    clients = {rank: module.records(table.format(rank=rank)) for rank in range(len(sizes))}
    asked = argparse.Namespace(epsilon=5.0, delta=1e-3, rounds=12, restart=4, trust=trust, allow_large_delta=True)
    result = solve(module.problem(clients, sizes, InProcess()), module.method(asked, None), seed=3)
    assert found["answer"] == result.answer.tolist()
    assert found["steps"] == 12
    assert result.certificate is not None
    assert found["gradient"] == result.certificate.claim("gradient").value


@pytest.mark.slow
def test_private_processes_keep_one_ledger_and_no_seed(tmp_path: Path) -> None:
    table = tables(tmp_path, (20, 30))
    out = tmp_path / "run"
    launched(table, 2, "--out", str(out))
    lines = [json.loads(line) for line in (out / "private" / "ledger.jsonl").read_text().splitlines()]
    assert sum(line["number"] for line in lines if line["name"] == "anchor") == 3
    assert sum(line["number"] for line in lines if line["name"] == "difference") == 9
    assert not (out / "checkpoints").exists()
    for state in (out / "private" / "checkpoints").glob("*/state.json"):
        assert json.loads(state.read_text())["seed"] is None


def test_one_process_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="3 clients but 2 processes"):
        Processes(0, 2).mine(3)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(RuntimeError, match="torchrun"), joined():
        pass
    assert torch.equal(InProcess().announce(torch.ones(2)), torch.ones(2))
