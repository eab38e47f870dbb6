"""How messages of clients reach the server, and its answers the clients: in one process, or between processes.

Sums are taken in the order of the clients, so that a distributed run and a simulation with the same (not private) seed are
equal bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Exchange(Protocol):
    """The wires of a federation."""

    @property
    def server(self) -> bool:
        """Whether this process is the server."""
        ...

    def mine(self, clients: int) -> Sequence[int]:
        """The clients whose records this process holds."""
        ...

    def total(self, messages: Mapping[int, Tensor], clients: int) -> Tensor:
        """The sum of all clients' messages, at the server; elsewhere a tensor without meaning."""
        ...

    def announce(self, value: Tensor, source: int = 0) -> Tensor:
        """The value of the process that holds client `source` (0: the server), everywhere."""
        ...


@dataclass(frozen=True)
class InProcess:
    """Server and clients in one process."""

    server: bool = True

    def mine(self, clients: int) -> Sequence[int]:
        """All of them."""
        return range(clients)

    def total(self, messages: Mapping[int, Tensor], clients: int) -> Tensor:
        """In the order of the clients."""
        return ordered_sum([messages[client] for client in range(clients)])

    def announce(self, value: Tensor, source: int = 0) -> Tensor:
        """Nothing to send."""
        return value


@dataclass(frozen=True)
class Processes:
    """One process a client over `torch.distributed` (gloo); rank 0 is also the server.

    Messages reach rank 0 only. With trust "secagg" they carry noise of their own; hiding each of them from the server is the
    task of a secure aggregation protocol underneath, which this runtime does not bring.
    """

    rank: int
    world: int

    @property
    def server(self) -> bool:
        """Rank 0."""
        return self.rank == 0

    def mine(self, clients: int) -> Sequence[int]:
        """The client of this rank.

        Raises:
            ValueError: not as many processes as clients.
        """
        if clients != self.world:
            raise ValueError(f"{clients} clients but {self.world} processes; start one process a client")
        return (self.rank,)

    def total(self, messages: Mapping[int, Tensor], clients: int) -> Tensor:
        """Gathered at rank 0, added in the order of the clients."""
        import torch.distributed as wires

        mine = messages[self.rank].contiguous()
        if not self.server:
            wires.gather(mine, dst=0)
            return torch.zeros_like(mine)
        gathered = [torch.empty_like(mine) for _ in range(clients)]
        wires.gather(mine, gathered, dst=0)
        return ordered_sum(gathered)

    def announce(self, value: Tensor, source: int = 0) -> Tensor:
        """Broadcast."""
        import torch.distributed as wires

        sent = value.clone().contiguous()
        wires.broadcast(sent, src=source)
        return sent


def ordered_sum(messages: Sequence[Tensor]) -> Tensor:
    """First to last, whatever the process."""
    total = messages[0].clone()
    for message in messages[1:]:
        total += message
    return total


@contextmanager
def joined(**options: Any) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, and leave them at the end.

    Raises:
        RuntimeError: not started by torchrun.
    """
    import torch.distributed as wires

    if "RANK" not in os.environ:
        raise RuntimeError("not started by torchrun; use torchrun --nproc-per-node=P, one process a client")
    wires.init_process_group("gloo", **options)
    try:
        yield Processes(wires.get_rank(), wires.get_world_size())
    finally:
        wires.destroy_process_group()


def all_sizes(exchange: Processes, size: int) -> tuple[int, ...]:
    """Every client's number of records; sizes are public."""
    return tuple(int(exchange.announce(torch.tensor([size]), source=p)[0]) for p in range(exchange.world))
