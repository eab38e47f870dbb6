"""Training against perturbed inputs: the robust program against a conic solver, and its bound against every attack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

from surefoot.convex_networks.interior import Interior
from surefoot.convex_networks.patterns import pattern_of, robust_margins, sample_robust_patterns
from surefoot.convex_networks.problem import Network, PatternProgram, covered_columns, make_program, ordered
from surefoot.convex_networks.recovery import network_value
from surefoot.convex_networks.robust import attack, score_ranges, worst_loss
from surefoot.convex_networks.training import ConvexTraining
from surefoot.convex_networks.verify import CHECKS
from surefoot.convex_networks.verify_losses import row_range
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.numerics.conic import solve_conic

LOSSES = ("squared", "logistic", "hinge", "huber", "quantile")


def xor(n: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(seed).uniform(-1, 1, (n, 2))
    return X, np.where(X[:, 0] * X[:, 1] > 0, 1.0, -1.0)


def robust(loss: str, radius: float = 0.05, penalty: float = 3e-3, **more: float) -> PatternProgram:
    return make_program(*xor(), loss=loss, penalty=penalty, radius=radius, scale=False, **more)


def directions_of(problem: PatternProgram, count: int) -> torch.Tensor:
    assert problem.radii is not None
    return sample_robust_patterns(problem.features, problem.radii, count, Streams(0))[0].directions


def by_clarabel(problem: PatternProgram, directions: torch.Tensor) -> float:
    """The robust program written out: u, tau, r of every block, rho and t of every row."""
    X, y = problem.features.numpy(), problem.targets[:, 0].numpy()
    e = np.zeros(X.shape[1]) if problem.radii is None else problem.radii.numpy()
    E = np.where(pattern_of(problem.features, directions).numpy(), 1.0, -1.0)
    P, (n, d) = len(E), X.shape
    J = 2 * P
    total = J * d + J + J * d + n * d + n
    at = {"u": 0, "tau": J * d, "r": J * d + J, "rho": 2 * J * d + J, "t": total - n}
    F = np.hstack([s * ((E[i] + 1) / 2)[:, None] * X for s in (1.0, -1.0) for i in range(P)])

    def rows(count: int) -> np.ndarray:
        return np.zeros((count, total))

    upper: list[tuple[np.ndarray, np.ndarray]] = []  # A x <= b
    walls = rows(J * n)
    for j in range(J):
        block = slice(j * n, (j + 1) * n)
        walls[block, j * d : (j + 1) * d] = -E[j % P][:, None] * X
        walls[block, at["r"] + j * d : at["r"] + (j + 1) * d] = 1.0
    upper.append((walls, np.zeros(J * n)))
    for sign in (1.0, -1.0):
        block = rows(J * d)
        block[:, : J * d], block[:, at["r"] : at["r"] + J * d] = sign * np.diag(np.tile(e, J)), -np.eye(J * d)
        upper.append((block, np.zeros(J * d)))
        block = rows(n * d)
        for k in range(n):
            for c in range(d):
                for j in range(J):
                    side = 1.0 if j < P else -1.0
                    block[k * d + c, j * d + c] = sign * e[c] * side * (E[j % P, k] + 1) / 2
                block[k * d + c, at["rho"] + k * d + c] = -1.0
        upper.append((block, np.zeros(n * d)))

    def piece(slope: np.ndarray, tail: np.ndarray, weight: float) -> None:
        """slope f + tail + weight sum(rho) <= t."""
        block = rows(n)
        block[:, : J * d] = slope[:, None] * F
        for k in range(n):
            block[k, at["rho"] + k * d : at["rho"] + (k + 1) * d] = weight
        block[:, at["t"] :] = -np.eye(n)
        upper.append((block, -tail))

    cost, quadratic = np.zeros(total), np.zeros(total)
    cost[at["tau"] : at["tau"] + J] = problem.weight
    one = np.ones(n)
    if problem.loss_name == "hinge":
        piece(-y, one, 1.0)
        piece(0 * one, 0 * one, 0.0)
        cost[at["t"] :] = 1.0
    elif problem.loss_name == "squared":
        piece(one, -y, 1.0)
        piece(-one, y, 1.0)
        quadratic[at["t"] :] = 1.0
    else:
        level = problem.loss_options["quantile"]
        piece((1 - level) * one, -(1 - level) * y, 1 - level)
        piece(-level * one, level * y, level)
        cost[at["t"] :] = 1.0
    balls = rows(J * (d + 1))
    for j in range(J):
        balls[j * (d + 1), at["tau"] + j] = -1.0
        balls[j * (d + 1) + 1 : (j + 1) * (d + 1), j * d : (j + 1) * d] = -np.eye(d)
    A = np.vstack([block for block, _ in upper] + [balls])
    b = np.concatenate([right for _, right in upper] + [np.zeros(len(balls))])
    cones = [("nonnegative", len(A) - len(balls)), *[("second_order", d + 1)] * J]
    found = solve_conic(cost, sparse.csc_matrix(A), b, cones, P=sparse.diags(quadratic), tolerance=1e-9)
    assert found.solved
    return found.value


@pytest.mark.parametrize("radius", [0.0, 0.05])
@pytest.mark.parametrize("loss", ["squared", "hinge", "quantile"])
def test_the_optimum_is_that_of_a_conic_solver(loss: str, radius: float) -> None:
    more = {"quantile": 0.3} if loss == "quantile" else {}
    directions = directions_of(robust(loss, **more), 10)
    problem = robust(loss, radius, **more)
    solver = Interior(problem, 0, directions)
    at = solver.start()
    bounds = (np.inf, -np.inf)
    for _ in range(80):
        bounds = solver.step(at, 1e-7)
        if at.done:
            break
    truth = by_clarabel(problem, directions)
    assert bounds[0] == pytest.approx(truth, rel=2e-5)
    assert bounds[1] == pytest.approx(truth, rel=2e-5)
    assert bounds[1] <= truth * (1 + 1e-7)


@pytest.mark.parametrize("loss", LOSSES)
def test_no_perturbation_exceeds_the_bound_and_an_attack_reaches_it(loss: str) -> None:
    problem = robust(loss)
    result = solve(problem, ConvexTraining(arrangements=30, tolerance=2e-5))
    assert result.certificate is not None
    assert result.certificate.claim("program_gap").outcome == "holds"
    assert {v.verdict for v in verify(result.certificate, CHECKS, problem, result.answer)} == {"confirmed"}
    bound = float(result.certificate.claim("network").value)  # type: ignore[arg-type]
    hidden, output = torch.from_numpy(result.answer.hidden), torch.from_numpy(result.answer.output)
    decay = 0.5 * problem.weight * float(hidden.square().sum() + output.square().sum())
    assert problem.radii is not None
    rng = np.random.default_rng(0)
    worst = torch.zeros_like(problem.targets)
    corners = [problem.radii * torch.tensor([a, b, 0.0]) for a in (-1, 1) for b in (-1, 1)]
    drawn = [problem.radii * torch.from_numpy(rng.uniform(-1, 1, (24, 3))) for _ in range(200)]
    for moved in [*corners, *drawn]:
        scores = ((problem.features + moved) @ hidden.T).clamp(min=0) @ output
        worst = torch.maximum(worst, problem.loss.value(scores, problem.targets))
    assert float(worst.sum()) + decay <= bound * (1 + 1e-9)
    assert float(worst.sum()) + decay >= bound * (1 - 1e-9)  # patterns keep, so that a corner is the worst case
    assert float(result.certificate.claim("attack").value) == pytest.approx(bound, rel=1e-3)  # type: ignore[arg-type]


def test_larger_radii_cost_more_and_none_is_the_plain_program() -> None:
    directions = directions_of(robust("logistic", 0.06), 12)
    values = []
    for radius in (0.0, 0.02, 0.06):
        problem = robust("logistic", radius)
        solver = Interior(problem, 0, directions)
        at = solver.start()
        while not at.done:
            bounds = solver.step(at, 1e-6)
        values.append(bounds[0])
    assert values[0] < values[1] < values[2]
    plain = make_program(*xor(), loss="logistic", penalty=3e-3, scale=False)
    solver = Interior(plain, 0, directions)
    at = solver.start()
    while not at.done:
        bounds = solver.step(at, 1e-6)
    assert values[0] == pytest.approx(bounds[0], rel=1e-6)


def test_the_same_answer_by_rows_and_by_weights_in_one_lot_and_in_many(tmp_path) -> None:
    """Both forms of the coupled system, lots of two patterns, and multipliers in a mapped file."""
    problem = make_program(*xor(30, 1), loss="hinge", penalty=1e-2)
    directions = directions_of(make_program(*xor(30, 1), loss="hinge", penalty=1e-2, radius=1e-9), 24)
    found = []
    for by_rows, scratch, in_memory in (
        (True, 256 << 20, 1 << 62),
        (False, 256 << 20, 1 << 62),
        (True, 2 * 8 * 12 * 30, 100),
    ):
        solver = Interior(problem, 0, directions, scratch, in_memory)
        solver.by_rows = by_rows
        at = solver.start()
        for _ in range(60):
            bounds = solver.step(at, 1e-7)
            if at.done:
                break
        found.append(bounds[0])
    assert len(list(solver.lots())) == 12
    assert found == pytest.approx([found[0]] * 3, rel=1e-6)


def test_memory_below_the_arrays_gives_the_same_network_in_batches() -> None:
    X = np.random.default_rng(0).normal(size=(300, 3))
    problem = make_program(X, np.sign(X[:, 0] * X[:, 1]), loss="squared", penalty=1e-2)
    whole = solve(problem, ConvexTraining(arrangements=200, tolerance=1e-5))
    limit = 4 << 20
    method = ConvexTraining(arrangements=200, tolerance=1e-5, memory=limit)
    parts = solve(problem, method)
    assert whole.counts["mapped_bytes"] == 0
    assert parts.counts["mapped_bytes"] > 0
    assert parts.counts["pattern_lots"] > whole.counts["pattern_lots"]
    assert parts.counts["memory_bytes"] <= limit
    assert whole.certificate is not None
    assert parts.certificate is not None
    first, second = (float(r.certificate.claim("network").value) for r in (whole, parts))  # type: ignore[union-attr,arg-type]
    assert first == pytest.approx(second, rel=1e-8)


def test_patterns_that_keep_off_the_perturbations() -> None:
    problem = robust("hinge", 0.1)
    assert problem.radii is not None
    directions = directions_of(problem, 50)
    assert 2 < len(directions) <= 50
    assert float(robust_margins(problem.features, problem.radii, directions).min()) > 0
    few = directions_of(problem, 5)
    torch.testing.assert_close(directions[:5], few)


def test_score_ranges_hold_and_are_exact_where_neurons_keep_their_sign() -> None:
    rng = np.random.default_rng(0)
    X, u, a = rng.normal(size=(6, 3)), rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    tensors = [torch.from_numpy(v) for v in (X, u, a)]
    for size in (1e-3, 0.3):
        radii = torch.tensor([size, 0.0, size], dtype=torch.float64)
        low, high = score_ranges(tensors[0], radii, tensors[1], tensors[2])
        moved = X[None] + rng.choice([-1.0, 1.0, 0.3], size=(2000, 6, 3)) * radii.numpy()
        scores = np.maximum(moved @ u.T, 0) @ a
        assert (scores <= high.numpy() + 1e-12).all()
        assert (scores >= low.numpy() - 1e-12).all()
        if size == 1e-3:
            np.testing.assert_allclose(scores.max(axis=0), high.numpy(), atol=1e-9)
        mine = [row_range(x, radii.numpy(), u, a[:, 1]) for x in X]
        np.testing.assert_allclose(mine, torch.stack([low[:, 1], high[:, 1]], dim=1).numpy(), atol=1e-12)


def test_the_attack_stays_in_the_box_and_beats_one_step() -> None:
    problem = robust("logistic", 0.2)
    assert problem.radii is not None
    rng = np.random.default_rng(1)
    hidden, output = torch.from_numpy(rng.normal(size=(20, 3))), torch.from_numpy(rng.normal(size=(20, 1)))
    moved = attack(problem, problem.features, problem.targets, hidden, output, rng)
    assert bool((moved.abs() <= problem.radii).all())

    def loss(delta: torch.Tensor) -> torch.Tensor:
        scores = ((problem.features + delta) @ hidden.T).clamp(min=0) @ output
        return problem.loss.value(scores, problem.targets).sum(dim=1)

    drawn = torch.from_numpy(rng.uniform(-1, 1, (24, 3)))
    assert bool((loss(moved) >= loss(torch.zeros_like(moved)) - 1e-12).all())
    assert float(loss(moved).sum()) > float(loss(problem.radii * drawn.sign()).sum())
    assert float(loss(moved).sum()) + 0.5 * problem.weight * float(
        hidden.square().sum() + output.square().sum()
    ) <= network_value(problem, hidden, output)


def test_the_worst_loss_is_at_an_end() -> None:
    scores = torch.linspace(-3, 3, 41, dtype=torch.float64)
    reach = torch.full_like(scores, 0.7)
    for name in LOSSES:
        problem = robust(name)
        y = torch.ones_like(scores)
        net = torch.stack([problem.loss.value(scores + shift, y) for shift in np.linspace(-0.7, 0.7, 15)])
        torch.testing.assert_close(worst_loss(problem, scores, reach, y), net.amax(dim=0))


def test_an_answer_that_is_the_local_rival_says_so(tmp_path) -> None:
    """One pattern for a table that needs more: the network trained beside it wins, and claim, headline and checker tell."""
    problem = robust("hinge", 0.12)
    result = solve(problem, ConvexTraining(arrangements=1, local_runs=1, local_width=20, local_steps=300, polish=False))
    assert result.certificate is not None
    claim = result.certificate.claim("rival")
    network = float(result.certificate.claim("network").value)  # type: ignore[arg-type]
    assert float(claim.value) > network * 1.01  # type: ignore[arg-type]
    assert float(claim.bound) == network  # type: ignore[arg-type]
    verdicts = {v.claim: v.verdict for v in verify(result.certificate, CHECKS, problem, result.answer)}
    assert set(verdicts.values()) == {"confirmed"}
    other = Network(*ordered(1.001 * result.answer.hidden, result.answer.output), problem.scaling, problem.classes)
    spoiled = {v.claim: v.verdict for v in verify(result.certificate, CHECKS, problem, other)}
    assert spoiled["rival"] == "refuted"


def test_a_radius_that_leaves_nothing_to_learn_is_named(caplog: pytest.LogCaptureFixture) -> None:
    X, y = xor()
    problem = make_program(X, y, loss="hinge", penalty=3e-3, scale=False, radius=30.0, names=("width", "height"))
    assert covered_columns(problem) == ["width", "height"]
    assert covered_columns(robust("hinge", 0.05)) == []
    solve(problem, ConvexTraining(arrangements=4), certify=False)
    assert "half the range of columns 'width', 'height'" in caplog.text
    assert "almost constant" in caplog.text
