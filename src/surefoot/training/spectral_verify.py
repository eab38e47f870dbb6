"""Checkers of curvature and rates, by other algorithms than the solver's.

Products run forward over reverse without kept graphs, eigenvalues come from ARPACK, single rows from explicit Jacobians, predictions are put back into
their equation, thresholds are compared with the Hessian's top eigenvalue. A fresh random subset of rows, draws and batches is done again; `--full` does all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.numerics.autodiff import ggn_product, hessian_operator, hvp
from surefoot.numerics.krylov import lanczos_relative_gap
from surefoot.numerics.threads import torch_threads
from surefoot.records.fingerprint import fingerprint
from surefoot.training.spectral_problem import Curvature
from surefoot.training.spectral_rows import Network, count, everywhere, take, threads_for

__all__ = ["CHECKS"]

Array = np.ndarray[Any, np.dtype[Any]]
SINGLE = 2e-3  # what float32 products may differ by, relative
LARGEST_GRAM, LARGEST_JACOBIAN = 1500, 20_000_000  # rows, and entries, of a Jacobian that is formed
STEP, RUNGS, FIRST = math.sqrt(2), 22, -6  # the ladder of rates


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the problem."""


def _require(condition: Any, what: str) -> None:
    if not bool(condition):
        raise EvidenceError(what)


def _arpack(product: Callable[[Tensor], Tensor], n: int, seed: int) -> float:
    def matvec(v: Array) -> Array:
        return product(torch.from_numpy(np.ascontiguousarray(v.ravel()))).numpy()

    if n < 20:
        return float(np.linalg.eigvalsh(np.stack([matvec(e) for e in np.eye(n)]))[-1])
    made: Any = LinearOperator((n, n), matvec=matvec, dtype=np.float64)  # type: ignore[call-arg]
    start: Any = np.random.default_rng(seed).standard_normal(n)
    try:
        return float(eigsh(made, k=1, which="LA", v0=start, tol=1e-5)[0][0])  # type: ignore[arg-type]
    except ArpackNoConvergence as error:
        raise EvidenceError("ARPACK found no top eigenvalue") from error


class _Case:
    """The problem in float64 on the CPU, with the run's network."""

    def __init__(self, dossier: Dossier) -> None:
        problem: Curvature = dossier.problem
        settings = dossier.evidence["settings.json"]
        if problem.identity is not None:
            weights: Mapping[str, Any] = dossier.evidence["network.npz"]
            _require(fingerprint(dict(weights)) == settings["network"], "network.npz is not the run's network")
            problem = problem.with_weights(weights)
        _require(math.isfinite(settings["lowest"]) and settings["products"] > 0, "settings.json holds no numbers")
        _require(problem.kind == "hessian" or settings["lowest"] == 0, "a Gauss-Newton matrix has no negative end")
        self.single, self.settings, self.streams = problem, settings, Streams(settings["seed"])
        self.flat = Network(copy.deepcopy(problem.model).cpu().double())
        self.point = self.flat.vector()
        self.x, self.y = (
            everywhere(lambda t: t.cpu().double() if t.is_floating_point() else t.cpu(), rows)
            for rows in (problem.inputs, problem.targets)
        )
        self.rows, self.sizes = problem.rows, problem.sizes
        self.losses, self.kind, self.plan = problem.losses, problem.kind, problem.plan
        self.table = False  # whether rows, draws and measured batches were found right

    def product(self, v: Tensor, rows: Tensor | None = None) -> Tensor:
        x, y = (self.x, self.y) if rows is None else (take(self.x, rows), take(self.y, rows))
        total = torch.zeros_like(self.point)
        step = max(1, 300 // self.single.unit)
        for s in range(0, count(x), step):
            a, b = take(x, slice(s, s + step)), take(y, slice(s, s + step))

            def loss(z: Tensor, b: Any = b) -> Tensor:
                return self.losses(z, b).sum()

            def outputs(w: Tensor, a: Any = a) -> Tensor:
                return self.flat(w, a)

            if self.kind == "hessian":
                total += hvp(lambda w: loss(outputs(w)), self.point, v)
            else:
                total += ggn_product(outputs, loss, self.point, v)
        return total / count(x)

    def top(self, seed: int, rows: Tensor | None = None) -> float:
        """The largest eigenvalue: of the Gram matrix of a small batch's Jacobian, or by ARPACK from a start of its own."""
        chosen = torch.arange(self.rows) if rows is None else rows
        if self.kind == "ggn":
            with torch.no_grad():
                outputs = self.flat(self.point, take(self.x, slice(0, 1))).numel() * len(chosen)
            if outputs <= LARGEST_GRAM and outputs * self.point.numel() <= LARGEST_JACOBIAN:
                return self._gram(chosen)
        return _arpack(lambda v: self.product(v, rows), self.point.numel(), seed)

    def top_of_hessian(self, seed: int, rows: Tensor) -> float:
        """The largest eigenvalue of the batch's Hessian by ARPACK on double backward passes."""
        product = hessian_operator(
            lambda w: self.losses(self.flat(w, take(self.x, rows)), take(self.y, rows)).mean(), self.point
        )
        return _arpack(product, self.point.numel(), seed)

    def _gram(self, rows: Tensor) -> float:
        """``lam_1(J' C J) = lam_1(S' J J' S)`` with ``C = S S'``."""
        w = self.point.clone().requires_grad_()
        z = self.flat(w, take(self.x, rows))
        J = torch.autograd.grad(z.flatten(), w, torch.eye(z.numel(), dtype=z.dtype), is_grads_batched=True)[0]
        each = z.detach().reshape(len(rows), 1, -1)
        shape = (1, *z.shape[1:])
        curves: Any = [
            torch.autograd.functional.hessian(lambda q, i=i: self.losses(q.view(shape), take(self.y, rows[i : i + 1])).sum(), e[0])
            for i, e in enumerate(each)
        ]  # fmt: skip
        sizes, U = torch.linalg.eigh(torch.stack(curves))
        root = U * sizes.clamp_min(0).sqrt()[:, None, :]
        half = (root.mT @ J.view(len(rows), each.shape[2], -1)).flatten(0, 1)
        return float(torch.linalg.eigvalsh(half @ half.T)[-1]) / len(rows)

    def row_matrix(self, i: int) -> Callable[[Tensor], Tensor]:
        """One row's matrix from its explicit Jacobian (or by double backward, for the Hessian)."""
        w = self.point.clone().requires_grad_()
        a, b = take(self.x, slice(i, i + 1)), take(self.y, slice(i, i + 1))
        if self.kind == "hessian":
            (gradient,) = torch.autograd.grad(self.losses(self.flat(w, a), b).sum(), w, create_graph=True)
            return lambda V: torch.stack([
                torch.autograd.grad(gradient, w, v, retain_graph=True, materialize_grads=True)[0] for v in V.T
            ], dim=1)  # fmt: skip
        z = self.flat(w, a)
        J = torch.stack([torch.autograd.grad(o, w, retain_graph=True)[0] for o in z.flatten()])
        curve: Any = torch.autograd.functional.hessian(
            lambda q: self.losses(q.view_as(z), b).sum(), z.detach().flatten()
        )
        return lambda V: J.T @ (curve @ (J @ V))


_LATEST: list[tuple[Dossier, _Case]] = []  # claims of one dossier share their case


def _case(dossier: Dossier) -> _Case:
    if not _LATEST or _LATEST[0][0] is not dossier:
        _LATEST[:] = [(dossier, _Case(dossier))]
    return _LATEST[0][1]


def _leading(case: _Case, dossier: Dossier) -> Tensor:
    """The leading vectors, of unit length and with their sign fixed."""
    W = torch.from_numpy(np.asarray(dossier.evidence["ritz.npz"]["vectors"])).double()
    _require(W.ndim == 2 and W.shape[0] == case.point.numel(), "the vectors have not the length of the parameters")
    _require(bool(torch.isfinite(W).all()), "the vectors are not finite")
    gram = W.T @ W
    _require(
        float((gram - torch.eye(W.shape[1], dtype=torch.float64)).abs().max()) < 1e-3, "the vectors are not orthonormal"
    )
    _require((W.gather(0, W.abs().argmax(dim=0, keepdim=True)) > 0).all(), "a vector's largest entry is negative")
    return W


def eigenvalue(claim: Claim, dossier: Dossier) -> Verdict:
    """Rayleigh quotients and residuals in float64."""
    case = _case(dossier)
    W, found = _leading(case, dossier), dossier.evidence["ritz.npz"]
    W = W / torch.linalg.vector_norm(W, dim=0)
    images = torch.stack([case.product(v) for v in W.T], dim=1)
    values = (W * images).sum(dim=0)
    residuals = torch.linalg.vector_norm(images - W * values, dim=0)
    scale = float(values[0].abs())
    _require(np.allclose(found["values"], values, rtol=1e-7, atol=1e-9 * scale), "the eigenvalues are not the vectors'")
    _require(
        np.allclose(found["residuals"], residuals, rtol=1e-4, atol=1e-9 * scale), "the residuals are not the vectors'"
    )
    _require(bool((values.diff() <= 1e-6 * scale).all()), "the eigenvalues do not fall")
    return compare(
        claim, float(residuals[0]) / max(scale, 1e-300), supports="proved", bound=10 * case.plan.tolerance, rtol=1e-4
    )


def largest(claim: Claim, dossier: Dossier) -> Verdict:
    """The bound of the random start again, and the top eigenvalue by ARPACK below it."""
    case = _case(dossier)
    gap = lanczos_relative_gap(case.point.numel(), int(case.settings["products"]), case.plan.failure)
    theta = float(dossier.evidence["ritz.npz"]["values"][0])
    top = case.top(dossier.seed)
    _require(
        abs(top - theta) <= 20 * case.plan.tolerance * abs(top) + 1e-12,
        f"ARPACK finds {top:g}, the evidence says {theta:g}",
    )
    if case.kind == "ggn":
        bound = theta / (1 - gap) if gap < 1 else math.inf
    else:
        low = case.settings["lowest"]
        bound = theta + gap * (theta - low) / (1 - 2 * gap) if gap < 0.5 else math.inf
    undecided = not math.isfinite(bound)
    if not undecided and top > bound * (1 + 1e-9):
        return refute(claim, "ARPACK finds a larger eigenvalue", top)
    return compare(claim, theta if undecided else bound, supports="statistical", rtol=1e-4, undecided=undecided)


def density(claim: Claim, dossier: Dossier) -> Verdict:
    """The first moments of every rule, from products with its probe."""
    case = _case(dossier)
    nodes, weights = (np.asarray(dossier.evidence["density.npz"][k], dtype=np.float64) for k in ("nodes", "weights"))
    expected = (case.plan.probes, min(case.plan.steps, case.point.numel()))
    _require(nodes.shape == expected == weights.shape, "the rules have not the plan's shape")
    _require(np.isfinite(nodes).all() and (weights >= -1e-9).all(), "the rules hold no numbers, or negative weights")
    size = np.abs(nodes).max()
    single = case.single.network.vector().dtype
    for i in range(len(nodes)):
        z = torch.randn(case.point.numel(), generator=case.streams.torch("probe", i), dtype=single).double()
        z = z / torch.linalg.vector_norm(z)
        once = case.product(z)
        twice = case.product(once)
        moments = [1.0, float(z @ once), float(once @ once), float(once @ twice)]
        for j, moment in enumerate(moments):
            mine = float((weights[i] * nodes[i] ** j).sum())
            near = SINGLE * abs(moment) + 1e-5 * size**j * float(np.sqrt(moments[2])) / max(size, 1e-300)
            _require(abs(mine - moment) <= near + 1e-12, f"probe {i}: moment {j} is {moment:g}, not {mine:g}")
    trace = float((nodes * weights).sum(axis=1).mean()) * case.point.numel()
    return compare(claim, trace, supports="measured", rtol=1e-6)


# ---- the table ----------------------------------------------------------------------------------------------------
def _rows(case: _Case, dossier: Dossier) -> None:
    """Single rows again, from explicit Jacobians."""
    W, kept = _leading(case, dossier), dossier.evidence["rows.npz"]
    n, k = case.rows, W.shape[1]
    for name, shape in (("center", (n, k, k)), ("spread", (n, k, k)), ("own", (n,)), ("random", (n,))):
        _require(
            kept[name].shape == shape and np.isfinite(kept[name]).all(),
            f"rows.npz:{name} is not as large as the problem, or not finite",
        )
    single = case.single.network.vector().dtype
    z = torch.randn(len(W), generator=case.streams.torch("isotropic"), dtype=single).double()
    z = z / torch.linalg.vector_norm(z)
    overall = {name: float(np.abs(kept[name]).max()) for name in ("center", "spread", "own", "random")}
    for i in dossier.rows(n, 24):
        apply = case.row_matrix(int(i))
        images = apply(W)
        center = W.T @ images
        beyond = images - W @ center
        spread = beyond.T @ beyond
        random = float(apply(z[:, None]).square().sum())
        found = {"center": center.numpy(), "spread": spread.numpy(), "random": np.array(random)}
        found = {**found, **_own(apply, beyond, spread, overall["spread"])}
        for name, value in found.items():
            near = SINGLE * np.abs(value).max() + 1e-5 * overall[name]
            _require(np.abs(kept[name][i] - value).max() <= near, f"row {i}: its {name} is not the evidence's")


def _own(apply: Any, beyond: Tensor, spread: Tensor, scale: float) -> dict[str, Array]:
    sizes, U = torch.linalg.eigh(spread)
    if float(sizes[-1]) < 1e-4 * scale or (len(sizes) > 1 and float(sizes[-2]) > 0.9 * float(sizes[-1])):
        return {}  # no direction stands out
    d = beyond @ U[:, -1]
    d = d / torch.linalg.vector_norm(d)
    return {"own": np.array(float(d @ apply(d[:, None])[:, 0]))}


def _draws(case: _Case, dossier: Dossier) -> Array:
    """Every redone draw solves its equation."""
    kept = dossier.evidence["rows.npz"]
    center, spread, own = (np.asarray(kept[k], dtype=np.float64) for k in ("center", "spread", "own"))
    drawn = np.asarray(dossier.evidence["draws.npz"]["drawn"])
    sizes = case.sizes
    _require(
        drawn.shape == (len(sizes), case.plan.draws) and np.isfinite(drawn).all(), "the draws have not the plan's shape"
    )
    for cell in dossier.rows(drawn.size, 48):
        j, i = divmod(int(cell), case.plan.draws)
        size, lam = sizes[j], drawn[j, i]
        rows = np.sort(case.streams.numpy("draw", size, i).choice(case.rows, size, replace=False))
        mean, poles = center[rows].mean(axis=0), own[rows] / size
        low = max(float(poles.max()), float(np.linalg.eigvalsh(mean)[-1]))

        def beyond(at: float, rows: Array = rows, mean: Array = mean, poles: Array = poles, size: int = size) -> float:
            moved = mean + np.einsum("n,nkj->kj", 1 / (at - poles), spread[rows]) / size**2
            return float(np.linalg.eigvalsh(moved)[-1]) - at

        _require(
            beyond(lam * (1 + 1e-6)) <= 0 or lam * (1 + 1e-6) <= low * (1 + 2e-6),
            f"draw {i} of {size} rows lies below its fixed point",
        )
        _require(
            lam * (1 - 1e-6) <= low or beyond(lam * (1 - 1e-6)) >= 0,
            f"draw {i} of {size} rows lies above its fixed point",
        )
        _require(lam >= low * (1 - 1e-6), f"draw {i} of {size} rows lies below what its rows have")
    return drawn


def _batches(case: _Case, dossier: Dossier, thresholds: bool) -> tuple[Array, Array]:
    """Measured eigenvalues by ARPACK, thresholds by the Hessian's top eigenvalue."""
    kept = dossier.evidence["batches.npz"]
    measured, threshold = np.asarray(kept["measured"]), np.asarray(kept["threshold"])
    plan, n, unit = case.plan, case.rows, case.single.unit
    counts = [1 if b == n * unit else max(plan.repeats, min(plan.most, 2048 // b)) for b in plan.batches]
    place = np.arange(max(counts))
    expected = place < np.array(counts)[:, None]
    local = expected & (place < plan.thresholds)
    _require(
        measured.shape == expected.shape and np.array_equal(np.isfinite(measured), expected),
        "not the plan's batches were measured",
    )
    _require(
        threshold.shape == expected.shape and np.array_equal(np.isfinite(threshold), local),
        "not the plan's thresholds were measured",
    )
    _require(
        (measured[expected] >= 0).all() or case.kind == "hessian", "a Gauss-Newton matrix has a negative top eigenvalue"
    )
    cells = np.argwhere(local if thresholds else expected)
    for cell in dossier.rows(len(cells), 10):
        j, i = (int(v) for v in cells[cell])
        size = case.sizes[j]
        rows = torch.from_numpy(np.sort(case.streams.numpy("batch", size, i).choice(n, size, replace=False)))
        if thresholds:
            found, said, near = 2 / (case.top_of_hessian(dossier.seed, rows) + plan.weight_decay), threshold[j, i], 1e-2
        else:
            found, said, near = case.top(dossier.seed, rows), measured[j, i], 5e-3
        _require(
            abs(said / found - 1) <= near, f"batch {i} of {size} rows: found {found:g}, the evidence says {said:g}"
        )
    return measured, threshold


def _answer(case: _Case, dossier: Dossier) -> Any:
    """The answer's columns from the evidence; nothing costly."""
    answer, kept = dossier.answer, dossier.evidence["batches.npz"]
    rows, W = dossier.evidence["rows.npz"], dossier.evidence["ritz.npz"]
    drawn = np.asarray(dossier.evidence["draws.npz"]["drawn"])
    n, sizes = case.rows, np.array(case.sizes)
    top = float(W["values"][0])
    first = np.asarray(rows["center"], dtype=np.float64)[:, :, 0]
    along = float(((first**2).sum(axis=1) + np.asarray(rows["spread"], dtype=np.float64)[:, 0, 0]).mean()) - top**2
    share = 1 / sizes - 1 / n
    measured, threshold = np.asarray(kept["measured"]), np.asarray(kept["threshold"])
    decay, noise = case.plan.weight_decay, max(along, 0.0) * share
    rate = 2 / (np.median(drawn, axis=1) + decay)
    expected = {
        "batch": sizes * case.single.unit, "predicted": drawn.mean(axis=1) + decay, "theorem": _moved(top, noise) + decay,
        "isotropic": _moved(top, float(np.asarray(rows["random"], dtype=np.float64).mean()) * share) + decay,
        "damping": np.where(top > np.sqrt(noise), noise / max(top, 1e-300), 2 * np.sqrt(noise)) / 2,  # half the noise's curvature
        "measured": np.array([row[np.isfinite(row)].mean() for row in measured]) + decay,
        "spread": np.array([_error(row[np.isfinite(row)]) for row in measured]), "rate": rate,
        "threshold": np.array([np.median(t[np.isfinite(t)]) if np.isfinite(t).any() else np.nan for t in threshold]),
        "trains": np.array([_rung(t, r) for t, r in zip(np.asarray(kept["tried"]), rate, strict=True)]),
    }  # fmt: skip
    for name, value in expected.items():
        near = 1e-4 if name in ("theorem", "isotropic", "damping") else 1e-9  # these rest on the float32 eigenvalue
        _require(
            np.allclose(getattr(answer, name), value, rtol=near, atol=0, equal_nan=True),
            f"the answer's {name} is not the evidence's",
        )
    return answer


def _moved(top: float, noise: Array) -> Array:
    return np.where(top > np.sqrt(np.abs(noise)), top + noise / top, 2 * np.sqrt(np.abs(noise)))


def _error(values: Array) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _rung(tried: Array, rate: float) -> float:
    good = np.flatnonzero(np.nan_to_num(tried))
    return rate * STEP ** float(good[-1] + FIRST) if len(good) else math.nan


def prediction(claim: Claim, dossier: Dossier) -> Verdict:
    """Rows, draws and measured batches again; the worst ratio."""
    case = _case(dossier)
    if not case.table:  # one seed, one subset: the second of the two claims would redo the very same rows
        _rows(case, dossier)
        _draws(case, dossier)
        _batches(case, dossier, thresholds=False)
        case.table = True
    answer = _answer(case, dossier)
    chosen = (answer.batch >= 128) == (claim.name == "prediction-large")
    worst = float(np.abs(answer.predicted / answer.measured - 1)[chosen].max())
    return compare(claim, worst, supports="measured", bound=0.10 if claim.name == "prediction-large" else 0.25)


def threshold(claim: Claim, dossier: Dossier) -> Verdict:
    """Thresholds against the Hessian's top eigenvalue."""
    case = _case(dossier)
    _batches(case, dossier, thresholds=True)
    answer = _answer(case, dossier)
    found = np.abs(answer.rate / answer.threshold - 1)
    return compare(claim, float(np.nanmax(found)), supports="measured", bound=0.15)


def trains(claim: Claim, dossier: Dossier) -> Verdict:
    """The ladder's pattern, and some of its runs again."""
    case = _case(dossier)
    answer = _answer(case, dossier)
    tried = np.asarray(dossier.evidence["batches.npz"]["tried"])
    _require(tried.shape == (len(answer.batch), RUNGS), "the ladder has not the plan's shape")
    for row in tried:
        octaves = row[::2]
        asked = int(np.isfinite(octaves).sum())
        _require(
            asked > 0 and np.isin(octaves[: asked - 1], [1.0]).all() and octaves[asked - 1] in (0.0, 1.0),
            "the ladder has gaps",
        )
        _require(octaves[asked - 1] == 0 or asked == RUNGS // 2, "the ladder ended before a rate failed")
        between = np.isfinite(row[1::2])
        _require(
            between.sum() == (1 if octaves[asked - 1] == 0 and asked > 1 else 0),
            "the half octaves are not the ladder's",
        )
        _require(not between.any() or between[asked - 2], "the half octave is not below the rate that failed")
    cells = np.argwhere(np.isfinite(tried))
    for cell in dossier.rows(len(cells), 4):
        j, rung = (int(v) for v in cells[cell])
        found = _descends(case, case.sizes[j], float(answer.rate[j]) * STEP ** (rung + FIRST))
        _require(
            float(found) == tried[j, rung],
            f"at {answer.batch[j]} rows the rate of rung {rung} {'trains' if found else 'does not train'}",
        )
    return compare(claim, float(np.nanmin(answer.trains / answer.rate)), supports="measured")


def _descends(case: _Case, size: int, rate: float) -> bool:
    problem = case.single
    flat, losses = problem.network, problem.losses
    w = flat.vector()
    with torch.no_grad():
        first = flat(w, problem.inputs)
        before = float(losses(first, problem.targets).mean())
    for t in range(problem.plan.trained):
        rows = torch.from_numpy(np.sort(case.streams.numpy("train", size, t).choice(problem.rows, size, replace=False)))
        x, y = problem.part(rows)
        slope = torch.func.grad(lambda u, x=x, y=y: losses(flat(u, x), y).mean())(w)
        w = w - rate * (slope + problem.plan.weight_decay * w)
        if not bool(torch.isfinite(w).all()):
            return False
    with torch.no_grad():
        last = flat(w, problem.inputs)
        alive = float(last.flatten(1).std(dim=0).mean()) >= 0.1 * float(first.flatten(1).std(dim=0).mean())
        return alive and float(losses(last, problem.targets).mean()) <= 2 * before


def _threaded(check: Check) -> Check:
    """The check with as many threads as the network is worth."""

    def checked(claim: Claim, dossier: Dossier) -> Verdict:
        with torch_threads(threads_for(_case(dossier).point.numel())):
            return check(claim, dossier)

    return checked


CHECKS: Mapping[str, Check] = {
    check.__name__: _threaded(check) for check in (eigenvalue, largest, density, prediction, threshold, trains)
}
