"""Backdoor inversion beside trojanzoo's Neural Cleanse on a zoo of forty small networks; the prototype's table.

Networks and what was found on each are kept in `zoo/` beside this file: a run that was stopped goes on where it was.
Delete that folder to start anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ours
import torch
import zoo
from sklearn.metrics import roc_auc_score

from harness import Bench, Side, Worker

HERE = Path(__file__).resolve().parent
ONE = {"epochs": 1280, "batch": 1}  # as many gradient evaluations a class as our scan makes on average
HUNDRED = {"epochs": 40, "batch": 20}  # three times as many


def main(bench: Bench) -> None:
    """All cases."""
    torch.set_num_threads(bench.threads)
    data = bench.data()
    if data is None:
        bench.note("the zoo needs MNIST under SUREFOOT_DATA; nothing was run")
        return
    if bench.wants("zoo"):
        detection(bench, data)
    if bench.wants("ladder"):
        ladder(bench, data)
    if bench.wants("extras"):
        extras(bench, data)
    if bench.wants("table"):
        table(bench, data)


def detection(bench: Bench, data: Path) -> None:
    """AUROC, flags, success and fidelity over the forty networks."""
    entries = zoo.entries(bench.quick)
    found = [zoo.kept("ours", e, lambda e=e: ours.scan(e, data)) for e in entries]
    poisoned = np.array([bool(e.trigger) for e in entries])
    rows = [{
        "side": "surefoot", "clean images": 1, "AUROC": roc_auc_score(poisoned, [f["score"] for f in found]),
        **_flags(entries, [f["flagged"] for f in found], [f["target"] for f in found]),
        "gradient evaluations": round(statistics.mean(f["evaluations"] for f in found)),
    }]  # fmt: skip
    if bench.peers:
        for images, how in ((1, ONE), (100, HUNDRED)):
            peer = _cleanse(bench, entries, data, images, how)
            rows.append({
                "side": "Neural Cleanse (trojanzoo 2.0.3)", "clean images": images,
                "AUROC": roc_auc_score(poisoned, [f["index"] for f in peer]),
                **_flags(entries, [f["index"] > 2 for f in peer], [f["target"] for f in peer]),
                "gradient evaluations": round(statistics.mean(f["evaluations"] for f in peer)),
            })  # fmt: skip
    bench.table(
        "Detection on forty networks (20 clean, 20 poisoned), MNIST", rows,
        says="One clean image an inversion (a second one where the first is of the target class); success is counted on 1,000 others. "
        "AUROC of the largest robust score, or of the anomaly index of the smallest mask; flags: score > 3.5 with success bound > 1/2, "
        "or index > 2. Right class: of the flagged poisoned ones. Neural Cleanse may use 1,280 evaluations a class with one image, as many as the "
        "scan on average, and stops earlier by its own rule; with 100 images it gets 4,000 a class.",
    )  # fmt: skip
    _recovered(bench, entries, found, data)


def ladder(bench: Bench, data: Path) -> None:
    """The scan as it comes, `Scan()`: budgets from small to large until a class is flagged."""
    entries = zoo.entries(bench.quick)
    found = [zoo.kept("ladder", e, lambda e=e: ours.scan(e, data, ours.LADDER)) for e in entries]
    mean = statistics.mean
    rows: list[dict[str, Any]] = []
    for kind, chosen in (("poisoned", True), ("clean", False)):
        mine = [(e, f) for e, f in zip(entries, found, strict=True) if bool(e.trigger) is chosen]
        stops = [f["radius"] for _, f in mine]
        rows.append({
            "networks": f"{len(mine)} {kind}", "flagged": sum(f["flagged"] for _, f in mine),
            "right class": sum(f["flagged"] and f["target"] == e.target for e, f in mine) if chosen else None,
            **{f"stopped at {r:.3g}": stops.count(r) for r in sorted({f["radius"] for f in found})},
            "true success": mean(f["true"] for _, f in mine) if chosen else None,
            "recovered": mean(f["recovered"] for _, f in mine) if chosen else None,
            "gradient evaluations": round(mean(f["evaluations"] for _, f in mine)),
        })  # fmt: skip
    area = roc_auc_score([bool(e.trigger) for e in entries], [f["score"] for f in found])
    bench.note(f"default ladder of budgets: AUROC of the score at the budget where a scan stops {area:.4g}")
    bench.table(
        "The default scan: three budgets from small to large", rows,
        says="All options at their defaults: 10 sqrt(d / 150528) and twice and four times that, three noise levels, 400 steps of 40 draws for the two "
        "best classes; it stops where a class is flagged on validation images. Success on held-out images.",
    )  # fmt: skip


def _flags(entries: Sequence[zoo.Entry], flags: Sequence[bool], targets: Sequence[int]) -> dict[str, Any]:
    hit = [f for e, f in zip(entries, flags, strict=True) if e.trigger]
    false = [f for e, f in zip(entries, flags, strict=True) if not e.trigger]
    right = [t == e.target for e, f, t in zip(entries, flags, targets, strict=True) if e.trigger and f]
    return {
        "poisoned flagged": f"{sum(hit)}/{len(hit)}", "right class": f"{sum(right)}/{len(right)}",
        "clean flagged": f"{sum(false)}/{len(false)}",
    }  # fmt: skip


def _recovered(bench: Bench, entries: Sequence[zoo.Entry], found: Sequence[dict[str, Any]], data: Path) -> None:
    """Recovered triggers beside the true ones and beside plain projected descent."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for entry, mine in zip(entries, found, strict=True):
        if entry.trigger:
            plain = zoo.kept("plain", entry, lambda entry=entry: ours.plain(entry, data))
            by_kind.setdefault(entry.trigger, []).append({**mine, "plain": plain})
    mean = statistics.mean
    rows = []
    for kind, cases in by_kind.items():
        local = kind.startswith(("patch", "pixel"))
        rows.append({
            "trigger": kind, "networks": len(cases), "true success": mean(c["true"] for c in cases),
            "recovered": mean(c["recovered"] for c in cases), "energy share": mean(c["energy"] for c in cases) if local else None,
            "x plain, equal steps": _gain(cases, "steps") if local else None,
            "x plain, equal evaluations": _gain(cases, "evaluations") if local else None,
            "cosine": mean(c["cosine"] for c in cases), "plain cosine": mean(c["plain"]["evaluations"]["cosine"] for c in cases),
        })  # fmt: skip
    everything = [c for cases in by_kind.values() for c in cases]
    local = [c for kind, cases in by_kind.items() for c in cases if kind.startswith(("patch", "pixel"))]
    rows.append({
        "trigger": "all", "networks": len(everything), "true success": mean(c["true"] for c in everything),
        "recovered": mean(c["recovered"] for c in everything), "energy share": mean(c["energy"] for c in local),
        "x plain, equal steps": _gain(local, "steps"), "x plain, equal evaluations": _gain(local, "evaluations"),
        "cosine": mean(c["cosine"] for c in everything), "plain cosine": mean(c["plain"]["evaluations"]["cosine"] for c in everything),
    })  # fmt: skip
    bench.table(
        "Recovered triggers, budget 2.5", rows,
        says="Success on held-out images of other classes; share of the perturbation's energy on the true trigger's pixels (patches "
        "and pixel only) and its ratio to plain projected descent on cross-entropy; cosine with the true mean change.",
    )  # fmt: skip


def _gain(cases: Sequence[dict[str, Any]], how: str) -> float:
    return statistics.mean(c["energy"] / c["plain"][how]["energy"] for c in cases)


def _cleanse(
    bench: Bench, entries: Sequence[zoo.Entry], data: Path, count: int, how: dict[str, int]
) -> list[dict[str, Any]]:
    worker: list[Worker] = []

    def ask(entry: zoo.Entry) -> dict[str, Any]:
        if not worker:
            worker.append(Worker(Side("trojanzoo", HERE / "cleanse_side.py", peer="trojanzoo"), bench.threads))
        path = _for_the_peer(entry, data, count)
        answer = worker[0].ask({"file": str(path), "seed": entry.seed, **how})
        path.unlink()
        return {**answer["value"], "seconds": answer["seconds"]}

    try:
        return [zoo.kept(f"cleanse-{count}", e, lambda e=e: ask(e)) for e in entries]
    finally:
        for one in worker:
            one.close()


def _for_the_peer(entry: zoo.Entry, data: Path, count: int) -> Path:
    """Weights, images, and which of them serve which class (-1: none): the start image of ours, or 100 validation ones."""
    case = zoo.problem(entry, data)
    model: Any = case.classifier.model
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    if count == 1:
        rows = np.array([case.start_rows(t)[:1] for t in range(10)])
    else:
        rows = np.tile(case.validation[:count], (10, 1))
    path = zoo.FOLDER / "for-the-peer.npz"
    np.savez(path, images=case.images.numpy(), labels=case.labels, rows=rows, **arrays)
    return path


def extras(bench: Bench, data: Path) -> None:
    """Triggers that no single additive pattern is, and attackers that know the method."""
    rows = []
    for entry in zoo.extras():
        found = zoo.kept("ours", entry, lambda entry=entry: ours.scan(entry, data))
        rows.append({
            "trigger": entry.trigger, "true success": found["true"], "recovered": found["recovered"], "score": found["score"],
            "flagged": found["flagged"], "right class": found["target"] == entry.target,
        })  # fmt: skip
    bench.table(
        "Expected misses and attackers that know the method",
        rows,
        says="random-patch and warped change every image differently; sinusoidal-clean keeps all labels and hardly works itself; noise-aware: "
        "the patch with noise keeps its true label in training; masked-gradients: logits times 200.",
    )


def table(bench: Bench, data: Path) -> None:
    """The prototype's table: success and energy share over noise and budget."""
    cases = {
        "patch-4": zoo.Entry("patch-4", 0, 400), "blended-15": zoo.Entry("blended-15", 0, 401), "clean": zoo.Entry("", 0, 402),
    }  # fmt: skip
    rows = []
    for name, entry in cases.items():
        for radius in (2.0, 3.0):
            cells = {
                s: zoo.kept(
                    f"table-{radius:g}-{s:g}", entry, lambda e=entry, r=radius, s=s: ours.prototype(e, data, r, s)
                )
                for s in (0.0, 0.12, 0.25, 0.5)
            }
            for what in ("success", "energy") if name == "patch-4" else ("success",):
                row = {"network": name, "measure": what, "budget": radius}
                rows.append({**row, **{f"noise {s:g}": cell[what] for s, cell in cells.items()}})
    bench.table(
        "Success and energy share over noise and budget, published loss", rows,
        says="Target 0, 200 steps of 40 draws, last iterate, mean over five start images, success on all test images of other classes; "
        "noise 0 is plain projected descent.",
    )  # fmt: skip
