"""Small networks in the order of use: convolutions, a perceptron, a character transformer. Every block is one layer of Drop-Muon."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

__all__ = ["CharTransformer", "build", "cnn", "mlp"]


def cnn(channels: int = 1, side: int = 28, classes: int = 10, width: int = 16, depth: int = 3) -> nn.Sequential:
    """`depth` 3 x 3 convolutions, `width` channels doubled at the first two of the two poolings by 2, a linear head on the mean of what is left."""
    blocks: list[nn.Module] = []
    before, now = channels, width
    for i in range(depth):
        layers: list[nn.Module] = [nn.Conv2d(before, now, 3, padding=1), nn.ReLU()]
        if i < 2 and side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        blocks.append(nn.Sequential(*layers))
        before, now = now, now * 2 if i < 2 else now
    return nn.Sequential(
        *blocks,
        nn.Sequential(nn.AdaptiveAvgPool2d(min(side, 3)), nn.Flatten(), nn.Linear(before * min(side, 3) ** 2, classes)),
    )


def mlp(inputs: int, classes: int = 10, width: int = 32, depth: int = 3) -> nn.Sequential:
    """`depth` hidden layers of `width` rectified units, logits."""
    sizes = [inputs, *[width] * depth]
    hidden = [nn.Sequential(nn.Flatten(), nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(width, classes))


class _Block(nn.Module):
    """Attention and a perceptron, both with a norm before and a sum after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_hidden = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.hidden, self.back = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.attention(self.before_attention(x)).reshape(n, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
        return x + self.back(torch.relu(self.hidden(self.before_hidden(x))).square())


class CharTransformer(nn.Module):
    """A causal transformer: characters (n, length) to logits (n, length, vocabulary)."""

    def __init__(self, vocabulary: int, length: int = 32, width: int = 48, depth: int = 6, heads: int = 4) -> None:
        super().__init__()
        self.start = nn.Module()
        self.start.characters = nn.Embedding(vocabulary, width)
        self.start.places = nn.Embedding(length, width)
        self.body = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.end = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False))

    def blocks(self) -> list[nn.Module]:
        """The layers: embeddings, blocks, head."""
        return [self.start, *self.body, self.end]

    def forward(self, characters: Tensor) -> Tensor:
        x: Tensor = self.start.characters(characters) + self.start.places.weight[: characters.shape[1]]  # type: ignore[operator]
        for block in self.body:
            x = block(x)
        return self.end(x)


def build(network: str, x: Tensor, classes: int, width: int, depth: int, seed: int) -> nn.Module:
    """A fresh network for inputs like `x`, with torch's usual start under a seed of its own.

    Raises:
        ValueError: the inputs do not fit the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if network == "transformer":
            return CharTransformer(classes, x.shape[1], width, depth)
        if network == "mlp":
            return mlp(x[0].numel(), classes, width, depth)
        if x.ndim != 4:
            raise ValueError(
                f"a convolutional network needs images (n, channels, height, width), got {tuple(x.shape)}; take --network mlp"
            )
        return cnn(x.shape[1], min(x.shape[2:]), classes, width, depth)
