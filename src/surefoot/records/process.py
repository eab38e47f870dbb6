"""This process: polite interrupts and memory."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

import torch

log = logging.getLogger(__name__)


@contextmanager
def polite_interrupt() -> Generator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) is remembered, the second one raises."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def remember(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        log.warning("finishing this step; interrupt again to stop at once")

    old = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def peak_memory() -> int:
    """Peak bytes of this process, and of the CUDA device where one was used."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak + (torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0)
