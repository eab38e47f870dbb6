"""From a solution of the program to the network, and back; feasible points, and the bounds they give."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from surefoot.convex_networks.problem import Network, PatternProgram, ordered

DROP = 1e-6
"""Neurons lighter than this fraction of the heaviest are left out."""


def program_value(program: PatternProgram, signs: Tensor, v: Tensor) -> float:
    """loss(F v) + beta sum |v_i| for v (C, 2, P, d)."""
    inside = (signs > 0).to(v)
    difference = v[:, 0] - v[:, 1]
    scores = torch.stack([((c @ program.features.T) * inside).sum(dim=0) for c in difference], dim=1)
    loss = program.loss.value(scores, program.targets).sum()
    return float(loss + program.weight * torch.linalg.vector_norm(v, dim=-1).sum())


def network_value(program: PatternProgram, hidden: Tensor, output: Tensor) -> float:
    """loss + (beta / 2) (|hidden|^2 + |output|^2), from the weights alone."""
    scores = (program.features @ hidden.T).clamp(min=0) @ output
    decay = 0.5 * program.weight * (hidden.square().sum() + output.square().sum())
    return float(program.loss.value(scores, program.targets).sum() + decay)


def weights_of(v: Tensor) -> tuple[Tensor, Tensor]:
    """Balanced weights u = v / sqrt |v|, a = +- sqrt |v| of v (C, 2, P, d): hidden (m, d), output (m, C)."""
    columns = v.shape[0]
    hidden, output = [], []
    for column in range(columns):
        for side in (0, 1):
            size = torch.linalg.vector_norm(v[column, side], dim=1)
            kept = size > 0
            root = size[kept].sqrt()
            hidden.append(v[column, side][kept] / root[:, None])
            a = torch.zeros(len(root), columns, dtype=v.dtype, device=v.device)
            a[:, column] = root if side == 0 else -root
            output.append(a)
    return torch.cat(hidden), torch.cat(output)


def without_light(v: Tensor, fraction: float = DROP) -> Tensor:
    """v with blocks below `fraction` of the heaviest set to zero."""
    size = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return torch.where(size > fraction * size.max(), v, torch.zeros_like(v))


def into_cones(features: Tensor, signs: Tensor, directions: Tensor, v: Tensor) -> Tensor:
    """The nearest point of each block's cone, moved off the walls by rounding's worth along the block's direction."""
    X = features.cpu().numpy()
    result = v.clone()
    norms = np.linalg.norm(X, axis=1)
    for column, side, block in torch.nonzero(torch.linalg.vector_norm(v, dim=-1) > 0).tolist():
        w = v[column, side, block].cpu().numpy().copy()
        G = signs[block].cpu().numpy()[:, None] * X
        if (G @ w).min() < 0:
            multipliers, _ = nnls(G.T, -w, maxiter=10 * len(G))
            w = w + G.T @ multipliers
        inner = directions[block].cpu().numpy()
        room = 8 * np.finfo(float).eps * norms * np.linalg.norm(w)
        short = room - G @ w
        margin = G @ inner
        live = (short > 0) & (norms > 0)
        if live.any():
            w = w + inner * float(np.max(short[live] / np.maximum(margin[live], np.finfo(float).tiny)))
        result[column, side, block] = torch.from_numpy(w).to(v)
    return result


def make_network(program: PatternProgram, hidden: Tensor, output: Tensor) -> Network:
    """The network with its neurons in order."""
    u, a = ordered(hidden.cpu().numpy(), output.cpu().numpy())
    return Network(u, a, program.scaling, program.classes)


def patterns_of_network(features: Tensor, hidden: Tensor, jitter: np.random.Generator, copies: int = 2) -> Tensor:
    """Directions of the neurons' patterns, and of near ones where a neuron lies on a row's hyperplane."""
    norms = torch.linalg.vector_norm(hidden, dim=1)
    live = hidden[norms > 1e-6 * norms.max()] if len(hidden) else hidden
    if len(live) == 0:
        return live
    size = torch.linalg.vector_norm(live, dim=1, keepdim=True)
    moved = [live]
    for _ in range(copies):
        noise = torch.from_numpy(jitter.standard_normal(tuple(live.shape))).to(live)
        moved.append(live + 1e-5 * size * noise)
    return torch.cat(moved)
