"""Checkers of certified radii, by other algorithms than the solver's.

Binomial bounds are put back into the binomial tail; betting bounds are bet again, draw by draw; radii are put back into the smoothed
ramp, by quadrature; the choice of strategy is made again from the first draws. A fresh random subset of the images is drawn again by
stream address and run through the model in other batches; `--full` redoes all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special, stats

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Check, Dossier, NotAtHandError, Verdict, compare, refute
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.plan import FORMS, Choice, Plan, Strategy
from surefoot.robustness.problem import Certification, with_network
from surefoot.robustness.verify_bounds import betting_refutes, quantile_interval
from surefoot.robustness.verify_layers import LIPSCHITZ_CHECKS

__all__ = ["CHECKS"]

Array = np.ndarray[Any, np.dtype[Any]]
REDRAWN = 3  # images drawn again without --full
PIECE = 96  # rows of a forward pass here; the solver's are others
TEXT = ("form", "map")


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the problem."""


@dataclass
class _Row:
    """One image's row of the table with its counts."""

    image: int
    label: int
    top: int
    strategy: Strategy
    used: int
    lower: float
    upper: float
    radius: float
    selected: Array
    counted: Array
    bucket: Array

    @property
    def choice(self) -> Choice:
        return Choice(self.strategy, self.top, tuple(int(b) for b in self.bucket), math.nan)


def _require(condition: Any, what: str) -> None:
    if not bool(condition):
        raise EvidenceError(what)


# ---- reading ----------------------------------------------------------------------------------------------------
def _rows(problem: Certification, dossier: Dossier) -> list[_Row]:
    table, counts = dossier.evidence["radii.csv"], dossier.evidence["counts.npz"]
    number, classes = len(problem.images), problem.classifier.classes
    for name in ("selected", "counted", "bucket"):
        _require(counts[name].shape == (number, classes), f"counts.npz:{name} has not one row an image")
        _require(counts[name].dtype.kind == "i" and (counts[name] >= 0).all(), f"counts.npz:{name} holds no counts")
    _require(np.array_equal(table["image"], np.arange(number)), "the images are not numbered as the input's")
    labels = problem.images.labels
    expected = np.full(number, -1) if labels is None else labels
    _require(np.array_equal(table["label"], expected), "the labels are not the input's")
    known = {(m.kind, m.sharpness): m for m in problem.plan.maps}
    rows = []
    for i in range(number):
        key = (str(table["map"][i]), float(table["sharpness"][i]))
        _require(key in known and str(table["form"][i]) in FORMS, f"image {i}: {key} is not among the plan's maps")
        strategy = Strategy(next(f for f in FORMS if f == table["form"][i]), known[key], float(table["share"][i]))
        numbers = [float(table[k][i]) for k in ("top", "used", "lower", "upper", "radius")]
        _require(all(math.isfinite(v) for v in numbers), f"image {i}: its row holds no numbers")
        _require(
            numbers[0] in range(classes) and numbers[1] in range(1, problem.plan.draws + 1), f"image {i}: top or used"
        )
        lower, upper, radius = numbers[2:]
        votes = (counts["selected"][i], counts["counted"][i], counts["bucket"][i])
        rows.append(_Row(i, int(expected[i]), int(numbers[0]), strategy, int(numbers[1]), lower, upper, radius, *votes))
    return rows


def _problem(dossier: Dossier) -> Certification:
    """The problem, with the network that the run trained where it trained one."""
    problem: Certification = dossier.problem
    identity = problem.classifier.identity
    if identity is None or "trained" not in identity:
        return problem
    weights: Mapping[str, Any] = dossier.evidence["network.npz"]
    _require(
        fingerprint(dict(weights)) == dossier.evidence["settings.json"]["network"],
        "network.npz is not the run's network",
    )
    return with_network(problem, weights)


def _agrees_with_answer(dossier: Dossier, rows: list[_Row]) -> None:
    answer = dossier.answer
    radius = np.array([r.radius for r in rows])
    predicted = [r.top if r.radius > 0 else -1 for r in rows]
    for name, values in (
        ("index", np.arange(len(rows))), ("label", [r.label for r in rows]), ("predicted", predicted), ("radius", radius),
    ):  # fmt: skip
        _require(np.array_equal(getattr(answer, name), values), f"the answer's {name} is not the table's")


# ---- arithmetic ---------------------------------------------------------------------------------------------------
def _levels(plan: Plan, strategy: Strategy, groups: int) -> tuple[float, float]:
    """Alpha of the top class's bound and of each bucket's."""
    if strategy.form == "one-class":
        return plan.alpha, math.nan
    if strategy.form == "margin":
        return plan.alpha / groups, math.nan
    if plan.compat == "paper":
        return plan.alpha / (groups + 1), plan.alpha / (groups + 1)
    return strategy.share * plan.alpha, (1 - strategy.share) * plan.alpha / groups


def _check_counts(row: _Row, plan: Plan) -> None:
    """The bounds of a hardmax row, put back into the binomial tails."""
    what = f"image {row.image}"
    n = int(row.counted.sum())
    _require(n == row.used == plan.draws, f"{what}: {n} votes counted, {row.used} draws used of {plan.draws}")
    groups = int(row.bucket.max())
    of = np.array([row.counted[row.bucket == b].sum() for b in range(groups + 1)])
    first, other = _levels(plan, row.strategy, groups)
    if row.strategy.form == "margin":
        values = [np.repeat([1.0, 0.0, 0.5], [of[0], of[b], n - of[0] - of[b]]) for b in range(1, groups + 1)]
        lower = min(_bernstein(v, first) for v in values)
        _require(abs(lower - row.lower) <= 1e-12 and row.upper == 1.0, f"{what}: its Bernstein bound is {lower}")
        return
    tail = float(stats.binom.sf(of[0] - 1, n, row.lower)) if of[0] else first
    good = abs(tail / first - 1) < 1e-6 if of[0] else row.lower == 0
    _require(good, f"{what}: the lower bound {row.lower} leaves a binomial tail of {tail}, not {first}")
    if row.strategy.form == "one-class":
        _require(row.upper == 1.0, f"{what}: the one-class form has no upper bound")
        return
    ceiling = math.inf if plan.compat == "paper" else 1.0 - row.lower
    largest = int(of[1:].max())
    if abs(row.upper - ceiling) > 1e-15:
        below = float(stats.binom.cdf(largest, n, row.upper)) if largest < n else other
        good = abs(below / other - 1) < 1e-6 if largest < n else row.upper == 1.0
        _require(
            good and row.upper < ceiling, f"{what}: the upper bound {row.upper} leaves a tail of {below}, not {other}"
        )
    else:
        _require(
            float(stats.binom.cdf(largest, n, ceiling)) >= other * (1 - 1e-6), f"{what}: the upper bound is too low"
        )


def _bernstein(values: Array, alpha: float) -> float:
    n, level = len(values), math.log(2 / alpha)
    variance = (
        math.fsum((v - math.fsum(values) / n) ** 2 for v in values) / (n - 1)
        if n < 2000
        else float(np.var(values, ddof=1))
    )
    mean = math.fsum(values) / n
    return min(max(mean - math.sqrt(2 * variance * level / n) - 7 * level / (3 * (n - 1)), 0.0), 1.0)


def _check_scores(row: _Row, scores: Array, problem: Certification) -> None:
    """The bounds of a soft row: bet again on every draw, in their order, against a mean just below and just above."""
    plan, what = problem.plan, f"image {row.image}"
    groups = int(row.bucket.max())
    _require(scores.shape == (plan.draws, 1 + groups), f"{what}: its scores have shape {scores.shape}")
    _require(np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1, f"{what}: scores outside [0, 1]")
    _require(row.used == plan.draws == row.counted.sum(), f"{what}: not all draws were used")
    slack = 0.0 if math.isinf(problem.base_lipschitz) else 1e-7
    first, other = _levels(plan, row.strategy, groups)
    values = scores.astype(np.float64).T
    if row.strategy.form == "margin":
        _require(row.upper == 1.0, f"{what}: the margin form has no upper bound")
        _bounded_below([(1 + values[0] - v) / 2 for v in values[1:]], first, row.lower + slack, plan, what)
        return
    _bounded_below([values[0]], first, row.lower + slack, plan, what)
    if row.strategy.form == "one-class":
        _require(row.upper == 1.0, f"{what}: the one-class form has no upper bound")
        return
    ceiling = 1.0 if plan.compat == "paper" else min(1.0 - row.lower, 1.0)
    if abs(row.upper - ceiling) > 1e-15:
        _require(row.upper < ceiling, f"{what}: the upper bound lies above what the top class leaves")
        _bounded_below([1 - v for v in values[1:]], other, 1 - (row.upper - slack), plan, what)


def _bounded_below(samples: list[Array], alpha: float, lower: float, plan: Plan, what: str) -> None:
    """That `lower` is the smallest of the samples' lower bounds, to 1e-6."""
    if plan.bound == "bernstein":
        found = min(_bernstein(v, alpha) for v in samples)
        _require(abs(found - lower) <= 1e-9, f"{what}: the Bernstein bound is {found}, not {lower}")
        return
    proven = lower <= 1e-6 or all(betting_refutes(v, alpha, lower - 1e-9) for v in samples)
    sharp = not all(betting_refutes(v, alpha, min(lower + 1e-6, 1.0)) for v in samples)
    _require(proven and sharp, f"{what}: {lower} is not where the betting capital reaches its goal")


def _check_target(row: _Row, places: Array, problem: Certification) -> None:
    """The stop at a target: bet on every vote again."""
    plan, what = problem.plan, f"image {row.image}"
    _require(places.shape == (row.used,), f"{what}: {places.shape} votes for {row.used} draws")
    _require(places.min() >= 0 and places.max() < problem.classifier.classes, f"{what}: votes for no class")
    counted = np.array([(places == k).sum() for k in range(problem.classifier.classes)])
    _require(np.array_equal(counted, row.counted), f"{what}: the counts are not those of the votes")
    chosen = plan.choose_for_target(row.selected, problem.classifier.sigma)
    same = (chosen.top, chosen.bucket, chosen.strategy) == (row.top, row.choice.bucket, row.strategy)
    _require(same, f"{what}: class or buckets are not what the first draws favour")
    null = float(special.ndtr(plan.target / problem.classifier.sigma))
    groups, bucket = int(row.bucket.max()), row.bucket[places]
    goal = math.log(groups / plan.alpha)
    reached = [
        _first_passage(np.where(bucket == 0, 1.0, np.where(bucket == b, 0.0, 0.5)), null, goal)
        for b in range(1, groups + 1)
    ]
    stop = max(reached)
    certified = row.radius > 0
    _require(
        certified == math.isfinite(stop), f"{what}: the capital {'does not reach' if certified else 'reaches'} its goal"
    )
    _require(row.used == (stop if certified else plan.draws), f"{what}: it stops after {stop} draws, not {row.used}")
    expected = (null, 1.0, plan.target) if certified else (0.0, 1.0, 0.0)
    _require(np.allclose([row.lower, row.upper, row.radius], expected, rtol=1e-12), f"{what}: bounds or radius")


def _first_passage(values: Array, null: float, goal: float) -> float:
    total, square, capital = 0.0, 0.0, 0.0
    for j, value in enumerate(values):
        bet = min(max((total / (j + 1)) / ((square + 0.25) / (j + 1)), 0.0), 0.75 / null)
        x = float(value) - null
        capital += math.log1p(bet * x)
        total, square = total + x, square + x * x
        if capital >= goal - 1e-9:
            return j + 1
    return math.inf


def _check_radius(row: _Row, problem: Certification) -> None:
    """The radius, put between its neighbours by quadrature of the smoothed ramp."""
    sigma, base, which = problem.classifier.sigma, problem.base_lipschitz, row.strategy.map
    slope = (
        math.inf if which.kind == "hardmax" or math.isinf(base) else base * _constant(row, problem.classifier.classes)
    )
    low = quantile_interval(row.lower, sigma, slope)
    if row.strategy.form == "two-class":
        high = quantile_interval(row.upper, sigma, slope)
        least, most = (low[0] - high[1]) / 2, (low[1] - high[0]) / 2
        apart = row.lower > row.upper
    else:
        least, most, apart = low[0], low[1], True
    room = 1e-9 * sigma
    expected = max(least, 0.0) if apart else 0.0
    good = expected - room <= row.radius <= max(most, 0.0) + room if apart else row.radius == 0
    _require(good, f"image {row.image}: the radius is {expected}, not {row.radius}")


def _constant(row: _Row, classes: int) -> float:
    """Slope of the scalar that the form bounds, for logits of constant 1."""
    b, mass = row.strategy.map.sharpness, row.strategy.map.mass
    soft = row.strategy.map.kind == "softmax"
    if row.strategy.form == "margin":
        return (b / 2 if soft else b / mass) / math.sqrt(2)
    return b * math.sqrt(2) / 4 if soft else b / mass * math.sqrt(1 - 1 / classes)


# ---- the choice ---------------------------------------------------------------------------------------------------
def _check_choice(row: _Row, choices: list[Choice]) -> None:
    """The strategy is the one that the first draws favour (or ties with it)."""
    best = max(c.predicted for c in choices)
    mine = [c for c in choices if c.strategy == row.strategy and c.top == row.top and c.bucket == row.choice.bucket]
    good = mine and mine[0].predicted >= best - 1e-9 * max(abs(best), 1e-3)
    _require(good, f"image {row.image}: class, buckets or strategy are not what the first draws favour")


# ---- drawing again ------------------------------------------------------------------------------------------------
def _logits(
    problem: Certification, settings: Mapping[str, Any], purpose: str, image: int, draws: int
) -> Iterator[torch.Tensor]:
    """Logits of an image's draws, block by block, in forward passes of another size."""
    if settings["seed"] is None:
        raise NotAtHandError("the run's seed came from system entropy and was not kept; its draws cannot be repeated")
    device = str(settings["device"]) if problem.noise.source == "device" else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NotAtHandError(
            "the noise was drawn on a CUDA device; check it on one, or run with the noise source 'cpu'"
        )
    streams, classifier = Streams(int(settings["seed"])), problem.classifier
    pixels = problem.images.values[image].to(device=device, dtype=classifier.dtype)
    with torch.no_grad():
        for block in range(problem.noise.blocks(draws)):
            noisy = problem.noise.noisy(pixels, classifier.sigma, streams, purpose, image, block, draws).to(
                classifier.device
            )
            yield torch.cat([classifier.logits(part) for part in noisy.split(PIECE)]).cpu()


def _check_votes(logits: torch.Tensor, counts: Array, what: str) -> None:
    """The votes are the logits' own, up to draws whose two largest logits nearly tie."""
    top = logits.double().topk(2, dim=1)
    close = (top.values[:, 0] - top.values[:, 1]) <= 1e-4 * logits.abs().max().double() + 1e-30
    found = np.bincount(top.indices[:, 0].numpy(), minlength=len(counts))
    open_ = np.bincount(top.indices[close].flatten().numpy(), minlength=len(counts))
    _require(
        (np.abs(found - counts) <= open_).all() and counts.sum() == len(logits), f"{what} are not those of the model"
    )


def _redraw(problem: Certification, dossier: Dossier, row: _Row) -> None:
    """The first and the fresh draws of one image, and what follows from them."""
    plan, settings, what = problem.plan, dossier.evidence["settings.json"], f"image {row.image}"
    first = torch.cat(list(_logits(problem, settings, "select", row.image, plan.selection_draws)))
    _check_votes(first, row.selected, f"{what}: the votes of the first draws")
    if row.strategy.map.kind != "hardmax" or len(plan.maps) > 1:
        _check_choice(row, _soft_choices(problem, dossier, first))
    fresh = torch.cat(list(_logits(problem, settings, "estimate", row.image, plan.draws)))[: row.used]
    _check_votes(fresh, row.counted, f"{what}: the votes of the fresh draws")
    if row.strategy.map.kind != "hardmax":
        scores = dossier.evidence["draws.npz"][f"image_{row.image}"]
        values = _soft(row, fresh.double().numpy())
        gap = np.abs(scores - values)
        _require(gap.max() < 1e-2 and gap.mean() < 1e-4, f"{what}: the scores are not those of the model")
    elif plan.target:
        places = dossier.evidence["draws.npz"][f"image_{row.image}"]
        differ = int((fresh.argmax(dim=1).numpy() != places).sum())
        _require(differ <= max(1, len(places) // 1000), f"{what}: the votes are not those of the model")


def _soft_choices(problem: Certification, dossier: Dossier, first: torch.Tensor) -> list[Choice]:
    plan = problem.plan
    maps = plan.maps if plan.scope == "per-input" else [plan.maps[int(dossier.evidence["settings.json"]["fixed_map"])]]
    return plan.candidates(first, maps, problem.classifier.sigma, problem.base_lipschitz)


def _check_calibration(problem: Certification, settings: Mapping[str, Any]) -> None:
    """The fixed map is the one of largest average radius promised by the calibration's own draws (or ties with it)."""
    plan, labels = problem.plan, problem.images.labels
    if plan.scope != "fixed" or len(plan.maps) == 1:
        return
    merit = dict.fromkeys(plan.maps, 0.0)
    for i in range(min(plan.calibration, len(problem.images))):
        logits = torch.cat(list(_logits(problem, settings, "calibrate", i, plan.selection_draws)))
        best: dict[Any, Choice] = {}
        for choice in plan.candidates(logits, plan.maps, problem.classifier.sigma, problem.base_lipschitz):
            known = best.get(choice.strategy.map)
            if known is None or choice.predicted > known.predicted:
                best[choice.strategy.map] = choice
        for which, choice in best.items():
            if labels is None or choice.top == labels[i]:
                merit[which] += max(choice.predicted, 0.0)
    mine, most = merit[plan.maps[int(settings["fixed_map"])]], max(merit.values())
    _require(
        mine >= most * (1 - 1e-4) - 1e-9, f"the fixed map promises {mine:g} on the calibration, another one {most:g}"
    )


def _soft(row: _Row, logits: Array) -> Array:
    """Scores of the buckets, by scipy's softmax or by the sorted projection in numpy."""
    b, mass = row.strategy.map.sharpness, row.strategy.map.mass
    if row.strategy.map.kind == "softmax":
        values = special.softmax(b * logits, axis=1)
    else:
        values = _projected(b * logits, mass) / mass
    return np.stack([values[:, row.bucket == k].sum(axis=1) for k in range(int(row.bucket.max()) + 1)], axis=1)


def _projected(z: Array, mass: float) -> Array:
    """Projections of rows (n, c) on the simplex by bisection of their thresholds."""
    high = z.max(axis=1, keepdims=True)
    low = high - mass
    for _ in range(60):
        middle = (low + high) / 2
        above = np.maximum(z - middle, 0).sum(axis=1, keepdims=True) > mass
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.maximum(z - low, 0)


# ---- checks -------------------------------------------------------------------------------------------------------
def radii(claim: Claim, dossier: Dossier) -> Verdict:
    """Everything behind the table, and a fresh subset drawn again."""
    problem = _problem(dossier)
    plan, settings = problem.plan, dossier.evidence["settings.json"]
    rows = _rows(problem, dossier)
    _agrees_with_answer(dossier, rows)
    _check_settings(problem, settings, rows)
    for row in rows:
        _require(
            row.selected.sum() == plan.selection_draws, f"image {row.image}: not {plan.selection_draws} first draws"
        )
        _require(
            (row.bucket == 0).sum() == 1 and row.bucket[row.top] == 0,
            f"image {row.image}: bucket 0 is not the top class",
        )
        _require(set(row.bucket) == set(range(int(row.bucket.max()) + 1)), f"image {row.image}: a bucket is empty")
        if plan.target:
            _check_target(row, dossier.evidence["draws.npz"][f"image_{row.image}"], problem)
            continue
        if row.strategy.map.kind == "hardmax":
            if plan.scope == "fixed":
                _check_choice(row, plan.candidates_for_counts(row.selected, problem.classifier.sigma))
            _check_counts(row, plan)
        else:
            _check_scores(row, dossier.evidence["draws.npz"][f"image_{row.image}"], problem)
        _check_radius(row, problem)
    _check_confidence(claim, plan)
    if "pictures.npz" in claim.evidence:
        shown = dossier.evidence["pictures.npz"]
        pixels = problem.images.values[torch.from_numpy(shown["row"].astype(np.int64))].float().numpy()
        _require(np.array_equal(shown["pixels"], pixels), "the pictures kept for the report are not the input's")
    _check_calibration(problem, settings)
    for i in dossier.rows(len(rows), REDRAWN):
        _redraw(problem, dossier, rows[i])
    certified = [r.radius for r in rows if r.radius > 0]
    return compare(claim, min(certified, default=0.0), supports="statistical", rtol=1e-12)


def _check_settings(problem: Certification, settings: Mapping[str, Any], rows: list[_Row]) -> None:
    known = problem.classifier.lipschitz
    _require(
        settings["lipschitz"] == (None if known is None else known.value),
        "the Lipschitz constant is not the classifier's",
    )
    fixed = settings["fixed_map"]
    if problem.plan.scope == "fixed":
        _require(type(fixed) is int and 0 <= fixed < len(problem.plan.maps), "the fixed map is not among the plan's")
        _require(
            all(r.strategy.map == problem.plan.maps[fixed] for r in rows), "a row uses another map than the fixed one"
        )
    else:
        _require(fixed == -1, "a plan per input fixes no map")


def _check_confidence(claim: Claim, plan: Plan) -> None:
    said = claim.confidence
    _require(
        said is not None and said.level == 1 - plan.alpha and said.samples == plan.draws,
        "the confidence is not the plan's",
    )


def share(claim: Claim, dossier: Dossier) -> Verdict:
    """Counted from the answer."""
    radius = np.asarray(dossier.answer.radius)
    if not np.array_equal(radius, dossier.evidence["radii.csv"]["radius"]):
        return refute(claim, "the answer's radii are not the table's")
    return compare(claim, sum(1 for r in radius if r > 0) / len(radius), supports="measured")


def average(claim: Claim, dossier: Dossier) -> Verdict:
    """Summed from the table, in rationals' order."""
    table, answer = dossier.evidence["radii.csv"], dossier.answer
    right = (np.asarray(answer.predicted) == table["label"]) & (np.asarray(answer.predicted) >= 0)
    return compare(claim, math.fsum(np.asarray(answer.radius)[right]) / len(right), supports="measured")


CHECKS: Mapping[str, Check] = {"radii": radii, "share": share, "average": average, **LIPSCHITZ_CHECKS}
