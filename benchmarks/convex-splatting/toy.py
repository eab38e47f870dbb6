"""The paper's toy figure: simple grey shapes of 48 x 48 pixels, each fitted by one smooth convex, one Gaussian or eight.

Adam, 1,500 steps on the mean square, all parameters from one plain start (a circle in the middle); the best PSNR on the way counts. The convex
is `reference.indicator` in the plane at z = 1; a Gaussian's alpha is opacity exp(-1/2 (q - mean)' S^-1 (q - mean)); both are composited
over black. `python benchmarks/convex-splatting/toy.py docs/images/convex-splatting-toy.png` draws them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.splatting.reference import CLAMP, indicator

SIZE, STEPS, MIDDLE = 48, 1500, 23.5
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIZE).double(), torch.arange(SIZE).double(), indexing="ij")
PIXELS = torch.stack([COLUMNS.reshape(-1), ROWS.reshape(-1)], dim=1)
SHAPES = ("rectangle", "circle", "triangle", "isotropic Gaussian", "anisotropic Gaussian")
MODELS = ("1 Gaussian", "8 Gaussians", "1 convex, K = 3", "1 convex, K = 6")


def target(shape: str) -> Tensor:
    """``(48 * 48,)`` in [0, 1]."""
    x, y = COLUMNS - MIDDLE, ROWS - MIDDLE
    if shape == "rectangle":
        image = ((x.abs() < 16) & (y.abs() < 10)).double()
    elif shape == "circle":
        image = (x * x + y * y < 15**2).double()
    elif shape == "triangle":
        image = ((y < 14) & (y > 1.75 * x.abs() - 14)).double()
    elif shape == "isotropic Gaussian":
        image = torch.exp(-(x * x + y * y) / (2 * 8.0**2))
    elif shape == "anisotropic Gaussian":
        along, across = 0.8 * x + 0.6 * y, 0.8 * y - 0.6 * x
        image = torch.exp(-(along**2) / (2 * 10.0**2) - across**2 / (2 * 5.0**2))
    else:
        raise ValueError(f"{shape}: no such shape")
    return 0.8 * image.reshape(-1)


def convex(corners: int) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Parameters (each with its step length times a tenth) and the picture that they make."""
    turn = 2 * math.pi * (torch.arange(corners).double() + 0.25) / corners
    ring = MIDDLE + 14.0 * torch.stack([turn.cos(), turn.sin()], dim=1)
    delta, sigma = torch.tensor([math.log(0.02)]).double(), torch.tensor([math.log(0.5)]).double()
    opacity, shade = torch.tensor([1.0]).double(), torch.tensor([0.5]).double()

    def picture() -> Tensor:
        _, inside, _ = indicator(ring[None], torch.ones(1).double(), delta.exp(), sigma.exp(), PIXELS)
        return shade * (torch.sigmoid(opacity) * inside[0]).clamp(max=CLAMP)

    return [ring, delta, sigma, opacity, shade], picture


def gaussians(number: int) -> tuple[list[Tensor], Callable[[], Tensor]]:
    turn = 2 * math.pi * torch.arange(number).double() / number
    mean = MIDDLE + (0.0 if number == 1 else 8.0) * torch.stack([turn.cos(), turn.sin()], dim=1)
    size = torch.full((number, 2), math.log(8.0)).double()
    angle, opacity = torch.zeros(number).double() + 0.1, torch.zeros(number).double()
    shade = torch.full((number,), 0.5).double()

    def picture() -> Tensor:
        off = PIXELS - mean[:, None]
        along = (angle.cos()[:, None] * off[..., 0] + angle.sin()[:, None] * off[..., 1]) / size[:, :1].exp()
        across = (angle.cos()[:, None] * off[..., 1] - angle.sin()[:, None] * off[..., 0]) / size[:, 1:].exp()
        alpha = (torch.sigmoid(opacity)[:, None] * torch.exp(-0.5 * (along**2 + across**2))).clamp(max=CLAMP)
        front = torch.cumprod(torch.cat([torch.ones_like(alpha[:1]), 1 - alpha]), dim=0)[:-1]
        return (shade[:, None] * alpha * front).sum(dim=0)

    return [mean, size, angle, opacity, shade], picture


def fit(shape: str, model: str, steps: int = STEPS) -> tuple[float, Tensor]:
    """Best PSNR in dB, and the picture that has it."""
    corners = {"1 convex, K = 3": 3, "1 convex, K = 6": 6}.get(model)
    parameters, picture = convex(corners) if corners else gaussians(int(model[0]))
    goal = target(shape)
    places = parameters[0]
    groups = [{"params": [places], "lr": 0.3}, {"params": parameters[1:], "lr": 0.1}]
    for p in parameters:
        p.requires_grad_()
    adam = torch.optim.Adam(groups)
    slower = torch.optim.lr_scheduler.ExponentialLR(adam, 0.01 ** (1 / steps))
    best, shown = math.inf, goal
    for _ in range(steps):
        adam.zero_grad()
        image = picture()
        error = (image - goal).square().mean()
        if error.item() < best:
            best, shown = error.item(), image.detach()
        error.backward()
        adam.step()
        slower.step()
    return -10 * math.log10(best), shown


def handle(request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    began = time.perf_counter()
    value = {model: round(fit(request["case"], model, request["steps"])[0], 1) for model in MODELS}
    return {"seconds": time.perf_counter() - began, "value": value}


def draw(path: Path) -> None:
    """A row a shape: the target, then what each model makes of it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)
    figure, axes = plt.subplots(len(SHAPES), 1 + len(MODELS), figsize=(6.6, 7.2), layout="constrained")
    for row, shape in zip(axes, SHAPES, strict=True):
        shown = [("target", target(shape))]
        for model in MODELS:
            found, picture = fit(shape, model)
            shown.append((f"{model}\n{found:.1f} dB", picture))
        for axis, (name, picture) in zip(row, shown, strict=True):
            axis.imshow(picture.view(SIZE, SIZE), cmap="gray", vmin=0, vmax=0.85, interpolation="nearest")
            axis.set_title(name if name != "target" else shape, fontsize=7)
            axis.set_axis_off()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        draw(Path(sys.argv[1]))
    else:
        serve(handle)
