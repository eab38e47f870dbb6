"""One picture drawn by smooth convexes in the plane: the same primitives without a scene behind them.

The picture is the plane z = 1 before one camera, so that the renderer, its gradients and the certificate are those of a scene; a convex
covers those that come after it in the list. Convexes join in rounds, each time where the picture is still wrong (drawn with a chance
that grows with the squared error around a pixel) and in front of those that are there. Adam lowers

    L = mean (C - C*)^2                                                        (whose logarithm is the PSNR)

over corners (in pixels), smoothness, sharpness, opacity and colour.

References:
    Held et al., "3D Convex Splatting" (2025), section 3 and the figure that fits simple shapes with one primitive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State
from surefoot.core.random import Streams
from surefoot.core.solve import Result, solve
from surefoot.splatting.harmonics import SH0
from surefoot.splatting.model import keep, render
from surefoot.splatting.problem import Capture, Picture, Trained
from surefoot.splatting.rasterize import Rendering, Settings

__all__ = ["PictureState", "VectorisePicture", "vectorise"]

BETAS, EPSILON = (0.9, 0.99), 1e-12
NAMES = ("corners", "log_delta", "log_sigma", "opacity_logit", "sh0")
NEAR = 0.2
LEVEL, SHARP = 4.0, 1.0  # at the middle of a first convex: -z delta max_k d_k, and sigma
FAINT = 0.02  # opacity below which a convex makes room for another
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(kw_only=True)
class PictureState(State):
    """Corners ``(N, K, 2)`` in pixels with the other parameters, and Adam's moments; N grows."""

    parameters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    born: Tensor
    loss: float = math.inf


@dataclass(frozen=True)
class VectorisePicture(Method[Picture, PictureState, Trained]):
    """Fit convexes to one picture.

    Attributes:
        horizon: steps.
        shapes: convexes in the end.
        corners: K.
        rounds: how often convexes join, in the first `growth` of the steps; each round doubles their number.
        opacity: of a new convex.
        corner_rate, ...: step lengths of Adam (the corners' in pixels); all fall to a hundredth from `growth` to the end.
        settings: of the renderer.
    """

    horizon: int = 1000  # pyright: ignore[reportIncompatibleVariableOverride]
    shapes: int = 400
    corners: int = 6
    rounds: int = 5
    growth: float = 0.5
    opacity: float = 0.7
    corner_rate: float = 0.3
    delta_rate: float = 0.03
    sigma_rate: float = 0.03
    opacity_rate: float = 0.03
    color_rate: float = 0.02
    settings: Settings = field(default_factory=Settings)
    block: int = 10
    seed_evidence: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.corners <= 16:
            raise ValueError(f"corners is {self.corners}; expected 3 to 16")
        if self.horizon < 1 or self.shapes < 1 or self.rounds < 1:
            raise ValueError(
                f"horizon {self.horizon}, shapes {self.shapes}, rounds {self.rounds}; expected at least 1 each"
            )
        if not 0 < self.opacity < 1 or not 0 <= self.growth < 1:
            raise ValueError(f"opacity {self.opacity}, growth {self.growth}; expected (0, 1) and [0, 1)")

    # ---- the five verbs -------------------------------------------------------------------------------------
    def init(self, problem: Picture, start: Trained | None, streams: Streams) -> PictureState:
        if start is not None:
            parameters = self._from_plane(problem, start)
            zeros = [{n: torch.zeros_like(p) for n, p in parameters.items()} for _ in range(2)]
            born = torch.zeros(len(parameters["sh0"]))
            return PictureState(streams=streams, parameters=parameters, first=zeros[0], second=zeros[1], born=born)
        empty = {
            "corners": torch.zeros(0, self.corners, 2), "log_delta": torch.zeros(0), "log_sigma": torch.zeros(0),
            "opacity_logit": torch.zeros(0), "sh0": torch.zeros(0, 3),
        }  # fmt: skip
        moments = [dict(empty) for _ in range(2)]
        return PictureState(streams=streams, parameters=empty, first=moments[0], second=moments[1], born=torch.zeros(0))

    def step(self, problem: Picture, state: PictureState) -> PictureState:
        for _ in range(state.room(self.block)):
            if (wanted := self._schedule(state.k)) > 0:
                self._join(problem, state, wanted)
            self._descend(problem, state)
            state.k += 1
        return state

    def look(self, state: PictureState) -> Look:
        close = -10 * math.log10(state.loss) if 0 < state.loss < math.inf else 0.0
        return Look({"loss": state.loss, "photo_psnr": close, "convexes": float(len(state.born))})

    def answer(self, problem: Picture, state: PictureState) -> Trained:
        """The convexes in the plane z = 1, nearest (that is, first) in front."""
        p = {name: value.detach() for name, value in state.parameters.items()}
        return Trained(
            _lifted(problem, p["corners"].double()).float().numpy(), p["log_delta"].numpy(), p["log_sigma"].numpy(),
            p["opacity_logit"].numpy(), p["sh0"].numpy(), np.zeros((len(p["sh0"]), 0, 3), dtype=np.float32), problem.focal, NEAR,
            np.asarray(problem.background, dtype=np.float32), self.settings.threshold,
        )  # fmt: skip

    def certify(self, problem: Picture, state: PictureState) -> Certificate:
        from surefoot.splatting.certify import certify_scene

        return certify_scene(problem, self.answer(problem, state), self.seed_evidence)

    # ---- one step -------------------------------------------------------------------------------------------
    def _schedule(self, k: int) -> int:
        """How many convexes there shall be from step k on, where a round begins at k; else 0."""
        rounds = min(self.rounds, 1 + int(math.log2(self.shapes)))
        for number in range(rounds):
            if k == int(self.growth * self.horizon * number / rounds):
                return max(1, round(self.shapes / 2 ** (rounds - 1 - number)))
        return 0

    def _show(self, problem: Picture, parameters: dict[str, Tensor]) -> Rendering:
        from dataclasses import replace

        height, width = problem.photos[0].shape[:2]
        tensors = {name: parameters[name] for name in NAMES[1:]}
        tensors["points"] = _lifted(problem, parameters["corners"])
        tensors["sh_rest"] = torch.zeros(len(parameters["sh0"]), 0, 3)
        back = torch.tensor(problem.background, dtype=torch.float32)
        view, matrix = torch.from_numpy(problem.views), torch.from_numpy(problem.matrices)
        settings = replace(self.settings, near=NEAR, focal=problem.focal)
        return render(tensors, view, matrix, (width, height), settings, back, degree=0)[0]

    def _descend(self, problem: Picture, state: PictureState) -> None:
        leaves = {name: state.parameters[name].detach().requires_grad_() for name in NAMES}
        target = torch.from_numpy(problem.photos[0])
        loss = (self._show(problem, leaves).image[0] - target).square().mean()
        loss.backward()
        state.loss = float(loss.detach())
        late = (state.k / self.horizon - self.growth) / (1 - self.growth)
        fall = 0.01 ** max(0.0, late)
        rates = dict(
            zip(
                NAMES,
                (self.corner_rate, self.delta_rate, self.sigma_rate, self.opacity_rate, self.color_rate),
                strict=True,
            )
        )
        with torch.no_grad():
            state.born += 1
            for name in NAMES:
                gradient = leaves[name].grad
                assert gradient is not None
                age = state.born.view(-1, *(1,) * (gradient.ndim - 1))
                first, second = state.first[name], state.second[name]
                first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                scale = (second / (1 - BETAS[1] ** age)).sqrt_().add_(EPSILON)
                step = first / (1 - BETAS[0] ** age) / scale
                state.parameters[name] = leaves[name].detach().sub_(step, alpha=fall * rates[name])
        state.count(gradient=1)

    # ---- convexes that join ---------------------------------------------------------------------------------
    def _join(self, problem: Picture, state: PictureState, wanted: int) -> None:
        """Fill up to `wanted` convexes, in front; those that can no longer be seen make room."""
        with torch.no_grad():
            found = self._show(problem, state.parameters)
            kept = torch.sigmoid(state.parameters["opacity_logit"]) >= FAINT
            kept &= found.status[0] == 0
            number = wanted - int(kept.sum())
            if number <= 0:
                return
            picture = torch.from_numpy(problem.photos[0])
            height, width = picture.shape[:2]
            radius = 0.6 * math.sqrt(height * width / wanted)
            wrong = (found.image[0] - picture).square().sum(dim=-1)
            chance = _averaged(wrong, max(1, round(radius / 2))).flatten().double().numpy() + 1e-9
            rng = state.streams.numpy("places", state.k)
            places = _spread(rng, chance / chance.sum(), (height, width), number, 0.7 * radius)
            fresh = self._new(problem, places, radius, rng)
            tables = keep([state.parameters, state.first, state.second], kept)
            zeros = {name: torch.zeros_like(value) for name, value in fresh.items()}
            joined = [{n: torch.cat([add[n], t[n]]) for n in NAMES} for t, add in zip(tables, (fresh, zeros, zeros), strict=True)]  # fmt: skip
            state.parameters, state.first, state.second = joined
            state.born = torch.cat([torch.zeros(len(places)), state.born[kept]])

    def _new(self, problem: Picture, places: Array, radius: float, rng: np.random.Generator) -> dict[str, Tensor]:
        """Regular polygons, each turned at random, of the colour that is there."""
        number, many = len(places), self.corners
        angle = 2 * np.pi * (rng.random((number, 1)) + np.arange(many) / many)
        ring = radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        edge, apothem = 2 * radius * math.sin(math.pi / many), radius * math.cos(math.pi / many)
        shades = problem.photos[0][places[:, 0], places[:, 1]]

        def tensor(values: Any) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(values), dtype=torch.float32)

        return {
            "corners": tensor(places[:, None, ::-1] + ring),
            "log_delta": torch.full((number,), math.log(LEVEL / (edge * apothem))),
            "log_sigma": torch.full((number,), math.log(SHARP)),
            "opacity_logit": torch.full((number,), math.log(self.opacity / (1 - self.opacity))),
            "sh0": tensor((shades - 0.5) / SH0),
        }

    def _from_plane(self, problem: Picture, scene: Trained) -> dict[str, Tensor]:
        points = torch.from_numpy(np.asarray(scene.points, dtype=float))
        if float((points[..., 2] - 1).abs().max()) > 1e-6:
            raise ValueError("the convexes to start from do not lie in the plane z = 1; expected those of a picture")
        matrix = torch.from_numpy(problem.matrices[0])
        corners = points[..., :2] * matrix.diagonal()[:2] + matrix[:2, 2] - 0.5
        tables = (scene.log_delta, scene.log_sigma, scene.opacity_logit, scene.sh0)
        return {"corners": corners.float()} | {n: torch.tensor(t) for n, t in zip(NAMES[1:], tables, strict=True)}


def _lifted(problem: Capture, corners: Tensor) -> Tensor:
    """Pixels ``(..., 2)`` as points of the plane z = 1, ``(..., 3)``."""
    matrix = torch.from_numpy(problem.matrices[0])
    plane = (corners + 0.5 - matrix[:2, 2].to(corners)) / matrix.diagonal()[:2].to(corners)
    return torch.cat([plane, torch.ones_like(plane[..., :1])], dim=-1)


def _averaged(image: Tensor, half: int) -> Tensor:
    """Means over squares of 2 half + 1 pixels."""
    side = 2 * half + 1
    return torch.nn.functional.avg_pool2d(image[None, None], side, 1, half, count_include_pad=False)[0, 0]


def _spread(rng: np.random.Generator, chance: Array, size: tuple[int, int], number: int, apart: float) -> Array:
    """`number` pixels (row, column) drawn by their chance, at least `apart` from one another while there is room."""
    drawn = rng.choice(len(chance), min(len(chance), 8 * number), replace=False, p=chance)
    rows, columns = drawn // size[1], drawn % size[1]
    chosen: list[int] = []
    while len(chosen) < min(number, len(drawn)):
        for i in range(len(drawn)):
            if len(chosen) == number:
                break
            near = np.hypot(rows[chosen] - rows[i], columns[chosen] - columns[i]) if chosen else np.array([np.inf])
            if near.min() >= apart and i not in chosen:
                chosen.append(i)
        apart *= 0.7
        if apart < 0.5:
            rest = [i for i in range(len(drawn)) if i not in set(chosen)]
            chosen += rest[: number - len(chosen)]
    return np.stack([rows[chosen], columns[chosen]], axis=1)


def vectorise(image: Any, shapes: int = 400, *, steps: int = 1000, seed: int = 0, **options: Any) -> Result[Trained]:
    """Draw a picture with smooth convexes.

    Args:
        image: ``(height, width, 3)`` or ``(height, width)``, floating point in [0, 1] or 8-bit.
        shapes: how many convexes.
        steps: of Adam.
        options: further fields of `VectorisePicture`.

    Returns:
        the result; its answer's convexes lie in the plane z = 1 (`certify.show` renders them, `exchange` writes them).

    Raises:
        ValueError: an image of another shape or range.

    Example:
        >>> from skimage.data import astronaut
        >>> found = vectorise(astronaut()[::4, ::4], shapes=200, steps=300)  # doctest: +SKIP
    """
    return solve(Picture.of(image), VectorisePicture(horizon=steps, shapes=shapes, **options), seed=seed)
