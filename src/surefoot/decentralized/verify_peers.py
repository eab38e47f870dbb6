"""The curves of the synchronous methods again, by their recursions written out anew."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.decentralized.problem import Network
from surefoot.decentralized.verify_answer import local_gradients, network_of

Array = np.ndarray[Any, np.dtype[np.float64]]


def _slopes(net: Network, points: Array) -> Array:
    """Every node's gradient at its own point, (n, d)."""
    assert net.rows is not None
    found = []
    for local, x in zip(net.rows, points, strict=True):
        slope = local.loss.derivative(torch.from_numpy(local.features @ x), torch.from_numpy(local.targets)).numpy()
        found.append(slope @ local.features / len(slope) + local.ridge * x)
    return np.array(found)


def _weights(net: Network) -> Array:
    """Metropolis weights."""
    degree = [0] * net.nodes
    for i, j in net.edges.tolist():
        degree[i] += 1
        degree[j] += 1
    W = np.eye(net.nodes)
    for i, j in net.edges.tolist():
        weight = 1.0 / (1.0 + max(degree[i], degree[j]))
        W[i, j] = W[j, i] = weight
        W[i, i] -= weight
        W[j, j] -= weight
    return W


def _proved(net: Network, points: Array) -> float:
    mean = points.mean(axis=0)
    slope = local_gradients(net, mean).mean(axis=0)
    return float(np.sqrt(slope @ slope)) / net.mu + float(np.sqrt(((points - mean) ** 2).sum(axis=1)).max())


def _curve(net: Network, name: str, rows: int, every: int) -> Array:
    """(rounds, exchanges, proved distance) every so many rounds."""
    W, step = _weights(net), 1.0 / net.smoothness
    half = 0.5 * (np.eye(net.nodes) + W)
    before = np.zeros((net.nodes, net.dim))
    slope = _slopes(net, before)
    now = -step * slope if name == "nids" else W @ before - step * slope
    found, free = [], int(name == "nids")  # NIDS uses no edge in its first round
    for k in range(1, rows * every + 1):
        if k % every == 0:
            found.append((k, (k - free) * len(net.edges), _proved(net, now)))
        fresh = _slopes(net, now)
        if name == "nids":
            after = half @ (2 * now - before - step * (fresh - slope))
        else:
            after = 2 * half @ now - half @ before - step * (fresh - slope)
        before, now, slope = now, after, fresh
    return np.array(found)


def _beside(name: str, claim: Claim, dossier: Dossier) -> Verdict:
    net = network_of(dossier)
    if net.rows is None:
        return refute(claim, "the losses are no linear models")
    stored = np.asarray(dossier.evidence["peers.npz"][name], dtype=np.float64)
    if stored.ndim != 2 or stored.shape[1] != 3 or not 0 < len(stored) <= 1000 or not np.isfinite(stored[:, :2]).all():
        return refute(claim, "the curve is no table of rounds, exchanges and distances")
    again = _curve(net, name, len(stored), 10)
    if not np.array_equal(stored[:, :2], again[:, :2]) or not np.allclose(stored[:, 2], again[:, 2], rtol=1e-3, atol=0):
        return refute(claim, f"the curve is not that of {name.upper()}")
    said = re.search(r"within (\S+)\.$", claim.statement)
    goal = float(said.group(1)) if said else float("nan")
    reached = bool(again[-1, 2] <= goal)
    if reached and len(again) > 1 and again[-2, 2] <= goal:
        return refute(claim, "it was there before")
    return compare(claim, float(again[-1, 1]), supports="measured", undecided=not reached)


def beside_nids(claim: Claim, dossier: Dossier) -> Verdict:
    """Exchanges of NIDS."""
    return _beside("nids", claim, dossier)


def beside_extra(claim: Claim, dossier: Dossier) -> Verdict:
    """Exchanges of EXTRA."""
    return _beside("extra", claim, dossier)
