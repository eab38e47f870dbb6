"""Our side: forward and backward of the compiled rasteriser, with one thread or several."""

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

made = cache(scene)
torch.set_num_threads(1)  # as the card does: torch's idle threads wait busily on the cores that the rasteriser's need


def handle(request: dict[str, Any]) -> dict[str, Any]:
    s = made(request["data"])
    points, delta, sigma, opacity, colors = (t.clone().requires_grad_() for t in s["tensors"])
    camera = (s["view"][None], s["matrix"][None], s["width"], s["height"])
    pairs = 0
    settings = Settings(focal=s["focal"], threads=request["render_threads"])
    began = time.perf_counter()
    for _ in range(request["times"]):
        shown = rasterize(points, delta, sigma, opacity, colors, *camera, settings=settings)
        shown.image.square().sum().backward()
        pairs = shown.pairs
    seconds = (time.perf_counter() - began) / request["times"]
    value = {"convexes": len(points), "pixels": s["width"] * s["height"], "pairs": pairs}
    return {"seconds": seconds, "value": value}


serve(handle)
