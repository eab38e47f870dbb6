"""Gas turbine and California housing as the published experiments take them; the network and its loss."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

HIDDEN = 10


def prepared(folder: Path, name: str, target: Path) -> dict[str, Any]:
    """Split and scaled as in the official code (by the data's own statistics, which no account covers), written as npz."""
    import pandas as pd
    from sklearn.model_selection import train_test_split

    if name == "gas":
        table = pd.read_csv(folder / "diff2" / "gas_turbine.csv.gz")
        X, y = table.iloc[:, :9].to_numpy(float), table["CO"].to_numpy(float)
    else:
        t: Any = pd.read_csv(folder / "diff2" / "cal_housing.csv.gz")
        columns = [t.median_income, t.housing_median_age, t.total_rooms / t.households, t.total_bedrooms / t.households, t.population,
                   t.population / t.households, t.latitude, t.longitude]  # fmt: skip
        X, y = np.column_stack(columns), t.median_house_value.to_numpy(float) / 1e5
    parts: Any = train_test_split(X, y, test_size=0.2, random_state=0)
    train, test, y_train, y_test = parts
    mean, std, most = train.mean(axis=0), train.std(axis=0), np.abs(y_train).max()
    np.savez(target, train=(train - mean) / std, test=(test - mean) / std, y_train=y_train / most, y_test=y_test / most)
    return {"path": str(target), "rows": len(train), "dim": (X.shape[1] + 2) * HIDDEN + 1}


def network(inputs: int, seed: int) -> Any:
    """Linear, softplus, Linear; torch's own uniform initialisation."""
    import torch

    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(inputs, HIDDEN), torch.nn.Softplus(), torch.nn.Linear(HIDDEN, 1))


def measured(model: Any, data: Any) -> dict[str, float]:
    """Train and test mean squared error, and the squared norm of the train error's gradient."""
    import torch

    model = model.double()
    model.zero_grad()
    loss = (model(torch.from_numpy(data["train"]))[:, 0] - torch.from_numpy(data["y_train"])).square().mean()
    loss.backward()
    square = sum(float(p.grad.square().sum()) for p in model.parameters())
    with torch.no_grad():
        test = (model(torch.from_numpy(data["test"]))[:, 0] - torch.from_numpy(data["y_test"])).square().mean()
    return {"train": loss.item(), "square": square, "test": test.item()}


def timed(call: Any) -> tuple[float, Any]:
    """Seconds and result."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found
