"""Strategy sets beyond boxes: one set a player, whose projection can be enclosed. Their product is what play projects onto.

One weight a player makes the Euclidean projection onto each player's set the projection of the weighted norm; a set that couples the
players would break that argument, so it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surefoot.numerics.sets import Ball, Box, FreeSpace, Product, Set, Simplex

Array = np.ndarray[Any, np.dtype[Any]]
KNOWN = (FreeSpace, Box, Ball, Simplex)


def one_set_a_player(sets: Any, blocks: Sequence[int]) -> tuple[Set, ...]:
    """The players' sets.

    Raises:
        ValueError: a single set for all strategies, another number of sets than players, or a set of an unknown kind.
    """
    if isinstance(sets, Product) and tuple(sets.sizes) == tuple(blocks):
        sets = sets.sets
    if not isinstance(sets, Sequence):
        raise ValueError(
            f"the constraint set is one {type(sets).__name__} for all strategies together, which is no product of one set a player; "
            "the weighted norm's projection is blockwise only on a product: give sets=[set of player 1, set of player 2, ...]"
        )
    sets = tuple(sets)
    if len(sets) != len(blocks):
        raise ValueError(f"{len(sets)} strategy sets for {len(blocks)} players; expected one set a player")
    for i, each in enumerate(sets):
        if not isinstance(each, KNOWN):
            raise ValueError(
                f"player {i + 1}'s strategy set is a {type(each).__name__}; expected one of {', '.join(k.__name__ for k in KNOWN)}, whose "
                "projections can be enclosed"
            )
    return sets


def bounding_box(sets: Sequence[Set], blocks: Sequence[int]) -> tuple[Array, Array]:
    """Ends (d,) of the smallest box around the product, rounded outwards."""
    lows, highs = [], []
    for each, size in zip(sets, blocks, strict=True):
        low, high = np.full(size, -np.inf), np.full(size, np.inf)
        if isinstance(each, Box):
            low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), (size,)) for end in (each.low, each.high))
        elif isinstance(each, Ball):
            centre = np.broadcast_to(np.asarray(each.centre, dtype=np.float64), (size,))
            low, high = np.nextafter(centre - each.radius, -np.inf), np.nextafter(centre + each.radius, np.inf)
        elif isinstance(each, Simplex):
            low, high = np.full(size, 0.0 if size > 1 else each.mass), np.full(size, each.mass)
        lows.append(low)
        highs.append(high)
    return np.concatenate(lows), np.concatenate(highs)


def project(sets: Sequence[Set], blocks: Sequence[int], x: Array) -> Array:
    """The nearest strategies, player by player, of points (..., d)."""
    parts = torch.as_tensor(x, dtype=torch.float64).split(list(blocks), dim=-1)
    return torch.cat([each.project(part) for each, part in zip(sets, parts, strict=True)], dim=-1).numpy()
