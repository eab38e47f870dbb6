"""How far two pictures are apart: PSNR and SSIM, one definition for all domains.

References:
    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity" (2004).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import conv2d

__all__ = ["psnr", "ssim", "ssim_map"]

WINDOW, DEVIATION = 11, 1.5
LARGE = 1024  # pixels
C1, C2 = 0.01**2, 0.03**2


def psnr(image: Tensor, other: Tensor) -> float:
    """-10 log10 of the mean squared difference, in dB, for values in [0, 1]; infinite for equal images."""
    error = float((image.double() - other.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def _window(dtype: torch.dtype, device: torch.device) -> Tensor:
    place = torch.arange(WINDOW, dtype=dtype, device=device) - WINDOW // 2
    weight = torch.exp(-(place**2) / (2 * DEVIATION**2))
    return weight / weight.sum()


def _band(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The convolution along one axis as a matrix ``(size, size)``."""
    weight, half = _window(dtype, device), WINDOW // 2
    place = torch.arange(size, device=device)
    apart = place[None] - place[:, None] + half
    return torch.where((apart >= 0) & (apart < WINDOW), weight[apart.clamp(0, WINDOW - 1)], 0.0)


def _blur(planes: Tensor) -> Tensor:
    """Planes ``(n, H, W)`` weighted by the window; as two matrix products, which on a CPU are faster up to some size."""
    height, width = planes.shape[1:]
    if planes.device.type == "cpu" and max(height, width) <= LARGE:
        return _band(height, planes.dtype, planes.device) @ planes @ _band(width, planes.dtype, planes.device)
    weight, half = _window(planes.dtype, planes.device), WINDOW // 2
    down = conv2d(planes[:, None], weight.view(1, 1, -1, 1), padding=(half, 0))
    return conv2d(down, weight.view(1, 1, 1, -1), padding=(0, half))[:, 0]


def ssim_map(image: Tensor, other: Tensor) -> Tensor:
    """Structural similarity at each pixel, ``(H, W, channels)``, of images of that shape with values in [0, 1].

    Means, variances and covariance are weighted by an 11 x 11 Gaussian of deviation 1.5; beyond the border all is zero.
    """
    x, y = image.permute(2, 0, 1), other.permute(2, 0, 1)
    mean_x, square_x, product = _blur(torch.cat([x, x * x, x * y])).chunk(3)
    # y by itself: where it is no variable, nothing goes back through it
    mean_y, square_y = _blur(torch.cat([y, y * y])).chunk(2)
    cross = product - mean_x * mean_y
    power = mean_x**2 + mean_y**2
    spread = square_x + square_y - power
    return ((2 * mean_x * mean_y + C1) * (2 * cross + C2) / ((power + C1) * (spread + C2))).permute(1, 2, 0)


def ssim(image: Tensor, other: Tensor) -> Tensor:
    """The mean of `ssim_map`, differentiable."""
    return ssim_map(image, other).mean()
