from collections import Counter

import pytest

from passband.bench.cases import SHAPES, LayerCase, cost, growth_cases, layer_cases, square_case
from passband.bench.machine import Peaks


def test_every_layer_that_the_targets_speak_of_is_measured() -> None:
    cases = {
        (c.batch, c.in_channels, c.size[0], c.kernel, c.compression, c.training)
        for c in layer_cases()
        if len(c.size) == 2
    }
    for channels, side in SHAPES:
        for training in (True, False):
            for batch in (32, 128):
                for compression in (0.0, 0.5, 0.85):
                    assert (batch, channels, side, 3, compression, training) in cases
            for kernel in (5, 7):
                for compression in (0.5, 0.85):
                    assert (32, channels, side, kernel, compression, training) in cases
        for batch in (1, 8):
            assert (batch, channels, side, 3, 0.5, False) in cases


def test_no_layer_is_measured_twice() -> None:
    counts = Counter(case.name for case in layer_cases())
    assert not [name for name, count in counts.items() if count > 1]


def test_the_automatic_choice_is_a_contender_of_every_layer() -> None:
    assert all("auto" in case.algorithms for case in layer_cases())
    assert all("auto" in case.algorithms for _, case in growth_cases(Peaks(1e12, 1e12)))


def test_compiling_more_is_asked_for() -> None:
    few, many = (
        [c for c in layer_cases(compiled=compiled) if "compiled" in c.baselines]
        for compiled in (False, True)
    )
    assert 0 < len(few) < len(many) == 2 * len(SHAPES)


@pytest.mark.parametrize("case", [c for c in layer_cases() if len(c.size) == 1], ids=str)
def test_series_keep_their_270_points(case: LayerCase) -> None:
    assert case.geometry.output_size == (270,)


def test_growth_ends_where_the_budget_does() -> None:
    """A machine twice as fast takes one more doubling of the batch: 0.5 s at its peak."""
    batches = [
        [case.batch for axis, case in growth_cases(Peaks(speed, 1e15)) if axis == "batch"]
        for speed in (1e10, 2e10)
    ]
    assert batches[1][:-2] == batches[0]
    assert batches[1][-1] == 2 * batches[0][-1]


def test_a_large_map_ends_growth_by_its_bytes() -> None:
    sides = [c.size[0] for axis, c in growth_cases(Peaks(1e15, 1e15)) if axis == "map"]
    assert max(sides) == 256  # 8 x 64 maps of 256 x 256 float32: 128 MiB, moved seven times


def test_training_costs_three_passes() -> None:
    case = square_case(2, 4, 8, 3, 0.5, training=True)
    inference = square_case(2, 4, 8, 3, 0.5, training=False)
    assert cost(inference) == 2 * 4 * 4 * 9 * 64
    assert cost(case) == 3 * cost(inference)
