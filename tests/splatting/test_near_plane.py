"""Convexes that reach behind the camera: cut at the near plane, exactly, with gradients through the cut."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from convex_scenes import DOUBLE, HEIGHT, WIDTH, camera, convexes
from surefoot.splatting.reference import beyond, project, render_reference
from surefoot.splatting.verify_render import BruteForce

VIEW, MATRIX = camera()
NEAR = 0.5


def reaching(seed: int, number: int = 8, corners: int = 6):
    """Convexes with centroids beyond the near plane, about half of which reach through it."""
    c = convexes(seed, number, corners)
    g = torch.Generator().manual_seed(seed + 99)
    points = c.points.clone()
    points[..., 2] = NEAR - 0.8 + 3.0 * torch.rand(number, corners, generator=g, dtype=DOUBLE)
    points[..., 2] += (NEAR + 0.1 - points[..., 2].mean(dim=1, keepdim=True)).clamp(min=0)
    return type(c)(*(t.float().double() for t in c.at(points=points, delta=c.delta * 0.2).tensors()))


def exact(c, **more):
    return render_reference(*c.tensors(), VIEW, MATRIX, WIDTH, HEIGHT, near=NEAR, **more)


def test_a_cut_convex_is_its_part_beyond_the_plane():
    """Explicit points of the part give the same picture, once delta and sigma make up for the other centroid's depth."""
    c = reaching(1, 1)
    assert (c.points[0, :, 2] < NEAR).any()
    part = beyond(c.points, NEAR)
    assert (part[..., 2] >= NEAR).all()
    ratio = c.points[..., 2].mean(dim=1) / part[..., 2].mean(dim=1)
    other = c.at(points=part, delta=c.delta * ratio, sigma=c.sigma * ratio)
    torch.testing.assert_close(exact(c)[0], exact(other, crossing="cull")[0], atol=1e-11, rtol=0)
    assert (exact(c)[0] - exact(c, crossing="cull")[0]).abs().max() > 0.01


def test_the_part_is_all_of_it():
    """Random mixtures of the points beyond the plane lie in the part's shadow; segments' ends are on the plane."""
    from scipy.spatial import ConvexHull

    c = reaching(2, 6)
    corners = project(c.points, VIEW, MATRIX, NEAR).corners.numpy()
    mixed = np.random.default_rng(0).dirichlet(np.full(6, 0.4), 4000) @ c.points.numpy()
    for shown, inside in zip(corners, mixed, strict=True):
        inside = inside[inside[:, 2] >= NEAR]
        u = inside[:, :2] / inside[:, 2:] * MATRIX.diagonal()[:2].numpy() + MATRIX[:2, 2].numpy() - 0.5
        hull = ConvexHull(shown, qhull_options="QJ")
        assert (u @ hull.equations[:, :2].T + hull.equations[:, 2] <= 1e-6 * np.abs(shown).max()).all()


def test_gradients_pass_through_the_cut():
    c = reaching(3, 2, 5)
    pixels = torch.tensor([[10.0, 8], [22, 16], [30, 20], [5, 30]], dtype=DOUBLE)
    leaves = [t.clone().requires_grad_() for t in c.tensors()]

    def shown(*tensors):
        image, left = render_reference(*tensors, VIEW, MATRIX, WIDTH, HEIGHT, near=NEAR, pixels=pixels)
        return torch.cat([image.flatten(), left])

    assert torch.autograd.gradcheck(shown, leaves, eps=1e-6, atol=1e-6)
    shown(*leaves).sum().backward()
    behind = c.points[..., 2] < NEAR
    assert leaves[0].grad[behind].abs().max() > 0


def test_the_shadow_does_not_jump_where_a_point_passes_the_plane():
    """(alpha may: each corner more, however near to another, adds to the sum in phi; so it is for any points that meet.)"""
    from scipy.spatial import ConvexHull

    c = reaching(4, 5)
    areas = []
    for off in (-1e-9, 1e-9):
        points = c.points.clone()
        points[:, 0, 2] = NEAR + off
        points[:, 1:, 2].clamp_(min=NEAR + 0.1)
        areas.append(
            [
                ConvexHull(shown, qhull_options="QJ").volume
                for shown in project(points, VIEW, MATRIX, NEAR).corners.numpy()
            ]
        )
    np.testing.assert_allclose(areas[0], areas[1], rtol=1e-6)


@pytest.mark.parametrize(("corners", "lanes"), [(3, 16), (6, 16), (6, 1), (16, 16)])
def test_kernels_match_the_reference(corners, lanes):
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    for seed in range(3):
        c = reaching(seed, 8, corners)
        slow, fast = c.leaves(DOUBLE), c.leaves(torch.float32)
        weight = torch.randn(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
        image, left = render_reference(*slow, VIEW, MATRIX, WIDTH, HEIGHT, near=NEAR)
        settings = Settings(near=NEAR, threshold=0.0, stop=0.0)
        found = rasterize(*fast, VIEW[None], MATRIX[None], WIDTH, HEIGHT, settings=settings, lanes=lanes)
        torch.testing.assert_close(found.image[0].double(), image, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.transmittance[0].double(), left, atol=1e-5, rtol=0)
        (image * weight).sum().backward()
        (found.image[0] * weight.float()).sum().backward()
        for ours, theirs in zip(fast, slow, strict=True):
            assert (ours.grad - theirs.grad).abs().max() <= 5e-5 * theirs.grad.abs().max()
        culled = Settings(near=NEAR, threshold=0.0, stop=0.0, crossing="cull")
        found = rasterize(*(t.detach() for t in fast), VIEW[None], MATRIX[None], WIDTH, HEIGHT, settings=culled)
        torch.testing.assert_close(found.image[0].double(), exact(c, crossing="cull")[0], atol=1e-5, rtol=0)


def test_culling_and_tiles_leave_no_trace_of_a_cut():
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    c = reaching(7, 12, 16)
    tensors = [t.float() for t in c.at(delta=c.delta * 20).tensors()]
    images = [
        rasterize(*tensors, VIEW[None], MATRIX[None], WIDTH, HEIGHT, settings=Settings(near=NEAR, cull=cull, tile=tile)).image
        for cull, tile in ((True, 16), (False, 16), (True, 8))
    ]  # fmt: skip
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert images[0].std() > 0.01


def test_the_checker_cuts_them_too():
    """Brute force in numpy, which shares no code with the reference."""
    c = reaching(5, 12)
    zero = torch.zeros(len(c.delta), 3, dtype=DOUBLE)
    scene = SimpleNamespace(
        points=c.points.numpy(), log_delta=c.delta.log().numpy(), log_sigma=c.sigma.log().numpy(),
        opacity_logit=torch.logit(c.opacity).numpy(), sh0=((c.colors - 0.5) / 0.28209479177387814).numpy(), sh_rest=zero[:, None][:, :0].numpy(),
        focal=float((MATRIX[0, 0] * MATRIX[1, 1]).sqrt()), near=NEAR, background=np.zeros(3),
    )  # fmt: skip
    rows, columns = (a.ravel() for a in np.mgrid[:HEIGHT, :WIDTH])
    brute = BruteForce(scene, VIEW.numpy(), MATRIX.numpy())
    image = brute.pixels(columns, rows).image(np.zeros(3)).reshape(HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(image, exact(c)[0].numpy(), atol=1e-9)
    assert brute.reach[:, 0].min() == NEAR


def test_a_floor_beneath_the_camera_is_seen():
    """Each pixel against the ray through it: what a rasteriser that leaves such convexes out shows as a hole."""
    corners = torch.tensor([[[-4.0, 1, -3], [4, 1, -3], [4, 1, 8.7], [-4, 1, 8.7]]], dtype=DOUBLE)
    one = torch.ones(1, dtype=DOUBLE)
    floor = (corners, 10 * one, 10 * one, 0.99 * one, torch.ones(1, 3, dtype=DOUBLE))
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    slope_x, slope_y = (columns + 0.5 - MATRIX[0, 2]) / MATRIX[0, 0], (rows + 0.5 - MATRIX[1, 2]) / MATRIX[1, 1]
    z = torch.where(slope_y > 0, 1 / slope_y, torch.inf)  # where the ray (x, y, 1) z meets y = 1
    hit = (z >= NEAR) & (z <= 8.7) & ((slope_x * z).abs() <= 4)
    image, left = render_reference(*floor, VIEW, MATRIX, WIDTH, HEIGHT, near=NEAR)
    assert hit.double().mean() > 0.2
    assert ((image[..., 0] > 0.5) == hit).all()
    culled = render_reference(*floor, VIEW, MATRIX, WIDTH, HEIGHT, near=NEAR, crossing="cull")[1]
    assert (culled == 1).all()
    assert (left[hit] < 0.5).all()
