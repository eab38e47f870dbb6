"""Krylov methods against dense factorisations, scipy, and their own defining identities."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.sparse import linalg as sparse_linalg
from torch import Tensor

from surefoot.numerics.krylov import (
    conjugate_gradient,
    extreme_eigenpairs,
    lanczos_relative_gap,
    minres,
    spectral_quadrature,
)
from surefoot.numerics.lanczos import Matvec, lanczos


def with_spectrum(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(eigenvalues.double()) @ q.T
    return (matrix + matrix.T) / 2


def randn(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def product(matrix: Tensor) -> Matvec:
    return lambda v: matrix @ v


SPD = with_spectrum(torch.logspace(-2, 2, 60))
INDEFINITE = with_spectrum(torch.cat([torch.linspace(-5, -0.5, 20), torch.linspace(0.1, 9, 40)]))


def test_lanczos_decomposition_and_orthogonality_hold_to_rounding() -> None:
    # a spectrum with a far outlier is where plain Lanczos loses orthogonality
    matrix = with_spectrum(torch.cat([torch.linspace(0, 1, 99), torch.tensor([1e4])]))
    run = lanczos(product(matrix), randn(100), 60)
    Q = run.basis
    assert Q.shape == (61, 100)
    torch.testing.assert_close(Q @ Q.T, torch.eye(61, dtype=torch.float64), rtol=0, atol=1e-13)
    residual = matrix @ Q[:60].T - Q[:60].T @ run.tridiagonal()
    residual[:, -1] -= run.offdiagonal[-1] * Q[60]
    assert residual.abs().max() <= 1e-10
    # ghosts: a second copy of the outlier among the Ritz values would be one
    assert (run.eigen()[0] > 100).sum() == 1


def test_lanczos_can_be_continued_bit_for_bit() -> None:
    whole = lanczos(product(SPD), randn(60), 40)
    parts = lanczos(product(SPD), randn(60), 13).extended(product(SPD), 20).extended(product(SPD), 7)
    assert torch.equal(whole.diagonal, parts.diagonal)
    assert torch.equal(whole.basis, parts.basis)


def test_lanczos_closes_on_invariant_subspaces() -> None:
    matrix = with_spectrum(torch.tensor([1.0] * 10 + [2.0] * 10 + [5.0] * 10))
    run = lanczos(product(matrix), randn(30), 30)
    assert run.closed
    assert run.steps == 3
    torch.testing.assert_close(run.eigen()[0], torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64))
    assert run.residual_bounds().max() == 0
    full = lanczos(product(SPD), randn(60), 500)
    torch.testing.assert_close(full.eigen()[0], torch.linalg.eigvalsh(SPD), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("end", ["largest", "smallest", "magnitude"])
def test_extreme_eigenpairs_match_the_dense_spectrum(end: Literal["largest", "smallest", "magnitude"]) -> None:
    exact = torch.linalg.eigvalsh(INDEFINITE)
    key = {"largest": -exact, "smallest": exact, "magnitude": -exact.abs()}[end]
    found = extreme_eigenpairs(product(INDEFINITE), randn(60), 4, end=end)
    assert found.converged
    torch.testing.assert_close(found.values, exact[key.argsort()[:4]], rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(INDEFINITE @ found.vectors, found.vectors * found.values, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.vectors.norm(dim=0), torch.ones(4, dtype=torch.float64))


def test_residual_intervals_hold_an_eigenvalue_before_convergence() -> None:
    exact = torch.linalg.eigvalsh(INDEFINITE)
    early = extreme_eigenpairs(product(INDEFINITE), randn(60), 3, steps=9, tolerance=1e-14)
    assert not early.converged
    distance = (early.values.unsqueeze(1) - exact).abs().amin(dim=1)
    assert (distance <= early.residuals).all()
    run = lanczos(product(INDEFINITE), randn(60), 9)
    ritz = run.ritz_vectors()
    true = (INDEFINITE @ ritz - ritz * run.eigen()[0]).norm(dim=0)
    torch.testing.assert_close(run.residual_bounds(), true, rtol=1e-8, atol=1e-12)


def test_repeated_eigenvalues_are_all_found() -> None:
    matrix = with_spectrum(torch.tensor([1.0] * 12 + [3.0, 7.0, 7.0, 7.0]))
    found = extreme_eigenpairs(product(matrix), randn(16), 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.values, torch.tensor([7.0, 7, 7, 3], dtype=torch.float64))
    identity = extreme_eigenpairs(lambda v: v, randn(6), 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(identity.values, torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="count must lie between"):
        extreme_eigenpairs(lambda v: v, randn(6), 7)


def test_relative_gap_covers_the_hardest_spectra() -> None:
    """One eigenvalue above a dense bulk is what a few Lanczos steps miss most easily."""
    n, steps, failure = 400, 12, 0.1
    eigenvalues = torch.cat([torch.linspace(0, 0.97, n - 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    gap = lanczos_relative_gap(n, steps, failure)
    misses, worst = 0, 0.0
    for seed in range(300):
        theta = lanczos(lambda v: eigenvalues * v, randn(n, seed), steps).eigen()[0][-1].item()
        misses += 1 - theta > gap
        worst = max(worst, 1 - theta)
    assert misses <= failure * 300
    assert gap < 0.15
    assert worst > gap / 10  # the statement is not empty on this matrix
    assert lanczos_relative_gap(50, 50, 0.01) == 0


@pytest.mark.parametrize("preconditioned", [False, True])
def test_conjugate_gradient_solves_and_minimises_like_scipy(preconditioned: bool) -> None:
    b = randn(60)
    scaling = torch.diagonal(SPD)
    ours = conjugate_gradient(
        product(SPD), b, tolerance=1e-12, preconditioner=(lambda v: v / scaling) if preconditioned else None
    )
    assert ours.converged
    torch.testing.assert_close(ours.x, torch.linalg.solve(SPD, b), rtol=1e-8, atol=1e-9)
    assert ours.residual_norm == pytest.approx((b - SPD @ ours.x).norm().item(), rel=1e-6)
    if not preconditioned:
        few = conjugate_gradient(product(SPD), b, steps=15)
        theirs, _ = sparse_linalg.cg(SPD.numpy(), b.numpy(), rtol=0, atol=0, maxiter=15)
        np.testing.assert_allclose(few.x.numpy(), theirs, rtol=1e-9, atol=1e-10)
        assert few.outcome == "step_limit"
        # the iterate minimises the energy over the Krylov space: its residual is orthogonal to it
        space = lanczos(product(SPD), b, 15).basis[:15]
        assert (space @ (b - SPD @ few.x)).abs().max() <= 1e-9 * few.residual_norm


def test_conjugate_gradient_warm_starts_and_reports_negative_curvature() -> None:
    b = randn(60)
    exact = torch.linalg.solve(SPD, b)
    assert conjugate_gradient(product(SPD), b, start=exact, tolerance=1e-9).steps == 0
    assert conjugate_gradient(product(SPD), torch.zeros(60, dtype=torch.float64)).x.norm() == 0
    broken = conjugate_gradient(product(INDEFINITE), b)
    assert broken.outcome == "negative_curvature"
    assert torch.linalg.eigvalsh(INDEFINITE)[0] <= broken.curvature <= 0
    good = conjugate_gradient(product(SPD), b)
    assert good.curvature >= torch.linalg.eigvalsh(SPD)[0] * (1 - 1e-12)


def test_minres_matches_scipy_and_the_dense_solution() -> None:
    b = randn(60)
    ours = minres(product(INDEFINITE), b, tolerance=1e-11)
    assert ours.converged
    torch.testing.assert_close(ours.x, torch.linalg.solve(INDEFINITE, b), rtol=1e-7, atol=1e-8)
    few = minres(product(INDEFINITE), b, steps=12)
    theirs, _ = sparse_linalg.minres(INDEFINITE.numpy(), b.numpy(), rtol=1e-30, maxiter=12)
    np.testing.assert_allclose(few.x.numpy(), theirs, rtol=1e-8, atol=1e-9)
    # least residual over the Krylov space, by dense least squares
    space = lanczos(product(INDEFINITE), b, 12).basis[:12].T
    best = torch.linalg.lstsq(INDEFINITE @ space, b.unsqueeze(1)).solution
    least = (b - INDEFINITE @ space @ best[:, 0]).norm().item()
    assert few.residual_norm == pytest.approx(least, rel=1e-9)


def test_minres_gives_least_norm_and_least_squares_solutions_of_singular_systems() -> None:
    singular = with_spectrum(torch.cat([torch.zeros(8), torch.linspace(-3, -1, 10), torch.linspace(1, 4, 12)]))
    inverse = torch.linalg.pinv(singular, hermitian=True, rtol=1e-10)
    consistent = singular @ randn(30)
    ours = minres(product(singular), consistent, tolerance=1e-11)
    assert ours.converged
    torch.testing.assert_close(ours.x, inverse @ consistent, rtol=0, atol=1e-8)
    b = randn(30, seed=3)
    ours = minres(product(singular), b, tolerance=1e-9)
    assert ours.outcome == "least_squares"
    assert ours.residual_norm == pytest.approx((b - singular @ inverse @ b).norm().item(), rel=1e-8)
    assert (singular @ (b - singular @ ours.x)).norm() <= 1e-6
    assert minres(product(singular), torch.zeros(30, dtype=torch.float64)).converged
    nothing = minres(lambda v: torch.zeros_like(v), b)
    assert nothing.outcome == "least_squares"
    assert nothing.x.norm() == 0


def test_minres_stops_at_the_first_iterate_that_minimises_the_residual_enough() -> None:
    singular = with_spectrum(torch.cat([torch.zeros(8), torch.linspace(-3, -1, 10), torch.linspace(1, 4, 12)]))
    b = randn(30, seed=3)
    stopped = minres(product(singular), b, tolerance=1e-3)
    assert stopped.outcome == "least_squares"

    def ratio(x: Tensor) -> float:
        r = b - singular @ x
        return ((singular @ r).norm() / (torch.linalg.matrix_norm(singular, ord=2) * r.norm())).item()

    assert ratio(stopped.x) <= 1e-3
    # the last product only detected it: the iterates are those of the steps before
    torch.testing.assert_close(minres(product(singular), b, tolerance=0.0, steps=stopped.steps - 1).x, stopped.x)
    before = minres(product(singular), b, tolerance=0.0, steps=stopped.steps - 2)
    size = 0.9  # the norm is estimated from below on the way, by at most a tenth here
    assert ratio(before.x) > 1e-3 * size


def test_quadrature_is_exact_for_low_degrees_and_estimates_traces() -> None:
    generator = torch.Generator().manual_seed(4)
    rule = spectral_quadrature(product(SPD), randn(60), probes=40, steps=20, generator=generator)
    torch.testing.assert_close(rule.weights.sum(dim=1), torch.ones(40, dtype=torch.float64))
    # degree 5 is integrated exactly: compare with q' A^5 q for the same probes
    generator = torch.Generator().manual_seed(4)
    moments = []
    for _ in range(40):
        q = torch.randn(60, generator=generator, dtype=torch.float64)
        q = q / q.norm()
        moments.append(q @ torch.linalg.matrix_power(SPD, 5) @ q)
    torch.testing.assert_close((rule.weights * rule.nodes**5).sum(dim=1), torch.stack(moments), rtol=1e-9, atol=0)
    for function in (torch.log, torch.sqrt, torch.ones_like):
        estimate, error = rule.trace(function)
        exact = function(torch.linalg.eigvalsh(SPD)).sum().item()
        assert abs(estimate - exact) <= 4 * error + 1e-9
        assert error <= 0.1 * 60 * function(torch.tensor(9.0)).abs().item()


def test_density_integrates_to_one_and_shows_the_gap() -> None:
    matrix = with_spectrum(torch.cat([torch.full((40,), 1.0), torch.full((20,), 4.0)]))
    generator = torch.Generator().manual_seed(5)
    rule = spectral_quadrature(product(matrix), randn(60), probes=200, steps=10, generator=generator)
    t = torch.linspace(-2, 7, 2001, dtype=torch.float64)
    density = rule.density(t, width=0.2)
    assert torch.trapezoid(density, t).item() == pytest.approx(1, abs=1e-6)
    upper = torch.trapezoid(density[t > 2.5], t[t > 2.5]).item()
    assert upper == pytest.approx(1 / 3, abs=0.03)
    assert density[(t - 2.5).abs().argmin()] < 1e-6


def test_float32_stays_float32() -> None:
    matrix, b = SPD.float(), randn(60).float()
    assert conjugate_gradient(product(matrix), b, tolerance=1e-4).x.dtype == torch.float32
    found = extreme_eigenpairs(product(matrix), b, tolerance=1e-5)
    assert found.values.dtype == torch.float32
    assert found.values.item() == pytest.approx(100, rel=1e-4)
    assert math.isfinite(minres(product(matrix), b, tolerance=1e-4).residual_norm)
