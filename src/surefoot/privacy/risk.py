"""What is minimised: the mean of the records' losses, known through clipped sums, and a public penalty that costs no privacy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from surefoot.data.linear_model import LinearModel
from surefoot.numerics.losses import Loss
from surefoot.privacy.records import LinearRecords, Records
from surefoot.records.fingerprint import fingerprint

log = logging.getLogger(__name__)
Kind = Literal["none", "ridge", "bounded"]
BOUNDED_SLOPE = 3.0 * math.sqrt(3.0) / 8.0
"""The largest slope of `w^2 / (1 + w^2)`, at `w^2 = 1/3`."""


@dataclass(frozen=True)
class Penalty:
    """A public term of the objective: `ridge` is `weight |w|^2 / 2`, `bounded` is `weight sum_j w_j^2 / (1 + w_j^2)` (not convex).

    Args:
        weight: >= 0.
        free: so many last coordinates are not penalised (an intercept).
    """

    kind: Kind = "none"
    weight: float = 0.0
    free: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "ridge", "bounded") or not 0.0 <= self.weight < math.inf:
            raise ValueError(
                f"penalty {self.kind!r} of weight {self.weight}: expected none, ridge or bounded, and a weight >= 0"
            )

    def value(self, w: Tensor) -> float:
        """At w (d,)."""
        squares = w[: len(w) - self.free].square()
        terms = {"none": 0.0 * squares, "ridge": squares / 2.0, "bounded": squares / (1.0 + squares)}[self.kind]
        return self.weight * float(terms.sum())

    def gradient(self, w: Tensor) -> Tensor:
        """At w (d,)."""
        if self.kind == "none" or self.weight == 0.0:
            return torch.zeros_like(w)
        slope = w if self.kind == "ridge" else 2.0 * w / (1.0 + w.square()).square()
        slope = self.weight * slope
        if self.free:
            slope[len(w) - self.free :] = 0.0
        return slope

    @property
    def smoothness(self) -> float:
        """Lipschitz constant of the gradient."""
        return self.weight * {"none": 0.0, "ridge": 1.0, "bounded": 2.0}[self.kind]

    @property
    def convex(self) -> bool:
        return self.kind != "bounded" or self.weight == 0.0


@dataclass(frozen=True)
class PrivateRisk:
    """`F(w) = (1/n) sum_i l(w; z_i) + penalty(w)`, reached only through clipped sums.

    Args:
        records: see `surefoot.privacy.records`.
        record_gradient: L0: every record's gradient is clipped to it.
        record_smoothness: L1: every record's difference between two points is clipped to `min(L1 |w - v|, 2 L0)`.
        penalty: public.
        known: "exact" if no record ever exceeds L0 and L1, so that clipping changes nothing; "clipped" otherwise: claims are then
            about the mean of the clipped gradients.
        convex: whether every record's loss is.
        start: where to begin (d,); zeros if None.
        start_gap: F0, a public bound of `F(start) - inf F`, for the bound that is known before the run.
        unit: what is protected, in words.
        projection: Phi (k, d): search `w = Phi' u` over u in R^k; see `surefoot.privacy.projection`.
        identity: numbers that define the records, for the fingerprint; None: the problem can be checked in process only.
    """

    records: Records
    record_gradient: float
    record_smoothness: float
    penalty: Penalty = field(default_factory=Penalty)
    known: Literal["exact", "clipped"] = "clipped"
    convex: bool = False
    start: Tensor | None = None
    start_gap: float | None = None
    unit: str = "record"
    projection: Tensor | None = None
    identity: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        for name in ("record_gradient", "record_smoothness"):
            value = getattr(self, name)
            least = 0.0 if name == "record_smoothness" else 1e-300  # a linear loss has smoothness 0
            if not least <= value < math.inf:
                raise ValueError(
                    f"{name} is {value}; expected a finite number > 0: the largest norm that one record's gradient "
                    "(or gradient difference per distance) may have"
                )

    @property
    def size(self) -> int:
        """Number of records n."""
        return self.records.size

    @property
    def dim(self) -> int:
        """Number of parameters d."""
        return self.records.dim

    @property
    def smoothness(self) -> float:
        """A public Lipschitz constant of grad F."""
        return self.record_smoothness + self.penalty.smoothness

    def origin(self) -> Tensor:
        """The start (d,) float64."""
        return torch.zeros(self.dim, dtype=torch.float64) if self.start is None else self.start.double().clone()

    def reach(self, distance: float) -> float:
        """The most by which one record's gradient changes over a distance: `min(L1 |w - v|, 2 L0)`."""
        return min(self.record_smoothness * distance, 2.0 * self.record_gradient)

    @cached_property
    def searched(self) -> PrivateRisk:
        """The problem as the search sees it: itself, or in the projected coordinates."""
        if self.projection is None:
            return self
        from surefoot.privacy.projection import projected

        return projected(self)

    def lift(self, u: Tensor) -> Tensor:
        """From the search's coordinates to the parameters."""
        return u if self.projection is None else self.projection.T @ u

    def fingerprint(self) -> str:
        """Hash of all that a claim may depend on; salted in a private run's files.

        Raises:
            TypeError: without `identity`.
        """
        if self.identity is None:
            raise TypeError("this PrivateRisk has no `identity`; give the numbers that define its records")
        penalty = (self.penalty.kind, self.penalty.weight, self.penalty.free)
        return fingerprint(
            self.identity,
            self.record_gradient,
            self.record_smoothness,
            penalty,
            self.known,
            self.origin(),
            self.projection,
        )


def bounded_rows(features: Tensor, bound: float) -> Tensor:
    """Every row scaled down to norm `bound` where it is longer: a rule that looks at one record at a time, so it costs nothing.

    Args:
        features: (n, d).
        bound: B > 0, public.
    """
    if not 0.0 < bound < math.inf:
        raise ValueError(
            f"the bound of the features' norm is {bound}; expected a finite number > 0, chosen without the data"
        )
    rows = features.double()
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    # a hair below, so that the rounded row is no longer than the bound
    return rows * torch.clamp(bound * (1.0 - 1e-14) / lengths.clamp(min=1e-300), max=1.0)


def linear_risk(
    features: Tensor, targets: Tensor, loss: Loss, *, bound: float = 1.0, intercept: bool = False, penalty: Penalty | None = None,
    record_gradient: float | None = None, target_bound: float | None = None, unit: str = "record", projection: Tensor | None = None,
) -> PrivateRisk:  # fmt: skip
    """A linear model with rows bounded by `bound`, and L0, L1 from the loss: `L0 = G B`, `L1 = L B^2` (B^2 + 1 with intercept).

    Args:
        features: (n, d); rows longer than `bound` are scaled down one by one.
        targets: (n,); -1 or +1 for classification.
        loss: smooth; with a Lipschitz constant, or give `record_gradient`.
        intercept: append a column of ones (last parameter, not penalised).
        record_gradient: clip gradients to it (below the loss's constant this changes the objective, and a warning says so).
        target_bound: public bound of |y|, for regression; used for the bound known before the run.

    Raises:
        ValueError: a loss without the constants, wrong labels, NaN.
    """
    constants = loss.constants
    bend = max(abs(constants.curvature), abs(constants.curvature_floor)) if constants.smooth else math.inf
    if not math.isfinite(bend):
        raise ValueError(
            f"the loss {type(loss).__name__} is not smooth, so gradient differences have no bound; use a smooth one"
        )
    rows = bounded_rows(features, bound)
    if intercept:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
    length = math.sqrt(bound * bound + 1.0) if intercept else bound
    lipschitz = constants.lipschitz * length
    if record_gradient is None and not math.isfinite(lipschitz):
        raise ValueError(
            f"the loss {type(loss).__name__} has no Lipschitz constant, so one record's gradient has no bound; use Huber, or give "
            "record_gradient to clip to"
        )
    clip = lipschitz if record_gradient is None else record_gradient
    exact = clip >= lipschitz
    if not exact:
        log.warning(
            "clipping at %g is below the largest gradient of the loss (%g): long gradients are shortened, so the point that is "
            "found and certified is one of the clipped objective, pulled towards the records with small gradients", clip, lipschitz,
        )  # fmt: skip
    penalty = replace(penalty or Penalty(), free=int(intercept))
    model = LinearModel(rows, targets.double(), loss)
    gap = _start_gap(loss, target_bound)
    identity = {"model": model.fingerprint(), "bound": bound, "intercept": intercept}
    return PrivateRisk(
        LinearRecords(model), clip, bend * length * length, penalty, "exact" if exact else "clipped",
        constants.convex and penalty.convex, None, gap, unit, projection, identity,
    )  # fmt: skip


def _start_gap(loss: Loss, target_bound: float | None) -> float | None:
    """`F(0) - inf F <= max_y l(0, y)`, since neither losses nor penalties are negative; None where y has no public bound."""
    labels = [-1.0, 1.0] if loss.labels == "binary" else [-target_bound, target_bound] if target_bound else []
    zero = torch.zeros(1, dtype=torch.float64)
    return max((float(loss.value(zero, torch.tensor([y], dtype=torch.float64))) for y in labels), default=None)


def require_small_delta(delta: float, size: int, *, allow_large: bool = False) -> None:
    """delta at 1/n allows to publish a record outright.

    Raises:
        ValueError: delta >= 1 / n, unless allowed.
    """
    if delta >= 1.0 / size:
        text = f"delta {delta:g} is not below 1/n = {1 / size:g}: publishing one record in the open would satisfy it"
        if not allow_large:
            raise ValueError(
                f"{text}; choose a smaller delta (n^-1.1 is {size**-1.1:.3g}), or allow it (--allow-large-delta)"
            )
        log.warning("%s", text)
    elif delta > 0.1 / size:
        log.warning("delta %g is above 1/(10 n) = %g: with that chance some record may be exposed", delta, 0.1 / size)
