"""open-spiel's side: projected replicator dynamics (one approximate equilibrium), the learner it has for tables of any size."""

from open_spiel.python.algorithms.projected_replicator_dynamics import projected_replicator_dynamics
from tables import serve, solve_all

ITERATIONS = 2_000


def nash(name, payoffs):
    """The average play after the iterations."""
    return [projected_replicator_dynamics(list(payoffs), prd_iterations=ITERATIONS, prd_dt=1e-2)]


serve(lambda request: solve_all(request, nash))
