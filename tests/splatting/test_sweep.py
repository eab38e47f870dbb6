"""The plane sweep: empty cells get points at the depth of what the photos show there, and full ones none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from surefoot.splatting.problem import Capture
from surefoot.splatting.sweep import fill_points

DEPTH, SIDE = 4.0, 48


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    waves = [np.sin(5 * x + 3 * y), np.sin(4 * y - 2 * x), np.sin(6 * x) * np.cos(5 * y)]
    return 0.5 + 0.4 * np.stack(waves, axis=-1)


def scene(held_out: tuple[int, ...] = (), known: float = 0.0) -> Capture:
    """A textured wall; sparse points where x < `known`."""
    matrix = np.array([[60.0, 0, SIDE / 2], [0, 60.0, SIDE / 2], [0, 0, 1]])
    views, photos = np.repeat(np.eye(4)[None], 5, axis=0), []
    views[:, 0, 3] = [-0.4, -0.2, 0.0, 0.2, 0.4]
    row, column = np.mgrid[0:SIDE, 0:SIDE] + 0.5
    for view in views:
        x = (column - SIDE / 2) / 60 * DEPTH - view[0, 3]
        photos.append(texture(x, (row - SIDE / 2) / 60 * DEPTH).astype(np.float32))
    g = np.random.default_rng(0)
    points = np.concatenate([g.uniform(-2.2, 2.2, (1500, 2)), np.full((1500, 1), DEPTH)], axis=1)
    points = points[points[:, 0] < known]
    colors = np.round(255 * texture(points[:, 0], points[:, 1])).astype(np.uint8)
    return Capture(
        tuple("abcde"), tuple(photos), np.repeat(matrix[None], 5, axis=0), views, held_out, points, colors, (None,) * 5, focal=60.0
    )  # fmt: skip


@pytest.mark.parametrize("held_out", [(), (2,)])
def test_the_empty_half_of_a_wall_is_filled_at_its_depth(held_out):
    capture = scene(held_out)
    points, colors = fill_points(capture, 4)
    count = len(capture.points)
    np.testing.assert_array_equal(points[:count], capture.points)
    added = points[count:]
    assert len(added) > 40
    assert (added[:, 0] > -0.4).mean() > 0.9
    assert np.median(np.abs(added[:, 2] / DEPTH - 1)) < 0.07  # a level of the sweep is 6 % wide there
    expected = 255 * texture(added[:, 0], added[:, 1])
    assert np.median(np.abs(colors[count:] - expected)) < 25


def test_full_cells_get_no_more_points():
    capture = scene(known=9.0)
    assert len(fill_points(capture, 8)[0]) < 1.02 * len(capture.points)


def test_held_out_photos_are_not_looked_at():
    capture = scene((2,))
    spoiled = list(capture.photos)
    spoiled[2] = np.zeros_like(spoiled[2])
    other = dataclasses.replace(capture, photos=tuple(spoiled), _hash=[])
    for one, two in zip(fill_points(capture, 4), fill_points(other, 4), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_one_photo_shows_stays_empty():
    capture = scene((0, 1, 2, 3))
    points, _ = fill_points(capture, 4)
    assert len(points) == len(capture.points)


def test_larger_photos_are_compared_reduced():
    capture = scene()
    large = dataclasses.replace(
        capture, photos=tuple(np.repeat(np.repeat(p, 8, axis=0), 8, axis=1) for p in capture.photos),
        matrices=capture.matrices * np.array([8.0, 8.0, 1.0])[:, None], _hash=[],
    )  # fmt: skip
    points, _ = fill_points(large, 32)
    added = points[len(capture.points) :]
    assert len(added) > 40
    assert np.median(np.abs(added[:, 2] / DEPTH - 1)) < 0.07
