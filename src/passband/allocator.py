"""Memory that stays with the process, so that its pages are not touched for the first time again.

The C library of Linux gives freed blocks of more than 32 MiB, and the free end of its heap, back
to the system, which fills every page with zeros when it hands it out again. A network's maps are
freed and asked for at every step, and that filling can take as long as the arithmetic. The less
arithmetic a step has, the more this counts.
"""

import ctypes
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for its own next allocations.

    It changes the C library's settings (`mallopt`) for the whole process until it ends, so it is
    for applications: call it once, before the first step. The process then stays as large as it was
    at its largest. `passband train` and `passband bench` call it.

    Returns:
        Whether the C library has such settings: glibc, which most Linux systems use, does.

    Examples:
        >>> import passband as pb
        >>> isinstance(pb.keep_freed_memory(), bool)
        True
    """
    mallopt = _mallopt()
    if mallopt is None:
        return False
    # Every block comes from the heap, whatever its size, and the heap's end is never cut off.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def can_keep_freed_memory() -> bool:
    """Whether the C library has the settings of `keep_freed_memory`."""
    return _mallopt() is not None


def _mallopt() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "mallopt", None)
