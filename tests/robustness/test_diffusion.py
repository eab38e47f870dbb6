"""Diffusion models as denoisers, against a model that is exact: pixels that are Gaussian have a linear best predictor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from surefoot.robustness.diffusion import DiffusionDenoiser, cosine_schedule, diffusion_step, linear_schedule
from surefoot.robustness.invert import invert
from surefoot.robustness.networks import LinearNet
from surefoot.robustness.problem import Classifier

MEAN, SPREAD = 0.2, 0.3  # of a pixel on [-1, 1]
Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def exact(signal: np.ndarray) -> Predictor:
    """E[eps | x_t] where x ~ N(MEAN, SPREAD^2): the regression of eps on x_t."""

    def noise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = float(signal[int(t[0])])
        return np.sqrt(1 - share) * (x - np.sqrt(share) * MEAN) / (share * SPREAD**2 + 1 - share)

    return noise


def test_schedules_are_the_published_ones() -> None:
    linear, cosine = linear_schedule(1000), cosine_schedule(4000)
    assert linear[0] == pytest.approx(1 - 1e-4)
    assert linear[-1] == pytest.approx(4.0358e-5, rel=1e-3)  # 1,000 betas from 1e-4 to 0.02
    t = 2000
    angle = lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2  # noqa: E731
    assert cosine[t - 1] == pytest.approx(angle(t / 4000) / angle(0), rel=1e-9)
    for signal in (linear, cosine):
        assert (np.diff(signal) < 0).all()


@pytest.mark.parametrize("signal", [linear_schedule(1000), cosine_schedule(4000)], ids=["linear", "cosine"])
@pytest.mark.parametrize("sigma", [0.12, 0.25, 0.5])
def test_one_step_of_the_exact_model_is_the_posterior_mean(signal: np.ndarray, sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noisy = 0.5 + 0.2 * torch.randn(50, 1, 4, 4, generator=generator, dtype=torch.float64)
    found = DiffusionDenoiser(exact(signal), signal)(noisy, sigma)
    step, _ = diffusion_step(signal, sigma)
    level = np.sqrt(1 - signal[step]) / np.sqrt(signal[step])  # the noise of that step on [-1, 1]
    posterior = MEAN + SPREAD**2 / (SPREAD**2 + level**2) * (2 * noisy - 1 - MEAN)
    np.testing.assert_allclose(found.numpy(), (posterior.clamp(-1, 1) + 1).numpy() / 2, atol=1e-12)
    assert 2 * sigma <= level < 2 * sigma * 1.02


def test_it_denoises_and_learned_variances_are_left_out() -> None:
    signal = linear_schedule(1000)
    generator = torch.Generator().manual_seed(1)
    clean = ((MEAN + SPREAD * torch.randn(200, 2, 4, 4, generator=generator)) + 1) / 2
    noisy = clean + 0.25 * torch.randn(clean.shape, generator=generator)
    noise = exact(signal)
    both = DiffusionDenoiser(lambda x, t: torch.cat([noise(x, t), torch.full_like(x, 7.0)], 1), signal)
    found = both(noisy, 0.25)
    assert float((found - clean).pow(2).mean()) < 0.4 * float((noisy - clean).pow(2).mean())
    image = DiffusionDenoiser(lambda x, t: x / x.abs().max(), signal, predicts="clean")
    assert float(image(noisy, 0.25).max()) <= 1
    with pytest.raises(ValueError, match="the diffusion model gave"):
        DiffusionDenoiser(lambda x, t: x[:, :1], signal)(noisy, 0.25)
    with pytest.raises(ValueError, match="expected 'noise' or 'clean'"):
        DiffusionDenoiser(noise, signal, predicts="score")  # type: ignore[arg-type]


def test_gradients_of_the_inversion_flow_through_it() -> None:
    """A linear classifier behind the exact denoiser is linear, too: the trigger is its direction at every noise level."""
    signal = linear_schedule(1000)
    model = LinearNet(16, 2).eval()
    direction = torch.randn(16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model.out.weight.copy_(torch.stack([-direction, direction]))
        model.out.bias.zero_()
    denoiser = DiffusionDenoiser(exact(signal), signal)
    for sigma in (0.12, 0.25):
        delta = invert(
            Classifier(model, (1, 4, 4), 2), torch.full((1, 1, 4, 4), 0.5), 1, radius=0.3, noise_std=sigma, denoiser=denoiser, draws=40,
            horizon=120, keep="last", stop_probability=1.0,
        )  # fmt: skip
        cosine = torch.nn.functional.cosine_similarity(delta.flatten(), direction, dim=0)
        assert float(cosine) > 0.99
