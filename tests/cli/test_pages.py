"""The pages: complete in one file, and they fit the screen, wide or narrow."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import toy
from surefoot import catalog
from surefoot.cli import main
from surefoot.core.rundir import RunDir
from surefoot.core.system import Inputs, execute
from surefoot.records.files import read_json, write_json
from surefoot.report.compare import write_comparison
from surefoot.report.html import write_report
from surefoot.report.tour import tour

pytestmark = [pytest.mark.usefixtures("toys"), pytest.mark.xdist_group("pages")]
BROWSER = next((b for name in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(name))), None)
LONG = "a_name_without_any_space_" * 12


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, toy_env: dict[str, str]) -> dict[str, Path]:
    """A report, a comparison and a tour (with a card that fails)."""
    folder = tmp_path_factory.mktemp("pages")
    for name, options in {"first": toy.Options(), f"second-{LONG[:120]}": toy.Options(damping=0.1, steps=60)}.items():
        execute(
            toy.CARD,
            options,
            Inputs(toy.tiny_inputs(folder)),
            RunDir.create(folder / name),
            given={"column": "/" + LONG},
        )
    tree = read_json(folder / "first/certificate.json")
    tree["claims"][0]["statement"] = LONG  # a word that no line holds
    write_json(folder / "first/certificate.json", tree)
    report = write_report(folder / "first", toy.CARD)
    runs = [p for p in folder.iterdir() if p.is_dir()]
    comparison = write_comparison([*runs, *runs, *runs], folder / "compare.html")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PYTHONPATH", "TOYS", "OMP_NUM_THREADS"):
            patch.setenv(name, toy_env[name])
        patch.setattr(catalog, "BUILT_IN", {"toy": "toy:CARD"})
        failing = dataclasses.replace(toy.CARD, name="not-there", title="A card that fails")
        page, stops = tour([toy.CARD, failing], folder / "tour")
    assert [stop.code for stop in stops] == [0, 2]
    return {"report": report, "compare": comparison, "tour": page}


def test_pages_are_self_contained(pages: dict[str, Path]) -> None:
    for name, path in pages.items():
        text = path.read_text()
        loads = re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', text)
        assert all(link.startswith("data:") or (name == "tour" and "://" not in link) for link in loads), loads
        assert "@import" not in text
        assert "<script" not in text


def test_a_report_has_all_its_parts(pages: dict[str, Path]) -> None:
    text = pages["report"].read_text()
    for part in (
        "The mean was found.",
        "Along the run",
        "surefoot run toy",
        "surefoot verify",
        "holds",
        "proved",
        "damping",
        "On means",
        "torch",
    ):
        assert part in text


def test_a_failing_card_is_shown_as_failed(pages: dict[str, Path]) -> None:
    text = pages["tour"].read_text()
    assert 'class="badge failed"' in text
    assert "no card" in text
    assert "A card that fails" in text


MEASURE = (
    "<script>addEventListener('load', () => { const d = document.documentElement;"
    " document.body.setAttribute('data-over', [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, figure') &&"
    " e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.tagName + '.' + e.className).join() );"
    " document.body.setAttribute('data-wide', d.scrollWidth + ' ' + innerWidth); })</script>"
)


def browse(*flags: str) -> str:
    assert BROWSER is not None
    with tempfile.TemporaryDirectory() as profile:
        command = [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", *flags,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium here")
def test_pages_fit_the_screen(pages: dict[str, Path], tmp_path: Path) -> None:
    frames = [(name, width) for name in pages for width in (1280, 390)]
    for name, path in pages.items():
        shutil.copytree(path.parent, tmp_path / name, ignore=shutil.ignore_patterns("checkpoints"), dirs_exist_ok=True)
        (tmp_path / name / path.name).write_text(path.read_text().replace("</body>", MEASURE + "</body>"))
    # All pages at both widths as frames of one document, so that one start of the browser is enough.
    inner = "".join(
        f'<iframe id="{n}{w}" src="{n}/{pages[n].name}" width="{w}" height="900" style="border:0"></iframe>'
        for n, w in frames
    )
    collect = (
        "<pre id=out></pre><script>addEventListener('load', () => setTimeout(() => { out.textContent = [...document.querySelectorAll('iframe')]"
        ".map(f => f.id + ' ' + f.contentDocument.body.dataset.wide + ' over:' + f.contentDocument.body.dataset.over).join('\\n') }, 300))</script>"
    )
    (tmp_path / "all.html").write_text(f"<!doctype html><body>{inner}{collect}</body>")
    dom = browse(
        "--allow-file-access-from-files", "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "all.html").as_uri()
    )
    found = re.search(r'<pre id="?out"?>(.*?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    lines = [line.split(" ") for line in found[1].strip().splitlines()]
    assert [line[0] for line in lines] == [f"{n}{w}" for n, w in frames]
    for (name, width), (_, scroll, inner_width, over) in zip(frames, lines, strict=True):
        assert int(inner_width) in range(width - 20, width + 1), lines
        assert int(scroll) <= int(inner_width), f"{name} overflows at {width}: {over}"


def test_the_tour_runs_a_card_through_the_command(
    tmp_path: Path, toy_env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PYTHONPATH", "TOYS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, toy_env[name])
    code = main(["tour", "--only", "toy", "-o", str(tmp_path / "tour"), "--jobs", "2"])
    out = capsys.readouterr().out
    assert code == 0, out
    page = (tmp_path / "tour" / "index.html").read_text()
    assert "The mean was found." in page
    assert 'src="toy/figures/gap.svg"' in page
    assert (tmp_path / "tour" / "toy" / "figures" / "gap.svg").is_file()
    assert "2 of 2" in page
    assert "The numbers 0 to 9" in page
