"""The random-matrix laws against random matrices, limits and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surefoot.training import spectral_law as law


@pytest.mark.parametrize("strength", [0.5, 1.5, 3.0, 5.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_spiked_wigner_matrices_follow_the_theorem(strength: float, sign: int) -> None:
    """A spike of a 1,000-row matrix with noise of variance sigma^2 / b: within 3 %."""
    rng = np.random.default_rng(0)
    P, b = 1000, 50
    spike = sign * strength * math.sqrt(P / b)
    noise = rng.standard_normal((P, P)) / math.sqrt(2)
    matrix = (noise + noise.T) / math.sqrt(b)
    matrix[0, 0] += spike
    values, vectors = np.linalg.eigh(matrix)
    found = values[-1] if sign > 0 else values[0]
    assert found == pytest.approx(law.moved_eigenvalue(spike, P, b), rel=0.03)
    overlap = vectors[0, -1 if sign > 0 else 0] ** 2
    assert overlap == pytest.approx(law.spike_overlap(spike, P, b), abs=0.08)


@pytest.mark.parametrize(("spike", "batch"), [(1.0, 200), (8.0, 200), (8.0, 1000)])
def test_covariances_follow_their_own_law_and_not_the_theorem(spike: float, batch: int) -> None:
    """Least squares on Gaussian features: the bulk is at 1, where the Wigner form is wrong."""
    rng = np.random.default_rng(1)
    P = 400
    scale = np.ones(P)
    scale[0] = math.sqrt(spike)
    found = np.mean([np.linalg.norm(rng.standard_normal((batch, P)) * scale, 2) ** 2 / batch for _ in range(6)])
    expected = law.covariance_eigenvalue(spike, 1.0, P / batch)
    assert found == pytest.approx(expected, rel=0.08)
    if spike == 1.0:
        assert abs(law.moved_eigenvalue(1.0, P, batch) / found - 1) > 0.3


def test_the_arrow_law_is_exact_for_rows_that_share_one_direction_only() -> None:
    """Rows u_i u_i' with u_i = (x_i, y_i e_i): the batch's matrix is B + 1 wide and its top eigenvalue known."""
    rng = np.random.default_rng(2)
    B = 30
    shared, own = rng.standard_normal(B), rng.exponential(4, B)
    U = np.zeros((B, B + 1))
    U[:, 0] = shared
    U[np.arange(B), np.arange(1, B + 1)] = own
    exact = np.linalg.eigvalsh(U.T @ U / B)[-1]
    found = law.compressed((shared**2)[:, None, None], (shared**2 * own**2)[:, None, None], own**2, B)
    assert found == pytest.approx(exact, rel=1e-9)


def test_many_batches_at_once_are_each_the_top_eigenvalue_of_an_arrow_matrix() -> None:
    """Of [[mean A, R_i'/B], [R_i/B, c_i/B]] formed whole, with several leading directions, heavy rows and a batch without any spread."""
    rng = np.random.default_rng(3)
    D, B, k = 5, 7, 3
    half = rng.standard_normal((D, B, k, k))
    center, beyond = half @ half.mT, rng.standard_normal((D, B, 1, k)) * rng.exponential(3, (D, B, 1, 1))
    own = rng.exponential(2, (D, B))
    beyond[0] = 0.0
    found = law.compressed(center, beyond.mT @ beyond, own, B)
    assert found.shape == (D,)
    for d in range(D):
        arrow = np.zeros((k + B, k + B))
        arrow[:k, :k] = center[d].mean(axis=0)
        arrow[k:, :k] = beyond[d, :, 0] / B
        arrow[:k, k:] = arrow[k:, :k].T
        arrow[range(k, k + B), range(k, k + B)] = own[d] / B
        assert found[d] == pytest.approx(np.linalg.eigvalsh(arrow)[-1], rel=1e-9)


def test_the_arrow_law_reaches_the_theorem_for_weak_noise() -> None:
    n = 2000
    spread = np.full((n, 1, 1), 40.0)
    moved = law.compressed(np.full((n, 1, 1), 2.0), spread, np.zeros(n), n)
    assert moved - 2 == pytest.approx(law.moved_eigenvalue(2.0, 40.0, n) - 2, rel=0.02)


def test_the_noise_carries_what_it_moves_the_outlier_by_or_its_own_edge() -> None:
    assert law.noise_curvature(3.0, 10.0, 50) == pytest.approx(law.moved_eigenvalue(3.0, 10.0, 50) - 3.0)
    assert law.noise_curvature(0.1, 10.0, 50) == law.moved_eigenvalue(0.1, 10.0, 50)
    assert law.noise_curvature(3.0, 10.0, math.inf) == 0.0


def test_effective_batches() -> None:
    assert law.effective_batch(50, 100) == 100
    assert law.effective_batch(100, 100) == math.inf
    assert law.effective_batch(50, 100, replacement=True) == 50
    assert law.moved_eigenvalue(3.0, 10.0, law.effective_batch(100, 100)) == 3.0
    for batch, population, word in ((0, 10, "at least 1"), (11, 10, "larger than the data")):
        with pytest.raises(ValueError, match=word):
            law.effective_batch(batch, population)


def test_predictions_fall_with_the_batch_and_the_debiased_value_is_their_inverse() -> None:
    moved = [law.moved_eigenvalue(3.0, 500.0, law.effective_batch(b, 1000)) for b in (1, 4, 16, 64, 256, 1000)]
    assert all(math.isfinite(m) for m in moved)
    assert moved == sorted(moved, reverse=True)
    assert law.debiased(law.moved_eigenvalue(3.0, 500.0, 256), 500.0, 256) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="inside its sampling noise"):
        law.debiased(1.0, 500.0, 16)


def test_scaled_rates_are_linear_in_noise_and_constant_without() -> None:
    swallowed = law.scaled_rate(0.1, 2, 4, eigenvalue=0.01, variance=50.0)[0]
    assert swallowed == pytest.approx(0.1 * math.sqrt(2))  # inside the noise the edge 2 sqrt(V / b) counts
    exact = law.scaled_rate(0.1, 8, 16, eigenvalue=1.0, variance=7.99)  # lam + V/(b lam) = 2.0, 1.5
    assert exact[0] == pytest.approx(0.1 * (1 + 7.99 / 8) / (1 + 7.99 / 16))
    assert law.scaled_rate(0.1, 8, 16, eigenvalue=1.0, variance=1e-9)[0] == pytest.approx(0.1)
    assert exact[1] == 0.2
    assert law.scaled_rate(0.1, 8, 32, eigenvalue=1.0, variance=1.0, optimizer="adam")[1] == pytest.approx(0.2)


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("nesterov", 0.9)])
def test_a_quadratic_converges_just_below_the_largest_rate_and_diverges_just_above(
    optimizer: str, momentum: float
) -> None:
    """torch's own SGD on lam x^2 / 2."""
    import torch

    lam = 3.0
    for factor, grows in ((0.98, False), (1.02, True)):
        x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        rate = factor * law.largest_rate(lam, optimizer, momentum)  # type: ignore[arg-type]
        descent = torch.optim.SGD([x], lr=rate, momentum=momentum, nesterov=optimizer == "nesterov")
        for _ in range(1500):
            x.grad = lam * x.detach()
            descent.step()
        assert (abs(float(x.detach())) > 1) is grows


@pytest.mark.parametrize("beta1", [0.5, 0.9])
def test_adam_is_stable_to_its_bound_on_the_preconditioned_curvature(beta1: float) -> None:
    """torch's own Adam on 3 x^2 / 2 with a second moment that stands still, so that D is known: 38 / lam at beta1 = 0.9."""
    import torch

    lam, second = 3.0, 4.0
    preconditioned = lam / math.sqrt(second)
    assert law.adam_rate(2.0) == pytest.approx(19.0)
    for factor, grows in ((0.98, False), (1.02, True)):
        x = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
        adam = torch.optim.Adam(
            [x], lr=factor * law.adam_rate(preconditioned, beta1), betas=(beta1, 1 - 1e-15), eps=0.0
        )
        adam.state[x] = {  # after very many steps, so that no bias is corrected
            "step": torch.tensor(1e18), "exp_avg": torch.zeros_like(x.data), "exp_avg_sq": torch.full_like(x.data, second),
        }  # fmt: skip
        for _ in range(1500):
            x.grad = lam * x.detach()
            adam.step()
            adam.state[x]["exp_avg_sq"].fill_(second)
        assert (abs(float(x.detach())) > 1) is grows


def test_published_recipes_follow_their_laws() -> None:
    """The authors' commands: linear for SGD, the square root for Adam, damping times batch size constant for KFAC."""
    noisy = {"eigenvalue": 1e-3, "variance": 1e-6 * 128}  # the outlier is small beside the noise that moves it
    for batch, rate in ((256, 0.1), (512, 0.2)):
        assert law.scaled_rate(0.05, 128, batch, **noisy)[1] == pytest.approx(rate)
    assert law.scaled_rate(4e-4, 128, 256, **noisy, optimizer="adam")[1] == pytest.approx(5.6e-4, rel=0.02)
    for batch, damping in ((32, 8), (64, 4), (128, 2), (256, 1)):
        assert law.scaled_damping(16, 16, batch) == damping
    assert law.scaled_damping(16, 16, 32, rates=(1.0, 0.5)) == 4
    assert law.scaled_damping(1.0, 50, 100, population=100) == 0
    lam, V = 2.0, 10.0
    least = [law.minimal_damping(0.3, law.moved_eigenvalue(lam, V, b) - lam) for b in (8, 24)]
    assert law.scaled_damping(least[0], 8, 24) == pytest.approx(least[1])
    with pytest.raises(ValueError, match="no sampling noise"):
        law.scaled_damping(1.0, 100, 50, population=100)


def test_weight_decay_and_replacement_enter_the_scaling() -> None:
    plain = law.scaled_rate(0.1, 8, 64, eigenvalue=1.0, variance=4.0)[0]
    assert plain == pytest.approx(0.1 * 1.5 / 1.0625)
    assert law.scaled_rate(0.1, 8, 64, eigenvalue=1.0, variance=4.0, weight_decay=0.5)[0] == pytest.approx(
        0.1 * 2.0 / 1.5625
    )
    finite = law.scaled_rate(0.1, 8, 64, eigenvalue=1.0, variance=4.0, population=64)[0]
    assert finite == pytest.approx(0.1 * (1 + 4 * (1 / 8 - 1 / 64)))
    again = law.scaled_rate(0.1, 8, 64, eigenvalue=1.0, variance=4.0, population=64, replacement=True)[0]
    assert again == pytest.approx(plain)


def test_rows_of_one_shape_have_the_variance_of_their_factors() -> None:
    """H_i = c_i A: V = Var(c) |A v|^2, and the batch's top eigenvalue is mean(c) lam whatever the batch."""
    import torch

    from surefoot.training.curvature import directional_variance
    from surefoot.training.spectral_problem import Curvature, Plan

    factors = torch.rand(50, 1, dtype=torch.float64) + 0.5
    model = torch.nn.Linear(2, 1, bias=False).double()
    x = torch.tensor([3.0, 4.0], dtype=torch.float64).expand(50, 2)
    case = Curvature(model, (x,), factors, lambda z, c: c[:, 0] * z[:, 0].square() / 2, plan=Plan((4,)))
    v = torch.tensor([0.6, 0.8], dtype=torch.float64)
    assert directional_variance(case, v) == pytest.approx(float(factors.var(correction=0)) * 25**2)


def test_damping_keeps_the_flattest_direction_stable() -> None:
    """Steps rate (0 + delta)^-1 g along a direction of spurious curvature c: stable from the minimal damping on."""
    rate, noise = 0.5, 3.0
    delta = law.minimal_damping(rate, noise)
    assert abs(1 - rate * noise / (1.01 * delta)) < 1 < abs(1 - rate * noise / (0.99 * delta))
