"""How cost grows: sizes, the terms of the theory fitted to the seconds, and the figure of the docs.

python benchmarks/convex-relu/growth.py     # docs/images/convex-relu-growth.png from benchmarks/results/convex-relu.json
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BASE = {"n": 800, "d": 16, "P": 100}
SWEEPS = {"n": (200, 400, 800, 1600, 3200), "P": (25, 50, 100, 200, 400, 800), "d": (4, 8, 16, 32, 64, 128)}
AXES = {"n": "rows n", "P": "patterns P", "d": "columns d"}

TERMS: dict[str, dict[str, Any]] = {
    "setup_s": {
        "n d²": lambda n, d, P: n * d * d,
        "n² (d + P)": lambda n, d, P: n * n * (d + P),
        "n³": lambda n, d, P: n**3,
    },
    "admm_s": {"n d P": lambda n, d, P: n * d * P, "n P": lambda n, d, P: n * P, "n²": lambda n, d, P: n * n},
}
SAYS = (
    "Non-negative least squares on relative errors; `share` is a term's part of the seconds at the largest size of each sweep, `error` the "
    "median relative error of the fit over all sizes. Theory: set-up n d² + n² (d + P) + n³, an iteration n d P + n² (n P are the elementwise "
    "passes over the patterns, which move memory rather than multiply)."
)
NAMES = {
    "setup_s": "set-up",
    "admm_s": "ADMM iteration",
    "interior_s": "interior-point iteration",
    "solve_s": "whole program, gap 1e-4",
}
COLOURS = {"setup_s": "#1f5f8b", "admm_s": "#3f8f5f", "interior_s": "#d1603d", "solve_s": "#8a5fa8"}


def coefficients(rows: Sequence[Mapping[str, Any]], what: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(terms with "constant" last, seconds a unit of each, matrix of the terms over the rows)."""
    from scipy.optimize import nnls

    terms = TERMS[what]
    sizes = [(row["n"], row["d"], row["P"]) for row in rows]
    A = np.array([[*(float(term(*size)) for term in terms.values()), 1.0] for size in sizes])
    seconds = np.array([row[what] for row in rows])
    scale = A.max(axis=0)
    found, _ = nnls(A / scale / seconds[:, None], np.ones(len(rows)))
    return [*terms, "constant"], found / scale, A


def fits(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a term: seconds a unit, and its share at the ends of the sweeps."""
    out = []
    for what in TERMS:
        names, unit, A = coefficients(rows, what)
        seconds = np.array([row[what] for row in rows])
        error = float(np.median(np.abs(A @ unit / seconds - 1)))
        ends = {axis: max((row for row in rows if row["axis"] == axis), key=lambda row: row[axis]) for axis in SWEEPS}
        for place, name in enumerate(names):
            row: dict[str, Any] = {"of": NAMES[what], "term": name, "seconds_a_unit": float(unit[place])}
            for axis, end in ends.items():
                k = rows.index(end)
                row[f"share_at_{axis}_{end[axis]}"] = float(A[k, place] * unit[place] / (A[k] @ unit))
            out.append(row | {"error": error})
    return out


def draw(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Three log-log panels: measured seconds as dots, the fitted theory as lines."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10.5, 3.9), layout="constrained")
    panels = canvas.subplots(1, 3, sharey=True)
    for axis, panel in zip(SWEEPS, panels, strict=True):
        mine = sorted((row for row in rows if row["axis"] == axis), key=lambda row: row[axis])
        x = np.array([row[axis] for row in mine], dtype=float)
        for what, colour in COLOURS.items():
            y = np.array([row[what] for row in mine])
            panel.loglog(x, y, "o", color=colour, markersize=4)
            if what in TERMS:
                _, unit, _ = coefficients(rows, what)
                grid = np.geomspace(x[0], x[-1], 60)
                sizes = [{**BASE, axis: value} for value in grid]
                theory = [
                    sum(c * term(s["n"], s["d"], s["P"]) for c, term in zip(unit, TERMS[what].values(), strict=False))
                    + unit[-1]
                    for s in sizes
                ]
                panel.loglog(
                    grid, theory, "-", color=colour, linewidth=1.3, label=f"{NAMES[what]}, theory's terms fitted"
                )
            else:
                panel.loglog(x, y, ":", color=colour, linewidth=1.1, label=NAMES[what])
        panel.set_xticks(x, [f"{value:g}" for value in x], fontsize=8)
        panel.minorticks_off()
        panel.set_xlabel(AXES[axis])
        panel.grid(True, color="#e6e6e6", linewidth=0.7)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_ylabel("processor seconds, one thread")
    handles, labels = panels[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    target.parent.mkdir(exist_ok=True)
    canvas.savefig(target, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    stored = json.loads((root / "benchmarks" / "results" / "convex-relu.json").read_text())
    table = next(t for t in stored["tables"] if t["title"] == "How cost grows")
    draw(table["rows"], root / "docs" / "images" / "convex-relu-growth.png")
