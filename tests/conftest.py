"""Shared by all tests: one thread a worker, and where real data lie."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from surefoot import catalog

torch.set_num_threads(1)
hypothesis.settings.register_profile("surefoot", deadline=None)  # a loaded machine is no failure
hypothesis.settings.load_profile("surefoot")
TOYS = {"toy": "toy:CARD", "private-toy": "toy:PRIVATE"}
SITE = """
import json, os
from surefoot import catalog
catalog.BUILT_IN = json.loads(os.environ["TOYS"])
"""


@pytest.fixture(scope="session")
def surefoot_data() -> Path:
    """The folder of real data files; tests that need it skip where it is absent."""
    text = os.environ.get("SUREFOOT_DATA")
    if not text or not Path(text).is_dir():
        pytest.skip("SUREFOOT_DATA is not set: the real data files are not at hand")
    return Path(text)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy cards are the catalogue, in this process."""
    monkeypatch.setattr(catalog, "BUILT_IN", TOYS)
    monkeypatch.setattr(catalog, "entry_points", lambda group: ())
    catalog.cards.cache_clear()
    yield
    catalog.cards.cache_clear()


@pytest.fixture(scope="session")
def toy_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which `python -m surefoot` has the toy cards as its catalogue."""
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(SITE)
    here = Path(__file__).parent
    path = [str(site), str(here), str(Path(catalog.__file__).parents[1])]
    extra = {"PYTHONPATH": os.pathsep.join(path), "TOYS": json.dumps(TOYS), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return {**os.environ, **extra, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
