"""Resume, whatever happened: bit for bit, from the newest whole checkpoint."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from surefoot.core.checkpoint import Every, load_checkpoint, save_checkpoint, saved
from surefoot.core.random import Streams
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.solve import Budget, solve
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify_run
from surefoot.records.files import OtherSchemaError, UnsafeFileError, read_json, write_json
from surefoot.testing import same_state
from toy import Average, AverageState, Column

PROBLEM = Column(torch.arange(7.0).double())
SLOW = Average(damping=0.01, block=3, tolerance=0.0)


def state(k: int = 12, x: float = 0.25) -> AverageState:
    return AverageState(streams=Streams(5), k=k, x=torch.tensor(x, dtype=torch.float64), counts={"gradient": k})


def template() -> AverageState:
    return state(0, 0.0)


def final(steps: int, run: RunDir | None = None, every: Every | None = None) -> Any:
    kept: list[Any] = []
    solve(
        PROBLEM,
        SLOW,
        budget=Budget(steps=steps),
        run=run,
        every=every,
        certify=False,
        watch=[lambda m: kept.append(m.state)],
    )
    return kept[-1]


def test_resumed_in_many_pieces_equals_uninterrupted(tmp_path: Path) -> None:
    whole = final(100)
    for steps in (7, 8, 31, 32, 77, 100):
        last = final(steps, RunDir.create(tmp_path / "run", resume=True))
    assert same_state(whole, last)
    assert torch.equal(whole.x, last.x)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    final(30, run, Every(steps=3, seconds=None))
    assert [p.name for p in saved(run.checkpoints)] == ["000000000027", "000000000030"]


def test_saving_twice_at_one_step_never_replaces_in_place(tmp_path: Path) -> None:
    first = save_checkpoint(tmp_path, state(x=1.0), {"n": 1})
    second = save_checkpoint(tmp_path, state(x=2.0), {"n": 2})
    assert first != second
    found = load_checkpoint(tmp_path, template())
    assert found is not None
    assert float(found[0].x) == 2.0
    shutil.rmtree(second)
    found = load_checkpoint(tmp_path, template())
    assert found is not None
    assert float(found[0].x) == 1.0


def truncate(name: str, keep: float) -> Callable[[Path], None]:
    def act(newest: Path) -> None:
        data = (newest / name).read_bytes()
        (newest / name).write_bytes(data[: int(len(data) * keep)])

    return act


TORN: dict[str, Callable[[Path], object]] = {
    "truncated tensors": truncate("tensors.safetensors", 0.9), "empty tensors": truncate("tensors.safetensors", 0),
    "no tensors": lambda p: (p / "tensors.safetensors").unlink(), "truncated state": truncate("state.json", 0.7),
    "empty state": truncate("state.json", 0), "no state": lambda p: (p / "state.json").unlink(), "empty folder": lambda p: [f.unlink() for f in p.iterdir()],
    "half-written folder beside": lambda p: p.rename(p.with_name(f".{p.name}.abcd")), "state of text": lambda p: (p / "state.json").write_text('"x"'),
    "flipped bit": lambda p: (p / "tensors.safetensors").write_bytes((p / "tensors.safetensors").read_bytes()[:-1] + b"\xff"),
}  # fmt: skip


@pytest.mark.parametrize("how", TORN)
def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path, how: str) -> None:
    whole = final(60)
    run = RunDir.create(tmp_path / "run")
    final(30, run, Every(steps=6, seconds=None))
    before, newest = saved(run.checkpoints)
    TORN[how](newest)
    found = load_checkpoint(run.checkpoints, template())
    assert found is not None
    assert found[0].k == int(before.name)
    assert same_state(whole, final(60, RunDir.create(tmp_path / "run", resume=True)))
    assert not list(run.checkpoints.glob(".*"))  # and the rest of the killed process is swept away


def test_no_whole_checkpoint_means_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "nothing", template()) is None
    truncate("state.json", 0.5)(save_checkpoint(tmp_path, state(), {}))
    assert load_checkpoint(tmp_path, template()) is None


def test_a_checkpoint_of_another_method_is_refused(tmp_path: Path) -> None:
    class OtherState(AverageState):
        pass

    save_checkpoint(tmp_path, state(), {})
    with pytest.raises(UnsafeFileError, match="holds a AverageState, but this method's state is a OtherState"):
        load_checkpoint(tmp_path, OtherState(streams=Streams(5), x=torch.zeros(())))


def test_a_newer_schema_is_refused_by_its_number(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state(), {}) / "state.json"
    write_json(path, {**read_json(path), "schema": 99})
    with pytest.raises(OtherSchemaError, match="schema 99"):
        load_checkpoint(tmp_path, template())


def test_a_checkpoint_names_no_class_to_import(tmp_path: Path) -> None:
    text = (save_checkpoint(tmp_path, state(), {}) / "state.json").read_text()
    assert "toy" not in text
    assert json.loads(text)["class"] == "AverageState"


# ---- kills ---------------------------------------------------------------------------------------------------
OPTIONS = toy.Options(damping=0.02, steps=1200, pause=0.0005, save=8)


def forked(act: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        os.dup2(devnull, 1)
        code = 1
        try:
            code = int(bool(act()))
        finally:
            os._exit(code)
    return child


def go_on(root: Path) -> Any:
    return execute(toy.CARD, OPTIONS, Inputs(), RunDir.create(root, resume=True))


def test_a_kill_at_any_moment_leaves_a_run_that_opens_and_resumes(tmp_path: Path, toys: None) -> None:
    whole = execute(toy.CARD, OPTIONS, Inputs(), RunDir.create(tmp_path / "whole"))
    rng = random.Random(os.getpid())
    root, kills = tmp_path / "run", 0
    for _ in range(40):
        child = forked(lambda: go_on(root) and None)
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        if (root / "config.json").is_file():
            reader = RunReader(root)  # opens, whatever was being written
            assert reader.config["card"] == "toy"
            _ = reader.history, reader.inputs, reader.verdicts
        if (root / "certificate.json").is_file():
            break
    assert kills >= 5
    result = go_on(root)
    assert torch.equal(result.answer, whole.answer)
    assert result.steps == whole.steps
    assert dict(result.counts) == dict(whole.counts)
    assert [v.verdict for v in verify_run(root, toy.CARD)] == ["confirmed"] * 2
    assert not list(root.glob(".*"))
    assert (root / "answer/mean.json").read_bytes() == (tmp_path / "whole/answer/mean.json").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_printed_command_goes_on(
    tmp_path: Path, toys: None, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from surefoot.cli import main

    flags = ["--damping", "0.02", "--steps", "1200", "--pause", "0.002", "--quiet"]
    assert main(["run", "toy", "-o", str(tmp_path / "whole"), *flags]) == 0
    said, root = tmp_path / "said", tmp_path / "a run"

    def interrupted() -> None:
        sys.stderr = said.open("w")
        code = main(["run", "toy", "-o", str(root), *flags])
        sys.stderr.flush()
        os._exit(code)

    child = forked(interrupted)
    while not (root / "inputs.json").is_file():
        time.sleep(0.01)
    time.sleep(0.15)
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    config = RunReader(root).config
    assert config["status"] == "interrupted"
    assert 0 < config["steps"] < RunReader(tmp_path / "whole").config["steps"]
    assert config["steps"] % 4 == 0  # the step was finished
    command = shlex.split(said.read_text().strip().splitlines()[-1])
    assert command[:2] == ["surefoot", "run"]
    capsys.readouterr()
    assert main([*command[1:], "--quiet"]) == 0
    assert (root / "answer/mean.json").read_bytes() == (tmp_path / "whole/answer/mean.json").read_bytes()
    assert main(["verify", str(root), "--quiet"]) == 0


def test_ctrl_c_before_the_first_step_also_says_how_to_go_on(
    tmp_path: Path, toys: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from surefoot.cli import main

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Average, "init", interrupt)
        assert main(["run", "toy", "-o", str(tmp_path / "run")]) == 130
    assert "surefoot run toy --resume -o" in capsys.readouterr().err
    assert RunReader(tmp_path / "run").config["status"] == "interrupted"
    assert main(["run", "toy", "--resume", "-o", str(tmp_path / "run"), "--quiet"]) == 0
