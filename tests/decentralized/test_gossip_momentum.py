"""Accelerated gossip and A2CiD2: the motion, the rate against exact second moments, both bounds in many runs, torch modules."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gossip_networks import LOSSES, consensus, rows
from scipy.linalg import expm

from surefoot import catalog, cli, solve, testing
from surefoot.core.method import Status
from surefoot.core.random import Streams
from surefoot.decentralized.card import CARD, tiny_inputs
from surefoot.decentralized.event_gossip import EventGossip
from surefoot.decentralized.events import Clocks
from surefoot.decentralized.graphs import edge_list, named_graph, rate_matrix, slowness, uniform_rates
from surefoot.decentralized.mixing import Mixing, meet, mixing_constants, mixing_rate, moved
from surefoot.decentralized.momentum import ContinuizedGossip, MomentumDescent
from surefoot.decentralized.nonconvex import (
    SampledObjective,
    averaging,
    flat_parameters,
    load_parameters,
    module_consensus,
    nonconvex_logistic,
)
from surefoot.decentralized.problem import linear_consensus, network
from surefoot.decentralized.schedule import changing_graph
from surefoot.decentralized.verify_momentum import contracts


def values(nodes: int, dim: int = 2) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(nodes, dim)) + 1.0


def labelled(graph: str = "cycle:5", weight: float = 0.1) -> Any:
    made = named_graph(graph)
    A, y = rows(12 * len(made), 3, "logistic", seed=5)
    return nonconvex_logistic(A, y, weight, made)


# ---- mixing -----------------------------------------------------------------------------------------------------


def test_the_motion_is_the_matrix_exponential() -> None:
    mixing, state = Mixing(0.7, 0.5, 2.0), np.random.default_rng(0).normal(size=(5, 2, 3))
    elapsed = np.array([0.0, 1e-3, 0.4, 3.0, 50.0])
    whole = moved(mixing, state, elapsed)
    for k, t in enumerate(elapsed):
        exact = expm(t * np.array([[-0.7, 0.7], [0.7, -0.7]])) @ state[k]
        assert np.allclose(whole[k], exact, rtol=1e-13, atol=1e-15)


def test_published_constants() -> None:
    mixing = mixing_constants(8.0, 0.5)
    assert mixing.eta == pytest.approx(1 / (2 * math.sqrt(8.0 * 0.5)))
    assert mixing.alpha == 0.5
    assert mixing.alpha_twin == pytest.approx(0.5 * math.sqrt(8.0 / 0.5))
    assert mixing_rate(mixing, 8.0, 0.5) == pytest.approx(mixing.eta, rel=1e-6)
    assert mixing_rate(mixing_constants(8.0, 0.5, momentum=False), 8.0, 0.5) == pytest.approx(1 / 16)
    rng = np.random.default_rng(0)
    for _ in range(2000):  # no others are certified to be faster
        other = Mixing(*np.exp(rng.normal(np.log([mixing.eta, 0.5, mixing.alpha_twin]), 0.5)))
        assert mixing_rate(other, 8.0, 0.5) <= mixing.eta * (1 + 1e-6)


def second_moment(graph: str, mixing: Mixing, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The generator of E[s s'] for s = (w, v) of zero mean, (n - 1)-dimensional each, and the basis."""
    n, edges = len(named_graph(graph)), edge_list(named_graph(graph))
    basis = np.linalg.qr(np.column_stack([np.ones(n), np.eye(n)[:, :-1]]))[0][:, 1:]
    size = 2 * (n - 1)
    motion = np.kron(mixing.eta * np.array([[-1.0, 1.0], [1.0, -1.0]]), np.eye(n - 1))
    eye = np.eye(size)
    whole = np.kron(motion, eye) + np.kron(eye, motion)
    for (i, j), rate in zip(edges, rates, strict=True):
        b = basis[i] - basis[j]
        jump = eye.copy()
        jump[: n - 1, : n - 1] -= mixing.alpha * np.outer(b, b)
        jump[n - 1 :, : n - 1] -= mixing.alpha_twin * np.outer(b, b)
        whole += rate * (np.kron(jump, jump) - np.eye(size**2))
    return whole, basis


@pytest.mark.parametrize("graph", ["path:2", "path:6", "star:5", "complete:4", "barbell:3"])
def test_exact_second_moments_decay_at_least_as_certified(graph: str) -> None:
    made = named_graph(graph)
    edges = edge_list(made)
    rates = uniform_rates(len(made), edges)
    chi = slowness(len(made), edges, rates)
    seen = {}
    for momentum in (True, False):
        mixing = mixing_constants(*chi, momentum)
        whole = second_moment(graph, mixing, rates)[0]
        size = whole.shape[0]
        if not momentum:  # the twin is idle: look at w alone
            half = math.isqrt(size) // 2
            keep = np.ix_(*[[a * 2 * half + b for a in range(half) for b in range(half)]] * 2)
            whole = whole[keep]
        seen[momentum] = -float(np.linalg.eigvals(whole).real.max())
        assert seen[momentum] >= mixing_rate(mixing, *chi) * (1 - 1e-6)
    if graph == "path:6":
        assert seen[True] > 1.5 * seen[False]  # the momentum is what makes it fast


def test_psi_stays_below_its_bound_in_many_runs() -> None:
    problem, runs = averaging(values(6), named_graph("path:6")), 300
    method = ContinuizedGossip(tolerance=0.0, rates="uniform", check_every=1e9, block=10**6)
    states = [method.init(problem, None, Streams(seed)) for seed in range(runs)]
    net = states[0].net
    assert net is not None
    mixing, chi = states[0].letters, slowness(6, net.edges, states[0].rates)
    pseudo, rho = np.linalg.pinv(rate_matrix(6, net.edges, states[0].rates)), mixing_rate(mixing, *chi)

    def psi(now: np.ndarray) -> float:
        w, v = now[:, 0] - now[:, 0].mean(axis=0), now[:, 1] - now[:, 1].mean(axis=0)
        return float((w**2).sum() + mixing.share * np.einsum("id,ij,jd->", v, pseudo, v))

    first = psi(states[0].values)
    for count in (10, 40, 100):
        ratios = []
        for state in states:
            state.limit = count
            method.step(problem, state)
            now = moved(mixing, state.values, state.time - state.clocks)
            assert np.allclose(now.mean(axis=0), states[0].start.mean(axis=0), atol=1e-12)
            ratios.append(psi(now) * math.exp(rho * state.time) / first)
        assert np.mean(ratios) <= 1 + 3 * np.std(ratios) / math.sqrt(runs)
    assert np.mean(ratios) > 1e-6


def test_the_checkers_contraction_agrees_with_the_solvers_rate() -> None:
    for chi1, chi2 in ((8.0, 0.5), (3.0, 3.0)):
        for momentum in (True, False):
            mixing = mixing_constants(chi1, chi2, momentum)
            rho = mixing_rate(mixing, chi1, chi2)
            letters = {f.name: Fraction(getattr(mixing, f.name)) for f in dataclasses.fields(mixing)}
            numbers = Fraction(chi1), Fraction(chi2)
            assert contracts(letters, Fraction(rho * (1 - 1e-9)), *numbers) == ""
            assert contracts(letters, Fraction(rho * 1.001), *numbers) != ""
            if momentum:
                assert contracts({**letters, "alpha_twin": 2 * letters["alpha_twin"]}, Fraction(rho), *numbers) != ""


# ---- averages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [True, False])
def test_gossip_finds_the_average_and_verifies(momentum: bool) -> None:
    v = values(10, 3)
    problem = averaging(v, named_graph("barbell:5"))
    result = solve(problem, ContinuizedGossip(momentum=momentum, tolerance=1e-9))
    assert result.status is Status.CONVERGED
    assert np.abs(result.answer.points - v.mean(axis=0)).max() <= 1e-9
    assert {c.verdict for c in catalog.verify(result, problem)} == {"confirmed"}
    asynchronous = solve(problem, EventGossip(tolerance=1e-9, engine="numpy"))
    assert np.abs(asynchronous.answer.points - v.mean(axis=0)).max() <= 1e-9


def test_gossip_refuses_what_is_no_average() -> None:
    changing = changing_graph([named_graph("star:4"), named_graph("path:4")], [1.0, 1.0])
    cases: list[tuple[Any, str]] = [
        (lambda: solve(consensus("star:4"), ContinuizedGossip()), "no average"),
        (
            lambda: solve(averaging(values(4), named_graph("star:4")), ContinuizedGossip(), start=np.zeros(2)),
            "no start",
        ),
        (lambda: solve(averaging(values(4), changing), ContinuizedGossip()), "changes over time"),
        (lambda: averaging(values(3), named_graph("star:4")), "a row for each of the 4"),
        (lambda: averaging(values(4) * np.nan, named_graph("star:4")), "NaN"),
        (lambda: ContinuizedGossip(product=0.0), "product is 0"),
        (lambda: ContinuizedGossip(rates="best"), "rates is 'best'"),  # type: ignore[arg-type]
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()


# ---- A2CiD2 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [0, 2])
def test_descent_equals_a_dense_simulation_of_the_published_rules(batch: int) -> None:
    """All nodes move together by the matrix exponential, event by event, with the published constants written out."""
    problem = labelled()
    net = network(problem, convex=False)
    method = MomentumDescent(time=1e9, batch=batch, rates="uniform", check_every=1e9, block=400)
    state = method.init(problem, np.ones(3), Streams(4))
    state.limit = 400
    method.step(problem, state)
    chi1, chi2 = slowness(net.nodes, net.edges, state.rates)
    eta, twin = 0.5 / math.sqrt(chi1 * chi2), 0.5 * math.sqrt(chi1 / chi2)
    clocks = Clocks(Streams(4), net.nodes, state.rates, batch=batch, sizes=net.sizes)
    events, x, now = clocks.draw(0, 400, 0.0), np.ones((5, 2, 3)), 0.0
    for k, (what, time) in enumerate(zip(events.what, events.times, strict=True)):
        x = np.einsum("ab,nbd->nad", expm((time - now) * np.array([[-eta, eta], [eta, -eta]])), x)
        now = float(time)
        if what < 5:
            at = torch.from_numpy(x[what, 0].copy())
            objective: Any = problem.objectives[what]
            picked = events.rows_of(k)
            full = (
                objective.value_and_grad(at)[1]
                if picked is None
                else objective.row_gradient(at, torch.from_numpy(picked))
            )
            x[what] -= state.step_size * full.numpy()
        else:
            i, j = net.edges[what - 5]
            m = x[i, 0] - x[j, 0]
            x[i] -= np.stack([0.5 * m, twin * m])
            x[j] += np.stack([0.5 * m, twin * m])
    assert np.abs(state.points() - x[:, 0]).max() < 1e-7
    assert np.allclose(x[:, 0].mean(axis=0), x[:, 1].mean(axis=0))  # x and its twin have one mean


@pytest.mark.parametrize(("momentum", "batch"), [(True, 0), (True, 3), (False, 0)])
def test_both_bounds_hold_in_many_runs(momentum: bool, batch: int) -> None:
    """The spread of the nodes at several times, and the mean squared gradient over the run, with bounded gradients."""
    problem, runs = labelled("path:5"), 30
    net = network(problem, convex=False)
    method = MomentumDescent(
        time=30.0, step_size=0.02, batch=batch, momentum=momentum, rates="uniform", check_every=1.0, block=25
    )
    spreads, slopes = [], []
    for seed in range(runs):
        state = method.init(problem, np.full(3, 2.0), Streams(seed))
        seen, levels = [], []
        while state.time < 30.0:
            method.step(problem, state)
            points = state.points()
            mean = points.mean(axis=0)
            seen.append(float(((points - mean) ** 2).sum()))
            levels.append(float((net.mean_gradient(mean) ** 2).sum()))
        spreads.append(seen[:8])
        slopes.append(np.mean(levels))
    result = solve(problem, method, start=np.full(3, 2.0))
    claims = {c.name: c for c in result.certificate.claims}
    assert claims["spread"].kind == claims["stationarity"].kind == "proved"
    mean = np.array(spreads).mean(axis=0)
    error = np.array(spreads).std(axis=0) / math.sqrt(runs)
    assert (mean <= claims["spread"].value + 3 * error).all()
    assert mean.max() > 1e-6 * claims["spread"].value
    assert np.mean(slopes) <= claims["stationarity"].value + 3 * np.std(slopes) / math.sqrt(runs)
    assert {c.verdict for c in catalog.verify(result, problem)} == {"confirmed"}


def test_momentum_keeps_the_nodes_closer_on_a_slow_graph() -> None:
    problem = labelled("path:12")
    gaps = {}
    for momentum in (True, False):
        method = MomentumDescent(time=60.0, momentum=momentum, rates="uniform", product=60.0)
        found = [solve(problem, method, seed=seed, certify=False).answer for seed in range(3)]
        gaps[momentum] = np.mean([np.linalg.norm(a.points - a.mean) for a in found])
    assert gaps[True] < 0.8 * gaps[False]


def test_the_nonconvex_loss_and_its_constants() -> None:
    A, y = rows(30, 3, "logistic")
    graph = named_graph("path:1")
    objective: Any = nonconvex_logistic(A, y, 0.4, graph).objectives[0]
    rng = np.random.default_rng(1)
    top = {name: c.value for name, c in objective.constants.items()}
    last, last_slope = None, None
    for scale in (0.1, 1.0, 3.0, 30.0) * 5:
        x = torch.from_numpy(scale * rng.normal(size=3))
        value, slope = objective.value_and_grad(x)
        steps = torch.eye(3, dtype=torch.float64) * 1e-6
        numeric = [(objective.value_and_grad(x + e)[0] - objective.value_and_grad(x - e)[0]) / 2e-6 for e in steps]
        assert torch.allclose(slope, torch.stack(numeric), atol=1e-7)
        each = torch.stack([objective.row_gradient(x, torch.tensor([r])) for r in range(30)])
        assert torch.allclose(each.mean(dim=0), slope)
        assert value >= top["minimum"]
        assert slope.norm() <= top["gradient_bound"]
        assert each.norm(dim=1).max() <= top["row_gradient_bound"]
        if last is not None:
            assert (slope - last_slope).norm() <= top["smoothness"] * (x - last).norm()
        last, last_slope = x, slope
    # not convex: there is a direction of negative curvature far out
    far = torch.tensor([50.0, 1.0, 0.0], dtype=torch.float64)
    e = torch.tensor([0.0, 1e-4, 0.0], dtype=torch.float64)
    assert (objective.value_and_grad(far + e)[1] - objective.value_and_grad(far - e)[1]) @ e < 0


def make_net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def test_a_torch_module_is_trained() -> None:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(120, 2, generator=generator)
    y = (X[:, 0] * X[:, 1] > 0).long()  # not linearly separable
    shards = [(X[i::4], y[i::4]) for i in range(4)]
    problem = module_consensus(
        make_net,
        lambda out, t: torch.nn.functional.cross_entropy(out, t, reduction="none"),
        shards,
        named_graph("cycle:4"),
    )
    start = flat_parameters(make_net())
    method = MomentumDescent(time=250.0, step_size=0.5, batch=8, check_every=20.0)
    result = solve(problem, method, start=start)
    module = load_parameters(make_net().double(), result.answer.mean)
    accuracy = float((module(X.double()).argmax(dim=1) == y).double().mean())
    assert accuracy > 0.9
    assert np.linalg.norm(result.answer.points - result.answer.mean, axis=1).max() < 1.0
    assert {c.verdict for c in catalog.verify(result, problem)} == {"confirmed"}
    assert "stationarity" not in {c.name for c in result.certificate.claims}  # no constants, no bound
    small = module_consensus(make_net, lambda out, t: out.sum(dim=1), [(X, y)], named_graph("path:1"))
    assert isinstance(small.objectives[0], SampledObjective)
    at = torch.from_numpy(start)
    own = make_net().double()
    own(X.double()).sum(dim=1).mean().backward()
    exact = torch.cat([p.grad.ravel() for p in own.parameters() if p.grad is not None])
    assert torch.allclose(small.objectives[0].value_and_grad(at)[1], exact)


def test_descent_refuses() -> None:
    X, y = torch.randn(8, 2), torch.zeros(8).long()
    graph = named_graph("path:2")
    shards = [(X[:4], y[:4]), (X[4:], y[4:])]

    def loss(out: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return out.sum(dim=1)

    problem = module_consensus(make_net, loss, shards, graph)
    cases: list[tuple[Any, str]] = [
        (lambda: solve(problem, MomentumDescent()), "give a step_size"),
        (lambda: module_consensus(make_net, loss, shards[:1], graph), "1 shards for 2 nodes"),
        (lambda: module_consensus(lambda: torch.nn.BatchNorm1d(2), loss, shards, graph), "buffers or dropout"),
        (lambda: module_consensus(lambda: torch.nn.Dropout(), loss, shards, graph), "buffers or dropout"),
        (lambda: nonconvex_logistic(X, y.double() + 3, 0.1, graph), "-1 or"),
        (lambda: nonconvex_logistic(X, y.double() + 1, -0.1, graph), "weight is -0.1"),
        (lambda: MomentumDescent(time=0.0), "time is 0"),
        (lambda: MomentumDescent(step_size=-1.0), "step_size is -1"),
        (lambda: MomentumDescent(batch=-1), "batch is -1"),
    ]
    for make, message in cases:
        with pytest.raises(ValueError, match=message):
            make()


def test_a_step_that_is_too_long_diverges_by_name() -> None:
    A, y = rows(20, 3)
    problem = linear_consensus(A, y, LOSSES["squared"], 0.1, named_graph("cycle:4"))
    result = solve(problem, MomentumDescent(time=1e6, step_size=1e6))
    assert result.status is Status.DIVERGED


# ---- the card ---------------------------------------------------------------------------------------------------


def binary_inputs(folder: Path) -> dict[str, str]:
    found = dict(tiny_inputs(folder))
    path = Path(found["data"])
    lines = path.read_text().splitlines()
    rows_ = [line.rsplit(",", 1) for line in lines[1:]]
    cells = [f"{row},{1.0 if float(target) > 0 else -1.0}" for row, target in rows_]
    path.write_text("\n".join([lines[0], *cells]) + "\n", encoding="utf-8")
    return found


def test_spoiled_runs_are_refuted(tmp_path: Path) -> None:
    options = {"algorithm": "acid", "loss": "nonconvex", "time": 8.0, "batch": 2, "rates": "uniform"}
    system = dataclasses.replace(CARD, tiny_options=options, tiny_inputs=binary_inputs)
    assert testing.check_certificate(system, tmp_path / "contract") > 30
    testing.check_system(system, tmp_path / "system")


def test_a_spoiled_average_is_refuted(tmp_path: Path) -> None:
    """As the contract does it, but for the distance of the mean, which averaging keeps at the level of rounding."""
    options = {"algorithm": "gossip", "loss": "mean", "tolerance": 1e-3}
    testing.check_system(dataclasses.replace(CARD, tiny_options=options), tmp_path)
    problem = averaging(values(5), named_graph("path:5"))
    result = solve(problem, ContinuizedGossip(tolerance=1e-3))
    certificate = result.certificate
    assert certificate is not None

    def verdicts(**change: Any) -> dict[str, str]:
        spoiled = dataclasses.replace(result, certificate=dataclasses.replace(certificate, **change))
        return {v.claim: v.verdict for v in catalog.verify(spoiled, problem)}

    for k, claim in enumerate(certificate.claims):
        if claim.name in ("distance", "suboptimality"):
            continue
        for factor in (-1.0, 2.0, math.nan):
            claims = list(certificate.claims)
            claims[k] = dataclasses.replace(claim, value=claim.value * factor)
            assert verdicts(claims=tuple(claims))[claim.name] == "refuted", (claim.name, factor)
    stored = certificate.evidence["dynamics.json"]
    for change in (
        {"rho": stored["rho"] * 1.01}, {"rho": stored["rho"] * 0.9}, {"chi1": stored["chi1"] * 1.1}, {"chi2": stored["chi2"] * 0.9},
        {"time": stored["time"] * 2}, {"goal": 1e-4}, {"mixing": {**stored["mixing"], "eta": stored["mixing"]["eta"] * 1.1}},
    ):  # fmt: skip
        assert (
            "refuted" in verdicts(evidence={**certificate.evidence, "dynamics.json": {**stored, **change}}).values()
        ), change


@pytest.mark.parametrize(("arguments", "said"), [
    (["--algorithm", "gossip"], "averages only"),
    (["--loss", "nonconvex"], "--algorithm acid"),
    (["--algorithm", "acid", "--time", "0"], "time is 0"),
    (["--algorithm", "gossip", "--loss", "mean", "--batch", "2"], "simulated dadao and acid"),
    (["--algorithm", "acid", "--graph", "star:4+path:4"], "changes over time"),
])  # fmt: skip
def test_bad_options_are_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "dadao", *arguments, "-o", str(tmp_path / "out"), "--quiet"]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_exchange_moves_both_ends_by_opposite_amounts() -> None:
    state, clocks = np.random.default_rng(0).normal(size=(3, 2, 2)), np.zeros(3)
    before = moved(Mixing(0.5, 0.5, 2.0), state, np.full(3, 1.5))
    after = state.copy()
    meet(Mixing(0.5, 0.5, 2.0), after, clocks, (0, 2), 1.5)
    assert np.allclose(after[[0, 2]].sum(axis=0), before[[0, 2]].sum(axis=0))
    assert np.allclose(after[0, 0], after[2, 0])  # alpha = 1/2: both have the mean
    assert np.array_equal(after[1], state[1])
