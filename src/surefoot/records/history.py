"""Rows of scalars in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


class History:
    """Rows of scalars in bounded memory: when full, every second row is dropped and the stride doubles.

    The first row and the newest are always there.
    """

    def __init__(self, limit: int = 2048) -> None:
        self.limit, self.stride, self.seen = limit, 1, 0
        self.rows: list[dict[str, float]] = []
        self.last: dict[str, float] | None = None

    def add(self, row: dict[str, float]) -> None:
        self.last = row
        if self.seen % self.stride == 0:
            self.rows.append(row)
            if len(self.rows) > self.limit:
                self.rows = self.rows[::2]
                self.stride *= 2
        self.seen += 1

    def __iter__(self) -> Iterator[dict[str, float]]:
        yield from self.rows
        if self.last is not None and (not self.rows or self.rows[-1] is not self.last):
            yield self.last

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def column(self, name: str) -> list[float]:
        """A column's values, nan where a row lacks it."""
        return [row.get(name, math.nan) for row in self]

    def columns(self) -> dict[str, list[float]]:
        """All columns, in the order they first appeared."""
        names = dict.fromkeys(name for row in self for name in row)
        return {name: self.column(name) for name in names}

    def to_json(self) -> dict[str, Any]:
        return {"stride": self.stride, "seen": self.seen, "columns": self.columns(), "kept": len(self.rows)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> History:
        self = cls()
        names = list(tree["columns"])
        rows = [
            dict(zip(names, map(float, values), strict=True)) for values in zip(*tree["columns"].values(), strict=True)
        ]
        rows = [{k: v for k, v in row.items() if not math.isnan(v)} for row in rows]
        self.rows, self.stride, self.seen = rows[: tree["kept"]], tree["stride"], tree["seen"]
        self.last = rows[-1] if rows else None
        return self
