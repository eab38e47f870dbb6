"""Checkers of what is measured about a recovered trigger: smoothed success, score, probability, stationarity, the planted trigger."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from surefoot.core.certificate import Claim
from surefoot.core.random import Streams
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.robustness.verify_inversion_case import Case, case_of, check_table, decided, exact_logits, hits, require

Array = np.ndarray[Any, np.dtype[Any]]
RULE_SCORE, RULE_SUCCESS = 3.5, 0.5
COPIES, ROWS, SCALE_DRAWS = 50, 100, 200
LUCK = 1e-9


def smoothed_success(claim: Claim, dossier: Dossier) -> Verdict:
    """Majorities over the same noisy copies, in float64."""
    case = case_of(dossier)
    stated = dossier.evidence["smoothed.json"]
    problem, logits = case.problem, exact_logits(case.problem.classifier)
    rows = problem.heldout[problem.labels[problem.heldout] != case.target][:ROWS]
    require(stated["trials"] == len(rows), f"there are {len(rows)} images of other classes")
    counts = {"successes": [0, 0], "before": [0, 0]}
    for row in rows:
        image = problem.images[int(row)].double().cpu()
        z = case.draw("smoothed-success", COPIES, int(row))
        for name, point in (("successes", torch.clamp(image + case.delta(), 0, 1)), ("before", image)):
            low, high = _majority(case, logits, point, z)
            counts[name][0] += low
            counts[name][1] += high
    for name, (low, high) in counts.items():
        require(low <= stated[name] <= high, f"{name} is {low}, not {stated[name]}")
    require(
        f"class {case.target} " in claim.statement and f"{stated['before']} of {len(rows)} without" in claim.statement,
        "another statement",
    )
    return compare(claim, stated["successes"] / len(rows) if len(rows) else 0.0, supports="measured", rtol=1e-12)


def _majority(case: Case, logits: Any, point: Tensor, z: Tensor) -> tuple[int, int]:
    with torch.no_grad():
        outputs = torch.cat([logits(part) for part in case.noisy(point, z, case.sigma)])
    votes = [[int(side.sum()) for side in decided(outputs, c)] for c in range(outputs.shape[1])]
    t = case.target
    sure = all(votes[t][0] > votes[c][1] or (votes[t][0] >= votes[c][1] and t < c) for c in range(len(votes)) if c != t)
    maybe = all(
        votes[t][1] > votes[c][0] or (votes[t][1] >= votes[c][0] and t < c) for c in range(len(votes)) if c != t
    )
    return int(sure), int(maybe)


def backdoor(claim: Claim, dossier: Dossier) -> Verdict:
    """The score of the class of rank 1, and the rule."""
    case = case_of(dossier)
    check_table(case)
    if f"Robust score of class {case.target}:" not in claim.statement:
        return refute(claim, "the statement names another class")
    score, lower = float(case.table["score"][case.place]), float(case.table["lower"][case.place])
    found = score > RULE_SCORE and lower > RULE_SUCCESS
    return compare(claim, score, supports="measured", bound=RULE_SCORE, rtol=1e-9, atol=1e-12, undecided=not found)


def probability(claim: Claim, dossier: Dossier) -> Verdict:
    """The same noise in float64, then fresh noise that must agree within Hoeffding's bound."""
    case = case_of(dossier)
    stated, terms = dossier.evidence["probability.json"], case.terms
    draws = int(terms["draws"])
    logits = exact_logits(case.problem.classifier)
    z = case.draw("fresh", draws) if case.sigma else torch.zeros(1, *case.image.shape, dtype=torch.float64)
    with_it, without = (_probability(case, logits, image, z) for image in (case.image + case.delta(), case.image))
    half = math.sqrt(math.log(2 / terms["failure_probability"]) / (2 * len(z)))
    interval = [max(0.0, with_it - half), min(1.0, with_it + half)]
    require(f"over {len(z)} fresh noise draws" in claim.statement, f"the terms say {len(z)} draws")
    require(np.allclose(stated["interval"], interval, rtol=0, atol=1e-4), "another interval")
    require(
        np.allclose([stated["with"], stated["without"]], [with_it, without], rtol=1e-4, atol=1e-6),
        "another probability",
    )
    if case.sigma:
        fresh = torch.randn(draws, *case.image.shape, generator=Streams(dossier.seed).torch("checker", 1)).double()
        again = _probability(case, logits, case.image + case.delta(), fresh)
        if abs(again - with_it) > 2 * math.sqrt(math.log(2 / LUCK) / (2 * draws)):
            return refute(claim, f"fresh noise gives {again:.4g}", again)
    return compare(claim, with_it, supports="measured", rtol=1e-4, atol=1e-6)


def _probability(case: Case, logits: Any, image: Tensor, z: Tensor) -> float:
    with torch.no_grad():
        parts = [torch.softmax(logits(part), 1)[:, case.target] for part in case.noisy(image, z, case.sigma)]
    return float(torch.cat(parts).mean())


def stationarity(claim: Claim, dossier: Dossier) -> Verdict:
    """Gradients of the single draws, weighted by their probabilities; the projection by its multiplier."""
    case = case_of(dossier)
    logits, draws = exact_logits(case.problem.classifier), int(case.terms["draws"])
    still = torch.zeros(1, *case.image.shape, dtype=torch.float64)
    first = case.draw("fresh-temperature", SCALE_DRAWS) if case.sigma else still
    with torch.no_grad():
        spread = torch.cat([logits(part).std(1) for part in case.noisy(case.image, first, case.sigma)]).mean()
    z = case.draw("fresh-gradient", draws) if case.sigma else still
    logs, gradients = [], []
    for part in z.split(53):
        points = (case.image + case.delta() + case.sigma * part).requires_grad_(True)
        with torch.enable_grad():
            output = logits(case.denoised(points, case.sigma))
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
    case = case_of(dossier)
    planted = _planted(case)
    return compare(claim, case.target, supports="measured", bound=planted.target)


def _planted(case: Case) -> Any:
    planted = case.problem.planted
    require(planted is not None, "no trigger was planted in this problem")
    return planted


def _agreement(case: Case) -> tuple[float, float, float, float]:
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
    require(np.array_equal(stored["mask"], mask), "another mask")
    change = np.mean((changed - images).cpu().numpy().astype(np.float64), axis=0)
    require(np.allclose(stored["change"], change, rtol=0, atol=1e-5), "another planted change")
    delta = case.delta().numpy()
    energy = delta**2
    share = float(energy[mask > 0].sum() / max(energy.sum(), 1e-300))
    largest, inside = energy >= np.sort(energy, axis=None)[-int(mask.sum())], mask > 0
    overlap = float((largest & inside).sum() / (largest | inside).sum())
    cosine = float(np.vdot(delta, change) / max(np.linalg.norm(delta) * np.linalg.norm(change), 1e-300))
    low, high = hits(case, exact_logits(problem.classifier), changed.double().cpu(), planted.target)
    own = float(stored["agreement"][3])
    require(
        low <= own * len(rows) + 1e-6 and own * len(rows) - 1e-6 <= high,
        f"the planted trigger works on {low} of {len(rows)}",
    )
    found = (share, overlap, cosine, own)
    require(
        np.allclose(stored["agreement"][:3], found[:3], rtol=1e-5, atol=1e-6),
        "another agreement with the planted trigger",
    )
    kept["agreement"] = found
    return found


def planted_energy(claim: Claim, dossier: Dossier) -> Verdict:
    """Share of the energy on the trigger's pixels."""
    return compare(claim, _agreement(case_of(dossier))[0], supports="measured", rtol=1e-5, atol=1e-9)


def planted_success(claim: Claim, dossier: Dossier) -> Verdict:
    """Success relative to the planted trigger's."""
    case = case_of(dossier)
    check_table(case)
    own = float(case.table["successes"][case.place] / max(case.table["trials"][case.place], 1))
    return compare(claim, own / max(_agreement(case)[3], 1e-12), supports="measured", rtol=1e-6)


MEASURED_CHECKS: dict[str, Check] = {
    "smoothed-success": smoothed_success, "backdoor": backdoor, "probability": probability, "stationarity": stationarity,
    "planted-class": planted_class, "planted-energy": planted_energy, "planted-success": planted_success,
}  # fmt: skip
