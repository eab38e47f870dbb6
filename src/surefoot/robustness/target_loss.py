"""Losses of a smoothed classifier towards a target class, with exact gradients in micro-batches.

With noise draws z_k ~ N(0, I), D the denoiser (the identity by default) and logits f:

    log-mean:  -log (1/K) sum_k softmax(f(D(x + sigma z_k)) / T)_t     T measured, see `logit_temperature`
    margin:    (1/K) sum_k (max_{j != t} f_j - f_t)
    paper:     -log max((1/K) sum_k softmax(f(D(x + sigma z_k)))_t, 1e-20)

The gradient of the log of a mean is the average of the draws' gradients weighted by their probabilities. Draws are
taken `chunk` at a time: each chunk gives a sum and its gradient, and the sums weigh the gradients, so the result is that
of one batch. With T the largest logit differences are of order ten, whatever the scale the network was trained to;
without it a confident network starts below 1e-20, where the paper's loss has no gradient at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossName = Literal["log-mean", "margin", "paper"]
Logits = Callable[[Tensor], Tensor]
Denoiser = Callable[[Tensor, float], Tensor]
CLAMP = 1e-20  # of the paper's probability
SPREAD = 3.0  # standard deviation of the logits of a draw after division by T


@dataclass(frozen=True)
class LossAndGradient:
    """A loss at one point.

    Attributes:
        loss: its value.
        gradient: (C, H, W).
        probability: the smoothed probability P_t at the model's own scale of logits.
    """

    loss: float
    gradient: Tensor
    probability: float


def noisy_logits(
    logits: Logits, image: Tensor, noise: Tensor, noise_std: float, denoiser: Denoiser | None, chunk: int
) -> Iterator[Tensor]:
    """Logits (b, classes) at image + noise_std * noise, `chunk` draws at a time (0: all)."""
    for draws in noise.split(chunk or len(noise)):
        noisy = image + noise_std * draws
        yield logits(noisy if denoiser is None else denoiser(noisy, noise_std))


def logit_temperature(
    logits: Logits, image: Tensor, noise: Tensor, noise_std: float, denoiser: Denoiser | None = None, chunk: int = 0
) -> float:
    """T = mean over noisy copies of the standard deviation of their logits, over 3.

    Args:
        logits: (b, C, H, W) -> (b, classes).
        image: (C, H, W).
        noise: (n, C, H, W) standard normal draws.

    Raises:
        ValueError: the logits do not depend on the class, so that no image can be pushed anywhere.
    """
    with torch.no_grad():
        spreads = [z.double().std(dim=1) for z in noisy_logits(logits, image, noise, noise_std, denoiser, chunk)]
    spread = float(torch.cat(spreads).mean())
    if not spread > 0:
        raise ValueError(f"the logits of noisy copies of the start image have spread {spread}; the model is constant")
    return spread / SPREAD


def target_loss(
    logits: Logits, image: Tensor, target: int, noise: Tensor, noise_std: float, *, kind: LossName = "log-mean",
    temperature: float = 1.0, denoiser: Denoiser | None = None, chunk: int = 0,
) -> LossAndGradient:  # fmt: skip
    """Loss, gradient and P_t at one image with given noise.

    Args:
        logits: (b, C, H, W) -> (b, classes); parameters need no gradient.
        image: x + delta (C, H, W).
        target: t.
        noise: (K, C, H, W) standard normal draws.
        noise_std: sigma, in pixel units.
        kind: which loss.
        temperature: T of the log-mean loss.
        denoiser: D(noisy, sigma).
        chunk: draws at a time; 0 takes all at once.
    """
    shift = torch.zeros_like(image, requires_grad=True)
    sums: list[Tensor] = []
    gradients: list[Tensor] = []
    probability = 0.0
    with torch.enable_grad():
        for z in noisy_logits(logits, image + shift, noise, noise_std, denoiser, chunk):
            total = _chunk_sum(z, target, kind, temperature)
            (gradient,) = torch.autograd.grad(total, shift)
            sums.append(total.detach())
            gradients.append(gradient)
            probability += float(torch.softmax(z.detach().double(), 1)[:, target].sum()) / len(noise)
    loss, gradient = _combine(torch.stack(sums), torch.stack(gradients), len(noise), kind)
    return LossAndGradient(loss, gradient, probability)


def _chunk_sum(z: Tensor, target: int, kind: LossName, temperature: float) -> Tensor:
    """log sum of probabilities, sum of margins, or sum of probabilities of a chunk of draws."""
    if kind == "log-mean":
        return torch.logsumexp(torch.log_softmax(z / temperature, 1)[:, target], 0)
    if kind == "margin":
        others = z.clone()
        others[:, target] = -torch.inf
        return (others.amax(1) - z[:, target]).sum()
    return torch.softmax(z, 1)[:, target].sum()


def _combine(sums: Tensor, gradients: Tensor, draws: int, kind: LossName) -> tuple[float, Tensor]:
    if kind == "log-mean":
        weights = torch.softmax(sums, 0)
        value = -(torch.logsumexp(sums.double(), 0) - torch.log(torch.tensor(float(draws), dtype=torch.float64)))
        return float(value), -torch.tensordot(weights, gradients, 1)
    if kind == "margin":
        return float(sums.double().sum()) / draws, gradients.sum(0) / draws
    mean = float(sums.sum()) / draws
    loss = -float(torch.log(torch.tensor(max(mean, CLAMP), dtype=torch.float64)))
    return loss, -gradients.sum(0) / (draws * mean) if mean > CLAMP else torch.zeros_like(gradients[0])


def mean_target_loss(logits: Logits, images: Tensor, target: int, temperature: float) -> float:
    """Mean of -log softmax(f / T)_t over images, without noise: what the best iterate is chosen by."""
    with torch.no_grad():
        return float(-torch.log_softmax(logits(images).double() / temperature, 1)[:, target].mean())
