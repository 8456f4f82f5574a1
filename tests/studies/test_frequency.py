import csv
from pathlib import Path

import pytest

from passband.studies import run_study


def test_the_study_of_the_chain(tmp_path: Path) -> None:
    """Every contender for a few steps, and a second call that trains nothing anew."""
    options = {
        "networks": "resnet8,lenet5", "keeps": "0.1", "epochs": 1, "limit_train": 64,
        "limit_test": 32, "batch_size": 32,
    }  # fmt: skip
    result = run_study("frequency", tmp_path, progress=False, **options)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14
    contenders = ["dense", "chain", "chain-budget", "chain-budget-taught"]
    contenders += ["small", "small-budget", "small-budget-taught"]
    assert [row["contender"] for row in rows[:7]] == contenders
    macs = {row["contender"]: int(row["macs"]) for row in rows[:7]}
    # the control has the multiplications of the chain
    assert macs["small"] == macs["chain"] < 0.15 * macs["dense"]
    assert macs["small-budget"] == macs["chain-budget"] <= 0.1 * macs["dense"]
    assert float(rows[0]["macs_ratio"]) == 1 and float(rows[1]["macs_ratio"]) > 7
    assert all(0 <= float(row["test_accuracy"]) <= 1 for row in rows)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in result.report.read_text()

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert len(stamps) == 14
    run_study("frequency", tmp_path, progress=False, **options)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_the_pruned_network_has_the_budget(tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    options = {
        "networks": "resnet8", "keeps": "0.1", "epochs": 2, "limit_train": 64, "limit_test": 32,
        "batch_size": 32, "contenders": "small-budget,pruned,dense",
    }  # fmt: skip
    result = run_study("frequency", tmp_path, progress=False, **options)
    rows = {row["contender"]: row for row in result.table.rows}
    assert list(rows) == ["dense", "small-budget", "pruned"]
    assert rows["pruned"]["macs"] <= rows["small-budget"]["macs"]
    (stamp,) = tmp_path.glob("runs/resnet8-pruned*/result.json")
    before = stamp.stat().st_mtime_ns
    again = run_study("frequency", tmp_path, progress=False, **options)
    assert again.table.rows == result.table.rows and stamp.stat().st_mtime_ns == before


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown contender 'chain budget'"):
        run_study("frequency", tmp_path, progress=False, contenders="chain budget")
