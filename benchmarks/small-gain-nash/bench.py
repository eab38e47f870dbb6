"""Small-gain Nash beside pygambit on payoff tables, and its steps beside the classical bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
LEFT_OUT = (
    "6x6_game_with_75_eq"  # at precision 1e-6 the peer ran out of memory in a first run; it would take the run down
)


def main(bench: Bench) -> None:
    """All cases."""
    steps(bench)
    tables(bench)


def steps(bench: Bench) -> None:
    """The certified interval of Euler steps against the true threshold and the classical bound."""
    from surefoot.games.models import orthogonal_game
    from surefoot.games.region import bound_region
    from surefoot.games.small_gain import best_weights, classical_steps, euler_steps, lipschitz, margin

    rows = []
    for coupling in (0.25, 0.5, 1.0):
        game = orthogonal_game(coupling)
        bounds = bound_region(game).bounds
        weights = best_weights(bounds.comparison)
        classical = classical_steps(margin(bounds.comparison, weights), lipschitz(bounds, weights)).euler
        values = np.linalg.eigvals(np.asarray(game.jacobian))
        true = float((2 * values.real / np.abs(values) ** 2).min())
        limit = euler_steps(bounds).limit
        rows.append(
            {"coupling": coupling, "certified": limit, "true": true, "classical": classical, "gain": limit / classical}
        )
    bench.table(
        "Longest projected Euler step, linear-quadratic game, d = 64",
        rows,
        says="Certified, true threshold, classical 2 alpha / beta^2.",
    )


def tables(bench: Bench) -> None:
    """Logit equilibria of the payoff tables of the literature, certificate included."""
    from surefoot.data.nfg import read_nfg
    from surefoot.games.logit import certified_precision
    from surefoot.games.problem import FiniteGame

    data = bench.data()
    if data is None:
        bench.note("the payoff tables need SUREFOOT_DATA; this case was left out")
        return
    folder = data / "small-gain-nash" / "nfg"
    precisions = {}
    for path in sorted(folder.glob("*.nfg")):
        largest = certified_precision(FiniteGame(read_nfg(path).payoffs))
        precisions[path.stem] = 0.9 * largest if np.isfinite(largest) else 1.0
    both = {name: p for name, p in precisions.items() if name != LEFT_OUT}
    bench.note(f"{LEFT_OUT} is not asked of pygambit, which runs out of memory on it; ours solves it within the 52")
    sides = [Side("surefoot", HERE / "ours.py"), Side("pygambit", HERE / "gambit_side.py", peer="pygambit")]
    rows = bench.paired(sides, [{"case": "51 tables", "folder": str(folder), "precisions": both}])
    rows += bench.paired(sides[:1], [{"case": "52 tables", "folder": str(folder), "precisions": precisions}])
    found = {(row["case"], row["side"]): row.pop("value") for row in rows}
    mine, theirs = found["51 tables", "surefoot"], found.get(("51 tables", "pygambit"))
    bench.note(
        f"largest proved error bound over 52 tables: {max(v['error'] for v in found['52 tables', 'surefoot'].values()):.2g}"
    )
    if theirs:
        apart = max(np.abs(np.subtract(mine[n]["strategies"], theirs[n]["strategies"])).max() for n in both)
        bench.note(f"largest difference of a probability from pygambit's: {apart:.2g}")
    bench.table(
        "Logit equilibria at 0.9 of the certified precision",
        rows,
        says="Ours with uniqueness proof and error bounds, in batches.",
    )
