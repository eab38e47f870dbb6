"""How much the quality of the judged photos would vary with other pixels: bootstrap intervals over blocks of them.

Pixels beside one another err alike, so blocks of 16 x 16 pixels are drawn, with replacement, within each photo. Each draw gives a PSNR and
a similarity (means over photos), and a PSNR of the scene that training started from, of the same blocks: their difference is paired.

References:
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 8.6 (blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from surefoot.core.certificate import Claim
from surefoot.numerics.images import ssim_map

__all__ = ["BLOCK", "DRAWS", "LEVEL", "block_squares", "block_sums", "interval_claims"]

BLOCK, DRAWS, LEVEL, SEED = 16, 1000, 0.95, 0
Array = np.ndarray[Any, np.dtype[Any]]


def block_squares(image: Array, photo: Array, mask: Array | None) -> Array:
    """Of each block, row by row: its squared errors' sum over channels, at the pixels that count, ``(blocks,)``."""
    square = ((np.asarray(image, dtype=float) - photo) ** 2).sum(axis=2)
    return _sums(square if mask is None else square * (np.asarray(mask) > 0))


def block_sums(image: Array, photo: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """Of each block: its pixels that count, `block_squares`, and their similarities' sum, all ``(blocks,)``."""
    counts = np.ones(photo.shape[:2]) if mask is None else (np.asarray(mask) > 0).astype(float)
    one, other = torch.from_numpy(np.asarray(image, dtype=float)), torch.from_numpy(np.asarray(photo, dtype=float))
    similar = ssim_map(one, other).mean(dim=2).numpy()
    return _sums(counts), block_squares(image, photo, mask), _sums(similar * counts)


def _sums(values: Array) -> Array:
    down, across = (np.arange(0, size, BLOCK) for size in values.shape)
    return np.add.reduceat(np.add.reduceat(values, down, axis=0), across, axis=1).ravel()


def interval_claims(
    images: Sequence[Array],
    photos: Sequence[Array],
    masks: Sequence[Array | None],
    before: Sequence[Array] | None,
    kind: str,
) -> tuple[list[Claim], dict[str, Array]]:
    """Claims about the lower ends of the intervals of PSNR and similarity, and, where `before` is known, of the gain in PSNR; and the tables of `before`.

    Args:
        before: squared errors' sums of each photo's blocks as training started, or None where that is not known.
        kind: what the photos are called.
    """
    rng, shown, started = np.random.default_rng(SEED), [], []
    for number, (image, photo, mask) in enumerate(zip(images, photos, masks, strict=True)):
        count, square, similar = block_sums(image, photo, mask)
        drawn = rng.integers(0, len(count), (DRAWS, len(count)))
        pixels = count[drawn].sum(axis=1)
        shown.append([_psnr(square[drawn].sum(axis=1), pixels), similar[drawn].sum(axis=1) / np.maximum(pixels, 1)])
        if before is not None:
            started.append(_psnr(before[number][drawn].sum(axis=1), pixels))
    close, similar = np.mean(shown, axis=0)
    says = f"Lower end of the {LEVEL:.0%} bootstrap interval ({DRAWS} draws of blocks of {BLOCK} x {BLOCK} pixels) of the {kind} photos'"
    low = (1 - LEVEL) / 2
    lows = {"psnr-low": (f"{says} mean PSNR, in dB", close), "ssim-low": (f"{says} mean similarity", similar)}
    if before is not None:
        gain = close - np.mean(started, axis=0)
        lows["gain"] = (
            f"{says} gain in PSNR over the scene that training started from, by the same blocks, in dB",
            gain,
        )
    claims = [
        Claim(
            name=name, statement=statement, value=float(np.quantile(values, low)), relation=">=", kind="measured", check=name,
            evidence=("renders.npz", "blocks.npz") if name == "gain" else ("renders.npz",),
        )
        for name, (statement, values) in lows.items()
    ]  # fmt: skip
    return claims, {f"before_{i}": np.asarray(b, dtype=float) for i, b in enumerate(before or [])}


def _psnr(square: Array, pixels: Array) -> Array:
    return -10 * np.log10(np.maximum(square, 1e-300) / np.maximum(3 * pixels, 1))
