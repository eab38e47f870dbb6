"""Checkers of a trained scene: PSNR and SSIM anew, pixels by brute force in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.ndimage import correlate1d

from surefoot.core.certificate import Claim
from surefoot.core.verify import Check, Dossier, Verdict, compare, refute
from surefoot.splatting.problem import Capture
from surefoot.splatting.verify_perceptual import check_lpips
from surefoot.splatting.verify_render import BruteForce, differences

Array = np.ndarray[Any, np.dtype[Any]]
LEAST = 24  # convexes whose gradient must be shown, where so many are seen
FRESH = 100  # pixels that are drawn anew at each verification
ROUNDING = (
    2e-3  # of a float32 render; one contribution on the other side of the threshold changes a pixel by less than 4e-3
)
BLOCK, DRAWS = 16, 1000  # pixels, and resamples of such blocks
FLIPPED = 0.02  # share of pixels where that may happen


def _judged(problem: Capture) -> tuple[int, ...]:
    return problem.test or problem.train[:1]


def judged_images(dossier: Dossier) -> list[tuple[int, Array]]:
    """Photos' places and renders, of the right shape."""
    stored, out = dossier.evidence["renders.npz"], []
    places = _judged(dossier.problem)
    if set(stored) != {f"image_{i}" for i in range(len(places))}:
        raise ValueError("renders.npz holds other renders than there are judged photos")
    for number, index in enumerate(places):
        image = np.asarray(stored[f"image_{number}"], dtype=float)
        if image.shape != dossier.problem.photos[index].shape or not np.isfinite(image).all():
            raise ValueError(f"render {number} has shape {image.shape} or is not finite")
        out.append((index, image))
    return out


def check_psnr(claim: Claim, dossier: Dossier) -> Verdict:
    """-10 log10 of the mean squared difference; photo and cameras for the pictures must be those of the capture."""
    values, places, problem = [], list(_judged(dossier.problem)), dossier.problem
    kept = {**dossier.evidence["cameras.npz"], **dossier.evidence["photo.npz"]}
    truth = {
        "views": problem.views[places], "matrices": problem.matrices[places], "photo": problem.photos[places[0]],
        "sizes": np.array([problem.photos[i].shape[1::-1] for i in places]),
    }  # fmt: skip
    for name, value in truth.items():
        if not np.array_equal(kept[name], value):
            return refute(claim, f"{name} in the evidence is not the capture's")
    for index, image in judged_images(dossier):
        mask = dossier.problem.masks[index]
        square = (image - dossier.problem.photos[index]) ** 2
        values.append(-10 * np.log10(square.mean() if mask is None else square[mask > 0].mean()))
    return compare(claim, float(np.mean(values)), supports="measured", rtol=1e-9)


def similarity(x: Array, y: Array) -> Array:
    """Structural similarity at each pixel and channel; windows by scipy, one axis after the other, zero beyond the border."""
    place = np.arange(11) - 5
    window = np.exp(-(place**2) / 4.5)
    window /= window.sum()

    def blur(image: Array) -> Array:
        return correlate1d(correlate1d(image, window, axis=0, mode="constant"), window, axis=1, mode="constant")

    mx, my = blur(x), blur(y)
    vx, vy, cxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    return ((2 * mx * my + 1e-4) * (2 * cxy + 9e-4)) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))


def check_ssim(claim: Claim, dossier: Dossier) -> Verdict:
    """The mean of `similarity`, over photos."""
    values = []
    for index, x in judged_images(dossier):
        mask = dossier.problem.masks[index]
        found = similarity(x, dossier.problem.photos[index].astype(float))
        values.append(found.mean() if mask is None else found[mask > 0].mean())
    return compare(claim, float(np.mean(values)), supports="measured", rtol=1e-8)


def _probes(dossier: Dossier) -> dict[str, Array]:
    probes = {name: np.asarray(value) for name, value in dossier.evidence["probes.npz"].items()}
    places = _judged(dossier.problem)
    for number, index in enumerate(places):
        chosen = probes["photo"] == number
        height, width = dossier.problem.photos[index].shape[:2]
        row, column = probes["row"][chosen], probes["column"][chosen]
        if len(row) == 0 or row.min() < 0 or column.min() < 0 or row.max() >= height or column.max() >= width:
            raise ValueError(f"probes of photo {number} lie outside it, or there are none")
    if not np.isin(probes["photo"], np.arange(len(places))).all():
        raise ValueError("a probe belongs to no photo")
    return probes


def _brute(dossier: Dossier, index: int) -> BruteForce:
    kept: dict[int, BruteForce] = dossier._kept.setdefault("brute force", {})
    if index not in kept:
        kept[index] = BruteForce(dossier.answer, dossier.problem.views[index], dossier.problem.matrices[index])
    return kept[index]


def check_render_error(claim: Claim, dossier: Dossier) -> Verdict:
    """Fresh pixels with the renderer's own threshold; then the exact model at the probes, against render and bound."""
    probes, worst = _probes(dossier), 0.0
    rng = np.random.default_rng(dossier.seed)
    for number, (index, image) in enumerate(judged_images(dossier)):
        chosen = probes["photo"] == number
        row, column, bound = (probes[name][chosen] for name in ("row", "column", "bound"))
        brute = _brute(dossier, index)
        if not (bound > 0).all():
            return refute(claim, "a bound is not positive")
        height, width = image.shape[:2]
        fresh = rng.choice(height * width, min(FRESH, height * width), replace=False)
        again = brute.pixels(fresh % width, fresh // width, dossier.answer.threshold, 1e-4).image(brute.background)
        off = np.abs(again - image.reshape(-1, 3)[fresh]).max(axis=1) > ROUNDING
        if off.mean() > FLIPPED:
            return refute(
                claim, f"{off.sum()} of {len(off)} fresh pixels differ from the stored render by more than {ROUNDING}"
            )
        exact = brute.pixels(column, row).image(brute.background)  # the probes last: other checks ask for them next
        worst = max(worst, float((np.abs(exact - image[row, column]) / bound).max()))
    return compare(claim, worst, supports="measured", rtol=1e-5, bound=1.0)


def check_error_bound(claim: Claim, dossier: Dossier) -> Verdict:
    """The median of the stored bounds; that they are bounds is `render-error`."""
    return compare(claim, float(np.median(_probes(dossier)["bound"])), supports="measured", rtol=1e-9)


def check_partition(claim: Claim, dossier: Dossier) -> Verdict:
    """Weights and transmittances at the probes, each also against brute force."""
    probes = _probes(dossier)
    weight, left = probes["weight"].astype(float), probes["left"].astype(float)
    for number, index in enumerate(_judged(dossier.problem)):
        chosen = probes["photo"] == number
        column = _brute(dossier, index).pixels(
            probes["column"][chosen], probes["row"][chosen], dossier.answer.threshold, 1e-4
        )
        off = np.abs(column.left - left[chosen]) > ROUNDING
        if off.mean() > FLIPPED:
            return refute(claim, f"{off.sum()} of {len(off)} transmittances differ from brute force")
    return compare(claim, float(np.abs(weight + left - 1).max()), supports="measured", bound=1e-4, rtol=1e-9)


def check_order(claim: Claim, dossier: Dossier) -> Verdict:
    """Depth ranges of neighbouring contributors, by brute force."""
    probes, shares = _probes(dossier), []
    for number, index in enumerate(_judged(dossier.problem)):
        chosen = probes["photo"] == number
        column = _brute(dossier, index).pixels(
            probes["column"][chosen], probes["row"][chosen], dossier.answer.threshold
        )
        shares.append(column.ordered_share())
    return compare(claim, float(np.mean(shares)), supports="measured", rtol=1e-9)


def check_shape(claim: Claim, dossier: Dossier) -> Verdict:
    """log m / (z delta |edge|) by gift wrapping; the convexes must be those that were certified, in their order."""
    middles = np.asarray(dossier.answer.points, dtype=float).sum(axis=1) / dossier.answer.points.shape[1]
    stored = np.asarray(dossier.evidence["centroids.npz"]["centroids"])
    if stored.shape != middles.shape or not np.allclose(stored, middles, rtol=1e-9, atol=1e-12 * np.abs(middles).max()):
        return refute(claim, "the centroids are not those of the answer")
    erosion = _brute(dossier, _judged(dossier.problem)[0]).erosion()
    return compare(claim, float(np.median(erosion)) if len(erosion) else 0.0, supports="measured", rtol=1e-6)


def check_gradient(claim: Claim, dossier: Dossier) -> Verdict:
    """Central differences by brute force in every parameter of the chosen convexes, against the renderer's gradients."""
    probes, kept = _probes(dossier), {n: np.asarray(v) for n, v in dossier.evidence["gradient.npz"].items()}
    index, first = _judged(dossier.problem)[0], probes["photo"] == 0
    pixels = probes["column"][first], probes["row"][first]
    chosen, weights = kept["chosen"], kept["weights"].astype(float)
    if weights.shape != (int(first.sum()), 3) or len(np.unique(chosen)) != len(chosen):
        raise ValueError("gradient.npz holds other weights than there are probes, or a convex twice")
    if not all(np.isfinite(value).all() for value in kept.values()):
        raise ValueError("gradient.npz holds values that are not finite")
    brute = _brute(dossier, index)
    column = brute.pixels(*pixels, dossier.answer.threshold, 1e-4)
    seen = column.order[(column.alpha > 0).any(axis=1)]
    if len(chosen) < min(LEAST, len(seen)) or not np.isin(chosen, seen).all():
        raise ValueError("gradient.npz names too few convexes, or one that the probes do not show")
    exact = differences(
        dossier.answer, dossier.problem.views[index], dossier.problem.matrices[index], column, chosen, pixels, weights
    )  # fmt: skip
    size = np.ptp(np.asarray(dossier.answer.points, dtype=float)[chosen], axis=1).max(axis=1)  # makes points comparable
    apart, norm = {}, {}
    for name, value in exact.items():
        unit = size[:, None, None] if name == "points" else 1.0
        apart[name] = float(np.linalg.norm((kept[name].astype(float) - value) * unit))
        norm[name] = float(np.linalg.norm(value * unit))
    least = 1e-3 * float(np.hypot.reduce(list(norm.values())))
    value = max(apart[n] / max(norm[n], least) for n in exact) if least > 0 else 0.0
    return compare(claim, value, supports="measured", bound=0.02, rtol=0.05, atol=1e-7)


def _drawn(dossier: Dossier, before: Mapping[str, Any] | None = None) -> tuple[Array, Array, Array]:
    """PSNR and similarity of each draw of blocks, and the PSNR of `before`, sums of squared errors of each photo's blocks."""
    rng, found = np.random.default_rng(0), []
    for number, (index, image) in enumerate(judged_images(dossier)):
        photo, mask = dossier.problem.photos[index].astype(float), dossier.problem.masks[index]
        weight = np.ones(photo.shape[:2]) if mask is None else np.where(mask > 0, 1.0, 0.0)
        row, column = np.indices(photo.shape[:2]) // BLOCK
        place = (row * -(-photo.shape[1] // BLOCK) + column).ravel()
        tables = [weight, weight * ((image - photo) ** 2).sum(axis=2), weight * similarity(image, photo).mean(axis=2)]
        count, square, alike = (np.bincount(place, t.ravel()) for t in tables)
        often = np.zeros((DRAWS, len(count)))
        np.add.at(often, (np.arange(DRAWS)[:, None], rng.integers(0, len(count), often.shape)), 1.0)
        old = square if before is None else np.asarray(before[f"before_{number}"], dtype=float)
        if old.shape != count.shape or not np.isfinite(old).all() or (old < 0).any():
            raise ValueError(f"before_{number} is no table of {len(count)} sums of squares")
        pixels = np.maximum(often @ count, 1)
        close, was = (10 * np.log10(3 * pixels / np.maximum(often @ t, 1e-300)) for t in (square, old))
        found.append([close, often @ alike / pixels, was])
    close, alike, was = np.mean(found, axis=0)
    return close, alike, was


def _low(claim: Claim, values: Array) -> Verdict:
    return compare(claim, float(np.quantile(values, 0.025)), supports="measured", rtol=1e-8, atol=1e-9)


def check_psnr_low(claim: Claim, dossier: Dossier) -> Verdict:
    """The same draws of blocks, by how often each comes."""
    return _low(claim, _drawn(dossier)[0])


def check_ssim_low(claim: Claim, dossier: Dossier) -> Verdict:
    """As `check_psnr_low`, of similarities."""
    return _low(claim, _drawn(dossier)[1])


def check_gain(claim: Claim, dossier: Dossier) -> Verdict:
    """Draws of the differences; what the blocks' errors were before training is taken from the evidence."""
    before = dossier.evidence["blocks.npz"]
    if len(before) != len(_judged(dossier.problem)):
        return refute(claim, "blocks.npz holds other tables than there are judged photos")
    close, _, was = _drawn(dossier, before)
    return _low(claim, close - was)


CHECKS: Mapping[str, Check] = {
    "psnr": check_psnr,
    "ssim": check_ssim,
    "render-error": check_render_error,
    "error-bound": check_error_bound,
    "partition": check_partition,
    "order": check_order,
    "shape": check_shape,
    "gradient": check_gradient,
    "psnr-low": check_psnr_low,
    "ssim-low": check_ssim_low,
    "gain": check_gain,
    "lpips": check_lpips,
}
