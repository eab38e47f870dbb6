"""What comes out: every node's point and the rates of the edges, as files that others read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.decentralized.graphs import given_rates, plain_graph, read_graph, with_rates, write_graph
from surefoot.decentralized.schedule import schedule_of, with_window_rates
from surefoot.records.files import read_npz, write_npz

Array = np.ndarray[Any, np.dtype[np.float64]]
POINTS, GRAPH = "points.npz", "graph.graphml"


@dataclass(frozen=True, eq=False)
class Agreement:
    """Every node's point x_i (n, d), and exchanges a unit of time (or a round) on every edge (E,).

    On a graph that changes over time `rates` are means, and `windows` (K, E) has those of every window; otherwise it is empty.
    """

    points: Array
    rates: Array
    windows: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def mean(self) -> Array:
        """The mean over the nodes (d,)."""
        return self.points.mean(axis=0)


def write_solution(answer: Agreement, graph: Any, folder: Path) -> None:
    """points.npz (points (n, d), mean (d,)) and graph.graphml with the rates."""
    write_npz(folder / POINTS, {"points": answer.points, "mean": answer.mean})
    plain = plain_graph(graph)
    schedule = schedule_of(plain)
    carried = with_rates(plain, answer.rates)
    if schedule is not None and len(answer.windows):
        carried = with_window_rates(plain, answer.rates, answer.windows)
    write_graph(carried, folder / GRAPH)


def read_solution(folder: Path) -> Agreement:
    """The files of `write_solution`.

    Raises:
        ValueError: the files contradict each other or hold no solution.
    """
    arrays = read_npz(folder / POINTS)
    points = np.asarray(arrays["points"], dtype=np.float64)
    if points.ndim != 2 or not np.array_equal(points.mean(axis=0), arrays["mean"]):
        raise ValueError(f"{POINTS}: the mean is not the mean of the points")
    graph = read_graph(folder / GRAPH)
    rates = given_rates(graph)
    if len(graph) != len(points):
        raise ValueError(f"{GRAPH} has {len(graph)} nodes for {len(points)} points")
    if rates is None:
        if graph.number_of_edges():
            raise ValueError(f"{GRAPH} carries no rates")
        rates = np.zeros(0)
    schedule = schedule_of(graph)
    return Agreement(points, rates) if schedule is None else Agreement(points, rates, schedule.rates)
