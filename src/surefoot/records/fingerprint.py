"""A hash of values: arrays, numbers, text, mappings and dataclasses, whatever object holds them."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def fingerprint(*parts: object) -> str:
    """SHA-256 over arrays, numbers, strings, mappings and dataclasses, by value.

    Raises:
        TypeError: for a part without a value of its own (a closure, a module).
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: object) -> None:
    if hasattr(part, "detach"):  # a torch tensor, without importing torch
        part = part.detach().cpu().resolve_conj().to_dense().numpy()  # type: ignore[union-attr]
    if isinstance(part, np.ndarray):
        digest.update(f"array {part.dtype.str} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, Mapping):
        for key in sorted(part, key=str):
            digest.update(f"key {key}".encode())
            _feed(digest, part[key])
    elif isinstance(part, list | tuple):
        digest.update(f"list {len(part)}".encode())
        for item in part:
            _feed(digest, item)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        digest.update(type(part).__name__.encode())
        _feed(digest, {f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    elif part is None or isinstance(part, str | bytes | bool | int | float | np.generic):
        digest.update(repr(part).encode())
    else:
        raise TypeError(f"cannot take the fingerprint of a {type(part).__name__}; give its numbers instead")
