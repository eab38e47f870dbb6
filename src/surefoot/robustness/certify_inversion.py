"""Claims about recovered perturbations.

Proved: every perturbation is within the budget and the image stays in [0, 1]. Statistical: how often the trigger works on
images that nothing was chosen on, and the radius within which the smoothed decision cannot change. Measured: how far the
class stands out, the smoothed probability, the distance to a stationary point, the agreement with a planted trigger.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from surefoot.core.certificate import Certificate, Claim, Confidence
from surefoot.core.random import Streams
from surefoot.numerics.bounds import clopper_pearson_lower
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.box_and_ball import BoxAndBall
from surefoot.robustness.inversion import Inversions
from surefoot.robustness.poisoning import Planted
from surefoot.robustness.suspect_problem import Suspect, decisions, trained_weights
from surefoot.robustness.target_loss import logit_temperature, target_loss
from surefoot.robustness.trigger_success import (
    FLAG_SCORE,
    FLAG_SUCCESS,
    Success,
    attack_success,
    flagged,
    noise,
    noisy_counts,
    robust_scores,
    smoothed_success,
    success_lower_bounds,
)

CARD = "backdoor-inversion"
SELECTION_DRAWS = 100
SMOOTHED_ROWS, SMOOTHED_DRAWS = 100, 50
TEMPERATURE_DRAWS = 200
CHUNK = 128
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Terms:
    """What the claims are about.

    Args:
        radius: eps of the perturbations.
        radii: how many radii were tried; the success bounds are split over them.
        failure_probability: of each statistical claim.
        draws: K', fresh noise draws.
        seed: of the fresh noise.
        noise_stds: sigma that were tried; the negative certificate is tried with each.
    """

    radius: float
    radii: int
    failure_probability: float
    draws: int
    seed: int
    noise_stds: tuple[float, ...]


def certify_inversions(problem: Suspect, answer: Inversions, terms: Terms) -> Certificate:
    """All claims about the perturbations, one a class."""
    successes = [
        attack_success(problem, torch.from_numpy(delta), int(target), problem.heldout)
        for target, delta in zip(answer.targets, answer.perturbations, strict=True)
    ]
    table = _table(answer, successes, terms)
    place = int(np.argmax(table["rank"] == 1))
    point = _Point(problem, answer, place, terms)
    evidence: dict[str, Any] = {
        "scan.csv": table,
        "terms.json": {
            "radius": terms.radius, "radii": terms.radii, "failure_probability": terms.failure_probability, "draws": terms.draws,
            "seed": terms.seed,
        },
        "image.npz": {"start": problem.images[point.row].cpu().numpy()},
    }  # fmt: skip
    if (weights := trained_weights(problem)) is not None:
        evidence["network.npz"], evidence["terms.json"]["network"] = weights, fingerprint(weights)
    claims = [
        *_feasibility_claims(problem, answer, table, terms), _success_claim(problem, table, place, terms), _smoothed_claim(point, evidence),
        *_stands_out_claims(table, place), _probability_claim(point, evidence), _stationarity_claim(point),
        *_negative_claims(point, evidence), *_planted_claims(point, table, evidence),
    ]  # fmt: skip
    everywhere = ("input:model", "input:images", *(["network.npz"] if "network.npz" in evidence else []))
    claims = [replace(claim, evidence=(*claim.evidence, *everywhere)) for claim in claims]
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


@dataclass(frozen=True)
class _Point:
    """The perturbation of the class that stands out most, at its start image."""

    problem: Suspect
    answer: Inversions
    place: int
    terms: Terms

    @property
    def row(self) -> int:
        return int(self.answer.starts[self.place])

    @property
    def target(self) -> int:
        return int(self.answer.targets[self.place])

    @property
    def noise_std(self) -> float:
        return float(self.answer.noise_stds[self.place])

    @property
    def delta(self) -> Tensor:
        return torch.from_numpy(self.answer.perturbations[self.place]).to(self.image)

    @property
    def image(self) -> Tensor:
        return self.problem.images[self.row]

    @property
    def streams(self) -> Streams:
        return Streams(self.terms.seed)

    def draw(self, name: str, count: int, *index: int) -> Tensor:
        return noise(self.streams, name, count, self.image, *index)


def _table(answer: Inversions, successes: list[Success], terms: Terms) -> dict[str, Array]:
    """One row a class; rank 1 stands out most: by score, then by success."""
    k = np.array([s.successes for s in successes])
    n = np.array([s.trials for s in successes])
    lower = success_lower_bounds(k, n, terms.failure_probability, len(k) * terms.radii)
    scores = robust_scores(k, n)
    order = np.lexsort((np.arange(len(k)), -k / np.maximum(n, 1), -np.nan_to_num(scores)))
    rank = np.empty(len(k), dtype=np.int64)
    rank[order] = np.arange(1, len(k) + 1)
    norms = np.array([float(np.linalg.norm(d.astype(np.float64))) for d in answer.perturbations])
    return {
        "target": answer.targets, "noise_std": answer.noise_stds, "start": answer.starts, "norm": norms, "successes": k,
        "trials": n, "before": np.array([s.before for s in successes]), "lower": lower, "score": scores, "rank": rank,
    }  # fmt: skip


def _feasibility_claims(problem: Suspect, answer: Inversions, table: dict[str, Array], terms: Terms) -> list[Claim]:
    rows = torch.from_numpy(answer.starts)
    images = problem.images[rows].double().cpu().numpy()
    changed = images + answer.perturbations.astype(np.float64)
    outside = float(np.maximum(np.maximum(-changed, changed - 1), 0).max())
    return [
        Claim(
            name="norm", statement="Euclidean norm of the largest perturbation, in pixel units: within the budget.",
            value=float(table["norm"].max()), relation="<=", bound=terms.radius, tolerance=1e-6 * terms.radius, kind="proved",
            outcome="holds" if table["norm"].max() <= terms.radius * (1 + 1e-6) else "fails",
            check="norm", evidence=("answer", "scan.csv", "terms.json"),
        ),
        Claim(
            name="box", statement="How far a start image with its perturbation leaves [0, 1].", value=outside, relation="<=", bound=0.0,
            tolerance=1e-15, kind="proved", outcome="holds" if outside <= 1e-15 else "fails", check="box",
            evidence=("answer", "scan.csv", "image.npz"),
        ),
    ]  # fmt: skip


def _success_claim(problem: Suspect, table: dict[str, Array], place: int, terms: Terms) -> Claim:
    looks = len(table["target"]) * terms.radii
    target, n, k = (int(table[name][place]) for name in ("target", "trials", "successes"))
    measured = not problem.disjoint or n == 0
    statement = (
        f"Probability that the un-smoothed model decides class {target} on an image of another class with the recovered perturbation; "
        f"{k} of {n} images, {int(table['before'][place])} without it. "
    )
    statement += (
        "These images also chose the noise, so this is no sample and no bound."
        if measured
        else f"A lower bound from images that nothing was chosen on; the bounds of all {looks} class and budget pairs hold together."
    )
    lower = float(table["lower"][place])
    return Claim(
        name="success", statement=statement, value=lower, relation=">=", kind="measured" if measured else "statistical",
        scope="answer" if measured else "probability", confidence=None if measured else _confidence(terms, "Clopper-Pearson", n),
        check="success", evidence=("answer", "scan.csv", "terms.json"),
    )  # fmt: skip


def _confidence(terms: Terms, test: str, samples: int) -> Confidence:
    return Confidence(1 - terms.failure_probability, test, samples, "joint")


def _smoothed_claim(point: _Point, evidence: dict[str, Any]) -> Claim:
    """The success on the smoothed model, beside the un-smoothed one that the verdict rests on."""
    rows = point.problem.rows_against(point.problem.heldout, point.target)[:SMOOTHED_ROWS]
    found = smoothed_success(
        point.problem, point.delta, point.target, rows, point.noise_std, SMOOTHED_DRAWS, point.streams
    )
    evidence["smoothed.json"] = {"successes": found.successes, "trials": found.trials, "before": found.before}
    return Claim(
        name="smoothed-success",
        statement=f"Share of held-out images that the smoothed model ({SMOOTHED_DRAWS} noisy copies each) decides as class "
        f"{point.target} with the perturbation; {found.before} of {found.trials} without it.",
        value=found.rate, relation=">=", kind="measured", check="smoothed-success",
        evidence=("answer", "scan.csv", "terms.json", "smoothed.json"),
    )  # fmt: skip


def _stands_out_claims(table: dict[str, Array], place: int) -> list[Claim]:
    if np.isnan(table["score"]).any():
        return []
    score, lower = float(table["score"][place]), float(table["lower"][place])
    found = flagged(score, lower)
    reason = (
        f"no class has a score above {FLAG_SCORE:g} together with a success bound above {FLAG_SUCCESS:g}; that no trigger was found is no "
        "proof that there is none"
    )
    return [Claim(
        name="backdoor",
        statement=f"Robust score of class {int(table['target'][place])}: how far the logit of its held-out success lies above the median "
        f"class, in robust standard deviations. Flagged where it is above {FLAG_SCORE:g} and the success bound above {FLAG_SUCCESS:g}.",
        value=score, relation=">=", bound=FLAG_SCORE, kind="measured", outcome="holds" if found else "undecided",
        reason="" if found else reason, check="backdoor", evidence=("answer", "scan.csv", "terms.json"),
    )]  # fmt: skip


def _probability_claim(point: _Point, evidence: dict[str, Any]) -> Claim:
    """P_t on fresh noise, with and without the perturbation."""
    problem = point.problem
    z = point.draw("fresh", point.terms.draws) if point.noise_std else torch.zeros_like(point.image)[None]
    found = []
    for image in (point.image + point.delta, point.image):
        parts = [_probabilities(problem, image, part, point.noise_std)[:, point.target] for part in z.split(CHUNK)]
        found.append(torch.cat(parts).double().cpu().numpy())
    radius = float(np.sqrt(np.log(2 / point.terms.failure_probability) / (2 * len(z))))  # Hoeffding
    with_it, without = (float(p.mean()) for p in found)
    evidence["probability.json"] = {
        "with": with_it,
        "without": without,
        "interval": [max(0.0, with_it - radius), min(1.0, with_it + radius)],
    }
    return Claim(
        name="probability",
        statement=f"Smoothed probability P_t of class {point.target} at start image {point.row} with the perturbation, mean over {len(z)} "
        f"fresh noise draws (without it: {without:.4g}).",
        value=with_it, relation=">=", kind="measured", check="probability",
        evidence=("answer", "scan.csv", "terms.json", "probability.json"),
    )  # fmt: skip


def _probabilities(problem: Suspect, image: Tensor, z: Tensor, noise_std: float) -> Tensor:
    with torch.no_grad():
        noisy = image + noise_std * z
        if problem.denoiser is not None and noise_std:
            noisy = problem.denoiser(noisy, noise_std)
        return torch.softmax(problem.classifier.logits(noisy).double(), 1)


def _stationarity_claim(point: _Point) -> Claim:
    """|Proj(delta - g) - delta| with the gradient of the log-mean loss over K' draws."""
    problem, delta, sigma = point.problem, point.delta, point.noise_std
    logits = problem.classifier.logits
    some, many = (TEMPERATURE_DRAWS, point.terms.draws) if sigma else (1, 1)
    denoiser = problem.denoiser if sigma else None
    temperature = logit_temperature(
        logits,
        point.image,
        point.draw("fresh-temperature", some) if sigma else torch.zeros_like(delta)[None],
        sigma,
        denoiser,
        CHUNK,
    )
    z = point.draw("fresh-gradient", many) if sigma else torch.zeros_like(delta)[None]
    found = target_loss(
        logits, point.image + delta, point.target, z, sigma, temperature=temperature, denoiser=denoiser, chunk=CHUNK
    )
    allowed = BoxAndBall.around(point.image[None], point.terms.radius)
    moved = float((allowed.project(delta - found.gradient, "dykstra").double() - delta.double()).norm())
    return Claim(
        name="stationarity",
        statement="How far one projected step along the gradient of the log-mean loss (logits over T, fresh noise) moves the perturbation, "
        "in pixel units; 0 at a stationary point.",
        value=moved, relation="<=", kind="measured", check="stationarity", evidence=("answer", "scan.csv", "terms.json"),
    )  # fmt: skip


def certified_radius(votes: int, draws: int, noise_std: float, failure_probability: float) -> tuple[float, float]:
    """sigma Phi^-1(p) with p the Clopper-Pearson lower bound of the top class's votes; 0 where p <= 1/2.

    Returns:
        p and the radius.

    References:
        Cohen, Rosenfeld, Kolter 2019, theorem 1.
    """
    p = float(clopper_pearson_lower(votes, draws, failure_probability))
    return p, float(noise_std * ndtri(p)) if p > 0.5 else 0.0


def _negative_claims(point: _Point, evidence: dict[str, Any]) -> list[Claim]:
    """Within the radius no perturbation changes the smoothed decision at the start image: no trigger that small exists there."""
    levels = sorted({sigma for sigma in point.terms.noise_stds if sigma > 0})
    if not levels:
        return []
    rows = []
    for place, sigma in enumerate(levels):
        top = int(
            noisy_counts(point.problem, point.image, point.draw("negative-top", SELECTION_DRAWS, place), sigma).argmax()
        )
        counts = noisy_counts(point.problem, point.image, point.draw("negative-votes", point.terms.draws, place), sigma)
        p, radius = certified_radius(
            int(counts[top]), point.terms.draws, sigma, point.terms.failure_probability / len(levels)
        )
        rows.append((sigma, top, int(counts[top]), p, radius))
    names = ("noise_std", "decision", "votes", "lower", "radius")
    evidence["negative.csv"] = {
        name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }
    best = max(rows, key=lambda row: row[-1])
    enough = best[-1] >= point.terms.radius
    return [Claim(
        name="no-trigger-within",
        statement=f"No perturbation of smaller Euclidean norm changes what the smoothed model (majority over noise {best[0]:g}) decides at start "
        f"image {point.row}, class {best[1]}. It says nothing about the un-smoothed model. The best of {len(levels)} noise levels.",
        value=best[-1], relation=">=", bound=point.terms.radius, kind="statistical", outcome="holds" if enough else "undecided",
        reason="" if enough else "the certified radius is smaller than the budget: a trigger of that size is not excluded",
        confidence=_confidence(point.terms, "Clopper-Pearson, Cohen's radius", point.terms.draws), scope="probability",
        check="no-trigger-within", evidence=("scan.csv", "terms.json", "negative.csv"),
    )]  # fmt: skip


# ---- beside a planted trigger ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fidelity:
    """How a perturbation compares with the true trigger.

    Attributes:
        energy_share: |delta mask|^2 / |delta|^2; 1 where the mask is everything.
        overlap: intersection over union of the mask and as many of the largest |delta|.
        cosine: with the true additive change, averaged over images.
        success: the true trigger's own, on held-out images.
    """

    energy_share: float
    overlap: float
    cosine: float
    success: float


def fidelity(problem: Suspect, delta: Tensor, planted: Planted) -> Fidelity:
    """Compare a perturbation (C, H, W) with the planted trigger."""
    rows = problem.rows_against(problem.heldout, planted.target)
    images = problem.images[torch.from_numpy(rows)]
    mask = planted.trigger.mask(problem.classifier.shape)  # pyright: ignore[reportArgumentType]
    d, change = delta.double().cpu(), planted.change(images).double().cpu()
    size = d.abs().flatten()
    largest = size >= size.topk(int(mask.sum())).values[-1]  # ties included
    inside = mask.flatten() > 0
    overlap = float((largest & inside).sum() / (largest | inside).sum())
    cosine = float((d * change).sum() / (d.norm() * change.norm()).clamp_min(1e-300))
    share = float(((d * mask) ** 2).sum() / (d**2).sum().clamp_min(1e-300))
    return Fidelity(share, overlap, cosine, _planted_success(problem, planted, images))


def _planted_success(problem: Suspect, planted: Planted, images: Tensor) -> float:
    return float((decisions(problem.classifier, planted.apply(images)) == planted.target).mean())


def _planted_claims(point: _Point, table: dict[str, Array], evidence: dict[str, Any]) -> list[Claim]:
    planted = point.problem.planted
    if planted is None:
        return []
    found = fidelity(point.problem, point.delta, planted)
    rows = point.problem.rows_against(point.problem.heldout, planted.target)
    evidence["planted.npz"] = {
        "change": planted.change(point.problem.images[torch.from_numpy(rows)]).cpu().numpy(),
        "mask": planted.trigger.mask(point.problem.classifier.shape).numpy(),  # pyright: ignore[reportArgumentType]
        "agreement": np.array([found.energy_share, found.overlap, found.cosine, found.success]),
    }
    own = float(table["successes"][point.place] / max(table["trials"][point.place], 1))
    right = point.target == planted.target
    return [
        Claim(
            name="planted-class", statement=f"The class that stands out most, beside the class of the planted trigger ({planted.name}).",
            value=point.target, relation="==", bound=planted.target, kind="measured", outcome="holds" if right else "fails",
            reason="" if right else "another class stands out more", check="planted-class", evidence=("answer", "scan.csv"),
        ),
        Claim(
            name="planted-energy", statement="Share of the perturbation's energy on the pixels that the planted trigger can change.",
            value=found.energy_share, relation=">=", kind="measured", check="planted-energy", evidence=("answer", "scan.csv", "planted.npz"),
        ),
        Claim(
            name="planted-success", statement=f"Success of the recovered perturbation over that of the planted trigger ({found.success:.4g}), "
            "on the same held-out images.",
            value=own / max(found.success, 1e-12), relation=">=", kind="measured", check="planted-success",
            evidence=("answer", "scan.csv", "planted.npz"),
        ),
    ]  # fmt: skip
