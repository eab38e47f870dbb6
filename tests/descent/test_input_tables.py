"""The card's own tables: what is read, and messages that name the column and say what to do."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from surefoot.catalog import find
from surefoot.descent.tables import logistic_model, read_table, sample_table

GOOD = "a,b,kind\n1,2.5,yes\n3,4.5,no\n5,-1,yes\n"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def check_good(found, names: tuple[str, ...] = ("a", "b")) -> None:
    features, classes, columns = found
    assert columns == names
    np.testing.assert_array_equal(features, [[1, 2.5], [3, 4.5], [5, -1]])
    # the second class in sorted order is +1
    np.testing.assert_array_equal(classes, [1, -1, 1])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_with_any_delimiter(tmp_path: Path, delimiter: str, mark: str) -> None:
    check_good(read_table(write(tmp_path / "t.csv", mark + GOOD.replace(",", delimiter))))


def test_zipped_quoted_and_with_a_chosen_class(tmp_path: Path) -> None:
    check_good(read_table(write(tmp_path / "t.csv.gz", gzip.compress(GOOD.encode()))))
    moved = 'kind,"a, in m",b\nyes,1,2.5\nno,3,4.5\nyes,5,-1\n'
    check_good(read_table(write(tmp_path / "m.csv", moved), "kind"), ("a, in m", "b"))
    numbers = GOOD.replace("yes", "7").replace("no", "-3")
    check_good(read_table(write(tmp_path / "n.csv", numbers)))


def test_svmlight_keeps_the_features_that_change(tmp_path: Path) -> None:
    text = "+1 1:1 3:2.5 4:1\n-1 1:3 3:4.5 4:1\n+1 1:5 3:-1 4:1\n"
    check_good(read_table(write(tmp_path / "t.svm", text)), ("feature 1", "feature 3"))
    check_good(read_table(write(tmp_path / "t.svm.gz", gzip.compress(text.encode()))), ("feature 1", "feature 3"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("a,b,kind\n", "0 rows and 3 columns"),
        ("a,b,kind\n1,2,yes\n", "1 rows and 3 columns.*at least 2 rows"),
        ("kind\nyes\nno\n", "2 rows and 1 columns"),
        ("1,2,0\n3,4,1\n5,6,0\n", "begins with numbers; give its columns names"),
        ("a,b,kind\n1,red,yes\n3,4,no\n", "column 'b' holds text, for example 'red' in row 1.*drop the column"),
        ("a,b,kind\n1,2,yes\n3,blue,no\n", "column 'b' holds text, for example 'blue' in row 2"),
        ("a,b,kind\n1,2,yes\n,4,no\n", r"column 'a' has a missing value \(NaN\) in row 2; drop the rows"),
        ("a,b,kind\n1,inf,yes\n3,4,no\n", r"column 'b' has an infinite value \(inf\) in row 1"),
        ("a,b,kind\n1,2,yes\n1,4,no\n", "column 'a' of t.csv is constant; remove it"),
        ("a,a,kind\n1,2,yes\n3,4,no\n", "column name 'a' occurs more than once"),
        ("a,,kind\n1,2,yes\n3,4,no\n", "column 2 has no name"),
        ("a,b,kind\n1,2,yes\n3,4,\n", "class column 'kind' of t.csv has empty cells"),
        ("a,b,kind\n1,2,yes\n3,4,yes\n", r"has 1 values \(yes\); expected two"),
        ("a,b,y\n1,2,0.1\n3,4,0.2\n5,6,0.3\n", r"has 3 values \(0.1, 0.2, 0.3\); expected two"),
        ("a,b,kind\n1,2,yes\n3,4,no,9\n", "is no readable CSV.*every row needs 3 cells"),
        ("a,b,kind\n1,2,yes,8\n3,4,no,9\n", "is no readable CSV.*every row needs 3 cells"),
        (b"a,b,k\xff\n1,2,0\n3,4,1\n", "no readable CSV.*UTF-8"),
    ],
)
def test_bad_csv_is_named(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_table(write(tmp_path / "t.csv", text))


def test_a_class_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'sort'; it has a, b, kind"):
        read_table(write(tmp_path / "t.csv", GOOD), "sort")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "0 rows|neither CSV"),
        ("+1 1:1\n", "1 rows; expected at least 2"),
        ("+1 1:nan\n-1 1:2\n", r"column 'feature 1' has a missing value \(NaN\) in row 1"),
        ("+1 1:1\n-1 1:1\n", "no feature of t.svm ever changes"),
        ("+1 1:1\n+1 1:2\n", "has 1 values"),
        ("yes 1:1\nno 1:2\n", "neither CSV \\(by its name\\) nor svmlight"),
        (b"\x80\x04}\x94.", "neither CSV \\(by its name\\) nor svmlight"),
    ],
)
def test_bad_svmlight_is_named(tmp_path: Path, text: str | bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_table(write(tmp_path / "t.svm", text))


def test_too_large_a_table_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("surefoot.descent.tables.LARGEST", 5)
    with pytest.raises(ValueError, match=r"3 x 2 entries, more than the 5.*take fewer rows"):
        read_table(write(tmp_path / "t.csv", GOOD))


def test_a_million_rows_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, size=1_000_000)
    lines = np.char.add(np.char.add(x.astype("U3"), ","), np.where(x + rng.integers(-20, 20, len(x)) > 50, "1", "0"))
    path = write(tmp_path / "big.csv", "x,kind\n" + "\n".join(lines.tolist()) + "\n")
    card = find("acceleration")
    options = card.options(methods=("nag",), kappas=(10.0,), steps=5)
    from surefoot.records.inputs import Inputs

    problem = card.load(options, Inputs({"problem": str(path)}))
    assert problem.model.features.shape == (1_000_000, 2)
    result = card.run(options, problem, None)
    assert result.steps == 5
    assert result.answer["coefficients"]["nag"][1] > 0


def test_constants_of_the_logistic_model_bound_its_hessian() -> None:
    features, classes, names = sample_table()
    assert features.shape == (569, 30)
    assert set(classes) == {-1.0, 1.0}
    assert len(set(names)) == 30
    model = logistic_model(features, classes, 0.01)
    m, L = (model.constants[name].value for name in ("strong_convexity", "smoothness"))
    columns = model.features.numpy()
    np.testing.assert_allclose(columns[:, 1:].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(columns[:, 1:].std(axis=0), 1, atol=1e-12)
    rng = np.random.default_rng(0)
    for scale in (0.0, 0.1, 1.0):
        x = torch.from_numpy(scale * rng.normal(size=31))
        hessian = np.array([model.objective.hvp(x, e).numpy() for e in torch.eye(31, dtype=torch.float64)])
        curvatures = np.linalg.eigvalsh(hessian)
        assert m * (1 - 1e-9) <= curvatures[0]
        assert curvatures[-1] <= L * (1 + 1e-12)
        # at 0 the loss has its largest curvature, 1/4: the constant is the truth there
        if scale == 0.0:
            assert curvatures[-1] == pytest.approx(L, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"methods": ()}, "methods is empty"),
        ({"kappas": (1.0,)}, "kappas must lie"),
        ({"kappas": (2.0, 2.0)}, "must not repeat"),
        ({"methods": ("nag", "nag")}, "must not repeat"),
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_options_of_the_card_are_named(options: dict, match: str) -> None:
    from surefoot.records.inputs import Inputs

    card = find("acceleration")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=match):
            card.load(card.options(**options), Inputs({}))
