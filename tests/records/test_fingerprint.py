"""Fingerprints: equal for equal values, different for different ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surefoot.records.fingerprint import fingerprint


@dataclass(frozen=True)
class Point:
    x: float


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text("ab1, :'", max_size=3), st.binary(max_size=2)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)),
    max_leaves=6,
)


@given(VALUES, VALUES)
def test_two_values_share_a_fingerprint_only_if_equal(a: object, b: object) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (repr(a) == repr(b) or (isinstance(a, dict) and same_dict(a, b)))


def same_dict(a: object, b: object) -> bool:
    return repr(sort(a)) == repr(sort(b))


def sort(value: object) -> object:
    if isinstance(value, dict):
        return {k: sort(value[k]) for k in sorted(value)}
    return [sort(v) for v in value] if isinstance(value, list) else value


def test_borders_between_values_count() -> None:
    assert fingerprint([1, 23]) != fingerprint([12, 3])
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint({"a": 1}, {"b": 2}) != fingerprint({"a": 1, "b": 2})
    assert fingerprint([[1], 2]) != fingerprint([[1, 2]])
    assert fingerprint(1) != fingerprint(1.0) != fingerprint("1.0")


def test_arrays_count_with_type_shape_and_bits() -> None:
    a = np.arange(6.0)
    same = [a.copy(), np.arange(12.0)[::2] / 2, torch.arange(6.0).double(), torch.arange(6.0).double().requires_grad_()]
    assert {fingerprint(x) for x in same} == {fingerprint(a)}
    other = [
        a.reshape(2, 3),
        a.astype(np.float32),
        a + np.eye(6)[5] * 1e-15,
        a.astype(">f8"),
        a.view(np.int64),
        list(a),
    ]
    assert len({fingerprint(x) for x in [a, *other]}) == 7
    assert fingerprint(np.asfortranarray(a.reshape(2, 3))) == fingerprint(a.reshape(2, 3))


def test_a_sparse_tensor_is_never_made_dense() -> None:
    places = torch.tensor([[0, 10**7 - 1], [5, 10**7 - 1]])
    wide = torch.sparse_coo_tensor(places, torch.tensor([1.0, 2.0]), (10**7, 10**7))
    twice = torch.sparse_coo_tensor(places[:, [1, 0, 1]], torch.tensor([1.0, 1.0, 1.0]), (10**7, 10**7))
    assert fingerprint(wide) == fingerprint(twice)
    assert fingerprint(wide) != fingerprint(wide * 2)


def test_bfloat16_and_records() -> None:
    assert fingerprint(torch.ones(2).bfloat16()) != fingerprint(torch.ones(2))
    assert fingerprint(Point(1.0)) == fingerprint(Point(1.0)) != fingerprint(Point(2.0))
    assert fingerprint(np.float64(1.5)) == fingerprint(1.5)


@pytest.mark.parametrize("value", [print, object(), {1, 2}, np.array([object()]), Point])
def test_what_has_no_value_of_its_own_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="fingerprint"):
        fingerprint(value)
