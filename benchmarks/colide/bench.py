"""CoLiDE beside dagma: published figures, the order repair, full fits, time an iteration, and the distance to the limit."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import equal, sachs

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
DAGMA = Side("dagma 1.1.1", HERE / "dagma_side.py", peer="dagma")
SCHEDULE = {"warm_steps": 20_000, "last_steps": 70_000}


def main(bench: Bench) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for case, measure in CASES.items():
            if bench.wants(case):
                measure(bench, folder)


def request(case: str, file: str, *, checkpoint: int = 1000, **method: Any) -> dict[str, Any]:
    """A fit by both sides on one schedule; `method` is ours alone."""
    options = {**SCHEDULE, "checkpoint": checkpoint, **method}
    return {
        "kind": "fit",
        "case": case,
        "file": file,
        "method": options,
        "sparsity": 0.05,
        "checkpoint": checkpoint,
        **SCHEDULE,
    }


def published(bench: Bench, folder: Path) -> None:
    """Sachs: the paper's table and ours, with the time of the whole schedule."""
    file = sachs(folder)
    if not file:
        bench.note("published figures on Sachs left out: cdt is not installed")
        return
    rows: list[dict[str, Any]] = []
    for variance in ("equal", "unequal"):
        for repair in ("cycles", "ascending"):
            asked = request(f"{variance} noise, {repair}", file, variance=variance, repair=repair)
            rows += bench.paired([OURS], [asked], repeats=1)
    whole = request("unequal noise, all 130,000 steps", file, variance="unequal", checkpoint=10**9)
    rows += bench.paired([OURS, DAGMA], [whole], repeats=1 if bench.quick else bench.repeats)
    stopped = request("the published stopping rule", file, variance="unequal")
    rows += bench.paired([OURS, DAGMA], [stopped], repeats=1 if bench.quick else bench.repeats)
    says = (
        "853 cells, 11 proteins, 17 consensus edges, raw columns. Published: 13 (equal) and 12 (unequal noise), with cycles broken "
        "in ascending magnitude. The tour allows ten seconds."
    )
    bench.table("Sachs", [flat(row) for row in rows], says=says)


def orders(bench: Bench, folder: Path) -> None:
    """ER4, d = 50, five seeds, three noise levels: the order repair with its certificate, the path alone, and dagma."""
    rows: list[dict[str, Any]] = []
    for variance in (1.0, 5.0, 10.0)[: 1 if bench.quick else 3]:
        found: dict[str, list[dict[str, Any]]] = {}
        for seed in range(1 if bench.quick else 5):
            file = equal(folder, 50, variance, seed)
            repaired = request(
                f"variance {variance:g}, seed {seed}, order repair", file, variance="equal", refine="order"
            )
            plain = request(f"variance {variance:g}, seed {seed}, path alone", file, variance="equal")
            found.setdefault("surefoot, refine=order", []).extend(
                bench.paired([OURS], [{**repaired, "certify": True}], repeats=1)
            )
            for row in bench.paired([OURS, DAGMA], [plain], repeats=1):
                found.setdefault(row["side"], []).append(row)
        for side, results in found.items():
            values = [row["value"] for row in results]
            rows.append({
                "noise_variance": variance, "side": side, "mean_shd": float(np.mean([v["shd"] for v in values])),
                "worst_shd": max(v["shd"] for v in values),
                "worst_relative_gap": max((v["relative_gap"] for v in values if "relative_gap" in v), default=None),
                "least_p_bartlett": min((v["bartlett_p"] for v in values if "bartlett_p" in v), default=None),
                "least_p_brown_forsythe": min((v["brown_forsythe_p"] for v in values if "brown_forsythe_p" in v), default=None),
                "median_s": float(np.median([row["median_s"] for row in results])),
            })  # fmt: skip
    says = "ER4 graphs of 50 variables, 1,000 rows, weights in [0.5, 2]. The greedy order is due to Chen, Drton and Wang (2019)."
    bench.table("Equal noise: order repair", rows, says=says)


def fits(bench: Bench, folder: Path) -> None:
    """Full fits with the published stopping rule, same schedule and sparsity."""
    asked = [
        request(f"d = {d}", equal(folder, d, 1.0, 0), variance="equal")
        for d in ((10, 20) if bench.quick else (10, 20, 50, 100))
    ]
    rows = bench.paired([OURS, DAGMA], asked)
    bench.table(
        "Full fits", [flat(row) for row in rows], says="ER4, equal noise; both sides stop by the published rule."
    )


def schedule(bench: Bench, folder: Path) -> None:
    """The whole schedule of 130,000 steps without early stop."""
    sizes = (10,) if bench.quick else (10, 20, 50, 100)
    asked = [request(f"d = {d}", equal(folder, d, 1.0, 0), variance="equal", checkpoint=10**9) for d in sizes]
    rows = bench.paired([OURS, DAGMA], asked, repeats=1 if bench.quick else min(3, bench.repeats))
    bench.table(
        "All 130,000 steps", [flat(row) for row in rows], says="ER4, equal noise, no early stop on either side."
    )


def iterations(bench: Bench, folder: Path) -> None:
    """Seconds an iteration from W = 0, both noise models."""
    sizes = ((100, 200),) if bench.quick else ((50, 4000), (100, 1500), (200, 300), (500, 40))
    rows: list[dict[str, Any]] = []
    for d, count in sizes:
        file = equal(folder, d, 1.0, 0)
        for variance in ("equal", "unequal"):
            asked = {
                "kind": "steps",
                "case": f"d = {d}, {variance} noise",
                "file": file,
                "variance": variance,
                "count": count,
            }
            rows += bench.paired([OURS, DAGMA], [asked])
    bench.table("Time an iteration", [flat(row) for row in rows])


def limits(bench: Bench, folder: Path) -> None:
    """Where a step's time goes."""
    sizes = ((11, 2000),) if bench.quick else ((11, 5000), (50, 2000), (100, 500), (200, 150), (500, 15))
    rows: list[dict[str, Any]] = []
    for d, count in sizes:
        asked = {
            "kind": "limit",
            "case": f"d = {d}",
            "file": equal(folder, d, 1.0, 0),
            "variance": "unequal",
            "count": count,
        }
        rows += [{"case": row["case"], **row["value"]} for row in bench.paired([OURS], [asked], repeats=1)]
    says = (
        "blas_share: time of one inverse and one product alone over the time of a step. The limit is 4 d^3 flops (an inverse and a "
        "product) at the speed of a product of order 1,000 on the same thread."
    )
    bench.table("Distance from the limit", rows, says=says)


def batches(bench: Bench, folder: Path) -> None:
    """Bootstrap resamples of one table, one by one and as one tensor program, on the CPU."""
    rows: list[dict[str, Any]] = []
    method = {"variance": "equal", "warm_steps": 3000, "last_steps": 3000}
    for d, count in ((10, 50),) if bench.quick else ((10, 100), (20, 50)):
        file = equal(folder, d, 1.0, 0)
        for together in (False, True):
            asked = {
                "kind": "batch", "case": f"d = {d}, {count} graphs, {'batch' if together else 'one by one'}", "file": file,
                "method": method, "count": count, "together": together,
            }  # fmt: skip
            rows += [flat(row) for row in bench.paired([OURS], [asked], repeats=3)]
    bench.table(
        "Batches",
        rows,
        says="Seconds a graph on the CPU. On a GPU the same program runs with device='cuda'; not measured here.",
    )


def million(bench: Bench, folder: Path) -> None:
    """From a CSV of a million rows to the table that the method works on."""
    from surefoot.causal.problem import table_from_chunks
    from surefoot.data.tables import stream_table

    count = 50_000 if bench.quick else 1_000_000
    path = folder / "big.csv"
    rng = np.random.default_rng(0)
    with path.open("w") as stream:
        stream.write(",".join(f"v{j}" for j in range(10)) + "\n")
        for _ in range(count // 10_000):
            np.savetxt(stream, rng.normal(size=(10_000, 10)), delimiter=",", fmt="%.8g")
    began = time.perf_counter()
    source = stream_table(path)
    problem = table_from_chunks(source.names, source.chunks)
    seconds = time.perf_counter() - began
    rows = [
        {
            "rows": problem.rows,
            "columns": problem.order,
            "megabytes": round(path.stat().st_size / 1e6),
            "seconds": seconds,
        }
    ]
    bench.table(
        "Reading a large table", rows, says="CSV to covariance in one pass; rows beyond 100,000 are thinned evenly."
    )


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A harness row with its values as columns."""
    keep = ("case", "side", "median_s", "min_s", "max_s", "ratio", "repeats")
    return {name: row[name] for name in keep} | (row["value"] or {})


CASES = {
    "sachs": published,
    "orders": orders,
    "fits": fits,
    "schedule": schedule,
    "iterations": iterations,
    "limits": limits,
    "batches": batches,
    "million": million,
}
