"""Floating-point operations of what torch does, counted by torch's own formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

__all__ = ["CountOperations"]


class CountOperations(TorchDispatchMode):
    """``with CountOperations() as counter: ...`` then ``counter.total``: matrix products, convolutions and attention, 2 for a product and a sum.

    The sum that ``torch.utils.flop_counter.FlopCounterMode`` gives, without a count a module, and without the compiler that the first call of the
    latter imports (a second or more). For code under autograd, which takes composite operations apart before they are seen here.
    """

    total: int

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: the dispatch below is not wrapped by the compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        out = func(*args, **given)
        formula: Any = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **given, out_val=out))
        return out
