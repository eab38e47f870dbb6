"""The border: what a classifier, images and labels must be, each refusal by name; and a user's model from its files."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from surefoot.core.problem import Constant
from surefoot.core.system import Inputs
from surefoot.records.files import UnsafeFileError
from surefoot.robustness.networks import LinearNet, SmallCNN, load_network, save_network, train_small_cnn
from surefoot.robustness.problem import Classifier, LabelledImages, as_images, as_labels
from surefoot.robustness.recipes import load_classifier, load_weights

SHAPE = (1, 8, 8)


def net() -> nn.Module:
    torch.manual_seed(0)
    return SmallCNN(1, 8, 3).eval()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sigma": 0.0}, "sigma must be a positive"),
        ({"sigma": float("nan")}, "sigma must be a positive"),
        ({"classes": 1}, "1 class"),
        ({"shape": (1, 0, 8)}, "image shape"),
        ({"value_range": (1.0, 0.0)}, "value_range"),
        ({"dtype": torch.int64}, "floating-point type"),
        ({"lipschitz": Constant(-1.0, "declared")}, "Lipschitz"),
        ({"names": ("a",)}, "class names"),
    ],
)
def test_a_wrong_classifier_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Classifier(**{"model": net(), "shape": SHAPE, "classes": 3, **change})


def test_train_mode_is_refused_or_said() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    with pytest.raises(ValueError, match=r"train mode.*model\.eval\(\)"):
        Classifier(model, SHAPE, 3)
    active = Classifier(model, SHAPE, 3, allow_train_mode=True)
    with pytest.raises(ValueError, match="change from call to call"):
        active.probe(torch.rand(4, *SHAPE))
    Classifier(model.eval(), SHAPE, 3).probe(torch.rand(4, *SHAPE))


def test_statistics_of_the_batch_are_noticed() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 3)).eval()

    def centred(x: torch.Tensor) -> torch.Tensor:
        return model[2](x.flatten(1) - x.flatten(1).mean(0))

    with pytest.raises(ValueError, match="other images of the batch"):
        Classifier(centred, SHAPE, 3, identity={}).probe(torch.rand(4, *SHAPE))


def test_bad_outputs_are_refused_by_name() -> None:
    images = torch.rand(2, *SHAPE)
    nan = Classifier(lambda x: torch.full((len(x), 3), torch.nan), SHAPE, 3, identity={})
    with pytest.raises(ValueError, match="NaN or infinite logits"):
        nan.logits(images)
    wide = Classifier(lambda x: torch.zeros(len(x), 4), SHAPE, 3, identity={})
    with pytest.raises(ValueError, match=re.escape("expected logits of shape (2, 3)")):
        wide.logits(images)


def test_probabilities_are_warned_about_and_logits_are_not() -> None:
    with pytest.warns(UserWarning, match="look like probabilities"):
        Classifier(nn.Sequential(net(), nn.Softmax(1)).eval(), SHAPE, 3).probe(torch.rand(4, *SHAPE))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Classifier(net(), SHAPE, 3).probe(torch.rand(4, *SHAPE))


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (torch.rand(2, *SHAPE) * 255, r"span \[.*divide by 255"),
        (-torch.rand(2, *SHAPE), "outside the range"),
        (torch.randint(0, 255, (2, *SHAPE)), "are int64; expected floating-point"),
        (np.zeros((2, 1, 8, 8), dtype=np.uint8), "are uint8"),
        (torch.full((2, *SHAPE), torch.nan), "NaN"),
        (torch.rand(2, 1, 9, 8), r"expected \(n, 1, 8, 8\)"),
        (torch.rand(0, *SHAPE), "shape"),
    ],
)
def test_bad_images_are_refused_by_name(images: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_images(images, SHAPE)


def test_one_image_is_a_batch_of_one() -> None:
    assert as_images(torch.rand(*SHAPE), SHAPE).shape == (1, *SHAPE)


@pytest.mark.parametrize(
    ("labels", "says"),
    [([0, 3], "label 3 is out of range"), ([-1, 0], "label -1"), ([0.5, 1], "expected integers"), ([0], r"\(2,\)")],
)
def test_bad_labels_are_refused_by_name(labels: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_labels(np.array(labels), 3, 2)


def test_the_fingerprint_follows_weights_noise_and_range() -> None:
    model = net()
    base = Classifier(model, SHAPE, 3, sigma=0.5).fingerprint()
    assert base == Classifier(net(), SHAPE, 3, sigma=0.5).fingerprint()
    assert base != Classifier(model, SHAPE, 3, sigma=0.25).fingerprint()
    with torch.no_grad():
        model.out.bias += 1e-6  # type: ignore[union-attr]
    assert base != Classifier(model, SHAPE, 3, sigma=0.5).fingerprint()
    with pytest.raises(TypeError, match="identity"):
        Classifier(lambda x: x, SHAPE, 3).fingerprint()


def test_images_are_taken_by_rows_with_labels_and_names() -> None:
    three = LabelledImages(torch.rand(3, *SHAPE), np.array([2, 1, 0]), ("a", "b", "c"))
    two = three.take([2, 0])
    assert two.names == ("c", "a")
    assert two.labels is not None
    assert two.labels.tolist() == [0, 2]
    assert torch.equal(two.values[1], three.values[0])


# ---- a user's model from its files ------------------------------------------------------------------------------
def write_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (folder / f"{name}.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def test_a_recipe_takes_its_weights_from_safetensors_or_plain_pt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_recipe(tmp_path, monkeypatch, "my_linear_model")
    weights = {"1.weight": torch.randn(3, 64), "1.bias": torch.zeros(3)}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    images = torch.rand(2, *SHAPE)
    for name in ("w.safetensors", "w.pt"):
        inputs = Inputs({"model": "my_linear_model:build", "weights": str(tmp_path / name)}, trust=True)
        classifier = load_classifier(inputs, images, sigma=0.5)
        assert classifier.classes == 3
        assert torch.allclose(classifier.logits(images), images.flatten(1) @ weights["1.weight"].T)
        recipe = next(r for r in inputs.records if r["origin"] == "recipe")
        assert len(recipe["sha256"]) == 64  # of the file that holds the code
    with pytest.raises(UnsafeFileError, match="imported only by"):
        load_classifier(Inputs({"model": "my_linear_model:build"}), images, sigma=0.5)


def test_weights_that_do_not_fit_or_are_code_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recipe(tmp_path, monkeypatch, "my_other_model")
    save_file({"1.weight": torch.randn(4, 64)}, tmp_path / "w.safetensors")
    inputs = Inputs({"model": "my_other_model:build", "weights": str(tmp_path / "w.safetensors")}, trust=True)
    with pytest.raises(ValueError, match="do not fit the recipe"):
        load_classifier(inputs, torch.rand(2, *SHAPE), sigma=0.5)
    torch.save(net(), tmp_path / "whole.pt")  # a pickled module
    with pytest.raises(UnsafeFileError, match="not a file of plain weights"):
        load_weights(tmp_path / "whole.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(UnsafeFileError, match="not a safetensors"):
        load_weights(tmp_path / "junk.safetensors")


def test_an_exported_program_is_code_and_gives_the_same_logits(tmp_path: Path) -> None:
    model = net()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (torch.rand(2, *SHAPE),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, tmp_path / "net.pt2")
    images = torch.rand(5, *SHAPE)
    with pytest.raises(UnsafeFileError, match="exported program"):
        load_classifier(Inputs({"model": str(tmp_path / "net.pt2")}), images, sigma=0.5)
    classifier = load_classifier(Inputs({"model": str(tmp_path / "net.pt2")}, trust=True), images, sigma=0.5)
    assert torch.allclose(classifier.logits(images), model(images), atol=1e-6)
    assert classifier.fingerprint()


def test_an_exported_program_of_fixed_batch_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(net(), (torch.rand(2, *SHAPE),)), tmp_path / "fixed.pt2")
    with pytest.raises(ValueError, match="batches of one and of three"):
        load_classifier(Inputs({"model": str(tmp_path / "fixed.pt2")}, trust=True), torch.rand(2, *SHAPE), sigma=0.5)


def test_onnx_runs_where_it_is_installed_and_says_so_where_not(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not onnx")
    inputs = Inputs({"model": str(tmp_path / "net.onnx")})
    try:
        import onnxruntime  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        with pytest.raises(ImportError, match=r"surefoot\[onnx\]"):
            load_classifier(inputs, torch.rand(2, *SHAPE), sigma=0.5)
    else:
        with pytest.raises(UnsafeFileError, match="not a readable ONNX"):
            load_classifier(inputs, torch.rand(2, *SHAPE), sigma=0.5)


def test_a_network_of_the_package_needs_no_code(tmp_path: Path) -> None:
    model = net()
    save_network(tmp_path / "net.safetensors", model)
    images = torch.rand(2, *SHAPE)
    classifier = load_classifier(Inputs({"model": str(tmp_path / "net.safetensors")}), images, sigma=0.5)
    assert torch.equal(classifier.logits(images), model(images))
    save_file({"w": torch.zeros(2)}, tmp_path / "bare.safetensors")
    assert load_network(tmp_path / "bare.safetensors") is None
    with pytest.raises(ValueError, match="names no architecture"):
        load_classifier(Inputs({"model": str(tmp_path / "bare.safetensors")}), images, sigma=0.5)
    save_file({"w": torch.zeros(2)}, tmp_path / "bad.safetensors", {"surefoot.network": '{"name": "os.system"}'})
    with pytest.raises(UnsafeFileError, match="none of the architectures"):
        load_network(tmp_path / "bad.safetensors")
    save_file(
        {"w": torch.zeros(2)}, tmp_path / "big.safetensors", {"surefoot.network": '{"name": "linear", "pixels": 1e12}'}
    )
    with pytest.raises(UnsafeFileError, match="none of the architectures"):
        load_network(tmp_path / "big.safetensors")
    with pytest.raises(ValueError, match="none of the architectures"):
        save_network(tmp_path / "x.safetensors", nn.Linear(2, 2))


# ---- training -----------------------------------------------------------------------------------------------------
def test_training_repeats_whatever_the_global_generator_does_and_learns() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(256) % 3
    images = 0.2 * torch.rand(256, *SHAPE, generator=generator)
    images[labels == 1, :, :4] += 0.5
    images[labels == 2, :, 4:] += 0.5
    torch.manual_seed(5)
    first = train_small_cnn(images, labels, noise=0.25, seed=3, epochs=12, batch=32)
    torch.manual_seed(6)
    again = train_small_cnn(images, labels, noise=0.25, seed=3, epochs=12, batch=32)
    other = train_small_cnn(images, labels, noise=0.25, seed=4, epochs=12, batch=32)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.out.weight, other.out.weight)
    assert not first.training
    noisy = images + 0.25 * torch.randn(images.shape, generator=generator)
    assert float((first(noisy).argmax(1) == labels).float().mean()) > 0.9


def test_the_training_noise_is_fresh_in_every_epoch() -> None:
    seen: list[torch.Tensor] = []

    class Spy(LinearNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.detach().clone())
            return super().forward(images)

    from surefoot.robustness.networks import train

    train(Spy(64, 2), torch.zeros(8, *SHAPE), np.zeros(8, dtype=int), noise=1.0, epochs=2, batch=8)
    assert len(seen) == 2
    assert not torch.equal(seen[0].sort(0).values, seen[1].sort(0).values)


def test_a_recipe_in_train_mode_is_refused_where_it_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modal_recipes.py").write_text(
        "from torch import nn\n"
        "def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))\n"
        "def dropout(): return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3))\n"
        "def ready(): return dropout().eval()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    images = torch.rand(4, 1, 4, 4)

    def load(name: str):
        inputs = Inputs(trust=True)
        inputs.give({"model": f"modal_recipes:{name}"})
        return load_classifier(inputs, images, sigma=0.5)

    assert not load("plain").model.training
    assert not load("ready").model.training
    with pytest.raises(ValueError, match=r"train mode.*dropout"):
        load("dropout")
