"""The published figures on the Sachs data, and where the data come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surefoot.causal import sachs
from surefoot.causal.card import CARD
from surefoot.causal.metrics import structural_hamming_distance, structural_intervention_distance
from surefoot.causal.path import ConcomitantPath
from surefoot.causal.problem import Table
from surefoot.core.solve import solve
from surefoot.core.system import Inputs
from surefoot.data.samples import SampleMissingError, packaged
from surefoot.data.tables import read_table

EDGES_EQUAL = "Mek>Raf PIP3>PIP2 Erk>Akt Erk>PKA Akt>PKA PKC>PKA PKC>P38 PKC>Jnk P38>PKA P38>Jnk Jnk>PKA"  # fmt: skip
EDGES_UNEQUAL = EDGES_EQUAL + " Raf>PKA Plcg>PIP2"


@pytest.fixture(scope="module")
def table() -> Table:
    try:
        packaged(**sachs.PACKAGED)
    except SampleMissingError as error:
        pytest.skip(str(error))
    inputs = Inputs({})
    problem = CARD.load(CARD.preset(), inputs)
    assert inputs.records[0]["origin"] == "sachs-cdt"
    return problem


def test_the_sample_has_the_literatures_shape_and_graph(table: Table) -> None:
    assert (table.rows, table.order) == (853, 11)
    assert table.names == ("Raf", "Mek", "Plcg", "PIP2", "PIP3", "Erk", "Akt", "PKA", "PKC", "P38", "Jnk")
    assert table.truth is not None
    assert table.truth.sum() == 17


def test_the_sample_equals_the_literatures_file(table: Table, surefoot_data: Path) -> None:
    other = read_table(surefoot_data / "colide" / "sachs_observational_853.csv")
    assert table.values is not None
    np.testing.assert_array_equal(table.values, other.values)
    assert tuple(name.lower() for name in other.names) == tuple(name.lower() for name in table.names)
    edges = (surefoot_data / "colide" / "sachs_truth_edges.csv").read_text().split()[1:]
    expected = {tuple(edge.lower().split(",")[:2]) for edge in edges}
    assert {(s.lower(), t.lower()) for s, t in sachs.CONSENSUS} == expected


@pytest.mark.parametrize(
    ("variance", "edges", "hamming", "intervention"),
    [("equal", EDGES_EQUAL, 13, 47), ("unequal", EDGES_UNEQUAL, 12, 46)],
)
def test_published_figures(table: Table, variance, edges: str, hamming: int, intervention: int) -> None:
    """SHD 13 and 12, SID 47 and 46 with the defaults and the published repair of cycles."""
    found = solve(table, ConcomitantPath(variance=variance, repair="ascending"), certify=False).answer
    assert table.truth is not None
    assert {f"{source}>{target}" for source, target, _ in found.edges} == set(edges.split())
    assert structural_hamming_distance(found.adjacency, table.truth) == hamming
    if variance == "equal":
        assert found.noise_std[0] == pytest.approx(81.83, abs=0.01)
    pytest.importorskip("gadjid", reason="needs the extra 'causal'")
    assert structural_intervention_distance(found.adjacency, table.truth) == intervention
