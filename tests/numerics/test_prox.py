"""Proximal maps against Moreau's identity, in which the other side is an independent projection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from surefoot.numerics.prox import (
    elastic_net,
    group_soft_threshold,
    nuclear_soft_threshold,
    prox_of_conjugate,
    soft_threshold,
)
from surefoot.numerics.sets import Ball, Box, L1Ball


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X = 2 * randn(12, 5)


@pytest.mark.parametrize("threshold", [0.1, 1.0, 4.0])
def test_residual_is_the_projection_on_the_dual_ball(threshold: float) -> None:
    """x - prox of a norm = projection on the ball of the dual norm."""
    l1 = X - soft_threshold(X, threshold)
    torch.testing.assert_close(l1, Box(-threshold, threshold).project(X))
    groups = X - group_soft_threshold(X, threshold)
    torch.testing.assert_close(groups, Ball(threshold).project(X))
    # nuclear: the projection on the spectral ball, characterised by its norm and its complementary slackness
    remaining = nuclear_soft_threshold(X, threshold)
    cut = X - remaining
    assert torch.linalg.matrix_norm(cut, ord=2) <= threshold * (1 + 1e-12)
    nuclear = torch.linalg.matrix_norm(remaining, ord="nuc")
    torch.testing.assert_close((remaining * cut).sum(), threshold * nuclear)


def test_prox_of_the_conjugate_of_the_largest_entry_is_the_soft_threshold() -> None:
    """|.|_inf has prox x - projection on the l1 ball; its conjugate is that ball's indicator."""

    def prox_of_largest(x: Tensor, step: float) -> Tensor:
        return x - L1Ball(step).project(x)

    torch.testing.assert_close(prox_of_conjugate(prox_of_largest, X, 0.7), L1Ball(1.0).project(X))
    # and back: applying the identity twice returns the map itself
    back = prox_of_conjugate(lambda x, step: prox_of_conjugate(prox_of_largest, x, step), X, 0.7)
    torch.testing.assert_close(back, prox_of_largest(X, 0.7))


@settings(max_examples=80, deadline=None)
@given(st.floats(-20, 20), st.floats(0, 5), st.floats(0, 5))
def test_elastic_net_satisfies_its_subgradient_condition(x: float, l1: float, l2: float) -> None:
    z = elastic_net(torch.tensor(x, dtype=torch.float64), l1, l2).item()
    force = x - z - l2 * z
    if z != 0:
        assert force == pytest.approx(l1 * (1 if z > 0 else -1), abs=1e-12 * (1 + abs(x)))
    else:
        assert abs(force) <= l1 + 1e-300


def test_masked_coordinates_are_free() -> None:
    mask = torch.tensor([True, True, False, True, False])
    for shrunk in (soft_threshold(X, 1.0, mask), elastic_net(X, 1.0, 2.0, mask)):
        assert torch.equal(shrunk[:, ~mask], X[:, ~mask])
        assert (shrunk[:, mask].abs() < X[:, mask].abs()).all()


def test_weights_complex_numbers_and_zero_groups() -> None:
    weights = torch.tensor([0.0, 0.5, 1.0, 2.0, 9.0], dtype=torch.float64)
    by_column = torch.stack([soft_threshold(X[:, j], weights[j].item()) for j in range(5)], dim=1)
    assert torch.equal(soft_threshold(X, weights), by_column)

    z = torch.complex(randn(6, seed=1), randn(6, seed=2))
    as_groups = group_soft_threshold(torch.view_as_real(z), 0.8)
    torch.testing.assert_close(torch.view_as_real(soft_threshold(z, 0.8)), as_groups)

    with_zero = torch.cat([torch.zeros(1, 5, dtype=torch.float64), X])
    assert torch.equal(group_soft_threshold(with_zero, 0.5)[0], torch.zeros(5, dtype=torch.float64))
    whole = group_soft_threshold(X, 0.5, dim=(0, 1))
    torch.testing.assert_close(whole.norm(), X.norm() - 0.5)
