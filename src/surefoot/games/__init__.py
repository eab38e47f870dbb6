"""Games: small-gain certificates of contraction, equilibrium seeking with certified steps, logit and Nash equilibria."""
