import xml.etree.ElementTree as ElementTree

import pytest

from passband.report.formats import svg
from passband.report.speed import ratio_against_compression


def rows(channels: str, mode: str, ratios: dict[float, float]) -> list[dict[str, str]]:
    layer = {"batch": "32", "in_channels": channels, "out_channels": channels, "map": "8x8"}
    return [
        {**layer, "kernel": "3", "mode": mode, "realised_compression": str(c), "ratio": str(ratio)}
        for c, ratio in ratios.items()
    ]


LONG = {0.9: 6.0, 0.0: 1.0, 0.5: 2.0, 0.7: 3.0}


def test_a_line_is_the_ratio_over_the_percentage_discarded() -> None:
    measured = [
        *rows("64", "training", LONG),
        *rows("64", "inference", LONG),
        *rows("128", "training", {0.5: 2.0}),  # too few for a line
    ]
    figure = ratio_against_compression(measured)
    training, inference = figure.axes
    assert (training.get_title("left"), inference.get_title("left")) == ("training", "inference")
    assert len(training.lines) == 2  # torch at 1, and one layer
    line = training.lines[1]
    assert list(line.get_xdata()) == pytest.approx([0, 50, 70, 90])
    assert list(line.get_ydata()) == [1.0, 2.0, 3.0, 6.0]
    assert line.get_label() == "64 channels, 8x8, kernel 3, batch 32"


def test_without_a_line_there_is_no_figure() -> None:
    with pytest.raises(ValueError, match="no layer has 4 compressions"):
        ratio_against_compression(rows("64", "training", {0.5: 2.0}))


def test_the_same_rows_give_the_same_file() -> None:
    measured = rows("64", "training", LONG)
    first, second = (svg(ratio_against_compression(measured)) for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert b"date" not in first
