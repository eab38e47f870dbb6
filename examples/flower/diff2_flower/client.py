"""A Flower client: its table stays here; what leaves are clipped sums. The file is named in the node's configuration (`table`)."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from surefoot.data.linear_model import LinearModel
from surefoot.data.tables import read_table
from surefoot.numerics.losses import Huber
from surefoot.privacy.records import LinearRecords

app = ClientApp()


@cache
def records(path: str) -> LinearRecords:
    """Rows of norm at most 1 with a constant, the target last, Huber loss."""
    values = torch.from_numpy(read_table(path).values)
    A = torch.cat([values[:, :-1], torch.ones(len(values), 1, dtype=torch.float64)], dim=1)
    A = A / torch.linalg.vector_norm(A, dim=1, keepdim=True).clamp(min=1.0)
    return LinearRecords(LinearModel(A, values[:, -1].clamp(-5, 5), Huber(1.0)))


@app.query()
def size(message: Message, context: Context) -> Message:
    """The number of records, which is public, and of parameters."""
    mine = records(str(context.node_config["table"]))
    return Message(RecordDict({"size": ConfigRecord({"size": mine.size, "dim": mine.dim})}), reply_to=message)


@app.train()
def clipped_sum(message: Message, context: Context) -> Message:
    """The sum of clipped gradients at a point, or of clipped differences between two, each record at most the server's bound."""
    mine = records(str(context.node_config["table"]))
    points = [torch.from_numpy(np.array(a, dtype=np.float64)) for a in message.content["points"].to_numpy_ndarrays()]  # type: ignore[union-attr]
    bound = float(message.content["bound"]["bound"])  # type: ignore[arg-type, call-overload, index]
    total = (
        mine.gradient_sum(points[0], bound) if len(points) == 1 else mine.difference_sum(points[0], points[1], bound)
    )
    return Message(RecordDict({"sum": ArrayRecord([total.numpy()])}), reply_to=message)
