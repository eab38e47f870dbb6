"""Checkers of recovered triggers, by other ways than the maker's.

The model is run in float64 where it is a torch module. Norms are summed exactly, Clopper-Pearson bounds come from the root of the
binomial tail, the projection from a multiplier found by bisection, the gradient of the log of a mean from the draws' own gradients
and their weights. Noise is drawn again at its address, and once more at a fresh one to see that the first draw was not a lucky one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor, nn

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Suspect

Array = np.ndarray[Any, np.dtype[Any]]
RULE_SCORE, RULE_SUCCESS = 3.5, 0.5
FIRST_DRAWS, COPIES, ROWS, SCALE_DRAWS = 100, 50, 100, 200
NEAR = 1e-4  # logit gaps below this share of the logits' spread may be rounded to either side in float32
LUCK = 1e-9


class EvidenceError(ValueError):
    """Evidence that contradicts itself, the answer or the model."""


def _require(fits: Any, what: str) -> None:
    if not bool(np.all(fits)):
        raise EvidenceError(what)


# ---- what is checked -----------------------------------------------------------------------------------------------


class _Case:
    """Answer, table and terms, after checking that they speak of the same perturbations."""

    def __init__(self, dossier: Dossier) -> None:
        self.problem: Suspect = dossier.problem
        self.answer = dossier.answer
        self.table = dossier.evidence["scan.csv"]
        self.dossier = dossier
        names = {"target": "targets", "noise_std": "noise_stds", "start": "starts"}
        for column, field in names.items():
            _require(
                np.array_equal(self.table[column], np.asarray(getattr(self.answer, field), dtype=np.float64)),
                f"the table's {column} is not the answer's",
            )
        shape = (len(self.table["target"]), *self.problem.classifier.shape)
        _require(self.answer.perturbations.shape == shape, f"the perturbations are not of shape {shape}")
        _require(np.isfinite(self.answer.perturbations), "a perturbation holds NaN or infinity")
        for target, row in zip(self.answer.targets, self.answer.starts, strict=True):
            _require(int(row) in self.problem.start_rows(int(target), 1), f"class {target} begins at another image")
        _require(np.array_equal(np.sort(self.table["rank"]), np.arange(1, shape[0] + 1)), "the ranks are no ranking")
        self.place = int(np.argmin(self.table["rank"]))

    @property
    def terms(self) -> dict[str, Any]:
        terms = self.dossier.evidence["terms.json"]
        kinds = {"radius": float, "radii": int, "failure_probability": float, "draws": int, "seed": int}
        for name, kind in kinds.items():
            good = isinstance(terms[name], kind | int) and not isinstance(terms[name], bool)
            _require(good and terms[name] >= 0, f"terms.json: {name} is {terms[name]!r}")
        return terms

    @property
    def target(self) -> int:
        return int(self.table["target"][self.place])

    @property
    def sigma(self) -> float:
        return float(self.table["noise_std"][self.place])

    @property
    def row(self) -> int:
        return int(self.table["start"][self.place])

    @property
    def image(self) -> Tensor:
        return self.problem.images[self.row].double().cpu()

    def delta(self, place: int | None = None) -> Tensor:
        return torch.from_numpy(self.answer.perturbations[self.place if place is None else place]).double()

    def draw(self, name: str, count: int, *index: int) -> Tensor:
        """Standard normal draws at their address."""
        generator = Streams(self.terms["seed"]).torch(name, *index)
        return torch.randn(count, *self.image.shape, generator=generator).double()

    def noisy(self, image: Tensor, z: Tensor, sigma: float) -> Iterator[Tensor]:
        """Noisy copies after the denoiser, 37 at a time."""
        for part in (image + sigma * z).split(37):
            yield self._denoised(part, sigma)

    def _denoised(self, part: Tensor, sigma: float) -> Tensor:
        denoiser = self.problem.denoiser
        if denoiser is None or not sigma:
            return part
        like = self.problem.images
        return denoiser(part.to(like), sigma).double().cpu()


def _logits(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """The model in float64 on the CPU where it is a module; as it is otherwise."""
    if isinstance(classifier.model, nn.Module):
        twin = copy.deepcopy(classifier.model).cpu().double().requires_grad_(False)
        return lambda images: twin(images.double().cpu())
    return lambda images: classifier.logits(images.to(device=classifier.device, dtype=classifier.dtype)).double().cpu()


def _decided(z: Tensor, target: int) -> tuple[Array, Array]:
    """Which rows are surely, and which are possibly, decided as the target."""
    gap = (z[:, target] - z[:, torch.arange(z.shape[1]) != target].amax(1)).numpy()
    room = NEAR * z.std(1).numpy()
    return gap > room, gap >= -room


def _hits(case: _Case, logits: Any, images: Tensor, target: int) -> tuple[int, int]:
    with torch.no_grad():
        parts = [_decided(logits(part), target) for part in images.split(97)]
    return sum(int(sure.sum()) for sure, _ in parts), sum(int(maybe.sum()) for _, maybe in parts)


def _case(dossier: Dossier) -> _Case:
    kept = vars(dossier).setdefault("_inversion_case", {})
    if "case" not in kept:
        kept["case"] = _Case(dossier)
    return kept["case"]


# ---- proved --------------------------------------------------------------------------------------------------------


def norm(claim: Claim, dossier: Dossier) -> Verdict:
    """Squares of float32 numbers are exact in float64; their exact sum bounds the norm."""
    case = _case(dossier)
    norms = np.array(
        [math.sqrt(math.fsum((d.astype(np.float64).ravel() ** 2).tolist())) for d in case.answer.perturbations]
    )
    _require(case.answer.perturbations.dtype == np.float32, "the perturbations are not float32")
    _require(np.allclose(case.table["norm"], norms, rtol=1e-12, atol=0), "the table's norms are not the answer's")
    radius = float(case.terms["radius"])
    if claim.tolerance > 1e-6 * radius:
        return refute(claim, "the tolerance is wider than one millionth of the budget")
    return compare(claim, float(norms.max()), supports="proved", bound=radius, rtol=1e-12)


def box(claim: Claim, dossier: Dossier) -> Verdict:
    """The entries' own limits, in float64."""
    case = _case(dossier)
    stored = dossier.evidence["image.npz"]["start"]
    if not np.array_equal(stored, case.problem.images[case.row].cpu().numpy()):
        return refute(claim, "the start image in the evidence is not the problem's")
    worst = 0.0
    for place, row in enumerate(case.answer.starts):
        image = case.problem.images[int(row)].double().cpu().numpy()
        delta = case.answer.perturbations[place].astype(np.float64)
        worst = max(worst, float((-image - delta).max()), float((delta - (1.0 - image)).max()))
    if claim.tolerance > 1e-15:
        return refute(claim, "the tolerance is wider than rounding")
    return compare(claim, worst, supports="proved", bound=0.0, atol=1e-15)


# ---- statistical ---------------------------------------------------------------------------------------------------


def _lower(successes: int, trials: int, failure_probability: float) -> float:
    """The success probability at which so many successes or more have just the failure probability."""
    if successes == 0 or trials == 0:
        return 0.0
    tail = lambda p: stats.binom.sf(successes - 1, trials, p) - failure_probability  # noqa: E731
    root: Any = optimize.brentq(tail, 1e-15, successes / trials if successes < trials else 1.0, xtol=1e-15)
    return float(root)


def _scores(k: Array, n: Array) -> Array:
    s = np.log((k + 0.5) / (n - k + 0.5))
    centred = s - np.median(s)
    middle = int(np.argmin(np.abs(centred)))
    floor = math.sqrt(1 / (k[middle] + 0.5) + 1 / (n[middle] - k[middle] + 0.5))
    return centred / max(stats.median_abs_deviation(s, scale=1 / 1.4826), floor)


def _check_table(case: _Case) -> None:
    """Counts again in float64 for the class in question and for a subset of the others; bounds, scores and ranks for all."""
    kept = vars(case)
    if "table_checked" in kept:
        return
    logits, problem, table = _logits(case.problem.classifier), case.problem, case.table
    terms = case.terms
    for place in {case.place, *case.dossier.rows(len(table["target"])).tolist()}:
        target = int(table["target"][place])
        rows = problem.heldout[problem.labels[problem.heldout] != target]
        images = problem.images[torch.from_numpy(rows)].double().cpu()
        _require(
            table["trials"][place] == len(rows),
            f"class {target}: there are {len(rows)} held-out images of other classes",
        )
        changed = torch.clamp(images + case.delta(place), 0, 1)
        for column, shown in (("successes", changed), ("before", images)):
            low, high = _hits(case, logits, shown, target)
            _require(
                low <= table[column][place] <= high, f"class {target}: {column} is {low}, not {table[column][place]:g}"
            )
    looks = len(table["target"]) * int(terms["radii"])
    lower = [
        _lower(int(k), int(n), terms["failure_probability"] / looks)
        for k, n in zip(table["successes"], table["trials"], strict=True)
    ]
    _require(np.allclose(table["lower"], lower, rtol=1e-6, atol=1e-9), "the lower bounds are not Clopper and Pearson's")
    if len(lower) >= 3:
        _require(
            np.allclose(table["score"], _scores(table["successes"], table["trials"]), rtol=1e-9, atol=1e-9),
            "the scores differ",
        )
    else:
        _require(np.isnan(table["score"]), "fewer than three classes have no scores")
    _check_ranks(table)
    kept["table_checked"] = True


def _check_ranks(table: dict[str, Array]) -> None:
    share = table["successes"] / np.maximum(table["trials"], 1)
    keys = sorted(range(len(share)), key=lambda i: (-np.nan_to_num(table["score"][i]), -share[i], i))
    ranks = np.empty(len(share))
    ranks[keys] = np.arange(1, len(share) + 1)
    _require(np.array_equal(ranks, table["rank"]), "the ranks do not follow scores and success")


def success(claim: Claim, dossier: Dossier) -> Verdict:
    """Recount, then the bound from the binomial tail."""
    case = _case(dossier)
    _check_table(case)
    k, n, before = (int(case.table[name][case.place]) for name in ("successes", "trials", "before"))
    if (
        f"decides class {case.target} " not in claim.statement
        or f"{k} of {n} images, {before} without" not in claim.statement
    ):
        return refute(claim, "the statement's counts are not the table's")
    if claim.kind == "statistical":
        if not case.problem.disjoint:
            return refute(claim, "images that chose something are among the held-out ones")
        _check_confidence(claim, case, n)
    value = _lower(k, n, case.terms["failure_probability"] / (len(case.table["target"]) * int(case.terms["radii"])))
    return compare(claim, value, supports="statistical", rtol=1e-6, atol=1e-9)


def _check_confidence(claim: Claim, case: _Case, samples: int) -> None:
    said = claim.confidence
    level = 1 - case.terms["failure_probability"]
    _require(said is not None and abs(said.level - level) < 1e-12 and said.samples == samples, "another confidence")


def no_trigger_within(claim: Claim, dossier: Dossier) -> Verdict:
    """Votes counted again on the same noise, in float64."""
    case = _case(dossier)
    found = dossier.evidence["negative.csv"]
    terms, logits = case.terms, _logits(case.problem.classifier)
    levels = found["noise_std"]
    _require(
        len(levels) and (levels > 0) & np.isfinite(levels) & (np.diff(levels, prepend=0) > 0),
        "the noise levels do not increase",
    )
    _check_confidence(claim, case, int(terms["draws"]))
    radii = []
    for place, sigma in enumerate(levels):
        first = _votes(case, logits, case.draw("negative-top", FIRST_DRAWS, place), float(sigma))
        votes = _votes(case, logits, case.draw("negative-votes", int(terms["draws"]), place), float(sigma))
        top = int(found["decision"][place])
        _require(first[1][top] >= first[0].max(), f"the first draws at noise {sigma:g} do not favour class {top}")
        _require(
            votes[0][top] <= found["votes"][place] <= votes[1][top],
            f"class {top} has {votes[0][top]} votes at noise {sigma:g}",
        )
        p = _lower(int(found["votes"][place]), int(terms["draws"]), terms["failure_probability"] / len(levels))
        radius = float(sigma) * stats.norm.ppf(p) if p > 0.5 else 0.0
        _require(
            np.allclose(
                [float(found["lower"][place]), float(found["radius"][place])], [p, float(radius)], rtol=1e-6, atol=1e-9
            ),
            "another radius",
        )
        radii.append(radius)
    best = int(np.argmax(radii))
    if f"start image {case.row}, class {int(found['decision'][best])}." not in claim.statement:
        return refute(claim, "the statement names another image or class")
    enough = radii[best] >= float(terms["radius"])
    return compare(
        claim,
        radii[best],
        supports="statistical",
        bound=float(terms["radius"]),
        rtol=1e-6,
        atol=1e-9,
        undecided=not enough,
    )


def _votes(case: _Case, logits: Any, z: Tensor, sigma: float) -> tuple[Array, Array]:
    """Sure and possible votes of every class."""
    classes = case.problem.classifier.classes
    sure, maybe = np.zeros(classes, dtype=int), np.zeros(classes, dtype=int)
    with torch.no_grad():
        for part in case.noisy(case.image, z, sigma):
            output = logits(part)
            for c in range(classes):
                certain, possible = _decided(output, c)
                sure[c] += certain.sum()
                maybe[c] += possible.sum()
    return sure, maybe


# ---- measured ------------------------------------------------------------------------------------------------------


def smoothed_success(claim: Claim, dossier: Dossier) -> Verdict:
    """Majorities over the same noisy copies, in float64."""
    case = _case(dossier)
    stated = dossier.evidence["smoothed.json"]
    problem, logits = case.problem, _logits(case.problem.classifier)
    rows = problem.heldout[problem.labels[problem.heldout] != case.target][:ROWS]
    _require(stated["trials"] == len(rows), f"there are {len(rows)} images of other classes")
    counts = {"successes": [0, 0], "before": [0, 0]}
    for row in rows:
        image = problem.images[int(row)].double().cpu()
        z = case.draw("smoothed-success", COPIES, int(row))
        for name, point in (("successes", torch.clamp(image + case.delta(), 0, 1)), ("before", image)):
            low, high = _majority(case, logits, point, z)
            counts[name][0] += low
            counts[name][1] += high
    for name, (low, high) in counts.items():
        _require(low <= stated[name] <= high, f"{name} is {low}, not {stated[name]}")
    _require(
        f"class {case.target} " in claim.statement and f"{stated['before']} of {len(rows)} without" in claim.statement,
        "another statement",
    )
    return compare(claim, stated["successes"] / len(rows) if len(rows) else 0.0, supports="measured", rtol=1e-12)


def _majority(case: _Case, logits: Any, point: Tensor, z: Tensor) -> tuple[int, int]:
    with torch.no_grad():
        outputs = torch.cat([logits(part) for part in case.noisy(point, z, case.sigma)])
    votes = [[int(side.sum()) for side in _decided(outputs, c)] for c in range(outputs.shape[1])]
    t = case.target
    sure = all(votes[t][0] > votes[c][1] or (votes[t][0] >= votes[c][1] and t < c) for c in range(len(votes)) if c != t)
    maybe = all(
        votes[t][1] > votes[c][0] or (votes[t][1] >= votes[c][0] and t < c) for c in range(len(votes)) if c != t
    )
    return int(sure), int(maybe)


def backdoor(claim: Claim, dossier: Dossier) -> Verdict:
    """The score of the class of rank 1, and the rule."""
    case = _case(dossier)
    _check_table(case)
    if f"Robust score of class {case.target}:" not in claim.statement:
        return refute(claim, "the statement names another class")
    score, lower = float(case.table["score"][case.place]), float(case.table["lower"][case.place])
    found = score > RULE_SCORE and lower > RULE_SUCCESS
    return compare(claim, score, supports="measured", bound=RULE_SCORE, rtol=1e-9, atol=1e-12, undecided=not found)


def probability(claim: Claim, dossier: Dossier) -> Verdict:
    """The same noise in float64, then fresh noise that must agree within Hoeffding's bound."""
    case = _case(dossier)
    stated, terms = dossier.evidence["probability.json"], case.terms
    draws = int(terms["draws"])
    logits = _logits(case.problem.classifier)
    z = case.draw("fresh", draws) if case.sigma else torch.zeros(1, *case.image.shape, dtype=torch.float64)
    with_it, without = (_probability(case, logits, image, z) for image in (case.image + case.delta(), case.image))
    half = math.sqrt(math.log(2 / terms["failure_probability"]) / (2 * len(z)))
    interval = [max(0.0, with_it - half), min(1.0, with_it + half)]
    _require(f"over {len(z)} fresh noise draws" in claim.statement, f"the terms say {len(z)} draws")
    _require(np.allclose(stated["interval"], interval, rtol=0, atol=1e-4), "another interval")
    _require(
        np.allclose([stated["with"], stated["without"]], [with_it, without], rtol=1e-4, atol=1e-6),
        "another probability",
    )
    if case.sigma:
        fresh = torch.randn(draws, *case.image.shape, generator=Streams(dossier.seed).torch("checker", 1)).double()
        again = _probability(case, logits, case.image + case.delta(), fresh)
        if abs(again - with_it) > 2 * math.sqrt(math.log(2 / LUCK) / (2 * draws)):
            return refute(claim, f"fresh noise gives {again:.4g}", again)
    return compare(claim, with_it, supports="measured", rtol=1e-4, atol=1e-6)


def _probability(case: _Case, logits: Any, image: Tensor, z: Tensor) -> float:
    with torch.no_grad():
        parts = [torch.softmax(logits(part), 1)[:, case.target] for part in case.noisy(image, z, case.sigma)]
    return float(torch.cat(parts).mean())


def stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """Gradients of the single draws, weighted by their probabilities; the projection by its multiplier."""
    case = _case(dossier)
    logits, draws = _logits(case.problem.classifier), int(case.terms["draws"])
    still = torch.zeros(1, *case.image.shape, dtype=torch.float64)
    first = case.draw("fresh-temperature", SCALE_DRAWS) if case.sigma else still
    with torch.no_grad():
        spread = torch.cat([logits(part).std(1) for part in case.noisy(case.image, first, case.sigma)]).mean()
    z = case.draw("fresh-gradient", draws) if case.sigma else still
    logs, gradients = [], []
    for part in z.split(53):
        points = (case.image + case.delta() + case.sigma * part).requires_grad_(True)
        with torch.enable_grad():
            output = logits(case._denoised(points, case.sigma))
            own = torch.log_softmax(3 * output / spread, 1)[:, case.target]
            (gradient,) = torch.autograd.grad(own.sum(), points)
        logs.append(own.detach())
        gradients.append(gradient)
    weights = torch.softmax(torch.cat(logs), 0)
    gradient = -(weights.view(-1, *[1] * case.image.ndim) * torch.cat(gradients)).sum(0)
    moved = (
        _nearest((case.delta() - gradient).numpy(), case.image.numpy(), float(case.terms["radius"]))
        - case.delta().numpy()
    )
    value = float(np.linalg.norm(moved))
    return compare(claim, value, supports="measured", rtol=1e-2, atol=1e-5 * float(case.terms["radius"]))


def _nearest(point: Array, image: Array, radius: float) -> Array:
    """Nearest point of box and ball: clip(point / (1 + m)) with the smallest multiplier m >= 0 that fits the ball."""
    inside = lambda m: np.clip(point / (1 + m), -image, 1 - image)  # noqa: E731
    if np.linalg.norm(inside(0.0)) <= radius:
        return inside(0.0)
    high = 1.0
    while np.linalg.norm(inside(high)) > radius:
        high *= 2
    return inside(optimize.brentq(lambda m: float(np.linalg.norm(inside(m))) - radius, 0.0, high, xtol=1e-13))


def planted_class(claim: Claim, dossier: Dossier) -> Verdict:
    """The class of rank 1 beside the planted one."""
    case = _case(dossier)
    planted = _planted(case)
    return compare(claim, case.target, supports="measured", bound=planted.target)


def _planted(case: _Case) -> Any:
    planted = case.problem.planted
    _require(planted is not None, "no trigger was planted in this problem")
    return planted


def _agreement(case: _Case) -> tuple[float, float, float, float]:
    """Energy share, overlap, cosine and the true trigger's success, against the evidence."""
    kept = vars(case)
    if "agreement" in kept:
        return kept["agreement"]
    planted, problem = _planted(case), case.problem
    stored = case.dossier.evidence["planted.npz"]
    rows = problem.heldout[problem.labels[problem.heldout] != planted.target]
    images = problem.images[torch.from_numpy(rows)]
    changed = planted.apply(images)
    mask = planted.trigger.mask(problem.classifier.shape).numpy()
    _require(np.array_equal(stored["mask"], mask), "another mask")
    change = np.mean((changed - images).cpu().numpy().astype(np.float64), axis=0)
    _require(np.allclose(stored["change"], change, rtol=0, atol=1e-5), "another planted change")
    delta = case.delta().numpy()
    energy = delta**2
    share = float(energy[mask > 0].sum() / max(energy.sum(), 1e-300))
    largest, inside = energy >= np.sort(energy, axis=None)[-int(mask.sum())], mask > 0
    overlap = float((largest & inside).sum() / (largest | inside).sum())
    cosine = float(np.vdot(delta, change) / max(np.linalg.norm(delta) * np.linalg.norm(change), 1e-300))
    low, high = _hits(case, _logits(problem.classifier), changed.double().cpu(), planted.target)
    own = float(stored["agreement"][3])
    _require(
        low <= own * len(rows) + 1e-6 and own * len(rows) - 1e-6 <= high,
        f"the planted trigger works on {low} of {len(rows)}",
    )
    found = (share, overlap, cosine, own)
    _require(
        np.allclose(stored["agreement"][:3], found[:3], rtol=1e-5, atol=1e-6),
        "another agreement with the planted trigger",
    )
    kept["agreement"] = found
    return found


def planted_energy(claim: Claim, dossier: Dossier) -> Verdict:
    """Share of the energy on the trigger's pixels."""
    return compare(claim, _agreement(_case(dossier))[0], supports="measured", rtol=1e-5, atol=1e-9)


def planted_success(claim: Claim, dossier: Dossier) -> Verdict:
    """Success relative to the planted trigger's."""
    case = _case(dossier)
    _check_table(case)
    own = float(case.table["successes"][case.place] / max(case.table["trials"][case.place], 1))
    return compare(claim, own / max(_agreement(case)[3], 1e-12), supports="measured", rtol=1e-6)


CHECKS: dict[str, Check] = {
    "norm": norm, "box": box, "success": success, "smoothed-success": smoothed_success, "backdoor": backdoor,
    "probability": probability, "stationarity": stationarity, "no-trigger-within": no_trigger_within,
    "planted-class": planted_class, "planted-energy": planted_energy, "planted-success": planted_success,
}  # fmt: skip
