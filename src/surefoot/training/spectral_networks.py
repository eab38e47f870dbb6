"""Three small architectures for samples, tests and benchmarks, and plain training of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from surefoot.core.random import Streams

__all__ = ["NETWORKS", "SmallAttention", "make", "train"]


class SmallAttention(nn.Module):
    """One block of self-attention over the patches of a square image, with its mean to the logits.

    Args:
        side: of the image, a multiple of 4.
        width: of a token.
        heads: of the attention.
        classes: number of logits.
    """

    def __init__(self, side: int, width: int = 24, heads: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.patch, self.heads = side // 4, heads
        self.embed = nn.Linear(self.patch**2, width)
        self.place = nn.Parameter(torch.zeros(16, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.out = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 1, side, side)."""
        n, p = len(images), self.patch
        tokens = images.reshape(n, 4, p, 4, p).permute(0, 1, 3, 2, 4).reshape(n, 16, p * p)
        x = self.embed(tokens) + self.place
        q, k, v = self.qkv(self.norm1(x)).reshape(n, 16, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        x = x + self.mixed((weights @ v).transpose(1, 2).reshape(n, 16, -1))
        x = x + self.narrow(gelu(self.wide(self.norm2(x))))
        return self.out(x.mean(dim=1))


def _mlp(side: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(side * side, 32), nn.ReLU(), nn.Linear(32, 10))


def _cnn(side: int) -> nn.Module:
    small = (side + 3) // 4
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * small * small, 10),
    )  # fmt: skip


NETWORKS = {"mlp": _mlp, "cnn": _cnn, "attention": SmallAttention}


def make(name: str, side: int, streams: Streams) -> nn.Module:
    """A fresh network in eval mode; its weights depend on the streams alone."""
    if name not in NETWORKS:
        raise ValueError(f"network is {name!r}; expected one of {', '.join(NETWORKS)}")
    network = NETWORKS[name](side)
    with torch.no_grad():
        for place, (label, parameter) in enumerate(network.named_parameters()):
            if parameter.ndim > 1:
                fan = parameter[0].numel()
                noise = torch.rand(parameter.shape, generator=streams.torch("weights", place))
                parameter.copy_((2 * noise - 1) / fan**0.5)
            else:
                parameter.fill_(1.0 if label.startswith("norm") and label.endswith("weight") else 0.0)
    return network.eval()


def train(
    network: nn.Module, images: Tensor, labels: Tensor, streams: Streams, *, steps: int, rate: float = 0.05, batch: int = 64,
    momentum: float = 0.9,
) -> nn.Module:  # fmt: skip
    """Plain stochastic descent with momentum on cross-entropy."""
    parameters = list(network.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    for t in range(steps):  # by hand: importing torch.optim takes longer than these steps
        rows = torch.from_numpy(streams.numpy("rows", t).integers(0, len(images), batch))
        found = torch.autograd.grad(cross_entropy(network(images[rows]), labels[rows]), parameters)
        with torch.no_grad():
            for p, v, g in zip(parameters, velocity, found, strict=True):
                p.sub_(rate * v.mul_(momentum).add_(g))
    return network.eval()
