"""Randomized smoothing: radii on one shared set of noisy logits, time beside raw forward passes and ART, coverage, early stop."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special

from harness import Bench, Side
from surefoot.core.random import Streams
from surefoot.data.digits import small_digits
from surefoot.data.images import read_images
from surefoot.robustness.estimate import certify_logits
from surefoot.robustness.maps import HARDMAX, grid
from surefoot.robustness.networks import SmallCNN, train_small_cnn
from surefoot.robustness.paper import released_radius
from surefoot.robustness.plan import Form, Plan
from surefoot.robustness.problem import Certification, Classifier, LabelledImages, Radii

HERE = Path(__file__).resolve().parent
OURS = Side("surefoot", HERE / "ours.py")
RAW = Side("raw noise and forward passes", HERE / "raw_side.py")
ART = Side("ART 1.20.1", HERE / "art_side.py", peer="art")
ALPHA, FIRST = 1e-3, 1000
MADE: dict[str, Any] = {}  # networks trained once for all cases
Rule = Callable[[torch.Tensor, torch.Tensor], tuple[int, float]]


def main(bench: Bench) -> None:
    torch.set_num_threads(bench.threads)
    with tempfile.TemporaryDirectory() as scratch:
        for case, measure in CASES.items():
            if bench.wants(case):
                measure(bench, Path(scratch))


# ---- data ---------------------------------------------------------------------------------------------------------
def mnist(bench: Bench) -> tuple[SmallCNN, torch.Tensor, Any] | None:
    """The network of the protocol (8,000 images, noise 0.5, 8 epochs), and every fifth of the other 2,000 images."""
    if "mnist" in MADE:
        return MADE["mnist"]
    data = bench.data()
    if data is None or not (data / "lipschitz-smoothing").is_dir():
        bench.note("the MNIST protocol is left out: SUREFOOT_DATA is not set")
        return None
    table = read_images(data / "lipschitz-smoothing" / "t10k-images-idx3-ubyte.gz")
    assert table.labels is not None
    images = torch.from_numpy(table.values)
    network = train_small_cnn(images[:8000], table.labels[:8000], noise=0.5, epochs=8, decay=1.0)
    rows = np.arange(8000, 10000, 5)
    MADE["mnist"] = network, images[torch.from_numpy(rows)], table.labels[rows]
    return MADE["mnist"]


def sample() -> tuple[SmallCNN, torch.Tensor, Any]:
    """The packaged 8 x 8 digits, noise 0.25."""
    digits = small_digits()
    images = torch.from_numpy(digits.images)
    network = train_small_cnn(images[:1400], digits.labels[:1400], noise=0.25, epochs=8)
    return network, images[1400:1500], digits.labels[1400:1500]


def to_file(folder: Path, name: str, network: SmallCNN, images: torch.Tensor, labels: Any) -> str:
    path = folder / f"{name}.npz"
    weights = {f"weight:{k}": v.detach().numpy() for k, v in network.state_dict().items()}
    np.savez(path, images=images.numpy(), labels=labels, **weights)
    return str(path)


# ---- radii on shared logits -----------------------------------------------------------------------------------------
def certify_by(plan: Plan, sigma: float) -> Rule:
    """A plan as a rule on given logits."""

    def rule(first: torch.Tensor, fresh: torch.Tensor) -> tuple[int, float]:
        predicted, found = certify_logits(first, fresh, plan, sigma)
        return predicted, found.radius

    return rule


def rules(sigma: float, draws: int) -> dict[str, Rule]:
    """The table's rows."""
    base: dict[str, Any] = {"draws": draws, "selection_draws": FIRST, "alpha": ALPHA}
    return {
        "Cohen (ART, locuslab): one class": certify_by(Plan(maps=(HARDMAX,), forms=("one-class",), **base), sigma),
        "votes, two classes, alpha / classes each": certify_by(Plan.paper(maps=(HARDMAX,), **base), sigma),
        "LVM-RS as published, chosen on the first draws": certify_by(Plan.paper(maps=grid(12), **base), sigma),
        "soft map and betting, chosen on the first draws": certify_by(
            Plan(scope="per-input", maps=grid()[1:], **base), sigma
        ),
        "released code (not sound)": lambda first, fresh: released_radius(
            fresh, ALPHA, sigma, [m.sharpness for m in grid()[1:13]]
        ),
        "surefoot, per input": certify_by(Plan(scope="per-input", maps=grid(), **base), sigma),
        "surefoot, one map (votes): the default": certify_by(Plan(maps=(HARDMAX,), **base), sigma),
    }


def shared(bench: Bench, folder: Path) -> None:
    """Average certified radius of every rule on the same noisy logits."""
    found = mnist(bench)
    if found is not None:
        network, images, labels = found
        for sigma, draws in ((0.5, 10_000), (1.0, 4_500)):
            _shared(bench, f"MNIST, sigma {sigma:g}, {draws} draws", network, images, labels, sigma, draws)
    network, images, labels = sample()
    _shared(bench, "packaged digits, sigma 0.25, 10000 draws", network, images, labels, 0.25, 10_000)


def _shared(
    bench: Bench, name: str, network: SmallCNN, images: torch.Tensor, labels: Any, sigma: float, draws: int
) -> None:
    count = 20 if bench.quick else len(images)
    problem = Certification(
        Classifier(network, tuple(images.shape[1:]), 10, sigma), LabelledImages(images[:count], labels[:count])
    )
    made = rules(sigma, draws)
    radii: dict[str, list[tuple[int, float]]] = {rule: [] for rule in made}
    for i in range(count):
        first, fresh = (
            torch.cat([problem.noisy_logits(Streams(0), purpose, i, b, n) for b in range(problem.noise.blocks(n))])
            for purpose, n in (("select", FIRST), ("estimate", draws))
        )
        for rule, certify in made.items():
            radii[rule].append(certify(first, fresh))
    rows = []
    reference = 0.0
    for rule, results in radii.items():
        predicted, radius = (np.array(column) for column in zip(*results, strict=True))
        answer = Radii(np.arange(count), labels[:count], predicted, radius)
        reference = reference or answer.average
        accuracy = answer.accuracy(np.array([1, 2, 3]) * sigma if sigma < 0.5 else np.array([0.5, 1.0, 1.5]))
        rows.append({
            "rule": rule, "average_radius": answer.average, "over_cohen": answer.average / reference,
            **{f"accuracy_{k}": float(a) for k, a in zip(("first", "second", "third"), accuracy, strict=True)},
            "abstained": int((predicted < 0).sum()),
        })  # fmt: skip
    radius_names = "0.5, 1.0, 1.5" if sigma >= 0.5 else "1, 2 and 3 sigma"
    bench.table(
        name, rows,
        says=f"{count} images, the same {FIRST} + {draws} noisy logits for every rule, alpha {ALPHA:g}. Accuracies: certified at {radius_names}.",
    )  # fmt: skip


def spread(bench: Bench, folder: Path) -> None:
    """How much the average radius depends on which hundred images are certified, one network."""
    found = mnist(bench)
    if found is None:
        return
    network, images, labels = found
    of_hundred = len(images) // 20  # every fifth of the last 2,000 images: 20 of each hundred
    rows = []
    for sigma, draws in ((0.5, 10_000), (1.0, 4_500)):
        problem = Certification(Classifier(network, tuple(images.shape[1:]), 10, sigma), LabelledImages(images, labels))
        kinds: dict[str, tuple[Form, ...]] = {
            "Cohen: one class": ("one-class",),
            "surefoot: votes": ("one-class", "two-class"),
        }
        plans = {
            name: Plan(maps=(HARDMAX,), forms=forms, draws=draws, selection_draws=FIRST, alpha=ALPHA)
            for name, forms in kinds.items()
        }
        right: dict[str, list[float]] = {name: [] for name in plans}
        for i in range(of_hundred if bench.quick else len(images)):
            first, fresh = (
                torch.cat([problem.noisy_logits(Streams(0), purpose, i, b, n) for b in range(problem.noise.blocks(n))])
                for purpose, n in (("select", FIRST), ("estimate", draws))
            )
            for name, plan in plans.items():
                predicted, estimate = certify_logits(first, fresh, plan, sigma)
                right[name].append(estimate.radius * (predicted == labels[i]))
        for name, values in right.items():
            hundreds = np.array(values).reshape(-1, of_hundred).mean(axis=1)
            rows.append({
                "case": f"sigma {sigma:g}, {draws:,} draws", "rule": name, "average_radius": float(np.mean(values)),
                "standard_error": float(np.std(values) / len(values) ** 0.5), "least_hundred": float(hundreds.min()),
                "median_hundred": float(np.median(hundreds)), "largest_hundred": float(hundreds.max()),
            })  # fmt: skip
    bench.table(
        "Average radius by which images are certified, MNIST", rows,
        says="One network; every fifth of the last 2,000 test images, and the mean over those of each consecutive hundred. An average over one hundred "
        "images says little beside another hundred's; the ratio of rules on the same draws does.",
    )  # fmt: skip


# ---- time -------------------------------------------------------------------------------------------------------------
def times(bench: Bench, folder: Path) -> None:
    """CPU seconds an image beside the raw draws and ART, one thread, same network, same number of draws."""
    found = mnist(bench) or sample()
    network, images, labels = found
    name = "MNIST" if images.shape[-1] == 28 else "packaged digits"
    file = to_file(folder, "times", network, images, labels)
    count = 2 if bench.quick else 8
    base = {"file": file, "sigma": 0.5, "alpha": ALPHA, "rows": 250, "count": count, "first": FIRST, "draws": 10_000}
    rows: list[dict[str, Any]] = []
    cases = (
        ("one class, ART in its own batches of 32", "one-class", [RAW, OURS, ART], 32),
        ("one class, ART in batches of 250, too", "one-class", [RAW, OURS, ART], 250),
        ("votes: the default", "votes", [RAW, OURS], 250),
        ("map and form per input", "per-input", [RAW, OURS], 250),
    )
    for label, plan, sides, peer_rows in cases:
        asked = {"case": f"{name}, {label}", "plan": plan, "peer_rows": peer_rows, **base}
        for row in bench.paired(sides, [asked]):
            keep = ("case", "side", "median_s", "min_s", "max_s", "ratio", "repeats")
            rows.append(
                {k: row[k] for k in keep} | {k: v for k, v in row["value"].items() if k in ("acr", "draws_an_image")}
            )
    bench.table(
        "Time an image", rows,
        says=f"CPU seconds on one thread, {count} images, 1,000 + 10,000 noisy copies of each in batches of 250; ratio: to the raw noise and forward passes, which like ours keep freed memory.",
    )  # fmt: skip


# ---- coverage, early stop ----------------------------------------------------------------------------------------------
def coverage(bench: Bench, folder: Path) -> None:
    """How often a certificate passes the exact distance to a hyperplane: 2,000 images with noise of their own."""
    from surefoot.core.solve import solve
    from surefoot.robustness.noise import Noise
    from surefoot.robustness.smoothing import CertifyRadii

    class Halfspace(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            t = images.flatten(1).sum(1) / 2 - 1.0
            return torch.stack([t, -t], dim=1)

    repeats, t, sigma, alpha = 200 if bench.quick else 2000, 0.25, 0.5, 0.05
    rows = []
    cases: tuple[tuple[str, dict[str, Any]], ...] = (
        ("one class", {"forms": ("one-class",)}), ("two classes", {"forms": ("two-class",)}), ("choice of both", {}),
        ("target just beyond", {"target": t * 1.0001}),
    )  # fmt: skip
    for label, more in cases:
        plan = Plan(200, 100, alpha, maps=(HARDMAX,), **more)
        images = LabelledImages(torch.full((repeats, 1, 2, 2), (1 + t) / 2), np.zeros(repeats, dtype=np.int64))
        problem = Certification(Classifier(Halfspace().eval(), (1, 2, 2), 2, sigma), images, plan, Noise(rows=100))
        answer = solve(problem, CertifyRadii(), certify=False).answer
        wrong = int(((answer.radius > t) | (answer.predicted == 1)).sum())
        low, high = (
            special.betaincinv(wrong + 1e-9, repeats - wrong + 1, 0.025),
            special.betaincinv(wrong + 1, repeats - wrong, 0.975),
        )
        rows.append(
            {
                "rule": label,
                "repeats": repeats,
                "wrong": wrong,
                "share": wrong / repeats,
                "low": float(low),
                "high": float(high),
                "alpha": alpha,
            }
        )
    bench.table(
        "Coverage",
        rows,
        says="Certificates that pass the exact distance to the boundary of a linear classifier; 95 % interval of their share.",
    )


def early(bench: Bench, folder: Path) -> None:
    """Draws and time with a target radius, against all draws."""
    found = mnist(bench) or sample()
    network, images, labels = found
    file = to_file(folder, "early", network, images, labels)
    count = 10 if bench.quick else 100
    base = {
        "file": file,
        "sigma": 0.5,
        "alpha": ALPHA,
        "rows": 250,
        "count": count,
        "first": 250,
        "draws": 10_000,
        "kind": "certify",
    }
    rows = []
    for target in (0.5, 1.0):
        asked = {"case": f"target radius {target:g}", "plan": "target", "target": target, **base}
        rows += [
            {"case": row["case"], "cpu_seconds_an_image": row["median_s"], **row["value"]}
            for row in bench.paired([OURS], [asked], repeats=1)
        ]
    bench.table(
        "Early stop",
        rows,
        says=f"{count} images, at most 10,000 draws after 250; the mean of the target over the certified is its average radius.",
    )


CASES = {"shared": shared, "spread": spread, "times": times, "coverage": coverage, "early": early}
