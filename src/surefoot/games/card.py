"""The card of small-gain Nash: what the command, the tour and the docs need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from surefoot.core.system import Figure, Inputs, InputSpec, Paper, Sample, System, Traits

if TYPE_CHECKING:
    from surefoot.core.rundir import RunDir, RunReader
    from surefoot.core.solve import Result
    from surefoot.core.verify import Check


@dataclass(frozen=True)
class Options:
    """What can be chosen."""

    cells: int = 512
    """At most so many cells cover the region of a smooth game."""
    share: float = 0.5
    """Subdivide until the margin is this share of the one at the region's centre."""
    integrator: Literal["euler", "rk4"] = "euler"
    """One gradient a step, or four."""
    rates: Literal["common", "per-player"] = "common"
    """One certified step for all players, or one each."""
    step_length: float = 0.0
    """Length of the steps; 0 takes the certified best one (Markov games: 0.135)."""
    compat: Literal["", "paper"] = ""
    """"paper": two players' weights from the published grid, and the published step lengths."""
    tolerance: float = 1e-9
    """Stop once the certified error is below it."""
    temperature: float = 0.0
    """Temperature of the logit equilibrium of a payoff table; 0 takes the coupling's spectral radius / 0.9."""
    nash: bool = True
    """Decide also whether a payoff table has exactly one Nash equilibrium."""
    geometry: Literal["fisher", "euclidean"] = "fisher"
    """Natural or plain policy gradients in Markov games."""
    radius: float = 3.0
    """Half width of the box around the sample Cournot equilibrium."""
    price_sensitivity: float = 0.4
    """Of the sample car market: utility per 1,000 dollars. A modelling choice, not an estimate."""
    spread: float = 1.5
    """Of the sample car market: margins from the observed ones divided by it to multiplied by it."""
    steps: int = 100_000
    """At most so many rounds."""


FALLBACK = Sample(
    id="cournot-five-firms",
    title="five-firm Cournot market, published cost and demand numbers",
    origin="typed from Murphy, Sherali, Soyster 1982, as surefoot.games.models",
    licence="facts (numbers of a publication)",
    credit="F. H. Murphy, H. D. Sherali, A. L. Soyster, Mathematical Programming 24 (1982) 92-106",
)
SAMPLE = Sample(
    id="car-makers-1990",
    title="US car makers 1990: shares of 131 models, modelled logit demand",
    origin="pyblp, pyblp/data/blp_products.csv, market 1990, read where it is installed",
    licence="MIT (the package pyblp)",
    credit="S. Berry, J. Levinsohn, A. Pakes, Econometrica 63 (1995) 841-890; C. Conlon, J. Gortmaker, pyblp",
    extra="samples",
    fallback=FALLBACK,
)
PACKAGED = {
    "top_level_name": "pyblp", "inside": "data/blp_products.csv", "digest": "d203985e5caf6fbc", "distribution": "pyblp",
    "extra": "samples",
}  # fmt: skip


def load(options: Options, inputs: Inputs) -> Any:
    """A payoff table (.nfg), matrices (.npz), a recipe `module:factory`, or the sample."""
    from surefoot.games.problem import FiniteGame, MarkovGame, SmoothGame

    if not inputs.has("game"):
        return _sample(options, inputs)
    if inputs.is_recipe("game"):
        game = inputs.factory("game")()
        if not isinstance(game, FiniteGame | SmoothGame | MarkovGame):
            raise ValueError(
                f"the recipe returned a {type(game).__name__}; expected a SmoothGame, FiniteGame or MarkovGame"
            )
        return _with_temperature(game, options)
    path = inputs.path("game")
    if path.suffix == ".nfg":
        from surefoot.data.nfg import read_nfg

        table = read_nfg(path)
        return _with_temperature(FiniteGame(table.payoffs, None, table.players, table.actions, table.title), options)
    if path.suffix == ".npz":
        return _with_temperature(_from_arrays(path), options)
    raise ValueError(f"{path.name}: expected a .nfg payoff table, an .npz of matrices, or a recipe module:factory")


def _with_temperature(game: Any, options: Options) -> Any:
    import dataclasses

    from surefoot.games.problem import FiniteGame

    if options.temperature < 0:
        raise ValueError(f"temperature is {options.temperature}; expected a positive number, or 0 for the default")
    if isinstance(game, FiniteGame) and options.temperature:
        return dataclasses.replace(game, temperature=options.temperature)
    return game


def _from_arrays(path: Path) -> Any:
    """jacobian, blocks (and offset, lower, upper); or payoffs; or transitions, rewards, start (and discount, entropy_weight)."""
    import numpy as np

    from surefoot.games.problem import FiniteGame, MarkovGame, quadratic_game
    from surefoot.records.files import read_npz

    arrays = read_npz(path)
    if "payoffs" in arrays:
        return FiniteGame(arrays["payoffs"])
    if "transitions" in arrays:
        numbers: dict[str, Any] = {k: float(arrays[k]) for k in ("discount", "entropy_weight") if k in arrays}
        missing = [k for k in ("rewards", "start") if k not in arrays]
        if missing:
            raise ValueError(f"{path.name} has transitions but no {' and no '.join(missing)}")
        return MarkovGame(arrays["transitions"], arrays["rewards"], arrays["start"], **numbers)
    if "jacobian" not in arrays or "blocks" not in arrays:
        raise ValueError(
            f"{path.name} holds {sorted(arrays)}; expected jacobian and blocks (linear-quadratic), payoffs (table), or transitions, rewards and start (Markov)"
        )
    ends = {k: arrays[k] for k in ("lower", "upper") if k in arrays}
    blocks = [int(b) for b in np.atleast_1d(arrays["blocks"])]
    return quadratic_game(arrays["jacobian"], arrays.get("offset"), blocks, **ends)


def _sample(options: Options, inputs: Inputs) -> Any:
    from surefoot.data.samples import at_hand

    return at_hand(inputs, SAMPLE, lambda: _cars(options, inputs), lambda note: _duopoly(options, inputs, note))


def _duopoly(options: Options, inputs: Inputs, note: str) -> Any:
    from surefoot.games.models import COURNOT_COSTS, COURNOT_EQUILIBRIUM, COURNOT_EXPONENTS, cournot_game
    from surefoot.records.fingerprint import fingerprint

    inputs.sample(FALLBACK, sha256=fingerprint(COURNOT_COSTS, COURNOT_EXPONENTS, COURNOT_EQUILIBRIUM), note=note)
    return cournot_game(options.radius)


def _cars(options: Options, inputs: Inputs) -> Any:
    import pandas as pd

    from surefoot.data.samples import packaged
    from surefoot.games.models import price_game

    found = packaged(**PACKAGED)
    table: Any = pd.read_csv(found.path, usecols=["market_ids", "firm_ids", "shares"])
    market = table[table["market_ids"] == 1990]
    inputs.sample(SAMPLE, sha256=found.sha256, **found.record())
    return price_game(
        market["shares"].to_numpy(float), market["firm_ids"].to_numpy(), options.price_sensitivity, options.spread
    )


def run(options: Options, problem: Any, run: RunDir | None) -> Result[Any]:
    """Bound, certify, and seek the equilibrium."""
    from surefoot.core.solve import Budget, solve

    return solve(problem, method(options, problem), budget=Budget(steps=options.steps), run=run)


def method(options: Options, problem: Any) -> Any:
    """The method for this kind of game."""
    from surefoot.games.problem import FiniteGame, MarkovGame

    if isinstance(problem, FiniteGame):
        from surefoot.games.logit import LogitResponse

        return LogitResponse(nash=options.nash)
    if isinstance(problem, MarkovGame):
        from surefoot.games.markov import NaturalPolicyGradient

        return NaturalPolicyGradient(options.step_length or 0.135, options.geometry)
    from surefoot.games.play import ProjectedPlay

    return ProjectedPlay(
        integrator=options.integrator, step_length=options.step_length or None, rates=options.rates, tolerance=options.tolerance,
        cells=options.cells, share=options.share, compat=options.compat,
    )  # fmt: skip


def write_answer(answer: Any, problem: Any, folder: Path) -> None:
    """equilibrium.csv: player, strategy, value; one row a strategy or probability."""
    from surefoot.games.export import write_equilibrium

    write_equilibrium(answer, problem, folder)


def read_answer(folder: Path) -> Any:
    """The strategies of all players in one row (d,)."""
    import numpy as np

    from surefoot.records.files import read_csv

    return np.asarray(read_csv(folder / "equilibrium.csv")["value"], dtype=np.float64)


def checks() -> Mapping[str, Check]:
    """The checkers."""
    from surefoot.games.verify import CHECKS

    return CHECKS


def figures(reader: RunReader) -> Sequence[Figure]:
    """The field with cells, path and ball; or the players' probabilities."""
    from surefoot.games.figures import figures as draw

    return draw(reader)


def headline(reader: RunReader) -> str:
    """What was found, in one sentence."""
    from surefoot.games.figures import headline as say

    return say(reader)


def tiny() -> Sequence[tuple[Any, Any]]:
    """The smallest game of each kind, by every branch of the methods."""
    import numpy as np

    from surefoot.games.logit import LogitResponse
    from surefoot.games.markov import NaturalPolicyGradient, coordination_game
    from surefoot.games.models import cournot_game
    from surefoot.games.play import ProjectedPlay
    from surefoot.games.problem import FiniteGame, quadratic_game

    table = FiniteGame(np.array([[[2.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]))
    lq = quadratic_game(np.array([[2.0, 0.5], [-0.3, 1.0]]), np.array([1.0, -2.0]), (1, 1), lower=-5, upper=5)
    return [
        (lq, ProjectedPlay(tolerance=1e-12)),
        (cournot_game(), ProjectedPlay(rates="per-player", tolerance=1e-12)),
        (lq, ProjectedPlay(integrator="rk4")),
        (lq, ProjectedPlay(compat="paper")),
        (quadratic_game(np.array([[1.0, 4.0], [-4.0, 1.0]]), np.array([1.0, -2.0]), (1, 1)), ProjectedPlay()),
        (table, LogitResponse(newton=False, damping=0.2)),
        (coordination_game(), NaturalPolicyGradient(tolerance=1e-14)),
    ]


def tiny_inputs(folder: Path) -> Mapping[str, str]:
    """A linear-quadratic game of three players with four strategies."""
    import numpy as np

    J = np.array([[2.0, 0.3, 0.2, 0.1], [0.3, 1.5, -0.2, 0.4], [0.5, 0.1, 1.0, -0.3], [-0.2, 0.3, 0.25, 1.7]])
    np.savez(folder / "game.npz", jacobian=J, offset=np.array([1.0, -2.0, 0.5, 0.7]), blocks=np.array([2, 1, 1]))
    return {"game": str(folder / "game.npz")}


CARD = System(
    name="small-gain-nash",
    title="Certified equilibria of games: margins, steps, error bounds",
    paper=Paper(
        title="Small-Gain Nash: Certified Contraction to Nash Equilibria in Differentiable Games",
        authors=("V. Sharma",),
        year=2025,
        arxiv="2512.06791",
        claim="Weighting the players' strategies certifies that gradient play contracts to the Nash equilibrium, with safe step "
        "sizes, also in games that are not monotone in the Euclidean norm.",
    ),
    options=Options,
    load=load,
    run=run,
    write_answer=write_answer,
    read_answer=read_answer,
    checks=checks,
    sample=SAMPLE,
    aliases=("games",),
    domain="games",
    presets={"default": Options(), "tour": Options(), "paper": Options(compat="paper", cells=1)},
    inputs=(InputSpec("game", "payoff table, matrices, or a recipe module:factory", (".nfg", ".npz")),),
    figures=figures,
    headline=headline,
    extras=("samples",),
    traits=Traits(),
    peers=("pygambit", "nashpy", "quantecon", "open-spiel", "nashopt"),
    tiny=tiny,
    tiny_inputs=tiny_inputs,
)
