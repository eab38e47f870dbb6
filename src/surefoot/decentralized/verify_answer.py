"""Distances of an answer again, from gradients at the rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.certificate import Claim, Kind
from surefoot.core.verify import Dossier, Verdict, compare
from surefoot.decentralized.problem import Network, network

Array = np.ndarray[Any, np.dtype[np.float64]]
EPS = float(np.finfo(np.float64).eps)


def network_of(dossier: Dossier) -> Network:
    return network(dossier.problem)


def kind_of(net: Network) -> Kind:
    return "measured" if net.known == "estimated" else "proved"


def local_gradients(net: Network, x: Array) -> Array:
    """grad f_i(x) from the rows with the loss's own derivative; from the objectives where the rows are not known."""
    import torch

    if net.rows is None:
        return np.array([net.objectives[i].value_and_grad(torch.from_numpy(x))[1].numpy() for i in range(net.nodes)])
    found = []
    for local in net.rows:
        slopes = local.loss.derivative(torch.from_numpy(local.features @ x), torch.from_numpy(local.targets)).numpy()
        found.append((local.features * slopes[:, None]).mean(axis=0) + local.ridge * x)
    return np.array(found)


def _points(net: Network, dossier: Dossier) -> Array:
    points = np.asarray(dossier.answer.points, dtype=np.float64)
    if points.shape != (net.nodes, net.dim) or not np.isfinite(points).all():
        raise ValueError(f"the answer's points have shape {points.shape} or are not finite")
    return points


def compare_table(dossier: Dossier, points: Array, gaps: Array, norms: Array, rounding: Any) -> None:
    """Hold the table of nodes against what was computed from the answer.

    Raises:
        ValueError: what differs.
    """
    table = dossier.evidence["nodes.csv"]
    if not np.array_equal(np.asarray(table["node"], float), np.arange(len(points))):
        raise ValueError("the table does not list the nodes in their order")
    scale = float(np.abs(points).max()) + 1e-300
    if not np.allclose(np.asarray(table["gap"], float), gaps, rtol=1e-6, atol=64 * EPS * scale):
        raise ValueError("the gaps in the table are not those of the answer")
    if not np.allclose(np.asarray(table["gradient_norm"], float), norms, rtol=1e-6, atol=rounding):
        raise ValueError("the gradient norms in the table are not those at the answer's mean")


def _distances(net: Network, dossier: Dossier) -> tuple[float, float, float]:
    """Mean gradient's norm and the two distances, after comparing the table of nodes row by row."""
    points = _points(net, dossier)
    mean = points.sum(axis=0) / net.nodes
    local = local_gradients(net, mean)
    norms, gaps = np.sqrt((local**2).sum(axis=1)), np.sqrt(((points - mean) ** 2).sum(axis=1))
    compare_table(dossier, points, gaps, norms, 4 * net.rounding(mean))
    size = float(np.sqrt((local.mean(axis=0) ** 2).sum())) + float(net.rounding(mean).mean())
    return size, size / net.mu, float(gaps.max())


def _slack(net: Network, dossier: Dossier) -> float:
    """What rounding may change in the mean gradient's norm."""
    return 4 * float(net.rounding(_points(net, dossier).mean(axis=0)).mean())


def distance(claim: Claim, dossier: Dossier) -> Verdict:
    """|mean gradient at the mean| / mu."""
    net = network_of(dossier)
    _, value, _ = _distances(net, dossier)
    return compare(claim, value, supports=kind_of(net), rtol=1e-6, atol=_slack(net, dossier) / net.mu)


def node_distance(claim: Claim, dossier: Dossier) -> Verdict:
    """The same, plus the largest gap."""
    net = network_of(dossier)
    _, value, gap = _distances(net, dossier)
    return compare(claim, value + gap, supports=kind_of(net), rtol=1e-6, atol=_slack(net, dossier) / net.mu)


def suboptimality(claim: Claim, dossier: Dossier) -> Verdict:
    """|mean gradient|^2 / (2 mu)."""
    net = network_of(dossier)
    size, _, _ = _distances(net, dossier)
    loose = (size + _slack(net, dossier)) ** 2 / (2 * net.mu) - size**2 / (2 * net.mu)
    return compare(claim, size**2 / (2 * net.mu), supports=kind_of(net), rtol=1e-6, atol=loose)
