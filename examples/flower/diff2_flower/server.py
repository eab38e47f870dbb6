"""The Flower server: plans, keeps the ledger, adds the noise (trust "central"), writes a run that `surefoot verify` checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from surefoot.core.problem import Constant
from surefoot.core.rundir import RunDir
from surefoot.core.solve import Result, solve
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.federation import Federation
from surefoot.privacy.ledger import Budget

app = ServerApp()


@dataclass(frozen=True)
class Remote:
    """A client's records as the server sees them: how many, and of how many parameters."""

    size: int
    dim: int

    def gradient_sum(self, w: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        raise NotImplementedError("all clients are asked at once")

    def difference_sum(self, w: Tensor, previous: Tensor, bound: float, rows: Tensor | None = None) -> Tensor:
        raise NotImplementedError("all clients are asked at once")


@dataclass(frozen=True, kw_only=True)
class FlowerFederation(Federation):
    """Clients behind a Flower grid; one round is one message to each."""

    grid: Any = field(repr=False)
    nodes: tuple[int, ...]

    def gradient_messages(self, x: Tensor, bound: float) -> dict[int, Tensor]:
        """Asked of all clients at once."""
        return self._asked([x], bound)

    def difference_messages(self, x: Tensor, previous: Tensor, bound: float) -> dict[int, Tensor]:
        """Asked of all clients at once."""
        return self._asked([x, previous], bound)

    def _asked(self, points: list[Tensor], bound: float) -> dict[int, Tensor]:
        content = RecordDict({
            "points": ArrayRecord([p.numpy() for p in points]),
            "bound": ConfigRecord({"bound": bound * (1.0 - self.rounding)}),
        })  # fmt: skip
        replies = answered(self.grid, self.nodes, content, "train")
        sums = {
            p: torch.from_numpy(np.array(replies[node]["sum"].to_numpy_ndarrays()[0]))
            for p, node in enumerate(self.nodes)
        }
        return {p: float(self.record_weights[p]) * value for p, value in sums.items()}


def answered(grid: Grid, nodes: Iterable[int], content: RecordDict, kind: str) -> Mapping[int, Any]:
    """Every node's reply.

    Raises:
        RuntimeError: a node failed or did not answer; a sum without it would not be the gradient.
    """
    asked = list(nodes)
    messages = [Message(content=content, dst_node_id=node, message_type=kind) for node in asked]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=600)}
    if missing := [n for n in asked if n not in replies or replies[n].has_error()]:
        raise RuntimeError(f"nodes {missing} did not answer; the run ends here, what was released stays in its ledger")
    return {node: reply.content for node, reply in replies.items()}


def trained(grid: Grid, config: Mapping[str, Any]) -> Result[Tensor]:
    """The whole run over the nodes at hand."""
    nodes = tuple(sorted(grid.get_node_ids()))
    sizes = answered(grid, nodes, RecordDict(), "query")
    remote = {p: Remote(int(sizes[n]["size"]["size"]), int(sizes[n]["size"]["dim"])) for p, n in enumerate(nodes)}
    one = Constant(1.0, "exact", "rows of norm at most 1, Huber loss of knee 1")
    problem = FlowerFederation(
        clients=remote, sizes=tuple(r.size for r in remote.values()), grid=grid, nodes=nodes,
        constants={"lipschitz": one, "smoothness": one, "gap": Constant(4.5, "exact", "targets within 5 of 0")},
    )  # fmt: skip
    folder = RunDir.create(Path(str(config["out"])), private=True) if config.get("out") else None
    method = Diff2(
        budget=Budget(float(config["epsilon"]), float(config["delta"])), rounds=int(config["rounds"]), restart=int(config["restart"]),
        step_length=float(config["step-length"]), clip_gradient=1.0, journal=folder.root / "private" / "ledger.jsonl" if folder else None,
    )  # fmt: skip
    return solve(problem, method, seed=config.get("seed"), run=folder)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Called by Flower."""
    result = trained(grid, context.run_config)
    assert result.certificate is not None
    print(
        f"privacy {result.certificate.claim('privacy').value}, gradient at most {result.certificate.claim('gradient').value}"
    )
