"""A small denoiser D(noisy, sigma) for the inversion, trained in seconds; larger ones are the user's own.

A diffusion model denoises in one step: its predicted clean image at the step whose noise is sigma. This network stands in for
it where no such weights are at hand: four convolutions that know sigma and predict the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from surefoot.core.random import Streams
from surefoot.numerics.borders import require_positive
from surefoot.robustness.networks import Adam, initialise

__all__ = ["SmallDenoiser", "train_denoiser"]


class SmallDenoiser(nn.Module):
    """noisy - sigma * N(noisy, sigma), clipped to [0, 1] as a diffusion model's prediction is.

    Args:
        channels: of the images.
        width: channels inside.
    """

    def __init__(self, channels: int = 1, width: int = 24) -> None:
        super().__init__()
        sizes = [channels + 1, width, width, width, channels]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))

    def forward(self, noisy: Tensor, sigma: float) -> Tensor:
        """Denoised images (n, C, H, W) in [0, 1]; gradients flow wherever the value is inside."""
        return self.unclipped(noisy, torch.full((len(noisy),), float(sigma)).to(noisy)).clamp(0, 1)

    def unclipped(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """The same for one sigma an image (n,), without the clip."""
        level = sigma.view(-1, 1, 1, 1)
        hidden = torch.cat([noisy, level.expand(-1, 1, *noisy.shape[2:])], 1)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return noisy - level * self.layers[-1](hidden)


def train_denoiser(
    images: Tensor, *, noise_stds: Sequence[float] = (0.05, 0.6), epochs: int = 3, batch: int = 64, learning_rate: float = 2e-3,
    width: int = 24, seed: int = 0,
) -> SmallDenoiser:  # fmt: skip
    """Train the small denoiser by least squares on clean images with noise of every size in a range.

    Args:
        images: (n, C, H, W) in [0, 1].
        noise_stds: smallest and largest sigma, drawn uniformly.
        epochs, batch, learning_rate, width: of the training and the network.
        seed: of everything random.

    Raises:
        ValueError: an empty range of noise, or images of another shape.
    """
    if images.ndim != 4:
        raise ValueError(f"the images have shape {tuple(images.shape)}; expected (n, C, H, W)")
    low, high = min(noise_stds), max(noise_stds)
    require_positive("the largest noise_std", high)
    streams = Streams(seed)
    model = SmallDenoiser(images.shape[1], width)
    initialise(model, streams)
    model.to(images)
    optimizer = Adam(model)
    for epoch in range(epochs):
        order = torch.from_numpy(streams.numpy("order", epoch).permutation(len(images)))
        generator = streams.torch("denoiser-noise", epoch)
        for rows in order.split(batch):
            clean = images[rows]
            sigma = (low + (high - low) * torch.rand(len(rows), generator=generator)).to(images)
            z = torch.randn(clean.shape, generator=generator).to(images)
            loss = ((model.unclipped(clean + sigma.view(-1, 1, 1, 1) * z, sigma) - clean) ** 2).mean()
            optimizer.step(loss, learning_rate)
    return model.eval()
