"""Photos with cameras, as the trainer and the checkers see them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surefoot.records.fingerprint import fingerprint

__all__ = ["Capture", "Picture", "Trained"]

Array = np.ndarray[Any, np.dtype[Any]]
EXTENT = 5.0  # of the cameras, in the units that the published step sizes are made for


@dataclass(frozen=True, eq=False)
class Capture:
    """Photos in memory.

    Attributes:
        names: of the photos.
        photos: each ``(height, width, 3)`` float32 in [0, 1].
        matrices, views: K ``(n, 3, 3)`` at these sizes (the corner of the first pixel at (0, 0)), world to camera ``(n, 4, 4)``.
        test: places of the held-out photos.
        points, colors: ``(m, 3)`` world units, 8-bit ``(m, 3)``.
        masks: ``(height, width)`` (1 counts) or None, for each photo.
        background: colour behind everything.
        focal: focal length of the photos before they were reduced: delta holds there.
        solid: plain solids with hard edges, as generated scenes are.
        spacing: ``(m,)`` between the points, world units, where it is known; else it is measured.
    """

    names: tuple[str, ...]
    photos: tuple[Array, ...]
    matrices: Array
    views: Array
    test: tuple[int, ...]
    points: Array
    colors: Array
    masks: tuple[Array | None, ...]
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    focal: float = 0.0
    spacing: Array | None = None
    solid: bool = False
    _hash: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError(
                f"{len(self.photos)} photos, {len(self.test)} held out: none is left to train on; expected at least one"
            )
        if len(self.points) == 0:
            raise ValueError("there are no points to start from; expected a sparse point cloud with the cameras")

    def fingerprint(self) -> str:
        if not self._hash:
            masks = [m if m is not None else "none" for m in self.masks]
            parts = (
                list(self.names), list(self.photos), self.matrices, self.views, list(self.test), self.points, self.colors, masks,
                list(self.background), self.focal, [] if self.spacing is None else self.spacing,
            )  # fmt: skip
            self._hash.append(fingerprint(*parts))
        return self._hash[0]

    @property
    def train(self) -> tuple[int, ...]:
        return tuple(i for i in range(len(self.photos)) if i not in set(self.test))

    @property
    def places(self) -> Array:
        """Camera centres ``(n, 3)``."""
        return -np.einsum("nji,nj->ni", self.views[:, :3, :3], self.views[:, :3, 3])

    @property
    def extent(self) -> float:
        """1.1 times the largest distance of a training camera from their middle, world units."""
        places = self.places[list(self.train)]
        return 1.1 * float(np.linalg.norm(places - places.mean(axis=0), axis=1).max())

    @property
    def unit(self) -> float:
        """World units that make one unit of training: the cameras' extent is 5, or, where they do not move, the median depth."""
        local = self.points @ self.views[self.train[0], :3, :3].T + self.views[self.train[0], :3, 3]
        front = local[:, 2][local[:, 2] > 0]
        depth = float(np.median(front)) if len(front) else 1.0
        return max(self.extent, 0.05 * depth) / EXTENT if self.extent > 1e-3 * depth else depth / EXTENT

    @property
    def middle(self) -> Array:
        """The origin of training."""
        return self.places[list(self.train)].mean(axis=0)


@dataclass(frozen=True, eq=False)
class Picture(Capture):
    """One picture as the plane z = 1 before one camera."""

    @staticmethod
    def of(image: Any, name: str = "picture", background: tuple[float, float, float] | None = None) -> Picture:
        """The picture ``(height, width, 3)`` or ``(height, width)``, floating point in [0, 1] or 8-bit.

        Args:
            background: behind everything; None takes the picture's mean colour.

        Raises:
            ValueError: another shape, values out of range or not finite, fewer than 2 x 2 pixels.
        """
        pixels = np.asarray(image)
        if pixels.dtype == np.uint8:
            pixels = pixels / np.float32(255)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=-1)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 2 or pixels.dtype.kind != "f":
            raise ValueError(
                f"{name} is {pixels.dtype} {pixels.shape}; expected (height, width, 3) or (height, width), floating point or 8-bit"
            )
        if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"{name} has values that are not finite or outside [0, 1]")
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
        height, width = pixels.shape[:2]
        focal = float(max(height, width))
        mean = pixels.mean(axis=(0, 1), dtype=float)
        matrix = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return Picture(
            (name,), (pixels,), matrix[None], np.eye(4)[None], (), np.array([[0.0, 0.0, 1.0]]), np.full((1, 3), 128, np.uint8), (None,),
            background or (float(mean[0]), float(mean[1]), float(mean[2])), focal,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained scene in world units: the fields of `exchange.ConvexSet`, and what a renderer must know beside them.

    Attributes:
        points, log_delta, log_sigma, opacity_logit, sh0, sh_rest: see there.
        focal: where delta holds.
        near: centroids at or before this depth are not shown.
        background: ``(3,)``.
        threshold: contributions below it are left out.
        centers: ``(N, 3)`` float32, where the scene is kept in half precision (`light`).
    """

    points: Array
    log_delta: Array
    log_sigma: Array
    opacity_logit: Array
    sh0: Array
    sh_rest: Array
    focal: float
    near: float
    background: Array
    threshold: float
    centers: Array | None = None

    @property
    def sh_degree(self) -> int:
        return math.isqrt(self.sh_rest.shape[1] + 1) - 1
