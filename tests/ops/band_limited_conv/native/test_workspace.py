"""Memory that the kernels work in, from call to call."""

from collections.abc import Iterator

import pytest
import torch

from passband.measure.memory import left_bytes, peak_bytes
from passband.ops.band_limited_conv.native import memory
from passband.ops.band_limited_conv.native.library import load_library
from passband.ops.band_limited_conv.native.memory import (
    empty,
    fitting_workspace,
    keep_workspace,
    workspace,
)

LARGE, SMALL = 4 << 20, 3 << 20  # numbers: 16 and 12 MiB, so that what is kept is not small


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    if load_library() is None:
        pytest.skip("no kernels are compiled here")
    keep_workspace(True)  # another test may have had freed memory returned
    yield
    keep_workspace(True)


def use(numbers: int) -> int:
    """Where a workspace of so many numbers lies."""
    with workspace(numbers) as (own,):
        assert own.numel() == numbers
        return own.data_ptr()


def kept_numbers() -> int:
    return 0 if memory._kept.memory is None else memory._kept.memory.numel()


def test_what_is_left_is_used_again() -> None:
    place = use(LARGE)
    assert use(SMALL) == place
    assert use(16) == place
    assert kept_numbers() == LARGE
    use(2 * LARGE)
    assert kept_numbers() == 2 * LARGE


def test_it_fits_where_it_is_asked_to() -> None:
    use(LARGE)
    with fitting_workspace():
        use(SMALL)  # more than half of what is there
        assert kept_numbers() == LARGE
        use(LARGE // 4)
        assert kept_numbers() == LARGE // 4
        use(16)  # what is there is small
        assert kept_numbers() == LARGE // 4
    use(LARGE)
    use(16)
    assert kept_numbers() == LARGE


def test_nothing_is_left_where_memory_is_returned() -> None:
    use(LARGE)
    keep_workspace(False)
    assert kept_numbers() == 0
    use(LARGE)
    assert kept_numbers() == 0


def test_one_inside_another() -> None:
    with workspace(100) as (outer,):
        outer.fill_(1.0)
        with workspace(100) as (inner,):
            inner.zero_()
        assert bool(outer.eq(1.0).all())


def test_it_counts_in_the_peak_and_not_in_what_is_left() -> None:
    def step() -> torch.Tensor:
        use(LARGE)
        return empty((1000,))

    step()  # what is there before is given back first
    assert 4 * LARGE <= peak_bytes(step) < 4 * LARGE + 16000
    assert 4000 <= left_bytes(step) < 16000

    def late() -> None:
        empty((SMALL,))
        use(LARGE)  # which is there when the next call begins

    assert 4 * (LARGE + SMALL) <= peak_bytes(late) < 4 * (LARGE + SMALL) + 16000
