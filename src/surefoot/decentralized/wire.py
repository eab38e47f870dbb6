"""What two neighbours say to each other over one TCP connection.

    HELLO    my node, and my copy of the edge: its sequence number, time and flow
    REQUEST  the initiator's next sequence number, the time of the exchange, and its y + z
    REPLY    the same sequence number and the responder's y + z: both ends have applied it, or the initiator will
    STATE    "I am elsewhere": the responder's copy of the edge; the higher sequence number is right

The flow of an edge is the part (z, zt) that its exchanges have moved from one end to the other. Both ends keep it, with opposite
signs, and move it by the same motion from the same times, so that the copies are opposite to the last bit.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
HELLO, REQUEST, REPLY, STATE = 1, 2, 3, 4
HEADER = struct.Struct("<4sBiqdi")
MAGIC = b"sfg1"
LARGEST = 1 << 26
"""Numbers a message; more is refused before anything is allocated."""


class WireError(ConnectionError):
    """The other side broke off, or said something that is no message."""


class ContradictionError(WireError):
    """Both ends of an edge are at the same exchange with flows that are not opposite: the dual no longer sums to zero."""


@dataclass(frozen=True, eq=False)
class Message:
    """kind, sender's node, sequence number, time (units), numbers."""

    kind: int
    node: int
    sequence: int
    time: float
    numbers: Array


def send(connection: socket.socket, message: Message) -> None:
    """Write one message.

    Raises:
        OSError: the connection is gone.
    """
    body = np.ascontiguousarray(message.numbers, dtype="<f8").tobytes()
    head = HEADER.pack(MAGIC, message.kind, message.node, message.sequence, message.time, len(body) // 8)
    connection.sendall(head + body)


def receive(connection: socket.socket) -> Message:
    """Read one message.

    Raises:
        WireError: the connection ended, or what came is no message.
        TimeoutError: nothing came in time.
    """
    magic, kind, node, sequence, time, count = HEADER.unpack(_exactly(connection, HEADER.size))
    if magic != MAGIC or kind not in (HELLO, REQUEST, REPLY, STATE) or not 0 <= count <= LARGEST:
        raise WireError("what came is no message of this protocol")
    numbers = np.frombuffer(_exactly(connection, 8 * count), dtype="<f8").astype(np.float64)
    if not np.isfinite(numbers).all():
        raise WireError("a message holds NaN or infinite numbers")
    return Message(kind, node, sequence, time, numbers)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise WireError("the other side closed the connection")
        parts += part
    return bytes(parts)


@dataclass(eq=False)
class EdgeFlow:
    """One end's copy of an edge: z and zt moved by its exchanges so far (2, d), at `time` (units), after `sequence` exchanges."""

    flow: Array
    time: float = 0.0
    sequence: int = 0

    def settle(self, sequence: int, time: float, other: Array) -> bool:
        """Take the other end's copy, sign turned, if it is ahead; whether it was.

        Raises:
            ContradictionError: both ends have the same sequence number and flows that are not opposite.
        """
        theirs = -other.reshape(self.flow.shape)
        if sequence > self.sequence:
            self.flow, self.time, self.sequence = theirs, time, sequence
            return True
        if sequence == self.sequence and not np.array_equal(theirs, self.flow):
            raise ContradictionError(f"both ends are at exchange {sequence}, but their flows are not opposite")
        return False
