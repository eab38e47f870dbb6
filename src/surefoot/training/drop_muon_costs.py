"""What a step costs, layer by layer: counted in floating-point operations, or fitted to measured times.

A step that updates the suffix from s on costs ``T(s) = C_f + sum_{i >= s} c_i``. Here c_i holds the gradient of layer i's own
parameters, its update, and the gradient with respect to the *output* of layer i (which is needed only to reach layers up to i), so that the
sum is exact for suffixes. ``C_f`` is the forward pass with whatever else every step does.

References:
    Gruntkowska, Maziane, Qu, Richtarik, Drop-Muon, 2025, arXiv 2510.02239.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from surefoot.training.drop_muon import DropMuon

__all__ = ["CostModel", "count_costs", "count_spared", "fit_costs", "measure_costs"]


@dataclass(frozen=True)
class CostModel:
    """C_f and c (b,), in seconds or operations."""

    forward: float
    layers: tuple[float, ...]

    def step(self, start: int) -> float:
        """Cost of a step that updates the layers from `start` on."""
        return self.forward + sum(self.layers[start:])

    def of(self, mask: Sequence[int], spared: Sequence[float] = ()) -> float:
        """Cost of a step that updates the layers of a mask (b,), less what those left out after the first would have taken, if `spared` says."""
        start = list(mask).index(1)
        left_out = (saved for on, saved in zip(mask[start:], spared[start:], strict=False) if not on)
        return self.step(start) - sum(left_out)

    def expected(self, cutoffs: Sequence[float]) -> float:
        """Mean cost of a step under cutoff probabilities (b,)."""
        return float(sum(p * self.step(s) for s, p in enumerate(cutoffs)))

    def as_tuple(self) -> tuple[float, ...]:
        """(C_f, c_0, ..., c_{b-1}), as `Auto(costs=...)` takes it."""
        return (self.forward, *self.layers)


def fit_costs(times: Mapping[int, Sequence[float]], layers: int) -> CostModel:
    """The model nearest to measured times of whole steps by cutoff: medians, made non-increasing in the cutoff, the steps between them
    shared evenly where a cutoff was not measured. The least cutoff's cost beyond the deepest layer counts as forward pass.

    Args:
        times: seconds of steps, by first updated layer; cutoff 0 and b - 1 must be there.
    """
    known = sorted(s for s, values in times.items() if values)
    if not known or known[0] != 0 or known[-1] != layers - 1:
        raise ValueError(f"times of the cutoffs {known}; expected at least those of 0 and {layers - 1}")
    medians = [statistics.median(times[s]) for s in known]
    above, below = np.maximum.accumulate(medians[::-1])[::-1], np.minimum.accumulate(medians)
    falling = (above + below) / 2  # both fall, and are the medians where these do
    T = np.interp(np.arange(layers), known, falling)
    c = [*(T[:-1] - T[1:]).tolist(), 0.0]
    return CostModel(float(T[-1]), tuple(c))


def measure_costs(
    optimizer: DropMuon, step: Callable[[], Any], *, rounds: int = 5, cutoffs: Sequence[int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[CostModel, dict[int, list[float]]]:  # fmt: skip
    """Time whole training steps at every cutoff, in turn, and fit the model; parameters and optimiser are put back afterwards.

    Args:
        step: one training step with the optimiser as it stands: zero_grad, forward, backward, ``optimizer.step()``.
        rounds: timed passes over the cutoffs after one that only warms up.

    Returns:
        The model, and the seconds by cutoff.
    """
    b = optimizer.layers
    chosen = range(b) if cutoffs is None else cutoffs
    times: dict[int, list[float]] = {s: [] for s in chosen}
    with optimizer.trial():
        for turn in range(rounds + 1):
            for s in chosen:
                optimizer.draw_exactly(range(s, b))
                _wait(optimizer)
                began = clock()
                step()
                _wait(optimizer)
                if turn:
                    times[s].append(clock() - began)
    return fit_costs(times, b), times


def _wait(optimizer: DropMuon) -> None:
    import torch

    if optimizer.device.type == "cuda":
        torch.cuda.synchronize(optimizer.device)


def _counted(optimizer: DropMuon, gradient: Callable[[], Any], sets: Sequence[Iterable[int]]) -> list[float]:
    """Operations of forward and backward pass for each set of layers."""
    from surefoot.numerics.operations import CountOperations

    found = []
    with optimizer.trial():
        for chosen in sets:
            optimizer.draw_exactly(chosen)
            with CountOperations() as counter:
                gradient()
            found.append(float(counter.total))
    return found


def count_spared(optimizer: DropMuon, gradient: Callable[[], Any]) -> list[float]:
    """Operations (b,) that a step saves when a layer beyond the first drawn one is left out: the gradient of its own parameters, and its update."""
    b = optimizer.layers
    every, *without = _counted(optimizer, gradient, [range(b), *[[j for j in range(b) if j != i] for i in range(1, b)]])
    return [0.0, *[every - left + optimizer.update_operations(i) for i, left in enumerate(without, 1)]]


def count_costs(optimizer: DropMuon, gradient: Callable[[], Any]) -> CostModel:
    """The model in floating-point operations of matrix products and convolutions, by the formulas of ``torch.utils.flop_counter``: backward passes at every cutoff, and the
    orthogonalisation.

    Args:
        gradient: zero_grad, forward and backward, without a step.
    """
    b = optimizer.layers
    passes = _counted(optimizer, gradient, [range(s, b) for s in range(b)])
    updates = [optimizer.update_operations(i) for i in range(b)]
    c = [passes[i] - passes[i + 1] + updates[i] for i in range(b - 1)]
    return CostModel(passes[-1], (*c, updates[-1]))
