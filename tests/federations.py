"""Small federations with known constants, for the tests of DIFF2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from surefoot.core.method import State
from surefoot.core.problem import Constant
from surefoot.core.random import Streams
from surefoot.data.linear_model import LinearModel
from surefoot.numerics.losses import Huber
from surefoot.privacy import mechanism
from surefoot.privacy.federation import Federation
from surefoot.privacy.records import LinearRecords

ONE = Constant(1.0, "exact", "rows of norm at most 1, Huber loss of knee 1")


def table(rows: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of norm 1, targets of a linear model with noise."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    A = A / A.norm(dim=1, keepdim=True)
    x = torch.randn(dim, generator=generator, dtype=torch.float64)
    return A, A @ x + 0.1 * torch.randn(rows, generator=generator, dtype=torch.float64)


def linear(A: Tensor, y: Tensor, sizes: Sequence[int], **more: Any) -> Federation:
    """Consecutive rows dealt to clients of these sizes; Huber loss."""
    parts = zip(torch.split(A, list(sizes)), torch.split(y, list(sizes)), strict=True)
    clients = {p: LinearRecords(LinearModel(a, b, Huber(1.0))) for p, (a, b) in enumerate(parts)}
    constants = {"lipschitz": ONE, "smoothness": ONE, "gap": Constant(3.0, "declared", "stated for the test")}
    return Federation(
        **{"clients": clients, "sizes": tuple(sizes), "constants": constants, "identity": {"A": A, "y": y}, **more}
    )


def full_gradient(A: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Of the mean Huber loss, straight from its definition."""
    return A.T @ (A @ x - y).clamp(-1.0, 1.0) / len(y)


def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases without noise (the ledger is kept as always)."""

    def release(self: Any, value: Tensor, name: str, index: int, **more: Any) -> Tensor:
        return value.double()

    monkeypatch.setattr(mechanism.Gaussian, "release", release)


def rounds(problem: Any, method: Any, number: int, seed: int | None = 0, watch: Any = None) -> Any:
    """The state after so many rounds, one a step; `watch(state)` after each."""
    state: State = method.init(problem, None, Streams(seed))
    for k in range(number):
        state.limit = k + 1
        state = method.step(problem, state)
        if watch is not None:
            watch(state)
    return state
