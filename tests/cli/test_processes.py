"""The command in processes of its own: exit codes, interrupts, kills, and listing without torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TOY = """
import sys, time
sys.path.insert(0, {tests!r})
from surefoot import catalog
catalog.BUILT_IN = {{"toy": "toy:CARD"}}
import toy
step = toy.Average.step
def slow(self, problem, state):
    time.sleep({pause})
    return step(self, problem, state)
toy.Average.step = slow
from surefoot.core import checkpoint, solve
every = checkpoint.Every
solve.Every = lambda: every(steps=4)
from surefoot.cli import main
sys.exit(main())
"""


def toy(*arguments: str, pause: float = 0.0) -> list[str]:
    return [sys.executable, "-c", TOY.format(tests=str(TESTS), pause=pause), *arguments]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(toy(*arguments), cwd=cwd, capture_output=True, text=True, check=False)


def test_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "column.txt").write_text("1\n2\n4\n")
    assert run("run", "toy", "column.txt", "-o", "out", cwd=tmp_path).returncode == 0
    assert run("verify", "out", cwd=tmp_path).returncode == 0
    again = run("run", "toy", "-o", "out", cwd=tmp_path)
    assert (again.returncode, "--resume" in again.stderr) == (2, True)
    wrong = run("run", "tyo", cwd=tmp_path)
    assert (wrong.returncode, "did you mean toy" in wrong.stderr) == (2, True)
    assert run("run", "toy", "nothing.txt", cwd=tmp_path).returncode == 2
    assert run("verify", "nowhere", cwd=tmp_path).returncode == 2
    assert run("run", "toy", "--damping", "3", "--steps", "5000", "-o", "bad", cwd=tmp_path).returncode == 1
    (tmp_path / "column.txt").unlink()
    assert run("verify", "out", cwd=tmp_path).returncode == 3
    tree = json.loads((tmp_path / "out" / "certificate.json").read_text())
    tree["claims"][1]["value"] *= 2
    (tmp_path / "out" / "certificate.json").write_text(json.dumps(tree))
    assert run("verify", "out", cwd=tmp_path).returncode == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert run("run", "toy", "-o", "mine", "--force", cwd=tmp_path).returncode == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


def answer(root: Path) -> str:
    return (root / "answer" / "mean.json").read_text()


def started(process: subprocess.Popen[str], root: Path) -> None:
    until = time.monotonic() + 60
    while not list(root.glob("checkpoints/0*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_killed_runs_resume_to_the_same_answer(how: signal.Signals, tmp_path: Path) -> None:
    assert run("run", "toy", "-o", "whole", cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        toy("run", "toy", "-o", "cut", pause=0.2), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    started(process, tmp_path / "cut")
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    if how is signal.SIGKILL:
        assert process.returncode == -how
    else:
        assert process.returncode == 130
        assert "surefoot run toy --resume -o cut" in said
    assert not (tmp_path / "cut" / "answer").exists()
    assert run("run", "toy", "--resume", "-o", "cut", cwd=tmp_path).returncode == 0
    assert answer(tmp_path / "cut") == answer(tmp_path / "whole")


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "matplotlib", "sklearn", "pandas"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from surefoot.cli import main
sys.exit(main(["list", *sys.argv[1:]]))
"""


def test_listing_needs_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, "--json"], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    names = {row["name"] for row in json.loads(done.stdout)}
    assert {"acceleration", "colide"} <= names
    assert "blocked" not in done.stderr
