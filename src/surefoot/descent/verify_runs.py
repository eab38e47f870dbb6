"""Logged runs replayed with the method's matrices, and with this file's own gradient where the model is logistic."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from surefoot.core.verify import Dossier
from surefoot.descent.problem import AccelerationProblem, FixedStep
from surefoot.descent.verify_proofs import UnprovedError
from surefoot.numerics.losses import Logistic

Array = npt.NDArray[np.float64]

__all__ = ["FOLLOWED", "KNOWN_TO", "Replay", "oracle_of"]

# A storage is followed while it is above this share of its start and known to this share of itself.
FOLLOWED = 1e-7
KNOWN_TO = 1e-7
ROUNDING = 1e-14


def oracle_of(dossier: Dossier) -> Callable[[Array], tuple[float, Array]]:
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
    objective = problem.objective if isinstance(problem, AccelerationProblem) else problem

    def own(x: Array) -> tuple[float, Array]:
        value, gradient = objective.value_and_grad(torch.from_numpy(np.ascontiguousarray(x)))
        return float(value), gradient.detach().double().numpy()

    return own


class Replay:
    """The logged iterates of a lane, replayed with the method's matrices and this file's gradients."""

    def __init__(self, name: str, system: FixedStep, dossier: Dossier) -> None:
        trace = dossier.evidence["trace.npz"]
        self.x = np.asarray(trace[name], dtype=np.float64)
        self.minimiser = np.asarray(trace["minimiser"], dtype=np.float64)
        if (
            self.x.ndim != 2
            or self.minimiser.shape != self.x.shape[1:]
            or not (np.isfinite(self.x).all() and np.isfinite(self.minimiser).all())
        ):
            raise UnprovedError("the logged iterates have the wrong shape or are not finite")
        self.m, self.L = float(system.m), float(system.L)
        A, B, C = system.arrays()
        before = np.vstack([self.x[:1], self.x[:-1]])
        states = np.stack([self.x, before], axis=1) if system.order == 2 else self.x[:, None]
        oracle = oracle_of(dossier)
        self.y = np.einsum("i,kid->kd", C, states)
        pairs = [oracle(point) for point in self.y]
        self.f_y = np.array([value for value, _ in pairs])
        self.g = np.array([gradient for _, gradient in pairs])
        free = np.einsum("i,kid->kd", A[0], states)
        following = free + B[0] * self.g
        scale = float(np.abs(self.x).max())
        if not float(np.abs(following[:-1] - self.x[1:]).max()) <= 1e-10 * scale:
            raise UnprovedError("the logged iterates are not those of the method")
        self.push = free - self.x
        self.moved = self.x - before
        self.f_x = np.array([oracle(point)[0] for point in self.x])
        lowest = oracle(self.minimiser)
        self.f_star, self.off = lowest[0], float(np.linalg.norm(lowest[1])) / self.m
        if not self.off <= 1e-3 * float(np.linalg.norm(self.x[0] - self.minimiser)):
            raise UnprovedError("the stored minimiser is none")

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
            raise UnprovedError(f"no storage function is known for {name}")
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
