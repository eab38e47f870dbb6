"""NVIDIA Warp, started without a word on standard error where there is no GPU (what it says goes to the log)."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from functools import cache
from typing import Any

__all__ = ["start_warp"]

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
