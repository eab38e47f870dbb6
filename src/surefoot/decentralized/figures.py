"""Pictures of a run, made from its directory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.system import Figure
from surefoot.decentralized.graphs import RATE, edge_list, read_graph
from surefoot.decentralized.schedule import Schedule, schedule_of
from surefoot.decentralized.solution import GRAPH

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[np.float64]]
EDGE, IDLE, NODE, OURS, BOUND, GRADIENTS = "#1f5f8b", "#c9d1d8", "#1f5f8b", "#1f5f8b", "#3f8f5f", "#d1603d"
MOST_NAMED, MOST_WINDOWS = 40, 6


def _claims(reader: RunReader) -> Mapping[str, Mapping[str, Any]]:
    return {claim["name"]: claim for claim in reader.certificate_tree["claims"]}


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims, counts = _claims(reader), reader.config.get("counts", {})
    if "gradient-norm" in claims:
        spent = f"{counts.get('exchange', 0):,} exchanges and {counts.get('gradient', 0):,} gradients"
        slope, gap = claims["gradient-norm"]["value"], claims["agreement"]["value"]
        return f"The gradient of the mean loss is down to {slope:.2g}, and no node is more than {gap:.2g} from the mean, after {spent}."
    within = claims["node-distance"]
    reached = f"Every node is proved to be within {within['value']:.1e} of the minimiser"
    floor = claims.get("noise-floor")
    if floor is not None and within["outcome"] != "holds":
        mean = floor["value"] / len(reader.evidence("nodes.csv")["node"])
        reached = f"Gradients from a few rows leave every node within {within['value']:.2g} of the minimiser (bound on the mean square: {mean:.2g})"
    elif within["outcome"] != "holds":
        reached = f"Not there yet: nodes are up to {within['value']:.1e} away"
    spent = f"{counts.get('exchange', 0):,} exchanges and {counts.get('gradient', 0):,} gradients"
    design = claims.get("rates-optimal")
    saved = ""
    if design is not None and design["outcome"] == "holds":
        saved = f"; the gossip rates are within {max(design['value'], 0):.0e} of the least total"
    return f"{reached} after {spent}{saved}."


def figures(reader: RunReader) -> Sequence[Figure]:
    """The graph, edges as wide as their rates, and the proved error over exchanges and gradients."""
    return [_graph(reader), _slopes(reader) if "gradient_norm" in reader.history else _errors(reader)]


def _slopes(reader: RunReader) -> Figure:
    """A2CiD2: the gradient at the nodes' mean and the largest distance from it."""
    from matplotlib.figure import Figure as Canvas

    history = {name: np.asarray(column, dtype=float) for name, column in reader.history.items()}
    known = np.isfinite(history["gradient_norm"])
    canvas = Canvas(figsize=(7.4, 3.9), layout="constrained")
    for axis, name in zip(canvas.subplots(1, 2, sharey=True), ("exchanges", "gradients"), strict=True):
        for column, colour, label in (
            ("gradient_norm", OURS, "gradient at the mean"),
            ("gap", GRADIENTS, "farthest node from the mean"),
        ):
            axis.semilogy(
                history[name][known], np.maximum(history[column][known], 1e-17), color=colour, lw=2.0, label=label
            )
        axis.set(xlabel=name, xlim=(0, None))
        axis.grid(alpha=0.25)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    canvas.axes[0].legend(fontsize=9)
    canvas.suptitle("How still the mean loss is, and how far the nodes are apart")
    return Figure(
        "error", "Norm of the mean loss's gradient at the nodes' mean, and the largest distance of a node from that mean, over exchanges and gradients.",
        canvas, alt="Two curves on a logarithmic scale over exchanges and over gradients",
    )  # fmt: skip


def _graph(reader: RunReader) -> Figure:
    import networkx as nx
    from matplotlib.figure import Figure as Canvas

    graph: Any = read_graph(reader.answer_dir / GRAPH)
    places = nx.kamada_kawai_layout(graph) if len(graph) > 1 else {next(iter(graph)): (0.0, 0.0)}
    rates = np.array([data.get(RATE, 0.0) for _, _, data in graph.edges(data=True)])
    nodes = len(reader.evidence("nodes.csv")["node"])
    schedule = schedule_of(graph)
    if schedule is not None:
        return _windows(graph, places, schedule, nodes)
    rounds = reader.config.get("options", {}).get("algorithm", "dadao") not in ("dadao", "gossip", "acid")
    canvas = Canvas(figsize=(6.6, 5.4), layout="constrained")
    axis = canvas.subplots()
    top = float(rates.max()) if len(rates) and rates.max() > 0 else 1.0
    _draw(axis, graph, places, rates, top)
    idle = int((rates == 0).sum())
    axis.set_title("How often neighbours talk")
    unit = "exchanges a round" if rounds else "exchanges a unit of time"
    text = f"Edges as wide as their rates, {rates.min() if len(rates) else 0:.3g} to {rates.max() if len(rates) else 0:.3g} {unit} ({rates.sum():.4g} in all)"
    text += f"; {idle} dotted edges are not used." if idle else "."
    return Figure("graph", text, canvas, alt=f"A graph of {nodes} nodes with edges of different width")


def _draw(axis: Any, graph: Any, places: Any, rates: Array, top: float) -> None:
    """Nodes and edges; edges that do not fire are dotted."""
    axis.axis("off")
    for (u, v), rate in zip(graph.edges, rates, strict=True):
        (a, b), (c, d) = places[u], places[v]
        fires = rate > 0
        axis.plot(
            [a, c], [b, d], color=EDGE if fires else IDLE, lw=0.8 + 5.2 * rate / top if fires else 0.8,
            ls="-" if fires else ":", alpha=0.75, solid_capstyle="round", zorder=1,
        )  # fmt: skip
    points = np.array([places[node] for node in graph])
    axis.scatter(points[:, 0], points[:, 1], s=90, color="white", edgecolors=NODE, linewidths=1.6, zorder=3)
    if len(graph) <= MOST_NAMED:
        for node, (a, b) in places.items():
            axis.annotate(
                str(node)[:14], (a, b), textcoords="offset points", xytext=(0, 9), ha="center", fontsize=8.5, zorder=4,
                bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            )  # fmt: skip
    axis.margins(0.12)


def _windows(graph: Any, places: Any, schedule: Schedule, nodes: int) -> Figure:
    """The windows side by side, at most six of them."""
    from matplotlib.figure import Figure as Canvas

    shown = min(len(schedule.durations), MOST_WINDOWS)
    columns = min(shown, 3)
    lines = -(-shown // columns)
    canvas = Canvas(figsize=(4.4 * columns, 4.2 * lines), layout="constrained")
    order = {frozenset(edge): k for k, edge in enumerate(_named_edges(graph))}
    place = [order[frozenset(edge)] for edge in graph.edges]
    top = float(schedule.rates.max())
    for k, axis in enumerate(np.ravel(canvas.subplots(lines, columns, squeeze=False))):
        axis.axis("off")
        if k < shown:
            _draw(axis, graph, places, schedule.rates[k][place], top)
            axis.set_title(
                f"window {k + 1}: {schedule.durations[k]:g} units, {schedule.rates[k].sum():.4g} exchanges a unit"
            )
    canvas.suptitle("How often neighbours talk, window by window")
    rest = len(schedule.durations) - shown
    text = f"The graph changes: {len(schedule.durations)} windows take turns{f', the first {shown} are shown' if rest else ''}. Edges as wide as their rates; dotted ones are away."
    return Figure("graph", text, canvas, alt=f"{shown} graphs of {nodes} nodes with edges of different width")


def _named_edges(graph: Any) -> list[tuple[str, str]]:
    nodes = list(graph)
    return [(nodes[i], nodes[j]) for i, j in edge_list(graph).tolist()]


def _errors(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    history = {name: np.asarray(column, dtype=float) for name, column in reader.history.items()}
    total = history["distance"] + history["gap"]
    known = np.isfinite(total) & (total > 0)
    nodes = len(reader.evidence("nodes.csv")["node"])
    peers = reader.evidence("peers.npz") if reader.has("evidence/peers.npz") else {}
    canvas = Canvas(figsize=(7.4, 3.9), layout="constrained")
    names = (
        ("exchanges", "gradients") if max(history["gradients"], default=0.0) > 0 else ("exchanges",)
    )  # gossip takes no gradients
    axes = canvas.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name, place in zip(axes, names, (1, 0), strict=False):
        axis.semilogy(history[name][known], total[known], "-", color=OURS, lw=2.2, label="this run")
        for (peer, curve), colour, dash in zip(peers.items(), (GRADIENTS, BOUND), ("--", ":"), strict=False):
            spent = curve[:, place] * (nodes if place == 0 else 1)
            axis.semilogy(
                spent, np.maximum(curve[:, 2], 1e-17), dash, color=colour, lw=1.8, label=f"{peer.upper()}, in rounds"
            )
        axis.set(xlabel=name, xlim=(0, None))
        axis.grid(alpha=0.25)
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
    axes[0].set(ylabel="proved distance of the farthest node")
    axes[0].legend(fontsize=9)
    canvas.suptitle("How far the nodes are from the minimiser")
    beside = (
        " Dashed and dotted: synchronous methods on the same data, where an exchange is one use of an edge."
        if peers
        else ""
    )
    where = "exchanges (left) and gradients (right)" if len(names) > 1 else "exchanges"
    return Figure(
        "error", f"Proved distance of the farthest node to the minimiser over {where}.{beside}", canvas,
        alt="Falling curves on a logarithmic scale over exchanges and over gradients",
    )  # fmt: skip
