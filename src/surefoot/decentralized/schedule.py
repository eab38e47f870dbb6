"""A graph that changes over time: a cycle of windows, each with its own edges.

The windows are kept as one graph, the union of all, whose edges carry `rate_0`, `rate_1`, ... where they are there, and whose
`durations` (units of time, as text) say how long each window lasts; so GraphML can hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np

from surefoot.decentralized.graphs import DURATIONS, RATE, edge_list, plain_graph

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Schedule:
    """Which edges of the union are there when.

    Attributes:
        durations: of the windows (K,), units of time; after the last the first comes again.
        present: (K, E) over the edges of the union.
        rates: that the graph carries (K, E), 1 where it says only that an edge is there, 0 where it is not.
    """

    durations: Array
    rates: Array

    @property
    def present(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which edges are there (K, E)."""
        return self.rates > 0

    @property
    def given(self) -> Array | None:
        """The rates, where the graph carries any."""
        return self.rates if (self.rates[self.present] != 1.0).any() else None

    @property
    def shares(self) -> Array:
        """Each window's share of the time (K,)."""
        return self.durations / self.durations.sum()


def schedule_of(graph: Any) -> Schedule | None:
    """The windows of a plain graph; None where it has none.

    Raises:
        ValueError: durations that are no positive numbers, a window whose edges do not connect all nodes, or an edge in none.
    """
    text = graph.graph.get(DURATIONS)
    if text is None:
        return None
    try:
        durations = np.array([float(part) for part in str(text).split()])
    except ValueError as error:
        raise ValueError(f"the durations {text!r} of the windows are not numbers") from error
    if len(durations) < 2 or not (np.isfinite(durations) & (durations > 0)).all():
        raise ValueError(f"the durations of the windows are {text!r}; expected two or more numbers > 0")
    nodes, edges = list(graph), edge_list(graph)
    rates = np.zeros((len(durations), len(edges)))
    for e, (i, j) in enumerate(edges.tolist()):
        data = graph.edges[nodes[i], nodes[j]]
        for k in range(len(durations)):
            rates[k, e] = data.get(f"{RATE}_{k}", 0.0)
    present = rates > 0
    for k, row in enumerate(present):
        part: Any = nx.Graph()
        part.add_nodes_from(range(len(nodes)))
        part.add_edges_from(map(tuple, edges[row]))
        pieces = nx.number_connected_components(part)
        if pieces > 1:
            raise ValueError(
                f"the graph of window {k} has {pieces} components; every window must connect all nodes (give the union of some windows)"
            )
    if not present.any(axis=0).all():
        i, j = edges[int(np.flatnonzero(~present.any(axis=0))[0])]
        raise ValueError(f"the edge {nodes[i]} - {nodes[j]} is in no window")
    return Schedule(durations, rates)


def changing_graph(graphs: Sequence[Any], durations: Sequence[float]) -> nx.Graph:
    """Several graphs of the same nodes as one that changes: the k-th lasts `durations[k]` units of time, then they begin again.

    A unit of time is one gradient a node on average. Edges may carry a `rate`; those without get 1, which stands for "to be chosen".

    Raises:
        ValueError: fewer than two graphs, other numbers of durations, other nodes, or what `plain_graph` and `schedule_of` refuse.
    """
    if len(graphs) < 2 or len(durations) != len(graphs):
        raise ValueError(
            f"{len(graphs)} graphs and {len(durations)} durations; give two graphs or more and a duration each"
        )
    plain = [plain_graph(graph) for graph in graphs]
    names = list(plain[0])
    union: Any = nx.Graph()
    union.add_nodes_from(names)
    for k, graph in enumerate(plain):
        if set(graph) != set(names):
            other = sorted(set(graph) ^ set(names))
            raise ValueError(
                f"window {k} has other nodes than window 0: {', '.join(other[:5])}; all windows need the same"
            )
        for u, v, data in graph.edges(data=True):
            union.add_edge(u, v, **{f"{RATE}_{k}": float(data.get(RATE, 1.0))})
    union.graph[DURATIONS] = " ".join(repr(float(value)) for value in durations)
    schedule_of(union)
    return union


def with_window_rates(graph: Any, mean: Array, rates: Array) -> nx.Graph:
    """A copy of the graph that carries every window's rates (K, E) and, as `rate`, their means (E,) over the time."""
    nodes, copy = list(graph), nx.Graph()
    copy.add_nodes_from(nodes)
    copy.graph[DURATIONS] = graph.graph[DURATIONS]
    for e, (i, j) in enumerate(edge_list(graph).tolist()):
        own = {f"{RATE}_{k}": float(rate) for k, rate in enumerate(rates[:, e]) if rate > 0}
        copy.add_edge(nodes[i], nodes[j], **{RATE: float(mean[e]), **own})
    return copy
