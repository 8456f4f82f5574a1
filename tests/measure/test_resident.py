"""How much a process grows."""

import ctypes
import sys

import pytest

from passband.measure.resident import resident_growth

BLOCKS, SIZE = 1000, 64 << 10  # blocks of the C library's heap, not of the system's own


def fill() -> int:
    return sum(map(len, [b"\1" * SIZE for _ in range(BLOCKS)]))


def test_what_is_allocated_counts() -> None:
    assert resident_growth(fill) > 0.8 * BLOCKS * SIZE


@pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="freed memory is given back by glibc",
)
def test_what_was_freed_before_hides_nothing() -> None:
    blocks = [b"\1" * SIZE for _ in range(BLOCKS)]
    last = b"\1" * SIZE  # keeps the heap's end from being cut off
    del blocks
    assert resident_growth(fill) > 0.8 * BLOCKS * SIZE
    assert last
