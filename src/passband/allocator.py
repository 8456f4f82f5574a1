"""What becomes of memory that the process has freed: kept for its next use, or given back at once.

The C library of Linux gives freed blocks of more than 32 MiB, and the free end of its heap, back
to the system, which fills every page with zeros when it hands it out again. A network's maps are
freed and asked for at every step, and that filling can take as long as the arithmetic: the less
arithmetic a step has, the more this counts. Smaller blocks stay in the heap, where blocks of other
sizes do not fit into the holes that they leave, and the process grows larger than its tensors.
"""

import ctypes
import sys
from typing import Any

from passband.ops.band_limited_conv.native.memory import keep_workspace

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of malloc.h
_LARGE_BYTES = 64 << 10  # such blocks get pages of their own where freed memory is returned
_MOST_BLOCKS = 64 << 10  # with pages of their own: about as many as Linux allows
_FREE_END_BYTES = 128 << 10  # of the heap, above which it is cut off


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
    keep_workspace(True)
    # Every block comes from the heap, whatever its size, and the heap's end is never cut off.
    return _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1})


def return_freed_memory() -> bool:
    """Give the memory that this process frees back to the system at once, so that it stays small.

    The opposite of `keep_freed_memory`, and likewise for the whole process: every tensor of 64 KiB
    or more gets pages of its own, which go when it does, and the compiled kernels leave no
    workspace from call to call. The process's resident size then follows what is allocated, where
    with the C library's own settings holes come between. The price is the zeros that the system
    writes to each page when it hands it out. `passband train` calls it for SpecNets.

    Returns:
        Whether the C library has such settings: glibc, which most Linux systems use, does.

    Examples:
        >>> import passband as pb
        >>> pb.return_freed_memory() == pb.keep_freed_memory()
        True
    """
    keep_workspace(False)
    return _set(
        {
            _M_MMAP_MAX: _MOST_BLOCKS,
            _M_MMAP_THRESHOLD: _LARGE_BYTES,
            _M_TRIM_THRESHOLD: _FREE_END_BYTES,
        }
    )


def can_keep_freed_memory() -> bool:
    """Whether the C library has the settings of `keep_freed_memory`."""
    return _c_library() is not None


def _set(settings: dict[int, int]) -> bool:
    library = _c_library()
    return library is not None and all(
        library.mallopt(setting, value) for setting, value in settings.items()
    )


def _c_library() -> Any:
    """The C library; None if it has no such settings."""
    library = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    return library if hasattr(library, "mallopt") else None
