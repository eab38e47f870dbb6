"""Convexes in and out of files: exact round trips, meshes that close, Gaussians with the right moments, hostile files refused."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot.data.ply import read_ply, write_ply
from surefoot.records.files import UnsafeFileError
from surefoot.splatting.exchange import (
    ConvexSet,
    gaussians,
    hull_meshes,
    hull_triangles,
    read_convexes,
    write_convexes,
    write_gaussians,
    write_meshes,
)

BOX = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=float)


def random_set(count: int = 5, corners: int = 6, degree: int = 3, seed: int = 0, focal: float = 711.2060) -> ConvexSet:
    rng = np.random.default_rng(seed)
    single = {"dtype": np.float32}
    return ConvexSet(
        rng.standard_normal((count, corners, 3)).astype(np.float32), *rng.standard_normal((3, count)).astype(np.float32),
        rng.standard_normal((count, 3), **single), rng.standard_normal((count, (degree + 1) ** 2 - 1, 3), **single), focal,
    )  # fmt: skip


def solid(points: np.ndarray, opacity: float = 0.3) -> ConvexSet:
    logit = math.log(opacity / (1 - opacity))
    zero = np.zeros(1, dtype=np.float32)
    points = points[None].astype(np.float32)
    return ConvexSet(points, zero, zero, zero + np.float32(logit), np.zeros((1, 3)), np.zeros((1, 0, 3)), 100.0)


def same(a: ConvexSet, b: ConvexSet) -> bool:
    arrays = ("points", "log_delta", "log_sigma", "opacity_logit", "sh0", "sh_rest")
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in arrays) and a.focal == b.focal


@given(st.integers(0, 4), st.integers(3, 8), st.integers(0, 3), st.integers(0, 99), st.floats(1e-3, 1e6))
@settings(max_examples=30, deadline=None)
def test_round_trips_are_exact(
    tmp_path_factory, count: int, corners: int, degree: int, seed: int, focal: float
) -> None:
    convexes = random_set(count, corners, degree, seed, focal)
    folder = tmp_path_factory.mktemp("sets")
    for name in ("it.ply", "it.safetensors"):
        write_convexes(folder / name, convexes)
        assert same(convexes, read_convexes(folder / name))


def published(convexes: ConvexSet, half: bool = False) -> dict[str, object]:
    state = {
        "convex_points": convexes.points, "delta": convexes.log_delta[:, None], "sigma": convexes.log_sigma[:, None],
        "opacity": convexes.opacity_logit[:, None], "features_dc": convexes.sh0[:, None], "features_rest": convexes.sh_rest,
    }  # fmt: skip
    kind = torch.float16 if half else torch.float32
    return {k: torch.nn.Parameter(torch.from_numpy(v).to(kind)) for k, v in state.items()} | {
        "active_sh_degree": convexes.sh_degree
    }


@pytest.mark.parametrize("half", [False, True])
def test_the_published_state_is_read_as_data(tmp_path: Path, half: bool) -> None:
    convexes = random_set()
    torch.save(published(convexes, half), tmp_path / "point_cloud_state_dict.pt")
    found = read_convexes(tmp_path / "point_cloud_state_dict.pt")
    assert math.isnan(found.focal)
    assert np.allclose(found.points, convexes.points, rtol=1e-3 if half else 0)
    assert found.sh_rest.shape == (5, 15, 3)
    torch.save(published(convexes) | {"active_sh_degree": 1}, tmp_path / "early.pt")
    assert read_convexes(tmp_path / "early.pt").sh_rest.shape == (5, 3, 3)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/surefoot-was-here"),))


def test_hostile_and_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Hostile()))
    torch.save({"convex_points": Hostile()}, tmp_path / "worse.pt")
    for name in ("evil.pt", "worse.pt"):
        with pytest.raises(UnsafeFileError, match=name):
            read_convexes(tmp_path / name)
    assert not Path("/tmp/surefoot-was-here").exists()
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(UnsafeFileError, match="convex_points"):
        read_convexes(tmp_path / "other.pt")
    write_ply(tmp_path / "gaussians.ply", {"x": np.zeros(2)})
    with pytest.raises(UnsafeFileError, match="another kind of PLY"):
        read_convexes(tmp_path / "gaussians.ply")
    (tmp_path / "short.safetensors").write_bytes(b"\x10")
    with pytest.raises(UnsafeFileError, match=r"short\.safetensors"):
        read_convexes(tmp_path / "short.safetensors")
    with pytest.raises(UnsafeFileError, match="expected"):
        read_convexes(tmp_path / "it.splat")


@pytest.mark.parametrize(
    "change", [{"points": np.zeros((2, 2, 3))}, {"sh_rest": np.zeros((5, 4, 3))}, {"log_delta": np.full(5, np.nan)}]
)
def test_what_is_no_set_is_refused(change: dict[str, np.ndarray]) -> None:
    convexes = random_set()
    with pytest.raises(ValueError, match=r"expected|finite"):
        ConvexSet(**{**vars(convexes), **change})


def test_a_spoiled_column_is_named(tmp_path: Path) -> None:
    write_convexes(tmp_path / "it.ply", random_set())
    ply = read_ply(tmp_path / "it.ply")
    ply.columns["log_delta"][2] = np.inf
    write_ply(tmp_path / "it.ply", ply.columns, ply.comments)
    with pytest.raises(UnsafeFileError, match=r"it\.ply.*log_delta is not finite"):
        read_convexes(tmp_path / "it.ply")


def test_hulls_close_and_have_their_volume() -> None:
    vertices, faces, colors = hull_meshes(solid(np.vstack([BOX, [[0.0, 0.0, 0.0]]]), 0.2))
    assert vertices.shape == (8, 3)
    corners = vertices[faces]
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert np.isclose(volume, 8.0)  # positive: turned outwards
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert colors[0].tolist() == [128, 128, 128, 51]


@pytest.mark.parametrize("corners", [4, 6, 9, 16, 20])
def test_hulls_found_all_at_once_are_scipys(corners: int) -> None:
    """Volume and area of each, and closed; among them points on a grid (many in a plane) and points inside others' hulls."""
    from scipy.spatial import ConvexHull

    rng = np.random.default_rng(corners)
    points = rng.standard_normal((40, corners, 3))
    points[10:20] = np.round(1.5 * points[10:20])
    points[20:30, -1] = points[20:30, :-1].mean(axis=1)
    owners, triangles = hull_triangles(points)
    assert (np.diff(owners) >= 0).all()
    for n, own in enumerate(points):
        faces = triangles[owners == n]
        if np.linalg.matrix_rank(own - own[0]) < 3:
            continue
        at = own[faces]
        normal = np.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0])
        hull = ConvexHull(own)
        assert np.isclose(np.einsum("ij,ij->", at[:, 0], normal) / 6, hull.volume)
        assert np.isclose(np.linalg.norm(normal, axis=1).sum() / 2, hull.area)
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()


def test_flat_convexes_become_polygons_and_lines_nothing() -> None:
    square = np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0.5, 0.5, 0)], dtype=float)
    assert len(hull_meshes(solid(square))[1]) == 4
    assert len(hull_meshes(solid(square[:3]))[1]) == 2
    assert len(hull_meshes(solid(np.outer(np.arange(4.0), [1, 2, 3])))[1]) == 0


def test_a_box_has_its_moments() -> None:
    half = np.array([0.5, 1.0, 2.0])
    found = gaussians(solid(BOX * half + [1, 2, 3]))
    assert np.allclose(found.means, [[1, 2, 3]], atol=1e-6)
    assert np.allclose(np.sort(found.scales[0]) ** 2, 1.25 * half**2 / 3, rtol=1e-5)
    assert np.allclose(found.opacities, 0.6)


def test_a_ball_keeps_the_mass_of_its_shadow() -> None:
    rng = np.random.default_rng(0)
    ball = rng.standard_normal((400, 3))
    ball /= np.linalg.norm(ball, axis=1)[:, None]
    for opacity in (0.2, 0.7):
        found = gaussians(solid(ball, opacity))
        mass = found.opacities[0] * 2 * np.pi * found.scales[0, 0] * found.scales[0, 1]
        assert np.isclose(mass, opacity * np.pi, rtol=0.05)


def test_a_triangle_has_the_moments_of_its_area() -> None:
    triangle = np.array([(0, 0, 0), (3, 0, 0), (0, 1, 0)], dtype=float)
    inside = np.random.default_rng(0).dirichlet([1, 1, 1], 200_000) @ triangle
    found = gaussians(solid(triangle))
    expected = np.linalg.eigvalsh(np.cov(inside.T))[1:]
    assert np.allclose(found.means[0], triangle.mean(axis=0), atol=1e-6)
    assert np.allclose(np.sort(found.scales[0])[1:] ** 2, expected, rtol=0.02)
    assert 0 < found.scales[0].min() < 1e-2


def test_a_turn_of_the_scene_turns_the_gaussians() -> None:
    from scipy.spatial.transform import Rotation

    points = random_set(4).points.astype(float)
    turn = Rotation.from_rotvec([0.3, -0.8, 0.5]).as_matrix()

    def covers(moved: np.ndarray) -> np.ndarray:
        found = [gaussians(solid(p)) for p in moved]
        axes = [Rotation.from_quat(g.turns[0][[1, 2, 3, 0]]).as_matrix() for g in found]
        return np.stack([a @ np.diag(g.scales[0] ** 2) @ a.T for a, g in zip(axes, found, strict=True)])

    assert np.allclose(covers(points @ turn.T), turn @ covers(points) @ turn.T, rtol=1e-4, atol=1e-5)


def test_files_for_viewers(tmp_path: Path) -> None:
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed (extra splatting)")
    convexes = random_set(6, degree=1)
    count = write_meshes(tmp_path / "it.glb", convexes, least_opacity=0.0)
    loaded = trimesh.load(tmp_path / "it.glb", force="mesh")
    assert len(loaded.faces) == count
    write_meshes(tmp_path / "it.obj", convexes, least_opacity=0.0)
    assert len(trimesh.load(tmp_path / "it.obj", force="mesh").faces) == count
    with pytest.raises(ValueError, match="nothing to write"):
        write_meshes(tmp_path / "none.glb", convexes, least_opacity=1.0)
    write_gaussians(tmp_path / "gaussians.ply", convexes)
    ply = read_ply(tmp_path / "gaussians.ply")
    assert list(ply.columns)[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    assert list(ply.columns)[-8:] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert np.allclose(np.linalg.norm(ply.stack("rot_0", "rot_1", "rot_2", "rot_3"), axis=1), 1, atol=1e-6)
