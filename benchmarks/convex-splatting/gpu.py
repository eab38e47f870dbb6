"""About a million convexes at 980 x 545 on one CUDA device, forward and backward; gsplat with as many Gaussians where it can be imported.

The scene: the sparse points of the garden (SUREFOOT_DATA), or without them points of a generated room, each a convex and its six children, as
sharp as after training. CUDA's image is compared with the CPU's, rendered once.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.splatting.model import split, start_parameters
from surefoot.splatting.rasterize import Rendering, Settings, rasterize

WIDTH, HEIGHT = 980, 545
SIGMA = 0.05  # fifty times the published start


def garden(file: str) -> tuple[Any, Any, Tensor, Tensor]:
    """Points, colours, the first camera's view and its K at 980 x 545."""
    known = np.load(file)
    matrix = torch.from_numpy(known["Ks"][0]).double()
    matrix[0] *= WIDTH / float(known["width"])
    matrix[1] *= HEIGHT / float(known["height"])
    return known["means3d"], known["colors"], torch.from_numpy(known["viewmats"][0]).double(), matrix


def room(number: int) -> tuple[Any, Any, Tensor, Tensor]:
    """Points on the walls of a room and on boxes in it."""
    rng = np.random.default_rng(0)
    walls = rng.uniform(-1, 1, (number // 2, 3))
    axis = rng.integers(0, 3, len(walls))
    walls[np.arange(len(walls)), axis] = np.sign(walls[np.arange(len(walls)), axis])
    boxes = rng.uniform(-0.7, 0.7, (40, 3))[rng.integers(0, 40, number - len(walls))]
    offset = rng.uniform(-1, 1, boxes.shape)
    axis = rng.integers(0, 3, len(offset))
    offset[np.arange(len(offset)), axis] = np.sign(offset[np.arange(len(offset)), axis])
    points = np.concatenate([walls, boxes + 0.12 * offset]) * [4.0, 2.0, 4.0] + [0.0, 0.0, 5.0]
    view, matrix = (
        torch.eye(4).double(),
        torch.tensor([[800.0, 0, WIDTH / 2], [0, 800.0, HEIGHT / 2], [0, 0, 1]]).double(),
    )
    return points, rng.integers(0, 256, points.shape).astype(np.uint8), view, matrix


@cache
def scene(file: str, number: int) -> tuple[list[Tensor], Tensor, Tensor]:
    points, colors, view, matrix = garden(file) if file else room(number // 7)
    first = min(len(points), max(1, number // 7))
    chosen = np.random.default_rng(1).permutation(len(points))[:first]
    p = start_parameters(points[chosen], colors[chosen], 6, SIGMA, 0, opacity=0.6)
    children = split(p, torch.arange(first), 0.6, 0.88)
    p = {name: torch.cat([value, children[name]]) for name, value in p.items()}
    shades = (0.5 + 0.28209479177387814 * p["sh0"]).clamp(min=0)
    return (
        [p["points"], p["log_delta"].exp(), p["log_sigma"].exp(), torch.sigmoid(p["opacity_logit"]), shades],
        view,
        matrix,
    )


def timed(work: Callable[[], Any], device: str, times: int) -> float:
    """Seconds a call, after two to warm up."""
    for _ in range(2):
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def convexes(request: dict[str, Any]) -> dict[str, Any]:
    tensors, view, matrix = scene(request["data"], request["number"])
    device, settings = request["device"], Settings(focal=float((matrix[0, 0] * matrix[1, 1]).sqrt()))
    points, delta, sigma, opacity, colors = leaves = [t.to(device).requires_grad_() for t in tensors]
    camera = (view[None].to(device), matrix[None].to(device), WIDTH, HEIGHT)

    def forward() -> Rendering:
        return rasterize(points, delta, sigma, opacity, colors, *camera, settings=settings)

    def both() -> None:
        forward().image.square().sum().backward()

    value: dict[str, Any] = {"primitives": len(leaves[0]), "pairs": forward().pairs}
    with torch.no_grad():
        value["forward_s"] = timed(forward, device, request["times"])
        shown = forward().image.cpu()
        first, second, third, fourth, fifth = (t.cpu() for t in leaves)
        known = rasterize(
            first, second, third, fourth, fifth, view[None], matrix[None], WIDTH, HEIGHT, settings=settings
        ).image
    value["largest_difference_from_cpu"] = float((shown - known).abs().max())
    return {"seconds": timed(both, device, request["times"]), "value": value}


def gaussians(request: dict[str, Any]) -> dict[str, Any]:
    """gsplat's rasteriser; each Gaussian has its convex's mean and the covariance of its points, its opacity and colour."""
    from gsplat import rasterization  # pyright: ignore[reportMissingImports]
    from scipy.spatial.transform import Rotation

    tensors, view, matrix = scene(request["data"], request["number"])
    device, means = request["device"], tensors[0].mean(dim=1)
    offset = (tensors[0] - means[:, None]).double()
    size, axes = torch.linalg.eigh(torch.einsum("nki,nkj->nij", offset, offset) / offset.shape[1])
    axes[:, :, 0] *= torch.det(axes)[:, None].sign()
    turns = torch.from_numpy(Rotation.from_matrix(axes.numpy()).as_quat()[:, [3, 0, 1, 2]])
    values = [means, turns, size.clamp(min=1e-12).sqrt(), tensors[3], tensors[4]]
    leaves = [v.float().to(device).requires_grad_() for v in values]

    def forward() -> Tensor:
        return rasterization(*leaves, view[None].float().to(device), matrix[None].float().to(device), WIDTH, HEIGHT)[0]

    def both() -> None:
        forward().square().sum().backward()

    with torch.no_grad():
        first = timed(forward, device, request["times"])
    return {"seconds": timed(both, device, request["times"]), "value": {"primitives": len(means), "forward_s": first}}


def handle(request: dict[str, Any]) -> dict[str, Any]:
    return {"convexes": convexes, "Gaussians": gaussians}[request["what"]](request)


def importable(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    serve(handle)
