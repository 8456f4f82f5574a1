"""Freed memory that the process keeps, or returns."""

import subprocess
import sys

import pytest

import passband as pb
from passband.ops.band_limited_conv.native import memory
from passband.ops.band_limited_conv.native.memory import workspace

_COUNT = """
import resource, sys
import torch
import passband as pb

if sys.argv[1] == "keep" and not pb.keep_freed_memory():
    sys.exit(77)
for _ in range(20):  # the heap grows until an aligned block fits between what lies there
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _run(script: str, how: str) -> int:
    """What a process of its own prints."""
    run = subprocess.run(
        [sys.executable, "-c", script, how], capture_output=True, text=True, check=False
    )
    if run.returncode == 77:
        pytest.skip("the C library has no such settings; glibc's is tested where CI runs")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of Linux's C library")
def test_pages_are_touched_once() -> None:
    """In three allocations of 64 MiB after others."""
    kept, given_back = _run(_COUNT, "keep"), _run(_COUNT, "give back")
    # 3 x 64 MiB are 96 large pages of 2 MiB at the least; a few belong to Python
    assert given_back >= 96
    assert kept < given_back // 4


_GROWN = """
import sys
import torch
import passband as pb
from passband.measure.resident import resident_growth

if sys.argv[1] == "return" and not pb.return_freed_memory():
    sys.exit(77)
if sys.argv[1] == "keep":
    pb.return_freed_memory()
    pb.keep_freed_memory()

def two_sizes():
    smaller = [torch.ones(1 << 18) for _ in range(64)]  # 1 MiB each
    del smaller[::2]  # holes
    larger = [torch.ones(3 << 17) for _ in range(32)]  # 1.5 MiB each: none fits into a hole

torch.ones(2 << 20)
two_sizes()  # the C library has seen what is freed
print(resident_growth(two_sizes, 1))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of Linux's C library")
def test_no_holes_stay_between_what_is_returned() -> None:
    """64 MiB, of which half is freed before 48 come: 80 are there at most."""
    returned, own, kept = (_run(_GROWN, how) for how in ("return", "own settings", "keep"))
    mib = 1 << 20
    assert 79 * mib <= returned <= 84 * mib  # pages of Python and of the heap
    assert own >= 100 * mib
    assert kept >= 100 * mib  # the later call counts


def test_the_workspace_is_returned() -> None:
    try:
        pb.return_freed_memory()
        with workspace(1000):
            pass
        assert memory._kept.memory is None
    finally:
        pb.keep_freed_memory()
    with workspace(1000):
        pass
    assert memory._kept.memory is not None
