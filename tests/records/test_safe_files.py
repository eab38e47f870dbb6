"""Files written whole, and strangers' files read as data."""

from __future__ import annotations

import os
import pickle
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostile import dictionary, npy, zip_bomb
from surefoot.records import files
from surefoot.records.files import (
    UnsafeFileError,
    as_read,
    inside,
    plain_files,
    read_csv,
    read_json,
    read_npz,
    sha256,
    write_bytes,
    write_csv,
    write_folder,
    write_json,
    write_npz,
)  # fmt: skip
from surefoot.records.rundir import RunDir


def child_killed_at(path: Path, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Do `act` in a forked process that is killed at the moment it would rename."""
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        act()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_a_kill_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    child_killed_at(path, monkeypatch, lambda: write_json(path, {"new": 2}))
    assert read_json(path) == {"old": 1}
    assert len(list(tmp_path.iterdir())) == 2  # the half-written one lies beside


def test_a_kill_before_the_rename_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    write_folder(path, lambda folder: write_bytes(folder / "x", b"old"))
    child_killed_at(path, monkeypatch, lambda: write_folder(path, lambda folder: (folder / "x").write_bytes(b"new")))
    assert (path / "x").read_bytes() == b"old"


def test_a_kill_between_the_two_renames_loses_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDir.create(tmp_path / "run")
    run.write_config(card="toy")
    run.write_answer(lambda folder: write_bytes(folder / "x", b"old"))
    child = os.fork()
    if child == 0:
        rename = Path.replace

        def second_kills(path: Path, target: Path) -> Path:
            if target == run.root / "answer":
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        monkeypatch.setattr(Path, "replace", second_kills)
        run.write_answer(lambda folder: (folder / "x").write_bytes(b"new"))
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (run.root / "answer").exists()
    RunDir.create(run.root, resume=True)
    assert (run.root / "answer" / "x").read_bytes() == b"old"
    assert sorted(p.name for p in run.root.iterdir()) == ["answer", "config.json"]


def test_a_failed_write_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half"):
        write_folder(tmp_path / "a", lambda folder: (_ for _ in ()).throw(RuntimeError("half")))
    with pytest.raises(ValueError, match="Out of range"):
        files.write_bytes(tmp_path / "b", files.json.dumps(float("nan"), allow_nan=False).encode())
    assert not list(tmp_path.iterdir())


def test_json_is_strict_and_keeps_what_json_lacks_as_text(tmp_path: Path) -> None:
    tree = {
        "a": float("nan"),
        "b": [np.float32(1.5), np.int8(3)],
        "c": np.array(2.0),
        "d": {3, 1},
        "e": float("-inf"),
        7: (),
    }
    write_json(tmp_path / "a.json", tree)
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert read_json(tmp_path / "a.json") == {"a": "nan", "b": [1.5, 3], "c": 2.0, "d": [1, 3], "e": "-inf", "7": []}
    (tmp_path / "b.json").write_text("[NaN, Infinity, -Infinity]")
    assert read_json(tmp_path / "b.json") == ["nan", "inf", "-inf"]


@pytest.mark.parametrize("text", ["", "{", "[1,]", "[" * 10**6, '{"a": 1} x', "\xff\xfe"])
def test_what_is_no_json_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UnsafeFileError, match=r"bad\.json"):
        read_json(tmp_path / "bad.json")


numbers = st.floats(allow_nan=True, allow_infinity=True)
text = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


@given(st.lists(st.tuples(numbers, st.integers(-(2**53), 2**53)), max_size=20))
def test_csv_keeps_every_digit(rows: list[tuple[float, int]]) -> None:
    columns = {"x": [r[0] for r in rows], "n, with comma": [r[1] for r in rows]}
    back = as_read("a.csv", columns)
    assert list(back) == list(columns)
    assert np.array_equal(back["x"], np.array(columns["x"], dtype=float), equal_nan=True)
    assert np.array_equal(back["n, with comma"], columns["n, with comma"])


@given(st.lists(text.map(lambda s: "t" + s), min_size=1))
def test_csv_keeps_text(cells: list[str]) -> None:
    assert as_read("a.csv", {"t": cells, "o": ["z"] * len(cells)})["t"].tolist() == cells


def test_csv_on_disk_equals_csv_in_process(tmp_path: Path) -> None:
    columns = {
        "x": np.array([0.1, 1e-300], dtype=np.float64),
        "f": [np.float32(0.1), np.float32(2)],
        "t": ["a\nb", 'q"'],
    }
    write_csv(tmp_path / "a.csv", columns)
    disk, process = read_csv(tmp_path / "a.csv"), as_read("a.csv", columns)
    assert all(np.array_equal(disk[name], process[name]) for name in columns)
    assert disk["f"][0] == float(np.float32(0.1))


@pytest.mark.parametrize("data", [b"", b"a,b\n1\n", b"a,a\n1,2\n", b"a\n\xff\n", b'a\n"open', b"a\n" + b"x" * 200_000])
def test_bad_csv_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UnsafeFileError, match=r"a\.csv"):
        read_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("dtype", ["bool", "i1", "<i8", "u2", "u8", "f2", ">f4", "f8", "c8", "c16", "U5"])
def test_npz_round_trip(tmp_path: Path, dtype: str) -> None:
    arrays = {
        "a": np.arange(6).reshape(2, 3).astype(dtype),
        "zero": np.array(1).astype(dtype),
        "none": np.empty((0, 4), dtype),
    }
    arrays |= {"file": np.asfortranarray(arrays["a"])}
    write_npz(tmp_path / "a.npz", arrays)
    for back in (read_npz(tmp_path / "a.npz"), as_read("a.npz", arrays), dict(np.load(tmp_path / "a.npz"))):
        assert list(back) == list(arrays)
        for name, array in arrays.items():
            assert back[name].dtype == array.dtype
            assert np.array_equal(back[name], array)


def test_objects_are_never_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="'a' holds Python objects"):
        write_npz(tmp_path / "a.npz", {"a": np.array([{}])})


def test_honest_zeros_beyond_the_bomb_limit_are_stored_plainly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "BOMB_BYTES", 1000)
    write_npz(tmp_path / "a.npz", {"a": np.zeros(100_000)})
    assert read_npz(tmp_path / "a.npz")["a"].shape == (100_000,)


MEMBERS = {
    "pickled objects": npy(dictionary("(1,)", "|O"), pickle.dumps([print])),
    "a bare pickle": pickle.dumps({"a": print}),
    "a header larger than the member": npy(dictionary("(1000000000000,)"), b"\0" * 8),
    "a negative length": npy(dictionary("(-1,)"), b"\0" * 8),
    "two negative lengths": npy(dictionary("(-8, -1)"), b"\0" * 8),
    "an empty item": npy(dictionary("(9999999999,)", "|V0")),
    "a header that is no literal": npy(b"{'descr': __import__('os').system('true')}"),
    "an unclosed header": npy(b"{'descr': ('''"),
    "not an array": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("what", MEMBERS)
def test_hostile_members_are_refused(tmp_path: Path, what: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", MEMBERS[what])
    with pytest.raises(UnsafeFileError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz")


def test_a_zip_bomb_is_refused_at_once(tmp_path: Path) -> None:
    zip_bomb(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").stat().st_size < 8 << 20
    began = time.perf_counter()
    with pytest.raises(UnsafeFileError, match="unpacks to"):
        read_npz(tmp_path / "a.npz")
    assert time.perf_counter() - began < 0.5  # unpacking 3 GiB takes seconds; the sizes are read first


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"a": np.random.default_rng(0).random(100)})
    whole = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        bad = bytearray(whole)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        (tmp_path / "b.npz").write_bytes(bad if trial % 3 else bad[: rng.integers(len(bad))])
        try:
            read_npz(tmp_path / "b.npz")
        except UnsafeFileError:
            refused += 1
    assert refused > 200  # a few bits (dates, flags of no effect) change nothing; no other exception came out


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "link/x", "linked", "a\0b", "loop/x"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "x").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    (root / "linked").symlink_to(tmp_path / "x")
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(UnsafeFileError):
        inside(root, name)


def test_names_that_stay_are_allowed(tmp_path: Path) -> None:
    assert inside(tmp_path, "a/../b") == tmp_path.resolve() / "b"


@pytest.mark.parametrize("read", [read_json, read_csv, read_npz, sha256])
def test_what_never_ends_is_not_opened(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(UnsafeFileError, match="file"):
            read(path)
    with pytest.raises(UnsafeFileError, match="neither"):
        list(plain_files(tmp_path))


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from("abc"), st.binary(max_size=20)))
def test_the_hash_of_a_folder_knows_names_and_content(content: dict[str, bytes]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        a, b = Path(scratch) / "a", Path(scratch) / "b"
        for folder in (a, b):
            folder.mkdir()
            for name, data in content.items():
                (folder / name).write_bytes(data)
        assert sha256(a) == sha256(b)
        (b / "d").write_bytes(b"")
        assert sha256(a) != sha256(b)
