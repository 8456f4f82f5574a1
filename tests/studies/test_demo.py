"""The demo, in its quick form: the machinery from training to the report."""

import csv
import json
import re
from pathlib import Path

from passband.measure.table import Table
from passband.studies import StudyResult, run_study
from passband.studies.demo import CASES, COLUMNS, COMPRESSIONS, LIMITED, NATIVE, NOTES, SMALLER


def test_demo(tmp_path: Path) -> None:
    """One training of each kind, then a second call that goes on where a kill left the folder.

    One test, because the trainings take most of the time.
    """
    out = tmp_path / "demo"
    first = run_study("demo", out, progress=False, seeds=1, quick=True)
    check_files(out, first)
    check_rows(first.table)
    check_results(out, first.table)
    check_report(out, first)

    runs = {name: out / run for name, run in results(out)["runs"].items()}
    stopped = runs["digits-band-limited-0.5-seed0"] / "result.json"  # written last
    finished = {path / "result.json" for path in runs.values()} - {stopped}
    before = {path: path.stat().st_mtime_ns for path in finished}
    for path in (stopped, out / "result.json", out / "report.html", out / "table.csv"):
        path.unlink()
    second = run_study("demo", out, progress=False, seeds=1, quick=True)
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert stopped.exists()
    check_files(out, second)
    timed = {"step_seconds"}
    for row, again in zip(first.table.rows, second.table.rows, strict=True):
        assert {k: row[k] for k in row.keys() - timed} == {
            k: again[k] for k in again.keys() - timed
        }


def results(out: Path) -> dict[str, dict[str, str]]:
    written: dict[str, dict[str, str]] = json.loads((out / "result.json").read_text())
    return written


def check_files(out: Path, result: StudyResult) -> None:
    assert result.report == out / "report.html"
    pictures = [f"digits-{what}.png" for what in ("accuracy", "filters", "learning", "map")]
    others = ["data", "report.html", "result.json", "runs", "table.csv"]
    assert sorted(path.name for path in out.iterdir()) == sorted(pictures + others)
    assert len(list((out / "runs").iterdir())) == 6


def check_rows(table: Table) -> None:
    assert [(row["convolutions"], row["compression"]) for row in table.rows] == [
        (NATIVE, None),
        *((LIMITED, compression) for compression in COMPRESSIONS),
        *((SMALLER, compression) for compression in COMPRESSIONS[1:]),
    ]
    for row in table.rows:
        assert 0 <= row["lowest_accuracy"] == row["test_accuracy"] == row["highest_accuracy"] <= 1
        assert row["step_seconds"] > 0
        assert 0 < row["layers_saved_bytes"] < row["saved_bytes"]
    native, full, half, most, smaller, smallest = table.rows
    assert native["discarded"] is None and full["discarded"] == 0
    assert 0.4 < half["discarded"] < 0.6 and 0.75 < most["discarded"] < 0.95
    assert smaller["discarded"] == 1 - 36 / 64 and smallest["discarded"] == 1 - 9 / 64
    kept = [row["layers_saved_bytes"] for row in (native, full, half, most)]
    assert kept[0] == kept[1] > kept[2] > kept[3]


def check_results(out: Path, table: Table) -> None:
    record = results(out)
    assert record["rows"] == list(table.rows)
    with (out / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    for line, row in zip(written, table.rows, strict=True):
        assert line == {name: "" if v is None else str(v) for name, v in row.items()}
    accuracies = [row["test_accuracy"] for row in table.rows]
    for run, expected in zip(record["runs"].values(), accuracies, strict=True):
        assert json.loads((out / run / "result.json").read_text())["test_accuracy"] == expected


def check_report(out: Path, result: StudyResult) -> None:
    page = result.report.read_text()
    assert f"passband study demo --out {out} --seeds 1 --quick" in page
    assert len(re.findall('src="data:image/png;base64,', page)) == 4
    for row in result.table.rows:
        assert f"{100 * row['test_accuracy']:.1f} %" in page


def test_the_table_fits_a_terminal() -> None:
    """The widest values of both data sets, unshortened, within 100 columns."""
    row = dict.fromkeys((column.name for column in COLUMNS), 1.0)
    row |= {"data": max((c.name for c in CASES), key=len), "model": "m", "convolutions": SMALLER}
    row |= {"step_seconds": 0.123, "layers_saved_bytes": 123 << 10, "saved_bytes": 123 << 10}
    lines = str(Table(COLUMNS, [row], notes=NOTES)).splitlines()
    assert max(map(len, lines)) <= 100
    assert SMALLER in lines[2]
