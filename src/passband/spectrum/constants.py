"""Constant tensors that are built once and kept: the matrices of the transforms."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar, cast

import torch
from torch.utils._python_dispatch import _disable_current_modes

P = ParamSpec("P")
R = TypeVar("R")

_TRACER = torch._C.DispatchKeySet(torch._C._dispatch_key_parse("Tracer"))
"""By which torch.jit.trace records."""


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
            torch._C._ExcludeDispatchKeyGuard(_TRACER),
            torch.inference_mode(False),
            torch.device("cpu"),
        ):
            return build(*args, **kwargs)

    return cast(Callable[P, R], wraps(build)(lru_cache(maxsize=512)(build_plainly)))
