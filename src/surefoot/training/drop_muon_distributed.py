"""What Drop-Muon does over several ranks: one draw, gradients of drawn layers only, and the polar factors shared out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["average_gradients", "full", "like_shards", "shared_draws", "with_owners"]


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def full(values: Any) -> Tensor:
    """The whole of a sharded tensor (a collective call), or the tensor."""
    return values.full_tensor() if hasattr(values, "full_tensor") else values


def like_shards(values: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank holds whole, laid out as `like` is; nothing is sent."""
    if not hasattr(like, "device_mesh") or hasattr(values, "device_mesh"):
        return values
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(values, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]


def average_gradients(gradients: Sequence[Tensor]) -> None:
    """Mean over all ranks, in place: one message a dtype, holding only the layers that were drawn."""
    if _ranks() == 1 or not gradients:
        return
    for dtype in {g.dtype for g in gradients}:
        mine = [g for g in gradients if g.dtype == dtype]
        flat = torch.cat([g.reshape(-1) for g in mine])
        dist.all_reduce(flat)
        flat /= _ranks()
        for g, part in zip(mine, flat.split([g.numel() for g in mine]), strict=True):
            g.copy_(part.reshape(g.shape))


def with_owners(tasks: Sequence[Callable[[], Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
    """Task j is done by rank j mod ranks and its matrix sent to all; each rank returns all of them, bit for bit the same."""
    ranks = _ranks()
    if ranks == 1:
        return [task() for task in tasks]
    me = dist.get_rank()
    found = [
        task().to(M.dtype).contiguous() if j % ranks == me else torch.empty_like(M).contiguous()
        for j, (task, M) in enumerate(zip(tasks, like, strict=True))
    ]
    under_way = [dist.broadcast(matrix, src=j % ranks, async_op=True) for j, matrix in enumerate(found)]
    for work in under_way:
        if work is not None:
            work.wait()
    return found


def shared_draws(probabilities: Any, device: torch.device) -> Any:
    """Rank 0's probabilities, on every rank."""
    if _ranks() == 1:
        return probabilities
    values = torch.as_tensor(np.asarray(probabilities, dtype=float)).to(device)
    dist.broadcast(values, src=0)
    return values.cpu().numpy()
