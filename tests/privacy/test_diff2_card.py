"""The card from the command: samples, a user's own table, bad input by name, what a private run leaves behind, kills and resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surefoot.cli import main
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.solve import solve
from surefoot.core.system import Inputs
from surefoot.privacy import diff2_card as card
from surefoot.privacy.ledger import read_journal
from surefoot.records.files import read_json


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """300 rows of three sites and the columns' ends."""
    rng = np.random.default_rng(0)
    X = rng.uniform(0, 2, size=(300, 2))
    y = X @ [1.0, -0.5] + 0.1 * rng.normal(size=300)
    rows = [f"{a},{b},{['north', 'south', 'west'][i % 3]},{t}" for i, ((a, b), t) in enumerate(zip(X, y, strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,site,y", *rows]) + "\n")
    (tmp_path / "bounds.json").write_text(json.dumps({"a": [0, 2], "b": [0, 2]}))
    return tmp_path / "t.csv"


def run(table: Path, *flags: str) -> int:
    given = [
        str(table),
        str(table.parent / "bounds.json"),
        "--client-column",
        "site",
        "--delta",
        "1e-4",
        "--epsilon",
        "4",
    ]
    return main(["run", "diff2", *given, "--most-rounds", "40", "-o", str(table.parent / "out"), "--quiet", *flags])


def test_a_table_of_ones_own(table: Path) -> None:
    assert run(table, "--restart", "5") == 0
    assert "(4, 0.0001)-differentially private" in card.headline(RunReader(table.parent / "out"))
    out = table.parent / "out"
    text = (out / "answer" / "parameters.csv").read_text()
    assert [line.split(",")[0] for line in text.splitlines()] == ["parameter", "a", "b", "constant"]
    assert main(["verify", str(out), "--quiet"]) == 0
    table.unlink()  # the data are not needed
    assert main(["verify", str(out), "--quiet"]) == 0


def test_what_a_private_run_leaves_behind(table: Path) -> None:
    """No seed, no losses, no path; hashes that cannot be guessed; noise nowhere; the ledger under private/."""
    import hashlib

    assert run(table) == 0
    out = table.parent / "out"
    public = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and "private" not in p.parts}
    digest = hashlib.sha256(table.read_bytes()).hexdigest().encode()
    for path, content in public.items():
        assert digest not in content, path
        assert str(table).encode() not in content, path
    assert read_json(out / "config.json")["seed"] is None
    header = (out / "history.csv").read_text().splitlines()[0].split(",")
    assert header == ["k", "seconds", "released_norm", "bound", "noise_std", "step_norm", "spent"]
    assert not (out / "checkpoints").exists()
    journal = read_journal(out / "private" / "ledger.jsonl")
    assert {r.name for r in journal} >= {"anchor", "final query", "held-out loss"}
    assert all(
        state["seed"] is None for state in map(read_json, (out / "private" / "checkpoints").glob("*/state.json"))
    )


def test_a_seed_needs_not_private_and_marks_the_run(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(table, "--seed", "1") == 2
    assert "say --not-private" in capsys.readouterr().err
    assert run(table, "--seed", "1", "--not-private") == 0
    assert "Not private" in card.headline(RunReader(table.parent / "out"))
    claim = next(c for c in RunReader(table.parent / "out").certificate_tree["claims"] if c["name"] == "privacy")
    assert claim["outcome"] == "fails"
    assert main(["verify", str(table.parent / "out"), "--quiet"]) == 0


@pytest.mark.parametrize(("flags", "said"), [
    (["--delta", "0.01"], "--allow-large-delta"), (["--epsilon", "0"], "epsilon is 0"), (["--delta", "0"], "delta is 0"),
    (["--client-column", "region"], "no column 'region'"), (["--target", "z"], "no column 'z'"), (["--hidden", "4"], "give --clip-gradient"),
    (["--loss", "logistic"], "two kinds"), (["--row-norm", "-1"], "row_norm is -1"), (["--rounds", "5", "--restart", "9", "--step-length", "0.1"], "restart is 9"),
    (["--trust", "secagg", "--honest", "7"], "honest is 7"), (["--local-steps", "3", "--local-batch", "1000", "--rounds", "4", "--restart", "2", "--step-length", ".1"], "take smaller ones"),
])  # fmt: skip
def test_wrong_flags_are_named(flags: list[str], said: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(table, *flags) != 0
    assert said in capsys.readouterr().err
    assert not (table.parent / "out").exists()


@pytest.mark.parametrize(("text", "said"), [
    ("a,site,y\n1,n,2\nnan,s,3\n", "row 2, column 'a' is NaN"), ("a,b,site,y\n1,x,n,2\n2,z,s,3\n", "column 'b' holds text"),
    ("a,b,site,y\n1,2,n,2\n2,3,,3\n", "does not name a client in every row"), ("site,y\nn,2\ns,3\n", "0 feature columns"),
])  # fmt: skip
def test_wrong_tables_are_named(text: str, said: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(text)
    code = main(["run", "diff2", str(table), "--client-column", "site", "-o", str(table.parent / "out"), "--quiet"])
    assert code != 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [
    ('{"a": [0]}', "two ends"), ('{"a": [2, 1]}', "lower first"), ('{"z": [0, 1]}', "the table has not"), ("[1", "expected JSON like"),
])  # fmt: skip
def test_wrong_bounds_are_named(text: str, said: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table.parent / "bounds.json").write_text(text)
    assert run(table) != 0
    assert said in capsys.readouterr().err


def test_a_network_is_clipped_and_says_so(table: Path) -> None:
    flags = [
        "--hidden",
        "3",
        "--clip-gradient",
        "1",
        "--clip-difference",
        "3",
        "--rounds",
        "6",
        "--restart",
        "3",
        "--step-length",
        "0.2",
    ]
    assert run(table, *flags) == 0
    claims = {c["name"]: c for c in RunReader(table.parent / "out").certificate_tree["claims"]}
    assert "clipped to 1" in claims["gradient"]["statement"]
    assert "expected_gradient" not in claims
    assert len((table.parent / "out" / "answer" / "parameters.csv").read_text().splitlines()) == 1 + 2 * 3 + 3 + 3 + 1


KILLED = """
import os, signal, sys
from surefoot.privacy import mechanism
release, seen = mechanism.Gaussian.release, [0]
def spy(self, *given, **more):
    value = release(self, *given, **more)
    seen[0] += 1
    if seen[0] == int(sys.argv[1]):  # the value has left the mechanism; no checkpoint knows
        os.kill(os.getpid(), signal.SIGKILL)
    return value
mechanism.Gaussian.release = spy
from surefoot.cli import main
main(sys.argv[2:])
"""


def test_a_killed_run_goes_on_with_what_is_left_and_stops_when_it_is_spent(table: Path) -> None:
    out = table.parent / "out"
    command = ["run", "diff2", str(table), "--client-column", "site", "--delta", "1e-4", "--epsilon", "4", "--rounds", "60",
               "--restart", "5", "--step-length", "0.5", "-o", str(out), "--quiet"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "40", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    before = sum(r.number for r in read_journal(out / "private" / "ledger.jsonl"))
    assert before == 50  # two blocks of 25 rounds, the second entered but not done
    assert main([*command, "--resume"]) == 0
    reader = RunReader(out)
    assert reader.config["steps"] == 10  # 60 rounds were planned, 50 had been spent
    assert "spent" in reader.config["reason"]
    claims = {c["name"]: c for c in reader.certificate_tree["claims"]}
    assert claims["privacy"]["outcome"] == "holds"
    assert claims["privacy"]["value"] <= 4.0 * (1 + 1e-9)
    assert "gradient" in claims  # the final query had been kept affordable
    assert main(["verify", str(out), "--quiet"]) == 0
    assert main([*command, "--resume"]) == 0  # and once more changes nothing
    assert RunReader(out).config["steps"] == 10


def test_an_interrupted_run_goes_on(table: Path) -> None:
    out = table.parent / "out"
    command = ["run", "diff2", str(table), "--client-column", "site", "--delta", "1e-4", "--epsilon", "4", "--rounds", "20000",
               "--restart", "5", "--step-length", "0.1", "-o", str(out), "--quiet"]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "surefoot", *command], env={**os.environ, "OMP_NUM_THREADS": "1"})
    limit = time.monotonic() + 60
    while not (out / "private" / "ledger.jsonl").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    steps = int(RunReader(out).config["steps"])
    journal = sum(r.number for r in read_journal(out / "private" / "ledger.jsonl"))
    assert 0 < steps == journal < 20000  # whole blocks: nothing is lost by an interrupt


# ---- samples -------------------------------------------------------------------------------------------------
def test_the_sample_has_a_client_a_site(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("statsmodels", reason="needs statsmodels (extra samples)")
    inputs = Inputs()
    problem: Any = card.load(card.Options(), inputs)
    assert inputs.records[0]["origin"] == "rand-health-sites"
    assert len(problem.sizes) == 6
    assert sum(problem.sizes) + problem.held_out.size == 20_190
    assert problem.identity["unit"] == "person-year"
    plan = card.method(card.Options(), problem)
    assert plan.restart > 1
    persons: Any = card.load(card.Options(one_year_each=True), Inputs())
    assert persons.identity["unit"] == "person"
    assert sum(persons.sizes) + persons.held_out.size == 5_912


def test_the_fallback_sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from surefoot.data.samples import SampleMissingError
    from surefoot.privacy import site_tables

    def missing(*_: Any) -> Any:
        raise SampleMissingError("statsmodels is not installed: pip install 'surefoot[samples]'")

    monkeypatch.setattr(site_tables, "health_sites", missing)
    inputs = Inputs()
    options = card.Options(epsilon=8.0, delta=1e-4, most_rounds=20)
    problem: Any = card.load(options, inputs)
    assert inputs.records[0]["origin"] == "breast-cancer-4"
    assert "statsmodels" in inputs.records[0]["note"]
    assert len(problem.sizes) == 4
    assert max(abs(float(v)) for v in problem.clients[0].model.features.abs().max(dim=0).values) <= 1.0
    result = solve(problem, card.method(options, problem), run=RunDir.create(tmp_path / "run", private=True))
    assert result.certificate is not None
    assert result.certificate.claim("privacy").outcome == "holds"
