"""The compiled rasteriser beside the dense reference and a CPU peer, its threads beside one another, training, the toy figure, a GPU."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path

from harness import Bench, Side

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
GPU = Side("surefoot", HERE / "gpu.py")
GSPLAT = Side("gsplat", HERE / "gpu.py", label="as many Gaussians")
TOY = Side("surefoot", HERE / "toy.py")
TRAINING = Side("surefoot", HERE / "training.py")
DENSE = Side("reference", HERE / "dense.py", label="float64, autograd; four rows, scaled to all")
LITESPLAT = Side(
    "litesplat", HERE / "litesplat_side.py", "litesplat", label="0.1.1, as many Gaussians; four rows, scaled to all"
)

FEW = {
    "horizon": 900, "rate": 6.0, "fill": 4, "drop": 0.15, "cool": 0.1, "split_every": 100, "split_from": 150, "split_until": 600,
    "most": 16_000, "reset_every": 0, "judge_every": 50, "answer_threshold": 1 / 1024,
}  # fmt: skip


def main(bench: Bench) -> None:
    data = bench.data()
    folder = str(data / "convex-splatting" / "sceaux") if data and not bench.quick else ""
    if not folder:
        bench.note("without SUREFOOT_DATA the scene is a generated turntable")
    name = "facade at a quarter size" if folder else "turntable"
    if bench.wants("dense"):
        from scene import write_gaussians

        with tempfile.TemporaryDirectory(prefix="surefoot-bench-") as place:
            rows, sides = write_gaussians(folder, Path(place)), [OURS, DENSE, LITESPLAT]
            asked = [{
                "case": f"forward and backward, {name}", "data": folder, "render_threads": 0, "times": 3, "gaussians": place, "rows": rows,
            }]  # fmt: skip
            rows = [{**row, **row["value"]} for row in bench.paired(sides, asked, repeats=1 if bench.quick else 3)]
        bench.table(
            "Beside the dense reference and a CPU peer", rows,
            says="The published start: soft convexes that overlap widely; the Gaussians match them (mean, covariance, total opacity).",
            columns=["case", "side", "label", "convexes", "pixels", "median_s", "min_s", "max_s", "ratio", "peak_bytes", "largest_difference"],
        )  # fmt: skip
    if bench.wants("threads"):
        threads(bench, folder, name)
    captures = {
        "facade": ("sceaux", 4, ["100_7103.jpg", "100_7107.jpg"], FEW),
        "buddha": ("buddha", 4, ["00049.jpg"], FEW),
    }  # fmt: skip
    for case, (place, reduce, test, trainer) in captures.items():
        if not bench.wants(case) or bench.quick:
            continue
        if not data:
            bench.note(f"without SUREFOOT_DATA the training on {case} is left out")
            continue
        asked = [{
            "case": case, "data": str(data / "convex-splatting" / place), "reduce": reduce, "test": test, "trainer": trainer,
            "render_threads": bench.threads,
        }]  # fmt: skip
        rows = [{**row, **row["value"], "value": None} for row in bench.paired([TRAINING], asked, repeats=1, warmups=0)]
        bench.table(
            f"Training: {case}", rows, says="The preset `few`, one photo a step; PSNR in dB, means over photos. Corrected: after the affine map "
            "of colours that fits each held-out photo best, which takes its exposure away and is no part of the method. Bound, PSNR: the median "
            "error bound (of all pixels and colours) and the PSNR of the held-out photos, shown without contributions below 1/255 or 1/1024.",
            columns=[
                "case", "size", "photos", "held_out", "steps", "convexes", "train_psnr", "held_out_psnr", "corrected_psnr", "ssim", "processor_s",
                "bound, 1/255", "bound, 1/1024", "psnr, 1/255", "psnr, 1/1024",
            ],
        )  # fmt: skip
    if bench.wants("toy"):
        shapes = (
            ("rectangle",)
            if bench.quick
            else ("rectangle", "circle", "triangle", "isotropic Gaussian", "anisotropic Gaussian")
        )
        asked = [{"case": shape, "steps": 100 if bench.quick else 1500} for shape in shapes]
        rows = [{**row, **row["value"], "value": None} for row in bench.paired([TOY], asked, repeats=1, warmups=0)]
        bench.table(
            "The paper's toy figure", rows,
            says="48 x 48 grey shapes over black, one start for all, Adam, 1,500 steps: best PSNR in dB. A Gaussian fits a Gaussian exactly.",
            columns=["case", "1 Gaussian", "8 Gaussians", "1 convex, K = 3", "1 convex, K = 6"],
        )  # fmt: skip
    if bench.wants("gpu"):
        on_gpu(bench, data)


def threads(bench: Bench, folder: str, name: str) -> None:
    """One thread and two, by what the machine's two cores gave meanwhile."""
    asked = [{"case": "threads", "data": folder, "turns": 20 if bench.quick else 1000}]
    blocks = bench.paired([OURS], asked, repeats=1, warmups=0)[0]["value"]["blocks"]
    rows = []
    for words, low, high in (
        ("any", 0.0, math.inf), ("below 1.5", 0.0, 1.5), ("1.5 to 1.8", 1.5, 1.8), ("1.8 and more", 1.8, math.inf),
    ):  # fmt: skip
        chosen = [b for b in blocks if low <= b["machine"] < high]
        if chosen:
            middle = {key: statistics.median(b[key] for b in chosen) for key in chosen[0]}
            rows.append({
                "machine": words,
                "blocks": len(chosen), "machine_gain": middle["machine"], "gain": middle["gain"], "one_thread_s": middle["one"],
                "two_threads_s": middle["two"],
            })  # fmt: skip
    bench.table(
        "Threads", rows,
        says=f"Forward and backward of the {name} on one and two threads in turns, torch itself on one; medians over blocks of five turns. machine_gain: the same for "
        "two threads that have nothing in common (numpy's exp on arrays of 800 kB), in the same block: where it is below 2, the two cores are not wholly ours.",
        columns=["machine", "blocks", "machine_gain", "gain", "one_thread_s", "two_threads_s"],
    )  # fmt: skip


def on_gpu(bench: Bench, data: Path | None) -> None:
    """A million convexes on CUDA; says so where there is none."""
    import torch
    from gpu import importable

    if not torch.cuda.is_available():
        bench.note(
            "case gpu is skipped here: no CUDA device; gsplat, taichi-splatting, gswarp and the published code need one, too"
        )
        return
    file = data / "convex-splatting" / "garden_points.npz" if data else None
    asked = {
        "data": str(file) if file and file.is_file() else "", "number": 50_000 if bench.quick else 1_000_000, "device": "cuda", "times": 20,
    }  # fmt: skip
    name = "garden points" if asked["data"] else "generated room"
    rows = bench.paired([GPU], [{**asked, "case": name, "what": "convexes"}], repeats=3)
    if importable("gsplat"):
        rows += bench.paired([GSPLAT], [{**asked, "case": name, "what": "Gaussians"}], repeats=3)
    else:
        bench.note("gsplat cannot be imported in this environment, so it is not beside the convexes on the GPU")
    device = torch.cuda.get_device_name()
    bench.table(
        "On a GPU", [{**row, **row["value"]} for row in rows],
        says=f"{device}, 980 x 545: median_s is forward and backward; the image is within largest_difference_from_cpu of the CPU's.",
        columns=["case", "side", "label", "primitives", "pairs", "forward_s", "median_s", "largest_difference_from_cpu"],
    )  # fmt: skip
