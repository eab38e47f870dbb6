"""Sets of smooth convexes in and out of files: PLY, safetensors, the published code's state, hulls as meshes, Gaussians.

A set is what the renderer needs, as it is stored: K points a convex, the logarithms of smoothness delta and sharpness sigma, the
logit of the opacity, spherical harmonics of the colour. ``focal`` is the focal length (sqrt(fx fy), pixels) at which delta holds: at
another focal length f the same scene needs delta focal^2 / f^2, so a file without it would be rendered at the wrong sharpness.

References:
    Held et al., "3D Convex Splatting: Radiance Field Rendering with 3D Smooth Convexes" (2025), section 3.
    Kerbl et al., "3D Gaussian Splatting" (2023), for the columns of the Gaussians' PLY.
"""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from surefoot.data.ply import read_ply, write_ply
from surefoot.records.files import UnsafeFileError, regular, write_bytes
from surefoot.splatting.light import unpack

__all__ = [
    "ConvexSet",
    "gaussians",
    "hull_meshes",
    "hull_triangles",
    "read_convexes",
    "read_published",
    "write_convexes",
    "write_gaussians",
    "write_meshes",
]

Array = np.ndarray[Any, np.dtype[Any]]
VERSION = 1
SH0 = 0.28209479177387814  # the constant spherical harmonic, 1 / (2 sqrt(pi))
MOST = 0.99  # opacity a Gaussian renderer can still show
MOST_AT_ONCE = 16  # points of a convex whose faces are looked for among all triples
FLAT = 1e-3  # a flat convex's third axis, relative to its second
AXES = "xyz"


@dataclass(frozen=True, eq=False)
class ConvexSet:
    """N convexes of K points.

    Attributes:
        points: ``(N, K, 3)`` float32, world units.
        log_delta, log_sigma, opacity_logit: ``(N,)`` float32; delta = exp(log_delta), opacity = 1 / (1 + exp(-opacity_logit)).
        sh0: ``(N, 3)`` float32, the constant colour coefficient: colour = 0.5 + 0.282095 sh0.
        sh_rest: ``(N, (L + 1)^2 - 1, 3)`` float32 for degree L <= 3.
        focal: the focal length in pixels at which delta holds, or nan where it is not known.
    """

    points: Array
    log_delta: Array
    log_sigma: Array
    opacity_logit: Array
    sh0: Array
    sh_rest: Array
    focal: float

    def __post_init__(self) -> None:
        count = len(self.points)
        shapes = {
            "log_delta": (count,), "log_sigma": (count,), "opacity_logit": (count,), "sh0": (count, 3),
            "sh_rest": (count, self.sh_rest.shape[1] if self.sh_rest.ndim == 3 else -1, 3),
        }  # fmt: skip
        if self.points.ndim != 3 or self.points.shape[2] != 3 or self.points.shape[1] < 3:
            raise ValueError(f"points {self.points.shape}; expected (N, K, 3) with K >= 3")
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} {getattr(self, name).shape}; expected {shape}")
        if (self.sh_rest.shape[1] + 1) not in (1, 4, 9, 16):
            raise ValueError(
                f"sh_rest has {self.sh_rest.shape[1]} coefficients; expected 0, 3, 8 or 15 (degrees 0 to 3)"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "focal" and not np.isfinite(value).all():
                raise ValueError(f"{field.name} is not finite for {int((~np.isfinite(value)).sum())} numbers")

    @property
    def sh_degree(self) -> int:
        return math.isqrt(self.sh_rest.shape[1] + 1) - 1

    @property
    def opacity(self) -> Array:
        return 1.0 / (1.0 + np.exp(-self.opacity_logit.astype(float)))

    @property
    def colors(self) -> Array:
        """The constant part of the colours, ``(N, 3)`` in [0, 1]."""
        return np.clip(0.5 + SH0 * self.sh0.astype(float), 0.0, 1.0)


def write_convexes(path: Path, convexes: ConvexSet) -> None:
    """Write a set as `.ply` or `.safetensors`, both read back bit for bit.

    The PLY has a vertex a convex with the columns ``p0_x p0_y p0_z ... p{K-1}_z``, ``f_dc_0..2``, ``f_rest_*`` (channel by channel),
    ``opacity`` (logit), ``log_delta``, ``log_sigma``, all float, and the comments ``convexes``, ``K``, ``sh_degree`` and ``focal``.
    """
    if path.suffix == ".ply":
        write_ply(path, _columns(convexes), {
            "convexes": VERSION, "K": convexes.points.shape[1], "sh_degree": convexes.sh_degree, "focal": repr(convexes.focal),
        })  # fmt: skip
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save

        arrays = {
            f.name: np.ascontiguousarray(getattr(convexes, f.name), dtype=np.float32)
            for f in fields(convexes)
            if f.name != "focal"
        }
        write_bytes(path, save(arrays, metadata={"convexes": str(VERSION), "focal": repr(convexes.focal)}))
    else:
        raise ValueError(f"{path.name}: expected the ending .ply or .safetensors")


def _columns(convexes: ConvexSet) -> dict[str, Array]:
    single = np.float32
    columns = {
        f"p{k}_{axis}": convexes.points[:, k, a].astype(single)
        for k in range(convexes.points.shape[1])
        for a, axis in enumerate(AXES)
    }
    columns |= {f"f_dc_{c}": convexes.sh0[:, c].astype(single) for c in range(3)}
    rest = convexes.sh_rest.transpose(0, 2, 1).reshape(len(convexes.points), 3 * convexes.sh_rest.shape[1])
    columns |= {f"f_rest_{i}": rest[:, i].astype(single) for i in range(rest.shape[1])}
    columns["opacity"] = convexes.opacity_logit.astype(single)
    columns["log_delta"] = convexes.log_delta.astype(single)
    columns["log_sigma"] = convexes.log_sigma.astype(single)
    return columns


def read_convexes(path: Path) -> ConvexSet:
    """Read a set written by `write_convexes` (`.ply`, `.safetensors`, there also in half precision) or the published code's `.pt`.

    Raises:
        UnsafeFileError: none of these, or values that are no set of convexes; the message names the file.
    """
    try:
        if path.suffix == ".ply":
            return _from_ply(path)
        if path.suffix == ".safetensors":
            return _from_safetensors(path)
        if path.suffix == ".pt":
            return read_published(path)
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, UnsafeFileError) and path.name in str(error):
            raise
        raise UnsafeFileError(f"{path.name} is no set of convexes: {error}") from error
    raise UnsafeFileError(f"{path.name}: expected .ply, .safetensors or the published code's .pt")


def _from_ply(path: Path) -> ConvexSet:
    ply = read_ply(path)
    if "convexes" not in ply.comments:
        raise UnsafeFileError(f"{path.name} has no comment 'convexes'; it is another kind of PLY")
    if ply.comments["convexes"] != str(VERSION):
        raise UnsafeFileError(f"{path.name} is of version {ply.comments['convexes']}; this reads version {VERSION}")
    corners, degree = int(ply.comments["K"]), int(ply.comments["sh_degree"])
    if not 3 <= corners <= 64 or not 0 <= degree <= 3:
        raise UnsafeFileError(
            f"{path.name}: K = {corners}, sh_degree = {degree}; expected K of 3 to 64 and a degree of 0 to 3"
        )
    points = ply.stack(*(f"p{k}_{a}" for k in range(corners) for a in AXES))
    count, rest = len(points), 3 * ((degree + 1) ** 2 - 1)
    high = ply.stack(*(f"f_rest_{i}" for i in range(rest))) if rest else np.zeros((count, 0), np.float32)
    return ConvexSet(
        points=points.reshape(count, corners, 3),
        log_delta=ply.columns["log_delta"],
        log_sigma=ply.columns["log_sigma"],
        opacity_logit=ply.columns["opacity"],
        sh0=ply.stack("f_dc_0", "f_dc_1", "f_dc_2"),
        sh_rest=np.ascontiguousarray(high.reshape(count, 3, rest // 3).transpose(0, 2, 1)),
        focal=float(ply.comments["focal"]),
    )


def _from_safetensors(path: Path) -> ConvexSet:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(regular(path), framework="numpy") as file:
            known = file.metadata() or {}
            arrays: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise UnsafeFileError(f"{path.name} is no whole safetensors file: {error}") from error
    if known.get("convexes") != str(VERSION):
        raise UnsafeFileError(f"{path.name} is of version {known.get('convexes')}; this reads version {VERSION}")
    if "exponent" in known:
        arrays = unpack(arrays, int(known["exponent"]))
        del arrays["centers"]
    return ConvexSet(**arrays, focal=float(known["focal"]))


def read_published(path: Path) -> ConvexSet:
    """Read `point_cloud_state_dict.pt` of the published code, as data (nothing in it is run).

    It keeps no focal length: ``focal`` is nan, and whoever renders it must say at which one it was trained.

    Raises:
        UnsafeFileError: not a dictionary of tensors with the published names, or a file that would run code.
    """
    import pickle

    import torch

    try:
        state = torch.load(io.BytesIO(regular(path).read_bytes()), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise KeyError("convex_points")
        arrays = {
            name: state[name].detach().float().numpy()
            for name in ("convex_points", "delta", "sigma", "opacity", "features_dc", "features_rest")
        }
    except KeyError as error:
        raise UnsafeFileError(
            f"{path.name} has no tensor {error}; expected the published code's point_cloud_state_dict.pt"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError) as error:
        raise UnsafeFileError(f"{path.name} is not a file of tensors alone: {str(error).splitlines()[0]}") from error
    count = len(arrays["convex_points"])
    degree = int(state.get("active_sh_degree", 3))
    rest = arrays["features_rest"].reshape(count, arrays["features_rest"].shape[1], 3)
    return ConvexSet(
        points=arrays["convex_points"],
        log_delta=arrays["delta"].reshape(count),
        log_sigma=arrays["sigma"].reshape(count),
        opacity_logit=arrays["opacity"].reshape(count),
        sh0=arrays["features_dc"].reshape(count, 3),
        sh_rest=rest[:, : max(0, (degree + 1) ** 2 - 1)],
        focal=math.nan,
    )


def hull_meshes(convexes: ConvexSet, least_opacity: float = 0.0) -> tuple[Array, Array, Array]:
    """The hulls of all convexes as one mesh.

    Returns:
        vertices ``(V, 3)``, triangles ``(F, 3)`` turned outwards, and colours ``(V, 4)`` 8-bit with the opacity as the fourth. A flat
        convex becomes its polygon, seen from both sides; one without an area is left out.
    """
    chosen = np.flatnonzero(convexes.opacity >= least_opacity)
    points = convexes.points[chosen].astype(float)
    owners, triangles = hull_triangles(points)
    used = np.zeros(points.shape[:2], dtype=bool)
    used[owners[:, None], triangles] = True
    place = np.cumsum(used.ravel()).reshape(used.shape) - 1
    shades = np.round(255 * np.column_stack([convexes.colors, convexes.opacity])).astype(np.uint8)[chosen]
    return points[used], place[owners[:, None], triangles], np.repeat(shades, used.sum(axis=1), axis=0)


def hull_triangles(points: Array) -> tuple[Array, Array]:
    """Triangles of the hulls of ``(N, K, 3)``: whose they are ``(F,)``, in order, and their corners' places ``(F, 3)``, turned outwards.

    Three points are a face iff all others lie strictly on one side of their plane, which is tried for all at once. Convexes with four
    points in a plane (to a millionth) go through `_hull` one by one: a flat one gets both sides of its polygon, one without an area
    none.
    """
    if points.shape[1] > MOST_AT_ONCE:
        each = [_hull(part) for part in points]
        found = [(n, part) for n, part in enumerate(each) if part is not None]
        owners = [np.full(len(part), n) for n, part in found]
        return np.concatenate([np.zeros(0, dtype=int), *owners]), np.concatenate(
            [np.zeros((0, 3), dtype=int), *(part for _, part in found)]
        )
    triples = np.array(list(itertools.combinations(range(points.shape[1]), 3)))
    owners, faces = [np.zeros(0, dtype=int)], [np.zeros((0, 3), dtype=int)]
    step = max(1, 4_000_000 // (len(triples) * points.shape[1]))
    for begin in range(0, len(points), step):
        part = points[begin : begin + step]
        corners = part[:, triples]  # (n, T, 3, 3)
        normal = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        side = np.einsum("ntd,nkd->ntk", normal, part) - np.einsum("ntd,ntd->nt", normal, corners[:, :, 0])[:, :, None]
        others = np.ones((len(triples), points.shape[1]), dtype=bool)
        others[np.arange(len(triples))[:, None], triples] = False
        extent = np.ptp(part, axis=1).max(axis=1)[:, None, None]
        close = (np.abs(side) <= 1e-6 * np.linalg.norm(normal, axis=2)[:, :, None] * extent) & others
        above, below = ((~others | ~(sign * side < 0)).all(axis=2) for sign in (1, -1))
        special = ((above | below) & (close.any(axis=2) | (points.shape[1] == 3))).any(axis=1) | (extent[:, 0, 0] == 0)
        i, t = np.nonzero((above | below) & ~special[:, None])
        found = triples[t]
        turned = above[i, t]
        found[turned] = found[turned][:, ::-1]
        single = [(n, _hull(part[n])) for n in np.flatnonzero(special)]
        slow = [(n, triangles) for n, triangles in single if triangles is not None]
        whose = np.concatenate([i, *(np.full(len(triangles), n) for n, triangles in slow)])
        found = np.concatenate([found, *(triangles for _, triangles in slow)])
        order = np.argsort(whose, kind="stable")
        owners.append(begin + whose[order])
        faces.append(found[order])
    return np.concatenate(owners), np.concatenate(faces)


def _hull(points: Array) -> Array | None:
    """Triangles of the hull turned outwards; both sides of the polygon where the points lie in a plane; None without an area."""
    from scipy.spatial import ConvexHull

    middle = points.mean(axis=0)
    _, size, axes = np.linalg.svd(points - middle)
    if size[1] <= 1e-9 * max(size[0], 1e-300):
        return None
    if len(points) == 3 or size[2] <= 1e-6 * size[0]:
        ring = ConvexHull((points - middle) @ axes[:2].T).vertices
        fan = np.array([(ring[0], ring[k], ring[k + 1]) for k in range(1, len(ring) - 1)])
        return np.concatenate([fan, fan[:, ::-1]])
    hull = ConvexHull(points)
    triangles = hull.simplices.copy()
    corners = points[triangles]
    turned = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    inward = np.einsum("ij,ij->i", turned, hull.equations[:, :3]) < 0
    triangles[inward] = triangles[inward][:, ::-1]
    return triangles


def write_meshes(path: Path, convexes: ConvexSet, least_opacity: float = 0.1) -> int:
    """Write the hulls with their colours as `.glb` or `.obj`; how many triangles there are.

    Convexes below `least_opacity` are left out: a mesh viewer shows them as if they were solid.

    Raises:
        ImportError: trimesh is not installed.
        ValueError: another ending, or no convex is left.
    """
    try:
        import trimesh
    except ImportError as error:
        raise ImportError("meshes need trimesh: pip install 'surefoot[splatting]'") from error
    if path.suffix not in (".glb", ".obj"):
        raise ValueError(f"{path.name}: expected the ending .glb or .obj")
    vertices, faces, colors = hull_meshes(convexes, least_opacity)
    if len(faces) == 0:
        raise ValueError(f"no convex has an opacity of {least_opacity} or more and an area; nothing to write")
    mesh: Any = trimesh.Trimesh(vertices, faces, vertex_colors=colors, process=False)
    data: str | bytes = mesh.export(file_type=path.suffix[1:])
    write_bytes(path, data.encode() if isinstance(data, str) else data)
    return len(faces)


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Gaussians: means ``(N, 3)``, standard deviations ``(N, 3)``, unit quaternions (w, x, y, z) ``(N, 4)``, opacities ``(N,)``."""

    means: Array
    scales: Array
    turns: Array
    opacities: Array


def gaussians(convexes: ConvexSet) -> Gaussians:
    """The Gaussian that matches each convex: mean and covariance of its solid hull, and its total opacity.

    An ellipsoid of radii r has the solid covariance r^2/5 along its axes; its shadow of even opacity o has r^2/4 and the mass
    o pi r^2, a Gaussian of that covariance has the mass o' pi r^2 / 2. So the covariance is 5/4 of the solid's and o' = 2 o; where
    that exceeds 0.99, o' = 0.99 and the covariance grows by 2 o / 0.99, which keeps the mass. Flat convexes take the moments of
    their polygon (which is its own shadow). The smoothness is not accounted for.
    """
    from scipy.spatial.transform import Rotation

    means, covers = _moments(convexes.points.astype(float))
    size, axes = np.linalg.eigh(covers)
    size = np.sqrt(np.maximum(size, 0.0))
    size = np.maximum(size, FLAT * np.maximum(size[:, 1:2], np.maximum(FLAT * size[:, 2:], 1e-12)))
    axes[np.linalg.det(axes) < 0, :, 0] *= -1
    turns = Rotation.from_matrix(axes).as_quat(canonical=True)[:, [3, 0, 1, 2]] if len(axes) else np.zeros((0, 4))
    wanted = 2.0 * convexes.opacity
    size *= np.sqrt(np.maximum(1.0, wanted / MOST))[:, None]
    return Gaussians(means, size, turns, np.minimum(wanted, MOST))


def _moments(points: Array) -> tuple[Array, Array]:
    """Means of the hulls ``(N, 3)`` and covariances ``(N, 3, 3)`` of the matching Gaussians (before their opacities are clipped)."""
    middle = points.mean(axis=1)
    offset = points - middle[:, None]
    owners, triangles = hull_triangles(points)
    corners = offset[owners[:, None], triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    volumes = np.einsum("ij,ij->i", corners[:, 0], normal) / 6.0

    def total(values: Array) -> Array:
        """Sums over the triangles of each convex."""
        out = np.zeros((len(points), *values.shape[1:]))
        first, starts = np.unique(owners, return_index=True)
        if len(first):
            out[first] = np.add.reduceat(values, starts, axis=0)
        return out

    flat = total(volumes) <= 1e-12 * np.abs(offset).max(axis=(1, 2), initial=0.0) ** 3
    # triangles of area a: second moment a/12 (sum v v' + s s'); tetrahedra with the middle: volume / 20 (sum v v' + s s')
    weights = np.where(flat[owners], np.linalg.norm(normal, axis=1) / 2.0, volumes)
    order, parts, grow = np.where(flat, 12.0, 20.0), np.where(flat, 3.0, 4.0), np.where(flat, 1.0, 1.25)
    whole = total(weights)
    empty = whole <= 0
    whole = np.where(empty, 1.0, whole)
    sums = corners.sum(axis=1)
    mean = total(weights[:, None] * sums) / (parts * whole)[:, None]
    inner = np.einsum("ikj,ikl->ijl", corners, corners) + sums[:, :, None] * sums[:, None, :]
    second = total(weights[:, None, None] * inner) / (order * whole)[:, None, None]
    cover = grow[:, None, None] * (second - mean[:, :, None] * mean[:, None, :])
    cover[empty] = np.einsum("nki,nkj->nij", offset, offset)[empty] / points.shape[1]
    return middle + mean, cover


def write_gaussians(path: Path, convexes: ConvexSet) -> None:
    """Write the matching Gaussians as the PLY that viewers of Gaussian splats read."""
    found = gaussians(convexes)
    single = np.float32
    columns: dict[str, Array] = {a: found.means[:, i].astype(single) for i, a in enumerate(AXES)}
    columns |= {f"n{a}": np.zeros(len(found.means), dtype=single) for a in AXES}
    own = _columns(convexes)
    columns |= {name: column for name, column in own.items() if name.startswith("f_")}
    opacity = np.clip(found.opacities, 1e-6, MOST)
    columns["opacity"] = np.log(opacity / (1 - opacity)).astype(single)
    columns |= {f"scale_{i}": np.log(found.scales[:, i]).astype(single) for i in range(3)}
    columns |= {f"rot_{i}": found.turns[:, i].astype(single) for i in range(4)}
    write_ply(path, columns)
