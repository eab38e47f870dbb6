"""Pictures of a learned graph, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.causal.export import read_dag
from surefoot.causal.metrics import count_edges, structural_hamming_distance
from surefoot.causal.problem import Dag
from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[np.float64]]
RIGHT, TURNED, EXTRA, MISSING, PLAIN = "#3f8f5f", "#b8860b", "#d1603d", "#9aa4ad", "#1f5f8b"
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


def layers(dag: Dag, extra: Array | None = None) -> list[list[int]]:
    """Variables by depth: a node's layer is one more than its deepest parent's."""
    depth = np.zeros(len(dag.names), dtype=int)
    for node in dag.order:
        parents = np.flatnonzero(dag.adjacency[:, node])
        depth[node] = 1 + depth[parents].max() if len(parents) else 0
    return [[node for node in dag.order if depth[node] == level] for level in range(int(depth.max()) + 1)]


def positions(dag: Dag) -> Array:
    """(d, 2) places: layers from left to right, within a layer near the mean height of the parents."""
    rows = layers(dag)
    place = np.zeros((len(dag.names), 2))
    tallest = max(map(len, rows))
    for level, nodes in enumerate(rows):

        def height(node: int) -> float:
            parents = np.flatnonzero(dag.adjacency[:, node])
            return float(place[parents, 1].mean()) if len(parents) else 0.0

        ordered = sorted(nodes, key=height) if level else nodes
        spread = (
            np.linspace(-1.0, 1.0, len(ordered)) * (0.25 + 0.75 * len(ordered) / tallest) if len(ordered) > 1 else [0.0]
        )
        for k, node in enumerate(ordered):
            # a small tilt keeps edges that skip a layer from hiding behind the nodes between
            place[node] = (level + 0.12 * (-1) ** k, spread[k] + 0.07 * (-1) ** level)
    return place


def _graph(dag: Dag, truth: Array | None, deviations: Array) -> Any:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.lines import Line2D

    place = positions(dag)
    width = min(16.0, 2.2 + 1.5 * (place[:, 0].max() + 1))
    canvas = Canvas(figsize=(max(7.0, width), max(4.2, 0.55 * max(map(len, layers(dag))) + 2.2)))
    axis = canvas.subplots()
    axis.axis("off")
    strength = np.abs(dag.adjacency) * deviations[:, None] / deviations[None, :]
    strongest = float(strength.max()) or 1.0
    for i, j in np.argwhere(dag.adjacency):
        colour = PLAIN
        if truth is not None:
            colour = RIGHT if truth[i, j] else TURNED if truth[j, i] else EXTRA
        _arrow(axis, place[i], place[j], colour, 1.0 + 2.5 * float(strength[i, j]) / strongest, "-")
    if truth is not None:
        found = dag.adjacency != 0
        for i, j in np.argwhere((truth != 0) & ~found & ~found.T):
            _arrow(axis, place[i], place[j], MISSING, 1.0, (0, (4, 3)))
    for j, name in enumerate(dag.names):
        axis.text(
            float(place[j, 0]), float(place[j, 1]), name, ha="center", va="center", fontsize=9, zorder=3,
            bbox={"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": "#4a545e"},
        )  # fmt: skip
    margin = np.array([0.5, 0.25])
    low, high = place.min(axis=0) - margin, place.max(axis=0) + margin
    axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    if truth is not None:
        entries: Any = (
            ("right", RIGHT, "-"),
            ("reversed", TURNED, "-"),
            ("extra", EXTRA, "-"),
            ("missing", MISSING, "--"),
        )
        handles = [Line2D([], [], color=c, linestyle=s, linewidth=2, label=label) for label, c, s in entries]
        axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=4)
    return canvas


def _arrow(axis: Any, start: Array, end: Array, colour: str, width: float, style: Any) -> None:
    bend = 0.08 if abs(end[0] - start[0]) < 1.5 else 0.18
    axis.annotate(
        "", xy=end, xytext=start, zorder=2,
        arrowprops={
            "arrowstyle": "-|>", "color": colour, "linewidth": width, "linestyle": style, "shrinkA": 14, "shrinkB": 16,
            "mutation_scale": 12, "connectionstyle": f"arc3,rad={bend}",
        },
    )  # fmt: skip


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
