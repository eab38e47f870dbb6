"""The card as the command uses it: what a private run's folder may hold, what a kill costs, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot import catalog, cli
from surefoot.core.certificate import read_claims
from surefoot.core.rundir import RunReader
from surefoot.core.verify import verify_run
from surefoot.privacy import accounting
from surefoot.privacy.ledger import read_journal
from surefoot.privacy.stationary_card import CARD, tiny_inputs
from surefoot.privacy.stationary_input import one_row_each, scaled, signs

SHORT = ["--iterations", "24", "--phase", "6", "--epsilon", "8", "--quiet"]


def run(*arguments: str) -> int:
    return cli.main(["run", "private-stationary", *arguments])


@pytest.fixture
def records(tmp_path: Path) -> Path:
    return Path(tiny_inputs(tmp_path)["records"])


def public_bytes(root: Path) -> dict[str, bytes]:
    """Everything that a user may hand on: all but private/."""
    return {
        str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and "private" not in p.relative_to(root).parts
    }


def test_the_public_part_holds_neither_seed_nor_data_nor_losses(records: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    assert run(str(records), "-o", str(root), *SHORT) == 0
    assert json.loads((root / "config.json").read_text())["seed"] is None
    digest = hashlib.sha256(records.read_bytes()).hexdigest()
    owner = json.loads((root / "private" / "owner.json").read_text())
    for name, content in public_bytes(root).items():
        assert str(records).encode() not in content, name
        assert digest.encode() not in content, name
        for value in (owner["gradient_norm"], owner["mean_loss"]):
            assert repr(value)[:10].encode() not in content, name
    history = RunReader(root).history
    assert set(history) == {"k", "seconds", "released_norm", "spent_epsilon"}
    assert history["spent_epsilon"][-1] == pytest.approx(8.0, rel=1e-9)
    assert (np.diff(history["spent_epsilon"]) > 0).all()
    assert RunReader(root).inputs[0]["sha256"].startswith("salted:")


def test_verification_needs_no_data(records: Path, tmp_path: Path) -> None:
    root, other = tmp_path / "out", tmp_path / "elsewhere"
    assert run(str(records), "-o", str(root), *SHORT) == 0
    shutil.rmtree(root / "private")
    records.unlink()
    shutil.move(root, other)
    assert {v.verdict for v in verify_run(other, CARD, write=False)} == {"confirmed"}


def test_two_runs_differ_and_a_seed_is_refused_or_marked(records: Path, tmp_path: Path) -> None:
    answers = []
    for name in ("a", "b"):
        assert run(str(records), "-o", str(tmp_path / name), *SHORT) == 0
        answers.append((tmp_path / name / "answer" / "parameters.csv").read_text())
    assert answers[0] != answers[1]
    assert run(str(records), "-o", str(tmp_path / "c"), *SHORT, "--seed", "3") == 2
    assert not (tmp_path / "c").exists()
    assert run(str(records), "-o", str(tmp_path / "d"), *SHORT, "--seed", "3", "--not-private") == 0
    claims = {c.name: c for c in read_claims(RunReader(tmp_path / "d"))}
    assert claims["privacy"].outcome == "fails"
    assert "subtracts the noise" in claims["privacy"].reason
    assert {v.verdict for v in verify_run(tmp_path / "d", CARD, write=False)} == {"confirmed"}


KILLED = """
import os, signal, sys
import surefoot.core.solve
import surefoot.core.checkpoint
solve, checkpoint = sys.modules["surefoot.core.solve"], sys.modules["surefoot.core.checkpoint"]
saves, save = 0, solve.save_checkpoint
def killed(*a, **k):
    global saves
    saves += 1
    if saves == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # released and in the ledger, in no checkpoint
    return save(*a, **k)
solve.save_checkpoint = killed
every = checkpoint.Every
checkpoint.Every = lambda **k: every(steps=1)
from surefoot.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_run_killed_between_release_and_checkpoint_spends_what_it_entered(records: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    command = ["run", "private-stationary", str(records), "-o", str(root), *SHORT]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *command], env={**os.environ}, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    journal = root / "private" / "ledger.jsonl"
    before = sum(r.number for r in read_journal(journal))
    assert before == 24  # three blocks of eight; two are in a checkpoint
    assert run("--resume", "-o", str(root), "--quiet") == 0
    entered = read_journal(journal)
    assert sum(r.number for r in entered if r.name != "final query") == 24
    config = json.loads((root / "config.json").read_text())
    assert "spent after 16 of 24 iterations" in config["reason"]
    claims = {c.name: c for c in read_claims(RunReader(root))}
    assert float(claims["privacy"].value) == pytest.approx(8.0, rel=1e-9)  # type: ignore[arg-type]
    assert "gradient_bound" in claims
    assert {v.verdict for v in verify_run(root, CARD, write=False)} == {"confirmed"}


def test_an_interrupted_run_goes_on_with_nothing_lost(records: Path, tmp_path: Path) -> None:
    """Stopped after its first block by a watch, resumed: every planned release is made once."""
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import solve
    from surefoot.core.system import Inputs
    from surefoot.privacy import stationary_card as card

    options = card.Options(epsilon=8.0, iterations=24, phase=6)
    problem = card.load(options, Inputs({"records": str(records)}))
    folder = RunDir.create(tmp_path / "out")
    method = card.method(options, problem, folder.root / "private" / "ledger.jsonl")
    solve(problem, method, run=folder, stop=lambda m: "enough" if m.k >= 8 else None, certify=False)
    result = solve(problem, method, run=RunDir.create(tmp_path / "out", resume=True))
    assert result.reason == "every planned release was made"
    assert result.steps == 25


@pytest.mark.parametrize(("arguments", "said"), [
    (["--delta", "0.01"], "not below 1/n"),
    (["--epsilon", "0"], "epsilon is 0"),
    (["--epsilon", "-1"], "epsilon is -1"),
    (["--ranges", "age:5"], "expected NAME:LOW:HIGH"),
    (["--ranges", "old:0:5"], "no column 'old'"),
    (["--ranges", "age:5:5"], "LOW must be below HIGH"),
    (["--group", "family"], "no such column"),
    (["--target", "cured"], "no such column"),
    (["--target", "age"], "classification needs 0 and 1"),
    (["--feature-bound", "0"], "bound of the features"),
    (["--method", "recursive", "--penalty", "bounded"], "convex"),
    (["--anchor-batch", "401"], "anchor_batch is 401"),
])  # fmt: skip
def test_bad_input_is_named(
    arguments: list[str], said: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(records), "-o", str(tmp_path / "out"), "--quiet", *arguments) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "said"), [("text", "holds text"), ("nan", "missing value"), ("empty", "features")])
def test_bad_tables_are_named(
    change: str, said: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = records.read_text().splitlines()
    cell = {"text": "old", "nan": "", "empty": ""}[change]
    lines = lines[:1] if change == "empty" else [*lines[:5], f"{cell},0.1,0.2,1", *lines[5:]]
    records.write_text("\n".join(lines) + "\n")
    assert run(str(records), "-o", str(tmp_path / "out"), "--quiet") == 1
    assert said in capsys.readouterr().err


def test_sampled_batches_through_the_card(records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisson samples: no exact mu, the account by privacy loss distributions (coarse ones here; `test_ledger` checks such ledgers)."""
    monkeypatch.setattr(accounting, "INTERVAL", 0.02)
    monkeypatch.setattr(accounting.privacy_loss, "__defaults__", (0.02,))
    root = tmp_path / "out"
    sampled = ["--anchor-batch", "200", "--difference-batch", "100", "--iterations", "4", "--phase", "2"]
    assert run(str(records), "-o", str(root), "--epsilon", "8", "--quiet", *sampled) == 0
    claims = {c.name: c for c in read_claims(RunReader(root))}
    assert "gaussian_dp" not in claims
    assert claims["privacy"].outcome == "holds"
    assert 7.5 < float(claims["privacy"].value) <= 8.0  # type: ignore[arg-type]
    ledger = json.loads((root / "evidence" / "ledger.json").read_text())
    found = {(e["name"], e["sampling"], e["number"]) for e in ledger["entries"]}
    assert found == {("anchor", 0.5, 2), ("difference", 0.25, 2), ("final query", 1.0, 1)}


def test_published_settings_want_many_records(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small table the theorem says nothing; the message names the step that it would hold for."""
    monkeypatch.setattr(accounting, "INTERVAL", 0.02)
    monkeypatch.setattr(accounting.privacy_loss, "__defaults__", (0.02,))
    assert run(str(records), "--compat", "paper", "--epsilon", "8", "-o", str(tmp_path / "out"), "--quiet") == 1
    said = capsys.readouterr().err
    assert "the theorem says nothing of 400 records" in said
    assert 0.0 < float(said.split("step_size below ")[1].split(";")[0]) < 2.0
    assert not (tmp_path / "out").exists()


def test_progress_shows_steps_the_spent_budget_and_the_last_released_norm(caplog: pytest.LogCaptureFixture) -> None:
    from surefoot.core.solve import Budget as Steps
    from surefoot.core.solve import Moment, solve
    from surefoot.privacy import stationary_card as card
    from surefoot.privacy.ledger import Budget
    from surefoot.privacy.private_spider import PrivateSpiderBoost
    from surefoot.report.progress import Bar

    seen: list[Moment] = []
    method = PrivateSpiderBoost(budget=Budget(8.0, 1e-4), iterations=8, phase=4)
    solve(card.tiny_problem(), method, watch=[lambda m: seen.append(m)], budget=Steps(steps=20), certify=False)
    bar = Bar("a private run")
    bar.live, bar.quiet = False, False
    caplog.set_level("INFO", logger="surefoot.report.progress")
    bar(seen[0])
    bar.shown = -1e9  # long ago
    bar(seen[0])
    row = seen[0].row
    assert (
        f"step {seen[0].k}  released_norm {row['released_norm']:.6g}  spent {row['spent_epsilon']:.3g}" in caplog.text
    )
    assert 0.0 < row["spent_epsilon"] < 8.0


def test_large_delta_is_allowed_on_demand_only(records: Path, tmp_path: Path) -> None:
    assert run(str(records), "-o", str(tmp_path / "out"), *SHORT, "--delta", "0.01", "--allow-large-delta") == 0


def test_samples_say_what_is_protected() -> None:
    pytest.importorskip("statsmodels", reason="needs statsmodels (extra samples)")
    from surefoot.core.system import Inputs
    from surefoot.privacy.stationary_card import Options, load

    years, persons = load(Options(), Inputs()), load(Options(group="person"), Inputs())
    assert (years.size, persons.size) == (20_190, 5_912)
    assert "person-year" in years.unit
    assert "one year each" in persons.unit
    fallback: Any = CARD.sample.fallback
    small = load(Options(), Inputs(only=fallback.id))
    assert (small.size, small.dim) == (569, 31)


def test_columns_scale_by_public_numbers_only() -> None:
    values = np.array([[0.0, 50.0], [10.0, 200.0]])
    found = scaled(values, ("a", "b"), {"a": (0.0, 10.0), "b": (0.0, 100.0)})
    assert np.allclose(found * np.sqrt(2), [[-1, 0], [1, 1]])
    assert (np.linalg.norm(found, axis=1) <= 1 + 1e-15).all()
    assert signs(np.array([1.0, 2.0, 1.0])).tolist() == [-1, 1, -1]
    assert one_row_each(values, np.array([1.0, 0.0]), np.array([7.0, 7.0]))[0].tolist() == [[0.0, 50.0]]


def test_aliases_and_presets() -> None:
    assert catalog.find("private-spider") is CARD
    assert CARD.traits.private
