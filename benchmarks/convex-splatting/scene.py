"""The scene that both sides render: the published start on a capture's sparse points, before its first camera."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.splatting.loading import read_capture, turntable_capture
from surefoot.splatting.model import start_parameters

ROWS = 4


def scene(data: str) -> dict[str, Any]:
    """Tensors of float32, and camera, size and focal length; the facade at a quarter size, or the turntable without data."""
    capture = (
        read_capture(Path(data), 4, 8, (0.0, 0.0, 0.0)) if data else turntable_capture(photos=4, size=96, boxes=20)
    )
    unit = capture.unit
    view = capture.views[0].copy()
    view[:3, 3] = (view[:3, 3] + view[:3, :3] @ capture.middle) / unit
    p = start_parameters((capture.points - capture.middle) / unit, capture.colors, 6, 0.00095, 0)
    height, width = capture.photos[0].shape[:2]
    tensors = [
        p["points"], p["log_delta"].exp(), p["log_sigma"].exp(), torch.sigmoid(p["opacity_logit"]),
        (0.5 + 0.28209479177387814 * p["sh0"]).clamp(min=0),
    ]  # fmt: skip
    return {
        "tensors": tensors, "view": torch.from_numpy(view), "matrix": torch.from_numpy(capture.matrices[0]), "width": width,
        "height": height, "focal": capture.focal, "rows": np.linspace(0, height - 1, ROWS).round().astype(int),
    }  # fmt: skip


def write_gaussians(data: str, folder: Path) -> list[int]:
    """The scene's moment-matched Gaussians and its camera as litesplat reads them (`gaussians.json`, `camera.json`); the rows to render."""
    from surefoot.splatting.exchange import ConvexSet, gaussians

    s = scene(data)
    points, delta, sigma, opacity, colors = s["tensors"]
    convexes = ConvexSet(
        points.numpy(), delta.log().numpy(), sigma.log().numpy(), torch.logit(opacity).numpy(),
        ((colors - 0.5) / 0.28209479177387814).numpy(), np.zeros((len(points), 0, 3), np.float32), s["focal"],
    )  # fmt: skip
    found, shades = gaussians(convexes), convexes.colors
    table = [
        {"position": m.tolist(), "color": c.tolist(), "rotation": q.tolist(), "scale": r.tolist(), "opacity": float(o)}
        for m, c, q, r, o in zip(found.means, shades, found.turns, found.scales, found.opacities, strict=True)
    ]
    (folder / "gaussians.json").write_text(json.dumps(table))
    view, matrix = s["view"], s["matrix"]
    camera = {
        "camera_id": 0, "model": "PINHOLE", "image_name": "", "width": s["width"], "height": s["height"],
        "fx": float(matrix[0, 0]), "fy": float(matrix[1, 1]), "cx": float(matrix[0, 2]), "cy": float(matrix[1, 2]),
        "rotation": view[:3, :3].tolist(), "translation": view[:3, 3].tolist(),
    }  # fmt: skip
    (folder / "camera.json").write_text(json.dumps([camera]))
    return s["rows"].tolist()
