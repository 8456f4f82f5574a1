"""Resident size: what the operating system counts as a process's memory."""

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path


def resident_growth(function: Callable[[], object], calls: int = 2) -> int:
    """By how much this process grows at most while a function is called, in bytes.

    What was freed before, and the process still has, is given back to the system first, where the
    C library can (glibc): it would be used again and hide as much of the growth. Elsewhere measure
    in a fresh process; and elsewhere than on Linux the largest size so far is what counts, so that
    what was needed before, to load data say, hides as much too.

    Args:
        function: What is measured, a training step say.
        calls: How often it is called; the first call also makes state and workspaces.

    Examples:
        >>> resident_growth(lambda: bytearray(2**24)) >= 0
        True
    """
    import resource

    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    linux = Path("/proc/self/clear_refs")
    if linux.exists():
        linux.write_text("5")  # the highest size so far is that of now
        before = _bytes_of_status("VmRSS")
    else:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(calls):
        function()
    if linux.exists():
        return _bytes_of_status("VmHWM") - before
    unit = 1 if sys.platform == "darwin" else 1024
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit


def _bytes_of_status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.partition(f"{name}:")[2].split()[0])
