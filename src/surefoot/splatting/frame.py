"""What the rasteriser's forward and backward passes share: launches, prepared convexes with their lists, and sums over pixels.

`rasterize.py` is what to call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surefoot.numerics.kernels import start_warp

if TYPE_CHECKING:
    from surefoot.splatting.rasterize import Settings

__all__ = ["Frame", "Launcher", "cuda_modules", "error_bound", "prepare_frame", "sums_over_pixels"]


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
    for kernel in (module.prepare, lists.list_rows, shading.forward, shading.backward):
        wp.load_module(kernel.module, device=device)


class Launcher:
    """Launches over `dim` independent jobs; on the CPU in slabs from a pool of threads (a launch is one thread and frees the GIL)."""

    def __init__(self, device: torch.device, threads: int, lanes: int) -> None:
        self.wp, self.module, self.lists = _kernels()
        self.shading = _shading(lanes)
        self.device = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        alone = device.type != "cpu" or lanes == 1  # threads a pixel share slots, which a CPU does not add atomically
        self.threads = 1 if alone else threads or cores
        _loaded(self.device, lanes)

    def array(self, tensor: Tensor, dtype: Any) -> Any:
        return self.wp.from_torch(tensor, dtype=dtype, requires_grad=False)

    def over(self, kernel: Any, dim: int, inputs: Callable[[int], list[Any]], slabs: int = 1) -> None:
        """`inputs(first)` are the arguments of the launch whose thread 0 is job `first`."""
        if dim == 0:
            return
        if self.threads == 1 or slabs * dim == 1:
            self.wp.launch(kernel, dim=dim, inputs=inputs(0), device=self.device)
            return
        parts = min(dim, self.threads * slabs)
        edges = [dim * i // parts for i in range(parts + 1)]
        jobs = [
            _pool(self.threads).submit(
                self.wp.launch, kernel, dim=edges[i + 1] - edges[i], inputs=inputs(edges[i]), device=self.device
            )
            for i in range(parts)
        ]
        for job in jobs:
            job.result()


@dataclass(eq=False)
class Frame:
    """What `forward` leaves for `backward`: sizes, prepared primitives, lists."""

    launcher: Launcher
    settings: Settings
    width: int
    height: int
    across: int
    down: int
    strips: int
    each: int
    prepared: dict[str, Tensor]
    starts: Tensor
    ids: Tensor

    @property
    def published(self) -> int:
        return int(self.settings.compat == "paper")

    @property
    def per_row(self) -> int:
        return self.strips // self.settings.tile

    def to_strips(self, pixels: Tensor, outside: float) -> Tensor:
        """(C, H, W) -> (tiles * strips, lanes)."""
        cameras, tile, lanes = len(pixels), self.settings.tile, self.launcher.shading.lanes
        wide = pixels.new_full((cameras, self.down * tile, self.across, self.per_row * lanes), outside)
        full = pixels.new_full((cameras, self.down * tile, self.across * tile), outside)
        full[:, : self.height, : self.width] = pixels
        wide[..., :tile] = full.view(cameras, self.down * tile, self.across, tile)
        split = wide.view(cameras, self.down, tile, self.across, self.per_row, lanes)
        return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, lanes).contiguous()

    def to_pixels(self, strips: Tensor) -> Tensor:
        """(tiles * strips, lanes) -> (C, H, W)."""
        tile, lanes = self.settings.tile, self.launcher.shading.lanes
        split = strips.view(-1, self.down, self.across, tile, self.per_row, lanes).permute(0, 1, 3, 2, 4, 5)
        wide = split.reshape(-1, self.down * tile, self.across, self.per_row * lanes)[..., :tile]
        return wide.reshape(-1, self.down * tile, self.across * tile)[:, : self.height, : self.width].contiguous()

    def arrays(self, colors: Tensor) -> list[Any]:
        wp, p = self.launcher.wp, self.prepared
        a = self.launcher.array
        return [
            a(self.starts, wp.int32), a(self.ids, wp.int32), a(p["edges"], wp.vec3), a(p["count"], wp.int32),
            a(p["origin"], wp.vec2), a(p["box"], wp.vec4i), a(p["soft"], wp.vec4), a(colors, wp.vec3),
        ]  # fmt: skip


def prepare_frame(
    launcher: Launcher, settings: Settings, points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor,
    views: Tensor, lenses: Tensor, sharpen: Tensor, width: int, height: int, listed: float,
) -> Frame:  # fmt: skip
    """`listed`: convexes whose alpha stays below it in a tile are not in the tile's list."""
    wp, module, array = launcher.wp, launcher.module, launcher.array
    number, cameras = len(points), len(views)
    total, device, tile = number * cameras, points.device, settings.tile
    clip = settings.crossing == "clip" and settings.compat != "paper"
    corners = _most_corners(points, views, settings.near) if clip else points.shape[1]

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    whole = torch.int32
    p = {
        "edges": new(total, corners, 3), "ring": new(total, corners, dtype=whole), "count": new(total, dtype=whole),
        "origin": new(total, 2), "box": new(total, 4, dtype=whole), "soft": new(total, 4), "depth": new(total),
        "reach": new(total, 2), "status": new(total, dtype=whole),
    }  # fmt: skip
    published = 1 if settings.compat == "paper" else 0 if settings.cull else 2
    given = [
        array(points, wp.vec3), array(delta, wp.float32), array(sigma, wp.float32), array(opacity, wp.float32),
        array(views, wp.mat44), array(lenses, wp.vec4), array(sharpen, wp.float32), width, height, settings.near,
        listed, published, int(clip), tile,
    ]  # fmt: skip
    made = [
        array(p["edges"], wp.vec3), array(p["ring"], wp.int32), array(p["count"], wp.int32), array(p["origin"], wp.vec2),
        array(p["box"], wp.vec4i), array(p["soft"], wp.vec4), array(p["depth"], wp.float32), array(p["reach"], wp.vec2),
        array(p["status"], wp.int32),
    ]  # fmt: skip
    launcher.over(module.prepare, total, lambda first: [*given, first, *made], slabs=2)

    across, down = -(-width // tile), -(-height // tile)
    lanes = launcher.shading.lanes
    strips = tile * -(-tile // lanes)
    ranks = torch.sort(p["depth"].view(cameras, number), dim=1, stable=True).indices
    order = (ranks + number * torch.arange(cameras, device=device)[:, None]).reshape(-1).to(whole)
    common = [
        array(order, wp.int32),
        made[0],
        made[2],
        made[3],
        made[4],
        made[5],
        number,
        across,
        down,
        tile,
        published,
    ]
    tiles = cameras * across * down
    starts = new(tiles + 1, dtype=whole)
    if lanes > 1:
        counts, nothing = new(tiles, dtype=whole), new(1, dtype=whole)

        def lists(fill: int, places: Tensor, ids: Tensor) -> None:
            targets = [fill, array(places, wp.int32), array(ids, wp.int32)]
            launcher.over(launcher.lists.list_rows, cameras * down, lambda first: [*common, first, *targets], slabs=2)

        lists(0, counts, nothing)
        torch.cumsum(counts, 0, dtype=whole, out=starts[1:])
        ids = new(max(int(starts[-1]), 1), dtype=whole)
        lists(1, starts[:-1].clone(), ids)
        each = strips
    else:
        counts, nothing = new(total, dtype=whole), new(1, dtype=whole)
        head = [0, array(counts, wp.int32), array(nothing, wp.int32), array(nothing, wp.int32)]
        launcher.over(launcher.lists.list_pairs, total, lambda first: [*common, first, *head])
        ends = torch.cumsum(counts, 0, dtype=whole)
        pairs = int(ends[-1])
        ids, where = new(max(pairs, 1), dtype=whole), new(max(pairs, 1), dtype=whole)
        tail = [1, array(ends - counts, wp.int32), array(ids, wp.int32), array(where, wp.int32)]
        launcher.over(launcher.lists.list_pairs, total, lambda first: [*common, first, *tail])
        if pairs:
            where, place = torch.sort(where, stable=True)
            ids = ids[place]
            starts[1:] = torch.cumsum(torch.bincount(where, minlength=tiles), 0)
        each = 1
    return Frame(launcher, settings, width, height, across, down, strips, each, p, starts, ids)


def _most_corners(points: Tensor, views: Tensor, near: float) -> int:
    """How many corners a shadow can have: K, or 3 K - 5 where the near plane cuts a convex (`warp_prepare.cut_hull`)."""
    corners = points.shape[1]
    depths = torch.einsum("cd,nkd->cnk", views[:, 2, :3], points) + views[:, 2, 3, None, None]
    depths = depths - near
    slack = 1e-4 * (near + depths.abs().amax(dim=2))
    cut = (depths.amin(dim=2) < slack) & (depths.amax(dim=2) > -slack)
    return max(corners, 3 * corners - 5) if bool(cut.any()) else corners


def sums_over_pixels(
    frame: Frame, ended: Tensor, last: Tensor, colors: Tensor, background: Tensor, d_image: Tensor, d_left: Tensor
) -> Tensor:
    """For each convex and camera ``(C N, 3 K + 6)``: sums of dL/dd (x, y, 1) of each edge, then of colour, opacity, z sigma, z delta.

    Args:
        ended, last: strips of the transmittance where each pixel ended, and of the place after its last sample in the list.
        d_image, d_left: gradients ``(C, H, W, 3)``, ``(C, H, W)``.
    """
    sums = _sums_of_strips if frame.launcher.shading.lanes > 1 else _sums_of_blocks
    return sums(frame, ended, last, colors, background, d_image, d_left)


def _sums_of_strips(
    frame: Frame, ended: Tensor, last: Tensor, colors: Tensor, background: Tensor, d_image: Tensor, d_left: Tensor
) -> Tensor:
    """Each pair of a tile and a convex has a slot of its own; slots are added in a fixed order, whatever the threads."""
    launcher, corners = frame.launcher, frame.prepared["ring"].shape[1]
    wp, V, array = launcher.wp, launcher.shading.vector, launcher.array
    behind = [frame.to_strips(background[:, c, None, None].expand(d_left.shape), 0.0) for c in range(3)]
    clear = torch.ones_like(behind[0])
    upstream = [frame.to_strips(d_image[..., c], 0.0) for c in range(3)]
    upstream.append(frame.to_strips(d_left, 0.0))
    jobs = len(ended) // frame.each
    sums = torch.empty(jobs, 3 * corners, launcher.shading.lanes, device=d_left.device)
    slots = torch.zeros(len(frame.ids), 3 * corners + 6, device=d_left.device)
    left = ended.clone()
    shared = [
        *frame.arrays(colors), frame.across, frame.down, frame.settings.tile, frame.strips, frame.each, frame.settings.threshold,
        frame.published,
    ]  # fmt: skip
    state = [
        *(array(x, V) for x in (*behind, clear, left)), array(last, launcher.shading.whole),
        *(array(x, V) for x in upstream), array(sums, V), array(slots, wp.float32),
    ]  # fmt: skip
    launcher.over(launcher.shading.backward, jobs, lambda first: [*shared, first, *state], slabs=8)
    total = torch.zeros(len(colors), slots.shape[1], device=d_left.device)
    each = -(-len(colors) // launcher.threads)
    gather = [array(slots, wp.float32), array(frame.ids, wp.int32), int(frame.starts[-1]), each]
    adds = array(total, wp.float32)
    launcher.over(launcher.lists.gather_slots, launcher.threads, lambda first: [*gather, first, adds])
    return total


def _sums_of_blocks(
    frame: Frame, ended: Tensor, last: Tensor, colors: Tensor, background: Tensor, d_image: Tensor, d_left: Tensor
) -> Tensor:
    """Blocks of pixels add their sums to the convex itself: on CUDA."""
    from surefoot.splatting.warp_blocks import BLOCK, backward_blocks

    launcher, corners = frame.launcher, frame.prepared["ring"].shape[1]
    wp, array = launcher.wp, launcher.array

    def of_pixels(color: Tensor) -> Tensor:
        return torch.cat([frame.to_strips(color[..., c], 0.0) for c in range(3)], dim=1).contiguous()

    total = torch.zeros(len(colors), corners + 2, 3, device=d_left.device)
    given = [
        *frame.arrays(colors), frame.across, frame.down, frame.settings.tile, frame.settings.threshold, frame.published,
        array(of_pixels(background[:, None, None].expand(d_image.shape)), wp.vec3), array(ended[:, 0].contiguous(), wp.float32),
        array(last[:, 0].contiguous(), wp.int32), array(of_pixels(d_image), wp.vec3),
        array(frame.to_strips(d_left, 0.0)[:, 0].contiguous(), wp.float32), array(total.view(-1, 3), wp.vec3),
    ]  # fmt: skip
    wp.launch(backward_blocks, dim=len(ended), inputs=given, device=launcher.device, block_dim=BLOCK)
    return total.view(len(colors), 3 * corners + 6)


def error_bound(
    frame: Frame, colors: Tensor, background: Tensor, left: Tensor, missed: Tensor, listed: float
) -> Tensor:
    """Range of the colours times what was left out (alpha T of skipped samples, T where a pixel stopped, alpha of unlisted convexes) and
    what rounding to float32 may have moved alpha."""
    launcher, p = frame.launcher, frame.prepared
    wp, array, cameras = launcher.wp, launcher.array, len(background)
    tiles = torch.zeros(cameras * frame.across * frame.down, device=left.device)
    number = len(colors) // cameras
    given = [
        array(p["edges"], wp.vec3), array(p["count"], wp.int32), array(p["origin"], wp.vec2), array(p["soft"], wp.vec4),
        array(p["status"], wp.int32), array(p["box"], wp.vec4i), number, frame.across, frame.down, frame.settings.tile,
        listed,
    ]  # fmt: skip
    out = array(tiles, wp.float32)
    launcher.over(launcher.lists.bound_unlisted, len(tiles), lambda first: [*given, first, out], slabs=8)
    tile = frame.settings.tile
    unlisted = tiles.view(cameras, frame.down, frame.across).repeat_interleave(tile, 1).repeat_interleave(tile, 2)
    seen = (p["status"].view(cameras, number) % 3 == 0)[..., None]
    shades = colors.view(cameras, number, 3)
    high = torch.maximum(torch.where(seen, shades, -torch.inf).amax(1), background)
    low = torch.minimum(torch.where(seen, shades, torch.inf).amin(1), background)
    lost = missed + unlisted[:, : frame.height, : frame.width] + torch.where(left < 0, -left, 0.0)
    return (high - low)[:, None, None, :] * lost.clamp(max=1.0)[..., None] * (1 + 1e-5) + 1e-5


def cuda_modules() -> list[Any]:
    """Warp's modules of all kernels that a CUDA device runs (to compile them ahead of time)."""
    from surefoot.splatting.warp_blocks import backward_blocks

    _, module, lists = _kernels()
    kernels = (module.prepare, lists.list_pairs, _shading(1).forward, backward_blocks)
    return [kernel.module for kernel in kernels]
