"""A picture of the training while it runs: the judged photo beside its render, replaced now and then, whole or not at all."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.core.solve import Moment
from surefoot.records.files import write_bytes
from surefoot.splatting.problem import Capture
from surefoot.splatting.train import TrainConvexes, TrainState

__all__ = ["NAME", "Preview"]

NAME = "preview.png"
WIDEST = 800  # pixels of the photo
log = logging.getLogger(__name__)


class Preview:
    """A watch of `solve` that writes ``figures/preview.png`` of a run directory.

    Args:
        root: the run directory.
        every: seconds between pictures, and before the first; also the share of time is bounded: a picture that took t seconds is
            followed by at least 20 t without one.
    """

    def __init__(self, root: Path, problem: Capture, trainer: TrainConvexes, every: float) -> None:
        self.path, self.problem, self.trainer, self.every = root / "figures" / NAME, problem, trainer, every
        self.next = time.monotonic() + every

    def __call__(self, moment: Moment) -> str | None:
        began = time.monotonic()
        if began < self.next:
            return None
        assert isinstance(moment.state, TrainState)
        self.draw(moment.state)
        now = time.monotonic()
        self.next = now + max(self.every, 20 * (now - began))
        return None

    def draw(self, state: TrainState) -> None:
        """Write the picture."""
        from PIL import Image

        index = (self.problem.test or self.problem.train)[0]
        pair = [self.problem.photos[index], self.trainer.shown(self.problem, state, index).numpy()]
        pixels: Any = np.round(255 * np.clip(np.concatenate(pair, axis=1), 0, 1)).astype(np.uint8)
        step = max(1, -(-pair[0].shape[1] // WIDEST))
        data = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).save(data, "PNG")
        self.path.parent.mkdir(exist_ok=True)
        write_bytes(self.path, data.getvalue())
        log.debug("step %d: %s", state.k, self.path)
