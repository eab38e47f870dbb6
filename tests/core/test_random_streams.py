"""Addressed randomness, and samplers over it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from surefoot.core.random import Streams
from surefoot.data.sampler import Sampler
from surefoot.numerics.philox import philox


def test_same_address_same_numbers_whatever_was_drawn_before() -> None:
    a, b = Streams(3), Streams(3)
    a.numpy("other").random(1000)
    assert np.array_equal(a.numpy("noise", 5, 2).random(50), b.numpy("noise", 5, 2).random(50))
    assert torch.equal(
        torch.rand(50, generator=a.torch("noise", 5, 2)), torch.rand(50, generator=b.torch("noise", 5, 2))
    )


def test_every_part_of_the_address_counts() -> None:
    streams = Streams(3)
    addresses = [("a", 1), ("a", 1, 0), ("a", 0, 1), ("a", 11), ("a/1",), ("a",), ("b", 1), ("", 1), ("1:a", 1)]
    keys = [streams.key(name, *index) for name, *index in addresses]
    keys += [Streams(4).key("a", 1), Streams(33).key("a", 1)]
    assert len(set(keys)) == len(keys)


def test_streams_are_uncorrelated() -> None:
    # 200 streams of 2000 uniforms: the largest of 19,900 correlations stays below 6 standard deviations.
    rows = np.stack([Streams(0).numpy("x", i).random(2000) for i in range(200)])
    correlation = np.corrcoef(rows) - np.eye(200)
    assert np.abs(correlation).max() < 6 / np.sqrt(2000)
    assert abs(rows.mean() - 0.5) < 6 * np.sqrt(1 / 12 / rows.size)


def test_torch_streams_use_more_than_the_32_bits_torch_seeds_with() -> None:
    # Two keys that agree in their low 64 bits start torch's own seeding alike; the address must still tell them apart.
    streams = Streams(1)
    key = streams.key("x", 0)
    plain = torch.Generator().manual_seed(key & (2**63 - 1))
    addressed = streams.torch("x", 0)
    assert not torch.equal(torch.rand(8, generator=plain), torch.rand(8, generator=addressed))
    # numpy's Mersenne twister from the same 624 words gives the same bits: torch draws 24 of the 32 for a float.
    words = np.random.Generator(np.random.Philox(key=key)).integers(0, 2**32, 624, dtype=np.uint64)
    twister = np.random.MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words.astype(np.uint32), "pos": 624}}
    ours = torch.rand(2000, generator=streams.torch("x", 0)).double().numpy() * 2**24
    assert np.array_equal(ours, twister.random_raw(2000) & (2**24 - 1))


def test_a_generator_made_by_its_key_is_numpy_s() -> None:
    for key in (0, 7, 2**64 + 5, 2**128 - 1):
        ours, numpys = philox(key), np.random.Philox(key=key)
        assert np.array_equal(ours.random_raw(9), numpys.random_raw(9))
        assert np.array_equal(ours.state["state"]["key"], numpys.state["state"]["key"])


def test_streams_from_entropy_never_repeat() -> None:
    a, b = Streams(None), Streams(None)
    assert not np.array_equal(a.numpy("x").random(8), b.numpy("x").random(8))
    assert np.array_equal(a.numpy("x").random(8), a.numpy("x").random(8))
    assert "_root" not in repr(a)
    with pytest.raises(ValueError, match="non-negative"):
        Streams(-1)


@pytest.mark.parametrize("how", ["epochs", "replacement", "poisson", "stratified"])
def test_sampler_is_a_function_of_the_step(how: str) -> None:
    sampler = Sampler(Streams(1), rows=103, batch=10, how=how)  # type: ignore[arg-type]
    forward = [sampler.indices(k) for k in range(25)]
    for k in reversed(range(25)):
        assert np.array_equal(Sampler(Streams(1), rows=103, batch=10, how=how).indices(k), forward[k])  # type: ignore[arg-type]
    assert all(((rows >= 0) & (rows < 103)).all() for rows in forward)


def test_epochs_cover_every_row_once_and_differ() -> None:
    sampler = Sampler(Streams(1), rows=103, batch=10)
    epochs = [np.concatenate([sampler.indices(11 * e + i) for i in range(11)]) for e in range(3)]
    for epoch in epochs:
        assert np.array_equal(np.sort(epoch), np.arange(103))
    assert not np.array_equal(epochs[0], epochs[1])
    assert len(sampler.indices(10)) == 3


def test_poisson_takes_each_row_at_its_rate() -> None:
    sampler = Sampler(Streams(1), rows=50, batch=5, how="poisson")
    taken = np.zeros(50)
    steps = 4000
    for k in range(steps):
        taken[sampler.indices(k)] += 1
    spread = np.sqrt(0.1 * 0.9 / steps)
    assert np.abs(taken / steps - 0.1).max() < 5 * spread
    assert np.std(taken / steps) == pytest.approx(spread, rel=0.4)  # binomial, not a fixed share


def test_stratified_takes_one_row_a_block() -> None:
    sampler = Sampler(Streams(1), rows=100, batch=10, how="stratified")
    for k in range(20):
        assert np.array_equal(sampler.indices(k) // 10, np.arange(10))


@pytest.mark.parametrize(
    ("more", "match"), [({"batch": 0}, "batch"), ({"batch": 9}, "batch"), ({"how": "other"}, "how")]
)
def test_samplers_refuse(more: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Sampler(Streams(1), **{"rows": 8, "batch": 2, **more})  # type: ignore[arg-type]
