"""Tables with one client a site, as federations: scaled by public numbers, rows bounded one by one.

Nothing that enters the model is computed from the records: columns are mapped to [-1, 1] by public ends (or taken as they are),
rows are scaled down to norm 1, targets clipped to a public bound, and the model starts where a public seed puts it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.core.problem import Constant
from surefoot.data.linear_model import LinearModel
from surefoot.numerics.losses import Huber, Logistic, Loss
from surefoot.privacy.federation import Federation, HeldOut, by_label, dealt
from surefoot.privacy.records import LinearRecords, ModuleRecords, Records

log = logging.getLogger(__name__)
APART = 5
"""Every fifth row of a client is kept apart."""


@dataclass(frozen=True, eq=False)
class SiteTable:
    """Features (n, k), targets (n,), the rows of every client by name, and what a row is."""

    names: tuple[str, ...]
    features: np.ndarray
    targets: np.ndarray
    rows: Mapping[str, Tensor]
    unit: str = "record"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The model and its public bounds.

    Args:
        loss: "huber" (regression) or "logistic" (labels of two kinds).
        knee: of the Huber loss, in targets' units.
        row_norm: rows with a constant 1 beside them are divided by it and, where still longer than 1, shortened to 1.
        target_bound: targets are clipped to [-bound, bound].
        hidden: width of a softplus layer (the paper's network); 0 is a linear model.
        ridge: weight of the quadratic term.
        apart: keep every fifth row of a client for the look at the loss.
        weights: of the clients, see `Federation`.
    """

    loss: str = "huber"
    knee: float = 1.0
    row_norm: float = 4.0
    target_bound: float = 5.0
    hidden: int = 0
    ridge: float = 0.0
    apart: bool = True
    weights: Any = "records"

    def __post_init__(self) -> None:
        for name in ("knee", "row_norm", "target_bound"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number > 0")
        if self.loss not in ("huber", "logistic"):
            raise ValueError(f"loss is {self.loss!r}; expected huber or logistic")
        if self.hidden < 0:
            raise ValueError(f"hidden is {self.hidden}; expected a width, or 0 for a linear model")

    @property
    def of_predictions(self) -> Loss:
        """The loss of one prediction."""
        return Huber(self.knee) if self.loss == "huber" else Logistic()


# ---- samples ------------------------------------------------------------------------------------------------
def health_sites(one_year_each: bool = False) -> tuple[SiteTable, dict[str, Any], str]:
    """log(1 + visits) by the sites of the RAND experiment; what was read, and its digest.

    Raises:
        SampleMissingError: statsmodels is not installed.
    """
    from surefoot.data.health import SITES, health_visits

    found = health_visits(one_year_each)
    rows = {SITES[int(site) - 1]: part for site, part in by_label(found.site.tolist()).items()}
    table = SiteTable(
        found.names, found.features, np.log1p(found.visits), rows, "person" if one_year_each else "person-year"
    )
    return table, found.source.record(), found.source.sha256


def tumour_clients(clients: int) -> SiteTable:
    """scikit-learn's 569 tumours dealt to clients; scaled by the ends that the documentation of the data set states."""
    from sklearn.datasets import load_breast_cancer

    data: Any = load_breast_cancer()
    most = np.array([29, 40, 189, 2501, 0.164, 0.346, 0.427, 0.202, 0.304, 0.098, 2.873, 4.885, 21.98, 542.2, 0.032, 0.136, 0.396, 0.053,
                     0.079, 0.03, 37, 50, 252, 4254, 0.223, 1.058, 1.252, 0.291, 0.664, 0.208])  # fmt: skip
    features = np.clip(2.0 * data.data / most - 1.0, -1.0, 1.0)
    rows = {f"client {p}": part for p, part in enumerate(dealt(len(features), clients))}
    return SiteTable(tuple(map(str, data.feature_names)), features, np.where(data.target == 1, 1.0, -1.0), rows)


# ---- the user's table ---------------------------------------------------------------------------------------
def table_sites(path: Path, bounds: Path | None, target: str, client: str, clients: int) -> SiteTable:
    """A CSV or Parquet table: one column the target (default: the last), one the client (default: "client" where there is one).

    Args:
        bounds: JSON {column: [low, high]}, public; columns named there are mapped to [-1, 1].
        clients: rows are dealt to so many where no column names the client.

    Raises:
        ValueError: a missing column, text, NaN, or bounds that are none.
    """
    import pandas as pd

    frame: Any = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    columns = [str(c) for c in frame.columns]
    frame.columns = columns
    where = client or ("client" if "client" in columns else "")
    wanted = target or next((c for c in reversed(columns) if c != where), "")
    for name, what in ((where, "client"), (wanted, "target")):
        if name and name not in columns:
            raise ValueError(f"{path.name} has no column {name!r} for the {what}; it has {', '.join(columns[:12])}")
    names = [c for c in columns if c not in (where, wanted)]
    if not names or len(frame) < 2:
        raise ValueError(
            f"{path.name} has {len(names)} feature columns and {len(frame)} rows; expected at least 1 and 2"
        )
    for name in [*names, wanted]:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"column {name!r} holds text; give numbers only (or name it with --client-column)")
    values, targets = frame[names].to_numpy(float), frame[wanted].to_numpy(float)
    bad = np.argwhere(~np.isfinite(np.column_stack([values, targets])))
    if len(bad):
        raise ValueError(
            f"row {bad[0][0] + 1}, column {[*names, wanted][bad[0][1]]!r} is NaN or infinite; drop such rows by a rule that looks at "
            "one row at a time, or fill in a public constant"
        )
    values = _mapped(values, names, _ends(bounds) if bounds is not None else {})
    if where:
        if frame[where].isna().any():
            raise ValueError(f"column {where!r} does not name a client in every row")
        rows = by_label(frame[where].tolist())
    else:
        rows = {f"client {p}": part for p, part in enumerate(dealt(len(values), clients))}
    return SiteTable(tuple(names), values, targets, rows)


def _ends(path: Path) -> dict[str, tuple[float, float]]:
    try:
        tree = json.loads(path.read_text())
        found = {str(k): (float(v[0]), float(v[1])) for k, v in tree.items() if len(v) == 2}
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f'{path.name}: expected JSON like {{"age": [0, 100]}}: {error}') from error
    if len(found) != len(tree) or any(not low < high for low, high in found.values()):
        raise ValueError(f"{path.name}: every column needs two ends, the lower first")
    return found


def _mapped(values: np.ndarray, names: Sequence[str], ends: Mapping[str, tuple[float, float]]) -> np.ndarray:
    if unknown := set(ends) - set(names):
        raise ValueError(f"the bounds name {sorted(unknown)}, which the table has not as feature columns")
    if not ends:
        log.warning("no public ends of the columns were given: values are taken as they are, long rows shortened")
    mapped = values.copy()
    for place, name in enumerate(names):
        if name in ends:
            low, high = ends[name]
            mapped[:, place] = np.clip(2.0 * (values[:, place] - low) / (high - low) - 1.0, -1.0, 1.0)
    return mapped


# ---- the federation -----------------------------------------------------------------------------------------
def federation(table: SiteTable, spec: ModelSpec, device: str = "cpu") -> Federation:
    """Clients, held-out rows and public constants of a table.

    Raises:
        ValueError: a client without rows (also after those kept apart), labels that are not of two kinds.
    """
    A, y = _bounded_rows(table.features, spec.row_norm, spec.hidden), _targets(table, spec)
    clients: list[Tensor] = []
    held: list[Tensor] = []
    for name, rows in table.rows.items():
        kept = torch.arange(len(rows)) % APART != APART - 1 if spec.apart else torch.ones(len(rows), dtype=torch.bool)
        if not int(kept.sum()):
            raise ValueError(f"client {name!r} has no rows to train on; leave it out, or give it some")
        clients.append(rows[kept])
        held.append(rows[~kept])
    apart = torch.cat(held)
    A, y = A.to(device), y.to(device)
    parts: Sequence[Records] = [_records(A[rows.to(device)], y[rows.to(device)], spec) for rows in clients]
    identity = {
        "features": A, "targets": y, "rows": [rows.numpy() for rows in clients], "names": list(table.rows), "unit": table.unit,
        "parameters": parameter_names(table.names, spec.hidden),
        "model": [spec.loss, spec.knee, spec.row_norm, spec.target_bound, spec.hidden, spec.ridge, spec.weights],
    }  # fmt: skip
    first = parts[0]
    start = first.start() if isinstance(first, ModuleRecords) else None
    return Federation(
        clients=dict(enumerate(parts)), sizes=tuple(part.size for part in parts), weights=spec.weights, ridge=spec.ridge, start=start,
        constants=_constants(spec), held_out=_held_out(A[apart], y[apart], spec) if len(apart) else None, identity=identity,
    )  # fmt: skip


def parameter_names(table_names: Sequence[str], hidden: int) -> list[str]:
    """What the numbers of an answer belong to."""
    if not hidden:
        return [*table_names, "constant"]
    first = [f"first.{unit}.{name}" for unit in range(hidden) for name in table_names]
    return [
        *first,
        *(f"first.{unit}.constant" for unit in range(hidden)),
        *(f"second.{unit}" for unit in range(hidden)),
        "second.constant",
    ]


def _bounded_rows(features: np.ndarray, norm: float, hidden: int) -> Tensor:
    values = features if hidden else np.column_stack([features, np.ones(len(features))])
    A = torch.from_numpy(values) / norm
    return A / torch.linalg.vector_norm(A, dim=1, keepdim=True).clamp(min=1.0)


def _targets(table: SiteTable, spec: ModelSpec) -> Tensor:
    y = torch.from_numpy(table.targets.copy())
    if spec.loss == "huber":
        return y.clamp(-spec.target_bound, spec.target_bound)
    kinds = torch.unique(y)
    if len(kinds) != 2:
        raise ValueError(f"the target has {len(kinds)} values; logistic loss needs labels of two kinds")
    return torch.where(y == kinds[1], 1.0, -1.0).double()


def network(inputs: int, hidden: int) -> nn.Module:
    """Linear, softplus, Linear, as in the paper; initialised by a public seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, 1))


def _records(A: Tensor, y: Tensor, spec: ModelSpec) -> Records:
    if not spec.hidden:
        return LinearRecords(LinearModel(A, y, spec.of_predictions))
    loss = spec.of_predictions
    return ModuleRecords(
        network(A.shape[1], spec.hidden).to(A.device), lambda out, t: loss.value(out[:, 0], t), [A], [y], chunk=4096
    )


def _constants(spec: ModelSpec) -> dict[str, Constant]:
    """Of a linear model; a network's are not known, so its records are clipped."""
    if spec.hidden:
        return {}
    loss = spec.of_predictions
    why = f"{spec.loss} loss, rows of norm at most 1"
    at_zero = loss.value(
        torch.zeros(1, dtype=torch.float64), torch.tensor([spec.target_bound if spec.loss == "huber" else 1.0]).double()
    )
    return {
        "lipschitz": Constant(loss.constants.lipschitz, "exact", why),
        "smoothness": Constant(loss.constants.curvature, "exact", why),
        "gap": Constant(float(at_zero), "exact", "no target is beyond its bound, and the loss is not negative"),
    }


def _held_out(A: Tensor, y: Tensor, spec: ModelSpec) -> HeldOut:
    """Losses capped where predicting 0 for the largest target would be."""
    loss = spec.of_predictions
    most = (
        float(loss.value(torch.zeros(1).double(), torch.tensor([spec.target_bound]).double()))
        if spec.loss == "huber"
        else 2.0
    )
    if not spec.hidden:
        return HeldOut(len(y), most, lambda w: loss.value(A @ w.to(A), y))
    records = ModuleRecords(
        network(A.shape[1], spec.hidden).to(A.device), lambda out, t: loss.value(out[:, 0], t), [A], [y]
    )

    def losses(w: Tensor) -> Tensor:
        with torch.no_grad():
            return loss.value(records.flat(w.to(A), A)[:, 0], y)

    return HeldOut(len(y), most, losses)


__all__ = [
    "ModelSpec",
    "SiteTable",
    "federation",
    "health_sites",
    "network",
    "parameter_names",
    "table_sites",
    "tumour_clients",
]
