"""Where to draw a graph: layers from causes to effects, edges routed between the nodes they pass.

References:
    Sugiyama, Tagawa, Toda, Methods for visual understanding of hierarchical system structures, 1981.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.causal.problem import Dag

Array = np.ndarray[Any, np.dtype[np.float64]]
Edge = tuple[int, int]
SWEEPS = 12
LANE = 0.55
"""Height that an edge takes when it passes a layer, in units of a node's."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Places (d, 2) of the nodes, x the layer, and for each edge the points (k, 2) that it passes between its ends."""

    places: Array
    routes: dict[Edge, Array]


def depths(dag: Dag) -> list[int]:
    """Layer of each node: one more than its deepest parent's; roots move next to their nearest child."""
    depth = [0] * len(dag.names)
    for node in dag.order:
        parents = np.flatnonzero(dag.adjacency[:, node])
        depth[node] = 1 + max(depth[p] for p in parents) if len(parents) else 0
    for node in reversed(dag.order):
        children = np.flatnonzero(dag.adjacency[node])
        if len(children) and not dag.adjacency[:, node].any():
            depth[node] = min(depth[c] for c in children) - 1
    return depth


def layout(dag: Dag) -> Layout:
    """Place the nodes layer by layer; an edge over several layers gets a place of its own in each layer between."""
    depth = depths(dag)
    members: list[list[Any]] = [[] for _ in range(max(depth) + 1)]
    for node in dag.order:
        members[depth[node]].append(node)
    neighbours: dict[Any, tuple[list[Any], list[Any]]] = {node: ([], []) for node in range(len(dag.names))}
    chains: dict[Edge, list[Any]] = {}
    for i, j in np.argwhere(dag.adjacency).tolist():
        chain = [(i, j, level) for level in range(depth[i] + 1, depth[j])]
        for item in chain:
            members[item[2]].append(item)
            neighbours[item] = ([], [])
        for before, after in zip([i, *chain], [*chain, j], strict=True):
            neighbours[before][1].append(after)
            neighbours[after][0].append(before)
        chains[i, j] = chain
    height = _heights(members, neighbours)
    places = np.array([(float(depth[node]), height[node]) for node in range(len(dag.names))])
    routes = {
        edge: np.array([(item[2], height[item]) for item in chain]).reshape(-1, 2) for edge, chain in chains.items()
    }
    return Layout(places, routes)


def _heights(members: list[list[Any]], neighbours: dict[Any, tuple[list[Any], list[Any]]]) -> dict[Any, float]:
    """Order every layer by the mean height of its neighbours, sweeping forth and back; keep the order that crosses least."""
    height: dict[Any, float] = {}
    for layer in members:
        _stack(layer, height)
    best, fewest = dict(height), _crossings(members, neighbours, height)
    for sweep in range(SWEEPS):
        side = sweep % 2
        for layer in members if side == 0 else reversed(members):
            wish = {
                item: float(np.mean([height[n] for n in neighbours[item][side]]))
                if neighbours[item][side]
                else height[item]
                for item in layer
            }
            layer.sort(key=lambda item, wish=wish: -wish[item])
            _stack(layer, height)
        crossings = _crossings(members, neighbours, height)
        if crossings < fewest:
            best, fewest = dict(height), crossings
    return best


def _crossings(
    members: list[list[Any]], neighbours: dict[Any, tuple[list[Any], list[Any]]], height: dict[Any, float]
) -> int:
    """Pairs of edge pieces between the same two layers that cross."""
    total = 0
    for layer in members:
        ends = np.array([(height[item], height[n]) for item in layer for n in neighbours[item][1]]).reshape(-1, 2)
        left, right = ends[:, 0], ends[:, 1]
        total += int(np.sum((left[:, None] < left) & (right[:, None] > right)))
    return total


def _stack(layer: list[Any], height: dict[Any, float]) -> None:
    sizes = [1.0 if isinstance(item, int) else LANE for item in layer]
    edges = np.concatenate([[0.0], np.cumsum(sizes)])
    for item, low, high in zip(layer, edges[:-1], edges[1:], strict=True):
        height[item] = float(edges[-1] / 2 - (low + high) / 2)
