"""What a federation brings: clients with their records, how they are weighted, what is known of the loss.

`f(x) = sum_p sum_{z in D_p} a_p l(x, z) + (ridge / 2) |x|^2`, with the weight of a record

    a_p = 1 / n           weights "records": the mean over all records
    a_p = 1 / (P n_p)     weights "clients": the mean over the P clients of their means

so one record, exchanged for another, moves a sum of clipped gradients by at most `2 c max_p a_p`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from surefoot.core.problem import Constant, Identified
from surefoot.privacy.exchange import Exchange, InProcess
from surefoot.privacy.records import Records

log = logging.getLogger(__name__)
Weights = Literal["records", "clients"]


@dataclass(frozen=True)
class HeldOut:
    """Records kept apart from training, for one private look at the loss at the end.

    Args:
        size: number m of records.
        most: losses are clipped to [0, most]; public.
        losses: parameters (d,) -> losses (m,).
    """

    size: int
    most: float
    losses: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        if self.size < 1 or not self.most > 0:
            raise ValueError(f"held-out records: {self.size}, losses up to {self.most}; expected at least one, and > 0")


@dataclass(frozen=True, kw_only=True)
class Federation(Identified):
    """Clients that minimise a common loss without showing their records.

    Args:
        clients: the records at hand, by client; a process of a distributed run holds its own only.
        sizes: records of every client (P,); public.
        weights: see the module's text.
        ridge: weight of the public quadratic term; it costs no privacy.
        start: x_0 (d,); zeros where None. Public.
        constants: public bounds: `lipschitz` (of one record's loss: no gradient is longer), `smoothness` (no difference of
            gradients is longer than this times the distance), `gap` (f(x_0) less the infimum).
        held_out: records for the final look at the loss.
        exchange: how messages travel.

    Raises:
        ValueError: no clients, a client without records, different numbers of parameters.
    """

    clients: Mapping[int, Records]
    sizes: tuple[int, ...]
    weights: Weights = "records"
    ridge: float = 0.0
    start: Tensor | None = None
    constants: Mapping[str, Constant] = field(default_factory=dict)
    held_out: HeldOut | None = None
    exchange: Exchange = field(default_factory=InProcess)

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("the federation has no clients; give at least one")
        for client, size in enumerate(self.sizes):
            if size < 1:
                raise ValueError(f"client {client} has no records; leave it out, or give it some")
        if self.weights not in get_args(Weights):
            raise ValueError(f"weights is {self.weights!r}; expected one of {', '.join(get_args(Weights))}")
        if not self.ridge >= 0:
            raise ValueError(f"ridge is {self.ridge}; expected a number >= 0")
        dims = {records.dim for records in self.clients.values()}
        if len(dims) != 1:
            raise ValueError(f"clients have {sorted(dims)} parameters; expected the same number everywhere")
        if self.start is not None and self.start.shape != (self.dim,):
            raise ValueError(f"the start has shape {tuple(self.start.shape)}; expected ({self.dim},)")
        if missing := [p for p in self.exchange.mine(len(self.sizes)) if p not in self.clients]:
            raise ValueError(f"the records of clients {missing} are not at hand")
        self.require_unchanged()

    @property
    def dim(self) -> int:
        """d."""
        return next(iter(self.clients.values())).dim

    @property
    def record_weights(self) -> np.ndarray:
        """a_p (P,)."""
        sizes = np.array(self.sizes, dtype=np.float64)
        return np.full(len(sizes), 1.0 / sizes.sum()) if self.weights == "records" else 1.0 / (len(sizes) * sizes)

    @property
    def effective_records(self) -> float:
        """N = 1 / max_p a_p: all of them, or P times the least client's."""
        return 1.0 / float(self.record_weights.max())

    @property
    def rounding(self) -> float:
        """Relative room for the rounding of weighted sums over the clients, so that a swapped record moves the *computed* sum by
        no more than it may."""
        return 2.0 * self.effective_records * (len(self.sizes) + 4) * 2.0**-53

    def require_unchanged(self) -> None:
        """Refuse clients whose number of records is no longer what was declared: the bound on one record's share rests on it.

        Raises:
            ValueError: naming the client.
        """
        for client, records in self.clients.items():
            if not 0 <= client < len(self.sizes) or records.size != self.sizes[client]:
                declared = self.sizes[client] if 0 <= client < len(self.sizes) else "none"
                raise ValueError(
                    f"client {client} has {records.size} records, declared were {declared}; sizes may not change during a run"
                )

    def gradient_messages(self, x: Tensor, bound: float) -> dict[int, Tensor]:
        """`a_p sum_z clip(grad l(x, z), bound)` of every client at hand (d,)."""
        return self._messages(lambda records: records.gradient_sum(x, bound * (1.0 - self.rounding)))

    def difference_messages(self, x: Tensor, previous: Tensor, bound: float) -> dict[int, Tensor]:
        """`a_p sum_z clip(grad l(x, z) - grad l(previous, z), bound)` of every client at hand (d,)."""
        return self._messages(lambda records: records.difference_sum(x, previous, bound * (1.0 - self.rounding)))

    def _messages(self, of: Callable[[Records], Tensor]) -> dict[int, Tensor]:
        self.require_unchanged()
        weights = self.record_weights
        mine = self.exchange.mine(len(self.sizes))
        return {client: float(weights[client]) * of(self.clients[client]).cpu() for client in mine}

    def known(self, name: str) -> float | None:
        """A public constant, unless it is an estimate."""
        constant = self.constants.get(name)
        return None if constant is None or constant.known == "estimated" else constant.value


def require_delta(delta: float, records: float, allow_large: bool = False) -> None:
    """A delta as large as one over the number of records allows releasing a record outright.

    Raises:
        ValueError: delta >= 1 / records, unless allowed.
    """
    if delta >= 1.0 / records and not allow_large:
        raise ValueError(
            f"delta is {delta:g}, but with {records:g} records publishing one record at random is (0, {1 / records:.2g})-DP already: "
            f"give a delta below {0.1 / records:.2g}, or say --allow-large-delta"
        )
    if delta > 0.1 / records:
        log.warning("delta %g is above a tenth of one over the %g records; smaller is usual", delta, records)


def typical_smoothness(public: Records, x: Tensor, radius: float, streams_seed: int = 0, rows: int = 200) -> float:
    """The median over records of `|grad l(x + u, z) - grad l(x, z)| / |u|` for random u of length `radius`.

    A guide for the clipping bound of differences. Give it public or synthetic records: on private ones it is a release that
    nobody accounts for.
    """
    generator = torch.Generator().manual_seed(streams_seed)
    ratios: list[float] = []
    for row in torch.randperm(public.size, generator=generator)[:rows]:
        step = torch.randn(public.dim, generator=generator, dtype=torch.float64)
        step *= radius / step.norm()
        difference = public.difference_sum(x + step, x, 1e12, row.reshape(1))
        ratios.append(float(difference.norm()) / radius)
    return float(np.median(ratios))


def dealt(count: int, clients: int) -> list[Tensor]:
    """Rows dealt round-robin: row i to client i mod P."""
    return [torch.arange(client, count, clients) for client in range(clients)]


def by_label(labels: Sequence[object]) -> dict[str, Tensor]:
    """Rows by client name, in the names' order (numbers as numbers)."""
    names = np.array([str(label) for label in labels])

    def order(name: str) -> tuple[int, float, str]:
        number = name.replace(".", "", 1).lstrip("-").isdigit()
        return (0, float(name), name) if number else (1, 0.0, name)

    return {name: torch.from_numpy(np.flatnonzero(names == name)) for name in sorted(set(names.tolist()), key=order)}
