"""The float64 reference against closed forms and invariants."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convex_scenes import DOUBLE, HEIGHT, WIDTH, camera, convexes
from surefoot.splatting.reference import hull_successors, indicator, render_reference

SEEDS = st.integers(0, 10_000)
few = settings(max_examples=8, deadline=None)
VIEW, MATRIX = camera()


def render(c, view=VIEW, matrix=MATRIX, width=WIDTH, height=HEIGHT, **options):
    return render_reference(*c.tensors(), view, matrix, width, height, **options)


def test_square_in_closed_form():
    square = torch.tensor([[[10.0, 10], [30, 10], [30, 30], [10, 30]]], dtype=DOUBLE)
    one = torch.ones(1, dtype=DOUBLE)
    pixels = torch.tensor([[20.0, 20], [10, 10], [10, 20], [5, 20], [0, 0]], dtype=DOUBLE)
    phi, inside, solid = indicator(square, one, 0.01 * one, 0.5 * one, pixels)
    expected_phi = [-0.613705638880, 0.711297108478, 0.253856022086, 1.097174703147, 2.693482586933]
    expected = [0.576116884766, 0.412013334879, 0.468310530833, 0.366192216282, 0.206403641096]
    assert solid.all()
    torch.testing.assert_close(phi[0], torch.tensor(expected_phi, dtype=DOUBLE), atol=1e-11, rtol=0)
    torch.testing.assert_close(inside[0], torch.tensor(expected, dtype=DOUBLE), atol=1e-11, rtol=0)


def test_hull_agrees_with_scipy():
    from scipy.spatial import ConvexHull

    corners = torch.randn(50, 9, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    following = hull_successors(corners)
    for points, after in zip(corners.numpy(), following.tolist(), strict=True):
        ring = ConvexHull(points).vertices.tolist()  # counter-clockwise
        assert {(i, j) for i, j in enumerate(after) if j >= 0} == set(zip(ring, ring[1:] + ring[:1], strict=True))


def test_hull_of_repeated_and_collinear_points():
    square = [[0.0, 0], [2, 0], [2, 2], [0, 2]]
    more = torch.tensor([[*square, [1, 0], [2, 2], [1, 1], [0, 1]]], dtype=DOUBLE)
    assert hull_successors(more)[0].tolist() == [1, 2, 3, 0, -1, -1, -1, -1]
    line = torch.tensor([[[0.0, 0], [1, 1], [2, 2], [2, 2]]], dtype=DOUBLE)
    assert (hull_successors(line) == -1).all()


def test_gradients_of_the_reference():
    c = convexes(3, number=2, corners=5)
    pixels = torch.tensor([[10.0, 8], [22, 16], [30, 20], [5, 30]], dtype=DOUBLE)
    leaves = [t.clone().requires_grad_() for t in c.tensors()]

    def shown(*tensors):
        image, left = render_reference(*tensors, VIEW, MATRIX, WIDTH, HEIGHT, pixels=pixels)
        return torch.cat([image.flatten(), left])

    assert torch.autograd.gradcheck(shown, leaves, eps=1e-6, atol=1e-6)


@few
@given(SEEDS)
def test_level_sets_are_convex(seed):
    """phi at a midpoint is at most the mean of phi at the ends."""
    g = torch.Generator().manual_seed(seed)
    corners = 10 * torch.rand(4, 6, 2, generator=g, dtype=DOUBLE)
    one = torch.ones(4, dtype=DOUBLE)
    ends = 16 * torch.rand(2, 200, 2, generator=g, dtype=DOUBLE) - 3
    phi = [indicator(corners, one, 0.1 * one, one, q)[0] for q in (*ends, ends.mean(dim=0))]
    assert (phi[2] <= (phi[0] + phi[1]) / 2 + 1e-9).all()


@few
@given(SEEDS)
def test_half_level_lies_between_the_hull_and_its_erosion(seed):
    """{I >= 1/2} is inside the hull and holds {max d <= -log m / (z delta)}."""
    g = torch.Generator().manual_seed(seed)
    corners = 10 * torch.rand(3, 6, 2, generator=g, dtype=DOUBLE)
    depth, delta = 1 + torch.rand(3, generator=g, dtype=DOUBLE), 0.2 + torch.rand(3, generator=g, dtype=DOUBLE)
    pixels = 12 * torch.rand(400, 2, generator=g, dtype=DOUBLE) - 1
    _, inside, _ = indicator(corners, depth, delta, torch.ones(3, dtype=DOUBLE), pixels)
    following = hull_successors(corners)
    for n in range(3):
        used = following[n] >= 0
        a, b = corners[n][used], corners[n][following[n][used]]
        step, to = b - a, pixels[:, None] - a
        d = -(step[:, 0] * to[..., 1] - step[:, 1] * to[..., 0]).min(dim=1).values  # max_k d_k by cross products
        assert (d[inside[n] >= 0.5] <= 1e-9).all()
        room = torch.log(used.sum().double()) / (depth[n] * delta[n])
        assert (inside[n][d <= -room] >= 0.5).all()


def test_harmonics_are_orthonormal_and_known():
    """Over the sphere, integral Y_i Y_j = 1 if i = j; degree 1 is (-y, z, -x) sqrt(3 / 4 pi)."""
    import numpy as np
    from scipy.special import roots_legendre

    from surefoot.splatting.harmonics import harmonics

    height, weight = roots_legendre(12)
    turn = 2 * np.pi * np.arange(24) / 24
    z, t = np.meshgrid(height, turn, indexing="ij")
    r = np.sqrt(1 - z**2)
    values = harmonics(torch.from_numpy(np.stack([r * np.cos(t), r * np.sin(t), z], axis=-1)), 3)
    gram = torch.einsum("ijm,ijn,i->mn", values, values, torch.from_numpy(weight)) * (2 * np.pi / 24)
    torch.testing.assert_close(gram, torch.eye(16, dtype=DOUBLE), atol=1e-12, rtol=0)
    x, y, z = torch.eye(3, dtype=DOUBLE)
    assert harmonics(y, 1)[1] < 0
    assert harmonics(z, 1)[2] > 0
    assert harmonics(x, 1)[3] < 0


def test_hulls_of_nearly_straight_corners_agree():
    """Edge tests and gift wrapping pass over the same corners, also where the first corner lies on an edge."""
    from surefoot.splatting.verify_render import wrapped

    g = torch.Generator().manual_seed(0)
    corners = 10 * torch.rand(3000, 6, 2, generator=g, dtype=DOUBLE)
    share = torch.rand(3000, 1, generator=g, dtype=DOUBLE)
    off = 10 ** (-8 + 5 * torch.rand(3000, 1, generator=g, dtype=DOUBLE))
    corners[:, 5] = share * corners[:, 0] + (1 - share) * corners[:, 1]
    corners[:, 5] += off * torch.randn(3000, 2, generator=g, dtype=DOUBLE)
    ring, count = wrapped(corners.numpy())
    for after, around, many in zip(hull_successors(corners).tolist(), ring.tolist(), count.tolist(), strict=True):
        loop = around[:many]
        assert {(i, j) for i, j in enumerate(after) if j >= 0} == set(zip(loop, loop[1:] + loop[:1], strict=True))
    first = torch.tensor(
        [[[0.0, 0], [1e-7, 5], [0, 10], [8, 10], [8, 0]], [[-1e-7, 5], [0, 10], [8, 10], [8, 0], [0, 0]]]
    )
    for after, many in zip(hull_successors(first.double()), wrapped(first.double().numpy())[1], strict=True):
        assert int((after >= 0).sum()) == many == 4
