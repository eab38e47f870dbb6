"""The card as the command uses it: graphs in and out, what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from surefoot import cli
from surefoot.core.certificate import read_claims
from surefoot.core.rundir import RunReader
from surefoot.core.verify import verify_run
from surefoot.decentralized.card import CARD, tiny_inputs

FILES = {
    "pieces.csv": "source,target\na,b\nc,d\n",
    "loop.csv": "a,b\nb,b\n",
    "negative.csv": "a,b,-1\nb,c,1\n",
    "twice.csv": "a,b\nb,a\n",
    "some.csv": "a,b,1\nb,c\nc,d,1\nb,d,1\n",
    "cut.csv": "a,b,1\nb,c,1\nc,d,0\nb,d,0\n",
    "broken.graphml": "<graphml><graph>",
    "short.csv": "x,y\n1,2\n2,3\n",
    "gap.csv": "x,y\n1,2\n2,nan\n3,4\n4,5\n",
    "text.csv": "x,y\n1,2\n2,three\n3,4\n4,5\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_inputs(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(folder: Path, *arguments: str, out: str = "out") -> int:
    files = [str(folder / a) if (folder / a).is_file() else a for a in arguments]
    return cli.main(["run", "dadao", *files, "-o", str(folder / out), "--quiet"])


@pytest.mark.parametrize(("arguments", "said"), [
    (["pieces.csv"], "2 components"),
    (["loop.csv"], "edge to itself"),
    (["negative.csv"], "the rate is -1"),
    (["twice.csv"], "there already"),
    (["broken.graphml"], "not a GraphML file"),
    (["graph.csv", "short.csv"], "has no rows"),
    (["graph.csv", "gap.csv"], "missing value"),
    (["graph.csv", "text.csv"], "holds text"),
    (["graph.csv", "data.csv", "--ridge", "0"], "ridge is 0"),
    (["graph.csv", "data.csv", "--product", "0"], "product is 0"),
    (["graph.csv", "data.csv", "--tolerance", "-1"], "tolerance is -1"),
    (["graph.csv", "data.csv", "--steps", "0"], "steps is 0"),
    (["graph.csv", "data.csv", "--rates", "graph"], "carry no rate"),
    (["some.csv", "data.csv", "--rates", "graph"], "some edges carry a rate"),
    (["cut.csv", "data.csv", "--rates", "graph"], "components"),
    (["graph.csv", "data.csv", "--node-column", "site"], "no column 'site'"),
    (["graph.csv", "data.csv", "--loss", "logistic"], "needs two classes"),
    (["--graph", "moon:3"], "no graph is called 'moon'"),
    (["--graph", "star:x"], "whole numbers"),
    (["--processes", "--algorithm", "nids"], "asynchronous method only"),
    (["--processes", "--unit", "0"], "unit is 0"),
])  # fmt: skip
def test_bad_input_is_named(arguments: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, *arguments) == 1
    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_graphml_goes_out_and_comes_in_again(folder: Path) -> None:
    assert run(folder, "graph.csv", "data.csv", "--tolerance", "1e-4", "--engine", "numpy") == 0
    written = nx.read_graphml(folder / "out" / "answer" / "graph.graphml")
    assert set(written) == set("abcd")
    rates = {frozenset(edge[:2]): edge[2]["rate"] for edge in written.edges(data=True)}
    assert all(rate > 0 for rate in rates.values())
    (folder / "again.graphml").write_bytes((folder / "out" / "answer" / "graph.graphml").read_bytes())
    same = ["again.graphml", "data.csv", "--tolerance", "1e-4", "--engine", "numpy", "--rates", "graph"]
    assert run(folder, *same, out="two") == 0
    back = nx.read_graphml(folder / "two" / "answer" / "graph.graphml")
    assert {frozenset(e[:2]): e[2]["rate"] for e in back.edges(data=True)} == rates
    assert {v.verdict for v in verify_run(folder / "two", CARD, write=False)} == {"confirmed"}
    points = [np.load(folder / name / "answer" / "points.npz")["points"] for name in ("out", "two")]
    assert np.array_equal(points[0], points[1])


def test_synchronous_methods_by_name(folder: Path) -> None:
    for algorithm in ("nids", "msda"):
        more = ["--algorithm", algorithm, "--tolerance", "1e-4"]
        assert run(folder, "graph.csv", "data.csv", *more, out=algorithm) == 0
        claims = {c.name: c for c in read_claims(RunReader(folder / algorithm))}
        assert claims["node-distance"].outcome == "holds"
        assert {v.verdict for v in verify_run(folder / algorithm, CARD, write=False)} == {"confirmed"}
