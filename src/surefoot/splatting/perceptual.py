"""LPIPS of two pictures (`data.lpips_weights` finds its weights).

Both pictures go through the convolutions of VGG-16; at five depths each pixel's features are scaled to length one, and the squared
differences, weighted by one number a channel, are averaged over the picture and summed. As is the custom for radiance fields, pictures
in [0, 1] are normalised as if they were in [-1, 1].

References:
    Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (2018), version 0.1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from surefoot.data.lpips_weights import LAYERS

__all__ = ["lpips"]

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LENGTH = 1e-10  # added to a pixel's norm


def features(image: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """Of a picture ``(height, width, 3)``, the five levels' features ``(channels, height', width')``, each pixel of length one."""
    x = ((image - torch.tensor(SHIFT)) / torch.tensor(SCALE)).permute(2, 0, 1)[None]
    out = []
    for level, layers in enumerate(LAYERS):
        x = max_pool2d(x, 2) if level else x
        for layer in layers:
            x = conv2d(x, weights[f"w{layer}"], weights[f"b{layer}"], padding=1).relu()
        out.append((x / (x.square().sum(dim=1, keepdim=True).sqrt() + LENGTH))[0])
    return out


def lpips(image: Tensor, other: Tensor, weights: dict[str, Tensor]) -> float:
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
