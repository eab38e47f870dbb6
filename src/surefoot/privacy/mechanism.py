"""The Gaussian mechanism: noise from system entropy, and the final query that certifies a gradient norm.

Floating-point Gaussian noise has known side channels (its low bits depend on the value it hides). `system_normal` adds
four draws from the operating system's generator, which makes the attack of Mironov (2012) cost the square of what it costs
against one draw; it does not make it impossible, and a run's premises say so.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.numerics.bounds import noncentral_norm_bound
from surefoot.privacy.ledger import Ledger, Release

Array = np.ndarray
Noise = Literal["system", "streams"]


def system_normal(count: int, draws: int = 4) -> Array:
    """Standard normal numbers (count,) from the operating system's entropy, each the scaled sum of `draws` of them.

    References:
        Holohan, Braghin, Secure random sampling in differential privacy, ESORICS 2021 (sums of several draws).
    """
    words = np.frombuffer(secrets.token_bytes(8 * count * draws), dtype=np.uint64)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return ndtri(uniform).reshape(draws, count).sum(axis=0) / math.sqrt(draws)


@dataclass(frozen=True)
class Gaussian:
    """`value + N(0, (noise_multiplier record_bound)^2 I)`, entered in the ledger before a number is drawn.

    Args:
        ledger: where every release is written first.
        streams: of the run; used only where its seed is fixed, which marks the run as not private.
    """

    ledger: Ledger
    streams: Streams

    def release(
        self, value: Tensor, name: str, index: int, *, noise_multiplier: float, record_bound: float, sampling: float = 1.0,
        part: int = -1, reserved: bool = False,
    ) -> Tensor:  # fmt: skip
        """The noisy vector, in float64.

        Args:
            value: (d,) what is to be hidden; one record moves it by at most `record_bound` (twice that, replaced).
            index: address of the noise, where a fixed seed is used.
            reserved: the release was entered before (a block is entered at once).

        Raises:
            BudgetSpentError: nothing is drawn and nothing leaves.
            ValueError: the value is not finite (a record with NaN would show through any noise).
        """
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} {index} is not finite, and adding noise would not hide that; a record or the model holds NaN or "
                "infinity: clean the records by a rule that looks at one record at a time"
            )
        entry = Release(name, noise_multiplier, record_bound, sampling, part)
        if not reserved:
            self.ledger.enter(entry)
        if self.streams.seed is None:
            noise = system_normal(value.numel())
        else:
            noise = self.streams.numpy(f"noise/{name}", index).standard_normal(value.numel())
        return value.double() + entry.noise_std * torch.from_numpy(noise).to(value.device).reshape(value.shape)


def gradient_bound(release: Tensor, noise_std: float, failure_probability: float) -> float:
    """An upper bound of `|g|` that holds with probability `1 - failure_probability`, from `release = g + N(0, s^2 I)`.

    `|release|^2 / s^2` is noncentral chi-square with d degrees of freedom and noncentrality `|g|^2 / s^2`; the bound is the
    largest noncentrality under which so small a value has at least the failure probability. Post-processing: no privacy.

    Args:
        release: (d,).
        noise_std: s > 0.
    """
    observed = float(torch.linalg.vector_norm(release))
    return float(noncentral_norm_bound(observed, noise_std, release.numel(), failure_probability))
