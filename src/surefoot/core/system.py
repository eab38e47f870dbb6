"""The card of a system: what the command, the tour, the tests and the docs need to know. Needs no torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surefoot.records.files import UnsafeFileError, sha256
from surefoot.records.trees import options_from_json, options_to_json

if TYPE_CHECKING:
    from surefoot.core.method import Method
    from surefoot.core.problem import Problem
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import Check


@dataclass(frozen=True)
class Paper:
    """The paper a card is made from."""

    title: str
    authors: tuple[str, ...]  # "First Last"
    year: int
    venue: str = ""
    arxiv: str = ""
    doi: str = ""
    claim: str = ""  # the paper's claim in one sentence, for the tour

    @property
    def url(self) -> str:
        return (
            f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}" if self.doi else ""
        )

    @property
    def bibtex(self) -> str:
        last = self.authors[0].split()[-1].lower() if self.authors else "anon"
        rows = {
            "title": "{" + self.title + "}", "author": " and ".join(self.authors), "year": str(self.year),
            "journal": self.venue or f"arXiv:{self.arxiv}" * bool(self.arxiv), "eprint": self.arxiv, "doi": self.doi,
        }  # fmt: skip
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in rows.items() if v)
        return f"@article{{{last}{self.year},\n{body}\n}}"


@dataclass(frozen=True)
class InputSpec:
    """One input of a card, in the order of the command's arguments."""

    role: str
    help: str
    formats: tuple[str, ...] = ()
    required: bool = True  # without it (and with no input at all) the sample is used


@dataclass(frozen=True)
class Sample:
    """Data that a card runs on when the user gives none."""

    id: str
    title: str
    origin: str
    licence: str
    credit: str = ""
    extra: str = ""  # the extra that brings it
    fallback: Sample | None = None


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


class Inputs:
    """The inputs of a run, opened through here so that each is recorded with its hash.

    Args:
        given: path, or recipe `module:factory`, by role; roles left out are absent.
        device, dtype: where the problem's tensors shall live.
        trust: whether recipes may be imported.
    """

    def __init__(
        self, given: Mapping[str, str] | None = None, *, device: str = "cpu", dtype: str | None = None,
        trust: bool = False, only: str | None = None,
    ) -> None:  # fmt: skip
        self._given = dict(given or {})
        self.device, self.dtype, self.trust = device, dtype, trust
        self.only = only  # verification: the id of the sample that was used; no other will do
        self.records: list[dict[str, Any]] = []

    def has(self, role: str) -> bool:
        return role in self._given

    def is_recipe(self, role: str) -> bool:
        """Whether the input is a `package.module:factory` rather than a file."""
        text = self._given.get(role, "")
        module, _, name = text.rpartition(":")
        return not Path(text).exists() and name.isidentifier() and all(p.isidentifier() for p in module.split("."))

    def path(self, role: str) -> Path:
        """The input file, recorded with its SHA-256.

        Raises:
            FileNotFoundError: with the role and what was expected.
        """
        path = Path(self._given[role])
        if not path.exists():
            raise FileNotFoundError(f"input {role!r}: there is no file {path}")
        size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size
        self.records.append({
            "role": role, "origin": "file", "path": str(path.resolve()), "sha256": sha256(path), "bytes": size,
            "copied": False,
        })  # fmt: skip
        return path

    def factory(self, role: str) -> Any:
        """What the recipe `module:factory` names; only where code is trusted.

        Raises:
            UnsafeFileError: in a verification without `--trust`.
        """
        text = self._given[role]
        if not self.trust:
            raise UnsafeFileError(
                f"input {role!r} is the code {text!r}; it is imported only by `run` or `verify --trust`"
            )
        module, _, name = text.rpartition(":")
        if "" not in sys.path:
            sys.path.insert(0, "")
        self.records.append({"role": role, "origin": "recipe", "path": text, "sha256": "", "copied": False})
        return getattr(importlib.import_module(module), name)

    def sample(self, sample: Sample, *, sha256: str, **more: Any) -> None:
        """Record that the card read this sample (`more`: distribution, version, path, bytes, note)."""
        self.records.append({
            "role": "sample", "origin": sample.id, "title": sample.title, "licence": sample.licence,
            "credit": sample.credit, "sha256": sha256, "copied": False, **more,
        })  # fmt: skip


@dataclass(frozen=True)
class System:
    """A card. Heavy code belongs inside the functions, so that listing cards imports nothing heavy.

    Args:
        name, aliases, title: the command's name, other names, a headline.
        options: a frozen dataclass of what can be chosen; its fields become the command's flags.
        presets: "default", "tour" (at most 10 s) and "paper" options.
        inputs, sample: what it reads.
        load: (options, inputs) -> problem; used by run and by verify.
        run: (options, problem, run directory or None) -> result; usually one call of `solve`.
        write_answer, read_answer: the answer in its field's own format, into and from a folder.
        checks: () -> checkers by key (a function, so that they load late).
        figures: run directory -> pictures.
        headline: run directory -> one sentence of what was found.
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
    figures: Callable[[RunReader], Sequence[Figure]] = lambda reader: ()
    headline: Callable[[RunReader], str] = lambda reader: ""
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
        recorded = reader.inputs
        given: dict[str, str] = {}
        for record in recorded:
            if record["origin"] in ("file", "recipe"):
                given[record["role"]] = _find(record, data)
        only = next((r["origin"] for r in recorded if r["role"] == "sample"), None)
        inputs = Inputs(given, trust=trust, only=only)
        try:
            problem = self.load(options, inputs)
        except (OSError, ImportError, UnsafeFileError) as error:
            raise NotAtHandError(str(error)) from error
        key = ("role", "origin", "sha256")
        found = {tuple(r.get(k) for k in key) for r in inputs.records}
        for record in recorded:
            if tuple(record.get(k) for k in key) not in found:
                now = [r for r in inputs.records if r["role"] == record["role"]]
                what = "changed since the run" if now and now[0]["origin"] == record["origin"] else "is not at hand"
                raise NotAtHandError(f"input {record['role']!r} ({record.get('path') or record['origin']}) {what}")
        return problem


def _find(record: Mapping[str, Any], data: str | Path | None) -> str:
    from surefoot.core.verify import NotAtHandError

    text = str(record["path"])
    if record["origin"] == "recipe":
        return text
    path = Path(text)
    if data is not None and (Path(data) / path.name).exists():
        return str(Path(data) / path.name)
    if not path.is_absolute() or ".." in path.parts:
        raise NotAtHandError(f"input {record['role']!r}: {text!r} is not a plain absolute path")
    if not (path.is_file() or path.is_dir()):
        raise NotAtHandError(f"input {record['role']!r}: {path} is not there; give its folder with --data")
    return text


def execute(system: System, options: Any, inputs: Inputs, run: RunDir | None = None, **config: Any) -> Result[Any]:
    """Load, run, and write answer, certificate and configuration; the heart of `surefoot run`.

    `config` are further entries of config.json (preset, seed, command).

    Raises:
        ValueError: a resumed run's inputs are not those it began with.
    """
    if run is None:
        return system.run(options, system.load(options, inputs), None)
    from surefoot.core.method import Status
    from surefoot.core.rundir import RunReader

    run.private = system.traits.private
    run.write_config(card=system.name, status="running", options=options_to_json(options), **config)
    try:
        problem = system.load(options, inputs)
        before = {(r["role"], r["sha256"]) for r in RunReader(run.root).inputs}
        now = {(r["role"], r["sha256"]) for r in inputs.records}
        if before and before != now:
            raise ValueError(
                f"the inputs changed since {run.root} began; start another run, or give the inputs it began with"
            )
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
        run.write_config(status="failed", reason=f"{type(error).__name__}: {error}")
        raise
    return result
