"""Maps to the simplex against projections, limits, finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.numerics.sets import Simplex
from surefoot.robustness.maps import HARDMAX, SimplexMap, grid, sparsemax

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 2 * torch.randn(50, 6, dtype=torch.float64, generator=GENERATOR)


@pytest.mark.parametrize("mass", [1.0, 2.5])
def test_sparsemax_is_the_projection_on_the_simplex(mass: float) -> None:
    found = sparsemax(LOGITS, mass)
    expected = torch.stack([Simplex(mass).project(z) for z in LOGITS])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.full((50,), mass, dtype=torch.float64))
    torch.testing.assert_close(sparsemax(found, mass), found, rtol=0, atol=1e-12)


def test_two_classes_of_sparsemax_are_a_clipped_line() -> None:
    u = torch.linspace(-2, 2, 41, dtype=torch.float64)
    found = SimplexMap("sparsemax")(torch.stack([u, -u], dim=1))[:, 0]
    torch.testing.assert_close(found, (u + 0.5).clamp(0, 1))


@pytest.mark.parametrize(
    "which", [SimplexMap("softmax", 3.0), SimplexMap("sparsemax", 0.7), SimplexMap("sparsemax", 0.7, 2.0), HARDMAX]
)
def test_shifts_change_nothing_and_permutations_permute(which: SimplexMap) -> None:
    values = which(LOGITS)
    torch.testing.assert_close(which(LOGITS + 100.0), values, rtol=0, atol=1e-11)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(which(LOGITS[:, order]), values[:, order], rtol=0, atol=1e-12)
    torch.testing.assert_close(values.sum(1), torch.ones(50, dtype=torch.float64))
    assert float(values.min()) >= 0


@pytest.mark.parametrize("kind", ["softmax", "sparsemax"])
def test_the_sharpest_map_is_hardmax_and_nothing_overflows(kind: str) -> None:
    which = SimplexMap(kind, 1e6)  # type: ignore[arg-type]
    torch.testing.assert_close(which(LOGITS), HARDMAX(LOGITS), rtol=0, atol=1e-6)
    assert torch.isfinite(SimplexMap(kind, 50.0)(1e4 * LOGITS.float())).all()  # type: ignore[arg-type]


def test_ties_go_to_the_lowest_class_and_are_shared_by_sparsemax() -> None:
    tied = torch.tensor([[1.0, 2.0, 2.0, 0.0]])
    assert HARDMAX(tied).tolist() == [[0, 1, 0, 0]]
    assert SimplexMap("sparsemax", 10.0)(tied).tolist() == [[0, 0.5, 0.5, 0]]


@pytest.mark.parametrize(
    "which", [SimplexMap("softmax", 3.0), SimplexMap("sparsemax", 3.0), SimplexMap("sparsemax", 3.0, 2.0)]
)
def test_lipschitz_constants_hold_and_are_nearly_reached(which: SimplexMap) -> None:
    """Jacobians by automatic differentiation at many points, near ties among them, where the constants are reached."""
    points = torch.cat(
        [
            0.3 * LOGITS,
            torch.zeros(1, 6, dtype=torch.float64),
            torch.tensor([[5.0, 5, 0, 0, 0, 0]], dtype=torch.float64),
        ]
    )
    whole, coordinate = 0.0, 0.0
    for z in points:
        jacobian = torch.autograd.functional.jacobian(lambda v: which(v[None])[0], z + 1e-9 * torch.arange(6))
        whole = max(whole, float(torch.linalg.matrix_norm(jacobian, 2)))
        coordinate = max(coordinate, float(jacobian.norm(dim=1).max()))
    assert 0.95 * which.lipschitz(1.0) <= whole <= which.lipschitz(1.0) * (1 + 1e-9)
    assert 0.75 * which.coordinate_lipschitz(1.0, 6) <= coordinate <= which.coordinate_lipschitz(1.0, 6) * (1 + 1e-9)


def test_the_grid_and_refusals() -> None:
    assert grid(3, 0.1, 10.0)[0] == HARDMAX
    np.testing.assert_allclose([m.sharpness for m in grid(3, 0.1, 10.0)[1:4]], [0.1, 1.0, 10.0])
    with pytest.raises(ValueError, match="sharpness"):
        SimplexMap("softmax", 0.0)
    with pytest.raises(ValueError, match="hardmax, softmax or sparsemax"):
        SimplexMap("max")  # type: ignore[arg-type]
