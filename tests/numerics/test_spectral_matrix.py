"""Sharp operators and polar factors, against the singular value decomposition."""

import pytest
import torch

from surefoot.numerics.spectral_matrix import (
    NORMS,
    dual_norm,
    nearly_dual_norm,
    nearly_primal_norm,
    newton_schulz,
    polar,
    polar_express,
    primal_norm,
    sharp,
)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (6, 2, 3, 3), (7,)])
def test_sharp_attains_the_dual_norm(norm, shape):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    dual = dual_norm(M, norm)
    S = sharp(M, norm)
    assert torch.isclose(primal_norm(S, norm), dual, rtol=1e-12)
    assert torch.isclose((M * S).sum(), dual**2, rtol=1e-12)
    # no other matrix of that length has a larger product with M
    for seed in range(20):
        X = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 2), dtype=torch.float64)
        assert (M * X).sum() / primal_norm(X, norm) <= dual * (1 + 1e-12)


def test_sharp_of_a_diagonal_and_of_zero():
    assert torch.allclose(sharp(torch.diag(torch.tensor([3.0, 2.0, 1.0])), "spectral"), 6 * torch.eye(3), atol=1e-5)
    for norm in NORMS:
        assert torch.equal(sharp(torch.zeros(3, 4), norm), torch.zeros(3, 4))
    assert torch.equal(newton_schulz(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("shape", "steps", "low", "high"),
    [((256, 128), 5, 0.682, 1.134), ((128, 128), 5, 0.19, 1.18), ((128, 128), 10, 0.68, 1.135)],
)
def test_newton_schulz_leaves_the_known_singular_values(shape, steps, low, high):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    S = torch.linalg.svdvals(newton_schulz(M, steps))
    assert low - 0.02 <= float(S.min())
    assert float(S.max()) <= high + 0.01


def test_polar_express_is_nearer_to_the_polar_factor():
    M = torch.randn(64, 48, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = polar(M)
    U, _, Vh = torch.linalg.svd(M, full_matrices=False)
    assert torch.allclose(exact, U @ Vh, atol=1e-12)
    assert (polar_express(M) - exact).norm() < 0.6 * (newton_schulz(M) - exact).norm()


def test_cheap_norms_are_near():
    for seed, shape in enumerate([(40, 30), (16, 64), (8, 3, 3, 3), (20,)]):
        M = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for norm in NORMS:
            assert float(nearly_dual_norm(M, norm) / dual_norm(M, norm)) == pytest.approx(1, abs=0.1)
            assert 0.9 <= float(nearly_primal_norm(M, norm) / primal_norm(M, norm)) <= 1 + 1e-12


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        newton_schulz(torch.eye(2), dtype=torch.float16)
