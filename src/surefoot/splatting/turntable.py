"""A camera that walks around a scene, and the moving picture it takes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.records.files import write_bytes

__all__ = ["orbit", "point_of_view", "write_gif"]

Array = np.ndarray[Any, np.dtype[Any]]
PALETTE = 100_000  # pixels that the palette of a moving picture is made from


def point_of_view(views: Array, away: float | None = None) -> tuple[Array, Array]:
    """The point that cameras look at, and what is up for them.

    The point has the least sum of squared distances to the cameras' axes; parallel axes (or one camera) have no such point, then it
    lies `away` ahead of their middle.

    Args:
        views: world to camera, ``(n, 4, 4)``; x right, y down, z forward.
        away: None takes the mean distance between the cameras, or 1.

    Returns:
        the point ``(3,)`` and the unit vector ``(3,)`` that is up.
    """
    turns, shifts = views[:, :3, :3], views[:, :3, 3]
    places = -np.einsum("nji,nj->ni", turns, shifts)
    ahead = turns[:, 2]
    across = np.eye(3) - ahead[:, :, None] * ahead[:, None, :]  # onto the plane across an axis
    total = across.sum(axis=0)
    up = -turns[:, 1].sum(axis=0)
    length = np.linalg.norm(up)
    up = up / length if length > 1e-9 else np.array([0.0, -1.0, 0.0])
    middle = places.mean(axis=0)
    if np.linalg.eigvalsh(total)[0] > 1e-3 * len(views):
        point = np.linalg.solve(total, np.einsum("nij,nj->i", across, places))
        if ((point - places) * ahead).sum(axis=1).mean() > 0:
            return point, up
    apart = np.linalg.norm(places - middle, axis=1).mean() if len(views) > 1 else 1.0
    return middle + (away or apart or 1.0) * ahead.mean(axis=0), up


def orbit(views: Array, frames: int, least: float = 0.0, away: float | None = None) -> Array:
    """Views along a circle around the point that the cameras look at: once around where the cameras are (they span more than 180
    degrees), else there and back, along a sine, as far as they go to either side of the mean camera.

    Args:
        views: the cameras of the capture, ``(n, 4, 4)``.
        frames: how many views.
        least: degrees to either side, where the cameras hardly move.
        away: where cameras look along parallel axes, how far the point is from them (`point_of_view`).

    Returns:
        ``(frames, 4, 4)``; the first is the last one's successor, so the picture can repeat.
    """
    point, up = point_of_view(views, away)
    places = -np.einsum("nji,nj->ni", views[:, :3, :3], views[:, :3, 3]) - point
    heights = places @ up
    flat = places - heights[:, None] * up
    radius = np.linalg.norm(flat, axis=1).mean() or 1.0
    first = flat.mean(axis=0)
    if np.linalg.norm(first) < 1e-6 * radius:
        first = flat[0]
    first = first / np.linalg.norm(first)
    second = np.cross(up, first)
    angles = np.arctan2(flat @ second, flat @ first)
    if _gap(angles) < np.pi:
        path = 2 * np.pi * np.arange(frames) / frames
    else:
        reach = max(np.deg2rad(least), np.abs(angles).max())
        path = reach * np.sin(2 * np.pi * np.arange(frames) / frames)
    at = point + radius * (np.cos(path)[:, None] * first + np.sin(path)[:, None] * second) + heights.mean() * up
    return np.stack([_looking(place, point, up) for place in at])


def _gap(angles: Array) -> float:
    """The widest angle without a camera."""
    around = np.sort(angles % (2 * np.pi))
    return float(np.diff(np.append(around, around[0] + 2 * np.pi)).max())


def _looking(place: Array, point: Array, up: Array) -> Array:
    ahead = point - place
    ahead = ahead / np.linalg.norm(ahead)
    right = np.cross(ahead, up)
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(ahead, np.roll(up, 1))
    right = right / np.linalg.norm(right)
    view = np.eye(4)
    view[:3, :3] = np.stack([right, np.cross(ahead, right), ahead])
    view[:3, 3] = -view[:3, :3] @ place
    return view


def write_gif(path: Path, frames: Iterable[Array], milliseconds: int = 60) -> int:
    """Write 8-bit pictures ``(height, width, 3)`` as a GIF that repeats, with one palette for all; how many there were.

    The file is written whole or not at all.

    Raises:
        ValueError: no frame, or frames of two sizes.
    """
    from PIL import Image

    pictures = [Image.fromarray(np.ascontiguousarray(f)) for f in frames]
    if not pictures or len({p.size for p in pictures}) != 1:
        raise ValueError(
            f"{len(pictures)} frames of the sizes {sorted({p.size for p in pictures})}; expected some, of one size"
        )
    step = max(1, round((len(pictures) * pictures[0].width * pictures[0].height / PALETTE) ** 0.5))
    palette = Image.fromarray(np.concatenate([np.asarray(p)[::step, ::step] for p in pictures])).quantize(256)
    indexed = [p.quantize(palette=palette) for p in pictures]
    data = io.BytesIO()
    indexed[0].save(data, "GIF", save_all=True, append_images=indexed[1:], duration=milliseconds, loop=0)
    write_bytes(path, data.getvalue())
    return len(pictures)
