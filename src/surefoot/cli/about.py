"""What there is: the cards, one card, all on their samples, the benches, this machine."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import surefoot
from surefoot import catalog
from surefoot.cli.say import FAILED, OK, UsageError, parser_for


def list_cards(arguments: list[str]) -> int:
    """the cards there are"""
    parser = parser_for("list", list_cards)
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
    parser = parser_for("info", info)
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
    for stop in system.stops:
        lines += ["", f"on the tour  {stop.title}{', where SUREFOOT_DATA holds it' if stop.inputs else ''}"]
        lines += [f"  licence    {stop.licence}"] if stop.licence else []
        lines += [f"  credit     {stop.credit}"] if stop.credit else []
        given = [f'"$SUREFOOT_DATA/{path}"' for path in stop.inputs]
        lines += [" ".join(["  run        surefoot run", system.name, *given, shlex.join(stop.flags)])]
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
    """every card on its sample, and at its further stops, into one page"""
    parser = parser_for("tour", tour)
    parser.add_argument("--only", action="append", metavar="NAME", help="only this card (may be repeated)")
    parser.add_argument("--jobs", type=int, default=1, help="cards at a time")
    parser.add_argument("-o", "--out", default="tour", help="folder (default tour)")
    parser.add_argument("--quiet", action="store_true")
    asked = parser.parse_args(arguments)
    from surefoot.report.tour import tour as go

    systems = [catalog.find(n) for n in asked.only] if asked.only else list(catalog.cards().values())
    page, visits = go(systems, Path(asked.out), asked.jobs)
    for visit in visits:
        clock = "" if visit.skipped else f"  {visit.seconds:.1f} s"
        sys.stdout.write(f"{visit.name:<24} {visit.outcome}{clock}\n")
    sys.stdout.write(f"tour page: {page}\n")
    return OK if all(visit.code == 0 for visit in visits) else FAILED


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
    parser_for("doctor", doctor).parse_args(arguments)
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
