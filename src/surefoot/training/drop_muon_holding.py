"""Holding back the layers that are not drawn: no gradient is computed for them, and none is left over from before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from surefoot.training.drop_muon_split import SplitSequential

__all__ = ["MODES", "Holding"]

MODES = ("freeze", "inputs", "split")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Mask = np.ndarray[Any, np.dtype[Any]]


class Holding:
    """Which layers the coming step updates, made true in the parameters.

    Args:
        module: the network, where it is known.
        mode: "freeze" and "split" switch ``requires_grad``, "split" moves the cut of a `SplitSequential`, too; "inputs" leaves both alone.
        frozen_statistics: batch norms of layers held back keep their running statistics.

    Attributes:
        mask: the drawn layers (b,).
        trained: the parameters that are trained at all.
    """

    def __init__(self, module: nn.Module | None, mode: str, frozen_statistics: bool) -> None:
        self.module, self.mode, self.frozen_statistics = module, mode, frozen_statistics
        self.mask: Mask = np.ones(0, dtype=bool)
        self.trained: Sequence[Tensor] = ()
        self._layer: Mapping[Tensor, int] = {}
        self._thawed = False
        self._statistics: dict[nn.Module, Any] = {}

    def index(self, layer: Mapping[Tensor, int]) -> None:
        """Which layer each parameter belongs to, from now on. One that another optimiser of this kind holds back counts as trained."""
        self._layer = layer
        self.trained = [p for p in layer if p.requires_grad or getattr(p, "held_back", False)]

    def active(self) -> list[Tensor]:
        """Parameters of the drawn layers."""
        return [p for p in self.trained if self.mask[self._layer[p]]]

    def hold(self, mask: Mask) -> None:
        """Let the coming step update these layers (b,) and no others."""
        self.mask = mask
        for p in self.trained:
            held = not mask[self._layer[p]]
            if held:
                p.grad = None
            if self.mode != "inputs":
                _hold(p, held and not self._thawed)
        if self.mode == "split" and isinstance(self.module, SplitSequential) and not self._thawed:
            self.module.cut_at(self.active())
        if self.frozen_statistics:
            self._hold_statistics()

    def thaw(self) -> None:
        """Every parameter requires its gradient, until `refreeze`."""
        self._thawed = True
        for p in self.trained:
            _hold(p, False)
        if isinstance(self.module, SplitSequential):
            self.module.cut = 0

    def refreeze(self) -> None:
        """Back to the drawn layers; gradients of the others are dropped."""
        self._thawed = False
        self.hold(self.mask)

    def _hold_statistics(self) -> None:
        assert self.module is not None
        for module in self.module.modules():
            if isinstance(module, BATCH_NORMS) and module.track_running_stats:
                own = [p for p in module.parameters(recurse=False) if p in self._layer]
                usual = self._statistics.setdefault(module, module.momentum)
                held = bool(own) and not any(self.mask[self._layer[p]] for p in own)
                module.momentum = 0.0 if held else usual  # running <- (1 - momentum) running + momentum batch

    def follow_shards(self) -> None:
        """With sharded parameters the module computes with gathered ones: they are held back where it is about to use them."""
        if self.mode == "inputs" or self.module is None or not any(is_sharded(p) for p in self.module.parameters()):
            return

        def follow(m: nn.Module, _: Any) -> None:
            for name, p in m.named_parameters(recurse=False):
                layer = held.get((m, name))
                if layer is not None and p.is_leaf:
                    p.requires_grad_(bool(self.mask[layer]) or self._thawed)

        held: dict[tuple[nn.Module, str], int] = {}
        for m in self.module.modules():
            for name, p in m.named_parameters(recurse=False):
                if p in self._layer:
                    held[m, name] = self._layer[p]
            if any(key[0] is m for key in held):
                m.register_forward_pre_hook(follow)


def is_sharded(p: Tensor) -> bool:
    """Whether a parameter is spread over ranks (a DTensor)."""
    return hasattr(p, "device_mesh")


def _hold(p: Tensor, held: bool) -> None:
    p.held_back = held  # type: ignore[attr-defined]
    p.requires_grad_(not held)
