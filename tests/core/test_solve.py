"""The one loop: budgets, stopping, divergence, privacy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from surefoot.core.checkpoint import Every
from surefoot.core.method import Look, Status
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.solve import Budget, iterate, solve
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify_run
from surefoot.records.files import sha256
from toy import Average, Column

PROBLEM = Column(torch.arange(7.0).double())
ENDLESS = Average(damping=0.01, block=4, tolerance=0.0)


def test_steps_are_exact_whatever_the_block() -> None:
    for block in (1, 4, 7, 1000):
        result = solve(PROBLEM, dataclasses.replace(ENDLESS, block=block), budget=Budget(steps=30))
        assert (result.steps, result.status, result.reason) == (30, Status.BUDGET, "30 steps")
        assert result.counts == {"gradient": 30}


def test_the_mean_is_found() -> None:
    result = solve(PROBLEM, Average())
    assert result.status is Status.CONVERGED
    assert float(result.answer) == pytest.approx(3.0, abs=1e-9)
    assert result.certificate is not None


def test_seconds_and_counts_end_a_run() -> None:
    slow = dataclasses.replace(ENDLESS, pause=0.01)
    result = solve(PROBLEM, slow, budget=Budget(seconds=0.1))
    assert (result.status, result.reason) == (Status.BUDGET, "0.1 seconds")
    assert 0.1 <= result.seconds < 0.5
    result = solve(PROBLEM, ENDLESS, budget=Budget(steps=500, counts={"gradient": 18}))
    assert (result.reason, result.counts["gradient"]) == ("18 gradient calls", 20)


def test_seconds_are_counted_over_resumes(tmp_path: Path) -> None:
    slow = dataclasses.replace(ENDLESS, pause=0.01)
    solve(PROBLEM, slow, budget=Budget(seconds=0.1), run=RunDir.create(tmp_path / "run"))
    again = solve(PROBLEM, slow, budget=Budget(seconds=0.15), run=RunDir.create(tmp_path / "run", resume=True))
    assert 0.15 <= again.seconds < 0.6
    spent = solve(PROBLEM, slow, budget=Budget(seconds=0.15), run=RunDir.create(tmp_path / "run", resume=True))
    assert spent.steps == again.steps


def test_a_budget_of_nothing_takes_no_step() -> None:
    result = solve(PROBLEM, ENDLESS, budget=Budget(steps=0))
    assert (result.steps, float(result.answer), result.status) == (0, 0.0, Status.BUDGET)
    with pytest.raises(ValueError, match="budget steps is -1"):
        Budget(steps=-1)
    with pytest.raises(ValueError, match="gradient"):
        Budget(counts={"gradient": -1})


def test_a_horizon_is_the_default_and_the_limit() -> None:
    planned = dataclasses.replace(ENDLESS, horizon=20)
    assert solve(PROBLEM, planned).steps == 20
    assert solve(PROBLEM, planned, budget=Budget(steps=10)).steps == 10
    with pytest.raises(ValueError, match="beyond the method's horizon 20"):
        solve(PROBLEM, planned, budget=Budget(steps=21))


def test_watches_see_every_step_and_may_stop() -> None:
    seen: list[int] = []
    result = solve(
        PROBLEM, ENDLESS, budget=Budget(steps=400), watch=[lambda m: seen.append(m.k)],
        stop=lambda m: "far enough" if m.row["gap"] < 2.5 else None,
    )  # fmt: skip
    assert (result.status, result.reason) == (Status.STOPPED, "far enough")
    assert seen == list(range(4, result.steps + 1, 4))
    assert result.certificate is not None


def test_nan_is_named_with_its_step() -> None:
    class Breaks(Average):
        def look(self, state: Any) -> Look:
            return Look({"gap": float("nan") if state.k == 12 else 1.0})

    result = solve(PROBLEM, Breaks(damping=0.01, tolerance=0.0), budget=Budget(steps=100))
    assert (result.status, result.reason) == (Status.DIVERGED, "gap became NaN at step 12")
    assert result.certificate is None


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    class Breaks(Average):
        def look(self, state: Any) -> Look:
            return Look({"gap": float("nan") if state.k == 12 else 1.0})

    run = RunDir.create(tmp_path / "run")
    solve(PROBLEM, Breaks(tolerance=0.0), budget=Budget(steps=100), run=run, every=Every(steps=4, seconds=None))
    assert sorted(p.name for p in run.checkpoints.iterdir()) == ["000000000004", "000000000008"]


def test_iterate_is_the_bare_loop() -> None:
    from surefoot.core.random import Streams

    start = ENDLESS.init(PROBLEM, None, Streams(0))
    assert iterate(PROBLEM, ENDLESS, start, steps=3).k == 12
    assert iterate(PROBLEM, ENDLESS, start, until=lambda look: look.row["gap"] < 2.0).gap < 2.0
    assert iterate(PROBLEM, Average(), Average().init(PROBLEM, None, Streams(0))).gap < 1e-12


def test_a_run_given_as_a_path_must_be_new(tmp_path: Path) -> None:
    solve(PROBLEM, ENDLESS, budget=Budget(steps=8), run=tmp_path / "run")
    with pytest.raises(FileExistsError, match="--resume"):
        solve(PROBLEM, ENDLESS, budget=Budget(steps=8), run=tmp_path / "run")


# ---- private runs --------------------------------------------------------------------------------------------
def test_a_private_run_tells_nothing(tmp_path: Path, toys: None) -> None:
    from surefoot.cli import main

    inputs = toy.tiny_inputs(tmp_path)
    root = tmp_path / "run"
    assert main(["run", "private-toy", inputs["column"], "-o", str(root), "--quiet"]) == 0
    digest = sha256(Path(inputs["column"]))
    fingerprint = toy.load(toy.Options(), Inputs(inputs)).fingerprint()
    public = [p for p in root.rglob("*") if p.is_file() and "private" not in p.relative_to(root).parts]
    assert len(public) > 6
    for path in public:
        data = path.read_bytes()
        for secret in (digest, fingerprint, inputs["column"], "column.txt"):
            assert secret.encode() not in data, f"{path} tells {secret}"
    assert RunReader(root).config["seed"] is None
    assert RunReader(root).inputs[0]["sha256"].startswith("salted:")
    assert not (root / "checkpoints").exists()
    states = list((root / "private" / "checkpoints").glob("*/state.json"))
    assert states
    assert all('"seed": null' in path.read_text() for path in states)
    assert [v.verdict for v in verify_run(root, toy.PRIVATE)] == ["unchecked", "confirmed"]
    assert main(["run", "private-toy", "--resume", "-o", str(root), "--quiet"]) == 0  # the data are found again


def test_two_private_runs_have_different_noise_and_salt(tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    answers = []
    for root in roots:
        inputs = Inputs(toy.tiny_inputs(tmp_path))
        answers.append(
            float(execute(toy.PRIVATE, toy.Options(damping=0.1, steps=5), inputs, RunDir.create(root)).answer)
        )
    assert answers[0] != answers[1]
    hashes = {RunReader(root).inputs[0]["sha256"] for root in roots}
    prints = {RunReader(root).certificate_tree["fingerprint"] for root in roots}
    assert len(hashes) == len(prints) == 2


def test_a_fixed_seed_undoes_privacy(toys: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from surefoot.cli import main

    assert main(["run", "private-toy", "--seed", "1", "-o", str(tmp_path / "run")]) == 2
    assert "undoes privacy" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
