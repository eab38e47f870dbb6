"""Claims about a trained scene: how well it shows photos that were held out, and how far its pictures are from the exact model's.

All are measured: of the held-out photos, each pixel; of the model, pixels that are rendered again by brute force.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from surefoot.core.certificate import Certificate, Claim
from surefoot.numerics.images import psnr, ssim_map
from surefoot.splatting.gradients import gradient_claim
from surefoot.splatting.intervals import interval_claims
from surefoot.splatting.problem import Capture, Trained
from surefoot.splatting.rasterize import Rendering, Settings
from surefoot.splatting.reach import Seen, see
from surefoot.splatting.reference import Contributions, hull_successors, shadows

CARD = "convex-splatting"
PROBES = 150  # pixels of all judged photos together
Array = np.ndarray[Any, np.dtype[Any]]


def parameters(scene: Trained, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The scene's tensors, as `model.render` takes them."""
    names = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
    return {name: torch.as_tensor(getattr(scene, name), dtype=dtype) for name in names}


def show(
    scene: Trained, view: Array, matrix: Array, size: tuple[int, int], bounding: bool = False, white: bool = False
) -> Rendering:
    """A scene from one camera, or from several ``(C, 4, 4)`` with one K."""
    from surefoot.splatting.model import render

    views = torch.from_numpy(view).reshape(-1, 4, 4)
    settings = Settings(threshold=scene.threshold, near=scene.near, focal=scene.focal)
    tensors, back = parameters(scene), torch.as_tensor(scene.background, dtype=torch.float32)
    if white:
        tensors["sh0"] = torch.full_like(tensors["sh0"], 0.5 / 0.28209479177387814)
        tensors["sh_rest"] = tensors["sh_rest"][:, :0]
        back = torch.zeros(3)
    with torch.no_grad():
        found, _ = render(
            tensors, views, torch.from_numpy(matrix).expand(len(views), 3, 3), size, settings, back,
            degree=0 if white else scene.sh_degree, bounding=bounding,
        )  # fmt: skip
    return found


def judged(problem: Capture) -> tuple[int, ...]:
    """The photos that claims are about: the held-out ones, or, where there are none, the first trained one."""
    return problem.test or problem.train[:1]


def certify_scene(
    problem: Capture, scene: Trained, seed: int = 0, before: Sequence[Array] | None = None, perceptual: bool = False
) -> Certificate:
    """All claims about `scene`.

    Args:
        before: squared errors of the judged photos' blocks as training started (`intervals.block_squares`), where they are known.
        perceptual: claim LPIPS, too.
    """
    places, images, bounds, lefts, weights = judged(problem), {}, [], [], []
    probes = _probes(problem, places, seed)
    with ThreadPoolExecutor(1) as beside:  # the reference needs one core, and frees the GIL
        by_reference = beside.submit(_exact, problem, scene, places, dict(probes))
        for number, index in enumerate(places):
            height, width = problem.photos[index].shape[:2]
            camera = (problem.views[index], problem.matrices[index], (width, height))
            found, white = show(scene, *camera, bounding=True), show(scene, *camera, white=True)
            images[f"image_{number}"] = found.image[0].numpy()
            row, column = (probes[name][probes["photo"] == number] for name in ("row", "column"))
            assert found.bound is not None
            bounds.append(found.bound[0].numpy()[row, column])
            lefts.append(found.transmittance[0].numpy()[row, column])
            weights.append(white.image[0, ..., 0].numpy()[row, column])
        similar, close = _similarity(problem, places, images)
        erosion = _erosion(problem, scene, places[0])
        exact, shares, sight = by_reference.result()
    probes |= {"bound": np.concatenate(bounds), "left": np.concatenate(lefts), "weight": np.concatenate(weights)}
    shown = np.stack(
        [images[f"image_{p}"][r, c] for p, r, c in zip(probes["photo"], probes["row"], probes["column"], strict=True)]
    )
    error = np.abs(exact - shown)
    kind = "held-out" if problem.test else "trained"
    evidence = {"renders.npz": images, "probes.npz": probes, "photo.npz": {"photo": problem.photos[places[0]]}}
    evidence["cameras.npz"] = {
        "views": problem.views[list(places)], "matrices": problem.matrices[list(places)],
        "sizes": np.array([problem.photos[i].shape[1::-1] for i in places]),
    }  # fmt: skip
    files = ("renders.npz", "probes.npz", "answer")
    seen = " that count" if any(problem.masks[i] is not None for i in places) else ""
    evidence["centroids.npz"] = {"centroids": scene.points.mean(axis=1, dtype=np.float64)}
    first = probes["photo"] == 0
    gradient, evidence["gradient.npz"] = gradient_claim(
        problem, scene, places[0], probes["row"][first], probes["column"][first], np.random.default_rng(seed + 1), sight
    )
    intervals, tables = interval_claims(
        list(images.values()), [problem.photos[i] for i in places], [problem.masks[i] for i in places], before, kind
    )
    if tables:
        evidence["blocks.npz"] = tables
    claims = [
        Claim(
            name="psnr", statement=f"Mean PSNR over the {kind} photos' pixels{seen}, in dB", value=close, relation=">=", kind="measured",
            check="psnr", evidence=("renders.npz", "photo.npz", "cameras.npz"),
        ),
        Claim(
            name="ssim", statement=f"Mean structural similarity over the {kind} photos' pixels{seen}", value=similar, relation=">=",
            kind="measured", check="ssim", evidence=("renders.npz",),
        ),
        Claim(
            name="render-error",
            statement=f"Largest ratio of the error (against the exact model in float64) to its bound, at {len(error)} pixels",
            value=float((error / probes["bound"]).max()), relation="<=", bound=1.0, kind="measured",
            outcome="holds" if (error <= probes["bound"]).all() else "fails", check="render-error", evidence=files,
        ),
        Claim(
            name="error-bound", statement="Median of the error bound at these pixels, in grey levels of 1",
            value=float(np.median(probes["bound"])), relation="<=", kind="measured", check="error-bound", evidence=files,
        ),
        Claim(
            name="partition", statement="Largest difference of weights plus transmittance from 1",
            value=float(np.abs(probes["weight"].astype(float) + probes["left"] - 1).max()), relation="<=", bound=1e-4, kind="measured",
            check="partition", evidence=files,
        ),
        Claim(
            name="order", statement="Share of the weight whose neighbours in depth do not overlap, so that sorting by centroids is right",
            value=shares, relation=">=", kind="measured", check="order", evidence=files,
        ),
        Claim(
            name="shape",
            statement="Median over convexes of the largest distance (pixels) between a hull's edge and the half level within it, at most",
            value=erosion, relation=">=", kind="measured", check="shape", evidence=("answer", "centroids.npz"),
        ),
        gradient,
        *intervals,
        *([_perceptual(problem, places, images, kind)] if perceptual else []),
    ]  # fmt: skip
    return Certificate(CARD, tuple(claims), problem.fingerprint(), evidence)


def _probes(problem: Capture, places: tuple[int, ...], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    each = max(1, PROBES // len(places))
    tables = []
    for number, index in enumerate(places):
        height, width = problem.photos[index].shape[:2]
        chosen = rng.choice(height * width, min(each, height * width), replace=False)
        tables.append(np.stack([np.full(len(chosen), number), chosen // width, chosen % width]))
    photo, row, column = np.concatenate(tables, axis=1).astype(np.int64)
    return {"photo": photo, "row": row, "column": column}


def _exact(
    problem: Capture, scene: Trained, places: tuple[int, ...], probes: dict[str, Array]
) -> tuple[Array, float, Seen]:
    """The exact model at the probes by the reference, the share of weight in provable order, and what the first photo's probes see."""
    from surefoot.splatting.harmonics import shade

    double = torch.float64
    whole = parameters(scene, double)
    back = torch.as_tensor(scene.background, dtype=double)
    found = np.zeros((len(probes["photo"]), 3))
    share, sights = [], []
    for number, index in enumerate(places):
        chosen = probes["photo"] == number
        view, matrix = torch.from_numpy(problem.views[index]), torch.from_numpy(problem.matrices[index])
        pixels = torch.from_numpy(np.stack([probes["column"][chosen], probes["row"][chosen]], axis=1)).double()
        seen = see(whole, scene, view, matrix, pixels)
        p = {name: whole[name][seen.rows[seen.exact.order]] for name in ("points", "sh0", "sh_rest")}
        colors = shade(p["points"], p["sh0"], p["sh_rest"], scene.sh_degree, view[None])
        colors = colors if colors.ndim == 2 else colors[0]
        left = seen.exact.in_front
        found[chosen] = ((seen.exact.alpha * left[:-1]).T @ colors + left[-1][:, None] * back).numpy()
        share.append(_ordered(seen.ruled(scene.threshold)))
        sights = sights or [seen]
    return found, float(np.mean(share)), sights[0]


def _ordered(seen: Contributions) -> float:
    """Share of the weight alpha T of contributors whose depth range meets neither neighbour's in their pixel."""
    nearest, farthest = seen.depths.amin(dim=1), seen.depths.amax(dim=1)
    weight = seen.alpha * seen.in_front[:-1]
    apart = 0.0
    for column in weight.T:
        places = column.nonzero()[:, 0]
        gap = farthest[places[:-1]] <= nearest[places[1:]]
        edge = torch.ones(min(1, len(places)), dtype=torch.bool)
        fine = torch.cat([edge, gap]) & torch.cat([gap, edge])
        apart += float(column[places][fine].sum())
    total = float(weight.sum())
    return apart / total if total > 0 else 1.0


def _similarity(problem: Capture, places: tuple[int, ...], images: dict[str, Array]) -> tuple[float, float]:
    similar, close = [], []
    for number, index in enumerate(places):
        image, photo = (
            torch.from_numpy(images[f"image_{number}"]).double(),
            torch.from_numpy(problem.photos[index]).double(),
        )
        mask = problem.masks[index]
        chosen = torch.ones(image.shape[:2], dtype=torch.bool) if mask is None else torch.from_numpy(mask) > 0
        similar.append(float(ssim_map(image, photo)[chosen].mean()))
        close.append(psnr(image[chosen], photo[chosen]))
    return float(np.mean(similar)), float(np.mean(close))


def _perceptual(problem: Capture, places: tuple[int, ...], images: dict[str, Array], kind: str) -> Claim:
    """Mean LPIPS; pixels that do not count are black in both pictures."""
    from surefoot.data.lpips_weights import find_weights, read_weights
    from surefoot.splatting.perceptual import lpips

    weights, values = read_weights(*find_weights()), []
    for number, index in enumerate(places):
        mask = problem.masks[index]
        counted = 1.0 if mask is None else torch.from_numpy(mask)[..., None] > 0
        pair = (images[f"image_{number}"].clip(0, 1), problem.photos[index])
        shown, photo = (torch.from_numpy(p) * counted for p in pair)
        values.append(lpips(shown, photo, weights))
    return Claim(
        name="lpips", statement=f"Mean LPIPS (VGG-16, version 0.1) of the {kind} photos", value=float(np.mean(values)), relation="<=",
        kind="measured", check="lpips", evidence=("renders.npz",),
    )  # fmt: skip


def _erosion(problem: Capture, scene: Trained, index: int) -> float:
    """log m / (z delta |edge|) for the shortest edge, the median over convexes before the camera."""
    p = parameters(scene, torch.float64)
    matrix = torch.from_numpy(problem.matrices[index])
    delta = p["log_delta"].exp() * scene.focal**2 / (matrix[0, 0] * matrix[1, 1])
    found = []
    for rows, shown in shadows(p["points"], torch.from_numpy(problem.views[index]), matrix, scene.near):
        following = hull_successors(shown.corners)
        ends = torch.gather(shown.corners, 1, following.clamp(min=0)[..., None].expand_as(shown.corners))
        used = following >= 0
        length = torch.where(used, (ends - shown.corners).norm(dim=-1), torch.inf).amin(dim=1)
        many = used.sum(dim=1)
        found.append((torch.log(many.double()) / (shown.depth * delta[rows] * length))[many >= 3])
    erosion = torch.cat(found).numpy()
    return float(np.median(erosion)) if len(erosion) else 0.0
