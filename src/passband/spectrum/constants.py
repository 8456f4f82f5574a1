"""Constant tensors that are built once and kept: the matrices of the transforms."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")
R = TypeVar("R")


def cached_constant(build: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function of hashable arguments builds, for up to 512 sets of arguments.

    What is built outlives the call, so it is built as an ordinary tensor whatever surrounds the
    first call: an export that traces with stand-ins for tensors, torch.func, torch.jit.trace,
    inference mode, another default device.

    Examples:
        >>> @cached_constant
        ... def ramp(size: int) -> torch.Tensor:
        ...     return torch.arange(size)
        >>> ramp(3) is ramp(3)
        True
    """

    def build_plainly(*args: P.args, **kwargs: P.kwargs) -> R:
        with (
            torch._C._DisableFuncTorch(),
            _disable_current_modes(),
            _untraced(),
            torch.inference_mode(False),
            torch.device("cpu"),
        ):
            return build(*args, **kwargs)

    return cast(Callable[P, R], wraps(build)(lru_cache(maxsize=512)(build_plainly)))


@contextmanager
def _untraced() -> Iterator[None]:
    """Within it torch.jit.trace records nothing."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
