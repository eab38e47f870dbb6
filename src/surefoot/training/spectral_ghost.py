"""Batch normalisation with the statistics of ghost batches: a network whose rows are whole ghost batches.

In train mode a row's output depends on the other rows of its batch, and a batch's curvature is no mean over rows. It is a mean over *ghost batches*, groups of q
rows that share their statistics and nothing else (what each device of data-parallel training does). Taking such groups as the rows makes
the theory apply again, with batches of whole groups.

References:
    E. Hoffer, I. Hubara, D. Soudry, "Train longer, generalize better", 2017 (ghost batch normalisation).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.training.spectral_rows import count, everywhere, output_of, take

__all__ = ["GhostBatches", "GhostLoss", "in_ghost_batches"]


class _GhostNorm(nn.Module):
    """Batch normalisation over groups of q rows, in elementary operations: every mode of differentiation is right for these."""

    def __init__(self, norm: Any, size: int) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.size = norm.weight, norm.bias, norm.eps, size

    def forward(self, x: Tensor) -> Tensor:
        groups = x.unflatten(0, (-1, self.size))
        over = (1, *range(3, groups.ndim))
        centred = groups - groups.mean(over, keepdim=True)
        scaled = centred * (centred.square().mean(over, keepdim=True) + self.eps).rsqrt()
        if self.weight is not None:
            shape = (-1, *[1] * (groups.ndim - 3))
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.flatten(0, 1)


class GhostBatches(nn.Module):
    """A network on inputs (u, q, ...): u ghost batches of q rows each, to outputs (u, q, ...).

    Args:
        model: any network with batch normalisation; it is copied, and stays as it is.
        size: q >= 2.

    Raises:
        ValueError: no batch normalisation in the model, or ghost batches of one row.
    """

    def __init__(self, model: nn.Module, size: int) -> None:
        super().__init__()
        if size < 2:
            raise ValueError(f"a ghost batch of {size} rows has no statistics; expected at least 2")
        self.inner, self.size = copy.deepcopy(model).eval(), size
        names = [name for name, m in self.inner.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not names:
            raise ValueError(
                "the model has no batch normalisation, so that there are no ghost batches to measure; leave the statistics at 'running'"
            )
        for name in names:
            if name:
                self.inner.set_submodule(name, _GhostNorm(self.inner.get_submodule(name), size))
            else:
                self.inner = _GhostNorm(self.inner, size)
        self.eval()

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """Outputs by ghost batch."""
        arguments, named = (everywhere(lambda t: t.flatten(0, 1), part) for part in (arguments, named))
        return output_of(self.inner(*arguments, **named)).unflatten(0, (-1, self.size))


class GhostLoss:
    """The mean loss of every ghost batch, from a loss of every row."""

    def __init__(self, losses: Any) -> None:
        self.losses = losses

    def __call__(self, outputs: Tensor, targets: Any) -> Tensor:
        each = self.losses(outputs.flatten(0, 1), everywhere(lambda t: t.flatten(0, 1), targets))
        return each.view(outputs.shape[:2]).mean(dim=1)


def in_ghost_batches(problem: Any, size: int, generator: Any) -> dict[str, Any]:
    """Model, inputs, targets, criterion and unit of a `Curvature` whose rows are ghost batches of q rows each, dealt at random.

    Rows that fill no ghost batch are left out.

    Args:
        problem: (model, inputs, targets, losses of rows).
        size: q.
        generator: a numpy generator for the dealing.
    """
    model, inputs, targets, losses = problem
    order = torch.from_numpy(generator.permutation(count(inputs)))
    whole = order[: len(order) // size * size]
    if len(whole) < 2 * size:
        raise ValueError(
            f"{len(order)} rows make fewer than two ghost batches of {size}; give more rows, or smaller ghost batches"
        )

    def dealt(rows: Any) -> Any:
        return everywhere(lambda t: t.unflatten(0, (-1, size)), take(rows, whole))

    return {
        "model": GhostBatches(model, size), "inputs": dealt(inputs), "targets": dealt(targets), "criterion": GhostLoss(losses), "unit": size,
    }  # fmt: skip
