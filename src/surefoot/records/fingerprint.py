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
    """Feed one value: every chunk carries its kind and its length, so that no two values read the same."""

    def chunk(kind: str, data: bytes = b"", length: int | None = None) -> None:
        digest.update(f"{kind} {len(data) if length is None else length}:".encode() + data)

    if hasattr(part, "detach"):  # a torch tensor, without importing torch
        part = _tensor(part)
    if isinstance(part, np.ndarray):
        if part.dtype.hasobject:
            raise TypeError("cannot take the fingerprint of an array of Python objects; give numbers or text")
        chunk("array", f"{part.dtype.descr} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, Mapping):
        chunk("mapping", length=len(part))
        for key in sorted(part, key=repr):
            chunk("key", repr(key).encode())
            _feed(digest, part[key])
    elif isinstance(part, list | tuple):
        chunk("list", length=len(part))
        for item in part:
            _feed(digest, item)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        chunk("record", type(part).__name__.encode())
        _feed(digest, {f.name: getattr(part, f.name) for f in dataclasses.fields(part)})
    elif isinstance(part, np.generic):
        chunk("value", repr(part.item()).encode())
    elif part is None or isinstance(part, str | bytes | bool | int | float | complex):
        chunk("value", repr(part).encode())
    else:
        raise TypeError(f"cannot take the fingerprint of a {type(part).__name__}; give its numbers instead")


def _tensor(tensor: Any) -> object:
    """A tensor's numbers: an array, or for a sparse one its entries and their places (never made dense)."""
    plain = tensor.detach().cpu()
    if str(plain.layout) != "torch.strided":
        entries = plain.to_sparse_coo().coalesce()
        return {"shape": tuple(entries.shape), "places": entries.indices(), "entries": entries.values()}
    plain = plain.resolve_conj().resolve_neg()
    if str(plain.dtype) == "torch.bfloat16":  # numpy has no such type; float32 holds its values exactly
        return {"bfloat16": plain.float().numpy()}
    return plain.numpy()
