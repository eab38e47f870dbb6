"""`compat="paper"`: each rule of the published code by itself, against its own formula in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.splatting.rasterize import Rendering, Settings, rasterize

WIDTH, HEIGHT, FOCAL = 160, 112, 80.0
PAPER = Settings(compat="paper")
VIEW = torch.eye(4)[None]
MATRIX = torch.tensor([[[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]])
SHAPE = [[60.0, 40], [75, 38], [84, 50], [70, 62], [58, 55]]


def lifted(pixels, depth: float = 1.0) -> torch.Tensor:
    """Points ``(1, K, 3)`` at this depth that are seen at pixels ``(K, 2)``."""
    at = np.asarray(pixels, dtype=float) - [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
    return torch.tensor(np.column_stack([at * depth / FOCAL, np.full(len(at), depth)])[None], dtype=torch.float32)


def shown(points, delta, sigma, opacity, settings=PAPER, color: float = 1.0, **more) -> Rendering:
    number = len(points)
    values = [torch.full((number,), float(v)) if not torch.is_tensor(v) else v for v in (delta, sigma, opacity)]
    return rasterize(
        points, *values, torch.full((number, 3), color), VIEW, MATRIX, WIDTH, HEIGHT, settings=settings, **more
    )


def radius(pixels, delta: float, sigma: float, depth: float = 1.0) -> float:
    """max(1.1 max |q_k - q_c|, mean over i = 2..m with an angle in (0.1, 3.0) of |the shifted edges' crossing - q_c|), rounded up."""
    q = np.asarray(pixels, dtype=float)
    ring = q[ConvexHull(q).vertices]
    start = np.lexsort((ring[:, 1], ring[:, 0]))[0]
    ring = np.roll(ring, -start, axis=0)
    step = np.roll(ring, -1, axis=0) - ring
    normal = np.column_stack([step[:, 1], -step[:, 0]])
    off = (normal * ring).sum(axis=1) + 2.1 / (depth**2 * sigma * delta)  # the shifted lines: normal . x = off
    centre, far = q.mean(axis=0), []
    for i in range(1, len(ring)):
        cosine = step[i - 1] @ step[i] / np.linalg.norm(step[i - 1]) / np.linalg.norm(step[i])
        if 0.1 < math.acos(np.clip(cosine, -1, 1)) < 3.0:
            far.append(np.linalg.norm(np.linalg.solve(normal[[i - 1, i]], off[[i - 1, i]]) - centre))
    assert far
    return math.ceil(max(1.1 * np.linalg.norm(q - centre, axis=1).max(), np.mean(far)))


@pytest.mark.parametrize(("delta", "sigma"), [(0.02, 0.3), (0.01, 0.15), (0.5, 2.0)])
def test_the_support_is_cut_to_a_square_of_tiles(delta, sigma):
    found = shown(lifted(SHAPE), delta, sigma, 0.9)
    reach, centre = radius(SHAPE, delta, sigma), np.mean(SHAPE, axis=0)
    low, high = np.floor((centre - reach) / 16) * 16, np.floor((centre + reach) / 16) * 16 + 15
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    square = (columns >= low[0]) & (columns <= high[0]) & (rows >= low[1]) & (rows <= high[1])
    whole = shown(lifted(SHAPE), delta, sigma, 0.9, Settings(crossing="cull"))
    expected = np.where(square, whole.transmittance[0].numpy(), 1.0)
    np.testing.assert_allclose(found.transmittance[0].numpy(), expected, atol=1e-6)
    tiles = math.prod(
        math.ceil((h - max(low[i], 0) + 1) / 16) for i, h in enumerate(np.minimum(high, [WIDTH - 1, HEIGHT - 1]))
    )
    assert found.pairs == tiles
    if (delta, sigma) == (0.02, 0.3):
        assert (whole.transmittance[0].numpy()[~square] < 0.99).any()  # that much is lost


def test_huge_and_needle_like_convexes_are_skipped():
    assert shown(lifted([[0, 0], [21_000, 10], [40, 21_000]]), 0.1, 0.1, 0.9).status.item() == 3
    needle = lifted([[40, 50], [80, 50.4], [120, 50]])
    assert shown(needle, 0.1, 0.1, 0.9).status.item() == 3
    assert shown(needle, 0.1, 0.1, 0.9, Settings()).status.item() == 0


def test_a_pixel_stops_before_the_sample_that_would_end_it():
    points = torch.cat(
        [lifted([[20, 20], [140, 20], [140, 90], [20, 90]], depth) for depth in (1.0, 1.1, 1.2, 1.3, 1.4)]
    )
    paper, ours = (shown(points, 2.0, 2.0, 0.95, s).transmittance[0, 55, 80].item() for s in (PAPER, Settings()))
    assert paper == pytest.approx(0.05**3, rel=1e-3)  # a fourth would make it 6e-6
    assert ours == pytest.approx(0.05**4, rel=1e-3)


def test_no_gradient_of_the_depth_and_half_the_image_size_is_missing():
    """dL/dX and dL/dY are 2/W and 2/H of the true ones without the depth's; dL/dZ follows from them through the projection alone."""
    tilt = lifted(SHAPE)
    tilt = tilt * torch.tensor([1.0, 1.2, 0.9, 1.1, 0.95])[None, :, None]
    found = []
    for settings in (PAPER, Settings(depth_gradient=False), Settings()):
        leaf = tilt.clone().requires_grad_()
        image = shown(leaf, 1.0, 1.0, 0.9, settings).image
        (image[..., 0] * torch.arange(WIDTH) * 0.01).sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad[0].double())
    paper, half, whole = found
    assert (whole[:, 2] - half[:, 2]).abs().max() > 0.01  # far above rounding: the test below would fail with it
    expected = half[:, :2] * torch.tensor([2 / WIDTH, 2 / HEIGHT])
    along = -(expected * tilt[0, :, :2]).sum(dim=1) / tilt[0, :, 2]
    scale = float(expected.abs().max())
    torch.testing.assert_close(paper[:, :2], expected, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(paper[:, 2], along, atol=1e-4 * scale, rtol=0)


def test_the_clamp_passes_the_gradient_on():
    """Where alpha is 0.99, it does not change with the opacity; the published code says dC/do = I (c - B) all the same."""
    for settings, expected in ((PAPER, 1.0), (Settings(), 0.0)):
        opacity = torch.ones(1, requires_grad=True)
        image = shown(lifted([[20, 20], [140, 20], [140, 90], [20, 90]]), 2.0, 2.0, opacity, settings, color=0.7).image
        image[0, 55, 80, 0].backward()
        assert image[0, 55, 80, 0].item() == pytest.approx(0.99 * 0.7)
        assert opacity.grad is not None
        assert opacity.grad.item() == pytest.approx(0.7 * expected, abs=1e-6)


def test_only_the_centroid_is_tested_against_the_near_plane():
    points = lifted(SHAPE, 2.0)
    points[0, 1] = torch.tensor([0.1, 0.1, -0.5])
    assert shown(points, 0.1, 0.1, 0.9).status.item() in (0, 3)
    moved = points.clone()
    moved[0, 1] *= -1  # the same line of sight, from before the camera: projection does not tell them apart
    z = [float(p[0, :, 2].mean()) for p in (points, moved)]
    ours = shown(points, 0.1, 0.1, 0.9)
    theirs = shown(moved, 0.1 * z[0] / z[1], 0.1 * z[0] / z[1], 0.9)
    torch.testing.assert_close(ours.image, theirs.image, atol=1e-5, rtol=0)
    assert shown(points, 0.1, 0.1, 0.9, Settings(crossing="cull")).status.item() == 1
    assert shown(lifted(SHAPE, 0.19), 0.1, 0.1, 0.9).status.item() == 1


def test_neither_focal_length_nor_principal_point_is_heeded():
    plain = shown(lifted(SHAPE), 0.1, 0.1, 0.9)
    assert torch.equal(
        shown(lifted(SHAPE), 0.1, 0.1, 0.9, Settings(compat="paper", focal=3 * FOCAL)).image, plain.image
    )
    assert (shown(lifted(SHAPE), 0.1, 0.1, 0.9, Settings(focal=3 * FOCAL)).image - plain.image).abs().max() > 0.01
