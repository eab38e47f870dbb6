"""The bound on torch's threads."""

from __future__ import annotations

import pytest
import torch

from surefoot.numerics.threads import torch_threads


def refused() -> None:
    with torch_threads(1):
        assert torch.get_num_threads() == 1
        raise KeyError


def test_threads_are_fewer_within_and_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyError):
            refused()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        with torch_threads(8):  # a bound, not a wish
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
