"""The card of a system: what the command, the tour, the tests and the docs need to know. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.records.files import UnsafeFileError
from surefoot.records.inputs import Inputs, InputSpec, Sample, TourStop, find_input, mismatch
from surefoot.records.paper import Paper
from surefoot.records.trees import options_from_json, options_to_json

if TYPE_CHECKING:
    from surefoot.core.method import Method
    from surefoot.core.problem import Problem
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import Check


@dataclass(frozen=True)
class Traits:
    """What a card promises and needs."""

    deterministic: bool = True
    resumable: bool = True
    private: bool = False
    gpu: bool = False
    distributed: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture for the report: `figure` is a matplotlib figure; the first one of a card is its picture."""

    name: str
    caption: str
    figure: Any
    alt: str = ""


@dataclass(frozen=True)
class System:
    """A card. Heavy code belongs inside the functions, so that listing cards imports nothing heavy.

    Args:
        name, aliases, title: the command's name, other names, a headline.
        options: a frozen dataclass of what can be chosen; its fields become the command's flags.
        presets: "default", "tour" (at most 10 s) and "paper" options.
        inputs, sample, stops: what it reads; `stops` are further ones of the tour.
        load: (options, inputs) -> problem; used by run and by verify.
        run: (options, problem, run directory or None) -> result; usually one call of `solve`.
        write_answer, read_answer: the answer in its field's own format, into and from a folder.
        checks: () -> checkers by key (a function, so that they load late).
        figures, headline: run directory -> pictures, and one sentence of what was found.
        scene: run directory -> `data.scene3d.Scene3D`, for `surefoot view`, where there is one to walk through.
        tiny: () -> smallest (problem, method) pairs, for the contract tests.
        tiny_options, tiny_inputs: options and input files (written into a folder, by role) of the smallest run.
        optimizers, estimators: "module:name" of the torch optimisers and estimators it brings.
    """

    name: str
    title: str
    paper: Paper
    options: type
    load: Callable[[Any, Inputs], Problem]
    run: Callable[[Any, Any, RunDir | None], Result[Any]]
    write_answer: Callable[[Any, Any, Path], None]
    read_answer: Callable[[Path], Any]
    checks: Callable[[], Mapping[str, Check]]
    sample: Sample
    aliases: tuple[str, ...] = ()
    domain: str = ""
    presets: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[InputSpec, ...] = ()
    stops: tuple[TourStop, ...] = ()
    figures: Callable[[RunReader], Sequence[Figure]] = lambda reader: ()
    headline: Callable[[RunReader], str] = lambda reader: ""
    scene: Callable[[RunReader], Any] | None = None
    extras: tuple[str, ...] = ()
    traits: Traits = Traits()
    peers: tuple[str, ...] = ()
    tiny: Callable[[], Sequence[tuple[Any, Method[Any, Any, Any]]]] | None = None
    tiny_options: Mapping[str, Any] = field(default_factory=dict)
    tiny_inputs: Callable[[Path], Mapping[str, str]] | None = None
    optimizers: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ()

    def preset(self, name: str = "default") -> Any:
        """The options of a preset.

        Raises:
            ValueError: with the presets there are.
        """
        if name == "default" and name not in self.presets:
            return self.options()
        if name not in self.presets:
            raise ValueError(f"card {self.name!r} has no preset {name!r}; there are {', '.join(self.presets)}")
        return self.presets[name]

    def reload(self, reader: RunReader, *, data: str | Path | None = None, trust: bool = False) -> Problem:
        """The problem of a run, rebuilt from the inputs at hand for a verification.

        Raises:
            NotAtHandError: an input is missing or changed, or is code that is not trusted.
        """
        from surefoot.core.verify import NotAtHandError

        options = options_from_json(self.options, reader.config.get("options", {}))
        only = next((str(r["origin"]) for r in reader.inputs if r["role"] == "sample"), None)
        inputs = Inputs(trust=trust, only=only)
        try:
            inputs.give({r["role"]: find_input(r, data) for r in reader.inputs if r["origin"] in ("file", "recipe")})
            problem = self.load(options, inputs)
        except Exception as error:  # missing, code that is not trusted, or changed and therefore not readable
            opened = {r["role"] for r in inputs.records}
            wrong = mismatch([r for r in reader.inputs if r["role"] in opened], inputs.records)
            if wrong or isinstance(error, OSError | ImportError | UnsafeFileError):
                raise NotAtHandError(wrong or str(error)) from error
            raise
        if wrong := mismatch(reader.inputs, inputs.records):
            raise NotAtHandError(wrong)
        return problem


def execute(system: System, options: Any, inputs: Inputs, run: RunDir | None = None, **config: Any) -> Result[Any]:
    """Load, run, and write answer, certificate and configuration; the heart of `surefoot run`.

    `config` are further entries of config.json (preset, seed, command).

    Raises:
        ValueError: a resumed run's inputs are not those it began with.
    """
    if run is None:
        return system.run(options, system.load(options, inputs), None)
    from surefoot.core.method import Status

    run.private = system.traits.private
    run.write_config(card=system.name, status="running", options=options_to_json(options), **config)
    try:
        problem = system.load(options, inputs)
        run.write_inputs(inputs.records)
        result = system.run(options, problem, run)
        interrupted = result.status is Status.INTERRUPTED
        if not interrupted and result.answer is not None:
            run.write_answer(lambda folder: system.write_answer(result.answer, problem, folder))
        if result.certificate is not None:
            run.write_certificate(result.certificate)
        run.write_history(result.history.columns())
        run.write_config(
            status="interrupted" if interrupted else "finished" if result.status.good else "failed",
            ended=result.status.name, reason=result.reason, steps=result.steps, counts=dict(result.counts),
            seconds=result.seconds, peak_bytes=result.peak_bytes,
        )  # fmt: skip
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        run.write_config(status=status, reason=f"{type(error).__name__}: {error}")
        raise
    return result
