"""The weights of LPIPS, where they are on this machine; nothing is fetched."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surefoot.records.files import UnsafeFileError, regular

__all__ = ["BACKBONE", "HEADS", "LAYERS", "WIDTHS", "find_weights", "read_weights"]

BACKBONE, HEADS = "vgg16-397923af.pth", "vgg.pth"
LAYERS = (
    (0, 2),
    (5, 7),
    (10, 12, 14),
    (17, 19, 21),
    (24, 26, 28),
)  # convolutions' places in the backbone, between poolings
WIDTHS = (64, 128, 256, 512, 512)


def find_weights() -> tuple[Path, Path]:
    """The files of the backbone and of the channels' weights.

    Raises:
        FileNotFoundError: one of them is not here; the message tells where it is looked for.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    package = importlib.util.find_spec("lpips")
    inside = (
        [Path(package.origin).parent / "weights" / "v0.1" / HEADS] if package is not None and package.origin else []
    )
    for name, places in ((BACKBONE, [hub / BACKBONE]), (HEADS, [hub / HEADS, *inside])):
        if not any(place.is_file() for place in places):
            raise FileNotFoundError(
                f"LPIPS needs {name}, which is not at {' or '.join(map(str, places))}; put torchvision's VGG-16 weights and the LPIPS "
                f"weights ({HEADS}, version 0.1; also in the package lpips) into {hub}, or leave --lpips out"
            )
    heads = next(place for place in (hub / HEADS, *inside) if place.is_file())
    return hub / BACKBONE, heads


def read_weights(backbone: Path, heads: Path) -> dict[str, Tensor]:
    """Kernels `w{i}`, biases `b{i}` of the convolutions in turn, and the channels' weights `c{level}`.

    Raises:
        UnsafeFileError: a file that is no state of tensors, or whose tensors do not fit.
    """
    states = []
    for path in (backbone, heads):
        try:
            states.append(torch.load(regular(path), map_location="cpu", weights_only=True))
        except Exception as error:
            raise UnsafeFileError(f"{path.name} is no file of weights: {error}") from error
    wanted: dict[str, tuple[dict[str, Any], str, tuple[int, ...]]] = {}
    before = 3
    for level, (layers, width) in enumerate(zip(LAYERS, WIDTHS, strict=True)):
        for layer in layers:
            wanted[f"w{layer}"] = (states[0], f"features.{layer}.weight", (width, before, 3, 3))
            wanted[f"b{layer}"] = (states[0], f"features.{layer}.bias", (width,))
            before = width
        wanted[f"c{level}"] = (states[1], f"lin{level}.model.1.weight", (1, width, 1, 1))
    found: dict[str, Tensor] = {}
    for name, (state, key, shape) in wanted.items():
        value = state.get(key) if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
            raise UnsafeFileError(
                f"{(heads if name.startswith('c') else backbone).name} holds no {key} of shape {shape}"
            )
        found[name] = value.float()
    return found
