"""SmoothInv: a hidden trigger recovered from one clean image, through a classifier made robust by noise.

    minimise  loss_t(x + delta)   over   x + delta in [0, 1],  |delta|_2 <= eps

by projected descent with normalised gradients and momentum; every step draws K fresh noises. On a robust classifier the
direction that reaches the attacker's class is the trigger, where on a plain one it is adversarial noise.

References:
    M. Sun, J. Z. Kolter, "Single Image Backdoor Inversion via Robust Smoothed Classifiers", 2023, arXiv 2303.00215.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.core.certificate import Certificate
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.numerics.borders import require_positive
from surefoot.robustness.box_and_ball import BoxAndBall, ProjectionName
from surefoot.robustness.suspect_problem import Suspect
from surefoot.robustness.target_loss import LossAndGradient, LossName, logit_temperature, mean_target_loss, target_loss

TEMPERATURE_DRAWS = 200
FROZEN_DRAWS = 64  # that judge an iterate where there are no validation images
JUDGES = 64  # validation images that judge an iterate
SOLVED = 1e-6  # a loss this small has no gradient in float32, and needs none
STALLED = 20  # steps without a gradient that end the search


class ZeroGradientWarning(UserWarning):
    """The loss has no gradient at the current image; the text names what is used instead."""


@dataclass(frozen=True, eq=False)
class Inversions:
    """Recovered perturbations, one a target class.

    Attributes:
        targets: (T,) classes.
        noise_stds: (T,) sigma each was found with.
        starts: (T,) rows of the images they were found from.
        perturbations: (T, C, H, W) float32.
    """

    targets: np.ndarray[Any, np.dtype[np.int64]]
    noise_stds: np.ndarray[Any, np.dtype[np.float64]]
    starts: np.ndarray[Any, np.dtype[np.int64]]
    perturbations: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(kw_only=True)
class InversionState(State):
    """Where a descent is."""

    delta: Tensor  # (C, H, W)
    velocity: Tensor  # (C, H, W)
    best: Tensor  # (C, H, W), the iterate that the judges like most
    best_loss: float = float("inf")
    temperature: float = 1.0
    loss: float = float("inf")
    probability: float = 0.0
    gradient_norm: float = 0.0
    recent: list[float] = field(default_factory=list)  # smoothed probabilities of the last steps
    stalled: int = 0  # steps in a row without a gradient
    fallbacks: int = 0


@dataclass(frozen=True)
class NormalisedPGD(Method[Suspect, InversionState, Inversions]):
    """One step: K draws, normalised gradient, momentum, clip and shrink.

    Args:
        target: t.
        radius: eps, in pixel units over the whole image.
        noise_std: sigma, in pixel units; 0 is plain projected descent.
        draws: K.
        horizon: steps.
        step_share: step length over eps; halved every `halve_every` steps.
        momentum: of the velocity.
        loss: "log-mean" with normalised logits, "margin", or "paper".
        fallback: the loss for steps in which that one has no gradient; "none" makes no step then, as published.
        projection: "shrink" clips then shrinks, "dykstra" takes the nearest feasible point.
        reset_velocity: set the velocity to 0 where the perturbation is on the ball and the velocity points out of it.
        shared: m start images that share the perturbation.
        chunk: noise draws at a time; 0 takes all. It changes memory, never the gradient.
        stop_probability: stop once P_t has been above it for `patience` steps; 1 never stops.
        keep: the "best" iterate on the validation images, or the "last".
        judge_every: steps between looks at the validation images.
        certificate_draws: K' of the numbers in the certificate.
        failure_probability: of the certificate's statistical claims, together.
        block: steps a call; changes the pace of checkpoints, never the result.

    Raises:
        ValueError: an option out of its range.
    """

    horizons_may_be_cut: ClassVar[bool] = True
    target: int
    radius: float
    noise_std: float = 0.25
    draws: int = 40
    horizon: int | None = 400
    step_share: float = 0.05
    momentum: float = 0.9
    halve_every: int = 300
    loss: LossName = "log-mean"
    fallback: Literal["margin", "none"] = "margin"
    projection: ProjectionName = "shrink"
    reset_velocity: bool = False
    shared: int = 1
    chunk: int = 0
    stop_probability: float = 0.99
    patience: int = 20
    keep: Literal["best", "last"] = "best"
    judge_every: int = 10
    certificate_draws: int = 1000
    failure_probability: float = 0.05
    block: int = 10

    def __post_init__(self) -> None:
        require_positive("radius", self.radius)
        require_positive("step_share", self.step_share)
        if not self.noise_std >= 0:
            raise ValueError(f"noise_std is {self.noise_std}; expected a number >= 0 in pixel units")
        for name in ("draws", "shared", "judge_every", "halve_every", "patience", "certificate_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; expected a number in [0, 1)")
        if self.chunk < 0:
            raise ValueError(f"chunk is {self.chunk}; expected a number of draws, or 0 for all")

    @classmethod
    def published(cls, target: int, radius: float, noise_std: float = 0.25, **more: Any) -> NormalisedPGD:
        """The paper's own: loss without normalised logits, no step without a gradient, all steps, last iterate."""
        own: dict[str, Any] = {"loss": "paper", "fallback": "none", "keep": "last", "stop_probability": 1.0}
        return cls(target, radius, noise_std, **{**own, **more})

    def init(self, problem: Suspect, start: Inversions | None, streams: Streams) -> InversionState:
        images = self._images(problem)
        first = images[0]
        if int(problem.classifier.logits(first[None]).argmax()) == self.target:
            warnings.warn(
                f"the start image is already decided as class {self.target}; the inversion has nothing to find there",
                stacklevel=2,
            )
        delta = torch.zeros_like(first)
        if start is not None:
            delta = self._allowed(problem).project(torch.from_numpy(start.perturbations[0]).to(first), self.projection)
        temperature = 1.0
        if self.loss == "log-mean" or self.keep == "best":
            noise = self._noise(streams, "temperature", TEMPERATURE_DRAWS, first, 0)
            temperature = logit_temperature(
                _logits(problem), first, noise, self.noise_std, problem.denoiser, self.chunk
            )
        return InversionState(
            streams=streams, delta=delta, velocity=torch.zeros_like(delta), best=delta.clone(), temperature=temperature
        )

    def step(self, problem: Suspect, state: InversionState) -> InversionState:
        allowed, images, logits = self._allowed(problem), self._images(problem), _logits(problem)
        judges = self._judges(problem)
        with _frozen(problem.classifier.model):
            for _ in range(state.room(self.block)):
                if self.look(state).status is not None:
                    break
                found = self._gradient(problem, state, images, logits)
                self._move(state, found, allowed)
                if self.keep == "best" and state.k % self.judge_every == 0:
                    self._judge(problem, state, judges, images[0], logits)
        return state

    def _move(self, state: InversionState, found: LossAndGradient, allowed: BoxAndBall) -> None:
        """velocity <- momentum velocity + g/|g|; delta <- projection of delta - step velocity."""
        norm = float(found.gradient.double().norm())
        direction = found.gradient / norm if norm > 0 else torch.zeros_like(found.gradient)
        state.stalled = 0 if norm > 0 or found.loss <= SOLVED else state.stalled + 1
        step = self.step_share * self.radius * 0.5 ** (state.k // self.halve_every)
        state.velocity = self.momentum * state.velocity + direction
        state.delta = allowed.project(state.delta - step * state.velocity, self.projection)
        on_ball = float(state.delta.double().norm()) >= self.radius * (1 - 1e-6)
        if self.reset_velocity and on_ball and float((state.velocity * state.delta).sum()) < 0:
            state.velocity = torch.zeros_like(state.velocity)
        state.loss, state.probability, state.gradient_norm = found.loss, found.probability, norm
        state.recent = [*state.recent, found.probability][-self.patience :]
        state.k += 1

    def _gradient(self, problem: Suspect, state: InversionState, images: Tensor, logits: Any) -> LossAndGradient:
        found = self._mean_loss(problem, state, images, logits, self.loss)
        if self.loss == "margin" or found.loss <= SOLVED or float(found.gradient.abs().max()) > 0:
            return found
        if not state.fallbacks:
            instead = "no step is made, as published" if self.fallback == "none" else "the margin loss is used instead"
            warnings.warn(
                f"the {self.loss} loss has no gradient at step {state.k} for class {self.target} (P_t = {found.probability:.3g}); {instead}",
                ZeroGradientWarning, stacklevel=4,
            )  # fmt: skip
        state.fallbacks += 1
        return found if self.fallback == "none" else self._mean_loss(problem, state, images, logits, "margin")

    def _mean_loss(
        self, problem: Suspect, state: InversionState, images: Tensor, logits: Any, kind: LossName
    ) -> LossAndGradient:
        """The loss averaged over the images that share the perturbation, each with noise of its own."""
        parts = []
        for place, image in enumerate(images):
            noise = self._noise(state.streams, "noise", self.draws if self.noise_std else 1, image, state.k, place)
            parts.append(
                target_loss(
                    logits, image + state.delta, self.target, noise, self.noise_std, kind=kind,
                    temperature=state.temperature, denoiser=problem.denoiser, chunk=self.chunk,
                )
            )  # fmt: skip
            state.count(gradient=len(noise))
        m = len(parts)
        gradient = torch.stack([part.gradient for part in parts]).mean(0)
        return LossAndGradient(sum(p.loss for p in parts) / m, gradient, sum(p.probability for p in parts) / m)

    def _judges(self, problem: Suspect) -> Tensor:
        rows = problem.rows_against(problem.validation, self.target)[:JUDGES]
        return problem.images[torch.from_numpy(rows)]

    def _judge(self, problem: Suspect, state: InversionState, judges: Tensor, image: Tensor, logits: Any) -> None:
        """Keep the iterate of smallest loss on the validation images, or on frozen noisy copies of the start image."""
        if not len(judges):
            judges = image + self.noise_std * self._noise(state.streams, "judges", FROZEN_DRAWS, image, 0)
            changed = judges + state.delta
        else:
            changed = (judges + state.delta).clamp(0, 1)
        loss = mean_target_loss(logits, changed, self.target, state.temperature)
        state.count(forward=len(judges))
        if loss < state.best_loss:
            state.best_loss, state.best = loss, state.delta.clone()

    def look(self, state: InversionState) -> Look:
        row = {"loss": state.loss, "probability": state.probability, "gradient_norm": state.gradient_norm}
        row["norm"] = float(state.delta.double().norm())
        sure = len(state.recent) == self.patience and min(state.recent) > self.stop_probability
        if sure and state.k:
            why = f"the smoothed probability was above {self.stop_probability} for {self.patience} steps"
            return Look(row, Status.CONVERGED, why)
        if state.stalled >= STALLED and self.fallback != "none":
            why = f"no loss has had a gradient in {STALLED} steps; the model may mask its gradients"
            return Look(row, Status.SEARCH_FAILED, why)
        return Look(row)

    def answer(self, problem: Suspect, state: InversionState) -> Inversions:
        judged = self.keep == "best" and state.best_loss < float("inf")
        delta = state.best if judged else state.delta
        return Inversions(
            np.array([self.target]), np.array([float(self.noise_std)]), problem.start_rows(self.target)[:1],
            delta.detach().cpu().float().numpy()[None],
        )  # fmt: skip

    def certify(self, problem: Suspect, state: InversionState) -> Certificate:
        from surefoot.robustness.certify_inversion import Terms, certify_inversions

        terms = Terms(
            self.radius, 1, self.failure_probability, self.certificate_draws, state.streams.seed or 0, (self.noise_std,)
        )
        return certify_inversions(problem, self.answer(problem, state), terms)

    def _images(self, problem: Suspect) -> Tensor:
        return problem.images[torch.from_numpy(problem.start_rows(self.target, self.shared))]

    def _allowed(self, problem: Suspect) -> BoxAndBall:
        return BoxAndBall.around(self._images(problem), self.radius)

    def _noise(self, streams: Streams, name: str, count: int, like: Tensor, *index: int) -> Tensor:
        """Drawn on the CPU, so that every device sees the same numbers; zeros without noise."""
        if not self.noise_std:
            return torch.zeros(1, *like.shape, dtype=like.dtype, device=like.device)
        drawn = torch.randn(count, *like.shape, generator=streams.torch(name, *index))
        return drawn.to(like)


def _logits(problem: Suspect) -> Any:
    return problem.classifier.logits


class _frozen:  # noqa: N801 - reads as a statement
    """The model's parameters need no gradient meanwhile."""

    def __init__(self, model: Any) -> None:
        parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
        self.learning = [p for p in parameters if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(True)
