"""Values as trees: states with their tensors, and options checked against their annotations."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surefoot.records.files import UnsafeFileError

if TYPE_CHECKING:
    from torch import Tensor


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A JSON tree for `value`; its tensors and arrays go into `tensors` under fresh keys."""
    import torch

    if isinstance(value, torch.Tensor | np.ndarray):
        kind = "array" if isinstance(value, np.ndarray) else "tensor"
        tensor = torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value.detach()
        is_complex = tensor.is_complex()
        key = f"t{len(tensors)}"
        tensors[key] = (torch.view_as_real(tensor) if is_complex else tensor).cpu().contiguous().clone()
        return {"$": kind, "key": key, "complex": is_complex, "device": str(tensor.device)}
    if isinstance(value, bool | str | int | None):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$": "float", "is": str(value)}
    if isinstance(value, np.generic):
        return pack(value.item(), tensors)
    if isinstance(value, list | tuple):
        return {"$": type(value).__name__, "items": [pack(v, tensors) for v in value]}
    if isinstance(value, Mapping):
        return {"$": "dict", "items": [[pack(k, tensors), pack(v, tensors)] for k, v in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: pack(getattr(value, f.name), tensors) for f in dataclasses.fields(value)}
        return {"$": "record", "class": type(value).__name__, "fields": fields}
    raise TypeError(
        f"a state may not hold a {type(value).__name__}; use tensors, arrays, numbers, text or records of them"
    )


def unpack(tree: Any, tensors: Mapping[str, Tensor], records: Mapping[str, type]) -> Any:
    """The inverse of `pack`; record classes come from `records` only."""
    if not isinstance(tree, dict):
        return tree
    import torch

    match tree.get("$"):
        case "tensor" | "array" as kind:
            tensor = tensors[tree["key"]]
            tensor = torch.view_as_complex(tensor) if tree["complex"] else tensor
            return tensor.numpy() if kind == "array" else tensor.to(tree["device"])
        case "float":
            return float(tree["is"])
        case "list":
            return [unpack(v, tensors, records) for v in tree["items"]]
        case "tuple":
            return tuple(unpack(v, tensors, records) for v in tree["items"])
        case "dict":
            return {unpack(k, tensors, records): unpack(v, tensors, records) for k, v in tree["items"]}
        case "record" if tree["class"] in records:
            return records[tree["class"]](**{k: unpack(v, tensors, records) for k, v in tree["fields"].items()})
        case _:
            pass
    raise UnsafeFileError(f"a checkpoint holds something this method does not know: {str(tree)[:80]}")


def options_to_json(options: Any) -> dict[str, Any]:
    """Options as a JSON tree."""
    return {f.name: _jsonable(getattr(options, f.name)) for f in dataclasses.fields(options)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return str(value) if isinstance(value, os.PathLike) else value


def options_from_json(options: type, tree: Any) -> Any:
    """Options from a JSON tree, every field checked against its annotation.

    Raises:
        UnsafeFileError: an unknown field or a value of the wrong type.
    """
    try:
        return typed(tree, options)
    except (TypeError, ValueError) as error:
        raise UnsafeFileError(f"config.json: {error}") from error


def typed(value: Any, hint: Any) -> Any:
    """A JSON value as what a type hint says: dataclasses, tuples, literals, unions, paths, numbers, text.

    Raises:
        TypeError: the value does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in args:
            try:
                return typed(value, option)
            except TypeError:
                continue
    elif origin is Literal:
        if value in args:
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(typed(v, h) for v, h in zip(value, inner, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _typed_record(value, hint)
    elif (hint is float and isinstance(value, int | float) and not isinstance(value, bool)) or (
        hint is float and value in ("nan", "inf", "-inf")
    ):
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise TypeError(f"{str(value)[:60]!r} is not {getattr(hint, '__name__', hint)}")


def _typed_record(value: Any, kind: type) -> Any:
    hints = typing.get_type_hints(kind)
    names = {f.name for f in dataclasses.fields(kind) if f.init}
    if not isinstance(value, Mapping) or set(value) - names:
        unknown = sorted(map(str, set(value) - names)) if isinstance(value, Mapping) else [str(value)[:60]]
        raise TypeError(f"{kind.__name__} does not know {unknown}")
    return kind(**{name: typed(item, hints[name]) for name, item in value.items()})
