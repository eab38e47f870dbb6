"""Packaged samples are found without importing their package; other bytes are a note, not an error."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from surefoot.data.samples import SampleMissingError, packaged


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that must not be imported."""
    home = tmp_path / "carrier"
    (home / "data").mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('imported')")
    (home / "data" / "rows.csv").write_bytes(b"a,b\n1,2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return home


def test_the_file_is_found_and_the_package_not_imported(package: Path) -> None:
    digest = hashlib.sha256(b"a,b\n1,2\n").hexdigest()
    found = packaged("carrier", "data/rows.csv", digest=digest[:16])
    assert found.path.read_bytes() == b"a,b\n1,2\n"
    assert found.sha256 == digest
    assert found.note == ""
    assert found.record()["bytes"] == 8
    assert "carrier" not in sys.modules


def test_other_bytes_are_noted(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = packaged("carrier", "data/rows.csv", digest="0" * 16)
    assert "other bytes" in found.note
    assert "other bytes" in caplog.text


def test_what_is_missing_says_what_to_install(package: Path) -> None:
    with pytest.raises(SampleMissingError, match=r"pip install 'surefoot\[sachs\]'"):
        packaged("no_such_package_here", "x.csv", digest="0", extra="sachs")
    with pytest.raises(SampleMissingError, match=r"no file data/absent\.csv"):
        packaged("carrier", "data/absent.csv", digest="0")
    with pytest.raises(ValueError, match="plain path"):
        packaged("carrier", "../secret", digest="0")
