"""Worker of our side: one rate with its proof, and the proof that nothing much lower can be certified."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import serve
from surefoot.descent import certify_rate


def handle(request: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    found = certify_rate(request["method"], kappa=request["kappa"])
    seconds = time.perf_counter() - began
    proof, obstruction = found.proof, found.obstruction
    sound = proof is not None and proof.is_proof() and (obstruction is None or obstruction.is_proof())
    value = {"rate": found.rho if sound else None, "lower": found.lower, "floor_by": found.floor_by, "proved": sound}
    return {"seconds": seconds, "value": value}


serve(handle)
