"""Measure the curvature of a network batch size by batch size, and predict it from the rows' own."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.numerics.krylov import lanczos_relative_gap, spectral_quadrature
from surefoot.training import spectral_law as law
from surefoot.training.curvature import CurvatureOperator, row_curvature, top_eigenpairs
from surefoot.training.spectral_problem import Curvature, Rates
from surefoot.training.spectral_rows import Network, everywhere

__all__ = ["MeasureRates", "MeasureState", "growth_threshold", "measured_batches", "still_trains"]

ROWS = 128  # rows of a unit of work on single rows
DRAWN_ROWS = 8192  # rows of draws that are solved at once
ROW_BUDGET = 2048  # small batches vary more: measure as many as have so many rows together
TIGHT = 1e-3  # relative tolerance of a measured batch's top eigenvalue
TURNS, NUDGE = 200, 1e-5  # linearised steps until the direction has settled, at most; length of the finite difference
SETTLED = 0.02  # part of the perturbation that still turns elsewhere; the factor is right to its square
LADDER = math.sqrt(2)  # ratio of neighbouring rates in the search for one that still trains
LOST = 2.0  # a run whose loss has grown beyond this factor no longer trains
DEAD = 0.1  # spread of the outputs over rows, against the start's, below which a network has died
LONGEST, BELOW = 22, 6  # rungs, the first an eighth of the predicted rate


@dataclass(kw_only=True)
class MeasureState(State):
    """What has been measured so far; arrays are filled unit by unit."""

    values: Tensor  # (k,) leading eigenvalues of all rows
    leading: Tensor  # (P, k)
    lowest: float  # smallest Ritz value
    products: int  # Lanczos steps from the random start
    nodes: Tensor  # (probes, steps)
    weights: Tensor
    center: Tensor  # (n, k, k)
    spread: Tensor
    own: Tensor  # (n,)
    random: Tensor  # (n,)
    drawn: Tensor  # (sizes, draws) predicted eigenvalues
    measured: Tensor  # (sizes, most batches), NaN where there are fewer
    threshold: Tensor
    tried: Tensor  # (sizes, rungs): 1 trains, 0 does not, NaN not tried
    units: int


def measured_batches(problem: Curvature, size: int) -> int:
    """How many batches of that size are measured."""
    if size == problem.rows * problem.unit:
        return 1
    return max(problem.plan.repeats, min(problem.plan.most, ROW_BUDGET // size))


@dataclass(frozen=True)
class MeasureRates(Method[Curvature, MeasureState, Rates]):
    """Spectrum, rows, prediction, batches, thresholds: one unit of work after another.

    Args:
        block: units a step.
    """

    block: int = 4
    horizon: int | None = None

    def init(self, problem: Curvature, start: Rates | None, streams: Streams) -> MeasureState:
        plan, n = problem.plan, problem.rows
        point = problem.network.vector()
        k, sizes = min(plan.outliers, point.numel()), len(plan.batches)
        most = max(measured_batches(problem, b) for b in plan.batches)
        room = point.new_zeros
        blank = torch.full((sizes, most), math.nan, dtype=torch.float64)
        return MeasureState(
            streams=streams, values=room(k), leading=room(point.numel(), k), lowest=0.0, products=0,
            nodes=room(plan.probes, min(plan.steps, point.numel())), weights=room(plan.probes, min(plan.steps, point.numel())),
            center=room(n, k, k), spread=room(n, k, k), own=room(n), random=room(n),
            drawn=torch.zeros(sizes, plan.draws, dtype=torch.float64), measured=blank, threshold=blank.clone(),
            tried=torch.full((sizes, LONGEST), math.nan, dtype=torch.float64), units=len(_units(problem)),
        )  # fmt: skip

    def step(self, problem: Curvature, state: MeasureState) -> MeasureState:
        units = _units(problem)
        whole: list[CurvatureOperator] = []  # its graphs are shared by the units of this block
        for _ in range(state.room(self.block)):
            if state.k >= len(units):
                break
            what, *where = units[state.k]
            if what in ("spectrum", "probe") and not whole:
                whole.append(CurvatureOperator.of(problem))
            if what == "spectrum":
                _spectrum(problem, state, whole[0])
            elif what == "probe":
                _probe(problem, state, whole[0], *where)
            elif what == "rows":
                _rows(problem, state, *where)
            elif what == "predict":
                _predict(problem, state, *where)
            elif what == "batch":
                _batch(problem, state, *where)
            else:
                state.tried[where[0]] = torch.tensor(
                    _ladder(problem, problem.sizes[where[0]], float(rates(problem, state)[where[0]]), state.streams)
                )
            state.k += 1
        return state

    def look(self, state: MeasureState) -> Look:
        row = {"top_eigenvalue": float(state.values[0]), "units_left": float(state.units - state.k)}
        return Look(row, Status.CONVERGED if state.k >= state.units else None)

    def answer(self, problem: Curvature, state: MeasureState) -> Rates:
        plan, center, spread = problem.plan, state.center.double(), state.spread.double()
        top = float(state.values[0])
        # with the leading eigenvector first in W: |H_i v|^2 = |A_i e_1|^2 + (R_i'R_i)_11
        along = float((center[:, :, 0].square().sum(dim=1) + spread[:, 0, 0]).mean()) - top**2
        anyhow = float(state.random.double().mean())
        rows = [law.effective_batch(b, problem.rows) for b in problem.sizes]
        measured = state.measured.numpy()
        counts = (~np.isnan(measured)).sum(axis=1)
        rate, decay = rates(problem, state), plan.weight_decay
        tried = np.nan_to_num(state.tried.numpy(), nan=0.0)
        rungs = np.array([int(np.flatnonzero(t)[-1]) if t.any() else -1 for t in tried])
        trains = np.where(rungs < 0, np.nan, rate * LADDER ** (rungs - BELOW).astype(float))
        return Rates(
            batch=np.array(plan.batches, dtype=np.int64), predicted=state.drawn.mean(dim=1).numpy() + decay,
            theorem=np.array([law.moved_eigenvalue(top, max(along, 0.0), b) for b in rows]) + decay,
            isotropic=np.array([law.moved_eigenvalue(top, anyhow, b) for b in rows]) + decay,
            measured=np.array([np.nanmean(row) if c else np.nan for row, c in zip(measured, counts, strict=True)]) + decay,
            spread=np.array([np.nanstd(r, ddof=1) / math.sqrt(c) if c > 1 else 0.0 for r, c in zip(measured, counts, strict=True)]),
            rate=rate, threshold=np.array([np.nanmedian(t) if (~np.isnan(t)).any() else np.nan for t in state.threshold.numpy()]),
            trains=trains, damping=np.array([law.minimal_damping(1.0, law.noise_curvature(top, max(along, 0.0), b)) for b in rows]),
        )  # fmt: skip

    def certify(self, problem: Curvature, state: MeasureState) -> Certificate:
        from surefoot.training.spectral_certify import certificate

        return certificate(problem, state, self.answer(problem, state))


def rates(problem: Curvature, state: MeasureState) -> np.ndarray:
    """``2 / median`` of the predicted eigenvalues: beyond it a step grows on half of the batches."""
    return 2 / (np.median(state.drawn.numpy(), axis=1) + problem.plan.weight_decay)


def _units(problem: Curvature) -> list[tuple[Any, ...]]:
    plan = problem.plan
    units: list[tuple[Any, ...]] = [("spectrum",), *(("probe", i) for i in range(plan.probes))]
    units += [("rows", s) for s in range(0, problem.rows, max(1, ROWS // problem.unit))]
    units += [("predict", j) for j in range(len(plan.batches))]
    for j, size in enumerate(plan.batches):
        units += [("batch", j, i) for i in range(measured_batches(problem, size))]
    return units + ([("trains", j) for j in range(len(plan.batches))] if plan.trained else [])


def _spectrum(problem: Curvature, state: MeasureState, operator: CurvatureOperator) -> None:
    plan, k = problem.plan, state.values.numel()
    pairs = top_eigenpairs(
        operator, k, generator=state.streams.torch("spectrum"), tolerance=plan.tolerance, steps=max(plan.steps, k + 4)
    )
    signs = pairs.vectors.gather(
        0, pairs.vectors.abs().argmax(dim=0, keepdim=True)
    ).sign()  # the largest entry is positive
    state.values, state.leading, state.products = pairs.values, pairs.vectors * signs, pairs.steps
    state.count(product=pairs.steps)
    if problem.kind == "hessian":
        low = top_eigenpairs(
            operator,
            generator=state.streams.torch("lowest"),
            tolerance=plan.tolerance,
            steps=plan.steps,
            end="smallest",
        )
        state.lowest = float(low.values[0])
        state.count(product=low.steps)


def _probe(problem: Curvature, state: MeasureState, operator: CurvatureOperator, i: int) -> None:
    found = spectral_quadrature(
        operator, operator.point, probes=1, steps=state.nodes.shape[1], generator=state.streams.torch("probe", i)
    )
    state.nodes[i], state.weights[i] = found.nodes[0], found.weights[0]
    state.count(product=state.nodes.shape[1])


def _rows(problem: Curvature, state: MeasureState, s: int) -> None:
    rows = torch.arange(s, min(s + max(1, ROWS // problem.unit), problem.rows))
    probe = torch.randn(state.leading.shape[0], generator=state.streams.torch("isotropic"), dtype=state.leading.dtype)
    found = row_curvature(problem, rows, state.leading, probe / torch.linalg.vector_norm(probe))
    state.center[rows], state.spread[rows], state.own[rows], state.random[rows] = (
        found.center, found.spread, found.own, found.random,
    )  # fmt: skip
    state.count(row_product=len(rows) * (state.values.numel() + 2))


def _predict(problem: Curvature, state: MeasureState, j: int) -> None:
    size = problem.sizes[j]
    center, spread, own = (t.double().numpy() for t in (state.center, state.spread, state.own))
    each = max(1, DRAWN_ROWS // size)
    for s in range(0, problem.plan.draws, each):
        chosen = range(s, min(s + each, problem.plan.draws))
        rows = np.stack([problem.batch(state.streams.numpy("draw", size, i), size).numpy() for i in chosen])
        state.drawn[j, s : s + each] = torch.from_numpy(law.compressed(center[rows], spread[rows], own[rows], size))


def _batch(problem: Curvature, state: MeasureState, j: int, i: int) -> None:
    size = problem.sizes[j]
    rows = problem.batch(state.streams.numpy("batch", size, i), size)
    operator = CurvatureOperator.of(problem, rows)
    pairs = top_eigenpairs(operator, generator=state.streams.torch("start", size, i), tolerance=TIGHT, steps=200)
    state.measured[j, i] = float(pairs.values[0])
    state.count(batch_product=pairs.steps)
    if i < problem.plan.thresholds:
        guess = 2 / max(float(pairs.values[0]) + problem.plan.weight_decay, 1e-30)
        state.threshold[j, i] = growth_threshold(problem, rows, pairs.vectors[:, 0], guess)


def growth_threshold(problem: Curvature, rows: Tensor, start: Tensor, guess: float) -> float:
    """Smallest rate at which a perturbation of a descent step on these rows grows (the plan's weight decay included), near a guess.

    The step's derivative is taken by central differences of real gradients in float64, so that it is the loss's own curvature whatever
    `kind` the problem has. The perturbation first turns into the direction that the step turns over most (directions of negative curvature grow
    at any rate, and are no matter of its size); then its growth over linearised steps is brought to 1 by the secant rule.

    Args:
        start: where the perturbation points at first (P,); a direction of large curvature.
        guess: of the rate.
    """
    gradient, point = _gradient(problem, rows), problem.network.vector().double()

    def bent(v: Tensor) -> Tensor:
        return (gradient(point + NUDGE * v) - gradient(point - NUDGE * v)) / (2 * NUDGE)

    v, shift = start.double() / torch.linalg.vector_norm(start.double()), 0.0
    for _ in range(TURNS):
        bend = bent(v)
        along = float(torch.dot(v, bend))
        settled = float(torch.linalg.vector_norm(bend - along * v)) <= SETTLED * along
        if along <= 0:  # negative curvature won: lift all of it above zero
            shift = max(shift, float(torch.linalg.vector_norm(bend)))
        v = bend + shift * v
        v = v / torch.linalg.vector_norm(v).clamp_min(1e-300)
        if settled:
            break
    rate = guess
    for _ in range(4):
        u, factor = v, 0.0
        for _ in range(2):
            after = u - rate * bent(u)
            factor = -float(torch.dot(u, after))
            u = after / torch.linalg.vector_norm(after).clamp_min(1e-300)
        rate *= 2 / max(1 + factor, 0.1)  # |1 - rate lam| = factor
        if abs(factor - 1) < 1e-4:
            break
    return rate


def _gradient(problem: Curvature, rows: Tensor, dtype: torch.dtype = torch.float64) -> Any:
    flat, losses, decay = Network(copy.deepcopy(problem.model).to(dtype)), problem.losses, problem.plan.weight_decay
    x, y = (everywhere(lambda t: t.to(dtype) if t.is_floating_point() else t, part) for part in problem.part(rows))

    def gradient(w: Tensor) -> Tensor:
        w = w.detach().requires_grad_()
        return torch.autograd.grad(losses(flat(w, x), y).mean(), w)[0] + decay * w.detach()

    return gradient


def still_trains(problem: Curvature, size: int, rate: float, streams: Streams) -> bool:
    """Whether plain descent with fresh batches ends with at most twice the loss on all rows that it began with, and outputs that still tell rows apart."""
    flat, losses = problem.network, problem.losses
    w = flat.vector()

    def whole(w: Tensor) -> tuple[float, float]:
        with torch.no_grad():
            outputs = flat(w, problem.inputs)
            return float(losses(outputs, problem.targets).mean()), float(outputs.flatten(1).std(dim=0).mean())

    before, spread = whole(w)
    for t in range(problem.plan.trained):
        rows = problem.batch(streams.numpy("train", size, t), size)
        x, y = problem.part(rows)
        w = w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(losses(flat(w, x), y).mean(), w)
        w = w.detach() - rate * (gradient + problem.plan.weight_decay * w.detach())
        if not bool(torch.isfinite(w).all()):
            return False
    after, left = whole(w)
    return after <= LOST * before and left >= DEAD * spread


def _ladder(problem: Curvature, size: int, rate: float, streams: Streams) -> list[float]:
    """Rates from ``rate / 8`` upwards in octaves until one fails, then the half octave below it."""
    found = [math.nan] * LONGEST
    for j in range(0, LONGEST, 2):
        found[j] = float(still_trains(problem, size, rate * LADDER ** (j - BELOW), streams))
        if not found[j]:
            if j:
                found[j - 1] = float(still_trains(problem, size, rate * LADDER ** (j - 1 - BELOW), streams))
            break
    return found


def upper_bound(problem: Curvature, state: MeasureState) -> float:
    """What the largest eigenvalue is at most, with the plan's chance of failure, from the random start of the Lanczos process."""
    gap = lanczos_relative_gap(state.leading.shape[0], state.products, problem.plan.failure)
    top = float(state.values[0])
    if problem.kind == "ggn":
        return top / (1 - gap) if gap < 1 else math.inf
    return top + gap * (top - state.lowest) / (1 - 2 * gap) if gap < 0.5 else math.inf
