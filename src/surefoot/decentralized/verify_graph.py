"""The numbers of the graph again: its spectral gap in rationals, its resistances in intervals, the lower bound of the rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare
from surefoot.decentralized.graphs import Edges, require_firing
from surefoot.decentralized.problem import Network
from surefoot.decentralized.verify_answer import EPS, network_of
from surefoot.numerics.intervals import Interval
from surefoot.numerics.rationals import is_positive_semidefinite

Array = np.ndarray[Any, np.dtype[np.float64]]
EXACT_NODES = 24
"""Up to so many nodes the spectral gap is proved in rationals, beyond by a factorisation with an error bound."""


def rates_of(net: Network, dossier: Dossier) -> Array:
    rates = np.asarray(dossier.answer.rates, dtype=np.float64)
    require_firing(net.nodes, net.edges, rates)
    return rates


def _gap_at_least(nodes: int, edges: Edges, rates: Array, least: float) -> bool:
    """Proof that Lambda - least (I - 11'/n) is positive semidefinite."""
    exact = [Fraction(float(rate)) for rate in rates]
    if nodes <= EXACT_NODES:
        bottom, share = Fraction(least), Fraction(least) / nodes
        matrix = [[share - (bottom if i == j else 0) for j in range(nodes)] for i in range(nodes)]
        return is_positive_semidefinite(_added(matrix, edges, exact))
    matrix_ = np.array(_added([[0.0] * nodes for _ in range(nodes)], edges, rates.tolist()))
    top = float(np.trace(matrix_))
    # lifting the vector of ones does not change the others; a factorisation that ends proves definiteness up to this shift
    shift = 8 * (nodes + 4) * EPS * (2 * top + nodes * least)
    return _factors(matrix_ + (top + least) / nodes - (least + shift) * np.eye(nodes))


def dominates(nodes: int, edges: Edges, more: Array, factor: float, less: Array, share: float) -> bool:
    """Proof that factor Lambda(more) - share Lambda(less) is positive semidefinite."""
    if nodes <= EXACT_NODES:
        weights = [
            Fraction(factor) * Fraction(float(a)) - Fraction(share) * Fraction(float(b))
            for a, b in zip(more, less, strict=True)
        ]
        return is_positive_semidefinite(_added([[Fraction(0)] * nodes for _ in range(nodes)], edges, weights))
    matrix = np.array(_added([[0.0] * nodes for _ in range(nodes)], edges, (factor * more - share * less).tolist()))
    top = 2 * float((factor * more + share * less).sum())
    return _factors(matrix + top / nodes - 8 * (nodes + 4) * EPS * 2 * top * np.eye(nodes))


def _added(matrix: list[list[Any]], edges: Edges, weights: list[Any]) -> list[list[Any]]:
    """The matrix with weights b_e b_e' added to it."""
    for (i, j), weight in zip(edges.tolist(), weights, strict=True):
        matrix[i][i] += weight
        matrix[j][j] += weight
        matrix[i][j] -= weight
        matrix[j][i] -= weight
    return matrix


def _factors(matrix: Array) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def _largest_resistance(nodes: int, edges: Edges, rates: Array, chi1: float) -> tuple[float, float]:
    """Lower and upper bound of max R_e over firing edges: R = y'(b + r) + r' Lambda^+ r with r = b - Lambda y, any y."""
    matrix = np.zeros((nodes, nodes))
    i, j = edges[:, 0], edges[:, 1]
    np.add.at(matrix, (i, i), rates)
    np.add.at(matrix, (j, j), rates)
    np.add.at(matrix, (i, j), -rates)
    np.add.at(matrix, (j, i), -rates)
    pseudo = np.linalg.pinv(matrix)
    low, high = 0.0, 0.0
    weight = Interval.point(rates)
    for e in np.flatnonzero(rates > 0):
        y = pseudo[i[e]] - pseudo[j[e]]
        flow = weight * (Interval.point(y[i]) - Interval.point(y[j]))
        residual = [Interval.point(0.0)] * nodes
        for f, (u, v) in enumerate(edges.tolist()):
            residual[u], residual[v] = residual[u] - flow[f], residual[v] + flow[f]
        residual[i[e]], residual[j[e]] = residual[i[e]] + 1.0, residual[j[e]] - 1.0
        value = Interval.point(y[i[e]]) - Interval.point(y[j[e]])
        square = Interval.point(0.0)
        for node in range(nodes):
            value = value + residual[node] * float(y[node])
            square = square + residual[node] ** 2
        rest = square * chi1
        low, high = max(low, float(value.low)), max(high, float((value + rest).high))
    return low, high


def proved_slowness(net: Network, rates: Array, stored: Mapping[str, Any]) -> tuple[float, float]:
    """The stored chi1 and chi2, after proving that they are upper bounds, and not loose ones.

    Raises:
        ValueError: they are not.
    """
    chi1, chi2 = float(stored["chi1"]), float(stored["chi2"])
    if net.nodes == 1:
        if chi1 or chi2:
            raise ValueError("a single node has no slowness")
        return 0.0, 0.0
    return proved_slowness_of(net.nodes, net.edges, rates, chi1, chi2)


def proved_slowness_of(nodes: int, edges: Edges, rates: Array, chi1: float, chi2: float) -> tuple[float, float]:
    """The same for edges and rates at hand."""
    require_firing(nodes, edges, rates)
    return _proved(nodes, edges.tobytes(), rates.tobytes(), chi1, chi2)


@cache
def _proved(nodes: int, edge_bytes: bytes, rate_bytes: bytes, chi1: float, chi2: float) -> tuple[float, float]:
    edges = np.frombuffer(edge_bytes, dtype=np.int64).reshape(-1, 2)
    rates = np.frombuffer(rate_bytes, dtype=np.float64)
    if not (0 < chi1 < math.inf and 0 < chi2 < math.inf):
        raise ValueError("chi1 and chi2 must be positive and finite")
    if not _gap_at_least(nodes, edges, rates, 1 / chi1):
        raise ValueError(f"the spectral gap of the rates is not proved to be 1 / {chi1:.6g}")
    if _gap_at_least(nodes, edges, rates, 1.0001 / chi1):
        raise ValueError(f"chi1 = {chi1:.6g} is not that of these rates: the gap is larger")
    low, high = _largest_resistance(nodes, edges, rates, chi1)
    if high > 2 * chi2:
        raise ValueError(f"a firing edge has resistance {high:.6g}, above 2 chi2 = {2 * chi2:.6g}")
    if low < 2 * chi2 * (1 - 1e-4):
        raise ValueError(f"chi2 = {chi2:.6g} is not that of these rates: the largest resistance is {high:.6g}")
    return chi1, chi2


def gossip(claim: Claim, dossier: Dossier) -> Verdict:
    """chi1 chi2, both proved to be upper bounds."""
    net = network_of(dossier)
    stored = dossier.evidence["dynamics.json"]
    chi1, chi2 = proved_slowness(net, rates_of(net, dossier), stored)
    return compare(claim, chi1 * chi2, supports="proved", rtol=1e-12)


def design(claim: Claim, dossier: Dossier) -> Verdict:
    """The total rate over the lower bound of the multipliers."""
    net = network_of(dossier)
    rates, found = rates_of(net, dossier), dossier.evidence["design.npz"]
    modes, potentials, weights = (np.asarray(found[k], dtype=np.float64) for k in ("modes", "potentials", "weights"))
    value = design_excess(net.nodes, net.edges, rates, modes, potentials, weights)
    return compare(claim, value, supports="proved", bound=1e-2, rtol=1e-5, atol=1e-8)


def design_excess(nodes: int, edges: Edges, rates: Array, modes: Array, potentials: Array, weights: Array) -> float:
    """The relative excess, after checking the two conditions of the multipliers with room for rounding.

    Raises:
        ValueError: they prove nothing.
    """
    count = len(edges)
    if modes.ndim != 2 or modes.shape[1] != nodes or potentials.shape != (count, nodes) or weights.shape != (count,):
        raise ValueError("the multipliers have the wrong shapes")
    if not (np.isfinite(modes).all() and np.isfinite(potentials).all() and (weights >= 0).all()):
        raise ValueError("the multipliers are not finite, or a weight is negative")
    if not (np.abs(modes.sum(axis=1)) <= 1e-9 * np.abs(modes).sum(axis=1)).all():
        raise ValueError("the modes do not sum to zero over the nodes")
    if not (modes[np.arange(len(modes)), np.abs(modes).argmax(axis=1)] > 0).all():
        raise ValueError("the modes do not follow the convention that their largest entry is positive")
    room = 1 + 8 * EPS * (len(modes) + count + 8)
    load = np.zeros(count)
    own = np.zeros(count)
    for e, (i, j) in enumerate(edges.tolist()):
        load[e] = float(
            ((modes[:, i] - modes[:, j]) ** 2).sum() + (weights * (potentials[:, i] - potentials[:, j]) ** 2).sum()
        )
        own[e] = potentials[e, i] - potentials[e, j]
    if float(load.max()) * room > 1 + 1e-10:
        raise ValueError(f"the multipliers put a load of {load.max():.12g} > 1 on an edge")
    if float((modes**2).sum()) < float(weights.sum()) * (1 - 1e-10):
        raise ValueError("the multipliers are not balanced")
    # both conditions hold up to 1e-10; scaling the multipliers by that much makes them hold
    lower = 2 * float((weights * own).sum()) * (1 - 1e-9)
    chi1, chi2 = _float_slowness(nodes, edges, rates)
    return float(rates.sum()) / (lower * math.sqrt(0.5 / (chi1 * chi2))) - 1


def _float_slowness(nodes: int, edges: Edges, rates: Array) -> tuple[float, float]:
    matrix = np.array(_added([[0.0] * nodes for _ in range(nodes)], edges, rates.tolist()))
    pseudo = np.linalg.pinv(matrix)
    i, j = edges[rates > 0].T
    resistance = pseudo[i, i] + pseudo[j, j] - 2 * pseudo[i, j]
    return float(np.linalg.eigvalsh(pseudo)[-1]), 0.5 * float(resistance.max())
