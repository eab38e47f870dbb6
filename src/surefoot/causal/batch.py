"""Many graphs of one size as one tensor program of shape (B, d, d), on the CPU or a GPU.

The iteration is that of `kernel.py`; every graph has its own stage, step, rate and s, so that each follows the path that it
would follow alone. Finished graphs leave the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.causal.dag import to_dag
from surefoot.causal.kernel import BETA1, BETA2, DOMAIN_TOLERANCE, EPSILON
from surefoot.causal.path import MAX_RESTARTS, ConcomitantPath, causal_order
from surefoot.causal.problem import Dag, Table
from surefoot.causal.repair import repair_order
from surefoot.causal.score import noise_levels, residual_variances, start_levels


@dataclass(eq=False)
class _Lanes:
    """The graphs still at work: tensors (B, ...) on the device, and small counters on the host."""

    index: np.ndarray[Any, Any]  # which problem each lane works on
    stage: np.ndarray[Any, Any]
    step: np.ndarray[Any, Any]
    restarts: np.ndarray[Any, Any]
    previous: np.ndarray[Any, Any]  # objective at the last checkpoint
    rate: np.ndarray[Any, Any]
    scale: np.ndarray[Any, Any]
    covariance: Tensor
    floor: Tensor
    allowed: Tensor | None
    penalised: Tensor | None
    weights_in: Tensor
    noise: Tensor
    first: Tensor
    second: Tensor
    move: Tensor
    entry_weights_in: Tensor
    entry_noise: Tensor

    def keep(self, lanes: np.ndarray[Any, Any]) -> None:
        """Drop all other lanes."""
        chosen = torch.as_tensor(lanes, device=self.weights_in.device)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[chosen])
            elif value is not None:
                setattr(self, name, value[lanes])


def fit_batch(
    problems: Sequence[Table], method: ConcomitantPath, *, device: str | torch.device = "cpu", max_lanes: int = 256
) -> list[Dag]:
    """Graphs of many tables with the same number of variables, each as `ConcomitantPath` alone would give it.

    Args:
        problems: tables of d variables each.
        method: the options, common to all.
        device: where the tensors live, float64.
        max_lanes: most graphs in one batch; more are done in turn.

    Returns:
        One `Dag` a problem; to rounding the same as `solve(problem, method).answer`.

    Raises:
        ValueError: no problems, or different numbers of variables.
        RuntimeError: a graph leaves the domain of the log-det function at every rate.
    """
    if not problems:
        raise ValueError("fit_batch got no tables")
    sizes = sorted({problem.order for problem in problems})
    if len(sizes) > 1:
        raise ValueError(f"the tables have {', '.join(map(str, sizes))} variables; a batch needs one number")
    weights: list[np.ndarray[Any, Any]] = []
    for begin in range(0, len(problems), max_lanes):
        weights += _run(problems[begin : begin + max_lanes], method, torch.device(device))
    return [_answer(problem, method, found) for problem, found in zip(problems, weights, strict=True)]


def _answer(problem: Table, method: ConcomitantPath, weights: np.ndarray[Any, Any]) -> Dag:
    known = problem.knowledge
    adjacency = to_dag(weights, method.threshold, method.repair, known.required)
    order, fitted = causal_order(problem, adjacency), weights
    if method.refine == "order":
        order, adjacency = repair_order(problem.covariance, problem.rows, order, method.threshold, known)
        fitted = adjacency
    floor = start_levels(problem.covariance, method.variance)[1]
    noise = noise_levels(residual_variances(problem.covariance, fitted), method.variance, floor)
    return Dag(adjacency, noise, tuple(order), problem.names)


def _lanes(problems: Sequence[Table], method: ConcomitantPath, device: torch.device) -> _Lanes:
    count, order = len(problems), problems[0].order
    starts = [start_levels(problem.covariance, method.variance) for problem in problems]

    def tensor(rows: Sequence[Any]) -> Tensor:
        return torch.as_tensor(np.stack(rows), dtype=torch.float64, device=device)

    allowed = penalised = None
    masked = method.solver == "proximal" or any(p.knowledge.allowed is not None for p in problems)
    if masked:
        free = np.ones((order, order)) - (np.eye(order) if method.solver == "proximal" else 0.0)
        allowed = tensor([free if (a := p.knowledge.allowed) is None else a.T for p in problems])
    if any(p.knowledge.required is not None for p in problems):
        nothing = np.zeros((order, order))
        penalised = tensor([1.0 - (nothing if (r := p.knowledge.required) is None else r.T) for p in problems])
    noise = tensor([start for start, _ in starts])
    zero = torch.zeros((count, order, order), dtype=torch.float64, device=device)
    return _Lanes(
        index=np.arange(count),
        stage=np.zeros(count, dtype=int),
        step=np.zeros(count, dtype=int),
        restarts=np.zeros(count, dtype=int),
        previous=np.full(count, 1e16),
        rate=np.full(count, method.learning_rate),
        scale=np.full(count, method.acyclicity_scales[0]),
        covariance=tensor([problem.covariance for problem in problems]),
        floor=tensor([floor for _, floor in starts]),
        allowed=allowed,
        penalised=penalised,
        weights_in=zero.clone(),
        noise=noise,
        first=zero.clone(),
        second=zero.clone(),
        move=zero.clone(),
        entry_weights_in=zero.clone(),
        entry_noise=noise.clone(),
    )


def _run(problems: Sequence[Table], method: ConcomitantPath, device: torch.device) -> list[np.ndarray[Any, Any]]:
    lanes = _lanes(problems, method, device)
    stages = len(method.acyclicity_scales)
    found: list[np.ndarray[Any, Any]] = [np.empty(0)] * len(problems)
    product = _product(lanes)
    while len(lanes.index):
        inverse, product = _enter_domain(lanes, method, product)
        lanes.step += 1
        _update(lanes, method, product, inverse)
        product = _product(lanes)
        _renew_noise(lanes, product)
        limit = np.where(lanes.stage == stages - 1, method.last_steps, method.warm_steps)
        at_end = lanes.step >= limit
        due = at_end | (lanes.step % method.checkpoint == 0)
        if not due.any():
            continue
        _finish_stages(lanes, method, product, due, at_end)
        done = lanes.stage == stages
        if done.any():
            for lane in np.flatnonzero(done):
                found[lanes.index[lane]] = lanes.weights_in[lane].T.cpu().numpy().copy()
            lanes.keep(np.flatnonzero(~done))
            product = _product(lanes)
    return found


def _product(lanes: _Lanes) -> Tensor:
    """`((I - W)' S)` for every lane."""
    mixing = -lanes.weights_in
    mixing.diagonal(dim1=1, dim2=2).add_(1.0)
    return mixing @ lanes.covariance


def _residuals(lanes: _Lanes, product: Tensor) -> Tensor:
    mixing = -lanes.weights_in
    mixing.diagonal(dim1=1, dim2=2).add_(1.0)
    return (mixing * product).sum(dim=2)


def _renew_noise(lanes: _Lanes, product: Tensor) -> None:
    residual = _residuals(lanes, product)
    level = residual.mean(dim=1, keepdim=True) if lanes.noise.shape[1] == 1 else residual
    lanes.noise = torch.maximum(level.clamp_min(0.0).sqrt(), lanes.floor[:, None])


def _column(lanes: _Lanes, values: np.ndarray[Any, Any]) -> Tensor:
    """Host numbers, one a lane, shaped to scale matrices."""
    return torch.as_tensor(values, dtype=torch.float64, device=lanes.weights_in.device)[:, None, None]


def _enter_domain(lanes: _Lanes, method: ConcomitantPath, product: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses `2 (s I - W o W)^-1` of all lanes, after halving steps or restarting stages where that is needed."""
    while True:
        matrix = -0.5 * lanes.weights_in * lanes.weights_in
        scale = torch.as_tensor(0.5 * lanes.scale, device=matrix.device)
        matrix.diagonal(dim1=1, dim2=2).add_(scale[:, None])
        inverse, _ = torch.linalg.inv_ex(matrix.mT)
        smallest = inverse.amin(dim=(1, 2))
        outside = ~(smallest >= -2.0 * DOMAIN_TOLERANCE)
        if not bool(outside.any()):
            return inverse, product
        for lane in outside.nonzero().flatten().tolist():
            _leave(lanes, method, lane)
        product = _product(lanes)
        changed = torch.where(outside & torch.as_tensor(lanes.step > 0, device=outside.device))[0]
        if len(changed):
            kept = lanes.noise.clone()
            _renew_noise(lanes, product)
            renewed = lanes.noise
            lanes.noise = kept
            lanes.noise[changed] = renewed[changed]


def _leave(lanes: _Lanes, method: ConcomitantPath, lane: int) -> None:
    """A lane outside the domain halves its last step, or starts its stage again with half the rate and s + 0.1."""
    if lanes.step[lane] > 0 and lanes.scale[lane] > 0.9 and lanes.rate[lane] > 1e-16:
        lanes.move[lane] *= 0.5
        lanes.weights_in[lane] += lanes.move[lane]
        lanes.rate[lane] *= 0.5
        return
    lanes.restarts[lane] += 1
    if lanes.restarts[lane] > MAX_RESTARTS:
        raise RuntimeError(f"graph {lanes.index[lane]} leaves the domain of the log-det function at every rate")
    lanes.weights_in[lane] = lanes.entry_weights_in[lane]
    lanes.noise[lane] = lanes.entry_noise[lane]
    _enter_stage(lanes, method, lane)


def _enter_stage(lanes: _Lanes, method: ConcomitantPath, lane: int) -> None:
    for moments in (lanes.first, lanes.second, lanes.move):
        moments[lane] = 0.0
    lanes.step[lane] = 0
    lanes.previous[lane] = 1e16
    lanes.rate[lane] = method.learning_rate / 2.0 ** int(lanes.restarts[lane])
    added = 0.1 * float(lanes.restarts[lane])
    lanes.scale[lane] = method.acyclicity_scales[int(lanes.stage[lane])] + added


def _update(lanes: _Lanes, method: ConcomitantPath, product: Tensor, inverse: Tensor) -> None:
    """One Adam or proximal step of every lane; see `kernel.py` for the unscaled moments."""
    centre = _column(lanes, method.first_centre * method.centre_factor**lanes.stage)
    second_correction = _column(lanes, np.sqrt((1.0 - BETA2) / (1.0 - BETA2**lanes.step)))
    metric = _column(lanes, lanes.rate) / second_correction
    length = metric * _column(lanes, (1.0 - BETA1) / (1.0 - BETA1**lanes.step))
    threshold = centre * method.sparsity
    if lanes.penalised is not None:
        threshold = threshold * lanes.penalised
    gradient = torch.addcmul(product * (-centre / lanes.noise[:, :, None]), lanes.weights_in, inverse)
    proximal = method.solver == "proximal"
    if not proximal:
        gradient = gradient + lanes.weights_in.sign() * threshold
    if lanes.allowed is not None:
        gradient = gradient * lanes.allowed
    lanes.first.mul_(BETA1).add_(gradient)
    lanes.second.mul_(BETA2).addcmul_(gradient, gradient)
    spread = lanes.second.sqrt().add_(EPSILON / second_correction)
    if not proximal:
        lanes.move = length * lanes.first / spread
        lanes.weights_in = lanes.weights_in - lanes.move
        return
    target = lanes.weights_in - length * lanes.first / spread
    shrunk = torch.copysign((target.abs() - threshold * metric / spread).clamp_min(0.0), target)
    lanes.move = lanes.weights_in - shrunk
    lanes.weights_in = shrunk


def _finish_stages(
    lanes: _Lanes, method: ConcomitantPath, product: Tensor, due: np.ndarray[Any, Any], at_end: np.ndarray[Any, Any]
) -> None:
    """Objectives of the lanes at a checkpoint; a lane whose objective stands still enters its next stage."""
    magnitude = lanes.weights_in.abs() if lanes.penalised is None else lanes.weights_in.abs() * lanes.penalised
    residual = _residuals(lanes, product)
    levels = lanes.noise.expand_as(residual)
    fit = 0.5 * (residual / levels + levels).sum(dim=1) + method.sparsity * magnitude.sum(dim=(1, 2))
    matrix = -lanes.weights_in * lanes.weights_in
    scale = torch.as_tensor(lanes.scale, device=matrix.device)
    matrix.diagonal(dim1=1, dim2=2).add_(scale[:, None])
    sign, log_det = torch.linalg.slogdet(matrix)
    barrier = torch.where(sign > 0, matrix.shape[1] * scale.log() - log_det, torch.inf)
    centre = method.first_centre * method.centre_factor**lanes.stage
    objective = centre * fit.cpu().numpy() + barrier.cpu().numpy()
    for lane in np.flatnonzero(due):
        previous, lanes.previous[lane] = lanes.previous[lane], objective[lane]
        if at_end[lane] or abs(previous - objective[lane]) <= method.tolerance * abs(previous):
            lanes.stage[lane] += 1
            lanes.restarts[lane] = 0
            if lanes.stage[lane] < len(method.acyclicity_scales):
                lanes.entry_weights_in[lane] = lanes.weights_in[lane]
                lanes.entry_noise[lane] = lanes.noise[lane]
                _enter_stage(lanes, method, int(lane))
