"""Which layers a step updates: distributions over sets of layers, their schedules, and the cost-optimal one.

Layers are counted from the input, i = 0 ... b - 1. With *randomised progressive training* the set is a suffix {s, ..., b - 1}
drawn with cutoff probabilities p_s, so layer i takes part with probability ``P_i = p_0 + ... + p_i``: the backward pass stops at s.

To bring every layer's mean squared dual gradient norm to epsilon takes ``K = (2 Delta / epsilon) max_i L_i / P_i`` steps of expected
cost ``C_f + sum_i P_i c_i``. The product is least at

``P_i* = max_{j <= i} L_j / max_j L_j`` (i < b - 1), ``P_{b-1}* = 1``,

and updating everything is optimal exactly if the first layer is the least smooth one. For sets that need not be suffixes
``P_i* = L_i / max_j L_j``.

References:
    Gruntkowska, Maziane, Qu, Richtarik, Drop-Muon: Update less, converge faster, 2025, arXiv 2510.02239.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

__all__ = [
    "Auto", "Cutoffs", "EachLayer", "EpochShift", "Full", "Independent", "LayerDistribution", "LayerSchedule", "Scheduled", "Subsets", "Uniform",
    "as_schedule", "epoch_shift", "optimal_cutoffs", "optimal_inclusion", "predicted_ratio", "steps_ratio",
]  # fmt: skip

Array = np.ndarray[Any, np.dtype[Any]]
LEAST_INCLUSION = 0.25  # a layer drawn more rarely still steps by lr over this at most


@runtime_checkable
class LayerDistribution(Protocol):
    """A distribution over non-empty sets of b layers."""

    @property
    def inclusion(self) -> Array:
        """P (b,): how often each layer takes part."""
        ...

    def draw(self, generator: np.random.Generator) -> Array:
        """A set of layers as a mask (b,), never empty."""
        ...


def _probabilities(values: Any, what: str) -> Array:
    p = np.asarray(values, dtype=float)
    if p.ndim != 1 or not len(p) or not np.isfinite(p).all() or (p < 0).any():
        raise ValueError(f"{what} are {p.tolist()}; expected one number >= 0 a layer")
    if abs(p.sum() - 1) > 1e-6:
        raise ValueError(f"{what} sum to {p.sum():.6g}; expected 1")
    return p / p.sum()


def _warn_never(inclusion: Array) -> None:
    never = np.flatnonzero(inclusion == 0)
    if len(never):
        warnings.warn(f"layers {never.tolist()} are never trained: their probability is 0", stacklevel=4)


@dataclass(frozen=True)
class Cutoffs:
    """Suffixes {s, ..., b - 1} with cutoff probabilities p (b,).

    Raises:
        ValueError: negative or not finite, or the sum is not 1.
    """

    p: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", tuple(_probabilities(self.p, "cutoff probabilities").tolist()))
        _warn_never(self.inclusion)

    @property
    def inclusion(self) -> Array:
        return np.minimum(np.cumsum(self.p), 1.0)

    def draw(self, generator: np.random.Generator) -> Array:
        p = np.asarray(self.p)
        last = int(np.flatnonzero(p)[-1])
        start = min(int(np.searchsorted(np.cumsum(p), generator.random(), side="right")), last)
        return np.arange(len(p)) >= start


@dataclass(frozen=True)
class Independent:
    """Every layer by its own coin, with probabilities (b,); an empty set is drawn again."""

    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        q = np.asarray(self.probabilities, dtype=float)
        if q.ndim != 1 or not len(q) or not ((q >= 0) & (q <= 1)).all() or not q.max() > 0:
            raise ValueError(f"probabilities are {q.tolist()}; expected one of [0, 1] a layer, not all 0")
        object.__setattr__(self, "probabilities", tuple(q.tolist()))
        _warn_never(q)

    @property
    def inclusion(self) -> Array:
        q = np.asarray(self.probabilities)
        return q / (1 - np.prod(1 - q))

    def draw(self, generator: np.random.Generator) -> Array:
        q = np.asarray(self.probabilities)
        while not (mask := generator.random(len(q)) < q).any():
            pass
        return mask


@dataclass(frozen=True)
class Subsets:
    """Any sets of layers, each with its probability: ``Subsets(4, {(0,): 0.5, (2, 3): 0.5})``."""

    layers: int
    weights: Mapping[tuple[int, ...], float]

    def __post_init__(self) -> None:
        for chosen in self.weights:
            if not chosen:
                raise ValueError("a set of layers is empty; expected at least one layer")
            if len(set(chosen)) < len(chosen) or not all(0 <= i < self.layers for i in chosen):
                raise ValueError(f"the set {chosen} is not of distinct layers 0 to {self.layers - 1}")
        _probabilities(list(self.weights.values()), "probabilities of the sets")
        _warn_never(self.inclusion)

    def _masks(self) -> Array:
        return np.array([[i in chosen for i in range(self.layers)] for chosen in self.weights])

    @property
    def inclusion(self) -> Array:
        return np.asarray(list(self.weights.values()), dtype=float) @ self._masks()

    def draw(self, generator: np.random.Generator) -> Array:
        p = np.asarray(list(self.weights.values()), dtype=float)
        return self._masks()[min(int(np.searchsorted(np.cumsum(p), generator.random(), side="right")), len(p) - 1)]


def epoch_shift(layers: int, tau: float, alpha: float = 0.5) -> Cutoffs:
    """``p_s ~ exp(alpha [(1 - tau)(b - s) + tau (s - 1)])``, s = 1 ... b: shallow cutoffs early (tau = 0), deep ones late (tau = 1)."""
    s = np.arange(1, layers + 1)
    logits = alpha * ((1 - tau) * (layers - s) + tau * (s - 1))
    weights = np.exp(logits - logits.max())
    return Cutoffs(tuple((weights / weights.sum()).tolist()))


def optimal_inclusion(smoothness: Any, *, suffix: bool = True) -> Array:
    """P* (b,) of the module's formula for smoothness constants (b,)."""
    L = np.asarray(smoothness, dtype=float)
    if L.ndim != 1 or not len(L) or not np.isfinite(L).all() or not (L > 0).all():
        raise ValueError(f"smoothness constants are {L.tolist()}; expected one number > 0 a layer")
    if not suffix:
        return L / L.max()
    P = np.maximum.accumulate(L) / L.max()
    P[-1] = 1.0
    return P


def optimal_cutoffs(smoothness: Any) -> Cutoffs:
    """The suffix distribution that has the inclusion probabilities P*."""
    return Cutoffs(tuple(np.diff(optimal_inclusion(smoothness), prepend=0.0).tolist()))


def predicted_ratio(inclusion: Any, forward: float, layers: Any) -> float:
    """``(C_f + sum P_i c_i) / (C_f + sum c_i)``: the expected cost of a step beside that of the full one."""
    c = np.asarray(layers, dtype=float)
    return float((forward + np.asarray(inclusion, dtype=float) @ c) / (forward + c.sum()))


def steps_ratio(inclusion: Any, smoothness: Any, sizes: Any, radius: float) -> float:
    """Steps needed over those of the full update, by the guaranteed decrease of a step of fixed radius t:

    ``sum_i (t |g_i|* - L_i t^2 / 2)`` in full, ``sum_i (t |g_i|* - L_i t^2 / (2 P_i))`` with layers drawn with P_i and steps t / P_i.
    Infinite where the second is not positive; 1 where the first is not, so that nothing is known.
    """
    P, every, g = (np.asarray(x, dtype=float) for x in (inclusion, smoothness, sizes))
    L = np.where(g > 0, every, 0.0)  # layers that step in no norm have no terms
    full = float((radius * g - L * radius**2 / 2).sum())
    dropped = float((radius * g - L * radius**2 / (2 * P)).sum())
    return 1.0 if full <= 0 else math.inf if dropped <= 0 else full / dropped


# ---- schedules: which distribution at which step ---------------------------------------------------------------------
@runtime_checkable
class LayerSchedule(Protocol):
    """Which distribution step k (from 0) of epoch `epoch` draws from."""

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution: ...


@dataclass(frozen=True)
class Full:
    """Every layer in every step: plain Muon."""

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        return Cutoffs((1.0, *[0.0] * (layers - 1)))


@dataclass(frozen=True)
class Uniform:
    """Cutoffs with equal probability; (b + 1) / 2b of the layers take part on average."""

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        return Cutoffs((1.0 / layers,) * layers)


@dataclass(frozen=True)
class EachLayer:
    """Every layer by its own coin, the last one always: DropMuon's default.

    The backward pass reaches the earliest drawn layer, as deep as a full one more often than not; what is saved are the products of the other layers'
    gradients and their orthogonalisation. No layer is drawn more rarely than another, so none has to step far in one go: a uniform
    suffix draws the first of b layers with 1 / b only.
    """

    probability: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; expected a number of (0, 1]")

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        return Independent((*[self.probability] * (layers - 1), 1.0))


@dataclass(frozen=True)
class EpochShift:
    """`epoch_shift` with tau = epoch / epochs; the epoch is set by `DropMuon.set_epoch`, or follows from steps_per_epoch."""

    epochs: int
    alpha: float = 0.5
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.steps_per_epoch is not None and self.steps_per_epoch < 1):
            raise ValueError(f"epochs {self.epochs}, steps_per_epoch {self.steps_per_epoch}; expected at least 1")

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        now = epoch if self.steps_per_epoch is None else k // self.steps_per_epoch
        return epoch_shift(layers, min(now / self.epochs, 1.0), self.alpha)


@dataclass(frozen=True)
class Scheduled:
    """Any distribution, or any function of the step: ``Scheduled(lambda k: Cutoffs(...))``."""

    distribution: LayerDistribution | Callable[[int], LayerDistribution]

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        found = self.distribution if isinstance(self.distribution, LayerDistribution) else self.distribution(k)
        if len(found.inclusion) != layers:
            raise ValueError(f"the distribution is over {len(found.inclusion)} layers; the optimiser has {layers}")
        return found


@dataclass(frozen=True)
class Auto:
    """The cost-optimal cutoffs from smoothness estimated and costs measured during the run; full where that would gain little.

    The saving is that of the time: the cost ratio times the `steps_ratio` of the guaranteed decreases, since a step that does less is worth
    less. Until the smoothness was estimated once, and wherever the saving would be small, every layer is updated. The steps of a chosen
    distribution are timed while they train; once each likely cutoff was seen, a saving that the times do not confirm is given up.

    Args:
        least_gain: saving, predicted from times, below which every layer is updated.
        probe_every: steps between two estimates of the smoothness; the first is taken after half as many. One costs a gradient and two
            orthogonalisations more, on the same batch, so that estimating takes about 2 % of the time at most, in short runs, too.
        costs: (C_f, c_0, ..., c_{b-1}) in any unit; None measures them.
        rounds: so often a cutoff is timed (after a step that warms up) before its time counts.
        suffix: False draws each layer alone, with P_i = L_i / max L.
        least_inclusion: no layer is drawn less often, nor steps further than lr over it: estimates are secants of a few batches.
        exact: dual norms by singular values instead of the Polar Express (a few per cent); dear for large matrices.
    """

    least_gain: float = 0.03
    probe_every: int = 100
    costs: tuple[float, ...] | None = None
    rounds: int = 4
    suffix: bool = True
    least_inclusion: float = LEAST_INCLUSION
    exact: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least_inclusion <= 1:
            raise ValueError(f"least_inclusion is {self.least_inclusion}; expected a number of (0, 1]")
        if not 0 <= self.least_gain < 1 or self.probe_every < 1 or self.rounds < 2:
            raise ValueError("expected least_gain of [0, 1), probe_every >= 1, rounds >= 2")
        if self.costs is not None and (len(self.costs) < 2 or not all(c >= 0 and math.isfinite(c) for c in self.costs)):
            raise ValueError(f"costs are {self.costs}; expected (forward, one a layer), all >= 0")

    def at(self, k: int, epoch: int, layers: int) -> LayerDistribution:
        """Before anything is known: every layer."""
        return Full().at(k, epoch, layers)

    def probes(self, k: int) -> bool:
        """Whether the smoothness is estimated at step k."""
        return k > 0 and (k % self.probe_every == 0 or k == self.probe_every // 2)

    def inclusion(self, smoothness: Any) -> Array:
        """P (b,): the optimum, no layer below `least_inclusion`."""
        return np.maximum(optimal_inclusion(smoothness, suffix=self.suffix), self.least_inclusion)

    def choose(
        self, smoothness: Any, forward: float, layers: Any, sizes: Any = None, radius: float = 0.0
    ) -> LayerDistribution:
        """The distribution for what is known now.

        Args:
            sizes, radius: dual gradient norms (b,) and lr; with them the saving is that of the time, cost ratio times `steps_ratio`.
        """
        P = self.inclusion(smoothness)
        steps = 1.0 if sizes is None else steps_ratio(P, smoothness, sizes, radius)
        if 1 - predicted_ratio(P, forward, layers) * steps < self.least_gain:
            return Full().at(0, 0, len(P)) if self.suffix else Independent((1.0,) * len(P))
        return Cutoffs(tuple(np.diff(P, prepend=0.0).tolist())) if self.suffix else Independent(tuple(P.tolist()))


def as_schedule(sampling: Any) -> LayerSchedule:
    """A schedule from a name ("independent", "full", "uniform", "auto"), a schedule, a distribution, cutoff probabilities, or a function of the step.

    Raises:
        ValueError, TypeError: with what there is.
    """
    if isinstance(sampling, str):
        named: Mapping[str, LayerSchedule] = {
            "independent": EachLayer(), "full": Full(), "uniform": Uniform(), "auto": Auto(),
        }  # fmt: skip
        if sampling in named:
            return named[sampling]
        hint = {"epoch-shift": "give EpochShift(epochs)", "optimal": "give optimal_cutoffs(L), or 'auto'"}
        raise ValueError(
            f"sampling {sampling!r}: {hint.get(sampling.replace('_', '-'), 'there are independent, full, uniform, auto')}"
        )
    if isinstance(sampling, LayerDistribution) or (callable(sampling) and not isinstance(sampling, LayerSchedule)):
        return Scheduled(cast("LayerDistribution | Callable[[int], LayerDistribution]", sampling))
    if isinstance(sampling, LayerSchedule):
        return sampling
    if isinstance(sampling, Sequence | np.ndarray):
        return Scheduled(Cutoffs(tuple(float(x) for x in sampling)))
    raise TypeError(
        f"sampling is a {type(sampling).__name__}; expected a name, a schedule, a distribution or probabilities"
    )
