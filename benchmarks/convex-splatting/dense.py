"""The float64 reference with autograd on four rows of the picture; its seconds are scaled to all rows."""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scene import scene

from harness import serve
from surefoot.splatting.rasterize import Settings, rasterize
from surefoot.splatting.reference import render_reference

made = cache(scene)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    s = made(request["data"])
    seconds, worst, size = 0.0, 0.0, (s["width"], s["height"])
    with torch.no_grad():
        points, delta, sigma, opacity, colors = s["tensors"]
        settings = Settings(focal=s["focal"])
        found = rasterize(
            points, delta, sigma, opacity, colors, s["view"][None], s["matrix"][None], *size, settings=settings
        )
        ours = found.image[0]
    for row in s["rows"]:
        points, delta, sigma, opacity, colors = (t.double().requires_grad_() for t in s["tensors"])
        pixels = torch.stack([torch.arange(s["width"]), torch.full((s["width"],), int(row))], dim=1)
        began = time.perf_counter()
        image, _ = render_reference(
            points, delta, sigma, opacity, colors, s["view"], s["matrix"], *size, focal=s["focal"], threshold=1 / 255, stop=1e-4,
            pixels=pixels,
        )  # fmt: skip
        image.square().sum().backward()
        seconds += time.perf_counter() - began
        worst = max(worst, float((image.detach() - ours[int(row)]).abs().max()))
    return {"seconds": seconds * s["height"] / len(s["rows"]), "value": {"largest_difference": worst}}


serve(handle)
