"""Worker of our side: one rate with its proof, and the proof that nothing much lower can be certified."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.descent import certify_rate
from surefoot.descent.lyapunov import LyapunovProgram
from surefoot.descent.rate_proofs import with_transient


def handle(request: dict[str, Any]) -> dict[str, Any]:
    return worst_case(request) if "steps" in request else rate(request)


def worst_case(request: dict[str, Any]) -> dict[str, Any]:
    """The rate and the proved constant in front of it: one answer for every number of steps."""
    began = time.perf_counter()
    found = certify_rate(request["method"], kappa=request["kappa"])
    proof = with_transient(LyapunovProgram(found.method), found.proof) if found.proof is not None else None
    seconds = time.perf_counter() - began
    if proof is None or proof.transient is None or not (proof.is_proof() and proof.bounds_transient()):
        return {"seconds": seconds, "value": {"from_state": None, "from_lyapunov": None}}
    fall = float(proof.rho) ** (2 * request["steps"])
    return {"seconds": seconds, "value": {"from_state": float(proof.transient) * fall, "from_lyapunov": fall}}


def rate(request: dict[str, Any]) -> dict[str, Any]:
    """The rate with its proofs."""
    began = time.perf_counter()
    found = certify_rate(request["method"], kappa=request["kappa"])
    seconds = time.perf_counter() - began
    proof, obstruction = found.proof, found.obstruction
    sound = proof is not None and proof.is_proof() and (obstruction is None or obstruction.is_proof())
    value = {"rate": found.rho if sound else None, "lower": found.lower, "floor_by": found.floor_by, "proved": sound}
    return {"seconds": seconds, "value": value}


serve(handle)
