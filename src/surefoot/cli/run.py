"""`surefoot run`: flags from a card's options, the run directory, resuming."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from surefoot import catalog
from surefoot.cli.say import FAILED, INTERRUPTED, OK, UsageError, print_run, say_error
from surefoot.core.system import Inputs, System, execute

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Session:
    """What every card's run takes."""

    out: str = ""
    """Folder of the run (also -o); default runs/CARD-DATE-TIME."""
    preset: str = "default"
    """Which set of options to start from."""
    seed: int | None = None
    """Of all randomness; default 0, or system entropy for private methods."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live."""
    dtype: Literal["auto", "float32", "float64"] = "auto"
    """Of the problem's tensors; auto is the card's choice."""
    threads: int = 0
    """CPU threads; 0 leaves them as they are."""
    resume: bool = False
    """Go on with the run in -o, with its own options and inputs."""
    force: bool = False
    """Replace the run in -o."""
    quiet: bool = False
    """Say nothing but errors."""


def run(arguments: list[str]) -> int:
    """run a card on your input, or on its sample"""
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] in ("-h", "--help"):
            sys.stdout.write(f"usage: surefoot run CARD [INPUT...] [options]\ncards: {', '.join(catalog.cards())}\n")
            return OK
        raise UsageError(f"which card? surefoot run CARD [INPUT...]; cards: {', '.join(catalog.cards())}")
    system = catalog.find(arguments[0])
    session, options, inputs = _parse_run(system, arguments[1:])
    from surefoot.core.rundir import RunDir

    out = Path(session.out or f"runs/{system.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if session.resume and (session.force or not out.is_dir()):
        raise UsageError("--resume or --force, not both" if session.force else f"there is no run {out} to resume")
    given = _given(system, inputs)
    config = _stored(out) if session.resume else {}
    if config:
        options, given, session = _as_before(system, config, options, given, session, arguments[1:])
    if system.traits.private and session.seed is not None and not getattr(options, "not_private", False):
        raise UsageError("a fixed seed undoes privacy; leave --seed out, or say --not-private")
    if session.threads < 0 or (session.seed or 0) < 0:
        raise UsageError(f"--threads {session.threads} --seed {session.seed}: neither may be negative")
    device = _device(session.device)
    folder = RunDir.create(out, resume=session.resume, force=session.force)
    try:
        return _run_in(folder, system, dataclasses.replace(session, device=device), options, given)
    except KeyboardInterrupt:  # outside the loop of steps, where there is nothing to finish first
        return _say_interrupted(folder, system)
    except (ValueError, OSError, ImportError):
        if not session.resume:
            folder.discard()
        raise


def _parse_run(system: System, arguments: list[str]) -> tuple[Session, Any, tuple[str, ...]]:
    import tyro

    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset", default="default")
    preset = peek.parse_known_args(arguments)[0].preset
    try:
        default = system.preset(preset)
    except ValueError as error:
        raise UsageError(str(error)) from error
    roles = "; ".join(f"{spec.role}: {spec.help}" for spec in system.inputs) or "takes no input"
    flags = dataclasses.make_dataclass("Flags", [
        ("inputs", tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="INPUT", help=f"{roles}. None: the sample.")]], ()),
        ("run", tyro.conf.OmitArgPrefixes[Session], Session(preset=preset)),
        ("method", tyro.conf.OmitArgPrefixes[system.options], default),
    ])  # fmt: skip
    arguments = ["--out" if a == "-o" else a for a in arguments]
    parsed: Any = tyro.cli(flags, prog=f"surefoot run {system.name}", description=system.title, args=arguments)
    return parsed.run, parsed.method, parsed.inputs


def _given(system: System, inputs: Sequence[str]) -> dict[str, str]:
    roles = [spec.role for spec in system.inputs]
    if len(inputs) > len(roles):
        raise UsageError(
            f"{system.name} takes {len(roles)} input(s) ({', '.join(roles) or 'none'}), got {len(inputs)}: {' '.join(inputs)}"
        )
    given = dict(zip(roles, inputs, strict=False))
    missing = [spec.role for spec in system.inputs if spec.required and given and spec.role not in given]
    if missing:
        raise UsageError(f"{system.name} also needs {', '.join(missing)} (in this order: {', '.join(roles)})")
    for role, text in given.items():
        if not Path(text).exists() and not Inputs(given).is_recipe(role):
            raise FileNotFoundError(f"input {role!r}: there is no file {text}")
    return {role: str(Path(text).resolve()) if Path(text).exists() else text for role, text in given.items()}


def _stored(out: Path) -> dict[str, Any]:
    from surefoot.core.rundir import RunReader
    from surefoot.records.files import read_json

    if not (out / "config.json").is_file():
        return {}
    config = dict(RunReader(out).config)
    if (out / "private" / "given.json").is_file():
        config["given"] = read_json(out / "private" / "given.json")
    return config


def _as_before(
    system: System, config: dict[str, Any], options: Any, given: dict[str, str], session: Session, arguments: list[str]
) -> tuple[Any, dict[str, str], Session]:
    """A resumed run keeps its options, inputs, seed, device and dtype; different ones are refused."""
    from surefoot.records.trees import options_from_json, options_to_json

    if config["card"] != system.name:
        raise UsageError(f"that run is of card {config['card']!r}, not {system.name!r}")
    before = options_from_json(system.options, config.get("options", {}))
    names = ("seed", "preset", "device", "dtype")
    session_before = dataclasses.replace(session, **{name: config[name] for name in names if name in config})
    said = {
        a.partition("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        for a in arguments
        if a.startswith("--")
    }
    pairs = [
        *((f.name, getattr(options, f.name), getattr(before, f.name)) for f in dataclasses.fields(before)),
        *((name, getattr(session, name), getattr(session_before, name)) for name in names),
    ]
    changed = [name for name, asked, kept in pairs if name in said and asked != kept]
    changed += ["the input"] if given and given != config.get("given") else []
    if changed:
        raise UsageError(
            f"a resumed run keeps its options and inputs, but {', '.join(changed)} differ: {options_to_json(before)}"
        )
    return before, dict(config.get("given") or {}), session_before


def _run_in(folder: RunDir, system: System, session: Session, options: Any, given: dict[str, str]) -> int:
    from surefoot.core.method import Status
    from surefoot.core.verify import verify_run
    from surefoot.records.files import write_json
    from surefoot.report.html import write_report
    from surefoot.report.progress import Bar

    folder.seed = session.seed if session.seed is not None or system.traits.private else 0
    inputs = Inputs(given, device=session.device, dtype=None if session.dtype == "auto" else session.dtype, trust=True)
    with ExitStack() as stack:
        if session.threads:
            stack.enter_context(_threads(session.threads))
        folder.watch = (stack.enter_context(Bar(system.name, quiet=session.quiet)),)
        config = {"preset": session.preset, "seed": folder.seed, "device": inputs.device, "dtype": session.dtype}
        if system.traits.private:  # where the owner's data lie is nobody's business
            write_json(folder.root / "private" / "given.json", given)
        else:
            config["given"] = given
        result = execute(system, options, inputs, folder, **config)
    if result.status is Status.INTERRUPTED:
        return _say_interrupted(folder, system)
    verdicts = verify_run(folder.root, system, trust=True) if result.certificate is not None else []
    page = write_report(folder.root, system)
    if not session.quiet:
        print_run(folder, system, result.reason, verdicts, page)
    if not result.status.good:
        return say_error(f"{system.name}: {result.status.value} ({result.reason})", FAILED)
    return FAILED if any(v.verdict == "refuted" for v in verdicts) else OK


def _say_interrupted(folder: RunDir, system: System) -> int:
    again = shlex.join(["surefoot", "run", system.name, "--resume", "-o", str(folder.root)])
    sys.stderr.write(f"interrupted and saved; go on with\n  {again}\n")
    return INTERRUPTED


def _device(name: str) -> Literal["cpu", "cuda"]:
    if name == "cpu":
        return "cpu"
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: there is no CUDA device here; use --device cpu")
    return "cuda" if torch.cuda.is_available() else "cpu"


def _threads(number: int) -> Any:
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(number)
    return threadpool_limits(number)
