"""The scene that both sides render: the published start on a capture's sparse points, before its first camera."""

from __future__ import annotations

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
