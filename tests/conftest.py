"""Shared by all tests: one thread a worker, and where real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def surefoot_data() -> Path:
    """The folder of real data files; tests that need it skip where it is absent."""
    text = os.environ.get("SUREFOOT_DATA")
    if not text or not Path(text).is_dir():
        pytest.skip("SUREFOOT_DATA is not set: the real data files are not at hand")
    return Path(text)
