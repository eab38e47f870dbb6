"""Pictures of a trained scene, made from the run directory alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surefoot.core.certificate import read_claims
from surefoot.core.system import Figure

if TYPE_CHECKING:
    from surefoot.core.rundir import RunReader

Array = np.ndarray[Any, np.dtype[Any]]
LINE, SECOND = "#1f5f8b", "#d1603d"


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    claims = {claim.name: claim for claim in read_claims(reader)}
    picture = (reader.answer_dir / "picture.svg").is_file()
    shown = "held-out" if "held-out" in claims["psnr"].statement else "trained"
    rows = reader.history
    start = rows.get("held_out_psnr")
    rise = f", from {float(start[0]):.1f} dB" if start is not None and len(start) and shown == "held-out" else ""
    number = int(rows["convexes"][-1]) if "convexes" in rows and len(rows["convexes"]) else 0
    return (
        f"{number:,} convexes show the {'picture' if picture else f'{shown} photos'} at {float(claims['psnr'].value or 0):.1f} dB (SSIM "
        f"{float(claims['ssim'].value or 0):.3f}){rise}; half of the pixels are within "
        f"{255 * float(claims['error-bound'].value or 0):.1f} of 255 grey levels of the exact model."
    )


def figures(reader: RunReader) -> Sequence[Figure]:
    """A judged photo as it is rendered, where it differs, and the PSNR along training; of a picture also the outlines."""
    drawn = [_outlines(reader)] if (reader.answer_dir / "picture.svg").is_file() else []
    return [_pictures(reader), *drawn, _training(reader)]


def _outlines(reader: RunReader) -> Figure:
    """Half levels of the convexes over the picture, in plain lines."""
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure as Canvas

    from surefoot.splatting.drawing import outlines
    from surefoot.splatting.export import read_scene
    from surefoot.splatting.harmonics import SH0

    photo = np.clip(reader.evidence("photo.npz")["photo"], 0, 1)
    scene = read_scene(reader.answer_dir)
    border, filled, solid = outlines(scene, reader.evidence("cameras.npz")["matrices"][0])
    height, width = photo.shape[:2]
    canvas = Canvas(figsize=(9.6, 4.8 * height / width + 0.3), layout="constrained")
    shades = np.concatenate([np.clip(0.5 + SH0 * scene.sh0, 0, 1), filled[:, None]], axis=1)
    chosen = np.flatnonzero(solid & (filled > 1 / 255))[::-1]
    shapes, lines = canvas.subplots(1, 2)
    shapes.set_title("shapes", fontsize=9)
    shapes.set_facecolor(np.clip(scene.background, 0, 1))
    shapes.add_collection(PolyCollection(list(border[chosen]), facecolors=shades[chosen]))
    lines.set_title("outlines", fontsize=9)
    lines.imshow(1 - 0.4 * (1 - photo), extent=(0, width, height, 0))
    lines.add_collection(PolyCollection(list(border[chosen]), facecolors="none", edgecolors=LINE, linewidths=0.5))
    for axis in (shapes, lines):
        axis.set_xlim(0, width)
        axis.set_ylim(height, 0)
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    return Figure(
        "outlines", "The convexes where each is half as opaque as it can be, filled and as lines over the picture; the drawing has no soft "
        "edges.", canvas, alt="Shapes and outlines",
    )  # fmt: skip


def _pictures(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    image = np.clip(reader.evidence("renders.npz")["image_0"], 0, 1)
    photo = np.clip(reader.evidence("photo.npz")["photo"], 0, 1)
    panels = [("picture" if (reader.answer_dir / "picture.svg").is_file() else "photo", photo), ("rendered", image)]
    height, width = image.shape[:2]
    canvas = Canvas(figsize=(9.6, 9.6 / 3 * height / width + 0.4), layout="constrained")
    axes = canvas.subplots(1, 3)
    for axis, (title, picture) in zip(axes, panels, strict=False):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    shown = axes[2].imshow(np.abs(image - photo).mean(axis=2), cmap="magma", vmin=0, vmax=0.3, interpolation="nearest")
    axes[2].set_title("difference", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    canvas.colorbar(shown, ax=axes[2], shrink=0.7)
    return Figure(
        "render", "A photo that training has not seen (where one was held out), as the convexes show it, and the mean difference of the channels.",
        canvas, alt="Photo, render, difference",
    )  # fmt: skip


def _training(reader: RunReader) -> Figure:
    from matplotlib.figure import Figure as Canvas

    rows = reader.history
    canvas = Canvas(figsize=(6.4, 3.0), layout="constrained")
    left = canvas.subplots()
    left.plot(
        rows["k"], rows["photo_psnr"], color=SECOND, lw=0.8, alpha=0.7, label="the photo (or picture) of the step"
    )
    if "held_out_psnr" in rows:
        left.plot(rows["k"], rows["held_out_psnr"], color=LINE, lw=1.6, label="held out")
    left.set_xlabel("steps")
    left.set_ylabel("PSNR, dB")
    left.legend(fontsize=8, frameon=False)
    right = left.twinx()
    right.plot(rows["k"], rows["convexes"], color="#9aa4ad", lw=1.0, ls=":")
    right.set_ylabel("convexes (dotted)")
    return Figure("training", "PSNR and the number of convexes along training.", canvas, alt="PSNR over steps")
