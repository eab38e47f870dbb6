"""DIFF2's rounds: telescoping, special cases, sensitivity by enumeration, the published leak, local steps, stopping."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from federations import full_gradient, linear, rounds, silent, table
from surefoot.core.method import Status
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.privacy import accounting
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.diff2_noise import Schedule, exact, published
from surefoot.privacy.diff2_state import LocalSteps
from surefoot.privacy.federation import Federation, dealt, require_delta, typical_smoothness
from surefoot.privacy.ledger import Budget
from surefoot.privacy.records import LinearRecords

BUDGET = Budget(5.0, 1e-4)
PLAIN: dict[str, Any] = {"budget": BUDGET, "step_length": 0.5, "clip_gradient": 1.0, "clip_difference": 1.0}


@pytest.mark.parametrize("restart", [1, 4, 30])
@pytest.mark.parametrize("trust", ["central", "secagg", "local"])
def test_without_noise_the_estimate_is_the_gradient_for_any_restart(
    restart: int, trust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    A, y = table(90, 4)
    silent(monkeypatch)
    method = Diff2(**PLAIN, rounds=30, restart=restart, trust=trust, allow_large_delta=True)
    x = torch.zeros(4, dtype=torch.float64)

    def compare(state: Any) -> None:
        nonlocal x
        gradient = full_gradient(A, y, x)
        assert torch.allclose(state.estimate, gradient, rtol=0, atol=1e-10)
        x = x - 0.5 * gradient
        assert torch.allclose(state.x, x, rtol=0, atol=1e-10)

    rounds(linear(A, y, (1, 29, 60)), method, 30, watch=compare)


def test_restart_one_is_noisy_gradient_descent_bit_for_bit() -> None:
    A, y = table(50, 3)
    method, problem = Diff2(**PLAIN, rounds=12, query_share=0.0), linear(A, y, (50,))
    found = rounds(problem, method, 12, seed=3).x
    std = 2.0 / BUDGET.mu * math.sqrt(12) / 50
    records, x, streams = problem.clients[0], torch.zeros(3, dtype=torch.float64), Streams(3)
    for r in range(12):
        total = records.gradient_sum(x, 1.0 - problem.rounding) * (1 / 50)
        noise = torch.from_numpy(streams.numpy("noise/anchor", r).standard_normal(3))
        x = x - 0.5 * (total + (method.noise(problem).anchor * (1 / 50)) * noise)
    assert torch.equal(found, x)
    assert method.noise(problem).anchor / 50 == pytest.approx(std, rel=1e-12)


def test_one_client_is_full_batch_spider_boost() -> None:
    """Straight from the algorithm's lines, with the same noise addresses."""
    A, y = table(40, 3)
    method, problem = Diff2(**PLAIN, rounds=10, restart=4), linear(A, y, (40,))
    noise, streams = method.noise(problem), Streams(1)
    x = previous = v = torch.zeros(3, dtype=torch.float64)
    for r in range(10):
        name = "anchor" if r % 4 == 0 else "difference"
        draw = torch.from_numpy(streams.numpy(f"noise/{name}", r).standard_normal(3))
        if r % 4 == 0:
            v = full_gradient(A, y, x) + noise.anchor / 40 * draw
        else:
            change = full_gradient(A, y, x) - full_gradient(A, y, previous)
            v = v + change + noise.difference / 40 * float((x - previous).norm()) * draw
        previous, x = x, x - 0.5 * v
    assert torch.allclose(rounds(problem, method, 10, seed=1).x, x, rtol=1e-10, atol=1e-12)


# ---- sensitivity ---------------------------------------------------------------------------------------------
def swapped(A: Tensor, y: Tensor, row: int, direction: Tensor) -> tuple[Tensor, Tensor]:
    """A neighbouring table whose record `row` is an adversary's."""
    A, y = A.clone(), y.clone()
    A[row], y[row] = direction, -1e6 * torch.sign(direction.sum() + 0.5)
    return A, y


def server_sum(messages: dict[int, Tensor]) -> Tensor:
    return torch.stack([messages[p] for p in sorted(messages)]).sum(dim=0)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), weights=st.sampled_from(["records", "clients"]),
    bound=st.floats(1e-6, 10.0), scale=st.floats(1e-3, 1e6), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_no_swapped_record_moves_a_sum_beyond_the_ledgers_bound(
    sizes: list[int], weights: Any, bound: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    A, y = table(sum(sizes), 3, seed)
    x, previous = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(2))
    mine = linear(A, y, sizes, weights=weights)
    allowed = 2.0 * bound * float(mine.record_weights.max())
    for row in range(sum(sizes)):
        other = linear(
            *swapped(A, y, row, scale * torch.randn(3, generator=generator, dtype=torch.float64)),
            sizes,
            weights=weights,
        )
        for pair in (
            [server_sum(f.gradient_messages(x, bound)) for f in (mine, other)],
            [server_sum(f.difference_messages(x, previous, bound)) for f in (mine, other)],
        ):
            assert float((pair[0] - pair[1]).norm()) <= allowed


def test_the_bound_is_reached() -> None:
    """A record turned round in the least client: twice its share, and 1/(P n_min) where clients count the same."""
    A, y = torch.eye(3, dtype=torch.float64)[[0, 1, 2]], torch.tensor([-9.0, 0.0, 0.0]).double()
    other = torch.tensor([9.0, 0.0, 0.0]).double()
    x = torch.zeros(3, dtype=torch.float64)
    for weights, most in (("records", 1 / 3), ("clients", 1 / 2)):
        pair = [server_sum(linear(A, t, (1, 2), weights=weights).gradient_messages(x, 0.7)) for t in (y, other)]
        assert float((pair[0] - pair[1]).norm()) == pytest.approx(2 * 0.7 * most, rel=1e-9)
        assert float(linear(A, y, (1, 2), weights=weights).record_weights.max()) == most


def test_the_published_batch_means_leak_and_ours_do_not() -> None:
    """The official code averages clipped gradients per batch of 200, then the batch means: with 1,651 records a client, one of the
    last 51 weighs 1/(9 * 51) instead of 1/1651, so a claimed epsilon of 3 is 10.47 and of 5 is 18.8."""
    from surefoot.privacy.gaussian_dp import epsilon_of

    n, batch = 1651, 200
    last = n - batch * (n // batch)
    leak = (1 / (math.ceil(n / batch) * last)) * n
    assert leak == pytest.approx(3.597, abs=5e-4)
    A = torch.zeros(n, 1, dtype=torch.float64)
    A[-1] = 1.0
    moved = []
    for sign in (-1.0, 1.0):
        y = torch.full((n,), sign * 9.0, dtype=torch.float64)
        shares = A * (A @ torch.zeros(1, dtype=torch.float64) - y).clamp(-1, 1)[:, None]  # norm at most 1 already
        theirs = torch.stack([part.mean(dim=0) for part in torch.split(shares, batch)]).mean(dim=0)
        ours = linear(A, y, (n,)).gradient_messages(torch.zeros(1, dtype=torch.float64), 1.0)[0]
        moved.append((float(theirs), float(ours)))
    assert abs(moved[0][0] - moved[1][0]) == pytest.approx(leak * 2 / n, rel=1e-9)
    assert abs(moved[0][1] - moved[1][1]) == pytest.approx(2 / n, rel=1e-9)
    rounds_, records = 2000, 16510
    for claimed, real in ((3.0, 10.47), (5.0, 18.8)):
        mu = math.sqrt(rounds_) * 2.0 / published(claimed, 1e-5, rounds_, 1, 1.25).anchor
        assert epsilon_of(leak * mu, 1e-5) <= real * 1.01
    mu = math.sqrt(100) * 2 / published(3.0, 1e-5, rounds_, 20, 1.25).anchor
    mu = math.hypot(mu, math.sqrt(1900) * 2 / published(3.0, 1e-5, rounds_, 20, 1.25).difference)
    assert epsilon_of(leak * mu, 1e-5) == pytest.approx(10.4, abs=0.1)
    assert records // 10 == n


# ---- noise ---------------------------------------------------------------------------------------------------
def test_published_noise_and_how_much_less_is_needed() -> None:
    found = published(3.0, 1e-5, 2000, 20, 1.25)
    assert found.anchor / 16510 == pytest.approx(0.00234584, rel=2e-6)
    assert found.difference / 16510 == pytest.approx(0.0209818, rel=2e-6)
    assert published(3.0, 1e-5, 2000, 1, 1.25).anchor / 16510 == pytest.approx(0.00938336, rel=2e-6)
    for epsilon, ratio in ((3.0, 0.803), (1.0, 0.746)):
        for restart in (1, 20, 200):
            theirs = published(epsilon, 1e-5, 2000, restart, 1.25)
            ours = exact(Budget(epsilon, 1e-5), Schedule(2000, restart), 0.8 if restart > 1 else 1.0)
            assert ours.anchor / theirs.anchor <= ratio + 5e-4
            if restart > 1:
                assert ours.difference / theirs.difference <= ratio + 5e-4


@pytest.mark.parametrize("trust", ["central", "secagg", "local"])
def test_the_noise_of_the_sum_is_what_the_certificate_says(trust: Any) -> None:
    """2,000 draws of the first release: the standard deviation within 5 standard errors, by every way to trust."""
    A, y = table(30, 2)
    problem = linear(A, y, (5, 25))
    method = Diff2(**PLAIN, rounds=1, trust=trust, allow_large_delta=True)
    draws = torch.stack([rounds(problem, method, 1, seed=s).estimate for s in range(1000)])
    std = method.noise(problem).anchor * method.noise_unit(problem)
    assert float((draws - draws.mean(dim=0)).square().mean().sqrt()) == pytest.approx(
        std, rel=5 * (0.5 / 2000) ** 0.5 + 0.01
    )
    factor = {"central": 1 / 30, "secagg": 1 / 30, "local": math.sqrt(2) / 30}[trust]
    assert method.noise_unit(problem) == pytest.approx(factor)


def test_few_honest_clients_add_more_noise_each() -> None:
    A, y = table(30, 2)
    problem = linear(A, y, (5, 25))
    base, careful = (Diff2(**PLAIN, rounds=1, trust="secagg", honest=h) for h in (0, 1))
    assert careful.noise_unit(problem) == pytest.approx(math.sqrt(2) * base.noise_unit(problem))
    claims = {
        h: solve(problem, m, seed=0).certificate.claim("single_message").value for h, m in ((2, base), (1, careful))
    }  # type: ignore[union-attr]
    assert claims[2] == pytest.approx(BUDGET.mu * math.sqrt(2))
    assert claims[1] == pytest.approx(BUDGET.mu)
    with pytest.raises(ValueError, match="honest is 3"):
        solve(problem, Diff2(**PLAIN, rounds=1, trust="secagg", honest=3))


# ---- routines, outputs, stopping ------------------------------------------------------------------------------
def test_local_steps_without_noise_and_with_all_records_are_gradient_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dp_accounting", reason="needs dp-accounting (extra privacy)")
    A, y = table(20, 3)
    silent(monkeypatch)
    method = Diff2(**PLAIN, rounds=2, restart=2, local=LocalSteps(3, 20.0, 1.0))
    x = torch.zeros(3, dtype=torch.float64)
    for _ in range(6):
        x = x - 0.5 * full_gradient(A, y, x)
    found = rounds(linear(A, y, (20,)), method, 2)
    assert torch.allclose(found.x, x, rtol=0, atol=1e-10)
    assert {e.name: e.number for e in found.entries} == {"anchor": 1, "difference": 1, "local": 4, "final query": 1}


def test_clients_take_turns_and_only_their_records_pay_for_local_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dp_accounting", reason="needs dp-accounting (extra privacy)")
    monkeypatch.setattr(accounting, "INTERVAL", 1e-3)
    A, y = table(40, 2)
    method = Diff2(**PLAIN, rounds=3, restart=3, local=LocalSteps(2, 5.0, 1.0))
    state = rounds(linear(A, y, (20, 20)), method, 3)
    assert {(e.part, e.name): e.number for e in state.entries} == {
        (0, "anchor"): 1, (0, "difference"): 2, (0, "local"): 2, (0, "final query"): 1,
        (1, "anchor"): 1, (1, "difference"): 2, (1, "local"): 1, (1, "final query"): 1,
    }  # fmt: skip
    assert {e.sampling for e in state.entries if e.name == "local"} == {0.25}


def test_the_random_output_is_drawn_beforehand_and_uniform() -> None:
    A, y = table(20, 2)
    method, problem = Diff2(**PLAIN, rounds=4, output="random"), linear(A, y, (20,))
    chosen = [method.init(problem, None, Streams(s)).chosen for s in range(400)]
    counts = [chosen.count(j) for j in range(4)]
    assert sum((c - 100) ** 2 / 100 for c in counts) < 16.3  # chi-square with 3 degrees of freedom, 0.1 %
    state = rounds(problem, method, 4, seed=5)
    assert torch.equal(method.answer(problem, state), state.random.point)


def test_it_stops_early_on_released_vectors_and_the_rest_is_not_spent() -> None:
    A, y = table(4000, 3)
    method = Diff2(**{**PLAIN, "budget": Budget(20.0, 1e-5)}, rounds=100, restart=10, stop_below=0.1)
    result = solve(linear(A, y, (1000, 3000)), method)
    assert result.status is Status.CONVERGED
    assert result.steps < 100
    claim = result.certificate.claim("privacy")  # type: ignore[union-attr]
    assert claim.outcome == "holds"
    assert isinstance(claim.value, float)
    assert claim.value < 20.0
    assert result.certificate.claim("running_gradient").value <= 0.1  # type: ignore[union-attr, operator]


def test_a_step_of_no_length_releases_nothing_and_is_counted() -> None:
    A, y = table(20, 2)
    method, problem = Diff2(**PLAIN, rounds=4, restart=4, query_share=0.0), linear(A, y, (20,))
    state = rounds(problem, method, 1)
    state.previous, state.moved, before = state.x, 0.0, state.estimate
    state.limit = 2
    state = method.step(problem, state)
    assert torch.equal(state.estimate, before)
    assert {e.name: e.number for e in state.entries} == {"anchor": 1, "difference": 1}


# ---- the border ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("more", "said"), [
    ({"restart": 9, "rounds": 8}, "restart is 9"), ({"rounds": 0}, "rounds is 0"), ({"clip_gradient": 0.0}, "clip_gradient is 0"),
    ({"clip_difference": -1.0}, "clip_difference is -1"), ({"step_length": math.nan}, "step_length is nan"), ({"trust": "me"}, "trust is 'me'"),
    ({"output": "first"}, "output is 'first'"), ({"budget": Budget(1.0, 1e-5, "add-remove")}, "must be 'replace'"), ({"query_share": 1.0}, "query_share"),
    ({"local": LocalSteps(2, 5.0, 1.0), "trust": "secagg"}, "local steps"),
])  # fmt: skip
def test_wrong_methods_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Diff2(**{**PLAIN, "rounds": 8, **more})


def test_wrong_federations_are_refused() -> None:
    A, y = table(20, 2)
    good = linear(A, y, (5, 15))
    for more, said in (
        ({"sizes": ()}, "no clients"), ({"sizes": (5, 0)}, "client 1 has no records"), ({"sizes": (5, 14)}, "client 1 has 15 records, declared were 14"),
        ({"weights": "x"}, "weights is 'x'"), ({"ridge": -1.0}, "ridge is -1"), ({"start": torch.zeros(3)}, r"expected \(2,\)"),
        ({"clients": {0: good.clients[0]}}, r"clients \[1\] are not at hand"), ({"clients": {}}, "expected the same number"),
    ):  # fmt: skip
        fields = {"clients": good.clients, "sizes": good.sizes, **more}
        with pytest.raises(ValueError, match=said):
            Federation(**fields)
    with pytest.raises(ValueError, match="split u is 1"):
        published(1.0, 1e-5, 10, 2, 1.0)


class Shrinking:
    """Records of which one vanishes during the run."""

    def __init__(self, records: LinearRecords) -> None:
        self.records, self.size, self.dim = records, records.size, records.dim

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        self.size -= 1
        return self.records.gradient_sum(w, bound, rows)

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        return self.records.difference_sum(w, previous, bound, rows)


def test_sizes_that_change_and_gradients_that_are_not_finite_stop_the_run() -> None:
    A, y = table(20, 2)
    records = linear(A, y, (20,)).clients[0]
    assert isinstance(records, LinearRecords)
    problem = Federation(clients={0: Shrinking(records)}, sizes=(20,))
    with pytest.raises(ValueError, match="client 0 has 19 records, declared were 20"):
        rounds(problem, Diff2(**PLAIN, rounds=3), 3)
    far = linear(A, y, (20,), start=torch.full((2,), math.nan, dtype=torch.float64))
    with pytest.raises(ValueError, match="not finite"):
        rounds(far, Diff2(**PLAIN, rounds=3), 3)


def test_a_large_delta_is_refused_or_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match="--allow-large-delta"):
        require_delta(1e-2, 100)
    require_delta(1e-2, 100, allow_large=True)
    assert "tenth of one over" in caplog.text
    caplog.clear()
    require_delta(2e-3, 100)
    assert "tenth of one over" in caplog.text
    caplog.clear()
    require_delta(1e-3, 100)
    assert not caplog.text
    A, y = table(20, 2)
    with pytest.raises(ValueError, match=r"delta is 0\.06"):  # clients that count the same: N = 2 * 5
        rounds(linear(A, y, (5, 15)), Diff2(**{**PLAIN, "budget": Budget(1.0, 0.06)}, rounds=2), 1)


def test_clipping_below_the_smoothness_says_what_will_happen(caplog: pytest.LogCaptureFixture) -> None:
    A, y = table(20, 2)
    rounds(linear(A, y, (20,)), Diff2(**{**PLAIN, "clip_difference": 0.1}, rounds=6, restart=3), 1)
    assert "clip_difference is 0.1, below the smoothness 1" in caplog.text
    assert "drifts until the next anchor" in caplog.text
    caplog.clear()
    rounds(linear(A, y, (20,)), Diff2(**{**PLAIN, "clip_gradient": 0.1}, rounds=6, restart=3), 1)
    assert "stationary point of the clipped objective" in caplog.text
    caplog.clear()
    rounds(linear(A, y, (20,)), Diff2(**{**PLAIN, "step_length": 50.0}, rounds=6, restart=3), 1)
    assert "feed itself" in caplog.text


def test_typical_smoothness_of_public_records() -> None:
    """Rows e_1, quadratic loss near 0: |e_1 e_1' u| / |u| is |cos|; its median in two dimensions is cos(pi/4)."""
    from surefoot.data.linear_model import LinearModel
    from surefoot.numerics.losses import Squared

    A = torch.zeros(400, 2, dtype=torch.float64)
    A[:, 0] = 1.0
    public = LinearRecords(LinearModel(A, torch.zeros(400, dtype=torch.float64), Squared()))
    found = typical_smoothness(public, torch.zeros(2, dtype=torch.float64), 0.1, rows=400)
    assert found == pytest.approx(math.cos(math.pi / 4), abs=0.1)
    assert [len(rows) for rows in dealt(10, 4)] == [3, 3, 2, 2]
