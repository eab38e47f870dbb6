"""Pictures of a learned graph, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.causal.export import read_dag
from surefoot.causal.layout import layout
from surefoot.causal.metrics import count_edges, structural_hamming_distance
from surefoot.causal.problem import Dag
from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[np.float64]]
RIGHT, TURNED, EXTRA, MISSING, PLAIN = "#3f8f5f", "#b8860b", "#d1603d", "#9aa4ad", "#1f5f8b"
PER_LAYER = 1.7
"""Inches from layer to layer."""

MOST_DRAWN = 60
"""Graphs with more variables are shown as a matrix."""


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    dag = read_dag(reader.answer_dir)
    count = int(np.count_nonzero(dag.adjacency))
    said = f"{count} edge{'s' * (count != 1)} among {len(dag.names)} variables"
    truth = _truth(reader)
    if truth is None:
        return f"{said}, no cycle."
    found = count_edges(dag.adjacency, truth)
    distance = structural_hamming_distance(dag.adjacency, truth)
    return (
        f"{said}; {distance} pairs differ from the reference graph of {int(truth.sum())} edges: {found.correct} right, "
        f"{found.reversed} reversed, {found.extra} extra, {found.missing} missing."
    )


def figures(reader: RunReader) -> Sequence[Figure]:
    """The graph along its causal order (beside the reference graph, where there is one) and the noise levels."""
    dag, truth = read_dag(reader.answer_dir), _truth(reader)
    if len(dag.names) > MOST_DRAWN:
        picture = Figure(
            "graph", "Weights of the learned graph, rows and columns along the causal order.", _matrix(dag)
        )
    elif truth is None:
        picture = Figure(
            "graph",
            "The learned graph along its causal order: causes to the left, width by the size of the effect on the scale "
            "of the columns' spreads.",
            _graph(dag, None, _deviations(reader)),
        )
    else:
        picture = Figure(
            "graph",
            "The learned graph along its causal order, held against the reference graph: right, reversed and extra edges; "
            "missing ones dashed.",
            _graph(dag, truth, _deviations(reader)),
        )
    levels = Figure(
        "noise",
        "Each variable's spread, and the part of it that its causes do not explain.",
        _noise(dag, _deviations(reader)),
    )
    return [picture, levels]


def _truth(reader: RunReader) -> Array | None:
    if not reader.has("evidence/truth.npz"):
        return None
    return np.asarray(reader.evidence("truth.npz")["edges"], dtype=np.float64)


def _deviations(reader: RunReader) -> Array:
    return np.sqrt(np.diag(reader.evidence("covariance.npz")["covariance"]))


def _graph(dag: Dag, truth: Array | None, deviations: Array) -> Any:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    plan = layout(dag)
    points = np.vstack([plan.places, *plan.routes.values()])
    low, high = points.min(axis=0), points.max(axis=0)
    span = high - low
    canvas = Canvas(figsize=(min(18.0, 1.6 + PER_LAYER * (span[0] + 0.6)), min(14.0, max(3.6, 0.62 * (span[1] + 2.0)))))
    axis = canvas.subplots()
    axis.axis("off")
    half = [(0.04 * len(name) + 0.1) / PER_LAYER for name in dag.names]  # half the box of a name, in layers
    strength = np.abs(dag.adjacency) * deviations[:, None] / deviations[None, :]
    strongest = float(strength.max()) or 1.0
    for (i, j), route in plan.routes.items():
        colour = PLAIN if truth is None else RIGHT if truth[i, j] else TURNED if truth[j, i] else EXTRA
        start, end = plan.places[i] + [half[i], 0.0], plan.places[j] - [half[j] + 0.02, 0.0]
        _route(axis, np.vstack([start, route, end]), colour, 1.0 + 2.5 * float(strength[i, j]) / strongest)
    if truth is not None:
        found = dag.adjacency != 0
        for i, j in np.argwhere((truth != 0) & ~found & ~found.T):
            _arc(axis, plan.places[i], plan.places[j])
        entries: Any = (
            ("right", RIGHT, "-"),
            ("reversed", TURNED, "-"),
            ("extra", EXTRA, "-"),
            ("missing", MISSING, "--"),
        )
        handles = [Line2D([], [], color=c, linestyle=s, linewidth=2, label=label) for label, c, s in entries]
        axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4)
    for j, name in enumerate(dag.names):
        box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#4a545e"}
        axis.text(
            float(plan.places[j, 0]),
            float(plan.places[j, 1]),
            name,
            ha="center",
            va="center",
            fontsize=9,
            zorder=4,
            bbox=box,
        )
    axis.set(xlim=(low[0] - 0.5, high[0] + 0.5), ylim=(low[1] - 1.0, high[1] + 1.0))
    return canvas


def _route(axis: Any, points: Array, colour: str, width: float) -> None:
    """A curve through points from left to right, level at each of them, with a head at its end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    corners, codes = [points[0]], [Path.MOVETO]
    for start, end in pairwise(points):
        reach = np.array([(end[0] - start[0]) / 2, 0.0])
        corners += [start + reach, end - reach, end]
        codes += [Path.CURVE4] * 3
    axis.add_patch(
        FancyArrowPatch(
            path=Path(corners, codes),
            arrowstyle="-|>",
            mutation_scale=12,
            color=colour,
            linewidth=width,
            fill=False,
            zorder=2,
        )
    )


def _arc(axis: Any, start: Array, end: Array) -> None:
    """A dashed arrow of an edge that was not found, whichever way it runs."""
    arrow = {
        "arrowstyle": "-|>",
        "color": MISSING,
        "linewidth": 1.0,
        "linestyle": (0, (4, 3)),
        "shrinkA": 14,
        "shrinkB": 16,
        "mutation_scale": 11,
        "connectionstyle": "arc3,rad=0.18",
    }
    axis.annotate("", xy=end, xytext=start, zorder=1, arrowprops=arrow)


def _matrix(dag: Dag) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(6.0, 5.2))
    axis = canvas.subplots()
    ordered = dag.adjacency[np.ix_(dag.order, dag.order)]
    largest = float(np.abs(ordered).max()) or 1.0
    shown = axis.imshow(ordered, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axis.grid(visible=False)
    axis.set(xlabel="effect, along the order", ylabel="cause, along the order")
    canvas.colorbar(shown, ax=axis, label="weight")
    return canvas


def _noise(dag: Dag, deviations: Array) -> Any:
    from matplotlib.figure import Figure as Canvas

    order = list(dag.order)
    canvas = Canvas(figsize=(min(16.0, max(6.0, 0.5 * len(order) + 1.5)), 3.6))
    axis = canvas.subplots()
    places = np.arange(len(order))
    noise = np.broadcast_to(dag.noise_std, len(order))
    axis.bar(places - 0.2, deviations[order], 0.4, color="#c9d2d9", label="standard deviation")
    axis.bar(places + 0.2, noise[order], 0.4, color=PLAIN, label="noise level")
    if deviations.max() > 20 * deviations.min():
        axis.set_yscale("log")
    axis.set_xticks(places, [dag.names[j] for j in order], rotation=45 if len(order) > 8 else 0)
    axis.set(xlabel="variable, along the causal order")
    axis.grid(visible=False, axis="x")
    axis.legend()
    return canvas
