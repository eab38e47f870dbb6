"""litesplat: as many Gaussians on the same camera, four rows of pixels in one of its batches, forward and backward; scaled to all rows.

Its own renderer (`CameraLayer.render_pixel_color`, Keras on torch); every Gaussian at every pixel, as it does.
"""

import json
import os
import resource
import sys
import time
from functools import cache

os.environ["KERAS_BACKEND"] = "torch"

import torch
from litesplat.core import CameraLayer, GaussianParameterLayer


@cache
def made(folder):
    gaussians = GaussianParameterLayer(folder)
    return gaussians, CameraLayer(folder, gaussians)


def handle(request):
    gaussians, camera = made(request["gaussians"])
    leaves = [w.value for w in gaussians.trainable_weights]
    rows = request["rows"]
    pixels = torch.tensor([[float(x), float(y)] for y in rows for x in range(camera.width)])
    for leaf in leaves:
        leaf.grad = None
    began = time.perf_counter()
    image = camera.render_pixel_color(pixels)
    image.square().sum().backward()
    seconds = time.perf_counter() - began
    assert any(leaf.grad is not None and bool(leaf.grad.abs().sum() > 0) for leaf in leaves)
    return {
        "seconds": seconds * camera.height / len(rows),
        "value": {"convexes": len(leaves[0]), "pixels": camera.width * camera.height},
    }


for line in sys.stdin:
    answer = handle(json.loads(line))
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write("@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
