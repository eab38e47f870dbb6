"""Addressed Gaussian noise: the draws of an image are the same whatever the batch, the order or the resume.

The draws come in blocks of `rows`, each with a stream of its own, ``streams("noise/<purpose>", image, block)``; a block is filled by
torch's own generator, so that addressing costs nothing beside `torch.randn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from surefoot.core.random import Streams

__all__ = ["Noise"]

MOST_BITS = 16


@dataclass(frozen=True)
class Noise:
    """How noise is drawn.

    Args:
        rows: draws a block; part of the address, so another number gives other noise.
        source: "device" draws where the model lives, fastest; "cpu" draws on the CPU and moves, so that every device sees the
            same numbers.
        lattice_bits: k > 0 rounds image and noise to multiples of 2^-k. Sums of such numbers are exact in float32, so round-off
            cannot break the certificate; it then speaks of images on the lattice. 0 leaves them as they are.

    Raises:
        ValueError: rows < 1, or lattice_bits outside 0 .. 16.
    """

    rows: int = 250
    source: Literal["device", "cpu"] = "device"
    lattice_bits: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"noise rows is {self.rows}; expected at least 1")
        if self.source not in ("device", "cpu"):
            raise ValueError(f"noise source is {self.source!r}; expected 'device' or 'cpu'")
        if not 0 <= self.lattice_bits <= MOST_BITS:
            raise ValueError(
                f"lattice_bits is {self.lattice_bits}; expected 0 .. {MOST_BITS}, where float32 sums are exact"
            )

    def blocks(self, draws: int) -> int:
        """How many blocks hold so many draws."""
        return -(-draws // self.rows)

    def noisy(
        self, image: Tensor, sigma: float, streams: Streams, purpose: str, index: int, block: int, draws: int | None = None,
    ) -> Tensor:  # fmt: skip
        """``image + sigma z`` for one block of draws ``(rows, *shape)``; fewer where only `draws` in all are wanted.

        Args:
            image: (*shape), on its device, in its precision.
            purpose: "select", "estimate" …: draws of two purposes are independent.
            index: of the image.
            block: which block of the image's draws.
            draws: how many draws the image gets in all; the last block is cut there (its head stays the same).
        """
        device = image.device.type if self.source == "device" else "cpu"
        generator = streams.torch(f"noise/{purpose}", index, block, device=device)
        drawn_in = image.dtype if image.dtype in (torch.float32, torch.float64) else torch.float32
        z = torch.empty((self.rows, *image.shape), dtype=drawn_in, device=device).normal_(generator=generator)
        if draws is not None and (left := draws - block * self.rows) < self.rows:
            z = z[:left]
        z = z.to(image.device)
        if self.lattice_bits:
            unit = 2.0**self.lattice_bits
            z.mul_(sigma * unit).round_().div_(unit)
            return self.on_lattice(image.to(drawn_in)).add(z).to(image.dtype)
        if z.dtype == image.dtype:
            return torch.add(image, z, alpha=sigma, out=z)
        return torch.add(image.to(drawn_in), z, alpha=sigma).to(image.dtype)

    def on_lattice(self, images: Tensor) -> Tensor:
        """Images rounded to the lattice; themselves where there is none."""
        if not self.lattice_bits:
            return images
        unit = 2.0**self.lattice_bits
        return (images * unit).round() / unit
