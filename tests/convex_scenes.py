"""Random convexes before a camera, for the splatting tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

WIDTH, HEIGHT = 45, 35
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Convexes:
    points: Tensor
    delta: Tensor
    sigma: Tensor
    opacity: Tensor
    colors: Tensor

    def tensors(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        return [t.detach().to(dtype).requires_grad_() for t in self.tensors()]

    def at(self, **changes: Tensor) -> Convexes:
        return replace(self, **changes)


def convexes(seed: int, number: int = 12, corners: int = 6, size: float = 0.35, hardness: float = 1.0) -> Convexes:
    """Numbers that float32 holds exactly, so that both precisions see the same scene."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=g, dtype=DOUBLE)

    middle = draw(number, 1, 3) * torch.tensor([2.4, 2.0, 3.0], dtype=DOUBLE) + torch.tensor(
        [-1.2, -1.0, 2.0], dtype=DOUBLE
    )
    points = middle + size * torch.randn(number, corners, 3, generator=g, dtype=DOUBLE)
    points[..., 2].clamp_(min=0.5)
    found = Convexes(
        points,
        0.005 + 0.05 * hardness * draw(number),
        0.05 + 0.4 * hardness * draw(number),
        0.05 + 0.94 * draw(number),
        draw(number, 3),
    )
    return Convexes(*(t.float().double() for t in found.tensors()))


@st.composite
def scenes(draw: st.DrawFn, most: int = 12, hardness: tuple[float, ...] = (0.3, 1.0, 4.0)) -> Convexes:
    """Soft to hard, few to many, flat to round: what every renderer must treat alike."""
    corners, number = draw(st.sampled_from((3, 4, 6, 8))), draw(st.integers(1, most))
    return convexes(
        draw(st.integers(0, 10_000)),
        number,
        corners,
        draw(st.sampled_from((0.1, 0.35))),
        draw(st.sampled_from(hardness)),
    )


def camera(focal: float = 40.0, width: int = WIDTH, height: int = HEIGHT) -> tuple[Tensor, Tensor]:
    matrix = torch.tensor(
        [[focal, 0.0, width / 2 - 1], [0.0, 1.125 * focal, height / 2 + 2], [0.0, 0.0, 1.0]], dtype=DOUBLE
    )
    return torch.eye(4, dtype=DOUBLE), matrix


def turned(seed: int) -> Tensor:
    """A rigid motion (4, 4)."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.randn(3, generator=g, dtype=DOUBLE)
    angle = math.pi * float(torch.rand(1, generator=g, dtype=DOUBLE))
    x, y, z = axis / axis.norm()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=DOUBLE)
    motion = torch.eye(4, dtype=DOUBLE)
    motion[:3, :3] = torch.linalg.matrix_exp(angle * skew)
    motion[:3, 3] = torch.randn(3, generator=g, dtype=DOUBLE)
    return motion
