"""Training: one photo a step, Adam on all parameters; convexes split where sharpness pulls, and go where they are not seen.

L = 0.8 mean |C - C*| + 0.2 (1 - SSIM) + 5e-4 mean sigmoid(mu)                                                  (eq. 6)

What differs from the paper unless ``rule="threshold"`` and ``compat="paper"``: which convexes split is a share of them (the paper's
threshold depends on the size of the photos and of the world), delta holds at a focal length, the world is scaled to the unit that the
step sizes are made for, and the renderer's corrections.

References:
    Held et al., "3D Convex Splatting" (2025), section 3.4, section 4 and supplement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State
from surefoot.core.random import Streams
from surefoot.numerics.images import psnr, ssim
from surefoot.splatting.light import halved
from surefoot.splatting.model import NAMES, keep, render, spacing_of, split, start_parameters
from surefoot.splatting.problem import Capture, Trained
from surefoot.splatting.rasterize import Settings
from surefoot.splatting.sweep import fill_points

__all__ = ["TrainConvexes", "TrainState"]

BETAS, EPSILON = (0.9, 0.999), 1e-15
NEAR = 0.2  # training units
DULL = 0.2  # what an opacity is reset to
FIRST = {  # sigma, opacity, delta, size of the first convexes
    "ball": (0.00095, 0.1, 0.1, 1.2),  # as published: soft and wide, so that sparse points find what lies between them
    "sharp": (0.02, 0.5, 0.5, 1.2),  # balls with hard edges, for plain solids
    "facing": (2.0, 0.95, 4.0, 1.0),  # a picture's pixels, with edges soft enough to be seen by the gradient
}


@dataclass(kw_only=True)
class TrainState(State):
    """Parameters, Adam's moments, and the statistics since the last split (numbers of convexes vary)."""

    parameters: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    slope: Tensor
    seen: Tensor
    exposure: Tensor
    exposure_first: Tensor
    exposure_second: Tensor
    before: list[Tensor]
    loss: float = math.inf
    shown: float = 0.0
    judged: float = 0.0
    degenerate: int = 0
    steepness: float = 0.0


@dataclass(frozen=True)
class TrainConvexes(Method[Capture, TrainState, Trained]):
    """Fit convexes to photos.

    Attributes:
        horizon: steps.
        corners: K.
        degree: of the spherical harmonics; one more every `degree_every` steps.
        start: "ball" spreads a first convex's points over a ball, as published; "facing" makes it a regular polygon that faces the
            nearest training camera, for points that lie as densely as the photos' pixels; "sharp" is a ball with hard edges. "auto" faces where the capture knows the
            spacing of its points (depth maps), and is sharp for plain solids (generated scenes).
        sigma, opacity, delta, size: the first ones (size in spacings of the points); 0 takes `FIRST`. Delta is times the spacing; with
            "facing" sigma and delta are what the nearest camera sees: z sigma, and z delta times a spacing's area in pixels, whatever
            the world's scale.
        fill: where the sparse points leave a cell of so many pixels of a training photo empty, it gets a point whose depth a sweep finds
            (`sweep`); 0 leaves them.
        points_rate, ...: step lengths of Adam; the points' falls to a hundredth over the horizon. `rate` multiplies all.
        rule: "share" splits the `split_share` with the largest |dL/dsigma| (none below the published threshold's sign is needed);
            "threshold" splits those whose signed mean exceeds `split_threshold`, as published.
        split_every, split_from, split_until: steps; between them convexes split.
        most: no split that would make more convexes.
        split_scale, split_exponent: size and sharpness of the children.
        least_opacity, mask_threshold, largest: what is pruned (largest: times the cameras' extent, where they move).
        reset_every: steps between resets of the opacity to at most 0.2; 0 never.
        cool: what is left at the end of all step lengths but the points', which fall from `split_until` on; 1 leaves them.
        drop: share of the convexes that a step leaves out at the end of training (from none at its start, as a line); the others are
            shown 1 / (1 - share) times as opaque (at most 0.99), so that no view hangs on few of them.
        exposure: each training photo has an affine map of colours of its own, whose mean over these photos is the identity; photos that are
            judged are shown without one.
        random_background: another colour behind everything at each step, so that nothing is left open.
        threshold_first, threshold_until: contributions below `threshold_first` are not rendered at first; it falls to the settings'
            threshold over so many steps (geometrically). 0 starts there.
        answer_threshold: the answer is shown, and judged, without contributions below it: its error bound falls with it. 0, or a larger one
            than the settings' own, takes that.
        light: store the answer in half precision.
        judge_every: steps between looks at the held-out photos.
        lpips: claim LPIPS of the judged photos (`perceptual`; its weights must be on this machine).
        full_gradients: tell the norm of the full gradient (`full_gradient`) of the start and, from the last step on, of the end.
    """

    horizon: int = 1000  # pyright: ignore[reportIncompatibleVariableOverride]
    corners: int = 6
    degree: int = 0
    degree_every: int = 1000
    start: Literal["auto", "ball", "sharp", "facing"] = "auto"
    sigma: float = 0.0
    opacity: float = 0.0
    delta: float = 0.0
    size: float = 0.0
    fill: int = 0
    points_rate: float = 5e-4
    delta_rate: float = 0.005
    sigma_rate: float = 0.0045
    opacity_rate: float = 0.01
    color_rate: float = 0.0025
    mask_rate: float = 0.01
    rate: float = 1.0
    rule: Literal["share", "threshold"] = "share"
    split_share: float = 0.06
    split_threshold: float = 2.5e-5
    split_every: int = 200
    split_from: int = 500
    split_until: int = 9000
    most: int = 1_000_000
    split_scale: float = 0.63
    split_exponent: float = 0.88
    least_opacity: float = 0.03
    mask_threshold: float = 0.01
    largest: float = 0.3
    reset_every: int = 3000
    cool: float = 1.0
    drop: float = 0.0
    exposure: bool = False
    exposure_rate: float = 0.001
    random_background: bool = False
    threshold_first: float = 0.0
    threshold_until: int = 0
    answer_threshold: float = 0.0
    structure_weight: float = 0.2
    mask_weight: float = 5e-4
    settings: Settings = field(default_factory=Settings)
    light: bool = False
    judge_every: int = 50
    lpips: bool = False
    full_gradients: bool = False
    block: int = 10
    seed_evidence: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.corners <= 16:
            raise ValueError(f"corners is {self.corners}; expected 3 to 16")
        if not 0 <= self.degree <= 3:
            raise ValueError(f"degree is {self.degree}; expected 0 to 3")
        if self.horizon < 1 or self.split_every < 1 or self.judge_every < 1 or self.fill < 0:
            raise ValueError("horizon, split_every and judge_every must be at least 1, fill at least 0")
        if not 0 < self.split_share <= 1 or not 0 <= self.opacity < 1 or min(self.sigma, self.delta, self.size) < 0:
            raise ValueError(
                "expected split_share and opacity in (0, 1), sigma, delta and size positive (or 0, the start's own)"
            )
        if not 0 <= self.answer_threshold < 1:
            raise ValueError(f"answer_threshold is {self.answer_threshold}; expected 0 to 1")
        if not 0 < self.cool <= 1 or not 0 <= self.drop < 1 or not 0 <= self.threshold_first < 1:
            raise ValueError(
                f"cool is {self.cool}, drop {self.drop}, threshold_first {self.threshold_first}; expected (0, 1], [0, 1) and [0, 1)"
            )

    # ---- the five verbs -------------------------------------------------------------------------------------
    def init(self, problem: Capture, start: Trained | None, streams: Streams) -> TrainState:
        parameters = self._first(problem) if start is None else self._from_world(problem, start)
        number, photos = len(parameters["points"]), len(problem.photos)
        zeros = [{n: torch.zeros_like(p) for n, p in parameters.items()} for _ in range(2)]
        state = TrainState(
            streams=streams, parameters=parameters, first=zeros[0], second=zeros[1], slope=torch.zeros(number), seen=torch.zeros(number),
            exposure=torch.eye(3, 4).repeat(photos, 1, 1), exposure_first=torch.zeros(photos, 3, 4), exposure_second=torch.zeros(photos, 3, 4),
            before=[],
        )  # fmt: skip
        from surefoot.splatting.intervals import block_squares

        found = []
        for index in problem.test or problem.train[:1]:
            image = self.shown(problem, state, index)
            squares = block_squares(image.numpy(), problem.photos[index], problem.masks[index])
            state.before.append(torch.from_numpy(squares))
            found.append(masked_psnr(image, torch.from_numpy(problem.photos[index]), problem.masks[index]))
        state.judged = float(np.mean(found)) if problem.test else math.inf
        if self.full_gradients:
            state.steepness = self.full_gradient(problem, state)
        return state

    def step(self, problem: Capture, state: TrainState) -> TrainState:
        for _ in range(state.room(self.block)):
            self._photo(problem, state)
            state.k += 1
            self._densify(problem, state)
            if state.k % self.judge_every == 0 or state.k == self.horizon:
                state.judged = self._judge(problem, state)
            if self.full_gradients and state.k == self.horizon:
                state.steepness = self.full_gradient(problem, state)
        return state

    def look(self, state: TrainState) -> Look:
        row = {"loss": state.loss, "photo_psnr": state.shown, "convexes": float(len(state.slope))}
        if math.isfinite(state.judged):
            row["held_out_psnr"] = state.judged
        if self.full_gradients:
            row["full_gradient"] = state.steepness
        return Look(row)

    def answer(self, problem: Capture, state: TrainState) -> Trained:
        """In world units, float32; convexes that the mask removes are left out."""
        p = {name: value.detach() for name, value in state.parameters.items()}
        shown = torch.sigmoid(p["mask_logit"]) > self.mask_threshold
        p = {name: value[shown] for name, value in p.items()}
        unit, degree = problem.unit, self._degree(state.k)
        arrays = {
            "points": p["points"].double().numpy() * unit + problem.middle,
            "log_delta": (p["log_delta"].double() - math.log(unit)).numpy(),
            "log_sigma": (p["log_sigma"].double() - math.log(unit)).numpy(),
            "opacity_logit": p["opacity_logit"].numpy(), "sh0": p["sh0"].numpy(), "sh_rest": p["sh_rest"][:, : (degree + 1) ** 2 - 1].numpy(),
        }  # fmt: skip
        arrays = halved(arrays) if self.light else {name: value.astype(np.float32) for name, value in arrays.items()}
        return Trained(
            **arrays, focal=problem.focal, near=NEAR * unit, background=np.asarray(problem.background, dtype=np.float32),
            threshold=self._answered,
        )  # fmt: skip

    def certify(self, problem: Capture, state: TrainState) -> Certificate:
        from surefoot.splatting.certify import certify_scene

        return certify_scene(
            problem, self.answer(problem, state), self.seed_evidence, [b.numpy() for b in state.before], self.lpips
        )

    def _first(self, problem: Capture) -> dict[str, Tensor]:
        """One convex a point."""
        unit, (points, colors) = problem.unit, (problem.points, problem.colors)
        if self.fill > 0:
            points, colors = fill_points(problem, self.fill)
        points = (points - problem.middle) / unit
        spacing = spacing_of(points) if problem.spacing is None else problem.spacing / unit
        start = self.start
        if start == "auto":
            start = "sharp" if problem.solid else "ball" if problem.spacing is None else "facing"
        given = (self.sigma, self.opacity, self.delta, self.size)
        sigma, opacity, delta, size = (value or first for value, first in zip(given, FIRST[start], strict=True))
        planes = None
        if start == "facing":
            from scipy.spatial import KDTree

            train = list(problem.train)
            places = (problem.places[train] - problem.middle) / unit
            nearest = np.asarray(KDTree(places).query(points)[1])
            axes = problem.views[train][nearest, :3, :3]
            depth = np.maximum(np.einsum("nj,nj->n", axes[:, 2], points - places[nearest]), NEAR)
            planes, sigma, delta = axes[:, :2], sigma / depth, delta * depth / (problem.focal**2 * spacing)
        return start_parameters(
            points, colors, self.corners, sigma, self.degree, opacity, delta, spacing, size, planes
        )  # fmt: skip

    # ---- one step -------------------------------------------------------------------------------------------
    def _degree(self, k: int) -> int:
        return min(self.degree, k // self.degree_every)

    def _rates(self, k: int) -> dict[str, float]:
        fall = 0.01 ** min(1.0, k / self.horizon)
        rates = {
            "points": self.points_rate * fall, "log_delta": self.delta_rate, "log_sigma": self.sigma_rate,
            "opacity_logit": self.opacity_rate, "sh0": self.color_rate, "sh_rest": self.color_rate / 20,
            "mask_logit": self.mask_rate,
        }  # fmt: skip
        late = (k - self.split_until) / max(1, self.horizon - self.split_until)
        rest = self.cool ** min(1.0, max(0.0, late))
        return {name: self.rate * value * (1.0 if name == "points" else rest) for name, value in rates.items()}

    def _view(self, problem: Capture, index: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """The camera in training units."""
        view = problem.views[index].copy()
        view[:3, 3] = (view[:3, 3] + view[:3, :3] @ problem.middle) / problem.unit
        height, width = problem.photos[index].shape[:2]
        return torch.from_numpy(view)[None], torch.from_numpy(problem.matrices[index])[None], (width, height)

    @property
    def _answered(self) -> float:
        return min(self.answer_threshold or self.settings.threshold, self.settings.threshold)

    def _threshold(self, k: int) -> float:
        """Below it nothing is rendered in step k."""
        last = self.settings.threshold
        if not self.threshold_first or k >= self.threshold_until or last <= 0:
            return last
        return self.threshold_first * (last / self.threshold_first) ** (k / self.threshold_until)

    def _settings(self, problem: Capture, threshold: float) -> Settings:
        focal = None if self.settings.compat == "paper" else problem.focal
        return replace(self.settings, near=NEAR, focal=focal, threshold=threshold)

    def _render(
        self, problem: Capture, parameters: dict[str, Tensor], index: int, k: int, back: Tensor | None = None,
        threshold: float | None = None, weight: Tensor | None = None,
    ) -> tuple[Any, Tensor]:  # fmt: skip
        view, matrix, size = self._view(problem, index)
        back = torch.tensor(problem.background, dtype=torch.float32) if back is None else back
        settings = self._settings(problem, self.settings.threshold if threshold is None else threshold)
        return render(
            parameters, view, matrix, size, settings, back, degree=self._degree(k), mask_threshold=self.mask_threshold, weight=weight,
        )  # fmt: skip

    def _dropped(self, state: TrainState) -> Tensor | None:
        """What opacities are multiplied by in this step."""
        share = self.drop * state.k / self.horizon
        if share == 0:
            return None
        kept = state.streams.numpy("drop", state.k).random(len(state.slope)) >= share
        return torch.from_numpy(kept / (1 - share)).float()

    def _photo(self, problem: Capture, state: TrainState) -> None:
        train = problem.train
        epoch, place = divmod(state.k, len(train))
        index = train[int(state.streams.numpy("photos", epoch).permutation(len(train))[place])]
        leaves = {name: state.parameters[name].detach().requires_grad_() for name in NAMES}
        back = None
        if self.random_background:
            back = torch.from_numpy(state.streams.numpy("background", state.k).random(3, dtype=np.float32))
        shown, sigma = self._render(
            problem, leaves, index, state.k, back, self._threshold(state.k), self._dropped(state)
        )
        tone = state.exposure[index].clone().requires_grad_(self.exposure)
        loss, close = self._loss(problem, shown.image[0], tone, leaves["mask_logit"], index)
        loss.backward()
        with torch.no_grad():
            state.loss, state.shown = float(loss), close
            visible = shown.status[0] == 0
            state.degenerate = int((shown.status[0] == 2).sum())
            assert sigma.grad is not None
            pull = sigma.grad if self.rule == "threshold" else sigma.grad.abs()
            state.slope += torch.where(visible, pull, torch.zeros_like(pull))
            state.seen += visible.float()
            self._adam(state, leaves)
            if tone.grad is not None:
                self._expose(problem, state, index, tone.grad)
        state.count(gradient=1)

    def _loss(
        self, problem: Capture, image: Tensor, tone: Tensor, mask_logit: Tensor, index: int
    ) -> tuple[Tensor, float]:
        """The loss of one photo's render, and its PSNR."""
        target = torch.from_numpy(problem.photos[index])
        if self.exposure:
            image = image @ tone[:, :3].T + tone[:, 3]
        if (covered := problem.masks[index]) is not None:
            weight = torch.from_numpy(covered)[..., None]
            image, target = image * weight, target * weight
        difference = (image - target).abs().mean()
        loss = (1 - self.structure_weight) * difference + self.mask_weight * torch.sigmoid(mask_logit).mean()
        if self.structure_weight > 0:
            loss = loss + self.structure_weight * (1 - ssim(image, target))
        return loss, psnr(image.detach(), target)

    def full_gradient(self, problem: Capture, state: TrainState) -> float:
        """Norm of the gradient, in all raw parameters, of the mean loss over the training photos (nothing dropped, the own background)."""
        leaves = {name: state.parameters[name].detach().requires_grad_() for name in NAMES}
        for index in problem.train:
            shown, _ = self._render(problem, leaves, index, state.k)
            loss, _ = self._loss(problem, shown.image[0], state.exposure[index], leaves["mask_logit"], index)
            (loss / len(problem.train)).backward()
        state.count(gradient=len(problem.train))
        return math.sqrt(
            sum(float(leaf.grad.double().square().sum()) for leaf in leaves.values() if leaf.grad is not None)
        )

    def _adam(self, state: TrainState, leaves: dict[str, Tensor]) -> None:
        rates, t = self._rates(state.k), state.k + 1
        for name in NAMES:
            gradient = leaves[name].grad
            if gradient is None:
                continue
            first, second = state.first[name], state.second[name]
            first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            scale = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** t)).add_(EPSILON)
            state.parameters[name] = (
                leaves[name].detach().addcdiv_(first, scale, value=-rates[name] / (1 - BETAS[0] ** t))
            )

    def _expose(self, problem: Capture, state: TrainState, index: int, gradient: Tensor) -> None:
        """Adam on one photo's map of colours (its own count of steps), then the maps' mean is the identity again."""
        t, train = state.k // len(problem.train) + 1, list(problem.train)
        first, second = state.exposure_first[index], state.exposure_second[index]
        first.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = second.sqrt().div_(math.sqrt(1 - BETAS[1] ** t)).add_(EPSILON)
        rate = self.rate * self.exposure_rate
        state.exposure[index].addcdiv_(first, scale, value=-rate / (1 - BETAS[0] ** t))
        state.exposure[train] += torch.eye(3, 4) - state.exposure[train].mean(dim=0)

    # ---- splitting and pruning ------------------------------------------------------------------------------
    def _densify(self, problem: Capture, state: TrainState) -> None:
        k = state.k
        if k < self.split_until:
            if k > self.split_from and k % self.split_every == 0:
                self._split(state)
                self._prune(problem, state, sizes=k > 3000)
            if self.reset_every and k % self.reset_every == 0:
                logit = state.parameters["opacity_logit"]
                state.parameters["opacity_logit"] = logit.clamp(max=math.log(DULL / (1 - DULL)))
                for moments in (state.first, state.second):
                    moments["opacity_logit"] = torch.zeros_like(logit)
        elif k % 1000 == 0:
            self._prune(problem, state, sizes=False)

    def _split(self, state: TrainState) -> None:
        mean = state.slope / state.seen.clamp(min=1.0)
        if self.rule == "threshold":
            chosen = (mean >= self.split_threshold).nonzero()[:, 0]
        else:
            number = max(1, math.ceil(self.split_share * len(mean)))
            chosen = torch.topk(mean, min(number, int((mean > 0).sum()))).indices.sort().values
        room = (self.most - len(mean)) // (self.corners - 1)
        if room < len(chosen):
            best = torch.topk(mean[chosen], max(room, 0)).indices
            chosen = chosen[best].sort().values
        if len(chosen) == 0:
            return
        kept = torch.ones(len(mean), dtype=torch.bool)
        kept[chosen] = False
        children = split(state.parameters, chosen, self.split_scale, self.split_exponent)
        state.parameters, state.first, state.second = keep(
            [state.parameters, state.first, state.second], kept, children
        )
        self._restart(state)

    def _prune(self, problem: Capture, state: TrainState, sizes: bool) -> None:
        p = state.parameters
        kept = torch.sigmoid(p["opacity_logit"]) >= self.least_opacity
        kept &= torch.sigmoid(p["mask_logit"]) > self.mask_threshold
        extent = problem.extent / problem.unit
        if sizes and extent > 1e-3:
            kept &= p["points"].std(dim=1, correction=0).amax(dim=1) <= self.largest * extent
        if not kept.any() or kept.all():
            return
        state.parameters, state.first, state.second = keep([p, state.first, state.second], kept)
        self._restart(state)

    def _restart(self, state: TrainState) -> None:
        number = len(state.parameters["points"])
        state.slope, state.seen = torch.zeros(number), torch.zeros(number)

    # ---- judging --------------------------------------------------------------------------------------------
    def _judge(self, problem: Capture, state: TrainState) -> float:
        """Mean PSNR over the held-out photos; infinite where there are none."""
        found = [self.judge_one(problem, state, index) for index in problem.test]
        return float(np.mean(found)) if found else math.inf

    def judge_one(self, problem: Capture, state: TrainState, index: int) -> float:
        """PSNR of one photo, in dB."""
        return masked_psnr(
            self.shown(problem, state, index), torch.from_numpy(problem.photos[index]), problem.masks[index]
        )

    def shown(self, problem: Capture, state: TrainState, index: int) -> Tensor:
        """One photo as it is rendered now, ``(height, width, 3)``."""
        with torch.no_grad():
            return self._render(problem, state.parameters, index, state.k, threshold=self._answered)[0].image[0]

    def _from_world(self, problem: Capture, scene: Trained) -> dict[str, Tensor]:
        unit = problem.unit
        points = torch.from_numpy((scene.points.astype(float) - problem.middle) / unit).float()
        rest = torch.zeros(len(points), (self.degree + 1) ** 2 - 1, 3)
        rest[:, : scene.sh_rest.shape[1]] = torch.from_numpy(scene.sh_rest[:, : rest.shape[1]])
        return {
            "points": points,
            "log_delta": torch.from_numpy(scene.log_delta) + math.log(unit),
            "log_sigma": torch.from_numpy(scene.log_sigma) + math.log(unit),
            "opacity_logit": torch.from_numpy(scene.opacity_logit).clone(),
            "sh0": torch.from_numpy(scene.sh0).clone(),
            "sh_rest": rest,
            "mask_logit": torch.ones(len(points)),
        }


def masked_psnr(image: Tensor, target: Tensor, mask: Any) -> float:
    """PSNR over the pixels that count."""
    if mask is None:
        return psnr(image, target)
    chosen = torch.from_numpy(mask) > 0
    return psnr(image[chosen], target[chosen])
