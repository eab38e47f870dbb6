"""Further stops of the tour: on another sample, on the data collection where it is at hand, and the reason where it is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import toy
from surefoot import catalog
from surefoot.cli import main
from surefoot.cli.run import _parse_run
from surefoot.core.rundir import RunReader
from surefoot.core.system import System, TourStop
from surefoot.report.tour import tour, visit

CARDS = [card for card in catalog.cards().values() if card.stops]
HERE = TourStop(
    "column", "Four numbers", ("--preset", "tour", "--damping", "0.4"), ("toy/column.txt",), "CC0", "A. Mean"
)
ABSENT = TourStop("absent", "No numbers", ("--preset", "tour"), ("toy/absent.txt",), "CC0")


@pytest.fixture
def card(toys: None, toy_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    """The toy with two further stops, of which the collection holds one."""
    for name in ("PYTHONPATH", "TOYS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, toy_env[name])
    (tmp_path / "data" / "toy").mkdir(parents=True)
    toy.tiny_inputs(tmp_path / "data" / "toy")
    monkeypatch.setenv("SUREFOOT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(toy, "CARD", dataclasses.replace(toy.CARD, stops=(HERE, ABSENT)))
    return toy.CARD


def test_a_stop_runs_where_the_collection_holds_its_files(card: System, tmp_path: Path) -> None:
    page, visits = tour([card], tmp_path / "tour")
    assert [(v.name, v.code) for v in visits] == [("toy", 0), ("toy-column", 0), ("toy-absent", 0)]
    assert [bool(v.skipped) for v in visits] == [False, False, True]
    reader = RunReader(tmp_path / "tour" / "toy-column")
    assert reader.inputs[0]["path"] == str((tmp_path / "data" / "toy" / "column.txt").resolve())
    assert reader.config["options"]["damping"] == 0.4
    assert {v["verdict"] for v in reader.verdicts} == {"confirmed"}
    text = page.read_text()
    for part in (
        'href="toy-column/report.html"', 'src="toy-column/figures/gap.svg"', ">Four numbers</a>", "from the data collection. CC0. A. Mean", "4 of 4",
        "has no toy/absent.txt",
    ):  # fmt: skip
        assert part in text
    assert main(["run", "toy", "--resume", "-o", str(reader.root), "--quiet"]) == 0
    assert main(["verify", str(reader.root), "--quiet"]) == 0


def test_without_the_collection_stops_are_skipped_with_the_reason(
    card: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SUREFOOT_DATA")
    catalog.cards.cache_clear()
    assert main(["tour", "--only", "toy", "-o", str(tmp_path / "tour")]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("toy-column", "toy-absent"):
        assert (
            next(line for line in lines if line.startswith(name))
            .split(None, 1)[1]
            .startswith("skipped (SUREFOOT_DATA is not set")
        )
        assert not (tmp_path / "tour" / name).exists()
    text = (tmp_path / "tour" / "index.html").read_text()
    assert text.count("was skipped: SUREFOOT_DATA is not set") == 2
    assert "2 of 2" in text


def test_info_tells_the_command_of_a_stop(card: System, capsys: pytest.CaptureFixture[str]) -> None:
    catalog.cards.cache_clear()
    assert main(["info", "toy"]) == 0
    assert 'surefoot run toy "$SUREFOOT_DATA/toy/column.txt" --preset tour --damping 0.4' in capsys.readouterr().out


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_flags_of_stops_are_the_cards(card: System) -> None:
    names = [stop.name for stop in card.stops]
    assert len(set(names)) == len(names)
    for stop in card.stops:
        session, options, inputs = _parse_run(card, [*stop.inputs, *stop.flags])
        assert inputs == stop.inputs
        assert len(inputs) <= len(card.inputs)
        assert isinstance(options, card.options)
        assert session.preset in card.presets
        assert stop.licence or not stop.inputs


def test_the_buddha_is_shown_from_where_no_photo_was_trained(surefoot_data: Path, tmp_path: Path) -> None:
    """The stop with half of its steps: the held-out view 00049 at 114 x 64 at 18 dB or more, above what it starts from."""
    pytest.importorskip("warp", reason="the rasteriser needs Warp (extra: kernels)")
    card = catalog.find("convex-splatting")
    stop = next(stop for stop in card.stops if stop.name == "buddha")
    here = visit(
        card, tmp_path, 1, dataclasses.replace(stop, flags=(*stop.flags, "--steps", "30", "--threshold-until", "20"))
    )
    if here.skipped:
        pytest.skip(here.skipped)
    assert here.code == 0, here.said
    reader = RunReader(here.root)
    assert reader.evidence("photo.npz")["photo"].shape == (64, 114, 3)
    claims = {claim["name"]: claim["value"] for claim in reader.certificate_tree["claims"]}
    assert claims["psnr"] >= 18
    assert claims["gain"] > 0.5
    assert {v["verdict"] for v in reader.verdicts} == {"confirmed"}
