import pytest

from passband.bench.cases import LayerCase
from passband.bench.layers import Rounds, _time_columns, measure_layers
from passband.bench.machine import Peaks

PEAKS = Peaks(multiplications=1e10, bytes=1e10)
ONCE = Rounds(1, shortest=0.0)


def test_a_row_has_every_contender_that_the_case_names() -> None:
    case = LayerCase(
        2, 4, 4, (9, 9), 3, 0.6, training=True, baselines=("textbook", "downsampled")
    )  # fmt: skip
    row = measure_layers([case], PEAKS, ONCE)[0]
    measured = {name for name, value in row.items() if name.endswith("_ms") and value != ""}
    assert measured == {
        *("native_ms", "channels_last_ms", "auto_ms", "matmul_ms", "lowpass_ms"),
        *("textbook_ms", "downsampled_ms", "native_bound_ms", "bound_ms"),
    }
    assert row["compiled_ms"] == ""
    assert row["rounds"] == 1
    assert row["lowest_ratio"] == row["highest_ratio"] == pytest.approx(row["ratio"], rel=1e-3)
    best = min(row["native_ms"], row["channels_last_ms"])
    assert row["ratio"] == pytest.approx(best / row["auto_ms"], rel=2e-3)  # of four digits each
    assert row["algorithm"] in ("matmul", "lowpass")
    assert row["native_saved_bytes"] == 4 * 2 * 4 * 81
    assert row["native_of_bound"] == pytest.approx(row["native_bound_ms"] / best, rel=2e-3)


def test_series_have_one_layout_and_inference_keeps_nothing() -> None:
    case = LayerCase(2, 3, 4, (37,), 5, 0.5, training=False, algorithms=("auto",))
    row = measure_layers([case], PEAKS, ONCE)[0]
    assert row["channels_last_ms"] == row["matmul_ms"] == row["saved_bytes"] == ""
    assert (row["map"], row["mode"]) == ("37", "inference")


def test_all_rows_have_the_same_columns() -> None:
    rows = [
        measure_layers([LayerCase(1, 2, 2, size, 3, 0.5, training)], PEAKS, ONCE)[0]
        for size, training in (((8,), True), ((8, 8), False))
    ]
    assert list(rows[0]) == list(rows[1])


def test_medians_best_layout_and_winner() -> None:
    times = {
        "native": [4.0, 6.0, 5.0],
        "channels_last": [7.0, 8.0, 3.0],
        "auto": [2.0, 2.0, 4.0],
        "downsampled": [1.0, 1.0, 1.0],
    }
    columns = _time_columns(times, "matmul")
    assert columns["native_ms"] == 5000.0
    assert columns["ratio"] == 2.5  # median 5 of the better layout over median 2
    assert (columns["lowest_ratio"], columns["highest_ratio"]) == (1.25, 3.0)
    assert columns["winner"] == "matmul"  # by the name of what ran; the control cannot win
    times["native"] = [1.0] * 3
    assert _time_columns(times, "matmul")["winner"] == "native"
