"""The renderer's gradient at a trained scene, beside the exact one: what the claim `gradient` rests on.

With everything else held, a pixel's colour is affine in one convex's alpha and colour,

    C = in front + T (alpha c + (1 - alpha) B),      dC = T (alpha dc + (c - B) dalpha),

T the transmittance in front of the convex and B what the pixel shows behind it. So the exact derivative of some chosen convexes needs
the whole scene once, and then alpha and c of those convexes alone, in float64.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Claim
from surefoot.splatting.harmonics import shade
from surefoot.splatting.model import render
from surefoot.splatting.problem import Capture, Trained
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.reach import Seen, see, transmittances
from surefoot.splatting.reference import CLAMP, Contributions, visible

__all__ = ["STOP", "gradient_claim"]

CHOSEN = 24  # convexes
STOP = 1e-4
MOST = 0.02  # relative difference that the claim allows: float32 at edges a thousandth of a pixel wide reaches 0.005
NAMES = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
Array = np.ndarray[Any, np.dtype[Any]]


def gradient_claim(
    problem: Capture,
    scene: Trained,
    index: int,
    rows: Array,
    columns: Array,
    rng: np.random.Generator,
    sight: Seen | None = None,
) -> tuple[Claim, dict[str, Array]]:
    """The claim, and its evidence: weights ``(Q, 3)`` of the pixels, the convexes that were chosen ``(M,)``, the renderer's gradients.

    f = sum_q weight_q C_q at pixels ``(Q,)`` of photo `index`; chosen are convexes that these pixels show. `sight` is what they see, where
    that is known already.
    """
    weights = rng.normal(size=(len(rows), 3))
    tensors = {name: torch.as_tensor(getattr(scene, name), dtype=torch.float64) for name in NAMES}
    view, matrix = torch.from_numpy(problem.views[index]), torch.from_numpy(problem.matrices[index])
    pixels = torch.from_numpy(np.stack([columns, rows], axis=1)).double()
    found_there = see(tensors, scene, view, matrix, pixels) if sight is None else sight
    tensors = {name: value[found_there.rows] for name, value in tensors.items()}
    seen = found_there.ruled(scene.threshold, STOP)
    places = _choose(seen, torch.sigmoid(tensors["opacity_logit"]), rng)
    chosen = seen.order[torch.from_numpy(places)]
    colors = shade(tensors["points"], tensors["sh0"], tensors["sh_rest"], scene.sh_degree, view[None])
    colors = (colors if colors.ndim == 2 else colors[0])[seen.order]
    back = torch.as_tensor(scene.background, dtype=torch.float64)
    in_front, behind = seen.in_front[torch.from_numpy(places)], []
    there = back.expand(len(rows), 3)
    for place, following in reversed(list(itertools.pairwise([*places.tolist(), len(seen.alpha) - 1]))):
        layers = slice(place + 1, following + 1)  # what lies between this one and the next, that one included
        left = transmittances(seen.alpha[layers])
        there = (seen.alpha[layers] * left[:-1]).T @ colors[layers] + left[-1][:, None] * there
        behind.insert(0, there)
    counted = (seen.alpha > 0)[torch.from_numpy(places)]
    weight = torch.from_numpy(weights)
    exact = _exact(scene, tensors, chosen, view, matrix, pixels, weight, in_front, behind, counted)
    found = _rendered(problem, scene, index, rows, columns, weight)
    chosen = found_there.rows[chosen]
    evidence = {"weights": weights, "chosen": chosen.numpy(), **{n: found[n][chosen].numpy() for n in NAMES}}
    value = residual(
        {n: evidence[n].astype(float) for n in NAMES}, {n: exact[n].numpy() for n in NAMES}, scene.points[evidence["chosen"]]
    )  # fmt: skip
    claim = Claim(
        name="gradient",
        statement=f"Largest relative difference, over kinds of parameters that matter, of the renderer's gradient from the exact one: "
        f"{len(places)} convexes, {len(rows)} pixels at random weights",
        value=value, relation="<=", bound=MOST, kind="measured", outcome="holds" if value <= MOST else "fails", check="gradient",
        evidence=("gradient.npz", "probes.npz", "answer"),
    )  # fmt: skip
    return claim, evidence


def residual(found: dict[str, Array], exact: dict[str, Array], points: Array) -> float:
    """Largest |found - exact| / |exact| over the kinds of parameters; a kind that is less than a thousandth of all counts as that.

    Points ``(M, K, 3)`` are measured in sizes of their convex, the rest in logarithms and coefficients, so that all are comparable.
    """
    size = np.ptp(np.asarray(points, dtype=float), axis=1).max(axis=1)[:, None, None]
    scale = {name: size if name == "points" else 1.0 for name in exact}
    norms = {name: float(np.linalg.norm(value * scale[name])) for name, value in exact.items()}
    least = 1e-3 * math.sqrt(sum(n * n for n in norms.values()))
    if not least > 0:
        return 0.0
    return max(float(np.linalg.norm((found[n] - exact[n]) * scale[n])) / max(norms[n], least) for n in exact)


def _choose(seen: Contributions, opacity: Tensor, rng: np.random.Generator) -> Array:
    """Places of convexes that the pixels show: half at random, half those whose borders matter most (sharp ones rarely cross a pixel)."""
    shown = np.flatnonzero((seen.alpha > 0).any(dim=1).numpy())
    inside = seen.alpha / opacity[seen.order][:, None]
    border = (inside * (1 - inside) * seen.in_front[:-1] * (seen.alpha < CLAMP)).amax(dim=1).numpy()[shown]
    first = shown[np.argsort(-border, kind="stable")[: CHOSEN // 2]]
    rest = np.setdiff1d(shown, first)
    return np.sort(np.concatenate([first, rng.choice(rest, min(CHOSEN - len(first), len(rest)), replace=False)]))


def _exact(
    scene: Trained, tensors: dict[str, Tensor], chosen: Tensor, view: Tensor, matrix: Tensor, pixels: Tensor, weight: Tensor,
    in_front: Tensor, behind: list[Tensor], counted: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    leaves = {name: tensors[name][chosen].clone().requires_grad_() for name in NAMES}
    delta = leaves["log_delta"].exp() * scene.focal**2 / (matrix[0, 0] * matrix[1, 1])
    _, inside, _, _ = visible(leaves["points"], delta, leaves["log_sigma"].exp(), view, matrix, pixels, scene.near)
    alpha = (torch.sigmoid(leaves["opacity_logit"])[:, None] * inside).clamp(max=CLAMP) * counted
    colors = shade(leaves["points"], leaves["sh0"], leaves["sh_rest"], scene.sh_degree, view[None])
    colors = colors if colors.ndim == 2 else colors[0]
    if len(chosen):
        layer = alpha[..., None] * (colors[:, None] - torch.stack(behind))
        (in_front[..., None] * layer * weight).sum().backward()
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def _rendered(
    problem: Capture, scene: Trained, index: int, rows: Array, columns: Array, weight: Tensor
) -> dict[str, Tensor]:
    height, width = problem.photos[index].shape[:2]
    leaves = {n: torch.as_tensor(getattr(scene, n), dtype=torch.float32).clone().requires_grad_() for n in NAMES}
    settings = Settings(threshold=scene.threshold, stop=STOP, near=scene.near, focal=scene.focal)
    found, _ = render(
        leaves, torch.from_numpy(problem.views[index])[None], torch.from_numpy(problem.matrices[index])[None], (width, height), settings,
        torch.as_tensor(scene.background, dtype=torch.float32), degree=scene.sh_degree,
    )  # fmt: skip
    (found.image[0][rows, columns] * weight.float()).sum().backward()
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
