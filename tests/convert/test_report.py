import csv
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from passband import BandLimit
from passband.convert import Report, convert


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1, bias=False),
        nn.Conv2d(24, 8, 1),
    )


@pytest.fixture
def report() -> Report:
    config = BandLimit(compression=0.5, algorithm="matmul")
    return convert(make_model(), config, torch.zeros(16, 3, 19, 17))


def test_every_number_of_a_converted_layer(report: Report) -> None:
    layer = report.layers[1]
    assert (layer.layer, layer.type, layer.kernel) == ("3", "Conv2d", "3x3")
    assert (layer.result, layer.reason, layer.algorithm) == ("converted: matmul", "", "matmul")
    assert layer.macs_before == 16 * 24 * 24 * 9 * 19 * 17
    assert layer.macs_after is not None
    assert layer.macs_after < layer.macs_before
    assert layer.saved_bytes_before == 4 * 16 * 24 * 19 * 17
    assert layer.realised_compression is not None
    # the band on the 21 x 19 grid nearest to 0.5; its real degrees of freedom are what is kept
    assert abs(layer.realised_compression - 0.5) < 0.1
    assert layer.saved_bytes_after is not None
    kept = layer.saved_bytes_after / (4 * 16 * 24 * 21 * 19)
    assert abs(kept - (1 - layer.realised_compression)) < 0.05


def test_layers_that_are_left_say_why_and_stay_the_same(report: Report) -> None:
    first, _, point = report.layers
    assert (first.result, point.result) == ("left: no gain", "left: 1x1")
    for layer in (first, point):
        assert not layer.converted
        assert layer.reason in " ".join(str(report).split())
        assert layer.macs_before == layer.macs_after
        assert layer.saved_bytes_before == layer.saved_bytes_after
        assert layer.realised_compression is None


def test_the_whole_model_counts_shared_maps_once(report: Report) -> None:
    plane = 4 * 16 * 19 * 17
    # input of 0; output of 0 for batch norm; output of ReLU for itself and for 3; output of 3 for 4
    before = plane * (3 + 24 + 24 + 24)
    spectrum = report.layers[1].saved_bytes_after
    assert report.saved_bytes_before == pytest.approx(before, abs=8 * 24)  # batch statistics
    assert report.saved_bytes_after == report.saved_bytes_before + spectrum  # type: ignore[operator]
    assert "keeps more because other layers" in " ".join(str(report).split())


def test_print(report: Report) -> None:
    lines = str(report).split("\n")
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == [
        "layer",
        "kernel",
        "result",
        "cut",
        *["MACs", "after"],
        "saved",
        "after",
    ]
    assert (
        "Converted 1 of 3 convolutions by BandLimit(compression=0.5, algorithm='matmul')." in lines
    )


def test_csv(report: Report, tmp_path: Path) -> None:
    text = report.to_csv(tmp_path / "report.csv")
    assert (tmp_path / "report.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["layer"] for row in rows] == ["0", "3", "4"]
    assert rows[1]["macs_after"] == str(report.rows[1]["macs_after"])
    assert rows[0]["reason"] == report.layers[0].reason


def test_without_an_example_nothing_is_counted() -> None:
    report = convert(make_model(), BandLimit(compression=0.5))
    assert [layer.result for layer in report.layers] == [
        "left: few channels",
        "converted",
        "left: 1x1",
    ]
    assert all(row["macs_before"] is None for row in report.rows)
    assert str(report).split("\n")[0].split() == ["layer", "kernel", "result"]
    assert "total" not in str(report)


def test_nothing_converted_says_so() -> None:
    report = convert(nn.Sequential(nn.Conv2d(3, 3, 1)), BandLimit())
    assert "Nothing was converted: none of 1 convolutions." in str(report)
    assert not report.converted
    assert "none of 0 convolutions" in str(convert(nn.Linear(2, 2), BandLimit()))
