"""Half precision for a trained scene: offsets to the centroids and all else in 16 bits, centroids in 32.

Points as a whole lose a thousandth of their distance from the origin in 16 bits, which is more than a small convex is wide; their offsets
lose a thousandth of the convex's own size. Offsets are stored in units of a power of two, so that a world of any scale keeps its digits:

    p_k = float32(c + 2^e h_k),    c float32, h_k float16.

References:
    Held et al., "3D Convex Splatting" (2025), the light models of section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from surefoot.records.files import UnsafeFileError

__all__ = ["halved", "pack", "unpack"]

Array = np.ndarray[Any, np.dtype[Any]]
REST = ("log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
LARGEST = 2.0**13  # of the stored offsets; float16 ends at 65504


def halved(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The scene as half precision keeps it: `points` ``(N, K, 3)`` and `REST` rounded, float32, and `centers` ``(N, 3)`` float32."""
    points = np.asarray(arrays["points"], dtype=float)
    centers = points.mean(axis=1).astype(np.float32)
    exponent = _exponent(points - centers[:, None])
    offsets = ((points - centers[:, None]) * 2.0**-exponent).astype(np.float16)
    rest = {name: np.asarray(arrays[name]).astype(np.float16).astype(np.float32) for name in REST}
    return {"points": _points(centers, offsets, exponent), "centers": centers, **rest}


def pack(arrays: Mapping[str, Array], centers: Array) -> tuple[dict[str, Array], int] | None:
    """Tensors to store and the exponent, for a scene that `halved` made; None where `unpack` would not give it back bit for bit."""
    apart = np.asarray(arrays["points"], dtype=float) - np.asarray(centers, dtype=float)[:, None]
    exponent = _exponent(apart)
    with np.errstate(over="ignore"):
        packed = {
            "centers": np.asarray(centers, dtype=np.float32),
            "offsets": (apart * 2.0**-exponent).astype(np.float16),
        }
        packed |= {name: np.ascontiguousarray(arrays[name]).astype(np.float16) for name in REST}
    again = unpack(packed, exponent)
    same = all(np.array_equal(again[name], arrays[name]) for name in ("points", *REST))
    return (packed, exponent) if same else None


def unpack(packed: Mapping[str, Array], exponent: int) -> dict[str, Array]:
    """`points` and `REST` of stored tensors, float32, and `centers`.

    Raises:
        UnsafeFileError: a tensor is missing, or of another type or shape.
    """
    for name, kind in {"centers": np.float32, "offsets": np.float16, **dict.fromkeys(REST, np.float16)}.items():
        if name not in packed or packed[name].dtype != kind:
            found = packed[name].dtype if name in packed else "nothing"
            raise UnsafeFileError(f"a scene in half precision holds {found} as {name}; expected {np.dtype(kind)}")
    centers, offsets = packed["centers"], packed["offsets"]
    if not -200 <= exponent <= 200:
        raise UnsafeFileError(f"offsets in units of 2^{exponent}; expected an exponent of -200 to 200")
    if offsets.ndim != 3 or centers.shape != (len(offsets), 3) or offsets.shape[2] != 3:
        raise UnsafeFileError(f"offsets {offsets.shape}, centers {centers.shape}; expected (N, K, 3) and (N, 3)")
    rest = {name: packed[name].astype(np.float32) for name in REST}
    return {"points": _points(centers, offsets, exponent), "centers": centers, **rest}


def _exponent(offsets: Array) -> int:
    largest = float(np.abs(offsets).max(initial=0.0))
    return math.frexp(largest / LARGEST)[1] if 0 < largest < math.inf else 0


def _points(centers: Array, offsets: Array, exponent: int) -> Array:
    return (centers[:, None].astype(float) + offsets.astype(float) * 2.0**exponent).astype(np.float32)
