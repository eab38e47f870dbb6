"""The step itself: momentum, then a move of a drawn layer's parameters along the direction that its norm makes steepest.

    M <- (1 - beta) M + beta g;    X <- (1 - rate lambda) X - length U,    U of norm 1

with U the polar factor of M (spectral), its signs (sign), or M / |M| (Euclidean); AdamW and SGD for parameters that take no steps of a norm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from surefoot.numerics.spectral_matrix import as_matrix, dual_norm, newton_schulz, polar, polar_express
from surefoot.training.drop_muon_distributed import full, like_shards, with_owners
from surefoot.training.drop_muon_holding import is_sharded

__all__ = ["AUXILIARY", "norm_of", "shape_scale", "update"]

AUXILIARY = ("adamw", "sgd")
State = dict[str, Any]
Waiting = tuple[Tensor, dict[str, Any], Tensor, float]


def norm_of(group: Mapping[str, Any], p: Tensor) -> str:
    """The norm, or auxiliary method, that a parameter of a group steps by."""
    return group["norm"] or ("spectral" if p.ndim >= 2 else "adamw")


def shape_scale(shape: Any, how: str) -> float:
    """The factor of lr for a spectral step of a matrix (rows, columns)."""
    rows, columns = shape
    if how == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns)) if how == "match_rms_adamw" else 1.0


def update(
    drawn: list[tuple[Tensor, dict[str, Any], float]], state: Mapping[Tensor, State], distribute: bool | None
) -> None:
    """Step the parameters of the drawn layers by their gradients.

    Args:
        drawn: (parameter, its group, its rate), in the groups' order.
        state: of the optimiser, by parameter; filled as needed.
        distribute: share the polar factors out among the ranks; None where parameters are sharded.

    Raises:
        ValueError: sparse gradients, named with their shape.
    """
    waiting: list[Waiting] = []
    for p, group, rate in drawn:
        if p.grad is None:
            continue
        if p.grad.is_sparse:
            raise ValueError(f"the gradient of a parameter of shape {tuple(p.shape)} is sparse; use sparse=False")
        norm = norm_of(group, p)
        if norm in AUXILIARY:
            _auxiliary(p, p.grad, group, norm, rate * group["auxiliary_scale"], state[p])
            continue
        direction = _momentum(p.grad, group, state[p])
        if norm == "spectral":
            waiting.append((p, group, direction, rate))
        else:
            _move(p, group, norm, rate, direction, direction.sign() if norm == "sign" else _unit(direction))
    if waiting:
        _spectral(waiting, distribute)


def _momentum(gradient: Tensor, group: Mapping[str, Any], state: State) -> Tensor:
    momentum = group["momentum"]
    if momentum == 0:
        return gradient
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
    buffer = state["momentum_buffer"]
    buffer.lerp_(gradient, 1 - momentum)
    return gradient.lerp(buffer, momentum) if group["nesterov"] else buffer


def _spectral(waiting: list[Waiting], distribute: bool | None) -> None:
    matrices = [as_matrix(full(direction)) for _, _, direction, _ in waiting]
    tasks = [lambda M=M, g=group: _orthogonal(M, g) for M, (_, group, _, _) in zip(matrices, waiting, strict=True)]
    spread = distribute if distribute is not None else any(is_sharded(p) for p, *_ in waiting)
    found = with_owners(tasks, matrices) if spread else [task() for task in tasks]
    for (p, group, direction, rate), M, unit in zip(waiting, matrices, found, strict=True):
        _move(p, group, "spectral", rate, direction, unit, M)


def _orthogonal(M: Tensor, group: Mapping[str, Any]) -> Tensor:
    how = group["orthogonalise"]
    if how == "exact":
        return polar(M)
    usual = torch.bfloat16 if M.is_cuda else torch.float32 if M.dtype == torch.float16 else M.dtype
    dtype = group["ns_dtype"] or usual
    if how == "polar-express":
        return polar_express(M, group["ns_steps"], group["eps"], dtype)
    return newton_schulz(M, group["ns_steps"], eps=group["eps"], dtype=dtype)


def _move(
    p: Tensor, group: Mapping[str, Any], norm: Any, rate: float, direction: Tensor, unit: Tensor, matrix: Tensor | None = None
) -> None:  # fmt: skip
    """X <- (1 - rate lambda) X - length unit, where unit has norm 1 (approximately, by Newton-Schulz)."""
    if group["step"] == "lmo":
        length: Any = rate * (shape_scale(as_matrix(p).shape, group["scale"]) if norm == "spectral" else 1.0)
    else:
        length = _gamma(p, group, norm) * float(_dual(norm, direction, unit, matrix))
    if group["weight_decay"]:
        p.mul_(1 - rate * group["weight_decay"])
    p.add_(like_shards(unit.reshape(p.shape), p), alpha=-length)


def _gamma(p: Tensor, group: Mapping[str, Any], norm: Any) -> float:
    """The step size of a sharp step: gamma, or 1 / (L0 + L1 |g|*)."""
    gamma = group["gamma"]
    if not isinstance(gamma, tuple | list):
        return float(gamma)
    bend = gamma[0] + gamma[1] * float(dual_norm(full(p.grad), norm))
    return 1.0 / bend if bend > 0 else 0.0


def _dual(norm: str, direction: Tensor, unit: Tensor, matrix: Tensor | None) -> Tensor:
    """|M|* by the unit direction that attains it."""
    if matrix is not None:
        return (matrix * unit).sum()
    return full(direction).abs().sum() if norm == "sign" else full(direction).norm()


def _auxiliary(p: Tensor, gradient: Tensor, group: Mapping[str, Any], norm: str, rate: float, state: State) -> None:
    """AdamW or SGD with momentum, counting this layer's own updates."""
    if group["weight_decay"]:
        p.mul_(1 - rate * group["weight_decay"])
    if norm == "sgd":
        p.add_(_momentum(gradient, group, state), alpha=-rate)
        return
    first, second = group["betas"]
    if "exp_avg" not in state:
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
        state["updates"] = torch.tensor(0.0)
    state["updates"] += 1
    n = float(state["updates"])
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    size = (state["exp_avg_sq"] / (1 - second**n)).sqrt_().add_(1e-8)
    p.addcdiv_(state["exp_avg"], size, value=-rate / (1 - first**n))


def _unit(direction: Tensor) -> Tensor:
    size = full(direction).norm()
    return direction / size if size > 0 else torch.zeros_like(direction)
