"""Bracketed roots: exact on hard functions, and fast on smooth ones."""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.numerics.roots import increasing_root


def test_smooth_roots_come_at_newton_speed() -> None:
    calls = 0

    def cube(x: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return x**3 + x - goal, 3 * x**2 + 1

    goal = torch.linspace(-30, 30, 61, dtype=torch.float64)
    root = increasing_root(cube, -goal.abs() - 1, goal.abs() + 1)
    torch.testing.assert_close(root**3 + root, goal, rtol=1e-14, atol=1e-13)
    assert calls <= 15  # halving alone would need more than 50


def test_kinks_jumps_and_misleading_slopes_are_bisected() -> None:
    centre = torch.tensor([-0.7, 0.123456789, 2.5], dtype=torch.float64)
    low, high = torch.full_like(centre, -10), torch.full_like(centre, 10)

    def jump(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sign(x - centre), torch.full_like(x, 1e-9)

    torch.testing.assert_close(increasing_root(jump, low, high), centre, rtol=0, atol=1e-14)

    def arctangent(x: Tensor) -> tuple[Tensor, Tensor]:
        # plain Newton diverges on it from afar
        return torch.atan(50 * (x - centre)), 50 / (1 + (50 * (x - centre)) ** 2)

    torch.testing.assert_close(increasing_root(arctangent, low, high), centre, rtol=0, atol=1e-14)


def test_root_at_an_end_of_the_bracket() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    root = increasing_root(lambda x: (x, torch.ones_like(x)), zero, zero + 4)
    torch.testing.assert_close(root, zero, rtol=0, atol=1e-14)
