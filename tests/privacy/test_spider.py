"""Private SpiderBoost, tree, recursive regularisation, projection: what they are without noise, and what their noise is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from surefoot.core.solve import Budget as Steps
from surefoot.core.solve import solve
from surefoot.data.linear_model import LinearModel
from surefoot.numerics.losses import Huber, Logistic, Squared
from surefoot.privacy import accounting, mechanism
from surefoot.privacy.ledger import Budget, BudgetSpentError
from surefoot.privacy.private_spider import (
    PrivateSpiderBoost,
    descent_constant,
    expected_gradient,
    gradient_descent,
    longest_step,
    paper_schedule,
    radii,
)
from surefoot.privacy.projection import projected_dimension, projection_matrix, with_projection
from surefoot.privacy.records import LinearRecords, ModuleRecords
from surefoot.privacy.recursive_regularization import RecursiveRegularization
from surefoot.privacy.risk import Penalty, PrivateRisk, linear_risk
from surefoot.privacy.tree_spider import TreeSpider, population_radii, public_order, visits

LOOSE = Budget(8.0, 1e-4)


def logistic(n: int = 300, d: int = 4, seed: int = 0, **more: Any) -> PrivateRisk:
    rng = np.random.default_rng(seed)
    A = torch.from_numpy(rng.normal(size=(n, d)))
    y = torch.from_numpy(np.where(A.numpy() @ rng.normal(size=d) + 0.5 * rng.normal(size=n) > 0, 1.0, -1.0))
    return linear_risk(A, y, Logistic(), penalty=Penalty("bounded", 0.01), **more)


def gradient(problem: PrivateRisk, w: Tensor) -> Tensor:
    return problem.records.gradient_sum(w, problem.record_gradient) / problem.size + problem.penalty.gradient(w)


def silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanism, "system_normal", lambda count, draws=4: np.zeros(count))


# ---- without noise ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("phase", [1, 3, 50])
def test_without_noise_the_estimates_telescope(phase: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """V_t is the gradient to 1e-12 and the run is gradient descent, whatever the phase."""
    silenced(monkeypatch)
    problem = logistic()
    method = PrivateSpiderBoost(budget=LOOSE, iterations=20, phase=phase, query_share=0.0)
    states: list[Any] = []
    solve(problem, method, budget=Steps(steps=20), watch=[lambda m: states.append(m.state)], certify=False)
    state, w, eta = states[-1], problem.origin(), 1.0 / problem.smoothness
    for k in range(20):
        data = gradient(problem, w) - problem.penalty.gradient(w)
        assert torch.allclose(state.vectors[k], data, atol=1e-12, rtol=0)
        w = w - eta * gradient(problem, w)
    assert torch.allclose(state.w, w, atol=1e-11)


def test_a_linear_loss_has_silent_differences() -> None:
    """L1 = 0: differences have no noise, so V_t is constant within a phase."""

    class Linear:
        size, dim = 50, 2

        def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
            return torch.tensor([25.0, -5.0], dtype=torch.float64)

        def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
            return torch.zeros(2, dtype=torch.float64)

    problem = PrivateRisk(Linear(), 1.0, 0.0)
    method = PrivateSpiderBoost(budget=Budget(1.0, 1e-4), iterations=8, phase=4, step_size=0.1, query_share=0.0)
    kept: list[Any] = []
    solve(problem, method, watch=[lambda m: kept.append(m.state)], certify=False)
    V = kept[-1].vectors
    assert all(torch.equal(V[k], V[4 * (k // 4)]) for k in range(8))
    assert not torch.equal(V[0], V[4])


def test_mean_of_the_released_gradients_is_their_mean_and_spread_the_ledgers() -> None:
    problem = logistic(n=60)
    method = gradient_descent(budget=LOOSE, iterations=1, query_share=0.0)
    truth = gradient(problem, problem.origin())
    draws = torch.stack([_first_estimate(problem, method) for _ in range(3000)])
    std = method.multipliers(problem)[0] * problem.record_gradient / problem.size
    error = (draws.var(dim=0) / std**2 - 1.0).abs().max()
    assert float(error) < 5.0 * math.sqrt(2.0 / 3000)
    assert float((draws.mean(dim=0) - truth).abs().max()) < 5.0 * std / math.sqrt(3000)


def _first_estimate(problem: PrivateRisk, method: PrivateSpiderBoost) -> Tensor:
    from surefoot.core.random import Streams

    state = method.init(problem, None, Streams(None))
    state = method.step(problem, state)
    assert state.vectors is not None
    return state.vectors[0]


# ---- calibration --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("neighbours", ["replace", "add-remove"])
@pytest.mark.parametrize(("iterations", "phase"), [(40, 1), (40, 7), (3, 50)])
def test_every_schedule_spends_the_budget_exactly(neighbours: Any, iterations: int, phase: int) -> None:
    problem = logistic(n=200)
    budget = Budget(1.5, 1e-4, neighbours)
    method = PrivateSpiderBoost(budget=budget, iterations=iterations, phase=phase)
    result = solve(problem, method)
    assert result.certificate is not None
    assert result.certificate.claim("privacy").value == pytest.approx(1.5, rel=1e-9)
    assert result.counts["release"] == iterations + 1


def test_sampled_batches_meet_the_published_multiplier(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 2000, q 20, b1 2000, b2 500, n 100,000, delta 1e-6, epsilon 3, add-remove: 0.868438."""
    pytest.importorskip("dp_accounting", reason="needs dp-accounting (extra privacy)")
    monkeypatch.setattr(accounting, "INTERVAL", 2e-3)

    class Many:
        size, dim = 100_000, 2

        def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
            raise AssertionError

        difference_sum = gradient_sum  # type: ignore[assignment]

    problem = PrivateRisk(Many(), 1.0, 1.0)  # pyright: ignore[reportArgumentType]
    method = PrivateSpiderBoost(
        budget=Budget(3.0, 1e-6, "add-remove"), iterations=2000, phase=20, anchor_batch=2000, difference_batch=500, query_share=0.0
    )  # fmt: skip
    assert method.multipliers(problem) == pytest.approx((0.868438, 0.868438), rel=5e-3)


def test_noise_and_sensitivity_saturate_together() -> None:
    """The cap over the rate is 2 L0 / L1, and beyond it the difference's clip is 2 L0."""
    problem = logistic(n=100)
    turn = 2.0 * problem.record_gradient / problem.record_smoothness
    assert problem.reach(0.5 * turn) == pytest.approx(problem.record_gradient)
    assert problem.reach(3.0 * turn) == 2.0 * problem.record_gradient


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), distance=st.floats(1e-4, 100.0))
def test_differences_of_exact_models_are_never_clipped(seed: int, distance: float) -> None:
    problem = logistic(n=30, d=3, seed=seed % 1000)
    rng = np.random.default_rng(seed)
    w = torch.from_numpy(rng.normal(size=3))
    v = w + distance * torch.from_numpy(rng.normal(size=3))
    bound = problem.reach(float((w - v).norm()))
    free = problem.records.difference_sum(w, v, 1e9)
    assert torch.allclose(problem.records.difference_sum(w, v, bound), free, rtol=1e-7, atol=1e-9)


# ---- the printed settings -----------------------------------------------------------------------------------
def test_settings_of_the_theorem() -> None:
    problem = logistic(n=20_000)
    method = paper_schedule(problem, Budget(1.0, 1e-6))
    abar = math.sqrt(4 * math.log(1e6)) / 20_000
    gap, L1 = math.log(2.0), problem.record_smoothness
    assert method.iterations == int(max(((gap * L1) ** 0.25 / abar) ** (4 / 3), 1 / abar))
    assert method.phase == int(1.0 / (method.iterations * abar**2))
    assert method.step_length(problem) == pytest.approx(0.5 / problem.smoothness)


def test_equation_5_bounds_the_mean_square_and_needs_a_positive_constant() -> None:
    problem = logistic(n=400)
    method = PrivateSpiderBoost(
        budget=LOOSE, iterations=30, phase=5, step_size=0.5 / problem.smoothness, query_share=0.0, compat="paper"
    )
    bound = expected_gradient(method, problem)
    assert bound is not None
    squares = [float(gradient(problem, solve(problem, method, certify=False).answer).square().sum()) for _ in range(60)]
    assert np.mean(squares) + 3 * np.std(squares) / math.sqrt(60) <= bound**2
    with pytest.raises(ValueError, match="descent constant"):
        solve(problem, PrivateSpiderBoost(budget=LOOSE, step_size=3.0 / problem.smoothness, compat="paper"))
    far = PrivateSpiderBoost(budget=LOOSE, step_size=3.0 / problem.smoothness)
    assert descent_constant(far, problem) < 0
    assert expected_gradient(far, problem) is None


# ---- certificates -------------------------------------------------------------------------------------------
def _misses(runs: int, one: Any) -> None:
    """Not more misses at 5 % than a one-sided binomial test at 0.1 % allows."""
    from scipy.stats import binom

    misses = sum(one(i) for i in range(runs))
    assert binom.sf(misses - 1, runs, 0.05) > 1e-3, f"{misses} of {runs}"


def test_the_descent_constant_vanishes_at_the_longest_step() -> None:
    problem = logistic(n=60)
    shared: dict[str, Any] = {"budget": LOOSE, "iterations": 30, "phase": 5}
    limit = longest_step(PrivateSpiderBoost(**shared), problem)
    assert descent_constant(PrivateSpiderBoost(**shared, step_size=0.999 * limit), problem) > 0.0
    assert descent_constant(PrivateSpiderBoost(**shared, step_size=1.001 * limit), problem) < 0.0


def test_the_certified_norm_covers_the_true_one() -> None:
    """2,000 whole runs: search, choice between last point and mean by released vectors, query."""
    problem = logistic(n=60, d=3)
    method = PrivateSpiderBoost(budget=LOOSE, iterations=3, phase=2, block=3)

    def missed(_: int) -> bool:
        states: list[Any] = []
        result = solve(problem, method, certify=False, watch=[lambda m: states.append(m.state)])
        return float(gradient(problem, result.answer).norm()) > min(method.bounds(problem, states[-1]))

    _misses(2000, missed)


def test_the_query_is_spent_on_the_better_point() -> None:
    """Long steps under much noise: the second half's mean; a search that has hardly begun: the last point. Better on average over 20 runs."""
    problem = logistic(n=2000, d=4)
    for budget, step, mean_wins in ((Budget(0.5, 1e-5), None, True), (Budget(200.0, 1e-5), 0.02, False)):
        method = PrivateSpiderBoost(budget=budget, iterations=60, phase=5, step_size=step)
        taken = left = 0.0
        for _ in range(20):
            states: list[Any] = []
            solve(problem, method, certify=False, watch=[lambda m, kept=states: kept.append(m.state)])
            state = states[-1]
            (point,) = state.points
            mean = state.total / 30
            chosen, other = (mean, state.w) if mean_wins else (state.w, mean)
            assert torch.equal(point, chosen)
            taken, left = taken + float(gradient(problem, chosen).norm()), left + float(gradient(problem, other).norm())
        assert taken < left


def test_the_bound_along_the_path_holds_at_all_steps_at_once() -> None:
    """2,000 adaptive martingales: the scales follow the noisy path, as in a run."""
    rng, dim, phase, steps = np.random.default_rng(1), 20, 5, 20

    def missed(_: int) -> bool:
        stds, errors, error, size = np.zeros(steps), np.zeros(steps), np.zeros(dim), 1.0
        for k in range(steps):
            stds[k] = 1.0 if k % phase == 0 else min(0.2 * size, 1.0)
            error = (0.0 if k % phase == 0 else error) + stds[k] * rng.normal(size=dim)
            errors[k] = size = float(np.linalg.norm(error))
        return bool((errors > radii(stds, phase, dim, 1.0, 0.05)).any())

    _misses(2000, missed)


# ---- tree ---------------------------------------------------------------------------------------------------
def test_the_tree_is_visited_depth_first_and_uses_every_record_once() -> None:
    assert visits(2) == ["", "0", "00", "01", "1", "10", "11"]
    problem = logistic(n=32_560, d=123)
    layout = TreeSpider(budget=Budget(1.0, 1e-6)).layout(problem)
    assert (layout.root_batch, layout.depth, layout.rounds) == (1019, 6, 7)
    assert layout.rounds * layout.leaves == 448
    assert layout.rounds * layout.per_tree == 28_168  # b (1 + D/2) a tree, rounded down
    used = [layout.batches[layout.place(leaf)] for leaf in range(layout.leaves)]
    assert sum(used) == layout.per_tree
    assert layout.offset(layout.leaves - 1) + used[-1] == layout.per_tree
    assert [layout.right_turns(leaf) for leaf in (0, 1, 32, 63)] == [[], [6], [1], [1, 2, 3, 4, 5, 6]]
    assert np.array_equal(np.sort(public_order(100)), np.arange(100))


def test_the_trees_estimates_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """All records equal: every batch has the same mean, so each leaf's estimate is the gradient; steps have fixed length."""
    silenced(monkeypatch)
    one = torch.tensor([[0.6, -0.8]], dtype=torch.float64)
    problem = linear_risk(one.expand(400, 2).clone(), torch.ones(400), Logistic())
    states: list[Any] = []
    method = TreeSpider(budget=LOOSE, root_batch=32)
    solve(problem, method, watch=[lambda m: states.append(m.state)], certify=False)
    path, vectors = states[-1].path, states[-1].vectors
    for k in range(len(path)):
        assert torch.allclose(vectors[k], gradient(problem, path[k]), atol=1e-12)
    lengths = (path[1:] - path[:-1]).norm(dim=1)
    assert torch.allclose(lengths, torch.full_like(lengths, method.layout(problem).step_length), rtol=1e-9)


def test_the_printed_stop_fires_at_the_first_leaf() -> None:
    problem = logistic(n=400)
    states: list[Any] = []
    method = TreeSpider(budget=Budget(0.9, 1e-4), root_batch=32, compat="paper", query_share=0.0)
    result = solve(problem, method, watch=[lambda m: states.append(m.state)])
    assert states[-1].k == 1
    assert "printed stop" in result.reason
    assert method.multiplier() > 1.2 * TreeSpider(budget=Budget(0.9, 1e-4), query_share=0.0).multiplier()


def test_the_population_bound_covers() -> None:
    """Known population: features uniform on the circle, so the gradient is an integral; no miss in 300 trees of 16 leaves."""
    w = torch.tensor([0.7, -0.2], dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)[:-1]
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    truth = circle.T @ Logistic().derivative(circle @ w, torch.ones(len(angle))) / len(angle)
    layout = TreeSpider(budget=LOOSE, root_batch=32).layout(logistic(n=400, d=2))
    width, rng, misses = population_radii(layout, 0.5, 2, 0.05)[0], np.random.default_rng(3), 0
    for _ in range(2000):
        part = circle[rng.integers(0, len(circle), layout.root_batch)]
        mean = part.T @ Logistic().derivative(part @ w, torch.ones(len(part))) / len(part)
        noise = 0.5 / layout.root_batch * torch.from_numpy(rng.normal(size=2))
        misses += float((mean + noise - truth).norm()) > width
    assert misses <= 100


# ---- recursive regularisation -------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", ["noisy-gd", "phased-sgd"])
def test_recursive_regularisation_finds_the_minimiser_of_a_convex_problem(solver: Any) -> None:
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.normal(size=(4000, 3)))
    y = torch.from_numpy((A.numpy() / np.linalg.norm(A.numpy(), axis=1, keepdims=True)) @ np.array([1.0, -0.5, 0.3]))
    problem = linear_risk(A, y, Huber(1.0))
    method = RecursiveRegularization(budget=Budget(8.0, 1e-5), radius=1.5, stages=6, inner_steps=60, solver=solver)
    states: list[Any] = []
    result = solve(problem, method, watch=[lambda m: states.append(m.state)])
    start = float(gradient(problem, problem.origin()).norm())
    assert float(gradient(problem, result.answer).norm()) < (0.2 if solver == "noisy-gd" else 0.5) * start
    assert len(states[-1].centres) == 7
    for stage, centre in enumerate(states[-1].centres[1:]):
        assert float(centre.norm()) <= 2 ** ((stage + 1) / 2) * 1.5 + 1e-12
    assert result.certificate is not None
    assert result.certificate.claim("privacy").value == pytest.approx(8.0, rel=1e-9)


def test_one_pass_of_phased_sgd_moves_by_at_most_two_steps_of_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sensitivity of the released mean by exchanging a record."""
    silenced(monkeypatch)
    rng = np.random.default_rng(5)
    for trial in range(20):
        A, y = rng.normal(size=(80, 2)), rng.choice([-1.0, 1.0], 80)
        other, flipped = A.copy(), y.copy()
        place = int(rng.integers(80))
        other[place], flipped[place] = -3 * A[place], -y[place]
        method = RecursiveRegularization(budget=LOOSE, radius=3.0, stages=1, solver="phased-sgd", block=1)
        first = [_after_one(method, a, b) for a, b in ((A, y), (other, flipped))]
        share = method.upcoming(logistic(n=80, d=2), 0).record_bound
        assert float((first[0] - first[1]).norm()) <= 2 * share + 1e-15, trial


def _after_one(method: RecursiveRegularization, A: np.ndarray, y: np.ndarray) -> Tensor:
    from surefoot.core.random import Streams

    problem = linear_risk(torch.from_numpy(A), torch.from_numpy(y), Logistic())
    return method.step(problem, method.init(problem, None, Streams(None))).w


# ---- projection ---------------------------------------------------------------------------------------------
def test_an_orthogonal_projection_changes_nothing_but_the_coordinates() -> None:
    problem = logistic(n=50, d=3)
    Q = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    searched = with_projection(problem, Q).searched
    u = torch.tensor([0.3, -1.0, 0.2], dtype=torch.float64)
    assert torch.allclose(
        searched.records.gradient_sum(u, 9.0), Q @ problem.records.gradient_sum(Q.T @ u, 9.0), atol=1e-12
    )
    assert torch.allclose(searched.penalty.gradient(u), Q @ problem.penalty.gradient(Q.T @ u), atol=1e-15)


def test_projected_rows_are_bounded_whatever_phi() -> None:
    problem = logistic(n=50, d=30)
    wild = with_projection(problem, 10.0 * projection_matrix(4, 30)).searched
    assert isinstance(wild.records, LinearRecords)
    assert float(wild.records.model.features.norm(dim=1).max()) <= 2.0
    assert (wild.record_gradient, wild.record_smoothness) == (
        2 * problem.record_gradient,
        4 * problem.record_smoothness,
    )
    assert 1 <= projected_dimension(10_000, 30, LOOSE, rank=2) <= 30
    with pytest.raises(ValueError, match="linear models"):
        with_projection(
            PrivateRisk(ModuleRecords(nn.Linear(2, 1), lambda o: o[:, 0], [torch.ones(3, 2)]), 1.0, 1.0),
            torch.ones(1, 3),
        )


# ---- modules, bad input -------------------------------------------------------------------------------------
def test_a_module_is_trained_and_certified_about_the_clipped_objective() -> None:
    torch.manual_seed(0)
    X = torch.randn(400, 3)
    t = torch.sin(X[:, 0])
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    records = ModuleRecords(module, lambda out, target: (out[:, 0] - target).square(), [X], [t])
    problem = PrivateRisk(records, 2.0, 20.0, start=records.start())
    result = solve(problem, PrivateSpiderBoost(budget=Budget(20.0, 1e-5), iterations=60, phase=5, step_size=0.1))
    trained = records.load(result.answer, module)
    assert float((trained(X)[:, 0].detach() - t).square().mean()) < 0.5 * float(t.square().mean())
    assert result.certificate is not None
    assert "clipped" in result.certificate.claim("gradient_bound").statement
    assert "path_bound" not in {c.name for c in result.certificate.claims}


@pytest.mark.parametrize(("wrong", "match"), [
    (lambda: solve(logistic(), PrivateSpiderBoost(budget=Budget(1.0, 1 / 300))), "not below 1/n"),
    (lambda: solve(logistic(), PrivateSpiderBoost(budget=LOOSE, anchor_batch=301)), "anchor_batch is 301"),
    (lambda: PrivateSpiderBoost(budget=LOOSE, phase=-1), "phase -1"),
    (lambda: PrivateSpiderBoost(budget=LOOSE, step_size=-1.0), "step_size is -1"),
    (lambda: PrivateSpiderBoost(budget=LOOSE, anchor_share=1.0), "anchor_share"),
    (lambda: Budget(0.0, 1e-5), "epsilon is 0"),
    (lambda: linear_risk(torch.ones(3, 2), torch.ones(3), Squared()), "no Lipschitz constant"),
    (lambda: linear_risk(torch.ones(3, 2), torch.ones(3), Logistic(), bound=0.0), "bound of the features"),
    (lambda: PrivateRisk(LinearRecords(LinearModel(torch.ones(3, 2), torch.ones(3), Logistic())), 0.0, 1.0), "record_gradient is 0"),
    (lambda: solve(logistic(n=5), TreeSpider(budget=LOOSE)), "too few for one tree"),
    (lambda: solve(logistic(), RecursiveRegularization(budget=LOOSE, radius=1.0)), "convex"),
    (lambda: RecursiveRegularization(budget=LOOSE, radius=0.0), "radius"),
    (lambda: solve(logistic(), TreeSpider(budget=LOOSE, root_batch=32, compat="paper", start_gap=1.0)), "beyond"),
])  # fmt: skip
def test_bad_input_is_named(wrong: Any, match: str) -> None:
    with pytest.raises((ValueError, BudgetSpentError), match=match):
        wrong()


def test_clipping_below_the_loss_warns_with_what_will_happen(caplog: pytest.LogCaptureFixture) -> None:
    linear_risk(torch.ones(3, 2), torch.ones(3), Logistic(), record_gradient=0.1)
    assert "pulled towards the records with small gradients" in caplog.text
    caplog.clear()
    solve(logistic(n=50), PrivateSpiderBoost(budget=Budget(1.0, 0.005), iterations=2), certify=False)
    assert "above 1/(10 n)" in caplog.text


def test_the_phase_follows_from_the_batches_unless_it_is_given() -> None:
    assert PrivateSpiderBoost(budget=LOOSE).phase == 1
    assert PrivateSpiderBoost(budget=LOOSE, anchor_batch=20, difference_batch=5).phase == 10
    assert PrivateSpiderBoost(budget=LOOSE, phase=7).phase == 7
