"""Norms of layers against dense matrices of the same operators; bounds are never below them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from surefoot.numerics.layer_norms import column_row_bound, convolution_norm, dense_norm, gram_bound, polyphase

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR)


def dense_convolution(
    kernel: torch.Tensor, size: tuple[int, int], stride: tuple[int, int], circular: bool
) -> torch.Tensor:
    """The matrix of a convolution, column by column."""
    basis = torch.eye(kernel.shape[1] * size[0] * size[1], dtype=torch.float64).view(-1, kernel.shape[1], *size)
    if circular:
        basis = functional.pad(basis, (0, kernel.shape[3] - 1, 0, kernel.shape[2] - 1), mode="circular")
        return functional.conv2d(basis, kernel, stride=stride).flatten(1).T
    return (
        functional.conv2d(basis, kernel, stride=stride, padding=(kernel.shape[2] // 2, kernel.shape[3] // 2))
        .flatten(1)
        .T
    )


@pytest.mark.parametrize("shape", [(5, 3), (3, 7), (4, 4), (1, 6)])
def test_a_dense_norm_is_numpys(shape: tuple[int, int]) -> None:
    W = normal(*shape)
    exact = float(np.linalg.norm(W.numpy(), 2))
    assert exact <= dense_norm(W) <= exact * (1 + 1e-12)
    assert exact <= gram_bound(W) * (1 + 1e-12)
    assert gram_bound(W, iterations=12) <= exact * 1.001
    assert exact <= column_row_bound(W)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("taps", [(3, 3), (2, 3), (5, 1)])
def test_a_circular_convolutions_norm_is_exact(taps: tuple[int, int], stride: tuple[int, int]) -> None:
    kernel, size = normal(3, 2, *taps), (6, 8)
    exact = float(torch.linalg.matrix_norm(dense_convolution(kernel, size, stride, circular=True), 2))
    assert convolution_norm(kernel, size, stride, circular=True) == pytest.approx(exact, rel=1e-10)
    assert convolution_norm(kernel, size, stride, circular=True) >= exact * (1 - 1e-14)
    assert exact <= convolution_norm(kernel, size, stride, circular=True, gram=True) <= exact * 1.1
    assert exact <= column_row_bound(kernel)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2)])
def test_a_zero_padded_convolution_is_bounded_closely(stride: tuple[int, int]) -> None:
    kernel, size = normal(4, 3, 3, 3), (9, 7)
    exact = float(torch.linalg.matrix_norm(dense_convolution(kernel, size, stride, circular=False), 2))
    assert exact <= convolution_norm(kernel, size, stride) <= 1.25 * exact


def test_phases_are_the_strided_convolution() -> None:
    kernel, image = normal(3, 2, 3, 4), normal(1, 2, 9, 9)
    expected = functional.conv2d(image, kernel, stride=(2, 3))
    padded = functional.pad(image, (0, 3, 0, 3))[:, :, :12, :12]
    phases = padded[:, :, :12, :12].reshape(1, 2, 6, 2, 4, 3).permute(0, 1, 3, 5, 2, 4).reshape(1, 12, 6, 4)
    found = functional.conv2d(phases, polyphase(kernel, (2, 3)))
    torch.testing.assert_close(found[:, :, : expected.shape[2], : expected.shape[3]], expected)


def test_numbers_that_are_none_and_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        dense_norm(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match="matrix"):
        dense_norm(torch.zeros(3))
    with pytest.raises(ValueError, match="divides the size"):
        convolution_norm(normal(1, 1, 3, 3), (7, 8), (2, 2), circular=True)
