"""Images of smooth convexes, with gradients: the compiled rasteriser (Warp, the extra `kernels`).

What it computes is `reference.render_reference` (which stands in for it in small scenes where Warp is missing); how fast, and that tiles, strips and threads leave no trace, is this file's part:

1. `prepare`: projection, hull, edges; the exact support {d_k <= log(o / tau - 1) / (z^2 sigma delta)} cut by the image gives a box.
2. Primitives are sorted by depth, then listed for the tiles that their support meets, so that every list is in depth order.
3. `forward` walks each tile's list; `backward` walks it again from behind.
4. The gradients of a tile's pair go to a slot of their own and are added in a fixed order, whatever the threads.

References:
    Held et al., "3D Convex Splatting" (2025), equations 5, 7, 8. Differences of its code are the option ``compat="paper"``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.numerics.kernels import start_warp
from surefoot.splatting.reference import contributions

__all__ = ["Rendering", "Settings", "rasterize"]

log = logging.getLogger(__name__)
MOST_DENSE = 20_000_000  # convexes times pixels that the reference renders in the place of the kernels
FAINTER = 64.0  # for the error bound, convexes are listed down to the threshold divided by this
UNDERFLOW = 1e-25  # below this the transmittance in front cannot be recovered in float32


@dataclass(frozen=True)
class Settings:
    """How to render.

    Attributes:
        threshold: contributions alpha below it are left out; 0 renders all of them.
        stop: a pixel is done once its transmittance is below it.
        near: a convex whose centroid is not beyond this depth is left out.
        crossing: what happens to the others that reach behind the near plane: "clip" cuts them there, exactly, with the gradients that
            follow; "cull" leaves out those with a point at a hundredth of `near` or before, and shows the others whole.
        focal: focal length (sqrt(fx fy), pixels) at which delta holds; at another one delta is scaled so that the image is the same at
            another resolution. None takes delta as it is.
        depth_gradient: whether the depth in sigmoid(-z sigma phi) is differentiated.
        tile: side of a tile in pixels. It changes no pixel.
        threads: CPU threads; 0 takes all. They change no bit, of image or gradient.
        cull: False lists every convex for every tile (to see that this changes no pixel).
        compat: "paper" cuts supports by a square of tiles, drops the sample that would end a pixel, puts the principal point in the
            middle, ignores the depth's gradient and the clamp's, weakens the points' gradient by half the image size, projects
            points behind the camera as they are, and does not scale delta, as the published code does.
    """

    threshold: float = 1.0 / 255.0
    stop: float = 1e-4
    near: float = 0.2
    crossing: Literal["clip", "cull"] = "clip"
    focal: float | None = None
    depth_gradient: bool = True
    tile: int = 16
    threads: int = 0
    cull: bool = True
    compat: Literal["", "paper"] = ""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1 or not 0 <= self.stop < 1 or not self.near > 0:
            raise ValueError(
                f"threshold {self.threshold}, stop {self.stop}, near {self.near}; expected [0, 1), [0, 1), positive"
            )
        if self.tile not in (8, 16, 32):
            raise ValueError(f"tile is {self.tile}; expected 8, 16 or 32")
        if self.focal is not None and not self.focal > 0:
            raise ValueError(f"focal is {self.focal}; expected a positive number of pixels")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}; expected 0 (all) or a positive number")
        if self.crossing not in ("clip", "cull"):
            raise ValueError(f'crossing is {self.crossing!r}; expected "clip" or "cull"')
        if self.compat not in ("", "paper"):
            raise ValueError(f'compat is {self.compat!r}; expected "" or "paper"')


@dataclass(frozen=True, eq=False)
class Rendering:
    """Images of C cameras.

    Attributes:
        image: ``(C, H, W, 3)``.
        transmittance: ``(C, H, W)``, what is left for the background.
        status: ``(C, N)``: 0 listed, 1 behind the camera or too near, 2 degenerate (no area), 3 outside or fainter than the threshold.
        pairs: how many (tile, convex) pairs were listed.
        bound: ``(C, H, W, 3)``, where asked for: no pixel is farther than this from the image with threshold 0 and no stop.
    """

    image: Tensor
    transmittance: Tensor
    status: Tensor
    pairs: int
    bound: Tensor | None = None


def installed() -> bool:
    """Whether the extra `kernels` is there."""
    return importlib.util.find_spec("warp") is not None


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


class _Launcher:
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
class _Frame:
    """What `forward` leaves for `backward`: sizes, prepared primitives, lists."""

    launcher: _Launcher
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


def _prepare(
    launcher: _Launcher, settings: Settings, points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor,
    views: Tensor, lenses: Tensor, sharpen: Tensor, width: int, height: int, listed: float,
) -> _Frame:  # fmt: skip
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
            launcher.over(launcher.lists.list_rows, cameras * down, lambda first: [*common, first, *targets], slabs=4)

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
    return _Frame(launcher, settings, width, height, across, down, strips, each, p, starts, ids)


def _most_corners(points: Tensor, views: Tensor, near: float) -> int:
    """How many corners a shadow can have: K, or 3 K - 5 where the near plane cuts a convex (`warp_prepare.cut_hull`)."""
    corners = points.shape[1]
    depths = torch.einsum("cd,nkd->cnk", views[:, 2, :3], points) + views[:, 2, 3, None, None]
    depths = depths - near
    slack = 1e-4 * (near + depths.abs().amax(dim=2))
    cut = (depths.amin(dim=2) < slack) & (depths.amax(dim=2) > -slack)
    return max(corners, 3 * corners - 5) if bool(cut.any()) else corners


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, background: Tensor,
        views: Tensor, lenses: Tensor, sharpen: Tensor, size: tuple[int, int], settings: Settings, lanes: int,
        bounding: bool, note: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        launcher = _Launcher(points.device, settings.threads, lanes)
        width, height = size
        args = (points, delta, sigma, opacity, views, lenses, sharpen)
        listed = settings.threshold / FAINTER if bounding else settings.threshold
        frame = _prepare(launcher, settings, *args, width, height, listed)
        V, cameras = launcher.shading.vector, len(views)
        ones = torch.ones(cameras, height, width, device=points.device)
        left = frame.to_strips(ones, -1.0)
        rgb = [torch.zeros_like(left) for _ in range(3)]
        last = torch.zeros(left.shape, dtype=torch.int32, device=points.device)
        missed = torch.zeros_like(left) if bounding else left[:1].clone()
        array = launcher.array
        stop = max(settings.stop, UNDERFLOW)
        shared = [
            *frame.arrays(colors), frame.across, frame.down, settings.tile, frame.strips, frame.each, settings.threshold,
            stop, frame.published, int(bounding),
        ]  # fmt: skip
        out = [*(array(x, V) for x in (*rgb, left)), array(last, launcher.shading.whole), array(missed, V)]
        jobs = cameras * frame.across * frame.down * frame.strips // frame.each
        launcher.over(launcher.shading.forward, jobs, lambda first: [*shared, first, *out], slabs=8)
        transmittance = frame.to_pixels(left.abs())
        image = torch.stack([frame.to_pixels(x) for x in rgb], dim=-1)
        image = image + transmittance[..., None] * background[:, None, None, :]
        ctx.frame, ctx.left, ctx.last = frame, left.abs(), last
        ctx.save_for_backward(points, delta, sigma, colors, background, views, lenses, sharpen, transmittance)
        note["frame"] = frame
        note["pairs"] = int(frame.starts[-1])
        note["status"] = frame.prepared["status"].view(cameras, -1)
        if bounding:
            note["bound"] = _bound(frame, colors, background, frame.to_pixels(left), frame.to_pixels(missed), listed)
        return image, transmittance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        d_image, d_left = grads
        points, delta, sigma, colors, background, views, lenses, sharpen, transmittance = ctx.saved_tensors
        frame: _Frame = ctx.frame
        launcher, settings = frame.launcher, frame.settings
        wp, V, array = launcher.wp, launcher.shading.vector, launcher.array
        number, corners, cameras = len(points), frame.prepared["ring"].shape[1], len(views)
        d_image = d_image.contiguous()
        shape = d_left.shape
        behind = [frame.to_strips(background[:, c, None, None].expand(shape), 0.0) for c in range(3)]
        clear = torch.ones_like(behind[0])
        upstream = [frame.to_strips(d_image[..., c], 0.0) for c in range(3)]
        upstream.append(frame.to_strips(d_left, 0.0))
        jobs = len(ctx.left) // frame.each
        sums = torch.empty(jobs, 2 * corners, launcher.shading.lanes, device=points.device)
        slots = torch.zeros(len(frame.ids), 3 * corners + 6, device=points.device)
        left = ctx.left.clone()
        shared = [
            *frame.arrays(colors), frame.across, frame.down, settings.tile, frame.strips, frame.each, settings.threshold,
            frame.published,
        ]  # fmt: skip
        state = [
            *(array(x, V) for x in (*behind, clear, left)), array(ctx.last, launcher.shading.whole),
            *(array(x, V) for x in upstream), array(sums, V), array(slots, wp.float32),
        ]  # fmt: skip
        launcher.over(launcher.shading.backward, jobs, lambda first: [*shared, first, *state], slabs=8)
        total = torch.zeros(number * cameras, slots.shape[1], device=points.device)
        pairs = int(frame.starts[-1])
        if launcher.device == "cpu":
            each = -(-number * cameras // max(launcher.threads, 1))
            gather = [array(slots, wp.float32), array(frame.ids, wp.int32), pairs, each]
            adds = array(total, wp.float32)
            launcher.over(launcher.lists.gather_slots, launcher.threads, lambda first: [*gather, first, adds])
        else:
            total.index_add_(0, frame.ids[:pairs].long(), slots[:pairs])
        out = [torch.zeros_like(points), torch.zeros_like(delta), torch.zeros_like(sigma), torch.zeros_like(delta)]
        p = frame.prepared
        given = [
            array(points, wp.vec3), array(delta, wp.float32), array(sigma, wp.float32), array(views, wp.mat44),
            array(lenses, wp.vec4), array(sharpen, wp.float32), frame.width, frame.height, settings.near,
            frame.published, int(settings.depth_gradient and not frame.published),
        ]  # fmt: skip
        made = [
            array(p["ring"], wp.int32), array(p["count"], wp.int32), array(p["origin"], wp.vec2), array(total, wp.float32),
            array(out[0], wp.vec3), *(array(x, wp.float32) for x in out[1:]),
        ]  # fmt: skip
        launcher.over(launcher.module.unproject, number, lambda first: [*given, first, *made], slabs=2)
        d_colors = total[:, 3 * corners : 3 * corners + 3].contiguous()
        d_background = (d_image * transmittance[..., None]).sum(dim=(1, 2)) if ctx.needs_input_grad[5] else None
        return (*out, d_colors, d_background, *(None,) * 8)


def _bound(frame: _Frame, colors: Tensor, background: Tensor, left: Tensor, missed: Tensor, listed: float) -> Tensor:
    """Range of the colours times what was left out: alpha T of skipped samples, T where a pixel stopped, alpha of unlisted convexes."""
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


def rasterize(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, views: Tensor, matrices: Tensor,
    width: int, height: int, background: Tensor | None = None, settings: Settings | None = None, *, bounding: bool = False,
    lanes: int = 0,
) -> Rendering:  # fmt: skip
    """Render N convexes of K points for C cameras; differentiable in the first five arguments and the background.

    C(q) = sum_n c_n alpha_n prod_{i<n} (1 - alpha_i) + T background, front to back, with alpha = min(0.99, o sigmoid(-z sigma phi)) and
    phi = log sum_k exp(z delta d_k); d_k is the signed distance to edge k of the projected hull times the length of the edge (pixels^2).

    Args:
        points: ``(N, K, 3)`` world units, 3 <= K <= 16.
        delta, sigma, opacity: ``(N,)``, positive; the opacity in [0, 1].
        colors: ``(N, 3)``, or ``(C, N, 3)`` where they depend on the view.
        views: world to camera, ``(C, 4, 4)``; x right, y down, z forward.
        matrices: K ``(C, 3, 3)`` in pixels, the corner of the first pixel at (0, 0).
        background: ``(3,)`` or ``(C, 3)``; default black.
        bounding: whether the error-bound map is made. Lists then hold convexes down to a 64th of the threshold, and all their samples are
            evaluated: slower, the same image; what is fainter counts by its largest alpha in the tile. `status` and `pairs` are
            those of the longer lists.
        lanes: pixels a strip; default 16 on the CPU, 1 on CUDA.

    Raises:
        ValueError: shapes that do not fit, values that are not finite or out of range; the message names the argument.
        ImportError: Warp is not installed, and the scene is too large (or `compat` is set) for the reference, which stands in for it.
    """
    settings = settings or Settings()
    _check(points, delta, sigma, opacity, colors, views, matrices, width, height)
    if not installed():
        return _dense(
            points, delta, sigma, opacity, colors, views, matrices, (width, height), background, settings, bounding
        )
    device, single = points.device, torch.float32
    cameras = len(views)
    matrices = matrices.to(device=device, dtype=torch.float64)
    lenses = torch.stack(
        [matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2] - 0.5, matrices[:, 1, 2] - 0.5], dim=1
    )
    if settings.compat == "paper":
        middle = lenses.new_tensor([(width - 1) / 2, (height - 1) / 2])
        lenses = torch.cat([lenses[:, :2], middle.expand(cameras, 2)], dim=1)
    area = lenses[:, 0] * lenses[:, 1]
    sharpen = torch.ones_like(area)
    if settings.focal is not None and settings.compat != "paper":
        sharpen = settings.focal**2 / area
    back = torch.zeros(3, device=device) if background is None else background
    back = back.to(device=device, dtype=single).expand(cameras, 3)
    shades = colors.to(single).expand(cameras, len(points), 3).reshape(-1, 3)
    note: dict[str, Any] = {}
    image, transmittance = _Rasterize.apply(
        points.to(single).contiguous(), delta.to(single).contiguous(), sigma.to(single).contiguous(), opacity.to(single).contiguous(),
        shades.contiguous(), back, views.to(device=device, dtype=single).contiguous(), lenses.to(single).contiguous(),
        sharpen.to(single).contiguous(), (width, height), settings, lanes or (16 if device.type == "cpu" else 1), bounding, note,
    )  # fmt: skip
    return Rendering(image, transmittance, note["status"], note["pairs"], note.get("bound"))


@cache
def _say_so() -> None:
    log.warning("Warp is not installed: the slow reference renders instead; pip install 'surefoot[kernels]'")


def _dense(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, views: Tensor, matrices: Tensor,
    size: tuple[int, int], background: Tensor | None, settings: Settings, bounding: bool,
) -> Rendering:  # fmt: skip
    """The reference in the place of the kernels: every convex at every pixel, for small scenes."""
    width, height = size
    if settings.compat or len(points) * width * height > MOST_DENSE:
        raise ImportError(
            f"{len(points)} convexes at {width} x {height}{' with compat' if settings.compat else ''} need Warp: pip install 'surefoot[kernels]'"
        )
    _say_so()
    points, delta, sigma, opacity, colors = (t.double() for t in (points, delta, sigma, opacity, colors))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2).to(points.dtype)
    back = torch.zeros(3) if background is None else background
    back = back.to(points.dtype).expand(len(views), 3)
    images, lefts, states, bounds = [], [], [], []
    for c, (view, matrix) in enumerate(zip(views.to(points.dtype), matrices.to(points.dtype), strict=True)):
        sharp = delta if settings.focal is None else delta * settings.focal**2 / (matrix[0, 0] * matrix[1, 1])
        seen = contributions(
            points, sharp, sigma, opacity, view, matrix, pixels, near=settings.near, threshold=settings.threshold, stop=settings.stop,
            crossing=settings.crossing,
        )  # fmt: skip
        shades = (colors if colors.ndim == 2 else colors[c])[seen.order]
        left = seen.in_front[-1]
        images.append(((seen.alpha * seen.in_front[:-1]).T @ shades + left[:, None] * back[c]).view(height, width, 3))
        lefts.append(left.view(height, width))
        status = torch.full((len(points),), 1, dtype=torch.int32)
        status[seen.order] = torch.where((seen.alpha > 0).any(dim=1), 0, 3).to(torch.int32)
        states.append(status)
        if bounding:
            whole = contributions(
                points, sharp, sigma, opacity, view, matrix, pixels, near=settings.near, crossing=settings.crossing
            )
            lost = ((whole.alpha - seen.alpha) * seen.in_front[:-1]).sum(dim=0).clamp(max=1.0)
            high = torch.cat([shades, back[c][None]]).amax(dim=0)
            low = torch.cat([shades, back[c][None]]).amin(dim=0)
            bounds.append(((high - low) * lost[:, None] * (1 + 1e-5) + 1e-5).view(height, width, 3))
    pairs = sum(int((s == 0).sum()) for s in states)
    bound = torch.stack(bounds).float() if bounding else None
    return Rendering(torch.stack(images).float(), torch.stack(lefts).float(), torch.stack(states), pairs, bound)


def _check(
    points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, views: Tensor, matrices: Tensor,
    width: int, height: int,
) -> None:  # fmt: skip
    if points.ndim != 3 or points.shape[2] != 3 or not 3 <= points.shape[1] <= 16:
        raise ValueError(f"points {tuple(points.shape)}; expected (N, K, 3) with K from 3 to 16")
    number, cameras = len(points), len(views)
    shapes = {"delta": (delta, (number,)), "sigma": (sigma, (number,)), "opacity": (opacity, (number,))}
    shapes |= {"views": (views, (cameras, 4, 4)), "matrices": (matrices, (cameras, 3, 3))}
    for name, (value, shape) in shapes.items():
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} {tuple(value.shape)}; expected {shape}")
    if tuple(colors.shape) not in ((number, 3), (cameras, number, 3)):
        raise ValueError(f"colors {tuple(colors.shape)}; expected ({number}, 3) or ({cameras}, {number}, 3)")
    if cameras < 1 or width < 1 or height < 1:
        raise ValueError(f"{cameras} cameras of {width} x {height}; expected at least one, and one pixel")
    for name, value in {
        "points": points, "delta": delta, "sigma": sigma, "opacity": opacity, "colors": colors, "views": views, "matrices": matrices,
    }.items():  # fmt: skip
        bad = ~torch.isfinite(value.detach())
        if bad.any():
            raise ValueError(f"{name} is not finite at index {tuple(int(i) for i in bad.nonzero()[0])}")
    if not bool((matrices[:, 0, 0] > 0).all() and (matrices[:, 1, 1] > 0).all()):
        raise ValueError("a camera has a focal length that is not positive")
    for name, value in {"delta": delta, "sigma": sigma}.items():
        if not bool((value.detach() > 0).all()):
            raise ValueError(f"{name} must be positive; index {int((value.detach() <= 0).nonzero()[0])} is not")
    if not bool(((opacity.detach() >= 0) & (opacity.detach() <= 1)).all()):
        raise ValueError("opacity must lie in [0, 1]")
