"""What the rasteriser's forward and backward passes share: launches, prepared convexes with their lists, and sums over pixels.

`rasterize.py` is what to call.
"""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.numerics.kernels import start_warp

if TYPE_CHECKING:
    from surefoot.splatting.rasterize import Settings

__all__ = [
    "Frame",
    "Launcher",
    "cuda_modules",
    "error_bound",
    "parts_of",
    "prepare_frame",
    "sums_over_blocks",
    "sums_over_strips",
]


@cache
def _kernels() -> Any:
    """Warp, the kernels that walk convexes, and those that walk lists of tiles."""
    wp = start_warp()
    from surefoot.splatting import warp_lists, warp_prepare

    return wp, warp_prepare, warp_lists


@cache
def _shading(lanes: int) -> Any:
    """The kernels that walk pixels, in strips of 16 lanes (CPU) or of 1 (CUDA)."""
    _kernels()
    from surefoot.splatting.warp_shade import shading

    return shading(lanes)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rasterize")


@cache
def _loaded(device: str, lanes: int) -> None:
    """Compile before the first launch from threads."""
    wp, module, lists = _kernels()
    shading = _shading(lanes)
    for kernel in (module.prepare, lists.list_chunks, shading.forward, shading.backward):
        wp.load_module(kernel.module, device=device)


class Launcher:
    """Launches over `dim` independent jobs; on the CPU in parts (a launch is one thread and frees the GIL) that this thread and those of a
    pool take as they become free."""

    def __init__(self, device: torch.device, threads: int, lanes: int) -> None:
        self.wp, self.module, self.lists = _kernels()
        self.shading = _shading(lanes)
        self.device = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        alone = device.type != "cpu" or lanes == 1  # threads a pixel share sums, which a CPU does not add atomically
        self.threads = 1 if alone else threads or cores
        _loaded(self.device, lanes)

    def array(self, tensor: Tensor, dtype: Any) -> Any:
        return self.wp.from_torch(tensor, dtype=dtype, requires_grad=False)

    def over(self, kernel: Any, dim: int, inputs: list[Any]) -> None:
        """The kernel's first parameter is the job of its thread 0; `inputs` are the others."""
        if dim == 0:
            return
        inputs = [0, *inputs]
        if self.threads == 1 or dim == 1:
            self.wp.launch(kernel, dim=dim, inputs=inputs, device=self.device)
            return
        parts = deque(parts_of(dim, self.threads))

        def work() -> None:
            command = self.wp.launch(kernel, dim=dim, inputs=inputs, device=self.device, record_cmd=True)
            while parts:
                try:
                    first, jobs = parts.popleft()
                except IndexError:  # another thread was faster
                    return
                command.set_param_at_index(0, first)
                command.set_dim(jobs)
                command.launch()

        others = [_pool(self.threads - 1).submit(work) for _ in range(self.threads - 1)]
        work()
        for other in others:
            other.result()


@cache
def parts_of(dim: int, threads: int) -> list[tuple[int, int]]:
    """(first job, how many) of each part: large parts at first, small ones at the end, so that all threads end together."""
    parts, first, least = [], 0, max(1, dim // (32 * threads))
    while first < dim:
        jobs = min(max((dim - first) // (2 * threads), least), dim - first)
        parts.append((first, jobs))
        first += jobs
    return parts


@dataclass(eq=False)
class Frame:
    """What `forward` leaves for `backward`: sizes, prepared primitives, lists.

    Attributes:
        across, down: tiles of an image; a tile has `strips`, of which a job of the forward pass owns `each`.
        corners: how many edges of a convex there is room for.
        listings: pairs of a tile and a convex.
        status: ``(C N,)``, as in `Rendering`.
        arrays: Warp's views of what was given, of what `warp_prepare.prepare` says of each convex and camera, and of the lists: tile t
            has the convexes ``ids[starts[t]:starts[t + 1]]``, nearest first; on the CPU, ``places[pairs[g]:pairs[g + 1]]`` is where convex
            g stands in `ids`.
    """

    launcher: Launcher
    settings: Settings
    width: int
    height: int
    across: int
    down: int
    strips: int
    each: int
    corners: int
    listings: int
    status: Tensor
    arrays: dict[str, Any]

    @property
    def published(self) -> int:
        return int(self.settings.compat == "paper")

    @property
    def jobs(self) -> int:
        return (self.arrays["starts"].shape[0] - 1) * self.strips // self.each

    def listed(self) -> list[Any]:
        """What all kernels that walk pixels begin with."""
        names = ("starts", "ids", "edges", "count", "origin", "box", "soft", "colors", "background")
        return [
            *(self.arrays[name] for name in names), self.across, self.down, self.settings.tile, self.width, self.height, self.published,
            self.settings.threshold,
        ]  # fmt: skip

    def work(self, vectors: int) -> list[Any]:
        """A job's own vectors, and a vector of whole numbers for each strip, not set. Those of a job are neighbours, for a CPU's cache; where
        a lane is a thread, those of neighbouring jobs."""
        shading, found = self.launcher.shading, []
        for size, kind, dtype in ((vectors, shading.vector, torch.float32), (self.each, shading.whole, torch.int32)):
            shape = (self.jobs, size) if shading.lanes > 1 else (size, self.jobs)
            own = torch.empty(*shape, shading.lanes, dtype=dtype, device=self.status.device)
            found.append(self.launcher.array(own if shading.lanes > 1 else own.transpose(0, 1), kind))
        return found


def prepare_frame(
    launcher: Launcher, settings: Settings, given: dict[str, Tensor], width: int, height: int, listed: float
) -> Frame:  # fmt: skip
    """`given` are points, delta, sigma, opacity, colors, background, views, lenses, sharpen. `listed`: convexes whose alpha stays below it
    in a tile are not in the tile's list."""
    wp, array = launcher.wp, launcher.array
    (number, corners, _), cameras, tile = given["points"].shape, len(given["views"]), settings.tile
    types = {name: wp.float32 for name in given}
    types |= {name: wp.vec3 for name in ("points", "colors", "background")} | {"views": wp.mat44, "lenses": wp.vec4}
    arrays = {name: array(value, types[name]) for name, value in given.items()}
    clip = settings.crossing == "clip" and settings.compat != "paper"
    if clip and _nearest(given["points"], given["views"]) < settings.near * 1.0001:
        corners = 3 * corners - 5  # of a convex that the near plane cuts: `warp_hull.cut_hull`
    published = 1 if settings.compat == "paper" else 0 if settings.cull else 2
    rules = [width, height, settings.near, listed, published, int(clip), tile]
    keys, status = _prepare(launcher, given, arrays, rules, corners)
    across, down = -(-width // tile), -(-height // tile)
    lanes = launcher.shading.lanes
    strips = tile * -(-tile // lanes)
    keys = _sorted(keys.view(cameras, number)).view(-1)
    sizes = [number, across, down, tile, published]
    common = [array(keys, wp.int64), *(arrays[name] for name in ("edges", "count", "origin", "box", "soft")), *sizes]
    make = _list_chunks if lanes > 1 else _list_pairs
    lists = make(launcher, common, len(keys), cameras * across * down, keys.device)
    arrays |= {name: array(value, wp.int32) for name, value in lists.items()}
    each = strips if lanes > 1 else 1
    listings = int(lists["starts"][-1])
    return Frame(launcher, settings, width, height, across, down, strips, each, corners, listings, status, arrays)


def _nearest(points: Tensor, views: Tensor) -> float:
    """The least depth of a point, less what rounding may have moved it."""
    if not points.numel():
        return math.inf
    depths = torch.addmm(views[:, 2, 3], points.view(-1, 3), views[:, 2, :3].t())
    low, high = (float(x) for x in torch.aminmax(depths))
    return low - 1e-4 * max(abs(low), abs(high))


def _prepare(
    launcher: Launcher, given: dict[str, Tensor], arrays: dict[str, Any], rules: list[Any], corners: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adds to `arrays` what there is to know of each convex and camera. Keys that sort them, and status."""
    wp, device = launcher.wp, given["points"].device
    total = len(given["points"]) * len(given["views"])

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    whole = torch.int32
    status, keys = new(total, dtype=whole), new(total, dtype=torch.int64)
    made = {
        "edges": (new(total, corners, 3), wp.vec3), "ring": (new(total, corners, dtype=whole), wp.int32),
        "count": (new(total, dtype=whole), wp.int32), "origin": (new(total, 2), wp.vec2), "box": (new(total, 4, dtype=whole), wp.vec4i),
        "soft": (new(total, 4), wp.vec4), "keys": (keys, wp.int64), "status": (status, wp.int32),
    }  # fmt: skip
    arrays |= {name: launcher.array(value, kind) for name, (value, kind) in made.items()}
    names = ("points", "delta", "sigma", "opacity", "views", "lenses", "sharpen")
    launcher.over(launcher.module.prepare, total, [*(arrays[n] for n in names), *rules, *(arrays[n] for n in made)])
    return keys, status


def _sorted(keys: Tensor) -> Tensor:
    """Rows in ascending order; numpy's sort of whole numbers is twice as fast as torch's on a CPU."""
    if keys.device.type != "cpu":
        return torch.sort(keys, dim=1).values
    keys.numpy().sort(axis=1)
    return keys


def _list_chunks(
    launcher: Launcher, common: list[Any], total: int, tiles: int, device: torch.device
) -> dict[str, Tensor]:  # fmt: skip
    """Lists of tiles, on the CPU: chunks of primitives in depth order take their places in the tiles' lists one after another."""
    array, whole, kind = launcher.array, torch.int32, launcher.wp.int32
    chunks = max(min(4 * launcher.threads, total), 1) if launcher.threads > 1 else 1
    each = -(-total // chunks)
    counts = torch.zeros(chunks, tiles, dtype=whole, device=device)
    pairs, starts, nothing = (torch.zeros(size, dtype=whole, device=device) for size in (total + 1, tiles + 1, 1))
    of_convex = array(pairs, kind)

    def walk(fill: int, begin: Tensor, ids: Tensor, places: Tensor) -> None:
        targets = [array(begin, kind), of_convex, array(ids, kind), array(places, kind)]
        launcher.over(launcher.lists.list_chunks, chunks, [*common, each, fill, *targets])

    walk(0, counts, nothing, nothing)
    by_tile = counts.t().reshape(-1)  # a tile's chunks follow one another
    ends = torch.cumsum(by_tile, 0, dtype=whole)
    starts[1:] = ends.view(tiles, chunks)[:, -1]
    pairs[1:] = torch.cumsum(pairs[:-1], 0, dtype=whole)
    pairs[0] = 0
    ids = torch.zeros(max(int(starts[-1]), 1), dtype=whole, device=device)
    places = torch.empty_like(ids)
    walk(1, (ends - by_tile).view(tiles, chunks).t().contiguous(), ids, places)
    return {"starts": starts, "ids": ids, "pairs": pairs, "places": places}


def _list_pairs(
    launcher: Launcher, common: list[Any], total: int, tiles: int, device: torch.device
) -> dict[str, Tensor]:  # fmt: skip
    """Lists of tiles, on CUDA: pairs of a convex and a tile in depth order, sorted by tile."""
    array, whole, kind = launcher.array, torch.int32, launcher.wp.int32
    counts, nothing = (torch.zeros(size, dtype=whole, device=device) for size in (total, 1))

    def walk(fill: int, begin: Tensor, ids: Tensor, where: Tensor) -> None:
        targets = [fill, array(begin, kind), array(ids, kind), array(where, kind)]
        launcher.over(launcher.lists.list_pairs, total, [*common, *targets])

    walk(0, counts, nothing, nothing)
    ends = torch.cumsum(counts, 0, dtype=whole)
    listings = int(ends[-1]) if total else 0
    starts, ids, where = (
        torch.zeros(size, dtype=whole, device=device) for size in (tiles + 1, max(listings, 1), max(listings, 1))
    )
    walk(1, ends - counts, ids, where)
    if listings:
        where, place = torch.sort(where, stable=True)
        ids = ids[place]
        starts[1:] = torch.cumsum(torch.bincount(where, minlength=tiles), 0)
    return {"starts": starts, "ids": ids, "pairs": nothing, "places": nothing}


def sums_over_strips(frame: Frame, transmittance: Tensor, last: Tensor, d_image: Tensor, d_left: Tensor) -> Tensor:
    """A slot for each pair of a tile and a convex ``(pairs, K + 2, 3)``: sums over the tile's pixels of the gradients of colour, of
    opacity, z sigma and z delta, then of dL/dd (x, y, 1) of each edge. `unproject` adds each convex's in a fixed order, whatever the
    threads.

    Args:
        transmittance, last: ``(C, H, W)``, at the end, and the place after each pixel's last sample in the list.
        d_image, d_left: gradients ``(C, H, W, 3)``, ``(C, H, W)``.
    """
    slots = torch.empty(max(frame.listings, 1), frame.corners + 2, 3, device=d_left.device)
    given = [
        *frame.listed(), frame.strips, *_pixels(frame, transmittance, last, d_image, d_left),
        *frame.work(9 * frame.strips + 3 * frame.corners), frame.launcher.array(slots, frame.launcher.wp.vec3),
    ]  # fmt: skip
    frame.launcher.over(frame.launcher.shading.backward, frame.jobs, given)
    return slots


def sums_over_blocks(frame: Frame, transmittance: Tensor, last: Tensor, d_image: Tensor, d_left: Tensor) -> Tensor:
    """The same sums for each convex and camera ``(C N, K + 2, 3)``, to which blocks of pixels add theirs: on CUDA."""
    from surefoot.splatting.warp_blocks import BLOCK, backward_blocks

    wp = frame.launcher.wp
    total = torch.zeros(len(frame.status), frame.corners + 2, 3, device=frame.status.device)
    given = [
        *frame.listed(), *_pixels(frame, transmittance, last, d_image, d_left), frame.launcher.array(total.view(-1, 3), wp.vec3),
    ]  # fmt: skip
    wp.launch(backward_blocks, dim=frame.jobs, inputs=given, device=frame.launcher.device, block_dim=BLOCK)
    return total


def _pixels(frame: Frame, transmittance: Tensor, last: Tensor, d_image: Tensor, d_left: Tensor) -> list[Any]:
    wp, array = frame.launcher.wp, frame.launcher.array
    return [
        array(transmittance.view(-1), wp.float32), array(last.view(-1), wp.int32), array(d_image.view(-1, 3), wp.vec3),
        array(d_left.view(-1), wp.float32),
    ]  # fmt: skip


def error_bound(frame: Frame, colors: Tensor, background: Tensor, lost: Tensor, listed: float) -> Tensor:
    """Range of the colours times what was left out (`lost`: alpha T of skipped samples, T where a pixel stopped, what rounding to float32
    may have moved alpha; and alpha of unlisted convexes)."""
    launcher, cameras = frame.launcher, len(background)
    tiles = torch.zeros(cameras * frame.across * frame.down, device=lost.device)
    number = len(colors) // cameras
    tile = frame.settings.tile
    names = ("edges", "count", "origin", "soft", "status", "box")
    given = [*(frame.arrays[n] for n in names), number, frame.across, frame.down, tile, listed]
    launcher.over(launcher.lists.bound_unlisted, len(tiles), [*given, launcher.array(tiles, launcher.wp.float32)])
    unlisted = tiles.view(cameras, frame.down, frame.across).repeat_interleave(tile, 1).repeat_interleave(tile, 2)
    seen = (frame.status.view(cameras, number) % 3 == 0)[..., None]
    shades = colors.view(cameras, number, 3)
    high = torch.maximum(torch.where(seen, shades, -torch.inf).amax(1), background)
    low = torch.minimum(torch.where(seen, shades, torch.inf).amin(1), background)
    lost = lost + unlisted[:, : frame.height, : frame.width]
    return (high - low)[:, None, None, :] * lost.clamp(max=1.0)[..., None] * (1 + 1e-5) + 1e-5


def cuda_modules() -> list[Any]:
    """Warp's modules of all kernels that a CUDA device runs (to compile them ahead of time)."""
    from surefoot.splatting.warp_blocks import backward_blocks

    _, module, lists = _kernels()
    kernels = (module.prepare, lists.list_pairs, _shading(1).forward, backward_blocks)
    return [kernel.module for kernel in kernels]
