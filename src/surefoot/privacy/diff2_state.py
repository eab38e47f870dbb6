"""What a DIFF2 run knows between rounds, and the numbers that its rounds and its certificate share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from surefoot.core.method import State, transient
from surefoot.privacy.ledger import Entry, Ledger

Trust = Literal["central", "secagg", "local"]
Output = Literal["last", "average", "random", "best"]
KEPT_NUMBERS = 2_000_000
"""Released vectors are kept for the replay up to so many numbers in all."""
HELD_OUT = "held-out loss"


@dataclass(frozen=True)
class LocalSteps:
    """The routine of BVR-L-SGD: the client on turn (r mod P) makes K steps, corrected by differences on batches of its records.

    Args:
        steps: K >= 2, the first by the server's estimate.
        batch: b, the expected number of records of a batch (Poisson sampling at rate b / n_p).
        clip: C3, differences are clipped to C3 times the distance.
    """

    steps: int = 5
    batch: float = 100.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 2 or not self.batch > 0 or not self.clip > 0:
            raise ValueError(
                f"local steps {self.steps}, batch {self.batch}, clip {self.clip}; expected >= 2, > 0 and > 0"
            )


@dataclass(frozen=True)
class Mark:
    """An iterate x_r with its estimate v_r and the variance V of the noise in it, per coordinate."""

    point: Tensor
    estimate: Tensor
    variance: float


@dataclass(kw_only=True)
class Diff2State(State):
    """What a run knows; all of it is released."""

    records: ClassVar[tuple[type, ...]] = (Entry, Mark)
    x: Tensor  # (d,) float64
    previous: Tensor
    estimate: Tensor  # v
    entries: list[Entry]
    directions: Tensor | None  # (R K, d): every released direction, for the replay
    chosen: int  # j of the random output
    random: Mark
    best: Mark
    average: Tensor  # of the iterates after the first half of the rounds
    best_bound: float = math.inf
    bound: float = math.inf  # of |grad f(x_r)| from the running estimate
    moved: float = 0.0  # |x_r - x_{r-1}|, the server's
    variance: float = 0.0  # V: per coordinate, since the anchor
    noise: float = 0.0  # standard deviation of the last release
    query: Tensor | None = None
    held_out: float | None = None
    ended: str = ""  # "", "stopped", "spent", "finished"
    ledger: Ledger | None = transient()  # noqa: RUF009  # a field() under its name


def in_order(ledger: Ledger) -> list[Entry]:
    """The ledger's entries in an order that does not depend on how many rounds are entered at once."""
    return sorted(ledger.entries(), key=lambda e: (e.part, e.name, e.noise_multiplier, e.sampling))


def running_radius(variance: float, first: float, dim: int, failure_probability: float, anchors: int) -> float:
    """How far the running estimate may be from the clipped gradient, for all rounds at once.

    `|v_t - g_t|^2 <= (V + tau)(d log(1 + V / tau) + 2 log(NA / p))`: the noise since the anchor is a martingale with Gaussian increments
    whose scales are chosen from the past; tau > 0 is fixed beforehand (method of mixtures).
    """
    spread = dim * math.log1p(variance / first) + 2.0 * math.log(anchors / failure_probability)
    return math.sqrt((variance + first) * spread)
