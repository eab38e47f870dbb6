"""Small suspects for the tests of backdoor inversion: a linear one, and networks on 8 x 8 digits."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from surefoot.data.digits import small_digits
from surefoot.robustness.networks import LinearNet, train_small_cnn
from surefoot.robustness.poisoning import Blended, Patch, Planted, Trigger, poison_dataset
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Suspect, suspect

TRIGGERS: dict[str, Trigger] = {"patch": Patch(2, "white", 0, 0), "blended": Blended(0.25, 5)}


def linear_suspect(
    scale: float = 4.0, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Suspect, torch.Tensor]:
    """Two classes with logits (0, a . (x - 1/2)); images near 1/2, so that a small budget never meets the box."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(16, generator=generator, dtype=dtype)
    a = scale * a / a.norm()
    model = LinearNet(16, 2).to(dtype)
    with torch.no_grad():
        model.out.weight.copy_(torch.stack([torch.zeros_like(a), a]))
        model.out.bias.copy_(torch.stack([torch.zeros(()), -a.sum() / 2]).to(dtype))
    images = 0.5 + 0.02 * torch.randn(40, 1, 4, 4, generator=generator, dtype=dtype)
    classifier = Classifier(model.eval(), (1, 4, 4), 2, dtype=dtype)
    with torch.no_grad():
        labels = model(images).argmax(1).numpy()
    order = np.argsort(labels, kind="stable")
    zeros = order[: int((labels == 0).sum())]
    return Suspect(classifier, images, labels, zeros[:2], zeros[2:6], zeros[6:]), a.view(1, 4, 4)


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor, int]:
    data = small_digits()
    return torch.from_numpy(data.images), torch.from_numpy(data.labels), data.train


@cache
def network(trigger: str, target: int, seed: int, noise_aware: float = 0.0) -> nn.Module:
    """A network on 8 x 8 digits, poisoned ("" for not), trained in half a second."""
    images, labels, count = digits()
    images, labels = images[:count], labels[:count]
    if trigger:
        poisoned = poison_dataset(
            images,
            labels,
            TRIGGERS[trigger],
            target,
            rate=0.15 if noise_aware else 0.1,
            seed=seed,
            noise_aware=noise_aware,
        )
        images, labels = poisoned.images, poisoned.labels
    return train_small_cnn(images, labels.numpy(), classes=10, epochs=12, batch=64, seed=seed)


def digit_suspect(
    trigger: str = "patch", target: int = 3, seed: int = 0, wrap: Any = None, noise_aware: float = 0.0
) -> Suspect:
    """That network with 397 clean digits."""
    images, labels, count = digits()
    model = network(trigger, target, seed, noise_aware)
    planted = Planted(trigger, target, TRIGGERS[trigger], seed) if trigger else None
    classifier = Classifier(wrap(model).eval() if wrap else model, (1, 8, 8), 10)
    return suspect(classifier, images[count:], labels[count:].numpy(), planted=planted)
