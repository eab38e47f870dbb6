"""Sets against the variational inequality of projections, their corners, and a general solver."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize
from torch import Tensor

from surefoot.numerics.sets import (
    Affine,
    Ball,
    Box,
    FreeSpace,
    L1Ball,
    Polyhedron,
    Product,
    Set,
    Simplex,
    WeightedBall,
    project_ball_in_metric,
)

N = 4


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


H = tensor([[4.0, 1, 0, 0.5], [1, 3, 0.2, 0], [0, 0.2, 0.5, 0.1], [0.5, 0, 0.1, 0.2]])
FLAT = torch.diag(tensor([2.0, 1.0, 0.0, 3.0]))
ROWS = tensor([[1.0, 2, 0, -1], [0, 1, 1, 1], [1, 3, 1, 0]])  # the third is the sum of the others
HALF_SPACES = Polyhedron(tensor([[1.0, 1, 1, 1], [-1, 2, 0, 0], [0, 0, -1, 1]]), tensor([1.0, 0.5, 0.3]))
CUT_SIMPLEX = Polyhedron(
    torch.cat([-torch.eye(N, dtype=torch.float64), tensor([[1.0, -1, 0, 0]])]),
    tensor([0.0, 0, 0, 0, 0.2]),
    torch.ones(1, N, dtype=torch.float64),
    tensor([1.0]),
)

SETS: dict[str, Set] = {
    "free": FreeSpace(),
    "box": Box(tensor([-1.0, 0, -0.3, 0.5]), 0.8),
    "orthant": Box(0.0, math.inf),
    "ball": Ball(1.3, tensor([0.2, -0.1, 0, 1])),
    "simplex": Simplex(1.7),
    "l1": L1Ball(1.1),
    "affine": Affine(ROWS, tensor([1.0, 0.5, 1.5])),
    "ellipsoid": WeightedBall(H, 0.9, tensor([0.1, 0, 0, -0.3])),
    "cylinder": WeightedBall(FLAT, 0.7),
    "product": Product([Simplex(), Ball(0.5)], [2, 2]),
    "half-spaces": HALF_SPACES,
    "cut simplex": CUT_SIMPLEX,
}
TOLERANCE = {"half-spaces": 1e-11, "cut simplex": 1e-11}


@pytest.fixture(params=SETS)
def case(request: pytest.FixtureRequest) -> tuple[Set, float]:
    return SETS[request.param], TOLERANCE.get(request.param, 1e-12)


def points(count: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(count, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_projection_satisfies_the_variational_inequality(case: tuple[Set, float]) -> None:
    """P x is in the set and <x - P x, s - P x> <= 0 for all s in it: that is the whole definition."""
    each, tol = case
    x = points(60, seed=0)
    nearest = each.project(x)
    assert each.contains(nearest, tol=10 * tol)
    inside = each.project(points(60, seed=1, scale=6.0))
    assert ((x - nearest) @ inside.T <= ((x - nearest) * nearest).sum(1, keepdim=True) + 200 * tol).all()
    # and through the support function, which is the same statement over the whole set at once
    away = x - nearest
    reach = each.support(away)
    outside = away.norm(dim=1) > 1e-6
    assert outside.any() or isinstance(each, FreeSpace)
    torch.testing.assert_close(reach[outside], (away * nearest).sum(1)[outside], rtol=1e-6, atol=1e-6)


def test_projection_is_idempotent_and_keeps_members(case: tuple[Set, float]) -> None:
    each, tol = case
    nearest = each.project(points(20, seed=2))
    torch.testing.assert_close(each.project(nearest), nearest, rtol=0, atol=20 * tol)
    assert each.distance(nearest).max() <= 20 * tol


def test_distance_is_dual_to_the_support_function(case: tuple[Set, float]) -> None:
    """dist(x) = max over unit g of <x, g> - support(g), so every direction bounds it from below."""
    each, tol = case
    x = points(30, seed=3)
    distance = each.distance(x)
    assert distance.shape == (30,)
    for g in points(40, seed=4):
        g = g / g.norm()
        assert (x @ g - each.support(g) <= distance + 100 * tol).all()


def test_diameter_bounds_members_and_is_attained(case: tuple[Set, float]) -> None:
    each, _ = case
    if math.isinf(each.diameter):
        far = each.project(points(200, seed=5, scale=1e6))
        assert torch.cdist(far, far).max() > 1e5
        return
    members = each.project(points(300, seed=5, scale=100.0))
    largest = torch.cdist(members, members).max().item()
    assert largest <= each.diameter * (1 + 1e-9)
    exact = not isinstance(each, Polyhedron)
    assert largest >= each.diameter * (0.85 if exact else 0.4)


def test_contains_tells_outside_points(case: tuple[Set, float]) -> None:
    each, _ = case
    if isinstance(each, FreeSpace):
        assert not each.contains(tensor([0.0, 0, 0, math.nan]))
        return
    outside = points(50, seed=6, scale=10.0)
    outside = outside[each.distance(outside) > 1e-3]
    assert len(outside) > 5
    assert not any(each.contains(x) for x in outside)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_batch_shape_are_kept(case: tuple[Set, float], dtype: torch.dtype) -> None:
    each, _ = case
    x = points(6, seed=7).to(dtype).reshape(2, 3, N)
    assert each.project(x).shape == x.shape
    assert each.project(x).dtype == dtype
    assert each.distance(x).shape == (2, 3)
    assert each.support(x).dtype == dtype
    torch.testing.assert_close(each.project(x)[1, 2], each.project(x[1, 2]))


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 7), elements=st.floats(-1e3, 1e3)), st.floats(0.01, 50))
def test_simplex_projection_matches_bisection_on_its_multiplier(x: np.ndarray, mass: float) -> None:
    def excess(threshold: float) -> float:
        return np.maximum(x - threshold, 0).sum() - mass

    threshold = optimize.brentq(excess, x.min() - 1.01 * mass - 1e-6, x.max(), xtol=1e-13, rtol=1e-15)
    ours = Simplex(mass).project(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours, np.maximum(x - threshold, 0), atol=1e-9)


def test_polyhedron_agrees_with_the_closed_forms() -> None:
    x = points(15, seed=8)
    eye = torch.eye(N, dtype=torch.float64)
    simplex = Polyhedron(
        -eye, torch.zeros(N, dtype=torch.float64), torch.ones(1, N, dtype=torch.float64), tensor([1.7])
    )
    torch.testing.assert_close(simplex.project(x), Simplex(1.7).project(x), rtol=0, atol=1e-7)
    torch.testing.assert_close(simplex.support(x), Simplex(1.7).support(x), rtol=0, atol=1e-6)
    signs = torch.cartesian_prod(*[tensor([-1.0, 1.0])] * N)
    cross = Polyhedron(signs, torch.full((2**N,), 1.1, dtype=torch.float64))
    torch.testing.assert_close(cross.project(x), L1Ball(1.1).project(x), rtol=0, atol=1e-7)
    assert cross.diameter == pytest.approx(2 * 1.1 * math.sqrt(N), rel=1e-6)  # its bounding box's diagonal
    assert HALF_SPACES.support(tensor([1.0, 0, 0, 0])).isinf()


def test_box_and_ball_supports_are_reached_at_corners_and_rims() -> None:
    low, high = tensor([-1.0, 0, -0.3, 0.5]), tensor([0.8] * N)
    corners = torch.cartesian_prod(*[torch.stack([a, b]) for a, b in zip(low, high, strict=True)])
    g = points(10, seed=9)
    torch.testing.assert_close(Box(low, 0.8).support(g), (g @ corners.T).amax(dim=1))
    assert Box(0.0, math.inf).support(tensor([-1.0, -2, 0, -1])) == 0
    assert Box(0.0, math.inf).support(tensor([-1.0, 2, 0, -1])).isinf()


def test_cylinder_and_affine_supports_know_their_flat_directions() -> None:
    assert WeightedBall(FLAT, 0.7).support(tensor([0.0, 0, 1, 0])).isinf()
    assert WeightedBall(FLAT, 0.7).support(tensor([1.0, 0, 0, 0])).item() == pytest.approx(0.7 / math.sqrt(2))
    plane = Affine(ROWS, tensor([1.0, 0.5, 1.5]))
    combination = 2 * ROWS[0] - ROWS[1]
    assert plane.support(combination).item() == pytest.approx(2 * 1.0 - 0.5)
    assert plane.support(combination + tensor([0, 0, 0, 1e-6])).isinf()


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, (3, N), elements=st.floats(-30, 30)), st.floats(0.05, 5))
def test_ball_projection_in_a_metric_satisfies_its_optimality_conditions(x: np.ndarray, radius: float) -> None:
    definite = H + 0.2 * torch.eye(N, dtype=torch.float64)
    points = torch.from_numpy(x)
    p = project_ball_in_metric(points, definite, radius)
    for start, point in zip(points, p, strict=True):
        force = definite @ (start - point)
        if start.norm() <= radius:
            assert torch.equal(start, point)
            continue
        assert point.norm().item() == pytest.approx(radius, rel=1e-9)
        multiplier = (force @ point / (point @ point)).item()
        assert multiplier >= -1e-9
        torch.testing.assert_close(force, multiplier * point, rtol=1e-7, atol=1e-8 * (1 + start.norm().item()))


def test_one_dimensional_metric_projection_is_the_clamp() -> None:
    x = tensor([[-3.0], [0.2], [7.0]])
    torch.testing.assert_close(project_ball_in_metric(x, tensor([[5.0]]), 0.5), x.clamp(-0.5, 0.5))


def test_constructors_explain_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="low <= high"):
        Box(1.0, 0.0)
    with pytest.raises(ValueError, match="does not know its dimension"):
        _ = Box(0.0, 1.0).diameter
    with pytest.raises(ValueError, match="radius must be a positive"):
        Ball(-1.0)
    with pytest.raises(ValueError, match="no solution"):
        Affine(ROWS, tensor([1.0, 0.5, 99.0]))
    with pytest.raises(ValueError, match="symmetric"):
        WeightedBall(tensor([[1.0, 2], [0, 1]]), 1.0)
    with pytest.raises(ValueError, match="positive semidefinite"):
        WeightedBall(torch.diag(tensor([1.0, -0.1])), 1.0)
    with pytest.raises(ValueError, match="one size a set"):
        Product([Simplex()], [2, 2])
    with pytest.raises(ValueError, match="empty"):
        Polyhedron(tensor([[1.0], [-1.0]]), tensor([-1.0, -1.0]))
    with pytest.raises(ValueError, match="both A and b"):
        Polyhedron(tensor([[1.0]]), tensor([1.0]), A=tensor([[1.0]]))
