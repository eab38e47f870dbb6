"""Rates beside AutoLyap, n-step worst cases beside PEPit, the published table, and the dichotomy of heavy ball."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
AUTOLYAP = Side("AutoLyap 0.2.1", HERE / "autolyap_side.py", peer="autolyap")
PEPIT = Side("PEPit 0.5.1", HERE / "pepit_side.py", peer="pepit")
KAPPAS = (10.0, 25.0, 100.0, 1000.0, 10000.0)
# Computed for this project by two independent programs up to 1e2 (NAG, HB), by one beyond; GD and TMM have closed forms.
PUBLISHED = {
    "nag": {2: 0.36607, 4: 0.58214, 10: 0.751821, 25: 0.849622, 100: 0.927933, 1000: 0.97807, 10000: 0.99320},
    "nag-quadratic": {2: 0.31982, 4: 0.53314, 10: 0.71576, 25: 0.82617, 100: 0.91644},
    "hb": {2: 0.33611, 4: 0.58960, 10: 0.86041},
}


def truth(method: str, kappa: float) -> float | None:
    """The exact rate where a closed form is known."""
    if method == "gd":
        return (kappa - 1) / (kappa + 1)
    return 1 - 1 / math.sqrt(kappa) if method == "tmm" else None


def rates(bench: Bench) -> None:
    requests = [
        {"case": f"{name}, {kappa:g}", "method": name, "kappa": kappa}
        for kappa in (KAPPAS[:2] if bench.quick else KAPPAS)
        for name in ("gd", "nag", "tmm")
    ]
    rows = bench.paired([OURS, AUTOLYAP], requests)
    for row, request in zip(rows, [r for r in requests for _ in range(len(rows) // len(requests))], strict=True):
        value: Any = row.pop("value")
        exact = truth(request["method"], request["kappa"])
        rate, lower = value["rate"], value.get("lower")
        if rate is None:
            row["ratio"] = None  # the time of giving up is no speed
        row |= {"rate": rate, "truth": exact, "proved": value["proved"], "floor_by": value.get("floor_by")}
        row["error"] = None if rate is None else rate - exact if exact is not None else rate - lower if lower else None
    says = (
        "Seconds of one rate: ours with an exact proof of the rate and a proof that no rate 1e-5 lower can be certified; "
        "AutoLyap through CVXPY and Clarabel to 1e-6, the square root of its factor; an empty rate means that it gave none. "
        "Error: distance to the closed form, for Nesterov to our proved lower end."
    )
    columns = (
        "case",
        "side",
        "median_s",
        "min_s",
        "max_s",
        "ratio",
        "repeats",
        "rate",
        "truth",
        "error",
        "proved",
        "floor_by",
    )
    bench.table("Rates", rows, says=says, columns=columns)
    ours = [row["median_s"] for row in rows if row["side"] == OURS.name]
    peers = [row["ratio"] for row in rows if row["side"] != OURS.name and row["rate"] is not None]
    summary: dict[str, Any] = {"median_s_a_rate": statistics.median(ours), "largest_s_a_rate": max(ours)}
    summary["largest_error"] = max(abs(row["error"]) for row in rows if row["side"] == OURS.name)
    if peers:
        summary |= {"median_ratio": statistics.median(peers), "least_ratio": min(peers)}
        summary["rates_the_peer_gave"] = len(peers)
    bench.table(
        "Rates in short", [summary], says="Over all cases above; ratios are the peer's seconds divided by ours."
    )


def worst_cases(bench: Bench) -> None:
    """No exact worst case of n steps may exceed what the certificate says of n steps."""
    from surefoot.descent import certify_rate
    from surefoot.descent.lyapunov import LyapunovProgram
    from surefoot.descent.rate_proofs import with_transient

    requests = []
    for name in ("gd", "nag", "tmm", "hb"):
        for kappa in (10.0,) if name == "hb" else (10.0, 100.0):
            found = certify_rate(name, kappa=kappa)
            assert found.proof is not None
            proof = with_transient(LyapunovProgram(found.method), found.proof)
            storage = {"P": [[float(x) for x in row] for row in proof.P], "p": [float(x) for x in proof.p]}
            for steps in (1, 5) if bench.quick else (1, 2, 5, 10, 15):
                case = f"{name}, {kappa:g}, {steps} steps"
                requests.append({"case": case, "method": name, "kappa": kappa, "steps": steps, **storage})
    rows = bench.paired([OURS, PEPIT], requests)
    table, within = [], []
    for mine, peer in zip(rows[::2], rows[1::2], strict=True):
        row = {"case": mine["case"], "surefoot_s": mine["median_s"], "pepit_s": peer["median_s"]}
        for start in ("from_state", "from_lyapunov"):
            bound, worst = mine["value"][start], peer["value"][start]
            row |= {f"bound_{start}": bound, f"worst_case_{start}": worst}
            if worst is not None:
                within.append(worst <= bound * (1 + 1e-6))
        table.append({**row, "within": all(within[-2:])})
    says = (
        "PEPit's exact worst case of n steps over F_{m,L} (one semidefinite program each, through CVXPY and Clarabel) and the "
        "certificate's bound for it. From state: the largest |xi_n|^2 with |xi_0|^2 <= 1, at most c rho^(2n) by the proved "
        "constant c. From Lyapunov: the same with V_0 <= 1, at most rho^(2n). Seconds: ours for rate and constant with their "
        "proofs, one answer for every n; PEPit's for the state form. An empty worst case means that the solver gave up."
    )
    if not all(within):
        bench.note("A worst case of PEPit exceeds the certified bound: see the table of worst cases.")
    bench.table("Worst cases", table, says=says)


def published(bench: Bench) -> None:
    from surefoot.descent import certify_rate

    rows = []
    for name, known in PUBLISHED.items():
        for kappa, value in known.items():
            found = certify_rate(name, kappa=float(kappa))
            proved = found.proof is not None and found.proof.is_proof()
            rows.append(
                {
                    "method": name,
                    "kappa": kappa,
                    "known": value,
                    "rate": found.rho,
                    "difference": found.rho - value,
                    "proved": proved,
                }
            )
    bench.table(
        "The table of the sheet", rows, says="Rates known from other programs, to the digits they were printed with."
    )


def dichotomy(bench: Bench) -> None:
    from surefoot.descent import certify_rate, find_cycle
    from surefoot.descent.momentum import fixed_step

    rows = []
    for kappa in (10.0, 17.0, 17.9, 17.94, 17.95, 18.0, 25.0, 100.0):
        found = certify_rate("hb", kappa=kappa)
        cycle = find_cycle(fixed_step("hb", 1 / kappa, 1.0))
        rows.append({
            "kappa": kappa, "certified_rate": found.rho if found.proof is not None else None,
            "proved": found.proof is not None and found.proof.is_proof(), "cycle_of": None if cycle is None else len(cycle.values),
        })  # fmt: skip
    bench.table(
        "Heavy ball",
        rows,
        says="Polyak's parameters: certified up to 17.94, an explicit cycle from 9 + 4 sqrt 5 = 17.944 on.",
    )


def main(bench: Bench) -> None:
    if bench.wants("rates"):
        rates(bench)
    if bench.wants("worst-cases") and bench.peers:
        worst_cases(bench)
    if bench.wants("published"):
        published(bench)
    if bench.wants("heavy-ball"):
        dichotomy(bench)
