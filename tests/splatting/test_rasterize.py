"""The compiled rasteriser against the reference; nothing of tiles, strips and threads may show."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from convex_scenes import DOUBLE, HEIGHT, WIDTH, camera, convexes, turned
from surefoot.splatting.reference import render_reference

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.splatting.frame import parts_of
from surefoot.splatting.rasterize import Settings, rasterize

VIEW, MATRIX = camera()
EXACT = Settings(threshold=0.0, stop=0.0)
BACK = torch.tensor([0.2, 0.3, 0.4], dtype=DOUBLE)


def fast(tensors, settings=EXACT, views=VIEW[None], matrices=MATRIX[None], back=BACK, **more):
    return rasterize(*tensors, views, matrices, WIDTH, HEIGHT, back, settings, **more)


def both(c, settings, lanes, seed=0):
    """Images, transmittances and gradients of both renderers under one random loss."""
    g = torch.Generator().manual_seed(seed)
    weight, weight_left = (
        torch.randn(HEIGHT, WIDTH, 3, generator=g, dtype=DOUBLE),
        torch.randn(HEIGHT, WIDTH, generator=g, dtype=DOUBLE),
    )
    slow_leaves, back = c.leaves(DOUBLE), BACK.clone().requires_grad_()
    image, left = render_reference(
        *slow_leaves, VIEW, MATRIX, WIDTH, HEIGHT, back, focal=settings.focal, threshold=settings.threshold,
        stop=settings.stop,
    )  # fmt: skip
    ((image * weight).sum() + (left * weight_left).sum()).backward()
    leaves, fast_back = c.leaves(torch.float32), BACK.float().requires_grad_()
    found = fast(leaves, settings, back=fast_back, lanes=lanes)
    ((found.image[0] * weight.float()).sum() + (found.transmittance[0] * weight_left.float()).sum()).backward()
    grads = [(a.grad.double(), b.grad) for a, b in zip([*leaves, fast_back], [*slow_leaves, back], strict=True)]
    return found, image, left, grads


@pytest.mark.parametrize("lanes", [16, 1])
@pytest.mark.parametrize("corners", [3, 6, 16])
@pytest.mark.parametrize("exact", [True, False])
def test_image_and_gradients_match_the_reference(lanes, corners, exact):
    settings = EXACT if exact else Settings(focal=55.0)
    for seed in range(3):
        found, image, left, grads = both(convexes(seed, 25, corners), settings, lanes, seed)
        torch.testing.assert_close(found.image[0].double(), image, atol=5e-6, rtol=0)
        torch.testing.assert_close(found.transmittance[0].double(), left, atol=5e-6, rtol=0)
        for ours, theirs in grads:
            assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def test_degenerate_convexes_match_the_reference():
    """Repeated points, collinear points, no area, edge on, off the picture, behind the camera, partly and wholly, faint, saturated."""
    c = convexes(7, 12)
    points, opacity = c.points.clone(), c.opacity.clone()
    points[0, 3:] = points[0, :3]
    points[1, 3] = (points[1, 0] + points[1, 1]) / 2
    points[2] = points[2, :1]
    points[3] = points[3, :1] * torch.linspace(1, 1.5, 6, dtype=DOUBLE)[:, None]
    points[4] += torch.tensor([50.0, 0, 0], dtype=DOUBLE)
    points[5, 2, 2] = -1.0
    points[6, :, 2] -= 10.0
    opacity[7], opacity[8] = 1e-3, 1.0
    points[8] = 3 * (points[8] - points[8].mean(0)) + points[8].mean(0)
    points[8, :, 2].clamp_(min=0.5)
    c = type(c)(*(t.float().double() for t in c.at(points=points, opacity=opacity).tensors()))
    found, image, _, grads = both(c, Settings(), 16)
    twins = [grads[0][i][0, :3] + grads[0][i][0, 3:] for i in (0, 1)]
    assert (twins[0] - twins[1]).abs().max() <= 2e-5 * twins[1].abs().max()  # either of equal points may carry it
    for grad in grads[0]:
        grad[0] = 0.0
    assert found.status[0, [2, 3, 4, 5, 6, 7]].tolist() == [2, 2, 3, 0, 1, 3]
    torch.testing.assert_close(found.image[0].double(), image, atol=5e-6, rtol=0)
    for ours, theirs in grads:
        assert torch.isfinite(ours).all()
        assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


def test_tiles_and_threads_change_no_bit():
    c = convexes(11, 60, size=0.2)
    tensors = [t.float() for t in c.tensors()]
    plain = fast(tensors, Settings(tile=16, threads=1))
    for tile in (8, 16, 32):
        for threads in (1, 2, 3):
            found = fast(tensors, Settings(tile=tile, threads=threads))
            assert torch.equal(found.image, plain.image)
            assert torch.equal(found.transmittance, plain.transmittance)


def test_culling_changes_no_bit():
    """A list that holds every convex in every tile, with the same threshold, gives the same image."""
    c = convexes(12, 60, size=0.15, hardness=8)
    tensors = [t.float() for t in c.tensors()]
    plain = fast(tensors, Settings())
    frames = 60 * math.ceil(WIDTH / 16) * math.ceil(HEIGHT / 16)
    assert plain.pairs < 0.6 * frames
    full = fast(tensors, Settings(cull=False))
    assert full.pairs == frames
    assert torch.equal(full.image, plain.image)


def test_threads_change_no_bit_of_the_gradient():
    c = convexes(13, 60, size=0.2)
    found = []
    for threads in (1, 2, 3):
        leaves = c.leaves(torch.float32)
        out = fast(leaves, Settings(threads=threads))
        (out.image.square().sum() + out.transmittance.sum()).backward()
        found.append([t.grad for t in leaves])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_threads_change_no_bit_of_many_cameras_gradients():
    """Some convexes cross a near plane, some stand in many tiles, and two renders wait for one backward pass."""
    c = convexes(15, 200, size=0.3)
    views = VIEW.repeat(3, 1, 1)
    views[1, 0, 3], views[2, 2, 3] = 0.3, -3.0
    found = []
    for threads in (1, 2, 5):
        leaves = c.leaves(torch.float32)
        settings = Settings(threads=threads, tile=8)
        shown = [
            fast(leaves, settings, views[part], MATRIX.repeat(len(views[part]), 1, 1))
            for part in (slice(0, 2), slice(2, 3))
        ]
        sum(one.image.square().sum() for one in shown).backward()
        found.append([*(one.image.detach() for one in shown), *(leaf.grad for leaf in leaves)])
    assert all(bool(t.any()) for t in found[0])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_parts_of_a_launch_are_all_its_jobs():
    for threads in (1, 2, 7):
        for jobs in (1, 2, 5, 99, 7677):
            parts = parts_of(jobs, threads)
            assert [job for first, many in parts for job in range(first, first + many)] == list(range(jobs))
            assert parts[-1][1] <= max(1, jobs // (32 * threads))  # the last is short, so that no thread waits long


def test_renders_from_several_threads_at_once():
    scenes = [[t.float() for t in convexes(seed, 60, size=0.2).tensors()] for seed in range(6)]
    alone = [fast(tensors, Settings(threads=1)).image for tensors in scenes]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda tensors: fast(tensors, Settings(threads=3)).image, scenes))
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_many_cameras_are_one_after_another():
    c = convexes(14, 30)
    views = torch.stack([VIEW, turned(3) * 0 + VIEW, VIEW])
    views[1, 0, 3], views[2, 2, 3] = 0.3, 0.5
    matrices = torch.stack([MATRIX, camera(30.0)[1], MATRIX])
    leaves = c.leaves(torch.float32)
    together = fast(leaves, Settings(focal=45.0), views, matrices)
    together.image.square().sum().backward()
    apart = c.leaves(torch.float32)
    for i in range(3):
        one = fast(apart, Settings(focal=45.0), views[i : i + 1], matrices[i : i + 1])
        assert torch.equal(one.image[0], together.image[i])
        one.image.square().sum().backward()
    for a, b in zip(leaves, apart, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5 * float(b.grad.abs().max()), rtol=0)


def test_error_bound_holds_and_is_not_vacuous():
    for seed in range(4):
        c = convexes(seed, 40, size=0.2, hardness=40)
        tensors = [t.float() for t in c.tensors()]
        found = fast(tensors, Settings(), bounding=True)
        plain = fast(tensors, Settings())
        torch.testing.assert_close(found.image, plain.image, atol=0, rtol=0)
        exact, _ = render_reference(*c.tensors(), VIEW, MATRIX, WIDTH, HEIGHT, BACK)
        wrong = (exact - found.image[0].double()).abs()
        assert (wrong <= found.bound[0]).all()
        assert found.bound.median() < 0.05
        assert wrong.max() > 1e-4  # there was something to bound


def test_published_behaviour():
    """No gradient of the depth, points' gradient weaker by half the size, support cut off, principal point in the middle."""
    c = convexes(15, 20, hardness=0.3)
    paper = Settings(compat="paper")
    leaves, plain = c.leaves(torch.float32), c.leaves(torch.float32)
    centred = MATRIX.clone()
    centred[0, 2], centred[1, 2] = WIDTH / 2, HEIGHT / 2
    found = fast(leaves, paper)
    moved = MATRIX.clone()
    moved[0, 2] += 5
    assert torch.equal(fast(leaves, paper, matrices=moved[None]).image, found.image)
    ours = fast(plain, Settings(depth_gradient=False, stop=0.0), matrices=centred[None])
    assert (ours.image - found.image).abs().max() > 1e-4  # cut tiles
    sharp = convexes(15, 20, size=0.3, hardness=60)
    leaves, plain = sharp.leaves(torch.float32), sharp.leaves(torch.float32)
    found, ours = fast(leaves, paper), fast(plain, Settings(depth_gradient=False), matrices=centred[None])
    torch.testing.assert_close(found.image, ours.image, atol=2e-2, rtol=0)
    found.image.sum().backward()
    ours.image.sum().backward()
    ratio = leaves[0].grad[..., 0] / plain[0].grad[..., 0]
    assert 0.5 < float(ratio.nanmedian()) * WIDTH / 2 < 2.0


def test_no_convex_in_sight_is_background():
    c = convexes(16)
    found = fast([t.float() for t in c.at(points=-c.points).tensors()], Settings())
    assert (found.transmittance == 1).all()
    assert (found.status == 1).all()
    empty = [t[:0].float() for t in c.tensors()]
    none = fast(empty, Settings())
    torch.testing.assert_close(none.image[0, 0, 0].double(), BACK, atol=1e-7, rtol=0)


def test_extreme_sharpness_is_finite():
    c = convexes(17)
    leaves = c.at(delta=c.delta * 1e6, sigma=c.sigma * 1e6).leaves(torch.float32)
    found = fast(leaves, Settings())
    found.image.sum().backward()
    assert torch.isfinite(found.image).all()
    assert all(torch.isfinite(t.grad).all() for t in leaves)


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (0, lambda t: t[:, :2], "K from 3 to 16"),
        (0, lambda t: t.index_fill(0, torch.tensor([3]), math.nan), r"points is not finite at index \(3, 0, 0\)"),
        (1, lambda t: t[1:], "delta"),
        (2, lambda t: -t, "sigma must be positive"),
        (3, lambda t: t + 1, "opacity must lie"),
        (4, lambda t: t[:, :2], "colors"),
    ],
)
def test_bad_input_is_named(index, change, message):
    tensors = [t.float() for t in convexes(1).tensors()]
    tensors[index] = change(tensors[index])
    with pytest.raises(ValueError, match=message):
        fast(tensors)


def test_bad_cameras_and_settings_are_named():
    tensors = [t.float() for t in convexes(1).tensors()]
    with pytest.raises(ValueError, match="focal length"):
        fast(tensors, matrices=-MATRIX[None])
    for wrong, message in [
        ({"tile": 12}, "tile"),
        ({"near": 0.0}, "near"),
        ({"focal": -1.0}, "focal"),
        ({"compat": "x"}, "compat"),
    ]:
        with pytest.raises(ValueError, match=message):
            Settings(**wrong)


def test_without_warp_the_reference_stands_in(monkeypatch):
    from surefoot.splatting import rasterize as module

    c = convexes(18, 30, size=0.2, hardness=10)
    tensors = [t.float() for t in c.tensors()]
    plain = fast(tensors, Settings(), bounding=True)
    monkeypatch.setattr(module, "installed", lambda: False)
    other = module.rasterize(*tensors, VIEW[None], MATRIX[None], WIDTH, HEIGHT, BACK, Settings(), bounding=True)
    torch.testing.assert_close(other.image, plain.image, atol=5e-6, rtol=0)
    exact, _ = render_reference(*c.tensors(), VIEW, MATRIX, WIDTH, HEIGHT, BACK)
    assert ((exact - other.image[0].double()).abs() <= other.bound[0]).all()
    with pytest.raises(ImportError, match="kernels"):
        module.rasterize(*tensors, VIEW[None], MATRIX[None], 4000, 4000, BACK, Settings())
