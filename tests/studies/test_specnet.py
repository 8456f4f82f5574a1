"""The study of SpecNet, in its quick form: the machinery from training to the report."""

import json
from pathlib import Path

import pytest

from passband.measure.table import Table
from passband.studies import run_study, specnet
from passband.studies.specnet import CHECKPOINTED, COLUMNS, HALF, NOTES, TWIN
from passband.studies.step_memory import resident_growth_of_run


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(specnet.DATA, "speclenet", "digits")


@pytest.mark.usefixtures("digits")
def test_the_study(tmp_path: Path) -> None:
    out = tmp_path / "specnet"
    result = run_study(
        "specnet", out, progress=False, modes="relu on the map", thresholds="0,1", quick=True
    )
    rows = result.table.rows
    assert [(row["method"], row["threshold"]) for row in rows] == [
        (TWIN, "-"), (CHECKPOINTED, "-"), (HALF, "-"),
        ("relu on the map", "0"), ("relu on the map", "1"),
    ]  # fmt: skip
    twin, checkpointed, _, full, sparse = rows
    assert twin["saved_ratio"] == twin["peak_ratio"] == twin["mean_ratio"] == 1
    assert checkpointed["saved_ratio"] < 1
    assert sparse["saved_ratio"] < full["saved_ratio"]
    assert full["test_accuracy"] == pytest.approx(twin["test_accuracy"], abs=0.05)  # rounding only
    assert json.loads((out / "result.json").read_text())["rows"] == list(rows)
    run = out / next(iter(json.loads((out / "result.json").read_text())["runs"].values()))
    assert resident_growth_of_run(run, checkpointed=False) >= 0
    pictures = {path.name for path in out.glob("*.png")}
    assert pictures == {"speclenet-threshold.png", "speclenet-learning.png"}
    assert "--thresholds 0,1" in result.report.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": "vgg"}, "unknown network 'vgg'"),
        ({"modes": "relu"}, "unknown mode 'relu'"),
        ({"seeds": 0}, "seeds is 0"),
        ({"budget": 0}, "budget is 0"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run_study("specnet", tmp_path, progress=False, **options)


def test_names_with_commas_in_them() -> None:
    names = "relu, cropped,spectral-tanh,relu, beta last"
    chosen = specnet._chosen("mode", names, specnet.MODES)
    assert chosen == ["relu, cropped", "spectral-tanh", "relu, beta last"]


def test_the_table_fits_a_terminal() -> None:
    row = dict.fromkeys((column.name for column in COLUMNS), 1.0)
    row |= {"network": "specdensenet", "method": "twin, batch norm", "threshold": "0.75"}
    row |= {"loss_of_accuracy": "-10.25", "step_ratio": "1.25"}
    row |= {f"{name}_bytes": 123 << 20 for name in ("saved", "mean", "peak", "resident")}
    lines = str(Table(COLUMNS, [row], notes=NOTES)).splitlines()
    assert max(map(len, lines)) <= 100
    assert "twin, batch norm" in lines[2]
