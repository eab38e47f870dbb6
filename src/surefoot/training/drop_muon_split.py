"""A sequence of blocks whose first part runs without a graph: the smallest memory, and one compiled function a block."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["SplitSequential"]


class SplitSequential(nn.Sequential):
    """Blocks one after another; those before `cut` under ``no_grad``, their result detached.

    ``DropMuon(SplitSequential(...), mode="split")`` moves the cut to the first block that holds a drawn layer. Activation checkpointing
    in the first part recomputes nothing. In eval mode, and while the optimiser is `thawed`, nothing is cut.
    """

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.cut = 0

    def cut_at(self, drawn: Iterable[Tensor]) -> None:
        """Cut before the first block that holds one of these parameters."""
        wanted = {id(p) for p in drawn}
        self.cut = next((i for i, block in enumerate(self) if any(id(p) in wanted for p in block.parameters())), 0)

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Sequential``."""
        x, blocks = input, list(self)
        cut = self.cut if self.training else 0
        if cut:
            with torch.no_grad():
                for block in blocks[:cut]:
                    x = block(x)
            x = x.detach()
        for block in blocks[cut:]:
            x = block(x)
        return x
