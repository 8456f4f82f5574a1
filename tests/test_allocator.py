"""Freed memory that the process keeps."""

import subprocess
import sys

import pytest

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


def _faults(how: str) -> int:
    """Pages touched for the first time in three allocations of 64 MiB after others."""
    run = subprocess.run(
        [sys.executable, "-c", _COUNT, how], capture_output=True, text=True, check=False
    )
    if run.returncode == 77:
        pytest.skip("the C library has no such settings; glibc's is tested where CI runs")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of Linux's C library")
def test_pages_are_touched_once() -> None:
    kept, given_back = _faults("keep"), _faults("give back")
    # 3 x 64 MiB are 96 large pages of 2 MiB at the least; a few belong to Python
    assert given_back >= 96
    assert kept < given_back // 4
