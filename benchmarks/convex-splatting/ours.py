"""Our side: forward and backward of the compiled rasteriser, with one thread or several."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scene import scene

from harness import serve
from surefoot.splatting.rasterize import Settings, rasterize

BLOCK = 5  # turns; what else the machine does changes within seconds
made = cache(scene)
torch.set_num_threads(1)  # as the card does: torch's idle threads wait busily on the cores that the rasteriser's need


def handle(request: dict[str, Any]) -> dict[str, Any]:
    if "turns" in request:
        return scaling(request)
    frame, value = renderer(request["data"], request["render_threads"])
    began = time.perf_counter()
    for _ in range(request["times"]):
        frame()
    seconds = (time.perf_counter() - began) / request["times"]
    return {"seconds": seconds, "value": value}


def renderer(data: str, threads: int) -> tuple[Callable[[], None], dict[str, Any]]:
    """Forward and backward of a frame, and what there is in it."""
    s = made(data)
    points, delta, sigma, opacity, colors = (t.clone().requires_grad_() for t in s["tensors"])
    camera = (s["view"][None], s["matrix"][None], s["width"], s["height"])
    settings = Settings(focal=s["focal"], threads=threads)
    value = {"convexes": len(points), "pixels": s["width"] * s["height"], "pairs": 0}

    def frame() -> None:
        shown = rasterize(points, delta, sigma, opacity, colors, *camera, settings=settings)
        shown.image.square().sum().backward()
        value["pairs"] = shown.pairs

    return frame, value


def scaling(request: dict[str, Any]) -> dict[str, Any]:
    """One thread and two in turns, and what the machine's cores give at that moment: work without anything in common, on one and on two."""
    one, two = (renderer(request["data"], n)[0] for n in (1, 2))
    given = [np.random.default_rng(0).random(100_000) for _ in range(2)]
    pool = ThreadPoolExecutor(1)

    def work(place: int) -> None:
        for _ in range(8):
            np.exp(given[place])

    def alone() -> None:
        work(0)
        work(1)

    def together() -> None:
        other = pool.submit(work, 0)
        work(1)
        other.result()

    seconds: dict[str, list[float]] = {"one": [], "two": [], "alone": [], "together": []}
    for turn in range(request["turns"] + 5):
        for name, do in (("one", one), ("two", two), ("alone", alone), ("together", together)):
            began = time.perf_counter()
            do()
            if turn >= 5:
                seconds[name].append(time.perf_counter() - began)
    blocks = [
        {name: statistics.median(values[k : k + BLOCK]) for name, values in seconds.items()}
        for k in range(0, request["turns"], BLOCK)
    ]
    value = {"blocks": [{**b, "gain": b["one"] / b["two"], "machine": b["alone"] / b["together"]} for b in blocks]}
    return {"seconds": statistics.median(seconds["two"]), "value": value}


serve(handle)
