"""How the ends of a batch's spectrum move with its size, and the rates, scalings and damping that follow.

A batch's curvature matrix is the whole data's plus sampling noise of variance ``V (1/B - 1/N)`` an entry. With ``b = B / (1 - B/N)`` the random-matrix theorem
(spiked Wigner matrix) moves an outlier ``lam`` to ``lam + V / (b lam)`` while ``|lam| > sqrt(V / b)``, and the edge of the noise stands at ``2 sqrt(V / b)``.
Real noise is far from isotropic: ``V`` belongs to a direction (`directional`), and heavy tails and neighbouring outliers count, too, which `compressed`
draws from the rows' own curvature in the space of the leading eigenvectors.

References:
    D. Granziol, S. Zohren, S. Roberts, "Learning Rates as a Function of Batch Size: A Random Matrix Theory Approach to Neural Network Training", 2022.
    F. Benaych-Georges, R. Nadakuditi, "The eigenvalues and eigenvectors of finite, low rank perturbations of large random matrices", 2011.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

__all__ = [
    "adam_rate",
    "compressed",
    "covariance_eigenvalue",
    "debiased",
    "effective_batch",
    "largest_rate",
    "minimal_damping",
    "moved_eigenvalue",
    "noise_curvature",
    "scaled_damping",
    "scaled_rate",
    "spike_overlap",
]

Array = np.ndarray
Optimizer = Literal["sgd", "nesterov", "adam"]


def effective_batch(batch: float, population: int | None, *, replacement: bool = False) -> float:
    """``b = B / (1 - B/N)`` for a batch drawn without replacement, so that ``1/b = 1/B - 1/N``; ``B`` with replacement.

    Args:
        batch: B >= 1.
        population: N, or None for a population without end.
        replacement: whether rows may be drawn twice.

    Raises:
        ValueError: a batch below 1, or larger than the data.
    """
    if not batch >= 1:
        raise ValueError(f"the batch size is {batch}; expected at least 1")
    if population is None or replacement:
        return float(batch)
    if batch > population:
        raise ValueError(
            f"the batch size {batch} is larger than the data ({population} rows); choose one up to {population}"
        )
    return math.inf if batch == population else batch / (1 - batch / population)


def moved_eigenvalue(eigenvalue: float, variance: float, effective: float) -> float:
    """An extreme eigenvalue of the batch's matrix: ``lam + V / (b lam)`` outside the noise, ``+-2 sqrt(V / b)`` inside.

    Args:
        eigenvalue: lam of the whole data; its sign says which end is meant (0 counts as the upper one).
        variance: V >= 0, in units of lam squared (`directional`: ``E |H_i v|^2 - |H v|^2`` at the eigenvector v).
        effective: b, see `effective_batch`.
    """
    if not variance >= 0:
        raise ValueError(f"the variance is {variance}; expected a number >= 0")
    noise = variance / effective
    if abs(eigenvalue) > math.sqrt(noise):
        return eigenvalue + noise / eigenvalue
    return math.copysign(2 * math.sqrt(noise), eigenvalue)


def noise_curvature(eigenvalue: float, variance: float, effective: float) -> float:
    """What the sampling noise adds: ``V / (b |lam|)`` beside an outlier, its own edge ``2 sqrt(V / b)`` where it has swallowed that.

    Args:
        eigenvalue, variance, effective: see `moved_eigenvalue`.
    """
    noise = variance / effective
    return noise / abs(eigenvalue) if abs(eigenvalue) > math.sqrt(noise) else 2 * math.sqrt(noise)


def spike_overlap(eigenvalue: float, variance: float, effective: float) -> float:
    """Squared cosine between an outlier's eigenvector in the batch and in the whole data: ``1 - V / (b lam^2)``, or 0 inside the noise."""
    ratio = variance / effective
    return max(0.0, 1 - ratio / eigenvalue**2) if eigenvalue else float(ratio == 0)


def covariance_eigenvalue(spike: float, bulk: float, ratio: float) -> float:
    """The top eigenvalue of a batch covariance ``(1/B) sum r_i r_i'`` (a Gauss-Newton matrix whose bulk is not at zero).

    ``ell (1 + g tau / (ell - tau))`` if ``ell > tau (1 + sqrt g)``, else the edge ``tau (1 + sqrt g)^2``.

    Args:
        spike: ell, the population's top eigenvalue.
        bulk: tau >= 0, the level of the rest.
        ratio: ``g = P / B``.
    """
    if spike > bulk * (1 + math.sqrt(ratio)):
        return spike * (1 + ratio * bulk / (spike - bulk))
    return bulk * (1 + math.sqrt(ratio)) ** 2


def debiased(eigenvalue: float, variance: float, effective: float) -> float:
    """The whole data's outlier from a sub-sample's: the larger root ``x`` of ``lam = x + V / (b x)``.

    Raises:
        ValueError: no real root: the sub-sample's eigenvalue is inside its own noise, take a larger one.
    """
    root = eigenvalue**2 - 4 * variance / effective
    if root < 0:
        raise ValueError(
            f"the eigenvalue {eigenvalue:g} of the sub-sample lies inside its sampling noise (edge {2 * math.sqrt(variance / effective):g}); "
            "use more rows"
        )
    return (eigenvalue + math.copysign(math.sqrt(root), eigenvalue)) / 2


def compressed(center: Array, spread: Array, own: Array, batch: int) -> Array:
    """Top eigenvalue of a batch's matrix in the space of ``k`` leading eigenvectors ``W`` and one direction of each row beyond it.

    With rows ``H_i``, ``A_i = W' H_i W`` and ``R_i = (1 - W W') H_i W``, rows whose ``R_i`` are orthogonal to one another give
    the arrow matrix ``[[mean A_i, R_i'/B], [R_i/B, c_i/B]]``; its top eigenvalue is the fixed point of
    ``lam = lam_1( mean A_i + (1/B^2) sum R_i'R_i / (lam - c_i/B) )``. To first order it moves by the directional law's ``V / (b lam)``.

    Args:
        center: ``A_i`` (..., B, k, k) of the batches' rows.
        spread: ``R_i'R_i`` (..., B, k, k).
        own: ``c_i`` (..., B), the row's curvature along its leading direction in ``R_i``.
        batch: B.

    Returns:
        For every batch the fixed point (...) above ``max c_i / B``; a row heavier than all others together may put it close to that.
    """
    mean, poles = center.mean(axis=-3), own / batch
    k = center.shape[-1]
    weights = (spread / batch**2).reshape(*own.shape, k * k)
    low = np.maximum(poles.max(axis=-1), np.linalg.eigvalsh(mean)[..., -1])
    total = np.trace(weights.sum(axis=-2).reshape(*low.shape, k, k), axis1=-2, axis2=-1)
    high = low + np.sqrt(np.maximum(total, 0.0))
    for _ in range(60):
        middle = (low + high) / 2
        if np.all((middle <= low) | (middle >= high)):
            break
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # where low and high have met at a pole, nothing moves any more
            shares = 1 / (middle[..., None] - poles)
            tried = mean + (shares[..., None, :] @ weights).reshape(mean.shape)
        apart = (middle > low) & (middle < high)
        below = np.linalg.eigvalsh(np.where(apart[..., None, None], tried, 0.0))[..., -1] < middle
        high, low = np.where(apart & below, middle, high), np.where(apart & ~below, middle, low)
    return high


def largest_rate(eigenvalue: float, optimizer: Optimizer = "sgd", momentum: float = 0.0) -> float:
    """Largest stable rate on a quadratic of top curvature ``lam``; a local bound, not the best rate.

    SGD with heavy ball ``2 (1 + m) / lam``; Nesterov as torch has it ``2 (1 + m) / ((1 + 2 m) lam)``; Adam at curvature of its preconditioned
    matrix ``D^-1/2 H D^-1/2``: ``(2 + 2 beta1) / ((1 - beta1) lam)``, with ``momentum`` for beta1.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"the momentum is {momentum}; expected 0 <= momentum < 1")
    if eigenvalue <= 0:
        return math.inf
    factor = {
        "sgd": 2 * (1 + momentum),
        "nesterov": 2 * (1 + momentum) / (1 + 2 * momentum),
        "adam": 2 * (1 + momentum) / (1 - momentum),
    }
    if optimizer not in factor:
        raise ValueError(f"optimizer is {optimizer!r}; expected one of {', '.join(factor)}")
    return factor[optimizer] / eigenvalue


def adam_rate(eigenvalue: float, beta1: float = 0.9) -> float:
    """`largest_rate` of Adam: 38 / lam at beta1 = 0.9."""
    return largest_rate(eigenvalue, "adam", beta1)


def scaled_rate(
    rate: float, before: int, after: int, *, eigenvalue: float, variance: float, population: int | None = None,
    optimizer: Optimizer = "sgd", replacement: bool = False, weight_decay: float = 0.0,
) -> tuple[float, float]:  # fmt: skip
    """A rate moved from batch size ``before`` to ``after``, and the asymptote of the scaling law for comparison.

    SGD: ``rate lam(B0) / lam(B1)``, which is linear in B while noise dominates and saturates at 1; Adam-like: the square root of that ratio.

    Args:
        eigenvalue, variance: of the whole data, see `moved_eigenvalue`.
        population, replacement: see `effective_batch`.
        weight_decay: of plain descent; it adds to every eigenvalue. Decoupled decay adds nothing.

    Returns:
        The rate by the predicted eigenvalues, and the plain linear (SGD) or square-root (Adam) rule.
    """
    sizes = [effective_batch(b, population, replacement=replacement) for b in (before, after)]
    ends = [moved_eigenvalue(eigenvalue, variance, b) + weight_decay for b in sizes]
    ratio = 1.0 if ends[1] == 0 else ends[0] / ends[1]
    plain = after / before
    power = 0.5 if optimizer == "adam" else 1.0
    return rate * ratio**power, rate * plain**power


def scaled_damping(
    damping: float, before: int, after: int, *, rates: tuple[float, float] = (1.0, 1.0), population: int | None = None,
    replacement: bool = False,
) -> float:  # fmt: skip
    """A second-order method's damping moved to another batch size and rate: ``delta rate_1 b_0 / (rate_0 b_1)``, since the least one is ``rate V / (2 b lam)``.

    At one rate and a large population damping times batch size stays constant. The whole data need none of it.
    """
    if damping < 0 or min(rates) <= 0:
        raise ValueError(f"damping is {damping} and the rates {rates}; expected damping >= 0, rates > 0")
    old, new = (effective_batch(b, population, replacement=replacement) for b in (before, after))
    if math.isinf(old):
        raise ValueError("all rows at once have no sampling noise to scale a damping from; give a smaller batch")
    return damping * (rates[1] / rates[0]) * (old / new)


def minimal_damping(rate: float, noise: float) -> float:
    """Smallest stable damping of steps ``rate (C + delta)^-1 g`` whose flattest directions carry the noise's curvature: ``rate lam_noise(B) / 2``.

    It falls as ``rate / B`` where the noise moves an outlier, ``lam_noise = V / (b lam)``.
    """
    if rate < 0 or noise < 0:
        raise ValueError(f"rate is {rate} and noise {noise}; expected numbers >= 0")
    return rate * noise / 2
