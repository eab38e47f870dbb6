"""Gradients from a few rows: their variance, the rate that survives it, the floor, and both in many runs."""

from __future__ import annotations

import copy
import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gossip_networks import LOSSES, minimiser, rows, stationary
from test_gossip_constants import exact, potential

from surefoot import catalog, solve, testing
from surefoot.core.method import Status
from surefoot.core.problem import Consensus
from surefoot.core.random import Streams
from surefoot.core.solve import Budget
from surefoot.decentralized import kernel, minibatch, reference
from surefoot.decentralized.card import CARD
from surefoot.decentralized.constants import certified_constants, certified_rate, noise_weight
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.events import Clocks
from surefoot.decentralized.graphs import named_graph, rate_matrix, slowness
from surefoot.decentralized.problem import linear_consensus, network
from surefoot.decentralized.runtime import run_async
from surefoot.decentralized.verify_rate import decays

ENGINES = ["reference", "numpy", *(["warp"] if kernel.installed() else [])]


def problem(loss: str = "squared", graph: str = "cycle:4", ridge: float = 0.3) -> Consensus:
    made = named_graph(graph)
    A, y = rows(20 * len(made), 2, loss, seed=4)
    return linear_consensus(A, y, LOSSES[loss], ridge, made)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_the_variance_of_a_row_is_bounded_by_the_distance(loss: str) -> None:
    net = network(problem(loss))
    best, rng = minimiser(net), np.random.default_rng(0)
    assert net.rows is not None
    tops, means = minibatch.row_curvatures(net)
    for scale in (0.01, 1.0, 30.0):
        x = best + scale * rng.normal(size=2)
        at_x, at_best = minibatch.row_variances(net, x), minibatch.row_variances(net, best)
        for i, local in enumerate(net.rows):
            every = np.array([net.rows_gradient(i, x, np.array([r])) for r in range(len(local.targets))])
            assert np.allclose(every.mean(axis=0), net.gradient(i, x))  # unbiased
            assert at_x[i] == pytest.approx(((every - every.mean(axis=0)) ** 2).sum(axis=1).mean())
            values = [float(net.objectives[i].value_and_grad(_torch(v))[0]) for v in (x, best)]
            bregman = values[0] - values[1] - net.gradient(i, best) @ (x - best)
            bregman -= 0.5 * 0.9 * local.ridge * ((x - best) ** 2).sum()  # D_i for nu = 0.9 ridge
            for tau in minibatch.TAUS:
                assert at_x[i] <= ((1 + tau) * at_best[i] + (1 + 1 / tau) * 2 * tops[i] * bregman) * (1 + 1e-9)
        radius = float(np.linalg.norm(x - best))
        assert (np.sqrt(at_best) <= np.sqrt(at_x) + radius * means + 1e-12).all()


def _torch(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def test_drawn_rows_are_addressed_and_even() -> None:
    sizes = np.array([3, 5])
    clocks = Clocks(Streams(1), 2, np.array([0.5]), batch=2, sizes=sizes)
    whole, part = clocks.draw(0, 9000, 0.0), clocks.draw(4090, 20, 0.0)
    assert whole.rows is not None
    assert part.rows is not None
    assert np.array_equal(whole.rows[4090:4110], part.rows)
    for node, size in enumerate(sizes):
        counts = np.bincount(whole.rows[whole.what == node].ravel(), minlength=size)
        assert len(counts) == size
        assert counts.min() > 0.9 * counts.mean()


@pytest.mark.parametrize("loss", list(LOSSES))
def test_engines_agree(loss: str) -> None:
    budget = Budget(steps=1500)
    found = [
        solve(problem(loss), EventGossip(tolerance=0.0, batch=3, engine=e), budget=budget, certify=False)  # type: ignore[arg-type]
        for e in ENGINES
    ]
    for other in found[1:]:
        assert other.counts == found[0].counts
        assert np.abs(other.answer.points - found[0].answer.points).max() < 1e-11


def test_contract(tmp_path: Path) -> None:
    testing.check_method(
        problem(), EventGossip(tolerance=0.0, batch=2, engine="numpy", check_every=1.0), tmp_path, steps=300
    )


@pytest.mark.parametrize("noise", [0.5, 20.0])
def test_the_checkers_form_agrees_with_the_conditions(noise: float) -> None:
    c = certified_constants(0.05, 1.0, 0.5, 1.0, noise)
    rate = certified_rate(c, 0.05, 1.0, 0.5, 1.0, noise)
    without = certified_rate(c, 0.05, 1.0, 0.5, 1.0)
    assert rate is not None
    assert without is not None
    assert rate.rho <= without.rho

    def says(factor: float, noise: float) -> str:
        numbers = Fraction(rate.rho * factor), Fraction(rate.y_weight)
        return decays(exact(c), *numbers, (Fraction(0.05), Fraction(1)), (Fraction(0.5), Fraction(1)), Fraction(noise))

    assert says(1 - 1e-7, noise) == ""
    assert says(1 - 1e-7, 10 * noise) != ""


def test_the_bound_with_its_floor_is_not_exceeded() -> None:
    """E Phi(t) <= exp(-rho t) Phi(0) + (1 - exp(-rho t)) C S / rho at four times, within three standard errors."""
    asked, runs = problem(), 150
    net = network(asked)
    method = EventGossip(tolerance=0.0, batch=1, check_every=1e9, block=10**6, rates="uniform")
    first = method.init(asked, np.full(2, 3.0), Streams(0))
    c, best = first.letters, stationary(net, first.letters.nu)
    chi1, chi2 = slowness(net.nodes, net.edges, first.rates)
    noise = minibatch.certified_noise(net, c, chi1 * (1 + 1e-10), chi2 * (1 + 1e-10), 1, minimiser(net), 0.0)
    assert noise is not None
    pseudo = np.linalg.pinv(rate_matrix(net.nodes, net.edges, first.rates))

    def phi(state: np.ndarray) -> float:
        return potential(net, c, noise.rate.y_weight, pseudo, best, state)

    begin = phi(reference.start_values(np.full((4, 2), 3.0)))
    floor = noise.floor(net, minimiser(net), 0.0)
    states = [dataclasses.replace(copy.deepcopy(first), streams=Streams(seed)) for seed in range(runs)]
    squares: list[float] = []
    for count in (50, 400, 1600, 4000):
        over, squares = [], []
        for state in states:
            state.limit = count
            method.step(asked, state)
            now = reference.at_time(c, state.values, state.clocks, state.time)
            share = math.exp(-noise.rate.rho * state.time)
            over.append(phi(now) - (share * begin + (1 - share) * floor / noise.factor))
            squares.append(float(((now[:, 0] - best[:, 0]) ** 2).sum()))
        assert np.mean(over) <= 3 * np.std(over) / math.sqrt(runs)
    assert np.mean(squares) <= floor * 1.2  # the start is forgotten by now (a fifth for what is left of it)
    assert np.mean(squares) >= 1e-4 * floor  # and the floor is there


def test_smaller_steps_and_larger_batches_lower_the_floor() -> None:
    asked = problem()

    def floor(batch: int, caution: float) -> float:
        method = EventGossip(tolerance=0.0, batch=batch, caution=caution, engine="numpy")
        result = solve(asked, method, budget=Budget(steps=10))
        return float(result.certificate.claim("noise-floor").value)

    assert floor(8, 1.0) < 0.5 * floor(2, 1.0)
    assert floor(2, 10.0) < 0.5 * floor(2, 1.0)


def test_a_run_ends_at_its_floor_and_verifies() -> None:
    asked = problem("logistic")
    result = solve(asked, EventGossip(tolerance=1e-9, batch=5, engine="numpy"))
    assert result.status is Status.CONVERGED
    assert "floor" in result.reason
    assert {v.verdict for v in catalog.verify(result, asked)} == {"confirmed"}
    claims = {c.name: c for c in result.certificate.claims}
    assert claims["mean-square"].value <= claims["noise-floor"].value * 1.02
    assert ((result.answer.points - minimiser(network(asked))) ** 2).sum() <= claims["mean-square"].value
    assert claims["node-distance"].outcome == "fails"  # said, not hidden
    assert "time-that-suffices" not in claims


def test_constants_that_are_too_large_for_the_noise_are_undecided() -> None:
    asked = problem()
    result = solve(
        asked, EventGossip(tolerance=1e-9, batch=1, constants="paper", engine="numpy"), budget=Budget(steps=500)
    )
    assert result.certificate.claim("rate").outcome == "undecided"
    assert {v.verdict for v in catalog.verify(result, asked)} == {"confirmed"}


def test_spoiled_evidence_is_refuted(tmp_path: Path) -> None:
    options = {"tolerance": 1e-3, "engine": "numpy", "batch": 4, "rates": "uniform"}
    assert testing.check_certificate(dataclasses.replace(CARD, tiny_options=options), tmp_path) > 50


def test_a_floor_that_is_too_low_is_refuted() -> None:
    asked = problem()
    result = solve(asked, EventGossip(tolerance=1e-9, batch=4, engine="numpy"))
    certificate = result.certificate
    assert certificate is not None
    stored = certificate.evidence["dynamics.json"]
    for change in (
        {"growth": stored["growth"] * 0.9},
        {"batch": 8},
        {"tau": stored["tau"] * 2},
        {"rho": stored["rho"] * 1.01},
    ):
        evidence = {**certificate.evidence, "dynamics.json": {**stored, **change}}
        spoiled = dataclasses.replace(result, certificate=dataclasses.replace(certificate, evidence=evidence))
        verdicts = {v.claim: v.verdict for v in catalog.verify(spoiled, asked)}
        assert "refuted" in (verdicts["rate"], verdicts["noise-floor"]), change


def test_weight_of_the_noise() -> None:
    """The weight C from the jumps of Phi on a quadratic whose curvature is L: exact there."""
    c = certified_constants(0.1, 1.0, 0.5, 1.0)
    b, at = 2 * c.gamma_twin / c.eta, c.gamma_twin / (c.theta * c.nu)
    rng = np.random.default_rng(0)
    xi = rng.normal(size=200_000)
    gain = c.gamma_twin**2 * xi**2 + at * c.delta**2 * xi**2 + 0.5 * b * (1 - c.nu) * c.gamma**2 * xi**2
    assert gain.mean() == pytest.approx(noise_weight(c, 1.0), rel=2e-2)


def test_bad_input() -> None:
    from test_gossip_method import any_objective

    other = Consensus((any_objective(1.0), any_objective(2.0)), named_graph("path:2"))
    cases: list[tuple[Any, str]] = [
        (lambda: EventGossip(batch=-1), "batch is -1"),
        (lambda: EventGossip(batch=2, caution=0.5), "caution is 0.5"),
        (lambda: solve(other, EventGossip(batch=2)), "losses with rows"),
        (lambda: run_async(problem(), EventGossip(batch=2)), "whole gradients"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()
