"""Diffusion models as denoisers: where in its noise schedule a model sees the smoothing noise, and what it makes of it.

A model on [-1, 1] knows ``x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps`` and predicts eps (or x). Images in [0, 1] with noise sigma are, on
[-1, 1], images with noise 2 sigma; times ``sqrt(abar_t)`` at the first t with ``sqrt(1 - abar_t) / sqrt(abar_t) >= 2 sigma`` they are
what the model expects. One step then gives ``x = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)``, clipped.

References:
    N. Carlini et al., "(Certified!!) Adversarial robustness for free!", 2023. J. Ho, A. Jain, P. Abbeel, 2020 (linear schedule);
    A. Nichol, P. Dhariwal, 2021 (cosine schedule, learned variances).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["DiffusionDenoiser", "cosine_schedule", "diffusion_denoiser", "diffusion_step", "linear_schedule"]

Array = np.ndarray[Any, np.dtype[Any]]


def linear_schedule(steps: int = 1000) -> Array:
    """``abar_t = prod_{s <= t} (1 - beta_s)`` for betas from 0.1 / steps to 20 / steps in equal parts, (steps,)."""
    return np.cumprod(1 - np.linspace(0.1, 20.0, steps) / steps)


def cosine_schedule(steps: int = 4000) -> Array:
    """``abar_t`` proportional to ``cos^2((t / steps + 0.008) / 1.008 pi / 2)``, no step losing more than 0.999 of the signal, (steps,)."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def diffusion_step(signal: Any, sigma: float) -> tuple[int, float]:
    """Where a diffusion model on [-1, 1] sees the noise that sigma is on [0, 1], which doubles on the way.

    Args:
        signal: ``abar_t`` for t = 0, 1, ..., the share of signal variance, decreasing.
        sigma: of the smoothing noise.

    Returns:
        The smallest t with ``sqrt(1 - abar_t) / sqrt(abar_t) >= 2 sigma``, and ``sqrt(abar_t)``, by which ``2 x - 1`` with its noise is
        multiplied before the denoising step.

    Raises:
        ValueError: no step has so much noise.
    """
    share = np.asarray(signal, dtype=np.float64)
    if share.ndim != 1 or not np.all((share > 0) & (share <= 1)) or np.any(np.diff(share) > 0):
        raise ValueError("the signal shares must fall within (0, 1]")
    noisy = np.flatnonzero(np.sqrt(1 - share) / np.sqrt(share) >= 2 * sigma)
    if not len(noisy):
        raise ValueError(f"no step of this diffusion has noise of sigma {sigma:g} (twice that on [-1, 1])")
    return int(noisy[0]), float(np.sqrt(share[noisy[0]]))


class DiffusionDenoiser(nn.Module):
    """D(noisy, sigma) by one step of a diffusion model, at the step whose noise sigma is; for the inversion, which tries several sigmas.

    Args:
        model: (x_t (n, C, H, W) on [-1, 1], t (n,) integers) to the predicted noise; further channels (learned variances) are left out.
        signal: ``abar_t``, see `linear_schedule` and `cosine_schedule`.
        predicts: "noise", or "clean" where the model predicts the image.
        first: the smallest step that may be used; 1 as published.

    The smoothing noise is taken for the noise of that step, which is larger by less than one step of the schedule.
    """

    def __init__(
        self, model: nn.Module | Callable[[Tensor, Tensor], Tensor], signal: Any, *, predicts: Literal["noise", "clean"] = "noise", first: int = 1
    ) -> None:  # fmt: skip
        super().__init__()
        if predicts not in ("noise", "clean"):
            raise ValueError(f"predicts is {predicts!r}; expected 'noise' or 'clean'")
        self.model, self.signal, self.predicts, self.first = (
            model,
            np.asarray(signal, dtype=np.float64),
            predicts,
            first,
        )

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        """Images (n, C, H, W) in [0, 1] of noisy ones; gradients flow through the model and wherever the clip is not active.

        Raises:
            ValueError: no step has so much noise, or the model gave too few channels.
        """
        step, scale = diffusion_step(self.signal, sigma)
        if step < self.first:
            step, scale = self.first, float(np.sqrt(self.signal[self.first]))
        seen = scale * (2 * noisy - 1)
        found = self.model(seen, torch.full((len(noisy),), step, device=noisy.device))
        channels = noisy.shape[1]
        if found.shape[1] < channels or found.shape[2:] != noisy.shape[2:]:
            raise ValueError(f"the diffusion model gave {tuple(found.shape)} for images {tuple(noisy.shape)}")
        found = found[:, :channels]
        clean = found if self.predicts == "clean" else (seen - float(np.sqrt(1 - scale**2)) * found) / scale
        return (clean.clamp(-1, 1) + 1) / 2


def diffusion_denoiser(
    predict: Callable[[Tensor, int], Tensor], signal: Any, sigma: float, side: int | None = None
) -> Callable[[Tensor, float], Tensor]:
    """One step of a diffusion model as a denoiser for `Denoised`.

    Args:
        predict: (x_t on [-1, 1], t) to the predicted clean image.
        signal: ``abar_t``, see `diffusion_step`.
        sigma: of the smoothing noise.
        side: resize to this height and width by antialiased bicubic interpolation afterwards.
    """
    step, scale = diffusion_step(signal, sigma)

    def denoise(noisy: Tensor, given: float) -> Tensor:
        if given != sigma:
            raise ValueError(f"this denoiser was made for sigma {sigma:g}, not {given:g}")
        clean = (predict(scale * (2 * noisy - 1), step).clamp(-1, 1) + 1) / 2
        if side is None:
            return clean
        return torch.nn.functional.interpolate(clean, (side, side), mode="bicubic", antialias=True)

    return denoise
