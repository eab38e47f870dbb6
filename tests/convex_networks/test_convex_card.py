"""The card from a table to the exported network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from surefoot.convex_networks.card import CARD, Options
from surefoot.convex_networks.export import read_network, to_onnx, to_torch
from surefoot.core.certificate import read_claims
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify_run

QUICK = Options(arrangements=8, local_runs=0, rounds=2, penalty=0.01, candidates=6)


def frame(n: int = 40, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return pd.DataFrame(
        {"width": X[:, 0], "height": 3 + 2 * X[:, 1], "kind": np.where(X[:, 0] * X[:, 1] > 0, "in", "out")}
    )


def run(data: pd.DataFrame, folder: Path, options: Options = QUICK) -> RunReader:
    folder.mkdir(exist_ok=True)
    data.to_csv(folder / "t.csv", index=False)
    execute(CARD, options, Inputs({"table": str(folder / "t.csv")}), RunDir.create(folder / "run"))
    assert {v.verdict for v in verify_run(folder / "run", CARD)} == {"confirmed"}
    return RunReader(folder / "run")


def test_text_classes_are_learnt_and_the_exported_network_is_the_same(tmp_path: Path) -> None:
    data = frame()
    reader = run(data, tmp_path, replace(QUICK, holdout=0.2))
    network = read_network(reader.answer_dir)
    assert network.classes == ("in", "out")
    values = data[["width", "height"]].to_numpy()
    scores = network(values)
    assert np.mean((scores[:, 0] > 0) == (data["kind"] == "out")) > 0.85
    with torch.no_grad():
        np.testing.assert_allclose(to_torch(network)(torch.from_numpy(values)).numpy(), scores, atol=1e-10)
    assert "right on rows kept apart" in CARD.headline(reader)
    drawn = {f.name: f.figure for f in CARD.figures(reader)}
    assert list(drawn) == ["bounds", "region", "neurons"]
    assert (drawn["region"].axes[0].get_xlabel(), drawn["region"].axes[0].get_ylabel()) == ("width", "height")


def test_onnx_gives_the_same_scores(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    data = frame()
    network = read_network(run(data, tmp_path).answer_dir)
    to_onnx(network, tmp_path / "net.onnx", dtype="float64")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    values = data[["width", "height"]].to_numpy()
    np.testing.assert_allclose(session.run(None, {"x": values})[0], network(values), atol=1e-9)


def test_several_classes_are_one_against_the_rest(tmp_path: Path) -> None:
    data = frame(36)
    data["kind"] = np.where(data["width"] > 0.4, "a", np.where(data["height"] > 3, "b", "c"))
    network = read_network(run(data, tmp_path, replace(QUICK, patterns="fixed", loss="logistic")).answer_dir)
    assert network.classes == ("a", "b", "c")
    values = data[["width", "height"]].to_numpy()
    assert np.mean(np.array(network.classes)[network(values).argmax(axis=1)] == data["kind"]) > 0.8


def test_odd_tables_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = frame()
    with pytest.raises(ValueError, match=r"single class \(in\)"):
        run(data.assign(kind="in"), tmp_path / "one")
    with pytest.raises(ValueError, match="no column 'depth'"):
        run(data, tmp_path / "name", replace(QUICK, target="depth"))
    with pytest.raises(ValueError, match="needs classes"):
        run(data.assign(kind=np.linspace(0, 1, len(data))), tmp_path / "loss", replace(QUICK, loss="hinge"))
    with pytest.raises(ValueError, match="missing"):
        run(data.assign(width=data["width"].where(data.index != 3)), tmp_path / "nan")
    run(
        data.assign(flat=1.0)[["width", "flat", "height", "kind"]].head(3),
        tmp_path / "odd",
        replace(QUICK, patterns="fixed"),
    )
    assert "column 'flat' is constant" in caplog.text
    assert "fewer rows (3) than columns" in caplog.text


def test_regression_with_rows_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=60)
    data = pd.DataFrame({"x": x, "y": np.abs(x)})
    reader = run(data, tmp_path, replace(QUICK, task="regression", holdout=0.2, penalty=1e-3))
    claims = {v["claim"]: v for v in reader.verdicts} if isinstance(reader.verdicts, list) else reader.verdicts
    assert claims
    network = read_network(reader.answer_dir)
    assert float(np.mean((network(x[:, None])[:, 0] - np.abs(x)) ** 2)) < 0.01


def test_files_of_an_answer_must_agree(tmp_path: Path) -> None:
    reader = run(frame(), tmp_path)
    stored = dict(np.load(reader.answer_dir / "network.npz"))
    stored["hidden"] = stored["hidden"] * 1.01
    np.savez(reader.answer_dir / "network.npz", **stored)
    with pytest.raises(ValueError, match="hold different networks"):
        read_network(reader.answer_dir)


def test_the_sampled_program_from_the_card(tmp_path: Path) -> None:
    data = frame()
    options = replace(QUICK, program="sampled", neurons=400, holdout=0.2, local_runs=1, local_width=8, local_steps=100)
    reader = run(data, tmp_path / "sampled", options)
    claims = {claim.name: claim for claim in read_claims(reader)}
    assert claims["program_gap"].outcome == "holds"
    assert claims["global_gap"].kind == "proved"  # rank 3 with the bias
    exact = run(data, tmp_path / "cone", replace(QUICK, holdout=0.2, rounds=12, global_tolerance=1e-4))
    better = {claim.name: claim for claim in read_claims(exact)}
    low = float(better["network"].value) * (1 - float(better["global_gap"].value))  # type: ignore[arg-type]
    drawn = float(claims["network"].value)  # type: ignore[arg-type]
    # the bound of the one program is below the network of the other
    assert low <= drawn * (1 + 1e-9)
    assert drawn * (1 - float(claims["global_gap"].value)) <= float(better["network"].value) * (1 + 1e-9)  # type: ignore[arg-type]
    assert "sampled program's optimum" in CARD.headline(reader)
    for wrong, message in (({"loss": "hinge"}, "needs a smooth loss"), ({"radius": 0.1}, "does not train against")):
        with pytest.raises(ValueError, match=message):
            run(data, tmp_path / next(iter(wrong)), replace(options, **wrong))


def test_two_columns_get_an_exact_bound_over_all_networks(tmp_path: Path) -> None:
    """Rank 3 with the bias: pricing goes on until the proved gap is what the claim asks for."""
    options = Options(arrangements=10, local_runs=1, local_width=20, local_steps=200, penalty=0.01)
    reader = run(frame(60, 2), tmp_path, options)
    claim = next(claim for claim in read_claims(reader) if claim.name == "global_gap")
    assert (claim.kind, claim.outcome, claim.check) == ("proved", "holds", "global_gap_exact")
    assert float(claim.value) <= 1e-4  # type: ignore[arg-type]
