"""Three clients through Flower's messages give the numbers of one process: run it in the environment of this example."""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
from diff2_flower import client, server
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from surefoot.core.solve import solve
from surefoot.privacy.exchange import InProcess


class LocalGrid:
    """A grid whose nodes are function calls; messages are real ones, so what does not serialise fails here."""

    def __init__(self, tables: list[str]) -> None:
        self.contexts = {
            7 + i: Context(run_id=1, node_id=7 + i, node_config={"table": t}, state=RecordDict(), run_config={})
            for i, t in enumerate(tables)
        }

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: list[Message], timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            message.metadata._src_node_id = 1  # the server's address, which a real grid fills in
            handler = client.size if message.metadata.message_type == "query" else client.clipped_sum
            replies.append(handler(message, self.contexts[node]))
        return replies


def main() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1  # which flwr sets in a process of its own
    example = Path(__file__).resolve().parents[1] / "diff2_processes.py"
    spec = importlib.util.spec_from_file_location("diff2_processes", example)
    assert spec is not None
    assert spec.loader is not None
    one = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(one)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        tables = []
        for i, size in enumerate((1, 20, 60)):
            path = Path(folder) / f"{i}.csv"
            np.savetxt(path, rng.uniform(-0.5, 0.5, size=(size, 3)), delimiter=",", header="a,b,y", comments="")
            tables.append(str(path))
        config = {"epsilon": 5.0, "delta": 1e-3, "rounds": 12, "restart": 4, "step-length": 0.5, "seed": 3, "out": ""}
        flower = server.trained(LocalGrid(tables), config)  # type: ignore[arg-type]
        clients = {p: one.records(t) for p, t in enumerate(tables)}
        asked = argparse.Namespace(
            epsilon=5.0, delta=1e-3, rounds=12, restart=4, trust="central", allow_large_delta=False
        )
        problem = one.problem(clients, tuple(r.size for r in clients.values()), InProcess())
        local = solve(problem, one.method(asked, None), seed=3)
        assert flower.answer.tolist() == local.answer.tolist(), (flower.answer, local.answer)
        print("the same numbers through Flower's messages and in one process:", flower.answer.tolist())


if __name__ == "__main__":
    main()
