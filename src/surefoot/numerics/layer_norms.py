"""Spectral norms of layers, as bounds that are never too small: dense matrices and convolutions.

Power iteration gives a lower estimate, so nothing here uses it. Convolutions are bounded on a torus: a zero-padded one is a part of a
circular one on a larger torus, where the Fourier transform turns it into one small matrix a frequency.

References:
    Sedghi, Gupta, Long, The singular values of convolutional layers, 2019.
    Delattre, Barthelemy, Araujo, Allauzen, Efficient bound of Lipschitz constant for convolutional layers by Gram iteration, 2023.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["column_row_bound", "convolution_norm", "convolution_symbols", "dense_norm", "gram_bound", "polyphase"]

ROUNDING = 8 * torch.finfo(torch.float64).eps


def dense_norm(matrix: Tensor) -> float:
    """Largest singular value of a matrix (m, n), by its whole decomposition in float64, rounded up."""
    W = _finite(matrix)
    if W.ndim != 2:
        raise ValueError(f"dense_norm needs a matrix (m, n), got shape {tuple(W.shape)}.")
    return float(torch.linalg.matrix_norm(W, 2)) * (1 + ROUNDING * max(W.shape))


def gram_bound(matrix: Tensor, iterations: int = 6) -> float:
    """Upper bound of the spectral norm by Gram iteration: ``|W| <= |G_t|_F^(1 / 2^t)``, ``G_0 = W``, ``G_{t+1} = G_t* G_t``.

    Args:
        matrix: (..., m, n), real or complex; the largest bound of the batch is returned.
        iterations: t; the bound falls quadratically to the norm.
    """
    power = _finite(matrix)
    tiny = torch.finfo(torch.float64).tiny
    scale = torch.linalg.matrix_norm(power).clamp_min(tiny)  # Frobenius
    power, log_scale = power / scale[..., None, None], scale.log()
    for _ in range(iterations):
        power = power.mH @ power
        size = torch.linalg.matrix_norm(power).clamp_min(tiny)
        power, log_scale = power / size[..., None, None], 2 * log_scale + size.log()
    bound = float((log_scale / 2**iterations).exp().max())
    return bound * (1 + ROUNDING * max(matrix.shape[-2:]) * 2)


def column_row_bound(kernel: Tensor) -> float:
    """The safe fallback ``sqrt(|W|_1 |W|_inf)``: of a matrix (m, n), or of a convolution kernel (out, in, ...) on any size."""
    magnitude = _finite(kernel).abs()
    taps = tuple(range(2, magnitude.ndim))
    flat = magnitude.sum(dim=taps) if taps else magnitude
    return math.sqrt(float(flat.sum(dim=0).max()) * float(flat.sum(dim=1).max())) * (1 + ROUNDING * magnitude.numel())


def convolution_norm(
    kernel: Tensor,
    size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    *,
    circular: bool = False,
    gram: bool = False,
) -> float:
    """Bound of the spectral norm of a 2-D convolution; equal to it where the padding is circular and the stride divides the size.

    Args:
        kernel: (out, in, h, w), taps at distance 1 (insert zeros for a dilated one).
        size: height and width of the input.
        stride: of the convolution.
        circular: circular padding; otherwise zero padding of any width, bounded on a torus large enough not to wrap around.
        gram: bound every frequency by Gram iteration instead of its singular values: faster for many channels.
    """
    symbols = convolution_symbols(kernel, size, stride, circular=circular)
    if gram:
        return gram_bound(symbols)
    largest = float(torch.linalg.matrix_norm(symbols, 2).max())
    return largest * (
        1 + ROUNDING * (kernel.shape[0] + kernel.shape[1] * math.prod(stride) + 8 * math.log2(4 + math.prod(size)))
    )


def convolution_symbols(
    kernel: Tensor, size: tuple[int, int], stride: tuple[int, int] = (1, 1), *, circular: bool = False
) -> Tensor:
    """The matrices (frequencies, out, in * strides) whose norms are the convolution's on its torus.

    Raises:
        ValueError: a circular convolution whose stride does not divide the size, or whose kernel is larger than the size.
    """
    W = _finite(kernel)
    if W.ndim != 4:
        raise ValueError(f"a convolution kernel has shape (out, in, h, w), got {tuple(W.shape)}.")
    if circular and (
        any(n % s for n, s in zip(size, stride, strict=True)) or W.shape[2] > size[0] or W.shape[3] > size[1]
    ):
        raise ValueError(
            f"circular padding needs a stride {stride} that divides the size {size}, and a smaller kernel."
        )
    phases = polyphase(W, stride)
    coarse = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    if not circular:
        coarse = [n + taps for n, taps in zip(coarse, phases.shape[2:], strict=True)]
    symbols = torch.fft.fft2(phases, s=coarse) if not circular else torch.fft.fft2(_wrapped(phases, coarse))
    return symbols.flatten(2).permute(2, 0, 1)


def polyphase(kernel: Tensor, stride: tuple[int, int]) -> Tensor:
    """A strided convolution as one of stride 1 on the phases of its input: (out, in * sh * sw, ceil(h / sh), ceil(w / sw))."""
    out, channels, height, width = kernel.shape
    sh, sw = stride
    padded = torch.nn.functional.pad(kernel, (0, -width % sw, 0, -height % sh))
    split = padded.reshape(out, channels, padded.shape[2] // sh, sh, padded.shape[3] // sw, sw)
    return split.permute(0, 1, 3, 5, 2, 4).reshape(
        out, channels * sh * sw, padded.shape[2] // sh, padded.shape[3] // sw
    )


def _wrapped(phases: Tensor, coarse: list[int]) -> Tensor:
    """Taps of a kernel that is longer than its torus fall on one another."""
    wrapped = phases.new_zeros(*phases.shape[:2], *coarse)
    for i in range(phases.shape[2]):
        for j in range(phases.shape[3]):
            wrapped[..., i % coarse[0], j % coarse[1]] += phases[..., i, j]
    return wrapped


def _finite(values: Tensor) -> Tensor:
    found = values.detach().cpu()
    found = found.to(torch.complex128 if found.is_complex() else torch.float64)
    if not bool(torch.isfinite(found).all()):
        raise ValueError("weights hold NaN or infinite numbers; their norm is no bound.")
    return found
