"""A run directory from a stranger is data, not code."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import toy
from hostile import zip_bomb
from surefoot.cli import main
from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify, verify_run
from surefoot.records.files import file_hashes, read_json, write_json
from surefoot.records.inputs import find_input
from surefoot.report.compare import compared
from surefoot.report.html import write_report

pytestmark = pytest.mark.usefixtures("toys")
STORED = Path(__file__).parents[1] / "data" / "run-schema-1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An honest run on a file of the user's own, about to be spoiled."""
    inputs = toy.tiny_inputs(tmp_path)
    execute(toy.CARD, toy.Options(), Inputs(inputs), RunDir.create(tmp_path / "run"))
    return tmp_path / "run"


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    tree = read_json(path)
    write_json(path, change(tree) or tree)


def rehash(root: Path) -> None:
    edit(root / "certificate.json", lambda tree: tree.update(files=file_hashes(root)))


def verdicts(root: Path, **more: Any) -> dict[str, tuple[str, str]]:
    return {v.claim: (v.verdict, v.why) for v in verify_run(root, toy.CARD, **more)}


# ---- honest first --------------------------------------------------------------------------------------------
def test_verdicts_from_disk_equal_those_in_process(tmp_path: Path) -> None:
    problem = toy.load(toy.Options(), Inputs())
    result = toy.run(toy.Options(), problem, None)
    process = verify(result.certificate, toy.CARD.checks(), problem, result.answer)
    execute(toy.CARD, toy.Options(), Inputs(), RunDir.create(tmp_path / "run"))
    assert process == verify_run(tmp_path / "run", toy.CARD)
    assert {v.verdict for v in process} == {"confirmed"}


def test_a_stored_run_of_schema_1_verifies(tmp_path: Path) -> None:
    shutil.copytree(STORED, tmp_path / "run")
    assert main(["verify", str(tmp_path / "run"), "--quiet"]) == 0
    assert not any(str(Path.home()).encode() in p.read_bytes() for p in STORED.rglob("*") if p.is_file())


def test_a_missing_or_changed_input_is_unchecked_with_its_reason(root: Path, tmp_path: Path) -> None:
    column = tmp_path / "column.txt"
    for spoil, reason in [
        (lambda: column.write_text("1\n2\n4\n9\n"), "changed since the run"), (lambda: column.write_text("no numbers"), "changed since the run"),
        (lambda: column.write_bytes(b"\xff\xfe"), "changed since the run"), (column.unlink, "is not there"),
        (lambda: column.mkdir(), "changed"), (lambda: (column.rmdir(), os.mkfifo(column)), "is not there"),
    ]:  # fmt: skip
        spoil()
        found = verdicts(root)
        assert found["mean"][0] == "confirmed"
        assert found["gap"][0] == "unchecked"
        assert reason in found["gap"][1] or "Is a directory" in found["gap"][1]
    assert main(["verify", str(root), "--quiet"]) == 3


def test_a_moved_input_is_found_with_data(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "column.txt").rename(tmp_path / "elsewhere" / "column.txt")
    assert verdicts(root)["gap"][0] == "unchecked"
    assert verdicts(root, data=tmp_path / "elsewhere")["gap"][0] == "confirmed"


def test_an_unknown_checker_is_unchecked(root: Path) -> None:
    edit(root / "certificate.json", lambda tree: tree["claims"][0].update(check="other"))
    assert verdicts(root)["gap"] == ("unchecked", "this version has no checker 'other'")


def test_a_run_that_cannot_be_written_is_verified_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from surefoot.records import rundir

    def read_only(*args: Any) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(rundir, "write_json", read_only)
    assert main(["verify", str(root), "--quiet"]) == 0


# ---- recipes -------------------------------------------------------------------------------------------------
def test_a_recipe_is_imported_by_run_and_by_trust_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "recipe_of_a_stranger.py").write_text(
        f"import pathlib, torch\npathlib.Path({str(mark)!r}).touch()\n"
        "def make():\n    return torch.arange(5.0, dtype=torch.float64)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    root = tmp_path / "run"

    def forget() -> None:
        sys.modules.pop("recipe_of_a_stranger", None)
        mark.unlink(missing_ok=True)

    assert main(["run", "toy", "recipe_of_a_stranger:make", "-o", str(root), "--quiet"]) == 0
    assert mark.exists()
    assert {v["verdict"] for v in RunReader(root).verdicts} == {"confirmed"}
    forget()
    assert main(["verify", str(root)]) == 3
    assert "imported only by `run` or `verify --trust`" in capsys.readouterr().out.replace("\n", " ")
    assert main(["view", str(root), "--no-open"]) == 0
    assert main(["compare", str(root), str(root), "-o", str(tmp_path / "c.html")]) == 0
    assert not mark.exists()
    assert main(["verify", str(root), "--trust", "--quiet"]) == 0
    assert mark.exists()
    forget()
    source = tmp_path / "recipe_of_a_stranger.py"
    source.write_text(source.read_text().replace("arange(5.0", "arange(6.0"))
    capsys.readouterr()
    assert main(["verify", str(root), "--trust"]) == 3
    assert "changed since the run" in capsys.readouterr().out.replace("\n", " ")
    forget()
    source.unlink()
    assert main(["verify", str(root), "--trust"]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "No module named 'recipe_of_a_stranger'" in said
    assert "changed" not in said


def test_a_recipe_without_its_function_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe_without_it.py").write_text("other = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", "toy", "recipe_without_it:make", "-o", str(tmp_path / "run"), "--quiet"]) == 1
    assert "the module 'recipe_without_it' has no 'make'" in " ".join(capsys.readouterr().err.split())


# ---- files that are not what they say ------------------------------------------------------------------------
class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def npz_of(member: bytes) -> Callable[[Path, Path], None]:
    def act(root: Path, mark: Path) -> None:
        import zipfile

        with zipfile.ZipFile(root / "evidence/point.npz", "w") as archive:
            archive.writestr("x.npy", member)

    return act


def pickled_npz(root: Path, mark: Path) -> None:
    import numpy as np

    np.savez(root / "evidence/point.npz", x=np.array([Bomb(mark)], dtype=object))


def pickled_file(root: Path, mark: Path) -> None:
    (root / "evidence/point.npz").write_bytes(pickle.dumps(Bomb(mark)))


def pickled_pt(root: Path, mark: Path) -> None:
    torch.save({"x": Bomb(mark)}, root / "evidence/point.pt")
    edit(root / "certificate.json", lambda tree: [c.update(evidence=["point.pt"]) for c in tree["claims"]] and None)
    (root / "evidence/point.npz").unlink()


def bomb(root: Path, mark: Path) -> None:
    zip_bomb(root / "evidence/point.npz")


def link_answer(root: Path, mark: Path) -> None:
    shutil.move(root / "answer", mark.parent / "outside")
    (root / "answer").symlink_to(mark.parent / "outside")


def link_answer_file(root: Path, mark: Path) -> None:
    shutil.move(root / "answer/mean.json", mark.parent / "mean.json")
    (root / "answer/mean.json").symlink_to(mark.parent / "mean.json")


def fifo(name: str) -> Callable[[Path, Path], None]:
    def act(root: Path, mark: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return act


def claims(**more: Any) -> Callable[[Path, Path], None]:
    return lambda root, mark: edit(
        root / "certificate.json", lambda tree: [c.update(more) for c in tree["claims"]] and None
    )


def tree(file: str, **more: Any) -> Callable[[Path, Path], None]:
    return lambda root, mark: edit(root / file, lambda tree: tree.update(more))


def deep(root: Path, mark: Path) -> None:
    (root / "certificate.json").write_text('{"schema": 1, "claims": ' + "[" * 10**6 + "]" * 10**6 + "}")


def nan_tokens(root: Path, mark: Path) -> None:
    text = json.loads((root / "certificate.json").read_text())
    for claim in text["claims"]:
        claim["value"] = float("nan")
    (root / "certificate.json").write_text(json.dumps(text))
    assert "NaN" in (root / "certificate.json").read_text()


def twins(root: Path, mark: Path) -> None:
    edit(
        root / "certificate.json",
        lambda tree: tree["claims"].append({**tree["claims"][1], "statement": "Anything at all."}),
    )


REFUTED: dict[str, Callable[[Path, Path], None]] = {
    "a pickle in an npz": pickled_npz, "a pickle called npz": pickled_file, "a pt file": pickled_pt, "a zip bomb": bomb,
    "not an array": npz_of(b"hello"), "the answer's folder a link": link_answer, "the answer's file a link": link_answer_file,
    "evidence a FIFO": fifo("evidence/point.npz"), "answer a FIFO": fifo("answer/mean.json"), "inputs a FIFO": fifo("inputs.json"),
    "a certificate a million deep": deep, "NaN tokens": nan_tokens, "two claims of one name": twins,
    "evidence names with ..": claims(evidence=["../config.json"]), "value a list": claims(value=[1]), "value true": claims(value=True),
    "value of 400 digits": claims(value=10**400), "tolerance NaN": claims(tolerance="nan"), "tolerance infinite": claims(tolerance="inf"),
    "bound NaN, said to fail": claims(bound="nan", outcome="fails"), "kind unknown": claims(kind="certain"), "claims of text": tree("certificate.json", claims=["x"]),
    "claims no list": tree("certificate.json", claims={}), "files no mapping": tree("certificate.json", files=[]),
    "files with ..": tree("certificate.json", files={"../../x": "0"}), "options of the wrong type": tree("config.json", options={"steps": "many"}),
    "options unknown": tree("config.json", options={"__class__": 1}), "options a list": tree("config.json", options=[1]),
    "fingerprint missing": tree("certificate.json", fingerprint=None), "inputs of text": tree("inputs.json", inputs=["x"]),
    "versions a list": tree("config.json", versions=["x"]), "status a list": tree("config.json", status=["x"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUTED)
def test_hostile_files_are_refuted_at_once_and_nothing_runs(root: Path, tmp_path: Path, what: str) -> None:
    mark = tmp_path / "ran"
    REFUTED[what](root, mark)
    for again in (False, True):
        if (
            again
            and not what.startswith("files ")
            and all(p.is_file() for folder in ("evidence", "answer") for p in (root / folder).rglob("*"))
        ):
            try:
                rehash(root)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
        began = time.perf_counter()
        assert main(["verify", str(root), "--quiet"]) == 1, what
        assert time.perf_counter() - began < 3
    assert not mark.exists()


LOOKED_AT = (
    "the answer's file a link",
    "answer a FIFO",
    "inputs a FIFO",
    "NaN tokens",
    "value of 400 digits",
    "options a list",
)


@pytest.mark.parametrize("what", LOOKED_AT)
def test_hostile_runs_can_be_looked_at(root: Path, tmp_path: Path, what: str) -> None:
    mark = tmp_path / "ran"
    REFUTED[what](root, mark)
    assert main(["view", str(root), "--no-open"]) in (0, 1)
    assert main(["compare", str(root), str(STORED), "-o", str(tmp_path / "c.html")]) in (0, 1)
    assert not mark.exists()


def test_another_schema_is_unchecked_and_names_the_version(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("certificate.json", "config.json"):
        edit(root / file, lambda tree: tree.update(schema=99, versions={"surefoot": "9.9"}))
        assert main(["verify", str(root)]) == 3
        error = capsys.readouterr().err
        assert "schema 99" in error
        assert "surefoot 9.9" in error
    edit(root / "config.json", lambda tree: tree.update(versions="text"))
    assert main(["verify", str(root)]) == 3


def test_an_unknown_card_is_unchecked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(root / "config.json", lambda tree: tree.update(card="to\x1b[31my"))
    assert main(["verify", str(root)]) == 3
    error = capsys.readouterr().err
    assert "no card" in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    "path",
    [
        "/dev/zero",
        "/dev/stdin",
        "/proc/kmsg",
        "/proc/self/mem",
        "/sys/kernel",
        "relative",
        "",
        "/",
        "/a/../b",
        "/a\0b",
        "/dev",
    ],
)
def test_input_paths_that_are_no_plain_files_do_not_hang(root: Path, path: str) -> None:
    edit(root / "inputs.json", lambda tree: tree["inputs"][0].update(path=path))
    began = time.perf_counter()
    assert verdicts(root)["gap"][0] == "unchecked"
    assert verdicts(root, data=root)["gap"][0] == "unchecked"
    assert time.perf_counter() - began < 2


def test_an_input_fifo_does_not_hang(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    edit(root / "inputs.json", lambda tree: tree["inputs"][0].update(path=str(tmp_path / "fifo")))
    assert verdicts(root)["gap"][0] == "unchecked"
    with pytest.raises(FileNotFoundError):
        find_input({"role": "column", "origin": "file"}, None)


def test_forgotten_inputs_are_not_replaced_by_the_sample(root: Path) -> None:
    write_json(root / "inputs.json", {"schema": 1, "inputs": []})
    edit(root / "certificate.json", lambda tree: tree.update(fingerprint=""))
    verdict, why = verdicts(root)["gap"]
    assert verdict == "unchecked"
    assert "has not recorded" in why


def test_pages_escape_what_a_stranger_wrote(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = '<script>alert(1)</script><img src=x onerror="alert(2)">'
    claims(statement=script, reason=script)(root, root)
    edit(root / "certificate.json", lambda tree: tree["claims"][0].update(name="[/red]\x1b]0;title\x07" + script))
    edit(
        root / "config.json",
        lambda tree: tree.update(
            options={**tree["options"], script: script}, status=f'"{script}', seed=script, created=script
        ),
    )
    (root / "history.csv").write_text(f'"{script.replace(chr(34), chr(34) * 2)}",$\\frac$\n1,2\n3,4\n')
    write_report(root, toy.CARD)
    assert main(["compare", str(root), str(STORED), "-o", str(tmp_path / "c.html")]) == 0
    assert main(["verify", str(root)]) == 1
    for page in (root / "report.html", tmp_path / "c.html"):
        text = page.read_text()
        assert "<script" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;" in text
    assert "\x1b" not in capsys.readouterr().out


def test_figures_do_not_leave_the_folder(root: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (root / "figures").symlink_to(tmp_path / "home")
    main(["view", str(root), "--no-open"])
    assert not list((tmp_path / "home").iterdir())


def test_comparing_shows_what_differs(root: Path) -> None:
    found = compared([root, STORED])
    assert [name for name, _ in found["claims"]] == ["gap", "mean"]
    assert dict(found["facts"])["card"] == ["toy", "toy"]
    assert found["options"] == []


def test_every_verdict_is_written(root: Path) -> None:
    found = verify_run(root, toy.CARD, seed=11, full=True)
    stored = read_json(root / "verdict.json")
    assert (stored["seed"], stored["full"], stored["schema"]) == (11, True, 1)
    assert stored["verdicts"] == [dataclasses.asdict(v) for v in found]
