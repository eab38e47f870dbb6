"""Closed convex sets: projection, membership, distance, support function, diameter.

Points lie along the last axis of a torch tensor and may be batched over the leading axes, so
``Simplex().project(x)`` projects every row of a matrix. Results keep the dtype and device of the point.
"""

from __future__ import annotations

from surefoot.numerics.sets.base import Set
from surefoot.numerics.sets.elementary import Affine, Ball, Box, FreeSpace, L1Ball, Product, Simplex
from surefoot.numerics.sets.ellipsoid import WeightedBall, project_ball_in_metric
from surefoot.numerics.sets.polyhedron import Polyhedron

__all__ = [
    "Affine",
    "Ball",
    "Box",
    "FreeSpace",
    "L1Ball",
    "Polyhedron",
    "Product",
    "Set",
    "Simplex",
    "WeightedBall",
    "project_ball_in_metric",
]
