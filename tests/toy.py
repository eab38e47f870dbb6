"""A toy card: mean of a column by damped averaging, with a proved gap. Small enough to test the core with."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from surefoot.core.certificate import Certificate, Claim
from surefoot.core.checkpoint import Every
from surefoot.core.method import Look, Method, State, Status
from surefoot.core.random import Streams
from surefoot.core.solve import Budget, solve
from surefoot.core.system import Figure, Inputs, InputSpec, Paper, Sample, System, Traits
from surefoot.core.verify import Dossier, Verdict, compare, refute
from surefoot.records.files import read_json, write_json
from surefoot.records.fingerprint import fingerprint


@dataclass(frozen=True)
class Column:
    values: Tensor

    def fingerprint(self) -> str:
        return fingerprint(self.values)


@dataclass(kw_only=True)
class AverageState(State):
    x: Tensor
    gap: float = float("inf")


@dataclass(frozen=True)
class Average(Method[Column, AverageState, Tensor]):
    """Stochastic relaxation towards the mean."""

    damping: float = 0.5
    block: int = 4
    tolerance: float = 1e-12
    pause: float = 0.0  # seconds a block, to have time for interrupts
    horizon: int | None = None
    private: bool = False

    def init(self, problem: Column, start: Tensor | None, streams: Streams) -> AverageState:
        return AverageState(streams=streams, x=torch.zeros(()).double() if start is None else start.double())

    def step(self, problem: Column, state: AverageState) -> AverageState:
        time.sleep(self.pause)
        for _ in range(state.room(self.block)):
            jitter = 1 + 0.1 * state.streams.numpy("jitter", state.k).random()
            state.gap = abs(float(problem.values.mean() - state.x))
            state.x = state.x + self.damping * jitter * (problem.values.mean() - state.x)
            state.k += 1
            state.count(gradient=1)
        return state

    def look(self, state: AverageState) -> Look:
        return Look({"gap": state.gap}, Status.CONVERGED if state.gap < self.tolerance else None)

    def answer(self, problem: Column, state: AverageState) -> Tensor:
        return state.x.to(problem.values.dtype)

    def certify(self, problem: Column, state: AverageState) -> Certificate:
        gap = abs(float(problem.values.double().mean() - state.x))
        claim = Claim(
            name="gap", statement="The answer is this far from the mean.", value=gap, bound=1e-6, kind="proved", check="gap",
            outcome="holds" if gap <= 1e-6 else "fails", evidence=("answer", "point.npz", "input:column"),
        )  # fmt: skip
        total = Claim(
            name="mean",
            statement="The answer.",
            value=float(state.x),
            kind="proved",
            check="mean",
            evidence=("answer", "point.npz"),
        )
        return Certificate("toy", (claim, total), problem.fingerprint(), {"point.npz": {"x": state.x.numpy()}})


def check_gap(claim: Claim, dossier: Dossier) -> Verdict:
    gap = abs(float(np.mean(dossier.problem.values.numpy(), dtype=np.float64)) - float(dossier.answer))
    return compare(claim, gap, supports="proved", bound=1e-6, atol=1e-13)


def check_mean(claim: Claim, dossier: Dossier) -> Verdict:
    x = float(dossier.evidence["point.npz"]["x"])
    if x != float(dossier.answer):
        return refute(claim, "evidence and answer differ")
    return compare(claim, x, supports="proved")


@dataclass(frozen=True)
class Options:
    damping: float = 0.5
    """How far each step goes."""
    steps: int = 200
    """How many steps at most."""
    pause: float = 0.0
    """Seconds that each block of steps waits."""
    save: int = 0
    """Save a checkpoint every so many steps; 0: every 20 seconds."""


def load(options: Options, inputs: Inputs) -> Column:
    if inputs.has("column") and inputs.is_recipe("column"):
        return Column(inputs.factory("column")())
    if inputs.has("column"):
        return Column(torch.tensor([float(v) for v in inputs.path("column").read_text().split()], dtype=torch.float64))
    values = torch.arange(10, dtype=torch.float64)
    inputs.sample(SAMPLE, sha256=fingerprint(values))
    return Column(values)


def run(options: Options, problem: Column, folder: Any) -> Any:
    method = Average(options.damping, pause=options.pause)
    every = Every(steps=options.save, seconds=None) if options.save else None
    return solve(problem, method, budget=Budget(steps=options.steps), run=folder, every=every)


def run_private(options: Options, problem: Column, folder: Any) -> Any:
    method = Average(options.damping, private=True)
    return solve(problem, method, budget=Budget(steps=options.steps), run=folder, every=Every(steps=8, seconds=None))


def figures(reader: Any) -> list[Figure]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas()
    canvas.subplots().semilogy(reader.history["k"], reader.history["gap"])
    return [Figure("gap", "The gap over the steps.", canvas)]


def write_answer(answer: Tensor, problem: Column, folder: Path) -> None:
    write_json(folder / "mean.json", {"mean": float(answer)})


def read_answer(folder: Path) -> Tensor:
    return torch.tensor(float(read_json(folder / "mean.json")["mean"]), dtype=torch.float64)


def tiny_inputs(folder: Path) -> dict[str, str]:
    (folder / "column.txt").write_text("1\n2\n4\n8\n")
    return {"column": str(folder / "column.txt")}


SAMPLE = Sample("digits-0-9", "The numbers 0 to 9", "generated", "none needed")
CARD = System(
    name="toy", title="A mean", paper=Paper("On means", ("Ada Mean",), 2025, claim="A mean is found."), options=Options, load=load,
    run=run, write_answer=write_answer, read_answer=read_answer, checks=lambda: {"gap": check_gap, "mean": check_mean},
    sample=SAMPLE, aliases=("average",), inputs=(InputSpec("column", "numbers", ("txt",)),), figures=figures,
    presets={"default": Options(), "tour": Options(steps=100)}, headline=lambda reader: "The mean was found.", tiny=lambda: [(Column(torch.arange(5.0).double()), Average(tolerance=0.0))],
    tiny_inputs=tiny_inputs,
)  # fmt: skip
PRIVATE = dataclasses.replace(CARD, name="private-toy", aliases=(), traits=Traits(private=True), run=run_private)
