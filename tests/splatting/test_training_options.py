"""Options of the training: exposure, dropping, backgrounds, thresholds, half precision, the preview, and the line of progress."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from surefoot.core.random import Streams
from surefoot.numerics.images import ssim
from surefoot.records.files import UnsafeFileError
from surefoot.splatting.light import halved, pack, unpack
from surefoot.splatting.loading import turntable_capture
from surefoot.splatting.problem import Capture

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.splatting.certify import show
from surefoot.splatting.export import read_scene, write_scene
from surefoot.splatting.preview import NAME, Preview
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.train import TrainConvexes, TrainState

SHORT = TrainConvexes(
    horizon=40, rate=5.0, opacity=0.5, sigma=0.02, delta=0.5, split_from=1000, judge_every=20, block=4
)


@pytest.fixture(scope="module")
def capture() -> Capture:
    return turntable_capture(photos=8, size=20, boxes=3)


def trained(method: TrainConvexes, capture: Capture, steps: int | None = None) -> TrainState:
    state = method.init(capture, None, Streams(0))
    while state.k < (steps or method.horizon):
        state = method.step(capture, state)
    return state


def wall(
    photos: list[np.ndarray], test: tuple[int, ...], background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> Capture:
    """A wall at depth 3 that fills photos of 16 x 16 pixels, taken side by side."""
    count = len(photos)
    g = np.random.default_rng(0)
    points = np.concatenate([g.uniform(-1.8, 1.8, (80, 2)), np.full((80, 1), 3.0)], axis=1)
    views = np.repeat(np.eye(4)[None], count, axis=0)
    views[:, 0, 3] = np.linspace(-0.2, 0.2, count)
    matrix = np.array([[16.0, 0, 8], [0, 16.0, 8], [0, 0, 1]])
    return Capture(
        tuple(f"photo {i}" for i in range(count)), tuple(p.astype(np.float32) for p in photos), np.repeat(matrix[None], count, axis=0), views,
        test, points, np.full((80, 3), 128, np.uint8), (None,) * count, background, 16.0,
    )  # fmt: skip


def test_exposure_finds_how_bright_photos_were_taken():
    """One grey wall, photos of known brightness: the maps find their ratios, and the held-out photo of mean brightness is shown as it is."""
    brightness = [0.3, 0.5, 0.4, 0.6, 0.45]
    taken = wall([np.full((16, 16, 3), b) for b in brightness], (4,))
    method = dataclasses.replace(
        SHORT, start="sharp", horizon=160, exposure=True, exposure_rate=0.003, sigma=0.0, delta=0.0, opacity=0.9
    )
    state, without = trained(method, taken), trained(dataclasses.replace(method, exposure=False), taken)
    shown = [float((0.45 * m[:, :3].sum(dim=1) + m[:, 3]).mean()) for m in state.exposure[:4]]
    np.testing.assert_allclose(shown, brightness[:4], atol=0.05)
    torch.testing.assert_close(state.exposure[:4].mean(dim=0), torch.eye(3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(without.exposure, torch.eye(3, 4).repeat(5, 1, 1))
    assert state.shown > without.shown + 3.0


def test_dropping_starts_with_none_and_keeps_the_mean(capture):
    method = dataclasses.replace(SHORT, drop=0.4)
    state = method.init(capture, None, Streams(0))
    assert method._dropped(state) is None
    state.k = 40
    weight = method._dropped(state)
    assert weight is not None
    assert set(weight.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.6))}
    assert float(weight.mean()) == pytest.approx(1.0, abs=0.2)
    again = method._dropped(state)
    assert again is not None
    assert torch.equal(weight, again)  # a resumed run drops the same
    assert trained(method, capture).judged > method.init(capture, None, Streams(0)).judged


def test_steps_fall_after_the_last_split():
    method = dataclasses.replace(SHORT, horizon=100, split_until=50, cool=0.1)
    assert method._rates(50)["sh0"] == pytest.approx(5 * 0.0025)
    assert method._rates(75)["sh0"] == pytest.approx(5 * 0.0025 * 0.1**0.5)
    assert method._rates(100)["log_sigma"] == pytest.approx(5 * 0.0045 * 0.1)
    assert method._rates(100)["points"] == pytest.approx(5 * 5e-4 * 0.01)


def test_threshold_falls_to_the_settings_own():
    method = dataclasses.replace(SHORT, threshold_first=0.1, threshold_until=20)
    last = method.settings.threshold
    assert method._threshold(0) == pytest.approx(0.1)
    assert method._threshold(10) == pytest.approx(math.sqrt(0.1 * last))
    assert method._threshold(20) == last == SHORT._threshold(0)


def test_random_background_closes_what_is_solid():
    """A wall of the background's own colour: only a background that varies tells them apart."""
    grey = wall([np.full((16, 16, 3), 0.5)] * 3, (1,), (0.5, 0.5, 0.5))
    method = dataclasses.replace(SHORT, start="sharp", opacity=0.3, sigma=0.0, delta=0.0, horizon=60)
    left = []
    for varied in (False, True):
        state = trained(dataclasses.replace(method, random_background=varied), grey)
        black = dataclasses.replace(grey, background=(0.0, 0.0, 0.0), _hash=[])
        left.append(float(method.shown(black, state, 1).mean()))
    assert left[1] > left[0] + 0.05


@pytest.mark.parametrize("more", [{"drop": 0.3}, {"random_background": True}, {"exposure": True, "cool": 0.2}])
def test_block_and_pause_change_nothing(capture, more):
    method = dataclasses.replace(SHORT, horizon=12, split_from=2, split_every=4, split_until=10, most=300, **more)
    one, other = trained(method, capture), trained(dataclasses.replace(method, block=1), capture)
    for name, value in one.parameters.items():
        assert torch.equal(value, other.parameters[name])
    assert torch.equal(one.exposure, other.exposure)


def test_wrong_values_are_refused():
    for more in ({"cool": 0.0}, {"drop": 1.0}, {"threshold_first": 1.0}):
        with pytest.raises(ValueError, match="cool is"):
            TrainConvexes(**more)


def test_half_precision_comes_back_bit_for_bit_in_half_the_bytes(capture, tmp_path):
    state = trained(SHORT, capture, 8)
    for light in (False, True):
        method = dataclasses.replace(SHORT, light=light, degree=0)
        scene = method.answer(capture, state)
        folder = tmp_path / str(light)
        folder.mkdir()
        write_scene(scene, capture, folder)
        again = read_scene(folder)
        for field in dataclasses.fields(scene):
            value, found = getattr(scene, field.name), getattr(again, field.name)
            assert np.array_equal(value, found) if value is not None else found is None, field.name
    sizes = [(tmp_path / name / "convexes.safetensors").stat().st_size for name in ("False", "True")]
    count = len(scene.points)
    assert sizes[1] < sizes[0] - 34 * count  # 24 numbers a convex lose two bytes each, the centroid takes 12


def test_half_precision_keeps_digits_at_any_scale_and_place():
    g = np.random.default_rng(1)
    for scale, shift in ((1.0, 0.0), (1e-6, 3.0), (1e5, -1e6), (1.0, 1e4)):
        points = shift + scale * (5 * g.normal(size=(50, 1, 3)) + 0.1 * g.normal(size=(50, 6, 3)))
        rest = {n: g.normal(size=50) for n in ("log_delta", "log_sigma", "opacity_logit")}
        arrays = {"points": points, **rest, "sh0": g.normal(size=(50, 3)), "sh_rest": g.normal(size=(50, 3, 3))}
        kept = halved(arrays)
        size = np.ptp(points, axis=1).max()
        coarse = np.spacing(np.abs(points).max().astype(np.float32))
        assert np.abs(kept["points"] - points).max() < 5e-4 * size + 2 * coarse
        packed = pack(kept, kept["centers"])
        assert packed is not None
        again = unpack(*packed)
        for name, value in kept.items():
            np.testing.assert_array_equal(again[name], value, err_msg=name)
    moved = {**kept, "points": kept["points"] + np.float32(0.37)}
    assert pack(moved, kept["centers"] - np.float32(1e3)) is None or np.array_equal(
        unpack(*pack(moved, kept["centers"] - np.float32(1e3)))["points"], moved["points"]
    )
    assert pack({**kept, "sh0": kept["sh0"] + np.float32(1e-5)}, kept["centers"]) is None  # not of 16 bits


def test_half_precision_refuses_what_does_not_fit(capture):
    kept = halved({
        "points": np.zeros((2, 4, 3)), "log_delta": np.zeros(2), "log_sigma": np.zeros(2), "opacity_logit": np.zeros(2),
        "sh0": np.zeros((2, 3)), "sh_rest": np.zeros((2, 0, 3)),
    })  # fmt: skip
    packed = pack(kept, kept["centers"])
    assert packed is not None
    tensors, exponent = packed
    with pytest.raises(UnsafeFileError, match="centers"):
        unpack({**tensors, "centers": tensors["centers"].astype(np.float16)}, exponent)
    with pytest.raises(UnsafeFileError, match="offsets"):
        unpack({**tensors, "offsets": tensors["offsets"][:1]}, exponent)
    with pytest.raises(UnsafeFileError, match="exponent"):
        unpack(tensors, 10_000)
    del tensors["sh0"]
    with pytest.raises(UnsafeFileError, match="sh0"):
        unpack(tensors, exponent)


def test_preview_is_photo_beside_render(capture, tmp_path):
    from PIL import Image

    state = trained(SHORT, capture, 4)
    seen = Preview(tmp_path, capture, SHORT, every=3600.0)
    seen.draw(state)
    with Image.open(tmp_path / "figures" / NAME) as picture:
        pixels = np.asarray(picture) / 255.0
    assert pixels.shape == (20, 40, 3)
    index = capture.test[0]
    np.testing.assert_allclose(pixels[:, :20], capture.photos[index], atol=1 / 255)
    np.testing.assert_allclose(pixels[:, 20:], SHORT.shown(capture, state, index).numpy().clip(0, 1), atol=1 / 255)
    assert not list((tmp_path / "figures").glob(".*"))


def test_preview_waits(capture, tmp_path):
    from surefoot.core.solve import Budget, Moment

    state = SHORT.init(capture, None, Streams(0))
    moment = Moment(0, {}, {}, 0.0, state, Budget())
    waiting = Preview(tmp_path, capture, SHORT, every=3600.0)
    assert waiting(moment) is None
    assert not (tmp_path / "figures").exists()
    waiting.next = 0.0
    assert waiting(moment) is None
    assert (tmp_path / "figures" / NAME).is_file()


def test_schedules_follow_the_capture_where_options_leave_them_open(capture):
    from surefoot.splatting.card import CARD, Options, method

    solid = method(Options(), capture)
    assert (solid.horizon, solid.corners, solid.rate) == (200, 8, 20.0)
    photos = method(Options(), wall([np.full((16, 16, 3), 0.5)] * 3, (1,)))
    assert (photos.horizon, photos.corners, photos.rate, photos.points_rate) == (3000, 6, 4.0, 5e-4)
    depth = method(Options(), dataclasses.replace(capture, solid=False, spacing=np.ones(len(capture.points)), _hash=[]))
    assert (depth.horizon, depth.corners, depth.points_rate) == (12, 4, 4e-5)
    asked = method(Options(steps=7, corners=5, rate=2.0), capture)
    assert (asked.horizon, asked.corners, asked.rate, asked.points_rate) == (7, 5, 2.0, 2e-3)
    published = method(CARD.presets["paper"], capture)
    assert (published.horizon, published.rate) == (30_000, 1.0)


def test_the_tour_turntable_is_shown_well():
    """At least 20 dB on the held-out photos after a quarter of the tour's steps (it starts from 16.5)."""
    from surefoot.splatting.card import CARD, method

    problem = turntable_capture()
    trainer = dataclasses.replace(method(CARD.presets["tour"], problem), horizon=50, judge_every=50)
    assert trained(trainer, problem).judged > 20.0


def test_full_gradient_is_that_of_the_mean_loss(capture):
    """The photos' losses in one graph; the photos' own gradients do not add up to it by length, so an average of norms would fail."""
    method = dataclasses.replace(SHORT, horizon=4, full_gradients=True)
    state = method.init(capture, None, Streams(0))
    start = state.steepness
    assert method.look(state).row["full_gradient"] == start
    leaves = {name: value.detach().requires_grad_() for name, value in state.parameters.items()}
    losses = []
    for index in capture.train:
        image = method._render(capture, leaves, index, 0)[0].image[0]
        target = torch.from_numpy(capture.photos[index])
        masks = 5e-4 * torch.sigmoid(leaves["mask_logit"]).mean()
        losses.append(0.8 * (image - target).abs().mean() + 0.2 * (1 - ssim(image, target)) + masks)
    torch.stack(losses).mean().backward()
    norm = math.sqrt(sum(float(leaf.grad.square().sum()) for leaf in leaves.values() if leaf.grad is not None))
    assert start == pytest.approx(norm, rel=1e-5)
    while state.k < 4:
        state = method.step(capture, state)
    assert state.steepness != start
    assert "full_gradient" not in SHORT.look(state).row


def test_answer_is_judged_at_its_own_threshold(capture):
    """Soft convexes: what 0.1 leaves out is seen by the answer, in its renders and in what the history says of them."""
    method = dataclasses.replace(
        SHORT, start="ball", opacity=0.0, sigma=0.0, delta=0.0, horizon=4, settings=Settings(threshold=0.1), answer_threshold=0.001
    )  # fmt: skip
    state = trained(method, capture)
    answer = method.answer(capture, state)
    assert answer.threshold == 0.001
    assert dataclasses.replace(method, answer_threshold=0.5).answer(capture, state).threshold == 0.1
    index = capture.test[0]
    image = show(answer, capture.views[index], capture.matrices[index], (20, 20)).image[0]
    torch.testing.assert_close(image, method.shown(capture, state, index), atol=2e-3, rtol=0)
    coarse = dataclasses.replace(method, answer_threshold=0.0).shown(capture, state, index)
    assert float((coarse - image).abs().max()) > 0.02
