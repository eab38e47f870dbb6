"""LPIPS with weights of our own: the network against numpy, what it must satisfy, and what is said where files are missing or wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surefoot.data.lpips_weights import BACKBONE, HEADS, LAYERS, WIDTHS, find_weights, read_weights
from surefoot.records.files import UnsafeFileError
from surefoot.splatting.perceptual import lpips
from surefoot.splatting.verify_perceptual import distance


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the names that the published files have."""
    place = tmp_path_factory.mktemp("hub") / "checkpoints"
    place.mkdir()
    g = torch.Generator().manual_seed(0)
    backbone, heads, before = {"classifier.0.bias": torch.zeros(3)}, {}, 3
    for level, (layers, width) in enumerate(zip(LAYERS, WIDTHS, strict=True)):
        for layer in layers:
            backbone[f"features.{layer}.weight"] = torch.randn(width, before, 3, 3, generator=g) / (3 * before**0.5)
            backbone[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=g)
            before = width
        heads[f"lin{level}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=g)
    torch.save(backbone, place / BACKBONE)
    torch.save(heads, place / HEADS)
    return place


def pictures(seed: int, height: int = 37, width: int = 41) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    first = torch.rand(height, width, 3, generator=g)
    return first, (first + 0.2 * torch.randn(height, width, 3, generator=g)).clamp(0, 1)


def test_network_is_the_checkers(folder):
    weights = read_weights(folder / BACKBONE, folder / HEADS)
    arrays = {name: value.numpy() for name, value in weights.items()}
    for seed in range(2):
        one, other = pictures(seed)
        value = lpips(one, other, weights)
        assert value > 0.01
        assert distance(one.numpy(), other.numpy(), arrays) == pytest.approx(value, rel=1e-4)


def test_equal_pictures_are_at_zero_and_order_does_not_matter(folder):
    weights = read_weights(folder / BACKBONE, folder / HEADS)
    one, other = pictures(3)
    assert lpips(one, one, weights) == 0.0
    assert lpips(one, other, weights) == pytest.approx(lpips(other, one, weights))
    nearer = one + 0.1 * (other - one)
    assert lpips(one, nearer, weights) < 0.5 * lpips(one, other, weights)
    with pytest.raises(ValueError, match="one size"):
        lpips(one, other[:-1], weights)


def test_found_beside_torchs_checkpoints_and_missing_ones_are_named(folder, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder.parent))
    assert find_weights() == (folder / BACKBONE, folder / HEADS)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=BACKBONE):
        find_weights()
    from surefoot.splatting.card import Options, method

    with pytest.raises(FileNotFoundError, match="leave --lpips out"):
        method(Options(lpips=True))


def test_wrong_files_are_refused(folder, tmp_path):
    (tmp_path / BACKBONE).write_bytes(b"nothing")
    with pytest.raises(UnsafeFileError, match=BACKBONE):
        read_weights(tmp_path / BACKBONE, folder / HEADS)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / HEADS)
    with pytest.raises(UnsafeFileError, match=r"lin0\.model\.1\.weight"):
        read_weights(folder / BACKBONE, tmp_path / HEADS)


def test_claim_is_confirmed_refuted_when_spoiled_and_unchecked_without_weights(folder, tmp_path, monkeypatch):
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    import dataclasses

    from surefoot.core.solve import solve
    from surefoot.core.verify import Dossier, NotAtHandError
    from surefoot.splatting.loading import turntable_capture
    from surefoot.splatting.train import TrainConvexes
    from surefoot.splatting.verify_perceptual import check_lpips

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder.parent))
    problem = turntable_capture(photos=4, size=20, boxes=3)
    found = solve(problem, TrainConvexes(horizon=2, lpips=True))
    assert found.certificate is not None
    claim = next(c for c in found.certificate.claims if c.name == "lpips")
    dossier = Dossier(dict(found.certificate.evidence), lambda: problem, lambda: found.answer)
    assert check_lpips(claim, dossier).verdict == "confirmed"
    assert check_lpips(dataclasses.replace(claim, value=0.9 * float(claim.value)), dossier).verdict == "refuted"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(NotAtHandError, match=BACKBONE):
        check_lpips(claim, dossier)
