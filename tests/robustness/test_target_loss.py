"""The losses of the smoothed classifier: gradients, micro-batches, scales of logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from surefoot.robustness.target_loss import LossName, logit_temperature, target_loss

KINDS: tuple[LossName, ...] = ("log-mean", "margin", "paper")
SHAPE = (1, 4, 4)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)).double().requires_grad_(False)


def image_and_noise(draws: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
    return image, torch.randn(draws, *SHAPE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_against_differences(kind: LossName) -> None:
    """Central differences of the K-draw loss with frozen noise, float64."""
    image, noise = image_and_noise()
    found = target_loss(net(), image, 2, noise, 0.3, kind=kind, temperature=0.7)
    h = 1e-5
    for place in range(16):
        e = torch.zeros(16, dtype=torch.float64).scatter_(0, torch.tensor(place), h).view(SHAPE)
        up, down = (target_loss(net(), image + s * e, 2, noise, 0.3, kind=kind, temperature=0.7).loss for s in (1, -1))
        assert (up - down) / (2 * h) == pytest.approx(float(found.gradient.flatten()[place]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [1, 2, 4, 9, 50])
def test_micro_batches_change_nothing(kind: LossName, chunk: int) -> None:
    image, noise = image_and_noise()
    whole = target_loss(net(), image, 2, noise, 0.3, kind=kind, temperature=0.7)
    parts = target_loss(net(), image, 2, noise, 0.3, kind=kind, temperature=0.7, chunk=chunk)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-12)
    assert parts.probability == pytest.approx(whole.probability, rel=1e-12)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-10, atol=1e-14)


def test_log_mean_is_the_log_of_the_mean() -> None:
    """Not the mean of the logs: by hand from softmax probabilities."""
    image, noise = image_and_noise()
    p = torch.softmax(net()(image + 0.3 * noise) / 0.7, 1)[:, 2]
    found = target_loss(net(), image, 2, noise, 0.3, temperature=0.7)
    assert found.loss == pytest.approx(float(-p.mean().log()), rel=1e-12)
    assert abs(found.loss - float(-p.log().mean())) > 1e-3


def test_margin_by_hand() -> None:
    image, noise = image_and_noise()
    z = net()(image + 0.3 * noise)
    others = torch.cat([z[:, :2], z[:, 3:]], 1).amax(1)
    found = target_loss(net(), image, 2, noise, 0.3, kind="margin")
    assert found.loss == pytest.approx(float((others - z[:, 2]).mean()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_added_to_all_logits_changes_nothing(kind: LossName) -> None:
    image, noise = image_and_noise()
    model = net()
    moved = target_loss(lambda x: model(x) + 5.0, image, 2, noise, 0.3, kind=kind)
    plain = target_loss(model, image, 2, noise, 0.3, kind=kind)
    assert moved.loss == pytest.approx(plain.loss, rel=1e-10)
    torch.testing.assert_close(moved.gradient, plain.gradient, rtol=1e-9, atol=1e-12)


def test_logit_scale_blinds_the_published_loss_only() -> None:
    """Trap 4: logits times 1,000 leave the published loss without gradient; normalised by T the direction is unchanged."""
    image, noise = image_and_noise()
    model = net()
    big: Any = lambda x: 1000 * model(x)  # noqa: E731
    worst = int(model(image[None]).argmin())
    assert not target_loss(big, image, worst, noise, 0.05, kind="paper").gradient.any()
    directions = []
    for logits in (model, big):
        T = logit_temperature(logits, image, noise, 0.05)
        g = target_loss(logits, image, worst, noise, 0.05, temperature=T).gradient
        directions.append(g / g.norm())
    torch.testing.assert_close(directions[0], directions[1], rtol=1e-9, atol=1e-12)


def test_temperature_makes_the_spread_three() -> None:
    image, noise = image_and_noise(200)
    model = net()
    T = logit_temperature(model, image, noise, 0.3)
    assert float((model(image + 0.3 * noise) / T).std(1).mean()) == pytest.approx(3.0, rel=1e-12)
    assert pytest.approx(logit_temperature(model, image, noise, 0.3, chunk=7), rel=1e-12) == T


def test_a_constant_model_is_refused() -> None:
    image, noise = image_and_noise()
    with pytest.raises(ValueError, match="the model is constant"):
        logit_temperature(lambda x: torch.zeros(len(x), 4, dtype=x.dtype), image, noise, 0.3)


def test_the_denoiser_is_part_of_the_gradient() -> None:
    """D(x) = x^2: the chain rule against differences."""
    image, noise = image_and_noise()
    square: Any = lambda x, sigma: x**2 * (1 + sigma)  # noqa: E731
    found = target_loss(net(), image, 1, noise, 0.3, denoiser=square)
    h = 1e-5
    e = torch.zeros(SHAPE, dtype=torch.float64)
    e[0, 1, 1] = h
    up, down = (target_loss(net(), image + s * e, 1, noise, 0.3, denoiser=square).loss for s in (1, -1))
    assert (up - down) / (2 * h) == pytest.approx(float(found.gradient[0, 1, 1]), abs=1e-6)
