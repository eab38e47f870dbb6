"""Our worker: private runs, final queries at anybody's points, repeats of the final query, and the audit."""

from __future__ import annotations

import copy
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom, norm
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import serve
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.numerics.bounds import clopper_pearson_upper, noncentral_norm_bound
from surefoot.numerics.losses import Logistic
from surefoot.privacy.gaussian_dp import epsilon_of
from surefoot.privacy.ledger import Budget, Ledger
from surefoot.privacy.mechanism import system_normal
from surefoot.privacy.private_spider import PrivateSpiderBoost
from surefoot.privacy.risk import Penalty, PrivateRisk, linear_risk
from surefoot.privacy.tree_spider import TreeSpider

Request = dict[str, Any]
PROBLEMS: dict[str, PrivateRisk] = {}


def problem(file: str, penalty: float) -> PrivateRisk:
    """Rows of norm at most 1, logistic loss, bounded penalty."""
    if file not in PROBLEMS:
        stored = np.load(file)
        PROBLEMS[file] = linear_risk(
            torch.from_numpy(stored["features"]),
            torch.from_numpy(stored["targets"]),
            Logistic(),
            penalty=Penalty("bounded", penalty),
        )
    return PROBLEMS[file]


def truth(p: PrivateRisk, w: Tensor) -> dict[str, float]:
    """What the owner knows: true gradient norm and mean log-loss."""
    gradient = p.records.gradient_sum(w, p.record_gradient) / p.size + p.penalty.gradient(w)
    model: Any = p.records
    loss = float(Logistic().value(model.model.features @ w, model.model.targets).mean())
    return {"true": float(gradient.norm()), "log_loss": loss}


def run(request: Request) -> dict[str, Any]:
    """A private run with its certificate."""
    p = problem(request["file"], request["penalty"])
    if request["warmup"]:
        return {"seconds": 0.0}
    kind = {"spider": PrivateSpiderBoost, "tree": TreeSpider}[request["method"]]
    method = kind(budget=Budget(request["epsilon"], request["delta"]), **request["options"])
    began = time.perf_counter()
    result: Any = solve(p, method)
    seconds = time.perf_counter() - began
    claims = {c.name: c.value for c in result.certificate.claims}
    found = {**truth(p, result.answer), "points": [result.answer.tolist()]}
    found |= {
        "certified": claims.get("gradient_bound"),
        "path": claims.get("path_bound"),
        "population": claims.get("population_bound"),
    }
    found["audited"] = claims["privacy"]
    return {"seconds": seconds, "value": found}


def steps(request: Request) -> dict[str, Any]:
    """Seconds of the search alone, releases and ledger in memory included."""
    p = problem(request["file"], request["penalty"])
    method = PrivateSpiderBoost(
        budget=Budget(1.0, 1e-6), iterations=request["steps"], query_share=0.0, phase=request["phase"]
    )
    began = time.perf_counter()
    solve(p, method, certify=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "value": {"step_ms": 1e3 * seconds / request["steps"]}}


def query(request: Request) -> dict[str, Any]:
    """The same final query at a peer's first point."""
    p = problem(request["file"], request["penalty"])
    method = PrivateSpiderBoost(budget=Budget(request["epsilon"], request["delta"]))
    release = method.query_release(p)
    w = torch.tensor(request["points"][0], dtype=torch.float64)  # the mean over its last half, where it has several
    gradient = p.records.gradient_sum(w, p.record_gradient) / p.size + p.penalty.gradient(w)
    noisy = gradient + release.noise_std * torch.from_numpy(system_normal(p.dim))
    bound = float(noncentral_norm_bound(float(noisy.norm()), release.noise_std, p.dim, 0.05))
    return {"seconds": 0.0, "value": {**truth(p, w), "certified": bound}}


def coverage(request: Request) -> dict[str, Any]:
    """The final query at a run's answer, again and again with fresh noise: how often the bound is below the true norm."""
    p = problem(request["file"], request["penalty"])
    method = PrivateSpiderBoost(budget=Budget(request["epsilon"], request["delta"]))
    std, w = method.query_release(p).noise_std, torch.tensor(request["points"][0], dtype=torch.float64)
    gradient = (p.records.gradient_sum(w, p.record_gradient) / p.size + p.penalty.gradient(w)).numpy()
    norms = [np.linalg.norm(gradient + std * system_normal(p.dim)) for _ in range(request["repeats"])]
    bounds = noncentral_norm_bound(np.array(norms), std, p.dim, request["level"])
    misses = int((bounds < np.linalg.norm(gradient)).sum())
    p_value = float(binom.sf(misses - 1, request["repeats"], request["level"]))
    return {"seconds": 0.0, "value": {"misses": misses, "p_value": p_value}}


class Canaries:
    """Records of loss `+-(L/2) w^2` in one dimension: half of each sign, and one more whose sign is the world's."""

    size, dim = 11, 1

    def __init__(self, sign: float) -> None:
        self.total = sign  # the other ten cancel

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        return self.total * w.clamp(-bound, bound)

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        return self.total * (w - previous).clamp(-bound, bound)


def audit(request: Request) -> dict[str, Any]:
    """Two worlds that differ in one record: the likelihood ratio of an anchor and a difference of real runs.

    With K runs a world, Clopper-Pearson bounds of the two error rates give a lower bound of mu.
    """
    budget, runs = Budget(request["epsilon"], request["delta"]), request["runs"]
    method = PrivateSpiderBoost(budget=budget, iterations=2, phase=2, step_size=3.0, query_share=0.0, anchor_share=0.5)
    wrong = []
    began = time.perf_counter()
    for sign in (1.0, -1.0):
        p = PrivateRisk(Canaries(sign), 1.0, 1.0, start=torch.ones(1))
        m1, m2 = method.multipliers(p)
        errors = 0
        ledger = Ledger(budget, method.plan(p))
        for _ in range(runs):
            state: Any = method.init(p, None, Streams(None))
            state.ledger = copy.copy(ledger)  # as a fresh run would make it, without planning anew
            state = method.step(p, state)
            first, second = (float(v) for v in state.vectors[:, 0])
            distance = -3.0 * first  # what the difference was taken over, known to everybody
            std1, std2 = (float(s) for s in state.stds)
            score = 2.0 / m1 * first / std1 + (
                2.0 / m2 * math.copysign(1.0, distance) * (second - first) / std2 if std2 else 0.0
            )
            errors += (score > 0) != (sign > 0)
        wrong.append(errors)
    upper = [float(clopper_pearson_upper(k, runs, 0.025)) for k in wrong]
    lower = max(0.0, float(norm.isf(upper[0]) + norm.isf(upper[1])))
    value = {
        "mu": budget.mu, "mu_lower": lower, "share": lower / budget.mu, "epsilon": budget.epsilon,
        "epsilon_lower": epsilon_of(lower, budget.delta), "errors": wrong,
    }  # fmt: skip
    return {"seconds": time.perf_counter() - began, "value": value}


def audit_fit(request: Request) -> dict[str, Any]:
    """Whole fits by the estimator in two worlds that differ in one record; the adversary sees nothing but the coefficient.

    The record's gradient is as long as it may be in both worlds, in opposite directions; the others' are 0.
    """
    from surefoot.privacy import PrivateRegressor

    budget, runs, size = Budget(request["epsilon"], request["delta"]), request["runs"], 20
    X, wrong, began = np.zeros((size, 1)), [], time.perf_counter()
    X[0] = 1.0
    for sign in (1.0, -1.0):
        y = np.zeros(size)
        y[0] = 1e3 * sign
        errors = 0
        for _ in range(runs):
            model = PrivateRegressor(
                budget.epsilon, budget.delta, fit_intercept=False, penalty="none", iterations=2, phase=1, step_size=1.0
            )
            errors += (float(model.fit(X, y).coef_[0]) > 0) != (sign > 0)
        wrong.append(errors)
    upper = [float(clopper_pearson_upper(k, runs, 0.025)) for k in wrong]
    lower = max(0.0, float(norm.isf(upper[0]) + norm.isf(upper[1])))
    value = {
        "mu": budget.mu, "mu_lower": lower, "share": lower / budget.mu, "epsilon": budget.epsilon,
        "epsilon_lower": epsilon_of(lower, budget.delta), "errors": wrong,
    }  # fmt: skip
    return {"seconds": time.perf_counter() - began, "value": value}


def population(request: Request) -> dict[str, Any]:
    """The gradient on other records at a run's answer."""
    p = problem(request["file"], request["penalty"])
    return {"seconds": 0.0, "value": truth(p, torch.tensor(request["points"][0], dtype=torch.float64))}


KINDS = {
    "run": run,
    "steps": steps,
    "query": query,
    "coverage": coverage,
    "audit": audit,
    "audit_fit": audit_fit,
    "population": population,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(lambda request: KINDS[request["kind"]](request))
