"""Addressed randomness: the same (seed, name, index) gives the same numbers, whatever the batch, the
rank or the resume. States keep the seed and their counters, never a generator's blob."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from surefoot.numerics.philox import philox

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Streams:
    """Named random streams under one seed.

    `seed=None` draws a secret root from system entropy; it is never stored, so such streams cannot be
    replayed (private mechanisms want exactly that).
    """

    seed: int | None = 0
    _root: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected a non-negative integer or None")
        root = secrets.token_bytes(32) if self.seed is None else str(self.seed).encode()
        object.__setattr__(self, "_root", root)

    def key(self, name: str, *index: int) -> int:
        """The 128-bit Philox key at this address."""
        address = "/".join([f"{len(name)}:{name}", *(str(int(i)) for i in index)]).encode()
        return int.from_bytes(hashlib.blake2b(address, key=self._root, digest_size=16).digest(), "little")

    def numpy(self, name: str, *index: int) -> np.random.Generator:
        """A fresh numpy generator at the address (counter-based, so streams never overlap)."""
        return np.random.Generator(philox(self.key(name, *index)))

    def torch(self, name: str, *index: int, device: str = "cpu") -> torch.Generator:
        """A fresh torch generator at the address on `device`."""
        import torch

        key = self.key(name, *index)
        generator = torch.Generator(device=device).manual_seed(key & (2**63 - 1))
        if generator.device.type == "cpu":  # torch seeds its CPU generator with 32 bits, so streams would meet
            state = generator.get_state().numpy()  # from byte 24 on: the Mersenne twister's words, in 8 bytes each
            state[24:5016].view(np.uint64)[:] = philox(key).random_raw(312).astype("<u8").view("<u4")
            generator.set_state(torch.from_numpy(state))
        return generator
