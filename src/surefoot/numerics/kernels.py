"""What compiled kernels need of the process: NVIDIA Warp, started without a word on standard error where there is no GPU (what it says
goes to the log), and torch's threads out of their way."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["one_torch_thread", "start_warp"]

log = logging.getLogger(__name__)


@cache
def start_warp() -> Any:
    """The module `warp`, initialised. Its native part writes straight to the file descriptor, so that is turned aside meanwhile.

    Raises:
        ImportError: the extra `kernels` is missing.
    """
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            wp.init()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        if text := said.read().decode(errors="replace").strip():
            log.debug("%s", text)
    return wp


@contextmanager
def one_torch_thread() -> Generator[None]:
    """torch on one thread for the duration: its others would wait busily on the cores that the kernels' threads need."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
