"""Values as trees: states with their tensors, and options checked against their annotations."""

from __future__ import annotations

import dataclasses
import math
import os
import types
import typing
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surefoot.records.files import UnsafeFileError

if TYPE_CHECKING:
    from torch import Tensor


SHARED_TYPES = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    ]
)  # what numpy and torch both have


def pack(value: Any, tensors: dict[str, Tensor], known: Collection[str] | None = None) -> Any:
    """A JSON tree for `value`; its tensors and arrays go into `tensors` under fresh keys.

    Types are kept: what cannot come back as it was is refused.

    Args:
        known: names of the record classes that `unpack` will be given; None: any.

    Raises:
        TypeError: with the type that a state may not hold.
    """
    import torch

    kind = type(value)
    if isinstance(value, torch.Tensor):
        return _pack_tensor(value, "tensor", tensors)
    if isinstance(value, np.ndarray | np.number | np.bool_):
        shape = "array" if isinstance(value, np.ndarray) else "scalar"
        return _pack_tensor(_as_tensor(np.asarray(value)), shape, tensors)
    if value is None or kind in (bool, str, int):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$": "float", "is": str(value)}
    if kind in (list, tuple):
        return {"$": kind.__name__, "items": [pack(v, tensors, known) for v in value]}
    if kind in (dict, OrderedDict):
        return {"$": "dict", "items": [[pack(k, tensors, known), pack(v, tensors, known)] for k, v in value.items()]}
    if dataclasses.is_dataclass(kind) and (known is None or kind.__name__ in known):
        fields = {f.name: pack(getattr(value, f.name), tensors, known) for f in dataclasses.fields(value) if f.init}
        return {"$": "record", "class": kind.__name__, "fields": fields}
    what = f"{kind.__name__} (a record that its class does not name in `records`)" * dataclasses.is_dataclass(value)
    raise TypeError(
        f"a state may not hold a {what or kind.__name__}; use tensors, arrays, numbers, text, or lists, tuples, dicts or records of them"
    )


def _as_tensor(array: np.ndarray) -> Tensor:
    import torch

    if array.dtype.name not in SHARED_TYPES or not array.dtype.isnative:
        raise TypeError(f"a state may not hold an array of {array.dtype}; use numbers torch knows")
    return torch.from_numpy(np.array(array, order="K"))


def _pack_tensor(value: Tensor, kind: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Numbers in order into `tensors`; the tree says how they lay in memory, since sums depend on it."""
    import torch

    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    key = f"t{len(tensors)}"
    tensors[key] = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous().clone()
    tree = {"$": kind, "key": key, "complex": tensor.is_complex(), "device": str(value.device)}
    return tree if tensor.is_contiguous() else {**tree, "stride": list(torch.empty_like(tensor).stride())}


def _unpack_tensor(tree: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    import torch

    tensor = tensors[tree["key"]]
    tensor = torch.view_as_complex(tensor) if tree["complex"] else tensor
    if "stride" in tree:
        tensor = torch.empty_strided(tensor.shape, tree["stride"], dtype=tensor.dtype).copy_(tensor)
    if tree["$"] == "tensor":
        return tensor.to(tree["device"])
    return tensor.numpy() if tree["$"] == "array" else tensor.numpy()[()]


def unpack(tree: Any, tensors: Mapping[str, Tensor], records: Mapping[str, type]) -> Any:
    """The inverse of `pack`; record classes come from `records` only."""
    if not isinstance(tree, dict):
        return tree
    match tree.get("$"):
        case "tensor" | "array" | "scalar":
            return _unpack_tensor(tree, tensors)
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
            raise UnsafeFileError(f"a checkpoint holds something this method does not know: {str(tree)[:80]}")


def require_distinct(what: str, names: Iterable[str]) -> None:
    """Refuse names that repeat, where something is known by its name."""
    if repeated := sorted(name for name, times in Counter(names).items() if times > 1):
        raise ValueError(f"{what} names repeat: {repeated}")


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
        if any(value == known and type(value) is type(known) for known in args):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args and args[-1] is Ellipsis else list(args)
        if len(inner) == len(value):
            return tuple(typed(v, h) for v, h in zip(value, inner, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _typed_record(value, hint)
    elif hint is float and not isinstance(value, bool):
        if value in ("nan", "inf", "-inf") or (isinstance(value, int | float) and abs(value) < 1 << 1023):
            return float(value)
        if isinstance(value, float):  # nan, inf and the largest ones
            return value
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
    fields: dict[str, Any] = {}
    for name, item in value.items():
        try:
            fields[name] = typed(item, hints[name])
        except TypeError as error:
            raise TypeError(f"{kind.__name__}.{name}: {error}") from error
    return kind(**fields)
