"""Mirror maps against autograd, their inverses, and the stated convexity, which must hold and be nearly attained."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import special
from torch import Tensor

from surefoot.numerics.mirrors import Entropy, Euclidean, Mirror, PNorm, PowerNorm
from surefoot.numerics.sets import Simplex

MAPS: list[Mirror] = [Euclidean(), Entropy(), Entropy(2.5), PNorm(1.2), PNorm(2.0), PowerNorm(2.0), PowerNorm(3.5)]


def points(which: Mirror, count: int, seed: int, n: int = 4) -> Tensor:
    x = torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return which.mass * torch.softmax(2 * x, dim=-1) if isinstance(which, Entropy) else 2 * x


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_gradient_is_autograds(which: Mirror) -> None:
    x = points(which, 20, seed=0).requires_grad_()
    (expected,) = torch.autograd.grad(which.potential(x).sum(), x)
    torch.testing.assert_close(which.gradient(x.detach()), expected)


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_inverse_gradient_inverts(which: Mirror) -> None:
    x = points(which, 20, seed=1)
    torch.testing.assert_close(which.inverse_gradient(which.gradient(x)), x)
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    back = which.gradient(which.inverse_gradient(z))
    if isinstance(which, Entropy):  # on the simplex only differences of dual coordinates matter
        z, back = z - z.mean(-1, keepdim=True), back - back.mean(-1, keepdim=True)
    torch.testing.assert_close(back, z)


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_divergence_obeys_the_stated_convexity_and_nearly_attains_it(which: Mirror) -> None:
    x, y = points(which, 4000, seed=3), points(which, 4000, seed=4)
    # near and opposite pairs are where the constants are sharp
    near = y + 1e-3 * (x - y)
    x = torch.cat([x, near, -y if not isinstance(which, Entropy) else near])
    y = torch.cat([y, y, y])
    divergence = which.divergence(x, y)
    bound = which.convexity / which.degree * which.norm(x - y) ** which.degree
    assert (divergence >= bound * (1 - 1e-7) - 1e-13).all()
    sharp = {Euclidean: 1.0001, Entropy: 1.2, PNorm: 1.3, PowerNorm: 6.0}[type(which)]
    assert (divergence / bound).min() <= sharp
    assert which.divergence(y, y).abs().max() <= 1e-12


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_divergence_matches_its_definition(which: Mirror) -> None:
    x, y = points(which, 50, seed=5), points(which, 50, seed=6)
    defined = which.potential(x) - which.potential(y) - (which.gradient(y) * (x - y)).sum(-1)
    torch.testing.assert_close(which.divergence(x, y), defined)


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_norms_are_dual(which: Mirror) -> None:
    x, g = points(which, 200, seed=7), points(Euclidean(), 200, seed=10)
    assert ((x * g).sum(-1) <= which.norm(x) * which.dual_norm(g) * (1 + 1e-12)).all()
    # Hoelder is tight for the point that the conjugate's gradient returns
    if not isinstance(which, Entropy):
        best = which.inverse_gradient(g)
        torch.testing.assert_close((best * g).sum(-1), which.norm(best) * which.dual_norm(g))


@pytest.mark.parametrize("which", MAPS, ids=repr)
def test_step_minimises_its_model(which: Mirror) -> None:
    x, g = points(which, 1, seed=8)[0], torch.tensor([0.3, -1.0, 0.2, 0.5], dtype=torch.float64)
    new = which.step(x, g, 0.4)

    def model(p: Tensor) -> Tensor:
        return (p * g).sum(-1) + which.divergence(p, x) / 0.4

    others = new + 1e-2 * torch.randn(500, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    if isinstance(which, Entropy):
        others = Simplex(which.mass).project(others)
    assert (model(others) >= model(new) - 1e-12).all()


def test_entropy_divergence_is_scipys_and_handles_zeros() -> None:
    x = torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64)
    y = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    assert Entropy().divergence(x, y).item() == pytest.approx(special.rel_entr(x.numpy(), y.numpy()).sum())
    assert Entropy().divergence(y, x).isinf()
    uniform = torch.full((8,), 0.125, dtype=torch.float64)
    corner = torch.eye(8, dtype=torch.float64)[2]
    assert Entropy().divergence(corner, uniform).item() == pytest.approx(math.log(8))


def test_p_norm_survives_large_dual_powers_and_zero() -> None:
    which = PNorm.for_dimension(10_000)
    z = torch.tensor([1e-200, 3e5, -2e5, 0.0], dtype=torch.float64)
    x = which.inverse_gradient(z)
    assert torch.isfinite(x).all()
    torch.testing.assert_close(which.gradient(x)[1:3], z[1:3])
    assert torch.equal(which.inverse_gradient(torch.zeros(4)), torch.zeros(4))
    assert torch.equal(PowerNorm(3.0).inverse_gradient(torch.zeros(4)), torch.zeros(4))


def test_normalised_potentials_have_their_written_values() -> None:
    x = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert PowerNorm(3.0).potential(x).item() == pytest.approx(2 * 5**3 / 3)
    assert PNorm(1.5).potential(x).item() == pytest.approx((3**1.5 + 4**1.5) ** (4 / 3) / (2 * 0.5))
    assert Euclidean().potential(x).item() == 12.5


def test_bad_exponents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\]"):
        PNorm(1.0)
    with pytest.raises(ValueError, match="at least 2"):
        PowerNorm(1.5)
    with pytest.raises(ValueError, match="mass must be"):
        Entropy(0.0)
