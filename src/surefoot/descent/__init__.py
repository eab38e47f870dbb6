"""First-order methods with certified rates. Names are loaded on first use."""

from surefoot._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "acceleration": ["GradientDescent", "HeavyBall", "Nesterov", "RobustMomentum", "TripleMomentum"],
        "cycles": ["Cycle", "find_cycle", "heavy_ball_cycle_slack", "heavy_ball_threshold"],
        "flows": ["Trajectory", "discretisation_error", "immersed_flow", "integrate_flow"],
        "interpolation": ["HeavyBallTrap", "InterpolatingFunction"],
        "iqc": ["iqc_rate"],
        "minimize": ["minimize"],
        "momentum": ["MomentumParameters", "fixed_step", "known_rate", "momentum_parameters"],
        "optimizers": ["HB", "NAG", "RMM", "TMM"],
        "problem": ["FixedStep", "read_method"],
        "rate_certificate": ["ObstructionCertificate", "RateCertificate"],
        "rate_method": ["RateSearch"],
        "rate_search": ["RateResult", "certify", "certify_rate"],
        "splitting": ["nesterov_splitting", "triple_momentum_splitting"],
    },
)
