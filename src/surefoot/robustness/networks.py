"""Small networks of the package, trained in seconds, saved as safetensors that name their architecture.

Such a file needs no code of the user's: the architecture comes from a closed list, so it is read as data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim.adam import adam

from surefoot.core.random import Streams
from surefoot.records.files import UnsafeFileError, regular, write_bytes

__all__ = [
    "ARCHITECTURES",
    "LinearNet",
    "SmallCNN",
    "TinyMLP",
    "load_network",
    "save_network",
    "small_cnn",
    "train_small_cnn",
]

METADATA = "surefoot.network"


class SmallCNN(nn.Module):
    """Two convolutions (16 and 32 channels, stride 2), one dense layer of 64, logits.

    Args:
        channels, side: of the square images.
        classes: number of logits.
    """

    def __init__(self, channels: int = 1, side: int = 28, classes: int = 10) -> None:
        super().__init__()
        self.architecture = {"name": "small-cnn", "channels": channels, "side": side, "classes": classes}
        half = (side + 1) // 2
        quarter = (half + 1) // 2
        self.conv1 = nn.Conv2d(channels, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.dense = nn.Linear(32 * quarter * quarter, 64)
        self.out = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, side, side)."""
        hidden = torch.relu(self.conv2(torch.relu(self.conv1(images))))
        return self.out(torch.relu(self.dense(hidden.flatten(1))))


class LinearNet(nn.Module):
    """Logits that are linear in the pixels: smoothed probabilities and exact radii have closed forms."""

    def __init__(self, pixels: int, classes: int = 2) -> None:
        super().__init__()
        self.architecture = {"name": "linear", "pixels": pixels, "classes": classes}
        self.out = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, ...)."""
        return self.out(images.flatten(1))


class TinyMLP(nn.Module):
    """One hidden layer of rectified units."""

    def __init__(self, pixels: int, hidden: int = 16, classes: int = 2) -> None:
        super().__init__()
        self.architecture = {"name": "mlp", "pixels": pixels, "hidden": hidden, "classes": classes}
        self.hidden = nn.Linear(pixels, hidden)
        self.out = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, ...)."""
        return self.out(torch.relu(self.hidden(images.flatten(1))))


ARCHITECTURES: Mapping[str, Callable[..., nn.Module]] = {"small-cnn": SmallCNN, "linear": LinearNet, "mlp": TinyMLP}
LARGEST = 1 << 16  # no size in a stranger's file may be larger


def small_cnn() -> nn.Module:
    """A recipe for `surefoot run`: the small network for 28 x 28 grey images and ten classes, without weights."""
    return SmallCNN()


def initialise(model: nn.Module, streams: Streams) -> nn.Module:
    """Give every weight and bias its usual uniform start, from named streams instead of the global generator."""
    for place, (name, module) in enumerate(model.named_modules()):
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        generator = streams.torch(f"initial/{name}", place)
        bound = module.weight[0].numel() ** -0.5
        with torch.no_grad():
            for values in (module.weight, module.bias):
                if values is not None:
                    values.copy_(torch.empty(values.shape).uniform_(-bound, bound, generator=generator))
    return model


def train(
    model: nn.Module, images: Tensor, labels: Any, *, noise: float = 0.0, seed: int = 0, epochs: int = 8,
    batch: int = 128, learning_rate: float = 2e-3, decay: float = 0.05,
    augment: Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]] | None = None,
) -> nn.Module:  # fmt: skip
    """Train a classifier by Adam on cross-entropy, with fresh Gaussian noise on every image in every epoch.

    The same seed gives the same weights on the same machine with the same number of threads; all randomness is addressed.

    Args:
        model: trained in place and put into eval mode.
        images: (n, *shape) in the unit in which `noise` is.
        labels: (n,) integers.
        noise: standard deviation of the training noise.
        decay: the last step length over the first, along half a cosine; 1 keeps it.
        augment: (images, labels, generator) -> the same, changed, before the noise; for instance a poisoner.

    Raises:
        ValueError: the loss stopped being finite.
    """
    streams = Streams(seed)
    images = images.to(torch.get_default_dtype())
    targets = torch.as_tensor(np.asarray(labels), dtype=torch.int64).to(images.device)
    optimizer = Adam(model)
    steps, done = max(epochs * (-(-len(images) // batch)), 1), 0
    model.train()
    for epoch in range(epochs):
        order = torch.from_numpy(streams.numpy("order", epoch).permutation(len(images))).to(images.device)
        generator = streams.torch("training-noise", epoch, device=images.device.type)
        for rows in order.split(batch):
            x, y = images[rows], targets[rows]
            if augment is not None:
                x, y = augment(x, y, generator)
            if noise:
                x = x + noise * torch.empty_like(x).normal_(generator=generator)
            loss = nn.functional.cross_entropy(model(x), y)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the training loss became {float(loss)} in epoch {epoch + 1}; lower the learning rate"
                )
            optimizer.step(loss, learning_rate * (decay + (1 - decay) * (1 + math.cos(math.pi * done / steps)) / 2))
            done += 1
    return model.eval()


class Adam:
    """torch's Adam by its functional form: the class `torch.optim.Adam` imports the compiler, a second of every short run.

    Args:
        model: whose parameters are changed in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self.steps = [torch.tensor(0.0) for _ in self.parameters]

    def step(self, loss: Tensor, learning_rate: float) -> None:
        """One step along the loss's gradient."""
        gradients = list(torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True))
        with torch.no_grad():
            adam(
                self.parameters, gradients, self.means, self.squares, [], self.steps, amsgrad=False, beta1=0.9, beta2=0.999,
                lr=learning_rate, weight_decay=0.0, eps=1e-8, maximize=False,
            )  # fmt: skip


def train_small_cnn(
    images: Tensor, labels: Any, *, noise: float = 0.0, seed: int = 0, classes: int | None = None, **more: Any
) -> SmallCNN:
    """The small convolutional network, trained on square images; see `train`.

    Args:
        images: (n, channels, side, side) in [0, 1].
        labels: (n,) integers.
        noise: standard deviation of the training noise; the certificates want it near the smoothing noise.
        classes: number of classes; default: the largest label + 1.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"the images have shape {tuple(images.shape)}; expected (n, channels, side, side)")
    found = int(np.asarray(labels).max()) + 1 if classes is None else classes
    model = SmallCNN(images.shape[1], images.shape[2], max(found, 2))
    initialise(model, Streams(seed))
    train(model.to(images.device), images, labels, noise=noise, seed=seed, **more)
    return model


def save_network(path: Path, model: nn.Module) -> None:
    """Weights as safetensors, whose header names the architecture; only for the architectures listed here.

    Raises:
        ValueError: the module is not one of them.
    """
    architecture: Any = getattr(model, "architecture", None)
    if not isinstance(architecture, dict) or architecture.get("name") not in ARCHITECTURES:
        raise ValueError(f"a {type(model).__name__} is none of the architectures {', '.join(ARCHITECTURES)}")
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    write_bytes(path, save(weights, {METADATA: json.dumps(architecture)}))


def build(architecture: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """A network of the closed list with these weights, in eval mode.

    Raises:
        UnsafeFileError: an architecture or size that is not on the list, or weights that do not fit.
    """
    sizes = {k: v for k, v in architecture.items() if k != "name"}
    if architecture.get("name") not in ARCHITECTURES or not all(
        type(v) is int and 0 < v <= LARGEST for v in sizes.values()
    ):
        raise UnsafeFileError(f"{dict(architecture)} is none of the architectures {', '.join(ARCHITECTURES)}")
    try:
        with torch.device("meta"):
            model = ARCHITECTURES[architecture["name"]](**sizes)
        model.load_state_dict(dict(weights), assign=True)
    except (TypeError, RuntimeError) as error:
        raise UnsafeFileError(f"the weights do not fit the architecture {dict(architecture)}: {error}") from error
    return model.requires_grad_(True).eval()


def load_network(path: Path) -> nn.Module | None:
    """The network in a safetensors file that names its architecture; None where the file names none.

    Raises:
        UnsafeFileError: not a safetensors file, or it does not fit its architecture.
    """
    try:
        with safe_open(regular(path), "pt") as stream:
            text = (stream.metadata() or {}).get(METADATA)
        if text is None:
            return None
        return build(json.loads(text), load_file(path))
    except (SafetensorError, ValueError, AttributeError) as error:
        if isinstance(error, UnsafeFileError):
            raise
        raise UnsafeFileError(f"{path.name} is not a safetensors file: {error}") from error
