"""The card from files to answer: formats, messages, export, resume."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pytest

from surefoot.causal.card import CARD, FALLBACK, Options
from surefoot.causal.export import read_dag, write_dag
from surefoot.causal.problem import Dag
from surefoot.causal.simulate import equal_variance_model
from surefoot.core.rundir import RunDir
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify_run

QUICK = Options(variance="equal", acyclicity_scales=(1.0, 0.9), warm_steps=300, last_steps=300)
NAMES = ["flow", "heat", "load", "wear"]


@pytest.fixture
def values() -> np.ndarray:
    return equal_variance_model(0, 4, 1, rows=120).values


def run(path: Path, out: Path, options: Options = QUICK) -> Dag:
    execute(CARD, options, Inputs({"table": str(path)}), RunDir.create(out))
    assert {v.verdict for v in verify_run(out, CARD)} == {"confirmed"}
    return CARD.read_answer(out / "answer")


def test_csv_tsv_parquet_and_npy_give_one_answer(values: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'tables'")
    frame = pd.DataFrame(values, columns=NAMES)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet")
    np.save(tmp_path / "t.npy", values)
    found = {e: run(tmp_path / f"t.{e}", tmp_path / f"run-{e}") for e in ("csv", "tsv", "parquet", "npy")}
    for dag in found.values():
        np.testing.assert_array_equal(dag.adjacency, found["csv"].adjacency)
    assert found["parquet"].names == tuple(NAMES)
    assert found["npy"].names == ("x0", "x1", "x2", "x3")


def test_a_changed_or_missing_table_leaves_the_covariance_unchecked(values: np.ndarray, tmp_path: Path) -> None:
    pd.DataFrame(values, columns=NAMES).to_csv(tmp_path / "t.csv", index=False)
    run(tmp_path / "t.csv", tmp_path / "run")
    pd.DataFrame(2 * values, columns=NAMES).to_csv(tmp_path / "t.csv", index=False)
    for words in ("changed since the run", "is not there"):
        verdicts = {v.claim: v for v in verify_run(tmp_path / "run", CARD, write=False)}
        assert verdicts["covariance"].verdict == "unchecked"
        assert words in verdicts["covariance"].why
        (tmp_path / "t.csv").unlink(missing_ok=True)


def test_answer_files_must_agree(values: np.ndarray, tmp_path: Path) -> None:
    dag = Dag(np.array([[0, 0.5], [0, 0]]), np.array([1.0]), (0, 1), ("a", "b"))
    write_dag(dag, tmp_path)
    again = read_dag(tmp_path)
    np.testing.assert_array_equal(again.adjacency, dag.adjacency)
    assert (again.order, again.names) == (dag.order, dag.names)
    for name in ("graph.graphml", "edges.csv", "graph.json"):
        write_dag(dag, tmp_path)
        text = (tmp_path / name).read_text()
        assert "0.5" in text
        (tmp_path / name).write_text(text.replace("0.5", "0.6", 1))
        with pytest.raises(ValueError, match="hold different graphs"):
            read_dag(tmp_path)


def test_names_that_look_like_numbers_survive_the_export(tmp_path: Path) -> None:
    dag = Dag(np.array([[0, -1.25, 0], [0, 0, 1e-17], [0, 0, 0]]), np.ones(3), (0, 1, 2), ("1", "nan", "a,b"))
    write_dag(dag, tmp_path)
    np.testing.assert_array_equal(read_dag(tmp_path).adjacency, dag.adjacency)
    graph = nx.read_graphml(tmp_path / "graph.graphml")
    assert set(graph.edges) == {("1", "nan"), ("nan", "a,b")}


def test_knowledge_and_truth_come_from_the_command_line(values: np.ndarray, tmp_path: Path) -> None:
    pd.DataFrame(values, columns=NAMES).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "truth.csv").write_text("source,target\nflow,heat\n")
    options = replace(QUICK, exclude=("flow:heat",), require=("wear:load",), tiers=("wear", "heat,load"))
    inputs = Inputs({"table": str(tmp_path / "t.csv"), "truth": str(tmp_path / "truth.csv")})
    problem = CARD.load(options, inputs)
    assert problem.truth is not None
    assert np.argwhere(problem.truth).tolist() == [[0, 1]]
    known = problem.knowledge
    assert known.allowed is not None
    assert known.required is not None
    assert not known.allowed[0, 1]
    assert known.required[3, 2]
    assert not known.allowed[1, 3]
    with pytest.raises(ValueError, match="SOURCE:TARGET"):
        CARD.load(replace(QUICK, exclude=("flow",)), inputs)
    (tmp_path / "truth.csv").write_text("source,target\nflow,steam\n")
    with pytest.raises(ValueError, match=r"truth.csv, line 2"):
        CARD.load(QUICK, inputs)


def test_without_cdt_the_card_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    inputs = Inputs({})
    problem = CARD.load(QUICK, inputs)
    assert problem.order == 20
    assert problem.truth is not None
    assert inputs.records[0]["origin"] == FALLBACK.id
    assert "surefoot[sachs]" in inputs.records[0]["note"]
    assert "fallback sample" in caplog.text
    with pytest.raises(FileNotFoundError, match="surefoot"):
        CARD.load(QUICK, Inputs({}, only="sachs-cdt"))


def test_the_fallback_repeats_bit_for_bit() -> None:
    first, second = Inputs({}, only=FALLBACK.id), Inputs({}, only=FALLBACK.id)
    assert CARD.load(QUICK, first).fingerprint() == CARD.load(QUICK, second).fingerprint()
    assert first.records[0]["sha256"] == second.records[0]["sha256"]


def test_reading_the_sample_does_not_import_its_package() -> None:
    CARD.load(QUICK, Inputs({}))
    assert "cdt" not in sys.modules


def test_the_paper_preset_breaks_cycles_as_published() -> None:
    from surefoot.causal.card import method

    assert method(CARD.preset("paper")).repair == "ascending"
    assert method(CARD.preset()).repair == "cycles"
    assert method(CARD.preset()) == replace(method(CARD.preset("paper")), repair="cycles")


@pytest.mark.parametrize("order", [4, 70])
def test_figures_are_drawn_for_small_and_large_graphs(order: int, tmp_path: Path) -> None:
    from surefoot.core.rundir import RunReader

    model = equal_variance_model(0, order, 1, rows=200)
    np.save(tmp_path / "t.npy", model.values)
    run(tmp_path / "t.npy", tmp_path / "run", replace(QUICK, warm_steps=5, last_steps=5))
    reader = RunReader(tmp_path / "run")
    figures = CARD.figures(reader)
    assert [figure.name for figure in figures] == ["graph", "noise"]
    figures[0].figure.savefig(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").stat().st_size > 2000
    assert f"{order} variables" in CARD.headline(reader)
