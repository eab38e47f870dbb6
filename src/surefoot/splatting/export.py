"""A trained scene in and out of its folder: safetensors (exact), camera settings, PLY, hulls, Gaussians, a turn around it."""

from __future__ import annotations

import dataclasses
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.data.scene3d import Mesh, Scene3D, SceneCamera
from surefoot.numerics.threads import torch_threads
from surefoot.records.files import UnsafeFileError, read_json, regular, write_bytes, write_json
from surefoot.splatting.drawing import write_svg
from surefoot.splatting.exchange import (
    VERSION,
    ConvexSet,
    hull_meshes,
    read_convexes,
    write_convexes,
    write_gaussians,
    write_meshes,
)
from surefoot.splatting.light import pack
from surefoot.splatting.problem import Capture, Picture, Trained
from surefoot.splatting.turntable import orbit, write_gif

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[Any]]
ARRAYS = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
FRAMES, FRAME_WIDTH = 12, 320
SWING = 4.0  # degrees to either side, where the cameras hardly moved
FEW = 50_000  # convexes whose hulls and Gaussians are written without being asked: about a second
AT_ONCE = 400_000  # convexes times views that are rendered together


def write_scene(scene: Trained, problem: Capture, folder: Path) -> None:
    """`convexes.safetensors` and `camera.json` (read back), and for other programs `convexes.ply`, `turn.gif`, and for up to 50,000
    convexes `gaussians.ply` and `hulls.glb` (`write_for_others` writes them for any number). A picture is also drawn as `picture.svg`,
    and does not turn."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(scene, name), dtype=np.float32) for name in ARRAYS}
    light = None if scene.centers is None else pack(arrays, scene.centers)
    if light is None:
        data = save(arrays, metadata={"convexes": str(VERSION), "focal": repr(float(scene.focal))})
    else:
        packed, exponent = light
        data = save(
            packed, metadata={"convexes": str(VERSION), "exponent": str(exponent), "focal": repr(float(scene.focal))}
        )
    write_bytes(folder / "convexes.safetensors", data)
    write_json(folder / "camera.json", {
        "near": float(scene.near), "threshold": float(scene.threshold), "background": [float(b) for b in scene.background],
    })  # fmt: skip
    if len(scene.points) == 0 or not all(np.isfinite(a).all() for a in arrays.values()):
        return
    convexes = ConvexSet(**arrays, focal=float(scene.focal))
    write_convexes(folder / "convexes.ply", convexes)
    with ThreadPoolExecutor(1) as beside:
        others = beside.submit(write_for_others, convexes, folder) if len(convexes.points) <= FEW else None
        if isinstance(problem, Picture):
            write_svg(folder / "picture.svg", scene, problem)
        elif scene.near > 0 and scene.focal > 0 and 0 <= scene.threshold < 1:
            write_gif(folder / "turn.gif", turn(scene, problem, FRAMES))
        if others is not None:
            others.result()


def write_for_others(convexes: ConvexSet, folder: Path) -> None:
    """`gaussians.ply` for viewers of Gaussian scenes and, where trimesh is installed, `hulls.glb`."""
    write_gaussians(folder / "gaussians.ply", convexes)
    if (convexes.opacity >= 0.1).any():
        try:
            write_meshes(folder / "hulls.glb", convexes)
        except ImportError as error:
            log.warning("hulls.glb is left out: %s", error)


def turn(scene: Trained, problem: Capture, frames: int) -> list[Array]:
    """8-bit pictures of a turn around the scene, at most 320 pixels wide; what is seen twice (there and back) is rendered once."""
    from surefoot.splatting.certify import show

    height, width = problem.photos[0].shape[:2]
    shrink = min(1.0, FRAME_WIDTH / width)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    matrix = problem.matrices[0].copy()
    matrix[0] *= size[0] / width
    matrix[1] *= size[1] / height
    depth = (scene.points.mean(axis=1) - problem.places.mean(axis=0)) @ problem.views[:, 2, :3].mean(axis=0)
    ahead = depth[depth > scene.near]
    views = orbit(problem.views, frames, SWING, float(np.median(ahead)) if len(ahead) else None)
    _, distinct, place = np.unique(np.round(views, 9) + 0.0, axis=0, return_index=True, return_inverse=True)
    step, out = max(1, AT_ONCE // len(scene.points)), []
    with torch_threads(1):
        for begin in range(0, len(distinct), step):
            images = show(scene, views[distinct[begin : begin + step]], matrix, size).image.numpy()
            out += list(np.round(255 * np.clip(images, 0, 1)).astype(np.uint8))
    return [out[i] for i in place.ravel()]


def read_scene(folder: Path) -> Trained:
    """Read what `write_scene` wrote.

    Raises:
        UnsafeFileError: missing fields, or no set of convexes.
    """
    convexes = read_convexes(folder / "convexes.safetensors")
    tree = read_json(folder / "camera.json")
    try:
        near, threshold = float(tree["near"]), float(tree["threshold"])
        background = np.array([float(b) for b in tree["background"]], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise UnsafeFileError(f"camera.json: {error}; expected near, threshold and background") from error
    if not near > 0 or not 0 <= threshold < 1 or background.shape != (3,) or not convexes.focal > 0:
        raise UnsafeFileError("camera.json or the focal length is out of range")
    arrays = {f.name: getattr(convexes, f.name) for f in dataclasses.fields(convexes) if f.name != "focal"}
    return Trained(
        **arrays, focal=convexes.focal, near=near, background=background, threshold=threshold,
        centers=_centers(folder / "convexes.safetensors"),
    )  # fmt: skip


def _centers(path: Path) -> Array | None:
    """The centroids of a scene in half precision; None of any other."""
    from safetensors import safe_open

    with safe_open(regular(path), framework="numpy") as file:
        return file.get_tensor("centers") if "centers" in file.keys() else None  # noqa: SIM118 (no mapping)


def scene(reader: RunReader) -> Scene3D:
    """The trained scene for `surefoot view`: renders from any view, hulls, cameras of the judged photos."""
    from surefoot.splatting.certify import show

    trained = read_scene(reader.answer_dir)
    arrays = {name: getattr(trained, name) for name in ARRAYS}
    convexes = ConvexSet(**arrays, focal=trained.focal)
    vertices, faces, colors = hull_meshes(convexes, 0.1)
    cameras = reader.evidence("cameras.npz")
    renders = reader.evidence("renders.npz")

    def render(view: Array, matrix: Array, size: tuple[int, int]) -> Array:
        image = show(trained, view, matrix, size).image[0].numpy()
        return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)

    places = tuple(
        SceneCamera(
            f"camera {i}", view, matrix, (int(size[0]), int(size[1])),
            np.round(255 * np.clip(renders[f"image_{i}"], 0, 1)).astype(np.uint8) if f"image_{i}" in renders else None,
        )
        for i, (view, matrix, size) in enumerate(zip(cameras["views"], cameras["matrices"], cameras["sizes"], strict=True))
    )  # fmt: skip
    return Scene3D(
        "convex splatting", trained.points.mean(axis=1), np.round(255 * convexes.colors).astype(np.uint8),
        Mesh(vertices, faces, colors), places, render,
    )  # fmt: skip
