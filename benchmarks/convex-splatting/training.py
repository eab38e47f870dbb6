"""Training on a real capture: PSNR of the photos trained on and held out, and the processor seconds that it took; what
the threshold, below which contributions are left out of the picture, does to the held-out photos' PSNR and median error bound."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.random import Streams
from surefoot.numerics.images import psnr, ssim
from surefoot.splatting.certify import show
from surefoot.splatting.loading import read_capture
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.train import TrainConvexes


def corrected_psnr(shown: torch.Tensor, photo: torch.Tensor) -> float:
    """PSNR after the affine map of the render's colours that fits the photo best."""
    x, y = shown.reshape(-1, 3).double(), photo.reshape(-1, 3).double()
    x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    return psnr(x @ torch.linalg.lstsq(x, y).solution, y)


def handle(request: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    capture = read_capture(Path(request["data"]), request["reduce"], 0, (0.0, 0.0, 0.0), test=tuple(request["test"]))
    trainer = TrainConvexes(**request["trainer"], settings=Settings(threads=request["render_threads"]))
    began, used = time.perf_counter(), time.process_time()
    state = trainer.init(capture, None, Streams(0))
    while state.k < trainer.horizon:
        state = trainer.step(capture, state)
        if state.k % 50 == 0:
            print(
                f"{state.k} steps, {len(state.slope)} convexes, {state.judged:.2f} dB held out",
                file=sys.stderr,
                flush=True,
            )
    seconds, used = time.perf_counter() - began, time.process_time() - used
    seen = [trainer.judge_one(capture, state, index) for index in capture.train]
    pairs = [(trainer.shown(capture, state, i), torch.from_numpy(capture.photos[i])) for i in capture.test]
    if folder := request.get("pictures"):
        for index, (shown, photo) in zip(capture.test, pairs, strict=True):
            both = torch.cat([photo, shown.clamp(0, 1)], dim=1).mul(255).round().byte().numpy()
            Image.fromarray(both).save(Path(folder) / f"{Path(capture.names[index]).stem}.png")
    scene, bounds = trainer.answer(capture, state), {}
    for part in (255, 1024):
        at = replace(scene, threshold=1 / part)
        cameras = [(capture.views[i], capture.matrices[i], capture.photos[i].shape[1::-1]) for i in capture.test]
        found = [show(at, *camera, bounding=True) for camera in cameras]
        bounds[f"bound, 1/{part}"] = round(
            float(torch.cat([one.bound.flatten() for one in found if one.bound is not None]).median()), 4
        )
        photos = [torch.from_numpy(capture.photos[i]) for i in capture.test]
        bounds[f"psnr, 1/{part}"] = round(
            mean(psnr(one.image[0], photo) for one, photo in zip(found, photos, strict=True)), 3
        )
    height, width = capture.photos[0].shape[:2]
    value = {
        "size": f"{width}x{height}", "photos": len(capture.train), "held_out": len(capture.test), "steps": trainer.horizon,
        "convexes": len(state.slope), "train_psnr": round(sum(seen) / len(seen), 2), "held_out_psnr": round(state.judged, 2),
        "corrected_psnr": round(mean([corrected_psnr(s, t) for s, t in pairs]), 2), "ssim": round(mean([float(ssim(s, t)) for s, t in pairs]), 3),
        "processor_s": round(used, 1), **bounds,
    }  # fmt: skip
    return {"seconds": seconds, "value": value}


serve(handle)
