"""Tables that both sides read: made here once, as npz files in a scratch folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from surefoot.causal.card import CARD
from surefoot.causal.simulate import equal_variance_model
from surefoot.core.system import Inputs


def sachs(folder: Path) -> str:
    """The Sachs sample of the card with the consensus graph; '' where the card falls back to another sample."""
    inputs = Inputs({})
    table: Any = CARD.load(CARD.preset(), inputs)
    if inputs.records[0]["origin"] != "sachs-cdt":
        return ""
    path = folder / "sachs.npz"
    np.savez(path, values=np.asarray(table.values), truth=np.asarray(table.truth))
    return str(path)


def equal(folder: Path, variables: int, variance: float, seed: int) -> str:
    """An equal-variance model, ER4, 1,000 rows (two rows a variable where that is more)."""
    model = equal_variance_model(seed, variables, variance=variance, rows=max(1000, 2 * variables))
    path = folder / f"er4-{variables}-{variance:g}-{seed}.npz"
    np.savez(path, values=model.values, truth=model.weights != 0)
    return str(path)
