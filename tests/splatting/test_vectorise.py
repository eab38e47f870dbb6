"""Pictures in 2D: one convex draws simple shapes, the plane's gradient is the scene's, the drawing lies at the half level."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
from surefoot.cli import main
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.splatting.certify import show
from surefoot.splatting.drawing import outlines, write_svg
from surefoot.splatting.problem import Picture
from surefoot.splatting.reference import indicator, project
from surefoot.splatting.vectorise import VectorisePicture, vectorise

BLACK = (1e-9, 0.0, 0.0)
ROWS, COLUMNS = np.mgrid[:48, :48].astype(float)


def rectangle() -> np.ndarray:
    image = np.zeros((48, 48))
    image[14:34, 8:40] = 0.8
    return image


def test_one_convex_draws_a_rectangle_that_no_gaussian_could() -> None:
    """One Gaussian reaches about 14 dB on such a shape."""
    method = VectorisePicture(horizon=500, shapes=1, rounds=1)
    found = solve(Picture.of(rectangle(), background=BLACK), method, certify=False)
    assert found.history.columns()["photo_psnr"][-1] > 30
    corners = project(torch.from_numpy(found.answer.points).double(), torch.eye(4).double(), torch.from_numpy(Picture.of(rectangle()).matrices[0])).corners[0]  # fmt: skip
    low, high = corners.amin(dim=0).numpy() + 0.5, corners.amax(dim=0).numpy() + 0.5
    np.testing.assert_allclose([*low, *high], [8, 14, 40, 34], atol=1.0)


def test_more_convexes_draw_better_and_later_ones_lie_in_front() -> None:
    rng = np.random.default_rng(0)
    image = np.kron(rng.random((4, 4, 3)), np.ones((8, 8, 1)))
    close = [
        solve(Picture.of(image), VectorisePicture(horizon=120, shapes=n), certify=False).history.columns()["photo_psnr"][-1]
        for n in (4, 24)
    ]  # fmt: skip
    assert close[1] > close[0] + 3
    problem, method = Picture.of(image), VectorisePicture(horizon=120, shapes=24)
    state = method.init(problem, None, Streams(0))
    sizes = []
    while state.k < 120:
        before = len(state.born)
        state = method.step(problem, state)
        if len(state.born) != before:
            sizes.append(len(state.born))
            assert (state.born.diff() >= 0).all()  # the youngest are first, and the first is in front
    assert sizes[-1] == 24


def test_the_answer_shows_what_training_saw() -> None:
    problem, method = Picture.of(rectangle()), VectorisePicture(horizon=40, shapes=6)
    found = solve(problem, method)
    image = show(found.answer, problem.views[0], problem.matrices[0], (48, 48)).image[0].numpy()
    assert found.certificate is not None
    claims = {c.name: c for c in found.certificate.claims}
    assert claims["psnr"].value == pytest.approx(-10 * np.log10(((image - problem.photos[0]) ** 2).mean()), rel=1e-6)
    assert claims["render-error"].outcome == "holds"
    again = method.init(problem, found.answer, Streams(0))
    torch.testing.assert_close(
        again.parameters["corners"], method.init(problem, method.answer(problem, again), Streams(0)).parameters["corners"], atol=1e-4, rtol=0
    )  # fmt: skip
    tilted = dataclasses.replace(found.answer, points=found.answer.points * 2)
    with pytest.raises(ValueError, match="plane z = 1"):
        method.init(problem, tilted, Streams(0))


def test_the_outline_is_the_half_level(tmp_path) -> None:
    problem = Picture.of(rectangle(), background=BLACK)
    found = solve(problem, VectorisePicture(horizon=150, shapes=3), certify=False)
    border, filled, solid = outlines(found.answer, problem.matrices[0])
    scene = found.answer
    matrix = torch.from_numpy(problem.matrices[0])
    corners = project(torch.from_numpy(scene.points).double(), torch.eye(4).double(), matrix).corners
    one = torch.ones(1, dtype=torch.float64)
    for n in np.flatnonzero(solid):
        phi, _, _ = indicator(
            corners[n : n + 1], one, one * np.exp(float(scene.log_delta[n])), one, torch.from_numpy(border[n] - 0.5)
        )
        assert phi.abs().max() < 1e-6 or phi.min() > 0  # or it is nowhere half as opaque
    count = write_svg(tmp_path / "picture.svg", scene, problem)
    text = (tmp_path / "picture.svg").read_text()
    assert len(re.findall("<polygon", text)) == count == int((solid & (filled >= 1 / 255)).sum())
    assert 'viewBox="0 0 48 48"' in text


def test_pictures_that_are_none_are_named() -> None:
    for wrong in (np.zeros(5), np.zeros((4, 4, 2)), np.full((4, 4), 2.0), np.full((4, 4, 3), np.nan), np.zeros((1, 9))):
        with pytest.raises(ValueError, match="picture"):
            Picture.of(wrong)
    for options, message in (({"corners": 2}, "corners"), ({"shapes": 0}, "shapes"), ({"growth": 1.0}, "growth")):
        with pytest.raises(ValueError, match=message):
            VectorisePicture(**options)
    found = vectorise(np.full((8, 9), 128, np.uint8), shapes=1, steps=2)
    assert found.steps == 2


def test_a_picture_from_the_card(tmp_path, capsys) -> None:
    Image.fromarray(np.uint8(255 * rectangle())).save(tmp_path / "box.png")
    out = tmp_path / "out"
    assert (
        main(
            [
                "run",
                "convex-splatting",
                str(tmp_path / "box.png"),
                "--steps",
                "60",
                "--shapes",
                "4",
                "-o",
                str(out),
                "--quiet",
            ]
        )
        == 0
    )
    assert (out / "answer" / "picture.svg").is_file()
    assert not (out / "answer" / "turn.gif").exists()
    assert (out / "figures" / "outlines.png").is_file()
    assert main(["verify", str(out)]) == 0
    assert "refuted" not in capsys.readouterr().out
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "box.png").read_bytes()[:60])
    assert main(["run", "convex-splatting", str(tmp_path / "cut.jpg"), "-o", str(tmp_path / "bad"), "--quiet"]) == 1
    assert "cut.jpg is not a readable picture" in capsys.readouterr().err
