"""Doctor visits in the RAND Health Insurance Experiment, read where statsmodels is installed; scaled by public constants.

20,190 person-years of 5,912 persons at six sites. Nothing here is computed from the records: scales and the value for a
missing education are constants of the design or of the questionnaires, so using them costs no privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from surefoot.data.samples import PackagedFile, packaged

__all__ = ["COLUMNS", "SITES", "HealthVisits", "health_visits"]

PACKAGED = {
    "top_level_name": "statsmodels", "inside": "datasets/randhie/src/randhie.csv", "digest": "fe64f3c8e987779d",
    "distribution": "statsmodels", "extra": "samples",
}  # fmt: skip
COLUMNS: Mapping[str, tuple[float, float]] = {
    "coins": (0, 100), "income": (0, 30_000), "xage": (0, 65), "female": (0, 1), "educdec": (0, 25), "disea": (0, 60), "physlm": (0, 1),
    "mhi": (0, 100), "child": (0, 1), "fchild": (0, 1), "lfam": (0, 2.8), "lpi": (0, 7.5), "idp": (0, 1), "fmde": (0, 8.5), "hlthg": (0, 1),
    "hlthf": (0, 1), "hlthp": (0, 1), "num": (1, 15), "tookphys": (0, 1),
}  # fmt: skip
"""The 19 columns and their public ends: percent, dollars, years, scores of questionnaires, logarithms of them, yes or no."""
SITES = ("Dayton", "Seattle", "Fitchburg", "Franklin County", "Charleston", "Georgetown County")
"""Sites 1 to 6."""
SCHOOL_YEARS = 12.0  # where the education is missing: high school
MOST_VISITS = 77.0
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class HealthVisits:
    """Features (n, 19) in [-1, 1] by the public ends, visits (n,), site 1 to 6 and person (n,)."""

    names: tuple[str, ...]
    features: Array
    visits: Array
    site: np.ndarray[Any, np.dtype[np.int64]]
    person: np.ndarray[Any, np.dtype[np.int64]]
    source: PackagedFile


def health_visits(one_year_each: bool = False) -> HealthVisits:
    """The table.

    Args:
        one_year_each: keep the first year of every person, so that a record is a person.

    Raises:
        SampleMissingError: statsmodels is not installed.
    """
    import pandas as pd

    found = packaged(**PACKAGED)
    table: Any = pd.read_csv(found.path, usecols=[*COLUMNS, "mdvis", "site", "zper"])
    if one_year_each:
        table = table.drop_duplicates("zper")
    table["educdec"] = table["educdec"].fillna(SCHOOL_YEARS)
    features = np.stack([_scaled(table[name].to_numpy(float), *ends) for name, ends in COLUMNS.items()], axis=1)
    visits = table["mdvis"].to_numpy(float)
    site, person = (table[name].to_numpy(np.int64) for name in ("site", "zper"))
    return HealthVisits(tuple(COLUMNS), features, visits, site, person, found)


def _scaled(column: Array, low: float, high: float) -> Array:
    return np.clip(2.0 * (column - low) / (high - low) - 1.0, -1.0, 1.0)
