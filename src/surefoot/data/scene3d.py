"""What a card shows in three dimensions: points, meshes, cameras with their pictures, and a way to render any view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Mesh", "Scene3D", "SceneCamera"]

Array = np.ndarray[Any, np.dtype[Any]]
Render = Callable[[Array, Array, tuple[int, int]], Array]


@dataclass(frozen=True, eq=False)
class Mesh:
    """Vertices ``(V, 3)``, triangles ``(F, 3)``, colours of the vertices ``(V, 4)`` 8-bit, the fourth the opacity."""

    vertices: Array
    faces: Array
    colors: Array


@dataclass(frozen=True, eq=False)
class SceneCamera:
    """One camera: view ``(4, 4)`` (world to camera; x right, y down, z forward), K ``(3, 3)``, (width, height), its picture 8-bit or None."""

    name: str
    view: Array
    matrix: Array
    size: tuple[int, int]
    picture: Array | None = None
    group: str = "cameras"


@dataclass(frozen=True, eq=False)
class Scene3D:
    """A scene to look at.

    Attributes:
        title: of the page.
        points, colors: ``(m, 3)``, 8-bit ``(m, 3)``.
        mesh: hulls or bodies, or None.
        cameras: drawn as frusta; a click moves the viewer there.
        render: (view, K, (width, height)) -> 8-bit ``(height, width, 3)``; what stands behind everything else, or None.
        up: the direction that is up.
    """

    title: str
    points: Array
    colors: Array
    mesh: Mesh | None = None
    cameras: tuple[SceneCamera, ...] = ()
    render: Render | None = None
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
