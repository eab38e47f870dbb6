"""The claims: coverage of the statistical ones, consistency of the negative certificate, refutation of false ones."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from suspects import digit_suspect, linear_suspect

from surefoot.core.solve import solve
from surefoot.core.verify import verify
from surefoot.robustness.certify_inversion import certified_radius, fidelity
from surefoot.robustness.inversion import Inversions, NormalisedPGD
from surefoot.robustness.networks import LinearNet
from surefoot.robustness.poisoning import Patch, Planted
from surefoot.robustness.problem import Classifier
from surefoot.robustness.scan import Scan, scan_classes
from surefoot.robustness.suspect_problem import Suspect
from surefoot.robustness.trigger_success import attack_success, noisy_counts, success_lower_bounds
from surefoot.robustness.verify_inversion import CHECKS

REPEATS, ALPHA = 2000, 0.05


def too_many(misses: int) -> bool:
    """One-sided binomial test at 0.1 %: more misses than the failure probability explains."""
    return bool(stats.binom.sf(misses - 1, REPEATS, ALPHA) < 1e-3)


def test_success_bounds_cover_for_all_classes_together() -> None:
    """Images drawn anew 2,000 times; the true success of three fixed perturbations is known in closed form."""
    rng = np.random.default_rng(0)
    model = LinearNet(1, 3).double()
    with torch.no_grad():  # class 1 right of 0.7, class 2 left of 0.2, class 0 between
        model.out.weight.copy_(torch.tensor([[0.0], [1.0], [-1.0]]))
        model.out.bias.copy_(torch.tensor([0.0, -0.7, 0.2]))
    classifier = Classifier(model.eval(), (1, 1, 1), 3, dtype=torch.float64)
    deltas = {0: 0.15, 1: 0.45, 2: -0.3}  # labels are all "3": no image is excluded
    # x uniform on [0, 1]: P(0.2 < x + .15 < .7), P(x + .45 > .7), P(x - .3 < .2)
    truth = {0: 0.55 - 0.05, 1: 1 - 0.25, 2: 0.5}
    misses, n = 0, 60
    for _ in range(REPEATS):
        images = torch.from_numpy(rng.random((n, 1, 1, 1)))
        rows = np.arange(n)
        labels = np.zeros(n, dtype=int)
        problem = Suspect.__new__(Suspect)
        for name, value in {"classifier": classifier, "images": images, "labels": labels + 9}.items():
            object.__setattr__(problem, name, value)
        found = [attack_success(problem, torch.tensor([[[d]]]).double(), t, rows) for t, d in deltas.items()]
        lower = success_lower_bounds(np.array([f.successes for f in found]), np.full(3, n), ALPHA, 3)
        misses += any(bound > truth[t] for bound, t in zip(lower, deltas, strict=True))
    assert not too_many(misses)
    assert misses > 10  # and it is not vacuous: the bounds are of the right size


def test_certified_radii_cover() -> None:
    """A linear classifier: the smoothed decision changes at exactly |margin| / |a|, whatever the noise."""
    rng = np.random.default_rng(1)
    sigma, distance, draws = 0.25, 0.2, 80
    p = stats.norm.cdf(distance / sigma)
    votes = rng.binomial(draws, p, REPEATS)
    misses = sum(certified_radius(int(k), draws, sigma, ALPHA)[1] > distance for k in votes)
    assert not too_many(misses)
    assert misses > 20


def test_radius_by_hand() -> None:
    """All of 1,000 votes at 0.001: p = 0.001^(1/1000), R = sigma Phi^-1(p)."""
    p, radius = certified_radius(1000, 1000, 0.5, 0.001)
    assert p == pytest.approx(0.001**0.001, rel=1e-12)
    assert radius == pytest.approx(0.5 * stats.norm.ppf(0.001**0.001), rel=1e-9)
    assert certified_radius(500, 1000, 0.5, 0.001)[1] == 0.0


def test_no_inversion_flips_what_is_certified() -> None:
    """Whenever the certified radius reaches the budget, descent with that budget leaves the smoothed majority unchanged."""
    issued = 0
    for seed in range(6):
        problem, _ = linear_suspect(scale=2.0, seed=seed)
        radius = 0.03
        method = NormalisedPGD(
            1, radius, 0.25, draws=10, horizon=40, certificate_draws=2000, keep="last", stop_probability=1.0
        )
        problem = dataclasses.replace(problem, images=problem.images - 0.1 * _direction(problem))
        result = solve(problem, method)
        claim = result.certificate.claim("no-trigger-within")  # type: ignore[union-attr]
        if claim.outcome != "holds":
            continue
        issued += 1
        row = int(result.answer.starts[0])
        z = torch.randn(4000, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for delta in (0.0, torch.from_numpy(result.answer.perturbations[0]).double()):
            assert int(noisy_counts(problem, problem.images[row] + delta, z, 0.25).argmax()) == 0
    assert issued >= 4


def _direction(problem: Suspect) -> torch.Tensor:
    a = problem.classifier.model.out.weight.detach()  # type: ignore[union-attr]
    direction = (a[1] - a[0]).view(1, 4, 4)
    return direction / direction.norm()


def test_probability_agrees_with_an_independent_estimate() -> None:
    problem = digit_suspect()
    result = solve(problem, NormalisedPGD(3, 1.0, 0.25, draws=8, horizon=30, certificate_draws=1000))
    claim = result.certificate.claim("probability")  # type: ignore[union-attr]
    point = problem.images[int(result.answer.starts[0])] + torch.from_numpy(result.answer.perturbations[0])
    total, generator = 0.0, torch.Generator().manual_seed(99)
    with torch.no_grad():
        for _ in range(100):
            z = torch.randn(1000, 1, 8, 8, generator=generator)
            total += float(torch.softmax(problem.classifier.logits(point + 0.25 * z), 1)[:, 3].sum())
    low, high = result.certificate.evidence["probability.json"]["interval"]  # type: ignore[union-attr]
    assert low <= total / 1e5 <= high
    assert low < float(claim.value) < high  # type: ignore[arg-type]


def test_stationarity_is_small_at_the_optimum_and_large_elsewhere() -> None:
    problem, _ = linear_suspect()
    method = NormalisedPGD(1, 0.3, 0.25, draws=200, horizon=150, keep="last", stop_probability=1.0, halve_every=25)
    at_optimum = solve(problem, method).certificate.claim("stationarity").value  # type: ignore[union-attr]
    short = dataclasses.replace(method, horizon=1)
    elsewhere = solve(problem, short).certificate.claim("stationarity").value  # type: ignore[union-attr]
    assert float(at_optimum) < 0.01  # type: ignore[arg-type]
    assert float(elsewhere) > 0.2  # type: ignore[arg-type]


# ---- fidelity -------------------------------------------------------------------------------------------------------


def test_fidelity_of_the_trigger_itself_and_of_noise() -> None:
    problem = digit_suspect()
    assert problem.planted is not None
    mask = problem.planted.trigger.mask((1, 8, 8))
    change = problem.planted.change(problem.images[torch.from_numpy(problem.rows_against(problem.heldout, 3))])
    itself = fidelity(problem, change, problem.planted)
    assert itself.energy_share == pytest.approx(1.0)
    assert itself.overlap == 1.0
    assert itself.cosine == pytest.approx(1.0)
    assert itself.success > 0.9
    flat = fidelity(problem, torch.full((1, 8, 8), 0.1), problem.planted)
    assert flat.energy_share == pytest.approx(float(mask.mean()))
    assert flat.cosine == pytest.approx(float(change.sum() / (8 * change.norm())), rel=1e-5)


def test_smoothing_finds_the_patch_better_than_plain_descent() -> None:
    """The paper's message, on the planted pixels: mean energy share over five start images."""
    problem = digit_suspect()
    assert problem.planted is not None
    shares: dict[float, list[float]] = {0.0: [], 0.5: []}
    for row in problem.start_rows(3, 8):
        alone = dataclasses.replace(problem, start=np.array([row]))
        for sigma, found in shares.items():
            method = NormalisedPGD.published(3, 2.6, sigma, draws=12 if sigma else 1, horizon=60)
            delta = solve(alone, method, certify=False).answer.perturbations[0]
            found.append(fidelity(problem, torch.from_numpy(delta), problem.planted).energy_share)
    assert np.mean(shares[0.5]) > 1.1 * np.mean(shares[0.0])


# ---- checking -------------------------------------------------------------------------------------------------------

SMALL = Scan(
    NormalisedPGD(0, 1.0, draws=8, horizon=40, certificate_draws=100), (1.3,), (0.12, 0.25), (3, 4, 5), screening_steps=20, screening_draws=6,
    finalists=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> tuple[Suspect, Any]:
    problem = digit_suspect()
    return problem, scan_classes(problem, SMALL)


def verdicts(problem: Suspect, result: Any, answer: Any = None, certificate: Any = None, **more: Any) -> dict[str, str]:
    checked = verify(certificate or result.certificate, CHECKS, problem, answer or result.answer, full=True, **more)
    return {v.claim: v.verdict for v in checked}


def test_all_claims_are_confirmed(found: tuple[Suspect, Any]) -> None:
    assert set(verdicts(*found).values()) == {"confirmed"}


def test_another_perturbation_is_refuted(found: tuple[Suspect, Any]) -> None:
    problem, result = found
    weaker = dataclasses.replace(result.answer, perturbations=0.5 * result.answer.perturbations)
    said = verdicts(problem, result, weaker)
    assert said["norm"] == said["success"] == said["backdoor"] == "refuted"


def test_a_perturbation_outside_the_box_is_refuted(found: tuple[Suspect, Any]) -> None:
    problem, result = found
    outside = result.answer.perturbations.copy()
    outside[0, 0, 0, 0] = -problem.images[int(result.answer.starts[0]), 0, 0, 0] - 1e-6
    said = verdicts(problem, result, dataclasses.replace(result.answer, perturbations=outside))
    assert said["box"] == "refuted"


def test_a_measured_success_cannot_be_called_a_sample(found: tuple[Suspect, Any]) -> None:
    """The same table, but the held-out images are those that chose: the statistical claim is refuted."""
    problem, result = found
    overlapping = dataclasses.replace(problem, validation=problem.heldout)
    certificate = dataclasses.replace(result.certificate, fingerprint=overlapping.fingerprint())
    said = verdicts(overlapping, result, certificate=certificate)
    assert said["success"] == "refuted"


def test_a_stronger_kind_is_refuted(found: tuple[Suspect, Any]) -> None:
    problem, result = found
    claims = tuple(
        dataclasses.replace(c, kind="proved") if c.name == "probability" else c for c in result.certificate.claims
    )
    said = verdicts(problem, result, certificate=dataclasses.replace(result.certificate, claims=claims))
    assert said["probability"] == "refuted"


def test_another_model_is_unchecked(found: tuple[Suspect, Any]) -> None:
    _, result = found
    assert set(verdicts(digit_suspect(seed=1), result).values()) == {"unchecked"}


def test_fingerprint_depends_on_all_that_claims_rest_on() -> None:
    problem = digit_suspect()
    prints = {problem.fingerprint(), digit_suspect(seed=1).fingerprint()}
    prints.add(dataclasses.replace(problem, heldout=problem.heldout[1:]).fingerprint())
    prints.add(dataclasses.replace(problem, labels=(problem.labels + 1) % 10).fingerprint())
    denoiser: Any = lambda x, sigma: x  # noqa: E731
    with pytest.raises(TypeError, match="identity"):
        dataclasses.replace(problem, denoiser=denoiser).fingerprint()
    denoiser.identity = "none at all"
    prints.add(dataclasses.replace(problem, denoiser=denoiser).fingerprint())
    assert len(prints) == 5


def test_norms_are_proved_in_exact_arithmetic(found: tuple[Suspect, Any]) -> None:
    _, result = found
    from fractions import Fraction

    for delta in result.answer.perturbations:
        assert sum(Fraction(float(d)) ** 2 for d in delta.ravel()) <= Fraction(1.3) ** 2
    claim = result.certificate.claim("norm")
    assert math.isclose(float(claim.value), max(np.linalg.norm(d.astype(float)) for d in result.answer.perturbations))


def test_planted_class_that_was_missed_fails(found: tuple[Suspect, Any]) -> None:
    problem, result = found
    wrong = dataclasses.replace(problem, planted=Planted("patch", 5, Patch(2, "white", 0, 0)))
    again = scan_classes(wrong, SMALL)
    claim = again.certificate.claim("planted-class")  # type: ignore[union-attr]
    assert claim.outcome == "fails"
    assert verdicts(wrong, again)["planted-class"] == "confirmed"
    assert isinstance(result.answer, Inversions)
