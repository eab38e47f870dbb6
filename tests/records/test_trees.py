"""States as trees and back, bit for bit; options checked against their annotations."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import load, save

from surefoot.records.files import UnsafeFileError, json, plain
from surefoot.records.trees import options_from_json, options_to_json, pack, typed, unpack

ARRAYS = [np.dtype(t) for t in ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]]
TENSORS = [
    torch.bool, torch.int8, torch.int64, torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.complex128,
]  # fmt: skip


@dataclass
class Leaf:
    value: Any
    weight: float = 1.0


@dataclass
class Other:
    value: Any


def through_disk(value: Any, records: tuple[type, ...] = (Leaf,)) -> Any:
    """What comes back after the tree went through JSON and the tensors through safetensors."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.loads(json.dumps(plain(pack(value, tensors)), allow_nan=False))
    return unpack(tree, load(save(tensors)) if tensors else {}, {r.__name__: r for r in records})


def same(a: Any, b: Any) -> bool:
    """Equal in type, layout and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        bits = [
            t.resolve_conj().contiguous().reshape(-1).view(torch.uint8) if t.numel() else t.reshape(-1) for t in (a, b)
        ]
        strides = a.numel() < 2 or a.stride() == b.stride()
        return a.dtype == b.dtype and a.shape == b.shape and strides and torch.equal(*bits)
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return bool(a == b)


def to_tensor(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).to(dtype)


arrays = st.sampled_from(ARRAYS).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)
small = hnp.arrays(
    np.int8, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), elements=st.integers(0, 100)
)
tensors = st.builds(to_tensor, small, st.sampled_from(TENSORS))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(ARRAYS).map(lambda t: t.type(1)),
    st.floats(width=32).map(np.float32), st.floats().map(np.float64),
)  # fmt: skip
keys = st.one_of(st.text(max_size=3), st.integers(), st.booleans(), st.tuples(st.integers(), st.text(max_size=2)))
values = st.recursive(
    st.one_of(scalars, arrays, tensors),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3),
        st.builds(Leaf, inner, st.floats()),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(values)
def test_every_value_comes_back_bit_for_bit(value: Any) -> None:
    assert same(through_disk(value), value)


@pytest.mark.parametrize("make", [
    lambda: torch.arange(12.0).reshape(3, 4).T, lambda: torch.randn(2, 3, 4).permute(2, 0, 1),
    lambda: torch.linalg.cholesky(torch.eye(5).double() * 2), lambda: torch.randn(4, dtype=torch.complex64).conj(),
], ids=["transposed", "permuted", "column major", "conjugate"])  # fmt: skip
def test_the_layout_in_memory_is_kept(make: Any) -> None:
    value = make()
    back = through_disk(value)
    assert back.stride() == value.stride()
    assert torch.equal(back, value)


def test_arrays_keep_their_order_in_memory() -> None:
    back = through_disk(np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert back.flags.f_contiguous
    assert not back.flags.c_contiguous
    assert np.array_equal(through_disk(np.arange(6)[::-2]), [5, 3, 1])


def test_what_comes_back_is_a_copy() -> None:
    value = torch.zeros(3)
    held: dict[str, torch.Tensor] = {}
    tree = pack({"a": value, "b": value[1:]}, held)
    value += 1
    back = unpack(tree, held, {})
    assert back["a"].sum() == 0
    assert back["b"].sum() == 0


class Colour(StrEnum):
    RED = "red"


class Pair(NamedTuple):
    x: int


@pytest.mark.parametrize("value", [
    b"bytes", {1, 2}, print, object(), defaultdict(list), Pair(1), Colour.RED, np.array(["text"]), np.array([None]),
    np.array([1.0], dtype=">f8"), np.longdouble(1), 1j, Leaf,
], ids=lambda v: type(v).__name__)  # fmt: skip
def test_what_could_not_come_back_as_it_was_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="a state may not hold"):
        pack([value], {})


def test_an_ordered_dict_comes_back_as_a_dict() -> None:
    assert through_disk(OrderedDict(b=1, a=2)) == {"b": 1, "a": 2}


def test_records_come_from_the_closed_list_only() -> None:
    tree = pack(Other(1), {})
    with pytest.raises(UnsafeFileError, match="does not know"):
        unpack(tree, {}, {"Leaf": Leaf})
    with pytest.raises(TypeError, match="Other"):
        pack(Other(1), {}, {"Leaf"})
    for hostile in ({"$": "record", "class": "os.system", "fields": {}}, {"$": "call"}, {"no": "tag"}):
        with pytest.raises(UnsafeFileError, match="does not know"):
            unpack(hostile, {}, {"Leaf": Leaf})


# ---- options -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Inner:
    level: float


@dataclass(frozen=True)
class Choices:
    number: float = 1.0
    count: int = 1
    flag: bool = False
    name: str = "x"
    where: Path = Path("here")
    maybe: int | None = None
    mode: Literal["a", "b", 1] = "a"
    pair: tuple[int, str] = (1, "x")
    many: tuple[float, ...] = ()
    inner: Inner | None = None
    none: tuple[()] = ()


GOOD = [
    ("number", 2, 2.0), ("number", "nan", math.nan), ("number", "-inf", -math.inf), ("count", 3, 3), ("flag", True, True),
    ("name", "é", "é"), ("where", "a/b", Path("a/b")), ("maybe", None, None), ("maybe", 4, 4), ("mode", "b", "b"), ("mode", 1, 1),
    ("pair", [2, "y"], (2, "y")), ("many", [1, 2.5], (1.0, 2.5)), ("inner", {"level": 1}, Inner(1.0)), ("none", [], ()),
]  # fmt: skip
BAD = [
    ("number", "1"), ("number", True), ("number", None), ("number", 10**400), ("count", 1.0), ("count", True), ("count", "1"),
    ("flag", 1), ("flag", "true"), ("name", 1), ("name", None), ("where", 1), ("maybe", 1.5), ("maybe", "x"), ("mode", "c"),
    ("mode", True), ("mode", 1.0), ("mode", ["a"]), ("pair", [1]), ("pair", [1, 2]), ("pair", "1x"), ("many", 1.0), ("many", ["x"]),
    ("inner", {"level": "x"}), ("inner", {}), ("inner", {"level": 1, "more": 2}), ("inner", []), ("none", [1]),
]  # fmt: skip


@pytest.mark.parametrize(("field", "given", "wanted"), GOOD)
def test_every_annotation_is_understood(field: str, given: Any, wanted: Any) -> None:
    found = getattr(options_from_json(Choices, {field: given}), field)
    assert same(found, wanted) or found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(("field", "given"), BAD)
def test_wrong_types_are_refused_by_name(field: str, given: Any) -> None:
    with pytest.raises(UnsafeFileError, match=rf"Choices\.{field}"):
        options_from_json(Choices, {field: given})


@pytest.mark.parametrize("tree", [[], None, "x", {"__class__": 1}, {"colour": "red"}, {"": {}}])
def test_unknown_fields_are_refused(tree: Any) -> None:
    with pytest.raises(UnsafeFileError, match="does not know"):
        options_from_json(Choices, tree)


def test_missing_fields_are_refused() -> None:
    with pytest.raises(UnsafeFileError, match="level"):
        options_from_json(Inner, {})


def test_what_no_hint_covers_is_refused() -> None:
    for hint in (Any, list[int], dict[str, int], object()):
        with pytest.raises(TypeError):
            typed([1], hint)


def test_options_round_trip() -> None:
    options = Choices(number=math.inf, where=Path("x/y"), pair=(5, "z"), many=(1.0, math.nan), maybe=3, mode=1)
    back = options_from_json(Choices, json.loads(json.dumps(plain(options_to_json(options)))))
    assert str(back) == str(options)
