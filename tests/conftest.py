"""What every test runs under."""

import os
from collections.abc import Iterator

# Before torch or matplotlib is imported: no display, and no pool of compiler processes per test.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import pytest
import torch

# Before Triton is imported: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """Seed torch, and give back its global settings after the test.

    With deterministic algorithms torch fills every `torch.empty` with NaN, so an output that a
    kernel forgot to write fails the test that reads it.
    """
    dtype, threads, grad = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
    )
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)
