"""The command. Thin: it parses, calls, prints, and turns what happened into an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import json
import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import surefoot
from surefoot import catalog
from surefoot.core.system import Inputs, System, execute
from surefoot.records.files import OtherSchemaError, UnsafeFileError

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.verify import Verdict

log = logging.getLogger("surefoot")
OK, FAILED, USAGE, UNCHECKED, INTERRUPTED = 0, 1, 2, 3, 130
SHELLS = ("bash", "zsh", "fish")


class UsageError(ValueError):
    """The command line asks for something that cannot be; exit code 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    level = logging.WARNING if "--quiet" in arguments else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # argparse and tyro end this way
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else USAGE
    except (UsageError, catalog.UnknownCardError, FileExistsError, FileNotFoundError) as error:
        return _say_error(error, USAGE)
    except KeyboardInterrupt:
        return _say_error("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (ValueError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        log.debug("details", exc_info=error)
        return _say_error(error, FAILED)


def _say_error(error: object, code: int) -> int:
    text = error.args[0] if isinstance(error, LookupError) and error.args else error
    sys.stderr.write(f"surefoot: {printable(text)}\n")
    return code


def printable(text: object) -> str:
    """Text without control characters: what a stranger's run says may not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in str(text))


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return OK if arguments else USAGE
    if arguments[0] == "--version":
        sys.stdout.write(f"surefoot {surefoot.__version__}\n")
        return OK
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=2, cutoff=0.5)
        raise UsageError(
            f"no command {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "see surefoot --help")
        )
    return COMMANDS[name](rest)


def _help() -> str:
    rows = [
        (name, (function.__doc__ or "").splitlines()[0]) for name, function in COMMANDS.items() if name != "_complete"
    ]
    lines = "\n".join(f"  {name:<12}{text}" for name, text in rows)
    return f"""surefoot {surefoot.__version__}: optimisation that shows its evidence

usage: surefoot COMMAND [ARGUMENTS]     (surefoot COMMAND --help says more)

{lines}

exit codes: 0 finished / all confirmed, 1 failed / refuted, 2 usage, 3 some unchecked, 130 interrupted
"""


def _parser(name: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"surefoot {name}", description=function.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# ---- run ----------------------------------------------------------------------------------------------------
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
        _print_run(folder, system, result.reason, verdicts, page)
    if not result.status.good:
        return _say_error(f"{system.name}: {result.status.value} ({result.reason})", FAILED)
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


def _print_run(folder: RunDir, system: System, reason: str, verdicts: Sequence[Verdict], page: Path) -> None:
    from surefoot.core.rundir import RunReader
    from surefoot.report.html import headline

    reader = RunReader(folder.root)
    if reader.config["status"] == "finished" and reader.has("answer"):
        sys.stdout.write(f"{printable(headline(system, reader))}\n\n")
    _print_verdicts(reader, verdicts)
    sys.stdout.write(f"\nended: {reason}\nanswer: {folder.root / 'answer'}\nreport: {page}\n")


def _print_verdicts(reader: RunReader, verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from surefoot.core.certificate import read_claims
    from surefoot.report.html import relation

    claims = {claim.name: claim for claim in read_claims(reader)} if verdicts else {}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("verdict", "kind", "outcome", "claim", "value"):
        table.add_column(heading)
    colours = {"confirmed": "green", "refuted": "bold red", "unchecked": "yellow"}
    for verdict in verdicts:
        claim = claims[verdict.claim]
        cells = (claim.kind, claim.outcome, claim.name, relation(claim))
        table.add_row(Text(verdict.verdict, colours[verdict.verdict]), *(Text(printable(cell)) for cell in cells))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for verdict in verdicts:
        if verdict.verdict != "confirmed":
            console.print(printable(f"{verdict.claim}: {verdict.why}"), markup=False)


# ---- verify, compare, view ----------------------------------------------------------------------------------
def verify(arguments: list[str]) -> int:
    """check every claim of a run again, with independent code"""
    parser = _parser("verify", verify)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument("--data", help="folder with the inputs, where they are not where they were")
    parser.add_argument("--full", action="store_true", help="redo every costly row, not a random subset")
    parser.add_argument("--trust", action="store_true", help="import the code (recipes) that the run names")
    parser.add_argument("--seed", type=int, help="of the random subset (default: fresh)")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing; see the exit code")
    asked = parser.parse_args(arguments)
    from surefoot.core.rundir import RunReader
    from surefoot.core.verify import verify_run

    try:
        reader = RunReader(asked.run)
        system = catalog.find(reader.config["card"])
        if not reader.has("certificate.json"):
            return _say_error(
                f"{asked.run} has no certificate ({reader.config.get('status', 'unfinished')})", UNCHECKED
            )
        verdicts = verify_run(reader.root, system, data=asked.data, trust=asked.trust, full=asked.full, seed=asked.seed)
    except (OtherSchemaError, catalog.UnknownCardError) as error:
        return _say_error(error, UNCHECKED)
    except UnsafeFileError as error:
        return _say_error(f"refuted: {error}", FAILED)
    if asked.json:
        sys.stdout.write(json.dumps([dataclasses.asdict(v) for v in verdicts], indent=1, default=str) + "\n")
    elif not asked.quiet:
        _print_verdicts(RunReader(asked.run), verdicts)
    found = {v.verdict for v in verdicts}
    return FAILED if "refuted" in found else UNCHECKED if "unchecked" in found or not verdicts else OK


def compare(arguments: list[str]) -> int:
    """runs side by side, as a table and a page"""
    parser = _parser("compare", compare)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-o", "--out", default="compare.html", help="the page (default compare.html)")
    parser.add_argument(
        "--verify", action="store_true", help="judge every run anew; else the verdicts on file are shown"
    )
    asked = parser.parse_args(arguments)
    for path in asked.runs if asked.verify else ():
        verify([path, "--quiet"])
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from surefoot.report.compare import compared, write_comparison

    found = compared(asked.runs)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", *(run["label"] for run in found["runs"])):
        table.add_column(Text(printable(heading)))
    rows = [*found["facts"], *((f"--{k}", cells) for k, cells in found["options"])]
    rows += [(k, [f"{c['relation']} ({c['verdict']})" if c else "–" for c in cells]) for k, cells in found["claims"]]
    for name, cells in rows:
        table.add_row(*(Text(printable(cell)) for cell in (name, *cells)))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)
    sys.stdout.write(f"page: {write_comparison(asked.runs, Path(asked.out))}\n")
    return OK


def view(arguments: list[str]) -> int:
    """draw the report again and open it in the browser; a run with a scene opens that, to walk through, until Ctrl-C"""
    parser = _parser("view", view)
    parser.add_argument("run")
    parser.add_argument("--page", action="store_true", help="the report, also where there is a scene")
    parser.add_argument("--port", type=int, default=8080, help="of the scene's viewer (0: any that is free)")
    parser.add_argument("--no-open", action="store_true", help="open no browser")
    asked = parser.parse_args(arguments)
    import webbrowser

    from surefoot.core.rundir import RunReader
    from surefoot.report.html import write_report

    reader = RunReader(asked.run)
    system = catalog.find(reader.config["card"])
    if system.scene is not None and not asked.page:
        from surefoot.report.view3d import Viewer

        viewer = Viewer(system.scene(reader), port=asked.port)
        sys.stdout.write(f"{viewer.url} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        if not asked.no_open:
            webbrowser.open(viewer.url)
        viewer.wait()
        return OK
    page = write_report(asked.run, system)
    sys.stdout.write(f"{page}\n")
    if not asked.no_open:
        webbrowser.open(page.resolve().as_uri())
    return OK


# ---- list, info, tour, bench, doctor, completion -------------------------------------------------------------
def list_cards(arguments: list[str]) -> int:
    """the cards there are"""
    parser = _parser("list", list_cards)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    systems = list(catalog.cards().values())
    if asked.json:
        rows = [{
            "name": s.name, "aliases": s.aliases, "title": s.title, "paper": s.paper.title, "year": s.paper.year, "url": s.paper.url,
            "extras": s.extras, "inputs": [i.role for i in s.inputs], "sample": s.sample.title, "presets": list(s.presets),
            "built_in": s.name in catalog.BUILT_IN,
        } for s in systems]  # fmt: skip
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return OK
    width = max((len(s.name) for s in systems), default=0)
    for system in systems:
        alias = f" (also {', '.join(system.aliases)})" if system.aliases else ""
        sys.stdout.write(f"{system.name:<{width}}  {system.title}{alias}\n")
    return OK


def info(arguments: list[str]) -> int:
    """options, paper, inputs, sample and licence of a card"""
    parser = _parser("info", info)
    parser.add_argument("card")
    asked = parser.parse_args(arguments)
    system = catalog.find(asked.card)
    lines = [f"{system.name}: {system.title}", ""]
    if system.aliases:
        lines.append(f"also called  {', '.join(system.aliases)}")
    lines += [
        f"paper        {', '.join(system.paper.authors)}: {system.paper.title} ({system.paper.year}) {system.paper.url}"
    ]
    lines += [f"claims       {system.paper.claim}", f"presets      {', '.join(system.presets) or 'default'}"]
    lines += [f"peers        {', '.join(system.peers)}"] if system.peers else []
    lines += [f"extras       {', '.join(system.extras)}"] if system.extras else []
    lines += ["", "inputs"]
    lines += [f"  {i.role}: {i.help}" + (f" [{', '.join(i.formats)}]" if i.formats else "") for i in system.inputs] or [
        "  none"
    ]
    sample: Any = system.sample
    while sample is not None:
        lines += ["", f"sample       {sample.title}", f"  origin     {sample.origin}", f"  licence    {sample.licence}"]
        lines += [f"  credit     {sample.credit}"] if sample.credit else []
        lines += [f"  needs      pip install 'surefoot[{sample.extra}]'"] if sample.extra else []
        sample = sample.fallback
    lines += ["", "options"]
    helps = _option_help(system.options)
    for field in dataclasses.fields(system.options):
        default = getattr(system.preset("default"), field.name)
        lines.append(f"  --{field.name.replace('_', '-'):<22} {helps.get(field.name, '')} (default {default})")
    sys.stdout.write("\n".join([*lines, "", system.paper.bibtex, ""]))
    return OK


def _option_help(options: type) -> dict[str, str]:
    """The text literal under each field of an options class."""
    import ast
    import inspect
    import textwrap

    body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0]
    found: dict[str, str] = {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for field, text in itertools.pairwise(statements):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(getattr(text.value, "value", "")).split())
    return found


def tour(arguments: list[str]) -> int:
    """every card on its sample, into one page"""
    parser = _parser("tour", tour)
    parser.add_argument("--only", action="append", metavar="NAME", help="only this card (may be repeated)")
    parser.add_argument("--jobs", type=int, default=1, help="cards at a time")
    parser.add_argument("-o", "--out", default="tour", help="folder (default tour)")
    parser.add_argument("--quiet", action="store_true")
    asked = parser.parse_args(arguments)
    from surefoot.report.tour import tour as go

    systems = [catalog.find(n) for n in asked.only] if asked.only else list(catalog.cards().values())
    page, stops = go(systems, Path(asked.out), asked.jobs)
    for stop in stops:
        sys.stdout.write(
            f"{stop.system.name:<24} {'ok' if stop.code == 0 else f'failed ({stop.said})'}  {stop.seconds:.1f} s\n"
        )
    sys.stdout.write(f"tour page: {page}\n")
    return OK if all(stop.code == 0 for stop in stops) else FAILED


def bench(arguments: list[str]) -> int:
    """measure a card beside its peers (from a checkout)"""
    folder = Path(surefoot.__file__).resolve().parents[2] / "benchmarks"
    if not (folder / "harness.py").is_file():
        raise UsageError(
            "benchmarks need a checkout of the repository (peers live in environments of their own); clone it and install with pip -e"
        )
    import subprocess

    return subprocess.run([sys.executable, str(folder / "harness.py"), *arguments], check=False).returncode


def doctor(arguments: list[str]) -> int:
    """extras, devices, threads and cache on this machine"""
    _parser("doctor", doctor).parse_args(arguments)
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    import numpy as np
    import pooch
    import torch
    from threadpoolctl import threadpool_info

    from surefoot.records.versions import versions

    lines = ["versions", *(f"  {k:<14} {v}" for k, v in versions().items()), "", "extras"]
    extras: dict[str, list[str]] = {}
    for text in requires("surefoot") or ():
        if match := re.match(r"([A-Za-z0-9_.-]+).*extra == ['\"]([\w-]+)['\"]", text):
            extras.setdefault(match[2], []).append(match[1])
    for extra, names in sorted(extras.items()):
        missing = []
        for name in names:
            try:
                version(name)
            except PackageNotFoundError:
                missing.append(name)
        state = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'surefoot[{extra}]'"
        lines.append(f"  {extra:<14} {state}")
    np.linalg.inv(np.eye(2))
    lines += ["", "devices", f"  cpu            {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"]
    lines += [f"  cuda:{i:<9} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())] or [
        "  cuda           none"
    ]
    lines += [
        f"  {p['internal_api']:<14} {p['num_threads']} threads, {p.get('architecture', '')} {p.get('version') or ''}"
        for p in threadpool_info()
    ]
    data = os.environ.get("SUREFOOT_DATA")
    lines += [
        "",
        f"cache            {pooch.os_cache('surefoot')}",
        f"SUREFOOT_DATA    {data or 'not set'}",
        f"cards            {', '.join(catalog.cards())}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return OK


def completion(arguments: list[str]) -> int:
    """print the completion script for bash, zsh or fish"""
    parser = _parser("completion", completion)
    parser.add_argument("shell", choices=SHELLS)
    shell = parser.parse_args(arguments).shell
    scripts = {
        "bash": '_surefoot() { local IFS=$\'\\n\'; COMPREPLY=($(compgen -W "$(surefoot _complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}")); }\ncomplete -o default -F _surefoot surefoot\n',
        "zsh": '#compdef surefoot\n_surefoot() { local -a found; found=(${(f)"$(surefoot _complete ${words[2,CURRENT]} 2>/dev/null)"}); compadd -a found; _files; }\ncompdef _surefoot surefoot\n',
        "fish": "complete -c surefoot -a '(surefoot _complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'\n",
    }
    sys.stdout.write(scripts[shell])
    return OK


def complete(words: list[str]) -> int:
    """Candidates for the last word, a line each; what the completion scripts call."""
    names = [alias for card in catalog.cards().values() for alias in (card.name, *card.aliases)]
    if len(words) <= 1:
        found = [name for name in COMMANDS if name != "_complete"]
    elif len(words) == 2 and words[0] in ("run", "info", "bench"):
        found = names
    elif words[0] == "run" and words[-1].startswith("-"):
        fields = [*dataclasses.fields(Session), *dataclasses.fields(catalog.find(words[1]).options)]
        found = ["--" + field.name.replace("_", "-") for field in fields]
    elif words[0] == "tour" and words[-2] == "--only":
        found = names
    elif words[0] == "completion":
        found = list(SHELLS)
    else:
        found = []
    sys.stdout.write("".join(f"{word}\n" for word in found if word.startswith(words[-1] if words else "")))
    return OK


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "list": list_cards, "info": info, "run": run, "verify": verify, "compare": compare, "view": view, "tour": tour, "bench": bench,
    "doctor": doctor, "completion": completion, "_complete": complete,
}  # fmt: skip
