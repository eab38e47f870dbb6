"""The catalogue: names, plug-ins, and listing without anything heavy."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import surefoot
import toy
from surefoot import catalog
from surefoot._lazy import later

SRC = Path(catalog.__file__).parents[1]
GUEST = dataclasses.replace(toy.CARD, name="guest", aliases=("visitor",))
SHADOW = dataclasses.replace(toy.CARD, name="mine", aliases=("average",))
SAME = dataclasses.replace(toy.CARD)
NOTHING = "no card"


def plug(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    found = [EntryPoint(name, value, catalog.GROUP) for name, value in entries.items()]
    monkeypatch.setattr(catalog, "entry_points", lambda group: found)
    catalog.cards.cache_clear()


def test_a_card_names_its_functions_without_importing_them() -> None:
    assert later("math:sqrt")(4.0) == 2.0
    assert later("math:pi")() == pytest.approx(3.14159265)
    with pytest.raises(ModuleNotFoundError):
        later("no_such_module:thing")()


def test_names_and_aliases(toys: None) -> None:
    assert catalog.find("toy") is toy.CARD
    assert catalog.find("average") is toy.CARD
    with pytest.raises(catalog.UnknownCardError, match="did you mean toy"):
        catalog.find("toi")
    with pytest.raises(catalog.UnknownCardError, match="there are toy, private-toy"):
        catalog.find("zzzzzzzz")


def test_good_plug_ins_join_and_bad_ones_are_logged_and_left_out(
    toys: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "plug_in_that_leaves.py").write_text("import sys; sys.exit(3)")
    (tmp_path / "plug_in_that_fails.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    plug(
        monkeypatch, a="plug_in_that_fails:CARD", b="plug_in_that_leaves:CARD", c="test_catalog:GUEST", d="test_catalog:SHADOW",
        e="test_catalog:SAME", f="test_catalog:NOTHING", g="test_catalog:MISSING",
    )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        assert list(catalog.cards()) == ["toy", "private-toy", "guest"]
    assert catalog.find("visitor") is GUEST
    assert catalog.find("average") is toy.CARD
    for said in (
        "a_module_that_is_not_there",
        "SystemExit",
        "'mine' is taken",
        "'toy' is taken",
        "not a surefoot System",
        "MISSING",
    ):
        assert said in caplog.text


def test_a_broken_card_of_our_own_does_not_stop_the_others(
    toys: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catalog, "BUILT_IN", {"broken": "surefoot.no_such_domain.card:CARD", "toy": "toy:CARD"})
    catalog.cards.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert list(catalog.cards()) == ["toy"]
    assert "no_such_domain" in caplog.text


def test_running_from_python(toys: None, tmp_path: Path) -> None:
    inputs = toy.tiny_inputs(tmp_path)
    result = surefoot.run("average", inputs["column"], out=tmp_path / "run", damping=0.4)
    assert float(result.answer) == pytest.approx(3.75, abs=1e-9)
    assert {v.verdict for v in surefoot.verify(tmp_path / "run")} == {"confirmed"}
    problem = toy.load(toy.Options(), catalog.Inputs(inputs))
    assert {v.verdict for v in surefoot.verify(result, problem)} == {"confirmed"}
    assert {v.verdict for v in surefoot.verify(result.certificate, problem, result.answer + 1e-3)} == {"refuted"}
    with pytest.raises(ValueError, match="has no option 'dampin'; did you mean damping"):
        surefoot.run("toy", dampin=1)
    with pytest.raises(ValueError, match="at most 1 inputs"):
        surefoot.run("toy", "a", "b")
    with pytest.raises(ValueError, match="no preset 'quick'"):
        surefoot.run("toy", preset="quick")
    with pytest.raises(FileExistsError):
        surefoot.run("toy", out=tmp_path / "run")
    unfinished = dataclasses.replace(result, certificate=None)
    with pytest.raises(ValueError, match="no certificate"):
        surefoot.verify(unfinished)


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([env.pop("PATH_FIRST", ""), str(SRC)]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **env},
        check=False,
    )


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--version"], ["--help"]])
def test_listing_needs_no_torch(arguments: list[str]) -> None:
    blocked = {"torch", "matplotlib", "sklearn", "pandas", "warp", "scipy"}
    done = python(BLOCK.format(blocked=blocked) + f"from surefoot.cli import main\nsys.exit(main({arguments}))")
    assert (done.returncode, done.stderr) == (0, "")
    if arguments == ["list", "--json"]:
        assert [row["name"] for row in json.loads(done.stdout)][: len(catalog.BUILT_IN)] == list(catalog.BUILT_IN)


def test_importing_and_listing_load_nothing_heavy() -> None:
    heavy = ["torch", "matplotlib", "sklearn", "pandas", "scipy", "clarabel", "tyro", "rich", "jinja2", "networkx"]
    report = f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    done = python(f"import sys, surefoot\n{report}\nfrom surefoot.cli import main\nmain(['list'])\n{report}")
    assert done.stderr.split("\n")[:2] == ["[]", "[]"]


def test_an_installed_distribution_is_discovered(tmp_path: Path) -> None:
    info = tmp_path / "tiny_plug_in-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-plug-in\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[surefoot.systems]\nanything = tiny_plug_in:CARD\n")
    (tmp_path / "tiny_plug_in.py").write_text(
        "from dataclasses import dataclass\nfrom surefoot.core.system import Paper, Sample, System\n"
        "@dataclass(frozen=True)\nclass Options:\n    x: int = 1\n"
        "CARD = System(name='tiny', title='Tiny', paper=Paper('P', ('A B',), 2020), options=Options, load=None, run=None,\n"
        "    write_answer=None, read_answer=None, checks=dict, sample=Sample('s', 'S', 'o', 'l'))\n"
    )
    code = "import sys\nfrom surefoot.cli import main\nsys.exit(main(['list']))"
    done = python(code, PATH_FIRST=str(tmp_path))
    assert done.returncode == 0
    assert any(line.split() == ["tiny", "Tiny"] for line in done.stdout.splitlines())
