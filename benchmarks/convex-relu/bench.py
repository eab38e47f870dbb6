"""Convex networks beside CVXPY with Clarabel and scnn on one set of patterns, Adam beside the priced patterns, and how cost grows."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import Bench, Side
from surefoot.convex_networks.patterns import pattern_of, sample_patterns
from surefoot.core.random import Streams

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
CVXPY = Side("cvxpy 1.9.3, Clarabel", HERE / "cvxpy_side.py", peer="cvxpy")
SCNN = Side("pyscnn 0.0.10", HERE / "scnn_side.py", peer="scnn")
PENALTY = 1e-3


def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for case, measure in CASES.items():
            if bench.wants(case):
                measure(bench, Path(scratch))


def mammographic(bench: Bench) -> tuple[np.ndarray, np.ndarray] | None:
    """581 complete rows, standardised, with a column of ones; classes -1 and +1."""
    data = bench.data()
    if data is None:
        bench.note("mammographic masses are left out: SUREFOOT_DATA is not set")
        return None
    with (data / "convex-relu" / "mammographic_masses.csv").open() as stream:
        rows = [row for row in csv.reader(stream) if "?" not in row][1:]
    table = np.array(rows, dtype=float)
    table = table[np.random.default_rng(0).permutation(len(table))][:581]
    X = (table[:, :5] - table[:, :5].mean(axis=0)) / table[:, :5].std(axis=0)
    return np.hstack([X, np.ones((len(X), 1))]), 2 * table[:, 5] - 1


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    X = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    return np.hstack([X, np.ones((len(X), 1))]), 2.0 * data.target - 1


def save(folder: Path, name: str, X: np.ndarray, y: np.ndarray, count: int) -> str:
    features = torch.from_numpy(X)
    directions = sample_patterns(features, count, Streams(0)).directions
    path = folder / f"{name}-{count}.npz"
    patterns = pattern_of(features, directions).T.double().numpy()
    np.savez(path, X=X, y=y, directions=directions.numpy(), patterns=patterns, beta=PENALTY * len(y))
    return str(path)


def same_patterns(bench: Bench, folder: Path) -> None:
    """One program, three solvers."""
    found = mammographic(bench)
    if found is None:
        return
    count = 10 if bench.quick else 50
    request = {
        "case": f"mammographic, {count} patterns",
        "kind": "program",
        "file": save(folder, "mammographic", *found, count),
    }
    rows = bench.paired([OURS, CVXPY, SCNN], [request])
    bench.table(
        "The same patterns", [flat(row) for row in rows],
        says="Squared loss, penalty 1e-3; `objective` a row is the network's own, from its weights; `gap` is by our bounds, at which we stop (1e-4).",
    )  # fmt: skip


def auto(bench: Bench, folder: Path) -> None:
    """Priced patterns beside the best of five networks trained by Adam and L-BFGS."""
    found = mammographic(bench)
    if found is None:
        return
    path = save(folder, "mammographic", *found, 50)
    requests = [{"case": "mammographic, auto", "kind": "auto", "file": path, "rounds": 2 if bench.quick else 20}]
    rows = [flat(row) for row in bench.paired([OURS], requests, repeats=1)]
    bench.table(
        "Patterns priced in", rows,
        says="Penalty 1e-3, squared loss; losses a row. `local` is the best of five networks of width 100 (1,500 Adam steps, then L-BFGS); "
        "`global_gap` is to a bound below all networks, by search.",
    )  # fmt: skip


def growth(bench: Bench, folder: Path) -> None:
    """Seconds over rows and over patterns."""
    rng = np.random.default_rng(0)
    requests = []
    for n, count in ((200, 40), (400, 40), (800, 40), (1600, 40), (400, 80), (400, 160), (400, 320)):
        X = np.hstack([rng.normal(size=(n, 9)), np.ones((n, 1))])
        y = np.sign(X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=n))
        requests += [
            {
                "case": f"{n} rows, {count} patterns",
                "kind": "iteration",
                "solver": solver,
                "file": save(folder, f"g{n}", X, y, count),
            }
            for solver in ("interior", "admm")
        ]
    rows = [flat(row) for row in bench.paired([OURS], requests[: 2 if bench.quick else None], repeats=3)]
    bench.table("Cost of an iteration", rows, says="10 columns. ADMM: n P d + n^2; interior point: n^2 P d + n^3.")


def flat(row: dict[str, Any]) -> dict[str, Any]:
    keep = ("case", "side", "median_s", "min_s", "max_s", "ratio", "repeats")
    return {name: row[name] for name in keep} | (row["value"] or {})


CASES = {"same-patterns": same_patterns, "auto": auto, "growth": growth}
