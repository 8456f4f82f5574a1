"""Compiled kernels: which of a folder this machine runs, and whether they are the package's."""

import warnings
from collections.abc import Mapping
from ctypes import CDLL, c_char
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import torch

from passband.ops.kernel_sources import digest

Functions: TypeAlias = Mapping[str, tuple[list[Any], Any]]
"""Of each function, by its name without "passband_", the types of its arguments and result."""

# Best first, by what torch says the machine has. Of any other processor torch's names differ from
# version to version; it runs those of its compiler's default.
_RUNNABLE = {"AVX512": ("avx512", "avx2", "default"), "AVX2": ("avx2", "default")}


def runnable() -> tuple[str, ...]:
    """Names of the instruction sets that this machine runs, best first."""
    return _RUNNABLE.get(torch.backends.cpu.get_cpu_capability(), ("default",))


def load_kernels(folder: Path, functions: Functions) -> CDLL | None:
    """The best kernels of a folder; None where none were compiled for this machine.

    Kernels that were compiled from other sources than those beside them are passed over, with a
    warning.

    Args:
        folder: Where the files are.
        functions: What they must have.
    """
    for name in runnable():
        path = folder / f"kernels_{name}.so"
        try:
            return open_kernels(path, functions)
        except (OSError, AttributeError, ValueError):  # no library here, or of something else
            if path.exists():
                _warn_of_stale_kernels()
    return None


def open_kernels(path: Path, functions: Functions) -> CDLL:
    """The kernels of a file, of which every function knows its types.

    Raises:
        OSError: It is no library that can be loaded here.
        AttributeError: It lacks one of the functions.
        ValueError: It is not compiled from the sources beside it.
    """
    library = CDLL(str(path))
    expected = digest(path.parent)
    if expected is not None:
        found = (c_char * len(expected)).in_dll(library, "passband_sources")
        if found.value.decode() != expected:
            raise ValueError(f"{path} is compiled from other sources than those beside it")
    for name, (arguments, result) in functions.items():
        function = getattr(library, f"passband_{name}")
        function.argtypes, function.restype = arguments, result
    return library


@cache
def _warn_of_stale_kernels() -> None:
    """Say it once, whichever kernels are concerned: they are compiled together."""
    warnings.warn(
        "passband's compiled kernels are of other sources than its own, so PyTorch computes in "
        "their place: install passband anew, in a clone by "
        "`python -m pip install --editable .`",
        stacklevel=3,
    )
