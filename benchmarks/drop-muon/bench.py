"""Drop-Muon beside full Muon: an honest race at equal and at tuned rates, step times beside the cost model, regimes of large gain.

`DROP_MUON_MINUTES` (default 60) bounds the CPU-minutes of the race; finished cells lie in `cells/` and are not run again.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from typing import Any

import torch
from arms import Arm
from race import (
    CELLS,
    DROPPED,
    EQUAL,
    REGIMES,
    SEEDS,
    SMALL,
    USUAL,
    VARIANTS,
    WATCHED,
    Variant,
    at_equal_rates,
    at_own_rates,
    at_small_rates,
    characters,
    digits,
    finals,
    reach,
    reach_fixed,
    slug,
    target_of,
    tune,
)

from harness import Bench


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % interval of the geometric mean, by Student's t on the logarithms."""
    from scipy.stats import t

    logs = [math.log(r) for r in ratios]
    if len(logs) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.fmean(logs)
    return math.exp(middle - half), math.exp(middle + half)


def race(bench: Bench) -> None:
    minutes = float(os.environ.get("DROP_MUON_MINUTES", "60"))
    wanted = os.environ.get("DROP_MUON_VARIANTS", "")
    spent = sum(json.loads(p.read_text())["seconds"] for p in CELLS.glob("*.json")) if CELLS.is_dir() else 0.0
    began = time.process_time()

    def left() -> bool:
        return spent + time.process_time() - began < 60 * minutes

    table: list[dict[str, Any]] = []
    rates: list[dict[str, Any]] = []
    autos: list[dict[str, Any]] = []
    missing: list[str] = []
    for variant in VARIANTS[:1] if bench.quick else VARIANTS:
        if wanted and slug(variant) not in wanted.split(","):
            continue
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        if not bench.peers:
            variant = Variant(**{**variant.__dict__, "methods": tuple(m for m in variant.methods if m != "kj")})
        tuned = tune(variant, data, left)
        if tuned is None:
            missing.append(variant.name)
            continue
        best, _ = tuned
        rates.append({"variant": variant.name, **{m: best[m] for m in sorted(best)}})
        runs = finals(variant, best, data, left)
        for kind in ("usual", "inverse", "best", "equal", "tuned", "auto"):
            table += rows_of(variant, kind, best, runs)
        last = [run["logs"]["auto"] for run in runs["auto"]]
        if last:
            shares = [statistics.fmean(log["inclusion"]) for log in last]
            autos.append({
                "variant": variant.name, "seeds": len(last), "chose_every_layer": sum(min(log["inclusion"]) > 0.999 for log in last),
                "mean_share_of_layers": statistics.fmean(shares), "largest_predicted_saving": max(log["saving"] or 0.0 for log in last),
            })  # fmt: skip
    says = (
        "Ratio: seconds of the yardstick to the target over those of the method (above 1: the method is faster), geometric mean of the pairs "
        "with its 95 % interval, over the pairs in which the method got there within 1.6 (perceptron 2.2, transformer 1.8) times the steps (never there: those in which it did not, "
        "so a ratio beside them flatters). A pair is two runs in one cell on the same batches, in turns of five steps; seconds are of the process, one "
        "thread. Target: the yardstick's training accuracy (batches before their update, moving average) after 80 % of its steps. "
        "Yardstick: our full mode for convolutions and the perceptron, torch.optim.Muon with AdamW for the transformer, in its dtype. Test: "
        "accuracy at the end, method minus yardstick, in points. uniform: lr for every layer, as published; uniform-sqrt: lr / sqrt(P); uniform-inverse: lr / max(P, 1/4). The transformer's targets at 0.02 lie on the plateau of a constant rate, so that never there is partly chance."
    )
    if table:
        bench.table("Race at equal and tuned rates", table, says=says)
        bench.table(
            "Rates chosen",
            rates,
            says=f"By halving from {0.08}, on seed 0; the final seeds are {SEEDS[0]} to {SEEDS[-1]}.",
        )
    if missing:
        bench.note(f"race: not begun yet: {'; '.join(missing)}; run the case again to go on.")
    short = sorted(
        {row["variant"] for row in table if row["seeds"] < len(SEEDS)}
        | ({r["variant"] for r in rates} - {row["variant"] for row in table})
    )
    if short:
        bench.note(f"race: not all {len(SEEDS)} seeds of {'; '.join(short)} are in yet; run the case again to go on.")
    if autos:
        bench.table("What auto chose", autos, says="At the end of its runs, at the yardstick's tuned rate.")


def small_rates(bench: Bench) -> None:
    """Where the gain is real: rates far below the tuned ones, drawn layers stepping lr / P."""
    rows: list[dict[str, Any]] = []
    for variant in REGIMES[:1] if bench.quick else REGIMES:
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        runs = at_small_rates(variant, data, lambda: True)
        rows += rows_of(variant, "small", {variant.yardstick: SMALL}, {"small": runs})
    bench.table(
        "Small rates", rows,
        says=f"As in the race, 160 steps, both at lr {SMALL:g}; drawn layers step lr / max(P, 1/4), so that a layer moves about as far on average as in full Muon. "
        "Steps are then about as good, and the ratio nears that of the step times. Full Muon gains as much from a larger rate.",
    )  # fmt: skip


WORDS = (
    "As in the race. independent: DropMuon's default, every layer with probability 0.4 and the last always, steps lr / max(P, 1/4), "
    "momentum^(1 / max(P, 1/4)). Never there: pairs in which the method did not get to the yardstick's accuracy."
)


def equal_rates(bench: Bench) -> None:
    """The default at three rates that are given, not tuned."""
    rows: list[dict[str, Any]] = []
    for variant in VARIANTS[:1] if bench.quick else VARIANTS[:3]:
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        for lr in EQUAL:
            kind = f"equal, {lr:g}"
            rows += rows_of(variant, kind, {}, {kind: at_equal_rates(variant, lr, data, lambda: True)})
    bench.table("Equal rates, DropMuon as it is", rows, says=WORDS)


def fixed_data(bench: Bench) -> None:
    """The transformer again, where the noise of a batch's accuracy is as large as what the last third of the steps gains."""
    rows: list[dict[str, Any]] = []
    variant = VARIANTS[2]
    data = characters(variant.context)
    for lr in EQUAL[:1] if bench.quick else EQUAL:
        kind = f"equal, {lr:g}"
        rows += rows_of(variant, kind, {}, {kind: at_equal_rates(variant, lr, data, lambda: True, watch=True)})
    bench.table(
        "Equal rates on fixed data", rows,
        says=WORDS + " again: the yardstick itself from the same start on other batches, which shows what the measure makes of chance. fixed_ratio: the same by the accuracy on "
        f"{WATCHED} held-out windows after every five steps (mean of three), which the noise of the batches does not enter; fixed_never: the pairs without.",
    )  # fmt: skip


def own_rates(bench: Bench) -> None:
    """The default with its rate tuned, too."""
    rows: list[dict[str, Any]] = []
    rates: list[dict[str, Any]] = []
    wanted = os.environ.get("DROP_MUON_VARIANTS", "")
    for variant in VARIANTS[:1] if bench.quick else VARIANTS[:3]:
        if wanted and slug(variant) not in wanted.split(","):
            continue
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        found = at_own_rates(variant, data, lambda: True)
        if found is not None:
            rows += rows_of(variant, "each its own", found[0], {"each its own": found[1]})
            rates.append(
                {"variant": variant.name, "yardstick": found[0][variant.yardstick], **{m: found[0][m] for m in DROPPED}}
            )
    bench.table(
        "Each at its own rate, DropMuon as it is", rows, says=WORDS + " Rates by halving from 0.08 to 0.01 on seed 0."
    )
    bench.table("Rates of these", rates)


def rows_of(
    variant: Variant, kind: str, best: dict[str, float], runs: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """A row a method."""
    rows = []
    chosen = {"auto": ["auto"], **{key: ["uniform-inverse"] for key in ("inverse", "best", "small")}}
    for method in (*DROPPED, "again") if kind.startswith("equal, ") else chosen.get(kind, list(best)):
        if method == variant.yardstick or (kind in ("usual", "equal") and method in ("adamw", "sgd")):
            continue
        same = kind == "tuned" and best[method] == best[variant.yardstick] and method not in ("adamw", "sgd")
        cells = [run for run in runs["equal" if same else kind] if method in run["logs"]]
        ratios, walls, steps, tests, missed = [], [], [], [], 0
        for run in cells:
            yard, mine = run["logs"][variant.yardstick], run["logs"][method]
            target = target_of(yard)
            theirs, ours = reach(yard, target), reach(mine, target)
            tests.append(100 * (mine["test"] - yard["test"]))
            steps.append(statistics.fmean(yard["cpu"]) / statistics.fmean(mine["cpu"]))
            if theirs is None or ours is None:
                missed += 1
                continue
            ratios.append(theirs / ours)
            walls.append((reach(yard, target, "wall") or 1) / (reach(mine, target, "wall") or 1))
        if not cells:
            continue
        fixed: dict[str, Any] = {}
        if "fixed" in cells[0]["logs"][method]:
            pairs = [
                [reach_fixed(run["logs"][m], run["logs"][variant.yardstick]) for m in (variant.yardstick, method)]
                for run in cells
            ]
            there = [a / b for a, b in pairs if a is not None and b is not None]
            edges = interval(there)
            fixed = {
                "fixed_ratio": statistics.geometric_mean(there) if there else None, "fixed_low": edges[0] if len(there) > 1 else None,
                "fixed_high": edges[1] if len(there) > 1 else None, "fixed_never": len(pairs) - len(there),
            }  # fmt: skip
        low, high = interval(ratios) if ratios else (float("nan"), float("nan"))
        rows.append({
            "variant": variant.name, "rates": {"auto": "tuned (the yardstick's)", "usual": f"equal, {USUAL:g} (default)", "inverse": f"equal, {USUAL:g} (default)", "small": f"equal, {SMALL:g} (small)", "equal": "equal, the yardstick's best", "best": "equal, the yardstick's best"}.get(kind, kind), "method": {"kj": "muon-optimizer 0.1.0"}.get(method, method), "seeds": len(cells),
            "ratio": statistics.geometric_mean(ratios) if ratios else None, "low": low if len(ratios) > 1 else None, "high": high if len(ratios) > 1 else None,
            "wall_ratio": statistics.geometric_mean(walls) if walls else None, "never_there": missed,
            "step_ratio": statistics.fmean(steps), "test_difference": statistics.fmean(tests), **fixed,
        })  # fmt: skip
    return rows


# ---- step times --------------------------------------------------------------------------------------------------------
def steps(bench: Bench) -> None:
    """The model is fitted to measured steps at every cutoff, then predicts the mean step of a run with random draws, measured in turns with it."""
    from surefoot.training.drop_muon_costs import fit_costs

    rows = []
    for variant in VARIANTS[:3]:
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        classes = 128 if variant.network == "transformer" else 10
        arm = Arm("uniform", variant.setting(0.01, 0, classes, 100), data[0], data[1])
        drop: Any = arm.optimizers[0]
        b = drop.layers
        times: dict[int, list[float]] = {s: [] for s in range(b)}
        runs: list[tuple[int, float]] = []
        arm.advance(6)
        for _ in range(4 if bench.quick else 8):
            for s in range(b):
                drop.draw_exactly(range(s, b))
                times[s].append(arm.advance(1)["cpu"][0])
            for _ in range(b):  # the run: the optimiser's own draws
                start = drop.drawn[0]
                runs.append((start, arm.advance(1)["cpu"][0]))
        model = fit_costs(times, b)
        predicted, measured = sum(model.step(s) for s, _ in runs), sum(seconds for _, seconds in runs)
        rows.append({
            "variant": variant.name, "layers": b, "full_step_ms": 1e3 * model.step(0), "uniform_step_ms": 1e3 * model.expected([1 / b] * b),
            "predicted_s": predicted, "measured_s": measured, "error": measured / predicted - 1,
            "full_over_uniform": model.step(0) / model.expected([1 / b] * b), "deepest_only": model.step(0) / model.step(b - 1),
        })  # fmt: skip
    bench.table(
        "Step time and the cost model", rows,
        says="The model is fitted to medians of steps at every cutoff and predicts the time of a run of random draws, alternating with them; seconds of the process.",
    )  # fmt: skip


def against_peers(bench: Bench) -> None:
    """Our full mode beside torch.optim.Muon, same dtype, in turns."""
    rows = []
    for variant in (VARIANTS[1], VARIANTS[2]):
        data = characters(variant.context) if variant.network == "transformer" else digits(bench.data())
        classes = 128 if variant.network == "transformer" else 10
        for dtype in ("bfloat16", "float32"):
            setting = {**variant.setting(0.01, 0, classes, 100), "dtype": dtype}
            ours, theirs = (Arm(m, setting, data[0], data[1]) for m in ("full", "torch-muon"))
            pairs = []
            for turn in range(4 if bench.quick else 14):
                one, two = (sum(arm.advance(3)["cpu"]) for arm in (ours, theirs))
                if turn:
                    pairs.append(two / one)
            apart = max(
                float((p - q).detach().abs().max())
                for p, q in zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
            )
            low, high = interval(pairs)
            rows.append({
                "variant": variant.name, "our_dtype": dtype, "pairs": len(pairs), "ratio": statistics.median(pairs), "low": low, "high": high,
                "weights_apart": apart,
            })  # fmt: skip
    bench.table(
        "Full mode beside torch.optim.Muon", rows,
        says="Seconds of torch.optim.Muon (bfloat16) with AdamW for the rest over those of our full mode, three steps in turn, the same batches; and how far the weights are apart at the end.",
    )  # fmt: skip


def regimes(bench: Bench) -> None:
    """How much cheaper a uniform step is, over width, depth and batch."""
    from surefoot.training.drop_muon_costs import measure_costs

    rows = []
    for network, width, depth, batch in (
        ("cnn", 16, 3, 32), ("cnn", 16, 3, 512), ("cnn", 16, 8, 128), ("cnn", 64, 3, 32), ("mlp", 64, 6, 32), ("mlp", 256, 3, 32),
        ("mlp", 256, 6, 32), ("mlp", 256, 12, 32), ("mlp", 256, 6, 512), ("transformer", 48, 6, 16), ("transformer", 96, 6, 16),
        ("transformer", 48, 12, 16), ("transformer", 48, 6, 128),
    ):  # fmt: skip
        data = characters(32) if network == "transformer" else digits(bench.data())
        variant = Variant(network, network, width, depth, batch, 10)
        arm = Arm("uniform", variant.setting(0.01, 0, 128 if network == "transformer" else 10, 10), data[0], data[1])
        drop: Any = arm.optimizers[0]
        model, _ = measure_costs(
            drop, lambda arm=arm: arm.advance(1), rounds=2 if bench.quick else 4, clock=time.process_time
        )
        b = drop.layers
        rows.append({
            "network": network, "width": width, "depth": depth, "batch": batch, "layers": b, "full_step_ms": 1e3 * model.step(0),
            "uniform": model.step(0) / model.expected([1 / b] * b), "half_the_layers": model.step(0) / model.step(b // 2),
            "forward_share": model.forward / model.step(0),
        })  # fmt: skip
        del arm
    bench.table(
        "How much cheaper a step is", rows,
        says="Seconds of a full step over those of a mean uniform one, and of one that updates the deeper half; forward share: what is left when only the last layer is updated.",
    )  # fmt: skip


def main(bench: Bench) -> None:
    torch.set_num_threads(1)
    if bench.wants("steps"):
        steps(bench)
    if bench.wants("peers") and bench.peers:
        against_peers(bench)
    if bench.wants("regimes"):
        regimes(bench)
    if bench.wants("small-rates"):
        small_rates(bench)
    if bench.wants("equal-rates"):
        equal_rates(bench)
    if bench.wants("fixed-data"):
        fixed_data(bench)
    if bench.wants("own-rates"):
        own_rates(bench)
    if bench.wants("race"):
        race(bench)
