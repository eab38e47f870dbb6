"""Structure from motion in a process of its own, on real photos; what cannot be posed is said."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surefoot.data.posed_photos import read_posed_photos
from surefoot.data.structure import structure_from_motion
from surefoot.records.files import UnsafeFileError


def test_two_photos_are_too_few(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    with pytest.raises(UnsafeFileError, match="holds 2 photos"):
        structure_from_motion(tmp_path, tmp_path / "out")


def test_photos_of_nothing_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra colmap)")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(np.full((60, 80, 3), 128, dtype=np.uint8)).save(tmp_path / "photos" / name)
    with pytest.raises(UnsafeFileError, match="no two photos could be matched"):
        structure_from_motion(tmp_path / "photos", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_real_photos_are_posed_as_their_own_model_says(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra colmap)")
    root = os.environ.get("SUREFOOT_DATA")
    if not root or not (Path(root) / "convex-splatting" / "sceaux").is_dir():
        pytest.skip("SUREFOOT_DATA has no convex-splatting/sceaux")
    known = read_posed_photos(Path(root) / "convex-splatting" / "sceaux")
    assert known is not None
    (tmp_path / "photos").mkdir()
    for path in known.files[3:8]:
        shutil.copy(path, tmp_path / "photos")
    found = structure_from_motion(tmp_path / "photos", tmp_path / "out", camera="single")
    assert found.missed == ()
    assert found.error < 1.0
    photos = read_posed_photos(tmp_path / "out")
    assert photos is not None

    # the angles between the cameras do not depend on the frame
    def turns(views: np.ndarray) -> np.ndarray:
        return np.stack([views[i, :3, :3] @ views[0, :3, :3].T for i in range(1, len(views))])

    assert np.abs(turns(photos.views) - turns(known.views[3:8])).max() < 0.02
