"""What must not change an image, and what an image must be: of the float64 reference and of the kernels alike."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convex_scenes import DOUBLE, HEIGHT, WIDTH, Convexes, camera, convexes, scenes, turned
from surefoot.splatting.reference import render_reference

VIEW, MATRIX = camera()
BACK = torch.tensor([0.2, 0.3, 0.4], dtype=DOUBLE)
FOCAL = float((MATRIX[0, 0] * MATRIX[1, 1]).sqrt())
few = settings(max_examples=8, deadline=None)
Shown = tuple[Tensor, Tensor]
Render = Callable[..., Shown]


def plain(c: Convexes, view=VIEW, matrix=MATRIX, width=WIDTH, height=HEIGHT, back=BACK, **more) -> Shown:
    return render_reference(*c.tensors(), view, matrix, width, height, back, **more)


def compiled(
    c: Convexes, view=VIEW, matrix=MATRIX, width=WIDTH, height=HEIGHT, back=BACK, threshold=0.0, stop=0.0, **more
) -> Shown:
    from surefoot.splatting.rasterize import Settings, rasterize

    tensors = [t.float() for t in c.tensors()]
    chosen = Settings(threshold=threshold, stop=stop, **more)
    found = rasterize(*tensors, view[None], matrix[None], width, height, back, chosen)
    return found.image[0].double(), found.transmittance[0].double()


@pytest.fixture(params=["reference", "kernels"])
def render(request) -> Render:
    if request.param == "kernels":
        pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
        return compiled
    return plain


def same(render: Render, ours: Shown, theirs: Shown) -> None:
    slack = 1e-9 if render is plain else 1e-4  # float32 at hard edges
    torch.testing.assert_close(ours[0], theirs[0], atol=slack, rtol=0)
    torch.testing.assert_close(ours[1], theirs[1], atol=slack, rtol=0)


def shuffled(number: int, seed: int) -> Tensor:
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed))


# ---- what must not change it ----
def test_order_of_points_and_of_convexes(render):
    @few
    @given(scenes(), st.integers(0, 99))
    def check(c, seed):
        points = c.points[:, shuffled(c.points.shape[1], seed)]
        row = shuffled(len(points), seed)
        same(render, render(Convexes(*(t[row] for t in c.at(points=points).tensors()))), render(c))

    check()


def test_a_point_in_the_middle(render):
    @few
    @given(scenes())
    def check(c):
        more = torch.cat([c.points, c.points.mean(dim=1, keepdim=True)], dim=1)
        same(render, render(c.at(points=more)), render(c))

    check()


def test_scene_and_camera_move_together(render):
    @few
    @given(scenes(), st.integers(0, 10_000))
    def check(c, seed):
        motion = turned(seed)
        moved = c.at(points=c.points @ motion[:3, :3].T + motion[:3, 3])
        same(render, render(moved, view=VIEW @ torch.linalg.inv(motion)), render(c))

    check()


def test_scale_of_the_world(render):
    @few
    @given(scenes(), st.floats(0.1, 20.0))
    def check(c, scale):
        scaled = c.at(points=c.points * scale, delta=c.delta / scale, sigma=c.sigma / scale)
        same(render, render(scaled, near=0.2 * scale), render(c))

    check()


def test_three_times_the_focal_length(render):
    """With delta / 9 every third pixel of the larger image is the small one's; the option `focal` divides so; without it, none is."""

    @few
    @given(scenes())
    def check(c):
        large, size = MATRIX.clone(), {"width": 3 * WIDTH, "height": 3 * HEIGHT}
        large[:2] *= 3
        for kept, image in ((c.at(delta=c.delta / 9), render(c)), (c, render(c, focal=FOCAL))):
            focal = {} if kept is not c else {"focal": FOCAL}
            big = render(kept, matrix=large, **size, **focal)
            same(render, (big[0][1::3, 1::3], big[1][1::3, 1::3]), image)

    check()
    c, large = convexes(3), MATRIX.clone()
    large[:2] *= 3
    blunt = render(c, matrix=large, width=3 * WIDTH, height=3 * HEIGHT)[0]
    assert (blunt[1::3, 1::3] - render(c)[0]).abs().max() > 0.01


def test_a_crop_is_a_shift_of_the_principal_point(render):
    @few
    @given(scenes(), st.integers(0, 20), st.integers(0, 15))
    def check(c, left, top):
        shifted = MATRIX.clone()
        shifted[0, 2] -= left
        shifted[1, 2] -= top
        crop = render(c, matrix=shifted, width=20, height=15)
        image, rest = render(c)
        same(render, crop, (image[top : top + 15, left : left + 20], rest[top : top + 15, left : left + 20]))

    check()


def test_order_of_convexes_apart(render):
    """One at the left, one at the right, either the nearer: at the same size in the picture both ways are one picture."""

    @few
    @given(scenes(most=1, hardness=(40.0,)), st.floats(1.01, 1.5))
    def check(c, farther):
        two = Convexes(*(t.repeat(2, *[1] * (t.ndim - 1)) for t in c.tensors()))
        points = two.points - two.points.mean(dim=1, keepdim=True) + torch.tensor([0.0, 0.0, 3.0], dtype=DOUBLE)
        points = points * 0.2 + torch.tensor([[[-0.8, 0.0, 2.4]], [[0.8, 0.0, 2.4]]], dtype=DOUBLE)
        images = []
        for grow in ([farther, 1.0], [1.0, farther]):
            g = torch.tensor(grow, dtype=DOUBLE)
            moved = two.at(points=points * g[:, None, None], delta=two.delta / g, sigma=two.sigma / g)
            images.append(render(moved, threshold=1e-3))
        same(render, images[0], images[1])

    check()


def test_tiles_change_no_bit_of_the_kernels_image():
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")

    @few
    @given(scenes(most=40, hardness=(0.3, 4.0, 40.0)), st.booleans())
    def check(c, cull):
        found = [compiled(c, threshold=1 / 255, stop=1e-4, tile=tile, cull=cull) for tile in (8, 16, 32)]
        for other in found[1:]:
            assert torch.equal(other[0], found[0][0])
            assert torch.equal(other[1], found[0][1])

    check()


# ---- what it must be ----
def test_colours_weigh_in_linearly_and_weights_are_a_partition_of_unity(render):
    @few
    @given(scenes(), st.floats(-2.0, 3.0))
    def check(c, factor):
        other = c.colors.flip(0)
        mixed = render(c.at(colors=c.colors + factor * other), back=BACK + factor * BACK)[0]
        apart = render(c)[0] + factor * render(c.at(colors=other))[0]
        torch.testing.assert_close(mixed, apart, atol=1e-11 if render is plain else 2e-5, rtol=0)
        one = torch.ones(3, dtype=DOUBLE)
        ones = render(c.at(colors=torch.ones_like(c.colors)), back=one)[0]
        torch.testing.assert_close(ones, torch.ones_like(ones), atol=1e-12 if render is plain else 1e-5, rtol=0)

    check()


def test_transmittance_and_colours_stay_in_their_range(render):
    @few
    @given(scenes(hardness=(0.3, 1.0, 40.0)))
    def check(c):
        image, left = render(c)
        slack = 1e-12 if render is plain else 1e-5
        assert (left >= 0).all()
        assert (left <= 1).all()
        every = torch.cat([c.colors, BACK[None]])
        assert (image >= every.amin(dim=0) - slack).all()
        assert (image <= every.amax(dim=0) + slack).all()

    check()


def test_what_is_more_opaque_than_a_level_is_convex(render):
    """Of any two pixels and the one in their middle, the middle one is at least as opaque as the less opaque end."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    places = torch.stack([rows.reshape(-1), columns.reshape(-1)], dim=1)

    @few
    @given(scenes(most=1, hardness=(0.3, 1.0, 40.0)), st.integers(0, 99))
    def check(c, seed):
        alpha = 1 - render(c)[1]
        g = torch.Generator().manual_seed(seed)
        first, second = (places[torch.randint(len(places), (4000,), generator=g)] for _ in range(2))
        second = second + (first - second) % 2  # so that the middle is a pixel
        fits = (second < torch.tensor([HEIGHT, WIDTH])).all(dim=1)
        first, second = first[fits], second[fits]
        middle = (first + second) // 2
        least = torch.minimum(alpha[*first.T], alpha[*second.T])
        assert (alpha[*middle.T] >= least - (1e-12 if render is plain else 1e-6)).all()

    check()


def test_no_pixel_is_farther_from_the_exact_image_than_its_bound():
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    @settings(max_examples=15, deadline=None)
    @given(
        scenes(most=60, hardness=(0.3, 4.0, 40.0, 400.0)),
        st.sampled_from((0.0, 1 / 255, 0.1)),
        st.sampled_from((1e-4, 0.05)),
    )
    def check(c, threshold, stop):
        tensors, chosen = [t.float() for t in c.tensors()], Settings(threshold=threshold, stop=stop)
        found = rasterize(*tensors, VIEW[None], MATRIX[None], WIDTH, HEIGHT, BACK, chosen, bounding=True)
        assert found.bound is not None
        wrong = (plain(c)[0] - found.image[0].double()).abs()
        assert (wrong <= found.bound[0]).all()

    check()


# ---- splitting ----
@few
@given(st.integers(1, 7), st.integers(3, 8), st.integers(0, 99), st.floats(0.3, 0.9), st.floats(0.5, 0.95))
def test_children_follow_the_formula_and_moments_stay_with_their_convexes(number, corners, seed, scale, exponent):
    """N + (K - 1) n convexes after n splits; child j has the points p_j + scale (p_k - c); every other row keeps its Adam moments."""
    from surefoot.splatting.model import NAMES, keep, split

    g = torch.Generator().manual_seed(seed)
    shapes = {"points": (corners, 3), "sh0": (3,), "sh_rest": (3, 3)}
    table = {name: torch.randn(number, *shapes.get(name, ()), generator=g) for name in NAMES}
    moments = [
        {
            name: k + torch.arange(number).float().view(-1, *[1] * (v.ndim - 1)).expand_as(v).clone()
            for name, v in table.items()
        }
        for k in (100, 200)
    ]
    marked = torch.rand(number, generator=g) < 0.5
    chosen = marked.nonzero()[:, 0]
    children = split(table, chosen, scale, exponent)
    after, first, second = keep([table, *moments], ~marked, children)
    kept = number - len(chosen)
    assert len(after["points"]) == number + (corners - 1) * len(chosen)
    for n, parent in enumerate(chosen.tolist()):
        p = table["points"][parent]
        for j in range(corners):
            row = kept + corners * n + j
            torch.testing.assert_close(after["points"][row], p[j] + scale * (p - p.mean(dim=0)))
            assert float(torch.sigmoid(after["opacity_logit"][row])) == pytest.approx(
                0.5 * float(torch.sigmoid(table["opacity_logit"][parent])), rel=1e-4
            )
            log_sigma = float(table["log_sigma"][parent])
            assert float(after["log_sigma"][row]) == pytest.approx(exponent * log_sigma if log_sigma < 0 else log_sigma)
            for name in ("log_delta", "sh0", "sh_rest", "mask_logit"):
                assert torch.equal(after[name][row], table[name][parent])
    for name in NAMES:
        assert torch.equal(after[name][:kept], table[name][~marked])
        for table_of, base in ((first, 100), (second, 200)):
            rows = table_of[name].reshape(len(after["points"]), -1)
            assert (rows[:kept] == base + (~marked).nonzero().float()).all()
            assert (rows[kept:] == 0).all()


# ---- scenes that are none ----
def spoiled(c: Convexes, field: str, index: tuple[int, ...], value: float) -> list[Tensor]:
    changed = getattr(c, field).clone().float()
    changed[index] = value
    return [t.float() for t in c.at(**{field: changed}).tensors()]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("field", "index"), [("points", (2, 1, 0)), ("delta", (1,)), ("sigma", (3,)), ("opacity", (0,)), ("colors", (4, 2))]
)
def test_a_number_that_is_not_finite_is_named_with_its_index(field, index, value):
    from surefoot.splatting.rasterize import rasterize

    place = f"({', '.join(map(str, index))}{',' * (len(index) == 1)})"
    with pytest.raises(
        ValueError, match=rf"{field} is not finite at index {place}".replace("(", r"\(").replace(")", r"\)")
    ):
        rasterize(*spoiled(convexes(1), field, index, value), VIEW[None], MATRIX[None], WIDTH, HEIGHT)


@pytest.mark.parametrize("which", ["views", "matrices"])
def test_a_camera_that_is_not_finite_is_named(which):
    from surefoot.splatting.rasterize import rasterize

    views, matrices = VIEW[None].clone(), MATRIX[None].clone()
    {"views": views, "matrices": matrices}[which][0, 1, 2] = math.nan
    with pytest.raises(ValueError, match=rf"{which} is not finite at index \(0, 1, 2\)"):
        rasterize(*(t.float() for t in convexes(1).tensors()), views, matrices, WIDTH, HEIGHT)


@pytest.mark.parametrize("corners", [1, 2, 17])
def test_too_few_and_too_many_points_are_refused(corners):
    from surefoot.splatting.rasterize import rasterize

    with pytest.raises(ValueError, match="K from 3 to 16"):
        rasterize(*(t.float() for t in convexes(1, corners=corners).tensors()), VIEW[None], MATRIX[None], WIDTH, HEIGHT)


@pytest.mark.parametrize("field", ["delta", "sigma", "opacity", "colors"])
def test_shapes_that_do_not_fit_are_named(field):
    from surefoot.splatting.rasterize import rasterize

    c = convexes(1)
    with pytest.raises(ValueError, match=rf"{field} \(11.*; expected \(12"):
        rasterize(
            *(t.float() for t in c.at(**{field: getattr(c, field)[1:]}).tensors()),
            VIEW[None],
            MATRIX[None],
            WIDTH,
            HEIGHT,
        )


@pytest.mark.parametrize("focal", [0.0, -3.0])
def test_a_focal_length_that_is_not_positive_is_named(focal):
    from surefoot.splatting.rasterize import rasterize

    matrix = MATRIX.clone()
    matrix[1, 1] = focal
    with pytest.raises(ValueError, match="focal length that is not positive"):
        rasterize(*(t.float() for t in convexes(1).tensors()), VIEW[None], matrix[None], WIDTH, HEIGHT)


def test_nothing_and_nothing_in_sight_is_background(render):
    c = convexes(5)
    for hidden in (Convexes(*(t[:0] for t in c.tensors())), c.at(points=-c.points)):
        image, left = render(hidden)
        assert (left == 1).all()
        torch.testing.assert_close(image, BACK.expand_as(image), atol=1e-7, rtol=0)


def test_points_without_an_area_are_counted_and_give_no_nan():
    """All at one place, on a line in space, on a line of sight, two of three alike: status 2, no weight, gradients of zero."""
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    @few
    @given(st.integers(0, 10_000), st.sampled_from((3, 6, 16)))
    def check(seed, corners):
        c = convexes(seed, 4, corners)
        g = torch.Generator().manual_seed(seed)
        share = torch.randint(0, 5, (corners, 1), generator=g).double() / 4
        points = c.points.clone()
        points[0] = points[0, :1]
        points[1] = (points[1, :1] + share * torch.tensor([[0.5, 0.25, 0.5]], dtype=DOUBLE)).float().double()
        points[2] = points[2, :1] * (1 + share)
        points[3] = points[3, :2][torch.arange(corners) % 2]
        leaves = c.at(points=points).leaves(torch.float32)
        found = rasterize(*leaves, VIEW[None], MATRIX[None], WIDTH, HEIGHT, BACK, Settings(threshold=0.0))
        assert found.status[0].tolist() == [2, 2, 2, 2]
        assert (found.transmittance == 1).all()
        found.image.sum().backward()
        for leaf in leaves:
            assert leaf.grad is not None
            assert (leaf.grad == 0).all()

    check()


@pytest.mark.parametrize("hard", [(1e6, 1e6), (1e18, 1e18), (1e37, 1e37), (4e39, 1.0), (1.0, 5e38)])
def test_sharpness_without_end_is_finite(hard):
    """sigma delta z^2 beyond what float32 holds: a hard polygon, and no NaN in image or gradient."""
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    c = convexes(17)
    leaves = c.at(delta=c.delta * hard[0], sigma=c.sigma * hard[1]).leaves(torch.float32)
    found = rasterize(*leaves, VIEW[None], MATRIX[None], WIDTH, HEIGHT, BACK, Settings())
    found.image.sum().backward()
    assert torch.isfinite(found.image).all()
    assert found.transmittance.min() < 0.5
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)


@pytest.mark.parametrize("opacity", [0.0, 1e-4, 1 / 255])
def test_what_is_fainter_than_the_threshold_is_not_shown(opacity):
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.splatting.rasterize import Settings, rasterize

    c = convexes(3, 5)
    leaves = c.at(opacity=torch.full_like(c.opacity, opacity)).leaves(torch.float32)
    found = rasterize(*leaves, VIEW[None], MATRIX[None], WIDTH, HEIGHT, BACK, Settings())
    assert found.status[0].tolist() == [3] * 5
    assert (found.transmittance == 1).all()
    found.image.sum().backward()
    assert all((leaf.grad == 0).all() for leaf in leaves if leaf.grad is not None)
