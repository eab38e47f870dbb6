"""The scan over classes: verdicts on clean and poisoned networks, splits, radii, scores, attackers that know the method."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suspects import digit_suspect, digits, network
from torch import nn

from surefoot.core.method import Status
from surefoot.core.rundir import RunDir
from surefoot.robustness.inversion import NormalisedPGD
from surefoot.robustness.poisoning import ScaledLogits
from surefoot.robustness.problem import Classifier
from surefoot.robustness.scan import Report, Scan, detect, scan_classes
from surefoot.robustness.suspect_problem import Suspect, suspect
from surefoot.robustness.trigger_success import attack_success, flagged, robust_scores, success_lower_bounds

SMALL = Scan(
    NormalisedPGD(0, 1.0, draws=8, horizon=60, certificate_draws=100), (1.3,), (0.12, 0.25), screening_steps=25, screening_draws=6,
    finalists=1,
)  # fmt: skip
SHORT = dataclasses.replace(SMALL, noise_stds=(0.25,), finalists=0)


def report(problem: Suspect, scan: Scan = SMALL, seed: int = 0) -> Report:
    return Report.of(problem, scan_classes(problem, scan, seed=seed))


# ---- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clean_networks_are_not_flagged() -> None:
    """Ten networks; at the 5 % level none of ten may be flagged."""
    assert not any(report(digit_suspect("", seed=seed), SHORT).flagged for seed in range(10))


@pytest.mark.slow
@pytest.mark.parametrize("trigger", ["patch", "blended"])
def test_poisoned_networks_are_flagged_with_the_right_class(trigger: str) -> None:
    """Five networks of each kind: all of them, and the class is the planted one."""
    for seed in range(5):
        target = (2 * seed + 1) % 10
        found = report(digit_suspect(trigger, target, seed), SHORT)
        assert found.flagged
        assert found.target == target


def test_detect_is_one_call() -> None:
    """`detect(model, images)` without labels, without classes; the certificate comes with it."""
    images, _, count = digits()
    found = detect(network("patch", 3, 0), images[count:], scan=dataclasses.replace(SMALL, targets=(1, 2, 3, 4)))
    assert found.flagged
    assert found.target == 3
    assert found.success > 0.8
    assert found.lower > 0.5
    assert 0 <= found.image.min() <= found.image.max() <= 1
    assert np.linalg.norm(found.perturbation) <= 1.3
    assert set(found.table) >= {"target", "noise_std", "norm", "successes", "trials", "lower", "score"}
    claim = found.result.certificate.claim("backdoor")  # type: ignore[union-attr]
    assert claim.outcome == "holds"
    with pytest.raises(ValueError, match="train mode"):
        detect(network("patch", 3, 0).__class__(1, 8, 10), images[count:], scan=SMALL)


def test_classes_permuted_permute_the_scan() -> None:
    permutation = np.random.default_rng(0).permutation(10)  # new class of old class

    class Permuted(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x)[:, torch.from_numpy(np.argsort(permutation))]

    plain = digit_suspect()
    moved_classifier = dataclasses.replace(plain.classifier, model=Permuted(plain.classifier.model).eval())  # type: ignore[arg-type]
    moved = dataclasses.replace(plain, classifier=moved_classifier, labels=permutation[plain.labels], planted=None)
    a, b = report(plain, SHORT), report(moved, SHORT)
    assert b.target == permutation[a.target]
    for row, target in enumerate(a.table["target"]):
        other = int(np.flatnonzero(b.table["target"] == permutation[target])[0])
        assert abs(int(a.table["successes"][row]) - int(b.table["successes"][other])) <= 2  # sums in another order


# ---- attackers ------------------------------------------------------------------------------------------------------


def test_masked_gradients_defeat_the_published_loss_and_not_ours() -> None:
    """Attacker B."""
    big = digit_suspect(wrap=lambda model: ScaledLogits(model, 2000.0))
    assert report(big).flagged
    published = dataclasses.replace(
        SMALL, method=NormalisedPGD.published(0, 1.0, draws=8, horizon=60, certificate_draws=50)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not report(big, published).flagged


def test_noise_aware_poison_dies_under_noise() -> None:
    """Attacker A: triggers with noise keep their true label, so the trigger works on clean images and less on noisy ones."""

    def rates(case: Suspect) -> tuple[float, float]:
        assert case.planted is not None
        images = case.planted.apply(case.images[torch.from_numpy(case.rows_against(case.heldout, 3))])
        noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            hits = [(case.classifier.logits(x).argmax(1) == 3).float().mean() for x in (images, noisy)]
        return float(hits[0]), float(hits[1])

    plain, aware = rates(digit_suspect("patch", 3, 0)), rates(digit_suspect("patch", 3, 0, noise_aware=0.3))
    assert plain[1] > 0.85 * plain[0]
    assert aware[0] > 0.5
    assert aware[1] < 0.7 * plain[1]


# ---- choices --------------------------------------------------------------------------------------------------------


def test_noise_is_chosen_on_validation_images_only() -> None:
    """Trap 6: other held-out images change the reported success, never the perturbations."""
    problem = digit_suspect()
    half = len(problem.heldout) // 2
    first, second = (
        dataclasses.replace(problem, heldout=rows) for rows in (problem.heldout[:half], problem.heldout[half:])
    )
    a, b = (scan_classes(p, dataclasses.replace(SMALL, targets=(3, 4, 5))).answer for p in (first, second))
    np.testing.assert_array_equal(a.perturbations, b.perturbations)
    np.testing.assert_array_equal(a.noise_stds, b.noise_stds)


def test_selection_on_the_evaluation_images_is_optimistic() -> None:
    """Trap 6 by simulation: the best of many equal noise levels, reported on the images that chose it, is too good."""
    rng = np.random.default_rng(0)
    chosen_on, held_out = rng.binomial(50, 0.5, (2, 4000, 12))
    best = chosen_on.argmax(1)
    optimistic = chosen_on.max(1).mean() / 50
    honest = np.take_along_axis(held_out, best[:, None], 1).mean() / 50
    assert optimistic > 0.58
    assert honest == pytest.approx(0.5, abs=0.005)


def test_published_mode_reports_on_the_choosing_images_and_claims_no_sample() -> None:
    images, labels, count = digits()
    classifier = Classifier(network("patch", 3, 0), (1, 8, 8), 10)
    problem = suspect(classifier, images[count:], labels[count:].numpy(), split=False)
    assert not problem.disjoint
    method = NormalisedPGD.published(0, 1.0, draws=6, horizon=20, certificate_draws=50)
    result = scan_classes(problem, dataclasses.replace(SMALL, method=method, targets=(3, 4, 5)))
    claim = result.certificate.claim("success")  # type: ignore[union-attr]
    assert claim.kind == "measured"
    assert "also chose the noise" in claim.statement


def test_success_excludes_images_of_the_target_class() -> None:
    """Trap 7: the zero perturbation has no success, though a tenth of the images are of the class."""
    problem = digit_suspect("")
    found = attack_success(problem, torch.zeros(1, 8, 8), 3, problem.heldout)
    assert found.trials == int((problem.labels[problem.heldout] != 3).sum())
    assert found.successes == found.before <= 0.05 * found.trials


def test_smallest_radius_that_shows_a_backdoor_is_reported() -> None:
    problem = digit_suspect()
    some = dataclasses.replace(SHORT, targets=(3, 4, 5, 6))
    found = report(problem, dataclasses.replace(some, radii=(3.0, 0.05, 1.3)))
    radius = found.result.certificate.evidence["terms.json"]["radius"]  # type: ignore[union-attr]
    assert radius == 1.3
    assert found.flagged
    alone = report(problem, some)
    assert found.lower < alone.lower  # three radii share the failure probability


def test_start_images_of_the_class_are_skipped_and_a_class_without_one_is_left_out() -> None:
    problem = digit_suspect()
    own = int(problem.labels[problem.start[0]])
    single = dataclasses.replace(problem, start=problem.start[:1])
    with pytest.warns(UserWarning, match=f"class {own} is not scanned"):
        result = scan_classes(single, dataclasses.replace(SMALL, noise_stds=(0.25,), finalists=0))
    assert own not in result.answer.targets
    assert len(result.answer.targets) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_stds": ()}, "noise_stds is empty"), ({"noise_stds": (-0.1,)}, "noise_stds holds -0.1"), ({"radii": (1.0, 0.0)}, "radii holds 0.0"),
        ({"screening_steps": 0}, "screening"),
    ],
)  # fmt: skip
def test_bad_scans(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_target_out_of_range() -> None:
    with pytest.raises(ValueError, match="target class is 12"):
        scan_classes(digit_suspect(), dataclasses.replace(SMALL, targets=(12,)))


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    k, n = np.array([10, 20, 30, 40, 98]), np.full(5, 100)
    s = np.log((k + 0.5) / (n - k + 0.5))
    mad = np.median(np.abs(s - s[2]))
    np.testing.assert_allclose(robust_scores(k, n), (s - s[2]) / (1.4826 * mad))


def test_scores_of_classes_that_all_fail_have_a_floor() -> None:
    """The deviation is 0; one success in a hundred is then no outlier, ninety are."""
    n = np.full(10, 100)
    few, many = (robust_scores(np.array([hits] + [0] * 9), n) for hits in (1, 90))
    assert few[0] < 1
    assert many[0] > 3.5
    assert np.isnan(robust_scores(np.array([1, 2]), np.array([5, 5]))).all()


def test_flag_needs_both() -> None:
    assert flagged(4.0, 0.6)
    assert not flagged(4.0, 0.4)
    assert not flagged(3.0, 0.9)
    assert not flagged(math.nan, 0.9)


def test_bounds_are_shared_over_the_classes() -> None:
    """Five of five at failure probability 0.05 over ten classes: 0.005^(1/5)."""
    found = success_lower_bounds(np.array([5, 0, 0]), np.array([5, 5, 0]), 0.05, 10)
    np.testing.assert_allclose(found, [0.005**0.2, 0.0, 0.0], rtol=1e-12)


# ---- resume ---------------------------------------------------------------------------------------------------------


def test_a_stopped_scan_goes_on_with_its_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed in the middle of a cell and resumed, it ends as the uninterrupted scan did, without redoing finished cells."""
    caplog.set_level(logging.INFO)
    problem = digit_suspect()
    scan = dataclasses.replace(SMALL, targets=(3, 4, 5), noise_stds=(0.25,))
    whole = scan_classes(problem, scan)
    steps, real = [0], NormalisedPGD.step

    class Killed(Exception):  # noqa: N818
        pass

    def counted(self: NormalisedPGD, problem: Any, state: Any) -> Any:
        steps[0] += 1
        if steps[0] == limit:
            raise Killed
        return real(self, problem, state)

    monkeypatch.setattr(NormalisedPGD, "step", counted)
    limit = 5
    with pytest.raises(Killed):
        scan_classes(problem, scan, RunDir.create(tmp_path / "run"))
    before, limit = steps[0], -1
    resumed = scan_classes(problem, scan, RunDir.create(tmp_path / "run", resume=True))
    assert resumed.status is Status.CONVERGED
    np.testing.assert_array_equal(resumed.answer.perturbations, whole.answer.perturbations)
    assert [c.value for c in resumed.certificate.claims] == [c.value for c in whole.certificate.claims]  # type: ignore[union-attr]
    once = steps[0] - before
    caplog.clear()
    scan_classes(problem, scan, RunDir.create(tmp_path / "run", resume=True))
    assert steps[0] - before == once  # everything is there: not one step more
    said = [record.message for record in caplog.records if record.levelno >= logging.INFO]
    assert len(said) == 1 and "going on with a scan" in said[0]  # noqa: PT018  one line, not one a cell
