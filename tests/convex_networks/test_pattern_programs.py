"""The convex program against truths of its own: another solver, weak duality, recovery, invariances, every arrangement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from surefoot.convex_networks.arrangement import peak
from surefoot.convex_networks.coordinate import CoordinateKernel
from surefoot.convex_networks.kernel import Kernel
from surefoot.convex_networks.local import random_start, train_locally
from surefoot.convex_networks.loss import TwofoldLogistic, named_loss
from surefoot.convex_networks.patterns import PatternSet, cell_count, centres, pattern_of, sample_patterns
from surefoot.convex_networks.problem import PatternProgram, make_program
from surefoot.convex_networks.recovery import into_cones, network_value, program_value, weights_of
from surefoot.convex_networks.sampled import SampledTraining, train_sampled
from surefoot.convex_networks.training import ConvexTraining
from surefoot.convex_networks.verify import CHECKS
from surefoot.convex_networks.verify_arrangement import above_limit
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.numerics.conic import solve_conic


def table(n: int = 30, d: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.where(X[:, 0] * X[:, 1] + 0.3 * rng.normal(size=n) > 0, 1.0, -1.0)


def kernel(problem: PatternProgram, count: int = 8, **more: float) -> tuple[Kernel, torch.Tensor]:
    directions = centres(problem.features, sample_patterns(problem.features, count, Streams(0)).directions)
    signs = torch.where(pattern_of(problem.features, directions), 1.0, -1.0).double()
    return Kernel(
        problem.features, signs, problem.targets.T.contiguous(), problem.loss, problem.weight, **more
    ), directions


def by_clarabel(problem: PatternProgram, signs: torch.Tensor) -> float:
    """The squared-loss program as a second-order cone program, written out densely."""
    X, y, E = problem.features.numpy(), problem.targets[:, 0].numpy(), signs.numpy()
    P, (n, d) = len(E), X.shape
    J = 2 * P
    D = (E + 1) / 2
    F = np.hstack([s * D[i][:, None] * X for s in (1.0, -1.0) for i in range(P)])
    quadratic = np.zeros((J * d + J, J * d + J))
    quadratic[: J * d, : J * d] = F.T @ F
    q = np.concatenate([-F.T @ y, np.full(J, problem.weight)])
    walls = np.zeros((J * n, J * d + J))
    balls = np.zeros((J * (d + 1), J * d + J))
    for j in range(J):
        walls[j * n : (j + 1) * n, j * d : (j + 1) * d] = -E[j % P][:, None] * X
        balls[j * (d + 1), J * d + j] = -1
        balls[j * (d + 1) + 1 : (j + 1) * (d + 1), j * d : (j + 1) * d] = -np.eye(d)
    A = np.vstack([walls, balls])
    cones = [("nonnegative", J * n), *[("second_order", d + 1)] * J]
    found = solve_conic(q, A, np.zeros(len(A)), cones, P=quadratic, tolerance=1e-9)
    assert found.solved
    return found.value + 0.5 * float(y @ y)


@pytest.mark.parametrize("solver", ["interior", "admm"])
def test_the_optimum_is_that_of_a_conic_solver(solver: str) -> None:
    problem = make_program(*table(), loss="squared", penalty=0.01)
    method = ConvexTraining(arrangements=8, solver=solver, tolerance=1e-6, iterations=6000)
    result = solve(problem, method)
    assert result.certificate is not None
    _, directions = kernel(problem)
    signs = torch.where(pattern_of(problem.features, directions), 1.0, -1.0).double()
    truth = by_clarabel(problem, signs)
    assert float(result.certificate.claim("network").bound) == pytest.approx(truth, rel=1e-5)


def test_operators_are_adjoint_and_the_linear_step_solves_its_system() -> None:
    problem = make_program(*table(), loss="squared", penalty=0.01)
    k, _ = kernel(problem, cone=0.3, fit=0.7)
    rng = np.random.default_rng(0)
    P, (n, d) = len(k.signs), problem.features.shape
    u, r = torch.from_numpy(rng.normal(size=(1, 2, P, d))), torch.from_numpy(rng.normal(size=(1, n)))
    spread = k.spread(r)
    assert float((k.predict(u) * r).sum()) == pytest.approx(
        float((u * torch.stack([spread, -spread], 1)).sum()), rel=1e-12
    )
    # dense (I + cone G'G + fit F'F) against the Woodbury step, from a state whose right side is known
    X, D, E = problem.features.numpy(), k.patterns.numpy(), k.signs.numpy()
    F = np.hstack([s * D[i][:, None] * X for s in (1, -1) for i in range(P)])
    G = np.zeros((2 * P * n, 2 * P * d))
    for j in range(2 * P):
        G[j * n : (j + 1) * n, j * d : (j + 1) * d] = E[j % P][:, None] * X
    at = k.start(1.0)
    at.v, at.pull, at.a = u, u.flip(2), torch.from_numpy(rng.normal(size=(1, 2, P, n)))
    at.t, at.kappa = r, 0.3 * r.flip(1)
    right = (
        (at.v - at.pull).flatten().numpy()
        + 0.3 * G.T @ at.a.abs().flatten().numpy()
        + 0.7 * F.T @ (at.t - at.kappa)[0].numpy()
    )
    dense = np.linalg.solve(np.eye(2 * P * d) + 0.3 * G.T @ G + 0.7 * F.T @ F, right)
    k.step(at)
    np.testing.assert_allclose(k.scores[0].numpy(), F @ dense, atol=1e-9)
    iterative = replace(k, dense=0)
    iterative.iteration = 10**6
    np.testing.assert_allclose(iterative.solve(r).numpy(), k.solve(r).numpy(), atol=1e-9)


def test_the_published_step_is_algorithm_3_1() -> None:
    """Ten iterations against the algorithm written out with dense matrices."""
    problem = make_program(*table(20, 2), loss="squared", penalty=0.01)
    rho = 0.1
    k, _ = kernel(problem, 5, fit=1 / rho, relaxation=1.0, published=True)
    X, y, D, E = problem.features.numpy(), problem.targets[:, 0].numpy(), k.patterns.numpy(), k.signs.numpy()
    P, (n, d) = len(E), X.shape
    F = np.hstack([s * D[i][:, None] * X for s in (1, -1) for i in range(P)])
    G = np.zeros((2 * P * n, 2 * P * d))
    for j in range(2 * P):
        G[j * n : (j + 1) * n, j * d : (j + 1) * d] = E[j % P][:, None] * X
    v = lam = np.zeros(2 * P * d)
    s = nu = np.zeros(2 * P * n)
    at = k.start(rho)
    for _ in range(10):
        k.step(at)
        u = np.linalg.solve(np.eye(2 * P * d) + F.T @ F / rho + G.T @ G, F.T @ y / rho + (v - lam) + G.T @ (s - nu))
        b = (u + lam).reshape(2 * P, d)
        v = (np.maximum(0, 1 - problem.weight / (rho * np.linalg.norm(b, axis=1)))[:, None] * b).ravel()
        s = np.maximum(0, G @ u + nu)
        lam, nu = lam + u - v, nu + G @ u - s
    np.testing.assert_allclose(at.v.flatten().numpy(), v, atol=1e-9)


def test_coordinate_descent_goes_to_the_same_optimum() -> None:
    problem = make_program(*table(16, 2), loss="squared", penalty=0.05)
    exact = solve(problem, ConvexTraining(arrangements=4, solver="interior"), certify=False)
    assert exact.status.good
    k, directions = kernel(problem, 4)
    descent = CoordinateKernel(problem.features, k.signs, k.targets, problem.loss, problem.weight, sweeps=10)
    at = descent.start(0.5)
    for count in range(600):
        descent.step(at, count, Streams(0))
    v = into_cones(problem.features, directions, at.v)
    truth = float(exact.history.columns()["upper"][-1])
    assert program_value(problem, directions, v) == pytest.approx(truth, rel=2e-3)


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "huber", "quantile"])
def test_every_loss_is_solved_and_verifies(loss: str) -> None:
    problem = make_program(*table(25, 2), loss=loss, penalty=0.02)
    result = solve(problem, ConvexTraining(arrangements=6, tolerance=1e-5, iterations=2500))
    assert result.certificate is not None
    gap = result.certificate.claim("program_gap")
    assert float(gap.value) <= 1e-5  # type: ignore[arg-type]
    assert {v.verdict for v in verify(result.certificate, CHECKS, problem, result.answer)} == {"confirmed"}


def test_the_sampled_program_is_a_network_and_nears_the_optimum_from_above() -> None:
    problem = make_program(*table(25, 2), loss="squared", penalty=0.02)
    exact = solve(problem, ConvexTraining(arrangements=20, pricing_rounds=12, tolerance=1e-6, global_tolerance=1e-5))
    assert exact.certificate is not None
    optimum = float(exact.certificate.claim("network").value)  # type: ignore[arg-type]
    values = []
    for neurons in (30, 300, 3000):
        found = train_sampled(problem, neurons, tolerance=1e-3)
        weights = torch.from_numpy(found.network.hidden), torch.from_numpy(found.network.output)
        assert network_value(problem, *weights) == pytest.approx(found.upper, rel=1e-10)
        assert found.lower <= found.upper <= found.lower * (1 + 1.1e-3)
        values.append(found.upper)
    assert optimum * (1 - 1e-5) <= values[2] <= values[1] * 1.001 <= values[0] * 1.002  # directions are nested
    assert values[2] <= optimum * 1.05
    with pytest.warns(ConvergenceWarning, match="gap is"):
        train_sampled(problem, 300, iterations=5)
    with pytest.raises(ValueError, match="smooth loss"):
        train_sampled(make_program(*table(25, 2), loss="hinge", penalty=0.02), 10)


@pytest.mark.parametrize("d", [2, 3])
def test_all_patterns_are_found_in_small_dimensions(d: int) -> None:
    X = torch.from_numpy(np.random.default_rng(d).normal(size=(9, d)))
    assert len(sample_patterns(X, 10_000, Streams(0))) == cell_count(9, d)
    few = sample_patterns(X, 5, Streams(0)).directions
    torch.testing.assert_close(sample_patterns(X, 9, Streams(0)).directions[:5], few)  # reproducible, nested


def test_with_all_patterns_no_local_search_goes_below() -> None:
    x = np.linspace(-1, 1, 12)
    problem = make_program(x[:, None], np.sin(3 * x), loss="squared", penalty=0.05 / 12, scale=False)
    result = solve(problem, ConvexTraining(arrangements=60, pricing_rounds=20, tolerance=1e-7, global_tolerance=1e-5))
    assert result.certificate is not None
    claim = result.certificate.claim("global_gap")
    assert (claim.kind, claim.outcome) == ("proved", "holds")
    optimum = float(result.certificate.claim("network").value)  # type: ignore[arg-type]
    everything = sample_patterns(problem.features, 1000, Streams(1))
    assert len(everything) == cell_count(12, 2) - 1  # the bias column makes one cell empty
    signs = torch.where(pattern_of(problem.features, everything.directions), 1.0, -1.0).double()
    assert optimum == pytest.approx(by_clarabel(problem, signs), rel=1e-5)
    for seed in range(6):
        start = random_start(problem, 30, np.random.default_rng(seed))
        assert train_locally(problem, *start, steps=400)[2] >= optimum - 1e-6


@pytest.mark.parametrize(("n", "d"), [(8, 1), (12, 2), (10, 3), (25, 3)])
def test_the_peak_over_all_arrangements(n: int, d: int) -> None:
    """Against a dense net of directions, and against the checker's own enumeration."""
    rng = np.random.default_rng(n)
    for kind in range(3):
        X = rng.normal(size=(n, d))
        if kind == 1:
            X = np.round(X)  # ties, parallel rows, zero rows
        if kind == 2:
            X[:, -1] = 1.0
        z = rng.normal(size=n) + 0.3
        found = peak(X, z)
        net = rng.normal(size=(20_000, d))
        net /= np.linalg.norm(net, axis=1, keepdims=True)
        seen = float((np.maximum(net @ X.T, 0) @ z).max())
        assert found.value >= seen - 1e-9
        assert float(np.maximum(X @ found.direction, 0) @ z) == pytest.approx(found.value, abs=1e-9)
        assert found.upper - found.value <= 1e-9 * (1 + abs(found.value))
        if found.value > 1e-6:
            assert above_limit(X, z, found.upper * (1 + 1e-7)) == ""
            assert "prices at" in above_limit(X, z, found.value * (1 - 1e-4))


def test_recovery_keeps_predictions_and_value() -> None:
    problem = make_program(*table(), loss="squared", penalty=0.01)
    k, directions = kernel(problem)
    rng = np.random.default_rng(1)
    v = torch.from_numpy(rng.normal(size=(1, 2, len(k.signs), 4)))
    v = into_cones(problem.features, directions, v)
    assert float(k.cone_values(v).min()) >= 0.0
    hidden, output = weights_of(v)
    scores = (problem.features @ hidden.T).clamp(min=0) @ output
    torch.testing.assert_close(scores.T, k.predict(v), rtol=0, atol=1e-10)
    assert network_value(problem, hidden, output) == pytest.approx(program_value(problem, directions, v), rel=1e-12)


def test_scaling_target_and_weight_scales_the_optimum() -> None:
    X, y = table(20, 2)
    method = ConvexTraining(arrangements=6, tolerance=1e-7)
    values = []
    for c in (1.0, 3.0):
        problem = make_program(X, c * y, loss="squared", penalty=c * 0.02)
        certificate = solve(problem, method).certificate
        assert certificate is not None
        values.append(float(certificate.claim("network").bound) / c**2)  # type: ignore[arg-type]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_beyond_the_largest_useful_weight_the_network_is_zero() -> None:
    X, y = table(20, 2)
    problem = make_program(X, y, loss="squared", penalty=1.0)
    design = problem.features.numpy()
    largest = max(peak(design, y).value, peak(design, -y).value)  # beta_max
    heavy = make_program(X, y, loss="squared", penalty=1.001 * largest / 20)
    result = solve(heavy, ConvexTraining(arrangements=20, tolerance=1e-7))
    assert float(np.abs(result.answer(X)).max()) < 1e-3
    light = make_program(X, y, loss="squared", penalty=0.9 * largest / 20)
    found = solve(light, ConvexTraining(arrangements=20, tolerance=1e-7))
    assert float(np.abs(found.answer(X)).max()) > 1e-2


def test_the_logistic_prox_is_stationary() -> None:
    rng = np.random.default_rng(0)
    v, y = torch.from_numpy(rng.normal(size=50) * 10), torch.from_numpy(np.sign(rng.normal(size=50)))
    for step in (1e-3, 1.0, 100.0):
        z = TwofoldLogistic().prox(v, y, step)
        torch.testing.assert_close(z + step * TwofoldLogistic().derivative(z, y), v, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"penalty": 0.0}, "penalty"), ({"loss": "cubic"}, "loss is 'cubic'"), ({"radius": -1.0}, "radius")],
)
def test_bad_arguments_are_named(change: dict, words: str) -> None:
    X, y = table(10, 2)
    with pytest.raises(ValueError, match=words):
        make_program(X, y, **{"loss": "squared", "penalty": 0.1, **change})


def test_bad_data_are_named() -> None:
    X, y = table(10, 2)
    spoiled = X.copy()
    spoiled[3, 1] = np.nan
    with pytest.raises(ValueError, match="column 'b' is NaN or infinite in row 4"):
        make_program(spoiled, y, loss="squared", penalty=0.1, names=("a", "b"))
    with pytest.raises(ValueError, match="expects -1 and \\+1"):
        make_program(X, y + 2, loss="logistic", penalty=0.1)
    with pytest.raises(ValueError, match=r"expected \(n, p\)"):
        make_program(X, y[:5], loss="squared", penalty=0.1)
    with pytest.raises(ValueError, match="zero rows only"):
        make_program(np.zeros((4, 2)), y[:4], loss="squared", penalty=0.1, bias=False)
    with pytest.raises(ValueError, match="arrangements is 0"):
        ConvexTraining(arrangements=0)
    problem = make_program(X, y, loss="hinge", penalty=0.1)
    robust = make_program(X, y, loss="hinge", penalty=0.1, radius=0.02)
    with pytest.raises(ValueError, match=r"robust training .* not by solver 'admm'"):
        solve(robust, ConvexTraining(arrangements=4, solver="admm"))
    far = make_program(X, y, loss="hinge", penalty=0.1, radius=50.0, bias=False)
    with pytest.raises(ValueError, match="lower the radius"):
        solve(far, ConvexTraining(arrangements=4))
    with pytest.raises(MemoryError, match="GiB allowed"):
        solve(problem, ConvexTraining(arrangements=4, memory=1000))


def test_patterns_are_told_apart() -> None:
    X = torch.from_numpy(table(10, 2)[0])
    found = PatternSet(X)
    direction = torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    assert found.add(direction) == 1
    assert found.add(3 * direction) == 0
    assert named_loss("huber", knee=2.0).value(torch.tensor(5.0), torch.tensor(0.0)) == 8.0


@pytest.mark.parametrize(("loss", "neurons"), [("squared", 12), ("squared", 80), ("logistic", 80), ("huber", 12)])
def test_the_lasso_has_one_optimum_by_newton_and_by_proximal_steps(loss: str, neurons: int) -> None:
    """Fewer neurons than rows and more: both forms of the Newton system, against the first-order method and weak duality."""
    problem = make_program(*table(40, 3), loss=loss, penalty=0.03)
    ends = []
    for solver in ("interior", "proximal"):
        method = SampledTraining(neurons=neurons, solver=solver, tolerance=1e-7)
        result = solve(problem, method)
        assert result.certificate is not None
        assert {v.verdict for v in verify(result.certificate, CHECKS, problem, result.answer)} == {"confirmed"}
        ends.append(float(result.certificate.claim("network").value))  # type: ignore[arg-type]
        if solver == "interior":
            assert result.steps < 40
    assert ends[0] == pytest.approx(ends[1], rel=1e-6)
