"""More points to start from: a plane sweep over the training photos, where sparse points leave cells of a photo empty.

A pixel of one photo at depth z lies at a point of the world, which other photos show too. Where the pixel's surroundings look the same in
them, z is likely its depth; lawns and skies, which have no corners to match, agree over a range of depths, and there the farthest is taken.
What agrees at no depth that two other photos see must lie where they do not look (a branch before one camera): it
gets the farthest such depth. Each photo's empty cells are filled in turn, so that cells which earlier photos have filled already count. Held-out photos are not looked at.

References:
    Collins, "A space-sweep approach to true multi-image matching" (1996).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from surefoot.splatting.problem import Capture

__all__ = ["fill_points"]

WIDEST = 256  # pixels of the photos that are compared
LEVELS = 64  # depths, evenly in 1 / z
NEAR, FAR = 0.25, 20.0  # times the depths of the sparse points
WINDOW = 5  # pixels
MOST = 0.25  # a difference of colours counts at most so much
ALIKE = 0.08  # mean difference of a depth that is believed
SLACK = 0.005  # differences within it are equal
OTHERS = 8  # photos, the nearest, that a photo is compared with
LEAST_VIEWS = 2
REGION, HALF = (
    15,
    0.6,
)  # pixels; what agrees nowhere counts where it fills such a share of its surroundings, not as a window's glint
Array = np.ndarray[Any, np.dtype[Any]]


def fill_points(problem: Capture, cell: int) -> tuple[Array, Array]:
    """The capture's points and those that were added: ``(m, 3)`` world units and 8-bit colours ``(m, 3)``.

    Args:
        cell: pixels of a photo, along each axis, that share one point at least.
    """
    points, colors = np.asarray(problem.points, dtype=float), problem.colors
    train = list(problem.train)
    reduced = [_reduced(problem, i) for i in train]
    for place, index in enumerate(train):
        picture, matrix, size = reduced[place]
        apart = np.linalg.norm(problem.places[train] - problem.places[index], axis=1)
        near = [p for p in np.argsort(apart, kind="stable").tolist() if p != place][:OTHERS]
        others = [(problem.views[train[p]], reduced[p][1], reduced[p][0]) for p in near]
        if not others:
            break
        view, step = problem.views[index], max(1, round(cell / size))
        local = points @ view[:3, :3].T + view[:3, 3]
        front = local[:, 2] > 0
        if not front.any():
            continue
        low, high = np.quantile(local[front, 2], [0.05, 0.95])
        depths = 1 / np.linspace(1 / (FAR * high), 1 / (NEAR * low), LEVELS)
        rows, columns = _empty(local[front], matrix, (picture.shape[1], picture.shape[2]), step)
        if len(rows) == 0:
            continue
        found, trusted = _sweep(picture, view, matrix, others, depths)
        row, column = rows * step + step // 2, columns * step + step // 2
        fine = trusted[row, column]
        row, column = row[fine], column[fine]
        ray = np.stack(
            [
                (column + 0.5 - matrix[0, 2]) / matrix[0, 0],
                (row + 0.5 - matrix[1, 2]) / matrix[1, 1],
                np.ones(len(row)),
            ],
            axis=1,
        )
        added = (ray * found[row, column][:, None] - view[:3, 3]) @ view[:3, :3]
        shade = np.round(255 * picture[:, row, column].numpy().T).astype(np.uint8)
        points, colors = np.concatenate([points, added]), np.concatenate([colors, shade])
    return points, colors


def _reduced(problem: Capture, index: int) -> tuple[Tensor, Array, int]:
    """A photo ``(3, height, width)``, averaged over blocks so that it is at most 256 pixels wide, its K, and the blocks' size."""
    photo = torch.from_numpy(problem.photos[index]).permute(2, 0, 1)
    size = max(1, -(-photo.shape[2] // WIDEST))
    matrix = problem.matrices[index].copy()
    matrix[:2] /= size
    return avg_pool2d(photo[None], size)[0], matrix, size


def _empty(local: Array, matrix: Array, shape: tuple[int, int], step: int) -> tuple[Array, Array]:
    """Rows and columns of the whole cells that no point before the camera falls into."""
    column = np.floor((matrix[0, 0] * local[:, 0] / local[:, 2] + matrix[0, 2]) / step)
    row = np.floor((matrix[1, 1] * local[:, 1] / local[:, 2] + matrix[1, 2]) / step)
    down, across = shape[0] // step, shape[1] // step
    inside = (row >= 0) & (row < down) & (column >= 0) & (column < across)
    full = np.zeros((down, across), dtype=bool)
    full[row[inside].astype(int), column[inside].astype(int)] = True
    rows, columns = np.nonzero(~full)
    return rows, columns


def _sweep(
    picture: Tensor, view: Array, matrix: Array, others: list[tuple[Array, Array, Tensor]], depths: Array
) -> tuple[Array, Array]:
    """The depth of each pixel at which the better half of the photos that see it agree best, and whether they do."""
    height, width = picture.shape[1:]
    v, u = np.mgrid[0:height, 0:width] + 0.5
    ray = np.stack([(u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1], np.ones_like(u)], axis=-1)
    least = torch.empty(len(depths), height, width)
    for level, depth in enumerate(depths):
        world = (ray * depth - view[:3, 3]) @ view[:3, :3]
        costs = [_difference(picture, world, *other) for other in others]
        least[level] = _better_half(torch.stack(costs))
    lowest = least.amin(dim=0)
    first = (least <= lowest + SLACK).to(torch.int8).argmax(dim=0)  # depths fall along the levels
    unseen = (lowest == ALIKE).float()
    around = avg_pool2d(unseen[None, None], REGION, 1, REGION // 2, count_include_pad=False)[0, 0]
    return depths[first.numpy()], ((lowest < ALIKE) | (unseen * around > HALF)).numpy()


def _difference(picture: Tensor, world: Array, view: Array, matrix: Array, other: Tensor) -> Tensor:
    """Mean difference of the pixels around each pixel from what another photo shows of them; infinite where it does not."""
    local = world @ view[:3, :3].T + view[:3, 3]
    z = np.maximum(local[..., 2], 1e-9)
    height, width = other.shape[1:]
    x = 2 * (matrix[0, 0] * local[..., 0] / z + matrix[0, 2]) / width - 1  # the borders of the photo lie at -1 and 1
    y = 2 * (matrix[1, 1] * local[..., 1] / z + matrix[1, 2]) / height - 1
    place = torch.from_numpy(np.stack([x, y], axis=-1)).float()
    shown = grid_sample(other[None], place[None], align_corners=False, padding_mode="border")[0]
    apart = (shown - picture).abs().mean(dim=0).clamp(max=MOST)
    mean = avg_pool2d(apart[None, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0, 0]
    inside = (local[..., 2] > 0) & (np.abs(x) < 1) & (np.abs(y) < 1)
    return torch.where(torch.from_numpy(inside), mean, torch.inf)


def _better_half(costs: Tensor) -> Tensor:
    """Mean over the better half (two at least) of the photos that see a pixel; where fewer than two do, what is just believed."""
    ordered = costs.sort(dim=0).values
    seen = torch.isfinite(ordered).sum(dim=0)
    many = ((seen + 1) // 2).clamp(min=min(LEAST_VIEWS, len(costs)))
    counted = torch.arange(len(costs))[:, None, None] < many
    total = torch.where(counted, ordered, 0.0).sum(dim=0)
    return torch.where(seen < many, ALIKE, total / many)
