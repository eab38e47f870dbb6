"""Losses of one prediction against one label, with the constants that bounds are made of.

A loss takes predictions ``z`` and labels ``y`` and works elementwise on torch tensors, in their dtype and on
their device. All derivatives are with respect to the prediction. Binary labels are -1 and +1.

Every loss also knows its convex conjugate and proximal map, which duality gaps and splitting methods need,
and its constants over the whole line, which rates and privacy budgets need. The constants are exact: each is
attained or approached, and the tests check both sides.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from types import MappingProxyType

from surefoot.numerics.losses.base import Loss, LossConstants
from surefoot.numerics.losses.binary import Hinge, Logistic, Sigmoid, SmoothedHinge
from surefoot.numerics.losses.multiclass import Softmax
from surefoot.numerics.losses.regression import Huber, Pinball, Squared

__all__ = [
    "LOSSES",
    "Hinge",
    "Huber",
    "Logistic",
    "Loss",
    "LossConstants",
    "Pinball",
    "Sigmoid",
    "SmoothedHinge",
    "Softmax",
    "Squared",
    "loss",
]

LOSSES: Mapping[str, Callable[..., Loss]] = MappingProxyType(
    {
        "squared": Squared,
        "huber": Huber,
        "pinball": Pinball,
        "logistic": Logistic,
        "sigmoid": Sigmoid,
        "hinge": Hinge,
        "smoothed_hinge": SmoothedHinge,
        "softmax": Softmax,
    }
)
"""The losses by name, for options and files."""


def loss(name: str, **options: float) -> Loss:
    """The loss of that name.

    Args:
        name: a key of `LOSSES`.
        options: the loss's own fields, for instance ``knee=0.5`` for ``"huber"``.

    Returns:
        The loss.

    Raises:
        ValueError: if no loss has that name, or it does not take these options.

    Example:
        >>> loss("huber", knee=0.5).constants.lipschitz
        0.5
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"No loss is called {name!r}.{hint} Known: {', '.join(sorted(LOSSES))}.")
    try:
        return LOSSES[name](**options)
    except TypeError as error:
        raise ValueError(f"Loss {name!r} does not take the options {sorted(options)}: {error}.") from error
