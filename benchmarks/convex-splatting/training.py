"""Training on a real capture: PSNR of the photos trained on and held out, and the processor seconds that it took."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.random import Streams
from surefoot.splatting.loading import read_capture
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.train import TrainConvexes


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
    height, width = capture.photos[0].shape[:2]
    value = {
        "size": f"{width}x{height}", "photos": len(capture.train), "held_out": len(capture.test), "steps": trainer.horizon,
        "convexes": len(state.slope), "train_psnr": round(sum(seen) / len(seen), 2), "held_out_psnr": round(state.judged, 2),
        "processor_s": round(used, 1),
    }  # fmt: skip
    return {"seconds": seconds, "value": value}


serve(handle)
