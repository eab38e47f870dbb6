"""The feasible set: exactness of the box, the ball, and the nearest point of both."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.robustness.box_and_ball import BoxAndBall
from surefoot.robustness.verify_inversion_measured import _nearest


def some(seed: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, 5, 5, generator=generator), spread * torch.randn(1, 5, 5, generator=generator)


@given(st.integers(0, 10**6), st.floats(0.01, 3.0), st.floats(0.05, 4.0), st.sampled_from(["shrink", "dykstra"]))
@settings(max_examples=60)
def test_projections_are_feasible_in_exact_arithmetic(seed: int, spread: float, radius: float, how: str) -> None:
    """No entry of x + delta leaves [0, 1], not even by rounding; the norm never passes the radius."""
    images, point = some(seed, spread)
    delta = BoxAndBall.around(images, radius).project(point, how)  # type: ignore[arg-type]
    for x, d in zip(images.flatten().tolist(), delta.flatten().tolist(), strict=True):
        assert 0 <= Fraction(x) + Fraction(d) <= 1
    assert sum(Fraction(d) ** 2 for d in delta.flatten().tolist()) <= Fraction(radius) ** 2


@pytest.mark.parametrize("seed", range(12))
def test_dykstra_finds_the_nearest_point(seed: int) -> None:
    """Against the one-dimensional search for the multiplier of the ball."""
    images, point = some(seed, 1.5)
    images, point = images.double(), point.double()
    radius = 0.3 + 0.3 * (seed % 5)
    found = BoxAndBall.around(images, radius).project(point, "dykstra").numpy()
    np.testing.assert_allclose(found, _nearest(point.numpy(), images[0].numpy(), radius), atol=1e-8)


def test_shrink_is_not_the_nearest_point() -> None:
    """The published order gives a feasible point that is further away."""
    images, point = some(3, 1.5)
    allowed = BoxAndBall.around(images, 1.0)
    near, far = ((allowed.project(point, how) - point).norm() for how in ("dykstra", "shrink"))
    assert near < far - 1e-3


def test_several_images_share_the_narrowest_box() -> None:
    images = torch.tensor([0.1, 0.7]).view(2, 1, 1, 1)
    allowed = BoxAndBall.around(images, 10.0)
    assert float(allowed.clip(torch.full((1, 1, 1), -5.0))) == pytest.approx(-0.1)
    assert float(allowed.clip(torch.full((1, 1, 1), 5.0))) == pytest.approx(0.3)
