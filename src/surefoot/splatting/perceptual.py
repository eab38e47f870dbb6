"""LPIPS of two pictures, where its weights are found on this machine; nothing is fetched.

Both pictures go through the convolutions of VGG-16; at five depths each pixel's features are scaled to length one, and the squared
differences, weighted by one number a channel, are averaged over the picture and summed. As is the custom for radiance fields, pictures
in [0, 1] are normalised as if they were in [-1, 1].

References:
    Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), version 0.1.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from surefoot.records.files import UnsafeFileError, regular

__all__ = ["BACKBONE", "HEADS", "Weights", "find_weights", "lpips"]

BACKBONE, HEADS = "vgg16-397923af.pth", "vgg.pth"
LAYERS = (
    (0, 2),
    (5, 7),
    (10, 12, 14),
    (17, 19, 21),
    (24, 26, 28),
)  # convolutions' places in the backbone, between poolings
WIDTHS = (64, 128, 256, 512, 512)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LENGTH = 1e-10  # added to a pixel's norm
Weights = dict[str, Tensor]


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


def read_weights(backbone: Path, heads: Path) -> Weights:
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
    found: Weights = {}
    for name, (state, key, shape) in wanted.items():
        value = state.get(key) if isinstance(state, dict) else None
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or not bool(torch.isfinite(value).all()):
            raise UnsafeFileError(
                f"{(heads if name.startswith('c') else backbone).name} holds no {key} of shape {shape}"
            )
        found[name] = value.float()
    return found


def features(image: Tensor, weights: Weights) -> list[Tensor]:
    """Of a picture ``(height, width, 3)``, the five levels' features ``(channels, height', width')``, each pixel of length one."""
    x = ((image - torch.tensor(SHIFT)) / torch.tensor(SCALE)).permute(2, 0, 1)[None]
    out = []
    for level, layers in enumerate(LAYERS):
        x = max_pool2d(x, 2) if level else x
        for layer in layers:
            x = conv2d(x, weights[f"w{layer}"], weights[f"b{layer}"], padding=1).relu()
        out.append((x / (x.square().sum(dim=1, keepdim=True).sqrt() + LENGTH))[0])
    return out


def lpips(image: Tensor, other: Tensor, weights: Weights) -> float:
    """LPIPS of two pictures ``(height, width, 3)`` in [0, 1], at least 16 pixels along each axis; 0 for equal ones."""
    if image.shape != other.shape or image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < 16:
        raise ValueError(
            f"pictures {tuple(image.shape)} and {tuple(other.shape)}; expected (height, width, 3) of one size, 16 pixels at least"
        )
    total = 0.0
    with torch.no_grad():
        for level, (a, b) in enumerate(
            zip(features(image.float(), weights), features(other.float(), weights), strict=True)
        ):
            total += float(((a - b).square() * weights[f"c{level}"][0]).sum(dim=0).double().mean())
    return total
