"""Two photos of a motorcycle with calibration and disparities, carried by scikit-image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.data.samples import PackagedFile, packaged

__all__ = ["StereoPair", "motorcycle"]

Array = np.ndarray[Any, np.dtype[Any]]
FOCAL = 994.978  # pixels
MIDDLE = (311.193, 254.877)  # of the left photo, pixel centres at integers
OFFSET = 31.086  # the right photo's principal point lies so far to the right
BASELINE = 0.193001  # metres
FILES = {"left": "motorcycle_left.png", "right": "motorcycle_right.png", "disparity": "motorcycle_disp.npz"}
DIGESTS = {"left": "db18e9c415761740", "right": "5fc913ae870e42a4", "disparity": "2e49c8cebff3fa20"}


@dataclass(frozen=True, eq=False)
class StereoPair:
    """Left and right photo with their cameras.

    Attributes:
        photos: two of ``(500, 741, 3)`` float32 in [0, 1].
        matrices, views: K ``(2, 3, 3)`` (the corner of the first pixel at (0, 0)), world to camera ``(2, 4, 4)``, metres.
        depth: ``(500, 741)`` metres along the left camera's axis, nan where unknown.
        covered: ``(500, 741)``, 1 where a pixel of the left photo falls on the right one.
        sources: the files.
    """

    photos: tuple[Array, Array]
    matrices: Array
    views: Array
    depth: Array
    covered: Array
    sources: tuple[PackagedFile, ...]


def motorcycle() -> StereoPair:
    """The pair of Scharstein et al., "High-resolution stereo datasets with subpixel-accurate ground truth" (2014), at a quarter size.

    x_right = x_left - disparity; depth = focal * baseline / (disparity + offset).

    Raises:
        SampleMissingError: scikit-image is not installed.
    """
    from PIL import Image

    found = {
        key: packaged("skimage", f"data/{name}", digest=DIGESTS[key], distribution="scikit-image", extra="samples")
        for key, name in FILES.items()
    }
    photos = []
    for key in ("left", "right"):
        with Image.open(found[key].path) as picture:
            photos.append(np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255))
    with np.load(found["disparity"].path, allow_pickle=False) as arrays:
        disparity = arrays["arr_0"].astype(float)
    known = np.isfinite(disparity)
    depth = np.where(known, FOCAL * BASELINE / (np.where(known, disparity, 1.0) + OFFSET), np.nan)
    rows, columns = np.nonzero(known)
    there = np.round(columns - disparity[known]).astype(int)
    inside = (there >= 0) & (there < disparity.shape[1])
    covered = np.zeros(disparity.shape, dtype=np.float32)
    covered[rows[inside], there[inside]] = 1.0
    matrix = np.array([[FOCAL, 0.0, MIDDLE[0] + 0.5], [0.0, FOCAL, MIDDLE[1] + 0.5], [0.0, 0.0, 1.0]])
    right = matrix.copy()
    right[0, 2] += OFFSET
    view = np.eye(4)
    view[0, 3] = -BASELINE
    return StereoPair(
        (photos[0], photos[1]), np.stack([matrix, right]), np.stack([np.eye(4), view]), depth, covered, tuple(found.values())
    )  # fmt: skip
