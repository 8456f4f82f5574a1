import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from passband.bench import run
from passband.bench.machine import file_stem, measure_peaks, provenance
from passband.bench.run import KINDS, Settings, run_benchmark
from passband.cli import main

Captured = pytest.CaptureFixture[str]


def test_the_command_measures_everything_and_leaves_files(tmp_path: Path, capsys: Captured) -> None:
    assert main(["bench", "--quick", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "multiplications/s" in printed.err.splitlines()[0]
    stems = {kind: file_stem(kind, "cpu") for kind in KINDS}
    written = {file.name for file in tmp_path.iterdir()}
    assert written == {*(f"{stem}.csv" for stem in stems.values()), f"{stems['layers']}.svg"}
    for stem in stems.values():
        file = tmp_path / f"{stem}.csv"
        assert str(file) in printed.out
        with file.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert rows
        for row in rows:
            assert None not in row.values()
            assert row["threads"] == provenance()["threads"]
            assert float(row["peak_multiplications_per_second"]) > 0
            assert row["commit"]
    picture = ElementTree.parse(tmp_path / f"{stems['layers']}.svg").getroot()
    assert picture.tag.endswith("svg")


def test_a_part_is_measured_alone_and_only_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "precision", "--quick"]) == 0
    assert "bfloat16 autocast" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_unknown_part_is_named(capsys: Captured) -> None:
    assert main(["bench", "speed", "--quick"]) == 2
    expected = "cannot measure 'speed'; allowed are layers, networks, growth, precision"
    assert expected in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot measure 'speed'"):
        run_benchmark(["speed"])


def test_short_cases_come_first_and_leave_their_time_to_the_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(run.time, "perf_counter", lambda: clock[0])
    shares: dict[int, float] = {}

    def measure(index: int, longest: float) -> list[dict[str, object]]:
        shares[index] = longest
        clock[0] += 1.0
        row = {"compression": 0.5, "mode": "training", "ratio": 1.0, "winner": "auto"}
        return [{**row, "index": index}]

    rows = run._in_order([2, 0, 1], ["a", "b", "c"], measure, 30.0, lambda line: None)
    assert [row["index"] for row in rows] == [0, 1, 2]  # the order of the cases
    assert shares == {2: 10.0, 0: 14.5, 1: 28.0}


def test_time_that_is_spent_is_not_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def measure(index: int, longest: float) -> list[dict[str, object]]:
        shares.append(longest)
        return []

    run._in_order([0, 1], ["a", "b"], measure, -5.0, lambda line: None)
    assert shares == [0.0, 0.0]


def test_settings() -> None:
    assert Settings(quick=True).rounds(7, 2.0).repeats == 1
    assert Settings().rounds(5, 2.0).longest == 2.0
    assert Settings().minutes < 15


def test_peaks_are_positive() -> None:
    peaks = measure_peaks(quick=True)
    assert peaks.multiplications > 0
    assert peaks.bytes > 0
