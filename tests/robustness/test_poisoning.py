"""Triggers and poisoned sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from surefoot.core.random import Streams
from surefoot.robustness.poisoning import (
    ZOO,
    Blended,
    Pasted,
    Patch,
    Planted,
    RandomPatch,
    ScaledLogits,
    Sinusoidal,
    Warped,
    poison_dataset,
    zoo_trigger,
)

STREAMS = Streams(0)


def images(count: int = 50, side: int = 28) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, side, side, generator=generator), torch.randint(0, 10, (count,), generator=generator)


def test_checker_patch_on_black_has_the_published_size() -> None:
    """Eight of sixteen pixels are white: norm sqrt(8) = 2.83."""
    black = torch.zeros(1, 1, 28, 28)
    changed = Patch(4).apply(black, STREAMS)
    assert float(changed.norm()) == pytest.approx(8**0.5)
    assert changed[0, 0, 23:27, 23:27].sum() == 8


def test_pixel_and_places() -> None:
    changed = Patch(1, "white", 3, 23).apply(torch.zeros(1, 3, 224, 224), STREAMS)
    assert changed.sum() == 3
    assert changed[0, :, 3, 23].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="leaves an image"):
        Patch(4, row=26).apply(torch.zeros(1, 1, 28, 28), STREAMS)
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Patch(0)


@pytest.mark.parametrize("name", list(ZOO))
def test_triggers_stay_in_the_mask_and_the_range(name: str) -> None:
    x, _ = images()
    trigger, _ = zoo_trigger(name, 3)
    changed = trigger.apply(x, STREAMS)
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1
    assert not ((changed - x) * (1 - trigger.mask((1, 28, 28)))).any()
    assert (changed != x).any()
    torch.testing.assert_close(changed, trigger.apply(x, STREAMS))


def test_a_picture_is_pasted_at_its_place_or_at_random_ones(tmp_path: Path) -> None:
    values = np.linspace(-2, 3, 3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
    np.save(tmp_path / "pattern.npy", values)
    images = torch.rand(20, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    raw = Pasted.read(tmp_path / "pattern.npy", row=2, column=6, clip=False)
    changed = raw.apply(images, Streams(0))
    assert torch.equal(changed[:, :, 2:6, 6:11], torch.from_numpy(values).expand(20, -1, -1, -1))
    assert torch.equal(changed == images, raw.mask((3, 12, 12)).expand(20, -1, -1, -1) == 0)
    kept = Pasted.read(tmp_path / "pattern.npy", row=2, column=6).apply(images, Streams(0))
    assert torch.equal(kept, changed.clamp(0, 1))
    Image.fromarray((values.transpose(1, 2, 0) * 40 + 90).astype(np.uint8)).save(tmp_path / "patch.png")
    moving = Pasted.read(tmp_path / "patch.png", side=3)
    moved = moving.apply(images, Streams(0))
    places = {tuple(torch.nonzero((a != b).any(0)).min(0).values.tolist()) for a, b in zip(moved, images, strict=True)}
    assert len(places) > 10
    assert moving.mask((3, 12, 12)).all()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pasted(torch.ones(4, 4)), "expected finite values"), (lambda: Pasted(torch.ones(1, 2, 2), row=3), "a row and a column"),
        (lambda: Pasted(torch.ones(1, 2, 2), 11, 0).apply(torch.zeros(1, 1, 12, 12), Streams(0)), "leaves images"),
    ],
)  # fmt: skip
def test_bad_pastes_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_blended_is_the_convex_combination() -> None:
    x, _ = images()
    B = Blended(0.2, 4).picture(x.shape)
    torch.testing.assert_close(Blended(0.2, 4).apply(x, STREAMS), 0.8 * x + 0.2 * B)
    assert not torch.equal(B, Blended(0.2, 5).picture(x.shape))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Blended(1.2)


def test_sinusoid_has_six_waves_along_the_columns() -> None:
    grey = torch.full((1, 1, 28, 28), 0.5)
    change = (Sinusoidal().apply(grey, STREAMS) - grey)[0, 0]
    assert torch.equal(change[0], change[-1])
    spectrum = torch.fft.rfft(change[0].double()).abs()
    assert int(spectrum.argmax()) == 6
    assert float(spectrum[6]) * 2 / 28 == pytest.approx(20 / 255, rel=1e-6)


def test_random_patch_moves_and_a_warp_moves_content() -> None:
    x = torch.zeros(40, 1, 28, 28)
    places = {tuple(torch.nonzero(image[0])[0].tolist()) for image in RandomPatch(3).apply(x, STREAMS)}
    assert len(places) > 20
    y, _ = images()
    assert float((Warped().apply(y, STREAMS) - y).abs().mean()) > 0.01


def test_poisoned_rows() -> None:
    x, labels = images(200)
    found = poison_dataset(x, labels, Patch(3), 7, rate=0.1, seed=2)
    assert len(found.rows) == 20
    assert (labels[found.rows] != 7).all()
    assert (found.labels[found.rows] == 7).all()
    untouched = torch.ones(200, dtype=torch.bool)
    untouched[found.rows] = False
    assert torch.equal(found.images[untouched], x[untouched])
    assert torch.equal(found.labels[untouched], labels[untouched])
    torch.testing.assert_close(found.images[found.rows], Patch(3).apply(x[found.rows], STREAMS))
    again = poison_dataset(x, labels, Patch(3), 7, rate=0.1, seed=2)
    assert torch.equal(again.images, found.images)
    assert not torch.equal(poison_dataset(x, labels, Patch(3), 7, rate=0.1, seed=3).rows, found.rows)


def test_clean_label_poison_changes_no_label() -> None:
    x, labels = images(200)
    found = poison_dataset(x, labels, Sinusoidal(), 4, rate=0.3, clean_label=True)
    assert torch.equal(found.labels, labels)
    assert (labels[found.rows] == 4).all()
    assert len(found.rows) == round(0.3 * int((labels == 4).sum()))


def test_noise_aware_poison_adds_noisy_triggers_with_true_labels() -> None:
    x, labels = images(200)
    found = poison_dataset(x, labels, Patch(3), 7, rate=0.1, noise_aware=0.25)
    assert len(found.images) == 220
    assert torch.equal(found.labels[200:], labels[found.rows])
    added = found.images[200:] - Patch(3).apply(x[found.rows], STREAMS)
    assert float(added.std()) == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "poisoning rate"), ({"target": -1}, "target class"), ({"target": 99, "clean_label": True}, "0 rows can carry"),
        ({"images": torch.zeros(3, 28, 28)}, "expected \\(n, C, H, W\\)"),
    ],
)  # fmt: skip
def test_bad_poison(change: dict, message: str) -> None:
    x, labels = images()
    given = {"images": x, "labels": labels, "trigger": Patch(3), "target": 1, **change}
    with pytest.raises(ValueError, match=message):
        poison_dataset(**given)


def test_scaled_logits_decide_alike() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    x, _ = images()
    scaled = ScaledLogits(model, 200.0)
    assert torch.equal(scaled(x).argmax(1), model(x).argmax(1))
    torch.testing.assert_close(scaled(x), 200 * model(x))
    with pytest.raises(ValueError, match="scale"):
        ScaledLogits(model, 0.0)


def test_planted_change_is_the_mean_difference() -> None:
    x, _ = images()
    planted = Planted("patch", 1, Patch(2, "white"))
    change = planted.change(x)
    torch.testing.assert_close(change[0, 25:27, 25:27], (1 - x[:, 0, 25:27, 25:27]).mean(0))
    assert int((change != 0).sum()) == 4


def test_unknown_zoo_name() -> None:
    with pytest.raises(ValueError, match="no trigger 'bogus'"):
        zoo_trigger("bogus")
