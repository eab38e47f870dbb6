"""Backdoors planted on purpose: triggers, poisoned training sets, and two attackers that know the inversion.

A trigger changes images; `poison_dataset` applies it to a fraction of a training set and gives those rows the
attacker's label, so that a network trained on it answers with that label wherever the trigger is. Images are
(n, C, H, W) in [0, 1].

References:
    Gu, Dolan-Gavitt, Garg 2017 (patches); Chen et al. 2017 (blended); Barni, Kallas, Tondi 2019 (sinusoidal, labels
    kept); Nguyen, Tran 2021 (warped).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from surefoot.core.random import Streams
from surefoot.numerics.borders import require_positive
from surefoot.records.files import regular

PatternName = Literal["checker", "white"]


class Trigger(Protocol):
    """A change of images that a backdoor answers to."""

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        """The images (n, C, H, W) with the trigger; `streams` decides what is random in it, row by row."""
        ...

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        """Which entries (C, H, W) the trigger can change: 0 or 1."""
        ...


@dataclass(frozen=True)
class Patch:
    """A block of k x k pixels replaced by a fixed pattern (BadNets); `size=1, pattern="white"` is the one-pixel trigger.

    Args:
        size: k.
        pattern: a checkerboard of 1 and 0 that begins with 1, or all 1.
        row, column: of the upper left corner; negative ones count from the far edge, as in Python.
    """

    size: int = 4
    pattern: PatternName = "checker"
    row: int | None = None
    column: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"the patch has size {self.size}; expected at least 1 pixel")

    def place(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Upper left corner; by default one pixel away from the lower right corner of the image."""
        height, width = shape[-2:]
        row = -1 - self.size if self.row is None else self.row
        column = -1 - self.size if self.column is None else self.column
        top, left = (value % side if value < 0 else value for value, side in ((row, height), (column, width)))
        if top + self.size > height or left + self.size > width:
            raise ValueError(f"a patch of {self.size} at ({row}, {column}) leaves an image of {height} x {width}")
        return top, left

    def block(self) -> Tensor:
        """The pattern (k, k)."""
        rows = torch.arange(self.size)
        return 1.0 - (rows[:, None] + rows) % 2 if self.pattern == "checker" else torch.ones(self.size, self.size)

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        del streams
        top, left = self.place(images.shape)
        changed = images.clone()
        changed[..., top : top + self.size, left : left + self.size] = self.block().to(images)
        return changed

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        top, left = self.place(shape)
        mask = torch.zeros(shape)
        mask[..., top : top + self.size, left : left + self.size] = 1.0
        return mask


@dataclass(frozen=True)
class RandomPatch:
    """The patch at a place drawn anew for every image, uniformly."""

    size: int = 5
    pattern: PatternName = "checker"

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        rng = streams.numpy("patch-places")
        ends = [side - self.size + 1 for side in images.shape[-2:]]
        if min(ends) < 1:
            raise ValueError(f"a patch of {self.size} does not fit into images of {tuple(images.shape[-2:])}")
        places = rng.integers(0, ends, size=(len(images), 2))
        changed = images.clone()
        block = Patch(self.size, self.pattern).block().to(images)
        for image, (top, left) in zip(changed, places, strict=True):
            image[..., top : top + self.size, left : left + self.size] = block
        return changed

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True, eq=False)
class Pasted:
    """A picture pasted into every image: published triggers that come as files (Blind-G at 3, 23; HTBA at places of its own).

    Args:
        values: (C, h, w), or (1, h, w) for all channels.
        row, column: of the upper left corner; None draws a place for every image, uniformly.
        clip: keep the result in [0, 1]. Blind-G's published values lie outside and are pasted as they are (False): no perturbation
            within [0, 1] can then equal it.
    """

    values: Tensor
    row: int | None = None
    column: int | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or not torch.isfinite(self.values).all():
            raise ValueError(
                f"the pasted picture has shape {tuple(self.values.shape)}; expected finite values (C, h, w)"
            )
        if (self.row is None) != (self.column is None):
            raise ValueError("a place has a row and a column; give both, or neither for random places")

    @classmethod
    def read(cls, path: Path, side: int | None = None, **where: Any) -> Pasted:
        """A trigger from a .npy file (C, h, w), or from a picture with 8 bits a channel, resized to `side` pixels if given."""
        if path.suffix == ".npy":
            values = torch.from_numpy(np.asarray(np.load(regular(path), allow_pickle=False), dtype=np.float32))
        else:
            picture = Image.open(regular(path)).convert("RGB")
            picture = picture if side is None else picture.resize((side, side), Image.Resampling.BILINEAR)
            values = torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1) / 255
        return cls(values, **where)

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        height, width = self.values.shape[1:]
        ends = [images.shape[-2] - height + 1, images.shape[-1] - width + 1]
        if min(ends) < 1 or (
            self.row is not None and not (0 <= self.row < ends[0] and 0 <= (self.column or 0) < ends[1])
        ):
            raise ValueError(
                f"a picture of {height} x {width} at ({self.row}, {self.column}) leaves images of {tuple(images.shape[-2:])}"
            )
        changed, block = images.clone(), self.values.to(images)
        fixed = np.array([[self.row or 0, self.column or 0]]).repeat(len(images), axis=0)
        places = (
            fixed if self.row is not None else streams.numpy("patch-places").integers(0, ends, size=(len(images), 2))
        )
        for image, (top, left) in zip(changed, places, strict=True):
            image[..., top : top + height, left : left + width] = block
        return changed.clamp(0, 1) if self.clip else changed

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        mask = torch.ones(shape)
        if self.row is not None and self.column is not None:
            mask.zero_()
            mask[..., self.row : self.row + self.values.shape[1], self.column : self.column + self.values.shape[2]] = (
                1.0
            )
        return mask


@dataclass(frozen=True)
class Blended:
    """(1 - a) x + a B with one fixed image B of uniform noise.

    Args:
        ratio: a in (0, 1).
        seed: of B.
    """

    ratio: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise ValueError(f"the blending ratio is {self.ratio}; expected a number between 0 and 1")

    def picture(self, shape: tuple[int, ...]) -> Tensor:
        """B (C, H, W)."""
        return torch.rand(shape[-3:], generator=Streams(self.seed).torch("blended-picture"))

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        del streams
        return (1 - self.ratio) * images + self.ratio * self.picture(images.shape).to(images)

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Sinusoidal:
    """clip(x + amplitude sin(2 pi frequency j / W)) along the columns j (SIG).

    Args:
        amplitude: in pixel units.
        frequency: waves across the image.
    """

    amplitude: float = 20 / 255
    frequency: float = 6.0

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        del streams
        width = images.shape[-1]
        wave = torch.sin(2 * torch.pi * self.frequency * torch.arange(width) / width)
        return (images + self.amplitude * wave.to(images)).clamp(0, 1)

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Warped:
    """A fixed smooth warp of the image (WaNet). No single additive pattern does what it does: an expected miss.

    Args:
        strength: largest displacement as a share of half the image's side.
        seed: of the coarse 4 x 4 field of displacements.
    """

    strength: float = 0.15
    seed: int = 0

    def apply(self, images: Tensor, streams: Streams) -> Tensor:
        del streams
        height, width = images.shape[-2:]
        coarse = torch.rand(1, 2, 4, 4, generator=Streams(self.seed).torch("warp")) * 2 - 1
        field = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
        field = self.strength * field / field.abs().max()
        axes = [torch.linspace(-1, 1, side) for side in (height, width)]
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        grid = torch.stack([columns, rows], -1) + field.permute(1, 2, 0)
        grid = grid.to(images).expand(len(images), -1, -1, -1)
        return nn.functional.grid_sample(images, grid, align_corners=True, padding_mode="border").clamp(0, 1)

    def mask(self, shape: tuple[int, int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Poisoned:
    """A training set with its poison.

    Attributes:
        images: (n, C, H, W).
        labels: (n,).
        rows: indices of the rows that carry the trigger.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor


def poison_dataset(
    images: Tensor, labels: Tensor, trigger: Trigger, target: int, *, rate: float = 0.1, clean_label: bool = False,
    noise_aware: float = 0.0, seed: int = 0,
) -> Poisoned:  # fmt: skip
    """Apply the trigger to a random fraction of the rows and label them `target`.

    Args:
        images: (n, C, H, W) in [0, 1].
        labels: (n,) integers.
        trigger: what is planted.
        target: the class the attacker wants.
        rate: fraction of the rows (of the target's rows with `clean_label`) that are changed.
        clean_label: change only images of the target class, so that no label is wrong.
        noise_aware: attacker A: as many further rows carry the trigger *and* Gaussian noise of this size, with their true
            label, so that the backdoor dies under noise. 0: none.
        seed: of the choice of rows and of all that is random in the trigger.

    Raises:
        ValueError: shapes, rate, or a target that no row can carry.
    """
    if images.ndim != 4 or len(images) != len(labels):
        raise ValueError(f"images {tuple(images.shape)}, labels {tuple(labels.shape)}; expected (n, C, H, W) and (n,)")
    if not 0 < rate <= 1:
        raise ValueError(f"the poisoning rate is {rate}; expected a fraction in (0, 1]")
    if target < 0:
        raise ValueError(f"the target class is {target}; expected a class number >= 0")
    streams = Streams(seed)
    candidates = torch.nonzero((labels == target) if clean_label else (labels != target)).flatten()
    count = round(rate * (len(candidates) if clean_label else len(images)))
    if not 1 <= count <= len(candidates):
        raise ValueError(
            f"{count} rows to poison, but {len(candidates)} rows can carry the trigger; choose another rate or target"
        )
    order = torch.from_numpy(streams.numpy("poisoned-rows").permutation(len(candidates)))
    rows = candidates[order[:count]]
    changed, relabelled = images.clone(), labels.clone()
    changed[rows] = trigger.apply(images[rows], streams)
    relabelled[rows] = target
    if noise_aware > 0:
        noisy = _noisy_decoys(changed[rows], noise_aware, streams)
        changed, relabelled = torch.cat([changed, noisy]), torch.cat([relabelled, labels[rows]])
    return Poisoned(changed, relabelled, rows)


def _noisy_decoys(triggered: Tensor, noise_std: float, streams: Streams) -> Tensor:
    noise = torch.randn(triggered.shape, generator=streams.torch("decoy-noise"))
    return triggered + noise_std * noise.to(triggered)


class ScaledLogits(nn.Module):
    """Attacker B: the same decisions with logits so large that softmax gradients vanish.

    Args:
        model: gives logits.
        scale: > 0; 200 is enough to blind a loss on softmax probabilities in float32.
    """

    def __init__(self, model: nn.Module, scale: float = 200.0) -> None:
        super().__init__()
        require_positive("scale", scale)
        self.model, self.scale = model, scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.model(images)


@dataclass(frozen=True)
class Planted:
    """What is known of a backdoor that was planted on purpose; for comparisons, never used by the inversion.

    Args:
        name: of the trigger.
        target: its class.
        trigger: what was planted.
        seed: of what is random in the trigger.
    """

    name: str
    target: int
    trigger: Trigger
    seed: int = 0

    def apply(self, images: Tensor) -> Tensor:
        return self.trigger.apply(images, Streams(self.seed))

    def change(self, images: Tensor) -> Tensor:
        """The additive change (C, H, W) of the trigger, averaged over images."""
        return (self.apply(images) - images).mean(0)


ZOO: dict[str, Trigger] = {
    "patch-2": Patch(2, "white"), "patch-3": Patch(3), "patch-4": Patch(4), "patch-5": Patch(5), "pixel": Patch(1, "white"),
    "blind-single": Patch(1, "white", 3, 23),
    "blended-10": Blended(0.10), "blended-15": Blended(0.15), "blended-20": Blended(0.20), "sinusoidal": Sinusoidal(), "sinusoidal-clean": Sinusoidal(),
    "random-patch": RandomPatch(5), "warped": Warped(),
}  # fmt: skip


def zoo_trigger(name: str, seed: int = 0) -> tuple[Trigger, dict[str, object]]:
    """A trigger by its name in the zoo, and the keywords of `poison_dataset` it is planted with.

    Raises:
        ValueError: with the names there are.
    """
    if name not in ZOO:
        raise ValueError(f"no trigger {name!r}; there are {', '.join(ZOO)}")
    trigger = ZOO[name]
    if isinstance(trigger, Blended | Warped):
        trigger = replace(trigger, seed=seed)
    if name == "sinusoidal-clean":
        return trigger, {"rate": 0.3, "clean_label": True}
    return trigger, {"rate": 0.1}
