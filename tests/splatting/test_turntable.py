"""The walk around a scene: it looks where the cameras look, stays level, and closes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surefoot.splatting.turntable import _looking, orbit, point_of_view, write_gif

POINT, UP = np.array([1.0, -2.0, 3.0]), np.array([0.0, -0.6, 0.8])


def ring(angles: np.ndarray, radius: float = 4.0, height: float = 1.0) -> np.ndarray:
    first = np.array([1.0, 0.0, 0.0])
    second = np.cross(UP, first)
    return np.stack(
        [_looking(POINT + radius * (np.cos(a) * first + np.sin(a) * second) + height * UP, POINT, UP) for a in angles]
    )


def places(views: np.ndarray) -> np.ndarray:
    return -np.einsum("nji,nj->ni", views[:, :3, :3], views[:, :3, 3])


def test_a_view_is_a_rotation_that_sees_the_point_ahead() -> None:
    for view in ring(np.linspace(0, 6, 7)):
        assert np.allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3))
        assert np.isclose(np.linalg.det(view[:3, :3]), 1.0)
        seen = view[:3, :3] @ POINT + view[:3, 3]
        assert np.allclose(seen[:2], 0.0, atol=1e-12)
        assert seen[2] > 0
        assert (view[:3, :3] @ UP)[1] < 0  # y is down


def test_the_point_that_the_cameras_look_at_is_found() -> None:
    point, up = point_of_view(ring(np.linspace(-0.5, 0.5, 5)))
    assert np.allclose(point, POINT)
    assert up @ UP > 0.9


def test_parallel_cameras_and_one_camera_have_a_point_ahead() -> None:
    views = np.stack([np.eye(4)] * 2)
    views[1, 0, 3] = -2.0
    point, _ = point_of_view(views)
    assert np.allclose(point, [1.0, 0.0, 1.0])
    assert np.allclose(point_of_view(views[:1])[0], [0.0, 0.0, 1.0])
    assert np.isfinite(orbit(views[:1], 5)).all()


def test_a_full_ring_is_walked_around_and_an_arc_is_swung() -> None:
    around = orbit(ring(2 * np.pi * np.arange(8) / 8), 12)
    steps = np.linalg.norm(np.diff(places(np.concatenate([around, around[:1]])), axis=0), axis=1)
    assert np.allclose(steps, steps[0])
    assert np.allclose(np.linalg.norm(places(around) - POINT, axis=1), np.sqrt(17.0))
    arc = ring(np.linspace(-0.4, 0.4, 5))
    swung = places(orbit(arc, 16)) - POINT
    known = places(arc) - POINT
    centre = known.mean(axis=0)
    angle = np.arccos(swung @ centre / np.linalg.norm(swung, axis=1) / np.linalg.norm(centre))
    assert angle.max() <= 0.45
    assert angle.max() > 0.3


def test_a_pair_with_parallel_axes_is_swung_around_what_lies_before_it() -> None:
    """Axes that never meet say nothing of the distance: it comes from the scene, and every view looks there."""
    views = np.stack([np.eye(4)] * 3)
    views[2, 0, 3] = -0.2
    point = np.array([0.2 / 3, 0.0, 3.0])
    swung = orbit(views, 12, least=4.0, away=3.0)
    seen = swung[:, :3, :3] @ point + swung[:, :3, 3]
    assert np.allclose(seen[:, :2], 0.0)
    assert np.allclose(seen[:, 2], 3.0, rtol=1e-3)
    angle = np.rad2deg(np.arcsin((places(swung) - point)[:, 0] / seen[:, 2]))
    assert np.isclose(angle.max(), 4.0)
    assert np.isclose(angle.min(), -4.0)


def test_every_frame_of_the_sample_turn_shows_the_scene() -> None:
    """The stereo pair: five photos, four of them from one place."""
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    from surefoot.core.random import Streams
    from surefoot.data.samples import SampleMissingError
    from surefoot.splatting.card import Options, method
    from surefoot.splatting.export import turn
    from surefoot.splatting.loading import stereo_capture

    try:
        capture, _ = stereo_capture(8, 12)
    except SampleMissingError as error:
        pytest.skip(str(error))
    trainer = method(Options(), capture)
    frames = turn(trainer.answer(capture, trainer.init(capture, None, Streams(0))), capture, 12)
    dark = np.array([(frame.max(axis=2) < 8).mean() for frame in frames])
    assert dark.max() < 0.3, dark
    assert len({frame.tobytes() for frame in frames}) == 7  # there and back


def test_a_gif_repeats(tmp_path: Path) -> None:
    frames = [np.full((6, 8, 3), 40 * i, dtype=np.uint8) for i in range(4)]
    assert write_gif(tmp_path / "it.gif", frames, 50) == 4
    with Image.open(tmp_path / "it.gif") as picture:
        assert (picture.size, picture.n_frames, picture.info["loop"]) == ((8, 6), 4, 0)
    with pytest.raises(ValueError, match="of one size"):
        write_gif(tmp_path / "it.gif", [frames[0], frames[0][:4]])
    with pytest.raises(ValueError, match="0 frames"):
        write_gif(tmp_path / "it.gif", [])
