"""Certified rates: the published constants, the search, and the second moment of small problems by its own ODE."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import product as pairs
from typing import Any

import numpy as np
import pytest
from gossip_networks import minimiser, net_of, stationary

from surefoot.core.random import Streams
from surefoot.decentralized import kernel, levels, reference
from surefoot.decentralized.certify import mean_square_factor, potential_at_start
from surefoot.decentralized.constants import (
    Constants,
    certified_constants,
    certified_rate,
    conditions,
    paper_constants,
    thrifty_product,
)  # fmt: skip
from surefoot.decentralized.events import Clocks
from surefoot.decentralized.flow import generator
from surefoot.decentralized.graphs import rate_matrix, slowness, uniform_rates
from surefoot.decentralized.rates import optimal_rates
from surefoot.decentralized.verify_rate import LETTERS, decays

ROOT_HALF = math.sqrt(0.5) * (1 - 1e-10)  # products of rounded roots stay below one half


def exact(constants: Constants) -> dict[str, Fraction]:
    return {name: Fraction(getattr(constants, name)) for name in LETTERS}


@pytest.mark.parametrize("kappa", [2.0, 10.0, 1e3, 1e6])
def test_published_constants_give_the_published_rate(kappa: float) -> None:
    constants = paper_constants(1 / kappa, 1.0, ROOT_HALF)
    rate = certified_rate(constants, 1 / kappa, 1.0, ROOT_HALF, ROOT_HALF)
    assert rate is not None
    assert rate.rho == pytest.approx(math.sqrt(0.5 / kappa) / 8, rel=1e-9)
    # slower gossip than the theorem allows is refused for the published constants
    assert certified_rate(constants, 1 / kappa, 1.0, ROOT_HALF, ROOT_HALF * 1.001) is None


@pytest.mark.parametrize(
    ("kappa", "X", "least"),  # least rho sqrt(kappa), found by an independent longer search
    [(2, 0.5, 0.254), (2, 4, 0.134), (10, 0.5, 0.2235), (100, 0.5, 0.219), (100, 2, 0.1445), (1e4, 0.5, 0.216), (1e4, 4, 0.1125)],
)  # fmt: skip
def test_the_search_reaches_known_rates(kappa: float, X: float, least: float) -> None:
    constants = certified_constants(3.0 / kappa, 3.0, X, 1.0)
    rate = certified_rate(constants, 3.0 / kappa, 3.0, X, 1.0)
    assert rate is not None
    assert rate.rho * math.sqrt(kappa) >= least * 0.998


@pytest.mark.parametrize("kappa", [3.0, 100.0])
@pytest.mark.parametrize("X", [0.5, 4.0])
def test_the_checkers_quadratic_form_agrees_with_the_conditions(kappa: float, X: float) -> None:
    """Two roads to the same rate: conditions in floats, and an exact form built from the dynamics."""
    X *= 1 - 1e-10  # the published constants have no room for rounding at one half
    chosen = [certified_constants(1 / kappa, 1.0, X, 1.0)]
    if X < 1:
        chosen.append(paper_constants(1 / kappa, 1.0, X))
    for constants in chosen:
        rate = certified_rate(constants, 1 / kappa, 1.0, X, 1.0)
        assert rate is not None

        def says(factor: float, constants: Constants = constants, rate: Any = rate) -> str:
            numbers = Fraction(rate.rho * factor), Fraction(rate.y_weight)
            return decays(exact(constants), *numbers, (Fraction(1 / kappa), Fraction(1)), (Fraction(X), Fraction(1)))

        assert says(1 - 1e-7) == ""
        assert says(1 + 1e-6) != ""


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Constants)])
def test_doubled_constants_lose_the_rate(name: str) -> None:
    constants = certified_constants(0.01, 1.0, 0.5, 1.0)
    rate = certified_rate(constants, 0.01, 1.0, 0.5, 1.0)
    assert rate is not None
    spoiled = dataclasses.replace(constants, **{name: 2 * getattr(constants, name)})
    found = conditions(spoiled, rate.rho, 0.01, 1.0, 0.5, 1.0)
    verdict = decays(
        exact(spoiled), Fraction(rate.rho), Fraction(rate.y_weight), (Fraction(0.01), Fraction(1)), (Fraction(0.5), Fraction(1))
    )  # fmt: skip
    assert (found is None) or verdict == "" or name in ("alpha_twin", "eta_twin")
    assert found is None


def test_the_thrifty_product_minimises_the_certified_cost() -> None:
    mu, nodes, total = 1 / 40, 12, 20.0

    def price(product: float, cost: float) -> float:
        rate = certified_rate(certified_constants(mu, 1.0, product, 1.0), mu, 1.0, product, 1.0)
        assert rate is not None
        return (nodes + cost * total / math.sqrt(2 * product)) / rate.rho

    chosen = {}
    for cost in (0.3, 1.0, 5.0):
        chosen[cost] = thrifty_product(mu, 1.0, nodes, total, cost)
        for other in (chosen[cost] / 2, chosen[cost] * 2):
            assert price(chosen[cost], cost) <= price(other, cost) * (1 + 1e-3)
    assert chosen[0.3] < chosen[1.0] < chosen[5.0]
    assert thrifty_product(mu, 1.0, nodes, 3 * total, 1.0) > chosen[1.0]  # a graph that needs more exchanges gets fewer


@pytest.mark.parametrize(
    ("mu", "L", "message"), [(0.0, 1.0, "strongly convex"), (2.0, 1.0, "exceeds"), (math.nan, 1.0, "finite")]
)
def test_bad_curvature(mu: float, L: float, message: str) -> None:
    for make in (lambda: paper_constants(mu, L, 1.0), lambda: certified_constants(mu, L, 1.0, 1.0)):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="gamma is -1"):
        dataclasses.replace(paper_constants(0.1, 1.0, 1.0), gamma=-1.0)


def moment_exponent(curvatures: tuple[float, float], rate: float, c: Constants) -> float:
    """Decay of E[s s'] for two nodes with f_i(x) = a_i x^2 / 2, from the linear ODE of the 12 x 12 second moment."""
    motion = np.kron(np.eye(2), generator(c))
    eye = np.eye(12)
    whole = np.kron(motion, eye) + np.kron(eye, motion)
    for node, a in enumerate(curvatures):
        jump, row = eye.copy(), np.zeros(12)
        row[6 * node], row[6 * node + 3] = a - c.nu, -1.0
        for k, step in ((0, -c.gamma), (1, -c.gamma_twin), (3, c.delta)):
            jump[6 * node + k] += step * row
        whole += np.kron(jump, jump) - np.eye(144)
    jump, row = eye.copy(), np.zeros(12)
    row[[2, 4]], row[[8, 10]] = 1.0, -1.0
    for k, step in ((4, -c.beta), (5, -c.beta_twin)):
        jump[k] += step * row
        jump[6 + k] -= step * row
    whole += rate * (np.kron(jump, jump) - np.eye(144))
    # z and zt of zero sum: project them, or their conserved sums show as eigenvalue 0
    basis = np.eye(12)
    for k in (4, 5):
        basis[:, [k, 6 + k]] = 0.0
        basis[k, k], basis[6 + k, k] = math.sqrt(0.5), -math.sqrt(0.5)
    kept = [k for k in range(12) if k not in (10, 11)]
    Q = np.kron(basis[:, kept], basis[:, kept])
    return -float(np.linalg.eigvals(Q.T @ whole @ Q).real.max())


@pytest.mark.parametrize("curvatures", [(1.0, 1.0), (0.25, 1.0), (0.01, 1.0), (0.01, 0.01), (0.5, 0.02)])
def test_exact_second_moments_decay_at_least_as_certified(curvatures: tuple[float, float]) -> None:
    mu, top = min(curvatures), 1.0
    edges = np.array([[0, 1]])
    for X in (0.5, 4.0):
        rates = uniform_rates(2, edges, X)
        chi = slowness(2, edges, rates)
        chosen = [certified_constants(mu, top, *chi)]
        if X == 0.5:
            chosen.append(paper_constants(mu, top, chi[0]))
        for constants in chosen:
            rate = certified_rate(constants, mu, top, *chi)
            assert rate is not None
            assert moment_exponent(curvatures, float(rates[0]), constants) >= rate.rho * (1 - 1e-9)


def test_simulated_second_moments_follow_their_ode() -> None:
    """n = 2, d = 1: mean squares of many runs against the moment equation at one time."""
    edges, curvatures = np.array([[0, 1]]), (0.3, 1.0)
    rates = uniform_rates(2, edges)
    c = certified_constants(0.3, 1.0, *slowness(2, edges, rates))
    net = dataclasses.replace(net_of("path:2", dim=1), mu=0.3, smoothness=1.0)
    # quadratics a x^2 / 2 from one row each
    from surefoot.decentralized.graphs import named_graph
    from surefoot.decentralized.problem import linear_consensus, network
    from surefoot.numerics.losses import Squared

    A = np.sqrt([[0.3 - 0.1], [1.0 - 0.1]])
    net = network(linear_consensus(A, np.zeros(2), Squared(), 0.1, named_graph("path:2")))
    repeats, horizon = 4000, 3.0
    start = reference.start_values(np.array([[1.0], [-2.0]]))
    states = []
    for seed in range(repeats):
        clocks = Clocks(Streams(7), 2, rates, (seed,))
        events = clocks.draw(0, 64, 0.0)
        inside = events.times <= horizon
        assert not inside.all()
        states.append(type(events)(events.what[inside], events.times[inside]))
    values, times = np.repeat(start[None], repeats, axis=0), np.zeros((repeats, 2))
    if kernel.installed():
        kernel.EventKernel(net, c).advance(values, times, states)
    else:
        for k in range(repeats):
            levels.advance(net, c, values[k], times[k], states[k])
    ends = np.stack([reference.at_time(c, values[k], times[k], horizon) for k in range(repeats)])
    found = ends[:, :, :2, 0] ** 2
    expected = _moments_at(curvatures, float(rates[0]), c, start.reshape(12), horizon)[:, :2]
    error = found.std(axis=0) / math.sqrt(repeats)
    assert (np.abs(found.mean(axis=0) - expected) < 4 * error).all()


def _moments_at(
    curvatures: tuple[float, float], rate: float, c: Constants, start: np.ndarray, time: float
) -> np.ndarray:
    """E of the squares (2, 6) at a time, by integrating the second moment."""
    from scipy.linalg import expm

    motion, eye = np.kron(np.eye(2), generator(c)), np.eye(12)
    whole = np.kron(motion, eye) + np.kron(eye, motion)
    for node, a in enumerate(curvatures):
        jump, row = eye.copy(), np.zeros(12)
        row[6 * node], row[6 * node + 3] = a - c.nu, -1.0
        for k, step in ((0, -c.gamma), (1, -c.gamma_twin), (3, c.delta)):
            jump[6 * node + k] += step * row
        whole += np.kron(jump, jump) - np.eye(144)
    jump, row = eye.copy(), np.zeros(12)
    row[[2, 4]], row[[8, 10]] = 1.0, -1.0
    for k, step in ((4, -c.beta), (5, -c.beta_twin)):
        jump[k] += step * row
        jump[6 + k] -= step * row
    whole += rate * (np.kron(jump, jump) - np.eye(144))
    return np.diag((expm(whole * time) @ np.kron(start, start)).reshape(12, 12)).reshape(2, 6)


@pytest.mark.parametrize(("graph", "which"), list(pairs(["star:6", "cycle:6", "barbell:3"], ["paper", "certified"])))
def test_the_bound_on_the_mean_is_not_exceeded(graph: str, which: str) -> None:
    """Phi itself, at eight times over many runs: at most exp(-rho t) Phi(0), within three standard errors; and Ville."""
    net = net_of(graph, dim=2, ridge=0.1)
    rates = optimal_rates(net.nodes, net.edges).rates if which == "certified" else uniform_rates(net.nodes, net.edges)
    chi = slowness(net.nodes, net.edges, rates)
    c = (
        certified_constants(net.mu, net.smoothness, *chi)
        if which == "certified"
        else paper_constants(net.mu, net.smoothness, chi[0])
    )
    rate = certified_rate(c, net.mu, net.smoothness, *chi)
    assert rate is not None
    best, pseudo = stationary(net, c.nu), np.linalg.pinv(rate_matrix(net.nodes, net.edges, rates))
    repeats, steps = 200, 8
    values = np.repeat(reference.start_values(np.zeros((net.nodes, 2)))[None], repeats, axis=0)
    clocks, now = np.zeros((repeats, net.nodes)), np.zeros(repeats)
    first = potential(net, c, rate.y_weight, pseudo, best, values[0])
    bound = potential_at_start(net, c, rate, chi[0], np.zeros((net.nodes, 2)))
    assert first <= bound  # the a-priori bound of Phi(0) needs no minimiser
    ratios = np.ones((steps + 1, repeats))
    engine = kernel.EventKernel(net, c) if kernel.installed() else None
    for step in range(steps):
        count = int(2 * (net.nodes + rates.sum()))
        batch = [
            Clocks(Streams(11), net.nodes, rates, (k,)).draw(step * count, count, float(now[k])) for k in range(repeats)
        ]
        if engine is not None:
            engine.advance(values, clocks, batch)
        else:
            for k in range(repeats):
                levels.advance(net, c, values[k], clocks[k], batch[k])
        now = np.array([events.times[-1] for events in batch])
        for k in range(repeats):
            state = reference.at_time(c, values[k], clocks[k], float(now[k]))
            ratios[step + 1, k] = (
                potential(net, c, rate.y_weight, pseudo, best, state) * math.exp(rate.rho * now[k]) / first
            )
    error = ratios.std(axis=1) / math.sqrt(repeats)
    assert (ratios.mean(axis=1) <= 1 + 3 * error + 1e-9).all()
    assert (ratios.max(axis=0) > 20).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert ratios[-1].mean() > 1e-6  # the bound is not vacuous: the decay is seen
    squares = ((values[:, :, 0] - minimiser(net)) ** 2).sum(axis=(1, 2))
    assert squares.mean() <= mean_square_factor(net, c) * bound


def potential(
    net: Any, c: Constants, y_weight: float, pseudo: np.ndarray, best: np.ndarray, state: np.ndarray
) -> float:
    """Phi, with Bregman distances of quadratics in closed form."""
    x, xt, y, yt, z, zt = ((state - best)[:, k] for k in range(6))
    b = 2 * c.gamma_twin / c.eta
    total = (xt**2).sum() + c.gamma_twin / (c.theta * c.nu) * (yt**2).sum() + y_weight * (y**2).sum()
    total += c.gamma_twin / (c.alpha * c.nu) * ((y + z) ** 2).sum()
    total += c.gamma_twin / (c.nu * c.beta_twin) * np.einsum("id,ij,jd->", zt, pseudo, zt)
    for i, (H, _) in enumerate(net.quadratics):
        total += b * 0.5 * (x[i] @ H @ x[i] - c.nu * x[i] @ x[i])
    return float(total)
