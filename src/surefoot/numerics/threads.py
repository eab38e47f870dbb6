"""How many threads torch uses, for a while."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch

__all__ = ["torch_threads"]


@contextmanager
def torch_threads(number: int) -> Generator[None]:
    """Let torch use at most `number` CPU threads within, and as many as before afterwards.

    Matrices of a few hundred rows are worked on faster by one thread than by several that wait for each other actively: next to other
    work on the same cores by a factor of ten and more. So do threads of other kernels (Warp's) that need the cores meanwhile.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(min(number, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
