"""The command: exit codes, folders, resuming, and what it prints."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import surefoot
import toy
from surefoot.cli import main, printable
from surefoot.core.rundir import RunReader
from surefoot.records.files import read_json, write_json

pytestmark = pytest.mark.usefixtures("toys")
Text = pytest.CaptureFixture[str]


def run(root: Path, *more: str) -> int:
    return main(["run", "toy", "-o", str(root), "--quiet", *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished run, to be copied."""
    from surefoot import catalog

    folder = tmp_path_factory.mktemp("finished")
    before, catalog.BUILT_IN = catalog.BUILT_IN, {"toy": "toy:CARD"}
    catalog.cards.cache_clear()
    assert run(folder / "run", "--seed", "3") == 0
    catalog.BUILT_IN = before
    catalog.cards.cache_clear()
    return folder / "run"


@pytest.fixture
def done(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


# ---- exit codes ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("arguments", "code", "said"), [
    ([], 2, ""), (["--help"], 0, ""), (["help"], 0, ""), (["--version"], 0, ""), (["lst"], 2, "did you mean list"), (["qqqq"], 2, "see surefoot --help"),
    (["run"], 2, "which card?"), (["run", "--help"], 0, ""), (["run", "toi"], 2, "did you mean toy"), (["run", "toy", "--nothing"], 2, ""),
    (["run", "toy", "--steps", "many"], 2, ""), (["run", "toy", "no-such-file"], 2, "there is no file no-such-file"),
    (["run", "toy", "a", "b"], 2, "takes 1 input"), (["run", "toy", "--preset", "quick"], 2, "no preset 'quick'"),
    (["run", "toy", "--resume", "-o", "nowhere"], 2, "no run nowhere to resume"), (["run", "toy", "--threads", "-1"], 2, "negative"),
    (["run", "toy", "--seed", "-1"], 2, "negative"), (["run", "toy", "--resume", "--force"], 2, "not both"), (["verify"], 2, ""),
    (["verify", "nowhere"], 2, "not a run"), (["info", "toi"], 2, "did you mean"), (["info", "toy"], 0, ""), (["list"], 0, ""),
    (["compare", "nowhere", "-o", "x.html"], 2, "not a run"), (["view", "nowhere", "--no-open"], 2, "not a run"), (["completion", "tcsh"], 2, ""),
    (["tour", "--only", "toi"], 2, "did you mean"), (["list", "--nothing"], 2, ""),
])  # fmt: skip
def test_usage(
    arguments: list[str], code: int, said: str, capsys: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    out = capsys.readouterr()
    assert said in out.err
    assert "Traceback" not in out.err
    assert not list(tmp_path.iterdir())  # a mistake leaves no folder behind


def test_run_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Text) -> None:
    assert run(tmp_path / "fails", "--steps", "3") == 0  # the claim fails, and that is a result
    assert {v["verdict"] for v in RunReader(tmp_path / "fails").verdicts} == {"confirmed"}
    assert run(tmp_path / "diverged", "--damping", "3", "--steps", "5000") == 1
    assert "step" in capsys.readouterr().err
    assert RunReader(tmp_path / "diverged").config["status"] == "failed"

    def wrong(answer: Any, problem: Any, folder: Path) -> None:
        write_json(folder / "mean.json", {"mean": float(answer) + 1})

    import dataclasses

    from surefoot import catalog

    monkeypatch.setattr(toy, "CARD", dataclasses.replace(toy.CARD, write_answer=wrong))
    catalog.cards.cache_clear()
    assert run(tmp_path / "refuted") == 1


def test_verify_exit_codes(done: Path, capsys: Text) -> None:
    assert main(["verify", str(done), "--json", "--seed", "1", "--full"]) == 0
    assert [v["verdict"] for v in json.loads(capsys.readouterr().out)] == ["confirmed", "confirmed"]
    tree = read_json(done / "certificate.json")
    write_json(done / "certificate.json", {**tree, "claims": []})
    assert main(["verify", str(done)]) == 3
    tree["claims"][0]["check"] = "unknown"
    write_json(done / "certificate.json", tree)
    assert main(["verify", str(done)]) == 3
    tree["claims"][1]["value"] = 99.0
    write_json(done / "certificate.json", tree)
    assert main(["verify", str(done)]) == 1
    assert "not 99" in capsys.readouterr().out.replace("\n", " ")
    (done / "certificate.json").unlink()
    assert main(["verify", str(done)]) == 3
    (done / "config.json").unlink()
    assert main(["verify", str(done)]) == 2


# ---- folders -------------------------------------------------------------------------------------------------
def test_an_existing_folder_is_refused(done: Path, capsys: Text) -> None:
    before = (done / "config.json").read_bytes()
    assert run(done) == 2
    assert "--resume" in capsys.readouterr().err
    assert (done / "config.json").read_bytes() == before


def test_force_replaces_a_run_and_nothing_else(done: Path, tmp_path: Path, capsys: Text) -> None:
    (done / "old").touch()
    assert run(done, "--force") == 0
    assert not (done / "old").exists()
    strangers = {"thesis": {"thesis.tex": "years"}, "model": {"config.json": '{"model_type": "bert"}', "model.safetensors": "weights"},
                 "torn": {"config.json": "{"}, "list": {"config.json": "[]"}}  # fmt: skip
    for name, files in strangers.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file).write_text(text)
        assert run(folder, "--force") == 2
        assert "will not delete" in capsys.readouterr().err
        assert {p.name: p.read_text() for p in folder.iterdir()} == files
    (tmp_path / "file").write_text("x")
    assert run(tmp_path / "file", "--force") == 2
    assert (tmp_path / "file").read_text() == "x"


def test_a_wrong_flag_beside_force_deletes_nothing(done: Path) -> None:
    (done / "old").touch()
    assert run(done, "--force", "--threads", "-3") == 2
    if not torch.cuda.is_available():
        assert run(done, "--force", "--device", "cuda") == 2
    assert (done / "old").exists()


def test_resume_touches_no_folder_that_is_not_a_run(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".cache.old").mkdir(parents=True)
    (home / ".bashrc.bak").write_text("precious")
    assert run(home, "--resume") == 2
    assert (home / ".bashrc.bak").read_text() == "precious"
    assert (home / ".cache.old").is_dir()


def test_a_run_killed_before_its_first_file_resumes(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.abc").write_text('{"sch')
    assert run(tmp_path / "run", "--resume") == 0
    assert not list((tmp_path / "run").glob(".*"))


def test_a_resumed_run_keeps_its_options(done: Path, tmp_path: Path, capsys: Text) -> None:
    def config() -> dict[str, Any]:
        kept = {**RunReader(done).config}
        return {k: kept[k] for k in ("options", "seed", "preset", "dtype", "given", "steps")}

    before = config()
    assert run(done, "--resume") == 0
    assert config() == before
    assert before["seed"] == 3
    column = toy.tiny_inputs(tmp_path)["column"]
    for more, named in [
        (["--steps", "7"], "steps"),
        (["--seed", "4"], "seed"),
        (["--dtype", "float32"], "dtype"),
        (["--damping=0.1"], "damping"),
    ]:
        assert run(done, "--resume", *more) == 2
        assert named in capsys.readouterr().err
    assert main(["run", "toy", column, "--resume", "-o", str(done)]) == 2
    assert main(["run", "private-toy", "--resume", "-o", str(done)]) == 2
    assert run(done, "--resume", "--steps", "200", "--seed", "3") == 0  # the same is not different
    assert config() == before


def test_an_option_said_with_its_default_is_not_overlooked(tmp_path: Path, capsys: Text) -> None:
    assert run(tmp_path / "run", "--steps", "50") == 0
    assert run(tmp_path / "run", "--resume", "--steps", "200") == 2  # 200 is the default
    assert "steps" in capsys.readouterr().err


def test_seeds_and_threads(tmp_path: Path) -> None:
    for name, more in {"a": [], "b": ["--seed", "0"], "c": ["--seed", "1"], "d": ["--threads", "1"]}.items():
        assert run(tmp_path / name, "--steps", "3", *more) == 0
    a, b, c, d = ((tmp_path / name / "answer/mean.json").read_bytes() for name in "abcd")
    assert a == b == d
    assert a != c
    assert torch.get_num_threads() == 1


def test_a_refused_input_leaves_no_folder_and_a_mended_one_runs(tmp_path: Path, capsys: Text) -> None:
    column = tmp_path / "column.txt"
    column.write_text("words")
    asked = ["run", "toy", str(column), "-o", str(tmp_path / "run"), "--quiet"]
    assert main(asked) == 1
    assert "could not convert" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["column.txt"]
    column.write_text("1 2 6")
    assert main(asked) == 0
    column.write_text("words")
    assert main([*asked, "--resume"]) == 1  # what was computed stays
    assert (tmp_path / "run" / "answer").is_dir()


def test_a_changed_or_missing_input_is_unchecked(tmp_path: Path) -> None:
    column = tmp_path / "column.txt"
    column.write_text("1 2 6")
    assert main(["run", "toy", str(column), "-o", str(tmp_path / "run"), "--quiet"]) == 0
    column.write_text("1 2 7")
    assert main(["verify", str(tmp_path / "run"), "--quiet"]) == 3
    column.unlink()
    assert main(["verify", str(tmp_path / "run"), "--quiet"]) == 3
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "column.txt").write_text("1 2 6")
    assert main(["verify", str(tmp_path / "run"), "--quiet", "--data", str(tmp_path / "elsewhere")]) == 0


def test_a_card_that_cannot_draw_loses_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Text) -> None:
    import dataclasses

    from surefoot import catalog

    def wrong(reader: Any) -> Any:
        raise AssertionError("no ink")

    monkeypatch.setattr(toy, "CARD", dataclasses.replace(toy.CARD, headline=wrong, figures=wrong))
    catalog.cards.cache_clear()
    assert main(["run", "toy", "-o", str(tmp_path / "run")]) == 0
    assert "The headline cannot be made from the files of this run (AssertionError: no ink)" in capsys.readouterr().out
    assert "Figures cannot be made" in (tmp_path / "run" / "report.html").read_text()
    assert (tmp_path / "run" / "answer" / "mean.json").is_file()


def test_verdicts_of_another_certificate_are_not_shown(done: Path, tmp_path: Path, capsys: Text) -> None:
    assert main(["view", str(done), "--no-open"]) == 0
    assert "Verdicts on file since" in (done / "report.html").read_text()
    tree = read_json(done / "certificate.json")
    tree["claims"][0]["value"] = 0.5
    write_json(done / "certificate.json", tree)
    assert main(["view", str(done), "--no-open"]) == 0
    page = (done / "report.html").read_text()
    assert "the certificate changed after it was verified" in page
    assert ">confirmed<" not in page
    assert main(["compare", str(done), "--verify", "-o", str(tmp_path / "c.html")]) == 0
    assert "refuted" in capsys.readouterr().out


# ---- what is printed -----------------------------------------------------------------------------------------
def test_run_prints_headline_claims_and_where_things_are(tmp_path: Path, capsys: Text) -> None:
    assert main(["run", "toy", "-o", str(tmp_path / "run")]) == 0
    out = capsys.readouterr()
    for text in (
        "The mean was found.",
        "confirmed",
        "proved",
        "gap",
        "ended: the method's own criterion",
        "report.html",
    ):
        assert text in out.out
    assert run(tmp_path / "other") == 0
    out = capsys.readouterr()
    assert (out.out, out.err) == ("", "")


def test_list_and_info(capsys: Text) -> None:
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["name"], r["aliases"], r["inputs"]) for r in rows] == [
        ("toy", ["average"], ["column"]),
        ("private-toy", [], ["column"]),
    ]
    assert main(["info", "average"]) == 0
    text = capsys.readouterr().out
    for part in (
        "--damping",
        "How far each step goes.",
        "(default 0.5)",
        "@article{mean2025",
        "none needed",
        "column: numbers [txt]",
        "also called  average",
    ):
        assert part in text


def test_doctor_and_version(capsys: Text) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for part in ("torch", "extras", "cpu", "cache", "SUREFOOT_DATA", "toy"):
        assert part in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"surefoot {surefoot.__version__}\n"


def test_the_reproducing_command_reproduces(tmp_path: Path) -> None:
    import html
    import re
    import shlex

    column = toy.tiny_inputs(tmp_path)["column"]
    assert (
        main(
            [
                "run",
                "toy",
                column,
                "--damping",
                "0.3",
                "--steps",
                "9",
                "--seed",
                "5",
                "-o",
                str(tmp_path / "a"),
                "--quiet",
            ]
        )
        == 0
    )
    found = re.search(r"<pre>(surefoot run.*?)</pre>", (tmp_path / "a/report.html").read_text())
    assert found
    command = shlex.split(html.unescape(found[1]))
    assert main([*command[1:], "-o", str(tmp_path / "b"), "--quiet"]) == 0
    assert (tmp_path / "a/answer/mean.json").read_bytes() == (tmp_path / "b/answer/mean.json").read_bytes()


def test_compare_prints_a_table_and_writes_a_page(done: Path, tmp_path: Path, capsys: Text) -> None:
    assert run(tmp_path / "short", "--steps", "3") == 0
    assert main(["compare", str(done), str(tmp_path / "short"), "-o", str(tmp_path / "c.html")]) == 0
    text = capsys.readouterr().out
    for part in ("--steps", "200", "≰", "confirmed", "c.html"):
        assert part in text
    page = (tmp_path / "c.html").read_text()
    assert page.count("<img") == 1
    assert "2 runs side by side" in page


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31m\x07é\n\u202e") == "a\\x1b[31m\\x07é\n\\x202e"


# ---- as a program --------------------------------------------------------------------------------------------
def test_python_dash_m(toy_env: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "surefoot", "list"], capture_output=True, text=True, env=toy_env, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("toy")
    done = subprocess.run(
        [sys.executable, "-m", "surefoot", "nothing"], capture_output=True, text=True, env=toy_env, check=False
    )
    assert done.returncode == 2


def test_a_killed_command_goes_on_from_its_last_checkpoint(toy_env: dict[str, str], tmp_path: Path) -> None:
    def command(*more: str) -> list[str]:
        return [sys.executable, "-m", "surefoot", "run", "toy", "--quiet", "-o", *more]

    process = subprocess.Popen(command("cut", "--pause", "0.2", "--save", "4"), cwd=tmp_path, env=toy_env)
    until = time.monotonic() + 60
    while not list((tmp_path / "cut").glob("checkpoints/0*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "answer").exists()
    for more in (["whole"], ["cut", "--resume", "--pause", "0.2"]):
        subprocess.run(command(*more), cwd=tmp_path, env=toy_env, check=True)
    answers = [(tmp_path / name / "answer" / "mean.json").read_bytes() for name in ("cut", "whole")]
    assert answers[0] == answers[1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [("surefoot run to", ["toy"]), ("surefoot run toy --da", ["--damping"]), ("surefoot ver", ["verify"])],
)
def test_bash_completes(line: str, wanted: list[str], toy_env: dict[str, str], tmp_path: Path, capsys: Text) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "surefoot").write_text(f'#!/bin/sh\nexec {sys.executable} -m surefoot "$@"\n')
    (tmp_path / "surefoot").chmod(0o755)
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    words = " ".join(line.split())
    script = f"source {tmp_path}/completion\nCOMP_WORDS=({words})\nCOMP_CWORD={len(words.split()) - 1}\n_surefoot\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
    env = {**toy_env, "PATH": f"{tmp_path}:{toy_env['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == wanted, done.stderr


def test_candidates(capsys: Text) -> None:
    for words, wanted in {
        "run av": ["average"], "run toy --re": ["--resume"], "completion z": ["zsh"], "tour --only pri": ["private-toy"], "info t": ["toy"],
        "verify x": [], "run toy x": [],
    }.items():  # fmt: skip
        assert main(["_complete", *words.split()]) == 0
        assert capsys.readouterr().out.split() == wanted


def test_other_shells_have_scripts(capsys: Text) -> None:
    for shell in ("zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "surefoot _complete" in capsys.readouterr().out
