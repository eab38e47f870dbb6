"""The descent: closed forms on a linear classifier, feasibility, equality with plain descent, and every correction of the paper."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate
from suspects import digit_suspect, linear_suspect
from torch import nn

from surefoot.core.method import Status
from surefoot.core.random import Streams
from surefoot.core.solve import Budget, solve
from surefoot.core.verify import verify
from surefoot.robustness.denoising import train_denoiser
from surefoot.robustness.inversion import NormalisedPGD, ZeroGradientWarning
from surefoot.robustness.invert import invert
from surefoot.robustness.poisoning import ScaledLogits
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Suspect, default_radii, suspect
from surefoot.robustness.trigger_success import attack_success
from surefoot.robustness.verify_inversion import CHECKS

NEVER: dict[str, Any] = {"stop_probability": 1.0}


def delta_of(problem: Suspect, method: NormalisedPGD, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(solve(problem, method, certify=False, seed=seed).answer.perturbations[0])


def states(problem: Suspect, method: NormalisedPGD, steps: int) -> list[Any]:
    state = method.init(problem, None, Streams(0))
    seen = []
    for _ in range(steps):
        state = dataclasses.replace(method, block=1).step(problem, state)
        seen.append(dataclasses.replace(state))
    return seen


# ---- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["log-mean", "margin", "paper"])
def test_linear_classifier_finds_the_known_optimum(loss: str) -> None:
    """The optimum of the ball is eps times the direction of the weights."""
    problem, a = linear_suspect()
    method = NormalisedPGD(1, 0.3, 0.25, loss=loss, keep="last", horizon=200, **NEVER)  # type: ignore[arg-type]
    delta = delta_of(problem, method)
    cosine = float((delta * a).sum() / (delta.norm() * a.norm()))
    assert cosine >= 0.999
    assert float(delta.norm()) == pytest.approx(0.3, rel=1e-5)


def test_smoothed_probability_against_quadrature() -> None:
    """P_t is a one-dimensional Gaussian integral of the logistic function on a linear classifier."""
    problem, a = linear_suspect()
    method = NormalisedPGD(1, 0.3, 0.25, draws=4000, horizon=60, keep="last", **NEVER)
    state = states(problem, method, 60)[-2:]
    point = problem.images[problem.start[0]] + state[0].delta
    middle = float((a * (point - 0.5)).sum())
    spread = 0.25 * float(a.norm())
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / (1 + math.exp(-(middle + spread * z)))  # noqa: E731
    exact, _ = integrate.quad(density, -9, 9)
    assert state[1].probability == pytest.approx(exact, abs=5 * 0.5 / math.sqrt(4000))


def test_no_noise_is_plain_normalised_descent() -> None:
    """sigma = 0 against a loop written out here: gradient of cross-entropy, momentum, clip, shrink."""
    problem = digit_suspect()
    method = NormalisedPGD.published(3, 1.0, 0.0, draws=1, horizon=25)
    found = delta_of(problem, method)
    x = problem.images[int(problem.start_rows(3)[0])]
    delta, velocity = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(25):
        point = (x + delta).requires_grad_(True)
        loss = nn.functional.cross_entropy(problem.classifier.model(point[None]), torch.tensor([3]))
        (g,) = torch.autograd.grad(loss, point)
        velocity = 0.9 * velocity + g / g.norm()
        delta = (x + delta - 0.05 * velocity).clamp(0, 1) - x
        delta = delta * min(1.0, 1.0 / float(delta.norm()))
    torch.testing.assert_close(found, delta.detach(), rtol=0, atol=2e-4)


def test_little_noise_is_close_to_none() -> None:
    problem, _ = linear_suspect()
    plain = delta_of(problem, NormalisedPGD(1, 0.3, 0.0, horizon=30, keep="last", **NEVER))
    nearly = delta_of(problem, NormalisedPGD(1, 0.3, 1e-6, horizon=30, keep="last", **NEVER))
    torch.testing.assert_close(plain, nearly, rtol=0, atol=1e-5)


# ---- invariants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["shrink", "dykstra"])
def test_every_iterate_is_feasible(projection: str) -> None:
    problem = digit_suspect()
    x = problem.images[int(problem.start_rows(3)[0])].double()
    for state in states(problem, NormalisedPGD(3, 1.2, 0.25, draws=5, projection=projection, **NEVER), 40):  # type: ignore[arg-type]
        point = x + state.delta.double()
        assert float(point.min()) >= 0
        assert float(point.max()) <= 1
        assert float(state.delta.double().norm()) <= 1.2


def test_smoothed_loss_falls() -> None:
    """Fresh noise makes single steps go up; the mean over twenty steps falls by far."""
    losses = [s.loss for s in states(digit_suspect(), NormalisedPGD(3, 1.2, 0.25, draws=10, **NEVER), 80)]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    assert any(after > before for before, after in pairwise(losses))


def test_frozen_noise_descends() -> None:
    """With the same noise in every step and short steps the loss falls nearly always."""

    class Frozen(NormalisedPGD):
        def _noise(self, streams: Any, name: str, count: int, like: torch.Tensor, *index: int) -> torch.Tensor:
            return super()._noise(streams, name, count, like, 0)

    method = Frozen(3, 1.2, 0.25, draws=10, step_share=0.003, momentum=0.0, **NEVER)
    losses = [s.loss for s in states(digit_suspect(), method, 40)]
    falls = sum(after < before for before, after in pairwise(losses))
    assert falls >= 37


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_of_noise_change_nothing(chunk: int) -> None:
    problem, _ = linear_suspect()
    method = NormalisedPGD(1, 0.3, 0.25, draws=8, horizon=20)
    torch.testing.assert_close(delta_of(problem, method), delta_of(problem, dataclasses.replace(method, chunk=chunk)))


def test_a_batch_is_its_images_alone() -> None:
    problem = digit_suspect()
    images = problem.images[torch.from_numpy(problem.start_rows(3, 3))]
    together = invert(problem.classifier, images, [3, 5, 3], 1.0, draws=4, horizon=12)
    for place, target in enumerate((3, 5, 3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = invert(problem.classifier, images[place], target, 1.0, draws=4, horizon=12)
        torch.testing.assert_close(together[place : place + 1], alone, rtol=0, atol=0)


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    class Shifted(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x) + 8.0

    method = NormalisedPGD(3, 1.2, 0.25, draws=6, horizon=15, keep="last")
    torch.testing.assert_close(
        delta_of(digit_suspect(), method), delta_of(digit_suspect(wrap=Shifted), method), rtol=0, atol=1e-3
    )


# ---- corrections ----------------------------------------------------------------------------------------------------


def test_large_logits_defeat_the_published_loss_and_not_ours() -> None:
    """Trap 4 and attacker B: the same decisions, logits times 2,000."""
    big = digit_suspect(wrap=lambda model: ScaledLogits(model, 2000.0))
    rate = lambda method: attack_success(big, delta_of(big, method), 3, big.heldout).rate  # noqa: E731
    with pytest.warns(ZeroGradientWarning, match="no step is made"):
        blind = rate(NormalisedPGD.published(3, 1.5, 0.25, draws=10, horizon=60))
    assert blind < 0.3
    assert rate(NormalisedPGD(3, 1.5, 0.25, draws=10, horizon=60)) > 0.85
    assert rate(NormalisedPGD(3, 1.5, 0.25, draws=10, horizon=60, loss="margin")) > 0.85


def test_zero_gradient_warns_and_names_the_fallback() -> None:
    """The published loss on blinding logits, with the fallback that the published method does not have."""
    big = digit_suspect(wrap=lambda model: ScaledLogits(model, 2000.0))
    method = NormalisedPGD(3, 1.5, 0.25, draws=10, horizon=60, loss="paper")
    with pytest.warns(
        ZeroGradientWarning, match="paper loss has no gradient at step 0 .* the margin loss is used instead"
    ):
        delta = delta_of(big, method)
    assert attack_success(big, delta, 3, big.heldout).rate > 0.45  # without it the blind one stays below 0.3


def test_a_model_without_any_gradient_ends_the_search() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = (x.flatten(1).mean(1) > 0.5).float() + 0 * x.flatten(1).sum(1)
            return torch.stack([bright, 1 - 2 * bright], 1)

    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    problem = suspect(Classifier(Steps().eval(), (1, 4, 4), 2, identity={"steps": 1}), images)
    target = 1 - int(problem.labels[problem.start[0]])
    with pytest.warns(ZeroGradientWarning):
        result = solve(problem, NormalisedPGD(target, 0.5, 0.1, draws=4, horizon=100), certify=False)
    assert result.status is Status.SEARCH_FAILED
    assert "mask its gradients" in result.reason


def test_stops_when_sure_and_keeps_the_best_iterate() -> None:
    problem = digit_suspect()
    result = solve(problem, NormalisedPGD(3, 1.8, 0.12, draws=10), certify=False)
    assert result.status is Status.CONVERGED
    assert result.steps < 200
    assert all(p > 0.99 for p in result.history.columns()["probability"][-1:])
    never = solve(problem, NormalisedPGD(3, 1.8, 0.12, draws=10, horizon=60, **NEVER), certify=False)
    assert never.status is Status.BUDGET
    assert never.steps == 60


def test_best_iterate_has_the_smallest_validation_loss() -> None:
    """Judged again here: no iterate that was looked at does better on the validation images."""
    problem = digit_suspect()
    method = NormalisedPGD(3, 1.2, 0.25, draws=4, judge_every=5, **NEVER)
    seen = states(problem, method, 40)
    rows = problem.rows_against(problem.validation, 3)[:64]
    images = problem.images[torch.from_numpy(rows)]

    def loss(delta: torch.Tensor) -> float:
        with torch.no_grad():
            z = problem.classifier.logits((images + delta).clamp(0, 1)).double()
        return float(-torch.log_softmax(z / seen[-1].temperature, 1)[:, 3].mean())

    judged = [loss(s.delta) for s in seen if s.k % 5 == 0]
    assert loss(seen[-1].best) == pytest.approx(min(judged), rel=1e-9)


def test_step_length_is_halved() -> None:
    problem, _ = linear_suspect()
    method = NormalisedPGD(1, 100.0, 0.1, momentum=0.0, halve_every=3, step_share=1e-4, **NEVER)
    moves = np.diff([0.0, *[float(s.delta.norm()) for s in states(problem, method, 9)]])
    np.testing.assert_allclose(moves[[0, 3, 6]], [0.01, 0.005, 0.0025], rtol=0.02)


def test_velocity_is_forgotten_where_it_points_out_of_the_ball() -> None:
    problem, _ = linear_suspect()
    method = NormalisedPGD(1, 0.3, 0.1, draws=4, reset_velocity=True, **NEVER)
    with_it = states(problem, method, 40)
    without = states(problem, dataclasses.replace(method, reset_velocity=False), 40)
    assert not with_it[-1].velocity.any()
    assert float(without[-1].velocity.norm()) > 5


def test_images_can_share_a_perturbation() -> None:
    """With m images the gradient is the mean of theirs, and every image stays in [0, 1]."""
    problem = digit_suspect()
    method = NormalisedPGD(3, 1.2, 0.25, draws=5, horizon=20, shared=3)
    delta = delta_of(problem, method)
    for row in problem.start_rows(3, 3):
        point = problem.images[int(row)].double() + delta.double()
        assert 0 <= float(point.min()) <= float(point.max()) <= 1
    assert solve(problem, method, certify=False).counts["gradient"] == 3 * 5 * 20


def test_batch_normalisation_is_refused_in_train_mode() -> None:
    """Trap 5."""
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 2))
    with pytest.raises(ValueError, match="train mode"):
        Classifier(model, (1, 4, 4), 2)


def test_noise_is_written_functionally() -> None:
    """Trap 3: neither the images nor the parameters are changed, and parameters want gradients again afterwards."""
    problem = digit_suspect()
    before = problem.images.clone(), [p.clone() for p in problem.classifier.model.parameters()]  # type: ignore[attr-defined]
    delta_of(problem, NormalisedPGD(3, 1.2, 0.25, draws=5, horizon=5))
    assert torch.equal(before[0], problem.images)
    for old, p in zip(before[1], problem.classifier.model.parameters(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(old, p)
        assert p.requires_grad


def test_a_denoiser_is_used_where_there_is_noise() -> None:
    """The package's own, trained in a second: it beats the noisy image, and the inversion goes through it."""
    problem = digit_suspect()
    clean = problem.images[torch.from_numpy(problem.validation)]
    denoiser = train_denoiser(clean, noise_stds=(0.1, 0.5), epochs=12)
    noisy = clean + 0.4 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert float(((denoiser(noisy, 0.4) - clean) ** 2).mean()) < 0.35 * float(((noisy - clean) ** 2).mean())
    method = NormalisedPGD(3, 1.5, 0.4, draws=8, horizon=40)
    plain, through = delta_of(problem, method), delta_of(dataclasses.replace(problem, denoiser=denoiser), method)
    assert float((plain - through).norm()) > 0.1
    assert attack_success(problem, through, 3, problem.heldout).rate > 0.8


# ---- the border -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.0}, "radius"), ({"radius": -1.0}, "radius"), ({"noise_std": -0.1}, "noise_std is -0.1"), ({"draws": 0}, "draws is 0"),
        ({"momentum": 1.0}, "momentum"), ({"chunk": -1}, "chunk"), ({"shared": 0}, "shared"),
    ],
)  # fmt: skip
def test_bad_options(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NormalisedPGD(**{"target": 1, "radius": 1.0, **change})


def test_bad_targets_and_images() -> None:
    problem = digit_suspect()
    with pytest.raises(ValueError, match=r"the model has classes 0 \.\. 9"):
        solve(problem, NormalisedPGD(10, 1.0), budget=Budget(steps=1))
    images = problem.images[:8]
    with pytest.raises(ValueError, match=r"span \[0, 2\]"):
        suspect(problem.classifier, images * 2)
    with pytest.raises(ValueError, match="uint8"):
        suspect(problem.classifier, (images * 255).to(torch.uint8))
    with pytest.raises(ValueError, match="1 target for 8 images"):
        invert(problem.classifier, images, 3, 1.0)
    with pytest.raises(ValueError, match="at least four"):
        suspect(problem.classifier, images[:3])
    with pytest.raises(ValueError, match="no gradient flows"):
        suspect(dataclasses.replace(problem.classifier, differentiable=False), images)
    alone = dataclasses.replace(problem, start=problem.start[:1])
    with pytest.raises(ValueError, match="start images are not of class"):
        alone.start_rows(int(problem.labels[problem.start[0]]))


def test_nan_logits_are_named() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2] * float("nan")

    images = torch.rand(8, 1, 4, 4)
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        suspect(Classifier(Broken().eval(), (1, 4, 4), 2, identity={"broken": 1}), images)


def test_target_that_the_image_already_has_is_warned_about() -> None:
    problem = digit_suspect()
    row = int(problem.start[0])
    own = int(problem.classifier.logits(problem.images[row : row + 1]).argmax())
    with pytest.warns(UserWarning, match="already decided as class"):
        invert(problem.classifier, problem.images[row], own, 1.0, horizon=2)


def test_a_model_with_wrong_classes_is_warned_about() -> None:
    problem = digit_suspect()
    with pytest.warns(UserWarning, match="decides .* of the clean images as labelled"):
        suspect(problem.classifier, problem.images, (problem.labels + 1) % 10)


def test_default_radii_begin_at_the_published_one_for_pictures() -> None:
    assert default_radii(3 * 224 * 224) == (10.0, 20.0, 40.0)
    assert default_radii(28 * 28) == pytest.approx((0.7217, 1.4434, 2.8868), abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu() -> None:
    """The same noise on both devices; certificate and checkers work on either."""
    problem = digit_suspect()
    there = Classifier(copy.deepcopy(problem.classifier.model).cuda(), (1, 8, 8), 10, device="cuda")  # type: ignore[attr-defined]
    moved = suspect(there, problem.images, problem.labels, planted=problem.planted)
    here = suspect(problem.classifier, problem.images, problem.labels, planted=problem.planted)
    method = NormalisedPGD(3, 1.2, 0.25, draws=8, horizon=15, keep="last", certificate_draws=100)
    torch.testing.assert_close(delta_of(here, method), delta_of(moved, method), rtol=0, atol=1e-2)
    result = solve(moved, method)
    assert result.certificate is not None
    assert {v.verdict for v in verify(result.certificate, CHECKS, moved, result.answer)} == {"confirmed"}
