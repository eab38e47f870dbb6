"""Freed memory stays with the process where the allocator can be told so; asked in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from surefoot.numerics.memory import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
a = torch.ones(250, 3136)
for _ in range(5):
    (a + 1) * 2
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    b = a + 1
    c = b * 2
    del b, c
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not glibc's")
def test_the_same_temporaries_fault_no_pages_again() -> None:
    """A hundred passes over temporaries of 3 MB (766 pages each)."""
    found = subprocess.run([sys.executable, "-c", FAULTS, "keep"], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 766
