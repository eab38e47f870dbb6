"""The equilibrium as a table that spreadsheets and statistics programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from surefoot.games.problem import FiniteGame, MarkovGame, SmoothGame
from surefoot.records.files import write_csv

Array = np.ndarray[Any, np.dtype[Any]]


def labels(game: SmoothGame | FiniteGame | MarkovGame) -> tuple[list[str], list[str]]:
    """Player and strategy of every number of an answer."""
    if isinstance(game, SmoothGame):
        rows = [(name, f"x{k + 1}") for name, size in zip(game.names, game.blocks, strict=True) for k in range(size)]
    elif isinstance(game, FiniteGame):
        rows = [(name, action) for name, actions in zip(game.names, game.actions, strict=True) for action in actions]
    else:
        rows = [
            (f"player {i + 1}", f"state {s + 1} action {a + 1}")
            for i, actions in enumerate(game.actions)
            for s in range(len(game.start))
            for a in range(actions)
        ]
    return [player for player, _ in rows], [strategy for _, strategy in rows]


def write_equilibrium(answer: Array, game: SmoothGame | FiniteGame | MarkovGame, folder: Path) -> None:
    """Write equilibrium.csv with the columns player, strategy, value."""
    players, strategies = labels(game)
    write_csv(folder / "equilibrium.csv", {"player": players, "strategy": strategies, "value": np.asarray(answer)})
