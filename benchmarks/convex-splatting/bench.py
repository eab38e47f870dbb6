"""The compiled rasteriser beside the dense reference, and its threads beside one another."""

from __future__ import annotations

from pathlib import Path

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
DENSE = Side("reference", HERE / "dense.py", label="float64, autograd; four rows, scaled to all")


def main(bench: Bench) -> None:
    data = bench.data()
    folder = str(data / "convex-splatting" / "sceaux") if data and not bench.quick else ""
    if not folder:
        bench.note("without SUREFOOT_DATA the scene is a generated turntable")
    name = "facade at a quarter size" if folder else "turntable"
    if bench.wants("dense"):
        asked = [{"case": f"forward and backward, {name}", "data": folder, "render_threads": 0, "times": 3}]
        rows = bench.paired([OURS, DENSE], asked, repeats=1 if bench.quick else 3)
        bench.table("Beside the dense reference", rows, says="The published start: soft convexes that overlap widely.")
    if bench.wants("threads"):
        asked = [
            {"case": f"{n} thread{'s' * (n > 1)}", "data": folder, "render_threads": n, "times": 3} for n in (2, 1)
        ]
        rows = bench.paired([OURS], asked)
        first = rows[0]["median_s"]
        for row in rows:
            row["ratio"] = row["median_s"] / first
        bench.table("Threads", rows, says="Ratios to two threads.")
    bench.note("the peers on a GPU (gsplat, the published code) need nvcc and are not run here")
