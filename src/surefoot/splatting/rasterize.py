"""Images of smooth convexes, with gradients: the compiled rasteriser (Warp, the extra `kernels`).

What it computes is `reference.render_reference` (which stands in for it in small scenes where Warp is missing); how fast, and that tiles,
strips and threads leave no trace, is this file's and `frame.py`'s part:

1. `prepare`: projection, hull, edges; the exact support {d_k <= log(o / tau - 1) / (z^2 sigma delta)} cut by the image gives a box.
2. Primitives are sorted by depth; chunks of them count, then fill, the lists of the tiles that their support meets (CPU), or pairs are
   sorted by tile (CUDA), so that every list is in depth order.
3. `forward` walks each tile's list; `backward` walks it again from behind.
4. The gradients of a tile's pair go to a slot of their own and are added in a fixed order, whatever the threads (CPU), or blocks of
   pixels add their sums to the convex (CUDA).

References:
    Held et al., "3D Convex Splatting" (2025), equations 5, 7, 8. Differences of its code are the option ``compat="paper"``.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.splatting.frame import Frame, Launcher, error_bound, prepare_frame, sums_over_blocks, sums_over_strips
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


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, points: Tensor, delta: Tensor, sigma: Tensor, opacity: Tensor, colors: Tensor, background: Tensor,
        views: Tensor, lenses: Tensor, sharpen: Tensor, size: tuple[int, int], settings: Settings, lanes: int,
        bounding: bool, note: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        launcher = Launcher(points.device, settings.threads, lanes)
        width, height = size
        given = {
            "points": points, "delta": delta, "sigma": sigma, "opacity": opacity, "colors": colors, "background": background,
            "views": views, "lenses": lenses, "sharpen": sharpen,
        }  # fmt: skip
        listed = settings.threshold / FAINTER if bounding else settings.threshold
        frame = prepare_frame(launcher, settings, given, width, height, listed)
        wp, array, cameras, device = launcher.wp, launcher.array, len(views), points.device
        image = torch.empty(cameras, height, width, 3, device=device)
        transmittance = torch.empty(cameras, height, width, device=device)
        last = torch.empty(cameras, height, width, dtype=torch.int32, device=device)
        lost = torch.empty_like(transmittance) if bounding else transmittance
        arguments = [
            *frame.listed(), frame.strips, frame.each, max(settings.stop, UNDERFLOW), int(bounding),
            *frame.work(5 * frame.each), array(image.view(-1, 3), wp.vec3), array(transmittance.view(-1), wp.float32),
            array(last.view(-1), wp.int32), array(lost.view(-1), wp.float32),
        ]  # fmt: skip
        launcher.over(launcher.shading.forward, frame.jobs, arguments)
        ctx.frame, ctx.last = frame, last
        ctx.save_for_backward(
            *given.values(), transmittance
        )  # the frame has its views; this sees what is changed meanwhile
        note["pairs"] = frame.listings
        note["status"] = frame.status.view(cameras, -1)
        if bounding:
            note["bound"] = error_bound(frame, colors, background, lost, listed)
        return image, transmittance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        d_image, d_left = (grad.contiguous() for grad in grads)
        *given, transmittance = ctx.saved_tensors
        points, delta, _, _, colors = given[:5]
        frame: Frame = ctx.frame
        launcher, settings, arrays = frame.launcher, frame.settings, frame.arrays
        wp, array = launcher.wp, launcher.array
        in_slots = launcher.shading.lanes > 1
        if in_slots:
            slots = sums_over_strips(frame, transmittance, ctx.last, d_image, d_left)
            total = slots.new_empty(len(colors), *slots.shape[1:])
        else:
            slots = total = sums_over_blocks(frame, transmittance, ctx.last, d_image, d_left)
        out = [torch.zeros_like(x) for x in (points, delta, delta, delta, colors)]
        arguments = [
            *(arrays[n] for n in ("points", "delta", "sigma", "views", "lenses", "sharpen")), frame.width, frame.height, settings.near,
            frame.published, int(settings.depth_gradient and not frame.published), *(arrays[n] for n in ("ring", "count", "origin")),
            int(in_slots), arrays["pairs"], arrays["places"], array(slots, wp.vec3), array(total, wp.vec3), array(out[4], wp.vec3), array(out[0], wp.vec3),
            *(array(x, wp.float32) for x in out[1:4]),
        ]  # fmt: skip
        launcher.over(launcher.module.unproject, len(points), arguments)
        d_background = (d_image * transmittance[..., None]).sum(dim=(1, 2)) if ctx.needs_input_grad[5] else None
        return (*out, d_background, *(None,) * 8)


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
    back = back.to(device=device, dtype=single).expand(cameras, 3).contiguous()
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
    ranges = {}
    for name, value in {
        "points": points, "delta": delta, "sigma": sigma, "opacity": opacity, "colors": colors, "views": views, "matrices": matrices,
    }.items():  # fmt: skip
        value = value.detach()
        ranges[name] = (
            tuple(float(x) for x in torch.aminmax(value)) if value.numel() else (1.0, 1.0)
        )  # NaN where any is
        if not all(math.isfinite(x) for x in ranges[name]):
            index = (~torch.isfinite(value)).nonzero()[0]
            raise ValueError(f"{name} is not finite at index {tuple(int(i) for i in index)}")
    if not float(torch.diagonal(matrices, dim1=1, dim2=2)[:, :2].min()) > 0:
        raise ValueError("a camera has a focal length that is not positive")
    for name, value in {"delta": delta, "sigma": sigma}.items():
        if not ranges[name][0] > 0:
            raise ValueError(f"{name} must be positive; index {int((value.detach() <= 0).nonzero()[0])} is not")
    if not (ranges["opacity"][0] >= 0 and ranges["opacity"][1] <= 1):
        raise ValueError("opacity must lie in [0, 1]")
