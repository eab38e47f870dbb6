"""Losses against finite differences, brute-force conjugates and proximal maps, and their own constants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import optimize, special
from torch import Tensor

from surefoot.numerics.losses import (
    LOSSES,
    Hinge,
    Huber,
    Logistic,
    Loss,
    Pinball,
    Sigmoid,
    SmoothedHinge,
    Softmax,
    Squared,
    loss,
)
from surefoot.numerics.roots import log_wright_omega

SCALAR: list[Loss] = [
    Squared(),
    Huber(0.7),
    Pinball(0.3),
    Logistic(),
    Sigmoid(),
    Hinge(),
    SmoothedHinge(0.4),
    SmoothedHinge(3.0),
]
CONVEX = [each for each in SCALAR if each.constants.convex]
GRID = torch.linspace(-9.03, 9.07, 3001, dtype=torch.float64)  # off the kinks at integers and tenths


def labels_for(which: Loss) -> list[float]:
    return [-1.0, 1.0] if which.labels == "binary" else [-0.8, 0.0, 1.3]


def name(which: object) -> str:
    return repr(which)


@pytest.mark.parametrize("which", SCALAR, ids=name)
def test_values_follow_their_written_definition(which: Loss) -> None:
    z = np.linspace(-6.0, 6.0, 241)
    for y in labels_for(which):
        margin, r = y * z, z - y
        written = {
            Squared: r**2 / 2,
            Huber: np.where(abs(r) <= 0.7, r**2 / 2, 0.7 * abs(r) - 0.7**2 / 2),
            Pinball: np.where(r < 0, -0.3 * r, 0.7 * r),
            Logistic: np.log(1 + np.exp(-margin)),
            Sigmoid: 1 / (1 + np.exp(margin)),
            Hinge: np.maximum(0, 1 - margin),
        }.get(type(which))
        if isinstance(which, SmoothedHinge):
            width = which.width
            written = np.where(
                margin >= 1, 0, np.where(margin >= 1 - width, (1 - margin) ** 2 / (2 * width), 1 - margin - width / 2)
            )
        ours = which.value(torch.from_numpy(z), torch.tensor(y, dtype=torch.float64)).numpy()
        np.testing.assert_allclose(ours, written, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("which", SCALAR, ids=name)
def test_derivatives_match_finite_differences(which: Loss) -> None:
    h = 1e-5
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        slope = (which.value(GRID + h, y) - which.value(GRID - h, y)) / (2 * h)
        bend = (which.derivative(GRID + h, y) - which.derivative(GRID - h, y)) / (2 * h)
        # next to a kink of l or l' the difference straddles it: leave those few points out
        regular = which.second_derivative(GRID - 2 * h, y) == which.second_derivative(GRID + 2 * h, y)
        smooth_everywhere = isinstance(which, Logistic | Sigmoid)
        keep = torch.ones_like(regular) if smooth_everywhere else regular
        torch.testing.assert_close(which.derivative(GRID, y)[keep], slope[keep], rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(which.second_derivative(GRID, y)[keep], bend[keep], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("which", SCALAR, ids=name)
def test_constants_bound_and_are_approached(which: Loss) -> None:
    grid = torch.linspace(-60, 60, 120_001, dtype=torch.float64)
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        constants = which.constants
        slope = which.derivative(grid, y).abs()
        bend = which.second_derivative(grid, y)
        if math.isfinite(constants.lipschitz):
            assert slope.max() <= constants.lipschitz * (1 + 1e-12)
            # the pinball's two slopes differ, but both are seen by every label
            assert slope.max() >= constants.lipschitz * (1 - 1e-6)
        if constants.smooth:
            assert bend.max() <= constants.curvature * (1 + 1e-12)
            assert bend.max() >= constants.curvature * (1 - 1e-6)
        assert bend.min() >= constants.curvature_floor - 1e-12
        if not constants.convex:
            assert bend.min() <= constants.curvature_floor * (1 - 1e-6)
    assert which.constants.convex == (not isinstance(which, Sigmoid))


@pytest.mark.parametrize("y", [-1.0, 1.0])
def test_logistic_is_quasi_self_concordant_with_constant_one(y: float) -> None:
    z = torch.linspace(-20, 20, 4001, dtype=torch.float64, requires_grad=True)
    label = torch.tensor(y, dtype=torch.float64)
    bend = Logistic().second_derivative(z, label)
    (third,) = torch.autograd.grad(bend.sum(), z)
    ratio = (third.abs() / bend).detach()
    assert ratio.max() <= Logistic().constants.self_concordance * (1 + 1e-12)
    assert ratio.max() >= 1 - 1e-6


@pytest.mark.parametrize("which", [*CONVEX, Sigmoid()], ids=name)
def test_conjugate_is_the_supremum_over_predictions(which: Loss) -> None:
    z = torch.linspace(-80, 80, 320_001, dtype=torch.float64)
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        for slope in np.linspace(-2, 2, 33):
            u = torch.tensor(slope, dtype=torch.float64)
            ours = which.conjugate(u, y).item()
            payoff = u * z - which.value(z, y)
            best = payoff.max().item()
            if math.isinf(ours):
                # outside the domain the payoff still grows at an end of the long grid
                assert max(payoff[0].item(), payoff[-1].item()) == best
                assert best > 1
            else:
                assert ours == pytest.approx(best, abs=2e-6)
                assert ours >= best - 1e-12  # a conjugate below its own samples would be wrong, however close


@pytest.mark.parametrize("which", CONVEX, ids=name)
def test_fenchel_young_is_tight_at_the_derivative(which: Loss) -> None:
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        u = which.derivative(GRID, y)
        gap = which.value(GRID, y) + which.conjugate(u, y) - u * GRID
        assert gap.min() >= -1e-13
        assert gap.max() <= 1e-13


@pytest.mark.parametrize("which", SCALAR, ids=name)
@pytest.mark.parametrize("step", [1e-3, 0.4, 2.0, 10.0])
def test_prox_minimises(which: Loss, step: float) -> None:
    v = torch.linspace(-4, 4, 9, dtype=torch.float64)
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        ours = which.prox(v, y, step)
        assert ours.shape == v.shape
        for start, point in zip(v.tolist(), ours.tolist(), strict=True):

            def target(z: float, start: float = start, y: Tensor = y) -> float:
                return step * which.value(torch.tensor(z, dtype=torch.float64), y).item() + (z - start) ** 2 / 2

            found = optimize.minimize_scalar(
                target, bounds=(start - 15, start + 15), method="bounded", options={"xatol": 1e-11}
            )
            assert target(point) <= found.fun + 1e-12
            assert point == pytest.approx(found.x, abs=2e-5)


@pytest.mark.parametrize("which", CONVEX, ids=name)
def test_prox_satisfies_its_inclusion(which: Loss) -> None:
    """(v - prox) / step is a subgradient at prox: Fenchel-Young holds with equality."""
    v = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        point = which.prox(v, y, 0.8)
        u = (v - point) / 0.8
        # one rounding can push u out of the closed domain: pull it in by as much
        conjugate = torch.minimum(which.conjugate(u * (1 - 1e-12), y), which.conjugate(u * (1 + 1e-12), y))
        gap = which.value(point, y) + conjugate - u * point
        assert gap.abs().max() <= 1e-10


def test_prox_of_huge_arguments_stays_exact() -> None:
    y = torch.tensor(1.0, dtype=torch.float64)
    v = torch.tensor([-1e6, -800.0, 800.0, 1e6], dtype=torch.float64)
    point = Logistic().prox(v, y, 3.0)
    torch.testing.assert_close(point, torch.tensor([-1e6 + 3, -797.0, 800.0, 1e6], dtype=torch.float64))
    assert torch.isfinite(Logistic().value(v, y)).all()
    assert Logistic().value(torch.tensor(30.0, dtype=torch.float64), y).item() == pytest.approx(
        math.exp(-30), rel=1e-12
    )


def test_sigmoid_prox_refuses_steps_that_make_it_ambiguous() -> None:
    with pytest.raises(ValueError, match="unique proximal point"):
        Sigmoid().prox(torch.zeros(2), torch.ones(2), 11.0)


@pytest.mark.parametrize(
    ("which", "radius"), [(Squared(), 2.5), (Huber(2.0), 1.5), (Logistic(), 3.0), (SmoothedHinge(4.0), 2.0)], ids=name
)
def test_exp_concavity_is_the_largest_constant(which: Loss, radius: float) -> None:
    a = which.exp_concavity(radius)
    assert a > 0
    for label in labels_for(which):
        y = torch.tensor(label, dtype=torch.float64)
        centre = 0.0 if which.labels == "binary" else label
        z = torch.linspace(centre - radius, centre + radius, 20_001, dtype=torch.float64)[1:-1]

        def bend_of_exponential(z: Tensor, rate: float, y: Tensor = y) -> Tensor:
            return rate * which.derivative(z, y) ** 2 - which.second_derivative(z, y)

        assert bend_of_exponential(z, a).max() <= 1e-9
        assert bend_of_exponential(z, 1.01 * a).max() > 0


def test_exp_concavity_is_zero_on_linear_parts() -> None:
    assert Huber(1.0).exp_concavity(1.1) == 0
    assert all(each.exp_concavity(1.0) == 0 for each in (Hinge(), Pinball(0.5), Sigmoid(), SmoothedHinge(1.0)))


class TestSoftmax:
    which = Softmax(4)
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (50,), generator=generator)

    def test_value_and_derivatives(self) -> None:
        written = special.logsumexp(self.z.numpy(), axis=1) - self.z.numpy()[np.arange(50), self.y.numpy()]
        np.testing.assert_allclose(self.which.value(self.z, self.y).numpy(), written, rtol=1e-12, atol=1e-13)

        z = self.z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.which.value(z, self.y).sum(), z, create_graph=True)
        torch.testing.assert_close(slope.detach(), self.which.derivative(self.z, self.y))
        rows = [torch.autograd.grad(slope[:, k].sum(), z, retain_graph=True)[0] for k in range(4)]
        torch.testing.assert_close(torch.stack(rows, dim=1), self.which.second_derivative(self.z, self.y))

    def test_constants(self) -> None:
        constants = self.which.constants
        assert self.which.derivative(self.z, self.y).norm(dim=1).max() <= constants.lipschitz
        assert torch.linalg.eigvalsh(self.which.second_derivative(self.z, self.y)).max() <= constants.curvature
        # extremes: certain and wrong; certain up to a tie of two
        wrong = torch.tensor([[50.0, 0, 0, 0]], dtype=torch.float64)
        tie = torch.tensor([[50.0, 50.0, 0, 0]], dtype=torch.float64)
        label = torch.tensor([1])
        assert self.which.derivative(wrong, label).norm().item() == pytest.approx(constants.lipschitz)
        bend = self.which.second_derivative(tie, label)
        assert torch.linalg.eigvalsh(bend).max().item() == pytest.approx(constants.curvature)

    def test_quasi_self_concordance(self) -> None:
        generator = torch.Generator().manual_seed(1)
        largest = 0.0
        cases = [(self.z[i], torch.randn(2, 4, generator=generator, dtype=torch.float64)) for i in range(50)]
        extreme = torch.tensor([[1.0, -1, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
        cases.append((torch.tensor([-9.0, 9, -50, -50], dtype=torch.float64), extreme))
        for z, (along, h) in cases:

            def bend(t: Tensor, z: Tensor = z, along: Tensor = along, h: Tensor = h) -> Tensor:
                return h @ self.which.second_derivative(z + t * along, torch.tensor(0)) @ h

            zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
            (third,) = torch.autograd.grad(bend(zero), zero)
            ratio = (third.abs() / (bend(zero) * along.norm())).item()
            assert ratio <= self.which.constants.self_concordance * (1 + 1e-9)
            largest = max(largest, ratio)
        assert largest >= self.which.constants.self_concordance * (1 - 1e-5)

    @pytest.mark.parametrize("step", [0.05, 1.0, 40.0])
    def test_prox(self, step: float) -> None:
        point = self.which.prox(self.z, self.y, step)
        inclusion = point + step * self.which.derivative(point, self.y) - self.z
        assert inclusion.abs().max() <= 1e-12 * max(1, step)

    def test_conjugate(self) -> None:
        u = self.which.derivative(self.z, self.y)
        gap = self.which.value(self.z, self.y) + self.which.conjugate(u, self.y) - (u * self.z).sum(dim=1)
        assert gap.abs().max() <= 1e-12
        assert torch.isinf(self.which.conjugate(u + 0.1, self.y)).all()

    def test_exp_concavity(self) -> None:
        radius = 1.2
        a = self.which.exp_concavity(radius)
        generator = torch.Generator().manual_seed(2)
        z = radius * (2 * torch.rand(400, 4, generator=generator, dtype=torch.float64) - 1)
        z[0] = torch.tensor([-radius, radius, radius, radius], dtype=torch.float64)
        y = torch.zeros(400, dtype=torch.int64)

        def least(rate: float) -> float:
            g = self.which.derivative(z, y)
            matrix = self.which.second_derivative(z, y) - rate * g.unsqueeze(-1) * g.unsqueeze(-2)
            return torch.linalg.eigvalsh(matrix).min().item()

        assert least(a) >= -1e-13
        assert least(1.01 * a) < -1e-6

    def test_two_classes_are_the_logistic_loss(self) -> None:
        margin = torch.linspace(-5, 5, 21, dtype=torch.float64)
        logits = torch.stack([torch.zeros_like(margin), margin], dim=1)
        ours = Softmax(2).value(logits, torch.ones(21, dtype=torch.int64))
        torch.testing.assert_close(ours, Logistic().value(margin, torch.ones(21, dtype=torch.float64)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", SCALAR, ids=name)
def test_dtype_and_shape_are_kept(which: Loss, dtype: torch.dtype) -> None:
    z = torch.linspace(-2, 2, 6, dtype=dtype).reshape(2, 3)
    y = torch.ones(2, 3, dtype=dtype)
    outcomes = [which.value(z, y), which.derivative(z, y), which.second_derivative(z, y), which.prox(z, y, 0.5)]
    outcomes.append(which.conjugate(-0.1 * y, y))
    assert all(each.dtype == dtype and each.shape == z.shape for each in outcomes)


def test_wright_omega_agrees_with_scipy() -> None:
    x = np.concatenate([np.linspace(-50, 50, 1001), [1e3, 1e6, 1e12]])
    ours = log_wright_omega(torch.from_numpy(x)).exp().numpy()
    np.testing.assert_allclose(ours, special.wrightomega(x), rtol=2e-14)


def test_registry_makes_every_loss_and_explains_mistakes() -> None:
    options: dict[str, dict[str, float]] = {"softmax": {"classes": 3}}
    assert all(isinstance(loss(key, **options.get(key, {})), Loss) for key in LOSSES)
    assert loss("huber", knee=0.25) == Huber(0.25)
    with pytest.raises(ValueError, match="Did you mean 'logistic'"):
        loss("logisitc")
    with pytest.raises(ValueError, match="does not take the options"):
        loss("squared", knee=1.0)
    with pytest.raises(ValueError, match="knee must be a positive"):
        loss("huber", knee=-1.0)


def test_labels_are_checked_at_the_border() -> None:
    Logistic().validate_labels(torch.tensor([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"Label 0 found .* expects -1 and \+1"):
        Logistic().validate_labels(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="integer tensor"):
        Softmax(3).validate_labels(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="below 3"):
        Softmax(3).validate_labels(torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="NaN"):
        Squared().validate_labels(torch.tensor([0.0, math.nan]))
