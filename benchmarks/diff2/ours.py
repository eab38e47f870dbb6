"""Our side: DIFF2, plain noisy gradients, the published noise, per-sample gradients by functorch for comparison, and audits."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import measured, network, timed

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.core.solve import solve
from surefoot.privacy.diff2 import Diff2
from surefoot.privacy.federation import Federation, dealt
from surefoot.privacy.ledger import Budget
from surefoot.privacy.records import ModuleRecords

CLIENTS = 10


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output[:, 0] - target).square()


def federation(data: Any, seed: int, weights: Any) -> Federation:
    """Records dealt round-robin to ten clients."""
    X, y = torch.from_numpy(data["train"]), torch.from_numpy(data["y_train"])
    model = network(X.shape[1], seed)
    rows = dealt(len(X), CLIENTS)
    clients = {p: ModuleRecords(model, loss, [X[r]], [y[r]], chunk=4096) for p, r in enumerate(rows)}
    return Federation(clients=clients, sizes=tuple(len(r) for r in rows), weights=weights, start=clients[0].start())


def train(request: dict[str, Any]) -> dict[str, Any]:
    """One run; system entropy for the noise, so seeds are those of the initial weights."""
    data, made = np.load(request["path"]), request["method"]
    problem = federation(data, request["seed"], "clients" if made.get("compat") == "paper" else "records")
    method = Diff2(budget=Budget(request["epsilon"], 1e-5), rounds=request["rounds"], **made)
    kept: list[Any] = []
    seconds, result = timed(lambda: solve(problem, method, watch=[lambda moment: kept.append(moment.state)]))
    first: Any = problem.clients[0]
    value: dict[str, Any] = {
        output: measured(first.load(point, network(data["train"].shape[1], 0).double()), data)
        for output, point in (("last", kept[-1].x), ("average", kept[-1].average))
    }
    value |= {"epsilon": result.certificate.claim("privacy").value, "bytes": result.counts["bytes"] / result.steps}
    value["certified"] = next((c.value for c in result.certificate.claims if c.name == "gradient"), None)
    value["drift"] = next((c.outcome for c in result.certificate.claims if c.name == "drift"), None)
    return {"seconds": seconds, "value": value}


def difference(request: dict) -> dict:
    """A sum of clipped differences: ghost norms, or gradients of single records by torch.func."""
    data = np.load(request["path"])
    X, y = (torch.from_numpy(data[k])[: request["rows"]] for k in ("train", "y_train"))
    torch.manual_seed(0)
    layers, inputs = [], X.shape[1]
    for width in request["widths"]:
        layers += [torch.nn.Linear(inputs, width), torch.nn.Softplus()]
        inputs = width
    model = torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 1))
    ghosts = request.get("path_taken") != "functorch"
    records = ModuleRecords(model, loss, [X], [y], chunk=4096 if ghosts else len(X))
    w = records.start()
    v = w + 1e-2 * torch.randn(len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    records.ghosts = ghosts
    seconds, found = timed(lambda: records.difference_sum(w, v, 0.05))
    return {"seconds": seconds, "value": float(found.norm())}


if __name__ == "__main__":
    serve(lambda request: {"train": train, "difference": difference}[request["what"]](request))
