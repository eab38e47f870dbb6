"""From a solution of the program to the network, and back; feasible points, and the bounds they give."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from surefoot.convex_networks.patterns import sign_lots
from surefoot.convex_networks.problem import Network, PatternProgram, ordered
from surefoot.convex_networks.robust import soft, worst_loss, worst_network_loss

DROP = 1e-6
"""Neurons lighter than this fraction of the heaviest are left out."""


def program_value(program: PatternProgram, directions: Tensor, v: Tensor) -> float:
    """loss(F v) + beta sum |v_i| for v (C, 2, P, d), with the worst-case loss where the problem is robust."""
    X, loss = program.features, 0.0
    for column, blocks in enumerate(v):
        zeta = torch.zeros_like(X)
        for part, signs in sign_lots(X, directions):
            zeta.addmm_((signs > 0).to(X).T, blocks[0, part] - blocks[1, part])
        scores, y = (zeta * X).sum(dim=1), program.targets[:, column]
        if program.robust and program.radii is not None:
            loss += float(worst_loss(program, scores, zeta.abs() @ program.radii.to(X), y).sum())
        else:
            loss += float(program.loss.value(scores, y).sum())
    return loss + float(program.weight * torch.linalg.vector_norm(v, dim=-1).sum())


def network_value(program: PatternProgram, hidden: Tensor, output: Tensor) -> float:
    """loss + (beta / 2) (|hidden|^2 + |output|^2), from the weights alone; where the problem is robust, with a bound on the worst case."""
    decay = 0.5 * program.weight * (hidden.square().sum() + output.square().sum())
    if program.robust:
        return float(worst_network_loss(program, hidden, output).sum() + decay)
    scores = (program.features @ hidden.T).clamp(min=0) @ output
    return float(program.loss.value(scores, program.targets).sum() + decay)


def dual_norms(program: PatternProgram, directions: Tensor, z: Tensor, tilt: Tensor | None, p: Tensor) -> Tensor:
    """|+-X'D_i z' + G_i'p_i| of every block (2, P) for one column, each entry moved towards zero by radii sum(p) where robust.

    Args:
        z, tilt: (n,), (n, d) row multipliers; row k pushes with -z_k x_k + tilt_k.
        p: (2, P, n).
    """
    X = program.features
    h = -z[:, None] * X if tilt is None else tilt - z[:, None] * X
    norms = X.new_zeros(2, len(directions))
    for part, signs in sign_lots(X, directions):
        pushed = (signs > 0).to(X) @ h
        for side, sign in ((0, 1.0), (1, -1.0)):
            mine = p[side, part]
            vector = sign * pushed - (mine * signs) @ X
            if program.robust and program.radii is not None:
                vector = soft(vector, program.radii.to(X) * mine.sum(dim=1, keepdim=True))
            norms[side, part] = torch.linalg.vector_norm(vector, dim=1)
    return norms


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


def into_cones(features: Tensor, directions: Tensor, v: Tensor) -> Tensor:
    """The nearest point of each block's cone, moved off the walls by rounding's worth along the block's direction."""
    X = features.cpu().numpy()
    result = v.clone()
    norms = np.linalg.norm(X, axis=1)
    for column, side, block in torch.nonzero(torch.linalg.vector_norm(v, dim=-1) > 0).tolist():
        w = v[column, side, block].cpu().numpy().copy()
        inner = directions[block].cpu().numpy()
        G = np.where(X @ inner >= 0, 1.0, -1.0)[:, None] * X
        if (G @ w).min() < 0:
            multipliers, _ = nnls(G.T, -w, maxiter=10 * len(G))
            w = w + G.T @ multipliers
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
