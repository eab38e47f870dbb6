"""Cohen's tab-separated log, line by line and resumable, and the store of noisy logits.

    idx	label	predict	radius	correct	time

An abstention is class -1 with radius 0; correct is 1 or 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.records.files import UnsafeFileError, regular, write_bytes
from surefoot.robustness.problem import Radii

__all__ = ["HEADER", "append_row", "read_log", "whole_rows", "write_log"]

HEADER = ("idx", "label", "predict", "radius", "correct", "time")


def write_log(path: Path, radii: Radii, seconds: Sequence[float] | None = None) -> None:
    """Write certificates as a log; radii keep all their digits."""
    times = [0.0] * len(radii.index) if seconds is None else list(seconds)
    lines = ["\t".join(HEADER), *(_line(radii, i, times[i]) for i in range(len(radii.index)))]
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def append_row(path: Path, radii: Radii, seconds: float) -> None:
    """Add the last certificate to a log, with its header where it is new; flushed to the disk."""
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="ascii") as stream:
        if fresh:
            stream.write("\t".join(HEADER) + "\n")
        stream.write(_line(radii, len(radii.index) - 1, seconds) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def whole_rows(path: Path) -> int:
    """Cut a half-written last line off a log, and say how many certificates it holds; 0 where there is none."""
    if not path.exists():
        return 0
    text = regular(path).read_text(encoding="ascii")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_bytes(path, whole.encode())
    return max(whole.count("\n") - 1, 0)


def read_log(path: Path) -> Radii:
    """A log of this package, of Cohen's `certify.py`, or of another program that keeps its columns.

    Raises:
        UnsafeFileError: another header, a row that is no row, a radius that is no distance, an abstention with a radius.
    """
    try:
        lines = regular(path).read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError as error:
        raise UnsafeFileError(f"{path.name} is not a text log: {error}") from error
    if not lines or tuple(lines[0].split("\t"))[:5] != HEADER[:5]:
        raise UnsafeFileError(f"{path.name} does not begin with {' '.join(HEADER)}")
    rows: list[tuple[int, int, int, float]] = []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        try:
            index, label, predict, radius, correct = (
                int(cells[0]),
                int(cells[1]),
                int(cells[2]),
                float(cells[3]),
                int(cells[4]),
            )
        except (ValueError, IndexError) as error:
            raise UnsafeFileError(f"{path.name}, line {number}: expected {' '.join(HEADER)}, got {line!r}") from error
        if not (radius >= 0 and math.isfinite(radius)) or (predict < 0 and radius > 0) or predict < -1:
            raise UnsafeFileError(f"{path.name}, line {number}: class {predict} with radius {radius}")
        if correct != int(predict == label and predict >= 0):
            raise UnsafeFileError(
                f"{path.name}, line {number}: correct is {correct} for class {predict}, label {label}"
            )
        rows.append((index, label, predict, radius))
    table: Any = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
    whole = [np.array(column, dtype=np.int64) for column in table[:3]]
    return Radii(whole[0], whole[1], whole[2], np.array(table[3], dtype=np.float64))


def _line(radii: Radii, i: int, seconds: float) -> str:
    correct = int(bool(radii.correct[i]))
    time = str(timedelta(seconds=round(seconds, 3)))
    return f"{radii.index[i]}\t{radii.label[i]}\t{radii.predicted[i]}\t{float(radii.radius[i])!r}\t{correct}\t{time}"
