"""Our side: forward and backward of the compiled rasteriser, with one thread or several."""

from __future__ import annotations

import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scene import scene

from harness import serve
from surefoot.splatting.rasterize import Settings, rasterize

made = cache(scene)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    s = made(request["data"])
    leaves = [t.clone().requires_grad_() for t in s["tensors"]]
    settings = Settings(focal=s["focal"], threads=request["render_threads"])
    began = time.perf_counter()
    for _ in range(request["times"]):
        shown = rasterize(*leaves, s["view"][None], s["matrix"][None], s["width"], s["height"], settings=settings)
        shown.image.square().sum().backward()
    seconds = (time.perf_counter() - began) / request["times"]
    value = {"convexes": len(leaves[0]), "pixels": s["width"] * s["height"], "pairs": shown.pairs}
    return {"seconds": seconds, "value": value}


serve(handle)
