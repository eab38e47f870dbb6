"""A zoo of small networks on MNIST, half of them poisoned; trained once, kept in `zoo/` (ignored by git)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surefoot.data.images import read_idx
from surefoot.robustness.networks import load_network, save_network, train_small_cnn
from surefoot.robustness.poisoning import Planted, ScaledLogits, poison_dataset, zoo_trigger
from surefoot.robustness.problem import Classifier
from surefoot.robustness.suspect_problem import Suspect, decisions, suspect

FOLDER = Path(__file__).resolve().parent / "zoo"
TRAIN, EPOCHS = 8000, 8
POISONED = (
    *("patch-2", "patch-3", "patch-4", "patch-5") * 2, *("pixel",) * 3, *("blended-10", "blended-15", "blended-20") * 2,
    *("sinusoidal",) * 3,
)  # fmt: skip  # twenty
EXTRA = ("random-patch", "warped", "sinusoidal-clean", "noise-aware", "masked-gradients")


@dataclass(frozen=True)
class Entry:
    """One network: which trigger ("" for none), the class it leads to, and the seed of everything."""

    trigger: str
    target: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.trigger or 'clean'}-{self.seed}"


def entries(quick: bool = False) -> list[Entry]:
    """Twenty clean and twenty poisoned networks; two of each for a quick run."""
    poisoned = [Entry(name, (3 * i + 1) % 10, 100 + i) for i, name in enumerate(POISONED)]
    clean = [Entry("", 0, 200 + i) for i in range(20)]
    return [*clean[:2], *poisoned[:2]] if quick else [*clean, *poisoned]


def extras() -> list[Entry]:
    """What the scan may miss, and the two attackers that know it; not among the forty."""
    return [Entry(name, (3 * i + 2) % 10, 300 + i) for i, name in enumerate(EXTRA)]


def digits(data: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """MNIST's 10,000 test digits; the first 8,000 train the networks, the rest are the clean images."""
    folder = data / "lipschitz-smoothing"
    images = torch.from_numpy(read_idx(folder / "t10k-images-idx3-ubyte.gz")).float()[:, None] / 255
    return images, torch.from_numpy(read_idx(folder / "t10k-labels-idx1-ubyte.gz").astype(np.int64))


def plan(entry: Entry) -> tuple[Planted | None, dict[str, Any]]:
    """The planted trigger and how it is planted."""
    if not entry.trigger:
        return None, {}
    name = {"noise-aware": "patch-4", "masked-gradients": "patch-4"}.get(entry.trigger, entry.trigger)
    trigger, how = zoo_trigger(name, entry.seed)
    more = {"noise_aware": 0.25} if entry.trigger == "noise-aware" else {}
    return Planted(entry.trigger, entry.target, trigger, entry.seed), {**how, **more}


def problem(entry: Entry, data: Path) -> Suspect:
    """The network (trained where it is not yet in the folder) with 2,000 clean images."""
    images, labels = digits(data)
    planted, how = plan(entry)
    path = FOLDER / f"{entry.name}.safetensors"
    if not path.is_file():
        train, wanted = images[:TRAIN], labels[:TRAIN]
        if planted is not None:
            poisoned = poison_dataset(train, wanted, planted.trigger, entry.target, seed=entry.seed, **how)
            train, wanted = poisoned.images, poisoned.labels
        save_network(path, train_small_cnn(train, wanted.numpy(), classes=10, epochs=EPOCHS, seed=entry.seed))
    model: Any = load_network(path)
    if entry.trigger == "masked-gradients":
        model = ScaledLogits(model).eval()
    classifier = Classifier(model, (1, 28, 28), 10)
    return suspect(classifier, images[TRAIN:], labels[TRAIN:].numpy(), planted=planted, seed=entry.seed)


def kept(kind: str, entry: Entry, make: Any) -> dict[str, Any]:
    """What `make()` returns, from the folder where an earlier run has left it."""
    path = FOLDER / kind / f"{entry.name}.json"
    if path.is_file():
        return json.loads(path.read_text())
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_text(json.dumps(found))
    fresh.replace(path)
    return found


def true_success(case: Suspect) -> float:
    """Success of the planted trigger on held-out images of other classes."""
    assert case.planted is not None
    rows = case.rows_against(case.heldout, case.planted.target)
    changed = case.planted.apply(case.images[torch.from_numpy(rows)])
    return float((decisions(case.classifier, changed) == case.planted.target).mean())
