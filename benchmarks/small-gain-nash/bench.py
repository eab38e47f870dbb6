"""Small-gain Nash beside the peers on payoff tables and a market, its steps beside the true thresholds, the paper's experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import reproduction

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
FINE = 1e-3
"""pygambit's first step along its path for the comparison of answers; with its default some answers are good to 3e-7 only."""


def main(bench: Bench) -> None:
    """All cases."""
    if bench.wants("paper"):
        reproduction.all_cases(bench)
    if bench.wants("logit"):
        logit(bench)
    if bench.wants("nash"):
        nash(bench)
    if bench.wants("cournot"):
        cournot(bench)


def tables(bench: Bench) -> dict[str, Any]:
    """The payoff tables of the literature by name, or nothing."""
    from surefoot.data.nfg import read_nfg

    data = bench.data()
    if data is None:
        bench.note("the payoff tables need SUREFOOT_DATA; cases on them were left out")
        return {}
    return {path.stem: read_nfg(path).payoffs for path in sorted((data / "small-gain-nash" / "nfg").glob("*.nfg"))}


def logit(bench: Bench) -> None:
    """Logit equilibria of the tables, one at a time, certificate included."""
    from surefoot.games.logit import certified_precision
    from surefoot.games.problem import FiniteGame

    games = tables(bench)
    if not games:
        return
    largest = {name: certified_precision(FiniteGame(payoffs)) for name, payoffs in games.items()}
    precisions = {name: 0.9 * p if np.isfinite(p) else 1.0 for name, p in largest.items()}
    huge = [name for name, payoffs in games.items() if np.abs(payoffs).max() > 1e5]
    request = {
        "what": "logit", "precisions": precisions, "tables": {n: p.tolist() for n, p in games.items()},
        "divisors": dict.fromkeys(huge, 2**20),
    }  # fmt: skip
    sides = [OURS, Side("pygambit", HERE / "gambit_side.py", peer="pygambit")]
    rows = bench.paired(sides, [{"case": f"{len(games)} tables", **request}], repeats=max(bench.repeats, 9))
    fine = bench.paired(sides, [{"case": "fine path", **request, "first_step": FINE}], repeats=3)
    found = {row["side"]: row.pop("value") for row in rows}
    bench.note(
        f"largest proved error bound of a logit equilibrium: {max(v['error'] for v in found['surefoot'].values()):.2g}"
    )
    theirs = {row["side"]: row.pop("value") for row in fine}
    for label, answers in (("default", found), (f"first_step={FINE:g}", theirs)):
        if "pygambit" in answers:
            apart = {n: _apart(found["surefoot"][n], answers["pygambit"][n]) for n in games}
            name = max(apart, key=lambda n: apart[n])
            bench.note(f"largest difference of a probability from pygambit's ({label}): {apart[name]:.2g}, on {name}")
    if huge:
        bench.note(
            f"pygambit runs out of memory on {', '.join(huge)} as it stands (largest payoff 1.7 million); it was given the same game with "
            "payoffs divided, and the precision multiplied, by 2^20"
        )
    bench.table(
        "Logit equilibria at 0.9 of the certified precision, one table at a time", rows + fine,
        says="Ours with the proof that the equilibrium is unique and error bounds; pygambit without.",
    )  # fmt: skip


def _apart(mine: dict[str, Any], other: dict[str, Any]) -> float:
    return float(np.abs(np.subtract(mine["strategies"], other["strategies"])).max())


def nash(bench: Bench) -> None:
    """Is the Nash equilibrium unique? Each peer's list of equilibria beside our verdict."""
    games = tables(bench)
    if not games:
        return
    sides = [OURS] + [
        Side(peer, HERE / f"{script}_side.py", peer=peer)
        for peer, script in (("pygambit", "gambit"), ("nashpy", "nashpy"), ("quantecon", "quantecon"), ("open-spiel", "open_spiel"))
    ]  # fmt: skip
    two = {n: p.tolist() for n, p in games.items() if p.ndim == 3}
    more = {n: p.tolist() for n, p in games.items() if p.ndim > 3}
    rows, verdicts = [], {}
    for label, chosen in (("two players", two), ("three and more", more)):
        case = {"case": f"{len(chosen)} tables, {label}", "what": "nash", "tables": chosen}
        for row in bench.paired(sides, [case], repeats=3):
            value = row.pop("value")
            if row["side"] == "surefoot":
                verdicts |= {n: v["outcome"] for n, v in value.items()}
            single = [n for n, v in value.items() if v["found"] == 1]
            wrong = sum(verdicts.get(n) == "fails" for n in single)
            regrets = [v["regret"] for v in value.values() if v["regret"] is not None]
            rows.append({
                "case": row["case"], "side": row["side"], "median_s": row["median_s"], "refused": sum(not v["found"] for v in value.values()),
                "worst_regret": max(regrets, default=None), "several_but_one_listed": wrong, "proves_uniqueness": row["side"] == "surefoot",
            })  # fmt: skip
    counts = {o: list(verdicts.values()).count(o) for o in ("holds", "fails", "undecided")}
    bench.note(f"Nash uniqueness over {len(verdicts)} tables: " + ", ".join(f"{n} {o}" for o, n in counts.items()))
    bench.table(
        "Nash equilibria of the payoff tables", rows,
        says="Seconds over all tables; the largest regret over the largest payoff of any equilibrium listed; on how many tables a side lists "
        "one equilibrium where there are several. pygambit: enummixed, enumpoly; nashpy: vertex enumeration; quantecon: vertex enumeration, "
        "McLennan-Tourky; open-spiel: 2,000 steps of projected replicator dynamics. Ours stops at two proved equilibria for three and more players.",
    )  # fmt: skip


def cournot(bench: Bench) -> None:
    """The five-firm market: nashopt's KKT solve beside certified play."""
    from surefoot.games.models import COURNOT_EQUILIBRIUM

    sides = [OURS, Side("nashopt", HERE / "nashopt_side.py", peer="nashopt")]
    start = (np.array(COURNOT_EQUILIBRIUM) + 2.0).tolist()
    rows = bench.paired(sides, [{"case": "Cournot, box +-3", "what": "cournot", "radius": 3.0, "start": start}])
    for row in rows:
        value = row.pop("value")
        row["distance_to_published"] = float(np.abs(np.subtract(value["x"], COURNOT_EQUILIBRIUM)).max())
        row["proved_error"] = value.get("error")
    bench.table(
        "Five-firm Cournot equilibrium", rows,
        says="Ours bounds the region, proves rate, steps, existence, uniqueness and the error, and then plays; nashopt solves the KKT conditions.",
    )  # fmt: skip
