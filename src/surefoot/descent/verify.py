"""Checkers of the accelerated methods. They share the problem with the solver and nothing else.

Rates are re-derived by another road: the quadratic forms are found by running the method on unit vectors in
exact rationals and polarising, the interpolation inequality is the textbook's unsplit one, and signs come from
characteristic polynomials instead of LDL'. Runs are replayed from the logged iterates with this file's own
gradient where the model is logistic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from surefoot.core.certificate import Claim
from surefoot.core.problem import Objective
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.descent.problem import AccelerationProblem, FixedStep
from surefoot.numerics.losses import Logistic
from surefoot.numerics.rationals import fraction_from, principal_signs_semidefinite, spectral_radius_at_least

Array = npt.NDArray[np.float64]
Vector = list[Fraction]
Pairs = dict[tuple[int, int], Fraction]

__all__ = ["CHECKS"]

ZERO, ONE = Fraction(0), Fraction(1)
FOLLOWED = 1e-7
KNOWN_TO = 1e-7
ROUNDING = 1e-14


class _UnprovedError(ValueError):
    """A proof does not hold; the text says where."""


# ---- exact proofs -------------------------------------------------------------------------------------------
class _Window:
    """A window of the method in exact numbers, L = 1: run it on a vector, read off what happens."""

    def __init__(self, system: FixedStep, memory: int) -> None:
        if not 0 <= memory <= 6:
            raise _UnprovedError(f"a memory of {memory} is out of range")
        self.system, self.memory = system.scaled(), memory
        self.size = system.order + memory + 2

    def run(self, w: Vector) -> tuple[list[Vector], Vector, Vector]:
        """States, outputs and gradients of the window that starts in w[:n] with the gradients w[n:]."""
        order, system = self.system.order, self.system
        states, outputs = [list(w[:order])], []
        for u in w[order:]:
            xi = states[-1]
            outputs.append(sum((c * x for c, x in zip(system.C, xi, strict=True)), ZERO))
            states.append(
                [
                    sum((a * x for a, x in zip(row, xi, strict=True)), b * u)
                    for row, b in zip(system.A, system.B, strict=True)
                ]
            )
        return states, outputs, list(w[order:])

    def weighted(self, w: Vector, weights: Pairs, points: int) -> Fraction:
        """sum weights_ij q_ij without the values f_i - f_j; index ``points`` is the minimiser."""
        _, outputs, gradients = self.run(w)
        y = [*outputs[:points], ZERO]
        u = [*gradients[:points], ZERO]
        m, total = self.system.m, ZERO
        for (i, j), weight in weights.items():
            dy, du = y[i] - y[j], u[i] - u[j]
            bracket = du**2 + m * dy**2 + 2 * m * (u[j] - u[i]) * dy
            total += weight * (-u[j] * dy - bracket / (2 * (1 - m)))
        return total


def _polarised(form: Callable[[Vector], Fraction], size: int) -> list[Vector]:
    """The symmetric matrix of a quadratic form, from its values at unit vectors and their sums."""
    unit = [[ONE if i == j else ZERO for j in range(size)] for i in range(size)]
    diagonal = [form(e) for e in unit]
    matrix = [[ZERO] * size for _ in range(size)]
    for i in range(size):
        matrix[i][i] = diagonal[i]
        for j in range(i):
            both = form([a + b for a, b in zip(unit[i], unit[j], strict=True)])
            matrix[i][j] = matrix[j][i] = (both - diagonal[i] - diagonal[j]) / 2
    return matrix


def _never_positive(form: Callable[[Vector], Fraction], size: int, what: str) -> None:
    if not principal_signs_semidefinite([[-x for x in row] for row in _polarised(form, size)]):
        raise _UnprovedError(f"the {what} inequality is violated by some trajectory")


def _pairs(content: Mapping[str, str], points: int, what: str) -> Pairs:
    """Multipliers, which must be non-negative, on existing points."""
    pairs: Pairs = {}
    for key, text in content.items():
        i, j = (int(part) for part in key.split(","))
        value = fraction_from(text)
        if value < 0 or i == j or not (0 <= i <= points and 0 <= j <= points):
            raise _UnprovedError(f"the multiplier {what}[{key}] = {text} is negative or out of place")
        pairs[i, j] = value
    return pairs


def _values(pairs: Pairs, points: int) -> Vector:
    totals = [ZERO] * (points + 1)
    for (i, j), weight in pairs.items():
        totals[i] += weight
        totals[j] -= weight
    return totals[:points]


def _same_system(content: Mapping[str, Any], system: FixedStep) -> None:
    stored = FixedStep.from_json(content)
    if stored.fingerprint() != system.fingerprint():
        raise _UnprovedError("the proof is about another method or other constants")


class _Lyapunov:
    """The Lyapunov function of a proof, checked on construction for form."""

    def __init__(self, proof: Mapping[str, Any], system: FixedStep) -> None:
        _same_system(proof["method"], system)
        self.window = _Window(system, int(proof["memory"]))
        self.points = self.window.memory + 1
        inner = self.window.size - 1
        self.P = [[fraction_from(x) for x in row] for row in proof["P"]]
        self.p = [fraction_from(x) for x in proof["p"]]
        if len(self.p) != self.points or [len(row) for row in self.P] != [inner] * inner:
            raise _UnprovedError("P or p has the wrong size")
        if any(self.P[i][j] != self.P[j][i] for i in range(inner) for j in range(i)):
            raise _UnprovedError("P is not symmetric")
        self.rho = fraction_from(proof["rho"])

    def part(self, x: Vector) -> Fraction:
        return sum((a * b * self.P[i][j] for i, a in enumerate(x) if a for j, b in enumerate(x) if b), ZERO)

    def check_rate(self, proof: Mapping[str, Any]) -> Fraction:
        """Decrease and positivity; returns the proved rate."""
        window, memory, order = self.window, self.window.memory, self.window.system.order
        if not 0 < self.rho <= 1:
            raise _UnprovedError("the rate is not in (0, 1]")
        lam = _pairs(proof["lam"], memory + 2, "lam")
        mu = _pairs(proof["mu"], memory + 1, "mu")
        square = self.rho**2
        rise = [*[ZERO] * (memory + 2)]
        for t, weight in enumerate(self.p):
            rise[t + 1] += weight
            rise[t] -= square * weight
        if any(a + b for a, b in zip(rise, _values(lam, memory + 2), strict=True)):
            raise _UnprovedError("function values are left over in the decrease")
        if any(a - b for a, b in zip(_values(mu, memory + 1), self.p, strict=True)):
            raise _UnprovedError("function values are left over in the positivity")

        def decrease(w: Vector) -> Fraction:
            states, _, gradients = window.run(w)
            later = [*states[1], *gradients[1:]]
            return self.part(later) - square * self.part(w[:-1]) + window.weighted(w, lam, memory + 2)

        def positivity(w: Vector) -> Fraction:
            states, _, _ = window.run([*w, ZERO])
            length = sum((x * x for x in states[memory]), ZERO)
            return length - self.part(w) + window.weighted([*w, ZERO], mu, memory + 1)

        _never_positive(decrease, window.size, "decrease")
        _never_positive(positivity, order + memory + 1, "positivity")
        return self.rho

    def check_transient(self, proof: Mapping[str, Any]) -> Fraction:
        """V at the start is at most c |state|^2; returns c."""
        window, memory, order = self.window, self.window.memory, self.window.system.order
        bound = fraction_from(proof["transient"])
        nu = _pairs(proof["nu"], memory + 1, "nu")
        if any(a + b for a, b in zip(_values(nu, memory + 1), self.p, strict=True)):
            raise _UnprovedError("function values are left over in the transient bound")

        def start(w: Vector) -> Fraction:
            length = sum((x * x for x in w[:order]), ZERO)
            return self.part(w) - bound * length + window.weighted([*w, ZERO], nu, memory + 1)

        _never_positive(start, order + memory + 1, "transient")
        return bound


def _check_obstruction(content: Mapping[str, Any], system: FixedStep) -> Fraction:
    """No Lyapunov function of this memory has the rate; returns that rate."""
    _same_system(content["method"], system)
    window = _Window(system, int(content["memory"]))
    memory, size = window.memory, window.size
    rho = fraction_from(content["rho"])
    Z = [[fraction_from(x) for x in row] for row in content["Z"]]
    f = [fraction_from(x) for x in content["f"]]
    if [len(row) for row in Z] != [size] * size or len(f) != memory + 2 or not 0 < rho <= 1:
        raise _UnprovedError("the moments have the wrong size, or the rate is not in (0, 1]")
    unit = [[ONE if i == j else ZERO for j in range(size)] for i in range(size)]
    later = [[*states[1], *gradients[1:]] for states, _, gradients in map(window.run, unit)]
    inner = size - 1
    W = [
        [
            sum((later[a][i] * Z[a][b] * later[b][j] for a in range(size) for b in range(size)), ZERO)
            - rho**2 * Z[i][j]
            for j in range(inner)
        ]
        for i in range(inner)
    ]
    if any(Z[i][j] != Z[j][i] for i in range(size) for j in range(i)):
        raise _UnprovedError("the moment matrix is not symmetric")
    if not (principal_signs_semidefinite(Z) and principal_signs_semidefinite(W)):
        raise _UnprovedError("the moments are not those of any trajectory")
    rise = [late - rho**2 * early for early, late in pairwise(f)]
    for moments, values in ((Z, f), (W, rise)):
        _admissible(window, moments, values)
    length = _polarised(lambda w: sum((x * x for x in window.run([*w, ZERO])[0][memory]), ZERO), inner)
    if _paired(length, W) <= 0:
        raise _UnprovedError("the moments do not grow")
    return rho


def _admissible(window: _Window, moments: list[Vector], values: Vector) -> None:
    points, size = len(values), len(moments)
    padding = [ZERO] * (window.size - size)
    extended = [*values, ZERO]
    for i in range(points + 1):
        for j in range(points + 1):
            if i == j:
                continue
            form = _polarised(lambda w, pair=(i, j): window.weighted([*w, *padding], {pair: ONE}, points), size)
            if extended[i] - extended[j] + _paired(form, moments) < 0:
                raise _UnprovedError(f"the moments break the interpolation inequality ({i}, {j})")


def _paired(left: Sequence[Vector], right: Sequence[Vector]) -> Fraction:
    return sum((a * b for u, v in zip(left, right, strict=True) for a, b in zip(u, v, strict=True)), ZERO)


def _check_quadratic_floor(floor: Fraction, system: FixedStep) -> None:
    """Some quadratic function of the class slows the method to this rate at least."""
    if floor <= 0:
        return
    for curvature in (system.m, system.L):
        closed = [
            [a + curvature * b * c for a, c in zip(row, system.C, strict=True)]
            for row, b in zip(system.A, system.B, strict=True)
        ]
        if len(closed) == 2:
            # Jury's conditions for both roots inside the circle of this radius.
            trace, det = closed[0][0] + closed[1][1], closed[0][0] * closed[1][1] - closed[0][1] * closed[1][0]
            if not (abs(det) < floor**2 and abs(trace) * floor < floor**2 + det):
                return
        elif spectral_radius_at_least(closed, floor):
            return
    raise _UnprovedError("no quadratic function of the class is that slow")


def _check_cycle(content: Mapping[str, Any], system: FixedStep) -> tuple[Fraction, int]:
    """Exact closure, interpolation, and distance from the minimiser; returns the smallest slack and the period."""
    _same_system(content["method"], system)
    scaled = system.scaled()
    states = [[[fraction_from(x) for x in v] for v in state] for state in content["states"]]
    u = [[fraction_from(x) for x in v] for v in content["gradients"]]
    f = [fraction_from(x) for x in content["values"]]
    period, dim = len(f), len(u[0])
    if period < 2 or not len(states) == len(u) == period or any(len(v) != dim for v in u):
        raise _UnprovedError("the cycle's points, gradients and values do not fit together")
    y: list[Vector] = []
    for k, state in enumerate(states):
        following = states[(k + 1) % period]
        for a in range(dim):
            xi = [vector[a] for vector in state]
            reached = [
                sum((w * x for w, x in zip(row, xi, strict=True)), b * u[k][a])
                for row, b in zip(scaled.A, scaled.B, strict=True)
            ]
            if reached != [vector[a] for vector in following]:
                raise _UnprovedError(f"point {k} of the cycle does not lead to the next one")
        y.append([sum((c * v[a] for c, v in zip(scaled.C, state, strict=True)), ZERO) for a in range(dim)])
    if not any(any(point) for point in y):
        raise _UnprovedError("the cycle rests at the minimiser")
    y, u, f = [*y, [ZERO] * dim], [*u, [ZERO] * dim], [*f, ZERO]
    m = scaled.m
    slack = min(
        f[i] - f[j] - sum((u[j][a] * (y[i][a] - y[j][a]) for a in range(dim)), ZERO) - bracket / (2 * (1 - m))
        for i in range(period + 1)
        for j in range(period + 1)
        if i != j
        for bracket in [
            sum(
                (
                    (u[i][a] - u[j][a]) ** 2
                    + m * (y[i][a] - y[j][a]) ** 2
                    - 2 * m * (u[j][a] - u[i][a]) * (y[j][a] - y[i][a])
                    for a in range(dim)
                ),
                ZERO,
            )
        ]
    )
    if slack < 0:
        raise _UnprovedError("no function of the class interpolates the cycle")
    return slack, period


# ---- what a claim is about ----------------------------------------------------------------------------------
def _name(claim: Claim) -> str:
    return claim.name.partition("-")[2]


def _record(claim: Claim, dossier: Dossier) -> Mapping[str, Any]:
    return dossier.evidence["proofs.json"][_name(claim)]


def _system(claim: Claim, dossier: Dossier) -> FixedStep:
    """The method a claim is about, from the problem; for a bare objective from the proof, with its constants."""
    problem, name = dossier.problem, _name(claim)
    if isinstance(problem, FixedStep):
        return problem
    if isinstance(problem, AccelerationProblem):
        return problem.systems[name]
    record = dossier.evidence["proofs.json"][name]
    parts = (record["proof"], record["cycle"], record["obstruction"])
    system = FixedStep.from_json(next(part["method"] for part in parts if part is not None))
    for key, value in (("strong_convexity", system.m), ("smoothness", system.L)):
        constant = problem.constants.get(key)
        declared = any(p.known != "exact" for p in claim.premises)
        if constant is not None and Fraction(constant.value) != value and not declared:
            raise _UnprovedError(f"the proof is for another {key} than the objective's")
    return system


def _objective(dossier: Dossier) -> Objective:
    problem = dossier.problem
    return problem.objective if isinstance(problem, AccelerationProblem) else problem


def _oracle(dossier: Dossier) -> Callable[[Array], tuple[float, Array]]:
    """Value and gradient: written out here for logistic models, else the objective's own."""
    problem = dossier.problem
    if isinstance(problem, AccelerationProblem):
        model = problem.model
        if model is not None and isinstance(model.loss, Logistic):
            features = model.features.to_dense().double().numpy()
            signed = features * model.targets.double().numpy()[:, None]
            ridge = model.ridge

            def logistic(x: Array) -> tuple[float, Array]:
                margin = signed @ x
                value = float(np.mean(np.logaddexp(0.0, -margin))) + 0.5 * ridge * float(x @ x)
                pull = np.exp(-np.logaddexp(0.0, margin))
                return value, -(pull @ signed) / len(margin) + ridge * x

            return logistic
    objective = _objective(dossier)

    def own(x: Array) -> tuple[float, Array]:
        value, gradient = objective.value_and_grad(torch.from_numpy(np.ascontiguousarray(x)))
        return float(value), gradient.detach().double().numpy()

    return own


def _strong_convexity(claim: Claim, dossier: Dossier) -> float:
    """m: the objective's constant, or for a declared one the number in the premise's place of the system."""
    constant = _objective(dossier).constants.get("strong_convexity")
    if constant is None or any(p.known == "declared" for p in claim.premises):
        return float(_system(claim, dossier).m)
    return constant.value


# ---- checkers -----------------------------------------------------------------------------------------------
def _fail(check: Check) -> Check:
    def guarded(claim: Claim, dossier: Dossier) -> Verdict:
        try:
            return check(claim, dossier)
        except _UnprovedError as failure:
            return refute(claim, str(failure))

    return guarded


def _exact(value: Fraction) -> str:
    return f"{value.numerator}/{value.denominator}"


def check_rate(claim: Claim, dossier: Dossier) -> Verdict:
    """Decrease and positivity of the Lyapunov function, in exact rationals."""
    proof = _record(claim, dossier)["proof"]
    rho = _Lyapunov(proof, _system(claim, dossier)).check_rate(proof)
    return compare(claim, _exact(rho), supports="proved", bound="1/1")


def check_transient(claim: Claim, dossier: Dossier) -> Verdict:
    """The bound of the Lyapunov function at the start, in exact rationals."""
    proof = _record(claim, dossier)["proof"]
    bound = _Lyapunov(proof, _system(claim, dossier)).check_transient(proof)
    return compare(claim, _exact(bound), supports="proved", bound="1/1")


def check_floor(claim: Claim, dossier: Dossier) -> Verdict:
    """No smaller rate: by a quadratic function or by moments, in exact rationals."""
    record, system = _record(claim, dossier), _system(claim, dossier)
    floor = _floor(record, system)
    rho = _exact(fraction_from(record["proof"]["rho"]))
    return compare(claim, _exact(floor), supports="proved", bound=rho)


def _floor(record: Mapping[str, Any], system: FixedStep) -> Fraction:
    floor = fraction_from(record["floor"])
    if record["obstruction"] is None:
        _check_quadratic_floor(floor, system)
    elif _check_obstruction(record["obstruction"], system) != floor:
        raise _UnprovedError("the floor is not the rate that the moments rule out")
    return floor


def check_cycle(claim: Claim, dossier: Dossier) -> Verdict:
    """The cycle closes and a function of the class goes through it, in exact rationals."""
    slack, _ = _check_cycle(_record(claim, dossier)["cycle"], _system(claim, dossier))
    return compare(claim, _exact(slack), supports="proved", bound="0/1")


def check_undecided(claim: Claim, dossier: Dossier) -> Verdict:
    """The floor of a method about which nothing else is known."""
    record, system = _record(claim, dossier), _system(claim, dossier)
    if record["proof"] is not None or record["cycle"] is not None:
        return refute(claim, "called undecided, but the evidence holds a proof or a cycle")
    floor = _floor(record, system)
    return compare(claim, _exact(floor), supports="proved", bound="1/1", undecided=True)


def check_table(claim: Claim, dossier: Dossier) -> Verdict:
    """Each entry of rates.csv against its proof; a fresh random part of the proofs in full."""
    problem, rates = dossier.problem, dossier.answer["rates"]
    records = dossier.evidence["table.json"]
    keys = list(problem.table)
    if sorted(records) != sorted(f"{name}@{kappa!r}" for name, kappa in keys):
        return refute(claim, "the proofs are not those of the methods and condition numbers asked for")
    kappas = list(dict.fromkeys(kappa for _, kappa in keys))
    names = list(dict.fromkeys(name for name, _ in keys))
    columns = {"kappa", *names, *(f"{name}_floor" for name in names)}
    if set(rates) != columns or list(map(float, rates["kappa"])) != kappas:
        return refute(claim, "the answer's table has other columns or condition numbers")
    redo = set(dossier.rows(len(keys), 12).tolist())
    width = 0.0
    for place, (name, kappa) in enumerate(keys):
        record, row = records[f"{name}@{kappa!r}"], kappas.index(kappa)
        rho, floor = float(rates[name][row]), float(rates[f"{name}_floor"][row])
        said = math.nan if record["proof"] is None else float(fraction_from(record["proof"]["rho"]))
        if not (rho == said or (math.isnan(rho) and math.isnan(said))) or floor != float(
            fraction_from(record["floor"])
        ):
            return refute(claim, f"the answer's {name} at kappa = {kappa:g} is not what was proved")
        if record["proof"] is not None:
            width = max(width, rho - floor)
        if place in redo:
            _check_row(record, problem.table[name, kappa])
    return compare(claim, width, supports="proved", bound=1e-5, rtol=1e-6)


def _check_row(record: Mapping[str, Any], system: FixedStep) -> None:
    if record["proof"] is not None:
        _Lyapunov(record["proof"], system).check_rate(record["proof"])
    elif record["cycle"] is not None:
        _check_cycle(record["cycle"], system)
    wanted = "certified" if record["proof"] else "disproved" if record["cycle"] else "undecided"
    if record["outcome"] != wanted:
        raise _UnprovedError(f"a row is called {record['outcome']} but is {wanted}")
    _floor(record, system)


def check_gap(claim: Claim, dossier: Dossier) -> Verdict:
    """|grad f|^2 / (2 m) at the answer."""
    answer = dossier.answer
    x = answer["coefficients"][_name(claim)] if isinstance(answer, Mapping) else answer.double().numpy()
    point = np.asarray(x, dtype=np.float64)
    if not np.isfinite(point).all():
        raise _UnprovedError("the answer is not finite")
    gradient = _oracle(dossier)(point)[1]
    gap = float(gradient @ gradient) / (2 * _strong_convexity(claim, dossier))
    return compare(claim, gap, supports=_strength(claim), rtol=1e-5)


def _strength(claim: Claim) -> Any:
    return "measured" if any(p.known == "estimated" for p in claim.premises) else "proved"


class _Replay:
    """The logged iterates of a lane, replayed with the method's matrices and this file's gradients."""

    def __init__(self, claim: Claim, dossier: Dossier) -> None:
        system, trace = _system(claim, dossier), dossier.evidence["trace.npz"]
        self.x = np.asarray(trace[_name(claim)], dtype=np.float64)
        self.minimiser = np.asarray(trace["minimiser"], dtype=np.float64)
        if (
            self.x.ndim != 2
            or self.minimiser.shape != self.x.shape[1:]
            or not (np.isfinite(self.x).all() and np.isfinite(self.minimiser).all())
        ):
            raise _UnprovedError("the logged iterates have the wrong shape or are not finite")
        self.m, self.L = float(system.m), float(system.L)
        A, B, C = system.arrays()
        before = np.vstack([self.x[:1], self.x[:-1]])
        states = np.stack([self.x, before], axis=1) if system.order == 2 else self.x[:, None]
        oracle = _oracle(dossier)
        self.y = np.einsum("i,kid->kd", C, states)
        pairs = [oracle(point) for point in self.y]
        self.f_y = np.array([value for value, _ in pairs])
        self.g = np.array([gradient for _, gradient in pairs])
        free = np.einsum("i,kid->kd", A[0], states)
        following = free + B[0] * self.g
        scale = float(np.abs(self.x).max())
        if not float(np.abs(following[:-1] - self.x[1:]).max()) <= 1e-10 * scale:
            raise _UnprovedError("the logged iterates are not those of the method")
        self.push = free - self.x
        self.moved = self.x - before
        self.f_x = np.array([oracle(point)[0] for point in self.x])
        lowest = oracle(self.minimiser)
        self.f_star, self.off = lowest[0], float(np.linalg.norm(lowest[1])) / self.m
        if not self.off <= 1e-3 * float(np.linalg.norm(self.x[0] - self.minimiser)):
            raise _UnprovedError("the stored minimiser is none")

    def storage(self, name: str) -> tuple[float, Array, Array]:
        """Factor, storage with z in closed form, and its uncertainty."""
        m, L, off, q = self.m, self.L, self.off, math.sqrt(self.m / self.L)
        distance = np.linalg.norm(self.x - self.minimiser, axis=1)
        if name == "gd":
            return ((L - m) / (L + m)) ** 2, distance**2, 2 * distance * off + off**2 + ROUNDING * distance**2
        noise = ROUNDING * (np.abs(self.f_x) + abs(self.f_star)) + m * off**2
        if name == "nag":
            z = self.x + (1 - q) / q * self.moved
            away = np.linalg.norm(z - self.minimiser, axis=1)
            storage = self.f_x - self.f_star + 0.5 * m * away**2
            return 1 - q, storage, noise + m * off * away + ROUNDING * storage
        if name != "tmm":
            raise _UnprovedError(f"no storage function is known for {name}")
        r = 1 - q
        beta, weight = r**2 / (2 - r), r**2 / (1 - r**2)
        step = beta * self.moved - (1 + r) / L * self.g
        z = self.x + step + weight * step
        away = np.linalg.norm(z - self.minimiser, axis=1)
        apart = self.y - self.minimiser
        reach = np.linalg.norm(apart, axis=1)
        bend = np.linalg.norm(self.g - m * apart, axis=1)
        bracket = self.f_y - self.f_star - 0.5 * m * reach**2
        storage = m * L * away**2 + (L - m) * bracket - 0.5 * bend**2
        drift = 2 * m * L * away * off + (L - m) * m * reach * off + m * bend * off + 2 * m * L * off**2
        return r**2, storage, L * noise + drift + ROUNDING * (m * L * away**2 + bend**2)


def check_storage(claim: Claim, dossier: Dossier) -> Verdict:
    """Largest ratio of successive storages over what the factor allows, while well resolved."""
    factor, storage, error = _Replay(claim, dossier).storage(_name(claim))
    rows = 0
    while rows < len(storage) and storage[rows] > FOLLOWED * storage[0] and error[rows] < KNOWN_TO * storage[rows]:
        rows += 1
    if rows < 2:
        return refute(claim, "no step of the storage function is resolved by the logged iterates")
    worst = max((storage[k + 1] + error[k + 1]) / (factor * (storage[k] - error[k])) for k in range(rows - 1))
    return compare(claim, float(worst), supports=_strength(claim), bound=1.0, rtol=1e-5)


def check_passivity(claim: Claim, dossier: Dossier) -> Verdict:
    """Smallest spare dissipation of the first block, times L."""
    replay = _Replay(claim, dossier)
    square = np.sum(replay.g**2, axis=1)[:-1]
    spare = np.sum(replay.g * replay.push, axis=1)[:-1] - np.diff(replay.f_x)
    clear = square > FOLLOWED * square.max()
    index = float((spare[clear] / square[clear]).min()) * replay.L
    return compare(claim, index, supports="measured", rtol=1e-5)


CHECKS: dict[str, Check] = {
    "rate": _fail(check_rate),
    "transient": _fail(check_transient),
    "floor": _fail(check_floor),
    "cycle": _fail(check_cycle),
    "undecided": _fail(check_undecided),
    "table": _fail(check_table),
    "gap": _fail(check_gap),
    "storage": _fail(check_storage),
    "passivity": _fail(check_passivity),
}
