"""The same events in a compiled kernel (Warp, the extra `kernels`): millions of events a second on one core.

Vectors are padded to groups of eight numbers. One thread processes one replicate's events in their order; replicates (seeds,
settings) are the threads, so that a device runs as many at once as it has room for.
"""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.decentralized.constants import Constants
from surefoot.decentralized.events import Events
from surefoot.decentralized.flow import oscillation
from surefoot.decentralized.problem import Network
from surefoot.numerics.kernels import start_warp
from surefoot.numerics.losses import Huber, Logistic, Squared

log = logging.getLogger(__name__)
Array = np.ndarray[Any, np.dtype[np.float64]]
WIDTH = 8
QUADRATIC, LOGISTIC, HUBER = 0, 1, 2


def installed() -> bool:
    """Whether the extra `kernels` is there."""
    return importlib.util.find_spec("warp") is not None


def supports(network: Network) -> bool:
    """Whether the kernel knows the gradients: linear models with squared, logistic or Huber loss, the same at every node."""
    rows = network.rows
    return (
        rows is not None
        and len({repr(r.loss) for r in rows}) == 1
        and isinstance(rows[0].loss, Squared | Logistic | Huber)
    )


def _padded(array: Array) -> Array:
    """(..., d) -> (..., ceil(d / 8) * 8) with zeros."""
    extra = -array.shape[-1] % WIDTH
    return (
        np.concatenate([array, np.zeros((*array.shape[:-1], extra))], axis=-1) if extra else np.ascontiguousarray(array)
    )


@dataclass(frozen=True, eq=False)
class LocalTables:
    """All nodes' losses in the layout of the kernel: rows, or Gram matrices where those are smaller."""

    kind: int
    knee: float
    rows: Array  # (sum of rows, D), D = padded d
    targets: Array  # (sum of rows,)
    first: np.ndarray[Any, np.dtype[np.int32]]  # (n + 1,)
    ridge: Array  # (n,)

    @classmethod
    def of(cls, network: Network, by_rows: bool = False) -> LocalTables:
        """A squared loss becomes the quadratic H x - c with one row a coordinate (unless `by_rows`); other losses keep their rows."""
        assert network.rows is not None
        loss = network.rows[0].loss
        kind = QUADRATIC if isinstance(loss, Squared) else LOGISTIC if isinstance(loss, Logistic) else HUBER
        if by_rows and kind == QUADRATIC:
            kind = HUBER  # whose knee is never reached
        tables, targets = [], []
        for local in network.rows:
            A, y = local.features, local.targets
            if kind == QUADRATIC:
                A, y = A.T @ A / len(A), A.T @ y / len(y)
            tables.append(_padded(A))
            targets.append(y)
        first = np.cumsum([0, *(len(t) for t in tables)]).astype(np.int32)
        ridge = np.array([local.ridge for local in network.rows])
        knee = loss.knee if isinstance(loss, Huber) else float(np.finfo(np.float64).max)
        return cls(kind, knee, np.concatenate(tables), np.concatenate(targets), first, ridge)


def _compiled() -> tuple[Any, Any]:
    """The kernel and its vector type, imported only here."""
    start_warp()
    from surefoot.decentralized.warp_kernel import advance, vec8

    return advance, vec8


def _numbers(c: Constants) -> Array:
    """The constants and what depends on them alone, in the kernel's order."""
    rx, rz = c.eta + c.eta_twin, c.alpha + c.alpha_twin
    square = oscillation(c)
    y1 = -c.theta * c.alpha / (c.theta - rz + rz**2 / c.alpha)
    y2 = c.theta * c.nu * c.eta_twin / (c.theta - rx + rx**2 / c.alpha)
    return np.array([
        c.nu, c.eta, c.eta_twin, c.alpha, c.alpha_twin, c.theta, c.beta, c.beta_twin, c.gamma, c.gamma_twin, c.delta,
        square, abs(square) ** 0.5, y1, y1 * (1 - rz / c.alpha), y2, y2 * (1 - rx / c.alpha),
    ])  # fmt: skip


class EventKernel:
    """The compiled advance for one network and one set of constants.

    Args:
        network: see `supports`.
        constants: of the dynamics.
        device: "cpu", or "cuda" where Warp has one.
        batch: rows a gradient, which the events then name; 0 for all.

    Raises:
        ImportError: the extra is missing.
        ValueError: the network's losses are not ones that the kernel knows.
    """

    def __init__(self, network: Network, constants: Constants, device: str = "cpu", batch: int = 0) -> None:
        if not installed():
            raise ImportError("the compiled simulator needs Warp: pip install 'surefoot[kernels]'")
        if not supports(network):
            raise ValueError("the kernel takes linear models with squared, logistic or huber loss; use engine='numpy'")
        self._wp, self._device = start_warp(), device
        wp = self._wp
        self._advance, self._vec8 = _compiled()
        self.network = network
        self.groups = -(-network.dim // WIDTH)
        self.batch = batch
        tables = LocalTables.of(network, batch > 0)
        self._kind, self._knee = tables.kind, tables.knee
        self._rows = self._vectors(tables.rows)
        self._targets = self._array(tables.targets, wp.float64)
        self._first = self._array(tables.first, wp.int32)
        self._ridge = self._array(tables.ridge, wp.float64)
        self._ends = self._array(network.edges.astype(np.int32).ravel(), wp.int32)
        self._constants = self._array(_numbers(constants), wp.float64)

    def _array(self, values: Any, dtype: Any) -> Any:
        return self._wp.array(np.ascontiguousarray(values), dtype=dtype, device=self._device)

    def _vectors(self, values: Array) -> Any:
        return self._wp.array(values.reshape(-1, WIDTH), dtype=self._vec8, device=self._device)

    def advance(self, values: Array, clocks: Array, events: Events | list[Events]) -> None:
        """Process events in their order, in place.

        Args:
            values: (n, 6, d), or (R, n, 6, d) for R replicates.
            clocks: (n,) or (R, n).
            events: of the run, or one `Events` a replicate.
        """
        batch = [events] if isinstance(events, Events) else events
        wp, wide = self._wp, _padded(values)
        picks = np.zeros((1, 1), dtype=np.int32)
        if self.batch:
            picks = np.concatenate([e.rows for e in batch if e.rows is not None]).astype(np.int32)
        state = self._vectors(wide)
        times = self._array(clocks.ravel(), wp.float64)
        bounds = np.cumsum([0, *(len(e) for e in batch)]).astype(np.int32)
        wp.launch(
            self._advance, dim=len(batch), device=self._device,
            inputs=[
                state, times, self._array(np.concatenate([e.what for e in batch]).astype(np.int32), wp.int32),
                self._array(np.concatenate([e.times for e in batch]), wp.float64), self._array(bounds, wp.int32), self._ends,
                self._constants, self._rows, self._targets, self._first, self._ridge,
                wp.zeros(self.groups * len(batch), dtype=self._vec8, device=self._device), self.network.nodes, self.groups,
                self._kind, self._knee, self._array(picks.ravel(), wp.int32), self.batch,
            ],
        )  # fmt: skip
        values[...] = state.numpy().reshape(wide.shape)[..., : values.shape[-1]]
        clocks[...] = times.numpy().reshape(clocks.shape)
