"""How often a recovered perturbation works: attack success, smoothed probabilities, and how far one class stands out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.random import Streams
from surefoot.numerics.bounds import clopper_pearson_lower
from surefoot.robustness.suspect_problem import Suspect, decisions

Array = np.ndarray[Any, np.dtype[Any]]
FLAG_SCORE, FLAG_SUCCESS = 3.5, 0.5
BATCH = 256


@dataclass(frozen=True)
class Success:
    """Counts of one perturbation on images that are not of its class.

    Attributes:
        successes: images decided as the target with the perturbation (un-smoothed model, clipped to [0, 1]).
        trials: images.
        before: images decided as the target without it.
    """

    successes: int
    trials: int
    before: int

    @property
    def rate(self) -> float:
        return self.successes / self.trials if self.trials else 0.0


def attack_success(problem: Suspect, delta: Tensor, target: int, rows: Array) -> Success:
    """Attack success: mean over images s whose label is not t of [argmax f(clip(s + delta, 0, 1)) = t].

    Args:
        delta: (C, H, W).
        rows: which images.
    """
    rows = problem.rows_against(rows, target)
    images = problem.images[torch.from_numpy(rows)]
    changed = (images + delta.to(images)).clamp(0, 1)
    hits = int((decisions(problem.classifier, changed) == target).sum())
    return Success(hits, len(rows), int((decisions(problem.classifier, images) == target).sum()))


def noise(streams: Streams, name: str, count: int, like: Tensor, *index: int) -> Tensor:
    """Standard normal draws (count, C, H, W) at an address; the same on every device."""
    return torch.randn(count, *like.shape, generator=streams.torch(name, *index)).to(like)


def smoothed_success(
    problem: Suspect, delta: Tensor, target: int, rows: Array, noise_std: float, draws: int, streams: Streams
) -> Success:
    """Attack success on the smoothed model: the class that most noisy copies are decided as (the smaller on ties)."""
    rows = problem.rows_against(rows, target)
    hits = before = 0
    for row in rows:
        image = problem.images[int(row)]
        z = noise(streams, "smoothed-success", draws, image, int(row))
        changed = (image + delta.to(image)).clamp(0, 1)
        for place, point in enumerate((changed, image)):
            hit = int(noisy_counts(problem, point, z, noise_std).argmax()) == target
            hits, before = hits + (hit and place == 0), before + (hit and place == 1)
    return Success(hits, len(rows), before)


def noisy_counts(problem: Suspect, image: Tensor, z: Tensor, noise_std: float) -> Array:
    """How many of the noisy copies are decided as each class."""
    noisy = image + noise_std * z
    if problem.denoiser is not None:
        with torch.no_grad():
            noisy = torch.cat([problem.denoiser(part, noise_std) for part in noisy.split(BATCH)])
    return np.bincount(decisions(problem.classifier, noisy, BATCH), minlength=problem.classifier.classes)


def success_lower_bounds(successes: Array, trials: Array, failure_probability: float, looks: int) -> Array:
    """Clopper-Pearson lower bounds that hold together: each of `looks` takes its share of the failure probability.

    A class without trials has the bound 0.
    """
    bounds = clopper_pearson_lower(
        np.where(trials > 0, successes, 0), np.maximum(trials, 1), failure_probability / looks
    )
    return np.where(trials > 0, bounds, 0.0)


def robust_scores(successes: Array, trials: Array) -> Array:
    """How far each class's success stands out: (s_t - median s) / scale with s = log((k + 1/2) / (n - k + 1/2)).

    The scale is 1.4826 times the median absolute deviation, and at least the standard error of the median class's s: with
    classes that all fail alike the deviation alone would be 0.

    Returns:
        Scores (T,); NaN for fewer than three classes, of which none can stand out.
    """
    if len(successes) < 3:
        return np.full(len(successes), np.nan)
    good, bad = successes + 0.5, trials - successes + 0.5
    s = np.log(good / bad)
    middle = float(np.median(s))
    nearest = int(np.argmin(np.abs(s - middle)))
    error = float(np.sqrt(1 / good[nearest] + 1 / bad[nearest]))
    return (s - middle) / max(1.4826 * float(np.median(np.abs(s - middle))), error)


def flagged(score: float, lower: float) -> bool:
    """The rule: robust score above 3.5 *and* success lower bound above one half."""
    return bool(score > FLAG_SCORE and lower > FLAG_SUCCESS)
