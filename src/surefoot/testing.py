"""Contract checks that every card, method and optimiser must pass; public, so that plug-in authors run them too.

Each function raises AssertionError with what was expected. `tests/test_contracts.py` runs them over the
catalogue; a plug-in does the same with its own card.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from surefoot.core.certificate import read_claims
from surefoot.core.method import Status
from surefoot.core.problem import Objective
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.solve import Budget, solve
from surefoot.core.system import Inputs, System, execute
from surefoot.core.verify import Verdict, verify_run
from surefoot.records.files import READERS, WRITERS, file_hashes, read_json, write_json
from surefoot.records.trees import pack

SPOILS = ("sign", "double", "permute", "nan")


# ---- spoiling -----------------------------------------------------------------------------------------------
def spoil_number(value: Any, how: str) -> Any:
    """A number (or rational text) changed materially; None where this way changes nothing."""
    if isinstance(value, str):
        if how == "nan":
            return "nan"
        try:
            exact = Fraction(value)
        except (ValueError, ZeroDivisionError):
            return None
        changed = {"sign": -exact, "double": 2 * exact}.get(how)
        return None if changed is None or changed == exact else f"{changed.numerator}/{changed.denominator}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    changed = {"sign": -value, "double": 2 * value, "nan": math.nan}.get(how)
    return (
        None if changed is None or changed == value or (isinstance(changed, float) and math.isinf(value)) else changed
    )


def spoil_array(array: np.ndarray, how: str) -> np.ndarray | None:
    """An array of numbers changed materially in one of the four ways, or None where that changes nothing."""
    if array.dtype.kind not in "fiuc" or array.size == 0:
        return None
    changed = array.copy()
    if how == "sign":
        changed = -changed.astype(np.int64) if array.dtype.kind == "u" else -changed
    elif how == "double":
        changed = changed * 2
    elif how == "permute":
        changed = np.roll(changed, 1, axis=int(np.argmax(changed.shape))) if changed.ndim else changed
    elif array.dtype.kind in "fc":
        changed.flat[changed.size // 2] = np.nan
    changed = np.asarray(changed)
    return None if np.array_equal(changed, array, equal_nan=array.dtype.kind in "fc") else changed


def spoil_tree(value: Any, how: str) -> Any:
    """Numbers, arrays and tensors anywhere in a tree (dicts, lists, dataclasses) spoiled; None if none changed."""
    changed = False

    def walk(node: Any) -> Any:
        nonlocal changed
        fresh: Any = None
        if isinstance(node, torch.Tensor):
            spoiled = spoil_array(node.detach().cpu().numpy(), how)
            fresh = None if spoiled is None else torch.as_tensor(np.asarray(spoiled)).to(node.dtype)
        elif isinstance(node, np.ndarray):
            fresh = spoil_array(node, how)
        elif isinstance(node, str | int | float):
            fresh = spoil_number(node, how)
        elif isinstance(node, Mapping):
            return {k: walk(v) for k, v in node.items()}
        elif isinstance(node, list) and how == "permute" and all(isinstance(v, str | int | float) for v in node):
            rolled = node[-1:] + node[:-1]
            fresh = rolled if rolled != node else None
        elif isinstance(node, list | tuple):
            return type(node)(walk(v) for v in node)
        elif dataclasses.is_dataclass(node) and not isinstance(node, type):
            return dataclasses.replace(
                node, **{f.name: walk(getattr(node, f.name)) for f in dataclasses.fields(node) if f.init}
            )
        if fresh is None:
            return node
        changed = True
        return fresh

    spoiled = walk(value)
    return spoiled if changed else None


def _rehash(root: Path) -> None:
    tree = read_json(root / "certificate.json")
    write_json(root / "certificate.json", {**tree, "files": file_hashes(root)})


@contextlib.contextmanager
def _copy_of(root: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / "run"
        shutil.copytree(root, copied)
        yield copied


def _parts(content: Any) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Each separately spoilable part of an evidence file, with how to put a new one in."""
    if isinstance(content, Mapping):
        for key in content:
            yield str(key), lambda new, key=key: {**content, key: new}
    else:
        yield "", lambda new: new


# ---- checks -------------------------------------------------------------------------------------------------
def run_tiny(system: System, folder: Path) -> Path:
    """The card's smallest run, executed into `folder/run`, on `folder/inputs` where the card writes some."""
    options = dataclasses.replace(system.preset("default"), **system.tiny_options)
    given: Mapping[str, str] = {}
    if system.tiny_inputs is not None:
        (folder / "inputs").mkdir(parents=True)
        given = system.tiny_inputs(folder / "inputs")
    run = RunDir.create(folder / "run")
    execute(system, options, Inputs(given, trust=True), run)
    return run.root


def check_certificate(system: System, folder: Path) -> int:
    """A fresh run is confirmed; every material spoil is refuted, also with all hashes made anew; a changed or
    missing input gives `unchecked`.

    Returns:
        The number of spoiled copies that were refuted.
    """
    root = run_tiny(system, folder)
    fresh = verify_run(root, system)
    assert fresh, f"{system.name}: the certificate has no claims"
    for verdict in fresh:
        assert verdict.verdict == "confirmed", (
            f"{system.name}: a fresh run's claim {verdict.claim!r} is {verdict.verdict}: {verdict.why}"
        )
    reader = RunReader(root)
    refuted = _spoil_claims(system, root) + _spoil_answer(system, root)
    for name in (p.name for p in sorted((root / "evidence").iterdir())):
        refuted += _spoil_evidence(system, root, name, reader.evidence(name))
    _take_inputs_away(system, root, folder)
    return refuted


def _refuted(system: System, root: Path, what: str, claim: str | None = None) -> int:
    verdicts = verify_run(root, system, full=True, write=False)
    bad = [v for v in verdicts if v.verdict == "refuted" and (claim is None or v.claim == claim)]
    assert bad, f"{system.name}: {what} was not refuted; verdicts: {[(v.claim, v.verdict) for v in verdicts]}"
    return 1


def _spoil_claims(system: System, root: Path) -> int:
    done = 0
    tree = read_json(root / "certificate.json")
    for place, claim in enumerate(tree["claims"]):
        for how in ("sign", "double", "nan"):
            value = spoil_number(claim["value"], how)
            if value is None:
                continue
            spoiled = copy.deepcopy(tree)
            spoiled["claims"][place]["value"] = value
            with _copy_of(root) as copied:
                write_json(copied / "certificate.json", spoiled)
                done += _refuted(system, copied, f"value of claim {claim['name']!r} ({how})", claim["name"])
    return done


def _spoil_evidence(system: System, root: Path, name: str, content: Any) -> int:
    done = 0
    for part, put in _parts(content):
        for how in SPOILS:
            spoiled = spoil_tree(content[part] if part else content, how)
            if spoiled is None:
                continue
            with _copy_of(root) as copied:
                WRITERS[Path(name).suffix](copied / "evidence" / name, put(spoiled))
                done += _refuted(system, copied, f"evidence {name}:{part} ({how}, stale hashes)")
                _rehash(copied)
                done += _refuted(system, copied, f"evidence {name}:{part} ({how}, hashes made anew)")
    return done


def _spoil_answer(system: System, root: Path) -> int:
    done = 0
    answer = system.read_answer(root / "answer")
    problem = _problem_of(system, root)
    for how in SPOILS:
        spoiled = spoil_tree(answer, how)
        if spoiled is None:
            continue
        with _copy_of(root) as copied:
            RunDir(copied).write_answer(lambda f, spoiled=spoiled: system.write_answer(spoiled, problem, f))
            done += _refuted(system, copied, f"answer ({how}, stale hashes)")
            _rehash(copied)
            done += _refuted(system, copied, f"answer ({how}, hashes made anew)")
    assert done, f"{system.name}: no way to spoil the answer; it holds no numbers"
    return done


def _problem_of(system: System, root: Path) -> Any:
    """The problem of the smallest run; a private run does not say where its inputs are, so they are written anew."""
    if not system.traits.private:
        return system.reload(RunReader(root), trust=True)
    with tempfile.TemporaryDirectory() as scratch:
        given = system.tiny_inputs(Path(scratch)) if system.tiny_inputs is not None else {}
        options = dataclasses.replace(system.preset("default"), **system.tiny_options)
        return system.load(options, Inputs(given, trust=True))


def _take_inputs_away(system: System, root: Path, folder: Path) -> None:
    inputs = sorted((folder / "inputs").glob("*")) if (folder / "inputs").is_dir() else []
    needs = {c.name for c in read_claims(RunReader(root)) if any(e.startswith("input:") for e in c.evidence)}
    for path in inputs:
        original = path.read_bytes()
        for change in (lambda p, b: p.write_bytes(b + b"\n"), lambda p, b: p.unlink()):
            change(path, original)
            verdicts = {v.claim: v for v in verify_run(root, system, write=False)}
            for name in needs:
                assert verdicts[name].verdict == "unchecked", (
                    f"{system.name}: without its input {name!r} is {verdicts[name]}"
                )
                assert verdicts[name].why, f"{system.name}: {name!r} is unchecked without a reason"
            path.write_bytes(original)


def same_state(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit (streams apart from their seed)."""

    def flat(state: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        tensors: dict[str, torch.Tensor] = {}
        tree = {name: pack(getattr(state, name), tensors) for name in state.saved_fields() if name != "streams"}
        return tree, tensors

    (tree_a, tensors_a), (tree_b, tensors_b) = flat(a), flat(b)
    equal = (torch.equal(torch.nan_to_num(tensors_a[k]), torch.nan_to_num(tensors_b[k])) for k in tensors_a)
    return tree_a == tree_b and tensors_a.keys() == tensors_b.keys() and all(equal)


def final_state(problem: Any, method: Any, steps: int, run: RunDir | None = None, seed: int = 0) -> Any:
    """The state after `steps` iterations."""
    kept: list[Any] = []
    solve(
        problem,
        method,
        budget=Budget(steps=steps),
        run=run,
        seed=seed,
        certify=False,
        watch=[lambda m: kept.append(m.state)],
    )
    assert kept, "no step was taken"
    return kept[-1]


def check_method(problem: Any, method: Any, folder: Path, steps: int = 24) -> None:
    """Resume equals uninterrupted, the block size changes nothing, seeds repeat, NaN is named with its step."""
    name = type(method).__name__
    steps = min(steps, method.horizon or steps)
    whole = final_state(problem, method, steps)
    assert same_state(whole, final_state(problem, method, steps)), f"{name}: the same seed gave another run"
    # A method that converges early is stopped in the middle of what it does, not after its end.
    first, half = folder / "half", max(1, min(steps, whole.k) // 2)
    final_state(problem, method, half, RunDir.create(first))
    resumed = final_state(problem, method, steps, RunDir.create(first, resume=True))
    assert same_state(whole, resumed), f"{name}: stopped at {half} and resumed, it differs from the uninterrupted run"
    if "block" in {f.name for f in dataclasses.fields(method)}:
        for block in (1, 7, 1000):
            other = final_state(problem, dataclasses.replace(method, block=block), steps)
            assert same_state(whole, other), f"{name}: block={block} changed the result"
    if isinstance(problem, Objective):
        _check_nan(problem, method, steps, name)


def _check_nan(problem: Objective, method: Any, steps: int, name: str) -> None:
    calls = 0

    def poisoned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        value, gradient = problem.value_and_grad(x)
        return (value, gradient) if calls < 4 else (value * math.nan, gradient * math.nan)

    result = solve(
        dataclasses.replace(problem, value_and_grad=poisoned), method, budget=Budget(steps=steps), certify=False
    )
    assert result.status is Status.DIVERGED, f"{name}: a NaN gradient ended as {result.status.name}"
    assert "step" in result.reason, f"{name}: the reason {result.reason!r} does not name the step"


def check_system(system: System, folder: Path) -> None:
    """The card as the command and the report use it: help, run, verify, figures, report; nothing is written
    outside the run and no network is touched."""
    from surefoot.cli import main
    from surefoot.report.html import write_report

    assert all(part.islower() or not part.isalpha() for part in system.name), (
        f"{system.name}: card names are lower case"
    )
    for field in ("title", "licence", "origin"):
        assert getattr(system.sample, field), f"{system.name}: the sample has no {field}"
    assert system.paper.claim, f"{system.name}: the paper's claim is missing"
    assert main(["run", system.name, "--help"]) == 0
    assert main(["info", system.name]) == 0
    cwd = folder / "cwd"
    cwd.mkdir(parents=True)

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{system.name} opened a network connection")

    with contextlib.chdir(cwd), mock.patch.object(socket.socket, "connect", no_network):
        root = run_tiny(system, folder)
        verdicts: list[Verdict] = verify_run(root, system)
        page = write_report(root, system)
    assert not list(cwd.iterdir()), f"{system.name}: wrote {list(cwd.iterdir())} outside its run"
    assert all(v.verdict == "confirmed" for v in verdicts), f"{system.name}: {verdicts}"
    text = page.read_text()
    assert list((root / "figures").glob("*.svg")), f"{system.name}: no figure"
    for outside in ('src="http', "src='http", '<link rel="stylesheet" href="http', "@import"):
        assert outside not in text, f"{system.name}: report.html loads something from elsewhere ({outside})"
    assert main(["run", system.name, "there-is-no-such-file", "-o", str(folder / "bad"), "--quiet"]) == 2


def check_optimizer(factory: Callable[[Any], torch.optim.Optimizer]) -> None:
    """A torch optimiser: state_dict round trip, param groups, closure, schedulers.

    Args:
        factory: parameters (or groups) -> optimiser, with its default options.
    """

    def problem() -> tuple[list[torch.nn.Parameter], Callable[[], torch.Tensor]]:
        torch.manual_seed(0)
        x = [
            torch.nn.Parameter(torch.randn(4, dtype=torch.float64)),
            torch.nn.Parameter(torch.randn(2, 3, dtype=torch.float64)),
        ]
        return x, lambda: sum(((p - 1) ** 2).sum() for p in x) / 2  # type: ignore[return-value]

    def train(steps: int, x: list[Any], loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        for _ in range(steps):

            def closure() -> Any:
                optimizer.zero_grad()
                value = loss()
                value.backward()
                return value

            assert optimizer.step(closure) is not None, "step(closure) returned no loss"

    x, loss = problem()
    optimizer = factory(x)
    before = loss().item()
    train(12, x, loss, optimizer)
    assert loss().item() < before, "the loss did not fall on a quadratic"
    y, loss_y = problem()
    first = factory(y)
    train(6, y, loss_y, first)
    second = factory(y)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(6, y, loss_y, second)
    assert all(torch.equal(a, b) for a, b in zip(x, y, strict=True)), "state_dict round trip changed the run"
    z, loss_z = problem()
    groups = factory([{"params": [z[0]]}, {"params": [z[1]]}])
    train(12, z, loss_z, groups)
    assert all(torch.allclose(a, b) for a, b in zip(x, z, strict=True)), "two groups with equal options differ from one"
    scheduler = torch.optim.lr_scheduler.LambdaLR(groups, lambda epoch: 0.5)
    groups.step()
    scheduler.step()
    unused = torch.nn.Parameter(torch.ones(2))
    lone = factory([unused])
    lone.step()
    assert torch.equal(unused, torch.ones(2)), "a parameter without gradient moved"


__all__ = [
    "READERS", "check_certificate", "check_method", "check_optimizer", "check_system", "run_tiny", "same_state",
    "spoil_array", "spoil_number", "spoil_tree",
]  # fmt: skip
