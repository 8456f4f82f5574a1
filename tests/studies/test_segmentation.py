import csv
from pathlib import Path

import pytest

from passband.studies import run_study
from tests.data.test_segmentation import write


def test_the_study_of_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data" / "segmentation" / "lines", 10)
    monkeypatch.setenv("PASSBAND_DATA", str(tmp_path / "data"))
    out = tmp_path / "out"
    options = {"data": "lines", "image_size": 16, "epochs": 1, "chain_keep": 0.1, "keeps": "0.01"}
    result = run_study("segmentation", out, progress=False, **options)
    with (out / "table.csv").open() as file:
        rows = {row["contender"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["dense", "regularized", "chain"]
    assert all(0 <= float(row["test_dice"]) <= 1 for row in rows.values())
    macs = {name: int(row["macs"]) for name, row in rows.items()}
    # the spatial domain saves numbers, the channel domain multiplications too
    assert macs["regularized"] == macs["dense"] > 9 * macs["chain"]
    sizes = {name: int(row["file_bytes"]) for name, row in rows.items()}
    assert sizes["regularized"] < 0.1 * sizes["dense"]
    assert float(rows["chain"]["macs_ratio"]) > 9
    assert (out / "masks-lines.png").stat().st_size > 1000
    assert "data:image/png" in result.report.read_text()
