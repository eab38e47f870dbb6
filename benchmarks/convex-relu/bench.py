"""Convex networks beside CVXPY with Clarabel and scnn on one set of patterns, Adam beside the priced patterns, known values, how cost
grows, and training against perturbed photos."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import growth
import numpy as np
import tables
import torch

from harness import Bench, Side
from surefoot.convex_networks.patterns import pattern_of, sample_patterns
from surefoot.core.random import Streams

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
CVXPY = Side("cvxpy 1.9.3, Clarabel", HERE / "cvxpy_side.py", peer="cvxpy")
SCNN = Side("pyscnn 0.0.10", HERE / "scnn_side.py", peer="scnn")
PENALTY = 1e-3
NAMES = {"mammographic": "mammographic masses", "cancer": "breast cancer", "digits": "digits, 3 against 8"}


def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for case, measure in CASES.items():
            if bench.wants(case):
                measure(bench, Path(scratch))


def table_of(bench: Bench, which: str) -> tables.Table | None:
    if which == "cancer":
        return tables.breast_cancer()
    if which == "digits":
        return tables.digits_binary()
    data = bench.data()
    if data is None:
        bench.note("mammographic masses are left out: SUREFOOT_DATA is not set")
        return None
    return tables.mammographic(data)


def save(folder: Path, name: str, table: tables.Table, count: int, beta: float = 0.0) -> str:
    X, y = table
    features = torch.from_numpy(X)
    directions = sample_patterns(features, count, Streams(0)).directions
    path = folder / f"{name}-{count}.npz"
    patterns = pattern_of(features, directions).T.double().numpy()
    np.savez(path, X=X, y=y, directions=directions.numpy(), patterns=patterns, beta=beta or PENALTY * len(y))
    return str(path)


def same_patterns(which: str, bench: Bench, folder: Path) -> None:
    """One program, three solvers."""
    found = table_of(bench, which)
    if found is None:
        return
    count = 10 if bench.quick else 50
    request = {
        "case": f"{len(found[1])} x {found[0].shape[1]}, {count} patterns",
        "kind": "program",
        "file": save(folder, which, found, count),
    }
    rows = bench.paired([OURS, CVXPY, SCNN], [request])
    bench.table(
        f"The same patterns: {NAMES[which]}", [flat(row) for row in rows],
        says="Squared loss, penalty 1e-3; `objective` a row is the network's own, from its weights; `gap` is by our bounds, at which we stop (1e-4).",
    )  # fmt: skip


def auto(which: str, bench: Bench, folder: Path) -> None:
    """Priced patterns beside the best of five networks trained by Adam and L-BFGS."""
    found = table_of(bench, which)
    if found is None:
        return
    path = save(folder, which, found, 50)
    request = {
        "case": f"{len(found[1])} x {found[0].shape[1]}",
        "kind": "auto",
        "file": path,
        "rounds": 2 if bench.quick else 20,
    }
    rows = [flat(row) for row in bench.paired([OURS], [request], repeats=1)]
    bench.table(
        f"Patterns priced in: {NAMES[which]}", rows,
        says="Penalty 1e-3, squared loss; losses a row. `local` is the best of five networks of width 100 (1,500 Adam steps, then L-BFGS); "
        "`global_gap` is to a bound below all networks, by search. Seconds are of the clock, `cpu_s` of the processor.",
    )  # fmt: skip


def known(bench: Bench, folder: Path) -> None:
    """Small programs: all patterns against the exact bound, drawn neurons against it, one program by two interior points, worst cases by a grid."""
    rows: list[dict[str, Any]] = []
    sine = {"kind": "sine", "file": save(folder, "sine", tables.sine(), 24, 0.05)}
    rows += [flat(row) for row in bench.paired([OURS], [
        {**sine, "case": "sin(3x), 12 points, beta 0.05: all patterns", "neurons": 0},
        *({**sine, "case": f"the same: {count} drawn neurons", "neurons": count} for count in (100, 1000, 5000)),
        {**sine, "case": "the same: best of 8 Adam runs, width 30", "neurons": -1},
    ], repeats=1)]  # fmt: skip
    bench.table(
        "All patterns and drawn neurons", rows,
        says="Summed squared loss. `lower` is below every network of any width (proved) for all patterns, and for drawn neurons below every network with these.",
    )  # fmt: skip
    rows = bench.paired([OURS, CVXPY], [
        {"case": "breast cancer, 100 x 5, 10 patterns, beta 0.1", "kind": "program", "file": save(folder, "hundred", tables.breast_cancer(100, 4), 10, 0.1)}
    ])  # fmt: skip
    bench.table("Ten patterns", [flat(row) for row in rows], says="Losses a row, as above.")
    path = save(folder, "xor", tables.xor(), 60, 1e-3)
    rows = bench.paired([OURS], [
        {"case": f"XOR, 24 points, radius 0.05: {loss}", "kind": "worst", "file": path, "loss": loss} for loss in ("squared", "logistic", "hinge")
    ], repeats=1)  # fmt: skip
    bench.table(
        "Worst cases", [flat(row) for row in rows],
        says="Trained against perturbations of up to 0.05; losses summed, beta 1e-3. `program` is the loss part of the convex objective, `grid` the "
        "largest loss of each row over 81 x 81 points of its box, found by looking at all.",
    )  # fmt: skip


def cost(bench: Bench, folder: Path) -> None:
    """Seconds of set-up, iterations and whole programs over rows, patterns and columns."""
    requests = []
    for axis, values in growth.SWEEPS.items():
        for value in values[:2] if bench.quick else values:
            size = {**growth.BASE, axis: value}
            table = tables.planted(size["n"], size["d"])
            path = save(folder, f"g{size['n']}-{size['d']}", table, size["P"])
            requests.append({"case": f"{axis} = {value}", "kind": "growth", "file": path, "axis": axis, **size})
    rows = [
        {
            name: value
            for name, value in flat(row).items()
            if name not in ("side", "ratio", "median_s", "min_s", "max_s", "repeats")
        }
        for row in bench.paired([OURS], requests, repeats=1)
    ]
    bench.table(
        "How cost grows", rows,
        says="Processor seconds on one thread: set-up and one iteration of ADMM, one iteration of the interior point, and the whole program to a gap of 1e-4 (interior "
        f"point). Elsewhere {growth.BASE['n']} rows, {growth.BASE['d']} columns, {growth.BASE['P']} patterns.",
    )  # fmt: skip
    if not bench.quick:
        bench.table("Terms of the cost", growth.fits(rows), says=growth.SAYS)


def kinked(bench: Bench, folder: Path) -> None:
    """Hinge loss where rows and weights are many: the interior point that "auto" takes, and ADMM."""
    n, count = (300, 20) if bench.quick else (5000, 260)
    path = save(folder, "kinked", tables.planted(n, 10), count)
    requests = [
        {
            "case": f"{n} x 10, {count} patterns: {solver}",
            "kind": "kinked",
            "file": path,
            "solver": solver,
            "iterations": iterations,
        }
        for solver, iterations in (("auto", 100), ("admm", 400))
    ]
    rows = [flat(row) for row in bench.paired([OURS], requests, repeats=1)]
    bench.table(
        "Hinge loss, many rows", [{k: v for k, v in row.items() if k not in ("side", "ratio", "min_s", "max_s", "repeats", "median_s")} for row in rows],
        says="Penalty 1e-3, tolerance 1e-4; the gap of the convex program as certified, processor seconds on one thread.",
    )  # fmt: skip


def photos(bench: Bench, folder: Path) -> None:
    """Birds against ships: convex training, plain and robust, beside gradient descent on clean, FGSM and PGD pictures."""
    data = bench.data()
    if data is None:
        bench.note("birds and ships are left out: SUREFOOT_DATA is not set")
        return
    train, test = tables.birds_and_ships(data)
    path = str(folder / "photos.npz")
    np.savez(path, X=train[0], y=train[1], X_test=test[0], y_test=test[1])
    ways = ("convex", "convex, robust", "Adam, clean", "Adam, FGSM", "Adam, PGD")
    requests = [{"case": way, "kind": "photos", "file": path, "way": way, "quick": bench.quick} for way in ways]
    rows = bench.paired([Side("surefoot", HERE / "photos.py")], requests, repeats=1)
    bench.table(
        "Birds against ships, perturbed", [{k: v for k, v in flat(row).items() if k not in ("side", "ratio", "min_s", "max_s", "repeats")} for row in rows],
        says="147 features in [0, 1], 1,200 photos to train on, 600 to test; logistic loss, beta 0.5; radius 10/255 a feature. Shares of test photos that are right: clean, after "
        "one full sign step, after projected sign-gradient attacks (3 starts, 30 steps), and proved right under every perturbation.",
    )  # fmt: skip


def flat(row: dict[str, Any]) -> dict[str, Any]:
    keep = ("case", "side", "median_s", "min_s", "max_s", "ratio", "repeats")
    return {name: row[name] for name in keep} | (row["value"] or {})


CASES = {
    "same-patterns": partial(same_patterns, "mammographic"),
    "same-patterns-cancer": partial(same_patterns, "cancer"),
    "same-patterns-digits": partial(same_patterns, "digits"),
    "auto": partial(auto, "mammographic"),
    "auto-cancer": partial(auto, "cancer"),
    "auto-digits": partial(auto, "digits"),
    "known": known,
    "growth": cost,
    "kinked": kinked,
    "photos": photos,
}
