import itertools
import math

import pytest
import torch

from passband.spectrum.corner import box_corner, corner_of_count, whole_shells

SIZES = [(7,), (5, 3), (4, 6, 3), (3, 5, 2, 2)]


def first_coefficients(sizes: tuple[int, ...], count: int, order: str) -> torch.Tensor:
    """The definition: all coefficients in order, the first of them kept."""
    rule = max if order == "shells" else sum
    every = list(itertools.product(*map(range, sizes)))
    kept = torch.zeros(sizes, dtype=torch.bool)
    for index in sorted(every, key=lambda index: (rule(index), index))[:count]:
        kept[index] = True
    return kept


@pytest.mark.parametrize("order", ["shells", "zigzag"])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_first_coefficients_of_the_order_are_kept(sizes: tuple[int, ...], order: str) -> None:
    for count in range(1, math.prod(sizes) + 1):
        corner = corner_of_count(sizes, count, order)
        expected = first_coefficients(sizes, count, order)
        box = tuple(map(slice, corner.extents))
        mask = corner.mask()
        found = torch.ones(corner.extents, dtype=torch.bool) if mask is None else mask
        assert torch.equal(found, expected[box])
        assert corner.count == count == int(expected[box].sum())  # none outside the box
        for axis in range(len(sizes)):  # and no smaller box would do
            assert found.movedim(axis, -1)[..., -1].any()


def test_the_papers_corners() -> None:
    """VGG8 at .007: (2, 2), (8, 8), (15, 16), (30, 31), (43, 43) channels."""
    found = []
    for outputs, inputs in [(64, 3), (128, 64), (256, 128), (512, 256), (512, 512)]:
        sizes = (outputs, inputs, 3, 3)
        found.append(corner_of_count(sizes, math.ceil(0.007 * math.prod(sizes))).extents[:2])
    assert found == [(2, 2), (8, 8), (15, 16), (30, 31), (43, 43)]


@pytest.mark.parametrize("sizes", SIZES)
def test_whole_shells_hold_the_count_in_the_fewest(sizes: tuple[int, ...]) -> None:
    for count in range(1, math.prod(sizes) + 1):
        corner = whole_shells(sizes, count)
        last = max(corner.extents)
        assert corner.is_box and corner.mask() is None
        assert corner.count >= count
        assert math.prod(min(last - 1, size) for size in sizes) < count


def test_a_box_keeps_all_of_it() -> None:
    assert box_corner((8, 4), (3, 2)).count == 6
    assert box_corner((8, 4), (3, 2)).mask() is None


@pytest.mark.parametrize("count", [0, 13])
def test_counts_out_of_range(count: int) -> None:
    with pytest.raises(ValueError, match=f"count is {count}; allowed is 1 to 12"):
        corner_of_count((4, 3), count)


def test_unknown_orders() -> None:
    with pytest.raises(ValueError, match="order is 'diagonal'; allowed are shells, zigzag"):
        corner_of_count((4, 3), 2, "diagonal")
