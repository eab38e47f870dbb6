"""Certificates against classifiers whose exact radii are known; coverage; the same numbers whatever the batch; the traps."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from statsmodels.stats.proportion import proportion_confint
from torch import nn

from surefoot.core.problem import Constant
from surefoot.core.random import Streams
from surefoot.core.solve import solve
from surefoot.robustness.estimate import certify_logits, estimate_counts, estimate_scores
from surefoot.robustness.maps import HARDMAX, SimplexMap, grid
from surefoot.robustness.noise import Noise
from surefoot.robustness.paper import released_radius
from surefoot.robustness.plan import Choice, Plan, Strategy, buckets
from surefoot.robustness.problem import Certification, Classifier, LabelledImages
from surefoot.robustness.radius import inverse_ramp, one_class_radius, smoothed_ramp
from surefoot.robustness.smoothing import CertifyRadii

SIGMA = 0.5
SHAPE = (1, 2, 2)
COVERAGE = {"draws": 200, "selection_draws": 100, "alpha": 0.05}


class Halfspace(nn.Module):
    """Two classes on either side of a hyperplane, by logits (slope t, -slope t), t the signed distance.

    Through sparsemax with b = 1 it is the ramp of that slope, through hardmax the step.
    """

    def __init__(self, slope: float = 1.0) -> None:
        super().__init__()
        self.slope = slope
        self.register_buffer("normal", torch.full((4,), 0.5))  # of length one

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        t = self.slope * (images.flatten(1) @ self.normal - 1.0)  # type: ignore[operator]
        return torch.stack([t, -t], dim=1)


def at_distance(t: float, copies: int = 1) -> LabelledImages:
    """Images at that distance from the hyperplane."""
    return LabelledImages(torch.full((copies, *SHAPE), (1.0 + t) / 2), np.zeros(copies, dtype=np.int64))


def halfspace(slope: float = 1.0, known: bool = False) -> Classifier:
    lipschitz = Constant(math.sqrt(2) * slope, "exact") if known else None
    return Classifier(Halfspace(slope).eval(), SHAPE, 2, SIGMA, lipschitz=lipschitz, identity={"slope": slope})


def radii(classifier: Classifier, images: LabelledImages, plan: Plan, noise: Noise | None = None, **more: Any) -> Any:
    return solve(
        Certification(classifier, images, plan, noise or Noise()), CertifyRadii(), certify=False, **more
    ).answer


def allowed(repeats: int, alpha: float) -> int:
    """Most misses that a one-sided binomial test at 0.1 % lets pass."""
    return int(stats.binom.ppf(0.999, repeats, alpha))


# ---- known answers ------------------------------------------------------------------------------------------------
def test_the_exact_probability_of_a_halfspace_gives_the_exact_distance() -> None:
    t = 0.4
    assert float(one_class_radius(special.ndtr(t / SIGMA), SIGMA)) == pytest.approx(t, rel=1e-12)


@pytest.mark.parametrize("forms", [("one-class",), ("two-class",), ("margin",)])
def test_many_draws_approach_the_distance_from_below(forms: Any) -> None:
    plan = Plan(draws=40_000, selection_draws=500, maps=(HARDMAX,), forms=forms)
    found = radii(halfspace(), at_distance(0.4), plan)
    assert 0.36 < found.radius[0] < 0.4
    assert found.predicted.tolist() == [0]


@pytest.mark.parametrize("forms", [("one-class",), ("two-class",), ("margin",)])
def test_the_lipschitz_constant_of_a_ramp_buys_the_exact_distance(forms: Any) -> None:
    """At slope 1 and distance 0.4 the ramp's radius is 0.4; without the constant the same scores are worth much less."""
    plan = Plan(draws=40_000, selection_draws=500, maps=(SimplexMap("sparsemax"),), forms=forms)
    known = radii(halfspace(known=True), at_distance(0.4), plan).radius[0]
    unknown = radii(halfspace(), at_distance(0.4), plan).radius[0]
    exact = SIGMA * float(special.ndtri(float(smoothed_ramp(0.4, SIGMA, 1.0))))
    assert 0.37 < known < 0.4
    assert exact * 0.9 < unknown < exact < 0.35


def test_an_estimated_constant_is_not_used() -> None:
    guessed = dataclasses.replace(halfspace(), lipschitz=Constant(0.1, "estimated"))
    assert Certification(guessed, at_distance(0.2), Plan()).base_lipschitz == math.inf


def test_an_image_near_the_boundary_is_abstained_from_and_counts_as_wrong_at_every_radius() -> None:
    found = radii(halfspace(), at_distance(1e-4), Plan(draws=500, maps=(HARDMAX,)))
    assert found.predicted.tolist() == [-1]
    assert found.radius.tolist() == [0.0]
    assert found.accuracy([0.0, 0.1]).tolist() == [0.0, 0.0]
    assert found.average == 0.0


def test_the_accuracy_at_a_radius_counts_radii_that_are_at_least_it() -> None:
    found = radii(halfspace(), at_distance(0.4, 3), Plan(draws=500, maps=(HARDMAX,)))
    smallest = found.radius.min()
    assert found.accuracy(smallest)[0] == 1.0
    assert found.accuracy(np.nextafter(smallest, 1))[0] == pytest.approx(2 / 3)
    assert found.average == pytest.approx(found.radius.mean())


def test_binomial_bounds_equal_statsmodels() -> None:
    counts = np.array([180, 15, 5])
    plan = Plan(draws=200, alpha=0.01)
    one = estimate_counts(Choice(Strategy("one-class"), 0, (0, 1, 2), 0.0), counts, plan, SIGMA)
    assert one.lower == pytest.approx(proportion_confint(180, 200, 0.02, "beta")[0], abs=1e-12)
    two = estimate_counts(Choice(Strategy("two-class", share=0.25), 0, (0, 1, 2), 0.0), counts, plan, SIGMA)
    assert two.lower == pytest.approx(proportion_confint(180, 200, 0.005, "beta")[0], abs=1e-12)
    assert two.upper == pytest.approx(proportion_confint(15, 200, 2 * 0.0075 / 2, "beta")[1], abs=1e-12)
    paper = Plan.paper(draws=200, alpha=0.01)
    three = estimate_counts(Choice(Strategy("two-class"), 0, (0, 1, 2), 0.0), counts, paper, SIGMA)
    assert three.upper == pytest.approx(proportion_confint(15, 200, 0.02 / 3, "beta")[1], abs=1e-12)


# ---- coverage -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("forms", [("one-class",), ("two-class",), ("one-class", "two-class")])
def test_coverage_of_the_whole_method_on_votes(forms: Any) -> None:
    """2,000 certificates of one image with noise of their own: the radius passes the exact distance in at most alpha of them."""
    t, copies = 0.25, 2000
    plan = Plan(maps=(HARDMAX,), forms=forms, **COVERAGE)
    found = radii(halfspace(), at_distance(t, copies), plan, Noise(rows=100), seed=1)
    misses = int(((found.radius > t) & (found.predicted == 0)).sum() + (found.predicted == 1).sum())
    assert misses <= allowed(copies, plan.alpha)
    if forms == ("one-class",):
        assert misses >= 10  # exact bounds are not far from their level


def test_coverage_of_a_target_radius_stopped_at_will() -> None:
    """A target just beyond the distance is certified in at most alpha of 2,000 runs, whenever the bet may stop; one well inside mostly."""
    t, copies = 0.25, 2000
    beyond = Plan(maps=(HARDMAX,), target=t * 1.0001, **COVERAGE)
    found = radii(halfspace(), at_distance(t, copies), beyond, Noise(rows=100))
    assert int((found.predicted == 0).sum()) <= allowed(copies, 0.05)
    inside = Plan(maps=(HARDMAX,), target=0.1, draws=1000, selection_draws=100, alpha=0.05)
    assert (radii(halfspace(), at_distance(t, 100), inside, Noise(rows=100)).radius == 0.1).mean() > 0.95


SCORES = torch.tensor([[3.0, 0.0, 1.0], [0.2, 0.0, 0.1], [0.0, 2.5, 0.3], [1.0, 0.9, 1.2]], dtype=torch.float64)
SKEWED = torch.tensor([0.55, 0.3, 0.1, 0.05], dtype=torch.float64)


def repeats_that_overstate(plan: Plan, repeats: int = 2000) -> int:
    """How often a certificate passes the largest radius that its class's exact probabilities could justify.

    Logits are drawn from four fixed vectors with skewed weights, so that the exact mean of every map is known.
    """
    generator = np.random.default_rng(5)
    misses = 0
    for _ in range(repeats):
        first = SCORES[generator.choice(4, plan.selection_draws, p=SKEWED.numpy())]
        fresh = SCORES[generator.choice(4, plan.draws, p=SKEWED.numpy())]
        choice = plan.choose(first, plan.maps, SIGMA, math.inf)
        found = certify_logits(first, fresh, plan, SIGMA)[1]
        exact = (SKEWED[:, None] * choice.strategy.map(SCORES)).sum(0).numpy()
        other = np.delete(exact, choice.top).max()
        worth = SIGMA / 2 * (special.ndtri(exact[choice.top]) - special.ndtri(other))
        misses += int(found.radius > max(worth, 0.0))
    return misses


@pytest.mark.parametrize("bound", ["betting", "bernstein"])
def test_coverage_of_a_choice_among_all_maps(bound: Any) -> None:
    plan = Plan(scope="per-input", bound=bound, maps=grid(3, 0.3, 10), **COVERAGE)
    assert repeats_that_overstate(plan) <= allowed(2000, 0.05)


@pytest.mark.parametrize(
    ("which", "form"),
    [
        (SimplexMap("softmax", 2.0), "one-class"),
        (SimplexMap("softmax", 2.0), "margin"),
        (SimplexMap("sparsemax", 0.5), "two-class"),
    ],
)
def test_coverage_of_every_soft_form(which: SimplexMap, form: Any) -> None:
    plan = Plan(maps=(which,), forms=(form,), **COVERAGE)
    assert repeats_that_overstate(plan) <= allowed(2000, 0.05)


def test_the_published_plan_covers() -> None:
    plan = Plan.paper(maps=grid(3, 0.3, 10), **COVERAGE)
    assert repeats_that_overstate(plan) <= allowed(2000, 0.05)


def test_the_released_code_takes_the_maximum_of_one_sample_and_the_sound_choice_does_not() -> None:
    """The comparison reports the largest of all candidates of the same draws, at least the binomial one; it never asks a second sample. A
    sound certificate from the same number of draws, with the choice on draws of its own, is one of its candidates or less."""
    generator = np.random.default_rng(3)
    for scale in (0.2, 1.0, 5.0):
        draws = torch.from_numpy(scale * (generator.standard_normal((300, 3)) + np.array([1.0, 0.2, 0.0])))
        binomial, best = released_radius(draws, 0.01, SIGMA, sharpness=()), released_radius(draws, 0.01, SIGMA)
        assert best[1] >= binomial[1] > 0
    soft = released_radius(torch.from_numpy(np.tile([[0.1, 0.0]], (3000, 1))), 0.001, SIGMA)
    assert soft == released_radius(torch.from_numpy(np.tile([[0.1, 0.0]], (3000, 1))), 0.001, SIGMA, sharpness=(1e7,))


# ---- the same numbers ---------------------------------------------------------------------------------------------
def test_the_batch_and_the_order_change_no_certificate() -> None:
    images = LabelledImages(
        torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(2)), np.zeros(4, dtype=np.int64)
    )
    plan = Plan(draws=300, selection_draws=100, maps=grid(2, 0.5, 5), scope="per-input")
    problem = Certification(halfspace(), images, plan, Noise(rows=64))
    whole = solve(problem, CertifyRadii(block=1), certify=False).answer
    for block in (3, 500):
        other = solve(problem, CertifyRadii(block=block), certify=False).answer
        np.testing.assert_array_equal(other.radius, whole.radius)
    assert np.array_equal(
        solve(problem, CertifyRadii(), seed=1, certify=False).answer.predicted.shape, whole.predicted.shape
    )
    assert not np.array_equal(solve(problem, CertifyRadii(), seed=1, certify=False).answer.radius, whole.radius)


def test_draws_are_addressed() -> None:
    noise, streams, image = Noise(rows=50), Streams(3), torch.full(SHAPE, 0.5)
    one = noise.noisy(image, SIGMA, streams, "estimate", 2, 1)
    assert torch.equal(one, noise.noisy(image, SIGMA, streams, "estimate", 2, 1))
    for other in (("select", 2, 1), ("estimate", 3, 1), ("estimate", 2, 0)):
        assert not torch.equal(one, noise.noisy(image, SIGMA, streams, *other))
    assert torch.equal(
        one[:20], noise.noisy(image, SIGMA, streams, "estimate", 2, 1, draws=70)
    )  # fewer draws: a prefix
    z = torch.cat([noise.noisy(image, SIGMA, streams, "estimate", 0, b) for b in range(400)]).double() - 0.5
    assert float(z.mean()) == pytest.approx(0, abs=4 * SIGMA / math.sqrt(z.numel()))
    assert float(z.std()) == pytest.approx(SIGMA, rel=0.01)
    assert stats.kstest((z / SIGMA).flatten().numpy()[:20_000], "norm").pvalue > 1e-4


def test_lattice_noise_makes_exact_sums() -> None:
    noise = Noise(rows=200, lattice_bits=12)
    image = torch.full(SHAPE, 0.3)
    noisy = noise.noisy(image, SIGMA, Streams(0), "estimate", 0, 0)
    assert torch.equal(noisy * 4096, (noisy * 4096).round())
    exact = noisy.double() - noise.on_lattice(image).double()
    assert torch.equal(exact * 4096, (exact * 4096).round())
    moved = noise.on_lattice(image) + 8 / 4096  # another lattice image: the same noise, exactly
    assert torch.equal(noise.noisy(moved, SIGMA, Streams(0), "estimate", 0, 0) - moved, noisy - noise.on_lattice(image))


@pytest.mark.gpu
def test_cpu_noise_gives_the_same_votes_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    images = LabelledImages(torch.rand(3, *SHAPE), np.zeros(3, dtype=np.int64))
    plan, noise = Plan(draws=1000, maps=(HARDMAX,)), Noise(source="cpu")
    on_cpu = radii(halfspace(), images, plan, noise)
    moved = Classifier(Halfspace().eval().cuda(), SHAPE, 2, SIGMA, device="cuda", identity={"slope": 1.0})
    np.testing.assert_allclose(radii(moved, images, plan, noise).radius, on_cpu.radius, atol=0.02)


def test_a_smaller_alpha_and_fewer_draws_never_certify_more() -> None:
    counts = np.array([900, 80, 20])
    choice = Choice(Strategy("two-class"), 0, tuple(buckets(counts, 0)), 0.0)
    found = [estimate_counts(choice, counts, Plan(draws=1000, alpha=a), SIGMA).radius for a in (0.1, 0.01, 0.001)]
    assert found == sorted(found, reverse=True)
    fewer = estimate_counts(choice, counts // 10, Plan(draws=100, alpha=0.01), SIGMA).radius
    assert fewer < found[1]


# ---- traps ----------------------------------------------------------------------------------------------------------
def test_the_runner_up_is_the_largest_class_other_than_the_top_one() -> None:
    """The class was chosen on the first draws; on the fresh ones another wins. The released order [-2] of all upper bounds would take the
    chosen class itself for the runner-up."""
    choice = Choice(Strategy("two-class"), 0, (0, 1, 2), 0.0)
    found = estimate_counts(
        choice, np.array([90, 105, 5]), Plan(draws=200, alpha=0.01, compat="paper", forms=("two-class",)), SIGMA
    )
    assert found.radius == 0.0
    assert found.upper > 105 / 200


def test_variances_are_pooled_and_one_left_over_draw_is_no_nan() -> None:
    plan = Plan(draws=101, selection_draws=51, maps=(SimplexMap("softmax", 3.0),), bound="bernstein", alpha=0.05)
    found = radii(halfspace(), at_distance(0.6), plan, Noise(rows=50))  # blocks of 50, 50 and 1
    assert math.isfinite(found.radius[0])
    values = np.concatenate([np.zeros(50), np.ones(50), [1.0]])[:, None]
    scores = np.concatenate([values, 1 - values], axis=1)  # every batch has variance 0, the sample has not
    choice = Choice(Strategy("one-class", SimplexMap("softmax")), 0, (0, 1), 0.0)
    spread = estimate_scores(choice, scores, plan, SIGMA, math.inf, 2)
    expected = values.mean() - math.sqrt(2 * values.var(ddof=1) * math.log(40) / 101) - 7 * math.log(40) / 300
    assert spread.lower == pytest.approx(expected)


def test_all_or_none_of_the_votes_are_no_infinite_radius() -> None:
    plan = Plan(draws=100, alpha=0.01)
    for form in ("one-class", "two-class"):
        choice = Choice(Strategy(form), 0, (0, 1, 2), 0.0)  # type: ignore[arg-type]
        assert 0 < estimate_counts(choice, np.array([100, 0, 0]), plan, SIGMA).radius < 2 * SIGMA
        assert estimate_counts(choice, np.array([0, 100, 0]), plan, SIGMA).radius == 0.0


def test_two_bounds_share_alpha() -> None:
    plan = Plan(alpha=0.01)
    for groups in (1, 3):
        for share in plan.shares:
            first, other = plan.levels(share, groups)
            assert first + groups * other == pytest.approx(0.01)
    first, other = Plan.paper(alpha=0.01).levels(0.5, 9)
    assert first + 9 * other == pytest.approx(0.01)


def test_normalisation_inside_the_model_keeps_pixel_units() -> None:
    """Divided by 0.2 inside, the classes are the same and so are the radii; noise is added before."""

    class Normalised(Halfspace):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward((images - 0.5) / 0.2 * 0.2 + 0.5)

    plan = Plan(draws=500, maps=(HARDMAX,))
    inside = Classifier(Normalised().eval(), SHAPE, 2, SIGMA, identity={})
    assert radii(inside, at_distance(0.3), plan).radius[0] == pytest.approx(
        radii(halfspace(), at_distance(0.3), plan).radius[0], abs=0.02
    )


def test_buckets_put_the_rest_together_only_while_it_stays_below_the_runner_up() -> None:
    assert buckets(np.array([50, 20, 15, 10, 5]), 0).tolist() == [0, 1, 2, 3, 3]
    assert buckets(np.array([5, 10, 15, 20, 50]), 4).tolist() == [3, 3, 2, 1, 0]
    assert buckets(np.array([90, 10]), 0).tolist() == [0, 1]
    assert buckets(np.array([90, 4, 3, 2, 1]), 0).tolist() == [0, 1, 2, 3, 3]


def test_permuting_the_classes_permutes_the_answer() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    order = [2, 0, 1]
    swapped = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    swapped[1].weight.data, swapped[1].bias.data = model[1].weight.data[order], model[1].bias.data[order]
    images = LabelledImages(torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1)))
    plan = Plan(draws=400, maps=(HARDMAX,))
    a = radii(Classifier(model, SHAPE, 3, 0.25), images, plan)
    b = radii(Classifier(swapped, SHAPE, 3, 0.25), images, plan)
    np.testing.assert_allclose(a.radius, b.radius)
    assert [order[k] if k >= 0 else -1 for k in b.predicted] == a.predicted.tolist()


def test_early_stopping_saves_draws_where_the_margin_is_wide() -> None:
    plan = Plan(draws=5000, selection_draws=200, maps=(HARDMAX,), target=0.2)
    result = solve(Certification(halfspace(), at_distance(0.9, 3), plan, Noise(rows=50)), CertifyRadii(), certify=False)
    assert result.answer.radius.tolist() == [0.2] * 3
    assert result.counts["forward"] < 0.1 * 3 * 5200


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"alpha": 0.0}, "alpha"), ({"alpha": 1.0}, "alpha"), ({"draws": 1}, "draws is 1"), ({"selection_draws": 0}, "selection_draws"),
        ({"target": -1.0}, "target"), ({"target": 0.5}, "hardmax map only"), ({"scope": "all"}, "scope"), ({"bound": "hoeffding"}, "bound"),
        ({"forms": ()}, "forms"), ({"shares": (1.0,)}, "share"), ({"calibration": 0}, "calibration"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan(**change)


@pytest.mark.parametrize(
    ("change", "says"), [({"rows": 0}, "rows"), ({"source": "gpu"}, "source"), ({"lattice_bits": 40}, "lattice_bits")]
)
def test_noise_that_cannot_be_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Noise(**change)


def test_stored_logits_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 \+ 7 logits for a plan of 100 \+ 200 draws"):
        certify_logits(torch.zeros(5, 2), torch.zeros(7, 2), Plan(draws=200, selection_draws=100), SIGMA)


def test_not_finite_logits_stop_the_run_by_name() -> None:
    def broken(images: torch.Tensor) -> torch.Tensor:
        return torch.where(images.flatten(1)[:, :2] > 1.5, torch.nan, images.flatten(1)[:, :2])

    with pytest.raises(ValueError, match="NaN or infinite logits"):
        radii(Classifier(broken, SHAPE, 2, SIGMA, identity={}), at_distance(0.5), Plan(draws=2000, maps=(HARDMAX,)))


def test_the_inverse_is_what_a_form_reports() -> None:
    counts = np.array([180, 15, 5])
    found = estimate_counts(
        Choice(Strategy("two-class"), 0, (0, 1, 2), 0.0), counts, Plan(draws=200, alpha=0.01), SIGMA
    )
    expected = (float(inverse_ramp(found.lower, SIGMA)) - float(inverse_ramp(found.upper, SIGMA))) / 2
    assert found.radius == pytest.approx(expected, rel=1e-9)
