"""DIFF2 between real processes: every process holds one client's table and sends messages over gloo; rank 0 is also the server.

    torchrun --nproc-per-node=4 examples/diff2_processes.py 'site-{rank}.csv' --epsilon 1 --out runs/federated

Every file has numbers only, the target last. Columns are taken as they are: scale them by public numbers first. The answer is
the same, bit for bit, as that of one process with the same clients (try --seed 0 --not-private on both).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from surefoot.core.problem import Constant
from surefoot.core.rundir import RunDir
from surefoot.core.solve import solve
from surefoot.data.linear_model import LinearModel
from surefoot.data.tables import read_table
from surefoot.numerics.losses import Huber
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.exchange import Exchange, all_sizes, joined
from surefoot.privacy.federation import Federation
from surefoot.privacy.ledger import Budget
from surefoot.privacy.records import LinearRecords


def records(path: str) -> LinearRecords:
    """One client's table: rows of norm at most 1 with a constant, Huber loss."""
    values = torch.from_numpy(read_table(path).values)
    A = torch.cat([values[:, :-1], torch.ones(len(values), 1, dtype=torch.float64)], dim=1)
    A = A / torch.linalg.vector_norm(A, dim=1, keepdim=True).clamp(min=1.0)
    return LinearRecords(LinearModel(A, values[:, -1].clamp(-5, 5), Huber(1.0)))


def problem(clients: dict[int, LinearRecords], sizes: tuple[int, ...], exchange: Exchange) -> Federation:
    """The federation as this process sees it."""
    one = Constant(1.0, "exact", "rows of norm at most 1, Huber loss of knee 1")
    gap = Constant(4.5, "exact", "targets within 5 of 0")
    return Federation(
        clients=clients, sizes=sizes, exchange=exchange, constants={"lipschitz": one, "smoothness": one, "gap": gap}
    )


def method(asked: argparse.Namespace, journal: Path | None) -> Diff2:
    """Rounds and step fixed beforehand; everything else exact."""
    return Diff2(
        budget=Budget(asked.epsilon, asked.delta), rounds=asked.rounds, restart=asked.restart, step_length=0.5, clip_gradient=1.0,
        trust=asked.trust, allow_large_delta=asked.allow_large_delta, journal=journal,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="path with {rank} in it")
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-6)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--restart", type=int, default=10)
    parser.add_argument("--trust", default="central")
    parser.add_argument("--out", default="")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--not-private", action="store_true")
    parser.add_argument("--allow-large-delta", action="store_true")
    asked = parser.parse_args()
    if asked.seed is not None and not asked.not_private:
        parser.error("a fixed seed undoes privacy; leave --seed out, or say --not-private")
    with joined() as exchange:
        mine = records(asked.table.format(rank=exchange.rank))
        federation = problem({exchange.rank: mine}, all_sizes(exchange, mine.size), exchange)
        folder = RunDir.create(asked.out) if asked.out and exchange.server else None
        journal = folder.root / "private" / "ledger.jsonl" if folder else None
        result: Any = solve(federation, method(asked, journal), seed=asked.seed, run=folder, certify=exchange.server)
        if exchange.server:
            bound = result.certificate.claim("gradient").value
            said = {
                "answer": result.answer.tolist(),
                "steps": result.steps,
                "bytes": result.counts["bytes"],
                "gradient": bound,
            }
            print("@@" + json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
