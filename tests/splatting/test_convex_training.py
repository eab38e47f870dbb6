"""Model, splitting, training: formulas of the paper, moments that stay aligned, and pictures that get better."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from surefoot.core.random import Streams
from surefoot.splatting.loading import read_npz_capture, turntable_capture, write_npz_capture
from surefoot.splatting.model import directions, keep, mask, split, start_parameters
from surefoot.splatting.problem import Capture

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.splatting.certify import show
from surefoot.splatting.train import TrainConvexes

SHORT = TrainConvexes(
    horizon=60, rate=5.0, opacity=0.5, sigma=0.02, delta=0.5, split_every=15, split_from=10, split_until=50, most=400, judge_every=20
)  # fmt: skip


@pytest.fixture(scope="module")
def capture() -> Capture:
    return turntable_capture(photos=8, size=24, boxes=3)


def test_start_is_the_published_one():
    g = np.random.default_rng(0)
    points, colors = g.normal(size=(30, 3)), g.integers(0, 256, (30, 3)).astype(np.uint8)
    p = start_parameters(points, colors, 6, 0.00095, 3)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    spacing = np.sqrt((np.sort(apart, axis=1)[:, 1:4] ** 2).mean(axis=1))
    shape = p["points"].double().numpy() - points[:, None]
    np.testing.assert_allclose(np.linalg.norm(shape, axis=2), 1.2 * spacing[:, None] * np.ones(6), rtol=1e-5)
    np.testing.assert_allclose(p["log_delta"].exp().numpy() * spacing, 0.1, rtol=1e-5)
    np.testing.assert_allclose(torch.sigmoid(p["opacity_logit"]).numpy(), 0.1, rtol=1e-5)
    np.testing.assert_allclose(0.5 + 0.28209479177387814 * p["sh0"].numpy(), colors / 255, atol=1e-6)
    assert p["sh_rest"].shape == (30, 15, 3)


def test_directions_are_on_the_sphere_and_balanced():
    for corners in (3, 6, 16):
        d = directions(corners)
        np.testing.assert_allclose(np.linalg.norm(d, axis=1), 1.0)
        assert abs(d[:, 2].sum()) < 1e-12


def test_children_of_a_split():
    g = torch.Generator().manual_seed(0)
    p = {name: torch.randn(5, *shape, generator=g) for name, shape in {
        "points": (6, 3), "log_delta": (), "log_sigma": (), "opacity_logit": (), "sh0": (3,), "sh_rest": (3, 3), "mask_logit": (),
    }.items()}  # fmt: skip
    chosen = torch.tensor([1, 3])
    children = split(p, chosen, 0.63, 0.88)
    for row, parent in enumerate((1, 3)):
        middle = p["points"][parent].mean(dim=0)
        for j in range(6):
            expected = p["points"][parent, j] + 0.63 * (p["points"][parent] - middle)
            torch.testing.assert_close(children["points"][6 * row + j], expected)
        o = torch.sigmoid(children["opacity_logit"][6 * row])
        torch.testing.assert_close(o, 0.5 * torch.sigmoid(p["opacity_logit"][parent]))
        sigma = float(p["log_sigma"][parent].exp())
        assert float(children["log_sigma"][6 * row].exp()) == pytest.approx(
            sigma**0.88 if sigma < 1 else sigma, rel=1e-5
        )
    kept = torch.ones(5, dtype=torch.bool)
    kept[chosen] = False
    moments = {name: torch.full_like(value, 7.0) for name, value in p.items()}
    fresh, first = keep([p, moments], kept, children)
    assert len(fresh["points"]) == 5 + (6 - 1) * 2
    torch.testing.assert_close(fresh["points"][:3], p["points"][[0, 2, 4]])
    assert (first["points"][:3] == 7).all()
    assert (first["points"][3:] == 0).all()


def test_mask_is_a_step_with_the_gradient_of_a_sigmoid():
    logit = torch.tensor([-9.0, 0.3], requires_grad=True)
    value = mask(logit, 0.01)
    assert value.tolist() == [0.0, 1.0]
    value.sum().backward()
    soft = torch.sigmoid(logit.detach())
    torch.testing.assert_close(logit.grad, soft * (1 - soft))


def test_training_shows_held_out_photos_better(capture):
    state = SHORT.init(capture, None, Streams(0))
    before = state.judged
    while state.k < SHORT.horizon:
        state = SHORT.step(capture, state)
    assert state.judged > before + 2.0
    assert len(state.slope) > len(capture.points)
    for table in (state.first, state.second):
        assert all(table[name].shape == value.shape for name, value in state.parameters.items())
    answer = SHORT.answer(capture, state)
    shown = show(answer, capture.views[0], capture.matrices[0], (24, 24)).image[0].numpy()
    error = -10 * math.log10(float(((shown - capture.photos[0]) ** 2).mean()))
    others = [
        -10 * math.log10(float(((show(answer, capture.views[i], capture.matrices[i], (24, 24)).image[0].numpy() - capture.photos[i]) ** 2).mean()))
        for i in capture.test[1:]
    ]  # fmt: skip
    assert np.mean([error, *others]) == pytest.approx(state.judged, abs=0.05)  # world units show the same picture


def test_units_of_the_world_do_not_matter(capture):
    scale, shift = 37.0, np.array([5.0, -3.0, 11.0])
    views = capture.views.copy()
    views[:, :3, 3] = scale * views[:, :3, 3] - np.einsum("nij,j->ni", views[:, :3, :3], shift)
    moved = dataclasses.replace(capture, views=views, points=scale * capture.points + shift, _hash=[])
    short = dataclasses.replace(SHORT, horizon=12)
    states = []
    for problem in (capture, moved):
        state = short.init(problem, None, Streams(0))
        while state.k < 12:
            state = short.step(problem, state)
        states.append(state)
    assert states[0].judged == pytest.approx(states[1].judged, abs=0.05)


def test_light_answer_is_close(capture):
    state = SHORT.init(capture, None, Streams(0))
    plain, light = SHORT.answer(capture, state), dataclasses.replace(SHORT, light=True).answer(capture, state)
    np.testing.assert_allclose(light.points, plain.points, atol=2e-3 * np.ptp(plain.points, axis=1).max())
    assert not np.array_equal(light.points, plain.points)


def test_capture_in_one_file_comes_back(capture, tmp_path):
    write_npz_capture(tmp_path / "c.npz", capture)
    found = read_npz_capture(tmp_path / "c.npz")
    np.testing.assert_allclose(found.photos[0], capture.photos[0], atol=1 / 500)
    assert found.test == capture.test
    np.testing.assert_array_equal(found.views, capture.views)


def test_bad_options_are_named():
    for wrong, message in [
        ({"corners": 2}, "corners"),
        ({"degree": 4}, "degree"),
        ({"horizon": 0}, "horizon"),
        ({"sigma": -1.0}, "sigma"),
    ]:
        with pytest.raises(ValueError, match=message):
            TrainConvexes(**wrong)


def test_no_photo_left_to_train_on(capture):
    with pytest.raises(ValueError, match="none is left"):
        dataclasses.replace(capture, test=tuple(range(8)), _hash=[])
    with pytest.raises(ValueError, match="no points"):
        dataclasses.replace(capture, points=np.zeros((0, 3)), _hash=[])


def test_stereo_sample_is_the_pair_examined():
    pytest.importorskip("skimage", reason="scikit-image carries the pair (extra: samples)")
    from surefoot.data.stereo import motorcycle

    pair = motorcycle()
    assert all(source.note == "" for source in pair.sources)
    assert pair.photos[0].shape == (500, 741, 3)
    assert float(np.isnan(pair.depth).mean()) == pytest.approx(0.07, abs=0.01)
    assert float(pair.covered.mean()) == pytest.approx(0.83, abs=0.005)
    # a pixel of the left photo, moved by the cameras, is where its disparity says
    row, column = (int(i[0]) for i in np.nonzero(np.isfinite(pair.depth) & (np.arange(741) > 399)))
    z = pair.depth[row, column]
    local = np.linalg.inv(pair.matrices[0]) @ [column + 0.5, row + 0.5, 1.0] * z
    seen = pair.matrices[1] @ (pair.views[1, :3, :3] @ local + pair.views[1, :3, 3])
    disparity = 994.978 * 0.193001 / z - 31.086
    assert seen[0] / seen[2] == pytest.approx(column + 0.5 - disparity, abs=1e-9)


def test_facing_start_covers_a_depth_map_and_knows_no_scale():
    """A wall before one camera, one convex a pixel: its first render is the photo, whatever the world's unit."""
    g = np.random.default_rng(3)
    photo = np.repeat(np.repeat(g.uniform(0.2, 0.9, (6, 8, 3)), 4, axis=0), 4, axis=1).astype(np.float32)
    matrix = np.array([[40.0, 0, 16], [0, 40.0, 12], [0, 0, 1]])
    row, column = (i.ravel() for i in np.mgrid[0:6, 0:8])
    for scale in (1.0, 50.0):
        depth = np.full(48, 3.0 * scale)
        across, down = (4 * column + 2 - 16) / 40 * depth, (4 * row + 2 - 12) / 40 * depth
        wall = Capture(
            ("wall",), (photo,), matrix[None], np.eye(4)[None], (), np.stack([across, down, depth], axis=1),
            np.round(255 * photo[4 * row, 4 * column]).astype(np.uint8), (None,), focal=40.0, spacing=4 * depth / 40,
        )  # fmt: skip
        trainer = TrainConvexes(start="facing", corners=4, size=math.sqrt(0.5), delta=8.0, sigma=2.0, opacity=0.98)
        state = trainer.init(wall, None, Streams(0))
        shape = state.parameters["points"].numpy()
        assert np.ptp(shape[:, :, 2], axis=1).max() < 1e-6  # parallel to the picture
        width = np.ptp(shape[:, :, 0], axis=1) / shape[:, 0, 2] * 40
        np.testing.assert_allclose(width, 4.0, rtol=1e-4)  # a spacing wide
        image = show(trainer.answer(wall, state), np.eye(4), matrix, (32, 24)).image[0].numpy()
        middles = np.abs(image[4 * row + 2, 4 * column + 2] - photo[4 * row + 2, 4 * column + 2])
        assert middles.max() < 0.06


def test_stereo_capture_shifts_the_left_photo():
    pytest.importorskip("skimage", reason="scikit-image carries the pair (extra: samples)")
    from surefoot.splatting.loading import stereo_capture

    capture, pair = stereo_capture(2, 3)
    assert capture.test == (4,)
    assert len(capture.train) == 4
    np.testing.assert_allclose(capture.photos[1][10, 20], pair.photos[0][20:22, 41:43].mean(axis=(0, 1)), atol=1e-6)
    assert capture.matrices[1][0, 2] == pytest.approx(capture.matrices[0][0, 2] - 0.5)
    # a point falls on a pixel of its colour, up to the texture of a block
    shown = capture.points @ capture.matrices[0].T
    column, row = np.floor(shown[:, :2] / shown[:, 2:]).astype(int).T
    inside = (column < capture.photos[0].shape[1]) & (row < capture.photos[0].shape[0])
    error = np.abs(capture.photos[0][row[inside], column[inside]] - capture.colors[inside] / 255)
    assert np.median(error) < 0.03
