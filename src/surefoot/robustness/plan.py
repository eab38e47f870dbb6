"""The statistical plan of a certification: how many draws, which maps and forms may be chosen, and by which rule.

A certificate spends its draws twice. On the first `selection_draws` a strategy is chosen; the bounds come from `draws` fresh ones,
with that one strategy and the whole alpha. So the choice costs no union bound. The rule is part of the statement: whoever checks a
certificate can see that the choice was made on the first draws.

Forms:
    one-class  a lower bound of p_A alone (Cohen's R3)
    two-class  a lower bound of p_A and upper bounds of the other classes, in buckets (R2)
    margin     lower bounds of p_A - p_bucket, each from the differences of every draw
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from surefoot.numerics.borders import require_probability
from surefoot.numerics.bounds import clopper_pearson_lower, clopper_pearson_upper, empirical_bernstein_radius
from surefoot.robustness.maps import HARDMAX, SimplexMap, grid, votes
from surefoot.robustness.radius import inverse_ramp, smoothed_ramp

__all__ = ["FORMS", "Choice", "Form", "Plan", "Strategy", "buckets", "counts_of"]

Form = Literal["one-class", "two-class", "margin"]
FORMS: tuple[Form, ...] = get_args(Form)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Strategy:
    """A form of certificate for the classifier smoothed through one map.

    Args:
        share: part of alpha spent on the top class in the two-class form; the rest is divided by the buckets.
    """

    form: Form
    map: SimplexMap = HARDMAX
    share: float = 0.5


@dataclass(frozen=True)
class Choice:
    """What the selection draws decided: strategy, top class, the bucket of every class (0 holds the top class alone)."""

    strategy: Strategy
    top: int
    bucket: tuple[int, ...]
    predicted: float


@dataclass(frozen=True)
class _Draft:
    """A candidate before its radius is predicted: G(R) = low, or R = (G^-1(low) - G^-1(high)) / 2 where high is given."""

    strategy: Strategy
    top: int
    bucket: tuple[int, ...]
    low: float
    high: float
    slope: float


@dataclass(frozen=True)
class Plan:
    """How certificates are estimated.

    Args:
        draws: n, fresh draws an image for its bounds.
        selection_draws: n0, draws an image for the choice of strategy and class.
        alpha: chance that an image's certificate is wrong, over the draws.
        scope: "fixed" takes one map for all images, chosen on the first `calibration` of them: the certificates are about one
            smoothed classifier that can be deployed. "per-input" chooses the map for every image: each certificate is then about the
            smoothed classifier of its own map only, and says so.
        maps: candidates.
        calibration: images on which a fixed map is chosen, with draws of their own.
        forms: candidates; all are about the same classifier, so they may be chosen for every image.
        shares: candidates for `Strategy.share`.
        bound: for soft maps, betting or empirical Bernstein.
        target: > 0 stops drawing as soon as this radius is certified; hardmax only, by capital that is valid at any time.
        compat: "paper" spends alpha / classes on every class and bounds soft scores by Bernstein, as published.

    Raises:
        ValueError: with what was wrong.
    """

    draws: int = 10_000
    selection_draws: int = 1_000
    alpha: float = 0.001
    scope: Literal["fixed", "per-input"] = "fixed"
    maps: tuple[SimplexMap, ...] = grid()
    calibration: int = 16
    forms: tuple[Form, ...] = FORMS
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    bound: Literal["betting", "bernstein"] = "betting"
    target: float = 0.0
    compat: Literal["", "paper"] = ""

    def __post_init__(self) -> None:
        require_probability("alpha", self.alpha)
        for name, least in (("draws", 2), ("selection_draws", 2), ("calibration", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.scope not in ("fixed", "per-input"):
            raise ValueError(f"scope is {self.scope!r}; expected 'fixed' or 'per-input'")
        if self.bound not in ("betting", "bernstein"):
            raise ValueError(f"bound is {self.bound!r}; expected 'betting' or 'bernstein'")
        if not self.maps or not self.forms or not {*self.forms} <= {*FORMS}:
            raise ValueError(f"maps and forms may not be empty, and forms are among {', '.join(FORMS)}")
        for share in self.shares or (0.0,):
            require_probability("share", share)
        if not (self.target >= 0 and math.isfinite(self.target)):
            raise ValueError(f"target is {self.target}; expected a radius > 0, or 0 to use all draws")
        if self.target and any(m != HARDMAX for m in self.maps):
            raise ValueError("a target radius works with the hardmax map only; give maps=(HARDMAX,)")

    @classmethod
    def paper(cls, **more: Any) -> Plan:
        """LVM-RS as published: the pair of map and temperature chosen for every input among softmax, sparsemax and hardmax at 50
        inverse temperatures in [0.01, 50], the two-class radius, Bernstein bounds, alpha / classes each.
        """
        published: dict[str, Any] = {
            "draws": 100_000, "selection_draws": 100, "scope": "per-input", "maps": grid(50, 0.01, 50.0), "forms": ("two-class",),
            "shares": (0.5,), "bound": "bernstein", "compat": "paper",
        }  # fmt: skip
        return cls(**(published | more))

    def grouping(self, counts: Any, top: int) -> Any:
        """The bucket of every class: see `buckets`; every class alone as published."""
        if self.compat == "paper":
            order = np.arange(len(counts))
            return np.where(order == top, 0, np.where(order < top, order + 1, order))
        return buckets(counts, top)

    def levels(self, share: float, groups: int) -> tuple[float, float]:
        """Failure probabilities of the top class's bound and of each bucket's in the two-class form."""
        if self.compat == "paper":
            return self.alpha / (groups + 1), self.alpha / (groups + 1)
        return share * self.alpha, (1 - share) * self.alpha / groups

    def cap(self, low: float) -> float:
        """What the other classes can have at most: what the top one leaves; not used in the published method."""
        return 1.0 if self.compat == "paper" else 1.0 - low

    def width(self, variance: Any, alpha: float) -> Any:
        """What a soft bound is expected to lose at `draws` draws: only to predict, never a bound itself."""
        if self.bound == "bernstein":
            return empirical_bernstein_radius(variance, self.draws, alpha)
        level = math.log(1 / alpha)
        return np.sqrt(2 * variance * level / self.draws) + 0.75 * level / self.draws

    def strategies(self, which: SimplexMap) -> list[Strategy]:
        """Candidates through one map."""
        found: list[Strategy] = []
        for form in self.forms:
            if form == "margin" and which == HARDMAX and len(self.forms) > 1:
                continue  # for counts the exact two-class form is as good
            found += [Strategy(form, which, s) for s in (self.shares if form == "two-class" else (0.5,))]
        return found

    def choose(self, logits: Tensor, maps: Sequence[SimplexMap], sigma: float, base_lipschitz: float) -> Choice:
        """The candidate of the largest predicted radius.

        Args:
            logits: (n0, c) of the selection draws.
            maps: candidates.
            base_lipschitz: of the logits; inf where unknown.
        """
        if self.target:
            return self.choose_for_target(counts_of(logits), sigma)
        choices = self.candidates(logits, maps, sigma, base_lipschitz)
        return choices[int(np.argmax([c.predicted for c in choices]))]

    def candidates(
        self, logits: Tensor, maps: Sequence[SimplexMap], sigma: float, base_lipschitz: float
    ) -> list[Choice]:
        """Every strategy through these maps, with the radius that it is expected to certify with `draws` draws."""
        drafts: list[_Draft] = []
        for which in maps:
            if which == HARDMAX:
                drafts += self._drafts_for_counts(counts_of(logits))
            else:
                drafts += self._drafts_for_scores(which, which(logits.double()).cpu().numpy(), base_lipschitz)
        return _predicted(drafts, sigma)

    def candidates_for_counts(self, counts: Counts, sigma: float) -> list[Choice]:
        """The same for hardmax alone, from the votes."""
        return _predicted(self._drafts_for_counts(counts), sigma)

    def _drafts_for_counts(self, counts: Counts) -> list[_Draft]:
        top = int(np.argmax(counts))
        bucket = self.grouping(counts, top)
        groups = int(bucket.max())
        n0, n = int(counts.sum()), self.draws
        share_of = (np.bincount(bucket, weights=counts, minlength=groups + 1) + 0.5) / (n0 + 1)
        expected = np.minimum(np.round(share_of * n), n)
        if counts[top] == n0:
            expected[0], expected[1:] = n, 0  # as in the draws at hand: all agree
        drafts: list[_Draft] = []
        for s in self.strategies(HARDMAX):
            low, high = 0.0, math.nan
            if s.form == "one-class":
                low = float(clopper_pearson_lower(expected[0], n, self.alpha))
            elif s.form == "two-class":
                first, other = self.levels(s.share, groups)
                low = float(clopper_pearson_lower(expected[0], n, first))
                high = min(float(clopper_pearson_upper(expected[1:], n, other).max()), self.cap(low))
            else:
                mean = (1 + share_of[0] - share_of[1:]) / 2
                spread = (share_of[0] + share_of[1:] - (share_of[0] - share_of[1:]) ** 2) / 4
                low = float((mean - self.width(spread, self.alpha / groups)).min())
            drafts.append(_Draft(s, top, tuple(int(b) for b in bucket), low, high, math.inf))
        return drafts

    def _drafts_for_scores(self, which: SimplexMap, values: Any, base: float) -> list[_Draft]:
        means = values.mean(axis=0)
        top = int(np.argmax(means))
        bucket = self.grouping(means, top)
        groups = int(bucket.max())
        columns = np.stack([values[:, bucket == b].sum(axis=1) for b in range(groups + 1)], axis=1)
        mean, spread = columns.mean(axis=0), columns.var(axis=0, ddof=1)
        coordinate, whole = which.coordinate_lipschitz(base, values.shape[1]), which.lipschitz(base)
        drafts: list[_Draft] = []
        for s in self.strategies(which):
            low, high, slope = 0.0, math.nan, coordinate
            if s.form == "one-class":
                low = float(mean[0] - self.width(spread[0], self.alpha))
            elif s.form == "two-class":
                first, other = self.levels(s.share, groups)
                low = float(mean[0] - self.width(spread[0], first))
                high = min(float((mean[1:] + self.width(spread[1:], other)).max()), self.cap(max(low, 0.0)))
            else:
                difference = (1 + columns[:, :1] - columns[:, 1:]) / 2
                shift = self.width(difference.var(axis=0, ddof=1), self.alpha / groups)
                low, slope = float((difference.mean(axis=0) - shift).min()), whole / math.sqrt(2)
            drafts.append(_Draft(s, top, tuple(int(b) for b in bucket), low, high, slope))
        return drafts

    def choose_for_target(self, counts: Counts, sigma: float) -> Choice:
        """The bucketing that is expected to reach the target's capital with the fewest draws."""
        top = int(np.argmax(counts))
        null = float(smoothed_ramp(self.target, sigma))
        together = np.where(np.arange(len(counts)) == top, 0, 1)
        candidates = [together, buckets(counts, top)]
        needed = [expected_draws(counts, bucket, null, self.alpha) for bucket in candidates]
        place = int(np.argmin(needed))
        return Choice(Strategy("margin"), top, tuple(int(b) for b in candidates[place]), -needed[place])


def _predicted(drafts: Sequence[_Draft], sigma: float) -> list[Choice]:
    low, high, slope = (np.array([getattr(d, name) for d in drafts]) for name in ("low", "high", "slope"))
    two = ~np.isnan(high)
    radius = inverse_ramp(np.clip(low, 0, 1), sigma, slope)
    radius[two] -= inverse_ramp(np.clip(high[two], 0, 1), sigma, slope[two])
    radius[two] /= 2
    return [Choice(d.strategy, d.top, d.bucket, float(r)) for d, r in zip(drafts, radius, strict=True)]


def counts_of(logits: Tensor) -> Counts:
    """Votes of every class, (c,)."""
    return np.bincount(votes(logits).cpu().numpy(), minlength=logits.shape[1])


def buckets(counts: Any, top: int) -> Any:
    """The bucket of every class: the top class alone (0), the runner-up alone (1), others, largest first, alone as long as those
    left together outweigh the runner-up, then the rest in one.

    Args:
        counts: (c,) selection counts, or mean scores.
        top: the class of bucket 0.
    """
    order = np.argsort(-np.asarray(counts, dtype=np.float64), kind="stable")
    order = order[order != top]
    bucket = np.zeros(len(counts), dtype=np.int64)
    runner = float(counts[order[0]])
    bucket[order[0]] = 1
    rest, number = list(order[1:]), 2
    while rest and float(sum(counts[k] for k in rest)) > runner:
        bucket[rest.pop(0)] = number
        number += 1
    bucket[rest] = number
    return bucket


def expected_draws(counts: Any, bucket: Any, null: float, alpha: float) -> float:
    """Draws until the capital against every bucket passes its goal, at the log-optimal bet for the selection frequencies."""
    groups = int(np.max(bucket))
    frequency = (np.bincount(bucket, weights=counts, minlength=groups + 1) + 0.5) / (
        np.sum(counts) + 0.5 * (groups + 1)
    )
    slowest = 0.0
    for b in range(1, groups + 1):
        values = np.full(groups + 1, 0.5)
        values[0], values[b] = 1.0, 0.0
        mean = float(frequency @ values)
        if mean <= null:
            return math.inf
        bet = min((mean - null) / float(frequency @ (values - null) ** 2), 0.75 / null)
        growth = float(frequency @ np.log1p(bet * (values - null)))
        slowest = max(slowest, math.inf if growth <= 0 else math.log(groups / alpha) / growth)
    return slowest
