"""The card of convex splatting: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot._lazy import later
from surefoot.core.system import Inputs, InputSpec, Paper, Sample, System, TourStop, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import Result


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    steps: int = 0
    """Training steps, one photo each; 0: 3,000, or where points come from a depth map 12, for a generated scene 200."""
    reduce: int = 0
    """Photos averaged over blocks of so many pixels; 0: the smallest that brings them to 1,600 pixels across (sample: 2)."""
    hold_out: int = 8
    """Each so-manieth photo, by name, is held out; 0 none."""
    test: tuple[str, ...] = ()
    """Names of photos to hold out instead."""
    images: str = ""
    """Another folder of the photos within the capture, such as images_4."""
    sequence: bool = False
    """Photos without cameras are a walk or a film: match neighbours only."""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind everything, in [0, 1]."""
    corners: int = 0
    """Points of a convex, 3 to 16; 0: 6, or where points come from a depth map 4, for a generated scene 8."""
    degree: int = 0
    """Of the spherical harmonics of the colours, 0 to 3."""
    degree_every: int = 1000
    """Steps after which one more degree joins."""
    rate: float = 0.0
    """Multiplies all published step lengths, as short schedules want; 0: 4, in the schedules of 12 and 200 steps 20."""
    points_rate: float = 0.0
    """Step length of the points, in training units (the cameras' extent is 5); 0: as published, 0.0005, or 0.00004 and 0.002 there."""
    start: Literal["auto", "ball", "sharp", "facing"] = "auto"
    """First convexes: soft balls, as published, sharp ones, or polygons that face the nearest camera; auto faces where points come from a depth map."""
    fill: int = 0
    """Cells of so many pixels of a photo that hold no sparse point get one, at the depth that a sweep over the photos finds; 0: none."""
    size: float = 0.0
    """First radius, in spacings of the points; 0: the start's own."""
    opacity: float = 0.0
    """First opacity; 0: the start's own."""
    sigma: float = 0.0
    """First sharpness; 0: the start's own."""
    delta: float = 0.0
    """First smoothness times the spacing of the points; 0: the start's own."""
    rule: Literal["share", "threshold"] = "share"
    """Split a share of the convexes, or those above the published threshold (which depends on the photos' size)."""
    split_share: float = 0.06
    """Share that splits each time."""
    split_threshold: float = 2.5e-5
    """Published threshold of the mean slope of the loss in sigma."""
    split_every: int = 100
    """Steps between splits."""
    split_from: int = 200
    """No split before."""
    split_until: int = 0
    """No split after; 0: 60 % of the steps."""
    reset_every: int = 0
    """Steps between resets of the opacities to at most 0.2; 0 none."""
    most: int = 100_000
    """No split beyond so many convexes."""
    cool: float = 1.0
    """What is left at the end of all step lengths but the points', which fall from the last split on (0.1: calmer colours)."""
    drop: float = 0.0
    """Share of the convexes that a step leaves out, from none at first to this at the end: few photos overfit less."""
    exposure: bool = False
    """Each training photo gets an affine map of colours (exposure, white balance); held-out photos are shown with the mean one."""
    random_background: bool = False
    """Train before a colour drawn anew at each step, so that convexes cover what is solid."""
    threshold_first: float = 0.0
    """Contributions below it are not rendered at first (soft starts are cheaper so); 0: `threshold` from the start."""
    threshold_until: int = 500
    """Steps after which `threshold` holds."""
    threshold: float = 1 / 255
    """Contributions below it are not rendered."""
    answer_threshold: float = 1 / 1024
    """The same for the answer that is judged; where convexes are soft, the error bound falls with it. 0: `threshold`."""
    light: bool = False
    """Store the answer in half precision (offsets to the centroids)."""
    lpips: bool = False
    """Claim LPIPS, too, where its weights are on this machine (the page says which files; nothing is fetched)."""
    full_gradients: bool = False
    """Tell, in history.csv, the gradient's norm over all training photos at the start and at the end (as dear as two rounds of steps)."""
    render_threads: int = 0
    """CPU threads of the rasteriser; 0 all. They change no bit."""
    preview: float = 10.0
    """Seconds between pictures of the training in figures/preview.png; 0 none."""
    compat: Literal["", "paper"] = ""
    """"paper" renders as the published code does (see the page)."""
    sample: Literal["stereo", "turntable"] = "stereo"
    """Without input: the stereo pair, or a generated turntable."""
    stride: int = 3
    """Stereo sample: one point for so many pixels along each axis."""
    shapes: int = 400
    """One picture as input: so many convexes draw it (its longer side is at most 400 pixels, or as `reduce` says)."""


SCHEDULES: Mapping[str, Mapping[str, Any]] = {  # where options leave it open
    "photos": {"steps": 3000, "rate": 4.0, "points_rate": 5e-4, "corners": 6},
    "depth": {
        "steps": 12,
        "rate": 20.0,
        "points_rate": 4e-5,
        "corners": 4,
    },  # one convex a block of the photo: almost there
    "solid": {"steps": 200, "rate": 20.0, "points_rate": 2e-3, "corners": 8},  # boxes have eight corners
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")  # one of them as the input is drawn in the plane
PICTURE_WIDEST = 400  # pixels

FALLBACK = Sample(
    id="turntable",
    title="coloured boxes on a turntable, generated",
    origin="generated by surefoot.splatting.loading",
    licence="Apache-2.0",
)
SAMPLE = Sample(
    id="motorcycle",
    title="stereo photos of a motorcycle, trained on the left one, the right one held out",
    origin="scikit-image, data/motorcycle_*, read where it is installed",
    licence="BSD-3-Clause (the package scikit-image); photos without a stated licence, for research",
    credit="D. Scharstein et al., High-resolution stereo datasets with subpixel-accurate ground truth, 2014",
    extra="samples",
    fallback=FALLBACK,
)

STOPS = (
    TourStop(
        "turntable",
        "Coloured boxes on a turntable, seen from where no photo was taken",
        ("--preset", "tour", "--sample", "turntable"),
    ),
    TourStop(
        "buddha",
        title="A plaster head on a table: 12 photos to train on, the view from above held out",
        flags=("--preset", "glance", "--reduce", "4", "--test", "00049.jpg"),
        inputs=("convex-splatting/buddha",),
        licence="CC BY 4.0",
        credit="Buddha Dataset 1.0, S. Gasparini, F. Castan, Y. Lanthony, LADIO project; 13 of 67 photos, cropped and reduced",
    ),
)


def load(options: Options, inputs: Inputs) -> Any:
    """The capture given, or a sample."""
    method(options)  # bad options are refused before anything is read
    from surefoot.splatting.loading import read_capture

    if inputs.has("photos"):
        path = inputs.path("photos")
        if path.suffix.lower() in PICTURES:
            return _picture(options, path)
        return read_capture(
            path, options.reduce, options.hold_out, options.background, options.images, options.sequence,
            test=options.test,
        )  # fmt: skip
    return _sample(options, inputs)


def _picture(options: Options, path: Path) -> Any:
    """One picture, to be drawn in the plane; behind it lies its mean colour, or the background that was asked for."""
    from surefoot.data.posed_photos import read_picture
    from surefoot.splatting.problem import Picture

    pixels = read_picture(path, options.reduce, PICTURE_WIDEST)
    return Picture.of(pixels, path.name, options.background if any(options.background) else None)


def _sample(options: Options, inputs: Inputs) -> Any:
    from surefoot.data.samples import at_hand
    from surefoot.records.fingerprint import fingerprint
    from surefoot.splatting.loading import stereo_capture, turntable_capture

    def turntable(note: str = "") -> Any:
        capture = turntable_capture()
        inputs.sample(FALLBACK, sha256=capture.fingerprint(), note=note)
        return capture

    def stereo() -> Any:
        capture, pair = stereo_capture(options.reduce or 2, options.stride)
        inputs.sample(SAMPLE, sha256=fingerprint([s.sha256 for s in pair.sources]), **pair.sources[0].record())
        return capture

    return turntable() if options.sample == "turntable" else at_hand(inputs, SAMPLE, stereo, turntable)


def chosen(options: Options, problem: Any = None) -> Options:
    """The options with the schedule that fits the problem where they leave it open."""
    from dataclasses import replace

    kind = "photos"
    if problem is not None:
        kind = "solid" if problem.solid else "photos" if problem.spacing is None else "depth"
    return replace(options, **{name: getattr(options, name) or value for name, value in SCHEDULES[kind].items()})


def method(options: Options, problem: Any = None) -> Any:
    """The trainer that the options describe."""
    from surefoot.splatting.rasterize import Settings
    from surefoot.splatting.train import TrainConvexes

    options = chosen(options, problem)
    if options.lpips:
        from surefoot.data.lpips_weights import find_weights

        find_weights()  # missing ones are named before anything is trained
    settings = Settings(threshold=options.threshold, threads=options.render_threads, compat=options.compat)
    until = options.split_until or (6 * options.steps) // 10
    return TrainConvexes(
        horizon=options.steps, corners=options.corners, start=options.start, degree=options.degree, degree_every=options.degree_every, sigma=options.sigma,
        opacity=options.opacity, delta=options.delta, size=options.size, fill=options.fill, points_rate=options.points_rate, rate=options.rate, rule=options.rule,
        split_share=options.split_share, split_threshold=options.split_threshold, split_every=options.split_every,
        split_from=options.split_from, split_until=until, most=options.most, reset_every=options.reset_every, settings=settings,
        light=options.light, cool=options.cool, drop=options.drop, exposure=options.exposure,
        random_background=options.random_background, full_gradients=options.full_gradients, lpips=options.lpips, judge_every=min(50, max(12, options.steps // 6)), threshold_first=options.threshold_first, threshold_until=options.threshold_until, answer_threshold=options.answer_threshold,
    )  # fmt: skip


def drawing(options: Options) -> Any:
    """The method that draws one picture, as the options describe it."""
    from surefoot.splatting.rasterize import Settings
    from surefoot.splatting.vectorise import VectorisePicture

    options = chosen(options)
    settings = Settings(threshold=options.threshold, threads=options.render_threads)
    return VectorisePicture(horizon=options.steps, shapes=options.shapes, corners=options.corners, settings=settings)


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """Training, then the certificate."""
    from surefoot.core.solve import solve
    from surefoot.numerics.threads import torch_threads
    from surefoot.splatting.problem import Picture

    with torch_threads(1):
        if isinstance(problem, Picture):
            return solve(problem, drawing(options), run=run)
        trainer, watch = method(options, problem), []
        if run is not None and options.preview > 0:
            from surefoot.splatting.preview import Preview

            watch = [Preview(run.root, problem, trainer, options.preview)]
        return solve(problem, trainer, run=run, watch=watch)


def tiny_capture() -> Any:
    """Twelve convexes before four small cameras."""
    from surefoot.splatting.loading import turntable_capture

    return turntable_capture(photos=4, size=20, boxes=3)


def tiny() -> Sequence[tuple[Any, Any]]:
    """A small turntable: shares, the published rule, harmonics, half precision."""
    from dataclasses import replace

    from surefoot.splatting.problem import Picture
    from surefoot.splatting.rasterize import Settings
    from surefoot.splatting.train import TrainConvexes
    from surefoot.splatting.vectorise import VectorisePicture

    problem = tiny_capture()
    short = TrainConvexes(
        horizon=24, block=4, split_every=6, split_from=4, split_until=20, most=160, rate=3.0, opacity=0.5, sigma=0.02, delta=0.5,
        judge_every=8, reset_every=9,
    )  # fmt: skip
    return [
        (problem, short),
        (problem, replace(short, rule="threshold", split_threshold=1e-4, settings=Settings(compat="paper"))),
        (
            problem,
            replace(short, degree=3, degree_every=5, corners=4, light=True, fill=5, exposure=True, drop=0.2, cool=0.3),
        ),
        (Picture.of(problem.photos[0]), VectorisePicture(horizon=24, shapes=12, rounds=3, corners=5, block=4)),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """The small turntable as one capture: photos, cameras and points in an npz."""
    from surefoot.splatting.loading import write_npz_capture

    write_npz_capture(folder / "capture.npz", tiny_capture())
    return {"photos": str(folder / "capture.npz")}


CARD = System(
    name="convex-splatting",
    title="Photos in, a scene of smooth convexes out",
    paper=Paper(
        title="3D Convex Splatting: Radiance Field Rendering with 3D Smooth Convexes",
        authors=(
            "Jan Held", "Renaud Vandeghen", "Abdullah Hamdi", "Adrien Deliege", "Anthony Cioppa", "Silvio Giancola", "Andrea Vedaldi",
            "Bernard Ghanem", "Marc Van Droogenbroeck",
        ),
        year=2025,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        arxiv="2411.14974",
        claim="Smooth convexes show hard edges and flat faces with fewer primitives than Gaussians, and better views of man-made scenes.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=later("surefoot.splatting.export:write_scene"),
    read_answer=later("surefoot.splatting.export:read_scene"),
    checks=later("surefoot.splatting.verify:CHECKS"),
    sample=SAMPLE,
    aliases=("3dcs", "splatting"),
    domain="splatting",
    presets={
        "default": Options(),
        "tour": Options(reduce=2, stride=3),
        "few": Options(
            steps=900, rate=6.0, fill=4, drop=0.15, cool=0.1, split_from=150, split_until=600, most=16_000,
        ),
        "glance": Options(
            steps=60, rate=12.0, fill=4, drop=0.15, cool=0.1, threshold_first=0.02, threshold_until=50,
        ),
        "paper": Options(
            compat="paper", answer_threshold=0.0, steps=30_000, rate=1.0, start="ball", rule="threshold", degree=3, split_every=200,
            split_from=500, split_until=9000, reset_every=3000, most=10_000_000,
        ),
    },
    inputs=(
        InputSpec(
            "photos", "folder: COLMAP, transforms.json, scene.npz, or photos alone; one capture.npz; or one picture to draw in 2D",
            (".npz", "", *PICTURES),
        ),
    ),
    stops=STOPS,
    figures=later("surefoot.splatting.figures:figures"),
    headline=later("surefoot.splatting.figures:headline"),
    scene=later("surefoot.splatting.export:scene"),
    extras=("splatting", "samples"),
    traits=Traits(gpu=True),
    tiny=tiny,
    tiny_options={
        "steps": 20, "hold_out": 4, "split_from": 4, "split_every": 6, "most": 200, "corners": 5, "rate": 4.0,
    },
    tiny_inputs=tiny_inputs,
)  # fmt: skip
