"""The checker of LPIPS: the network's convolutions anew in numpy, as nine shifted products."""

from __future__ import annotations

from typing import Any

import numpy as np

from surefoot.core.certificate import Claim
from surefoot.core.verify import Dossier, NotAtHandError, Verdict, compare

__all__ = ["check_lpips", "distance"]

Array = np.ndarray[Any, np.dtype[Any]]
MEAN, SPREAD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
STAGES = ("0 2", "5 7", "10 12 14", "17 19 21", "24 26 28")


def distance(one: Array, other: Array, weights: dict[str, Array]) -> float:
    """LPIPS of pictures ``(height, width, 3)``."""
    total = 0.0
    pair = [(np.asarray(p, dtype=np.float32) - np.array(MEAN)) / np.array(SPREAD) for p in (one, other)]
    for stage, layers in enumerate(STAGES):
        scaled = []
        for number, picture in enumerate(pair):
            x = picture if stage == 0 else _pooled(picture)
            for layer in layers.split():
                x = np.maximum(_convolved(x, weights[f"w{layer}"]) + weights[f"b{layer}"], 0)
            pair[number] = x
            scaled.append(x / (np.linalg.norm(x, axis=2, keepdims=True) + 1e-10))
        total += float((((scaled[0] - scaled[1]) ** 2) @ weights[f"c{stage}"].ravel()).mean(dtype=float))
    return total


def _convolved(x: Array, kernel: Array) -> Array:
    height, width = x.shape[:2]
    wide = np.pad(x, ((1, 1), (1, 1), (0, 0))).astype(np.float32)
    out = np.zeros((height, width, len(kernel)), dtype=np.float32)
    for row in range(3):
        for column in range(3):
            out += wide[row : row + height, column : column + width] @ kernel[:, :, row, column].T
    return out


def _pooled(x: Array) -> Array:
    height, width = x.shape[0] // 2 * 2, x.shape[1] // 2 * 2
    return x[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))


def check_lpips(claim: Claim, dossier: Dossier) -> Verdict:
    """Anew, with the weights of this machine; unchecked where it has none."""
    from surefoot.data.lpips_weights import find_weights, read_weights
    from surefoot.splatting.verify import judged_images

    try:
        weights = {name: value.numpy() for name, value in read_weights(*find_weights()).items()}
    except FileNotFoundError as error:
        raise NotAtHandError(str(error)) from error
    values = []
    for index, image in judged_images(dossier):
        mask = dossier.problem.masks[index]
        counted = 1.0 if mask is None else np.asarray(mask)[..., None] > 0
        values.append(distance(np.clip(image, 0, 1) * counted, dossier.problem.photos[index] * counted, weights))
    return compare(claim, float(np.mean(values)), supports="measured", rtol=1e-4, atol=1e-6)
