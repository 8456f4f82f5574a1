"""Which compiled kernels of a folder this machine runs."""

from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path

import torch

# Best first, by what torch says the machine has. Of any other processor torch's names differ from
# version to version; it runs those of its compiler's default.
_RUNNABLE = {"AVX512": ("avx512", "avx2", "default"), "AVX2": ("avx2", "default")}


def runnable() -> tuple[str, ...]:
    """Names of the instruction sets that this machine runs, best first."""
    return _RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("default",))


def open_best(folder: Path, open_library: Callable[[Path], CDLL]) -> CDLL | None:
    """The best kernels of a folder; None where none were compiled for this machine.

    Args:
        folder: Where the files are.
        open_library: Raises OSError of a file that is no library here, and AttributeError of one
            that lacks a function.
    """
    for name in runnable():
        try:
            return open_library(folder / f"kernels_{name}.so")
        except (OSError, AttributeError):  # not there, no library, or one of another version
            continue
    return None
