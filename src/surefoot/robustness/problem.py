"""What the user brings: a classifier of images, the noise that smooths it, and images with labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from surefoot.core.problem import Constant
from surefoot.core.random import Streams
from surefoot.numerics.borders import require_positive
from surefoot.records.fingerprint import fingerprint
from surefoot.robustness.layers import Layer, layer_graph
from surefoot.robustness.networks import build
from surefoot.robustness.noise import Noise
from surefoot.robustness.plan import Plan

__all__ = [
    "Certification",
    "Classifier",
    "LabelledImages",
    "Layer",
    "Radii",
    "as_images",
    "as_labels",
    "layer_graph",
    "with_network",
]

Integers = np.ndarray[Any, np.dtype[np.int64]]
Model = Callable[[Tensor], Tensor]
PROBABILITY_SLACK = 1e-4


@dataclass(frozen=True, eq=False)
class Classifier:
    """A classifier ``f`` from images to logits, and the Gaussian noise ``N(0, sigma^2 I)`` that smooths it.

    Normalisation belongs inside the model: noise, radii and budgets are in the unit of the images.

    Args:
        model: a `torch.nn.Module` in eval mode, or any callable, from images ``(n, *shape)`` to logits ``(n, classes)``.
        shape: of one image, ``(channels, height, width)`` or any other.
        classes: number of classes, at least 2.
        sigma: standard deviation of the noise, in the unit of the images.
        value_range: smallest and largest value of an image; infinite ends for data without a range.
        lipschitz: a Lipschitz constant of the logits, L2 to L2, in logits per unit of the images, normalisation included;
            None where it is not known.
        device, dtype: where and in which precision the model works.
        differentiable: whether gradients flow through the model (through ONNX they do not).
        allow_train_mode: accept a module in train mode, where dropout and batch normalisation are active.
        identity: what defines a callable that is no module, for the fingerprint; added to a module's own weights. With the entry
            "trained" it stands for the weights: a network that a run trains itself is known by its data and its settings, and its
            weights, which differ in their last digits from machine to machine, are kept as evidence.
        names: of the classes.

    Raises:
        ValueError: with what was wrong, what was expected and what to do.
    """

    model: Model
    shape: tuple[int, ...]
    classes: int
    sigma: float = 0.25
    value_range: tuple[float, float] = (0.0, 1.0)
    lipschitz: Constant | None = None
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    differentiable: bool = True
    allow_train_mode: bool = False
    identity: Mapping[str, object] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_positive("sigma", self.sigma)
        object.__setattr__(self, "shape", tuple(int(s) for s in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"the image shape is {self.shape}; expected positive sizes such as (3, 32, 32)")
        if self.classes < 2:
            raise ValueError(f"the classifier has {self.classes} class; expected at least two")
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range is {self.value_range}; expected (smallest, largest)")
        if self.lipschitz is not None and not (self.lipschitz.value > 0 and math.isfinite(self.lipschitz.value)):
            raise ValueError(f"the Lipschitz constant is {self.lipschitz.value}; expected a positive finite number")
        if self.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype is {self.dtype}; expected a floating-point type such as torch.float32")
        if self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} class names for {self.classes} classes")
        self._check_module()

    def _check_module(self) -> None:
        if not isinstance(self.model, nn.Module):
            if not callable(self.model):
                raise TypeError(f"the model is a {type(self.model).__name__}; expected a torch module or a callable")
            return
        active = [name or type(m).__name__ for name, m in self.model.named_modules() if m.training]
        if active and not self.allow_train_mode:
            raise ValueError(
                f"the model is in train mode ({', '.join(active[:3])}): dropout and batch normalisation would be active; "
                "call model.eval(), or say allow_train_mode=True"
            )
        elsewhere = {str(p.device) for p in self.model.parameters() if p.device.type != torch.device(self.device).type}
        if elsewhere:
            raise ValueError(
                f"the model lives on {', '.join(elsewhere)} but device is {self.device!r}; move it with model.to()"
            )

    @property
    def dimension(self) -> int:
        """d, the numbers in one image."""
        return math.prod(self.shape)

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of images ``(n, *shape)``, checked; gradients flow where the model lets them.

        Raises:
            ValueError: the model's output has another shape, or is not finite.
        """
        output: Any = self.model(images)
        if not isinstance(output, Tensor) or output.shape != (len(images), self.classes):
            got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"the model returned {got} for {len(images)} images; expected logits of shape ({len(images)}, {self.classes})"
            )
        if (
            not math.isfinite(output.detach().sum()) and not torch.isfinite(output).all()
        ):  # a finite sum has finite terms
            raise ValueError(
                "the model returned NaN or infinite logits; check its weights, its normalisation and its precision"
            )
        return output

    def tensor(self, images: Any) -> Tensor:
        """Images as a tensor of the model's device and precision, after the checks of `as_images`."""
        return as_images(images, self.shape, self.value_range).to(device=self.device, dtype=self.dtype)

    def probe(self, images: Tensor) -> None:
        """Try the model on a few images: shape, finite logits, the same answer alone and in a batch.

        Warns where the output already looks like probabilities, of which softmax would be taken again.

        Raises:
            ValueError: the output is malformed, or depends on chance or on the other images of the batch.
        """
        few = self.tensor(images[:4])
        with torch.no_grad():
            together = self.logits(few)
            alone = torch.cat([self.logits(few[i : i + 1]) for i in range(len(few))])
            wide = self.logits(few + 3 * self.sigma * torch.linspace(-1, 1, self.dimension).to(few).view(self.shape))
        scale = float(together.abs().max()) + 1e-30
        room = 1e3 * torch.finfo(together.dtype).eps * scale
        if float((together - alone).abs().max()) > room:
            raise ValueError(
                "the model's logits of an image change from call to call or with the other images of the batch "
                "(dropout or batch statistics active?); expected a fixed function of the image"
            )
        outputs = torch.cat([together, wide])
        sums = outputs.sum(dim=1)
        if bool((outputs >= 0).all()) and float((sums - 1).abs().max()) < PROBABILITY_SLACK:
            warnings.warn(
                "the model's outputs look like probabilities, not logits; leave its last softmax out, or the soft maps "
                "take the softmax twice",
                stacklevel=2,
            )

    def fingerprint(self) -> str:
        """Hash of weights, architecture, noise and range; of `identity` for a plain callable."""
        if self.identity is not None and "trained" in self.identity:
            what: object = dict(self.identity)
        elif isinstance(self.model, nn.Module):
            layers = [(name, type(m).__name__, m.extra_repr()) for name, m in self.model.named_modules()]
            what = {"layers": layers, "weights": dict(self.model.state_dict()), "identity": self.identity}
        elif self.identity is not None:
            what = {"identity": self.identity}
        else:
            raise TypeError(
                "this Classifier is a plain callable; give `identity`, the numbers or hashes that define it"
            )
        bound = None if self.lipschitz is None else (self.lipschitz.value, self.lipschitz.known)
        return fingerprint("classifier", what, self.shape, self.classes, self.sigma, self.value_range, bound)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images in their declared range, with labels where they are known.

    Args:
        values: (n, *shape), floating point.
        labels: (n,) integers in 0 .. classes - 1; None where they are not known.
        names: of the images; their numbers by default.

    Raises:
        ValueError: empty, of unequal lengths, or with labels that are no classes.
    """

    values: Tensor
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim < 2 or len(self.values) == 0:
            raise ValueError(
                f"the images have shape {tuple(self.values.shape)}; expected (n, channels, height, width) with n >= 1"
            )
        if not self.values.dtype.is_floating_point:
            raise _integer_images(self.values)
        if self.labels is not None and self.labels.shape != (len(self.values),):
            raise ValueError(f"{self.labels.shape} labels for {len(self.values)} images; expected one integer an image")
        names = self.names or tuple(str(i) for i in range(len(self.values)))
        if len(names) != len(self.values):
            raise ValueError(f"{len(names)} names for {len(self.values)} images")
        object.__setattr__(self, "names", tuple(names))

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.values)

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any] | slice) -> LabelledImages:
        """Some of the images, in the order asked for."""
        chosen = np.arange(len(self))[rows]
        labels = None if self.labels is None else self.labels[chosen]
        return LabelledImages(self.values[torch.from_numpy(chosen)], labels, tuple(self.names[i] for i in chosen))

    def for_classifier(self, classifier: Classifier) -> LabelledImages:
        """The same images after the border checks against a classifier's shape, range and classes."""
        values = as_images(self.values, classifier.shape, classifier.value_range)
        labels = None if self.labels is None else as_labels(self.labels, classifier.classes, len(self))
        return LabelledImages(values, labels, self.names)

    def fingerprint(self) -> str:
        """Hash of pixels and labels."""
        return fingerprint("images", self.values, self.labels)


def as_images(images: Any, shape: tuple[int, ...], value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Images as a floating-point tensor ``(n, *shape)``; one image alone becomes a batch of one.

    Raises:
        ValueError: integers, another shape, NaN, or values outside the range, each with what to do.
    """
    tensor = images if isinstance(images, Tensor) else torch.as_tensor(np.asarray(images))
    if not tensor.dtype.is_floating_point:
        raise _integer_images(tensor)
    if tuple(tensor.shape) == shape:
        tensor = tensor.unsqueeze(0)
    if tuple(tensor.shape[1:]) != shape or len(tensor) == 0:
        raise ValueError(f"the images have shape {tuple(tensor.shape)}; expected (n, {', '.join(map(str, shape))})")
    if not torch.isfinite(tensor).all():
        raise ValueError("the images hold NaN or infinite values; clean them first")
    low, high = float(tensor.min()), float(tensor.max())
    if low < value_range[0] or high > value_range[1]:
        raise ValueError(
            f"the images span [{low:g}, {high:g}], outside the range [{value_range[0]:g}, {value_range[1]:g}]; scale them "
            "(8-bit pixels: divide by 255) and put the normalisation into the model"
        )
    return tensor


def as_labels(labels: Any, classes: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Labels as int64 ``(count,)``.

    Raises:
        ValueError: not integers, another number of them, or outside 0 .. classes - 1.
    """
    array = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if array.shape != (count,):
        raise ValueError(f"the labels have shape {array.shape}; expected ({count},), one an image")
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and np.array_equal(array, np.round(array))):
        raise ValueError(f"the labels are {array.dtype}; expected integers 0 .. {classes - 1}")
    array = array.astype(np.int64)
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"label {int(array.min() if array.min() < 0 else array.max())} is out of range; the model has classes 0 .. {classes - 1}"
        )
    return array


def _integer_images(tensor: Tensor) -> ValueError:
    return ValueError(
        f"the images are {str(tensor.dtype).removeprefix('torch.')}; expected floating-point values in the declared range "
        "(8-bit pixels: divide by 255)"
    )


@dataclass(frozen=True, eq=False)
class Certification:
    """Certify images against L2 changes, for one smoothed classifier, by one statistical plan.

    Args:
        classifier: with its sigma.
        images: in the classifier's range; labels only for accuracies.
        plan: draws, confidence and candidates.
        noise: how the draws are made.

    Raises:
        ValueError: images or labels that the classifier cannot have.
    """

    classifier: Classifier
    images: LabelledImages
    plan: Plan = field(default_factory=Plan)
    noise: Noise = field(default_factory=Noise)

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", self.images.for_classifier(self.classifier))

    @property
    def base_lipschitz(self) -> float:
        """Of the logits; inf where none is known (an estimate proves nothing, so it does not count)."""
        known = self.classifier.lipschitz
        return math.inf if known is None or known.known == "estimated" else known.value

    def noisy_logits(self, streams: Streams, purpose: str, image: int, block: int, draws: int) -> Tensor:
        """Logits (rows, classes) of one block of noisy copies of an image, without gradients."""
        pixels = self.images.values[image].to(device=self.classifier.device, dtype=self.classifier.dtype)
        with torch.no_grad():
            noisy = self.noise.noisy(pixels, self.classifier.sigma, streams, purpose, image, block, draws)
            return self.classifier.logits(noisy)

    def fingerprint(self) -> str:
        """Hash of classifier, images, plan and noise."""
        return fingerprint(
            "certification", self.classifier.fingerprint(), self.images.fingerprint(), self.plan, self.noise
        )


def with_network(problem: Certification, weights: Mapping[str, Any]) -> Certification:
    """The same certification with the weights that a run trained and kept.

    Args:
        weights: arrays by the parameters' names; the architecture is the classifier's own.

    Raises:
        UnsafeFileError: they do not fit.
    """
    architecture: Any = getattr(problem.classifier.model, "architecture", {})
    model = build(architecture, {name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    model = model.to(device=problem.classifier.device, dtype=problem.classifier.dtype)
    return replace(problem, classifier=replace(problem.classifier, model=model))


@dataclass(frozen=True, eq=False)
class Radii:
    """Certificates of a set of images, in Cohen's terms.

    Args:
        index: (N,) the images.
        label: (N,) their classes, -1 where unknown.
        predicted: (N,) the class of the smoothed classifier, -1 where it abstains.
        radius: (N,) float64, in the unit of the images; 0 where it abstains.
    """

    index: Integers
    label: Integers
    predicted: Integers
    radius: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def correct(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where the class is the label."""
        return (self.predicted == self.label) & (self.predicted >= 0)

    def accuracy(self, radius: Any) -> Any:
        """Share of images whose class is right and certified at these radii (>=); abstentions count as wrong."""
        reach = np.where(self.correct, self.radius, -1.0)
        return (reach[:, None] >= np.atleast_1d(np.asarray(radius, dtype=np.float64))).mean(axis=0)

    @property
    def average(self) -> float:
        """ACR: the mean of radius times correct."""
        return float(np.mean(np.where(self.correct, self.radius, 0.0)))
