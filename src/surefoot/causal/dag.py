"""From weights to a directed acyclic graph: threshold, repair of cycles, a causal order."""

from __future__ import annotations

import heapq
from typing import Any, Literal

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Repair = Literal["cycles", "ascending"]


def topological_order(adjacency: Array | Mask, priority: Array | None = None) -> list[int] | None:
    """A causal order of the nodes, parents first; None if the graph has a cycle.

    Among nodes whose parents are all placed the one of smallest `priority` comes next (ties: smallest number).

    Args:
        adjacency: (d, d), nonzero where row -> column.
        priority: (d,), by default the node number.
    """
    edges = np.asarray(adjacency) != 0
    rank = np.arange(len(edges)) if priority is None else priority
    waiting = edges.sum(axis=0)
    ready = [(float(rank[j]), j) for j in range(len(edges)) if waiting[j] == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, node = heapq.heappop(ready)
        order.append(node)
        for child in np.flatnonzero(edges[node]):
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (float(rank[child]), int(child)))
    return order if len(order) == len(edges) else None


def to_dag(weights: Array, threshold: float, repair: Repair = "cycles", required: Mask | None = None) -> Array:
    """Zero every `|W_ij| <= threshold`, then delete edges of smallest magnitude until no cycle is left.

    "ascending" is the published rule: delete in ascending magnitude, whether or not the edge lies on a cycle. "cycles"
    deletes the smallest edge that does lie on one (both ends in one strongly connected component), so that a strong
    self-loop no longer costs weaker innocent edges. Required edges are kept, whatever their weight.

    Returns:
        A new (d, d) matrix whose support is acyclic. A required edge of weight zero keeps the smallest positive float,
        so that the support of the matrix is the graph.
    """
    kept = np.abs(weights) > threshold
    fixed = np.zeros_like(kept) if required is None else required
    kept |= fixed
    strength = np.where(kept & ~fixed, np.abs(weights), np.inf)
    rows, columns = np.unravel_index(np.argsort(strength, axis=None, kind="stable"), strength.shape)
    candidates = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if np.isfinite(strength[i, j])]
    if repair == "ascending":
        for source, target in candidates:
            if topological_order(kept) is not None:
                break
            kept[source, target] = False
    else:
        _break_cycles(kept, candidates)
    result = np.where(kept, weights, 0.0)
    return np.where(fixed & (result == 0.0), np.finfo(np.float64).tiny, result)


def _break_cycles(kept: Mask, candidates: list[tuple[int, int]]) -> None:
    """Delete, weakest first, the edges that close a cycle; `candidates` ascends in magnitude."""
    diagonal = np.arange(len(kept))
    kept[diagonal, diagonal] = False
    remaining = [(i, j) for i, j in candidates if i != j]
    while True:
        count, label = connected_components(csr_array(kept), directed=True, connection="strong")
        if count == len(kept):
            return
        weakest = next((i, j) for i, j in remaining if kept[i, j] and label[i] == label[j])
        kept[weakest] = False
