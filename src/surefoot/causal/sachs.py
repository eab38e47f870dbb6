"""The Sachs protein-signalling sample: where it is read, what its columns are called, and the consensus graph.

References:
    Sachs, Perez, Pe'er, Lauffenburger, Nolan, Causal protein-signaling networks derived from multiparameter single-cell
    data, Science 308 (2005) 523-529.
"""

from __future__ import annotations

ROWS = 853
"""Rows of the observational subset of the literature; they are the first ones of the packaged file."""

PACKAGED = {
    "top_level_name": "cdt",
    "inside": "data/resources/cyto_full_data.csv",
    "digest": "fc331dcd0bc1d876",
    "distribution": "cdt",
    "extra": "sachs",
}

NAMES = {
    "praf": "Raf",
    "pmek": "Mek",
    "plcg": "Plcg",
    "PIP2": "PIP2",
    "PIP3": "PIP3",
    "p44/42": "Erk",
    "pakts473": "Akt",
    "PKA": "PKA",
    "PKC": "PKC",
    "P38": "P38",
    "pjnk": "Jnk",
}
"""Column names of the packaged file and the usual names."""

CONSENSUS: tuple[tuple[str, str], ...] = (
    ("Raf", "Mek"),
    ("Mek", "Erk"),
    ("Plcg", "PIP2"),
    ("Plcg", "PIP3"),
    ("PIP3", "PIP2"),
    ("Erk", "Akt"),
    ("PKA", "Raf"),
    ("PKA", "Mek"),
    ("PKA", "Erk"),
    ("PKA", "Akt"),
    ("PKA", "P38"),
    ("PKA", "Jnk"),
    ("PKC", "Raf"),
    ("PKC", "Mek"),
    ("PKC", "PKA"),
    ("PKC", "P38"),
    ("PKC", "Jnk"),
)
"""The 17 edges of the consensus graph that the structure-learning literature scores against."""
