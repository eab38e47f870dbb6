"""How far a learned graph is from the true one. All matrices are (d, d), nonzero where row -> column.

References:
    Tsamardinos, Brown, Aliferis 2006 (structural Hamming distance). Peters, Buhlmann 2015 (structural intervention
    distance). Henckel et al., Adjustment identification distance, 2024 (`gadjid`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class EdgeCounts:
    """Edges of a learned graph by kind: `correct`, `reversed` (right pair, wrong way), `extra` and `missing`."""

    correct: int
    reversed: int
    extra: int
    missing: int

    @property
    def false_discovery_rate(self) -> float:
        """(reversed + extra) / learned; 0 for an empty graph."""
        learned = self.correct + self.reversed + self.extra
        return (self.reversed + self.extra) / learned if learned else 0.0

    @property
    def true_positive_rate(self) -> float:
        """correct / true edges; 1 where there is no true edge."""
        true = self.correct + self.reversed + self.missing
        return self.correct / true if true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall over directed edges."""
        return 2 * self.correct / (2 * self.correct + 2 * self.reversed + self.extra + self.missing or 1)


def count_edges(learned: Array | Mask, truth: Array | Mask) -> EdgeCounts:
    """Sort the edges of a learned DAG against the true DAG."""
    found, real = _support(learned), _support(truth)
    correct = found & real
    turned = found & real.T & ~real
    extra = found & ~real & ~real.T
    missing = real & ~found & ~found.T
    return EdgeCounts(int(correct.sum()), int(turned.sum()), int(extra.sum()), int(missing.sum()))


def structural_hamming_distance(learned: Array | Mask, truth: Array | Mask) -> int:
    """Number of node pairs joined differently; a reversed edge counts once."""
    found, real = _support(learned), _support(truth)
    differs = (found != real) | (found.T != real.T)
    return int(np.triu(differs, 1).sum())


def cpdag_distance(learned: Array | Mask, truth: Array | Mask) -> int:
    """Structural Hamming distance between the Markov equivalence classes of two DAGs."""
    return structural_hamming_distance(essential_graph(learned), essential_graph(truth))


def essential_graph(graph: Array | Mask) -> Array:
    """The completed partially directed graph of a DAG: an undirected edge is a 1 both ways.

    An edge keeps its direction if it is part of a v-structure or if Meek's first three rules force it.
    """
    edges = _support(graph)
    skeleton = edges | edges.T
    fixed = np.zeros_like(edges)
    for node in range(len(edges)):
        parents = np.flatnonzero(edges[:, node])
        for a in parents:
            apart = parents[~skeleton[a, parents] & (parents != a)]
            if len(apart):
                fixed[a, node] = True
    while True:
        new = _meek(skeleton, fixed)
        if not (new & ~fixed).any():
            break
        fixed |= new
    return (skeleton & ~fixed.T).astype(np.float64)


def _meek(skeleton: Mask, fixed: Mask) -> Mask:
    """Edges that the rules of Meek (1995) orient next; rule four needs background knowledge and cannot fire here."""
    open_edges = skeleton & ~fixed & ~fixed.T
    forced = np.zeros_like(fixed)
    for a, b in np.argwhere(open_edges):
        into = np.flatnonzero(fixed[:, a])
        chain = bool((~skeleton[into, b] & (into != b)).any())
        cycle = bool((fixed[a] & fixed[:, b]).any())
        middle = np.flatnonzero(open_edges[a] & fixed[:, b])
        kite = any(not skeleton[c, e] for k, c in enumerate(middle) for e in middle[k + 1 :])
        forced[a, b] = chain or cycle or kite
    return forced


def structural_intervention_distance(learned: Array | Mask, truth: Array | Mask) -> int:
    """Number of ordered pairs whose intervention distribution the learned DAG gets wrong (needs the extra `causal`).

    Raises:
        ImportError: gadjid is not installed.
    """
    try:
        from gadjid import sid  # pyright: ignore[reportAttributeAccessIssue] (a compiled module without types)
    except ImportError as error:
        raise ImportError(
            "the structural intervention distance needs gadjid: pip install 'surefoot[causal]'"
        ) from error
    true, found = (np.ascontiguousarray(_support(graph).astype(np.int8)) for graph in (truth, learned))
    _, mistakes = sid(true, found, edge_direction="from row to column")
    return int(mistakes)


def _support(graph: Array | Mask) -> Mask:
    edges = np.asarray(graph) != 0
    if edges.ndim != 2 or edges.shape[0] != edges.shape[1]:
        raise ValueError(f"expected a square matrix of edges, got shape {edges.shape}")
    return edges
