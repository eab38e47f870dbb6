"""The card as a user meets it: own models, files, bad input, resume, pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from suspects import digits, network

from surefoot.core.rundir import RunDir, RunReader
from surefoot.core.system import Inputs, execute
from surefoot.core.verify import verify_run
from surefoot.records.files import UnsafeFileError
from surefoot.robustness.inversion_card import CARD, Options, load
from surefoot.robustness.inversion_export import contrast, read_inversions, write_png
from surefoot.robustness.networks import save_network

QUICK = Options(
    radius=(1.3,), noise=(0.25,), targets=(2, 3, 4), steps=20, draws=6, screening_steps=20, screening_draws=6, finalists=1, certificate_draws=100
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    images, labels, count = digits()
    save_network(folder / "model.safetensors", network("patch", 3, 0))
    np.savez(folder / "images.npz", images=images[count:].numpy(), labels=labels[count:].numpy())
    return {"model": str(folder / "model.safetensors"), "images": str(folder / "images.npz")}


@pytest.fixture(scope="module")
def run(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = RunDir.create(tmp_path_factory.mktemp("run") / "out")
    execute(CARD, QUICK, Inputs(files, trust=True), folder)
    return folder.root


def test_a_users_model_is_scanned_and_verified(run: Path) -> None:
    assert {v.verdict for v in verify_run(run, CARD)} == {"confirmed"}
    assert "Class 3 stands out" in CARD.headline(RunReader(run))


def test_answer_files(run: Path) -> None:
    """PNG, npy and JSON say the same as the certificate."""
    answer, folder = read_inversions(run / "answer"), run / "answer"
    trigger = np.load(folder / "trigger.npy", allow_pickle=False)
    np.testing.assert_array_equal(trigger, answer.perturbations[1])
    report = json.loads((folder / "report.json").read_text())
    table = RunReader(run).evidence("scan.csv")
    assert report["class"] == 3
    assert [c["successes"] for c in report["classes"]] == table["successes"].astype(int).tolist()
    picture = np.asarray(Image.open(folder / "trigger.png"))
    assert picture.shape == (8, 8)
    np.testing.assert_allclose(picture / 255, contrast(trigger)[0], atol=0.5 / 255)
    shown = np.asarray(Image.open(folder / "triggered.png"))
    images, _, count = digits()
    np.testing.assert_allclose(
        shown / 255, images[count + int(answer.starts[1]), 0].numpy() + trigger[0], atol=0.51 / 255
    )


def test_colour_pictures(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((3, 5, 4))
    write_png(tmp_path / "x.png", image)
    back = np.asarray(Image.open(tmp_path / "x.png"))
    assert back.shape == (5, 4, 3)
    np.testing.assert_allclose(np.moveaxis(back, -1, 0) / 255, image, atol=0.51 / 255)


def test_a_trigger_of_another_run_is_not_read(run: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run / "answer", tmp_path / "answer")
    np.save(tmp_path / "answer" / "trigger.npy", np.zeros((1, 8, 8), np.float32))
    with pytest.raises(UnsafeFileError, match="none of the perturbations"):
        read_inversions(tmp_path / "answer")


def test_figures(run: Path) -> None:
    drawn = CARD.figures(RunReader(run))
    assert [f.name for f in drawn] == ["trigger", "classes"]
    assert all(f.caption and f.alt for f in drawn)


def test_model_without_images(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="give clean images"):
        load(QUICK, Inputs({"model": files["model"]}, trust=True))


def test_images_out_of_range(files: dict[str, str], tmp_path: Path) -> None:
    images, labels, _ = digits()
    np.savez(tmp_path / "images.npz", images=16 * images[:50].numpy(), labels=labels[:50].numpy())
    with pytest.raises(ValueError, match=r"span \[0, 16\]"):
        load(QUICK, Inputs({**files, "images": str(tmp_path / "images.npz")}, trust=True))


def test_onnx_is_refused_with_the_reason(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap of the formats: no gradient flows through an ONNX session."""
    from surefoot.robustness import recipes

    real = recipes.load_classifier
    through = lambda *a, **k: dataclasses.replace(real(*a, **k), differentiable=False)  # noqa: E731
    monkeypatch.setattr(recipes, "load_classifier", through)
    with pytest.raises(ValueError, match="ONNX models are not differentiable"):
        load(QUICK, Inputs(files, trust=True))


def denoiser() -> Any:
    """A recipe: the identity, with a name."""

    def same(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        return noisy.clamp(0, 1)

    same.identity = "clip"  # type: ignore[attr-defined]
    return same


def test_a_users_denoiser_is_code_and_needs_trust(files: dict[str, str]) -> None:
    given = {**files, "denoiser": "test_inversion_card:denoiser"}
    problem = load(QUICK, Inputs(given, trust=True))
    assert float(problem.denoiser(torch.tensor([2.0]), 0.1)) == 1.0
    with pytest.raises(UnsafeFileError, match="imported only by"):
        load(QUICK, Inputs(given, trust=False))
    with pytest.raises(ValueError, match="recipe module:factory"):
        load(QUICK, Inputs({**files, "denoiser": files["model"]}, trust=True))


def test_the_small_denoiser_never_sees_held_out_images(files: dict[str, str]) -> None:
    problem = load(dataclasses.replace(QUICK, denoiser="small"), Inputs(files, trust=True))
    again = load(dataclasses.replace(QUICK, denoiser="small"), Inputs(files, trust=True))
    assert problem.fingerprint() == again.fingerprint()
    moved = dataclasses.replace(problem, images=problem.images.clone())
    assert problem.denoiser is not None
    assert moved.fingerprint() == problem.fingerprint()


def test_sample_has_its_trigger_planted_and_paper_mode_one_set_of_images() -> None:
    options = dataclasses.replace(QUICK, plant="patch-2", plant_epochs=1)
    problem = load(options, Inputs())
    assert problem.planted is not None
    assert problem.planted.name == "patch-2"
    assert problem.disjoint
    paper = load(dataclasses.replace(options, compat="paper", plant="none"), Inputs())
    assert paper.planted is None
    assert not paper.disjoint
    with pytest.raises(ValueError, match="no trigger 'patch-77'"):
        load(dataclasses.replace(QUICK, plant="patch-77"), Inputs())


def test_the_sample_is_verified_without_training_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's weights are evidence: another machine, which would train another network, can check; other weights are refuted."""
    from surefoot.robustness import networks

    folder = RunDir.create(tmp_path / "out")
    execute(CARD, dataclasses.replace(QUICK, plant="patch-2", plant_epochs=2), Inputs(), folder)

    def no_training(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a verification trained a network")

    monkeypatch.setattr(networks, "train_small_cnn", no_training)
    assert {v.verdict for v in verify_run(folder.root, CARD)} == {"confirmed"}
    weights = RunReader(folder.root).evidence("network.npz")
    weights["conv1.weight"] = 1.01 * weights["conv1.weight"]
    np.savez(folder.root / "evidence" / "network.npz", **weights)
    assert {v.verdict for v in verify_run(folder.root, CARD, write=False)} == {"refuted"}


@pytest.mark.slow
def test_a_killed_run_is_resumed(files: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL in the middle of the scan, then --resume: the same perturbations as in one go."""
    base = [sys.executable, "-m", "surefoot", "run", "backdoor-inversion", files["model"], files["images"], "--quiet"]
    more = [
        "--radius",
        "1.3",
        "--noise",
        "0.25",
        "0.5",
        "--targets",
        "2",
        "3",
        "4",
        "--screening-steps",
        "60",
        "--steps",
        "60",
    ]
    more += ["--stop-probability", "1", "--certificate-draws", "100"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*base, "-o", str(tmp_path / "killed"), *more], env=env)
    cells = tmp_path / "killed" / "checkpoints" / "cells"
    deadline = time.monotonic() + 300
    while len(list(cells.glob("*"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*base, "-o", str(tmp_path / "killed"), "--resume"], env=env, check=True)
    subprocess.run([*base, "-o", str(tmp_path / "whole"), *more], env=env, check=True)
    a, b = (read_inversions(tmp_path / name / "answer") for name in ("killed", "whole"))
    np.testing.assert_array_equal(a.perturbations, b.perturbations)
